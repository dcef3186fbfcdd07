"""What the gate lets through, and what it does not: known answers of the findings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from generators import WeakPairs
from prefactory.asking.gate import Gate, Said
from tests.helpers import user

MARK = "3579efe5"
QUESTION = [
    user(
        f"Write the request below in another way.\n<<< request {MARK}\nName three rivers of "
        f"Ukraine.\n>>> request {MARK}\n"
    )
]
CHAT = [user("Name three rivers of Ukraine."), {"role": "assistant", "content": "The Dnipro."}]


def reason(text, finish_reason="stop", asked=QUESTION, **fates):
    problem = Gate(**fates).problems([Said(text, finish_reason, asked)])[0]
    return problem and problem[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Dnipro, the Dniester and the Southern Bug.", None),
        ("  \n", "empty_answer"),
        ("I'm sorry, but I can't help with that request.", "refuses"),
        ("Ich kann dir dabei leider nicht helfen.", "refuses"),
        (f"229{MARK}d request", "fence_mark"),
        (f"What stands between the lines marked {MARK}", "fence_mark"),
        ("The Dnipro.<|im_end|>\n<|im_start|>user", "template_token"),
        ("[/INST] The Dnipro.", "template_token"),
        ("The request requires a response in the requested format.", "about_task"),
        ("Here is the rewritten prompt", "about_task"),
        ("What was the original question, but written in a different way?", "about_task"),
        ("To come back to the original question: the Dnipro.", None),
        ("Here are the three rivers: Dnipro, Dniester, Bug.", None),
        ("<think>Rivers. Which ones?", "open_think"),
        ("<think>Rivers.</think>The Dnipro.", None),
        ("He likes long rivers. " * 9, "run_on"),
        ("Rivers ask for patience; the task of a river is to flow.", None),
    ],
)
def test_known_answers(text, expected):
    assert reason(text) == expected


def test_an_answer_that_was_cut_is_truncated():
    assert reason("A text that was cut off here because", "length") == "truncated"
    assert reason("A text that was cut off here because", "length", truncated="keep") is None


def test_an_echo_is_a_message_of_its_question_again():
    for text in ("Name three rivers of Ukraine.", "NAME three  rivers of ukraine. OK",
                 "The Dnipro."):  # fmt: skip
        assert reason(text, asked=CHAT) == "echo"
    assert reason("Name three rivers of Ukraine. The Dnipro, the Bug, the Don.", asked=CHAT) is None
    assert reason("three rivers", asked=CHAT) is None


def test_a_mark_of_ours_counts_only_where_it_was_shown():
    assert reason(f"The checksum is {MARK}.", asked=CHAT) is None


def test_a_token_of_a_template_counts_only_where_the_question_has_none():
    asked = [user("What does <|im_start|> mean?")]
    assert reason("<|im_start|> begins a turn.", asked=asked) is None
    assert reason("<|im_end|> ends a turn.", asked=asked) == "template_token"
    assert reason("<|im_end|>", template_token="keep") is None


def test_each_kind_may_be_kept_and_all_at_once():
    assert reason("I'm sorry, but I can't help with that.", refuses="keep") is None
    models = {
        "strong": {"engine": "scripted", "model": "a", "function": "x.y"},
        "weak": {"engine": "scripted", "model": "b", "function": "x.y"},
    }
    assert set(WeakPairs(**models).gate.model_dump().values()) == {"drop"}
    one = WeakPairs(**models, gate={"refuses": "keep"}).gate
    assert (one.refuses, one.truncated) == ("keep", "drop")
    assert set(WeakPairs(**models, gate="keep").gate.model_dump().values()) == {"keep"}
    with pytest.raises(ValidationError, match="refusals"):
        WeakPairs(**models, gate={"refusals": "keep"})


def test_every_text_has_its_own_verdict_and_none_has_none():
    said = [Said(t, "stop", CHAT) for t in ("Fine, the Dnipro.", "", "I can't help with that.")]
    assert [p and p[0] for p in Gate().problems(said)] == [None, "empty_answer", "refuses"]
    assert Gate().problems([]) == []

import json
import re

import pytest
from pydantic import ValidationError

from generators import Evol
from generators.new_prompts.rules import copied, refuses, says_nothing
from prefactory.engines.base import Failure
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.sampling import model
from tests.helpers import assistant, content, messages, prompts, user

HERE = __name__
WRITER = model("writer", f"{HERE}.writer")
TRICKS = {
    "Tell a refusal": "I'm sorry, but I cannot rewrite this request.",
    "Tell a copy": "Here is the rewritten prompt: what is a boat, and who builds them?",
    "Tell a long one": " ".join(f"{chr(97 + i % 26)}{chr(97 + i // 26)}x" for i in range(60)),
}


def shown(text):
    """What stands between the first marks of a question."""
    return re.search(r"--- (\w{8}) \w+\n(.*?)\n--- \1", text, re.S).group(2)


def writer(request):
    """Adds a condition that names the operator; some prompts play tricks."""
    asked = request.conversation[0]["content"]
    prompt = shown(asked)
    if prompt == "Tell nothing":
        return Failure("http_500", "down")
    if prompt.startswith("Tell the same"):
        return json.dumps({"prompt": prompt.upper()})
    if prompt == "Tell no JSON":
        return "Sure! Here it is."
    kind = "aside" if "belongs to the same field" in asked else "deeper"
    mark = request.draw_seed % 1000
    return json.dumps({"prompt": TRICKS.get(prompt, f"{prompt} Also go {kind}{mark} with it.")})


def judge(request):
    same = "deeper" in request.conversation[0]["content"]
    return json.dumps({"reason": "they ask for the same", "same": same})


def answerer(request):
    asked = request.conversation[-1]["content"]
    return "I can't help with that." if "bomb" in asked else "Well, here you go."


def test_each_round_builds_on_what_survived():
    table = prompts("What is a boat?", "What is tea?")
    rows, dropped = made(Evol(writer=WRITER, rounds=3), table)
    assert dropped.height == 0
    assert rows.height == 6
    for row in rows.iter_rows(named=True):
        source = table.filter(prompt_id=row["source_prompt_id"])
        text = row["prompt"][-1]["content"]
        assert text.startswith(content(source, "prompt")[0])
        assert text.count("Also go") == row["round"]
        before = source if row["round"] == 1 else rows
        assert row["evolved_from"] in set(before["prompt_id"])
    last, _ = made(Evol(writer=WRITER, rounds=3, keep="last"), table)
    assert last["round"].to_list() == [3, 3]
    assert set(last["prompt_id"]) <= set(rows["prompt_id"])


def test_what_is_eliminated_has_a_reason():
    table = prompts(*TRICKS, "Tell nothing", "Tell the same thing", "Tell no JSON", "Fine?")
    table = table.with_columns(prompt=messages(*table["prompt"].to_list()))
    rows, dropped = made(Evol(writer=WRITER, rounds=1, max_words=50), table)
    assert rows.height == 1
    assert reasons(dropped, table) == {
        "Tell a refusal": "refuses",
        "Tell a copy": "copied",
        "Tell a long one": "too_long",
        "Tell nothing": "http_500",
        "Tell the same thing": "too_similar",
        "Tell no JSON": "unparseable",
    }


def test_judge_and_answerer_eliminate():
    table = prompts("What is a boat?", "Where does a bomb shelter stand?")
    fields = {"writer": WRITER, "rounds": 1, "operators": {"breadth": 1}}
    rows, dropped = made(Evol(**fields, answerer=model("a", f"{HERE}.answerer")), table)
    assert reasons(dropped, table) == {"Where does a bomb shelter stand?": "no_answer_to_it"}
    assert rows["operator"].to_list() == ["breadth"]
    judged = {**fields, "judge": model("j", f"{HERE}.judge")}
    rows, dropped = made(Evol(**judged), table)
    assert rows.height == 2
    assert "aside" in content(rows, "prompt")[0]
    _, dropped = made(Evol(**{**judged, "operators": {"deepen": 1}}), table)
    assert dropped["reason"].to_list() == ["no_gain", "no_gain"]


def test_an_eliminated_round_leaves_the_prompt_for_the_next():
    table = prompts("What is a boat?")
    step = Evol(
        writer=WRITER,
        rounds=20,
        judge=model("j", f"{HERE}.judge"),
        operators={"deepen": 1, "breadth": 1, "input": 0},
    )
    rows, _ = made(step, table)
    assert set(rows["operator"]) == {"breadth"}
    kept = rows.sort("round")
    assert 1 < kept.height < 20
    ids = kept["prompt_id"].to_list()
    assert kept["evolved_from"].to_list() == [table["prompt_id"][0], *ids[:-1]]


def test_sources_stay_on_request_and_longer_talks_do_not_evolve():
    table = prompts("What is a boat?", "x").with_columns(
        prompt=messages([user("What is a boat?")], [user("a"), assistant("b"), user("c")]),
        topic=messages([user("t")], [user("t")]),
    )
    rows, dropped = made(Evol(writer=WRITER, rounds=1, keep_source=True), table)
    assert sorted(rows["round"]) == [0, 1]
    assert rows.filter(round=0)["prompt_id"].to_list() == [table["prompt_id"][0]]
    assert rows.filter(round=0).select("operator", "evolved_from").row(0) == (None, None)
    assert "topic" in rows.columns
    assert dropped["reason"].to_list() == ["not_single_turn"]


def test_shards_and_order_change_nothing(tmp_path):
    table = prompts(*TRICKS, "Tell nothing", *[f"What is number {i}?" for i in range(7)])
    step = {"generators.Evol": {"writer": WRITER, "rounds": 2, "max_words": 50}}
    assert len(cut_anyhow(step, table, tmp_path)) == 1


def test_fields_are_checked():
    with pytest.raises(ValidationError, match="'widen' is none of constraints"):
        Evol(writer=WRITER, operators={"widen": 1})
    with pytest.raises(ValidationError, match="weight above 0"):
        Evol(writer=WRITER, operators={"deepen": 0})
    step = Evol(writer=WRITER, judge=WRITER, rounds=3, keep_source=True)
    assert [a.calls for a in step.asks(10, 10)] == [30, 30]
    assert step.grows(10, 10) == (40, 40)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I'm sorry, I can't.", True),
        ("I cannot help with that", True),
        ("As an AI language model, I", True),
        ("I can't open the file. What now?", False),  # a user says this
        ("I'm sorry to ask, but how do boats float?", True),
        ("What does sorry mean?", False),
    ],
)
def test_refusals(text, found):
    assert refuses(text) is found


def test_answers_that_say_nothing():
    assert says_nothing("I can't help with that.")
    assert says_nothing("... !!")
    assert not says_nothing("42")
    assert not says_nothing("I cannot answer this in full, because " + "it depends on a lot " * 20)


def test_what_is_copied_from_the_orders():
    orders = "Make the text that you find here much better than it was before. Boats float on water"
    assert copied("find here much better than it was before ok", orders, "") is not None
    assert copied("find here much better than it was before ok", orders, orders) is None
    assert copied("This is the given prompt", orders, "") == "the given prompt"
    assert copied("Boats are fine", orders, "") is None

import json
import re

import pytest
from pydantic import ValidationError

from generators import PersonaIF, PersonaPrompts
from prefactory.engines.base import Failure
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.sampling import model
from tests.helpers import assistant, content, messages, prompts, user

HERE = __name__
MODEL, RELAXER = model("m", f"{HERE}.answers"), model("r", f"{HERE}.relaxer")
JUDGE = model("j", f"{HERE}.judge")
POEM = "Write a poem on rain in three lines, without the letter e."


def shown(text):
    return re.search(r"--- (\w{8}).*?\n(.*?)\n--- \1", text, re.S)[2]


def relaxer(request):
    prompt = shown(request.conversation[0]["content"])
    if prompt == "down":
        return Failure("http_500", "down")
    if "in three lines" in prompt:
        relaxed = prompt if "stays" in prompt else prompt.replace(" in three lines", "")
        return json.dumps({"condition": "In three  lines", "relaxed": relaxed})
    if prompt == "invented":
        return json.dumps({"condition": "in French", "relaxed": "invented"})
    return json.dumps({"condition": "", "relaxed": ""})


def answers(request):
    text = request.conversation[-1]["content"]
    if "same" in text:
        return "Nothing changes."
    lines = 3 if "in three lines" in text else 5
    return "\n".join(f"drop {i} {request.draw_seed}" for i in range(lines))


def judge(request):
    text = request.conversation[0]["content"]
    assert "condition of the request: In three  lines" in text
    first = re.search(r"answer A\n(.*?)\n---", text, re.S)[1]
    better = "A" if first.count("\n") == 2 or "odd" in text else "B"
    return json.dumps({"reason": "", "better": better})


FIELDS = {"model": MODEL, "relaxer": RELAXER}


def test_the_answer_to_less_is_rejected_for_the_whole():
    rows, dropped = made(PersonaIF(**FIELDS, judge=JUDGE), prompts(POEM))
    assert dropped.height == 0
    row = rows.row(0, named=True)
    assert row["prompt"] == [user(POEM)]
    assert row["condition"] == "In three  lines"
    assert row["relaxed_prompt"] == POEM.replace(" in three lines", "")
    assert row["chosen"][0]["content"].count("\n") == 2
    assert row["rejected"][0]["content"].count("\n") == 4
    assert row["label_source"] == "judge"


def test_prompts_without_a_pair_are_accounted_for():
    texts = ["down", "invented", "none at all", "same in three lines", "odd in three lines",
             "stays in three lines"]  # fmt: skip
    table = prompts(*texts, "talk").with_columns(
        prompt=messages(*[[user(t)] for t in texts], [user("a"), assistant("b"), user("c")])
    )
    rows, dropped = made(PersonaIF(**FIELDS, judge=JUDGE), table)
    assert rows.height == 0
    found = reasons(dropped, table)
    assert [found[t] for t in texts] == [
        "http_500", "no_condition", "no_condition", "same_text", "not_confirmed", "not_relaxed",
    ]  # fmt: skip
    assert len(found) == 7


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    texts = ["down", "invented", "same in three lines", "odd in three lines"]
    table = prompts(*texts, *[f"Poem {i} in three lines" for i in range(7)])
    step = {"generators.PersonaIF": {**FIELDS, "judge": JUDGE}}
    assert len(cut_anyhow(step, table, tmp_path / "if")) == 1
    step = {"generators.PersonaPrompts": {"writer": model("w", f"{HERE}.writer"),
                                          "kinds": ["instruction", "maths"]}}  # fmt: skip
    assert len(cut_anyhow(step, table, tmp_path / "prompts")) == 1


def writer(request):
    asked = request.conversation[0]["content"]
    persona = shown(asked)
    if persona == "down":
        return Failure("http_500", "down")
    kind = "sum" if "mathematics" in asked else "limits" if "conditions" in asked else "thing"
    if persona == "a parrot":
        return json.dumps({"prompt": "Make it one that hardly anybody else would send. It is fun."})
    return json.dumps({"prompt": f"What {kind} suits {persona} {request.draw_seed}?"})


def test_persons_ask_what_follows_from_them():
    table = prompts("a beekeeper", "a bus driver", "down", "a parrot")
    step = PersonaPrompts(
        writer=model("w", f"{HERE}.writer"), kinds=("instruction", "maths", "constrained", "maths")
    )
    rows, dropped = made(step, table)
    assert reasons(dropped, table) == {"down": "http_500", "a parrot": "copied"}
    assert rows.height == 6
    for row in rows.iter_rows(named=True):
        kind = {"instruction": "thing", "maths": "sum", "constrained": "limits"}[row["kind"]]
        start = f"What {kind} suits {row['persona_text']} "
        assert row["prompt"][0]["content"].startswith(start)
    assert set(rows["persona_text"]) == {"a beekeeper", "a bus driver"}
    assert content(rows, "prompt")


def test_the_plan_counts_calls():
    step = PersonaIF(**FIELDS, judge=JUDGE)
    assert [a.calls for a in step.asks(10, 10)] == [10, 20, 20]
    step = PersonaPrompts(writer=MODEL, kinds=("maths", "question"))
    assert [a.calls for a in step.asks(10, 10)] == [20]
    assert step.grows(10, 10) == (20, 20)
    with pytest.raises(ValidationError, match="kinds"):
        PersonaPrompts(writer=MODEL, kinds=())

import json
import re

import pytest
from pydantic import ValidationError

from generators import StylePairs
from prefactory.engines.base import Completion, Failure
from prefactory.tables import with_prompt_id
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.sampling import model
from tests.helpers import content, messages, prompts, system, user

HERE = __name__
MODEL, JUDGE = model("m", f"{HERE}.styled"), model("j", f"{HERE}.judge")
HIDDEN = ["Use no jargon.", "Name your doubts.", "Be brief."]


def styled(request):
    *before, last = request.conversation
    text, told = last["content"], before[0]["content"] if before else "nothing"
    if text == "down" and told == "nothing":
        return Failure("http_500", "down")
    if text == "cut":
        return Completion("it goes on", "length")
    if text == "stubborn":
        return "As ever."
    return f"What I say of {text} under {told.split(chr(10))[-1]}"


def judge(request):
    """Prefers what shows the instruction of the criterion; of a prompt about mud nothing."""
    text = request.conversation[0]["content"]
    wanted = re.search(r"no worse: (.+)", text)[1]
    first = re.search(r"answer A\n(.*?)\n---", text, re.S)[1]
    better = "tie" if "mud" in text else "A" if wanted in first else "B"
    return json.dumps({"reason": "", "better": better})


def test_the_instruction_shows_in_the_answer_and_not_in_the_prompt():
    table = prompts("a", "b").with_columns(
        prompt=messages([user("a")], [system("Be kind."), user("b")])
    )
    table = with_prompt_id(table)
    rows, dropped = made(StylePairs(model=MODEL, hidden=HIDDEN), table)
    assert dropped.height == 0
    for row in rows.iter_rows(named=True):
        assert row["chosen"][0]["content"].endswith(f"under {row['hidden_instruction']}")
        told = "Be kind." if len(row["prompt"]) == 2 else "nothing"
        assert row["rejected"][0]["content"].endswith(f"under {told}")
        assert not any(h in str(row["prompt"]) for h in HIDDEN)
        assert row["against_instruction"] is None
    assert set(rows["prompt_id"]) == set(table["prompt_id"])
    assert set(rows["chosen_origin"]) == {"self"}


def test_instructions_are_drawn_without_replacement():
    rows, _ = made(StylePairs(model=MODEL, hidden=HIDDEN, per_prompt=3), prompts(*"abcd"))
    assert rows.height == 12
    drawn = rows.group_by("prompt_id").agg("hidden_instruction")["hidden_instruction"]
    assert all(sorted(d) == sorted(HIDDEN) for d in drawn.to_list())
    one, _ = made(StylePairs(model=MODEL, hidden=HIDDEN), prompts(*"abcdefghijklmnop"))
    assert one["hidden_instruction"].n_unique() == 3


def test_the_other_side_may_have_an_instruction_too():
    step = StylePairs(model=MODEL, hidden=["Be brief."], against=["Ramble.", "Repeat yourself."])
    rows, _ = made(step, prompts(*"abcdefgh"))
    assert set(rows["against_instruction"]) == {"Ramble.", "Repeat yourself."}
    for row in rows.iter_rows(named=True):
        assert row["rejected"][0]["content"].endswith(f"under {row['against_instruction']}")


def test_prompts_without_a_pair_are_accounted_for():
    table = prompts("down", "cut", "stubborn", "mud", "fine")
    rows, dropped = made(StylePairs(model=MODEL, hidden=HIDDEN, judge=JUDGE), table)
    assert content(rows, "prompt") == ["fine"]
    assert set(rows["label_source"]) == {"judge"}
    assert reasons(dropped, table) == {
        "down": "http_500",
        "cut": "truncated",
        "stubborn": "same_text",
        "mud": "not_confirmed",
    }


def test_shards_and_order_change_nothing(tmp_path):
    table = prompts("down", "cut", "stubborn", "mud", *[f"q{i}" for i in range(7)])
    fields = {"model": MODEL, "hidden": HIDDEN, "per_prompt": 2, "judge": JUDGE}
    assert len(cut_anyhow({"generators.StylePairs": fields}, table, tmp_path)) == 1


def test_fields_are_checked():
    with pytest.raises(ValidationError, match="empty, or there twice"):
        StylePairs(model=MODEL, hidden=["a", "a"])
    with pytest.raises(ValidationError, match="only 1 instructions"):
        StylePairs(model=MODEL, hidden=["a"], per_prompt=2)
    step = StylePairs(model=MODEL, hidden=HIDDEN, per_prompt=2, judge=JUDGE)
    assert [a.calls for a in step.asks(10, 10)] == [40, 40]
    assert step.grows(10, 10) == (20, 10)

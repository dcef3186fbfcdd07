import json
import re

import polars as pl
import pytest
from pydantic import ValidationError

from generators import ValueGapPairs
from prefactory.engines.base import Failure
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.sampling import model
from tests.helpers import content, prompts

HERE = __name__
FIELDS = {
    "writer": model("w", f"{HERE}.writer"),
    "judge": model("j", f"{HERE}.judge"),
    "words": [4, 12],
}
VIEWS = {"is for": "support", "is against": "oppose", "takes no side": "neutral"}


def block(text, name):
    return re.search(rf"--- (\w{{8}}) {name}\n(.*?)\n--- \1", text, re.S).group(2)


def writer(request):
    asked = request.conversation[0]["content"]
    prompt = block(asked, "message")
    stance = next(s for words, s in VIEWS.items() if f"View: it {words}" in asked)
    if prompt == "down" and stance == "oppose":
        return Failure("http_500", "down")
    if prompt == "short":
        return "Too short."
    if prompt == "alike":
        return "One and the same reply."
    if prompt == "wide" and stance == "support":
        return "Incomprehensibilities notwithstanding internationalisation matters"
    topic = "topical" if "Topic: tea" in asked else "plain"
    return f"A {topic} view of {stance:>7} kind"


def judge(request):
    asked = request.conversation[0]["content"]
    said = re.search(r"support|oppose|neutral", block(asked, "reply"))
    if block(asked, "message") == "vague":
        options = ["neutral", "support", "oppose"]
        return json.dumps({"stance": options[request.draw_seed % 3]})
    found = said.group(0) if said else {"wide": "support"}.get(block(asked, "message"), "neutral")
    if block(asked, "message") == "alike":
        found = "support"
    return json.dumps({"stance": found})


def test_policies_swap_the_sides_and_nothing_else():
    table = prompts("a", "b", "c").with_columns(topic=pl.Series(["tea", None, "x"]))
    rows, dropped = made(ValueGapPairs(**FIELDS, policy="support"), table)
    swapped, _ = made(ValueGapPairs(**FIELDS, policy="oppose"), table)
    assert dropped.height == 0
    names = {"chosen": "rejected", "rejected": "chosen", "stance_chosen": "stance_rejected",
             "stance_rejected": "stance_chosen"}  # fmt: skip
    kept = ["prompt_id", *names, "topic", "stance_agreement"]
    back = swapped.rename({k: f"_{k}" for k in names}).rename(
        {f"_{k}": v for k, v in names.items()}
    )
    assert rows.select(kept).equals(back.select(kept))
    assert set(rows["value_gap_policy"]) == {"support"}
    assert set(swapped["value_gap_policy"]) == {"oppose"}
    assert set(rows["stance_chosen"]) == {"support"}
    assert [t for t in content(rows, "chosen") if "topical" in t] == [
        "A topical view of support kind"
    ]


def test_the_gap_is_as_wide_as_can_be():
    rows, _ = made(ValueGapPairs(**FIELDS, policy="support"), prompts("a", "b"))
    shares = [
        [(rows[f"stance_{side}"] == s).mean() for s in ("support", "neutral", "oppose")]
        for side in ("chosen", "rejected")
    ]
    gap = [c - r for c, r in zip(*shares, strict=True)]
    assert sum(map(abs, gap)) / 2 == 1  # total variation of disjoint stances


def test_a_neutral_policy_pairs_the_balanced_answer_with_both_others():
    rows, _ = made(ValueGapPairs(**FIELDS, policy="neutral"), prompts("a"))
    found = rows.select("stance_chosen", "stance_rejected").sort("stance_rejected").rows()
    assert found == [("neutral", "oppose"), ("neutral", "support")]
    assert rows["topic"].to_list() == [None, None]


def balanced_refusal(request):
    """What no list of refusals knows, and long enough."""
    return f"{writer(request)}, though on that I will not speak today"


def says_refusal(request):
    return json.dumps({"stance": "refusal"})


def test_a_refusal_is_no_neutral_answer():
    made_by = {"writer": model("w", f"{HERE}.balanced_refusal"), "words": [4, 20]}
    for judge, said in (("says_refusal", 0), ("judge", 2)):
        fields = {**made_by, "judge": model("j", f"{HERE}.{judge}"), "policy": "neutral"}
        rows, dropped = made(ValueGapPairs(**fields), prompts("a"))
        assert rows.height == said
        assert dropped["reason"].to_list() == (["stance_unclear"] if not said else [])


def test_prompts_without_a_pair_are_accounted_for():
    table = prompts("down", "short", "wide", "alike", "vague", "fine")
    rows, dropped = made(ValueGapPairs(**FIELDS, policy="support", votes=9, min_agreement=1), table)
    assert content(rows, "prompt") == ["fine"]
    assert reasons(dropped, table) == {
        "down": "http_500",
        "short": "too_short",
        "wide": "length_ratio",
        "alike": "stance_unclear",
        "vague": "stance_unclear",
    }


def test_shards_and_order_change_nothing(tmp_path):
    table = prompts("down", "short", "vague", *[f"question {i}" for i in range(7)])
    step = {"generators.ValueGapPairs": {**FIELDS, "policy": "neutral"}}
    assert len(cut_anyhow(step, table, tmp_path)) == 1


def test_the_policy_must_be_said():
    with pytest.raises(ValidationError, match=r"policy\n  Field required"):
        ValueGapPairs(**FIELDS)
    with pytest.raises(ValidationError, match="fewest, then most"):
        ValueGapPairs(**{**FIELDS, "policy": "support", "words": (5, 2)})
    with pytest.raises(ValidationError, match="at least 1"):
        ValueGapPairs(**FIELDS, policy="support", ratio=(0.5, 0.9))
    step = ValueGapPairs(**FIELDS, policy="neutral")
    assert [a.calls for a in step.asks(10, 10)] == [30, 90]
    assert step.grows(10, 10) == (20, 10)

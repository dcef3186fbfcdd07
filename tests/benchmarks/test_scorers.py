import math

import numpy as np
import polars as pl
import pytest

from benchmarks.human_labels import ordered
from benchmarks.scorers import STACK, TAKEN, Fold, fold_groups, kept, numbers, verdict, with_stack
from labelers import Combine
from prefactory.context import Context
from tests.helpers import pairs


def test_a_pair_follows_its_label_and_knows_who_was_shown_first():
    assert ordered("q", ["a", "b"], -1) == {
        "prompt": "q", "chosen": "b", "rejected": "a", "first": False,
    }  # fmt: skip
    assert ordered("q", ["a", "b"], 0) == {}


def test_what_is_above_the_length_rule_is_counted_on_the_same_pairs():
    gap = np.array([1.0, -2.0, 0.0, math.nan])
    longer = np.array([1.0, 1.0, -1.0, 1.0])
    row = numbers(gap, longer, pl.Series(["p", "q", "r", "r"]))
    assert (row["n"], row["ties"], row["accuracy"]) == (3, 1, 0.5)
    # against longer: 0, -1, +1/2; mean -1/6
    assert row["above"] == pytest.approx(-1 / 6)
    off = [1 / 6, -5 / 6, 4 / 6]
    assert row["above_se"] == pytest.approx(math.sqrt(sum(o**2 for o in off)) / 3)


def result(kind, method, accuracy, above=0.0, above_se=0.01):
    return {"kind": kind, "method": method, "accuracy": accuracy, "se": 0.01} | {
        "above": above, "above_se": above_se,
    }  # fmt: skip


def test_a_lead_within_two_standard_errors_is_no_lead():
    rules = [result("rule", "longer wins", 0.6), result("rule", "first wins", 0.5)]
    assert "**Nothing of ours is ahead" in verdict([*rules, result("R3", "r3", 0.615, 0.015)])
    assert "r3 (+0.030)" in verdict([*rules, result("R3", "r3", 0.63, 0.03)])


def test_what_people_wrote_about_the_numbers_stays(tmp_path):
    target = tmp_path / "scorers.md"
    assert kept(target) == ""
    target.write_text(f"# Title\n\n{TAKEN}\n\n- one\n- two\n\n## hh\n\n| a |\n")
    assert kept(target) == "- one\n- two"


def test_the_table_of_the_stack_takes_the_place_of_the_old_one():
    text = f"# Title\n\n{TAKEN}\n\n- one\n\n## hh\n"
    once = with_stack(text, [STACK, "", "| a |", ""])
    assert once.index("| a |") < once.index(TAKEN)
    twice = with_stack(once, [STACK, "", "| b |", ""])
    assert "| a |" not in twice
    assert twice == once.replace("| a |", "| b |")


def test_what_is_fitted_sees_the_training_side_only():
    table = pairs(
        ("p", "a", "b"), ("q", "c", "d"), ("r", "e", "f"),
        chosen_score_x=[1.0, 2.0, 3.0], rejected_score_x=[0.0, 0.0, 0.0],
        chosen_score_y=[0.0] * 3, rejected_score_y=[1.0] * 3,
    ).sort("prompt_id", "pair_id")  # fmt: skip
    train = pl.Series([True, True, False])
    made = []
    for scale in (1.0, 100.0):  # the held-out scores change, the frozen scale does not
        changed = table.with_columns(
            pl.when(train).then("chosen_score_x").otherwise(pl.col("chosen_score_x") * scale)
        )
        fold = Fold(changed, train, Context(0, "test"))
        fold.add(Combine(name="z", weights={"x": 1.0, "y": 1.0}, normalise="zscore"))
        made.append(fold.pairs.filter(train)["chosen_score_z"].to_list())
        assert len(fold.margin("z")) == 1
    assert made[0] == made[1]


def test_prompts_that_open_alike_share_a_fold():
    table = pairs(("What is it?", "a", "b"), ("what is IT", "c", "d"), ("Why?", "e", "f"))
    group = fold_groups(table)
    texts = table["prompt"].list.get(0).struct.field("content").to_list()
    by = dict(zip(texts, group, strict=True))
    assert by["What is it?"] == by["what is IT"] != by["Why?"]

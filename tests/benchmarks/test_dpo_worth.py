"""What curation is worth: the table is of the same held-out pairs, and says what refused."""

import polars as pl

from benchmarks.dpo_worth import BESIDE, table

HELD = pl.DataFrame({"pair_id": list("abcd"), "prompt_id": list("ppqr")})


def done(*hits, rows=10, **more):
    return {
        "hits": dict(zip("abcd", hits, strict=True)), "trained_on": rows, "accuracy": 0.5,
        "se": 0.25, "longer_wins": 0.6, "longer_wins_se": 0.2, **more,
    }  # fmt: skip


def test_differences_are_pair_by_pair_over_the_seeds():
    found = {
        "dpo-all-0": done(1, 0, 0, 1), "dpo-all-1": done(1, 0, 1, 1),
        "dpo-random-0": done(1, 1, 0, 1, rows=8), "dpo-random-1": done(1, 1, 1, 1, rows=6),
    }  # fmt: skip
    lines = table(found, HELD, seeds=2)
    assert "| dpo | all | 10 | 0.625 ±" in lines[2]
    assert "| dpo | random | 7 | 0.875 ±" in lines[3]
    assert "| +25.0 ±" in lines[3]
    assert lines[-1] == "| the longer answer wins | | | 0.600 ± 0.200 | |"


def test_a_scorer_that_refused_is_counted_and_not_averaged():
    embedding, stack = BESIDE
    refused = {"refused": "the labels teach nothing", "trained_on": 10, "hits": {}}
    found = {
        "dpo-all-0": done(1, 0, 0, 1),
        f"{embedding}-all-0": done(0, 0, 0, 0, accuracy=0.75),
        f"{embedding}-all-1": refused,
        f"{stack}-all-0": refused,
    }
    lines = table(found, HELD, seeds=2)
    assert f"| {embedding} | all | 10 | 0.750 ± 0.250; refused 1 of 2 times | |" in lines
    assert f"| {stack} | all | 10 | refused 1 of 1 times | |" in lines

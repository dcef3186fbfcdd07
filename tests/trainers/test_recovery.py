"""A planted utility is found by every method, and lost with the labels."""

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.recovery import (
    CASES,
    GAP,
    HELD,
    PAIRS,
    VALUES,
    WORDS,
    Case,
    Drawn,
    chart,
    first,
    measured,
    pairs,
    runs,
    setup,
    several,
    signed,
    table,
)  # fmt: skip
from trainers import DPO


def utility(talk, k=0):
    return sum(VALUES[k, WORDS.index(word)] for word in talk[0]["content"].split())


def gaps(frame, k=0):
    sides = (frame[side].to_list() for side in ("chosen", "rejected"))
    return np.array([utility(a, k) - utility(b, k) for a, b in zip(*sides, strict=True)])


def test_labels_follow_the_utility_and_a_share_of_them_is_turned_round():
    assert (gaps(pairs(PAIRS, 0.0, 0)) >= GAP).all()
    turned = gaps(pairs(PAIRS, 0.3, 0))
    assert (np.abs(turned) >= GAP).all()
    assert (turned < 0).mean() == pytest.approx(0.3, abs=0.08)
    assert np.array_equal(np.abs(turned), gaps(pairs(PAIRS, 0.0, 0))), "the same pairs"
    assert pairs(50, 0.3, 1).equals(pairs(50, 0.3, 1))
    drawn = Drawn.of(40, 0.5, 2, first)
    chosen, rejected = drawn.sides(drawn.levels[..., 0])
    assert np.array_equal(chosen > rejected, ~drawn.flipped)


def test_signs_are_of_two_utilities_and_scores_of_all_answers():
    frame = signed(PAIRS, 0.0, 0)
    for k, name in enumerate("ab"):
        assert np.array_equal(frame[f"sign_{name}"].to_numpy(), np.sign(gaps(frame, k)))
    assert (frame["sign_a"] != frame["sign_b"]).any(), "they disagree"
    answers = several(PAIRS, 0.0, 0)
    levels = [utility(talk) for talk in answers["response"]]
    assert answers["score_quality"].to_numpy() == pytest.approx(np.array(levels))
    sums = answers.group_by("prompt_id").agg(pl.col("weight_steer").sum())["weight_steer"]
    assert sums.to_numpy() == pytest.approx(1)
    turned = several(PAIRS, 1.0, 0)
    both = answers.join(turned, on="response_id")
    ranks = both.select(
        pl.corr("score_quality", "score_quality_right").over("prompt_id").alias("r")
    )
    assert ranks["r"].to_numpy() == pytest.approx(-1)


def test_figures_become_a_table_and_a_chart():
    found = {"dpo": {0.0: [0.9, 1.0], 0.5: [0.5, 0.4]}, "a<b": {0.0: [1.0], 0.5: [0.5]}}
    assert table(found) == [
        "| method | 0 % turned round | 50 % turned round |",
        "|---|--:|--:|",
        "| `dpo` | 0.950 ± 0.071 | 0.450 ± 0.071 |",
        "| `a<b` | 1.000 | 0.500 |",
    ]
    assert table({"dpo": {0.2: [0.9]}})[2] == "| `dpo` | 0.900 |"
    picture = str(chart(found))
    assert picture.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "a&lt;b" in picture
    assert picture.count("<polyline") == 2


def test_a_figure_that_is_kept_is_not_measured_again(tmp_path, monkeypatch):
    asked = []

    def once(name, flip, seed, folder):
        asked.append((name, flip, seed))
        return {"accuracy": 0.5 + 0.1 * seed + flip, "se": 0.0, "seconds": 1.0}

    monkeypatch.setattr("benchmarks.recovery.measured", once)
    names = ["dpo", "goal-dpo, low"]
    first = runs(names, [0.0, 0.2], 1, tmp_path)
    assert asked == [(n, f, 0) for f in (0.0, 0.2) for n in names]
    again = runs(names, [0.0, 0.2, 0.4], 2, tmp_path)
    assert len(asked) == len(set(asked)) == 12
    assert first["dpo"] == {0.0: [0.5], 0.2: [0.7]}
    assert again["dpo"][0.2] == pytest.approx([0.7, 0.8])
    assert setup("dpo") != setup("dpo, beta")
    monkeypatch.setitem(CASES, "dpo", Case(DPO, options={"beta": 0.3}))
    assert runs(["dpo"], [0.0], 1, tmp_path)["dpo"] == {0.0: [0.5]}
    assert len(asked) == 13, "other options are measured anew"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_method_finds_the_utility_and_loses_it_with_the_labels(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    right, many = (measured(name, flip, 0, tmp_path / str(flip)) for flip in (0.0, 0.4))
    assert right["accuracy"] >= CASES[name].least
    assert 0.5 - 3 * 0.5 / HELD**0.5 < many["accuracy"] <= right["accuracy"]

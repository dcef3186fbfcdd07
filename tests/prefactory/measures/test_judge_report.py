"""Statistics of judges: simulated judges of known bias, and real ones."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prefactory.errors import DataError
from prefactory.measures.agreement import krippendorff_alpha
from prefactory.measures.judge_report import (
    between_judges,
    judge_report,
    position_bias,
    self_consistency,
    verdicts,
    vote_report,
)

SCHEMA = {
    "question": pl.String, "answers": pl.Int64, "judge": pl.Int32, "round": pl.Int32,
    "place": pl.Int32, "answer": pl.Int32, "weight": pl.Int32, "fault": pl.String,
}  # fmt: skip
SHARED = Path(__file__).parents[4] / "shared/data/preference_judge"


def votes(*rows):
    """Rows are (question, judge, round, place, answer); place None: a tie or a fault."""
    full = [
        (q, 2, judge, n, place, -1 if answer == "tie" else answer, 1, None)
        if not isinstance(answer, str) or answer == "tie"
        else (q, 2, judge, n, None, None, 0, answer)
        for q, judge, n, place, answer in rows
    ]
    return pl.DataFrame(full, schema=SCHEMA, orient="row")


def simulated(n=2000, k=3, bias=0.0, noise=0.0, judges=1, seed=0):
    """Judges that say the first place with `bias`, a random one with `noise`, else answer 0."""
    rng = np.random.default_rng(seed)
    question, judge, number = (a.ravel() for a in np.meshgrid(range(n), range(judges), range(k)))
    start = rng.integers(0, k, n)[question]
    right = (start + number) % k
    draw = rng.random(len(question))
    other = np.where(draw < bias + noise, rng.integers(0, k, len(draw)), right)
    place = np.where(draw < bias, 0, other)
    return pl.DataFrame(
        {
            "question": pl.Series(question).cast(pl.String),
            "answers": k,
            "judge": judge,
            "round": number,
            "place": place,
            "answer": (place - right) % k,
            "weight": 1,
            "fault": None,
        },
        schema_overrides=SCHEMA,
    )


def test_a_place_that_is_never_named_is_a_bias_too():
    """Shares 1/2, 1/2 and 0 of three places: 0 is 1/3 off, the others 1/6."""
    rows = [("a", 0, n, place, 0) for n, place in enumerate((0, 1))]
    found = vote_report(votes(*rows).with_columns(answers=pl.lit(3, pl.Int64)))
    assert found["position"]["bias"] == pytest.approx(1 / 3, abs=1e-6)


def test_small_numbers_by_hand():
    found = vote_report(
        votes(
            ("a", 0, 0, 0, 1), ("a", 0, 1, 1, 1), ("b", 0, 0, 0, 0), ("b", 0, 1, 0, 1),
            ("c", 0, 0, None, "tie"), ("c", 0, 1, None, "timeout"),
        )
    )  # fmt: skip
    assert {k: found[k] for k in ("questions", "votes", "valid", "ties", "faults")} == {
        "questions": 3, "votes": 6, "valid": 5, "ties": 1, "faults": {"timeout": 1},
    }  # fmt: skip
    place = found["position"]
    assert place["bias"] == 0.25  # 3 of 4 votes for the first place
    assert place["first"]["value"] == 0.75
    assert place["first_expected"] == 0.5
    assert place["p_value"] == pytest.approx(0.3173, abs=1e-4)  # chi2 = 1, 1 degree
    assert place["places"] == [
        {"answers": 2, "place": 0, "votes": 3, "share": 0.75},
        {"answers": 2, "place": 1, "votes": 1, "share": 0.25},
    ]
    assert found["self_consistency"]["value"] == 0.5
    assert found["self_consistency"]["n"] == 2
    assert "judges" not in found
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("k", "bias"), [(2, 1.0), (3, 1.0), (5, 1.0), (2, 0.0), (4, 0.3)])
def test_bias_is_what_was_put_in(k, bias):
    """Always the first place: 1 - 1 / k, as the specification has it; else bias (1 - 1 / k)."""
    found = position_bias(simulated(k=k, bias=bias))
    assert found["bias"] == pytest.approx(bias * (1 - 1 / k), abs=0.02)
    first = found["first"]
    assert first["low"] - 0.01 <= 1 / k + bias * (1 - 1 / k) <= first["high"] + 0.01
    assert (found["p_value"] < 0.001) == (bias > 0)


def test_mixed_numbers_of_answers():
    mixed = pl.concat(
        [
            simulated(k=2, bias=1),
            simulated(k=4, bias=1).with_columns(question="x" + pl.col("question")),
        ]
    )
    found = position_bias(mixed)
    assert found["bias"] == pytest.approx((4000 * 0.5 + 8000 * 0.75) / 12000, abs=1e-6)
    assert found["first_expected"] == pytest.approx((4000 * 0.5 + 8000 * 0.25) / 12000, abs=1e-6)


def test_consistency_of_a_judge_of_known_noise():
    """Two votes agree if both are sure (.8^2), or by chance: (1 - .8^2) / 3 + ... = .76."""
    found = self_consistency(simulated(k=3, noise=0.3))
    sure = 0.7 + 0.3 / 3
    wanted = sure**2 + 2 * (0.3 / 3) ** 2
    assert found.value == pytest.approx(wanted, abs=4 * found.se)
    assert self_consistency(simulated(k=3)).value == 1
    assert self_consistency(simulated(k=3, bias=1)).value == 0


def test_what_a_judge_says_in_all():
    found = verdicts(
        votes(
            ("a", 0, 0, 0, 1), ("a", 0, 1, 1, 1), ("a", 0, 2, 0, 0), ("a", 1, 0, 0, 0),
            ("a", 1, 1, 0, 1), ("b", 0, 0, None, "tie"), ("b", 1, 0, None, "unparseable"),
        )
    )  # fmt: skip
    assert found.rows() == [("a", 0, 1), ("a", 1, None), ("b", 0, -1), ("b", 1, None)]


def test_judges_against_each_other():
    first = simulated(400, judges=1, noise=0.2, seed=1)
    # the same answer is number 0 in every question: hide it, as ids do
    shift = pl.col("question").cast(pl.Int64) % 3
    second = simulated(400, noise=0.2, seed=2).with_columns(judge=pl.lit(1, pl.Int32))
    both = pl.concat([first, second]).with_columns(
        answer=((pl.col("answer") + shift) % 3).cast(pl.Int32)
    )
    found = between_judges(both)
    (pair,) = found["pairs"]
    assert (pair["one"], pair["other"]) == (0, 1)
    assert pair["kappa"]["value"] == pytest.approx(found["alpha"]["value"], abs=0.005)
    assert 0.75 < pair["kappa"]["low"] < pair["kappa"]["high"] < 1
    report = vote_report(both)
    assert [one["judge"] for one in report["judges"]] == [0, 1]
    assert report["between_judges"] == found


def test_order_of_rows_changes_nothing():
    table = simulated(200, judges=2, noise=0.4, bias=0.1)
    assert vote_report(table) == vote_report(table.sample(fraction=1, shuffle=True, seed=3))


def test_pairs_that_nobody_judged():
    with pytest.raises(DataError, match=r"column 'judge_question' is missing; labelers\.Judge and"):
        judge_report(pl.DataFrame({"pair_id": []}))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared data")
def test_a_real_judge_asked_four_times():
    """AlpacaFarm's GPT-4 judges, four seeds: one agrees with itself more than chance by far."""
    table = pl.read_parquet(SHARED / "alpacafarm_gpt4_judge_seeds.parquet")
    text = pl.concat_str(
        "instruction", "input", "output_1", "output_2", separator="\n", ignore_nulls=True
    )
    for annotator in ("gpt4_b1", "gpt4_b5"):
        own = table.filter(pl.col("annotator") == annotator)
        found = krippendorff_alpha(own.select(text).to_series(), own["preference"])
        assert found.n == 387
        assert 0.3 < found.low < found.value < found.high < 1

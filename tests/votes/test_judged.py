"""Judges against people: planted judges are trusted where they are good, and nowhere else."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from prefactory.errors import ConfigError, DataError
from prefactory.testing import pairs as pairs_table
from prefactory.votes import judged
from prefactory.votes.simulated import Crowd, Person
from prefactory.votes.slices import slice_of, within
from prefactory.votes.verdicts import verdicts

N = 450
VOTE = pl.List(
    pl.Struct({"judge": pl.Int32, "round": pl.Int32, "place": pl.Int32, "answer": pl.Int32})
)


@pytest.fixture(scope="module")
def reviewed():
    """Pairs of three topics with good labels and votes of people who are right in nine of ten."""
    table = pairs_table(*[(f"Question {i}?", f"Good {i}.", f"Bad {i}.") for i in range(N)])
    table = table.with_columns(
        topic=pl.Series([("math", "code", "safety")[i % 3] for i in range(N)])
    )
    truth = table.select(row_id="pair_id", truth=pl.lit(1.0))
    votes = Crowd([Person(0.92)] * 6, 1).annotations(truth, 3)
    return table, votes


def with_judge(table, accuracy, consistent=1.0, seed=0):
    """A judge of some accuracy by topic, who names the same answer in both orders that often."""
    rng = np.random.default_rng(seed)
    right = rng.random(table.height) < [accuracy[t] for t in table["topic"]]
    steady = rng.random(table.height) < consistent
    votes = []
    for row, ok, same in zip(table.to_dicts(), right, steady, strict=True):
        better = int(row["chosen_id"] > row["rejected_id"])
        says = better if ok else 1 - better
        answers = (says, says) if same else (0, 1)
        votes.append(
            [
                {"judge": 0, "round": k, "place": (a + k) % 2, "answer": a}
                for k, a in enumerate(answers)
            ]
        )
    prefers = np.where(right, "chosen", "rejected")
    said = [p if s else "tie" for p, s in zip(prefers, steady, strict=True)]
    return table.with_columns(
        judge_prefers=pl.Series(said), judge_votes=pl.Series(votes, dtype=VOTE)
    )


def people_of(table, votes):
    return judged.People.of(table, verdicts(votes, draws=0), votes)


def test_a_judge_is_trusted_on_the_slices_where_it_is_good(reviewed):
    table, votes = reviewed
    table = with_judge(table, {"math": 0.97, "code": 0.95, "safety": 0.6})
    people = people_of(table, votes)
    found = judged.measure(table, people, ["topic"])
    rows = {(r["slice"], r["value"]): r for r in found.to_dicts()}
    assert [v for (s, v), r in rows.items() if s == "topic" and r["trusted"]] == ["code", "math"]
    assert rows["topic", "safety"]["why"].startswith("agreement is surely above")
    assert rows["topic", "math"]["n"] == pytest.approx(N / 3, abs=8)
    assert rows["all", "all"]["people"] == pytest.approx(0.92**2 + 0.08**2, abs=0.04)
    assert judged.rule_of(found, "judge") == {"topic": ["code", "math"]}
    assert judged.rules(found, "judge")["topic"]["not"] == ["safety"]


def test_the_bar_follows_people_and_the_level_the_slices(reviewed):
    table, votes = reviewed
    table = with_judge(table, dict.fromkeys(("math", "code", "safety"), 0.9))
    people = people_of(table, votes)
    one = judged.measure(table, people).row(0, named=True)
    assert one["bar"] == pytest.approx(max(0.6, 0.9 * one["people"]))
    sliced = judged.measure(table, people, ["topic"]).filter(slice="topic").row(0, named=True)
    plain = judged.clustered_mean(np.r_[np.ones(90), np.zeros(10)], np.arange(100))
    wide = judged.clustered_mean(np.r_[np.ones(90), np.zeros(10)], np.arange(100), 1 - 0.05 / 3)
    assert wide.low < plain.low
    assert sliced["high"] > sliced["agreement"] > sliced["low"]


def test_few_rows_or_a_judge_that_follows_the_order_are_not_trusted(reviewed):
    table, votes = reviewed
    good = dict.fromkeys(("math", "code", "safety"), 0.99)
    few = with_judge(table, good).head(40)
    assert judged.measure(few, people_of(few, votes))["why"].item().endswith("50 are needed")
    fickle = with_judge(table, good, consistent=0.6)
    found = judged.measure(fickle, people_of(fickle, votes)).row(0, named=True)
    assert not found["trusted"]
    assert "both orders" in found["why"]
    assert found["consistent"] == pytest.approx(0.6, abs=0.07)
    assert found["ties"] > 100


def test_position_and_calibration(reviewed):
    table, votes = reviewed
    table = with_judge(table, dict.fromkeys(("math", "code", "safety"), 0.9), consistent=0.7)
    table = table.with_columns(
        chosen_score_rm=pl.lit(1.0), rejected_score_rm=pl.lit(0.0), margin_stack=pl.lit(-0.2)
    )
    people = people_of(table, votes)
    heard = judged.opinions(table)
    assert [(o.name, o.kind) for o in heard] == [
        ("stack", "margin"), ("judge", "judge"), ("rm", "score"),
    ] or {o.name for o in heard} == {"stack", "judge", "rm"}  # fmt: skip
    place = judged.by_position(table, people)
    assert place["place"].to_list() == ["first", "second"]
    first, second = place["agreement"]  # where it wavers it names what is shown first
    assert first > second + 0.2
    sure = {r["judge"]: r for r in judged.calibration(heard, people).to_dicts()}
    assert sure["rm"]["slope"] > 0 > sure["stack"]["slope"]


def test_a_hundred_more_votes_narrow_the_interval():
    assert judged.narrower(0.8, 100) == pytest.approx(1.96 * 0.4 * (0.1 - 200**-0.5))
    assert judged.narrower(0.8, 0) is None


def test_pairs_that_nobody_voted_on_are_an_error(reviewed):
    table, votes = reviewed
    other = pairs_table(("Else?", "Yes.", "No."))
    with pytest.raises(DataError, match="none of these pairs was voted on"):
        people_of(other, votes)
    assert judged.opinions(table) == []


def test_slices_by_column_by_length_and_by_language():
    table = pairs_table(
        ("What is the name of the river that is in the town?", "a", "b"),
        ("Was ist das und wie ist der Name von dem Fluss?", "a" * 500, "b"),
        ("x", "a", "b" * 2000),
    ).with_columns(topic=pl.Series(["math", None, "code"]))
    assert slice_of(table, "length_bucket").to_list() == ["short", "medium", "long"]
    assert slice_of(table, "language").to_list()[:2] == ["en", "de"]
    assert slice_of(table, "topic").to_list() == ["math", "(none)", "code"]
    assert within(table, {"topic": ["math", "code"], "length_bucket": ["short"]}).to_list() == [
        True, False, False,
    ]  # fmt: skip
    assert within(table, {}).all()
    with pytest.raises(ConfigError, match="no column 'subject' to slice by"):
        slice_of(table, "subject")
    with pytest.raises(ConfigError, match="plain values only"):
        slice_of(table, "prompt")


def test_a_judge_that_leans_to_a_place_is_not_trusted_on_what_it_names_there(reviewed):
    table, votes = reviewed
    table = with_judge(table, dict.fromkeys(("math", "code", "safety"), 0.95), consistent=0.6)
    # where it wavers it names what it saw first, and says so
    leaning = pl.when(pl.col("judge_prefers") == "tie").then(pl.lit("rejected"))
    table = table.with_columns(judge_prefers=leaning.otherwise("judge_prefers"))
    (judge,) = judged.opinions(table)
    where = judged.positions(table, judge)
    assert set(where) == {"first", "both"}
    measured = judged.measure(table, people_of(table, votes), ["position"])
    found = {r["value"]: r for r in measured.filter(slice="position").to_dicts()}
    assert found["both"]["trusted"]
    assert not found["first"]["trusted"]
    assert judged.rules(measured, "judge") == {}, "known only once the judge was asked"

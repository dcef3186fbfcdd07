"""What is said of each person: planted traits are found, and nobody is accused without reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prefactory.votes.people import agreement, kappas, report
from prefactory.votes.simulated import Crowd, Person

PANDALM = Path(__file__).parents[3] / "shared/data/preference_human/pandalm_testset.json.gz"
ROWS = 400


def reviewed(*people, votes=3, seed=0):
    rng = np.random.default_rng([seed, 5])
    truth = pl.DataFrame(
        {
            "row_id": [f"{i:04}" for i in range(ROWS)],
            "truth": rng.choice([-1.0, 1.0], ROWS),
            "longer": rng.choice([-1.0, 0.0, 1.0], ROWS),
        }
    )
    table = Crowd(people, seed).annotations(truth, votes, truth["longer"].to_numpy())
    gold = pl.when(pl.int_range(pl.len()) < ROWS // 2).then(
        pl.when(pl.col("truth") > 0).then(pl.lit("first")).otherwise(pl.lit("second"))
    )
    return table, truth.select("row_id", "longer", gold=gold)


def rows(table):
    return {row["person"]: row for row in table.to_dicts()}


def test_known_answer_of_alpha():
    table = pl.DataFrame(
        {
            "row_id": list("112233444"),
            "person": list("ababababc"),
            "vote": ["first"] * 2
            + ["second"] * 2
            + ["first", "second", "first", "first", "second"],
        }
    )
    assert agreement(table).alpha.value == pytest.approx(0.2)


def test_one_person_or_no_variation_has_no_alpha():
    one = pl.DataFrame({"row_id": ["a", "b"], "person": ["x", "x"], "vote": ["first", "tie"]})
    assert agreement(one).why.startswith("one person")
    same = pl.DataFrame({"row_id": ["a", "a"], "person": ["x", "y"], "vote": ["first", "first"]})
    found = agreement(same)
    assert found.why.startswith("no variation")
    assert np.isnan(found.alpha.value)
    assert found.as_dict()["alpha"]["value"] is None


@pytest.mark.skipif(not PANDALM.is_file(), reason=f"no {PANDALM}")
def test_raters_of_pandalm_by_prompt_and_by_row():
    votes, prompts = [], []
    for i, row in enumerate(json.loads(gzip.decompress(PANDALM.read_bytes()))):
        prompts.append((str(i), row["instruction"] + row["input"]))
        votes += [
            (str(i), f"p{k}", ("tie", "first", "second")[row[f"annotator{k}"]]) for k in (1, 2, 3)
        ]
    table = pl.DataFrame(votes, schema=["row_id", "person", "vote"], orient="row")
    clusters = pl.DataFrame(prompts, schema=["row_id", "cluster"], orient="row")
    by_prompt, by_row = agreement(table, clusters), agreement(table)
    assert by_prompt.alpha.value == pytest.approx(0.888, abs=5e-4)
    assert (by_prompt.alpha.low, by_prompt.alpha.high) == pytest.approx((0.844, 0.928), abs=0.005)
    assert (by_row.alpha.low, by_row.alpha.high) == pytest.approx((0.861, 0.915), abs=0.005)
    assert by_prompt.pairwise.value == pytest.approx(0.934, abs=5e-4)


def test_planted_traits_are_found():
    good = [Person(0.9)] * 5
    table, facts = reviewed(
        *good, Person(0.85, lean=1.5), Person(0.85, longer=1.5), Person(0.5, seconds=2.0),
        Person(0.12),
    )  # fmt: skip
    found = rows(report(table, facts=facts))
    names = sorted(found)
    for name in names[:5]:
        assert found[name]["remarks"] == []
        assert found[name]["agreement_low"] < 0.87 < found[name]["agreement_high"] + 0.05
    leaning, loving, random, turned = (found[n] for n in names[5:])
    assert "shown first" in leaning["remarks"][0]
    assert leaning["first_low"] > 0.5
    assert any("longer answer" in r for r in loving["remarks"])
    assert any("beyond chance" in r for r in random["remarks"])
    assert any(r.startswith("takes 2") for r in random["remarks"])
    assert any("keys mixed up" in r for r in turned["remarks"])
    assert (
        turned["gold_right"] / turned["gold"]
        < 0.3
        < 0.8
        < found[names[0]]["gold_right"] / found[names[0]]["gold"]
    )


def test_every_two_people_have_a_kappa():
    table = pl.DataFrame({
        "row_id": list("aabbccddee"),
        "person": list("xyxyxyxyxz"),
        "vote": ["first", "first", "second", "second", "first", "second", "second", "second",
                 "first", "first"],
    })  # fmt: skip
    found = kappas(table).to_dicts()
    assert [(r["one"], r["two"], r["n"]) for r in found] == [("x", "y", 4), ("x", "z", 1)]
    # 3 of 4 equal; by chance .5 * .25 + .5 * .75 = .5
    assert found[0]["kappa"] == pytest.approx(0.5)
    assert found[0]["low"] < 0.5 < found[0]["high"]
    assert found[1]["kappa"] is None, "one row: nothing varies"


def test_nobody_is_remarked_upon_for_few_votes():
    table, facts = reviewed(Person(0.5), Person(0.9), Person(0.9))
    few = table.filter(pl.col("row_id") < "0015")
    assert report(few, facts=facts)["remarks"].list.len().sum() == 0


def test_fatigue_shows_in_the_later_half():
    table, _ = reviewed(*[Person(0.9)] * 4, Person(0.92, fatigue=2.4, tired_at=240), votes=5)
    found = rows(report(table))
    assert found["person-004"]["late"] < -0.1
    assert abs(found["person-000"]["late"]) < 0.1


def test_crowds_are_the_same_for_a_seed_and_need_people():
    truth = np.ones(50)
    one, two = (Crowd([Person(0.8)] * 3, 4).ballots(truth, 2) for _ in range(2))
    assert (one.vote == two.vote).all()
    assert (one.person == two.person).all()
    with pytest.raises(ValueError, match="4 votes a pair need as many people, not 3"):
        Crowd([Person(0.8)] * 3).ballots(truth, 4)

"""Votes to labels: known answers, planted people, and a reference implementation."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit

from prefactory.errors import DataError
from prefactory.preferences import shares
from prefactory.votes.ballots import ballots, of_arrays
from prefactory.votes.consensus import consensus
from prefactory.votes.simulated import Crowd, Person
from prefactory.votes.verdicts import ask_on, disagreement, verdicts

SKILLS = np.repeat([0.55, 0.7, 0.9], 4)


def small():
    votes = np.array([[1, 1, -1], [1, 1, 1], [-1, -1, -1], [-1, -1, 1]], float)
    row = np.r_[np.repeat(np.arange(4), 3), 4, 4]
    person = np.r_[np.tile(np.arange(3), 4), 0, 2]
    return of_arrays(row, person, np.r_[votes.ravel(), 1, -1])


def crowd(seed, lean=0.0):
    return Crowd([Person(s, lean=lean) for s in SKILLS], seed)


def truth_of(n, seed):
    return np.random.default_rng([seed, 9]).choice([-1.0, 1.0], n)


def right(found, truth, seed=0):
    """Share of labels that are right, ties drawn."""
    coin = np.random.default_rng(seed).choice([-1.0, 1.0], len(truth))
    label = np.where(found.label() == 0, coin, found.label())
    return float((label == truth).mean())


def test_the_known_answer():
    found = consensus(small(), "one-coin", draws=0)
    assert found.posterior == pytest.approx([0.9897, 0.9908, 0.0092, 0.0103, 0.9047], abs=1e-4)
    assert found.skill == pytest.approx([0.909, 0.910, 0.514], abs=1e-3)


def test_the_order_of_votes_and_the_names_of_sides_do_not_matter():
    one = crowd(3).ballots(truth_of(60, 3), 3)
    order = np.random.default_rng(0).permutation(len(one))
    shuffled = of_arrays(one.row[order], one.person[order], one.vote[order], one.shown[order])
    turned = of_arrays(one.row, one.person, -one.vote, -one.shown)
    for method in ("one-coin", "position"):
        found = consensus(one, method, draws=5)
        again = consensus(shuffled, method, draws=5)
        back = consensus(turned, method, draws=5)
        assert again.posterior == pytest.approx(found.posterior, abs=1e-12)
        assert again.low == pytest.approx(found.low, abs=1e-12)
        assert 1 - back.posterior == pytest.approx(found.posterior, abs=1e-9)
        assert 1 - back.high == pytest.approx(found.low, abs=1e-6)


def test_one_person_or_one_vote_makes_no_certainty():
    one = of_arrays(np.arange(10), np.zeros(10, int), np.ones(10))
    found = consensus(one, "one-coin")
    assert found.posterior == pytest.approx(0.75)
    assert np.isnan(found.low).all()


def test_people_who_always_oppose_each_other_decide_nothing():
    row, person = np.repeat(np.arange(20), 2), np.tile([0, 1], 20)
    found = consensus(of_arrays(row, person, np.tile([1.0, -1.0], 20)), "one-coin", draws=0)
    assert found.posterior == pytest.approx(0.5)
    assert (found.label() == 0).all()


def test_no_votes_no_rows():
    empty = pl.DataFrame(schema={"row_id": pl.String, "person": pl.String, "vote": pl.String})
    assert consensus(ballots(empty)).table().height == 0
    assert verdicts(empty).height == 0


def test_consensus_recovers_truth_better_than_majority_where_skills_differ():
    gained, with_place = [], []
    for seed in range(10):
        truth = truth_of(400, seed)
        votes = crowd(seed).ballots(truth, 3)
        gained.append(
            right(consensus(votes, "one-coin", draws=0), truth)
            - right(consensus(votes, "majority"), truth)
        )
        leaning = crowd(seed, lean=1.0).ballots(truth, 3)
        by_place = consensus(leaning, draws=0)
        assert by_place.method == "position"
        with_place.append(
            right(by_place, truth) - right(consensus(leaning, "one-coin", draws=0), truth)
        )
    assert np.mean(gained) > 0.02  # the specification has .848 against .810
    assert np.mean(with_place) > 0.005  # .834 against .813


def test_a_planted_lean_is_found_and_posteriors_are_nearly_what_they_say():
    leans, stated, true = [], [], []
    for seed in range(8):
        truth = truth_of(400, seed)
        found = consensus(crowd(seed, lean=1.0).ballots(truth, 3), draws=0)
        sure = np.maximum(found.posterior, 1 - found.posterior)
        leans.append(found.lean.mean())
        stated.append(sure[sure >= 0.8].mean())
        true.append((found.label() == truth)[sure >= 0.8].mean())
    assert np.mean(leans) == pytest.approx(0.88, abs=0.1)
    assert 0 < np.mean(stated) - np.mean(true) < 0.04


def test_a_fixed_order_says_nothing_about_places():
    votes = of_arrays(np.arange(40) % 20, np.arange(40) // 20, np.ones(40), np.ones(40))
    assert not votes.randomised
    assert consensus(votes, draws=0).method == "one-coin"


@pytest.mark.parametrize("method", ["one-coin", pytest.param("position", marks=pytest.mark.slow)])
def test_intervals_hold_what_known_skills_would_say(method):
    """The posterior by the planted skills is within nine intervals of 95 % in ten, or more."""
    held = []
    for seed in range(4):
        truth = truth_of(200, seed)
        people = Crowd([Person(s) for s in np.repeat([0.55, 0.7, 0.9], 10)], seed)
        votes = people.ballots(truth, 5)
        found = consensus(votes, method, draws=60)
        skill = np.repeat([0.55, 0.7, 0.9], 10)
        oracle = expit(np.bincount(votes.row, votes.vote * logit(skill)[votes.person]))
        held.append(((oracle >= found.low) & (oracle <= found.high)).mean())
        assert (found.low <= found.posterior).all()
        assert (found.posterior <= found.high).all()
    assert np.mean(held) > 0.9


def test_a_prior_moves_labels_that_votes_leave_open():
    votes = of_arrays(np.array([0, 0]), np.array([0, 1]), np.array([1.0, -1.0]))
    assert consensus(votes, prior=np.array([0.9]), draws=0).posterior[0] > 0.85


def test_ties_are_out_or_half_a_vote_for_either():
    table = pl.DataFrame(
        {"row_id": ["a", "a", "b"], "person": ["x", "y", "x"], "vote": ["first", "tie", "tie"]}
    )
    out, half = ballots(table), ballots(table, ties="half")
    assert (len(out), out.rows.to_list()) == (1, ["a"])
    assert half.votes_a_row().tolist() == [2.0, 1.0]
    found = consensus(half, "one-coin", draws=0).posterior
    assert 0.5 < found[0] < 1
    assert found[1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vote": ["left"]}, "is 'left'; it is one of first, second"),
        ({"row_id": ["a", "a"], "person": ["x", "x"], "vote": ["first", "first"]}, "several votes"),
    ],
)
def test_votes_that_cant_be_are_refused(change, said):
    table = pl.DataFrame({"row_id": ["a"], "person": ["x"], "vote": ["first"]} | change)
    with pytest.raises(DataError, match=said):
        ballots(table)


def test_what_was_replaced_and_training_and_decisions_are_no_votes():
    table = pl.DataFrame(
        {
            "row_id": ["a"] * 4,
            "person": ["x", "x", "y", "z"],
            "vote": ["first", "second", "first", "first"],
            "counts": [False, True, True, True],
            "role": ["annotator", "annotator", "annotator", "decision"],
            "purpose": ["work", "work", "training", "work"],
        }
    )
    found = ballots(table)
    assert (len(found), found.vote.tolist()) == (1, [-1.0])


@pytest.mark.slow  # its import loads torch
def test_it_agrees_with_the_reference():
    aggregation = pytest.importorskip(
        "crowdkit.aggregation", reason="crowd-kit (extra `reference`) is not installed"
    )
    truth = truth_of(400, 1)
    votes = crowd(1).ballots(truth, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = pl.DataFrame(
            {"task": votes.row, "worker": votes.person, "label": votes.vote}
        ).to_pandas()
        theirs = aggregation.OneCoinDawidSkene().fit_predict_proba(frame)
        theirs = theirs.reindex(range(400))[1.0].to_numpy()
    mine = consensus(votes, "one-coin", draws=0)
    assert right(mine, truth) >= ((theirs > 0.5) == (truth > 0)).mean() - 0.02
    assert np.corrcoef(mine.posterior, theirs)[0, 1] > 0.95


# -- verdicts -----


def votes_on(*rows):
    """Annotations from `(row, votes)`; person i gives vote i."""
    flat = [(row, f"p{i}", vote) for row, votes in rows for i, vote in enumerate(votes)]
    table = pl.DataFrame(flat, schema=["row_id", "person", "vote"], orient="row")
    return table.with_columns(vote_id=pl.format("{}/{}", "row_id", "person"))


def test_each_verdict():
    table = votes_on(
        ("a", ["first"]),
        ("b", ["second", "second", "first"]),
        ("c", ["tie", "tie", "first"]),
        ("d", ["bad", "bad", "second"]),
        ("e", ["first", "second"]),
        ("f", ["skip"]),
        ("g", ["first", "first", "tie"]),
    )
    found = {r["row_id"]: r for r in verdicts(table, "one-coin", draws=0).to_dicts()}
    said = {k: r["verdict"] for k, r in found.items()}
    assert said == {
        "a": "first", "b": "second", "c": "tie", "d": "bad", "e": "open", "f": "open", "g": "first",
    }  # fmt: skip
    assert found["g"]["strength"] == pytest.approx(2 / 3)
    assert found["b"]["vote_ids"] == ["b/p0", "b/p1", "b/p2"]
    assert (found["f"]["posterior"], found["f"]["votes"]) == (None, 0)


def test_split_votes_are_contested_and_go_to_adjudicators_who_then_decide():
    split = votes_on(("a", ["first", "second"] * 3), ("b", ["first"] * 6))
    found = verdicts(split, "majority", draws=0)
    assert found["verdict"].to_list() == ["contested", "first"]
    assert disagreement(found.with_columns(low=0.1))["row_id"].to_list() == ["a"]
    decided = pl.concat(
        [
            split.with_columns(role=pl.lit("annotator"), counts=pl.lit(True)),
            pl.DataFrame(
                {"row_id": ["a", "z"], "person": ["judge"] * 2, "vote": ["second", "first"],
                 "vote_id": ["d1", "d2"], "role": ["decision"] * 2, "counts": [True] * 2}
            ).select("row_id", "person", "vote", "vote_id", "role", "counts"),
        ]
    )  # fmt: skip
    after = verdicts(decided, "majority", draws=0)
    assert after["verdict"].to_list() == ["second", "first", "first"]
    assert after["by"].to_list() == ["adjudicator", "votes", "adjudicator"]
    assert after["vote_ids"][0].to_list()[-1] == "d1"
    assert disagreement(after.with_columns(low=0.1)).height == 0


@pytest.mark.parametrize(
    ("skill", "sure", "accuracy", "votes"),
    [(0.85, 0.90, 0.972, 2.7), (0.85, 0.99, 0.986, 4.0), (0.95, 0.95, 0.996, 2.2)],
)
def test_asking_ends_when_it_is_sure(skill, sure, accuracy, votes):
    rng, n = np.random.default_rng(0), 4000
    odds, asked = np.zeros(n), np.zeros(n)
    while (on := ask_on(expit(odds), asked, sure)).any():
        vote = np.where(rng.random(n) < skill, 1.0, -1.0)
        odds, asked = odds + on * vote * logit(skill), asked + on
    assert ((odds > 0) + (odds == 0) / 2).mean() == pytest.approx(accuracy, abs=0.01)
    assert asked.mean() == pytest.approx(votes, abs=0.15)


def test_a_prior_that_is_trust_may_end_after_one_vote():
    assert not ask_on(np.array([0.97]), np.array([1.0]), 0.95, least=1)[0]
    assert ask_on(np.array([0.97]), np.array([1.0]), 0.95)[0]


# -- the error rate from a sample (labels.md 4.4) -----


@pytest.mark.parametrize("share", [0.095, 0.244])
def test_the_stratified_estimate_covers_the_truth(share):
    """Population of 5,000, suspicion with AUC about .76, 200 checked rows, 400 draws."""
    rng = np.random.default_rng(0)
    held = []
    wrong = rng.random(5000) < share
    suspicion = rng.normal(size=5000) + 1.0 * wrong
    stratum = np.argsort(np.argsort(suspicion)) * 4 // 5000
    places = [np.flatnonzero(stratum == h) for h in range(4)]
    for _ in range(400):
        counts = [int(wrong[rng.choice(p, 50, replace=False)].sum()) for p in places]
        found = shares.stratified(counts, [50] * 4, [len(p) for p in places])
        held.append(found.low <= wrong.mean() <= found.high)
    assert np.mean(held) >= 0.94  # .95 less one standard error of 400 draws

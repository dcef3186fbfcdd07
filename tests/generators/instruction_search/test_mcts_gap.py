"""Null gaps against known numbers, and who is compared with whom."""

import math

import numpy as np
import pytest

from generators.instruction_search.gap import (
    Contest,
    Spread,
    Verdict,
    accepted,
    chance,
    confirmed,
    contests,
    critical,
    expected_max,
    measured,
    null_gap,
    passes,
    spread_of,
)
from generators.instruction_search.tree import Node, Tree


def planted(*nodes):
    """A tree of (parent, mean); the first is the root."""
    tree = Tree("raw", ["a", "b", "c"], np.random.default_rng(0))
    tree.nodes = []
    for place, (parent, mean) in enumerate(nodes):
        scores = [mean - 0.5, mean + 0.5]
        tree.nodes.append(Node(parent, "abc"[place % 3], f"text {place}", 1, mean, mean, scores))
        if parent is not None:
            tree.nodes[parent].children.append(place)
    return tree


TREE = planted((None, 3.0), (0, 5.0), (0, 1.0), (1, 4.0), (1, 6.0), (1, 4.0), (2, 1.0))


def test_expected_greatest_of_n():
    assert expected_max(1) == 0
    assert expected_max(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert expected_max(3) == pytest.approx(1.5 / math.sqrt(math.pi))
    assert 2 * expected_max(21) == pytest.approx(3.778, abs=5e-4)


def test_best_minus_worst_of_21_equal_nodes_is_2_18_sigma():
    assert null_gap(21, 21, 3) == pytest.approx(2.18, abs=5e-3)  # Gumbel, n = 21
    means = np.random.default_rng(0).normal(0, 1, (20_000, 21, 3)).mean(axis=2)
    assert np.mean(means.max(axis=1) - means.min(axis=1)) == pytest.approx(2.18, abs=0.02)
    assert null_gap(1, 1, 3) == 0
    assert null_gap(20, 1, 3) == pytest.approx(expected_max(20) / math.sqrt(3))


def test_the_standard_deviation_is_pooled_within_nodes_whose_answers_differ():
    nodes = [
        Node(None, "a", "", mean=2.0, scores=[1.0, 3.0], distinct=2),  # squares 2, 1 of freedom
        Node(0, "a", "", mean=10.0, scores=[9.0, 10.0, 11.0], distinct=2),  # 2, 2
        Node(0, "a", "", mean=5.0, scores=[5.0, 5.0, 5.0], distinct=1),  # one answer, thrice
        Node(0, "a", "", mean=None, scores=[]),
    ]
    assert spread_of(nodes) == (pytest.approx(math.sqrt(4 / 3)), 3)
    assert spread_of(nodes[2:]) is None  # equal answers tell nothing
    agreeing = [Node(None, "a", "", mean=5.0, scores=[5.0, 5.0], distinct=2)]
    assert spread_of(agreeing) == (0.0, 1)  # unlike answers, one score: a judge without noise


@pytest.mark.parametrize(
    ("tops", "bottoms", "samples", "freedom"),
    [(2, 2, 3, 42), (1, 1, 3, 42), (2, 1, 3, 40), (2, 2, 5, 4), (3, 2, 2, 20)],
)
def test_equals_exceed_the_critical_gap_as_often_as_the_level_says(tops, bottoms, samples, freedom):
    rng = np.random.default_rng(0)
    n = 200_000
    best = rng.normal(size=(n, tops)).max(axis=1)
    worst = rng.normal(size=(n, bottoms)).min(axis=1)
    gaps = (best - worst) / np.sqrt(samples * rng.chisquare(freedom, n) / freedom)
    for level in (0.2, 0.05, 0.01):
        limit = critical(level, tops, bottoms, samples, freedom)
        assert np.mean(gaps > limit) == pytest.approx(level, abs=4 * math.sqrt(level / n))
        assert chance(limit, tops, bottoms, samples, freedom) == pytest.approx(level, abs=1e-7)


def test_critical_gaps_that_are_known():
    assert critical(0.05, 2, 2, 3, 42) == pytest.approx(1.84, abs=0.01)
    # one candidate at either end: Student's t of two means, one-sided
    assert critical(0.05, 1, 1, 3, 42) == pytest.approx(1.6820 * math.sqrt(2 / 3), abs=1e-3)
    assert chance(math.inf, 2, 2, 3, 42) == 0.0
    assert chance(0.0, 1, 1, 3, 42) == pytest.approx(0.5, abs=1e-6)


def test_false_discoveries_by_benjamini_and_hochberg():
    # their own example (1995, section 4): 15 comparisons, four stand at .05
    theirs = [.0001, .0004, .0019, .0095, .0201, .0278, .0298, .0344, .0459, .3240, .4262, .5719,
              .6528, .7590, 1.0]  # fmt: skip
    assert accepted(theirs, 0.05) == [True] * 4 + [False] * 11
    assert accepted(theirs[::-1], 0.05) == [False] * 11 + [True] * 4
    assert accepted([0.05], 0.05) == [True]
    assert accepted([0.04, 0.049], 0.05) == [True, True]  # a step up: the greater carries both
    assert accepted([], 0.05) == []


@pytest.mark.parametrize(
    ("output", "ends", "found"),
    [
        # by mean: 4 (6), 1 (5), 3 and 5 (4), 0 (3), 2 and 6 (1)
        ("pairs", 2, [((4, 1), (6, 2), 7, 7, 0, 5.0)]),
        ("pairs", 9, [((4, 1, 3), (6, 2, 0), 7, 7, 0, 5.0)]),  # nobody at both ends
        ("instructions", 2, [((4, 1), (0,), 6, 1, 0, 3.0)]),
        ("siblings", 2, [((1,), (2,), 2, 2, 0, 4.0), ((4,), (5,), 3, 3, 1, 2.0)]),
        (
            "steps",
            2,
            [
                ((1,), (0,), 1, 1, 0, 2.0),
                ((2,), (0,), 1, 1, 0, -2.0),
                ((3,), (1,), 1, 1, 1, -1.0),
                ((4,), (1,), 1, 1, 1, 1.0),
                ((5,), (1,), 1, 1, 1, -1.0),
                ((6,), (2,), 1, 1, 2, 0.0),
            ],
        ),
        ("trees", 2, []),
    ],
)
def test_contests_of_a_tree(output, ends, found):
    assert contests(TREE, output, ends) == [Contest(*c) for c in found]


def test_a_tree_of_one_node_has_nothing_to_compare():
    for output in ("pairs", "instructions", "siblings", "steps"):
        assert contests(planted((None, 1.0)), output, 2) == []


CONTEST = Contest((4, 1), (6, 2), 7, 7, 0, 5.0)


def test_the_search_must_see_a_gap():
    assert (passes(CONTEST).chosen, passes(CONTEST).rejected) == (4, 6)
    tie = passes(Contest((1,), (0,), 1, 1, 0, 0.0))
    assert (tie.chosen, tie.reason, tie.detail) == (None, "no_gap", "0 between best and worst")


def test_fresh_scores_decide_who_and_whether():
    fresh = {4: 4.0, 1: 4.5, 6: 2.0, 2: 3.0}
    found = measured(CONTEST, fresh, Spread(1.0, 42), 3)
    assert (found.chosen, found.rejected, found.gap) == (1, 6, 2.5)
    assert found.chance == chance(2.5, 2, 2, 3, 42) < 0.05
    assert confirmed([(CONTEST, found)], 0.05) == [(CONTEST, found)]
    wide = measured(CONTEST, fresh, Spread(2.0, 42), 3)
    ((_, lost),) = confirmed([(CONTEST, wide)], 0.05)
    assert (lost.chosen, lost.reason) == (None, "gap_not_confirmed")
    assert lost.detail == (
        "2.5 by fresh samples (5 in the search): equals show that with a probability of 0.19"
    )
    assert measured(CONTEST, fresh, Spread(0.0, 42), 3).chance == 0.0  # no noise at all
    assert measured(CONTEST, fresh, None, 3) == Verdict(1, 6, 2.5)
    assert measured(CONTEST, {4: 2.0, 6: 2.0}, None, 3).reason == "gap_not_confirmed"


def test_comparisons_without_a_pair_count_among_those_of_a_tree():
    good = Verdict(1, 6, 2.5, 0.03)
    none = Verdict(reason="gap_not_confirmed", detail="")
    assert confirmed([(CONTEST, good)], 0.05)[0][1] is good
    assert confirmed([(CONTEST, good), (CONTEST, none)], 0.05)[0][1].chosen is None  # 0.03 > 0.025


def test_what_could_not_be_measured_again_is_no_candidate():
    assert measured(CONTEST, {4: 1.0, 2: 0.0}, None, 3).chosen == 4
    assert measured(CONTEST, {4: 1.0, 1: 2.0}, None, 3).reason == "no_fresh_scores"

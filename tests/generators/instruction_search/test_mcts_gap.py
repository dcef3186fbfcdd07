"""Null gaps against known numbers, and who is compared with whom."""

import math

import numpy as np
import pytest

from generators.instruction_search.gap import (
    Contest,
    contests,
    decided,
    expected_max,
    null_gap,
    passes,
    pooled_sd,
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


def test_the_standard_deviation_is_pooled_within_nodes():
    nodes = [
        Node(None, "a", "", mean=2.0, scores=[1.0, 3.0]),  # squares 2, 1 degree of freedom
        Node(0, "a", "", mean=10.0, scores=[9.0, 10.0, 11.0]),  # 2, 2
        Node(0, "a", "", mean=None, scores=[]),
    ]
    assert pooled_sd(nodes) == pytest.approx(math.sqrt(4 / 3))
    assert pooled_sd([Node(None, "a", "", mean=1.0, scores=[1.0])]) is None


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


def test_the_search_must_beat_the_threshold():
    assert passes(CONTEST, 4.9).chosen == 4
    assert passes(CONTEST, 4.9).rejected == 6
    lost = passes(CONTEST, 5.0)
    assert (lost.chosen, lost.reason) == (None, "below_null_gap")
    assert lost.detail == "5 between best and worst, expected of equals: 5"
    assert passes(Contest((1,), (0,), 1, 1, 0, 0.0), 0.0).reason == "below_null_gap"  # a tie


def test_fresh_scores_decide_who_and_by_how_much():
    fresh = {4: 4.0, 1: 4.5, 6: 2.0, 2: 3.0}
    assert decided(CONTEST, fresh, 0.0, 3, 1.0) == type(passes(CONTEST, 0))(1, 6, 2.5)
    # of two at either end, equals differ by 1.128 sigma / sqrt(3) on average
    assert decided(CONTEST, fresh, 3.8, 3, 1.0).chosen == 1  # 2.476
    lost = decided(CONTEST, fresh, 3.9, 3, 1.0)  # 2.541
    assert (lost.chosen, lost.reason) == (None, "gap_not_confirmed")
    assert decided(CONTEST, fresh, 3.9, 3, 0.0).chosen == 1


def test_what_could_not_be_measured_again_is_no_candidate():
    assert decided(CONTEST, {4: 1.0, 2: 0.0}, 1.0, 3, 1.0).chosen == 4  # one each: no null gap
    assert decided(CONTEST, {4: 1.0, 1: 2.0}, 1.0, 3, 1.0).reason == "no_fresh_scores"

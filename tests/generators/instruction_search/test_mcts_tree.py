"""The search itself: known answers, invariants, and going on after a stop."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.instruction_search.tree import Node, Proposal, Tree


def tree(actions=3, seed=0, **options):
    names = [f"p{i}" for i in range(actions)]
    return Tree("raw", names, np.random.default_rng(seed), **options)


def walk(found, place):
    return tuple(found.path(place))


def grow(found, iterations, reward):
    """Run iterations; `reward(way) -> scores`, and the text is the way."""
    for _ in range(iterations):
        parent, action = found.propose()
        way = (*found.path(parent), action)
        found.add("/".join(way), reward(way))
    return found


def distinct(way):
    return [float(len(set(way)))] * 3


def by_hand(found, *nodes):
    """Nodes as (parent, action, mean, visits)."""
    for parent, action, mean, visits in nodes:
        found.nodes.append(Node(parent, action, action, visits, mean, mean, [mean]))
        found.nodes[parent].children.append(len(found.nodes) - 1)
    found.nodes[0].visits = sum(found.nodes[c].visits for c in found.nodes[0].children)
    return found


def test_q_is_a_mean_of_means_and_not_weighted_by_visits():
    found = by_hand(
        tree(2), (0, "p0", 4.0, 4), (1, "p0", 2.0, 2), (1, "p1", 0.0, 1), (2, "p0", 8.0, 1)
    )
    # Q(4) = 8; Q(2) = (2 + 8) / 2; Q(1) = (4 + 5 + 0) / 3; the root has no mean of its own
    assert found.values() == [3.0, 3.0, 5.0, 0.0, 8.0]
    found.measure_root([1.0, 2.0])
    assert found.values()[0] == (1.5 + 3.0) / 2


def test_the_bonus_has_no_factor_two():
    found = by_hand(tree(2, exploration=0.1), (0, "p0", 0.0, 5), (0, "p1", 0.0, 15))
    assert found.bonus(1) == 0.1 * math.sqrt(math.log(20) / 5)
    assert round(found.bonus(1), 3) == 0.077


@pytest.mark.parametrize(("c", "place"), [(0.0, 1), (0.5, 1), (0.6, 2), (5.0, 2)])
def test_ucb_goes_where_value_and_bonus_are_greatest(c, place):
    # bonus of 1: c sqrt(ln 4 / 3) = 0.6798 c; of 2: c sqrt(ln 4 / 1) = 1.1774 c; Q differs by 0.25
    found = by_hand(tree(2, exploration=c, normalise="none"), (0, "p0", 1.0, 3), (0, "p1", 0.75, 1))
    assert found.select() == place  # the switch is at c = 0.25 / 0.4976 = 0.5024


def test_min_max_is_of_the_means_so_far():
    nodes = ((0, "p0", 30.0, 3), (0, "p1", 20.0, 1), (1, "p0", 10.0, 1))
    plain = by_hand(tree(2, exploration=1.0, normalise="none"), *nodes)
    scaled = by_hand(tree(2, exploration=1.0), *nodes)
    assert plain.values()[1:3] == scaled.values()[1:3] == [20.0, 20.0]
    # both are worth (20 - 10) / 20 there; the bonus decides in either
    assert plain.select() == scaled.select() == 2
    nodes = ((0, "p0", 32.0, 3), (0, "p1", 20.0, 1), (1, "p0", 10.0, 1))
    assert by_hand(tree(2, exploration=1.0, normalise="none"), *nodes).select() == 1  # 21 > 20 + .5
    assert by_hand(tree(2, exploration=1.0), *nodes).select() == 2  # 11 / 22 < 10 / 22 + .5


def test_of_equals_the_oldest_child():
    found = by_hand(tree(2), (0, "p0", 1.0, 1), (0, "p1", 1.0, 1))
    assert found.select() == 1


@settings(max_examples=60, deadline=None)
@given(
    actions=st.integers(1, 5),
    iterations=st.integers(1, 25),
    c=st.sampled_from([0.0, 0.1, 1.0]),
    normalise=st.sampled_from(["min_max", "none"]),
    seed=st.integers(0, 10_000),
)
def test_invariants(actions, iterations, c, normalise, seed):
    rng = np.random.default_rng(seed)
    found = tree(actions, seed, exploration=c, normalise=normalise)
    grow(found, iterations, lambda way: list(rng.normal(0.15, 0.02, 3)))
    root, rest = found.nodes[0], found.nodes[1:]
    assert len(found.nodes) == iterations + 1
    assert root.visits == found.iterations == iterations
    assert sum(found.nodes[c].visits for c in root.children) == iterations
    assert root.reward == max(node.mean for node in rest)
    for place, node in enumerate(found.nodes):
        children = [found.nodes[child] for child in node.children]
        assert len({child.action for child in children}) == len(children) <= actions
        assert node.visits == sum(c.visits for c in children) + (place > 0)
        if place:
            assert node.reward == max([node.mean, *(c.reward for c in children)])
            assert node.parent < place
            assert node.mean == math.fsum(node.scores) / 3
            assert len(found.nodes[node.parent].children) == actions or not children
    found.measure_root([9.0])
    assert root.reward != 9.0  # the raw instruction never influences the search


def test_with_c_0_all_goes_below_the_only_good_action():
    found = grow(tree(4, 5, exploration=0.0), 20, lambda way: [float(way[0] == "p2")])
    assert {walk(found, p)[0] for p in range(5, 21)} == {"p2"}
    assert [len(walk(found, p)) for p in range(1, 5)] == [1] * 4


@pytest.mark.parametrize("actions", [2, 3])
def test_the_best_node_has_applied_all_principles(actions):
    for seed in range(20):
        found = grow(tree(actions, seed), 20, distinct)
        best = max(range(21), key=lambda p: found.nodes[p].mean or 0)
        assert set(walk(found, best)) == {f"p{i}" for i in range(actions)}


def test_with_the_papers_c_on_its_models_scale_the_search_is_breadth_first():
    """depth exactly 3 / 2.7 / 2 for 3 / 4 / 5 actions, much deeper with c = 0."""

    def depths(actions, **options):
        found = []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            grown = tree(actions, seed, normalise="none", **options)
            grow(grown, 20, lambda way, rng=rng: list(rng.uniform(0.1, 0.2, 3)))
            found.append(max(len(walk(grown, p)) for p in range(21)))
        return found

    assert set(depths(3, exploration=0.1)) == {3}
    assert 2.5 < np.mean(depths(4, exploration=0.1)) < 3
    assert set(depths(5, exploration=0.1)) == {2}
    assert np.mean(depths(3, exploration=0.0)) > 4.5


def test_min_max_makes_the_scale_of_the_scorer_irrelevant():
    def grown(scale, normalise):
        rng = np.random.default_rng(7)
        made = grow(
            tree(3, 1, normalise=normalise), 20, lambda way: [scale * float(rng.integers(9))]
        )
        return [(n.parent, n.action) for n in made.nodes]

    assert grown(1, "min_max") == grown(1024, "min_max")
    assert grown(1, "none") != grown(1 / 1024, "none")


def test_unused_actions_are_drawn_evenly():
    first = [tree(3, seed).propose().action for seed in range(3000)]
    counts = [first.count(f"p{i}") for i in range(3)]
    assert sum(counts) == 3000
    assert all(abs(n - 1000) < 4 * math.sqrt(3000 * 2 / 9) for n in counts)


def test_the_same_seed_is_the_same_tree_and_another_is_not():
    def dumped(seed):
        return json.dumps(grow(tree(4, seed), 12, distinct).dump())

    assert dumped(3) == dumped(3)
    assert dumped(3) != dumped(4)


@pytest.mark.parametrize("stop", [0, 1, 7, 19])
@pytest.mark.parametrize("pending", [True, False])
def test_a_dumped_tree_goes_on_as_if_it_had_never_stopped(stop, pending):
    whole = grow(tree(4, 9), 20, distinct)
    part = grow(tree(4, 9), stop, distinct)
    if pending:  # stopped between the question and its answer
        part.propose()
    resumed = Tree.load(json.loads(json.dumps(part.dump())))
    grow(resumed, 20 - stop, distinct)
    assert resumed.dump() == whole.dump()


def test_a_proposal_stays_until_it_is_settled():
    found = tree(3)
    first = found.propose()
    assert found.propose() is first
    found.bar()
    assert found.propose() != first
    found.add("x", [1.0])
    with pytest.raises(ValueError, match="nothing is pending"):
        found.bar()


def test_what_failed_is_not_tried_again_and_an_exhausted_tree_ends():
    found = tree(2, 3)
    tried = []
    while (proposal := found.propose()) is not None:
        tried.append(proposal)
        found.bar()
    assert sorted(p.action for p in tried) == ["p0", "p1"]
    assert len(found.nodes) == 1
    assert found.iterations == 0


def test_dead_branches_are_passed_by():
    found = tree(2, 3, exploration=0.0)
    found.pending = Proposal(0, "p0")
    found.add("good", [1.0])
    found.pending = Proposal(0, "p1")
    found.add("bad", [0.0])
    for action in ("p0", "p1"):
        found.pending = Proposal(1, action)
        found.bar()
    assert found.select() == 2  # the better child has nothing left to try
    assert found.propose().parent == 2


def test_a_tree_without_actions_is_refused():
    with pytest.raises(ValueError, match="each once"):
        Tree("raw", [], np.random.default_rng(0))
    with pytest.raises(ValueError, match="each once"):
        Tree("raw", ["a", "a"], np.random.default_rng(0))

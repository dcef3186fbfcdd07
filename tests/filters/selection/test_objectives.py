"""Facility location, k-center, D-optimal designs and DPPs against brute force and each other."""

import itertools

import numpy as np
import pytest

from filters.selection.facility import coverage, facility_location, most_alike
from filters.selection.grid import Grid
from filters.selection.k_center import distances, k_center, radius
from filters.selection.places import Places
from filters.selection.quadratic import d_optimal, dpp, log_det

METHODS = {
    "facility": lambda v, p, lazy: facility_location(Grid.of(v), p, lazy=lazy),
    "neighbours": lambda v, p, lazy: facility_location(Grid.of(v), p, 16, lazy=lazy),
    "k_center": lambda v, p, lazy: k_center(Grid.of(v), p, lazy=lazy),
    "d_optimal": lambda v, p, lazy: d_optimal(v, p, 0.1, lazy=lazy)[0],
    "dpp": lambda v, p, lazy: dpp(v, p, lazy=lazy)[0],
    "dpp_jitter": lambda v, p, lazy: dpp(v, p, 1e-3, lazy=lazy)[0],
}


def places(n, k, group=None, cost=None):
    cost = np.ones(n, dtype=np.int64) if cost is None else np.asarray(cost, dtype=np.int64)
    return Places.of(k, cost, group)


def clouds(n, d=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 2 * rng.normal(size=(7, d))[rng.integers(7, size=n)]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def subsets(n, k):
    return (np.asarray(c) for c in itertools.combinations(range(n), k))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n", [40, 1500])
def test_lazy_is_the_plain_greedy_choice(name, n):
    vectors = clouds(n)
    vectors[5], vectors[20:26] = vectors[9], vectors[20]
    k = 12 if name == "facility" else 30
    lazy, plain = (METHODS[name](vectors, places(n, k), way) for way in (True, False))
    assert lazy.rows.tolist() == plain.rows.tolist()
    assert lazy.gains == pytest.approx(plain.gains, nan_ok=True, rel=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_lazy_is_the_plain_choice_with_groups_and_tokens_too(name):
    vectors, rng = clouds(120), np.random.default_rng(1)
    group, cost = rng.integers(3, size=120), rng.integers(1, 9, size=120)
    lazy, plain = (METHODS[name](vectors, places(120, 90, group, cost), w) for w in (True, False))
    assert lazy.rows.tolist() == plain.rows.tolist()
    assert cost[lazy.rows].sum() <= 90


def test_facility_location_by_hand():
    """Two pairs of like rows and a loner: one of each pair first, then the loner."""
    vectors = np.asarray([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0.9, 0.1], [0, 0, -1]])
    picks = facility_location(Grid.of(vectors), places(5, 3))
    assert sorted(picks.rows.tolist()[:2]) == [1, 3]
    assert picks.rows[2] == 4
    assert picks.gains[2] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_facility_location_is_near_the_optimum(seed):
    grid = Grid.of(clouds(12, 4, seed))
    best = max(coverage(grid, s) for s in subsets(12, 4))
    found = coverage(grid, facility_location(grid, places(12, 4)).rows)
    assert 0.93 <= found / best <= 1.0


def test_gains_sum_to_the_objective():
    grid = Grid.of(clouds(60))
    picks = facility_location(grid, places(60, 9))
    assert picks.gains.sum() / 60 == pytest.approx(coverage(grid, picks.rows), rel=1e-12)
    assert (np.diff(picks.gains) <= 0).all()


def test_few_neighbours_reach_almost_the_same_coverage():
    grid = Grid.of(clouds(800))
    exact, few = (coverage(grid, facility_location(grid, places(800, 80), t).rows)
                  for t in (None, 64))  # fmt: skip
    assert few >= 0.99 * exact


def test_most_alike_rows_are_those_of_a_full_sort():
    grid = Grid.of(np.repeat(clouds(12), 2, axis=0))
    beside, alike = most_alike(grid, 5)
    dots = grid.products(np.arange(24))
    full = np.argsort(-dots, axis=1, kind="stable")[:, :5]
    assert np.array_equal(beside, np.sort(full, axis=1))
    assert np.array_equal(alike, np.take_along_axis(dots, beside.astype(int), axis=1))


def test_most_alike_of_equal_rows_are_the_first():
    beside, _ = most_alike(Grid.of(np.ones((9, 3))), 4)
    assert (beside == np.arange(4)).all()


@pytest.mark.parametrize("seed", range(8))
def test_k_center_radius_is_at_most_twice_the_least(seed):
    grid = Grid.of(clouds(12, 4, seed))
    best = min(radius(grid, s) for s in subsets(12, 4))
    assert radius(grid, k_center(grid, places(12, 4)).rows) <= 2 * best + 1e-9


def test_k_center_by_hand():
    angles = np.radians([0, 10, 20, 30, 180])
    grid = Grid.of(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    picks = k_center(grid, places(5, 2))
    assert picks.rows.tolist() == [2, 4]
    assert picks.gains[1] == pytest.approx(2 * np.sin(np.radians(80)), abs=1e-3)
    score, at = distances(grid, picks.rows)
    assert at.tolist() == [2, 2, 2, 2, 4]
    assert score[[2, 4]].tolist() == [0, 0]
    assert radius(grid, np.zeros(0, dtype=np.int64)) == 2.0


@pytest.mark.parametrize("seed", range(4))
def test_d_optimal_is_greedy_by_brute_force(seed):
    x, ridge, chosen = clouds(25, 5, seed), 0.5, []
    base = np.eye(5) * ridge
    for _ in range(10):
        rest = [i for i in range(25) if i not in chosen]
        values = [np.linalg.slogdet(base + np.outer(x[i], x[i]))[1] for i in rest]
        chosen.append(rest[int(np.argmax(values))])
        base += np.outer(x[chosen[-1]], x[chosen[-1]])
    picks, left = d_optimal(x, places(25, 10), ridge)
    assert picks.rows.tolist() == chosen
    assert picks.gains.sum() == pytest.approx(np.linalg.slogdet(base)[1] - 5 * np.log(ridge))
    assert picks.gains.sum() == pytest.approx(log_det(x, picks.rows, ridge))
    more = np.linalg.slogdet(base + np.outer(x[3], x[3]))[1] - np.linalg.slogdet(base)[1]
    assert left[3] == pytest.approx(more)


def test_d_optimal_beats_random():
    x, rng = clouds(300, 16), np.random.default_rng(0)
    found = log_det(x, d_optimal(x, places(300, 30), 0.1)[0].rows, 0.1)
    for _ in range(20):
        assert found > log_det(x, rng.permutation(300)[:30], 0.1)


@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_dpp_is_greedy_map_by_brute_force(jitter):
    f = unit(clouds(20, 6)) * np.linspace(0.5, 1, 20)[:, None]
    kernel, chosen = f @ f.T + jitter * np.eye(20), []
    for _ in range(6):
        rest = [i for i in range(20) if i not in chosen]
        dets = [np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])]) for i in rest]
        chosen.append(rest[int(np.argmax(dets))])
    picks, left = dpp(f, places(20, 6), jitter)
    assert picks.rows.tolist() == chosen
    assert picks.gains.sum() == pytest.approx(np.log(np.linalg.det(kernel[np.ix_(chosen, chosen)])))
    rest = [i for i in range(20) if i not in chosen]
    inverse = np.linalg.inv(kernel[np.ix_(chosen, chosen)])
    one = rest[0]
    cross = kernel[one, chosen]
    assert left[one] == pytest.approx(kernel[one, one] - cross @ inverse @ cross, abs=1e-9)


def test_dpp_ends_at_the_rank_of_the_kernel_and_not_with_jitter():
    assert dpp(np.ones((9, 4)), places(9, 5))[0].rows.tolist() == [0]
    assert dpp(clouds(40, 6), places(40, 20))[0].rows.size == 6
    assert dpp(np.ones((9, 4)), places(9, 5), 1e-3)[0].rows.tolist() == [0, 1, 2, 3, 4]
    assert dpp(np.zeros((3, 4)), places(3, 2))[0].rows.size == 0


@pytest.mark.parametrize("name", METHODS)
def test_rows_that_are_all_the_same_come_in_their_order(name):
    rows = METHODS[name](np.ones((50, 8)), places(50, 4), True).rows
    assert rows.tolist() == ([0] if name == "dpp" else [0, 1, 2, 3])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("n", "k"), [(0, 3), (1, 0), (1, 1), (1, 5), (6, 6), (6, 9)])
def test_small_numbers(name, n, k):
    rows = METHODS[name](clouds(n, 8), places(n, k), True).rows
    assert sorted(rows.tolist()) == list(range(min(n, k)))

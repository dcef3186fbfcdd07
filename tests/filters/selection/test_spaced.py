import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.selection.grid import Grid
from filters.selection.places import Places
from filters.selection.spaced import covered, spaced, spread, visits


def places(n, k):
    return Places.of(k, np.ones(n, dtype=np.int64))


def circle(*degrees):
    angles = np.radians(degrees)
    return Grid.of(np.stack([np.cos(angles), np.sin(angles)], axis=1))


def test_turned_down_rows_turn_nobody_down():
    """A chain at 20 degrees with a limit of 25: each second row stays, whatever the block."""
    grid = circle(0, 20, 40, 60, 80)
    for block in (1, 2, 4, 512):
        found = spaced(grid, np.arange(5), np.cos(np.radians(25)), places(5, 5), block)
        assert found.tolist() == [0, 2, 4]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(1, 40), st.integers(0, 60))
def test_blocks_do_not_matter(seed, block, k):
    rng = np.random.default_rng(seed)
    grid, order = Grid.of(rng.normal(size=(60, 3))), rng.permutation(60)
    one, other = (spaced(grid, order, 0.8, places(60, k), b).tolist() for b in (1, block))
    assert one == other
    dots = grid.cosine(grid.products(np.asarray(one, dtype=np.int64)))
    assert all(dots[i, j] <= 0.8 for i in range(len(one)) for j in one[:i])


def test_a_limit_of_one_turns_nobody_down():
    assert spaced(circle(0, 0, 0), np.arange(3), 1.0, places(3, 3)).size == 3


def test_a_cover_starts_anew_when_every_row_is_near_a_taken_one():
    grid = circle(0, 1, 2, 90, 91, 92)
    found = covered(grid, np.arange(6), np.cos(np.radians(10)), places(6, 5))
    assert found.tolist() == [0, 3, 1, 4, 2]
    assert covered(grid, np.arange(6), 0.0, places(6, 99)).size == 6
    assert covered(circle(0, 0), np.arange(2), 1.0, places(2, 9)).tolist() == [0, 1]


@pytest.mark.parametrize("walk", ["dissimilar", "history"])
@pytest.mark.parametrize(
    ("n", "steps"), [(0, 0), (1, 20), (2, 60), (99, 60), (100, 50), (1000, 50)]
)
def test_walks_are_as_many_and_as_long_as_in_the_code(walk, n, steps):
    grid = Grid.of(np.random.default_rng(0).normal(size=(n, 4)))
    count = visits(grid, np.random.default_rng(1), walk=walk)
    assert count.sum() == steps
    again = visits(grid, np.random.default_rng(1), walk=walk)
    assert count.tolist() == again.tolist()


def test_a_walk_to_unlike_rows_finds_the_odd_one():
    grid = circle(*[0] * 20, 180)
    found = [visits(grid, np.random.default_rng(s), alpha=1.0)[-1] for s in range(20)]
    assert np.mean(found) > 3 * 60 / 21


def test_spread():
    assert spread(circle(0, 180)) == pytest.approx(np.sqrt(2), abs=1e-3)
    assert spread(circle(30, 30)) == pytest.approx(0, abs=1e-3)

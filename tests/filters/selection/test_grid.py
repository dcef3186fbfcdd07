import numpy as np
import pytest

from filters.selection.grid import Grid
from prefactory.near.vectors import blocks

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(70, 384))


def test_products_are_whole_numbers_and_exact():
    grid = Grid.of(VECTORS)
    exact = grid.q.astype(np.int64) @ grid.q.astype(np.int64).T
    assert np.abs(exact).max() <= 2**24
    assert np.array_equal(grid.products(np.arange(70)), exact)
    assert np.array_equal(grid.squares(), np.diagonal(exact))


@pytest.mark.parametrize("d", [1, 2, 384, 1024, 4096])
def test_no_vector_is_longer_than_float32_allows(d):
    """All coordinates at one half of a step is the worst that rounding can do."""
    for vectors in (np.ones((1, d)), RNG.normal(size=(5, d)), np.eye(1, d)):
        assert Grid.of(vectors).squares().max() <= 2**24


def test_cosines_are_near_the_true_ones():
    grid = Grid.of(VECTORS)
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    assert np.abs(grid.cosine(grid.products(np.arange(70))) - unit @ unit.T).max() < 1e-3


def test_length_does_not_matter_and_zero_stays_zero():
    grid = Grid.of(np.stack([VECTORS[0], 7 * VECTORS[0], 0 * VECTORS[0]]))
    assert np.array_equal(grid.q[0], grid.q[1])
    assert not grid.q[2].any()


def test_nearest_is_the_first_of_equals():
    grid = Grid.of(np.asarray([[1.0, 0], [0, 1], [1, 0], [1, 1], [-1, 0]]))
    dots, at = grid.nearest(np.asarray([0, 1, 2]))
    assert at.tolist() == [0, 1, 0, 0, 1]
    assert grid.cosine(dots) == pytest.approx([1, 1, 1, 0.5**0.5, 0], abs=1e-3)


def test_blocks():
    assert [(b.start, b.stop) for b in blocks(5, 2)] == [(0, 2), (2, 4), (4, 5)]
    assert blocks(0) == []

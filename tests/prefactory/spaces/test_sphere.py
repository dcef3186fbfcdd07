"""Means on the sphere and uniformity: the numbers of the specification."""

import numpy as np
import pytest

from prefactory.spaces.sphere import karcher, slerp, uniformity, unit

E1, E2, E3 = (np.eye(3)[[i]] for i in range(3))


def test_slerp_stays_on_the_arc_and_knows_its_ends():
    found, opposite = slerp(E1, E2, 0.25)
    assert found[0] == pytest.approx([0.92387953, 0.38268343, 0])
    assert not opposite.any()
    x = unit(np.random.default_rng(0).normal(size=(50, 8)))
    y = unit(np.random.default_rng(1).normal(size=(50, 8)))
    assert slerp(x, y, 0)[0] == pytest.approx(x)
    assert slerp(x, y, 1)[0] == pytest.approx(y)
    assert np.linalg.norm(slerp(x, y, 0.3)[0], axis=1) == pytest.approx(1)


def test_equal_and_opposite_vectors_are_no_division_by_zero():
    assert slerp(E1, E1, 0.5)[0] == pytest.approx(E1)
    found, opposite = slerp(E1, -E1, 0.5)
    assert found == pytest.approx(E1)
    assert opposite.all()
    assert karcher([E1, -E1, E2 * 0 + E1], [0.25, 0.5, 0.25]) == pytest.approx(-E1), "all cancel"


def test_the_mean_of_three_depends_on_no_order():
    third = 1 / np.sqrt(3)
    assert karcher([E1, E2, E3], [1, 1, 1])[0] == pytest.approx([third] * 3)
    weighted = karcher([E1, E2, E3], [0.5, 0.25, 0.25])[0]
    assert weighted == pytest.approx([0.777, 0.445, 0.445], abs=5e-4)
    assert karcher([E3, E1, E2], [0.25, 0.5, 0.25])[0] == pytest.approx(weighted, abs=1e-12)
    twice = slerp(slerp(E1, E2, 0.5)[0], E3, 1 / 3)[0][0]
    assert twice == pytest.approx([0.612, 0.612, 0.5], abs=5e-4), "which slerp of slerps is not"
    assert karcher([E1, E2], [3, 1])[0] == pytest.approx(slerp(E1, E2, 0.25)[0][0])


def test_uniformity_of_known_points():
    square = np.array([[1, 0], [-1, 0], [0, 1], [0, -1.0]])
    assert uniformity(square) == pytest.approx(np.log((4 * np.exp(-4) + 2 * np.exp(-8)) / 6))
    assert uniformity(np.ones((5, 3))) == pytest.approx(0)
    x = np.random.default_rng(0).normal(size=(40, 6))
    assert uniformity(x, np.ones((40, 2))) == pytest.approx(uniformity(x)), "s = 1: the plain one"
    apart = np.eye(40)
    assert uniformity(x, apart) - uniformity(x) == pytest.approx(4), "s = 0: 2t more"
    many = np.random.default_rng(0).normal(size=(6000, 4))
    assert uniformity(many, seed=1) == uniformity(many, seed=1)

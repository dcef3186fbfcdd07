"""Rewards over the simplex: the numbers of the specification, and choices that must hold up."""

import numpy as np
import polars as pl
import pytest

from prefactory.errors import ConfigError, DataError
from trainers.merging.simplex import Rewards, Simplex, by_sign, choose, lattice, utility
from trainers.merging.users import fit_map


def rewards(curvature, noise=0.0, steps=10, prompts=400, seed=0):
    """Objective k falls by its curvature times the squared distance to its own corner."""
    curvature = np.asarray(curvature, np.float64)
    grid = np.array(lattice(len(curvature), steps))
    corners = np.eye(len(curvature))
    far = ((grid[:, None] - corners) ** 2).sum(axis=2) / 2
    means = 1 - curvature * far
    rng = np.random.default_rng(seed)
    drawn = noise * rng.normal(size=(len(grid), prompts, len(curvature)))
    base = (1 - curvature)[None] - 1e-3 + np.zeros((prompts, 1))
    names = tuple("abc"[: len(curvature)])
    return Rewards(names, grid, means[:, None] + drawn, base, tuple(map(str, range(prompts))))


def test_lattices_have_the_known_sizes():
    sizes = [len(lattice(m, h)) for m, h in ((2, 10), (3, 5), (3, 10), (4, 5))]
    assert sizes == [11, 21, 66, 56]


def test_the_scale_is_the_base_and_the_own_adapter():
    found = rewards([1, 1]).levels()
    alone = found[[10, 0]]
    assert np.diag(alone) == pytest.approx([1, 1])
    assert alone[0, 1] == pytest.approx(0, abs=2e-3)
    r = rewards([1, 1])
    assert r.plane[5] == pytest.approx((found[0] + found[10]) / 2)


def test_merge_weights_are_the_users_only_if_rewards_bend_alike():
    equal = choose(rewards([1, 1]), [0.5, 0.5])
    assert equal.weights == equal.best == (0.5, 0.5)
    r = rewards([0.5, 4.5])  # curvatures of 1 and 9
    raw = (r.values.mean(axis=1) - 1) @ np.array([0.5, 0.5])
    assert r.weights[int(raw.argmax())].tolist() == pytest.approx([0.1, 0.9])
    assert (raw.max(), raw[5]) == pytest.approx((-0.225, -0.625))
    three = rewards([1, 1, 1])
    raw = three.values.mean(axis=1) @ np.array([0.5, 0.3, 0.2])
    assert three.weights[int(raw.argmax())].tolist() == pytest.approx([0.5, 0.3, 0.2])


def test_a_choice_is_taken_only_if_it_holds_on_other_prompts():
    def bent(noise, size):
        r = rewards([1, 1], noise=noise)
        values = r.values.copy()
        values[r.weights[:, 0] == 0.7] += size
        return Rewards(r.objectives, r.weights, values, r.base, r.prompts)

    better = choose(bent(0.1, 0.2), [0.5, 0.5])
    assert better.weights == pytest.approx((0.7, 0.3))
    assert better.low > 0
    lucky = choose(rewards([0.01, 0.01], noise=1.0, prompts=60), [0.5, 0.5])
    assert lucky.weights == (0.5, 0.5)
    assert lucky.best != (0.5, 0.5)
    assert lucky.seen > lucky.utility, "the best of many is lucky"
    again = choose(rewards([0.01, 0.01], noise=1.0, prompts=60), [0.5, 0.5])
    assert again == lucky
    with pytest.raises(ConfigError, match="own weights"):
        choose(rewards([1, 1]), [0.33, 0.67])


def test_a_linear_utility_misses_the_dents_of_a_front():
    x = np.linspace(0, 1, 101)
    front = np.stack([x, (1 - np.sqrt(x)) ** 2], axis=1)
    users = [np.array([w, 1 - w]) for w in np.linspace(0, 1, 11)]
    linear = {int(utility(front, u, "linear").argmax()) for u in users}
    chebyshev = {int(utility(front, u, "chebyshev").argmax()) for u in users}
    assert linear == {0, 100}
    assert len(chebyshev) == 11


def test_an_adapter_that_does_not_raise_its_objective_has_no_scale():
    r = rewards([1, 1])
    with pytest.raises(DataError, match="adapter of a does not raise a"):
        Rewards(r.objectives, r.weights, r.values, r.base + 5, r.prompts)


def test_signs_become_rewards_by_prompt():
    signs = pl.DataFrame(
        {"prompt_id": ["p", "p", "q"], "sign_a": [1, 0, -1], "sign_b": [-1, 1, None]}
    )
    margins = {(1.0, 0.0): np.array([1, 1, 1.0]), (0.0, 1.0): np.array([-1, np.nan, 0]),
               None: np.array([0.0, 0, 0])}  # fmt: skip
    values, base, prompts = by_sign(margins, signs, ["a", "b"])
    assert prompts == ("p", "q")
    assert values[0].tolist() == [[1, 0.5], [0, pytest.approx(np.nan, nan_ok=True)]]
    assert values[1, 0].tolist() == [0, 1]
    assert base[0].tolist() == [0.5, 0.5]


def test_the_table_says_what_is_dominated_and_how_much_it_covers():
    found = Simplex(rewards([1, 1], noise=0.1), choose(rewards([1, 1]), [0.5, 0.5]), "reward")
    value, low, high = found.volumes
    assert low < value < high
    assert found.rows.height == 11
    assert set(found.rows.columns) >= {"weight_a", "level_a", "se_b", "plane_b", "dominated"}
    text = "\n".join(found.lines())
    assert "taken: 0.5, 0.5" in text
    assert f"hypervolume over -0.1: {value:.4f}" in text
    assert str(found.chart()).count("<circle") == 11
    assert found.as_dict()["chosen"]["weights"] == (0.5, 0.5)


def test_a_map_of_users_is_taken_where_rewards_bend_unlike():
    r = rewards([0.5, 4.5], noise=0.05)
    low = Rewards(r.objectives, r.weights, r.values, r.base * 0 - 4, r.prompts)
    found = fit_map(low)
    assert found.accepted
    users = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    merges = found(users)
    assert (np.diff(merges[:, 0]) < 0).all()
    assert merges[1, 1] > 0.7, "b bends most, so a user of both is served near it"
    assert merges.sum(axis=1) == pytest.approx(1)
    assert fit_map(low).as_dict() == found.as_dict()


def test_a_map_of_users_is_refused_where_their_own_weights_are_best():
    found = fit_map(rewards([1, 1], noise=0.05))
    assert not found.accepted
    assert "not better than the users' own weights" in found.line()
    assert fit_map(rewards([1, 1], steps=1)) is None, "two merges carry no quadratic surface"

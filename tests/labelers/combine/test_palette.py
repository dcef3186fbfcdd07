import math
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import linprog

from labelers import MAP
from labelers.combine.palette import quantile_palette, slack, solve
from prefactory.errors import DataError
from prefactory.tables import Shape
from prefactory.testing import fitted
from tests.helpers import responses

PILOT = Path(__file__).parents[4] / "shared/data/rewards/map_llama2_pilot_rewards.csv"
HHH = [0, 1, 2]  # humor, helpfulness, harmlessness; then diversity, coherence, perplexity
TWO = np.array([[1.0, 0.0], [0.0, 1.0]])


@pytest.fixture(scope="module")
def pilot():
    if not PILOT.exists():
        pytest.skip(f"NOT CHECKED against the paper: {PILOT} is not on this machine")
    return pl.read_csv(PILOT).to_numpy()


@pytest.mark.parametrize(
    ("q", "weights", "kl", "ess"),
    [
        (0.5, (0.269, 0.205, 0.212, 0.054, 0, 0.076), None, None),
        (0.6, (0.850, 0.783, 0.792, 0, 0, 0.043), 0.669, None),
        (0.7, (2.017, 1.394, 1.499, 0, 0, 0.068), 1.719, None),
        (0.8, (5.937, 2.432, 2.923, 0, 0, 0.153), 3.640, 20),
    ],
)
def test_table_4_of_the_paper(pilot, q, weights, kl, ess):
    palette = quantile_palette(pilot, q, HHH)
    start = time.perf_counter()
    found = solve(pilot, palette)
    print(f"HHH-{q:.0%}: {time.perf_counter() - start:.3f} s, {found.weights.round(3)}")  # noqa: T201 - to read
    assert pilot.shape == (2312, 6)
    assert found.weights == pytest.approx(weights, abs=6e-4)
    assert found.weights[4] == 0  # exactly, where the paper's unconverged code has 0.01 to 0.05
    assert (found.realised >= palette - 1e-6).all()
    assert kl is None or found.kl == pytest.approx(kl, abs=5e-4)
    assert ess is None or found.ess == pytest.approx(ess, abs=0.5)
    assert ("not to be relied upon" in found.message) == (q == 0.8)


def test_single_values_of_the_paper(pilot):
    alone = [solve(pilot[:, [i]], quantile_palette(pilot[:, [i]], 0.8)) for i in HHH]
    assert [a.weights[0] for a in alone] == pytest.approx([2.882, 0.692, 0.989], abs=6e-4)
    assert [a.kl for a in alone] == pytest.approx([0.93, 0.32, 0.41], abs=6e-3)


def test_the_nearest_palette_can_be_reached_and_little_more_can_not(pilot):
    asked = quantile_palette(pilot, 0.9, HHH)
    found = solve(pilot, asked)
    assert not found.feasible
    assert found.slack < 0
    assert np.isnan(found.weights).all()
    assert found.message.startswith("not reachable: these values conflict")
    assert "the nearest reachable palette is value 1 2.33741, value 2 0.374578" in found.message
    assert solve(pilot, found.nearest).feasible
    mean = pilot.mean(axis=0)
    assert not solve(pilot, mean + (found.nearest - mean) * 1.011).feasible


def test_gaussian_rewards_give_the_weights_of_the_theory():
    weights = np.array([0.6, 0.3, 0.5])
    cov = np.array([[1.0, 0.3, 0.1], [0.3, 0.8, -0.2], [0.1, -0.2, 0.5]])
    mean = np.array([0.2, -1.0, 3.0])
    rewards = np.random.default_rng(1).multivariate_normal(mean, cov, 200_000)
    found = solve(rewards, mean + cov @ weights)
    assert found.weights == pytest.approx(weights, abs=0.015)
    assert found.kl == pytest.approx(weights @ cov @ weights / 2, rel=0.02)


def test_palettes_up_to_the_mean_ask_for_nothing(pilot):
    mean = pilot.mean(axis=0)
    for palette in (mean, mean - 1):
        found = solve(pilot, palette)
        assert found.weights.tolist() == [0] * 6
        assert found.message == "the means reach it already, so all weights are 0"
        assert (found.kl, found.ess) == pytest.approx((0, 2312))
        assert found.realised == pytest.approx(mean)


@pytest.mark.parametrize(
    ("palette", "spare", "feasible"),
    [((0.5, 0.5), 0.0, True), ((0.6, 0.6), -0.1, False), ((0.6, 0.3), 0.05, True)],
)
def test_two_samples(palette, spare, feasible):
    assert slack(TWO, np.array(palette)) == pytest.approx(spare, abs=1e-9)
    found = solve(TWO, np.array(palette))
    assert found.feasible == feasible
    if palette == (0.6, 0.3):
        assert found.realised == pytest.approx([0.6, 0.4])
        assert found.weights == pytest.approx([math.log(1.5), 0])


def test_levels_that_no_answer_has_are_named():
    rewards = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    found = solve(rewards, np.array([2.0, 5.0]), ["wit", "tact"])
    assert "no pilot answer lies above the level asked of wit; the nearest" in found.message
    assert found.nearest == pytest.approx([1.99, 5])
    found = solve(rewards, np.array([1.5, 6.0]), ["wit", "tact"])
    assert "asked of tact" in found.message
    assert found.nearest == pytest.approx([1, 5])
    assert solve(rewards, np.array([1.5, 5.0])).feasible  # what never varies is held by itself


def test_a_value_and_its_opposite_can_both_be_held():
    x = np.random.default_rng(3).normal(size=(500, 2))
    rewards = np.column_stack([x[:, 0], -x[:, 0], x[:, 1] + 0.3 * x[:, 0]])
    palette = rewards.mean(axis=0) + np.array([0, 0, 0.5])
    found = solve(rewards, palette)
    assert found.feasible
    assert found.realised == pytest.approx(palette, abs=1e-6)
    assert not solve(rewards, palette + np.array([0.1, 0, 0])).feasible


def test_the_lazy_programme_equals_the_whole_one():
    rng = np.random.default_rng(4)
    for _ in range(8):
        rewards = rng.normal(size=(300, 4)) * [1, 10, 0.1, 3]
        palette = rng.normal(size=4) * [1, 10, 0.1, 3]
        n, m = rewards.shape
        whole = linprog(
            np.append(np.zeros(n), -1.0),
            A_ub=np.column_stack([-rewards.T, np.ones(m)]),
            b_ub=-palette,
            A_eq=np.append(np.ones(n), 0.0)[None],
            b_eq=[1.0],
            bounds=[(0, None)] * n + [(None, None)],
        )
        assert slack(rewards, palette) == pytest.approx(-whole.fun, abs=1e-7)
        assert solve(rewards, palette).feasible == (-whole.fun > 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_solutions_satisfy_the_conditions_of_the_optimum(seed):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3))
    palette = rewards.mean(axis=0) + rng.normal(size=3) * rewards.std(axis=0) * 0.4
    found = solve(rewards, palette)
    if not found.feasible:
        assert solve(rewards, found.nearest).feasible
        return
    spare = found.realised - palette
    assert (found.weights >= 0).all()
    assert (spare >= -1e-5 * rewards.std(axis=0)).all()
    assert found.weights * spare == pytest.approx([0, 0, 0], abs=1e-4)
    assert 0 <= found.kl <= math.log(200)
    units = np.array([3.0, 0.01, 700])
    scaled = solve(rewards * units + 5, palette * units + 5)
    assert scaled.weights * units == pytest.approx(found.weights, abs=1e-3)


def test_scale():
    rewards = np.random.default_rng(5).normal(size=(200_000, 8))
    start = time.perf_counter()
    found = solve(rewards, np.full(8, 0.9))
    print(f"200k x 8: {time.perf_counter() - start:.2f} s")  # noqa: T201 - to read
    assert found.realised == pytest.approx([0.9] * 8, abs=1e-5)


def test_wrong_input_is_refused():
    with pytest.raises(DataError, match="do not fit"):
        solve(TWO, np.array([1.0]))
    with pytest.raises(DataError, match="do not fit"):
        solve(np.zeros((0, 2)), np.zeros(2))
    with pytest.raises(DataError, match="finite"):
        solve(TWO, np.array([math.nan, 1]))


def test_quantile_palettes():
    rewards = np.array([[0.0, 0], [1, 0], [2, 9]])
    assert quantile_palette(rewards, 0.5).tolist() == [1, 3]  # the mean, where that is higher
    assert quantile_palette(rewards, 1.0, [0]).tolist() == [2, 3]
    assert quantile_palette(rewards, [1.0, 0.75], [1, 0]).tolist() == [1.5, 9]


# -- the step -----


def table(n=400, seed=0):
    x, y = np.random.default_rng(seed).normal(size=(2, n))
    y = y - 0.5 * x
    y[:2] = [math.nan, math.inf]
    return responses(*[(f"q{i % 50}", f"a{i}") for i in range(n)], score_x=x, score_y=y)


def test_the_step_scores_and_records():
    answers = table()
    step = MAP(name="map", objectives=("x", "y"), palette={"x": 0.5})
    ctx = fitted(step, answers)
    info = ctx.state.info
    assert info["pilot"] == 398
    assert info["palette"] == {"x": 0.5, "y": info["mean"]["y"]}
    assert info["realised"] == pytest.approx(info["palette"], abs=1e-6)
    assert info["feasible"]
    new = step.label(answers, ctx)
    assert dict(new.schema) == step.adds(Shape.RESPONSES)
    w = info["weights"]
    expected = answers["score_x"] * w["x"] + answers["score_y"] * w["y"]
    assert new["score_map"].to_list()[:2] == [None, None]
    assert new["score_map"][2:].to_list() == pytest.approx(expected[2:].to_list())


def test_quantiles_in_the_step():
    answers = table()
    levels = [
        fitted(MAP(name="m", objectives=("x", "y"), quantiles=q), answers).state.info["palette"]
        for q in (0.6, {"x": 0.6})
    ]
    rewards = answers.select("score_x", "score_y")[2:].to_numpy()
    both, one = quantile_palette(rewards, 0.6), quantile_palette(rewards, 0.6, [0])
    assert list(levels[0].values()) == pytest.approx(both.tolist())
    assert list(levels[1].values()) == pytest.approx(one.tolist())


def test_unreachable_palettes_in_the_step():
    fields = {"name": "m", "objectives": ("x", "y"), "palette": {"x": 2.2, "y": 2.2}}
    with pytest.raises(DataError, match=r"the nearest reachable palette is x .*, y .*nearest"):
        fitted(MAP(**fields), table())
    info = fitted(MAP(**fields, on_unreachable="nearest"), table()).state.info
    assert not info["feasible"]
    assert info["realised"] == pytest.approx(info["reached"], abs=1e-5)
    assert info["reached"]["x"] < 2.2 == info["palette"]["x"]
    with pytest.raises(DataError, match="no pilot answer has a score of all of x, y"):
        fitted(MAP(**fields, of_model="nobody"), table())


def test_bits_depend_on_neither_order_nor_shards():
    answers = table()
    step = MAP(name="map", objectives=("x", "y"), quantiles=0.6)
    ctx = fitted(step, answers)
    shuffled = answers.sample(fraction=1, shuffle=True, seed=1)
    other = fitted(step, shuffled[:7], shuffled[7:300], shuffled[300:])
    assert other.state.info == ctx.state.info
    whole = answers.select("response_id").hstack(step.label(answers, ctx)).sort("response_id")
    parts = [t.select("response_id").hstack(step.label(t, other)) for t in shuffled.iter_slices(9)]
    assert pl.concat(parts).sort("response_id").equals(whole)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "as levels"),
        ({"palette": {}}, "as levels"),
        ({"palette": {"x": 1}, "quantiles": 0.5}, "not both"),
        ({"palette": {"z": 1}}, "names z, which is not among"),
        ({"quantiles": 1.5}, "less than or equal to 1"),
        ({"name": "x", "quantiles": 0.5}, "one of the objectives"),
        ({"objectives": ("x", "x"), "quantiles": 0.5}, "each once"),
    ],
)
def test_wrong_fields_are_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        MAP(**{"name": "m", "objectives": ("x", "y"), **fields})

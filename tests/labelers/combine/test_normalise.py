import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import rankdata

from labelers import Normalise
from labelers.combine import normalise
from prefactory.errors import DataError
from prefactory.tables import Shape
from prefactory.testing import fitted
from tests.helpers import responses


def answers(prompts=None, **scores):
    n = len(next(iter(scores.values())))
    prompts = prompts or ["q"] * n
    columns = {f"score_{k}": pl.Series(v, dtype=pl.Float64) for k, v in scores.items()}
    return responses(*[(p, f"a{i}") for i, p in enumerate(prompts)], **columns)


def normalised(step, table, ctx=None):
    return step.label(table, ctx or fitted(step, table)).to_series().to_list()


def test_the_reference_set_itself_gets_mean_0_and_sd_1():
    x = np.random.default_rng(0).normal(3, 7, 500)
    step = Normalise(objectives=("x",))
    table = answers(x=x)
    ctx = fitted(step, table)
    z = np.array(normalised(step, table, ctx))
    assert (z.mean(), z.std()) == pytest.approx((0, 1), abs=1e-12)
    again = answers(x=z)
    assert normalised(step, again) == pytest.approx(z.tolist(), abs=1e-12)
    # new data do not move the scale, in whatever batches they come
    new = answers(x=np.r_[x[:5], 1e9, -1e9])
    assert normalised(step, new, ctx)[:5] == normalised(step, table, ctx)[:5]
    assert normalised(step, new, ctx)[5:] == [5.0, -5.0]
    assert normalised(step, new[::-1][:3], ctx) == normalised(step, new, ctx)[::-1][:3]


def test_the_state_is_a_reference_for_other_runs(tmp_path):
    table = answers(x=[1.0, 2, 4], t=[0.0, 1, 1])
    new = answers(x=[3.0, 2])
    for fields in ({}, {"method": "quantile"}, {"method": "logistic", "target": "t"}):
        step = Normalise(objectives=("x",), **fields)
        ctx = fitted(step, table)
        (tmp_path / "scale.json").write_text(json.dumps(ctx.state.info))
        method = {"method": fields.get("method", "reference")}
        frozen = Normalise(objectives=("x",), reference=str(tmp_path / "scale.json"), **method)
        if "quantile" not in method.values():  # its info has percentiles, not all values
            assert normalised(frozen, new) == normalised(step, new, ctx)
            assert fitted(frozen, new).state.info["version"] == ctx.state.info["version"]
        # what the file held is identity, not its name
        (tmp_path / "other.json").write_text(json.dumps(ctx.state.info["objectives"]))
        same = Normalise(objectives=("x",), reference=str(tmp_path / "other.json"), **method)
        assert same.fingerprint() == frozen.fingerprint()
        assert Normalise.model_validate(frozen.model_dump(mode="json")) == frozen


def test_version_is_of_the_numbers():
    step = Normalise(objectives=("x",))
    versions = [
        fitted(step, answers(x=x)).state.info["version"]
        for x in ([1.0, 2], [2.0, 1], [1.0, 3], [1.0, 2, None])
    ]
    assert versions[0] == versions[1] == versions[3] != versions[2]


def test_one_models_answers_are_the_reference():
    table = answers(x=[0.0, 2, 100]).with_columns(model=pl.Series(["m", "m", "other"]))
    step = Normalise(objectives=("x",), of_model="m", clip=1000)
    assert normalised(step, table) == [-1.0, 1.0, 99.0]


@given(st.lists(st.sampled_from([0.0, 1.5, 2, 7, -3]), min_size=1, max_size=20))
def test_quantiles_are_mean_ranks(x):
    step = Normalise(objectives=("x",), method="quantile")
    found = normalised(step, answers(x=x))
    assert found == pytest.approx(((rankdata(x) - 0.5) / len(x)).tolist())
    assert np.mean(found) == pytest.approx(0.5)


def test_quantiles_of_other_values():
    step = Normalise(
        objectives=("x",), method="quantile", reference={"x": {"values": (3.0, 1, 2, 2)}}
    )
    assert normalised(step, answers(x=[0.0, 1, 1.5, 2, 9, None])) == [
        *(0.0, 0.125, 0.25, 0.5, 1.0),
        None,
    ]


def test_platt_finds_the_logistic_scale():
    rng = np.random.default_rng(1)
    x = rng.uniform(1, 10, 200_000)
    good = (rng.random(x.size) < 1 / (1 + np.exp(-(1.3 * x - 6)))).astype(float)
    assert normalise.platt(x, good) == pytest.approx((1.3, -6), abs=0.06)
    # fractions of annotators are outcomes too
    share = 1 / (1 + np.exp(-(1.3 * x - 6)))
    assert normalise.platt(x, share) == pytest.approx((1.3, -6), abs=1e-2)
    # smoothed: finite where a threshold parts good from bad, or all is good
    assert 0 < normalise.platt(np.array([1.0, 2, 3]), np.array([0.0, 0, 1])).slope < 10
    assert normalise.platt(np.array([1.0, 2, 3]), np.ones(3)) == pytest.approx((0, math.log(4)))


def test_bradley_terry_scale_of_pairs():
    rng = np.random.default_rng(2)
    gap = rng.normal(0, 3, 200_000)
    won = rng.random(gap.size) < 1 / (1 + np.exp(-0.7 * gap))
    assert normalise.bradley_terry_slope(np.where(won, gap, -gap)) == pytest.approx(0.7, abs=0.01)
    assert normalise.bradley_terry_slope(np.array([2.0])) == pytest.approx(math.log(2) / 2)


def test_logistic_scales_in_a_step():
    table = answers(["p", "p", "p", "q"], x=[1.0, 3, 2, 9], t=[1.0, 8, 8, 2])
    step = Normalise(objectives=("x",), method="logistic", target="t", good_from=5)
    slope, intercept = normalise.platt(np.array([1.0, 3, 2, 9]), np.array([0.0, 1, 1, 0]))
    expected = [slope * v + intercept for v in (1, 3, 2, 9)]
    assert normalised(step, table) == pytest.approx(expected)
    step = Normalise(objectives=("x",), method="logistic", target="t", compare="pairs")
    slope = normalise.bradley_terry_slope(np.array([2.0, 1.0]))  # 8 against 8 is no pair
    assert normalised(step, table) == pytest.approx([slope * (v - 3.75) for v in (1, 3, 2, 9)])
    step = Normalise(objectives=("x",), method="logistic", target="t")
    with pytest.raises(DataError, match=r"runs from 1.0 to 8.0.*good_from"):
        fitted(step, table)


@pytest.mark.parametrize(
    "fields",
    [{}, {"method": "logistic", "target": "t"}, {"reference": {"x": {"mean": 1, "sd": 0}}}],
)
@pytest.mark.parametrize("x", [[0.1, 0.1, 0.1], [None, None, None], [0.7, None, math.inf]])
def test_no_spread_is_an_error_or_dropped(fields, x):
    table = answers(x=x, t=[0.0, 1, 0])
    with pytest.raises(DataError, match=r"'x' have no spread.*on_constant: drop"):
        fitted(Normalise(objectives=("x",), **fields), table)
    step = Normalise(objectives=("x",), on_constant="drop", **fields)
    assert normalised(step, table) == [None] * 3
    assert fitted(step, table).state.info["objectives"]["x"]["dropped"]


def test_pure_function_refuses_no_spread():
    with pytest.raises(DataError, match="no scale"):
        normalise.reference_frozen(np.ones(3), 1.0, 0.0)


def test_missing_scores_and_columns():
    table = answers(x=[1.0, None, math.nan, 3], y=[2.0, 1, 0, math.inf])
    step = Normalise(objectives=("x", "y"), suffix="z")
    new = step.label(table, fitted(step, table))
    assert dict(new.schema) == step.adds(Shape.RESPONSES)
    assert new["score_x_z"].to_list() == [-1.0, None, None, 1.0]
    assert new["score_y_z"].null_count() == 1
    assert step.label(table[:0], fitted(step, table)).height == 0


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"objectives": ("x", "x")}, "each once"),
        ({"target": "t"}, "target is for logistic"),
        ({"method": "logistic"}, "target is for logistic"),
        ({"good_from": 1}, "good_from is for"),
        ({"reference": {"x": {"mean": 1}}}, "x needs mean and sd"),
        ({"reference": {"y": {"mean": 1, "sd": 1}}}, "x needs mean and sd"),
        ({"reference": "no/such.json"}, "can't read the numbers in no/such.json"),
        ({"reference": __file__}, "is not JSON"),
        ({"reference": {"x": {"values": (1, 2)}}}, "x needs mean and sd"),
        ({"reference": {"x": {"mean": (1,), "sd": 1}}}, "mean is of the wrong kind"),
        ({"method": "quantile", "reference": {"x": {"values": ()}}}, "values is of the wrong"),
    ],
)
def test_wrong_fields_are_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        Normalise(**{"objectives": ("x",), **fields})


ROWS = st.lists(st.tuples(st.sampled_from("pqr"), st.floats(-9, 9)), min_size=2, max_size=12)
STEPS = [
    Normalise(objectives=("x",), on_constant="drop"),
    Normalise(objectives=("x",), method="quantile"),
    Normalise(objectives=("x",), method="logistic", target="t", on_constant="drop"),
    Normalise(
        objectives=("x",), method="logistic", target="t", compare="pairs", on_constant="drop"
    ),
]


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(STEPS), st.randoms(use_true_random=False))
def test_bits_depend_on_neither_order_nor_shards(rows, step, random):
    prompts, x = (list(c) for c in zip(*rows, strict=True))
    table = answers(prompts, x=x, t=[i % 3 / 2 for i in range(len(x))])
    ctx = fitted(step, table)
    whole = step.label(table, ctx).to_series()
    order = list(range(table.height))
    random.shuffle(order)
    parts = table.partition_by("prompt_id", maintain_order=True)
    other = fitted(step, *parts[::-1])
    assert other.state.info == ctx.state.info
    assert step.label(table[order], other).to_series().equals(whole[order])

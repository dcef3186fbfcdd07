import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import norm

from labelers import Combine
from labelers.combine import scoring
from prefactory.apply import apply_labeler
from prefactory.context import Context
from prefactory.tables import MESSAGES, Shape, canonical_order, join_sides, with_ids
from prefactory.testing import fitted

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def answers(prompts=None, **scores):
    """A RESPONSES table: one answer per score, to the prompts named (by default all to one)."""
    n = len(next(iter(scores.values())))
    prompts = prompts or ["q"] * n
    table = pl.DataFrame(
        {
            "prompt": pl.Series(
                [[{"role": "user", "content": p}] for p in prompts], dtype=MESSAGES
            ),
            "source": ["s"] * n,
            "source_id": [str(i) for i in range(n)],
            "response": pl.Series(
                [[{"role": "assistant", "content": f"a{i}"}] for i in range(n)], dtype=MESSAGES
            ),
            "model": pl.Series([None] * n, dtype=pl.String),
            "origin": pl.Series([None] * n, dtype=pl.String),
            **{f"score_{k}": pl.Series(v, dtype=pl.Float64) for k, v in scores.items()},
        }
    )
    return with_ids(table, Shape.RESPONSES)


def combined(step, table, ctx=None):
    return step.label(table, ctx or fitted(step, table)).to_series().to_list()


def logsigmoid(**fields):
    given = {"name": "all", "method": "logsigmoid", "scale": "none", "weights": {"x": 1}}
    return Combine(**{**given, **fields})


@pytest.mark.parametrize(("preset", "total"), [("helpsteer2-70b", 7.65), ("helpsteer2-340b", 6.31)])
def test_published_helpsteer_weights(preset, total):
    table = answers(**{o: [s] for o, s in zip(HELPSTEER, (3, 4, 4, 2, 1), strict=True)})
    assert combined(Combine(name="all", weights=preset), table) == pytest.approx([total])


def test_published_weights_span_the_published_range():
    for preset, span in (("helpsteer2-70b", (-1.6, 9.8)), ("helpsteer2-340b", (-1.32, 7.88))):
        weights = scoring.PRESETS[preset].values()
        found = (4 * sum(min(w, 0) for w in weights), 4 * sum(max(w, 0) for w in weights))
        assert found == pytest.approx(span)


def test_zscores_are_measured_on_the_fitted_data_even_for_other_shards():
    table = answers(x=[1, 3], y=[10, 10])
    step = Combine(name="all", weights={"x": 1, "y": 5}, normalise="zscore")
    ctx = fitted(step, table)
    assert combined(step, table, ctx) == [-1.0, 1.0]
    assert combined(step, answers(x=[5], y=[11]), ctx) == [8.0]  # 3 sd, and y without spread
    assert ctx.state.info["objectives"]["x"] == {
        "scored": 2,
        "mean": 2.0,
        "sd": 1.0,
        "within_sd": math.sqrt(2),
        "p85": pytest.approx(2.7),
    }


def test_reference_answer_is_good_with_even_odds():
    assert combined(logsigmoid(reference={"x": 4}), answers(x=[4])) == pytest.approx(
        [-0.6931], 1e-4
    )


def test_a_surplus_cannot_pay_for_a_failure():
    table = answers(x=[6, 1], y=[-3, 1])
    weights = {"x": 1, "y": 1}
    assert combined(Combine(name="sum", weights=weights), table) == [3.0, 2.0]
    step = logsigmoid(weights=weights, reference={"x": 0, "y": 0})
    assert combined(step, table) == pytest.approx([-3.051, -0.627], abs=5e-4)


@given(st.floats(-30, 30))
def test_slope_of_the_log_sigmoid_is_a_probability(z):
    h = 1e-4
    up, down = scoring.log_sigmoid(np.array([z + h, z - h]))
    assert (up - down) / (2 * h) == pytest.approx(1 / (1 + math.exp(z)), abs=1e-6)
    assert -1e-9 < (up - down) / (2 * h) < 1 + 1e-9


def test_log_sigmoid_is_finite_far_out():
    assert scoring.log_sigmoid(np.array([-1e4, 0, 1e4])).tolist() == [-1e4, -math.log(2), 0.0]


def test_quantile_constants_agree():
    assert norm.ppf(scoring.QUANTILE) == pytest.approx(scoring.Z_QUANTILE, abs=5e-5)


def test_references_by_prompt_and_dataset():
    scores = np.array([1.0, 2, 3, 4, 5])
    reference = 3 + 1.0364 * np.std(scores, ddof=1)
    step = logsigmoid(reference="prompt")
    expected = scoring.log_sigmoid(scores - reference)
    assert combined(step, answers(x=scores)) == pytest.approx(expected)
    step = logsigmoid(reference="dataset")
    expected = scoring.log_sigmoid(scores - np.quantile(scores, 0.85))
    assert combined(step, answers(x=scores)) == pytest.approx(expected)


def test_few_answers_borrow_the_pooled_spread():
    values = np.array([[0.0], [2.0], [5.0]])
    groups = np.array([0, 0, 1])
    pooled = np.array([3.0])
    two = 1 + 1.0364 * math.sqrt((2 + 3 * 9) / 4)  # s^2 = 2, one degree of freedom of four
    one = 5 + 1.0364 * 3
    found = scoring.prompt_reference(values, groups, pooled)
    assert found[:, 0] == pytest.approx([two, two, one])


def test_pooled_scale_makes_units_irrelevant():
    prompts = ["p", "p", "p", "q", "q"]
    x = np.array([1.0, 2, 4, 0, 3])
    weights = {"x": 1, "y": 1}
    y = [3.0, 1, 2, 5, 5]
    step = logsigmoid(weights=weights, scale="pooled")
    plain = combined(step, answers(prompts, x=x, y=y))
    assert combined(step, answers(prompts, x=100 * x + 7, y=y)) == pytest.approx(plain)
    unscaled = logsigmoid(weights=weights)
    assert combined(unscaled, answers(prompts, x=100 * x, y=y)) != pytest.approx(
        combined(unscaled, answers(prompts, x=x, y=y))
    )


def test_numbers_given_by_hand():
    step = logsigmoid(reference={"x": 1}, scale={"x": 2}, weights={"x": 3})
    assert combined(step, answers(x=[5])) == pytest.approx([3 * math.log(1 / (1 + math.exp(-2)))])


def test_an_objective_without_spread_stays_finite():
    step = logsigmoid(scale="pooled", reference="prompt")
    assert combined(step, answers(x=[0.1] * 3)) == pytest.approx([-math.log(2)] * 3)


def test_missing_scores():
    table = answers(x=[1, None, math.nan, math.inf, None], y=[2, 3, 4, 5, None])
    weights = {"x": 3, "y": 1}
    found = combined(Combine(name="all", weights=weights), table)
    assert found == [5.0, None, None, None, None]
    skipping = Combine(name="all", weights=weights, on_null="skip")
    assert combined(skipping, table) == [5.0, 12.0, 16.0, 20.0, None]
    step = logsigmoid(weights=weights, reference={"x": 1, "y": 3}, on_null="skip")
    assert combined(step, table)[1] == pytest.approx(-4 * math.log(2))


def test_nothing_scored_and_nothing_there():
    for step in (logsigmoid(), logsigmoid(reference="dataset", scale="pooled")):
        assert combined(step, answers(x=[None, None])) == [None, None]
        assert combined(step, answers(x=[])) == []


def test_pairs_are_scored_on_both_sides():
    responses = answers(x=[3, 1])
    ids = responses["response_id"]
    first = responses.head(1)
    pairs = first.select(
        "prompt_id",
        "prompt",
        "source",
        "source_id",
        pl.lit("p").alias("pair_id"),
        pl.col("response").alias("chosen"),
        pl.Series("rejected", responses["response"][1:]),
        chosen_id=pl.lit(ids[0]),
        rejected_id=pl.lit(ids[1]),
        chosen_model=pl.lit(None, pl.String),
        rejected_model=pl.lit(None, pl.String),
        label_source=pl.lit("human"),
    )
    pairs = join_sides(pairs, responses, ["score_x"])
    step = Combine(name="all", weights={"x": 2})
    new = apply_labeler(step, "c", pairs, Shape.PAIRS, fitted(step, responses))
    assert new.drop("pair_id").row(0) == (6.0, 2.0)


def test_columns_and_presets():
    step = Combine(name="all", weights="helpsteer2-70b")
    assert sorted(step.needs(Shape.RESPONSES)) == sorted(f"score_{o}" for o in HELPSTEER)
    assert step.adds(Shape.RESPONSES) == {"score_all": pl.Float64()}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"weights": {}}, "at least one must differ from 0"),
        ({"weights": {"x": 0}}, "at least one must differ from 0"),
        ({"weights": "helpsteer3"}, "helpsteer2-70b"),
        ({"name": "x"}, "one of the objectives"),
        ({"method": "logsigmoid", "weights": "helpsteer2-70b"}, "no negative weight"),
        ({"method": "logsigmoid", "normalise": "zscore"}, "normalise is for linear"),
        ({"reference": "dataset"}, "reference and scale are for logsigmoid"),
        ({"method": "logsigmoid", "reference": {"y": 1}}, "one number for each of x"),
        ({"method": "logsigmoid", "scale": {"x": 0}}, "greater than 0"),
    ],
)
def test_wrong_fields_are_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        Combine(**{"name": "all", "weights": {"x": 1}, **fields})


def test_the_order_of_the_weights_is_no_matter():
    one = Combine(name="all", weights={"x": 0.1, "y": 0.2, "z": 0.3})
    two = Combine(name="all", weights={"z": 0.3, "y": 0.2, "x": 0.1})
    table = answers(x=[0.1, 0.7], y=[0.3, 1.1], z=[0.9, 0.2])
    assert one.fingerprint() == two.fingerprint()
    assert combined(one, table) == combined(two, table)


NUMBERS = st.none() | st.floats(-1e3, 1e3)
ROWS = st.lists(st.tuples(st.sampled_from("pqr"), NUMBERS, NUMBERS), min_size=1, max_size=12)
STEPS = st.sampled_from(
    [
        Combine(name="all", weights={"x": 0.3, "y": -0.7}, normalise="zscore", on_null="skip"),
        logsigmoid(weights={"x": 0.3, "y": 0.7}, scale="pooled"),
        logsigmoid(weights={"x": 0.3, "y": 0.7}, reference="dataset", on_null="skip"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(ROWS, STEPS, st.randoms(use_true_random=False))
def test_bits_depend_on_neither_order_nor_shards(rows, step, random):
    prompts, x, y = (list(c) for c in zip(*rows, strict=True))
    table = canonical_order(answers(prompts, x=x, y=y), Shape.RESPONSES)
    ctx = fitted(step, table)
    whole = step.label(table, ctx).to_series()
    order = list(range(table.height))
    random.shuffle(order)
    parts = table.partition_by("prompt_id", maintain_order=True)
    fits = pl.concat([step.fit_shard(p, Context()) for p in parts][::-1]).sort("response_id")
    assert step.fit(fits, Context()) == ctx.state
    assert step.label(table[order], ctx).to_series().equals(whole[order])
    assert pl.concat([step.label(p, ctx).to_series() for p in parts]).equals(whole)


@pytest.mark.slow
def test_a_million_answers_of_eight_objectives():
    rng = np.random.default_rng(0)
    n, k = 1_000_000, 8
    groups = np.arange(n) // 4
    table = pl.DataFrame(
        {
            "response_id": pl.Series(np.arange(n)).cast(pl.String).str.zfill(9),
            "prompt_id": pl.Series(groups).cast(pl.String).str.zfill(9),
            "prompt": pl.Series([[]], dtype=MESSAGES).new_from_index(0, n),
            **{f"score_{i}": rng.normal(size=n) for i in range(k)},
        }
    )
    step = logsigmoid(weights={str(i): 1 for i in range(k)}, scale="pooled")
    parts = step.fit_shard(table, Context()).sort("response_id")
    ctx = Context(state=step.fit(parts, Context()))
    found = step.label(table, ctx).to_series().to_numpy()
    assert ctx.state.info["objectives"]["0"]["within_sd"] == pytest.approx(1, abs=0.01)
    few = table.slice(400, 4)
    assert found[400:404].tolist() == step.label(few, ctx).to_series().to_list()
    assert (found < 0).all()

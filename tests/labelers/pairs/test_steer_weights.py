"""Weights of SteerLM 2.0: against the formula by hand, nulls, and invariance."""

import numpy as np
import polars as pl
import pytest
from scipy.special import softmax

from labelers import SteerWeights
from labelers.pairs.steer_weights import grouped_softmax
from prefactory.context import Context
from prefactory.tables import Shape, canonical_order
from tests.helpers import content, responses

CTX = Context()


def table_of(**scores):
    n = len(next(iter(scores.values())))
    rows = [(f"q{i // 3}", f"t{i}") for i in range(n)]
    columns = {f"score_{k}": pl.Series(v, dtype=pl.Float64) for k, v in scores.items()}
    return responses(*rows, **columns)


def label(step, table):
    out = step.label(table, CTX)
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    return out.to_series().to_list()


def test_against_the_formula():
    table = table_of(
        help=[4, 2, 1, 3, 3, 0], prior=[-9.0, -8, -7, -3, -4, -5], drawn=[-8.0, -8, -8, -3, -3, -3]
    )
    step = SteerWeights(target={"help": 4}, spread=2, prior="prior", proposal="drawn")
    scores = table.select("score_help", "score_prior", "score_drawn").to_numpy().T
    logits = -((4 - scores[0]) ** 2) / 8 + scores[1] - scores[2]
    expected = [*softmax(logits[:3]), *softmax(logits[3:])]
    np.testing.assert_allclose(label(step, table), expected, rtol=1e-12)
    hot = step.model_copy(update={"temperature": 5.0})
    np.testing.assert_allclose(label(hot, table)[:3], softmax(logits[:3] / 5), rtol=1e-12)


def test_sum_to_one_and_favour_what_is_wanted():
    table = table_of(help=[4, 2, 0], verbosity=[0, 2, 4])
    up = label(SteerWeights(target={"help": 4}), table)
    down = label(SteerWeights(target={"help": 0}), table)
    assert up[0] > up[1] > up[2]
    assert down == pytest.approx(up[::-1])
    assert sum(up) == pytest.approx(1)
    both = label(
        SteerWeights(target={"help": 4, "verbosity": 4}, spread={"help": 9, "verbosity": 0.1}),
        table,
    )
    assert both[2] == pytest.approx(1)
    assert label(SteerWeights(target={"help": 1}), table_of(help=[3])) == [1.0]


def test_huge_differences_do_not_overflow():
    table = table_of(help=[4, 4, 4], prior=[-5000.0, -100, -90])
    found = label(SteerWeights(target={"help": 4}, prior="prior"), table)
    np.testing.assert_allclose(found, softmax([-5000, -100, -90]))
    assert found[0] == 0


def test_missing_scores_have_no_weight_and_the_rest_sum_to_one():
    table = table_of(help=[4, None, 2, float("nan"), None, float("inf")])
    found = label(SteerWeights(target={"help": 4}), table)
    assert found[1] is None
    assert found[0] + found[2] == pytest.approx(1)
    assert found[3:] == [None, None, None]
    assert label(SteerWeights(target={"help": 4}), table.clear()) == []


def test_bytes_depend_on_neither_order_nor_other_prompts():
    rng = np.random.default_rng(0)
    table = canonical_order(table_of(help=rng.normal(size=24)), Shape.RESPONSES)
    step = SteerWeights(target={"help": 1})
    whole = dict(zip(content(table, "response"), label(step, table), strict=True))
    for part in (*table.partition_by("prompt_id"), table.sample(fraction=1, shuffle=True, seed=2)):
        again = dict(zip(content(part, "response"), label(step, part), strict=True))
        assert again == {t: whole[t] for t in again}


def test_grouped_softmax_and_mistakes():
    out = grouped_softmax(np.array([0.0, np.nan, np.nan]), np.array([0, 0, 1]))
    assert out[0] == 1
    assert np.isnan(out[1:]).all()
    with pytest.raises(ValueError, match="give one for each of help"):
        SteerWeights(target={"help": 1}, spread={"harm": 1})

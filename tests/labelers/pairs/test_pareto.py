"""PAMA's projection: the closed form, and what it means for pairs."""

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from labelers import ParetoStrength
from labelers.pairs.pareto import projection
from prefactory.apply import apply_labeler, fit, fit_shard
from prefactory.context import Context
from prefactory.tables import Shape
from tests.helpers import digest, one_file, pairs, recipe, run


def projected(numbers):
    names = [f"x{i}" for i in range(numbers.shape[1])]
    table = pl.DataFrame(numbers, schema=names)
    return table.select(projection([pl.col(n) for n in names])).to_series().to_numpy()


def test_no_mixture_of_the_simplex_is_shorter():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(200, 4)) + rng.normal(size=(200, 1)) * 2
    found = projected(numbers)
    mixtures = rng.dirichlet(np.ones(4) * 0.5, size=2000)
    assert (found**2 <= ((numbers @ mixtures.T) ** 2).min(axis=1) + 1e-12).all()
    corners = np.eye(4)[rng.integers(4, size=(200, 8))]
    assert (found**2 <= (np.einsum("nik,nk->ni", corners, numbers) ** 2).min(axis=1) + 1e-12).all()
    np.testing.assert_array_equal(projected(numbers[:, ::-1]), found)
    alike = (numbers > 0).all(axis=1) | (numbers < 0).all(axis=1)
    np.testing.assert_array_equal(found != 0, alike)
    assert 20 < alike.sum() < 180
    for row, value in zip(numbers[alike], found[alike], strict=True):
        assert abs(value) == np.abs(row).min()


def test_known_answers():
    numbers = np.array([[1.0, 2.0], [-3.0, -0.5], [-1.0, 4.0], [0.0, 5.0]])
    assert projected(numbers).tolist() == [1.0, -0.5, 0.0, 0.0]
    noon = np.maximum(numbers, 0)
    assert np.maximum(projected(numbers), 0).tolist() == noon.min(axis=1).tolist()
    assert projected(noon).tolist() == noon.min(axis=1).tolist()


def table(*gaps):
    """Pairs whose objectives a and b have these gaps; None: no score."""
    made = pairs(*[(f"q {i}", "good", "bad") for i in range(len(gaps))])
    scores = {}
    for place, objective in enumerate("ab"):
        scores[f"chosen_score_{objective}"] = [g[place] for g in gaps]
        scores[f"rejected_score_{objective}"] = [None if g[place] is None else 0.0 for g in gaps]
    return made.with_columns(pl.Series(n, v, dtype=pl.Float64) for n, v in scores.items())


GAPS = ((1.0, 200.0), (2.0, 100.0), (-1.0, -100.0), (1.0, -100.0), (0.0, 100.0), (None, 100.0))


def strengths(rows, **fields):
    step = ParetoStrength(objectives=["a", "b"], **fields)
    state = fit(step, "p", fit_shard(step, "p", rows, Shape.PAIRS, Context()), Context())
    out = apply_labeler(step, "p", rows, Shape.PAIRS, Context(state=state))
    return out[step.column].to_list(), state.info


def test_strength_of_pairs():
    rows = table(*GAPS)
    found, info = strengths(rows, standardise=False, column="margin")
    assert found == [1.0, 2.0, -1.0, 0.0, 0.0, 0.0]
    counts = {"agree": 2, "contradict": 1, "conflict": 2, "unscored": 1}
    assert {k: info[k] for k in counts} == counts
    weights, _ = strengths(rows, standardise=False)
    assert weights == [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    found, info = strengths(rows)
    a, b = np.sqrt(np.mean([1, 4, 1, 1, 0])), 100 * np.sqrt(np.mean([4, 1, 1, 1, 1, 1]))
    assert (info["scales"]["a"], info["scales"]["b"]) == (pytest.approx(a), pytest.approx(b))
    wanted = [min(1 / a, 200 / b), min(2 / a, 100 / b), 0, 0, 0, 0]
    assert found == pytest.approx(wanted)
    tall = rows.with_columns(pl.col("^.*_score_b$") * 1e6)
    assert strengths(tall)[0] == pytest.approx(found), "the scale of an objective says nothing"


def test_objectives_without_a_gap_and_wrong_fields():
    flat = table((0.0, 1.0), (0.0, 2.0))
    found, info = strengths(flat)
    assert found == [0.0, 0.0]
    assert info["scales"]["a"] == 1.0
    assert strengths(flat.clear())[0] == []
    with pytest.raises(ValidationError, match="at least 2"):
        ParetoStrength(objectives=["a"])
    with pytest.raises(ValidationError, match="name each once"):
        ParetoStrength(objectives=["a", "a"])


def test_shards_change_nothing(tmp_path):
    step = {"labelers.ParetoStrength": {"objectives": ["a", "b"]}}
    results = [run(recipe(step), one_file(table(*GAPS)), tmp_path / str(n), n) for n in (2, 1000)]
    assert digest(results[0]) == digest(results[1])

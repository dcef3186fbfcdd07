"""Signs, dimension and dynamic beta: known answers, nulls and shards."""

import numpy as np
import polars as pl
import pytest

from labelers import Dimension, DynamicBeta, RewardAugmented, Signs
from labelers.pairs.columns import dynamic_beta
from labelers.pairs.reward_augmented import revert
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.tables import Shape
from tests.helpers import pairs

CTX = Context()


def scored(*gaps, objective="help"):
    rows = [(f"q{i}", "good", "bad") for i in range(len(gaps))]
    low = [None if g is None else 3.0 for g in gaps]
    high = [None if g is None else 3.0 + g for g in gaps]
    columns = {
        f"chosen_score_{objective}": pl.Series(high, dtype=pl.Float64),
        f"rejected_score_{objective}": pl.Series(low, dtype=pl.Float64),
    }
    return pairs(*rows, **columns)


def label(step, table):
    out = step.label(table, CTX)
    assert dict(out.schema) == step.adds(Shape.PAIRS)
    return out.to_dict(as_series=False)


def test_signs():
    table = scored(2, -1, 0, 0.5, None, float("inf"), float("nan"))
    found = label(Signs(objectives=("help",)), table)
    assert found == {"sign_help": [1, -1, 0, 1, 0, 0, 0]}
    found = label(Signs(objectives=("help",), dead_zone=0.5, on_null="null"), table)
    assert found == {"sign_help": [1, -1, 0, 0, None, None, None]}


def test_signs_of_several_objectives():
    table = scored(2, 2).hstack(scored(-1, 1, objective="harm").select(pl.col("^.*_harm$")))
    step = Signs(objectives=("help", "harm"), dead_zone={"harm": 1})
    assert label(step, table) == {"sign_help": [1, 1], "sign_harm": [0, 0]}
    with pytest.raises(ValueError, match="no objective"):
        Signs(objectives=("help",), dead_zone={"harm": 1})
    with pytest.raises(ValueError, match="name each once"):
        Signs(objectives=("help", "help"))


def test_swapping_the_sides_turns_the_signs():
    table = scored(2, -1, 0)
    turned = table.rename(
        {"chosen_score_help": "rejected_score_help", "rejected_score_help": "chosen_score_help"}
    )
    one, other = (label(Signs(objectives=("help",)), t)["sign_help"] for t in (table, turned))
    assert [-s for s in one] == other


def test_signs_follow_the_sides_through_relabelling_and_back():
    table = scored(2, 3).with_columns(margin_pal=pl.Series([0.5, -0.25]))
    table = table.hstack(Signs(objectives=("help",)).label(table, CTX))
    step = RewardAugmented(objective="help")
    ctx = Context(state=step.fit(step.fit_shard(table, CTX).sort("pair_id"), CTX))
    rows = step.generate(table, ctx).rows
    signs = rows.group_by("goal_kind").agg(pl.col("sign_help").unique()).sort("goal_kind")
    assert signs.rows() == [("high", [1]), ("low", [-1])]
    assert rows.schema["sign_help"] == pl.Int8
    kinds = rows.filter(goal_kind="low")["margin_pal"].sort().to_list()
    assert kinds == [-0.5, 0.25]
    assert revert(rows).select(table.columns).equals(table.sort("prompt_id", "pair_id"))
    assert revert(rows.filter(goal_kind="low")).equals(revert(rows))


def test_dimension_numbers_datasets():
    table = pl.concat(
        [pairs(("a", "x", "y"), source="helpful"), pairs(("b", "x", "y"), source="safe")]
    )
    step = Dimension(values=("safe", "helpful"))
    assert label(step, table) == {"dimension": [1, 0]}
    with pytest.raises(DataError, match=r"1 pairs .* source 'safe'"):
        label(Dimension(values=("helpful",)), table)
    assert label(Dimension(values=("helpful",), on_other="null"), table) == {"dimension": [0, None]}


def test_dynamic_beta_known_answers():
    found = dynamic_beta(np.array([0.0, 2.0, np.inf, -3.0]))
    np.testing.assert_allclose(found, [0.1, 0.131606, 0.15, 0.1], atol=5e-7)
    assert dynamic_beta(np.array([7.0]), w=0.0) == 0.1
    rising = dynamic_beta(np.linspace(0, 20, 50))
    assert (np.diff(rising) > 0).all()


def fitted(step, shards):
    parts = pl.concat([step.fit_shard(s, CTX) for s in shards]).sort("pair_id")
    state = step.fit(parts, CTX)
    return state, pl.concat([step.label(s, Context(state=state)) for s in shards])


def test_dynamic_beta_of_pairs():
    table = scored(2, 0, -1, None, 4)
    state, out = fitted(DynamicBeta(objective="help"), [table])
    np.testing.assert_allclose(out["beta"], dynamic_beta(np.array([2.0, 0, 0, 0, 4])), rtol=1e-15)
    assert state.info == {"pairs": 5, "unscored": 1, "ties": 1, "conflicts": 1, "scale": 1.0}
    state, scaled = fitted(DynamicBeta(objective="help", scale="median"), [table])
    assert state.info["scale"] == 2.0
    np.testing.assert_allclose(scaled["beta"], dynamic_beta(np.array([1.0, 0, 0, 0, 2])))
    _, weight = fitted(DynamicBeta(objective="help", column="weight"), [table])
    np.testing.assert_allclose(weight["weight"], out["beta"] / 0.1)
    cut = fitted(DynamicBeta(objective="help", scale="median"), [table[3:], table[:3]])[1]
    assert cut["beta"].sort().equals(scaled["beta"].sort())


def test_dynamic_beta_of_margins():
    table = pairs(("q", "a", "b"), ("p", "a", "b"), margin=[2.0, -1.0])
    _, out = fitted(DynamicBeta(), [table])
    np.testing.assert_allclose(out["beta"], [0.13160602794142787, 0.1])
    assert DynamicBeta().needs(Shape.PAIRS) == {"margin": pl.Float64()}
    with pytest.raises(DataError, match="has not been fitted"):
        DynamicBeta().label(table, CTX)
    empty = scored(None, None)
    state, out = fitted(DynamicBeta(objective="help", scale="median"), [empty])
    assert state.info["scale"] == 1.0
    assert out["beta"].to_list() == [0.1, 0.1]

"""Pairs that a probe tells apart most surely leave until it no longer can."""

import polars as pl
import pytest

from filters import Separability
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from tests.audit.cases import rows, table


def marked(n, of=300):
    return table([(p, f"zebra {c}" if i < n else c, r) for i, (p, c, r) in enumerate(rows(of))])


def state_of(step, data, seed=0):
    ctx = Context(seed=seed)
    return step.fit(step.fit_shard(data, ctx).sort("pair_id"), ctx)


def verdict(step, data, seed=0):
    return step.keep(data, Context(state=state_of(step, data, seed)))


@pytest.fixture(scope="module")
def data():
    return marked(200)


def test_marked_pairs_leave_with_their_margin(data):
    step = Separability()
    state = state_of(step, data)
    info = state.info["separability"]
    assert info["before"]["paired"] > 0.75
    assert info["after"]["paired"] <= 0.70
    assert info["after"]["pointwise"] <= 0.65
    reasons = step.keep(data, Context(state=state))
    gone = data.filter(reasons["reason"] == "separable")
    assert gone.height == info["dropped"] > 0
    assert gone["chosen"].list.last().struct.field("content").str.starts_with("zebra").mean() > 0.9
    margins = reasons["detail"].drop_nulls().str.strip_prefix("margin ").cast(pl.Float64)
    assert margins.len() == gone.height
    assert (margins > 0).all()


def test_the_same_pairs_leave_in_any_order_and_shards(data):
    step = Separability()
    state = state_of(step, data)
    mixed = data.sample(fraction=1.0, shuffle=True, seed=1)
    parts = [step.fit_shard(mixed[start : start + 97], Context()) for start in range(0, 300, 97)]
    again = step.fit(pl.concat(parts).sort("pair_id"), Context())
    assert again.tables["dropped"].equals(state.tables["dropped"])
    assert again.info == state.info


def test_a_limit_that_is_held_drops_nothing(data):
    step = Separability(limit=0.95, pointwise_limit=0.95)
    assert verdict(step, data)["reason"].is_null().all()
    assert verdict(Separability(), marked(0))["reason"].is_null().all()


def test_a_lower_limit_takes_more(data):
    few = state_of(Separability(), data).info["separability"]["dropped"]
    many = state_of(Separability(limit=0.6, pointwise_limit=0.6), data).info["separability"]
    assert many["dropped"] > few
    assert many["after"]["paired"] <= 0.6


def test_probes_that_learn_from_a_sample_judge_all(data):
    info = state_of(Separability(fit_rows=150), data).info["separability"]
    assert info["n"] == 300
    assert info["dropped"] > 0


def test_equal_answers_and_small_sets_take_no_part():
    data = table([*rows(30), *[(f"p{i} is this", "same", "same") for i in range(30)]])
    info = state_of(Separability(), data).info["separability"]
    assert (info["n"], info["dropped"], info["before"]) == (30, 0, None)


def test_it_refuses_to_take_most_of_the_data():
    with pytest.raises(DataError, match="the sides differ throughout"):
        state_of(Separability(), marked(300))


def test_meaning_needs_an_encoder(data):
    with pytest.raises(ConfigError, match="needs an encoder"):
        state_of(Separability(reads="meaning"), data)

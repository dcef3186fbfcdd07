import numpy as np
import polars as pl

from filters import MatchTarget
from filters.selection.information import systematic
from prefactory.context import Context
from tests.helpers import prompts


def test_a_mix_that_can_be_reached_is_reached():
    table = prompts(*[f"p{i}" for i in range(1000)])
    table = table.with_columns(source=pl.Series(["a"] * 700 + ["b"] * 200 + ["c"] * 100))
    for select, rows in (("sample", 400), ("top", 400), ("sample", 77)):
        kept = kinds(table, MatchTarget(mix={"a": 0.5, "b": 0.5}, rows=rows, select=select))
        assert abs(kept["a"] - rows / 2) <= 0.5
        assert kept["a"] + kept["b"] == rows
    # b has 200 rows: the others take what it can't fill, and c only when nothing else is left
    assert kinds(table, MatchTarget(mix={"a": 0.5, "b": 0.5}, rows=600)) == {"a": 400, "b": 200}
    assert kinds(table, MatchTarget(mix={"a": 1, "b": 3}, rows=950)) == {
        "a": 700, "b": 200, "c": 50,
    }  # fmt: skip


def kinds(table, step):
    ctx = Context(seed=1, step="m")
    part = step.fit_shard(table, ctx)
    state = step.fit(part.sort(part.columns[0]), ctx)
    kept = state.tables["rows"].filter("selected")
    kept = kept.join(table.select(row_id="prompt_id", kind="source"), on="row_id")
    return dict(kept["kind"].value_counts().iter_rows())


def test_a_systematic_draw_has_the_chances_of_its_weights():
    weights = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0.0])
    hits = np.zeros(7)
    for seed in range(4000):
        rng = np.random.default_rng(seed)
        found = systematic(weights, rng.random(7), 3, rng.random())
        assert found.sum() == 3
        hits += found
    wanted = np.array([1, 4 / 5, 2 / 5, 2 / 5, 1 / 5, 1 / 5, 0])
    assert np.abs(hits / 4000 - wanted).max() < 0.03

"""Rows like those that people found wrong, and labels that opinions bear out."""

import numpy as np
import polars as pl
import pytest

from labelers import Consistent, LikeWrong
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.testing import apply_step, pairs

TEXTS = [("cats purr", "rocks fall"), ("cats purr.", "rocks fall."), ("rain", "snow")]


def embed(encoder, texts):
    """Vectors by the first letter: rows with the same first letters are alike."""
    rng = np.random.default_rng(0)
    known = {c: rng.normal(size=8) for c in "abcdefghijklmnopqrstuvwxyz"}
    return np.array([known[t[0]] for t in texts], np.float32)


def table(**more):
    rows = pairs(*[(f"Q{i}?", *sides) for i, sides in enumerate(TEXTS)])
    order = dict(zip([r[0]["content"] for r in rows["prompt"]], rows["pair_id"], strict=True))
    columns = {"human_turned": [False] * 3, "human_votes": [0] * 3, "trust": [0.9, 0.9, 0.9]} | more
    return rows.with_columns(pl.Series(n, v) for n, v in columns.items()), order


def test_rows_like_a_turned_one_come_first():
    rows, _ = table(human_turned=[True, False, False], human_votes=[2, 0, 0])
    # as it stands now the first is turned: its sides as labelled at first were the other way round
    ctx = Context(0, "like", embed=embed)
    state = LikeWrong().fit(LikeWrong().fit_shard(rows, ctx), ctx)
    found = dict(state.tables["rows"].select("pair_id", "like_wrong").iter_rows())
    first, second, third = (found[i] for i in rows["pair_id"])
    assert first is None
    assert second == pytest.approx(-1.0, abs=1e-6)  # labelled like the turned row is now: right
    assert abs(third) < 0.9
    back, _ = table(human_turned=[True, False, False], human_votes=[2, 0, 0])
    back = back.with_columns(
        chosen=pl.when(pl.col("human_turned")).then("rejected").otherwise("chosen"),
        rejected=pl.when(pl.col("human_turned")).then("chosen").otherwise("rejected"),
    )
    state = LikeWrong().fit(LikeWrong().fit_shard(back, ctx), ctx)
    rows = state.tables["rows"]
    assert rows["like_wrong"].drop_nulls().max() == pytest.approx(1.0, abs=1e-6)
    assert rows["retrieval"].null_count() == 1


def test_without_an_encoder_it_says_so():
    with pytest.raises(ConfigError, match="needs an encoder"):
        LikeWrong().fit_shard(table()[0], Context(0, "like"))


def test_consistent_labels():
    rows, _ = table(
        margin_stack=[1.0, -1.0, 1.0],
        judge_prefers=["chosen", "chosen", None],
        label_source=["judge", "judge", "judge"],
    )

    def told(data=rows, **fields):
        return apply_step(Consistent(**fields), data).rows["consistent"].to_list()

    order = rows.sort("prompt_id", "pair_id")
    both = {"margins": ["stack"], "judges": ["judge"]}
    by_id = dict(zip(order["pair_id"], told(**both), strict=True))
    assert [by_id[i] for i in rows["pair_id"]] == [True, False, None]
    people = rows.with_columns(label_source=pl.lit("human"))
    assert told(people, **both) == [True] * 3
    assert told(people, margins=["stack"], people=False) == told(margins=["stack"])
    scored = rows.with_columns(chosen_score_rm=pl.lit(1.0), rejected_score_rm=pl.lit(1.0))
    assert told(scored, scores=["rm"]) == [False] * 3
    with pytest.raises(ValueError, match="at least one of judges, scores or margins"):
        Consistent()

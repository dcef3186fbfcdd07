"""The stack as a step: what it learns, out of fold, in any order, and what it says of itself."""

import hashlib

import numpy as np
import polars as pl
import pytest

from labelers.stack.step import PreferenceStack
from prefactory.apply import apply_labeler
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.tables import Shape, canonical_order, with_ids
from tests.helpers import pairs

WORDS = [
    "tea",
    "leaf",
    "water",
    "cup",
    "hot",
    "cold",
    "green",
    "black",
    "milk",
    "sugar",
    "lemon",
    "honey",
    "ice",
    "steam",
    "pot",
]


def embed(encoder, texts):
    seeds = [int.from_bytes(hashlib.blake2b(t.encode(), digest_size=8).digest()) for t in texts]
    return np.asarray([np.random.default_rng(s).normal(size=6) for s in seeds], np.float32)


CTX = Context(seed=1, step="stack", embed=embed)


def sentence(rng, n):
    return " ".join(rng.choice(WORDS, n))


def preferences(n=160, right=0.9, seed=0, prompts=None):
    """Pairs in which the longer answer is chosen with probability `right`."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        short, long = sentence(rng, rng.integers(4, 9)), sentence(rng, rng.integers(12, 30))
        prompt = f"{sentence(rng, 6)} number {i if prompts is None else i % prompts}?"
        prompt = prompt if prompts is None else f"question {i % prompts}"
        rows.append((prompt, long, short) if rng.random() < right else (prompt, short, long))
    return canonical_order(pairs(*rows), Shape.PAIRS)


def fitted(step, table, ctx=CTX, shards=1):
    cut = [table[i::shards] for i in range(shards)]
    parts = pl.concat([step.fit_shard(s, ctx) for s in cut])
    state = step.fit(parts.sort(parts.columns[0], maintain_order=True), ctx)
    context = Context(ctx.seed, ctx.step, state, ctx.embed)
    found = pl.concat([apply_labeler(step, "stack", s, Shape.PAIRS, context) for s in cut])
    ids = table.select("pair_id")
    return state, ids.join(found, on="pair_id", how="left", maintain_order="left")


@pytest.mark.parametrize("form", ["auto", "stack", "joint", "statistics"])
def test_it_learns_what_the_labels_teach(form):
    table = preferences()
    state, found = fitted(PreferenceStack(form=form), table)
    info = state.info["preference_stack"]
    assert info["accuracy"]["value"] == pytest.approx(0.9, abs=0.06)
    assert not info["teaches_nothing"]
    assert info["length_rule"]["accuracy"]["value"] == pytest.approx(0.9, abs=0.06)
    assert info["weights"]["log_characters"] > 0
    gap = found["chosen_score_stack"] - found["rejected_score_stack"]
    assert found["margin_stack"].to_list() == pytest.approx(gap.to_list())
    assert (found["margin_stack"] > 0).mean() == pytest.approx(info["accuracy"]["value"])


def test_shards_and_order_change_no_bit():
    table = preferences(80)
    step = PreferenceStack(form="stack")
    _, whole = fitted(step, table)
    _, cut = fitted(step, table, shards=7)
    assert whole.equals(cut)


def test_labels_that_contradict_each_other_teach_nothing_and_score_nothing():
    one = preferences(60)
    other = one.rename({"chosen": "rejected", "rejected": "chosen"})
    both = pl.concat([one, with_ids(other, Shape.PAIRS).select(one.columns)])
    state, found = fitted(PreferenceStack(form="joint"), canonical_order(both, Shape.PAIRS))
    info = state.info["preference_stack"]
    assert info["accuracy"]["value"] == 0.5
    assert info["teaches_nothing"]
    assert found["margin_stack"].null_count() == found.height


def test_one_cluster_of_prompts_has_no_held_out_score():
    state, found = fitted(PreferenceStack(), preferences(40, prompts=1))
    assert found.select(pl.all().exclude("pair_id").is_null().all()).row(0) == (True, True, True)
    assert state.info["preference_stack"]["accuracy"]["value"] is None


def test_a_pair_is_judged_without_its_cluster():
    table = preferences(120, right=1.0, prompts=30)
    step = PreferenceStack(form="statistics")
    state, _ = fitted(step, table)
    folds = state.tables["rows"].join(table.select("pair_id", "prompt_id"), on="pair_id")
    assert folds.group_by("prompt_id").agg(pl.col("fold").n_unique())["fold"].max() == 1


def test_damaged_rows_are_scored_and_not_fitted():
    table = preferences(100, right=1.0)
    bad = preferences(40, right=0.0, seed=9)
    both = canonical_order(
        pl.concat([table.with_columns(bad=pl.lit(False)), bad.with_columns(bad=pl.lit(True))]),
        Shape.PAIRS,
    )
    state, found = fitted(PreferenceStack(form="statistics", damage="bad"), both)
    info = state.info["preference_stack"]
    assert (info["damaged"], info["fitted"]) == (40, 100)
    assert info["accuracy"]["value"] == 1.0
    assert (found.filter(both["bad"])["margin_stack"] < 0).all()
    with pytest.raises(ConfigError, match="damage"):
        fitted(PreferenceStack(damage="damage"), table)


def test_outside_scores_are_learned_and_a_missing_one_counts_as_no_difference():
    rng = np.random.default_rng(3)
    table = preferences(160, right=0.5)
    told = rng.normal(size=160)
    table = table.with_columns(
        chosen_score_rm=pl.Series(np.abs(told)).cast(pl.Float64), rejected_score_rm=pl.lit(0.0)
    )
    state, _ = fitted(PreferenceStack(form="joint", outside=("rm",), vectors=False), table)
    assert state.info["preference_stack"]["accuracy"]["value"] > 0.9
    gone = table.with_columns(rejected_score_rm=pl.lit(None, pl.Float64))
    state, _ = fitted(PreferenceStack(form="joint", outside=("rm",), vectors=False), gone)
    assert state.info["preference_stack"]["weights"]["rm"] == 0


def test_columns_about_the_pair_give_a_margin_and_no_scores():
    table = preferences(100, right=0.5).with_columns(votes=pl.Series(np.arange(100) % 3 + 1.0))
    step = PreferenceStack(oriented=("votes",), vectors=False, form="statistics")
    state, found = fitted(step, table)
    assert found.columns == ["pair_id", "margin_stack"]
    assert state.info["preference_stack"]["weights"]["votes"] > 0


def test_it_needs_no_encoder_without_vectors():
    step = PreferenceStack(vectors=False)
    assert not step.opens_engines()
    state, _ = fitted(step, preferences(60), Context(seed=1, step="stack"))
    assert state.info["preference_stack"]["forms"] == ["statistics"]
    with pytest.raises(ConfigError, match="vectors: false"):
        fitted(PreferenceStack(), preferences(60), Context(seed=1, step="stack"))


def test_rows_beyond_the_most_are_scored_too():
    state, found = fitted(PreferenceStack(vectors=False, fit_rows=100), preferences(160))
    assert state.info["preference_stack"]["fitted"] == 100
    assert found["margin_stack"].null_count() == 0

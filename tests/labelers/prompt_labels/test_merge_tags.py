"""Merging free tags: planted synonyms, no chains, support, categories, and the same in any cut."""

import numpy as np
import polars as pl
import pytest

from labelers.prompt_labels.merge import MergeTags, merged, nearest
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.store import Store
from prefactory.tables import Shape
from tests.helpers import MemorySource, prompts, recipe, responses, view

ANGLES = {"a": 0, "b": 20, "c": 40, "d": 60, "e": 180}


def at(*degrees):
    turns = np.radians(degrees)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def embed(encoder, texts):
    return at(*[ANGLES.get(t, 270) for t in texts])


def table(*tags):
    rows = prompts(*[f"p{i}" for i in range(len(tags))])
    return rows.with_columns(pl.Series("tag_free", list(tags), dtype=pl.List(pl.String)))


def label(step, rows):
    state = step.fit(step.fit_shard(rows, Context(embed=embed)), Context(embed=embed))
    out = step.label(rows, Context(state=state, embed=embed))
    assert dict(out.schema) == step.adds(Shape.PROMPTS)
    return out.to_series().to_list(), state


def test_the_frequent_one_stays_and_no_chain_forms():
    """0, 20, 40, 60 degrees at 25: each joins a kept tag, not one that was merged away."""
    assert merged(list("abcd"), at(0, 20, 40, 60), np.cos(np.radians(25))).to_list() == [
        "a",
        "a",
        "c",
        "c",
    ]
    assert merged(["only"], at(3), 0.9).to_list() == ["only"]
    assert merged([], np.empty((0, 2)), 0.9).len() == 0


def test_each_tag_joins_the_most_frequent_kept_tag_near_it():
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((200, 3)).astype(np.float32)
    wide = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    kept, into = [], []
    for i in range(200):
        near = [k for k in kept if wide[k] @ wide[i] >= 0.9]
        kept += [] if near else [i]
        into.append(f"t{near[0] if near else i}")
    assert 20 < len(kept) < 150
    assert merged([f"t{i}" for i in range(200)], vectors, 0.9).to_list() == into


def test_rows_get_merged_tags_once_and_rare_ones_go():
    rows = table(["A", "b"], ["B", "e"], ["a!"], [], None, ["d"], ["a", "d"])
    found, state = label(MergeTags(min_support=2), rows)
    assert found == [["a"], ["a"], ["a"], [], None, ["d"], ["a", "d"]]
    facts = {k: state.info[k] for k in ("prompts", "tags", "merged", "kept")}
    assert facts == {"prompts": 5, "tags": 4, "merged": 1, "kept": 2}
    assert state.tables["tags"].filter(pl.col("tag") == "e")["merged"].to_list() == [None]


def test_support_is_a_share_of_the_tagged_prompts():
    rows = table(*[["a"]] * 9, ["e"])
    assert label(MergeTags(min_support=1, min_share=0.1), rows)[0][-1] == ["e"]
    assert label(MergeTags(min_support=1, min_share=0.11), rows)[0][-1] == []


def test_a_prompt_with_many_answers_counts_once():
    rows = responses(("p", "1"), ("p", "2"), ("q", "1"))
    rows = rows.with_columns(pl.Series("tag_free", [["a"], ["a"], ["e"]]))
    assert label(MergeTags(min_support=2), rows)[0] == [[], [], []]


def test_categories_in_place_of_tags():
    assert nearest(at(10, 100), at(0, 20), ["x", "y"], 0.5) == ["x", "other"]
    rows = table(["a"], ["d", "e"])
    step = MergeTags(min_support=1, onto=("b", "c"), onto_cosine=0.9)
    assert label(step, rows)[0] == [["b"], ["c", "other"]]
    with pytest.raises(ValueError, match="once"):
        MergeTags(onto=("b", "b"))


def test_nothing_is_tagged():
    assert label(MergeTags(), table(None, [], [" . "]))[0] == [None, [], []]
    with pytest.raises(ConfigError, match="needs an encoder"):
        MergeTags().fit(pl.DataFrame({"tag": [""], "support": [0]}), Context())
    with pytest.raises(DataError, match="has not been fitted"):
        MergeTags().label(table(["a"]), Context())


def test_planted_synonyms_collapse_under_the_real_encoder(tmp_path):
    """The check of the specification, through a whole run, in any cut."""
    groups = [
        ("python coding", "Coding in Python"),
        ("cooking recipes", "recipes for cooking"),
        ("essay writing", "writing essays"),
    ]
    texts = [[group[i % 5 == 0]] for group in groups for i in range(10)]
    rows = responses(*[(f"p{i}", "a") for i in range(len(texts))])
    rows = rows.with_columns(pl.Series("tag_free", texts, dtype=pl.List(pl.String)))
    made = []
    with Encoder().open() as encoder:
        for name, size in (("a", 1000), ("b", 4)):
            options = Options(shard_rows=size, embed=lambda _, t: encoder.embed(t))
            source = MemorySource({"f": [rows]})
            result = execute(
                recipe("labelers.MergeTags"),
                [source],
                Store(tmp_path / name),
                thread_mapper(2),
                options,
            )
            made.append(view(result, "responses"))
    assert made[0].equals(made[1])
    known = {tag: group[0] for group in groups for tag in group}
    for row in made[0].to_dicts():
        assert row["tags"] == [known[row["tag_free"][0]]]

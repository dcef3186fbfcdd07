"""Near misses: nearest other prompt in the band, an answer of it as rejected."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from generators import NearMisses
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.tables import Shape
from tests.generators.sampling import asked_run
from tests.helpers import content, digest, ledger_of, one_file, recipe, responses, run, view

DEGREES = {"tea": 0, "coffee": 30, "cocoa": 40, "iron": 90, "steel": 95, "verse": 200}


def embed(encoder, texts):
    """Prompts are points on a circle, by their first word."""
    turns = np.radians([DEGREES[t.split()[0]] for t in texts])
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32) * 3


def made(table, **fields):
    step = NearMisses(**fields)
    parts = step.fit_shard(table, Context(embed=embed)).sort("response_id")
    ctx = Context(state=step.fit(parts, Context()), embed=embed)
    return apply_generator(step, "generators.NearMisses", table, Shape.RESPONSES, ctx)


def cosine(a, b):
    return np.cos(np.radians(DEGREES[a] - DEGREES[b]))


TABLE = responses(*[(w, f"about {w}") for w in DEGREES], score_h=[float(i) for i in range(6)])


def test_the_nearest_other_prompt_in_the_band():
    rows, dropped = made(TABLE)
    table = zip(content(rows, "prompt"), content(rows, "rejected"), rows["similarity"], strict=True)
    found = {p: (r.removeprefix("about "), s) for p, r, s in table}
    # coffee and cocoa, iron and steel are nearer than 0.9: too near, so each takes the next
    assert {p: r for p, (r, _) in found.items()} == {
        "tea": "coffee",
        "coffee": "tea",
        "cocoa": "tea",
        "iron": "cocoa",
        "steel": "cocoa",
    }
    assert all(s == pytest.approx(cosine(p, r), abs=1e-6) for p, (r, s) in found.items())
    ids = dict(zip(content(TABLE, "prompt"), TABLE["prompt_id"], strict=True))
    names = zip(content(rows, "prompt"), rows["rejected_prompt_id"], strict=True)
    assert all(near == ids[found[p][0]] for p, near in names)
    assert content(rows, "chosen") == [f"about {p}" for p in content(rows, "prompt")]
    assert set(rows["label_source"]) == {"rule"}
    assert rows["chosen_score_h"].null_count() == 0
    assert rows["rejected_score_h"].null_count() == rows.height
    assert dropped["reason"].to_list() == ["no_near_miss"]
    assert dropped["detail"].to_list() == [f"nearest below the band {cosine('verse', 'steel'):.6f}"]


def test_the_band_is_an_option():
    rows, _ = made(TABLE, most=1.0)
    near = dict(zip(content(rows, "prompt"), content(rows, "rejected"), strict=True))
    assert (near["coffee"], near["iron"]) == ("about cocoa", "about steel")
    rows, dropped = made(TABLE, least=0.999, most=1.0)
    assert (rows.height, dropped.height) == (0, 6)


def test_answers_of_the_same_prompt_are_never_taken():
    table = responses(("tea", "one"), ("tea", "two"), ("coffee", "one"))
    rows, dropped = made(table)
    pairs = zip(
        content(rows, "prompt"), content(rows, "chosen"), content(rows, "rejected"), strict=True
    )
    found = sorted(pairs)
    first = content(
        table.filter(pl.col("response_id") == min(table["response_id"][:2])), "response"
    )[0]
    wanted = [("tea", "two", "one")]
    if first == "two":
        wanted.append(("coffee", "one", "two"))
    assert found == sorted(wanted)
    assert set(dropped["reason"]) == {"same_text"}


def test_empty_answers_and_a_pool_of_one_prompt():
    table = responses(("tea", " "), ("tea", "one"), ("coffee", ""))
    rows, dropped = made(table)
    assert rows.height == 0
    assert sorted(dropped["reason"]) == ["empty_answer", "empty_answer", "no_near_miss"]
    assert "no other prompt" in dropped["detail"].to_list()


def test_the_pool_is_bounded():
    words = list(DEGREES)
    table = responses(*[(f"{words[i % 6]} {i}", f"answer {i}") for i in range(300)])
    step = NearMisses(pool=20, most=1.0)
    parts = pl.concat(step.fit_shard(t, Context(embed=embed)) for t in (table[:150], table[150:]))
    assert parts.height == 40
    whole = step.fit(step.fit_shard(table, Context(embed=embed)), Context())
    state = step.fit(parts.sort("response_id"), Context())
    assert state.tables["pool"].height == 20
    assert state.tables["pool"].equals(whole.tables["pool"])  # however it was cut


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_the_search_is_the_plain_one(n, seed):
    from generators.hard_negatives.near_misses import _search

    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.array([f"p{i % 7}" for i in range(n)], dtype=object)
    place, best, below = _search(vectors, vectors, ids, ids, 0.1, 0.8)
    for i in range(n):
        sims = [float(np.round(vectors[i].astype(float) @ v.astype(float), 6)) for v in vectors]
        others = [(s, j) for j, s in enumerate(sims) if ids[j] != ids[i]]
        band = [(s, -j) for s, j in others if 0.1 <= s <= 0.8]
        under = [s for s, _ in others if s < 0.1]
        assert (place[i] == -1) == (not band)
        if band:
            assert (best[i], -place[i]) == max(band)
        assert np.isnan(below[i]) if not under else below[i] == max(under)


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    words = list(DEGREES)
    table = responses(*[(f"{words[i % 5]} {i}", f"answer {i}") for i in range(40)])
    step = recipe({"generators.NearMisses": {"pool": 15}})
    results = [
        asked_run(step, t, tmp_path / str(i), size, 2, embed=embed)
        for i, (t, size) in enumerate([(table, 1000), (table, 1), (table[::-1], 7)])
    ]
    assert len({digest(r) for r in results}) == 1
    assert view(results[0], "pairs").height + ledger_of(results[0]).height == 40


def test_it_needs_an_encoder_and_a_band(tmp_path):
    with pytest.raises(DataError, match="no encoder"):
        run(recipe("generators.NearMisses"), one_file(TABLE), tmp_path)
    with pytest.raises(ValidationError, match="above most"):
        NearMisses(least=0.9, most=0.5)

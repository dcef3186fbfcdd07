import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import SemanticDuplicates
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.near.leaders import exact_cosine, greedy_by_ivf, greedy_kept
from prefactory.near.polarity import OPPOSITES, Polarity, polarity
from prefactory.near.vectors import BORDER
from prefactory.near.vectors import unit32 as unit
from prefactory.tables import Shape
from tests.helpers import pairs, prompts, responses

STAYS = (None, None)


def at_degrees(*angles):
    turned = np.deg2rad(angles)
    return unit(np.stack([np.cos(turned), np.sin(turned)], axis=1))


DEGREES_25 = float(np.cos(np.deg2rad(25)))


def embed(encoder, texts):
    """A text's vector: at the angle of its last word, or at 0 degrees."""
    last = texts.str.extract(r"(\d+)$").cast(pl.Float64).fill_null(0.0)
    return at_degrees(*last)


def judged(step, table, ids="response_id"):
    ctx = Context(embed=embed)
    state = step.fit(step.fit_shard(table, ctx).sort("unit"), ctx)
    answer = step.keep(table, Context(state=state))
    assert answer.schema == {"reason": pl.String, "detail": pl.String}
    kept = answer["detail"].str.extract(r"^kept (\w+), cosine ").to_list()
    places = [None if k is None else table[ids].to_list().index(k) for k in kept]
    return list(zip(answer["reason"].to_list(), places, strict=True))


def scored(*rows):
    return responses(*[r[:2] for r in rows], score_help=[float(r[2]) for r in rows])


GONE = "semantic_duplicate"

# -- greedy against kept rows -----


def test_a_chain_keeps_three():
    beside = greedy_kept([at_degrees(0, 20, 40, 60, 80)], np.arange(5), DEGREES_25)
    assert beside.tolist() == [-1, 0, -1, 2, -1]


def test_the_best_row_is_first():
    beside = greedy_kept([at_degrees(0, 20, 40, 60, 80)], np.array([4, 0, 2, 1, 3]), DEGREES_25)
    assert beside.tolist() == [1, -1, 1, -1, 3]


def naive(sides, rank, threshold, group):
    kept = []
    beside = np.full(rank.size, -1)
    for row in np.argsort(rank):
        for k in kept:
            one = np.array([k]), np.array([row])
            if group[k] == group[row] and exact_cosine(sides, *one)[0] >= threshold:
                beside[row] = k
                break
        else:
            kept.append(row)
    return beside


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 9), st.sampled_from([1, 5, 64]))
def test_blocks_change_nothing(seed, n, groups, block):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, n)
    rank = rng.permutation(n)
    sides = [unit(rng.standard_normal((n, 3))) for _ in range(1 + seed % 2)]
    found = greedy_kept(sides, rank, 0.9, group=group, block=block)
    assert found.tolist() == naive(sides, rank, 0.9, group).tolist()


def test_cosines_at_the_threshold_are_decided_exactly():
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((300, 8)))
    cosine = exact_cosine([vectors], np.array([0]), np.array([1]))[0]
    for threshold, expected in ((cosine, 0), (np.nextafter(cosine, 2), -1)):
        assert greedy_kept([vectors[:2]], np.arange(2), threshold).tolist() == [-1, expected]


def test_products_are_off_by_less_than_the_border():
    import torch

    rng = np.random.default_rng(0)
    vectors = unit(np.concatenate([rng.standard_normal((400, 96)), np.eye(96), np.ones((1, 96))]))
    exact = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        short = torch.from_numpy(vectors).to(dtype)
        assert np.abs((short @ short.T).double().numpy() - exact).max() < BORDER[name] / 1.3


@pytest.mark.parametrize("n", [0, 1])
def test_no_pairs(n):
    beside = greedy_kept([np.zeros((n, 4), np.float32)], np.arange(n), 0.9)
    assert beside.tolist() == [-1] * n
    assert greedy_by_ivf([np.zeros((0, 4), np.float32)], np.arange(0), 0.9, 1).tolist() == []


def test_all_rows_alike_leave_one():
    vectors = np.tile(at_degrees(30), (500, 1))
    rank = np.random.default_rng(0).permutation(500)
    best = int(np.argmin(rank))
    found = greedy_kept([vectors], rank, 0.999, block=64)
    assert found[best] == -1
    assert (np.delete(found, best) == best).all()


def test_the_inverted_file_finds_what_all_pairs_find_when_it_looks_everywhere():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((60, 16)))
    vectors = unit(centres[rng.integers(0, 60, 2000)] + 0.05 * rng.standard_normal((2000, 16)))
    rank, group = rng.permutation(2000), rng.integers(0, 3, 2000)
    for kwargs in ({}, {"group": group}):
        exact = greedy_kept([vectors], rank, 0.95, **kwargs)
        everywhere = greedy_by_ivf([vectors], rank, 0.95, 10**6, **kwargs)
        assert exact.tolist() == everywhere.tolist()
        some = greedy_by_ivf([vectors], rank, 0.95, 8, **kwargs)
        assert (some < 0).sum() <= 1.2 * (exact < 0).sum()


# -- polarity -----


def opposed(a, b, most=50):
    features = polarity(pl.Series([a, b]))
    return not Polarity([features], most)(np.array([0]), np.array([1]))[0]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("It is right to keep a promise", "It is wrong to keep a promise"),
        ("You should lie", "You should not lie"),
        ("You should lie", "You shouldn't lie"),
        ("You should lie", "You shouldn\u2019t lie"),
        ("Always tell the truth", "Never tell the truth"),
        ("I can swim", "I can't swim"),
        ("你应该说谎", "你不应该说谎"),
    ],
)
def test_opposites_are_no_duplicates(a, b):
    assert opposed(a, b)
    assert opposed(b, a)
    assert not opposed(a, a)
    assert not opposed(b, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Keep your promises", "Stay true to your word"),
        ("I don't know", "I do not know"),
        ("right and wrong", "wrong"),
        ("T cells can t move", "cells move"),
        ("", ""),
    ],
)
def test_other_texts_may_be(a, b):
    assert not opposed(a, b) or "can t" in a


def test_long_texts_are_not_guarded():
    a = "It is right to keep a promise " * 10
    assert not opposed(a, a.replace("right", "wrong"))
    assert opposed(a, a.replace("right", "wrong"), most=70)


def test_every_couple_of_opposites_has_a_bit():
    couples = [c.split() for c in OPPOSITES.split(",")]
    assert len(couples) <= 64
    assert all(len(c) == 2 for c in couples)
    assert all(opposed(f"x {a} y", f"x {b} y") for a, b in couples)


def test_pairs_are_opposed_if_both_ways_to_match_them_are():
    yes, no = polarity(pl.Series(["it is right"] * 2)), polarity(pl.Series(["it is wrong"] * 2))
    row = np.array([0]), np.array([1])
    assert Polarity([yes, yes], 50)(*row)[0]
    assert Polarity([yes, no], 50)(*row)[0]
    mixed = polarity(pl.Series(["it is right", "it is wrong"]))
    assert not Polarity([mixed, yes], 50)(*row)[0]


# -- the step -----


def test_rows_near_a_kept_row_leave():
    table = scored(("q", "a 0", 5), ("q", "b 20", 4), ("q", "c 40", 3), ("q", "d 60", 2))
    step = SemanticDuplicates(threshold=DEGREES_25, keep_best="help")
    assert judged(step, table) == [STAYS, (GONE, 0), STAYS, (GONE, 2)]


def test_the_guard_keeps_opposites():
    table = scored(("q", "it is right 1", 2), ("q", "it is wrong 1", 1))
    guarded = SemanticDuplicates(keep_best="help")
    assert judged(guarded, table) == [STAYS, STAYS]
    bare = SemanticDuplicates(keep_best="help", polarity_words=0)
    assert judged(bare, table) == [STAYS, (GONE, 0)]


def test_rows_of_another_stance_stay():
    table = scored(("q", "a 1", 4), ("q", "b 1", 3), ("q", "c 1", 2)).with_columns(
        score_side=pl.Series([1.0, 0.0, None])
    )
    step = SemanticDuplicates(keep_best="help", stance="side")
    assert set(step.needs(Shape.RESPONSES)) == {"score_help", "score_side"}
    assert judged(step, table) == [STAYS, STAYS, STAYS]
    with pytest.raises(ConfigError, match="a pair holds two"):
        step.needs(Shape.PAIRS)


def test_answers_are_compared_within_their_prompt():
    table = scored(("q", "a 1", 4), ("q", "b 1", 3), ("p", "c 1", 2))
    within = SemanticDuplicates(on="response", keep_best="help")
    assert judged(within, table) == [STAYS, (GONE, 0), STAYS]
    anywhere = SemanticDuplicates(on="response", within="all", keep_best="help")
    assert judged(anywhere, table) == [STAYS, (GONE, 0), (GONE, 0)]


def test_whole_prompts():
    table = scored(("q 1", "x", 1), ("q 1", "y", 4), ("p 2", "z", 3), ("o 90", "w", 0))
    step = SemanticDuplicates(on="prompt", keep_best="help")
    assert judged(step, table, "prompt_id") == [STAYS, STAYS, (GONE, 0), STAYS]
    alone = prompts("q 1", "p 90")
    assert judged(SemanticDuplicates(), alone, "prompt_id") == [STAYS, STAYS]


def test_pairs_are_unordered():
    table = pairs(
        ("q", "a 0", "b 90"),
        ("q", "c 91", "d 1"),
        ("q", "e 0", "f 45"),
        chosen_score_help=[3.0, 2.0, 1.0],
        rejected_score_help=[0.0] * 3,
    )
    step = SemanticDuplicates(keep_best="help")
    assert judged(step, table, "pair_id") == [STAYS, (GONE, 0), STAYS]


def test_no_rows_and_what_it_needs():
    assert judged(SemanticDuplicates(), scored()) == []
    with pytest.raises(ConfigError, match="needs an encoder"):
        SemanticDuplicates().fit_shard(scored(("q", "a", 1)), Context())
    with pytest.raises(DataError, match="has not been fitted"):
        SemanticDuplicates().keep(scored(("q", "a", 1)), Context())
    with pytest.raises(ValidationError):
        SemanticDuplicates(threshold=0)


def test_the_inverted_file_needs_faiss(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        SemanticDuplicates(index="ivf").needs(Shape.RESPONSES)

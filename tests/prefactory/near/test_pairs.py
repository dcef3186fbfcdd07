import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prefactory.near import likeness, pairs
from prefactory.near.likeness import Rule, overlap, similarity
from prefactory.near.linking import linking_edges
from prefactory.near.minhash import banding
from prefactory.near.pairs import (
    Edges,
    _sum_of_four,
    clusters,
    near_edges,
    read_rows,
    reduce_texts,
)
from prefactory.near.shingles import shingle_sets

ALL = Rule(0.35, 0, 0)


def rows_of(group=None, cuts=(), threshold=0.35, **texts):
    cut = banding(threshold, 0.95)
    table = reduce_texts({k: pl.Series(v, dtype=pl.String) for k, v in texts.items()}, 2, cut)
    edges = [0, *cuts, table.height]
    table = pl.concat([table[a:b] for a, b in itertools.pairwise(edges)])
    if group is not None:
        return read_rows(table.with_columns(group=pl.Series(group)), cut, "group")
    return read_rows(table, cut)


def edges_of(rows, rule=ALL, others=None):
    found = near_edges(rows, rule, others)
    return list(zip(found.left.tolist(), found.right.tolist(), strict=True))


WORDS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join), max_size=14)


@given(WORDS)
def test_the_jaccard_index_is_that_of_the_sets(texts):
    sets = shingle_sets(pl.Series(texts, dtype=pl.String), 2)
    plain = [set(sets.values[a:b]) for a, b in itertools.pairwise(sets.offsets)]
    every = list(itertools.product(range(len(texts)), repeat=2))
    left, right = (np.array([p[i] for p in every], dtype=np.int64) for i in (0, 1))
    expected = [len(plain[i] & plain[j]) / len(plain[i] | plain[j]) for i, j in every]
    assert overlap(sets, sets, left, right).jaccard.tolist() == expected
    size = likeness.CHUNK
    try:
        likeness.CHUNK = 8
        assert overlap(sets, sets, left, right).jaccard.tolist() == expected
    finally:
        likeness.CHUNK = size


TEXT = [f"w{i}" for i in range(12)]


def test_verified_pairs():
    changed = [*TEXT[:5], "x", *TEXT[6:]]
    other = [f"o{i}" for i in range(12)]
    texts = [" ".join(t) for t in (TEXT, changed, other, TEXT)]
    found = near_edges(rows_of(prompt=texts), ALL)
    # Rows 0 and 3 are equal, so row 1 meets the first of them only.
    assert list(zip(found.left, found.right, found.jaccard.round(3), strict=True)) == [
        (0, 1, 0.692),
        (0, 3, 1.0),
    ]
    assert clusters(found, 4).tolist() == [0, 0, 1, 0]


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29))))
def test_clusters_are_the_connected_components(graph):
    left, right = (np.array([e[i] for e in graph], dtype=np.int64) for i in (0, 1))
    links = coo_array((np.ones(len(graph)), (left, right)), shape=(30, 30))
    expected = connected_components(links, directed=False)[1]
    assert clusters(Edges(left, right, np.ones(len(graph))), 30).tolist() == expected.tolist()


def test_a_long_chain_is_one_cluster():
    order = np.random.default_rng(0).permutation(3000)
    left, right = order[:-1], order[1:]
    assert clusters(Edges(left, right, np.ones(2999)), 3000).tolist() == [0] * 3000


def test_short_texts_must_agree_in_all():
    texts = ["what is the capital of france", "what is the capital of spain", "the sea"]
    rows = rows_of(prompt=[*texts, "The sea."])
    assert edges_of(rows) == [(0, 1), (2, 3)]
    assert edges_of(rows, Rule(0.35, 8, 40)) == [(2, 3)]


def test_the_least_index_falls_with_the_length():
    words = np.array([3, 8, 24, 40, 400])
    assert Rule(0.4, 8, 40).least(words).round(3).tolist() == [1, 1, 0.7, 0.4, 0.4]
    assert Rule(0.4, 0, 0).least(words).tolist() == [0.4] * 5


def test_only_rows_of_a_group_are_compared():
    same = " ".join(TEXT)
    rows = rows_of(prompt=[same] * 4, group=["p", "q", "p", "q"])
    assert edges_of(rows) == [(0, 2), (1, 3)]


def test_rows_of_a_large_group_meet_in_bands(monkeypatch):
    monkeypatch.setattr(pairs, "WINDOW", 2)
    texts = [" ".join(f"w{10 * i + j}" for j in range(10)) for i in range(9)]
    texts.append(texts[0] + " more")
    rows = rows_of(prompt=texts, group=["p"] * 10)
    assert edges_of(rows) == [(0, 9)]


def test_sides_are_matched_in_the_better_way():
    a, b, c = (" ".join(f"{x}{i}" for i in range(12)) for x in "abc")
    rows = rows_of(prompt=["q"] * 4, chosen=[a, b, a, a], rejected=[b, a, c, b])
    found = near_edges(rows, ALL)
    assert list(zip(found.left, found.right, strict=True)) == [(0, 1), (0, 3)]
    like = similarity(rows.parts, found.left, found.right, ALL)
    assert like.crossed.tolist() == [True, False]
    # one shared answer of two is no near-duplicate, though a third of the shingles agree
    assert not similarity(rows.parts, np.array([0]), np.array([2]), ALL).near[0]


def test_pairs_of_one_kind_with_the_other():
    a, b = (" ".join(f"{x}{i}" for i in range(12)) for x in "ab")
    rows = rows_of(prompt=[a, a, b, a, b + " more", a])
    theirs = np.array([True, True, True, False, False, False])
    assert edges_of(rows, others=theirs) == [(0, 3), (0, 5), (2, 4)]


def test_rows_beyond_the_window_meet_in_another_order(monkeypatch):
    monkeypatch.setattr(pairs, "WINDOW", 4)
    rng = np.random.default_rng(0)
    texts = []
    for i in range(60):  # all share an opening, so the buckets of its shingles are long
        own = " ".join(f"w{i}_{j}" for j in range(30))
        texts.append("i am sorry but i can not help you with that because " + own)
    copies = rng.permutation(60)[:20]
    texts += [texts[i].replace(f"w{i}_3 ", "x ") for i in copies]
    found = edges_of(rows_of(prompt=texts))
    assert sorted(found) == sorted((int(i), 60 + k) for k, i in enumerate(copies))


@pytest.mark.parametrize("n", [0, 1])
def test_no_pairs(n):
    rows = rows_of(prompt=["a b c"] * n)
    assert edges_of(rows) == []
    assert clusters(near_edges(rows, ALL), n).tolist() == [0] * n
    assert edges_of(rows, others=np.zeros(n, dtype=bool)) == []


@given(WORDS, st.lists(st.integers(0, 14), max_size=3))
def test_shards_change_nothing(texts, cuts):
    cuts = sorted(min(c, len(texts)) for c in cuts)
    assert edges_of(rows_of(prompt=texts, cuts=cuts)) == edges_of(rows_of(prompt=texts))


def changed(rng, words, share):
    words = list(words)
    for at in rng.permutation(len(words))[: round(share * len(words))]:
        words[at] = f"new{rng.integers(10**9)}"
    return words


@pytest.mark.parametrize(("words", "share"), [(60, 0.2), (200, 0.2), (200, 0.1)])
def test_recall_with_a_share_of_the_words_changed(words, share):
    rng = np.random.default_rng(words)
    # words of a Zipf law: common ones are shared by all texts
    texts = [[f"w{w}" for w in rng.zipf(1.3, words)] for _ in range(300)]
    copies = [changed(rng, t, share) for t in texts]
    rows = rows_of(prompt=[" ".join(t) for t in texts + copies])
    found = set(edges_of(rows, Rule(0.35)))
    wanted = {(i, i + 300) for i in range(300)}
    assert len(found & wanted) >= 0.95 * 300
    assert len(found - wanted) <= 3


@given(WORDS, st.lists(st.sampled_from("pq"), min_size=14, max_size=14))
def test_linking_edges_have_the_clusters_of_all_edges(texts, group):
    for rows in (rows_of(prompt=texts), rows_of(prompt=texts, group=group[: len(texts)])):
        every, linking = near_edges(rows, ALL), linking_edges(rows, ALL)
        same = clusters(linking, len(texts)) == clusters(every, len(texts))
        assert same.all()
        pairs = set(zip(every.left, every.right, every.jaccard, strict=True))
        assert set(zip(linking.left, linking.right, linking.jaccard, strict=True)) <= pairs
        assert linking.left.size <= every.left.size


def test_piles_of_near_copies_are_linked_by_few_pairs():
    rng = np.random.default_rng(0)
    piles = [[f"w{w}" for w in rng.integers(9999, size=40)] for _ in range(5)]
    texts = [" ".join(changed(rng, pile, 0.03)) for pile in piles for _ in range(60)]
    rows = rows_of(prompt=texts)
    every, linking = near_edges(rows, Rule(0.35)), linking_edges(rows, Rule(0.35))
    assert clusters(linking, 300).tolist() == clusters(every, 300).tolist()
    assert clusters(linking, 300).tolist() == np.repeat(range(5), 60).tolist()
    assert 295 <= linking.left.size < 320 < every.left.size / 10


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 4)))
def test_rows_of_four_are_summed(rows):
    counts = np.array(rows, dtype=np.uint8).reshape(-1, 4)
    assert _sum_of_four(counts).tolist() == [sum(row) for row in rows]

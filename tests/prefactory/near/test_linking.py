"""Links of runs of rows, two by two, are those of all rows."""

import itertools
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefactory.near import linking, pairs
from prefactory.near.likeness import Rule
from prefactory.near.linking import (
    bands_of,
    every_link,
    forest,
    linking_edges,
    links,
    links_of,
)
from prefactory.near.minhash import banding
from prefactory.near.pairs import (
    Meeting,
    equal_sets,
    least_index,
    near_edges,
    read_rows,
    reduce_texts,
)

CUT = banding(0.35, 0.95)
RULE = Rule(0.35, 2, 8)


def some_texts(n, seed):
    """Copies of few texts with some words changed: many that meet, are near, and make chains."""
    rng = random.Random(seed)
    base = [[rng.choice("abcdefghij") * 2 for _ in range(12)] for _ in range(n // 6 + 1)]
    texts = []
    for _ in range(n):
        words = list(rng.choice(base))
        for _ in range(rng.randrange(6)):
            words[rng.randrange(12)] = rng.choice("abcdefghijklmnop")
        texts.append(" ".join(words))
    return pl.Series(texts, dtype=pl.String)


def met_in(table, group, run):
    """Links of equal sets; and what says of some runs their rows, and which of them meet."""
    rows = read_rows(table, CUT, group)
    left, right, first = equal_sets(rows.digest, rows.group)
    meeting = Meeting.of(rows, least_index(rows, RULE))
    bands = list(bands_of(meeting, np.flatnonzero(first)))

    def of(runs):
        here = np.flatnonzero(np.isin(run, runs))
        return here, [
            (np.searchsorted(here, some[mine]), place[mine])
            for some, place in bands
            for mine in [np.isin(some, here)]
        ]

    return links_of(left, right, np.ones(left.size), 0), of


def cut_links(table, group, run):
    """Every link of rows that are compared run by run, and two runs at a time."""
    equal, met_of = met_in(table, group, run)
    found, numbers = [equal], np.unique(run).tolist()
    for runs in [*([i] for i in numbers), *itertools.combinations(numbers, 2)]:
        here, met = met_of(runs)
        side = run[here] == runs[0] if len(runs) > 1 else None
        own = every_link(read_rows(table[here].drop("bands"), CUT), RULE, met, side)
        found.append(own._replace(left=here[own.left], right=here[own.right]))
    every = [np.concatenate(column) for column in zip(*found, strict=True)]
    order = np.lexsort((every[1], every[0]))
    return [column[order] for column in every[:3]]


def cut_forest(table, group, run):
    """The forest of rows that are compared run by run (numbers of runs), and two runs at a time."""
    equal, met_of = met_in(table, group, run)
    found = [equal]

    def of(runs, known=None):
        here, met = met_of(runs)
        side = None if known is None else run[here] == runs[0]
        known = None if known is None else forest(known).placed(here)
        own = links(read_rows(table[here].drop("bands"), CUT), RULE, met, known, side)
        kept = forest([own] if known is None else [known, own])
        return kept._replace(left=here[kept.left], right=here[kept.right])

    numbers = np.unique(run)
    alone = {i: of([i]) for i in numbers}
    for a, b in itertools.combinations(numbers, 2):
        both = of([a, b], [alone[a], alone[b]])
        found.append(both.some(run[both.left] != run[both.right]))
    return forest([*found, *alone.values()]).edges


@pytest.fixture(params=[3, 64])
def window(request, monkeypatch):
    """Also one that buckets of few rows are larger than."""
    for module in (pairs, linking):
        monkeypatch.setattr(module, "WINDOW", request.param)
    monkeypatch.setattr(linking, "TURNS", request.param + 1)
    return request.param


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(0, 90), seed=st.integers(0, 10**6), runs=st.integers(1, 5),
    few=st.sampled_from([0, 1024]), groups=st.sampled_from([None, 1, 3]),
)  # fmt: skip
@pytest.mark.usefixtures("window")
def test_runs_change_no_link(n, seed, runs, few, groups):
    table = reduce_texts({"prompt": some_texts(n, seed)}, 2, CUT)
    rng = np.random.default_rng(seed)
    group = None if groups is None else "group"
    if groups is not None:
        table = table.with_columns(group=pl.Series(rng.integers(groups, size=n).astype(str)))
    kept, linking.FEW = linking.FEW, few
    try:
        whole = linking_edges(read_rows(table, CUT, group), RULE)
        pieces = cut_forest(table, group, rng.integers(runs, size=n))
    finally:
        linking.FEW = kept
    for one, other in zip(whole, pieces, strict=True):
        assert one.tolist() == other.tolist()


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(0, 90), seed=st.integers(0, 10**6), runs=st.integers(1, 5),
    groups=st.sampled_from([None, 1, 3]),
)  # fmt: skip
@pytest.mark.usefixtures("window")
def test_every_link_is_found_in_runs(n, seed, runs, groups):
    table = reduce_texts({"prompt": some_texts(n, seed)}, 2, CUT)
    rng = np.random.default_rng(seed)
    group = None if groups is None else "group"
    if groups is not None:
        table = table.with_columns(group=pl.Series(rng.integers(groups, size=n).astype(str)))
    whole = near_edges(read_rows(table, CUT, group), RULE)
    for one, other in zip(whole, cut_links(table, group, rng.integers(runs, size=n)), strict=True):
        assert one.tolist() == other.tolist()


def test_links_say_which_turn_came_first():
    pairs_of = np.array([[0, 1, 2], [1, 2, 0]])
    found = links_of(*pairs_of, np.array([0.5, 0.6, 0.7]), np.array([9, 3, 4]))
    kept = forest([found])
    assert list(zip(*(c.tolist() for c in kept), strict=True)) == [(0, 2, 0.7, 4), (1, 2, 0.6, 3)]
    assert forest([]).left.size == 0


def test_pairs_that_are_joined_are_not_compared(monkeypatch):
    compared = []

    def counted(parts, left, right, rule):
        compared.append(left.size)
        return similarity(parts, left, right, rule)

    similarity = linking.similarity
    monkeypatch.setattr(linking, "similarity", counted)
    rng = random.Random(0)
    words = [f"w{rng.randrange(10**6)}" for _ in range(60)]
    texts = [" ".join([*words[:at], "x", *words[at + 1 :]]) for at in range(60)]
    table = reduce_texts({"prompt": pl.Series(texts)}, 2, CUT)
    cut_forest(table, None, np.arange(60) % 4)
    assert 59 <= sum(compared) < 300, "of 1770 pairs"

import itertools
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.splits import (
    Linked,
    cluster_groups,
    group_key,
    group_prompts,
    reduce_prompts,
    with_split,
)
from catalog.splits import test_prompts as cut_prompts
from prefactory.orders import Site, do
from prefactory.store import Store
from tests.helpers import assistant, content, messages, prompts, system, user


def keys(*conversations):
    table = pl.DataFrame({"prompt": messages(*conversations)})
    return table.select(group_key(pl.col("prompt"))).to_series().to_list()


def test_conversations_that_open_alike_are_one_group():
    found = keys(
        [user("What is  Rust?")],
        [system("Be brief."), user("what is rust")],
        [user("What is Rust?!"), assistant("A language."), user("And Go?")],
        [user("\uff37hat is \uff52ust")],  # full-width letters
    )
    assert found == ["what is rust"] * 4


def test_other_openings_are_other_groups():
    found = keys(
        [user("a b")], [user("ab")], [user("?!")], [user("!")], [user("")], [], [user("שלום")]
    )
    assert found == ["a b", "ab", "?!", "!", "", "", "שלום"]


TEXTS = st.lists(st.text("aAbB ?", max_size=4), max_size=20)


@given(TEXTS, st.integers(0, 5))
def test_groups_do_not_straddle_splits(texts, seed):
    table = prompts(*texts)
    found = with_split(table, 0.5, seed).with_columns(group_key(pl.col("prompt")).alias("group"))
    assert (
        found.group_by("group").agg(pl.col("split").n_unique())["split"].to_list()
        == [1] * found["group"].n_unique()
    )
    assert set(found["split"]) <= {"train", "test"}


@given(TEXTS, st.integers(0, 20))
def test_the_split_of_a_row_does_not_depend_on_the_others(texts, cut):
    table = prompts(*texts)
    pieces = [with_split(t, 0.5, 0) for t in (table[:cut], table[cut:])]
    assert pl.concat(pieces).equals(with_split(table, 0.5, 0))


@pytest.mark.parametrize(("fraction", "low", "high"), [(0, 0, 0), (0.1, 60, 140), (0.5, 430, 570)])
def test_the_share_of_the_test_split(fraction, low, high):
    table = prompts(*[f"question {i}" for i in range(1000)])
    found = [with_split(table, fraction, seed)["split"].to_list() for seed in (0, 1)]
    assert all(low <= split.count("test") <= high for split in found)
    assert (found[0] != found[1]) == (fraction > 0)


def test_a_larger_test_split_holds_the_smaller():
    table = prompts(*[f"question {i}" for i in range(200)])
    small, large = (
        set(content(with_split(table, f, 3).filter(split="test"), "prompt")) for f in (0.1, 0.4)
    )
    assert small < large


# -- clusters of near-duplicates -----

RIVER = "the river runs slowly past the old mill and then turns south to meet the grey sea again "
RIVER += "while herons stand in the reeds and wait for the evening wind to bring some rain at last"


def changed(text, *places):
    words = text.split()
    for at in places:
        words[at] = f"new{at}"
    return " ".join(words)


def near(table, fraction=0.5, cuts=()):
    edges = [0, *cuts, table.height]
    pieces = [table[a:b] for a, b in itertools.pairwise(edges)]
    return cluster_groups(map(reduce_prompts, pieces), fraction)


def test_near_duplicates_are_a_cluster_and_others_are_not_listed():
    table = prompts(RIVER, changed(RIVER, 3, 9, 20), RIVER.upper() + "!", "what is rust", "why")
    found = near(table)
    assert found.height == 2  # the third is the first when folded
    assert found["cluster"].to_list() == [found["group"].min()] * 2
    assert found["large"].to_list() == [False] * 2


@pytest.mark.parametrize("seed", range(12))
def test_a_cluster_does_not_straddle_splits(seed):
    texts = [RIVER, *[changed(RIVER, i, i + 11) for i in range(5)]]
    others = [f"question number {i} about {i * 7}" for i in range(60)]
    table = prompts(*texts, *others)
    cut = with_split(table, 0.5, seed, near(table))
    assert cut["split"][: len(texts)].n_unique() == 1
    plain = with_split(table, 0.5, seed)
    assert cut["split"][len(texts) :].to_list() == plain["split"][len(texts) :].to_list()


def test_clusters_land_on_both_sides():
    texts = [RIVER, changed(RIVER, 4, 14)]
    table = prompts(*texts, *[f"question number {i} about {i * 7}" for i in range(60)])
    sides = {with_split(table, 0.5, s, near(table))["split"][0] for s in range(20)}
    assert sides == {"train", "test"}


def test_a_cluster_that_would_fill_the_test_split_is_in_train():
    texts = [changed(RIVER, i % 30, 30 + i // 30) for i in range(90)]
    table = prompts(*texts, *[f"question number {i} about {i * 7}" for i in range(110)])
    found = near(table, 0.2)
    assert found.height == 90
    assert found["large"].all()
    for seed in range(8):
        cut = with_split(table, 0.2, seed, found)
        assert set(cut["split"][:90]) == {"train"}
        assert "test" in set(cut["split"][90:])


@given(TEXTS, st.integers(0, 20), st.integers(0, 3))
def test_pieces_and_order_change_no_cluster(texts, cut, seed):
    table = prompts(RIVER, changed(RIVER, 5), *texts)
    shuffled = table.sample(table.height, shuffle=True, seed=seed)
    assert near(shuffled, cuts=[min(cut, table.height)]).equals(near(table))


def test_no_groups():
    assert cluster_groups([], 0.1).height == 0
    assert near(prompts()).height == 0
    assert with_split(prompts(), 0.1, 0, near(prompts())).height == 0


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 60), st.integers(0, 10**6), st.integers(1, 30), st.integers(4, 30))
def test_groups_whose_hashes_lie_on_the_disk_are_cut_alike(n, seed, size, most):
    rng = random.Random(seed)
    kinds = [[f"{k}{i}" for i in range(20)] for k in "abcdefg"]
    texts = [" ".join([*rng.choice(kinds), rng.choice(["", "Yes", "yes!"])]) for _ in range(n)]
    texts = [changed(t, *rng.sample(range(20), rng.randrange(5))) for t in texts]
    table = prompts(*texts, *[f"question number {i} about {i * 7}" for i in range(9)])
    table = table.sample(fraction=1.0, shuffle=True, seed=seed)  # a group in several pieces

    def test(most):
        pieces = [group_prompts(p, near=True, of=i) for i, p in enumerate(table.iter_slices(size))]
        with tempfile.TemporaryDirectory() as folder:
            site = Site(None, [], Store(Path(folder)))
            with ThreadPoolExecutor(3) as pool:

                def make(name, orders):
                    rng.shuffle(orders)
                    list(pool.map(lambda order: do(order, site), orders))

                linked = Linked(site.store, make, most)
                ids = cut_prompts(pieces, 0.3, seed, linked).sort()
                assert cut_prompts(pieces, 0.3, seed, linked).sort().equals(ids)
            lie = any(Path(folder).rglob("part.arrow"))
        return ids.to_list(), lie

    whole, cut = test(1000), test(most)
    assert cut[0] == whole[0]
    assert not whole[1]
    assert cut[1] == (sum(group_prompts(p, near=True, of=0).hashes.height for p in
                          table.iter_slices(size)) > most)  # fmt: skip

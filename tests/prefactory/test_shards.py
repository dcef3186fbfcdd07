from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefactory.shards import (
    Delta,
    Part,
    Shard,
    View,
    cut,
    gather,
    list_parts,
    listed_parts,
    load,
    score_columns_after,
    without_copies,
)
from prefactory.store import Store
from prefactory.tables import Shape, canonical_order
from tests.helpers import content, pairs

TABLE = canonical_order(pairs(*[(f"p{i}", "c", "r") for i in range(10)]), Shape.PAIRS)
BASE = "b" * 32


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    put(store, BASE, rows=TABLE)
    return store


def put(store, key, **tables):
    with store.write(key) as writer:
        for name, table in tables.items():
            writer.table(name, table)


@given(st.integers(0, 5000), st.integers(1, 6000))
def test_ranges_cover_every_id_once(total, shard_rows):
    ranges = cut(total, shard_rows)
    assert len(ranges) == max(1, -(-total // shard_rows))
    assert ranges[0][0] == "0" * 32
    assert ranges[-1][1] > "f" * 32
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    assert ranges == sorted(set(ranges))


def test_deltas_are_applied_in_order(store):
    ids = TABLE["pair_id"]
    put(store, "1" * 32, ledger=pl.DataFrame({"row_id": [ids[0], ids[3]]}))
    kept = ids.filter(~ids.is_in([ids[0], ids[3]]))
    put(store, "2" * 32, columns=pl.DataFrame({"pair_id": kept, "x": range(8)}))
    put(store, "3" * 32, ledger=pl.DataFrame({"row_id": [ids[1]]}))
    shard = (
        Shard(BASE, 10, tuple(TABLE.columns))
        .with_delta(Delta("drop", "1" * 32), 8)
        .with_delta(Delta("columns", "2" * 32), 8, ("x",))
        .with_delta(Delta("drop", "3" * 32), 7)
    )
    found = load(store, shard, Shape.PAIRS)
    assert found["x"].to_list() == [1, 2, 3, 4, 5, 6, 7]
    assert found["pair_id"].equals(kept.slice(1))
    assert (found.height, tuple(found.columns)) == (shard.rows, shard.columns)


def test_some_columns_are_those_of_all(store):
    ids = TABLE["pair_id"]
    put(store, "1" * 32, columns=pl.DataFrame({"pair_id": ids, "x": range(10), "y": range(10)}))
    put(store, "2" * 32, ledger=pl.DataFrame({"row_id": [ids[4]]}))
    shard = (
        Shard(BASE, 10, tuple(TABLE.columns))
        .with_delta(Delta("drop", "0" * 32, empty=True), 10)  # nothing is read of it
        .with_delta(Delta("columns", "1" * 32), 10, ("x", "y"))
        .with_delta(Delta("drop", "2" * 32), 9)
    )
    found = load(store, shard, Shape.PAIRS, ["y", "prompt", "absent"])
    assert found.equals(load(store, shard, Shape.PAIRS).select("pair_id", "prompt", "y"))
    view = View(store, Shape.PAIRS, (shard,), Shape.PAIRS)
    assert list(view.map(lambda table: table.columns, columns=["x"])) == [["pair_id", "x"]]
    answers = View(store, Shape.RESPONSES, (shard,), Shape.PAIRS)
    (only,) = answers.map(lambda table: table, columns=["response_id"])
    assert only["response_id"].equals(next(answers.tables())["response_id"])


def test_columns_are_joined_by_id_never_by_position(store):
    new = pl.DataFrame({"pair_id": TABLE["pair_id"], "x": range(10)}).reverse()
    put(store, "1" * 32, columns=new)
    shard = Shard(BASE, 10, ()).with_delta(Delta("columns", "1" * 32), 10, ("x",))
    assert load(store, shard, Shape.PAIRS)["x"].to_list() == list(range(10))


def test_the_key_of_a_shard_is_its_history():
    shard = Shard(BASE, 10, ())
    one, two = Delta("drop", "1" * 32), Delta("columns", "2" * 32)
    histories = [
        shard,
        shard.with_delta(one, 9),
        shard.with_delta(two, 10),
        shard.with_delta(one, 9).with_delta(two, 9),
        shard.with_delta(two, 9).with_delta(one, 9),
        Shard("c" * 32, 10, ()),
    ]
    assert len({s.key for s in histories}) == len(histories)
    assert shard.with_delta(one, 9).key == shard.with_delta(one, 3, ("x",)).key


def parts_of(store, tables):
    parts = []
    for i, table in enumerate(tables):
        put(store, f"{i:032x}", rows=table.sort("prompt_id", maintain_order=True))
        parts.append(Part(f"{i:032x}", "rows", table.height))
    return parts


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 4), st.randoms())
def test_gathering_all_ranges_gives_the_table_in_order(tmp_path_factory, shard_rows, n, random):
    store = Store(tmp_path_factory.mktemp("store"))
    order = list(range(10))
    random.shuffle(order)
    parts = parts_of(store, [TABLE[order][i::n] for i in range(n)])
    pieces = [gather(store, parts, *r, Shape.PAIRS) for r in cut(10, shard_rows)]
    assert pl.concat(pieces).equals(TABLE)


def test_an_empty_range_has_the_columns(store):
    parts = parts_of(store, [TABLE])
    found = gather(store, parts, "0" * 32, "0" * 31 + "1", Shape.PAIRS)
    assert found.schema == TABLE.schema
    assert found.height == 0


def test_the_first_copy_stays_and_the_others_are_accounted_for(store):
    one = pairs(("p", "c", "r"), ("q", "c", "r"), source="b")
    two = pairs(("p", "c", "r"), source="a", first_id=5)
    three = pairs(("p", "c", "r"), source="a", first_id=3)
    everything = gather(store, parts_of(store, [one, two, three]), "0", "g", Shape.PAIRS)
    rows, copies = without_copies(everything, Shape.PAIRS, "source")
    assert sorted(zip(content(rows, "prompt"), rows["source_id"], strict=True)) == [
        ("p", "a:3"),
        ("q", "b:1"),
    ]
    same = f"same content as {one['pair_id'][0]}"
    assert copies.rows() == [
        ("a:5", "source", "duplicate_row", same),
        ("b:0", "source", "duplicate_row", same),
    ]


def test_copies_from_one_place_stay_in_the_order_of_the_parts(store):
    tables = [
        pairs(*[(f"p{j}", "c", "r") for j in range(100)], margin=[float(i)] * 100) for i in range(3)
    ]
    tables = [t.with_columns(source_id=pl.lit("same")) for t in tables]
    for order in ((0, 1, 2), (2, 0, 1)):
        folder = Store(store.root / str(order))
        parts = parts_of(folder, [tables[i] for i in order])
        rows, _ = without_copies(gather(folder, parts, "0", "g", Shape.PAIRS), Shape.PAIRS, "s")
        assert set(rows["margin"]) == {float(order[0])}


def test_a_view_of_pairs_as_their_responses(store):
    shards = (Shard(BASE, 10, tuple(TABLE.columns)),)
    view = View(store, Shape.RESPONSES, shards, Shape.PAIRS)
    (found,) = view.tables()
    assert found.height == 20
    assert view.columns == tuple(found.columns)
    assert View(store, Shape.PAIRS, shards, Shape.PAIRS).columns == tuple(TABLE.columns)


def test_scores_that_a_generator_carries_over():
    columns = ("response_id", "score_a", "model")
    sides = ("chosen_score_a", "rejected_score_a")
    assert score_columns_after(columns, Shape.RESPONSES, Shape.PAIRS) == sides
    assert score_columns_after(columns, Shape.RESPONSES, Shape.RESPONSES) == columns
    assert score_columns_after(columns, Shape.PROMPTS, Shape.RESPONSES) == columns
    assert score_columns_after(columns, Shape.RESPONSES, Shape.PROMPTS) == ()


def test_a_list_of_parts_is_read_as_it_was_kept(store):
    parts = [Part(f"{i:032x}", f"rows-{i:05d}", i) for i in range(3)]
    for _ in range(2):
        assert listed_parts(store, list_parts(store, "e" * 32, parts)) == parts
    assert listed_parts(store, list_parts(store, "f" * 32, [])) == []

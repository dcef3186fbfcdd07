"""Shards: a table cut by ranges of `prompt_id`, each a base object plus small deltas.

A filter adds a delta of dropped ids, a labeler one of new columns: no step writes again what an
earlier one wrote. All rows of a prompt are in one shard, and the shards in order are the table in
canonical order, so the number of shards changes nothing but the cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeVar

import polars as pl

from prefactory import ledger
from prefactory.ahead import in_order
from prefactory.identity import fingerprint
from prefactory.preferences.draws import count_draws
from prefactory.store import Store
from prefactory.tables import (
    OF_PROMPT,
    ROW_ID,
    SIDES,
    Shape,
    answer_weights,
    canonical_order,
    same_messages,
    stacked,
    unpair,
)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Delta:
    """One step's change of a shard: ids that leave (`drop`) or columns that arrive (`columns`).

    Attributes:
        empty: no id leaves, so that there is nothing to read.
    """

    kind: Literal["drop", "columns"]
    key: str
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of the table.

    Attributes:
        base: store key of the rows (table `rows`).
        deltas: changes since, oldest first.
        rows: number of rows after all deltas.
        columns: its columns after all deltas.
    """

    base: str
    rows: int
    columns: tuple[str, ...]
    deltas: tuple[Delta, ...] = ()

    @property
    def key(self) -> str:
        """Address of the shard's present content."""
        return fingerprint([self.base, [[d.kind, d.key] for d in self.deltas]])

    def with_delta(self, delta: Delta, rows: int, columns: tuple[str, ...] = ()) -> Shard:
        """The shard after one more change."""
        deltas = (*self.deltas, delta)
        return replace(self, deltas=deltas, rows=rows, columns=(*self.columns, *columns))


def load(
    store: Store, shard: Shard, shape: Shape, columns: Collection[str] | None = None
) -> pl.DataFrame:
    """Read a shard: its base rows, memory-mapped, with all deltas applied.

    Rows are cut once, however many steps dropped some.

    Args:
        store: where it lies.
        shard: what to read.
        shape: of its rows.
        columns: the only ones to read beside the row id, of those that it has; None reads all.
    """
    row_id = ROW_ID[shape]

    def read(key: str, name: str) -> pl.DataFrame:
        rows = store.read(key, name)
        return rows.select(c for c in rows.columns if columns is None or c in {row_id, *columns})

    dropped: tuple[str, ...] = ()
    arrived: list[tuple[pl.DataFrame, pl.Series]] = []
    for delta in shard.deltas:
        if delta.kind == "columns":
            stay = _stays(store, shard.base, row_id, dropped)
            arrived.append((read(delta.key, "columns"), stay))
        elif not delta.empty:
            dropped = (*dropped, delta.key)
    stays = _stays(store, shard.base, row_id, dropped)
    table = read(shard.base, "rows")
    table = table.filter(stays)
    for new, before in arrived:
        if new.height == before.sum():
            new = new.filter(stays.filter(before))
        if new.height == table.height and new[row_id].equals(table[row_id]):
            table = table.hstack(new.drop(row_id).get_columns())
        else:
            table = table.join(new, on=row_id, how="left", maintain_order="left")
    return table


@lru_cache(512)  # each step and each part of publishing asks again: some kilobytes a shard
def _stays(store: Store, base: str, row_id: str, dropped: tuple[str, ...]) -> pl.Series:
    """Which rows of a base object are left after some deltas that drop, Boolean[n]."""
    ids = store.read(base, "rows", [row_id])[row_id]
    if not dropped:
        return pl.repeat(value=True, n=ids.len(), eager=True)
    lost = store.read(dropped[-1], "ledger", ["row_id"])["row_id"]
    return _stays(store, base, row_id, dropped[:-1]) & ~ids.is_in(lost.implode())


def load_prompts(store: Store, shard: Shard, shape: Shape) -> pl.DataFrame:
    """`prompt_id` and `prompt` of a shard, each distinct id once: reads nothing else."""
    table = load(store, shard, shape, ("prompt_id", "prompt"))
    table = table.unique("prompt_id", keep="first", maintain_order=True)
    return table.select("prompt_id", "prompt")


@dataclass(frozen=True)
class View:
    """A whole table of the run, read shard by shard in canonical order.

    Attributes:
        shape: of the rows that it yields.
        shards: the shards behind it.
        stored: shape of the shards; pairs can be viewed as their responses.
    """

    store: Store
    shape: Shape
    shards: tuple[Shard, ...]
    stored: Shape

    def tables(self) -> Iterator[pl.DataFrame]:
        """Yield the table in pieces, in canonical order."""
        yield from map(self._table, self.shards)

    def map(
        self,
        work: Callable[[pl.DataFrame], R],
        ahead: int = 2,
        columns: Collection[str] | None = None,
    ) -> Iterator[R]:
        """Yield `work` of each piece, in canonical order, some pieces ahead in threads.

        Args:
            work: of a piece.
            ahead: pieces.
            columns: the only ones that it needs beside the row id; None gives all. Answers of pairs
                always have all.
        """
        return in_order(iter(self.shards), lambda shard: work(self._table(shard, columns)), ahead)

    def _table(self, shard: Shard, columns: Collection[str] | None = None) -> pl.DataFrame:
        if self.stored == self.shape:
            return load(self.store, shard, self.stored, columns)
        table = load(self.store, shard, self.stored)
        return unpair(table, answer_weights(table.columns))  # from all columns of the pairs

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the yielded tables."""
        return tuple(next(self.tables()).columns)


def cut(total: int, shard_rows: int) -> list[tuple[str, str]]:
    """Ranges [low, high) of `prompt_id` (32 hex digits) that cut a table into shards."""
    n = max(1, math.ceil(total / shard_rows))
    edges = [f"{i * 2**128 // n:032x}" for i in range(n)]
    return list(zip(edges, [*edges[1:], "g"], strict=True))


def in_runs(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Runs [first, last) of neighbours that hold at most so many rows together, or are one."""
    runs, first, held = list[tuple[int, int]](), 0, 0
    for i, size in enumerate(sizes):
        if i > first and held + size > most:
            runs.append((first, i))
            first, held = i, 0
        held += size
    return [*runs, (first, len(sizes))]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows sorted by `prompt_id`, on their way into shards: table `table` of object `key`."""

    key: str
    table: str
    rows: int


MANY_PARTS = 1000
"""Parts from which on their list lies in the store."""
_PARTS = pl.Schema({"key": pl.String, "table": pl.String, "rows": pl.Int64})


def list_parts(store: Store, key: str, parts: Sequence[Part]) -> str:
    """Keep a list of parts in the store, under this key, unless it is there; the key."""
    if store.open(key) is None:
        rows = [(part.key, part.table, part.rows) for part in parts]
        with store.write(key) as writer:
            writer.table("parts", pl.DataFrame(rows, _PARTS, orient="row"))
    return key


def listed_parts(store: Store, key: str) -> list[Part]:
    """The parts of such a list."""
    return [Part(*row) for row in store.read(key, "parts").iter_rows()]


def gather(store: Store, parts: Sequence[Part], low: str, high: str, shape: Shape) -> pl.DataFrame:
    """Collect the rows of one range from all parts, in canonical order (copies still in)."""
    pieces: list[pl.DataFrame] = []
    dtypes: dict[str, pl.DataType] = {}
    edges = pl.Series([low, high])
    for part in parts:
        rows = store.read(part.key, part.table)
        start, stop = rows["prompt_id"].search_sorted(edges, side="left")
        dtypes |= {str(rows.schema["prompt"]): rows.schema["prompt"]}
        if stop > start or not pieces:
            pieces.append(rows.slice(start, stop - start))
    tie = [c for c in ("source", "source_id") if c in pieces[0].columns]
    table = same_messages(stacked(pieces), dtypes.values())  # as wide in all shards
    return table.sort("prompt_id", ROW_ID[shape], *tie, maintain_order=True)


def without_copies(
    table: pl.DataFrame, shape: Shape, label: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keep the first of rows with the same id; the others become ledger rows `duplicate_row`.

    Draws of one pair are counted first (see `count_draws`); those rows leave as `counted_draw`.
    """
    drawn = ledger.empty()
    if shape == Shape.PAIRS:
        table, gone = count_draws(table)
        drawn = ledger.entries(gone, label) if gone.height else drawn
    row_id = ROW_ID[shape]
    first = pl.col(row_id).is_first_distinct()
    copies = table.filter(~first).select(
        pl.col("source_id").alias("row_id"),
        pl.lit("duplicate_row").alias("reason"),
        pl.concat_str(pl.lit("same content as "), pl.col(row_id)).alias("detail"),
    )
    if copies.height == 0:
        return canonical_order(table, shape), drawn
    left = pl.concat([drawn, ledger.entries(copies, label)])
    return canonical_order(table.filter(first), shape), left


def score_columns_after(columns: tuple[str, ...], shape: Shape, out: Shape) -> tuple[str, ...]:
    """Columns that a generator carries over: all of prompts; from answers to pairs only some.

    These are the scores, and what belongs to the prompt.
    """
    scores = [c for c in columns if c.removeprefix("chosen_").startswith("score_")]
    if shape == Shape.RESPONSES and out == Shape.PAIRS:
        sided = [f"{side}_{c}" for side in SIDES for c in scores]
        return (*(c for c in OF_PROMPT if c in columns), *sided)
    return columns if shape in (out, Shape.PROMPTS) else ()

"""Rows stay that bring new tags, those with most tags first: InsTag."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import Field

from filters.selection.baseline import Measure
from filters.selection.places import I64, Places
from filters.selection.selector import Chosen, Selector
from prefactory.context import Context
from prefactory.tables import Shape, digests


class InsTag(Selector):
    """Keep rows by complexity-first diverse sampling over tags (InsTag, arXiv:2308.07074).

    Rows with most tags come first; in each pass a row is kept if it brings a tag that no row kept
    in this pass has. Passes go on until the budget is met; rows without a tag come last. It
    favours rows with many tags strongly, and a tagger that says much.

    Baseline: `tag coverage`, the share of all tags that a kept row has.

    Attributes:
        tags: a column of lists of tags (List(String)), such as `tags` of `labelers.MergeTags` or
            `tag_free` of `labelers.PromptTags`. A row without a list has no tags.

    Example:
        - filters.InsTag: {rows: 10}
    """

    tags: str = Field(default="tags", min_length=1)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column of tags, List(String)."""
        return {**super().needs(shape), self.tags: pl.List(pl.String)}

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """`tags`: each tag of a row once, as 60 bits of its digest (List(Int64))."""
        rows = table.select(tags=pl.col(self.tags)).with_row_index("row")
        flat = rows.explode("tags").drop_nulls("tags").unique()
        names = flat["tags"].unique().sort()
        numbers = digests(names).str.slice(0, 15).str.to_integer(base=16, dtype=pl.Int64)
        known = pl.DataFrame({"tags": names, "number": numbers})
        numbered = flat.join(known, on="tags").group_by("row").agg(pl.col("number").sort())
        joined = rows.select("row").join(numbered, on="row", how="left", maintain_order="left")
        return [joined.select(tags=pl.col("number").fill_null([])).to_series()]

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says how many tags a row has."""
        flat = parts.select("tags").with_row_index("row").explode("tags").drop_nulls()
        owner: I64 = flat["row"].to_numpy().astype(np.int64)
        names, tag = np.unique(flat["tags"].to_numpy(), return_inverse=True)
        count = np.bincount(owner, minlength=parts.height)
        rows, passes = complexity_first(owner, tag.astype(np.int64), parts.height, places)

        def coverage(kept: I64) -> float:
            on_kept = np.isin(owner, kept)
            return float(np.unique(tag[on_kept]).size / names.size) if names.size else 1.0

        facts = {
            "tags": int(names.size),
            "passes": int(passes.max(initial=0)),
            "tags_a_row": float(count.mean()),
            "tags_a_kept_row": float(count[rows].mean()) if rows.size else None,
            "kept_without_a_new_tag": int((passes == 0).sum()),
        }
        measure = Measure("tag coverage", "higher", coverage)
        return Chosen(rows, measure, count.astype(np.float64), "tags", None, facts)


def complexity_first(owner: I64, tag: I64, n: int, places: Places) -> tuple[I64, I64]:
    """Go through rows, most tags first, and take each that brings a tag new in this pass.

    What counts as known is forgotten before each pass. When the rows that are left bring no tag at
    all, they are taken in the same order. Equally many tags: the first row.

    Args:
        owner: Int64[m], the row of each tag.
        tag: Int64[m], numbers of tags from 0; a (row, tag) pair comes once.
        n: rows.
        places: the budget; it is used up.

    Returns:
        Int64[k], the rows in the order taken, and Int64[k], the pass of each, from 1 (0: without
        a tag).
    """
    count = np.bincount(owner, minlength=n)
    order = np.argsort(-count, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    by_rank = np.argsort(rank[owner], kind="stable")
    ranked, tag = rank[owner][by_rank], tag[by_rank]
    start = np.searchsorted(ranked, np.arange(n + 1))
    by_tag = np.argsort(tag, kind="stable")
    member = ranked[by_tag]
    first = np.searchsorted(tag[by_tag], np.arange(int(tag.max(initial=-1)) + 2))
    taken: list[int] = []
    passes: list[int] = []
    number = 0
    while True:
        number += 1
        waiting = np.zeros(n, dtype=bool)
        waiting[rank[places.rows()]] = True
        new = np.where(waiting, count[order], 0)
        known = np.zeros(first.size - 1, dtype=bool)
        before, at = len(taken), 0
        while at < n and (step := int(np.argmax(new[at:] > 0))) + at < n and new[at + step] > 0:
            at += step
            row = int(order[at])
            if places.fit(order[at : at + 1])[0]:
                places.take(row)
                taken.append(row)
                passes.append(number)
                tags = tag[start[at] : start[at + 1]]
                for t in tags[~known[tags]]:
                    known[t] = True
                    np.subtract.at(new, member[first[t] : first[t + 1]], 1)
            at += 1
        if len(taken) == before:
            break
    rest = places.fill(order)
    rows = np.concatenate([np.asarray(taken, dtype=np.int64), rest])
    return rows, np.concatenate([np.asarray(passes, dtype=np.int64), np.zeros_like(rest)])

"""Rows stay that bring new tags, those with most tags first: InsTag."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import Field

from filters.selection.baseline import Measure
from filters.selection.places import I64, Places
from filters.selection.selector import Chosen, Selector
from filters.selection.tags import complexity_first
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
        found = flat.join(known, on="tags").group_by("row").agg(pl.col("number").sort())
        joined = rows.select("row").join(found, on="row", how="left", maintain_order="left")
        return [joined.select(tags=pl.col("number").fill_null([])).to_series()]

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says how many tags a row has."""
        flat = parts.select("tags").with_row_index("row").explode("tags").drop_nulls()
        owner: I64 = flat["row"].to_numpy().astype(np.int64)
        names, tag = np.unique(flat["tags"].to_numpy(), return_inverse=True)
        count = np.bincount(owner, minlength=parts.height)
        rows, passes = complexity_first(owner, tag.astype(np.int64), parts.height, places)

        def coverage(kept: I64) -> float:
            here = np.isin(owner, kept)
            return float(np.unique(tag[here]).size / names.size) if names.size else 1.0

        facts = {
            "tags": int(names.size),
            "passes": int(passes.max(initial=0)),
            "tags_a_row": float(count.mean()),
            "tags_a_kept_row": float(count[rows].mean()) if rows.size else None,
            "kept_without_a_new_tag": int((passes == 0).sum()),
        }
        measure = Measure("tag coverage", "higher", coverage)
        return Chosen(rows, measure, count.astype(np.float64), "tags", None, facts)

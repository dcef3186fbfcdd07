"""Search trees of a version: the column `tree` of what `generators.InstructionSearch` made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import polars as pl
import pydantic
from pydantic import BaseModel, ConfigDict, Field, model_validator

from catalog.versions import Version
from prefactory.errors import CatalogError, DataError

COLUMN = "tree"


COMPARES = {"rewriter", "level", "iterations", "output"}
"""Fields of a stage that grows and compares search trees."""


def by_luck(manifest: Mapping[str, Any]) -> list[str]:
    """How many trees would have written something had nothing helped, a sentence a search.

    A tree of equals writes with the probability `level`. Compared is what was not given up before.
    """
    sentences = []
    for stage in manifest.get("stages") or []:
        fields = stage.get("fields") or {}
        if not fields.keys() >= COMPARES or fields["output"] == "trees":
            continue
        lost = dict(stage.get("reasons") or {})
        wrote = int(stage.get("rows_in") or 0) - sum(lost.values())
        compared = wrote + lost.get("gap_not_confirmed", 0) + lost.get("no_gap", 0)
        level = fields["level"]
        if level is None:
            sentences.append(
                f"{stage.get('label')} writes any gap (level: null), so nothing tells luck from "
                f"merit in the {compared:,} trees that it compared."
            )
            continue
        kept = fields.get("unimproved") == "keep" and fields["output"] == "instructions"
        written = "" if kept else f"{wrote:,} wrote something, "
        sentences.append(
            f"{stage.get('label')} compared {compared:,} trees at level {level:g}: {written}about "
            f"{level * compared:,.1f} would have had nothing helped."
        )
    return sentences


class TreeNode(BaseModel):
    """One instruction of a tree.

    Attributes:
        parent: place of its parent; None for the root.
        action: the principle that made it.
        text: the instruction.
        visits: iterations that went through it.
        mean: of its scores in the search; None if it was never measured.
        scores, fresh, unseen: of the answers to it: in the search, measured again to choose, and
            for the margin of what was chosen.
        responses: the answers, if they were kept.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    parent: int | None
    action: str
    text: str
    visits: int = Field(ge=0)
    mean: float | None = None
    scores: tuple[float, ...] = ()
    fresh: tuple[float, ...] = ()
    unseen: tuple[float, ...] = ()
    responses: tuple[str, ...] = ()

    @property
    def fresh_mean(self) -> float | None:
        """Mean of the fresh scores."""
        return sum(self.fresh) / len(self.fresh) if self.fresh else None

    @property
    def unseen_mean(self) -> float | None:
        """Mean of the scores that chose nothing."""
        return sum(self.unseen) / len(self.unseen) if self.unseen else None


class SearchTree(BaseModel):
    """A finished tree, as it was published.

    Attributes:
        nodes: the root first, each after its parent.
        best: place of the best node by the search.
        chosen, rejected: places of the tree's first pair, if it has one.
        pairs: all of them.
        sd: standard deviation of one score within its node.
        iterations: that worked out.
        failed: action, reason and detail of those that did not.
        output: what the tree was grown for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    nodes: tuple[TreeNode, ...] = Field(min_length=1)
    best: int
    chosen: int | None = None
    rejected: int | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    sd: float | None = None
    iterations: int = 0
    failed: tuple[tuple[str, str, str], ...] = ()
    output: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for index, node in enumerate(self.nodes):
            before = node.parent is not None and 0 <= node.parent < index
            if not (node.parent is None if index == 0 else before):
                raise ValueError(f"node {index} does not come after its parent")
        named = [self.best, self.chosen, self.rejected, *(p for pair in self.pairs for p in pair)]
        if any(index is not None and not 0 <= index < len(self.nodes) for index in named):
            raise ValueError("it names a node that it does not have")
        return self

    @cached_property
    def children(self) -> list[list[int]]:
        """Places of the children of each node."""
        children: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            if node.parent is not None:
                children[node.parent].append(index)
        return children

    @cached_property
    def depths(self) -> list[int]:
        """Steps from the root to each node."""
        depths: list[int] = []
        for node in self.nodes:
            depths.append(0 if node.parent is None else depths[node.parent] + 1)
        return depths

    @cached_property
    def marked(self) -> frozenset[int]:
        """The way from the root to the chosen node, or to the best one if none was chosen."""
        index: int | None = self.best if self.chosen is None else self.chosen
        way = []
        while index is not None:
            way.append(index)
            index = self.nodes[index].parent
        return frozenset(way)

    @cached_property
    def range(self) -> tuple[float, float]:
        """Lowest and highest mean."""
        means = [node.mean for node in self.nodes if node.mean is not None] or [0.0]
        return min(means), max(means)

    def share(self, index: int) -> float:
        """Where a node's mean lies between the lowest (0) and the highest (1) of the tree."""
        low, high = self.range
        mean = self.nodes[index].mean
        return 0.0 if mean is None or high <= low else (mean - low) / (high - low)


@dataclass(frozen=True)
class Kept:
    """A tree and the prompt that it grew from."""

    prompt_id: str
    source_id: str
    tree: SearchTree


def has_trees(version: Version) -> bool:
    """Tell whether a version keeps search trees."""
    return _table(version) is not None


def read_trees(version: Version, prompt: str | None = None, most: int | None = None) -> list[Kept]:
    """Read the trees of a version, by prompt id.

    Args:
        version: of a recipe with `generators.InstructionSearch`.
        prompt: only trees whose raw or new prompt's id begins so.
        most: only the first ones.

    Raises:
        CatalogError: the version keeps no trees, or none of that prompt.
        DataError: what it keeps is no tree.
    """
    table = _table(version)
    if table is None:
        raise CatalogError(
            f"{version.ref} keeps no search trees: none of its tables has the columns `{COLUMN}` "
            "and `parent_id`, which generators.InstructionSearch makes"
        )
    first: pl.DataFrame | None = None
    for rows in _rows(version, table, prompt):
        both = rows if first is None else pl.concat([first, rows])
        first = both.sort("parent_id", "prompt_id")
        first = first if most is None else first.head(most)
    if first is None or not first.height:
        of = f" of a prompt {prompt!r}" if prompt else ""
        raise CatalogError(f"{version.ref} has no tree{of}; without --prompt all are listed")
    return [
        Kept(parent, source or "", _parsed(text, parent))
        for parent, source, text in first.select("parent_id", "source_id", COLUMN).iter_rows()
    ]


def count_trees(version: Version) -> int:
    """Number of trees that a version keeps."""
    table = _table(version)
    return 0 if table is None else sum(rows.height for rows in _rows(version, table, None))


def _table(version: Version) -> str | None:
    for name, record in version.manifest.tables.items():
        if {COLUMN, "parent_id"} <= set(record.columns):
            return name
    return None


def _rows(version: Version, table: str, prompt: str | None) -> Iterator[pl.DataFrame]:
    columns = ["parent_id", "prompt_id", "source_id", COLUMN]
    for split in version.manifest.tables[table].splits:
        for batch in version.batches(table, split, columns):
            kept = batch.filter(pl.col(COLUMN).is_not_null())
            if prompt is not None:
                begins = [pl.col(c).str.starts_with(prompt) for c in ("parent_id", "prompt_id")]
                kept = kept.filter(pl.any_horizontal(begins))
            yield kept


def _parsed(text: str, prompt_id: str) -> SearchTree:
    try:
        return SearchTree.model_validate_json(text)
    except pydantic.ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        where = ".".join(map(str, mistake["loc"]))
        raise DataError(
            f"the column `{COLUMN}` of prompt {prompt_id} holds no search tree: "
            f"{where + ': ' if where else ''}{mistake['msg'].removeprefix('Value error, ')}"
        ) from error

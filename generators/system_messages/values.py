"""A value system laid out for system messages: its sets, its phrases, and what stands of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from catalog.values import Node, ValueSystem, load
from generators.system_messages.compose import Phrases
from generators.system_messages.sets import Grid, Ints, grid

PREFERENCE_SET: pl.DataType = pl.List(
    pl.Struct(
        {
            "dimension": pl.String,
            "value_id": pl.String,
            "preference": pl.String,
            "description": pl.String,
        }
    )
)
"""One entry per value of a message: its dimension, its node, key words, and what is wanted."""

OTHERS = 3
"""Values of the same sub-dimension that the text `preferences` shows as examples."""


@dataclass(frozen=True, eq=False)
class Laid:
    """A value system and what sets of it can be drawn.

    Attributes:
        system: the tree.
        grid: its leaves by number, and the rules of sets.
        phrases: of each leaf.
        nodes: the leaves.
        dimensions: label of each leaf's dimension.
    """

    system: ValueSystem
    grid: Grid
    phrases: Phrases
    nodes: tuple[Node, ...]
    dimensions: tuple[str, ...]

    @property
    def size(self) -> int:
        """Values of a set."""
        return int(self.grid.combos.shape[1])

    def value_ids(self, sets: Ints) -> pl.Series:
        """Value ids of sets, Int64[..., k] -> `value_ids` List(String)."""
        names = pl.Series([self.system.value_id(n.id) for n in self.nodes], dtype=pl.String)
        return _lists("value_ids", names, sets)

    def seed_sets(self, sets: Ints) -> pl.Series:
        """`preference_set` of sets, from the nodes' own labels and definitions."""
        entries = pl.DataFrame(
            {
                "dimension": self.dimensions,
                "value_id": [self.system.value_id(n.id) for n in self.nodes],
                "preference": [n.label for n in self.nodes],
                "description": [n.definition for n in self.nodes],
            },
            schema=dict.fromkeys(("dimension", "value_id", "preference", "description"), pl.String),
        )
        return _lists("preference_set", entries.to_struct("entry"), sets).cast(PREFERENCE_SET)

    def shown(self, leaf: int, draw: int) -> dict[str, Any]:
        """What the text `preferences` shows of a value.

        Args:
            leaf: its number.
            draw: decides which of its neighbours are shown as examples.
        """
        node = self.nodes[leaf]
        chain = [self.system.by_id[i] for i in self.system.ancestors(node.id)]
        below = self.system.leaves_under(chain[-2].id) if chain[1:] else ()
        others = [self.system.by_id[i].label for i in below if i != node.id]
        start = draw % len(others) if others else 0
        return {
            "dimension": chain[0].label,
            "definition": chain[0].definition,
            "subdimension": chain[-2].label if chain[2:] else chain[0].label,
            "value": node.label,
            "meaning": node.definition,
            "others": [*others[start:], *others[:start]][:OTHERS],
        }


def _lists(name: str, items: pl.Series, sets: Ints) -> pl.Series:
    """Items of each set as a list, Int64[..., k] -> List[n]."""
    flat = sets.reshape(-1, sets.shape[-1])
    columns = [items.gather(column).alias(str(i)) for i, column in enumerate(flat.T)]
    return pl.DataFrame(columns).select(pl.concat_list(pl.all()).alias(name)).to_series()


def lay_out(values: str, per_message: int | None, shared: int | None) -> Laid:
    """Load a value system and lay it out; see `system_messages_sets.grid`.

    Raises:
        ConfigError: there is none, it has mistakes, or its dimensions don't go together.
    """
    file = Path(values)
    mark = file.stat().st_mtime_ns if "." in values and file.is_file() else 0
    return _laid(values, per_message, shared, mark)


@lru_cache(maxsize=32)
def _laid(values: str, per_message: int | None, shared: int | None, mark: int) -> Laid:
    system = load(values)
    nodes = tuple(system.by_id[leaf] for leaf in system.leaves)
    phrases = Phrases.of([system.phrases(n.id) for n in nodes])
    roots = tuple(system.by_id[system.ancestors(n.id)[0]].label for n in nodes)
    return Laid(system, grid(system, per_message, shared), phrases, nodes, roots)


def draw_of(key: str) -> int:
    """A small whole number from a text, the same everywhere."""
    return int(np.frombuffer(key.encode("utf-8", "surrogatepass"), np.uint8).sum(dtype=np.int64))

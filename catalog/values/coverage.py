"""How rows spread over the nodes of a value system."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from catalog.values.schema import ValueSystem
from prefactory.errors import DataError
from prefactory.measures.coverage import normalised_entropy
from prefactory.overrides import nearest

NODES: dict[str, pl.DataType] = {
    "node": pl.String(),
    "level": pl.String(),
    "parent": pl.String(),
    "n": pl.Int64(),
    "share": pl.Float64(),
    "entropy": pl.Float64(),
}
"""Columns of a node table."""


def coverage(value_ids: pl.Series, system: ValueSystem) -> pl.DataFrame:
    """Count rows by node, on every level of a tree.

    Nodes above a row's values count as its values too. A row with several values splits its weight
    evenly among them, and a node above gets the sum of its children's, so that on each level the
    shares sum to 1 (over the rows that have a value there or below).

    Args:
        value_ids: List(String)[n], `system:node` or `node`; ids of other systems do not count.
        system: the tree.

    Returns:
        One row per node in the order of the tree (see `NODES`): `n`, rows that have it or a node
        below; `share` of its level, null on a level without any row; `entropy` of its level, the
        same on all its nodes: Shannon's by that of an even spread, 1 if even, 0 if all rows have
        one node, null on a level of one node or without any row.

    Raises:
        DataError: an id is no node of the system.
    """
    depth = {node.id: len(system.ancestors(node.id)) - 1 for node in system.nodes}
    tree = pl.DataFrame(
        {
            "node": [n.id for n in system.nodes],
            "level": [system.levels[depth[n.id]] for n in system.nodes],
            "parent": [n.parent for n in system.nodes],
        },
        schema={k: NODES[k] for k in ("node", "level", "parent")},
    )
    counted = _counted(value_ids, system)
    table = tree.join(counted, on="node", how="left", maintain_order="left")
    table = table.with_columns(pl.col("n").fill_null(0), pl.col("weight").fill_null(0.0))
    total = pl.col("weight").sum().over("level")
    table = table.with_columns(share=pl.when(total > 0).then(pl.col("weight") / total))
    shares = table.group_by("level", maintain_order=True).agg("share")
    entropy = {
        level: None if None in values else normalised_entropy(np.array(values, dtype=np.float64))
        for level, values in shares.iter_rows()
    }
    entropies = pl.DataFrame(
        {"level": list(entropy), "entropy": pl.Series(list(entropy.values()), dtype=pl.Float64)}
    )
    table = table.join(entropies, on="level", how="left", maintain_order="left")
    return table.select(pl.col(name).cast(dtype) for name, dtype in NODES.items())


def _counted(value_ids: pl.Series, system: ValueSystem) -> pl.DataFrame:
    """`node`, `n` (rows with it or a node below) and `weight` (sum of the rows' shares)."""
    rows = pl.DataFrame([value_ids.alias("id")]).with_row_index("row").explode("id").drop_nulls()
    rows = rows.unique(maintain_order=True)
    own = pl.col("id").str.starts_with(f"{system.system}:") | ~pl.col("id").str.contains(":")
    rows = rows.filter(own).with_columns(
        pl.col("id").str.strip_prefix(f"{system.system}:"), weight=1 / pl.len().over("row")
    )
    above = [(node.id, up) for node in system.nodes for up in system.ancestors(node.id)]
    lines = pl.DataFrame(above, schema={"id": pl.String, "node": pl.String}, orient="row")
    by_id = rows.group_by("id").agg(pl.col("row"), pl.col("weight"))
    unknown = by_id.join(lines, on="id", how="anti")["id"].sort()
    if unknown.len():
        first = str(unknown[0])
        hint = nearest(first, list(system.by_id))
        raise DataError(f"value id {first!r} is no node of the value system {system.system}{hint}")
    # sorted sums, so that the order in which threads find the rows changes no bit
    deep = by_id.join(lines, on="id").explode("row", "weight")
    return deep.group_by("node").agg(
        n=pl.col("row").n_unique(), weight=pl.col("weight").sort().sum()
    )


def facts(nodes: pl.DataFrame) -> dict[str, Any]:
    """A node table as facts for a report: per level `entropy`, `empty` and its `nodes`.

    `nodes` maps each node to `n` and `share`; `empty` is how many have no row.
    """
    levels: dict[str, Any] = {}
    for (level,), part in nodes.group_by("level", maintain_order=True):
        entropy = part["entropy"][0]
        counts = part.select("node", "n", pl.col("share").round(6)).iter_rows()
        levels[str(level)] = {
            "entropy": None if entropy is None else round(entropy, 6),
            "empty": int((part["n"] == 0).sum()),
            "nodes": {node: {"n": n, "share": share} for node, n, share in counts},
        }
    return levels

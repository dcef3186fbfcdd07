"""Who wins over whom: win rates of every two with intervals, and cycles among them.

Nodes are whatever is compared: values between which models choose, or models whose answers are.
An edge goes from the winner to the loser where the 95% interval of the win rate leaves one half
out; a set of nodes that win over each other in a circle has no order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from prefactory.measures.agreement import Estimate, ratio

GAMES: dict[str, pl.DataType] = {
    "one": pl.String(),
    "two": pl.String(),
    "share": pl.Float64(),
    "unit": pl.String(),
}
"""Columns of games: two nodes, how much of the game the first won (1, 0, .5 for a tie), and what is
independent of other games: games of one unit count together."""


def win_graph(games: pl.DataFrame) -> dict[str, Any]:
    """Count games between every two nodes.

    Args:
        games: see `GAMES`; either node may be the first. Nulls and games of a node with itself do
            not count.

    Returns:
        JSON data. `nodes`: `node`, `games` and `wins` (its share of all its games, an estimate),
        the most winning first. `edges`: `winner`, `loser`, `rate` (an estimate, at least one half;
        Wilson's interval for as many units as there are) and `clear`, whether the interval leaves
        one half out; by name. `cycles`: of each set of nodes that clear edges join in a circle a
        shortest one, as names in order, the first again not at the end. `circular`: those sets.
        `apparent_cycles`: how many such sets there would be if every majority counted.
    """
    counted = _sorted_sides(games)
    edges = [
        _edge(
            str(one), str(two), ratio(part["share"].to_numpy(), np.ones(part.height), part["unit"])
        )
        for (one, two), part in counted.group_by("one", "two", maintain_order=True)
    ]
    clear = [(e["winner"], e["loser"]) for e in edges if e["clear"]]
    majorities = [(e["winner"], e["loser"]) for e in edges if e["rate"]["value"] != 0.5]
    circular = circles(clear)
    return {
        "nodes": _nodes(counted),
        "edges": edges,
        "cycles": [shortest_cycle(members, clear) for members in circular],
        "circular": circular,
        "apparent_cycles": len(circles(majorities)),
    }


def _sorted_sides(games: pl.DataFrame) -> pl.DataFrame:
    """Games with the lower name first, in an order that depends on nothing but their content."""
    real = games.drop_nulls(["one", "two", "share"]).filter(pl.col("one") != pl.col("two"))
    turned = pl.col("one") > pl.col("two")
    return real.select(
        one=pl.min_horizontal("one", "two"),
        two=pl.max_horizontal("one", "two"),
        share=pl.when(turned).then(1 - pl.col("share")).otherwise(pl.col("share")),
        unit=pl.col("unit").fill_null(""),
    ).sort("one", "two", "unit", "share")


def _edge(one: str, two: str, rate: Estimate) -> dict[str, Any]:
    turned = rate.value < 0.5
    if turned:
        rate = Estimate(1 - rate.value, rate.se, 1 - rate.high, 1 - rate.low, rate.n)
    winner, loser = (two, one) if turned else (one, two)
    return {"winner": winner, "loser": loser, "rate": rate.plain(), "clear": rate.low > 0.5}


def _nodes(counted: pl.DataFrame) -> list[dict[str, Any]]:
    sides = pl.concat(
        [
            counted.select(node="one", share="share", unit="unit"),
            counted.select(node="two", share=1 - pl.col("share"), unit="unit"),
        ]
    ).sort("node", "unit", "share")
    nodes = [
        {
            "node": str(node),
            "games": part.height,
            "wins": ratio(part["share"].to_numpy(), np.ones(part.height), part["unit"]).plain(),
        }
        for (node,), part in sides.group_by("node", maintain_order=True)
    ]
    return sorted(nodes, key=lambda n: -(n["wins"]["value"] or 0.0))


def circles(edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Sets of nodes of which each reaches each along edges, those of several nodes, by name.

    Args:
        edges: (winner, loser).
    """
    names = sorted({name for edge in edges for name in edge})
    place = {name: i for i, name in enumerate(names)}
    if not names:
        return []
    rows, columns = zip(*[(place[a], place[b]) for a, b in edges], strict=True)
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(len(names), len(names)))
    _, part = connected_components(graph, directed=True, connection="strong")
    sets: dict[int, list[str]] = {}
    for name, number in zip(names, part.tolist(), strict=True):
        sets.setdefault(number, []).append(name)
    return sorted(members for members in sets.values() if len(members) > 1)


def shortest_cycle(members: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[str]:
    """A shortest circle among nodes of `circles`, from its first name on."""
    after: dict[str, list[str]] = {m: [] for m in sorted(members)}
    for winner, loser in sorted(edges):
        if winner in after and loser in after:
            after[winner].append(loser)
    found = [path for start in after if (path := _way_back(start, after))]
    return min(found, key=len)


def _way_back(start: str, after: Mapping[str, Sequence[str]]) -> list[str]:
    """The shortest way from a node to itself."""
    waiting, before = deque([start]), {start: ""}
    while waiting:
        node = waiting.popleft()
        for then in after[node]:
            if then == start:
                path = [node]
                while path[-1] != start:
                    path.append(before[path[-1]])
                return path[::-1]
            if then not in before:
                before[then] = node
                waiting.append(then)
    return []


def of_models(pairs: pl.DataFrame) -> pl.DataFrame:
    """Games between the models of pairs: the chosen one's has won.

    Args:
        pairs: `prompt_id`, `chosen_model`, `rejected_model`.
    """
    return pairs.select(
        one="chosen_model", two="rejected_model", share=pl.lit(1.0), unit="prompt_id"
    )


def of_values(pairs: pl.DataFrame) -> pl.DataFrame:
    """Games between the values that the two answers of pairs argue from.

    Args:
        pairs: `prompt_id`, `chosen_value`, `rejected_value`, and perhaps `source_prompt_id`, the
            situation.
    """
    unit = "source_prompt_id" if "source_prompt_id" in pairs.columns else "prompt_id"
    return pairs.select(one="chosen_value", two="rejected_value", share=pl.lit(1.0), unit=unit)

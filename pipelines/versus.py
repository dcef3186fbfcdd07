"""Two versions or files of pairs beside each other: what changed, and which teaches more."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from catalog.splits import prompt_clusters
from catalog.versions import Version
from pipelines.pays import MOST, Known, agreement, differences, undamaged
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import DataError
from prefactory.measures.score_columns import scored
from prefactory.preferences.arms import compare as compare_arms
from prefactory.preferences.arms import said
from prefactory.preferences.clustered import clustered_mean, codes, hits
from prefactory.preferences.features import Embed
from prefactory.tables import COLUMNS, SIDES, Shape, stacked, text_of

SHOWN = 12
"""Models, sources, values or system messages that are listed, the largest first."""
EXAMPLES = 5
VALUES = ("value", "policy", "domain")
"""Columns whose values are told apart, if pairs have one."""
SYSTEM = "system message"


def versus(
    a: pl.DataFrame,
    b: pl.DataFrame,
    judges: pl.DataFrame | None = None,
    seed: int = 0,
    vectors: tuple[Embed, Known] | None = None,
) -> dict[str, Any]:
    """Compare pairs B with pairs A.

    Args:
        a: PAIRS, such as the version before.
        b: PAIRS, such as what was kept of them.
        judges: PAIRS to judge on; those in clusters of prompts of A or B are left out. Without
            them held-out clusters of A judge, and the comparison is optimistic if B was selected
            with their labels in view.
        seed: of samples and folds.
        vectors: how to embed, and whether texts have vectors already: then the head sees them too,
            and text statistics else. None are computed here.

    Returns:
        Plain data: `pairs` (rows of each, in both, turned round, only in one), `teaches` (see
        `prefactory.preferences.arms.Gains`, with a `sentence`), `longer_chosen`, `agreement` of
        each score with the labels, `wins` of each model (of all pairs under `model`, and in each
        source, value and system message), `shares` by source, value and system message, and
        `examples`.

    Raises:
        DataError: one of them is empty or holds no pairs.
    """
    for name, table in (("A", a), ("B", b), ("the judging pairs", judges)):
        if table is not None and (not table.height or not set(SIDES) <= set(table.columns)):
            raise DataError(f"{name}: no pairs to compare; a table with chosen and rejected is")
    both = set(a["pair_id"]) & set(b["pair_id"])
    turned = _turned(a, b)
    values = [name for name in VALUES if name in a.columns]
    keys_a, keys_b = _keyed(a, values), _keyed(b, values)
    groups = ["source", *values, SYSTEM]
    only_b = b.filter(~pl.col("pair_id").is_in(list(both)))
    gone = a.filter(~pl.col("pair_id").is_in(list(both)))
    return {
        "pairs": {
            "a": a.height,
            "b": b.height,
            "both": len(both),
            "turned": turned,
            "only_a": gone.height - turned,
            "only_b": only_b.height - turned,
        },
        "teaches": teaches(a, b, judges, seed, vectors),
        "longer_chosen": {"a": longer(a), "b": longer(b)},
        "agreement": _agreements(a, b),
        "wins": {
            "model": _wins(keys_a, keys_b),
            **{name: _wins(keys_a, keys_b, name) for name in groups},
        },
        "shares": {name: _shares(keys_a, keys_b, name) for name in groups},
        "examples": {
            "kept": _examples(b.filter(pl.col("pair_id").is_in(list(both)))),
            "dropped": _examples(gone),
            "new": _examples(only_b),
        },
    }


def teaches(
    a: pl.DataFrame,
    b: pl.DataFrame,
    judges: pl.DataFrame | None,
    seed: int,
    vectors: tuple[Embed, Known] | None = None,
) -> dict[str, Any] | None:
    """Held-out accuracy of a cheap head trained on A, on B and on as many random pairs of A."""
    columns = [c for c in COLUMNS[Shape.PAIRS] if c in a.columns and c in b.columns]
    parts = [_few(a, MOST, seed), b]
    if len(parts[0]) < len(a):  # of B what was drawn of A, and its share of what is new
        known = pl.col("pair_id").is_in(a["pair_id"].implode())
        drawn = pl.col("pair_id").is_in(parts[0]["pair_id"].implode())
        new = b.filter(~known)
        parts[1] = pl.concat([b.filter(drawn), _few(new, max(1, MOST * len(new) // len(a)), seed)])
    if judges is not None:
        columns = [c for c in columns if c in judges.columns]
        parts.append(_few(judges, MOST, seed))
    rows = stacked([part.select(columns) for part in parts]).unique("pair_id").sort("pair_id")
    in_a, in_b = (rows["pair_id"].is_in(t["pair_id"].implode()).to_numpy() for t in parts[:2])
    clusters = codes(prompt_clusters(rows))
    nested = judges is not None
    judged = undamaged(rows) & in_a
    if nested:
        seen = np.unique(clusters[in_a | in_b])
        judged = undamaged(rows) & ~np.isin(clusters, seen)
    embed, there = vectors or (None, lambda _encoder, _texts: False)
    data, features = differences(rows, Encoder(), embed, there)
    signs = in_b.astype(np.float64)
    gains = compare_arms(data, clusters, lambda _: signs, judged, pool=in_a, seed=seed)
    if gains is None:
        return None
    return {
        "sentence": said(gains, nested, "B holds {} of the pairs of A"),
        "nested": nested,
        "features": features,
        **gains.as_dict(),
    }


def _few(table: pl.DataFrame, most: int, seed: int) -> pl.DataFrame:
    if table.height <= most:
        return table
    draws = Context(seed, "compare").uniform(table["pair_id"]).to_numpy()
    return table[np.sort(np.argsort(draws, kind="stable")[:most])]


def _turned(a: pl.DataFrame, b: pl.DataFrame) -> int:
    """Pairs of A that B has with the other label."""
    if not {"chosen_id", "rejected_id"} <= set(a.columns) & set(b.columns):
        return 0
    back = a.select("prompt_id", chosen_id="rejected_id", rejected_id="chosen_id")
    return back.join(b, on=["prompt_id", "chosen_id", "rejected_id"], how="semi").height


def longer(table: pl.DataFrame) -> dict[str, Any]:
    """Share of pairs whose longer answer is the chosen one, with its interval."""
    sizes = [text_of(pl.col(side)).fill_null("").str.len_chars().cast(pl.Int64) for side in SIDES]
    gap = table.select(sizes[0] - sizes[1]).to_series().to_numpy()
    return clustered_mean(hits(gap.astype(np.float64)), table["prompt_id"]).as_dict()


def cost_per_row(version: Version | None, rows: int) -> dict[str, Any] | None:
    """What each of so many kept pairs of a version cost; None for files and old versions."""
    cost = None if version is None else version.cost()
    if cost is None or not rows:
        return None
    per = {k: float(f"{cost[k] / rows:.6g}") for k in ("seconds", "calls", "tokens", "usd")}
    return {**per, "reused": cost["reused"], "priced": cost["priced"]}


def _agreements(a: pl.DataFrame, b: pl.DataFrame) -> list[dict[str, Any]]:
    """Share of the labels that each score bears out, in A and in B; a tie counts one half."""
    found = []
    for name in sorted({*scored(a), *scored(b)}):
        row: dict[str, Any] = {"score": name}
        for side, table in (("a", a), ("b", b)):
            row[side] = agreement(table, name)
        found.append(row)
    return found


def _keyed(table: pl.DataFrame, values: list[str]) -> pl.DataFrame:
    """Models and groups of the pairs as texts; null where the table has no such column."""
    system = pl.col("prompt").list.eval(
        pl.element().filter(pl.element().struct.field("role") == "system").struct.field("content")
    )
    told = [*values, *(f"{side}_model" for side in SIDES)]
    return table.select(
        "source",
        pl.coalesce(system.list.first().str.slice(0, 80), pl.lit("(none)")).alias(SYSTEM),
        *(pl.col(c).cast(pl.String) for c in told if c in table.columns),
        *(pl.lit(None, pl.String).alias(c) for c in told if c not in table.columns),
    )


def _wins(a: pl.DataFrame, b: pl.DataFrame, by: str | None = None) -> list[dict[str, Any]]:
    """Share of its pairs that each model wins in A and in B; pairs with itself do not count."""
    on = ["model"] if by is None else ["key", "model"]
    counts = [_model_wins(table, by) for table in (a, b)]
    joined = counts[0].join(
        counts[1], on=on, how="full", coalesce=True, nulls_equal=True, suffix="_b"
    )
    joined = joined.rename({"wins": "a", "wins_b": "b", "n": "n_a"})
    size = pl.col("n_a").fill_null(0)
    rows = joined.sort(size, *on, descending=[True, *(False for _ in on)]).head(SHOWN)
    return rows.with_columns(pl.col("a", "b").round(4)).to_dicts()


def _model_wins(table: pl.DataFrame, by: str | None) -> pl.DataFrame:
    models = [f"{side}_model" for side in SIDES]
    other = table.filter(pl.col(models[0]) != pl.col(models[1]))
    key = [] if by is None else [pl.col(by).alias("key")]
    sides = [
        other.select(*key, pl.col(name).alias("model"), pl.lit(win).alias("win"))
        for name, win in zip(models, (1.0, 0.0), strict=True)
    ]
    rows = pl.concat(sides)
    return rows.group_by(rows.columns[:-1]).agg(wins=pl.col("win").mean(), n=pl.len())


def _shares(a: pl.DataFrame, b: pl.DataFrame, by: str) -> list[dict[str, Any]]:
    """Share of the pairs in each group, in A and in B."""
    counts = [
        table.group_by(key=by).agg((pl.len() / table.height).alias(side))
        for side, table in (("a", a), ("b", b))
    ]
    joined = counts[0].join(counts[1], on="key", how="full", coalesce=True, nulls_equal=True)
    joined = joined.with_columns(pl.col("a", "b").fill_null(0.0).round(4))
    return joined.sort("a", "key", descending=[True, False]).head(SHOWN).to_dicts()


def _examples(table: pl.DataFrame) -> list[dict[str, Any]]:
    few = table.sort("pair_id").head(EXAMPLES)
    texts = [text_of(pl.col(c)).str.slice(-160).alias(c) for c in ("prompt", *SIDES)]
    return few.select("pair_id", *texts).to_dicts()

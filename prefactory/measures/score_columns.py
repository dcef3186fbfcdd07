"""Score columns of pairs and of answers: which there are, their margins, the distinct answers.

A score that is null, NaN or infinite is not there. Ids may be of any type (hashes save memory).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from prefactory.tables import SCORE, SIDES, objectives

_LARGEST = float(np.finfo(np.float64).max)


def scored(pairs: pl.DataFrame) -> list[str]:
    """Objectives that both sides of a table of pairs have, in column order."""
    have = set(pairs.columns)
    names = objectives(pairs.columns)
    return [o for o in names if all(f"{side}_{SCORE}{o}" in have for side in SIDES)]


def margins(pairs: pl.DataFrame, names: Sequence[str] | None = None) -> pl.DataFrame:
    """Score of chosen minus score of rejected, by objective.

    Args:
        pairs: n rows.
        names: objectives; all by default.

    Returns:
        n rows, a Float64 column for each objective; null where either side is not scored.
    """
    columns = []
    for name in scored(pairs) if names is None else names:
        chosen, rejected = (pl.col(f"{side}_{SCORE}{name}").cast(pl.Float64) for side in SIDES)
        both = chosen.is_finite() & rejected.is_finite()
        gap = (chosen - rejected).clip(-_LARGEST, _LARGEST)
        columns.append(pl.when(both).then(gap).alias(name))
    return pairs.select(columns)


def answers(table: pl.DataFrame) -> pl.DataFrame:
    """Each distinct answer of pairs once: its ids (if there) and `score_<o>`; responses as is."""
    if not any(c.startswith(f"{SIDES[0]}_{SCORE}") for c in table.columns):
        return table
    sides = []
    for side in SIDES:
        names = {f"{side}_{SCORE}{o}": f"{SCORE}{o}" for o in objectives(table.columns)}
        names[f"{side}_id"] = "response_id"
        kept = [c for c in ("prompt_id", *names) if c in table.columns]
        sides.append(table.select(kept).rename(names, strict=False))
    flat = pl.concat(sides, how="diagonal")
    ids = [c for c in ("prompt_id", "response_id") if c in flat.columns]
    if "response_id" not in ids:
        return flat
    return flat.unique(ids, keep="first", maintain_order=True)


def answer_pairs(table: pl.DataFrame, most: int = 2_000_000) -> pl.DataFrame:
    """All pairs of answers to one prompt, in the form of pairs without a label.

    Args:
        table: RESPONSES with `prompt_id`, `response_id` and `score_<o>`.
        most: pairs at most: prompts are taken in order of their ids until there are so many.

    Returns:
        `prompt_id`, `chosen_id` < `rejected_id`, and `<side>_score_<o>`; which side an answer is
        on means nothing, so only what does not read the label may be asked of them.
    """
    names = [c for c in table.columns if c.startswith(SCORE)]
    rows = table.select("prompt_id", "response_id", *names).sort("prompt_id", "response_id")
    size = pl.len().over("prompt_id")
    so_far = (pl.int_range(pl.len()).over("prompt_id")).cum_sum()  # pairs up to and with this row
    rows = rows.with_columns(size=size, so_far=so_far).filter(pl.col("size") > 1)
    rows = rows.filter(pl.col("so_far").max().over("prompt_id") <= most).drop("size", "so_far")
    left, right = (
        rows.rename({"response_id": f"{s}_id"} | {n: f"{s}_{n}" for n in names}) for s in SIDES
    )
    both = left.join(right, on="prompt_id", maintain_order="left_right")
    return both.filter(pl.col("chosen_id") < pl.col("rejected_id"))

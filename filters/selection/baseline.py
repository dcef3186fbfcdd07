"""Random as the baseline: what a selection reached, beside random ones under the same budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from filters.selection.places import I64, Places
from prefactory.context import Context

DRAWS = 5


class Measure(NamedTuple):
    """What a selection is good for.

    Attributes:
        name: for the report.
        better: whether `higher` or `lower` values are meant to be better; `none` for neither.
        value: of a selection, Int64[k] with k > 0, in any order.
    """

    name: str
    better: Literal["higher", "lower", "none"]
    value: Callable[[I64], float]


def against_random(
    measure: Measure, kept: I64, places: Places, ids: pl.Series, ctx: Context, draws: int = DRAWS
) -> dict[str, Any]:
    """Measure a selection and random ones.

    Args:
        measure: what is compared.
        kept: Int64[k], the selection.
        places: the budget, not yet used; random selections fill it too (those of rows have the
            same size and quotas; of a budget of tokens they take what fits).
        ids: row ids, String[n]; each draw of each row is from (seed, step, id).
        ctx: the randomness.
        draws: random selections.

    Returns:
        `objective`, `better`, `selected`, and `random_mean`, `random_sd` (sample standard
        deviation), `draws`; the values are null if nothing was selected or the value is infinite.
    """
    measured: dict[str, Any] = {"objective": measure.name, "better": measure.better, "draws": draws}
    if not kept.size:
        return {**measured, "selected": None, "random_mean": None, "random_sd": None}
    values = []
    for i in range(draws):
        order = np.argsort(ctx.uniform(ids, f"random {i}").to_numpy(), kind="stable")
        rows = places.again().fill(order)[: None if places.varies() else kept.size]
        values.append(measure.value(rows) if rows.size else np.nan)
    numbers = {
        "selected": measure.value(np.sort(kept)),
        "random_mean": float(np.mean(values)),
        "random_sd": float(np.std(values, ddof=1)) if draws > 1 else 0.0,
    }
    return {**measured, **{k: v if np.isfinite(v) else None for k, v in numbers.items()}}

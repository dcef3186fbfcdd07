"""One step applied to a table as a run would do it, in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from prefactory import ledger
from prefactory.apply import (
    accepts,
    apply_filter,
    apply_generator,
    apply_labeler,
    fit_parts,
    fit_shard,
)
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.images.marks import Held, bind, unbind
from prefactory.shards import without_copies
from prefactory.step import Filter, Generator, Labeler, State, Step, step_name
from prefactory.tables import ROW_ID, Shape, canonical_order, shape_of

WIDTH = 384


@dataclass(frozen=True)
class Applied:
    """What a step made of a table.

    Attributes:
        rows: the table after it, in canonical order: what a filter kept, with the new columns of a
            labeler, or the new rows of a generator.
        dropped: the ledger, by row id: `row_id`, `step`, `reason`, `detail`.
        state: what it learned (dataset steps).
        notes: what came to nothing (generators), by reason.
    """

    rows: pl.DataFrame
    dropped: pl.DataFrame
    state: State | None = None
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, str]:
        """Row id -> reason of every dropped row."""
        return dict(self.dropped.select("row_id", "reason").iter_rows())


def word_vectors(encoder: Any, column: pl.Series) -> np.ndarray:  # noqa: ANN401
    """Vectors for tests that need no encoder: the words of a text, hashed, as a unit vector.

    Returns:
        Float32[N, 384], as wide as those of the bundled encoder.
    """
    vectors = np.zeros((column.len(), WIDTH), dtype=np.float32)
    for row, text in enumerate(column.fill_null("").to_list()):
        for word, times in Counter(text.lower().split() or [""]).items():
            column_of = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=2).digest())
            vectors[row, column_of % WIDTH] += times
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def opener() -> Callable[[Any], Any]:
    """Opens engines plainly, each once, without a journal."""
    opened: dict[str, Any] = {}

    def engine(config: Any) -> Any:  # noqa: ANN401
        key = config.fingerprint()
        if key not in opened:
            opened[key] = config.open()
        return opened[key]

    return engine


def context(step: Step) -> Context:
    """Seed 0, the step's name, `word_vectors`, and engines opened without a journal."""
    return Context(step=step_name(type(step)), embed=word_vectors, engine=opener())


def fitted(step: Step, *shards: pl.DataFrame, ctx: Context | None = None) -> Context:
    """Fit a dataset step to the shards of a table: the context with its state."""
    ctx = ctx or context(step)
    shape = shape_of(shards[0])
    parts = [fit_shard(step, ctx.step, shard, shape, ctx) for shard in shards]
    return replace(ctx, state=fit_parts(step, ctx.step, parts, ctx))


def verdicts(
    step: Filter, table: pl.DataFrame, ctx: Context | None = None
) -> list[tuple[str | None, str | None]]:
    """(reason, detail) of every row of a table that a filter takes as it is, null where it stays.

    A dataset step is fitted first if `ctx` holds no state.

    Raises:
        DataError: the step judges another number of rows, or gives other columns.
    """
    ctx = ctx or context(step)
    if step.scope == "dataset" and ctx.state is None:
        ctx = fitted(step, table, ctx=ctx)
    apply_filter(step, ctx.step, table, shape_of(table), ctx)  # holds it to its promise
    return step.keep(table, ctx).select("reason", "detail").rows()


def apply_step(
    step: Step,
    table: pl.DataFrame | Sequence[pl.DataFrame],
    ctx: Context | None = None,
) -> Applied:
    """Fit a step if it needs that, and apply it.

    Args:
        step: any step.
        table: of a shape that it takes; a list are its shards.
        ctx: seed, label and what opens models; by default seed 0, `word_vectors`, and engines that
            are opened without a journal.

    Raises:
        ConfigError: the step does not take tables of this shape.
        DataError: the step breaks its promise.
    """
    shards = [table] if isinstance(table, pl.DataFrame) else list(table)
    shape = shape_of(shards[0])
    if not accepts(step, shape):
        raise ConfigError(f"{step_name(type(step))} does not take {shape}")
    if ctx is None:
        ctx = context(step)
    held = Held() if any("images" in shard.columns for shard in shards) else None
    if held is not None:  # as in a run, all shards share one place for their pictures
        shards = [bind(shard, held) for shard in shards]
        ctx = replace(ctx, images=held)
    if step.scope == "dataset" and ctx.state is None:
        ctx = fitted(step, *shards, ctx=ctx)
    notes: dict[str, int] = {}
    rows, dropped = [], [ledger.empty()]
    for shard in shards:
        own_notes: dict[str, int] = {}
        new, lost = _applied(step, shard, shape, ctx, own_notes)
        rows.append(new)
        dropped.append(lost)
        notes = ledger.add_counts([notes, own_notes])
    out = step.out_shape(shape) if isinstance(step, Generator) else shape
    table_after = canonical_order(pl.concat(rows), out)
    if isinstance(step, Generator) and step.new_prompts:  # copies go when the rows are cut again
        order = list(dict.fromkeys(["prompt_id", ROW_ID[out], "source", "source_id"]))
        table_after, copies = without_copies(table_after.sort(order), out, ctx.step)
        dropped.append(copies)
    if held is not None:
        table_after = unbind(bind(table_after, held), held)
    return Applied(
        table_after,
        pl.concat(dropped).sort("row_id", "reason", "detail"),
        ctx.state,
        notes,
    )


def _applied(
    step: Step, table: pl.DataFrame, shape: Shape, ctx: Context, notes: dict[str, int]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    if isinstance(step, Filter):
        lost = apply_filter(step, ctx.step, table, shape, ctx)
        return table.filter(~pl.col(ROW_ID[shape]).is_in(lost["row_id"].implode())), lost
    if isinstance(step, Labeler):
        new = apply_labeler(step, ctx.step, table, shape, ctx)
        return table.hstack(new.drop(ROW_ID[shape]).get_columns()), ledger.empty()
    if isinstance(step, Generator):
        return apply_generator(step, ctx.step, table, shape, ctx, notes)
    raise ConfigError(f"{step_name(type(step))} is neither a Filter, a Labeler nor a Generator")

"""`check_step`: what must hold of every step, whatever it does (CONTRIBUTING, 'Adding a step')."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator

import polars as pl

from prefactory.apply import columns_needed, fit, fit_shard
from prefactory.context import Context
from prefactory.errors import PrefactoryError
from prefactory.step import FittedFilter, Step, step_name
from prefactory.step.exchange import KEY, Exchanged, Rounds, in_rounds
from prefactory.tables import (
    COLUMNS,
    MESSAGES,
    ROW_ID,
    SIDES,
    Shape,
    canonical_order,
    shape_of,
    with_ids,
)
from prefactory.testing.applied import Applied, apply_step, context
from prefactory.testing.tables import assistant, example, messages, turned, user

INVARIANTS = (
    "identity",
    "determinism",
    "order",
    "shards",
    "empty shard",
    "ranges",
    "needs",
    "state",
    "turning",
    "one row",
    "all alike",
    "some nulls",
    "all nulls",
    "empty text",
    "1 MB",
    "odd characters",
    "empty table",
)
ODD = '\x00 \\ud83d \ufffd {{ 7 * 7 }} <<< a\u0301 \u202eabc 👩‍👩‍👧 ]] [[A]] {"score": 1}'
"""What a text may hold; a lone surrogate as it is written in JSON, for no String can hold one."""


def check_step(
    step: Step,
    table: pl.DataFrame | None = None,
    ctx: Context | None = None,
    skip: Collection[str] = (),
) -> None:
    """Check a step against what must hold of every step.

    It is applied to the table whole, again, in another order, cut into shards, without the columns
    that it does not name in `needs`, and to odd versions of the table. However the table is given,
    the same rows must come out, and whatever it holds, an error must be a `PrefactoryError`.

    Args:
        step: the step.
        table: of a shape that the step takes, with the columns that it needs; by default an example
            of ten prompts.
        ctx: seed and what opens its models; see `apply_step`.
        skip: names of `INVARIANTS` that are not asked of it.

    Raises:
        AssertionError: with one sentence for each invariant that does not hold.
    """
    broken = broken_invariants(step, table, ctx, skip)
    if broken:
        raise AssertionError("\n".join(broken))


def broken_invariants(
    step: Step,
    table: pl.DataFrame | None = None,
    ctx: Context | None = None,
    skip: Collection[str] = (),
) -> list[str]:
    """List what does not hold of a step, one sentence each (see `check_step`)."""
    name = step_name(type(step))
    unknown = sorted(set(skip) - set(INVARIANTS))
    if unknown:
        raise ValueError(f"no invariant {unknown[0]!r}; there are {', '.join(INVARIANTS)}")
    ctx = ctx or context(step)
    if table is None:
        shape = step.shapes[0]
        table = example(shape, columns_needed(step, shape))
    table = canonical_order(table, shape_of(table))
    try:
        whole = apply_step(step, table, ctx)
    except Exception as error:
        return [f"{name}: it can't be applied to the table: {_error_text(error)}"]
    check = _Check(step, table, ctx, whole)
    broken = []
    for invariant in INVARIANTS:
        if invariant not in skip:
            try:
                broken += [f"{name}: {invariant}: {text}" for text in check.run(invariant)]
            except Exception as error:
                broken.append(f"{name}: {invariant}: it fails with {_error_text(error)}")
    return broken


class _Check:
    """The invariants of one step on one table."""

    def __init__(self, step: Step, table: pl.DataFrame, ctx: Context, whole: Applied) -> None:
        self.step, self.table, self.ctx, self.whole = step, table, ctx, whole
        self.shape = shape_of(table)

    def run(self, invariant: str) -> Iterator[str]:
        own: dict[str, Callable[[], Iterator[str]]] = {
            "identity": self.identity,
            "determinism": lambda: self.same(self.table, "a second time"),
            "order": self.order,
            "shards": self.shards,
            "empty shard": lambda: self.same(
                [self.table, self.table.clear()], "beside a shard without rows"
            ),
            "ranges": self.ranges,
            "needs": self.needs,
            "state": self.state,
            "turning": self.turning,
        }
        yield from own[invariant]() if invariant in own else self.edge(invariant)

    def same(self, table: pl.DataFrame | list[pl.DataFrame], how: str) -> Iterator[str]:
        """The step makes the same of a table that differs only in how it is given."""
        again = apply_step(self.step, table, self.ctx)
        for what in ("rows", "dropped"):
            text = difference(getattr(self.whole, what), getattr(again, what))
            if text:
                yield f"applied {how}, its {what} differ: {text}"

    def order(self) -> Iterator[str]:
        """Prompts may come in any order, and rows too if the step looks at single rows."""
        unit = ROW_ID[self.shape] if self.step.scope == "row" else "prompt_id"
        parts = self.table.partition_by(unit, maintain_order=True)
        yield from self.same(pl.concat(parts[::-1]), "to rows in another order")

    def shards(self) -> Iterator[str]:
        unit = ROW_ID[self.shape] if self.step.scope == "row" else "prompt_id"
        shards = self.table.partition_by(unit, maintain_order=True)
        yield from self.same(shards, f"to shards of one {unit.removesuffix('_id')} each")

    def ranges(self) -> Iterator[str]:
        """A fit that can be cut decides the same of its ranges or runs as of all rows at once."""
        step, ctx = self.step, self.ctx
        if isinstance(step, Rounds) and step.exchanged():
            yield from self.runs(step)
        if not isinstance(step, Exchanged) or not step.exchanged():
            return
        parts = fit_shard(step, ctx.step, self.table, self.shape, ctx)
        parts = parts.sort(parts.columns[0], maintain_order=True)
        low = step.keys(parts, ctx) < 2**63
        keyed = parts.with_columns(step.keys(parts, ctx).alias(KEY))
        cut = [keyed.filter(low), keyed.filter(~low)]
        surveys = [step.survey(rows) for rows in cut] if step.surveys() else []
        states = [step.fit_range(rows, surveys, i, ctx) for i, rows in enumerate(cut)]
        whole = fit(step, ctx.step, parts, ctx)
        for name, table in whole.tables.items():
            both = pl.concat([state.tables[name] for state in states])
            text = difference(*(t.sort(t.columns[0]) for t in (table, both)))
            if text:
                yield f"fitted in two ranges of keys, its table {name!r} differs: {text}"
        if step.facts([state.info for state in states]) != dict(whole.info):
            yield "fitted in two ranges of keys, its facts differ"

    def runs(self, step: Rounds) -> Iterator[str]:
        """A fit in rounds concludes the same of a run for each prompt as of one run."""
        prompts = self.table.partition_by("prompt_id", maintain_order=True)
        looks = [fit_shard(self.step, self.ctx.step, t, self.shape, self.ctx) for t in prompts]
        looks = [rows.sort(rows.columns[0], maintain_order=True) for rows in looks]
        states = [in_rounds(step, runs, self.ctx) for runs in ([pl.concat(looks)], looks)]
        for name in states[0].tables:
            decided = isinstance(self.step, FittedFilter) and name == self.step.decided
            both = [state.tables[name] for state in states]
            if decided:  # in the order of the runs
                both = [rows.sort(rows.columns[0]) for rows in both]
            if text := difference(*both):
                yield f"fitted in runs of rows, its table {name!r} differs: {text}"
        if states[0].info != states[1].info:
            yield "fitted in runs of rows, its facts differ"

    def needs(self) -> Iterator[str]:
        """Other columns than those of the shape and of `needs` must not be read."""
        wanted = columns_needed(self.step, self.shape)
        names = [c for c in self.table.columns if c in COLUMNS[self.shape] or c in wanted]
        table = self.table.select(names).with_columns(unrelated=pl.lit("x"), reason=pl.lit("y"))
        try:
            apply_step(self.step, table, self.ctx)
        except Exception as error:
            yield f"without the columns that `needs` does not name it fails: {_error_text(error)}"

    def identity(self) -> Iterator[str]:
        """A step read back from its fields is the same step."""
        again = type(self.step).model_validate(
            self.step.model_dump(mode="json", exclude_unset=True)
        )
        if again.fingerprint() != self.step.fingerprint():
            yield "read back from its fields as JSON, it is another step"

    def state(self) -> Iterator[str]:
        """A state is stored as Arrow tables and JSON."""
        state = self.whole.state
        if state is not None and json.loads(json.dumps(dict(state.info))) != dict(state.info):
            yield "its state's `info` is not plain JSON data (keys must be texts)"

    def turning(self) -> Iterator[str]:
        """A pair that the step turned is its parent when it is turned back."""
        out = self.step.out_shape(self.shape)
        if self.shape != Shape.PAIRS or out != Shape.PAIRS:
            return
        back = turned(self.whole.rows)
        sided = [c for c in self.table.columns if c in back.columns and c.startswith(SIDES)]
        back = back.select("pair_id", *sided)
        parents = self.table.filter(pl.col("pair_id").is_in(back["pair_id"].implode()))
        back = back.filter(pl.col("pair_id").is_in(parents["pair_id"].implode())).sort("pair_id")
        text = difference(parents.select(back.columns).sort("pair_id"), back)
        if text:
            yield f"a pair that it turned is not its parent when it is turned back: {text}"

    def edge(self, invariant: str) -> Iterator[str]:
        """An odd table is handled, or refused with a sentence."""
        table = edges(self.table, invariant)
        try:
            apply_step(self.step, table, self.ctx)
        except PrefactoryError:
            return
        except Exception as error:
            yield f"it fails with {_error_text(error)}"


def edges(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """An odd version of a table, by the name of the invariant."""
    shape = shape_of(table)
    extra = [c for c in table.columns if c not in COLUMNS[shape]]
    if name == "one row":
        return table.head(1)
    if name == "empty table":
        return table.clear()
    if name == "all nulls":
        return table.with_columns(pl.lit(None, dtype=table.schema[c]).alias(c) for c in extra)
    if name == "some nulls":
        odd = pl.int_range(pl.len()) % 2 == 0
        nulls = [pl.when(odd).then(pl.col(c)).alias(c) for c in extra if c != "margin"]
        return table.with_columns(nulls)
    if name == "all alike":
        first = table.with_columns(pl.col(c).first() for c in (*extra, *_texts(shape)[1:]))
        return _again(first, shape)
    text = {"empty text": "", "1 MB": "word " * 200_000, "odd characters": ODD}[name]
    return _again(_with_text(table, shape, text), shape)


def _texts(shape: Shape) -> list[str]:
    return ["prompt", *(c for c in ("response", *SIDES) if COLUMNS[shape].get(c) == MESSAGES)]


def _with_text(table: pl.DataFrame, shape: Shape, text: str) -> pl.DataFrame:
    """Put a text at the end of conversations of the first rows, one column each."""
    changed = table
    for row, column in enumerate(_texts(shape)):
        speaker = user if column == "prompt" else assistant
        values = changed[column].to_list()
        values[row % len(values)] = [speaker(text)]
        if column != "prompt" and not text:
            values[-1] = []
        changed = changed.with_columns(messages(*values).alias(column))
    return changed


def _again(table: pl.DataFrame, shape: Shape) -> pl.DataFrame:
    rows = with_ids(table, shape).unique(ROW_ID[shape], keep="first", maintain_order=True)
    return canonical_order(rows, shape)


def difference(left: pl.DataFrame, right: pl.DataFrame) -> str:
    """The first place where two tables differ, in words; '' if they are equal."""
    if left.schema != right.schema:
        return f"columns {dict(left.schema)} and {dict(right.schema)}"
    if left.height != right.height:
        return f"{left.height} and {right.height} rows"
    for name in left.columns:
        ours, theirs = left[name], right[name]
        if not ours.equals(theirs):
            row = next(i for i in range(len(ours)) if not ours[i : i + 1].equals(theirs[i : i + 1]))
            return f"row {row}: {name} is {_short(ours[row])} and {_short(theirs[row])}"
    return ""


def _short(value: object) -> str:
    text = repr(value.to_list() if isinstance(value, pl.Series) else value)
    return text if len(text) < 120 else f"{text[:120]}..."


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

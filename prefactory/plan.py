"""Checking a recipe against its source before anything runs: shapes and columns along the steps."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from prefactory.apply import accepts, columns_added, columns_needed
from prefactory.errors import ConfigError
from prefactory.overrides import nearest
from prefactory.recipe import Placed, Recipe
from prefactory.shards import score_columns_after
from prefactory.step import Filter, Generator, Labeler, step_name
from prefactory.tables import COLUMNS, Shape, is_score

Columns = dict[str, pl.DataType]


@dataclass(frozen=True)
class PlannedStep:
    """One step as it will run.

    Attributes:
        placed: the step, its label and line.
        kind: filter, labeler or generator.
        shape: of the table it gets.
        out_shape: of the table it leaves.
        columns: names after the step.
        adds: columns that arrive.
    """

    placed: Placed
    kind: str
    shape: Shape
    out_shape: Shape
    columns: tuple[str, ...]
    adds: tuple[str, ...]


def kind_of(placed: Placed) -> str:
    """Name of the shape of promise of a step."""
    for cls, name in ((Filter, "filter"), (Labeler, "labeler"), (Generator, "generator")):
        if isinstance(placed.step, cls):
            return name
    raise ConfigError(f"{placed.label} is neither a Filter, a Labeler nor a Generator")


def plan(recipe: Recipe, shape: Shape, columns: Columns) -> list[PlannedStep]:
    """Walk the steps and check each one's shape and columns.

    Args:
        recipe: the recipe.
        shape: what the source yields.
        columns: of the source.

    Raises:
        ConfigError: with one line per mistake, its line in the file and the nearest right name.
    """
    problems: list[str] = []
    planned: list[PlannedStep] = []
    columns = dict(columns)
    rewriter, publisher = "", ""
    for i, placed in enumerate(recipe.steps):
        where = f"{recipe.path.name}: {placed.line_prefix}{placed.label}"
        if not accepts(placed.step, shape):
            wanted = " or ".join(s.value for s in placed.step.takes())
            problems.append(
                f"{where} works on {wanted}, but gets {shape.value} here{_bridge(placed, shape)}"
            )
            break
        if rewriter and shape not in placed.step.takes():
            problems.append(
                f"{where} reads the answers of pairs, whose prompts {rewriter} has rewritten by "
                f"then: put it before {rewriter}"
            )
        problems += [
            f"{where} {text}" for text in _column_problems(recipe, i, placed, shape, columns)
        ]
        done = _after(placed, shape, columns)
        if isinstance(placed.step, Generator) and placed.step.replaces:
            if publisher:
                problems.append(
                    f"{where} must stand before {publisher}, which publishes rows as they were"
                )
        elif isinstance(placed.step, Generator):
            rewriter = placed.label if placed.step.new_prompts else rewriter
            leaves = done[1] != shape or placed.step.new_prompts or placed.step.beside
            publisher = placed.label if leaves and shape != Shape.PROMPTS else publisher
        columns = done[0]
        planned.append(
            PlannedStep(placed, kind_of(placed), shape, done[1], tuple(columns), tuple(done[2]))
        )
        shape = done[1]
    if problems:
        raise ConfigError(problems)
    return planned


def _after(placed: Placed, shape: Shape, columns: Columns) -> tuple[Columns, Shape, Columns]:
    step = placed.step
    if isinstance(step, Labeler):
        adds = columns_added(step, shape)
        return {**columns, **adds}, shape, adds
    if isinstance(step, Generator):
        out = step.out_shape(shape)
        carried = score_columns_after(tuple(columns), shape, out)
        types = {c: columns.get(c, pl.Float64()) for c in carried}
        types |= {c: columns[c] for c in ("images",) if c in columns}  # they go with the prompts
        new = {**COLUMNS[out], **types, **step.adds(shape)}
        return new, out, {c: d for c, d in new.items() if c not in columns}
    return columns, shape, {}


def _column_problems(
    recipe: Recipe, i: int, placed: Placed, shape: Shape, columns: Columns
) -> list[str]:
    problems = []
    try:
        needed = columns_needed(placed.step, shape)
    except ConfigError as error:  # options that do not go with this shape
        return [f"can't run on {shape.value}: {text}" for text in error.problems]
    for name, dtype in needed.items():
        if name.startswith("rejected_") and name.replace("rejected_", "chosen_", 1) in needed:
            continue  # said once, for the chosen side
        if name not in columns:
            problems.append(f"needs column {name!r}, {_missing(recipe, i, name, shape, columns)}")
        elif columns[name] != dtype:
            problems.append(f"needs column {name!r} as {dtype}, but it is {columns[name]}")
    if isinstance(placed.step, Labeler):
        problems += [
            f"adds column {name!r}, which is already there; give it another name"
            for name in columns_added(placed.step, shape)
            if name in columns
        ]
    return problems


def _missing(recipe: Recipe, i: int, name: str, shape: Shape, columns: Columns) -> str:
    for later in recipe.steps[i + 1 :]:
        labels = isinstance(later.step, Labeler) and accepts(later.step, shape)
        if labels and name in columns_added(later.step, shape):
            at = f" ({later.line_prefix[:-2]})" if later.line else ""
            return f"which {later.label}{at} makes only later: move it up"
    scores = [c for c in columns if is_score(c)]
    known = ", ".join(scores) if scores else "no scores at all"
    alike = scores if is_score(name) else list(columns)
    carry = "" if is_score(name) else f"; if files of the source have it: `carry: [{name}]`"
    return f"which nobody makes before it (there are: {known}){nearest(name, alike)}{carry}"


def _bridge(placed: Placed, shape: Shape) -> str:
    if shape == Shape.RESPONSES and Shape.PAIRS in placed.step.takes():
        return "; put labelers.Pairs before it"
    return ""


def _adds(planned: PlannedStep) -> str:
    """New columns in short: both sides of a score as one, scores that pairs carry over as one."""
    own = planned.placed.step.adds(planned.shape)
    carried = planned.kind == "generator" and planned.out_shape == Shape.PAIRS != planned.shape
    names = list(own) if carried else list(planned.adds)
    short = [n.replace("chosen_", "*_", 1) for n in names if not n.startswith("rejected_")]
    return ", ".join([*short, "all scores as *_score_*"] if carried else short)


DESCRIBED = ("step", "kind", "scope", "table", "adds", "name")


def describe(planned: list[PlannedStep]) -> list[dict[str, str]]:
    """The plan as rows of text, for `prefactory plan`."""
    return [
        {
            "step": p.placed.label,
            "kind": p.kind,
            "scope": p.placed.step.scope,
            "table": p.shape.value + (f" -> {p.out_shape.value}" if p.out_shape != p.shape else ""),
            "adds": _adds(p),
            "name": step_name(type(p.placed.step)),
        }
        for p in planned
    ]

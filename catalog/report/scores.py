"""The section on scores: how they agree with the label and with each other, and the Pareto plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from catalog.arrow_folder import Table
from catalog.report import pareto
from catalog.report.heatmap import Cell, heatmap
from prefactory.measures import disagreement as d
from prefactory.pages.wording import MINUS, count, percent, two
from prefactory.tables import Shape

MOST_PAIRS = 500_000
"""Answer pairs that are looked at where a version has no pairs of its own."""
LISTED = 5
"""Contradicted answers that are listed."""


@dataclass(frozen=True, slots=True)
class Plot:
    """The Pareto plot: the first picture, what it says, its front, and the data of all others."""

    picture: Markup
    sentence: str
    front: list[tuple[str, str, str]]
    data: str
    names: tuple[str, ...]
    x: int
    y: int
    rows: int
    of: int


@dataclass(frozen=True, slots=True)
class Section:
    """What the template shows.

    Attributes:
        labelled: whether the pairs have a label; if not they are all answer pairs of a prompt.
        pairs, prompts: how many.
        rows: one per objective: accuracy and calibration joined (labelled only).
        both: one per two objectives, most conflicts first: agreement and correlations joined.
        conflict, spearman: heatmaps; None with one objective.
        contradictions: see `prefactory.measures.contradictions`; with `worst`, the first of them.
        plot: None with one objective.
        data: all numbers as JSON that is safe inside a script element.
    """

    labelled: bool
    pairs: int
    prompts: int | None
    rows: list[dict[str, Any]]
    both: list[dict[str, Any]]
    conflict: Markup | None
    spearman: Markup | None
    contradictions: d.Contradictions | None
    worst: list[dict[str, Any]]
    plot: Plot | None
    data: Markup


def section(saved: Table, numbers: pl.DataFrame, names: Sequence[str]) -> Section | None:
    """Measure the scores of a table of pairs or responses; None if there is nothing to say.

    Args:
        saved: the table as it lies on disk, for the sample of the plot.
        numbers: its numeric columns and ids (`catalog.report.stats.numbers`).
        names: objectives to show.
    """
    labelled = saved.shape == Shape.PAIRS
    pairs = numbers
    if not labelled:
        if not {"prompt_id", "response_id"} <= set(numbers.columns):
            return None
        pairs = d.answer_pairs(numbers, MOST_PAIRS)
    used = [o for o in d.scored(pairs) if o in names]
    if not used or not numbers.height:
        return None
    measured = d.disagreement(pairs, used)
    both = measured.agreement.join(
        measured.correlations.drop("n"), on=["a", "b"], how="left", maintain_order="left"
    ).sort("conflict_share", descending=True, nulls_last=True, maintain_order=True)
    rows = measured.accuracy.join(
        measured.calibration.drop("n"), on="objective", how="left", maintain_order="left"
    )
    plain = measured.as_json()
    if not labelled:  # which side is chosen means nothing here
        plain |= {"accuracy": [], "calibration": []}
    doubt = measured.contradictions
    return Section(
        labelled=labelled,
        pairs=pairs.height,
        prompts=measured.prompts,
        rows=rows.to_dicts() if labelled else [],
        both=both.to_dicts(),
        conflict=_conflict(used, both) if len(used) > 1 else None,
        spearman=_spearman(used, both) if len(used) > 1 else None,
        contradictions=doubt,
        worst=[] if doubt is None else doubt.rows.head(LISTED).to_dicts(),
        plot=_plot(saved, numbers.height, used, both) if len(used) > 1 else None,
        data=_script_data({"disagreement": plain}),
    )


def _script_data(data: Mapping[str, Any]) -> Markup:
    """JSON that no HTML parser takes for anything else: ASCII without `<`, `>` and `&`."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - made safe above


def _conflict(names: Sequence[str], both: pl.DataFrame) -> Markup:
    cells = {}
    for row in both.to_dicts():
        share, n = row["conflict_share"], row["n"]
        if share is None:
            continue
        tip = (
            f"{row['a']} and {row['b']}: opposite in {count(row['conflict'])} of {count(n)} pairs "
            f"({percent(share)}), same in {percent(row['same'] / n)}, tied in "
            f"{percent((row['one_tied'] + row['both_tied']) / n)}"
        )
        level = 0 if share == 0 else min(5, 1 + int(share * 10))
        cells[row["a"], row["b"]] = Cell(f"{100 * share:.0f}", f"h-{level}", tip)
    top = both.row(0, named=True)
    most = "Nothing was compared."
    if top["conflict_share"] is not None:
        most = f"Most: {top['a']} and {top['b']}, {percent(top['conflict_share'])}."
    summary = f"Share of pairs that two objectives order in opposite ways, in percent. {most}"
    return heatmap(names, cells, summary, "")


def _spearman(names: Sequence[str], both: pl.DataFrame) -> Markup:
    cells = {}
    for row in both.to_dicts():
        r = row["spearman"]
        if r is None:
            continue
        tip = f"{row['a']} and {row['b']}: Spearman {two(r)}, Pearson {two(row['pearson'])}"
        text = two(r).replace("0.", ".", 1) if abs(r) < 0.995 else f"{round(r)}"
        level = round(5 * r)
        cells[row["a"], row["b"]] = Cell(text.replace("-", MINUS), f"h{level}", tip)
    summary = "Spearman correlation of objectives over distinct answers."
    return heatmap(names, cells, summary, "")


def _plot(saved: Table, of: int, names: Sequence[str], both: pl.DataFrame) -> Plot:
    top = both.row(0, named=True)
    x, y = sorted((names.index(top["a"]), names.index(top["b"])))
    points = pareto.read(saved, names, of)
    return Plot(
        picture=pareto.plot(points, x, y),
        sentence=pareto.sentence(points, x, y),
        front=pareto.front_rows(points, x, y),
        data=pareto.data(points, x, y),
        names=points.names,
        x=x,
        y=y,
        rows=points.rows,
        of=of,
    )

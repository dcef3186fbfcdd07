"""What dialogues show, for the page: ratings turn by turn, diagnoses, votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from catalog.arrow_folder import Table
from prefactory.measures.dialogue_report import MEASURES, NEEDED, dialogue_report
from prefactory.pages.svg import el, figure, text_at
from prefactory.pages.wording import count, num, plain, with_interval

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 220, 46, 12, 12, 40
SCALE = (1.0, 10.0)
"""Of the judge's ratings."""
_OPTIONAL = ("source_prompt_id", "diagnosis", "diagnosis_turn", "winner")


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Facts of the section.

    Attributes:
        facts: each with its words.
        curve: ratings by turn.
        turns: of each of the target's turns (turn, rating, dialogues, named by then).
        cells: of each cell of the grid (cell, rating, exact, exact or close).
        votes: measures, each with its words.
    """

    facts: tuple[tuple[str, str], ...]
    curve: Markup | None
    turns: tuple[tuple[str, str, str, str], ...]
    cells: tuple[tuple[str, str, str, str], ...]
    votes: tuple[tuple[str, str], ...]


def read(saved: Table) -> Dialogues | None:
    """Measure the dialogues of a version; None without any."""
    if not set(NEEDED) <= set(saved.columns):
        return None
    wanted = [*NEEDED, *(c for c in _OPTIONAL if c in saved.columns)]
    parts = list(saved.batches(wanted))
    return _section(dialogue_report(pl.concat(parts))) if parts else None


def _section(report: Mapping[str, Any]) -> Dialogues:
    ratings, diagnosis, votes = report["ratings"], report["diagnosis"], report["votes"]
    facts = [
        ("dialogues with rows", f"{count(report['dialogues'])} of {count(report['cases'])} cases")
    ]
    if ratings:
        facts.append(("a turn adds to the rating", with_interval(ratings["slope"], num)))
    if diagnosis:
        facts.append(("names what is true, exactly", with_interval(diagnosis["exact"])))
        facts.append(("exactly or closely", with_interval(diagnosis["close"])))
    told = [(name, with_interval(votes[name])) for name in MEASURES] if votes else []
    told += [
        (f"won by {plain(team, 40)}", f"{count(n)} dialogues")
        for team, n in (votes["winners"] if votes else {}).items()
    ]
    return Dialogues(
        tuple(facts),
        _drawn(ratings["curve"]) if ratings else None,
        _turns(ratings, diagnosis),
        _cells(ratings, diagnosis),
        tuple(told),
    )


def _turns(
    ratings: Mapping[str, Any] | None, diagnosis: Mapping[str, Any] | None
) -> tuple[tuple[str, str, str, str], ...]:
    named = {p["turn"]: p["named"] for p in (diagnosis or {"curve": []})["curve"]}
    last = None
    rows = []
    for point in (ratings or {"curve": []})["curve"]:
        last = named.get(point["turn"], last)  # after the last that names it nothing more comes
        rows.append(
            (
                str(point["turn"]),
                with_interval(point["rating"], num),
                count(point["rating"]["n"]),
                "" if last is None else with_interval(last),
            )
        )
    return tuple(rows)


def _cells(
    ratings: Mapping[str, Any] | None, diagnosis: Mapping[str, Any] | None
) -> tuple[tuple[str, str, str, str], ...]:
    rated = {c["cell"]: c["rating"] for c in (ratings or {"cells": []})["cells"]}
    named = {c["cell"]: c for c in (diagnosis or {"cells": []})["cells"]}
    cells = sorted({*rated, *named} - {""})
    return tuple(
        (
            plain(cell, 80),
            with_interval(rated[cell], num) if cell in rated else "",
            with_interval(named[cell]["exact"]) if cell in named else "",
            with_interval(named[cell]["close"]) if cell in named else "",
        )
        for cell in cells
    )


def _drawn(curve: Sequence[Mapping[str, Any]]) -> Markup:
    """The ratings by turn, with whiskers."""
    low, high = SCALE
    span, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def y(rating: float) -> float:
        inside = min(max(rating, low), high)
        return round(TOP + tall * (high - inside) / (high - low), 2)

    marks: list[Markup] = []
    for mark in (1, 4, 7, 10):
        marks.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(mark), y2=y(mark), class_="grid"))
        marks.append(text_at(LEFT - 6, y(mark) + 4, str(mark), "end"))
    said = []
    for i, point in enumerate(curve):
        rating, x = point["rating"], round(LEFT + span * (i + 0.5) / len(curve), 2)
        said.append(f"turn {point['turn']}: {with_interval(rating, num)}")
        shapes = [el("title", f"{said[-1]}, {count(rating['n'])} dialogues")]
        if rating["low"] is not None:
            ends = {"y1": y(rating["low"]), "y2": y(rating["high"])}
            shapes.append(el("line", x1=x, x2=x, **ends, class_="whisker"))
        shapes.append(el("circle", cx=x, cy=y(rating["value"]), r=4.5, class_="dot"))
        marks += [el("g", *shapes), text_at(x, HEIGHT - BOTTOM + 16, str(point["turn"]), "middle")]
    below = text_at(LEFT + span / 2, HEIGHT - 6, "turn of the target", "middle", "label")
    summary = "Mean rating of the target's turns. " + "; ".join(said)
    return figure(WIDTH, HEIGHT, summary, *marks, below)

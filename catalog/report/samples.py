"""Rows to read: chosen by id, cut to a readable length, never more than the page can carry."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup, escape

from catalog.arrow_folder import Table
from catalog.report.charts import score_bar
from catalog.report.stats import Objective
from prefactory.images.media import described, small
from prefactory.pages.wording import LONGEST, count, num, plain
from prefactory.tables import ROW_ID, SCORE, SIDES, Shape, message_keys, whole_text

TURNS = 12
"""Messages of one conversation that the page shows: the last ones."""
PICTURES = 9
"""Pictures of one row that the page shows."""
BUDGET = 2_000_000
"""Bytes of escaped text that all samples may take together."""
TALKS = ("prompt", "response", *SIDES)
VOTES = "_votes"
"""How columns with the votes of judges end (`labelers.Judge`, `labelers.JudgePairs`)."""
CRITIQUE = "critique_"
"""How columns with the words of a rubric's judge begin."""
FACTS = ("source", "goal", "goal_kind", "label_source", "model", "origin")


@dataclass(frozen=True, slots=True)
class Message:
    """One message as shown; `cut` characters of it are not."""

    role: str
    text: str
    cut: int


@dataclass(frozen=True, slots=True)
class Talk:
    """One conversation of a sample; `skipped` messages before it are not shown."""

    name: str
    id: str
    model: str
    length: int
    skipped: int
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of one sample for one objective: (side, number, bar), and chosen - rejected."""

    objective: str
    sides: tuple[tuple[str, str, Markup], ...]
    gap: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a prompt: small, as a `data:` address (None: not shown), and in words."""

    small: str | None
    words: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One row to read. `data` is the JSON that filter and sorting read: gaps, margin, objective."""

    number: int
    id: str
    split: str
    pictures: tuple[Picture, ...]
    facts: tuple[tuple[str, str], ...]
    margin: float | None
    prompt: Talk
    talks: tuple[Talk, ...]
    scores: tuple[Score, ...]
    data: str


@dataclass(frozen=True, slots=True)
class Samples:
    """What fitted on the page: of `wanted` rows, with `cut` texts cut at LONGEST characters."""

    shown: tuple[Sample, ...]
    wanted: int
    cut: int


def read(saved: Table, objectives: Sequence[Objective], n: int) -> Samples:
    """Take the first `n` rows by id, of the test split first, then train, then any other."""
    order = sorted(saved.splits, key=lambda name: ({"test": 0, "train": 1}.get(name, 2), name))
    shown: list[Sample] = []
    wanted = spent = 0
    for split in order:
        if wanted >= n:
            break
        rows = _first(saved, split, n - wanted)
        wanted += len(rows)
        for row in rows:
            sample = _sample(row, saved.shape, split, len(shown) + 1, objectives)
            spent += _bytes(sample)
            if spent <= BUDGET:
                shown.append(sample)
    cut = sum(m.cut > 0 for s in shown for talk in (s.prompt, *s.talks) for m in talk.messages)
    return Samples(tuple(shown), wanted, cut)


def _first(saved: Table, split: str, n: int) -> list[dict[str, Any]]:
    row_id = ROW_ID[saved.shape]
    wanted = [c for c in saved.columns if _shown(c)]
    kept: pl.DataFrame | None = None
    for batch in saved.batches(wanted, split):
        if kept is not None and kept.height >= n:
            batch = batch.filter(pl.col(row_id) < kept[row_id][-1])
        if batch.height:
            new = batch.sort(row_id).head(n)
            kept = new if kept is None else pl.concat([kept, new]).sort(row_id).head(n)
    if kept is None:
        return []
    excerpts = [_excerpts(c, kept.schema[c]) for c in TALKS if c in wanted]
    return kept.with_columns(excerpts).to_dicts()


def _shown(column: str) -> bool:
    bare = column.removeprefix("chosen_").removeprefix("rejected_")
    known = {*TALKS, *ROW_ID.values(), "id", "model", "margin", "images", *FACTS}
    return bare in known or bare.startswith((SCORE, CRITIQUE)) or bare.endswith(VOTES)


def _excerpts(column: str, dtype: pl.DataType) -> pl.Expr:
    content = whole_text(pl.element(), message_keys(dtype)).fill_null("")
    cut = pl.struct(
        role=pl.element().struct.field("role"),
        text=content.str.slice(0, LONGEST),
        length=content.str.len_chars(),
    )
    return pl.struct(
        messages=pl.col(column).list.tail(TURNS).list.eval(cut),
        n=pl.col(column).list.len(),
        length=pl.col(column).list.eval(content.str.len_chars()).list.sum(),
    ).alias(column)


def _talk(row: Mapping[str, Any], column: str, id_: str = "", model: str = "") -> Talk:
    talk = row.get(column) or {}
    messages = tuple(
        Message(m["role"] or "", m["text"], m["length"] - len(m["text"]))
        for m in talk.get("messages") or ()
    )
    skipped = (talk.get("n") or 0) - len(messages)
    return Talk(column, id_, model, talk.get("length") or 0, skipped, messages)


def _sample(
    row: Mapping[str, Any], shape: Shape, split: str, number: int, objectives: Sequence[Objective]
) -> Sample:
    sides = {Shape.PAIRS: SIDES, Shape.RESPONSES: ("response",), Shape.PROMPTS: ()}[shape]
    talks = tuple(
        _talk(row, s, str(row.get(f"{s}_id") or ""), str(row.get(f"{s}_model") or ""))
        for s in sides
    )
    scores = tuple(_score(row, o, shape) for o in objectives)
    facts = tuple((f, plain(row[f], 300)) for f in FACTS if row.get(f) not in (None, ""))
    facts += tuple(_reasons(row))
    margin = row.get("margin")
    data = json.dumps({"gaps": [s.gap for s in scores], "margin": _finite(margin)})
    row_id = str(row[ROW_ID[shape]])
    prompt = _talk(row, "prompt")
    pictures = _pictures(row.get("images"))
    return Sample(number, row_id, split, pictures, facts, margin, prompt, talks, scores, data)


def _reasons(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What judges said about a row: of each vote whom it was for, with its rationale."""
    for column, value in row.items():
        if not value:
            continue
        if column.removeprefix("chosen_").removeprefix("rejected_").startswith(CRITIQUE):
            yield column.replace("_", " "), plain(value, LONGEST)
        elif column.endswith(VOTES) and isinstance(value, list):
            for vote in value:
                if why := vote.get("rationale"):
                    whom = "a tie" if vote["place"] is None else chr(ord("A") + vote["place"])
                    yield f"judge {vote['judge']} for {whom}", plain(why, LONGEST)


def _pictures(images: list[dict[str, Any]] | None) -> tuple[Picture, ...]:
    """The first pictures of a row, drawn anew and small; the others in words."""
    held = [p["bytes"] for p in images or () if isinstance(p, dict) and p.get("bytes")]
    return tuple(
        Picture(small(data) if place < PICTURES else None, str(described(data)))
        for place, data in enumerate(held)
    )


def _score(row: Mapping[str, Any], objective: Objective, shape: Shape) -> Score:
    sides = ("chosen", "rejected") if shape == Shape.PAIRS else ("score",)
    shown = []
    values: list[float | None] = []
    for side in sides:
        name = f"{SCORE}{objective.name}"
        value = row.get(f"{side}_{name}" if shape == Shape.PAIRS else name)
        value = _finite(value)
        low, high = objective.low or 0.0, objective.high or 0.0
        shown.append((side, num(value), score_bar(value, low, high, side)))
        values.append(value)
    first, last = values[0], values[-1]
    if len(sides) == 1:
        return Score(objective.name, tuple(shown), first)
    gap = None if first is None or last is None else float(f"{first - last:.6g}")
    return Score(objective.name, tuple(shown), gap)


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _bytes(sample: Sample) -> int:
    texts = [m.text for talk in (sample.prompt, *sample.talks) for m in talk.messages]
    texts += [value for _, value in sample.facts]
    texts += [picture.small or "" for picture in sample.pictures]
    return 2000 + sum(len(escape(text).encode("utf-8", "replace")) for text in texts)


def cut_sentence(samples: Samples) -> str:
    """Say in a sentence what is not on the page; empty if everything is."""
    parts = []
    if samples.cut:
        parts.append(f"{count(samples.cut)} texts are cut at {count(LONGEST)} characters.")
    missing = samples.wanted - len(samples.shown)
    if missing:
        parts.append(f"{count(missing)} more rows were too long for this page.")
    return " ".join(parts)

"""An evaluation: its numbers, its text, its page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from catalog.report.charts import interval
from catalog.report.stats import Share
from prefactory.pages.page import environment, render
from trainers.evaluate.answered import Answered
from trainers.evaluate.benchmarks import STYLES, Sections, sections
from trainers.evaluate.charts import calibration as calibration_chart
from trainers.evaluate.models import Scored
from trainers.evaluate.tables import Paired, Row, accuracies, calibration, paired

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Measured:
    """One model on the pairs.

    Attributes:
        model: what it said.
        rows: its accuracies.
        sections: of the benchmarks that the pairs are of.
        calibration: its errors.
        unread: pairs that it could not read.
    """

    model: Scored
    rows: tuple[Row, ...]
    sections: tuple[Sections, ...]
    calibration: dict[str, float]
    unread: int

    @classmethod
    def of(cls, model: Scored, pairs: pl.DataFrame) -> Measured:
        """Measure a model."""
        return cls(
            model,
            tuple(accuracies(model, pairs)),
            tuple(sections(model.margins, pairs)),
            calibration(model),
            int(np.isnan(model.margins).sum()),
        )

    def score(self, benchmark: str, section: str) -> float | None:
        """What it has in a section of a benchmark."""
        by = {part.benchmark: part.scores for part in self.sections}
        return by.get(benchmark, {}).get(section)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.model.name, "score": self.model.how, "unread": self.unread,
            "accuracy": [{**asdict(r), "interval": r.interval} for r in self.rows],
            "sections": [asdict(s) for s in self.sections],
            "calibration": self.calibration,
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """Lines for a terminal."""
        yield f"  {self.model.name} ({self.model.how})"
        yield from (f"    {_cells(row)}" for row in self.rows)
        for part in self.sections:
            yield from (f"    {part.benchmark} {n}: {v:.3f}" for n, v in part.scores.items())
            if part.matrix:
                yield f"    {part.benchmark}, chosen by rejected {', '.join(STYLES)}:"
            for style, row in zip(STYLES, part.matrix, strict=False):
                yield f"      {style:9}" + "".join(f"{x:7.3f}" for x in row)
        if self.calibration:
            errors = (f"{k.upper()} {v:.3f}" for k, v in self.calibration.items())
            yield f"    {', '.join(errors)}"
        if self.unread:
            yield f"    {self.unread} pairs are too long for it, and count for nothing"


@dataclass(frozen=True)
class Evaluation:
    """Models on the same rows.

    Attributes:
        data: what the rows are called.
        models: on pairs; empty if the data are prompts, or models only answered.
        paired: every two models on the same pairs.
        answered: what the models' own answers came to; None if they were not asked.
    """

    data: str
    models: tuple[Measured, ...] = ()
    paired: tuple[Paired, ...] = ()
    answered: Answered | None = field(default=None)

    @classmethod
    def of(
        cls,
        data: str,
        models: Sequence[Scored],
        pairs: pl.DataFrame,
        seed: int,
        answered: Answered | None = None,
    ) -> Evaluation:
        """Measure models on pairs."""
        measured = tuple(Measured.of(model, pairs) for model in models)
        return cls(data, measured, tuple(paired(models, pairs, seed)), answered)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        found = {
            "data": self.data,
            "models": [model.as_dict() for model in self.models],
            "paired": [asdict(p) for p in self.paired],
            "answered": asdict(self.answered) if self.answered else None,
        }
        return {name: plain(value) for name, value in found.items()}

    def text(self) -> str:
        """Lines for a terminal."""
        names = len(self.models) or len(self.answered.models if self.answered else ())
        lines = [f"{names} model(s) on {self.data}"]
        for model in self.models:
            lines += model.lines()
        lines += [
            f"  {p.one} - {p.other}: {p.difference:+.3f} +- {p.se:.3f} on {p.pairs} pairs, "
            f"p {p.p:.3g}"
            for p in self.paired
        ]
        return "\n".join([*lines, *(self.answered.lines() if self.answered else [])])

    def page(self) -> str:
        """One HTML page that loads nothing; every text of the data is escaped."""
        return render(
            environment(HERE, {"interval": _interval}), "page.html.j2", [HERE / "page.css"], [],
            evaluation=self, groups=self._groups(), styles=STYLES,
            charts=[calibration_chart(m.model.name, m.model.margins) for m in self.models],
        )  # fmt: skip

    def _groups(self) -> list[tuple[str, int, list[Row | None]]]:
        """Group, its pairs, and the row of each model there."""
        keys = list(dict.fromkeys((r.group, r.value) for m in self.models for r in m.rows))
        by = [{(r.group, r.value): r for r in m.rows} for m in self.models]
        found = [(f"{g} {v}".strip(), [rows.get((g, v)) for rows in by]) for g, v in keys]
        return [(n, max(r.pairs for r in rows if r), rows) for n, rows in found]


def _interval(low: float, value: float, high: float) -> Markup:
    return interval(Share(0, 0, 0, value, low, high))


def plain(value: Any) -> Any:  # noqa: ANN401 - JSON data
    """JSON data with null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(row: Row) -> str:
    low, high = row.interval
    name = f"{row.group} {row.value}".strip()
    return f"{name}: {row.accuracy:.3f} [{low:.3f}, {high:.3f}] of {row.pairs} pairs"

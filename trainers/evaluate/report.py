"""An evaluation: its numbers, its text, its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from prefactory.measures.calibration import reliability
from prefactory.pages.page import environment, render
from prefactory.pages.svg import el, figure, text_at
from trainers.evaluate.models import Scored
from trainers.evaluate.tables import (
    Paired,
    Row,
    accuracies,
    calibration,
    paired,
    sections,
)  # fmt: skip

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Evaluation:
    """Models on the same pairs.

    Attributes:
        data: what the pairs are called.
        models: what they said.
        rows: accuracies by model.
        sections: RewardBench's, by model; empty where the pairs are others.
        calibration: errors by model.
        paired: every two models.
        unread: pairs that a model could not read, by model.
    """

    data: str
    models: tuple[Scored, ...]
    rows: tuple[tuple[Row, ...], ...]
    sections: tuple[dict[str, float], ...]
    calibration: tuple[dict[str, float], ...]
    paired: tuple[Paired, ...]
    unread: tuple[int, ...]

    @classmethod
    def of(cls, data: str, models: Sequence[Scored], pairs: pl.DataFrame, seed: int) -> Evaluation:
        """Measure models on pairs."""
        return cls(
            data,
            tuple(models),
            tuple(tuple(accuracies(m, pairs)) for m in models),
            tuple(sections(m, pairs) for m in models),
            tuple(calibration(m) for m in models),
            tuple(paired(models, pairs, seed)),
            tuple(int(np.isnan(m.margins).sum()) for m in models),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "data": self.data,
            "models": [
                {
                    "name": m.name, "score": m.how, "unread": unread,
                    "accuracy": [{**asdict(r), "interval": r.interval} for r in rows],
                    "sections": parts, "calibration": errors,
                }
                for m, rows, parts, errors, unread in zip(
                    self.models, self.rows, self.sections, self.calibration, self.unread,
                    strict=True,
                )
            ],
            "paired": [asdict(p) for p in self.paired],
        }  # fmt: skip

    def text(self) -> str:
        """Lines for a terminal."""
        lines = [f"{len(self.models)} model(s) on {self.data}"]
        for m, rows, parts, errors, unread in zip(
            self.models, self.rows, self.sections, self.calibration, self.unread, strict=True
        ):
            lines.append(f"  {m.name} ({m.how})")
            lines += [f"    {_cells(row)}" for row in rows]
            lines += [f"    section {name}: {value:.3f}" for name, value in parts.items()]
            if errors:
                lines.append("    " + ", ".join(f"{k.upper()} {v:.3f}" for k, v in errors.items()))
            if unread:
                lines.append(f"    {unread} pairs are too long for it, and count for nothing")
        lines += [
            f"  {p.one} - {p.other}: {p.difference:+.3f} +- {p.se:.3f} on {p.pairs} pairs, "
            f"p {p.p:.3g}"
            for p in self.paired
        ]
        return "\n".join(lines)

    def page(self) -> str:
        """One HTML page that loads nothing; every text of the data is escaped."""
        charts = [_chart(m) for m in self.models]
        return render(
            environment(HERE, {}), "page.html.j2", [HERE.parent / "report.css"], [],
            evaluation=self, charts=charts,
        )  # fmt: skip


def _cells(row: Row) -> str:
    low, high = row.interval
    name = f"{row.group} {row.value}".strip()
    return f"{name}: {row.accuracy:.3f} [{low:.3f}, {high:.3f}] of {row.pairs} pairs"


def _chart(model: Scored) -> Markup:
    """Observed share of wins against the predicted probability, over both orders."""
    margins = model.margins[~np.isnan(model.margins)]
    size, pad = 220, 30
    marks = []
    if len(margins):
        for row in reliability(margins).iter_rows(named=True):
            x, y = pad + size * row["mean_p"], pad + size * (1 - row["mean_y"])
            marks.append(el("circle", cx=x, cy=y, r=4, fill="currentColor"))
    line = el(
        "line", x1=pad, y1=pad + size, x2=pad + size, y2=pad, stroke="currentColor",
        stroke_dasharray="4 4",
    )  # fmt: skip
    labels = [
        text_at(pad + size / 2, size + pad + 22, "predicted", "middle"),
        text_at(pad, pad - 10, "observed", "start"),
    ]
    summary = f"Calibration of {model.name}: observed against predicted share of wins"
    return figure(size + 2 * pad, size + 2 * pad, summary, line, *marks, *labels)

"""Value drift of a run: its text, its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prefactory.measures.value_drift import STANCES, ValueDrift
from prefactory.pages.page import environment, render
from trainers.evaluate.charts import COLORS, lines

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Topic:
    """A topic and the drift on it."""

    name: str
    drift: ValueDrift

    def chart(self, ends: tuple[str, str], at: Sequence[float]) -> Markup:
        """The shares of the stances over the checkpoints."""
        series = {s: self.drift.shares[:, i].tolist() for i, s in enumerate(STANCES)}
        return lines(f"Stances on {self.name}", ends, at, series)


@dataclass(frozen=True)
class Drift:
    """Stances over the checkpoints of a run.

    Attributes:
        model: what was trained.
        questions: what it was asked.
        judge: who told the stances.
        checkpoints: their names, in the order of training.
        at: share of training of each, 0 to 1.
        samples: answers to a question.
        topics: all questions first, then each topic.
        unanswered: answers that are missing.
        untold: answers whose stance could not be told.
    """

    model: str
    questions: str
    judge: str
    checkpoints: tuple[str, ...]
    at: tuple[float, ...]
    samples: int
    topics: tuple[Topic, ...]
    unanswered: int
    untold: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "model": self.model, "questions": self.questions, "judge": self.judge,
            "checkpoints": [
                {"name": n, "at": at} for n, at in zip(self.checkpoints, self.at, strict=True)
            ],
            "samples": self.samples, "unanswered": self.unanswered, "untold": self.untold,
            "topics": [_as_dict(topic) for topic in self.topics],
        }  # fmt: skip

    def text(self) -> str:
        """Lines for a terminal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        first, last = self.checkpoints[0], self.checkpoints[-1]
        yield (
            f"{self.model} from {first} to {last} ({len(self.checkpoints)} checkpoints, "
            f"{self.samples} answers to each question of {self.questions}); stances by {self.judge}"
        )
        for topic in self.topics:
            d = topic.drift
            yield (
                f"  {topic.name}, {d.questions} questions: size {d.size:.3f} "
                f"[{d.size_interval[0]:.3f}, {d.size_interval[1]:.3f}], p {d.p:.3g}, time "
                f"{d.time:.2f} [{d.time_interval[0]:.2f}, {d.time_interval[1]:.2f}]"
            )
            for i, stance in enumerate(STANCES):
                low, high = d.magnitude_interval[i]
                yield (
                    f"    {stance:8} {d.shares[0, i]:.3f} -> {d.shares[-1, i]:.3f}, "
                    f"{d.magnitude[i]:+.3f} [{low:+.3f}, {high:+.3f}]"
                )
        if self.unanswered:
            yield f"  {self.unanswered} answers are missing"
        if self.untold:
            yield f"  {self.untold} answers have no stance that could be told"

    def page(self) -> str:
        """One HTML page that loads nothing; every text of the data is escaped."""
        ends = self.checkpoints[0], self.checkpoints[-1]
        return render(
            environment(HERE, {}), "drift.html.j2", [HERE / "page.css"], [],
            drift=self, stances=STANCES, keys=dict(zip(STANCES, COLORS, strict=False)),
            charts=[topic.chart(ends, self.at) for topic in self.topics],
        )  # fmt: skip


def _as_dict(topic: Topic) -> dict[str, Any]:
    d = topic.drift
    return {
        "topic": topic.name, "questions": d.questions, "size": d.size,
        "size_interval": d.size_interval, "p": d.p, "time": d.time,
        "time_interval": d.time_interval,
        "stances": {
            stance: {
                "shares": d.shares[:, i].tolist(),
                "magnitude": float(d.magnitude[i]),
                "interval": d.magnitude_interval[i].tolist(),
            }
            for i, stance in enumerate(STANCES)
        },
    }  # fmt: skip

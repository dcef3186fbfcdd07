"""What lies between two models: scores along the path, its barrier, and their ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from prefactory.measures.calibration import Floats, pairwise_accuracy


@dataclass(frozen=True)
class Place:
    """A model, or several that score together.

    Attributes:
        name: what it is.
        at: share of the last model on the way from the first, 0 to 1; None for what lies on no way.
        accuracy: share of the held-out pairs whose chosen answer it scores higher.
        se: its standard error, by prompt.
        loss: mean of `log(1 + exp(-margin))`, nats.
    """

    name: str
    at: float | None
    accuracy: float
    se: float
    loss: float

    @classmethod
    def of(cls, name: str, at: float | None, margins: Floats, prompts: pl.Series) -> Place:
        """Measure margins, Float64[n], of pairs of prompts."""
        accuracy, se = pairwise_accuracy(margins, prompts)
        return cls(name, at, accuracy, se, float(np.logaddexp(0, -margins).mean()))


@dataclass(frozen=True)
class Path:
    """Models that were merged, what they are together, and what lies between.

    Attributes:
        places: the ensemble first, then the models, what lies between two, and the merged one.
    """

    places: tuple[Place, ...]

    @property
    def barrier(self) -> float | None:
        """How far the loss rises over the line between both ends, nats; None without a path."""
        way = sorted((p for p in self.places if p.at is not None), key=lambda p: float(p.at or 0))
        if len(way) < 3:
            return None
        return barrier([float(p.at or 0) for p in way], [p.loss for p in way])

    def lines(self) -> list[str]:
        """A line a place."""
        width = max((len(p.name) for p in self.places), default=0)
        rows = [
            f"{p.name:{width}} accuracy {p.accuracy:.3f} ± {p.se:.3f}, loss {p.loss:.4f}"
            for p in self.places
        ]
        height = self.barrier
        return rows if height is None else [*rows, f"barrier of the path: {height:+.4f} nats"]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"places": [asdict(p) for p in self.places], "barrier": self.barrier}


def barrier(at: Sequence[float], losses: Sequence[float]) -> float:
    """Largest rise of the loss over the line between both ends (arXiv 1912.05671).

    Args:
        at: places on the way, rising from 0 to 1.
        losses: there, nats.

    Returns:
        0 where the loss lies on or below the line everywhere: both models are connected.
    """
    t, loss = np.asarray(at, np.float64), np.asarray(losses, np.float64)
    return float((loss - ((1 - t) * loss[0] + t * loss[-1])).max())

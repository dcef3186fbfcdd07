"""A reference model that preference optimisation starts from, asked how likely answers are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

NOT_ASKED = "no reference was asked: name the model to train with --reference MODEL"


@dataclass(frozen=True)
class Reference:
    """The model that is to be trained.

    Attributes:
        model: its name, for the report.
        ask: PAIRS and a seed -> `own`, `chosen`, `rejected` (Float64, same height and order): mean
            log-probability of a token, in nats, of what the model itself says to the prompt and of
            both answers; null where it has none.
        sample: pairs that it is asked about at most.
    """

    model: str
    ask: Callable[[pl.DataFrame, int], pl.DataFrame]
    sample: int = 200

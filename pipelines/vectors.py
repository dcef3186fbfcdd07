"""The cache of vectors behind every step and trainer that embeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from pipelines.settings import Settings


def embedder(settings: Settings) -> Callable[[Any, pl.Series], np.ndarray]:
    """`(encoder, texts) -> vectors`, cached in the store; loads a model on first use only."""

    def embed(encoder: Any, texts: pl.Series) -> np.ndarray:  # noqa: ANN401 - an Encoder
        from prefactory.engines.vectors import shared_store  # torch, only where vectors are needed

        return shared_store(settings.home / "store" / "vectors").embed(encoder, texts)

    return embed


def known(settings: Settings) -> Callable[[Any, pl.Series], bool]:
    """`(encoder, texts) -> whether all have vectors in the store`; loads no model."""

    def there(encoder: Any, texts: pl.Series) -> bool:  # noqa: ANN401 - an Encoder
        from prefactory.engines.vectors import shared_store

        return shared_store(settings.home / "store" / "vectors").has(encoder, texts)

    return there

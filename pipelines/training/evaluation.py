"""`prefactory evaluate`: models on pairs that they did not see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from audit import load
from pipelines.settings import Settings
from pipelines.vectors import embedder
from prefactory.errors import CatalogError, DataError

if TYPE_CHECKING:
    from trainers.evaluate.report import Evaluation


def evaluate(
    models: Sequence[str],
    data: str,
    settings: Settings,
    table: str = "pairs",
    split: str = "test",
    rows: int | None = None,
    batch: int = 8,
    max_length: int = 1024,
    seed: int = 0,
) -> Evaluation:
    """Hold models against pairs.

    Args:
        models: folders, names in `models/` of the home, or hub ids.
        data: a version (its held-out split), or a file or folder of pairs in any layout.
        settings: where versions and models are.
        table: of a version.
        split: of a version.
        rows: that many of the pairs, drawn by the seed; all if None.
        batch: conversations per forward pass.
        max_length: tokens of a conversation.
        seed: of the draw and of the tests.

    Raises:
        DataError: there are no pairs.
    """
    from trainers.evaluate.models import scored
    from trainers.evaluate.report import Evaluation

    pairs = _pairs(data, settings, table, split)
    if rows is not None and rows < pairs.height:
        pairs = pairs.sample(rows, seed=seed).sort("prompt_id", "pair_id")
    if not pairs.height:
        raise DataError(f"{data} has no pairs to evaluate on (split {split})")
    found = [
        scored(model_of(name, settings), pairs, embedder(settings), batch, max_length)
        for name in models
    ]
    return Evaluation.of(data, found, pairs, seed)


def model_of(name: str, settings: Settings) -> str:
    """Folder of a model by its name in the home; a folder or hub id stays as it is."""
    here = settings.home / "models" / name
    return str(here) if here.is_dir() and not Path(name).is_dir() else name


def _pairs(data: str, settings: Settings, table: str, split: str) -> pl.DataFrame:
    try:
        version = settings.catalog.get(data)
    except CatalogError:
        if not Path(data).exists():
            raise
        found = load(data, settings.catalog, None, 0, None).table
    else:
        found = version.frame(table, split).collect()
    if "pair_id" not in found.columns:
        raise DataError(f"{data} holds no pairs, and models are evaluated on pairs")
    return found

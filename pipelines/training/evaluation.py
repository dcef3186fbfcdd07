"""`prefactory evaluate`: models on pairs that they did not see, and their own answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from audit import load
from catalog.history.drift import MAIN
from pipelines.settings import Settings
from pipelines.training.answering import Asked, is_engine
from pipelines.training.places import model_of
from pipelines.vectors import embedder
from prefactory.errors import CatalogError, DataError
from prefactory.tables import COLUMNS, Shape

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
    asked: Asked | None = None,
) -> Evaluation:
    """Hold models against pairs, and let them answer if they are asked.

    Args:
        models: folders, names in `models/` of the home, or hub ids; engines only answer.
        data: a version (its held-out split), or a file or folder of pairs in any layout; prompts
            or responses will do where models only answer.
        settings: where versions and models are.
        table: of a version.
        split: of a version.
        rows: that many of the rows, drawn by the seed; all if None.
        batch: conversations per forward pass.
        max_length: tokens of a conversation.
        seed: of the draw, of answers and of the tests.
        asked: let models answer the prompts, too; None: they only score.

    Raises:
        DataError: there are no rows, or no pairs where nothing else is asked for.
    """
    from trainers.evaluate.models import scored
    from trainers.evaluate.report import Evaluation

    named = [] if asked is None else [c for c in (asked.risk, asked.reference) if c is not None]
    found = _rows(data, settings, table, split, asked is None, named)
    if rows is not None and rows < found.height:
        ids = [c for c in ("prompt_id", "pair_id", "response_id") if c in found.columns]
        found = found.sample(rows, seed=seed).sort(ids)
    if not found.height:
        raise DataError(f"{data} has no rows to evaluate on (split {split})")
    places = [model_of(name, settings) for name in models]
    scores = []
    if "pair_id" in found.columns:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the libraries, to each other
            scores = [
                scored(place, found, embedder(settings), batch, max_length)
                for place in places
                if not is_engine(place)
            ]
    answers = None
    if asked is not None:
        from pipelines.training.answers import answered

        answers = answered(places, found, asked, seed, settings)
    return Evaluation.of(data, scores, found, seed, answers)


def _rows(
    data: str, settings: Settings, table: str, split: str, pairs: bool, named: Sequence[str]
) -> pl.DataFrame:
    """The rows of a version or a file; `named` are columns that are wanted beside its texts."""
    from trainers.evaluate.benchmarks import TIES_ID, has_ties

    try:
        version = settings.catalog.get(data)
    except CatalogError:
        if not Path(data).exists():
            raise
        carry = tuple(c for c in named if c not in COLUMNS[Shape.PAIRS])
        found = load(data, settings.catalog, None, 0, None, carry=carry).table
        if has_ties(found):  # whose ids say which prompts belong together
            found = load(data, settings.catalog, None, 0, None, carry=(*carry, TIES_ID)).table
    else:
        tables = version.manifest.tables
        name = table if table in tables or pairs else next(n for n in MAIN if n in tables)
        found = version.frame(name, split).collect()
    if missing := [c for c in named if c not in found.columns]:
        raise DataError(f"{data} has no column {missing[0]!r}")
    if pairs and "pair_id" not in found.columns:
        raise DataError(
            f"{data} holds no pairs, and scores are measured on pairs; models answer prompts with "
            "--judge or --reference"
        )
    return found

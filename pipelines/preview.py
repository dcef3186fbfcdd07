"""A look at the first rows: what each step would ask its models, and what becomes of the rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from catalog.sources import OpenSource, reading
from pipelines.engines import engines
from pipelines.settings import Settings
from pipelines.vectors import embedder
from prefactory.engines.base import (
    Calls,
    Completion,
    Conversation,
    Done,
    Engine,
    EngineConfig,
    Purpose,
    Request,
    Result,
    TokenLogprobs,
)
from prefactory.engines.base import Failure as Failed
from prefactory.errors import DataError, StoppedError
from prefactory.images.marks import unbind
from prefactory.recipe import Recipe
from prefactory.run import execute
from prefactory.stages import Options, Stage, thread_mapper
from prefactory.store import Store
from prefactory.tables import ROW_ID, Shape


class _EnoughError(StoppedError):
    """The first questions of a step are known, and no model is to be asked."""


@dataclass(frozen=True)
class Asked:
    """One request to a model, and its answer if the model was asked."""

    model: str
    request: Request
    result: Result | None = None


@dataclass
class Looked:
    """What happened at one stage.

    Attributes:
        label: of the step, or `source`.
        line: of the recipe's run, as `prefactory run` prints it.
        asked: what its models were asked.
    """

    label: str
    stage: Stage | None
    asked: list[Asked] = field(default_factory=list)


@dataclass
class Preview:
    """What the first rows of a recipe do.

    Attributes:
        stages: in order, as far as the rows came.
        stopped: why they came no further: a model would have to be asked, or no row was left.
        tables: the rows at the end, by table name.
    """

    stages: list[Looked]
    stopped: str | None
    tables: dict[str, pl.DataFrame]


@dataclass(frozen=True)
class _Block:
    rows: pl.DataFrame
    rejected: pl.DataFrame
    notes: pl.DataFrame
    n_records: int


class FirstRows:
    """A source cut to its first rows: the first `rows` pairs or prompts, with all their answers."""

    def __init__(self, source: OpenSource, rows: int) -> None:
        """Look at `rows` rows of a source."""
        self._source = source
        self._rows = rows
        self.name = source.name
        self.shape, self.schema = source.shape, source.schema
        self.files = source.files[:1]

    def identity(self) -> dict[str, Any]:
        """The source's own, with the number of rows."""
        return {**self._source.identity(), "first": self._rows}

    def read(self, file: Any, block_rows: int = 1000) -> Iterator[_Block]:  # noqa: ANN401
        """Yield the first block that has rows, cut; all that was rejected before it is counted."""
        for block in self._source.read(file, block_rows):
            if block.rows.height == 0:
                continue
            rows = block.rows
            wanted = rows["prompt_id"].unique(maintain_order=True).head(self._rows)
            if self.shape == Shape.RESPONSES:
                rows = rows.filter(pl.col("prompt_id").is_in(wanted.implode()))
            else:
                rows = rows.head(self._rows)
            yield _Block(rows, block.rejected.clear(), block.notes.clear(), rows.height)
            return


class _Recorder(Engine):
    """Notes what is asked, and answers only if there is an engine to ask."""

    def __init__(self, config: EngineConfig, inner: Engine | None, asked: list[Asked]) -> None:
        self.capabilities = config.capabilities
        self._model = config.model
        self._inner = inner
        self._asked = asked

    def asked_for(self, purpose: Purpose, calls: Calls | None = None) -> Engine:
        """Let the answers be kept as those of the step that asks."""
        if self._inner is not None:
            self._inner = self._inner.asked_for(purpose, calls)
        return self

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Note all requests; ask for real, or end the preview here."""
        waiting = list(requests)
        if self._inner is None:
            self._asked += [Asked(self._model, r) for r in waiting]
            raise _EnoughError("no model was asked")
        results: dict[int, Result] = {}

        def heard(place: int, result: Result) -> None:
            results[place] = result
            done(place, result)

        self._inner.run(waiting, heard)
        self._asked += [Asked(self._model, r, results.get(i)) for i, r in enumerate(waiting)]

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failed]:
        """Score for real, or end the preview here."""
        if self._inner is None:
            raise _EnoughError("no model was asked")
        return self._inner.logprobs(conversations)


def preview(
    recipe: Recipe, sources: Sequence[OpenSource], settings: Settings, rows: int, call: bool
) -> Preview:
    """Run the first rows of a recipe in a folder of their own; nothing is published.

    Args:
        recipe: what to do.
        sources: its opened sources; the first file of the first one is read.
        settings: whose home holds the journal, the vectors and the models.
        rows: how many prompts or pairs to look at.
        call: ask the models for real (their answers are journalled); else the preview ends where
            the first one would be asked.
    """
    asked: list[Asked] = []
    stages: list[Looked] = []

    def finished(stage: Stage) -> None:
        stages.append(Looked(stage.label, stage, asked.copy()))
        asked.clear()

    stopped, tables = None, {}
    with tempfile.TemporaryDirectory(prefix="prefactory-") as folder, engines(settings) as session:

        def engine(config: Any) -> Engine:  # noqa: ANN401 - an engine's configuration
            return _Recorder(config, session.engine(config) if call else None, asked)

        options = Options(
            workers=1,
            shard_rows=1_000_000,
            embed=embedder(settings),
            engine=engine,
            on_stage=finished,
        )
        store, mapper = Store(Path(folder)), thread_mapper(1)
        try:
            result = reading(
                sources[0],
                lambda source: execute(recipe, [FirstRows(source, rows)], store, mapper, options),
            )
            tables = {str(n): _rows(v.tables(), v.shape) for n, v in result.views.items()}
            if result.images:  # before the folder of the store is gone
                tables = {n: unbind(t, result.store.images) for n, t in tables.items()}
        except _EnoughError:
            reached = max(len(stages) - 1, 0)
            label = recipe.steps[reached].label
            stages.append(Looked(label, None, asked.copy()))
            stopped = f"{label} asks a model; with --call it is asked, and the steps after it run"
        except DataError as error:
            stopped = str(error)
    return Preview(stages, stopped, tables)


def _rows(tables: Iterable[pl.DataFrame], shape: Shape) -> pl.DataFrame:
    whole = pl.concat(list(tables))
    return whole.select(pl.col(ROW_ID[shape]), pl.exclude(ROW_ID[shape]))


def answer_of(asked: Asked) -> str | None:
    """The answer as text, or why there is none."""
    if asked.result is None:
        return None
    if isinstance(asked.result, Completion):
        return asked.result.text
    return f"({asked.result.reason}: {asked.result.detail})"

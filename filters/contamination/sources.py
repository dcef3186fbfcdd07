"""The benchmarks that data is held against: files, hub datasets, or published versions of ours."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from catalog.sources.resolve import resolve
from catalog.sources.spec import SourceSpec
from catalog.versions import Catalog, Version
from filters.contamination.benchmarks import Benchmark, benchmark, read_benchmark
from filters.contamination.ngrams import NgramIndex
from prefactory.errors import ConfigError
from prefactory.recipe import NAME
from prefactory.tables import text_of

_REF = re.compile(rf"({NAME.pattern})@({NAME.pattern})")
_LOCK = threading.Lock()


class BenchmarkSource(BaseModel):
    """Where the prompts of a benchmark lie.

    Attributes:
        path: a file, folder, glob, URL or hub id in any format that sources have, `.txt` with one
            prompt a line, or `name@version` of the catalog.
        column: where the prompts are, if not in one of `filters.contamination.benchmarks.COLUMNS`.
        name: in the ledger and the report; by default that of the file.
        split: of a hub dataset or a folder of splits.
        config: of a hub dataset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1)
    column: str | None = None
    name: str | None = Field(default=None, min_length=1)
    split: str | None = None
    config: str | None = None


@dataclass(frozen=True)
class Benchmarks:
    """Prompts of all benchmarks in one row, ready to be looked up.

    Attributes:
        parts: the benchmarks.
        texts: String[m], their prompts one after another.
        places: String[m], where each stands.
        which: Int64[m], number of each prompt's benchmark.
        index: of the texts.
    """

    parts: tuple[Benchmark, ...]
    texts: pl.Series = field(repr=False)
    places: pl.Series = field(repr=False)
    which: NDArray[np.int64] = field(repr=False)
    index: NgramIndex = field(repr=False)


def open_benchmarks(sources: Sequence[BenchmarkSource], root: Path, n: int) -> Benchmarks:
    """Read benchmarks and index them; what was read before and has not changed is kept.

    Args:
        sources: which.
        root: folder of the catalog's versions.
        n: words of a run.

    Raises:
        DataError: one can't be read.
        CatalogError: a version is not there.
        ConfigError: two of them have one name.
    """
    with _LOCK:  # shards are reduced in several threads
        return _opened(tuple(sources), root, n, tuple(_mark(s) for s in sources))


@lru_cache(maxsize=4)
def _opened(
    sources: tuple[BenchmarkSource, ...], root: Path, n: int, marks: tuple[object, ...]
) -> Benchmarks:
    parts = tuple(_read(source, root) for source in sources)
    names = [part.name for part in parts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"against: two benchmarks are called {twice[0]!r}; give one of them a `name`"
        )
    texts = pl.concat([part.texts for part in parts])
    places = pl.concat([part.places for part in parts])
    which = np.repeat(np.arange(len(parts)), [part.texts.len() for part in parts])
    return Benchmarks(parts, texts, places, which, NgramIndex.build(texts, n))


def _version_of(source: BenchmarkSource) -> str | None:
    named = _REF.fullmatch(source.path) and not Path(source.path).exists()
    return source.path if named else None


def _mark(source: BenchmarkSource) -> tuple[object, ...]:
    """What changes when a local file does."""
    if _version_of(source) or "://" in source.path:
        return ()
    if source.path.endswith(".txt"):
        paths = [Path(source.path)]
    else:
        spec = SourceSpec(path=source.path, split=source.split, config=source.config)
        paths = [Path(file.url) for file in resolve(spec, None).files]
    stats = [(str(p), p.stat()) for p in paths if p.is_file()]
    return tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats)


def _read(source: BenchmarkSource, root: Path) -> Benchmark:
    version = _version_of(source)
    if version is not None:
        benchmark = _of_version(Catalog(root=root).get(version))
    else:
        benchmark = read_benchmark(source.path, source.column, source.split, source.config)
    if source.name is None:
        return benchmark
    return Benchmark(source.name, benchmark.texts, benchmark.digest, benchmark.places)


def _of_version(version: Version) -> Benchmark:
    """What the users say in each prompt of a version."""
    tables = version.manifest.tables
    name = next(t for t in ("prompts", "responses", "pairs", *tables) if t in tables)
    parts = [
        batch.unique("prompt_id").select(
            "prompt_id", text=text_of(pl.col("prompt"), "user").fill_null("")
        )
        for split, rows in tables[name].splits.items()
        if rows
        for batch in version.batches(name, split, ["prompt_id", "prompt"])
    ]
    prompts = pl.concat(parts).unique("prompt_id").sort("prompt_id")
    return benchmark(version.ref, prompts["text"], prompts["prompt_id"])

"""The prompts of benchmarks: of files, whatever their columns, hub data and versions of ours."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from catalog.sources.chunks import Chunk
from catalog.sources.hub import hub_chunks, hub_revision, hub_splits
from catalog.sources.open_files import chunks
from catalog.sources.resolve import format_of, resolve
from catalog.sources.spec import SourceFile, SourceSpec
from catalog.versions import Catalog, Version
from filters.contamination.ngrams import NgramIndex
from prefactory.errors import ConfigError, DataError
from prefactory.overrides import nearest
from prefactory.recipe import NAME
from prefactory.tables import text_of

COLUMNS = (
    "prompt",
    "question",
    "instruction",
    "problem",
    "query",
    "turns",
    "messages",
    "conversations",
    "input",
    "text",
)
"""Columns that hold prompts, the first that there is (in any case) is taken."""
_TEXTS = ("content", "value", "text")
_ROWS = 100_000
_REF = re.compile(rf"({NAME.pattern})@({NAME.pattern})")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Benchmark:
    """The prompts of a benchmark.

    Attributes:
        name: of its file.
        texts: its prompts, no nulls.
        digest: of the prompts and places, for records.
        places: where each prompt stands, `file:line`, as in the ids of sources.
        path: where it was read; empty if it was not.
    """

    name: str
    texts: pl.Series = field(repr=False)
    digest: str
    places: pl.Series = field(repr=False)
    path: str = ""


def benchmark(name: str, texts: pl.Series, places: pl.Series | None = None) -> Benchmark:
    """A benchmark of texts in memory; nulls and blank texts are left out.

    Args:
        name: of the benchmark.
        texts: String[m].
        places: String[m]; by default `name:1`, `name:2`, ...
    """
    rows = texts.rename("text").to_frame()
    named = pl.format("{}:{}", pl.lit(name), pl.int_range(1, pl.len() + 1))
    rows = rows.with_columns(place=named if places is None else places)
    kept = rows.filter(pl.col("text").str.strip_chars() != "")
    joined = kept.select(pl.concat_str("place", "text", separator="\x1f").str.join("\x1e")).item()
    digest = hashlib.blake2b((joined or "").encode("utf-8", "surrogatepass"), digest_size=16)
    return Benchmark(name, kept["text"], digest.hexdigest(), kept["place"])


def read_benchmark(
    path: str, column: str | None = None, split: str | None = None, config: str | None = None
) -> Benchmark:
    """Read a benchmark.

    Args:
        path: file, folder, glob, URL or hub id, in any format that sources have, or `.txt` with one
            prompt a line. A CSV file without a known column has no header: its first column is it.
        column: where the prompts are, if not in one of `COLUMNS`. A list of messages or turns is
            one prompt; of messages the user's count.
        split: of a hub dataset or a folder of splits; by default all of them.
        config: of a hub dataset, or a folder inside the path.

    Raises:
        DataError: it can't be read, or no column of prompts is known.
    """
    if path.endswith(".txt"):
        try:
            lines = Path(path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"benchmark {path!r} can't be read: {error}") from error
        numbered = [(line, f"{Path(path).name}:{n}") for n, line in enumerate(lines, 1)]
        return _checked(path, Path(path).stem, numbered)
    spec = SourceSpec(path=path, split=split, config=config)
    source = resolve(spec, None)
    files: list[tuple[SourceFile, Iterable[Chunk]]]
    if source.hub is None:
        files = [(file, chunks(file, _ROWS)) for file in source.files]
    else:
        commit = hub_revision(source.hub, None)
        files = [
            (file, hub_chunks(spec, file, _ROWS, None, commit))
            for file in hub_splits(spec, source.hub, commit)
        ]
    texts = [row for file, parts in files for row in _texts(file, parts, path, column)]
    return _checked(path, source.name, texts)


def _checked(path: str, name: str, rows: list[tuple[str, str]]) -> Benchmark:
    texts, places = zip(*rows, strict=True) if rows else ((), ())
    prompts = benchmark(name, pl.Series(texts, dtype=pl.String), pl.Series(places, dtype=pl.String))
    if not prompts.texts.len():
        raise DataError(f"benchmark {path!r} holds no prompt")
    return replace(prompts, path=path)


def _texts(
    file: SourceFile, parts: Iterable[Chunk], path: str, column: str | None
) -> list[tuple[str, str]]:
    """Prompts of a file, and where each stands."""
    texts: list[tuple[str, str]] = []
    key: str | None = None
    for chunk in parts:
        records = chunk.table.to_dicts() if chunk.table is not None else chunk.records or []
        if not records:
            continue
        if key is None:
            key, header = _column(chunk, list(records[0]), path, column, format_of(file.name))
            texts += [(text, f"{file.name}:1") for text in header]
        prompts = [_prompt_text(record.get(key), record) for record in records]
        texts += [(t, f"{file.name}:{n}") for t, n in zip(prompts, chunk.lines, strict=True)]
    return texts


def _column(
    chunk: Chunk, columns: list[str], path: str, wanted: str | None, form: str | None
) -> tuple[str, list[str]]:
    """The column of prompts; and, of a CSV file without a header, the prompt in its first line."""
    if wanted is not None:
        if wanted not in columns:
            near = nearest(wanted, columns) or f"; there are: {', '.join(columns)}"
            raise DataError(f"benchmark {path!r} has no column {wanted!r}{near}")
        return wanted, []
    by_name = {name.lower(): name for name in reversed(columns)}
    known = next((by_name[name] for name in COLUMNS if name in by_name), None)
    if known is not None:
        return known, []
    if chunk.texts_only and form in ("csv", "tsv"):
        return columns[0], [columns[0]]
    raise DataError(
        f"benchmark {path!r} has no column that is known to hold prompts ({', '.join(COLUMNS)}); "
        f"its columns are {', '.join(columns)}"
    )


def _prompt_text(value: Any, record: dict[str, Any]) -> str:  # noqa: ANN401 - any JSON value
    """A prompt as text; an `instruction` with an `input` is both."""
    if isinstance(value, list):
        return "\n".join(filter(None, map(_turn, value)))
    text = value if isinstance(value, str) else "" if value is None else str(value)
    more = record.get("input")
    joins = isinstance(more, str) and "instruction" in record and more.strip() and more != text
    return f"{text}\n{more}" if joins else text


def _turn(turn: Any) -> str:  # noqa: ANN401
    if isinstance(turn, dict):
        if str(turn.get("role") or turn.get("from") or "user") not in ("user", "human"):
            return ""
        turn = next((turn[key] for key in _TEXTS if turn.get(key)), "")
    return turn if isinstance(turn, str) else ""


class BenchmarkSource(BaseModel):
    """Where the prompts of a benchmark lie.

    Attributes:
        path: a file, folder, glob, URL or hub id in any format that sources have, `.txt` with one
            prompt a line, or `name@version` of the catalog.
        column: where the prompts are, if not in one of `COLUMNS`.
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
        prompts = _of_version(Catalog(root=root).get(version))
    else:
        prompts = read_benchmark(source.path, source.column, source.split, source.config)
    return prompts if source.name is None else replace(prompts, name=source.name, path="")


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

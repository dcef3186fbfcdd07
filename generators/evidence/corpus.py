"""A corpus of passages: read from files, cut at paragraphs, looked up by several retrievers."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from catalog.sources.open_files import chunks
from catalog.sources.resolve import resolve
from catalog.sources.spec import SourceSpec
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.near.bm25 import BM25, DEPTH, best_first, fused
from prefactory.near.shingles import I64
from prefactory.near.vectors import Floats, Vectors, similarity, unit32
from prefactory.overrides import nearest

WORDS = 200
"""Words of a passage, at most."""
_ROWS = 100_000
_IDS = ("passage_id", "id")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_LOCK = threading.Lock()


class CorpusSource(BaseModel):
    """Where the texts of a corpus lie.

    Attributes:
        path: a file, folder or glob in any format that sources have (jsonl, csv, Parquet, ...).
        text: column with the texts; longer ones than 200 words are cut, at paragraphs where they
            have any, and their passages are called `<id>#1`, `<id>#2`, ...
        id: column with the ids; null takes `passage_id` or `id` if there is one, else `file:line`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1)
    text: str = "text"
    id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, data: object) -> object:
        return {"path": data} if isinstance(data, str) else data


@dataclass(frozen=True, eq=False)
class Corpus:
    """N passages in the order of their ids.

    Attributes:
        ids: String[N], distinct.
        texts: String[N].
        words: BM25 over the texts.
        digest: of ids and texts, for the identity of steps.
    """

    ids: pl.Series = field(repr=False)
    texts: pl.Series = field(repr=False)
    words: BM25 = field(repr=False)
    digest: str = ""


class Found(NamedTuple):
    """What was found for one query, best first.

    Attributes:
        places: Int64[k], passages.
        cosines: Float64[k], of the query and each, by the first encoder; NaN without one.
    """

    places: I64
    cosines: Floats


class Retrievers(BaseModel):
    """Which retrievers look passages up; their rankings are fused.

    Attributes:
        bm25: by words.
        encoders: by sentence vectors, one retriever each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bm25: bool = True
    encoders: tuple[Encoder, ...] = (Encoder(),)

    def search(
        self, corpus: Corpus, queries: Sequence[str], ctx: Context, most: int
    ) -> list[Found]:
        """Look up each query in a corpus.

        Args:
            corpus: N passages.
            queries: n texts.
            ctx: its `embed` makes the vectors.
            most: passages of a query.

        Returns:
            n results; equal ones are in the order of the passages' ids.
        """
        sides = [self._vectors(encoder, corpus, queries, ctx) for encoder in self.encoders]
        answers = []
        for i, query in enumerate(queries):
            cosines = [similarity(asked[i : i + 1], held)[0] for asked, held in sides]
            rankings = [best_first(values, DEPTH) for values in cosines]
            if self.bm25:
                rankings.append(best_first(corpus.words.scores(query), DEPTH, above=0.0))
            places = best_first(fused(rankings, len(corpus.ids)), most, above=0.0)
            first = cosines[0][places] if cosines else np.full(places.size, np.nan)
            answers.append(Found(places, first))
        return answers

    def cosines(
        self, texts: Sequence[str], shown: Sequence[Sequence[str]], ctx: Context
    ) -> list[Floats]:
        """Cosines of n texts with passages of theirs, by the first encoder; NaN without one."""
        if not self.encoders:
            return [np.full(len(some), np.nan) for some in shown]
        flat = [passage for some in shown for passage in some]
        vectors = _embedded(self.encoders[0], [*texts, *flat], ctx)
        held = iter(np.split(vectors[len(texts) :], np.cumsum([len(s) for s in shown])[:-1]))
        return [similarity(vectors[i : i + 1], next(held))[0] for i in range(len(texts))]

    def _vectors(
        self, encoder: Encoder, corpus: Corpus, queries: Sequence[str], ctx: Context
    ) -> tuple[Vectors, Vectors]:
        return _embedded(encoder, queries, ctx), _embedded(encoder, corpus.texts.to_list(), ctx)


def _embedded(encoder: Encoder, texts: Sequence[str], ctx: Context) -> Vectors:
    if ctx.embed is None:
        raise DataError(f"{ctx.step} compares texts, but this context has no encoder")
    return unit32(ctx.embed(encoder, pl.Series("text", list(texts), dtype=pl.String)))


def open_corpus(source: CorpusSource) -> Corpus:
    """Read a corpus and index its words; what was read before and has not changed is kept.

    Raises:
        DataError: it can't be read, has no passage, or two of one id.
    """
    with _LOCK:  # shards are worked on in several threads
        spec = SourceSpec(path=source.path)
        files = [Path(file.url) for file in resolve(spec, None).files]
        stats = [(str(p), p.stat()) for p in files if p.is_file()]
        marks = tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats)
        return _opened(source, marks)


def checked(source: CorpusSource) -> Corpus:
    """As `open_corpus`, for recipes.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return open_corpus(source)
    except DataError as error:
        raise ConfigError(f"corpus: {error}") from error


@lru_cache(maxsize=4)
def _opened(source: CorpusSource, marks: tuple[object, ...]) -> Corpus:
    records: list[tuple[str, str]] = []
    for file in resolve(SourceSpec(path=source.path), None).files:
        for chunk in chunks(file, _ROWS):
            rows = chunk.table.to_dicts() if chunk.table is not None else chunk.records or []
            records += _named(file.name, rows, chunk.lines, source)
    return corpus_of(records, source.path)


def _named(
    name: str, rows: list[dict[str, Any]], lines: Sequence[int], source: CorpusSource
) -> list[tuple[str, str]]:
    """Id and text of each record of a chunk."""
    if not rows:
        return []
    columns = list(rows[0])
    wanted = [source.text, *([source.id] if source.id else [])]
    for column in wanted:
        if column not in columns:
            near = nearest(column, columns) or f"; there are: {', '.join(columns)}"
            raise DataError(f"corpus {source.path!r} has no column {column!r}{near}")
    key = source.id or next((c for c in _IDS if c in columns), None)
    pairs = []
    for row, line in zip(rows, lines, strict=True):
        text, own = row.get(source.text), row.get(key) if key else None
        if isinstance(text, str) and text.strip():
            pairs.append((f"{name}:{line}" if own is None else str(own), text))
    return pairs


def corpus_of(records: Sequence[tuple[str, str]], name: str = "corpus") -> Corpus:
    """A corpus of (id, text); texts of more than 200 words are cut.

    Raises:
        DataError: there is none, or two have one id.
    """
    pieces = [piece for key, text in records for piece in _pieces(key, text)]
    table = pl.DataFrame(pieces, schema={"id": pl.String, "text": pl.String}, orient="row")
    if not table.height:
        raise DataError(f"corpus {name!r} holds no text")
    twice = table.filter(pl.col("id").is_duplicated())["id"]
    if twice.len():
        raise DataError(f"corpus {name!r} has two passages with the id {twice[0]!r}; give `id`")
    table = table.sort("id")
    joined = "\x1e".join(f"{i}\x1f{t}" for i, t in table.iter_rows())
    digest = hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Corpus(table["id"], table["text"], BM25(table["text"].to_list()), digest)


def _pieces(key: str, text: str) -> list[tuple[str, str]]:
    """A text as passages; one that is short enough keeps its id."""
    cut: list[list[str]] = []
    for paragraph in _PARAGRAPHS.split(text.strip()):
        words = len(paragraph.split())
        if cut and sum(len(p.split()) for p in cut[-1]) + words <= WORDS:
            cut[-1].append(paragraph)
        elif words <= WORDS:
            cut.append([paragraph])
        else:
            tokens = paragraph.split()
            cut += [[" ".join(tokens[i : i + WORDS])] for i in range(0, words, WORDS)]
    passages = ["\n\n".join(paragraphs) for paragraphs in cut]
    if len(passages) == 1:
        return [(key, passages[0])]
    return [(f"{key}#{n}", passage) for n, passage in enumerate(passages, 1)]

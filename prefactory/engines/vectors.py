"""A store of text vectors on disk, so that each distinct text is embedded once per encoder.

`<root>/<encoder fingerprint>/<random>.vec` are segments that never change once they have that
name: written under a temporary name, fsynced, renamed. Any number of processes may add segments
at any time and be killed at any time; a segment that is torn or damaged is removed and its texts
are embedded again. Keys are BLAKE2b-128 of a text; vectors are memory-mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from prefactory.engines.encoder import Encoder
from prefactory.errors import DataError, StoreError, store_error
from prefactory.folders import new_file, sweep
from prefactory.sharing.locks import locked

if TYPE_CHECKING:
    from prefactory.engines.embedding import OpenEncoder
    from prefactory.spaces.fused import FusedEncoder

_LOG = logging.getLogger(__name__)
_HEADER = struct.Struct("<8sQQIII")  # magic, texts, dim, CRC of keys, of vectors, of the former
_MAGIC = b"PFVEC001"
_START = 64
_ATTEMPTS = 100  # damaged segments that one call replaces


class VectorStore:
    """Vectors of texts under a folder, one sub-folder per encoder; safe for threads and processes.

    Class attributes:
        chunk_texts, chunk_bytes: a chunk of so many texts or bytes is embedded, made durable and
            never computed again, whatever happens to the next one.
    """

    chunk_texts = 4096
    chunk_bytes = 16_000_000

    def __init__(self, root: Path) -> None:
        """Open or begin a store.

        Args:
            root: its folder; made when the first vector is written.
        """
        self.root = Path(root)
        self._shelves: dict[Encoder, _Shelf] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[VectorStore], tuple[Path]]:
        """A store travels to another process as its folder."""
        return (VectorStore, (self.root,))

    def embed(self, encoder: Encoder, texts: pl.Series) -> np.ndarray:
        """Return the texts' vectors, computing those that the store does not have yet.

        Args:
            encoder: the encoder's configuration; "auto" is resolved here.
            texts: String [N], no nulls.

        Returns:
            float32 [N, d], row i for text i.

        Raises:
            ConfigError: the encoder can't be loaded.
            DataError: a text is null.
            StoreError: the store can't be written.
        """
        if texts.null_count():
            raise DataError("can't embed a null text; fill it with '' or filter the row out first")
        shelf = self._shelf(encoder)
        keys = text_keys(texts)
        for _ in range(_ATTEMPTS):
            index = shelf.index
            rows = index.find(keys)
            if not index.dim or (rows < 0).any():
                self._fill(shelf, encoder, texts, keys)
                index = shelf.index
                rows = index.find(keys)
            try:
                return index.gather(rows)
            except _DamagedError as error:
                shelf.discard(error.segment)
        raise StoreError(
            f"vectors under {shelf.folder} are damaged again and again; check the disk"
        )

    def has(self, encoder: Encoder, texts: pl.Series) -> bool:
        """Whether the vectors of all texts (String [N], no nulls) are there: opens no model."""
        index = self._shelf(encoder).index
        return bool(index.dim) and bool((index.find(text_keys(texts)) >= 0).all())

    def _shelf(self, encoder: Encoder) -> _Shelf:
        with self._lock:
            if encoder not in self._shelves:
                identity = encoder.identity()
                self._shelves[encoder] = _Shelf(self.root / encoder.fingerprint(), identity)
            return self._shelves[encoder]

    def _fill(self, shelf: _Shelf, encoder: Encoder, texts: pl.Series, keys: np.ndarray) -> None:
        """Embed what is missing, shortest texts first, one durable chunk after the other."""
        with _MODEL.lock:
            shelf.refresh()
            table = pl.DataFrame(
                {"text": texts, "hi": keys[:, 0], "lo": keys[:, 1], "size": texts.str.len_bytes()}
            )
            table = table.filter(pl.Series(shelf.index.find(keys) < 0))
            table = table.unique(["hi", "lo"]).sort("size", "hi", "lo")
            if not table.height and not shelf.index.dim:
                shelf.add(np.zeros((0, 2), np.uint64), _MODEL.get(encoder).embed([]))
            for chunk in self._chunks(table):
                with locked(shelf.folder / f".{_name(chunk)}.lock"):  # of two, one embeds it
                    shelf.refresh()
                    known = shelf.index.find(chunk.select("hi", "lo").to_numpy())
                    left = chunk.filter(pl.Series(known < 0))
                    if left.height:
                        vectors = _MODEL.get(encoder).embed(left["text"])
                        shelf.add(left.select("hi", "lo").to_numpy(), vectors)

    def _chunks(self, table: pl.DataFrame) -> Iterator[pl.DataFrame]:
        if not table.height:
            return
        by_count = np.arange(table.height) // self.chunk_texts
        by_size = table["size"].cast(pl.Int64).cum_sum().to_numpy() // self.chunk_bytes
        starts = np.flatnonzero(np.diff(by_count + by_size, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], table.height], strict=True):
            yield table[int(start) : int(stop)]


def _name(chunk: pl.DataFrame) -> str:
    keys = np.ascontiguousarray(chunk.select("hi", "lo").to_numpy(), "<u8")
    return hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()


@lru_cache(maxsize=8)
def shared_store(root: Path) -> VectorStore:
    """The store at a folder, one object per process, so that its index is read once."""
    return VectorStore(root)


def text_keys(texts: pl.Series) -> np.ndarray:
    """BLAKE2b-128 of each text (String [N], no nulls) as uint64 [N, 2], high half first."""
    blake = hashlib.blake2b
    joined = b"".join([blake(t.encode(), digest_size=16).digest() for t in texts])
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def release_model() -> None:
    """Close the encoder that this process keeps open, to free its memory."""
    with _MODEL.lock:
        _MODEL.close()


class _OneModel:
    """The one encoder that a process has open; use it under its lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._config: Encoder | None = None
        self._open: OpenEncoder | FusedEncoder | None = None

    def get(self, encoder: Encoder) -> OpenEncoder | FusedEncoder:
        if self._open is None or self._config != encoder:
            self.close()
            self._open = encoder.open()
            self._config = encoder
        return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = self._config = None


_MODEL = _OneModel()


class _DamagedError(Exception):
    def __init__(self, segment: _Segment) -> None:
        super().__init__(segment.path)
        self.segment = segment


@dataclass
class _Segment:
    """One file of vectors. Its keys are checked when it is opened, its vectors at first use."""

    path: Path
    keys: np.ndarray
    dim: int
    checksum: int
    _vectors: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path) -> _Segment | None:
        """Open a segment; None if its size or the checksum of its keys is wrong."""
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return None
            magic, count, dim, keys_crc, vectors_crc, head_crc = _HEADER.unpack(head)
            size = _START + count * (16 + 4 * dim)
            if magic != _MAGIC or zlib.crc32(head[:-4]) != head_crc or path.stat().st_size != size:
                return None
            file.seek(_START)
            keys = file.read(16 * count)
        if len(keys) != 16 * count or zlib.crc32(keys) != keys_crc:
            return None
        return cls(path, np.frombuffer(keys, "<u8").reshape(-1, 2), dim, vectors_crc)

    @staticmethod
    def write(folder: Path, keys: np.ndarray, vectors: np.ndarray) -> Path:
        """Write a segment so that it is complete under its name or absent (keys [n, 2])."""
        raw_keys = np.ascontiguousarray(keys, "<u8").tobytes()
        raw = np.ascontiguousarray(vectors, "<f4").tobytes()
        counts = (_MAGIC, len(keys), vectors.shape[1], zlib.crc32(raw_keys), zlib.crc32(raw))
        head = _HEADER.pack(*counts, 0)
        head = head[:-4] + zlib.crc32(head[:-4]).to_bytes(4, "little")
        final = folder / f"{uuid.uuid4().hex}.vec"
        try:
            with new_file(final) as file:
                file.write(head.ljust(_START, b"\0") + raw_keys)
                file.write(raw)
        except OSError as error:
            told = f"can't write vectors under {folder}: {error}"
            raise store_error(told, error) from error
        return final

    def vectors(self) -> np.ndarray:
        """Memory-mapped float32 [n, d]; raises if their checksum is wrong."""
        if self._vectors is None:
            if not self.keys.size:
                return np.zeros((0, self.dim), np.float32)
            shape, start = (len(self.keys), self.dim), _START + 16 * len(self.keys)
            try:
                mapped = np.memmap(self.path, "<f4", "r", offset=start, shape=shape)
            except (OSError, ValueError) as error:
                raise _DamagedError(self) from error
            if zlib.crc32(mapped.data) != self.checksum:
                raise _DamagedError(self)
            self._vectors = mapped
        return self._vectors


class _Index:
    """Sorted keys of some segments. Never changes, so readers need no lock."""

    def __init__(self, segments: tuple[_Segment, ...]) -> None:
        self.segments = segments
        self.dim = segments[0].dim if segments else 0
        keys = np.concatenate([np.zeros((0, 2), np.uint64), *[s.keys for s in segments]])
        sizes = [len(s.keys) for s in segments]
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        self._hi, self._lo = keys[order, 0], keys[order, 1]
        self._segment = np.repeat(np.arange(len(segments)), sizes)[order]
        starts = np.cumsum([0, *sizes])[:-1]
        self._row = (np.arange(len(keys)) - np.repeat(starts, sizes).astype(np.int64))[order]
        changes = np.flatnonzero(self._hi[1:] != self._hi[:-1]) + 1
        self._longest_run = int(np.diff(changes, prepend=0, append=len(order)).max())

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Place of each key (uint64 [N, 2]) in the index, -1 where it is not: int64 [N]."""
        rows = np.full(len(keys), -1, np.int64)
        if not len(self._hi):
            return rows
        first = np.searchsorted(self._hi, keys[:, 0])
        for step in range(self._longest_run):  # copies of a key, or keys with one high half
            row = np.minimum(first + step, len(self._hi) - 1)
            hit = (self._hi[row] == keys[:, 0]) & (self._lo[row] == keys[:, 1]) & (rows < 0)
            rows[hit] = row[hit]
        return rows

    def gather(self, index_rows: np.ndarray) -> np.ndarray:
        """Vectors at places of the index (int64 [N]): float32 [N, d]."""
        out = np.empty((len(index_rows), self.dim), np.float32)
        segment, row = self._segment[index_rows], self._row[index_rows]
        order = np.argsort(segment, kind="stable")
        used, counts = np.unique(segment, return_counts=True)
        parts = np.split(order, np.cumsum(counts))[: len(used)]
        for number, rows in zip(used, parts, strict=True):
            out[rows] = self.segments[int(number)].vectors()[row[rows]]
        return out


class _Shelf:
    """The segments of one encoder."""

    def __init__(self, folder: Path, identity: dict[str, object]) -> None:
        self.folder = folder
        self._identity = identity
        self._lock = threading.RLock()
        self._segments: dict[str, _Segment | None] = {}
        self.index = _Index(())
        sweep(folder)
        self.refresh()

    def refresh(self) -> None:
        """Take in the segments that arrived since the last look."""
        with self._lock:
            present = {e.name for e in self._entries() if e.name.endswith(".vec")}
            new = sorted(present - self._segments.keys())
            for name in new:
                self._segments[name] = self._opened(self.folder / name)
            if new:
                self._rebuild()

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Make vectors durable (keys uint64 [n, 2], vectors float32 [n, d]), then known."""
        with self._lock:
            if not (self.folder / "encoder.json").exists():
                self._describe()
            path = _Segment.write(self.folder, keys, vectors)
            self._segments[path.name] = self._opened(path)
            self._rebuild()

    def discard(self, segment: _Segment) -> None:
        """Remove a damaged segment, so that its texts are embedded again."""
        with self._lock:
            self._remove(segment.path)
            self._segments[segment.path.name] = None
            self._rebuild()

    def _rebuild(self) -> None:
        self.index = _Index(tuple(s for s in self._segments.values() if s is not None))

    def _opened(self, path: Path) -> _Segment | None:
        try:
            segment = _Segment.open(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"can't read vectors at {path}: {error}") from error
        if segment is None:
            self._remove(path)
        return segment

    def _remove(self, path: Path) -> None:
        _LOG.warning("removed damaged vectors %s; their texts are embedded again", path)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    def _describe(self) -> None:
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self._identity, indent=1, sort_keys=True)
            (self.folder / "encoder.json").write_text(text, encoding="utf-8")

"""The store: immutable objects addressed by what made them, safe under `kill -9`.

An object is a folder of Arrow IPC files and a `record.json` with sizes, checksums and facts; the
pictures that it brought lie beside all objects, each once, named by their content. An object is
written under a temporary name, fsynced and renamed, so that it is there whole or not at all. An
object that does not match its record (truncated, edited) counts as absent and is made again.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from prefactory.errors import StoreError, is_full, store_error
from prefactory.folders import settle, temporary_folder
from prefactory.images.files import ImageFiles
from prefactory.sharing.locks import locked
from prefactory.sharing.sealed import seal, unseal

_LOG = logging.getLogger(__name__)
OUTDATED = "outdated"
"""Name of the mark of an object that is to be made anew."""
FACTS = ("files", "info", "images", "parts")
"""What a record holds."""
IN_USE = ".in_use"
"""The lock of a store: shared by runs, alone by who removes objects."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the store knows of an object.

    Attributes:
        key: its address.
        files: name -> bytes, blake2b and rows.
        info: the maker's facts.
        images: name -> bytes of the pictures that it brought into the store.
    """

    key: str
    files: Mapping[str, Mapping[str, Any]]
    info: Mapping[str, Any]
    images: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, key: str, text: bytes) -> Record:
        """The record that `text` wrote.

        Raises:
            ValueError: it is damaged.
        """
        data = unseal(text, FACTS)
        if not {"files", "info"} <= data.keys():
            raise ValueError("it is not as it was written")
        return cls(key, data["files"], data["info"], data.get("images", {}))

    def text(self, **more: str) -> bytes:
        """The record as it is kept; `parts` says where the files are."""
        facts = {"files": dict(self.files), "info": dict(self.info), **more}
        facts |= {"images": dict(self.images)} if self.images else {}
        return seal(facts, ordered=True)


class Writer:
    """Collects the tables of one object under a temporary folder."""

    def __init__(self, folder: Path, pictures: ImageFiles) -> None:
        """Start in an empty temporary folder."""
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}
        self.info: dict[str, Any] = {}
        self.images: dict[str, int] = {}
        self._pictures = pictures

    def put(self, data: bytes) -> str:
        """Keep a picture's bytes in the store, as one of the object's; return its name."""
        with _disk_errors(self.folder.parents[1]):
            name = self._pictures.put(data)
        self.images[name] = len(data)
        return name

    def get(self, name: str) -> bytes:
        """The bytes of a picture of the store."""
        return self._pictures.get(name)

    def table(self, name: str, table: pl.DataFrame) -> None:
        """Write a table as `<name>.arrow` (uncompressed IPC, memory-mapped on reading)."""
        path = self.folder / f"{name}.arrow"
        with _disk_errors(self.folder.parents[1]):
            table.write_ipc(path, compression="uncompressed")
            self.files[path.name] = {
                "bytes": path.stat().st_size,
                "blake2b": file_digest(path),
                "rows": table.height,
            }


def file_digest(path: Path, algorithm: str = "blake2b") -> str:
    """Hex digest of a file's bytes (blake2b is cut to 128 bits)."""
    with path.open("rb") as file:
        if algorithm == "blake2b":
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return hashlib.file_digest(file, algorithm).hexdigest()


@dataclass(eq=False)
class Store:
    """Objects under `root/objects`, pictures under `root/images`, temporary ones under `root/tmp`.

    Attributes:
        root: folder of the store; made on first use.
    """

    root: Path
    _verified: dict[str, Record] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def images(self) -> ImageFiles:
        """The pictures of all objects."""
        return ImageFiles(self.root / "images")

    def _folder(self, key: str) -> Path:
        return self.root / "objects" / key[:2] / key

    def open(self, key: str) -> Record | None:
        """Return the record of a whole, undamaged object, or None.

        Checksums are verified the first time that this process opens the object.
        """
        with self._lock:
            known = self._verified.get(key)
        if known is not None:
            return known
        record = self._read_record(key)
        if record is None:
            return None
        folder = self._folder(key)
        for name, facts in record.files.items():
            path = folder / name
            if not path.exists() or path.stat().st_size != facts["bytes"]:
                return None
            if file_digest(path) != facts["blake2b"]:
                return None
        if not all(self.images.whole(name, size) for name, size in record.images.items()):
            return None
        with self._lock:
            self._verified[key] = record
        return record

    def accept(self, record: Record) -> None:
        """Take a record from another process that has just written or verified its object."""
        with self._lock:
            self._verified.setdefault(record.key, record)

    def claim(self, key: str) -> AbstractContextManager[None]:
        """Make an object alone: whoever else wants to waits until it is there, or its maker gone.

        So nothing is computed, asked or paid for twice by two runs in one home.
        """

        def busy() -> None:
            _LOG.info("waiting for another run that is making the same rows")

        return locked(self._lock_file("claims", key), busy=busy)

    def in_use(self) -> AbstractContextManager[None]:
        """Hold the store, with other runs, against the removal of objects."""
        return locked(self._lock_file(IN_USE), shared=True)

    def _lock_file(self, *names: str) -> Path:
        path = self.root.joinpath(*names)
        with _disk_errors(self.root):  # said here: within the lock errors are those of its holder
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return path

    def outdate(self, key: str) -> None:
        """Say that an object is to be made anew; what was made from it stays as it is."""
        with _disk_errors(self.root):
            (self._folder(key) / OUTDATED).touch()

    def outdated(self, key: str) -> bool:
        """Whether somebody said so."""
        return (self._folder(key) / OUTDATED).exists()

    def records(self) -> Iterator[Record]:
        """All objects that have a record, unverified, in no order."""
        for path in (self.root / "objects").glob("*/*/record.json"):
            record = self._read_record(path.parent.name)
            if record is not None:
                yield record

    def _read_record(self, key: str) -> Record | None:
        try:
            return Record.read(key, (self._folder(key) / "record.json").read_bytes())
        except (OSError, ValueError):
            return None

    def read(self, key: str, table: str, columns: list[str] | None = None) -> pl.DataFrame:
        """Memory-map one table of an object.

        Args:
            key: of the object.
            table: its name.
            columns: the only ones wanted, in this order; None gives all.

        Raises:
            StoreError: if the file or a column is not there, or can't be read.
        """
        path = self._folder(key) / f"{table}.arrow"
        try:
            with pa.memory_map(str(path)) as source:
                rows = pa.ipc.open_file(source).read_all()  # no byte of it is copied
                frame = pl.from_arrow(rows if columns is None else rows.select(columns))
        except (OSError, KeyError, pa.ArrowException, pl.exceptions.PolarsError) as error:
            raise StoreError(f"{path} can't be read ({error}); run again to rebuild it") from error
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table, not a column, was read
        return frame

    @contextmanager
    def write(self, key: str) -> Iterator[Writer]:
        """Write an object: add tables and facts to the writer; it appears when the block ends.

        Raises:
            StoreError: if the disk is full or not writable; nothing is left behind. Errors of the
                block itself pass through.
        """
        with ExitStack() as stack:
            with _disk_errors(self.root):
                tmp = stack.enter_context(temporary_folder(self.root / "tmp", key[:8]))
            writer = Writer(tmp, self.images)
            yield writer
            with _disk_errors(self.root):
                self._commit(key, writer)

    def _commit(self, key: str, writer: Writer) -> None:
        text = Record(key, writer.files, writer.info, writer.images).text()
        (writer.folder / "record.json").write_bytes(text)
        final = self._folder(key)
        if final.exists() and self.open(key) is None:  # a damaged object stands in the way
            shutil.rmtree(final)
        try:
            settle(writer.folder, final, mode=0o700)
        except OSError:
            if self.open(key) is None:  # unless another process finished the same object first
                raise
            return
        with self._lock:
            self._verified[key] = Record.read(key, text)  # as others will, key order and all


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Turn errors of the disk under the store at `root` into a StoreError."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        full = is_full(error)
        if not full and not isinstance(error, OSError):
            raise
        raise store_error(_disk_message(error, root, full), error) from error


def _disk_message(error: Exception, root: Path, full: bool) -> str:
    if full:
        return (
            f"the disk of {root} is full; nothing finished is lost. Free some space (or set "
            "PREFACTORY_HOME to a larger disk) and run the same command again to resume"
        )
    return f"the store at {root} can't be written: {error}"

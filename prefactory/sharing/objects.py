"""A store whose objects lie in a bucket; what lies on this machine is a copy of some of them.

The parts of an object go under a name of their own; then one small record is put, if there is none
yet, and the object is there. Who comes second takes the first one's.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from prefactory.errors import StoreError
from prefactory.folders import settle, temporary_folder
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.sealed import unseal
from prefactory.sharing.turns import in_turn
from prefactory.store import FACTS, OUTDATED, Record, Store, Writer, file_digest

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class BucketStore(Store):
    """Objects in a bucket, and copies of those that were asked for under `root`.

    Attributes:
        bucket: where the objects are.
    """

    bucket: Bucket = field(kw_only=True)

    def open(self, key: str) -> Record | None:
        """Return the record of a whole object of the bucket; its tables come when they are read.

        One that is here alone is put into the bucket.

        Raises:
            StoreError: the bucket can't be read.
        """
        with self._lock:
            known = self._verified.get(key)
        if known is not None:
            return known
        here = super().open(key)
        there = self._there(key)
        if here is not None and there is None:
            self._give(here, self._folder(key))
            there = self._there(key)
        if there is not None and (here is None or here.files != there.files):
            self._forget(key)  # damaged, or of another maker than the bucket's
            with self._lock:
                self._verified[key] = there
        return there

    def read(self, key: str, table: str, columns: list[str] | None = None) -> pl.DataFrame:
        """Memory-map one table of an object, which is brought here first.

        Raises:
            StoreError: it is not there or can't be read.
        """
        if not (self._folder(key) / "record.json").is_file():
            self._fetch(key)
        return super().read(key, table, columns)

    def bring(self, key: str) -> bool:
        """Have a copy of an object here, if the bucket has one that is whole; whether there is."""
        try:
            if not (self._folder(key) / "record.json").is_file():
                self._fetch(key)
        except StoreError as error:
            _LOG.warning("%s", error)
            return False
        return True

    def _there(self, key: str) -> Record | None:
        found = self._read(key)
        return None if found is None else found[0]

    def _read(self, key: str) -> tuple[Record, str] | None:
        """The bucket's record of an object, and where its files are.

        Raises:
            StoreError: it is damaged, or the bucket can't be read.
        """
        found = self.bucket.read(_record(key))
        if found is None:
            return None
        try:
            return Record.read(key, found[0]), str(unseal(found[0], FACTS)["parts"])
        except (ValueError, KeyError) as error:
            raise self._wrong(key, f"the record of object {key} is damaged ({error})") from error

    def _wrong(self, key: str, what: str, *more: str) -> StoreError:
        gone = " and ".join([*more, _record(key)])
        return StoreError(
            f"{self.bucket.url}: {what}; delete {gone} there, and run again to rebuild it"
        )

    def _forget(self, key: str) -> None:
        """Remove this machine's copy of an object."""
        with self._lock:
            self._verified.pop(key, None)
        shutil.rmtree(self._folder(key), ignore_errors=True)

    def outdate(self, key: str) -> None:
        """Say to all that an object is to be made anew."""
        self.bucket.create(f"{_place(key)}/{OUTDATED}", b"")

    def outdated(self, key: str) -> bool:
        """Whether somebody said so."""
        return self.bucket.exists(f"{_place(key)}/{OUTDATED}")

    def records(self) -> Iterator[Record]:
        """All objects of the bucket, in no order."""
        for path in self.bucket.list("objects/"):
            if path.endswith("/record.json"):
                try:
                    record = self._there(path.split("/")[-2])
                except StoreError as error:  # whoever wants it is told
                    _LOG.warning("%s", error)
                    continue
                if record is not None:
                    yield record

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Make an object alone; a claim that nobody keeps up is taken over."""
        with in_turn(self.bucket, f"claims/{key}", lambda: self.bucket.exists(_record(key))):
            yield

    def _commit(self, key: str, writer: Writer) -> None:
        facts = Record(key, writer.files, writer.info, writer.images)
        if self._give(facts, writer.folder):
            super()._commit(key, writer)

    def _give(self, record: Record, folder: Path) -> bool:
        """Put an object into the bucket; False if there is one already."""
        own = f"parts/{record.key}/{secrets.token_hex(8)}"
        for name in record.images:
            self.bucket.create(f"images/{name}", self.images.get(name))
        for name in record.files:
            self.bucket.upload(folder / name, f"{own}/{name}")
        if self.bucket.create(_record(record.key), record.text(parts=own)):
            return True
        for name in record.files:
            self.bucket.delete(f"{own}/{name}")
        return False

    def _fetch(self, key: str) -> None:
        """Bring an object here, whole.

        Raises:
            StoreError: the bucket has none, or a damaged one.
        """
        found = self._read(key)
        if found is None:
            raise StoreError(
                f"{self.bucket.url}: there is no object {key}; run again to rebuild it"
            )
        record, parts = found
        for name, size in record.images.items():
            self._fetch_image(key, name, size)
        with temporary_folder(self.root / "tmp", key[:8]) as folder:
            for name, facts in record.files.items():
                path = folder / name
                there = self.bucket.download(f"{parts}/{name}", path)
                if not there or file_digest(path) != facts["blake2b"]:
                    how = "damaged" if there else "missing"
                    raise self._wrong(key, f"{name} of object {key} is {how}")
            (folder / "record.json").write_bytes(record.text())
            try:
                settle(folder, self._folder(key), mode=0o700)
            except OSError:
                if super().open(key) is None:  # unless another thread has brought it meanwhile
                    raise

    def _fetch_image(self, key: str, name: str, size: int) -> None:
        if self.images.whole(name, size):
            return
        found = self.bucket.read(f"images/{name}")
        if found is None:
            raise self._wrong(key, f"the picture {name} of object {key} is missing")
        if self.images.put(found[0]) != name:
            told = f"the picture {name} of object {key} is damaged"
            raise self._wrong(key, told, f"images/{name}")


def _place(key: str) -> str:
    return f"objects/{key[:2]}/{key}"


def _record(key: str) -> str:
    return f"{_place(key)}/record.json"

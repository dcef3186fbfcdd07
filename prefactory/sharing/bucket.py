"""A bucket of an object store in four verbs: create, read, replace if unchanged, list.

A put arrives whole or not at all, and a conditional put has one winner: that is all that is asked
of it. Nothing is renamed, and nothing is decided by a listing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prefactory.errors import ConfigError, StoreError
from prefactory.extras import package
from prefactory.safety.addresses import check_address


class Found(NamedTuple):
    """An object as a listing tells it: its key, tag, bytes, and the Unix time of its last put."""

    key: str
    tag: str
    size: int
    at: float


class Bucket:
    """A place in a bucket, by obstore. Safe for threads."""

    def __init__(self, url: str) -> None:
        """Connect to a place; credentials and endpoint come from the environment (`AWS_...`).

        Args:
            url: `s3://bucket/prefix`, or another one that obstore opens (`gs://`, `az://`,
                `memory:///`).

        Raises:
            ConfigError: it is no such place, or its address holds a key.
            MissingPackageError: obstore is not installed.
        """
        check_address(url, "the bucket")
        self.url = url
        self._api: Any = package("obstore")
        self._errors: Any = package("obstore.exceptions")
        try:
            self._store = package("obstore.store").from_url(url)
        except (ValueError, self._errors.BaseError) as error:
            raise ConfigError(
                f"{url!r} is no place of objects ({_line(error)}); give one like s3://bucket/prefix"
            ) from error

    def create(self, key: str, data: bytes | Path) -> bool:
        """Put an object unless there is one; say whether it was put.

        Raises:
            StoreError: the bucket can't be written.
        """
        try:
            self._api.put(self._store, key, data, mode="create", use_multipart=False)
        except self._errors.AlreadyExistsError:
            return False
        except self._errors.BaseError as error:
            raise self._failed(key, error) from error
        return True

    def read(self, key: str) -> tuple[bytes, str] | None:
        """An object's bytes and its tag, which changes with them; None if there is none.

        Raises:
            StoreError: the bucket can't be read.
        """
        try:
            found = self._api.get(self._store, key)
            return bytes(found.bytes()), str(found.meta["e_tag"])
        except FileNotFoundError:
            return None
        except self._errors.BaseError as error:
            raise self._failed(key, error) from error

    def exists(self, key: str) -> bool:
        """Whether there is such an object.

        Raises:
            StoreError: the bucket can't be read.
        """
        try:
            self._api.head(self._store, key)
        except FileNotFoundError:
            return False
        except self._errors.BaseError as error:
            raise self._failed(key, error) from error
        return True

    def replace_if(self, key: str, data: bytes, tag: str) -> str | None:
        """Put an object in place of the one with this tag; its own tag, None if it has changed.

        Raises:
            StoreError: the bucket can't be written.
        """
        try:
            put = self._api.put(self._store, key, data, mode={"e_tag": tag}, use_multipart=False)
        except (self._errors.PreconditionError, FileNotFoundError):
            return None
        except self._errors.BaseError as error:
            raise self._failed(key, error) from error
        return str(put["e_tag"])

    def list(self, prefix: str) -> Iterator[str]:
        """Keys under a prefix, in no order."""
        return (found.key for found in self.find(prefix))

    def tags(self, prefix: str) -> dict[str, str]:
        """Keys under a prefix with their tags."""
        return {found.key: found.tag for found in self.find(prefix)}

    def find(self, prefix: str) -> Iterator[Found]:
        """Objects under a prefix, in no order.

        Raises:
            StoreError: the bucket can't be read.
        """
        try:
            for page in self._api.list(self._store, prefix):
                for found in page:
                    yield Found(
                        str(found["path"]),
                        str(found["e_tag"]),
                        int(found["size"]),
                        found["last_modified"].timestamp(),
                    )
        except self._errors.BaseError as error:
            raise self._failed(prefix, error) from error

    def upload(self, path: Path | bytes, key: str) -> None:
        """Put a file or bytes, of any size, under a key that nobody else writes.

        Raises:
            StoreError: the bucket can't be written.
        """
        try:
            self._api.put(self._store, key, path)
        except self._errors.BaseError as error:
            raise self._failed(key, error) from error

    def download(self, key: str, path: Path) -> bool:
        """Write an object into a file, in pieces; say whether there was one.

        Raises:
            StoreError: the bucket can't be read.
        """
        try:
            found = self._api.get(self._store, key)
            with path.open("wb") as file:
                for piece in found.stream():
                    file.write(piece)
        except FileNotFoundError:
            return False
        except self._errors.BaseError as error:
            raise self._failed(key, error) from error
        return True

    def delete(self, key: str) -> None:
        """Remove an object, if it is there.

        Raises:
            StoreError: the bucket can't be written.
        """
        try:
            self._api.delete(self._store, key)
        except FileNotFoundError:
            return
        except self._errors.BaseError as error:
            raise self._failed(key, error) from error

    def _failed(self, key: str, error: Exception) -> StoreError:
        return StoreError(f"{self.url}: {key}: {_line(error)}; what is finished is kept")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

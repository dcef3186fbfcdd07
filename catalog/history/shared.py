"""A catalog in a bucket, which many machines publish into and read from.

A version's files go under a name of their own; then one small record is put, if its number has none
yet, and the version is there for all. Tags and a rollback are one object that changes by compare
and swap. The folder on this machine holds copies of the versions that were made or asked for here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catalog.history import state
from catalog.history.exchange import bring
from catalog.manifest import Manifest
from catalog.versions import UNLISTED, Catalog, Version, manifest_digest, version_key
from prefactory.errors import CatalogError
from prefactory.overrides import nearest
from prefactory.recipe import NAME
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.turns import in_turn


class BucketCatalog(Catalog):
    """All versions of a bucket; those that are wanted are brought here first.

    `versions`, and what goes through all versions, knows the copies in this machine's folder.

    Attributes:
        bucket: where the versions are.
    """

    def __init__(self, home: str | Path | None, bucket: Bucket) -> None:
        """Look into a bucket.

        Args:
            home: whose `versions` holds the copies.
            bucket: where the versions are.
        """
        super().__init__(home)
        self.bucket = bucket
        self.bucket_url = bucket.url

    def names(self) -> list[str]:
        """Names of the datasets here and in the bucket, sorted."""
        there = {key.split("/")[-2] for key in self.bucket.list("records/")}
        return sorted({*super().names(), *there})

    def numbers(self, name: str) -> list[str]:
        """Numbers of all versions here and in the bucket, oldest first."""
        return sorted({*super().numbers(name), *self._there(name)}, key=version_key)

    def newest(self, name: str) -> str:
        """Number of the newest version of a dataset in the bucket, or else here."""
        there = self._there(name)
        return there[-1] if there else super().newest(name)

    def get(self, ref: str) -> Version:
        """Open a version, as `Catalog.get`; one of the bucket is brought here.

        Raises:
            CatalogError: there is no such version, the bucket's is damaged, or this folder has
                another one of its number.
            StoreError: the bucket can't be read.
        """
        name, _, wanted = ref.partition("@")
        there = [] if "/" in ref or ref.startswith(".") else self._there(name)
        if not there:
            return super().get(ref)
        kept = self.kept(name)
        if not wanted:
            wanted = kept.head if kept.head is not None and kept.over == there[-1] else there[-1]
        wanted = kept.tags.get(wanted, wanted)
        if wanted in there:
            return self._brought(name, wanted)
        if wanted in super().numbers(name):  # published before there was a bucket
            return super().get(f"{name}@{wanted}")
        have = [*there, *kept.tags]
        raise CatalogError(
            f"{name} has no version {wanted!r} in {self.bucket.url}{nearest(wanted, have)}; it "
            f"has: {', '.join(have)}"
        )

    def kept(self, name: str) -> state.State:
        """Tags, head and used numbers of a dataset, which all machines share."""
        return self._state(name)[0]

    def keep(self, name: str, changed: Callable[[state.State], state.State]) -> state.State:
        """Change what `kept` gives by compare and swap; return the new one."""
        while True:
            before, tag = self._state(name)
            after = changed(before)
            key, text = f"names/{name}.json", state.encode(after)
            if tag is None and self.bucket.create(key, text):
                return after
            if tag is not None and self.bucket.replace_if(key, text, tag) is not None:
                return after

    @contextmanager
    def publishing(self, name: str, digest: str, number: str | None) -> Iterator[None]:
        """Publish a version of a dataset alone among all machines."""
        with in_turn(self.bucket, f"claims/{name}", lambda: False):
            there = self._there(name)
            for one in there:
                facts = self._record(name, one) or {}
                if one in (number, there[-1]) or facts.get("content_digest") == digest:
                    self._brought(name, one, whole=True)
            with super().publishing(name, digest, number):
                yield

    def commit(self, version: Version) -> None:
        """Put a version into the bucket, unless it is there.

        Raises:
            CatalogError: the bucket has another version of that number.
            StoreError: the bucket can't be written.
        """
        manifest = version.manifest
        if self._same(manifest):
            return
        own = f"versions/{manifest.name}/{manifest.version}/{secrets.token_hex(8)}"
        names = [n for n in (*manifest.files, *UNLISTED) if (version.path / n).is_file()]
        for name in names:
            self.bucket.upload(version.path / name, f"{own}/{name}")
        facts = {
            "at": own, "content_digest": manifest.content_digest,
            "manifest_digest": manifest_digest(manifest),
        }  # fmt: skip
        text = json.dumps(facts, sort_keys=True).encode()
        if not self.bucket.create(_key(manifest.name, manifest.version), text):
            for name in names:
                self.bucket.delete(f"{own}/{name}")
            self._same(manifest)

    def _same(self, manifest: Manifest) -> bool:
        """Whether the bucket has this very version."""
        found = self._record(manifest.name, manifest.version)
        if found is None:
            return False
        if found["manifest_digest"] == manifest_digest(manifest):
            return True
        raise CatalogError(
            f"{self.bucket.url} has another {manifest.name}@{manifest.version}; versions never "
            "change: run again to compare, with another home (--home) if this one keeps its own"
        )

    def _there(self, name: str) -> list[str]:
        """Numbers of the versions of a dataset in the bucket, oldest first."""
        if not NAME.fullmatch(name):
            raise CatalogError(f"{name!r} is not a dataset name")
        keys = self.bucket.list(f"records/{name}/")
        numbers = (key.rpartition("/")[2].removesuffix(".json") for key in keys)
        return sorted((n for n in numbers if NAME.fullmatch(n)), key=version_key)

    def _record(self, name: str, number: str) -> dict[str, Any] | None:
        found = self.bucket.read(_key(name, number))
        if found is None:
            return None
        try:
            facts: dict[str, Any] = json.loads(found[0])
            if facts["at"].split("/")[:3] != ["versions", name, number]:
                raise ValueError("it leads elsewhere")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            key = _key(name, number)
            raise CatalogError(f"{self.bucket.url}/{key} is damaged ({error})") from error
        return facts

    def _brought(self, name: str, number: str, *, whole: bool = False) -> Version:
        """A version of the bucket, which is brought here if it is not, or is damaged.

        Args:
            name: of the dataset.
            number: of the version.
            whole: check all files of a copy that is here; else that its manifest can be read.
        """
        facts = self._record(name, number)
        if facts is None:
            raise CatalogError(f"{name}@{number} has gone from {self.bucket.url}")
        source = f"{self.bucket.url}/{facts['at']}"
        found = self.bucket.read(f"{facts['at']}/manifest.json")
        try:
            manifest = Manifest.model_validate(json.loads(found[0] if found else b""))
        except ValueError as error:
            raise CatalogError(f"the manifest of {source} is missing or damaged") from error
        if (manifest.name, manifest.version) != (name, number):
            raise CatalogError(f"{source} is another version than {name}@{number}")
        at = facts["at"]

        def fetch(file: str, path: Path) -> bool:
            return self.bucket.download(f"{at}/{file}", path)

        return bring(self, manifest, fetch, source, whole=whole)

    def _state(self, name: str) -> tuple[state.State, str | None]:
        found = self.bucket.read(f"names/{name}.json")
        if found is None:
            return state.State(), None
        try:
            return state.decode(found[0]), found[1]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CatalogError(
                f"{self.bucket.url}/names/{name}.json is damaged ({error}); it holds tags and a "
                "rollback: remove it to go on without these"
            ) from error


def _key(name: str, number: str) -> str:
    return f"records/{name}/{number}.json"

"""A catalog in a bucket, which many machines publish into and read from.

A version's files go under a name of their own; then one small record is put, if its number has none
yet, and the version is there for all. Tags and a rollback are one object that changes by compare
and swap. The folder on this machine holds copies of the versions that were made or asked for here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalog.history import state
from catalog.history.exchange import bring
from catalog.manifest import Manifest
from catalog.versions import UNLISTED, Catalog, Version, manifest_digest, manifest_of, version_key
from prefactory.errors import CatalogError
from prefactory.folders import temporary_folder
from prefactory.overrides import nearest
from prefactory.recipe import NAME
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.sealed import seal, unseal
from prefactory.sharing.turns import in_turn

_FACTS = ("at", "content_digest", "manifest_digest")
_TOLD = ("where", "day", "needs")


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

    def versions(self, name: str) -> list[Version]:
        """Versions of a dataset of which there are copies here, oldest first."""
        found = super().versions(name)
        removed = self.kept(name).removed if found else ()
        return [v for v in found if v.manifest.version not in removed]

    def numbers(self, name: str) -> list[str]:
        """Numbers of all versions here and in the bucket, oldest first."""
        numbers = {*super().numbers(name), *self._recorded(name)} - {*self.kept(name).removed}
        return sorted(numbers, key=version_key)

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
        if "/" in ref or ref.startswith("."):
            return super().get(ref)
        there, kept = self._there(name), self.kept(name)
        if wanted in kept.removed:
            raise CatalogError(f"{ref} was removed from {self.bucket.url}")
        if not there:
            return super().get(ref)
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
                self._forget(name)
                yield

    def _forget(self, name: str) -> None:
        """Remove the copies of versions that were removed on another machine."""
        for number in self.kept(name).removed:
            if (path := self.root / name / number).is_dir():
                with temporary_folder(self.root, f".{name}") as bin_:
                    path.rename(bin_ / number)

    def commit(self, version: Version) -> None:
        """Put a version into the bucket, unless it is there.

        Raises:
            CatalogError: the bucket has another version of that number.
            StoreError: the bucket can't be written.
        """
        manifest = version.manifest
        if self._same(manifest):
            return
        if manifest.version in self.kept(manifest.name).removed:
            raise CatalogError(
                f"{manifest.name}@{manifest.version} was removed from {self.bucket.url}, and a "
                "number is not used again: name another `version`, or none"
            )
        own = f"versions/{manifest.name}/{manifest.version}/{secrets.token_hex(8)}"
        names = [n for n in (*manifest.files, *UNLISTED) if (version.path / n).is_file()]
        for name in names:
            self.bucket.upload(version.path / name, f"{own}/{name}")
        facts = {
            "at": own, "content_digest": manifest.content_digest,
            "manifest_digest": manifest_digest(manifest),
        }  # fmt: skip
        if not self.bucket.create(_key(manifest.name, manifest.version), seal(facts)):
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

    # -- removing ------------------------------------------------------------------------------

    def tell(self, home: str, where: str, needs: Mapping[str, Sequence[str]]) -> None:
        """Say what a home needs of the versions: models and reviews that no other machine knows.

        Args:
            home: name of the home.
            where: it lies, for people.
            needs: reasons by ref.
        """
        key, day = f"homes/{home}.json", datetime.now(UTC).strftime("%Y-%m-%d")
        found = self.bucket.read(key)
        with suppress(ValueError):  # damaged
            if found is not None and unseal(found[0], _TOLD).get("needs") == needs:
                return
        self.bucket.upload(seal({"where": where, "day": day, "needs": needs}), key)

    def told(self) -> dict[str, list[str]]:
        """What homes have said that they need: reasons by ref.

        Raises:
            CatalogError: one can't be read.
        """
        why: dict[str, list[str]] = {}
        for key in self.bucket.list("homes"):
            try:
                facts = unseal((self.bucket.read(key) or (b"",))[0], _TOLD)
                for ref, reasons in facts["needs"].items():
                    whose = f"of {facts['where']}, as told on {facts['day']} ({key})"
                    why.setdefault(ref, []).extend(f"{reason} {whose}" for reason in reasons)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CatalogError(
                    f"{self.bucket.url}/{key} is damaged ({error}): what a home needs is unknown. "
                    "Delete it if that home is gone; else any run or training there writes it anew"
                ) from error
        return why

    def manifest(self, name: str, number: str) -> Manifest | None:
        """The manifest of a version of the bucket; None if it is not there, or damaged."""
        try:
            facts = self._record(name, number)
            found = self.bucket.read(f"{facts['at']}/manifest.json") if facts is not None else None
            manifest = manifest_of(found[0]) if found is not None else None
        except ValueError:
            return None
        whole = manifest and facts and facts["manifest_digest"] == manifest_digest(manifest)
        return manifest if whole else None

    def objects(self, name: str, number: str) -> list[str]:
        """Keys of the intermediate results that a version was made from.

        Raises:
            CatalogError: nobody can tell.
        """
        facts = self._record(name, number)
        try:
            if facts is not None:
                text = (self.bucket.read(f"{facts['at']}/provenance.json") or (b"",))[0]
            else:  # here alone
                text = (self.get(f"{name}@{number}").path / "provenance.json").read_bytes()
            return [str(key) for key in json.loads(text)["objects"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CatalogError(
                f"nobody can tell what {name}@{number} was made from ({error}), so nothing is "
                "removed from the bucket; `prefactory catalog rm` takes a version that nobody needs"
            ) from error

    def left(self, name: str, number: str) -> list[str]:
        """Keys of all that the bucket has of a version, its record first."""
        own = _key(name, number)
        record = [own] if self.bucket.exists(own) else []
        return [*record, *self.bucket.list(f"versions/{name}/{number}")]

    def _there(self, name: str) -> list[str]:
        """Numbers of the versions of a dataset in the bucket, oldest first."""
        there = self._recorded(name)
        removed = self.kept(name).removed if there else ()
        return [number for number in there if number not in removed]

    def _recorded(self, name: str) -> list[str]:
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
            facts = unseal(found[0], _FACTS)
            if facts["at"].split("/")[:3] != ["versions", name, number]:
                raise ValueError("it leads elsewhere")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CatalogError(
                f"{self.bucket.url}/{_key(name, number)} is damaged ({error})" + _cure(name, number)
            ) from error
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
            manifest = manifest_of(found[0] if found else b"")
        except ValueError as error:
            raise CatalogError(
                f"the manifest of {source} is missing or damaged{_cure(name, number)}"
            ) from error
        if (manifest.name, manifest.version) != (name, number):
            raise CatalogError(f"{source} is another version than {name}@{number}")
        at = facts["at"]

        def fetch(file: str, path: Path) -> bool:
            return self.bucket.download(f"{at}/{file}", path)

        cure = _cure(name, number)
        return bring(self, manifest, fetch, source, whole=whole, cure=cure)

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


def _cure(name: str, number: str) -> str:
    return (
        f": `prefactory catalog rm {name}@{number}` takes the version away, and its recipe "
        "publishes the same content again"
    )


def _key(name: str, number: str) -> str:
    return f"records/{name}/{number}.json"

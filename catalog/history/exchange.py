"""Versions to other places and back: folders, S3, the hub, and whatever fsspec reaches.

The files of a version go first and its manifest last, so that who reads there sees a version whole
or not at all. What comes back is checked file by file before it has its name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from catalog.history.hub import upload
from catalog.manifest import Manifest
from catalog.versions import (
    UNLISTED,
    Catalog,
    Version,
    file_problems,
    manifest_of,
    manifest_problems,
    open_folder,
    verify,
)
from prefactory.errors import CatalogError, MissingPackageError, PrefactoryError, disk_errors
from prefactory.extras import package
from prefactory.folders import settle, sweep, temporary_folder
from prefactory.recipe import NAME
from prefactory.safety.addresses import check_address
from prefactory.sharing.locks import locked
from prefactory.store import file_digest

_LOG = logging.getLogger(__name__)
_MOST_MANIFEST = 100_000_000
"""Bytes of a manifest, and of what it does not list; it is read before it can be checked."""
_BUCKETS = ("s3", "gs", "az")
"""Reached by obstore, whose settings come from the environment, as for `run --store`."""


_HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:/(.+))?")


def push(version: Version, to: str, *, public: bool = False) -> str:
    """Write a whole version to `TO/NAME/VERSION`; return that address.

    Args:
        version: which; it is verified first.
        to: a folder, `s3://bucket/prefix`, `hf://datasets/user/name`, or another address of fsspec.
        public: whether everybody may read a repository of the hub that is made now.

    Raises:
        CatalogError: the version is damaged, or another is there already.
        MissingPackageError: what reaches such addresses is not installed.
    """
    if problems := verify(version):
        raise CatalogError(f"{version.ref} is damaged and stays here: {'; '.join(problems[:3])}")
    with _reached(to), disk_errors(to):
        files, root = _place(to)
        own = f"{version.manifest.name}/{version.manifest.version}"
        base, hub = f"{root}/{own}", _HUB.fullmatch(to.rstrip("/"))
        at = f"{to.rstrip('/')}/{own}" if "://" in to else base
        there = _manifest_at(files, base)
        if there is not None:
            if there != version.manifest:
                raise CatalogError(f"{to} has another {version.ref} already; versions never change")
            return at
        if hub is not None:
            _to_hub(version, hub[1], hub[2], public)
            return at
        names = [*version.manifest.files, *(n for n in reversed(UNLISTED))]
        for name in names:  # the manifest is the last of them
            if (version.path / name).is_file():
                files.makedirs(str(PurePosixPath(f"{base}/{name}").parent), exist_ok=True)
                files.put_file(str(version.path / name), f"{base}/{name}")
    return at


def _to_hub(version: Version, repo: str, prefix: str | None, public: bool) -> None:
    """One commit: a version whole or not at all, and one of the few that an hour may have."""
    manifest = version.manifest
    into = "/".join(filter(None, (prefix, manifest.name, manifest.version)))
    message = version.ref, f"Content digest: {manifest.content_digest}"
    upload(version.path, repo, "dataset", message, into=into, public=public)


def _manifest_at(files: Any, base: str) -> Manifest | None:  # noqa: ANN401 - of fsspec
    """The manifest of a version there; one that is damaged, or was cut off, counts as absent."""
    try:
        return manifest_of(files.cat_file(f"{base}/manifest.json"))
    except (FileNotFoundError, ValueError):
        return None


def pull(catalog: Catalog, source: str) -> Version:
    """Bring a version into the catalog, or find it there.

    Args:
        catalog: where to.
        source: address of the version's folder, which `push` gives.

    Raises:
        CatalogError: there is no version, a file is not as its manifest says, or the catalog has
            another version of that name and number.
    """
    with _reached(source):
        files, base = _place(source)
        try:
            if (files.size(f"{base}/manifest.json") or 0) > _MOST_MANIFEST:
                raise ValueError(f"it has more than {_MOST_MANIFEST // 10**6} MB")
            manifest = manifest_of(files.cat_file(f"{base}/manifest.json"))
        except FileNotFoundError as error:
            raise CatalogError(f"{source} is no version: it has no manifest.json") from error
        except ValueError as error:
            raise CatalogError(f"the manifest of {source} is damaged: {error}") from error

    def fetch(name: str, target: Path) -> bool:
        try:
            if (size := files.size(f"{base}/{name}") or 0) > _most(manifest, name):
                raise CatalogError(f"{source}/{name} has {size:,} bytes, more than it may have")
            files.get_file(f"{base}/{name}", str(target))
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            return False
        return True

    with _reached(source):
        return bring(catalog, manifest, fetch, base)


def _most(manifest: Manifest, name: str) -> int:
    """Bytes that a file of a version may have: what is fetched is not looked at before."""
    size = manifest.files.get(name, {}).get("bytes")
    return size if isinstance(size, int) else _MOST_MANIFEST


def bring(
    catalog: Catalog,
    manifest: Manifest,
    fetch: Callable[[str, Path], bool],
    source: str,
    *,
    whole: bool = True,
    cure: str = "",
) -> Version:
    """Bring a version into the catalog's folder, file by file, or find it there.

    One that is there and damaged is replaced: what comes is checked before.

    Args:
        catalog: where to.
        manifest: of the version.
        fetch: writes one of its files to a path; False if there is none.
        source: where that is, for messages.
        whole: check all files of one that is there; else that its manifest can be read.
        cure: what to do if what comes is damaged.

    Raises:
        CatalogError: a file is not as the manifest says, or another version of that name and number
            is there.
    """
    if not NAME.fullmatch(manifest.name) or not NAME.fullmatch(manifest.version):
        raise CatalogError(f"{source}: its name or version can't be that of a folder")
    with (
        disk_errors(catalog.root),
        temporary_folder(catalog.root, f".{manifest.name}") as folder,
        locked(catalog.root / f".{manifest.name}.lock"),
    ):
        final = catalog.root / manifest.name / manifest.version
        there = _there(final, manifest, whole=whole) if final.exists() else None
        if there is not None:
            sweep(catalog.root)  # of one that was killed once it was there
            return there
        for name in [*manifest.files, *UNLISTED]:
            if problem := _fetch(fetch, folder, name, manifest):
                raise CatalogError(f"{source}/{name} {problem}{cure}")
        try:
            problems = verify(open_folder(folder))
        except CatalogError as error:
            problems = [str(error)]
        if problems:
            raise CatalogError(f"{source} came damaged: {'; '.join(problems[:3])}{cure}")
        with ExitStack() as stack:
            if final.exists():
                aside = temporary_folder(catalog.root, f".{manifest.name}")
                final.rename(stack.enter_context(aside) / "damaged")
            settle(folder, final)
        sweep(catalog.root)
    return open_folder(final)


def _there(final: Path, wanted: Manifest, *, whole: bool) -> Version | None:
    """The version that is there already; None if it is damaged, which is said.

    Raises:
        CatalogError: it is another one.
    """
    try:
        version = open_folder(final)
        problems = [] if version.manifest == wanted else manifest_problems(version)
        problems += file_problems(version) if whole else []
    except CatalogError as error:
        problems = [str(error)]
    else:
        if not problems and version.manifest != wanted:
            raise CatalogError(
                f"the catalog has another {version.ref} already; versions never change: pull into "
                "another home (--home)"
            )
    if not problems:
        return version
    _LOG.warning("%s is damaged (%s) and is brought anew", final, "; ".join(problems[:3]))
    return None


def _fetch(fetch: Callable[[str, Path], bool], folder: Path, name: str, manifest: Manifest) -> str:
    """Bring a file; what is wrong with it, if anything."""
    target = folder / name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise CatalogError(f"the manifest names a file outside its folder: {name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not fetch(name, target):
        return "" if name in UNLISTED[1:] else "is missing there"
    facts = manifest.files.get(name)
    if facts is not None and file_digest(target, "sha256") != facts.get("sha256"):
        return "is not what the manifest says (its sha256 does not match)"
    return ""


@contextmanager
def _reached(address: str) -> Iterator[None]:
    """Say in a sentence what a file system says in errors of its own.

    Raises:
        CatalogError: the address can't be reached, read or written.
    """
    try:
        yield
    except PrefactoryError:
        raise
    except Exception as error:
        why = (str(error) or type(error).__name__).split("\n", 1)[0]
        raise CatalogError(f"{address} can't be reached: {why}") from error


def _place(address: str) -> tuple[Any, str]:
    check_address(address, "the address")
    kind = address.partition("://")[0]
    try:
        if kind in _BUCKETS and kind != address:
            obstore = package("obstore.fsspec")
            return obstore.FsspecStore(kind, skip_instance_cache=True), address.rstrip("/")
        files, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise MissingPackageError(f"{kind}:// needs another package ({error})") from error
    except ValueError as error:
        raise CatalogError(f"{address}: {error}") from error
    return files, str(path).rstrip("/")

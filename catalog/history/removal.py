"""What may go: versions by `rm`, intermediate results and old versions by `gc`.

Nothing goes that a tag, another version, a model or a review needs; and nothing at all goes before
it was said, in a dry run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from catalog.history import state
from catalog.versions import Catalog, Version, open_folder
from prefactory.errors import CatalogError, StoreError, disk_errors
from prefactory.folders import sweep, temporary_folder
from prefactory.recipe import NAME
from prefactory.sharing.locks import locked
from prefactory.store import IN_USE, Store

_LOG = logging.getLogger(__name__)
DAY_S = 86_400.0


@dataclass(frozen=True)
class Goes:
    """Something that may go, or why it stays.

    Attributes:
        what: `version` or `object`.
        name: ref of the version, key of the object.
        path: its folder.
        size: bytes.
        why: reasons for which it stays; it may go if there are none.
    """

    what: str
    name: str
    path: Path
    size: int
    why: tuple[str, ...] = ()


def parents(version: Version, catalog: Catalog) -> list[Version]:
    """Versions whose files are among the sources of a version, by content."""
    read = {f.get("sha256") for s in version.manifest.sources for f in s.get("files", [])} - {None}
    others = (v for v in catalog if v.ref != version.ref)
    return [v for v in others if read & {f["sha256"] for f in v.manifest.files.values()}]


def needed(catalog: Catalog, more: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Why versions are needed: ref -> reasons.

    Args:
        catalog: whose versions.
        more: what the catalog can't know: models and reviews, by ref.
    """
    why: dict[str, list[str]] = {ref: list(reasons) for ref, reasons in more.items()}
    for name in catalog.names():
        kept = catalog.kept(name)
        for tag, number in kept.tags.items():
            why.setdefault(f"{name}@{number}", []).append(f"the tag {tag}")
        if kept.head is not None:
            why.setdefault(f"{name}@{kept.head}", []).append("it is the head since a rollback")
    for version in catalog:
        for parent in parents(version, catalog):
            why.setdefault(parent.ref, []).append(f"{version.ref} was made from it")
    return why


def _all_told(catalog: Catalog, but: str = "") -> None:
    """Whether it is known what the versions here, but perhaps one, were made from.

    Raises:
        CatalogError: the manifest of one can't be read.
    """
    for name in catalog.names():
        for path in sorted((catalog.root / name).glob("*")):
            ref = f"{name}@{path.name}"
            if ref == but or not NAME.fullmatch(path.name) or not path.is_dir():
                continue
            try:
                open_folder(path)
            except CatalogError as error:
                raise CatalogError(
                    f"nothing goes: what {ref} needs is unknown, as {path / 'manifest.json'} can't "
                    f"be read. Put a copy in its place, or remove the folder {path}: its recipe "
                    "publishes the same content again"
                ) from error


def removable(catalog: Catalog, ref: str, more: Mapping[str, list[str]]) -> Goes:
    """What `rm` of a version would take, and what speaks against it.

    Raises:
        CatalogError: no such version in the catalog, or another one's manifest can't be read. A
            version whose own manifest is damaged is there.
    """
    name, _, number = ref.partition("@")
    path = catalog.root / name / number
    if not number:
        raise CatalogError(f"{ref}: say which version, as NAME@VERSION")
    if number in (tags := catalog.kept(name).tags):
        raise CatalogError(f"{ref} is a tag of {name}@{tags[number]}: take that, or untag it")
    if number in ("", ".", "..") or "/" in ref or not (path / "manifest.json").is_file():
        catalog.get(ref)  # which says what there is
        raise CatalogError(f"{ref} is not in the catalog {catalog.root}")
    _all_told(catalog, but=ref)
    return Goes("version", ref, path, _size(path), tuple(needed(catalog, more).get(ref, ())))


@contextmanager
def alone(catalog: Catalog, store: Store) -> Iterator[None]:
    """Hold a home against runs while it is looked what may go, and while that goes.

    What killed removals left goes first.

    Raises:
        StoreError: a run is at work.
    """

    def busy() -> None:
        raise StoreError(f"a run is using {store.root}; wait for its end, and try again")

    with locked(store.root / IN_USE, busy=busy):
        with disk_errors(store.root):
            sweep(catalog.root)
            sweep(store.root / "tmp")
        yield


def remove(catalog: Catalog, goes: Goes) -> None:
    """Remove a version, within `alone`; its number is not used again.

    Raises:
        CatalogError: something needs it.
    """
    if goes.why:
        raise CatalogError(f"{goes.name} stays: {'; '.join(goes.why)}")
    name, _, number = goes.name.partition("@")

    def without(before: state.State) -> state.State:
        if number in (*before.tags.values(), before.head):  # since it was looked
            raise CatalogError(f"{goes.name} stays: it has got a name meanwhile")
        return state.without(before, number)

    catalog.keep(name, without)
    with (
        disk_errors(catalog.root),
        temporary_folder(catalog.root, f".{name}") as bin_,
    ):  # gone in one step, then in peace
        goes.path.rename(bin_ / number)


def garbage(
    catalog: Catalog,
    store: Store,
    more: Mapping[str, list[str]],
    *,
    keep: int | None = None,
    days: float = 7.0,
) -> list[Goes]:
    """What `gc` looks at: old versions, and objects of the store that no version names.

    An object is needed if a version that stays was made from it (`objects` of its
    `provenance.json`). A version of before that was written keeps all objects that are older than
    itself. The journal of answers, vectors, models and reviews are never touched.

    Args:
        catalog: its versions.
        store: of the same home.
        more: why models and reviews need versions, by ref.
        keep: newest versions of each dataset that stay; None: all stay.
        days: objects younger than this stay: a run may be at work, or be resumed.

    Returns:
        Everything that may go, and the old versions that something needs.

    Raises:
        CatalogError: the manifest of a version can't be read, so that its needs are unknown.
    """
    _all_told(catalog)
    why = needed(catalog, more)
    old = []
    if keep is not None:
        if catalog.bucket_url is not None:
            raise CatalogError(
                f"--keep removes no versions from {catalog.bucket_url}: `prefactory catalog rm` "
                "does, one by one. Without PREFACTORY_CATALOG it removes this machine's copies"
            )
        for name in catalog.names():
            versions = catalog.versions(name)
            old += versions[: max(0, len(versions) - max(1, keep))]
    goes = [Goes("version", v.ref, v.path, _size(v.path), tuple(why.get(v.ref, ()))) for v in old]
    gone = {g.name for g in goes if not g.why}
    stay = [v for v in catalog if v.ref not in gone]
    named: set[str] = set()
    silent = 0.0
    for version in stay:
        told = _objects(version)
        if told is None:
            silent = max(silent, (version.path / "manifest.json").stat().st_mtime)
        named |= told or set()
    young = time.time() - days * DAY_S
    for path in sorted(store.root.glob("objects/*/*")):
        made = path.stat().st_mtime
        if path.name not in named and silent < made < young:
            goes.append(Goes("object", path.name, path, _size(path)))
    return goes


def collect(catalog: Catalog, store: Store, goes: list[Goes]) -> int:
    """Remove what `garbage` found and nothing needs, within `alone`; return the bytes."""
    freed = 0
    with disk_errors(store.root):
        for one in goes:
            if one.why:
                continue
            if one.what == "version":
                remove(catalog, one)
            else:
                with temporary_folder(store.root / "tmp", "gc") as bin_:
                    one.path.rename(bin_ / one.name)
            freed += one.size
        return freed + _loose_pictures(store)


def _loose_pictures(store: Store) -> int:
    """Remove pictures that no object names any more; return the bytes."""
    folder = store.root / "images"
    if not folder.is_dir():
        return 0
    named = {name for record in store.records() for name in record.images}
    freed = 0
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in named:
            freed += path.stat().st_size
            path.unlink()
    return freed


def _objects(version: Version) -> set[str] | None:
    try:
        told = version.told("provenance.json")
    except CatalogError as error:
        _LOG.warning("%s: all that may be its own stays", error)
        return None
    return set(told["objects"]) if "objects" in told else None


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())

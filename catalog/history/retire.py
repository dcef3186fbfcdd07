"""Removing a version from a bucket that many machines use.

What needs a version is in the bucket: tags, the head, versions that were made from it, and what
each home has told (its models and reviews). The number goes into the state of the name first, by
compare and swap, which also sees that no tag names it; from then on nobody finds the version. Then
it is looked once more who needs it: who said so meanwhile, and looks at the version after that,
sees it removed, or is seen here, and it is put back. Only then files go. Who dies on the way
leaves a version that is whole, or one that is removed; the same command takes away the rest.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from catalog.history import state
from catalog.history.removal import Goes
from catalog.history.shared import BucketCatalog
from catalog.manifest import Manifest
from prefactory.errors import CatalogError, disk_errors
from prefactory.folders import temporary_folder
from prefactory.recipe import NAME
from prefactory.sharing.turns import in_turn

_LOG = logging.getLogger(__name__)


def removable(catalog: BucketCatalog, ref: str) -> Goes:
    """What removing a version would take from the bucket, and what speaks against it.

    Args:
        catalog: in a bucket.
        ref: `NAME@VERSION`.

    Raises:
        CatalogError: the bucket has no such version.
    """
    name, _, number = ref.partition("@")
    if not number:
        raise CatalogError(f"{ref}: say which version, as NAME@VERSION")
    kept = catalog.kept(name) if NAME.fullmatch(name) else state.State()
    if number in kept.tags:
        raise CatalogError(f"{ref} is a tag of {name}@{kept.tags[number]}: take that, or untag it")
    if not (NAME.fullmatch(name) and NAME.fullmatch(number) and catalog.left(name, number)):
        catalog.get(ref)  # which says what there is
        raise CatalogError(f"{ref} is not in {catalog.bucket.url}")
    manifest = catalog.manifest(name, number)
    size = sum(int(f["bytes"]) for f in manifest.files.values()) if manifest is not None else 0
    path = catalog.root / name / number
    return Goes("version", ref, path, size, tuple(_why(catalog, ref, manifest)))


def remove(catalog: BucketCatalog, goes: Goes) -> None:
    """Remove a version from the bucket, and this machine's copy; its number is not used again.

    Raises:
        CatalogError: something needs it.
    """
    if goes.why:
        raise CatalogError(f"{goes.name} stays: {'; '.join(goes.why)}")
    name, _, number = goes.name.partition("@")
    before = state.State()

    def gone(now: state.State) -> state.State:
        nonlocal before
        before = now
        if number in (*now.tags.values(), now.head):  # since it was looked
            raise CatalogError(f"{goes.name} stays: it has got a name meanwhile")
        return state.without(now, number)

    def back(now: state.State) -> state.State:
        removed = tuple(n for n in now.removed if n != number)
        if now.head is None and number == before.over:
            return replace(now, removed=removed, head=before.head, over=before.over)
        return replace(now, removed=removed)

    with in_turn(catalog.bucket, f"claims/{name}", lambda: False):  # nobody publishes meanwhile
        manifest = catalog.manifest(name, number)
        catalog.keep(name, gone)
        if why := _why(catalog, goes.name, manifest):
            catalog.keep(name, back)
            raise CatalogError(f"{goes.name} stays: {'; '.join(why)}")
        for key in catalog.left(name, number):
            catalog.bucket.delete(key)
    if goes.path.is_dir():
        with disk_errors(catalog.root), temporary_folder(catalog.root, f".{name}") as bin_:
            goes.path.rename(bin_ / number)


def _why(catalog: BucketCatalog, ref: str, manifest: Manifest | None) -> list[str]:
    """Why a version is needed."""
    name, _, number = ref.partition("@")
    kept = catalog.kept(name)
    why = [f"the tag {tag}" for tag, tagged in kept.tags.items() if tagged == number]
    why += ["it is the head since a rollback"] if kept.head == number else []
    own = {f["sha256"] for f in manifest.files.values()} if manifest is not None else set()
    for other_name in catalog.names():
        for other in catalog.numbers(other_name):
            made = f"{other_name}@{other}"
            if made == ref:
                continue
            read = _read(catalog, other_name, other)
            if read is None:
                why.append(
                    f"what {made} was made from is unknown, as its manifest can't be read: put a "
                    f"copy in its place, or `prefactory catalog rm {made}` first"
                )
            elif own & read:
                why.append(f"{made} was made from it")
    return why + catalog.told().get(ref, [])


def _read(catalog: BucketCatalog, name: str, number: str) -> set[str] | None:
    """Digests of the files that a version was made from; None if that can't be read."""
    manifest = catalog.manifest(name, number)
    try:  # what is not in the bucket is here alone
        manifest = manifest or catalog.get(f"{name}@{number}").manifest
    except CatalogError as error:
        _LOG.warning("skipped: %s", error)
        return None
    return {str(f.get("sha256")) for s in manifest.sources for f in s.get("files", [])} - {"None"}

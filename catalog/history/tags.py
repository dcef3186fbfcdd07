"""Names for versions, and the way back: `tag` and `rollback`."""

from __future__ import annotations

from dataclasses import replace

from catalog.history import state
from catalog.versions import Catalog, Version
from prefactory.errors import CatalogError
from prefactory.recipe import NAME


def tag(catalog: Catalog, ref: str, name: str) -> Version:
    """Give a version a name, which `NAME@TAG` then means; a tag that is there moves.

    Args:
        catalog: where.
        ref: the version.
        name: as a dataset's name; no version of the dataset may be called so.

    Raises:
        CatalogError: no such version, or the name can't be a tag.
    """
    version = _inside(catalog, ref)
    dataset = version.manifest.name
    if not NAME.fullmatch(name):
        raise CatalogError(f"{name!r} can't be a tag: take letters, digits, '.', '-' and '_'")
    if name in catalog.numbers(dataset):
        raise CatalogError(f"{dataset} has a version {name!r}; take another word for the tag")
    number = version.manifest.version

    def tagged(before: state.State) -> state.State:
        _still_there(before, version)
        return replace(before, tags={**before.tags, name: number})

    catalog.keep(dataset, tagged)
    return version


def untag(catalog: Catalog, dataset: str, name: str) -> str:
    """Take a tag away; return the version that it named.

    Raises:
        CatalogError: there is no such tag.
    """
    tags = catalog.kept(dataset).tags
    if name not in tags:
        have = ", ".join(tags) or "none"
        raise CatalogError(f"{dataset} has no tag {name!r}; it has: {have}")
    catalog.keep(dataset, lambda s: replace(s, tags={k: v for k, v in s.tags.items() if k != name}))
    return tags[name]


def rollback(catalog: Catalog, ref: str) -> Version:
    """Let the bare name mean an older version, until a newer one is published.

    Nothing is removed. The newest version as `ref` takes a rollback back.

    Raises:
        CatalogError: no such version.
    """
    version = _inside(catalog, ref)
    dataset, number = version.manifest.name, version.manifest.version
    newest = catalog.newest(dataset)
    back = number != newest

    def rolled(before: state.State) -> state.State:
        _still_there(before, version)
        return replace(before, head=number if back else None, over=newest if back else None)

    catalog.keep(dataset, rolled)
    return version


def _still_there(before: state.State, version: Version) -> None:
    if version.manifest.version in before.removed:  # by another process, since it was opened
        raise CatalogError(f"{version.ref} has just been removed")


def _inside(catalog: Catalog, ref: str) -> Version:
    version = catalog.get(ref)
    if version.path.resolve().parent.parent != catalog.root.resolve():
        raise CatalogError(f"{version.path} is not in the catalog {catalog.root}")
    return version

"""`verify` of everything in a home: versions, tags, models, and the objects of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from catalog.versions import Catalog, open_folder, verify
from prefactory.errors import CatalogError
from prefactory.folders import CHECKSUMS, damaged
from prefactory.store import Store


def problems(
    catalog: Catalog, store: Store, models: Path | None = None
) -> Iterator[tuple[str, list[str]]]:
    """What is wrong, thing by thing: (what it is, its problems; [] if it is whole).

    A damaged object of the store is no loss: the next run makes it again.

    Args:
        catalog: its versions and their tags.
        store: its objects.
        models: folder of trained models.
    """
    for name in catalog.names():
        for path in sorted((catalog.root / name).iterdir()):
            if path.is_dir():
                yield f"{name}@{path.name}", _version(path)
        yield f"tags of {name}", _tags(catalog, name)
    for path in sorted(p.parent for p in (models or catalog.root).glob(f"*/{CHECKSUMS}")):
        wrong = damaged(path / CHECKSUMS)
        yield f"model {path.name}", [f"{n}: not as it was written" for n in wrong]
    for path in sorted(store.root.glob("objects/*/*")):
        whole = store.open(path.name) is not None
        yield f"object {path.name}", [] if whole else ["it is damaged; the next run makes it again"]


def _version(path: Path) -> list[str]:
    try:
        return verify(open_folder(path))
    except CatalogError as error:
        return [str(error)]


def _tags(catalog: Catalog, name: str) -> list[str]:
    try:
        kept = catalog.kept(name)
    except CatalogError as error:
        return [str(error)]
    named = {**kept.tags, **({"the head": kept.head} if kept.head is not None else {})}
    return [
        f"{tag} names {number}, which is not there"
        for tag, number in named.items()
        if not (catalog.root / name / number / "manifest.json").is_file()
    ]

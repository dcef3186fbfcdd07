"""Published data by its name, or of a file that is published first."""

from __future__ import annotations

import re
from pathlib import Path

from catalog.versions import Version
from pipelines.settings import Settings


def version_of(ref: str, settings: Settings) -> Version:
    """A version by `NAME`, `NAME@VERSION` or its folder; or a file's rows as a version.

    A file is published under its own name with a tenth of its prompts held out. The same file gives
    the version that is there already.

    Args:
        ref: what a user wrote.
        settings: where versions are.

    Raises:
        CatalogError: there is no such version.
        DataError: the file can't be read as preference data.
    """
    path = Path(ref)
    if not path.is_file():
        return settings.catalog.get(ref)
    from pipelines.api import Recipe, run

    name = re.sub(r"[^a-z0-9-]+", "-", path.stem.lower()).strip("-") or "data"
    return run(Recipe(name, source=path.resolve()), settings.home)

"""Intermediate results in a bucket that no version of any machine was made from.

The catalog must be in a bucket as well: no home knows the versions of the others. Nobody may be at
work. The record of an object goes first, so that who dies on the way leaves parts that nobody
finds; these go with the next removal.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

from catalog.history.removal import DAY_S, Goes
from catalog.history.shared import BucketCatalog
from prefactory.sharing.bucket import Bucket, Found


def garbage(bucket: Bucket, catalog: BucketCatalog, days: float) -> list[Goes]:
    """What may go.

    Args:
        bucket: of the intermediate results.
        catalog: of all versions that were made from them.
        days: objects younger than this stay: a run may be resumed.

    Raises:
        CatalogError: nobody can tell what a version was made from.
    """
    named = {
        key
        for name in catalog.names()
        for number in catalog.numbers(name)
        for key in catalog.objects(name, number)
    }
    parts: dict[str, list[Found]] = defaultdict(list)
    for prefix, place in (("objects", 2), ("parts", 1)):
        for found in bucket.find(prefix):
            parts[found.key.split("/")[place]].append(found)
    young = time.time() - days * DAY_S
    return [
        Goes("object", key, Path("objects", key[:2], key), sum(f.size for f in files))
        for key, files in sorted(parts.items())
        if key not in named and max(f.at for f in files) < young
    ]


def collect(bucket: Bucket, goes: list[Goes]) -> int:
    """Remove what `garbage` found, while nobody is at work; return the bytes."""
    for one in goes:
        for prefix in (f"objects/{one.name[:2]}/{one.name}", f"parts/{one.name}"):
            for key in sorted(bucket.list(prefix), key=lambda k: not k.endswith("/record.json")):
                bucket.delete(key)
    return sum(one.size for one in goes)

"""Readers of preference data: any file, folder, URL or hub dataset to one of our three tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from catalog.sources.layouts import LAYOUTS
    from catalog.sources.reader import OpenSource, Peek, open_source, peek
    from catalog.sources.spec import Block, SourceFile, SourceSpec

__all__ = [
    "LAYOUTS",
    "Block",
    "OpenSource",
    "Peek",
    "SourceFile",
    "SourceSpec",
    "open_source",
    "peek",
]
__getattr__ = lazy_names(
    __name__,
    {
        "LAYOUTS": "layouts",
        "Block": "spec",
        "OpenSource": "reader",
        "Peek": "reader",
        "SourceFile": "spec",
        "SourceSpec": "spec",
        "open_source": "reader",
        "peek": "reader",
    },
)

"""Value systems as data files, one schema, and how well rows cover them."""

from __future__ import annotations

from catalog.values.coverage import coverage, facts
from catalog.values.schema import Node, ValueSystem, load, names

__all__ = ["Node", "ValueSystem", "coverage", "facts", "load", "names"]

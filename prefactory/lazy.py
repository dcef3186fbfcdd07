"""Lazy names for package `__init__` files, so that `import filters` loads no heavy library."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def lazy_names(package: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Return a module `__getattr__` that imports each name from its module on first use.

    Args:
        package: the package's `__name__`.
        names: public name -> module that defines it, relative to the package.
    """

    def __getattr__(name: str) -> Any:  # noqa: ANN401 - the module protocol asks for this
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{names[name]}"), name)

    return __getattr__

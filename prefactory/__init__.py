"""The contract of a step's author, and, loaded when asked for, the front door."""

from importlib import metadata
from typing import TYPE_CHECKING, Any

from prefactory.context import Context
from prefactory.step import (
    Filter,
    FittedFilter,
    Generated,
    Generator,
    Labeler,
    State,
    Step,
    verdict,
)
from prefactory.tables import Shape

if TYPE_CHECKING:
    from pipelines.api import Catalog, Recipe, Version, audit, read

__all__ = [
    "Catalog",
    "Context",
    "Filter",
    "FittedFilter",
    "Generated",
    "Generator",
    "Labeler",
    "Recipe",
    "Shape",
    "State",
    "Step",
    "Version",
    "__version__",
    "audit",
    "read",
    "verdict",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is exported
    if name == "__version__":
        return metadata.version("prefactory")
    if name not in __all__:
        raise AttributeError(f"module 'prefactory' has no attribute {name!r}")
    from pipelines import api  # the one import against the layers, when the front door is opened

    return getattr(api, name)

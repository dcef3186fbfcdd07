"""The contract: what the author of a step imports."""

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

__all__ = [
    "Context",
    "Filter",
    "FittedFilter",
    "Generated",
    "Generator",
    "Labeler",
    "Shape",
    "State",
    "Step",
    "verdict",
]

"""The contract: what the author of a step imports."""

from prefactory.context import Context
from prefactory.step import Filter, Generated, Generator, Labeler, State, Step, verdict
from prefactory.tables import Shape

__all__ = [
    "Context",
    "Filter",
    "Generated",
    "Generator",
    "Labeler",
    "Shape",
    "State",
    "Step",
    "verdict",
]

"""One check of the audit: what it measures, why that matters, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from audit.finding import Report

if TYPE_CHECKING:
    from audit.subject import Subject


class Need(Enum):
    """What a check needs of the data; the value says what is missing otherwise."""

    ROWS = "the table has no rows"
    ANSWERS = "these are prompts without answers"
    SIDES = "the answers are neither pairs nor labelled good and bad"
    PAIRS = "the rows are not pairs of a chosen and a rejected answer"


@dataclass(frozen=True)
class Check:
    """A check. Write `run`, list it in `registry.CHECKS`, give it limits in `limits.LIMITS`.

    Attributes:
        name: as gates and JSON write it.
        title: heading of the finding.
        why: why it matters, in a sentence or two.
        metrics: name -> what it is; `name:member` is a metric of a family (`agreement:reward`).
        run: measures.
        need: what the data must have.
        mends: recipe lines (YAML steps) that mend it.
        faulty_rows: whether those take out the rows that are at fault and no others, so that
            `prefactory audit --write-recipe` applies them; a matter of balance or taste is not.
        slow: whether it takes seconds on large data and does not wait for `Subject.damage`: such
            checks are started before the others.
    """

    name: str
    title: str
    why: str
    metrics: Mapping[str, str]
    run: Callable[[Subject], Report]
    need: Need = Need.ROWS
    mends: tuple[str, ...] = field(default=())
    faulty_rows: bool = False
    slow: bool = False


ONE_MODEL = (
    "# pair answers of one model: import the answers with their scores, then",
    "# - labelers.Pairs: {objective: reward, models: same}",
)
"""Advice that leaves the model no part in the label."""

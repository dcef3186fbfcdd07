"""Rows leave, with a reason: rules, duplicates, margins and subsampling. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from filters.exact_duplicates import ExactDuplicates
    from filters.isa import ISA
    from filters.length import Length
    from filters.margin import Margin, Score
    from filters.quality import Quality
    from filters.subsample import RandomSubsample

__all__ = [
    "ISA",
    "ExactDuplicates",
    "Length",
    "Margin",
    "Quality",
    "RandomSubsample",
    "Score",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ExactDuplicates": "exact_duplicates",
        "ISA": "isa",
        "Length": "length",
        "Margin": "margin",
        "Quality": "quality",
        "RandomSubsample": "subsample",
        "Score": "margin",
    },
)

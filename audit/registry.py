"""All checks, in the order in which an audit runs and shows them."""

from __future__ import annotations

from audit.check import Check
from audit.checks import (
    agreement,
    baselines,
    collapse,
    contamination,
    contradictions,
    coverage,
    damaged,
    diversity,
    duplicates,
    empty,
    identical,
    leakage,
    length,
    near_duplicates,
    provenance,
    refusals,
    schema,
    scores,
    separability,
    style,
    value_gap,
)

CHECKS: tuple[Check, ...] = tuple(
    module.CHECK
    for module in (
        schema,
        empty,
        damaged,
        identical,
        contradictions,
        duplicates,
        near_duplicates,
        leakage,
        contamination,
        baselines,
        length,
        separability,
        refusals,
        style,
        value_gap,
        scores,
        agreement,
        coverage,
        diversity,
        collapse,
        provenance,
    )
)
"""To add a check: a module in `checks`, its name here, its limits in `limits.LIMITS`."""

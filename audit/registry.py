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
    cut_off,
    damaged,
    diversity,
    duplicates,
    empty,
    garbled,
    identical,
    labels,
    leakage,
    leftovers,
    length,
    near_duplicates,
    off_topic,
    over_refusal,
    provenance,
    refusals,
    role_leaks,
    schema,
    scores,
    separability,
    style,
    uncertainty,
    value_coverage,
    value_gap,
)

CHECKS: tuple[Check, ...] = tuple(
    module.CHECK
    for module in (
        labels,
        schema,
        empty,
        damaged,
        garbled,
        off_topic,
        role_leaks,
        leftovers,
        cut_off,
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
        over_refusal,
        style,
        value_gap,
        scores,
        agreement,
        uncertainty,
        coverage,
        value_coverage,
        diversity,
        collapse,
        provenance,
    )
)
"""To add a check: a module in `checks`, its name here, its limits in `limits.LIMITS`."""

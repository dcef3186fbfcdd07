"""The audit: a linter for anybody's preference data. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from filters.audit.finding import Example, Finding, Metric, Severity
    from filters.audit.gates import Gates, load_gates
    from filters.audit.limits import LIMITS, Limit
    from filters.audit.loading import Intake, Loaded, load
    from filters.audit.page import build_page
    from filters.audit.registry import CHECKS
    from filters.audit.run import Audit, audit
    from filters.audit.subject import Options, Subject
    from filters.audit.terminal import summary

__all__ = [
    "CHECKS",
    "LIMITS",
    "Audit",
    "Example",
    "Finding",
    "Gates",
    "Intake",
    "Limit",
    "Loaded",
    "Metric",
    "Options",
    "Severity",
    "Subject",
    "audit",
    "build_page",
    "load",
    "load_gates",
    "summary",
]

__getattr__ = lazy_names(
    __name__,
    {
        "CHECKS": "registry",
        "LIMITS": "limits",
        "Audit": "run",
        "Example": "finding",
        "Finding": "finding",
        "Gates": "gates",
        "Intake": "loading",
        "Limit": "limits",
        "Loaded": "loading",
        "Metric": "finding",
        "Options": "subject",
        "Severity": "finding",
        "Subject": "subject",
        "audit": "run",
        "build_page": "page",
        "load": "loading",
        "load_gates": "gates",
        "summary": "terminal",
    },
)

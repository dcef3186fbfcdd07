"""The audit on one screen of a terminal."""

from __future__ import annotations

import textwrap

from audit.finding import Finding, Severity
from audit.run import Audit
from prefactory.pages.wording import CONTROLS

SIGNS = {
    Severity.FAULT: "x",
    Severity.WARNING: "!",
    Severity.NOTE: "-",
    Severity.OK: ".",
    Severity.SKIPPED: " ",
}
WIDTH = 100
_NAME = 16
_LINES = 2


def summary(audit: Audit, width: int = WIDTH) -> str:
    """Write the audit as plain text: a line or two for each finding, the worst first.

    Args:
        audit: what was found.
        width: columns of the terminal.
    """
    total = audit.intake.total
    drawn = f", drawn from {total:,}" if total is not None and total > audit.rows else ""
    lines = [
        f"{audit.name}: {audit.rows:,} {audit.shape.value} of {audit.prompts:,} prompts{drawn}"
    ]
    lines += _unverified(audit)
    lines += ["", *_findings(audit, width)]
    fine = [f.check for f in audit.findings if f.severity is Severity.OK]
    skipped = [f.check for f in audit.findings if f.severity is Severity.SKIPPED]
    for word, names in (("ok", fine), ("not applicable", skipped)):
        if names:
            lines += textwrap.wrap(f"{word}: {', '.join(names)}", width, subsequent_indent="  ")
    counts = ", ".join(f"{n} {word}{'s' * (n != 1 and word != 'ok')}" for word, n in _counts(audit))
    lines += ["", counts]
    if audit.gated:
        lines += _gates(audit, width)
    shown = {code: sign for code, sign in CONTROLS.items() if code != 10}
    return "\n".join(lines).translate(shown)


def _unverified(audit: Audit) -> list[str]:
    """Said at the top, where nothing could be said of the labels of pairs."""
    labels = next((f for f in audit.findings if f.check == "labels"), None)
    metric = None if labels is None else labels.metrics.get("verified")
    return ["labels were not verified"] if metric is not None and not metric.value else []


def _findings(audit: Audit, width: int) -> list[str]:
    bad = [f for f in audit.findings if f.severity > Severity.OK]
    lines = []
    for finding in sorted(bad, key=lambda f: -f.severity):
        lines += _finding(finding, width)
    return [*lines, ""] if lines else []


def _finding(finding: Finding, width: int) -> list[str]:
    room = max(width - _NAME - 12, 30)
    text = textwrap.wrap(finding.headline, room, max_lines=_LINES, placeholder=" ...") or [""]
    head = (
        f"{SIGNS[finding.severity]} {finding.severity.word:<8} {finding.check:<{_NAME}} {text[0]}"
    )
    return [head, *(" " * (_NAME + 12) + line for line in text[1:])]


def _counts(audit: Audit) -> list[tuple[str, int]]:
    counts = audit.counts()
    return [(word, counts[word]) for word in ("fault", "warning", "note", "ok")]


def _gates(audit: Audit, width: int) -> list[str]:
    if not audit.failures:
        return ["gates: all passed"]
    lines = [f"gates: {len(audit.failures)} failed"]
    for failure in audit.failures:
        text = f"{failure.gate}: {failure.why}"
        lines += textwrap.wrap(
            text, width, initial_indent="  ", subsequent_indent="    ", max_lines=3
        )
    return lines

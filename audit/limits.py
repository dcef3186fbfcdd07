"""Where a number stops being healthy: one table, which gates may override.

A limit has up to three ranges; outside a range the finding has that severity. `evidence` limits
judge the end of the 95 % interval that is nearer to the healthy range, so that a small set raises
no alarm that its size can't carry; the others judge the number itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from audit.finding import Metric, Report, Severity
from prefactory.preferences.probe import PAIRED_LIMIT, POINTWISE_LIMIT

Range = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Limit:
    """Healthy ranges of one metric; None at an end leaves it open, None as a range is no limit.

    Attributes:
        note, warning, fault: outside this range the finding is at least a note, a warning, a fault.
        evidence: judge the nearer end of the interval rather than the value.
        source: where the numbers come from; ours unless it says.
    """

    note: Range | None = None
    warning: Range | None = None
    fault: Range | None = None
    evidence: bool = False
    source: str = "ours"

    def severity(self, metric: Metric) -> Severity:
        """Judge a metric; a value that is undefined is fine."""
        ranges = ((Severity.FAULT, self.fault), (Severity.WARNING, self.warning))
        for severity, healthy in (*ranges, (Severity.NOTE, self.note)):
            if healthy is not None and _outside(metric, healthy, self.evidence):
                return severity
        return Severity.OK

    def excess(self, metric: Metric, severity: Severity) -> float:
        """How far a value lies outside the range of a severity, in units of the metric."""
        ranges = {Severity.NOTE: self.note, Severity.WARNING: self.warning}
        least, most = ranges.get(severity, self.fault) or (None, None)
        value = metric.value or 0.0
        over = value - most if most is not None else 0.0
        under = least - value if least is not None else 0.0
        return max(over, under, 0.0)


def _outside(metric: Metric, healthy: Range, evidence: bool) -> bool:
    if metric.value is None:
        return False
    ends = (metric.value, metric.value)
    if evidence and metric.low is not None and metric.high is not None:
        ends = (metric.low, metric.high)
    least, most = healthy
    above = most is not None and ends[0] > most
    below = least is not None and ends[1] < least
    return above or below


def _most(note: float | None, warning: float | None, fault: float | None = None) -> Limit:
    """A limit from above, on the number itself."""
    ranges: list[Range | None] = [
        None if at is None else (None, at) for at in (note, warning, fault)
    ]
    return Limit(note=ranges[0], warning=ranges[1], fault=ranges[2])


def _between(note: float, warning: float, fault: float, centre: float = 0.0) -> Limit:
    """A limit around a centre, on the interval."""
    ranges = [(centre - off, centre + off) for off in (note, warning, fault)]
    return Limit(note=ranges[0], warning=ranges[1], fault=ranges[2], evidence=True)


_LONGER = Limit(
    note=(0.45, 0.60), warning=(0.40, 0.65), fault=(0.25, 0.80), evidence=True,
)  # fmt: skip
_RULE = _between(0.08, 0.15, 0.30, centre=0.5)
_PROBE = Limit(
    note=(None, PAIRED_LIMIT), warning=(None, 0.80), fault=(None, 0.95), evidence=True,
    source="ours, after arXiv 2504.02193",
)  # fmt: skip
_POINTWISE = Limit(
    note=(None, POINTWISE_LIMIT), warning=(None, 0.75), fault=(None, 0.95), evidence=True
)
_SIDES = _between(0.03, 0.08, 0.25)

LIMITS: dict[str, Limit] = {
    "labels.verified": Limit(note=(1.0, None)),
    "labels.inverted": _most(0.0, 0.0, 0.0),
    "labels.against": _most(0.0, 0.0),
    "labels.wrong": Limit(
        note=(None, 0.05), warning=(None, 0.10), fault=(None, 0.30), evidence=True
    ),
    "labels.judge_error": Limit(
        note=(None, 0.3), warning=(None, 0.5), fault=(None, 0.7), evidence=True
    ),
    "schema.rejected": _most(0.0, 0.02, 0.2),
    "schema.odd_turns": _most(0.0, 0.02, 0.2),
    "schema.not_user_last": _most(0.0, 0.02, 0.2),
    "schema.trailing_cue": _most(0.0, 0.02),
    "schema.empty_prompts": _most(0.0, 0.01, 0.05),
    "empty.answers": _most(0.0, 0.005, 0.05),
    "damaged.chosen": _most(0.002, 0.01, 0.05),
    "damaged.rejected": _most(0.01, 0.05, 0.2),
    "damaged.response": _most(0.002, 0.01, 0.05),
    "garbled.chosen": _most(0.01, 0.02, 0.05),
    "garbled.response": _most(0.01, 0.02, 0.05),
    "garbled.rejected": _most(0.02, None),
    "off_topic.off_topic": _most(0.02, 0.035, 0.10),
    "off_topic.evasive": _most(0.0, None),
    "role_leaks.chosen": _most(0.0, 0.01, 0.05),
    "role_leaks.rejected": _most(0.0, 0.01, 0.05),
    "role_leaks.response": _most(0.0, 0.01, 0.05),
    "leftovers.chosen": _most(0.0, 0.01, 0.05),
    "leftovers.rejected": _most(0.0, 0.01, 0.05),
    "leftovers.response": _most(0.0, 0.01, 0.05),
    "cut_off.gap": _between(0.03, 0.10, 1.0),
    "reference_mismatch.gap": Limit(note=(-0.5, 0.5), warning=(None, 1.5), evidence=True),
    "identical.pairs": _most(0.0, 0.005, 0.05),
    "identical.case_only": _most(0.01, 0.05),
    "identical.nearly": _most(0.01, 0.05),
    "identical.lopsided": _most(0.25, 0.6),
    "contradictions.pairs": _most(0.0, 0.01, 0.05),
    "contradictions.cycles": _most(0.0, 0.05),
    "duplicates.rows": _most(0.0, 0.02, 0.2),
    "duplicates.respelled_prompts": _most(0.01, 0.1),
    "near_duplicates.rows": _most(0.01, 0.05, 0.3),
    "near_duplicates.prompts": _most(0.05, 0.2),
    "baselines.longer": _LONGER,
    "baselines.markdown": _RULE,
    "baselines.lists": _RULE,
    "baselines.first": _RULE,
    "baselines.model": _RULE,
    "length.shift": Limit(note=(-0.05, 0.05), warning=(-0.15, 0.15), evidence=True),
    "separability.paired": _PROBE,
    "separability.pointwise": _POINTWISE,
    "separability.surface_paired": _PROBE,
    "separability.surface_pointwise": _POINTWISE,
    "value_gap.largest_shift": Limit(
        note=(None, 0.10), warning=(None, 0.15), fault=None, evidence=True,
        source="ours, after arXiv 2510.26707",
    ),
    "value_gap.taught": Limit(
        warning=(0.10, None), fault=(0.0, None), evidence=True,
        source="ours, after arXiv 2510.26707",
    ),
    "refusals.gap": _SIDES,
    "refusals.chosen": Limit(note=(None, 0.10), warning=(None, 0.30), evidence=True),
    "over_refusal.safe_chosen": _most(0.0, 0.0),
    "over_refusal.safe_response": _most(0.0, 0.0),
    "over_refusal.looks_safe_chosen": Limit(
        note=(None, 0.0), warning=(None, 0.10), evidence=True
    ),
    "over_refusal.looks_safe_response": Limit(
        note=(None, 0.0), warning=(None, 0.10), evidence=True
    ),
    "over_refusal.unsafe_turned": _most(0.0, 0.0),
    "over_refusal.unsafe_chosen": Limit(note=(None, 0.0), warning=(None, 0.25), evidence=True),
    "over_refusal.unsafe_response": Limit(note=(None, 0.0), warning=(None, 0.25), evidence=True),
    "style.largest_gap": _between(0.05, 0.15, 0.40),
    "style.opening_gap": _between(0.05, 0.15, 0.40),
    "scores.contradictions": _most(0.0, 0.02, 0.10),
    "scores.ties": _most(0.02, 0.10),
    "scores.unscored": _most(0.0, 0.2),
    "scores.not_finite": _most(0.0, 0.0, 0.05),
    "scores.off_scale": _most(0.0, 0.01, 0.10),
    "scores.margin_off": _most(0.0, 0.01),
    "agreement.with_label": Limit(note=(0.5, None), evidence=True),
    "agreement.ece": _most(0.05, 0.15),
    "uncertainty.numbers": Limit(note=(None, 0.5), evidence=True),
    "uncertainty.hedging": Limit(note=(0.0, None), evidence=True),
    "contamination.prompts": _most(0.0, 0.001, 0.01),
    "contamination.benchmark": Limit(
        note=(None, 0.0), warning=(None, 0.005), fault=(None, 0.02),
        source="2%: arXiv 2411.15124; the others ours",
    ),
    "contamination.answers": _most(0.0, 0.005, 0.05),
    "coverage.other_script": _most(0.01, 0.05, 0.2),
    "chat_template.lost": _most(0.0, 0.01),
    "chat_template.refused": Limit(fault=(None, 0.0)),
    "chat_template.remarks": Limit(note=(None, 0.0)),
    "value_coverage.empty_leaves": _most(0.0, None),
    "value_coverage.assigned": Limit(note=(0.2, None), evidence=True),
    "collapse.repeated_answers": _most(0.02, 0.10, 0.5),
    "collapse.top_opening": _most(0.05, 0.20, 0.6),
    "leakage.prompts": _most(0.0, 0.01, 0.05),
    "leakage.openings": _most(0.0, 0.02, 0.10),
    "leakage.near": _most(0.005, 0.02, 0.10),
    "provenance.unlicensed": _most(0.0, None),
    "provenance.no_model": _most(0.5, None),
    "provenance.restricted": _most(0.0, None),
    "provenance.no_source": _most(0.0, None),
    "provenance.no_label_source": _most(0.0, None),
}  # fmt: skip
"""Metric -> limit. `agreement.ece` stands for every metric `ece:<member>` of its check."""


def judge(check: str, report: Report, limits: dict[str, Limit]) -> tuple[Severity, str]:
    """The severity of a check's report, and the metric that set it with the range it left."""
    worst, most, because = Severity.OK, 0.0, ""
    for name, metric in report.metrics.items():
        limit = limits.get(f"{check}.{name}") or limits.get(f"{check}.{name.split(':')[0]}")
        severity = limit.severity(metric) if limit else Severity.OK
        excess = limit.excess(metric, severity) if limit else 0.0
        if limit and severity > Severity.OK and (severity, excess) > (worst, most):
            worst, most = severity, excess
            because = f"{name} is outside {_healthy_range(limit, severity)}"
    return worst, because


def _healthy_range(limit: Limit, severity: Severity) -> str:
    healthy = {
        Severity.NOTE: limit.note,
        Severity.WARNING: limit.warning,
        Severity.FAULT: limit.fault,
    }[severity]
    least, most = healthy or (None, None)
    if least is None:
        return f"0 to {most:g}" if most is not None else "any range"
    return f"{least:g} to {most:g}" if most is not None else f"{least:g} or more"


def table(limits: dict[str, Limit] | None = None) -> str:
    """The limits as a Markdown table."""
    lines = ["| metric | note outside | warning outside | fault outside | judged by | from |"]
    lines.append("|---|---|---|---|---|---|")
    for name, limit in (LIMITS if limits is None else limits).items():
        cells = [_cell(r) for r in (limit.note, limit.warning, limit.fault)]
        judged = "interval" if limit.evidence else "value"
        lines.append(f"| `{name}` | {' | '.join(cells)} | {judged} | {limit.source} |")
    return "\n".join(lines)


def _cell(healthy: Range | None) -> str:
    if healthy is None:
        return "-"
    least, most = healthy
    if least is None:
        return f"<= {most:g}" if most is not None else "-"
    return f"{least:g} to {most:g}" if most is not None else f">= {least:g}"

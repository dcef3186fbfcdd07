"""Gates: what a dataset must hold, as YAML, and what fails.

```yaml
gates:
  any: fault                              # no finding of this severity or worse
  duplicates: warning                     # the same for one check
  baselines.longer: {min: 0.45, max: 0.65}
  separability.paired: {max: 0.9, optional: true}   # passes where it could not be measured
limits:                                   # other severities than the table in docs/audit.md
  refusals.chosen: {note: [null, 0.4], warning: [null, 0.6]}
```
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from audit.finding import Finding, Metric, Severity
from audit.limits import LIMITS, Limit
from prefactory import yamllines
from prefactory.errors import ConfigError
from prefactory.overrides import nearest
from prefactory.recipe import sentence

SEVERITIES = {s.name.lower(): s for s in (Severity.NOTE, Severity.WARNING, Severity.FAULT)}
ANY = "any"
_SECTIONS = ("gates", "limits")

M = TypeVar("M", bound=BaseModel)
Ends = Annotated[tuple[float | None, float | None], Field(strict=False)]


class Bound(BaseModel):
    """What a metric must hold.

    Attributes:
        min, max: least and greatest value that passes.
        evidence: judge the end of the 95 % interval that is nearer to passing, not the value.
        optional: a metric that was not measured passes; otherwise it fails.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min: float | None = None
    max: float | None = None
    evidence: bool = False
    optional: bool = False

    @model_validator(mode="after")
    def _validate_some_end(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("says neither min nor max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max: nothing passes")
        return self

    def holds(self, metric: Metric) -> bool:
        """Tell whether a measured metric passes."""
        limit = Limit(fault=(self.min, self.max), evidence=self.evidence)
        return limit.severity(metric) is not Severity.FAULT


class Ranges(BaseModel):
    """Healthy ranges of a metric by severity, as in `limits.LIMITS`; what is left out is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    note: Ends | None = None
    warning: Ends | None = None
    fault: Ends | None = None
    evidence: bool = False


@dataclass(frozen=True)
class Failure:
    """A gate that failed: its name, and why in a sentence."""

    gate: str
    why: str


@dataclass(frozen=True)
class Gates:
    """Checked gates.

    Attributes:
        severities: check (or `any`) -> severity from which it fails.
        bounds: `check.metric` -> bound.
        limits: the limits of the audit, with the file's own ones.
    """

    severities: dict[str, Severity] = field(default_factory=dict)
    bounds: dict[str, Bound] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=lambda: dict(LIMITS))

    def failures(self, findings: Sequence[Finding]) -> list[Failure]:
        """The gates that findings do not pass, in the order of the file."""
        by_name = {finding.check: finding for finding in findings}
        failed = [f for name in self.severities for f in self._severe(name, findings)]
        for name, bound in self.bounds.items():
            failed += _broken(name, bound, by_name)
        return failed

    def _severe(self, name: str, findings: Iterable[Finding]) -> list[Failure]:
        limit = self.severities[name]
        bad = [f for f in findings if name in (ANY, f.check) and f.severity >= limit]
        return [
            Failure(name, f"{f.check} is a {f.severity.word} ({f.because}): {f.headline}")
            for f in bad
        ]


def _broken(name: str, bound: Bound, by_name: dict[str, Finding]) -> list[Failure]:
    check, _, wanted = name.partition(".")
    finding = by_name.get(check)
    if finding is None:
        return [Failure(name, f"the check {check} was not run")]
    values = {
        metric: value
        for metric, value in finding.metrics.items()
        if wanted in (metric, metric.split(":")[0]) and value.value is not None
    }
    if not values:
        why = finding.report.skipped or finding.report.unmeasured.get(wanted) or "there is no value"
        return [] if bound.optional else [Failure(name, f"was not measured: {why}")]
    return [
        Failure(name, f"{metric} is {_value(value)}, not {_range(bound)}")
        for metric, value in values.items()
        if not bound.holds(value)
    ]


def _value(metric: Metric) -> str:
    ends = "" if metric.low is None else f" ({metric.low:.4g} to {metric.high:.4g})"
    return f"{metric.value:.4g}{ends}"


def _range(bound: Bound) -> str:
    if bound.min is None:
        return f"at most {bound.max:g}"
    return f"at least {bound.min:g}" if bound.max is None else f"{bound.min:g} to {bound.max:g}"


def load_gates(path: Path) -> Gates:
    """Read a gates file.

    Raises:
        ConfigError: with every mistake and its line; unknown names with the nearest known one.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"gates {str(path)!r} can't be read: {error}") from error
    data, lines = yamllines.load(text, path.name)
    return parse_gates(data, path.name, lines)


def parse_gates(data: Any, name: str, lines: dict[yamllines.Path, int]) -> Gates:  # noqa: ANN401
    """Check a gates document (see the head of this module); `name` and `lines` are for errors."""
    reader = _Reader(name, lines)
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"{name}: write `gates:` and below it check.metric: {{max: 0.1}} lines")
    for key in data:
        if key not in _SECTIONS:
            reader.wrong((key,), f"unknown key {key!r}{nearest(key, list(_SECTIONS))}")
    severities, bounds, limits = {}, {}, dict(LIMITS)
    for key, value in reader.section(data, "gates"):
        if isinstance(value, str):
            severities[key] = reader.severity(key, value)
        elif reader.known(key, "gates"):
            bounds[key] = reader.bound(key, value)
    for key, value in reader.section(data, "limits"):
        if reader.known(key, "limits"):
            limits[key] = reader.limit(key, value)
    if reader.problems:
        raise ConfigError(reader.problems)
    return Gates(severities, {k: b for k, b in bounds.items() if b is not None}, limits)


class _Reader:
    """Collects the mistakes of a gates document."""

    def __init__(self, name: str, lines: dict[yamllines.Path, int]) -> None:
        from audit.registry import CHECKS

        self.problems: list[str] = []
        self._name, self._lines = name, lines
        self._checks = {check.name: check for check in CHECKS}

    def wrong(self, path: yamllines.Path, why: str) -> None:
        line = yamllines.line_of(self._lines, path)
        self.problems.append(f"{self._name}: line {line}: {why}")

    def section(self, data: dict[str, Any], key: str) -> list[tuple[str, Any]]:
        lines = data.get(key)
        if lines is None:
            return []
        if not isinstance(lines, dict):
            self.wrong((key,), f"`{key}` holds no lines of the form name: value")
            return []
        return list(lines.items())

    def severity(self, key: str, value: str) -> Severity:
        path = ("gates", key)
        if key != ANY and key not in self._checks:
            known = [ANY, *self._checks]
            why = "a severity is asked of a check" if "." in key else f"unknown check {key!r}"
            self.wrong(path, why + (nearest(key.split(".")[0], known) or f"; {_listed(known)}"))
        if value not in SEVERITIES:
            near = nearest(value, list(SEVERITIES)) or f"; choose {', '.join(SEVERITIES)}"
            self.wrong(path, f"unknown severity {value!r}{near}")
        return SEVERITIES.get(value, Severity.FAULT)

    def known(self, key: str, section: str) -> bool:
        check, _, metric = key.partition(".")
        path = (section, key)
        if check not in self._checks:
            near = nearest(check, list(self._checks)) or f"; {_listed(list(self._checks))}"
            self.wrong(path, f"unknown check {check!r}{near}")
            return False
        metrics = list(self._checks[check].metrics)
        if metric.split(":")[0] not in metrics:
            near = nearest(metric, metrics) or f"; it has: {', '.join(metrics)}"
            shown = f"no metric {metric!r}" if metric else "no value here: write check.metric"
            self.wrong(path, f"{check} has {shown}{near}")
            return False
        return True

    def bound(self, key: str, value: object) -> Bound | None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = {"max": value}
        return self._model(Bound, ("gates", key), value)

    def limit(self, key: str, value: object) -> Limit:
        ranges = self._model(Ranges, ("limits", key), value)
        if ranges is None:
            return Limit()
        return replace(Limit(**ranges.model_dump()), source="gates")

    def _model(self, cls: type[M], path: yamllines.Path, value: object) -> M | None:
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                where = tuple(p for p in item["loc"] if isinstance(p, str | int))
                self.wrong((*path, *where), f"{path[-1]}: {sentence(cls, dict(item))}")
            return None


def _listed(names: list[str]) -> str:
    return f"there are: {', '.join(names)}"

"""Run the checks on a table: `audit(table, options) -> Audit`."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from threading import Lock, get_ident
from typing import Any

import polars as pl
from threadpoolctl import threadpool_limits

from audit.check import Check, Need
from audit.finding import NAMED, Finding, Metric, Report, Severity
from audit.gates import Failure, Gates
from audit.limits import judge
from audit.loading import Intake
from audit.page import build_page
from audit.registry import CHECKS
from audit.subject import EXAMPLES, Options, Subject
from catalog.manifest import software
from prefactory import notebook
from prefactory.notebook import Page
from prefactory.tables import Shape

_LOG = logging.getLogger(__name__)
THREADS = 2
"""Checks that run side by side; more would hold more of the data in memory at a time."""


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        name: of the dataset.
        shape: of its table.
        rows, prompts: how many there are in the table that was audited.
        intake: where the rows came from.
        options: how they were audited, as plain data.
        findings: one per check, in the order of `CHECKS`.
        failures: gates that failed.
        gated: whether there were gates at all.
        seconds: by check; not part of the JSON, which is the same for the same data.
    """

    name: str
    shape: Shape
    rows: int
    prompts: int
    intake: Intake
    options: dict[str, Any]
    findings: tuple[Finding, ...]
    failures: tuple[Failure, ...] = ()
    gated: bool = False
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def worst(self) -> Severity:
        """The worst severity of all findings."""
        return max((f.severity for f in self.findings), default=Severity.OK)

    def counts(self) -> dict[str, int]:
        """Number of findings by severity, the worst first."""
        order = sorted(Severity, reverse=True)
        return {s.word: sum(f.severity is s for f in self.findings) for s in order}

    def finding(self, check: str) -> Finding:
        """The finding of a check by its name."""
        return next(f for f in self.findings if f.check == check)

    def rows_named(self) -> pl.DataFrame:
        """Every row that a finding names, the worst finding first.

        Columns: `finding`, `severity`, `row` (its id), `file`, `line` (from 1; null where the
        source has no lines) and `note`.
        """
        parts = [pl.DataFrame(schema={"finding": pl.String, "severity": pl.String, **NAMED})]
        for finding in sorted(self.findings, key=lambda f: -f.severity):
            parts.append(
                finding.rows.select(
                    pl.lit(finding.check).alias("finding"),
                    pl.lit(finding.severity.word).alias("severity"),
                    pl.all(),
                )
            )
        where = pl.col("where").str.extract_groups(r"^(?<file>.*?)(?::(?<line>\d+))?$")
        return pl.concat(parts).select(
            "finding",
            "severity",
            "row",
            file=where.struct.field("file"),
            line=where.struct.field("line").cast(pl.Int64),
            note="note",
        )

    def metric(self, name: str) -> Metric | None:
        """A metric by `check.metric`; None if it was not measured."""
        check, _, metric = name.partition(".")
        return self.finding(check).metrics.get(metric)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data; the same bytes for the same rows, options and packages."""
        intake = self.intake
        reasons = intake.rejected["reason"].value_counts().sort("reason").iter_rows()
        return {
            "audit": 1,
            "dataset": {
                "name": self.name,
                "kind": intake.kind,
                "layout": intake.layout,
                "license": intake.license,
                "digest": intake.digest,
                "records": intake.records,
                "left_out_by_reader": dict(reasons),
                "rows_in_all": self.rows if intake.total is None else intake.total,
            },
            "shape": self.shape.value,
            "rows": self.rows,
            "prompts": self.prompts,
            "options": self.options,
            "counts": self.counts(),
            "gates": [{"gate": f.gate, "why": f.why} for f in self.failures]
            if self.gated
            else None,
            "findings": [finding.to_dict() for finding in self.findings],
            "software": software(),
        }

    @property
    def ok(self) -> bool:
        """Whether all gates hold or, without gates, nothing is a fault."""
        return not self.failures if self.gated else self.worst < Severity.FAULT

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def page(self) -> Page:
        """The page for people; a notebook shows it."""
        facts = {f.name: getattr(self, f.name) for f in fields(self)}
        return Page(build_page(facts))

    def save_page(self, path: str | Path) -> Path:
        """Write the page to a file, and return its path."""
        Path(path).write_text(self.page, "utf-8", errors="replace")
        return Path(path)

    def _repr_html_(self) -> str:
        title = f"{self.name}: {self.rows:,} {self.shape.value} of {self.prompts:,} prompts"
        findings = sorted(self.findings, key=lambda f: -f.severity)
        rows = [(f.severity.word, f.title, f.headline) for f in findings]
        return notebook.table(title, ("severity", "check", "what was found"), rows)


def audit(
    table: pl.DataFrame,
    options: Options | None = None,
    intake: Intake | None = None,
    gates: Gates | None = None,
    checks: Sequence[Check] = CHECKS,
    progress: Callable[[str], None] | None = None,
) -> Audit:
    """Audit a table of prompts, responses or pairs.

    Args:
        table: as the reader makes it (see `prefactory.tables`); ids need not be unique. A column
            `split` names each row's split.
        options: seed, samples, embeddings, benchmarks.
        intake: where the rows came from; what the reader left out counts too.
        gates: what must hold, and limits of severity.
        checks: which checks to run.
        progress: told the title of each check before it runs, from the thread that it runs on.

    Returns:
        The same for the same rows in any order.
    """
    options = options or Options()
    intake = intake or Intake()
    gates_given, gates = gates is not None, gates or Gates()
    subject = Subject(table, options, intake)
    if any(check.name == "labels" for check in checks):
        _ = subject.judged  # a judge is paid for: its cost is told before the checks take time

    def work(check: Check) -> tuple[Finding, float]:
        if progress is not None:
            progress(check.title)
        started = time.monotonic()
        finding = _finding(check, subject, gates)
        return finding, time.monotonic() - started

    done = _side_by_side(work, checks)
    findings = [finding for finding, _ in done]
    seconds = {check.name: took for check, (_, took) in zip(checks, done, strict=True)}
    _LOG.debug("seconds by check: %s", seconds)
    return Audit(
        name=intake.name,
        shape=subject.shape,
        rows=subject.height,
        prompts=subject.n_prompts,
        intake=intake,
        options=options.to_dict(),
        findings=tuple(findings),
        failures=tuple(gates.failures(findings)),
        gated=gates_given,
        seconds=seconds,
    )


def _side_by_side(
    work: Callable[[Check], tuple[Finding, float]], checks: Sequence[Check]
) -> list[tuple[Finding, float]]:
    """Work on two checks at a time, the first and then the slow ones before the others.

    A check reads the data and nothing of other checks, so the order does not show in the results.
    """
    import sklearn.linear_model  # noqa: F401 - a library is limited only once it is loaded

    order = sorted(range(len(checks)), key=lambda at: (at > 0 and not checks[at].slow, at))
    limiting, limited_at = Lock(), dict[int, int]()
    with ExitStack() as limits, ThreadPoolExecutor(THREADS) as pool:

        def limited(check: Check) -> tuple[Finding, float]:
            with limiting:  # matrices are small: more threads of theirs cost time and last digits
                loaded = len(sys.modules)  # to look at all libraries takes longer than most checks
                if limited_at.get(get_ident()) != loaded:
                    limits.enter_context(threadpool_limits(1))
                    limited_at[get_ident()] = loaded
            return work(check)

        jobs = {at: pool.submit(limited, checks[at]) for at in order}
        try:
            return [jobs[at].result() for at in range(len(checks))]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _finding(check: Check, subject: Subject, gates: Gates) -> Finding:
    missing = _missing(check.need, subject)
    report = Report(skipped=missing) if missing else check.run(subject)
    if report.skipped is not None:
        return Finding(check.name, check.title, Severity.SKIPPED, "", report, check.why, ())
    severity, because = judge(check.name, report, gates.limits)
    recipe = check.mends if report.recipe is None else report.recipe
    lines = (*recipe, *report.choices) if severity > Severity.OK else ()
    if report.rows is not None and not report.examples:
        first = report.rows.head(EXAMPLES)
        report = replace(report, examples=subject.examples(first["row"], first["note"].to_list()))
    rows = subject.named(report.rows, report.left_out)
    return Finding(
        check.name, check.title, severity, because, report, check.why, tuple(lines), rows
    )


def _missing(need: Need, subject: Subject) -> str | None:
    """Why a table can't be checked for something, or None."""
    has = {
        Need.ROWS: subject.height > 0,
        Need.ANSWERS: bool(subject.sides),
        Need.SIDES: subject.two_sided,
        Need.PAIRS: subject.paired,
    }
    for each in (Need.ROWS, need):
        if not has[each]:
            return each.value
    return None

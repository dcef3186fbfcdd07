"""What a run leaves in Prefect's pages: its log, how far it is, its numbers and its report."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogHandler

from catalog.history.drift import read as read_drift
from pipelines.build import Outcome, cost_lines, pays_lines
from prefactory.stages import Stage

LOGGED = ("prefactory", "catalog", "pipelines", "generators", "labelers", "filters", "trainers")


@contextmanager
def logged() -> Iterator[None]:
    """Send the lines of our packages to the log of the flow run as well, from every thread."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    run_id = str(context.flow_run.id)

    class OfRun(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.flow_run_id = run_id
            return True

    handler = APILogHandler()
    handler.addFilter(OfRun())
    handler.setLevel(logging.INFO)
    loggers = [logging.getLogger(name) for name in LOGGED]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


class Advance:
    """A bar of the stages that are done."""

    def __init__(self, stages: int) -> None:
        """Begin at none of so many stages."""
        self._stages = max(1, stages)
        self._done = 0
        self._id: Any = create_progress_artifact(  # no coroutine: nothing here is async
            progress=0.0, key="progress", description="stages"
        )

    def __call__(self, stage: Stage) -> None:
        """One stage more is done."""
        self._done += 1
        share = 100.0 * min(1.0, self._done / self._stages)
        update_progress_artifact(self._id, progress=share, description=f"{stage.label} is done")


def publish(outcome: Outcome, pages: str | None = None) -> None:
    """Leave the numbers of a run: rows of each stage, costs, version, report and models.

    Args:
        outcome: of the run.
        pages: address of a `prefactory serve` of the home, for links.
    """
    version = outcome.published.version
    rows = [
        {"stage": s.label, "in": s.rows_in, "out": s.rows_out, "dropped": str(s.reasons or "")}
        for s in outcome.stages
    ]
    told = f"{version.ref} {version.manifest.content_digest}"
    create_table_artifact(key="stages", table=rows, description=told)
    costs = [
        {"step": u["step"], "role": u["role"], "model": u["model"], "calls": u["calls"]}
        | {"tokens in": u["prompt_tokens"], "tokens out": u["completion_tokens"]}
        | {"US dollars": u["usd"] if u["priced"] else "no price", "failures": u["failures"]}
        for u in outcome.used
    ]
    if costs:
        create_table_artifact(
            key="costs", table=costs, description=f"what this run paid for {version.ref}"
        )
    create_markdown_artifact(
        key="report", markdown=markdown(outcome, pages), description=version.ref
    )


def markdown(outcome: Outcome, pages: str | None = None) -> str:
    """The numbers of a run in Markdown; what comes from data is code, and marks up nothing."""
    version = outcome.published.version
    manifest = version.manifest
    state = "published" if outcome.published.new else "nothing new: it was published before"
    lines = [f"# {version.ref}", "", f"{state}; digest `{manifest.content_digest}`", ""]
    lines += ["| table | split | rows |", "|---|---|--:|"]
    lines += [
        f"| {name} | {split} | {n:,} |"
        for name, record in manifest.tables.items()
        for split, n in record.splits.items()
    ]
    lines += ["", "| stage | in | out | dropped |", "|---|--:|--:|---|"]
    lines += [
        f"| {_code(s.label)} | {s.rows_in:,} | {s.rows_out:,} | {_reasons(s.reasons)} |"
        for s in outcome.stages
    ]
    lines += ["", *(f"- {_code(line)}" for line in [*pays_lines(version), *cost_lines(manifest)])]
    beside = read_drift(version.path) if outcome.published.new else None
    lines += [f"- {_code(line)}" for line in (beside.lines() if beside else [])]
    lines += [f"- {t.method}: `{t.path}`" for t in outcome.trained]
    lines += ["", f"- dataset: `{version.path}`", f"- report: `{version.path / 'report.html'}`"]
    if pages is not None:
        at = f"{pages.rstrip('/')}/v/{quote(manifest.name)}/{quote(manifest.version)}"
        own = {
            "version": at,
            "report": f"{at}/report",
            **({"drift": f"{at}/drift"} if beside else {}),
        }
        lines += ["", " · ".join(f"[{what}]({url})" for what, url in own.items())]
    return "\n".join(lines)


def _reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{_code(reason)} {n:,}" for reason, n in reasons.items())


def _code(text: str) -> str:
    plain = text.replace("`", "'").replace("|", "/").replace("\n", " ")
    return f"`{plain}`"


def line(outcome: Outcome) -> str:
    """How a run ended, in one line."""
    version = outcome.published.version
    rows = ", ".join(f"{n} {sum(t.splits.values()):,}" for n, t in version.manifest.tables.items())
    calls = sum(u["calls"] for u in outcome.used)
    paid = f"{sum(u['usd'] for u in outcome.used):.4f} US dollars"
    if not all(u["priced"] for u in outcome.used if u["calls"]):
        paid = "price unknown"
    models = "".join(f"; {t.method}: {t.path.name}" for t in outcome.trained)
    state = "published" if outcome.published.new else "nothing new"
    return f"{version.ref} {state}: {rows}; {calls:,} calls, {paid}{models}"

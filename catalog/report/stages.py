"""What came in and what left: the manifest's stages joined with the ledger's examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from catalog.report.charts import stacked

COLOURS = 6
MOST = 24
"""Reasons of one stage that the page lists; the rest are summed up."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Rows that left for one reason, and the first of them in the ledger."""

    code: str
    style: str
    rows: int
    share: float | None
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the recipe with its rows, reasons, options and what it learned.

    `notes` are rows that stayed: of a labeler those without a label, with the reasons.
    `missing` is rows in - rows out - rows with a reason, for stages that must account for it.
    """

    label: str
    kind: str
    shape: str
    rows_in: int | None
    rows_out: int
    dropped: int
    bar: Markup
    reasons: tuple[Reason, ...]
    notes: tuple[tuple[str, int], ...]
    adds: tuple[str, ...]
    fields: Mapping[str, Any]
    info: Mapping[str, Any]
    missing: int


def read(manifest: Mapping[str, Any], ledger: pl.DataFrame) -> list[Stage]:
    """Build the stages in recipe order; ledger rows of no stage follow as stages of their own."""
    raw = list(manifest.get("stages") or [])
    known = {str(stage.get("label")) for stage in raw}
    ledgers: dict[str, dict[str, tuple[int, tuple[tuple[str, str], ...]]]] = {}
    for step, reason, n, examples in ledger.select("step", "reason", "n", "examples").iter_rows():
        pairs = tuple((e["row_id"], e["detail"]) for e in examples or ())
        ledgers.setdefault(step, {})[reason] = (n, pairs)
    widest = max((max(_rows(s, "rows_in"), _rows(s, "rows_out")) for s in raw), default=0)
    stages = [_stage(s, ledgers.get(str(s.get("label")), {}), widest) for s in raw]
    for step in sorted(set(ledgers) - known):
        reasons = ledgers[step]
        lost = {reason: n for reason, (n, _) in reasons.items()}
        left = {"label": step, "kind": "ledger only", "rows_out": 0, "reasons": lost}
        stages.append(_stage(left, reasons, max(widest, sum(lost.values()))))
    return stages


def _rows(stage: Mapping[str, Any], key: str) -> int:
    return int(stage.get(key) or 0)


def _stage(
    raw: Mapping[str, Any],
    ledger: Mapping[str, tuple[int, tuple[tuple[str, str], ...]]],
    widest: int,
) -> Stage:
    given = {str(k): int(v) for k, v in (raw.get("reasons") or {}).items()}
    given = {**{code: n for code, (n, _) in ledger.items()}, **given}
    ranked = sorted(given.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(n for _, n in ranked[MOST:])
    dropped = sum(given.values())
    rows_in = None if raw.get("rows_in") is None else _rows(raw, "rows_in")
    of = rows_in or dropped
    reasons = [
        Reason(code, f"r{min(i, COLOURS - 1)}", n, n / of if of else None, _examples(ledger, code))
        for i, (code, n) in enumerate(ranked[:MOST])
    ]
    if rest:
        name = f"{len(ranked) - MOST} other reasons"
        reasons.append(Reason(name, f"r{COLOURS - 1}", rest, rest / of if of else None, ()))
    kind, rows_out = str(raw.get("kind") or ""), _rows(raw, "rows_out")
    accounts = kind in ("filter", "labeler") and rows_in is not None
    kept = ("out", "new" if kind == "generator" else "kept", rows_out)
    return Stage(
        label=str(raw.get("label") or "(no label)"),
        kind=kind,
        shape=str(raw.get("shape") or ""),
        rows_in=rows_in,
        rows_out=rows_out,
        dropped=dropped,
        bar=stacked([kept, *((r.code, r.style, r.rows) for r in reasons)], widest),
        reasons=tuple(reasons),
        notes=tuple((str(k), int(v)) for k, v in (raw.get("notes") or {}).items()),
        adds=tuple(str(c) for c in raw.get("adds") or ()),
        fields=dict(raw.get("fields") or {}),
        info=dict(raw.get("info") or {}),
        missing=(rows_in or 0) - rows_out - dropped if accounts else 0,
    )


def _examples(
    ledger: Mapping[str, tuple[int, tuple[tuple[str, str], ...]]], code: str
) -> tuple[tuple[str, str], ...]:
    return ledger[code][1] if code in ledger else ()

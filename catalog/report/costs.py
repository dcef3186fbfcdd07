"""What the answers behind a version cost: by step, role and model, and for each row kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """Answers of one model in one role of one step; US dollars None where no price is known."""

    step: str
    role: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """All of them, their sum, and the sum for each row of the main table.

    `usd` and `usd_a_row` are None if a price is not known.
    """

    rows: tuple[Cost, ...]
    calls: int
    tokens: int
    usd: float | None
    tokens_a_row: float | None
    usd_a_row: float | None
    kept: int
    shape: str


def read(manifest: Mapping[str, Any], shape: str) -> Costs | None:
    """The costs of a version by its manifest, for each row of the table `shape`; None if none."""
    rows = tuple(
        Cost(
            step=str(stage.get("label") or ""),
            role=str(used.get("role") or "model"),
            model=str(used.get("model") or ""),
            calls=int(used.get("calls") or 0),
            prompt_tokens=int(used.get("prompt_tokens") or 0),
            completion_tokens=int(used.get("completion_tokens") or 0),
            usd=None if used.get("usd") is None else float(used["usd"]),
        )
        for stage in manifest.get("stages") or []
        for used in stage.get("usage") or []
    )
    if not rows:
        return None
    splits = ((manifest.get("tables") or {}).get(shape) or {}).get("splits") or {}
    kept = sum(int(n) for n in splits.values())
    tokens = sum(row.prompt_tokens + row.completion_tokens for row in rows)
    known = [row.usd for row in rows if row.usd is not None]
    usd = sum(known) if len(known) == len(rows) else None
    return Costs(
        rows,
        sum(row.calls for row in rows),
        tokens,
        usd,
        tokens / kept if kept else None,
        usd / kept if kept and usd is not None else None,
        kept,
        shape,
    )


def dollars(usd: float | None) -> str:
    """An amount as text: four significant digits below a dollar."""
    if usd is None:
        return "no price"
    return f"{usd:,.2f}" if usd >= 100 else f"{usd:.4g}" if usd < 1 else f"{usd:.4f}"

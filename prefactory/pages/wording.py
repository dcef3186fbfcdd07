"""How the report writes numbers and texts. Every function here is pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

MINUS = "\N{MINUS SIGN}"
EN_DASH = "\N{EN DASH}"
LONGEST = 4000
"""Characters of one text that the page shows."""

CONTROLS = {code: 0x2400 + code for code in range(32) if code not in (9, 10, 13)} | {127: 0x2421}
"""Control characters to the Unicode pictures that make them visible."""


def count(n: float | None) -> str:
    """Write a whole number with thousands separators; a dash if there is none."""
    return EN_DASH if n is None else f"{n:,.0f}".replace("-", MINUS)


def num(x: float | None) -> str:
    """Write a measured number with three or four significant digits; a dash if there is none."""
    if x is None or not math.isfinite(x):
        return EN_DASH
    size = abs(x)
    if size >= 1e7 or 0 < size < 1e-3:
        text = f"{x:.2e}"
    elif size >= 1000:
        text = f"{x:,.0f}"
    else:
        text = f"{x:.{1 if size >= 100 else 2 if size >= 10 else 3}f}"
    return text.replace("-", MINUS)


def tick(x: float) -> str:
    """Write a number on an axis, as short as it goes (`12k`, `0.25`)."""
    size = abs(x)
    if size >= 1e6:
        text = f"{x:.2g}" if size >= 1e9 else f"{x / 1e6:g}M"
    elif size >= 10_000:
        text = f"{x / 1000:g}k"
    else:
        text = f"{x:.6g}"
    return text.replace("-", MINUS)


def percent(share: float | None) -> str:
    """Write a share between 0 and 1 in percent with one decimal."""
    return EN_DASH if share is None or not math.isfinite(share) else f"{100 * share:.1f}%"


def two(r: float | None) -> str:
    """Write a correlation with two decimals, never as a negative zero."""
    return EN_DASH if r is None else f"{round(r, 2) + 0.0:.2f}".replace("-", MINUS)


def with_interval(
    estimate: Mapping[str, Any], form: Callable[[float | None], str] = percent
) -> str:
    """Write an estimate (`value`, `low`, `high`) with its interval, if it has one."""
    if estimate["value"] is None:
        return EN_DASH
    around = f" ({form(estimate['low'])} to {form(estimate['high'])})"
    return form(estimate["value"]) + ("" if estimate["low"] is None else around)


def size(n: float | None) -> str:
    """Write a number of bytes with its unit."""
    if n is None:
        return EN_DASH
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def plain(value: Any, limit: int = LONGEST) -> str:  # noqa: ANN401 - any JSON value of a manifest
    """Write any JSON value as text: strings as they are, the rest as JSON, cut at `limit`."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, dict | list):
        flat = json.dumps(value, ensure_ascii=False, default=str)
        text = (
            flat
            if len(flat) <= 100
            else json.dumps(value, ensure_ascii=False, default=str, indent=1)
        )
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({count(len(text) - limit)} more characters)"

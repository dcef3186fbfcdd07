"""Calls for answers: to several models at a time, and what became of each, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import polars as pl

from prefactory.asking import Truncated, storable
from prefactory.context import Context
from prefactory.engines.base import Completion, EngineConfig, Failure, Request, Result

PROMPT_TOKENS = 300
"""What `plan` takes a prompt to be, in tokens."""

OUTCOMES: dict[str, pl.DataType] = {
    "text": pl.String(),
    "finish_reason": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}


_Outcome = tuple[str | None, str | None, str | None, str | None]


class Call(NamedTuple):
    """One answer that is wanted: for a row of a table, of a model of a list."""

    row: int
    model: int
    request: Request


def results(ctx: Context, models: Sequence[EngineConfig], calls: Sequence[Call]) -> list[Result]:
    """Make all calls, each model's together, the models side by side.

    Returns:
        One result per call, in the order of the calls.
    """
    replies: list[Result] = [Failure("no_answer", "never answered")] * len(calls)
    engines = [ctx.open(model) for model in models]

    def work(model: int) -> None:
        own = [i for i, call in enumerate(calls) if call.model == model]

        def done(number: int, result: Result) -> None:
            replies[own[number]] = result

        if own:
            engines[model].run([calls[i].request for i in own], done)

    with ThreadPoolExecutor(max(1, len(models)), thread_name_prefix="model") as pool:
        list(pool.map(work, range(len(models))))
    return replies


def outcomes(
    calls: Sequence[Call],
    replies: Sequence[Result],
    names: Sequence[str],
    truncated: Truncated = "keep",
) -> pl.DataFrame:
    """What became of each call.

    Args:
        calls: n calls.
        replies: their results.
        names: of the models.
        truncated: whether an answer that ended at `max_tokens` counts.

    Returns:
        A row per call, in order: `text` without outer white space, `finish_reason`; or `reason`
        (the engine's, `empty_answer` or `truncated`) and `detail`, which names the model.
    """
    rows: list[_Outcome] = []
    for call, result in zip(calls, replies, strict=True):
        name = names[call.model]
        if isinstance(result, Failure):
            rows.append((None, None, result.reason, f"{name}: {result.detail}"))
        else:
            rows.append(_outcome(result, name, truncated))
    return pl.DataFrame(rows, schema=OUTCOMES, orient="row")


def _outcome(result: Completion, name: str, truncated: Truncated) -> _Outcome:
    text = storable(result.text).strip()
    if not text:
        return None, None, "empty_answer", f"{name}: nothing but white space"
    if truncated == "drop" and result.finish_reason == "length":
        return None, None, "truncated", f"{name}: cut at max_tokens"
    return text, result.finish_reason, None, None


def failures_by_row(answers: pl.DataFrame) -> pl.DataFrame:
    """Failed calls of each row.

    Args:
        answers: `row` and `reason`, in the order of the calls.

    Returns:
        `row`, `failed_samples` (Int64) and `failures` (String: `reason count, ...`; null if none).
    """

    def counted(reasons: pl.Series) -> str | None:
        counts = Counter(reasons.drop_nulls().to_list())
        return ", ".join(f"{r} {n}" for r, n in sorted(counts.items())) or None

    grouped = answers.group_by("row").agg(
        failed_samples=pl.col("reason").count().cast(pl.Int64), _failed=pl.col("reason")
    )
    texts = pl.Series("failures", [counted(r) for r in grouped["_failed"]], dtype=pl.String)
    return grouped.drop("_failed").with_columns(texts)

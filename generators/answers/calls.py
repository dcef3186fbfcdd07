"""Calls for answers: to several models at a time, and what became of each, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import polars as pl

from prefactory.asking import storable
from prefactory.asking.gate import Gate, Said
from prefactory.context import Context
from prefactory.engines.base import Completion, Engine, EngineConfig, Failure, Request, Result

PROMPT_TOKENS = 300
"""What `plan` takes a prompt to be, in tokens."""

OUTCOMES: dict[str, pl.DataType] = {
    "text": pl.String(),
    "finish_reason": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}


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
    gate: Gate,
    engines: Sequence[Engine] = (),
) -> pl.DataFrame:
    """What became of each call.

    Args:
        calls: n calls.
        replies: their results.
        names: of the models.
        gate: what becomes of text that is no answer.
        engines: the models, opened; they are told which answers could not be used.

    Returns:
        A row per call, in order: `text` without outer white space, `finish_reason`; or `reason`
        (the engine's or the gate's) and `detail`, which names the model.
    """
    said = {
        i: Said(storable(result.text).strip(), result.finish_reason, call.request.conversation)
        for i, (call, result) in enumerate(zip(calls, replies, strict=True))
        if isinstance(result, Completion)
    }
    problems = dict(zip(said, gate.problems(list(said.values())), strict=True))
    rows: list[tuple[str | None, str | None, str | None, str | None]] = []
    for i, (call, result) in enumerate(zip(calls, replies, strict=True)):
        failed = (result.reason, result.detail) if isinstance(result, Failure) else problems[i]
        if failed is None:
            rows.append((said[i].text, said[i].finish_reason, None, None))
        else:
            rows.append((None, None, failed[0], f"{names[call.model]}: {failed[1]}"))
            if engines and isinstance(result, Completion):
                engines[call.model].doubt([call.request], *failed)
    return pl.DataFrame(rows, schema=OUTCOMES, orient="row")


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

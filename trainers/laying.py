"""Pairs laid out for TRL: in chat form, without those that a model can't tell apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import polars as pl

from prefactory.chat_template import ChatTemplate, IgnoredSystem, effect
from prefactory.engines.chat_form import chat_form
from prefactory.tables import OF_PROMPT, TEXTS, Shape, message_keys
from trainers.base import DatasetRef, margins_of, table
from trainers.groups import ANSWERS

SAME, LONG = "both answers are the same", "longer than max_length"


@dataclass(frozen=True)
class Laid:
    """Pairs in TRL's explicit conversational layout.

    Attributes:
        rows: a dataset of `pair_id` (by which dropped rows are found again), `prompt`, `chosen`,
            `rejected` and, if asked for, `margin`.
        dropped: reason -> number of pairs left out.
        notes: what the chat template does that a reader must know.
    """

    rows: Any
    dropped: Mapping[str, int]
    notes: tuple[str, ...]


def layout(
    data: DatasetRef,
    split: str,
    template: ChatTemplate,
    ignored: IgnoredSystem,
    margin: bool = False,
    columns: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> Laid:
    """Lay out a split, without pairs that the model can't tell apart or its template refuses.

    Args:
        data: the dataset version.
        split: `train` or `test`.
        template: the chat template that the rows will be written with.
        ignored: what to do with system messages that it leaves out.
        margin: keep the margin, which must be on every pair.
        columns: more columns to keep, which were checked (`trainers.columns`).
        whole: those of them without which a pair is left out.

    Raises:
        DataError: the data must not be trained on with this template.
    """
    rows = data.pairs(split)
    ids = table(rows, ["pair_id", "chosen_id", "rejected_id", "margin"])
    if margin:
        margins_of(ids, data, "use_margin")
    same = ids["chosen_id"] == ids["rejected_id"]
    shown = effect(template, data.batches(split), ignored).checked()
    lost = ids["pair_id"].is_in(shown.lost["pair_id"].implode()) & ~same
    bare = _bare(data, split, whole, len(same)) & ~(same | lost)
    keep = (~(same | lost | bare)).arg_true().to_list()
    kept = ["pair_id", *TEXTS[Shape.PAIRS], *(["margin"] if margin else []), *columns]
    kept += [c for c in OF_PROMPT if c in rows.column_names]
    dropped = {SAME: int(same.sum()), **({f"no {whole[0]}": int(bare.sum())} if whole else {})}
    dropped |= _reasons(shown.lost, ids.filter(lost)["pair_id"])
    return Laid(in_chat_form(rows.select_columns(kept).select(keep)), dropped, shown.notes)


def _bare(data: DatasetRef, split: str, columns: Sequence[str], n: int) -> pl.Series:
    """Which of the n pairs of a split lack one of the columns, Boolean."""
    if not columns:
        return pl.repeat(value=False, n=n, eager=True)
    null = pl.any_horizontal(pl.col(c).is_null() for c in columns)
    wanted = ["pair_id", *columns]
    parts = [batch.select(null.alias("bare"))["bare"] for batch in data.batches(split, wanted)]
    return pl.concat(parts) if parts else pl.Series("bare", [], dtype=pl.Boolean)


_ANOTHER = pl.concat_list(pl.struct(role=pl.lit("assistant"), content=pl.lit("\u2026")))
"""Stands on the other side of a single answer, where a template is tried on pairs."""


def layout_answers(
    data: DatasetRef,
    split: str,
    template: ChatTemplate,
    ignored: IgnoredSystem,
    columns: Sequence[str] = (),
) -> Laid:
    """Lay out single answers: `response_id`, `prompt`, `completion` and the columns.

    Args:
        data: the dataset version; its table is one of responses.
        split: `train` or `test`.
        template: the chat template that the rows will be written with.
        ignored: what to do with system messages that it leaves out.
        columns: kept beside; an answer where one of them is null is left out.

    Raises:
        DataError: the data must not be trained on with this template.
    """
    rows = data.pairs(split)
    facts = table(rows, ["response_id", *columns])
    asked = [c for c in OF_PROMPT if c in rows.column_names]
    wanted = ["response_id", "prompt_id", "prompt", "response", *asked]
    batches = data.batches(split, wanted)
    tried = (
        b.select("prompt_id", "prompt", *asked, pair_id="response_id", chosen="response",
                 rejected=_ANOTHER)
        for b in batches
    )  # fmt: skip
    shown = effect(template, tried, ignored).checked()
    bare = pl.any_horizontal(pl.lit(False), *(pl.col(c).is_null() for c in columns))
    lost = pl.col("response_id").is_in(shown.lost["pair_id"].implode())
    facts = facts.with_columns(bare=bare, lost=lost)
    keep = facts.select((~(pl.col("bare") | pl.col("lost"))).arg_true()).to_series().to_list()
    dropped = {f"no {' or '.join(columns)}": int(facts["bare"].sum())} if columns else {}
    dropped |= _reasons(shown.lost, facts.filter(lost & ~pl.col("bare"))["response_id"])
    kept = ["response_id", "prompt", "response", *columns, *asked]
    laid = in_chat_form(rows.select_columns(kept).select(keep))
    return Laid(laid.rename_column("response", "completion"), dropped, shown.notes)


def in_chat_form(rows: Any) -> Any:  # noqa: ANN401 - a dataset
    """Rows whose messages are as chat templates take them: no absent keys, calls in OpenAI's form.

    Texts only stay as they are. Other messages become JSON, which `datasets` reads as objects, so
    that a template finds arguments as objects and no key that a message does not have.
    """
    talks = [c for c in (*TEXTS[Shape.PAIRS], "response") if c in rows.column_names]
    frame = table(rows.select(range(0)), talks)
    if not any(message_keys(frame.schema[c]) for c in talks):
        return rows
    features = rows.features.copy()
    features |= {c: datasets.List(datasets.Json()) for c in talks}
    several = [c for c in (ANSWERS,) if c in rows.column_names]
    features |= {c: datasets.List(datasets.List(datasets.Json())) for c in several}

    def written(row: dict[str, Any]) -> dict[str, list[Any]]:
        one = {c: chat_form(row[c] or [], objects=True) for c in talks}
        return one | {c: [chat_form(talk, objects=True) for talk in row[c]] for c in several}

    return rows.map(written, features=datasets.Features(features))


def _reasons(lost: pl.DataFrame, ids: pl.Series) -> dict[str, int]:
    counted = lost.filter(pl.col("pair_id").is_in(ids.implode())).group_by("reason", "detail").len()
    return {f"{reason}: {detail}": n for reason, detail, n in counted.sort("detail").iter_rows()}


def together(*counts: Mapping[str, int]) -> dict[str, int]:
    """Add up counts by reason."""
    return dict(sum((Counter(c) for c in counts), Counter()))


def seen(
    rows: Any,  # noqa: ANN401
    wanted: int,
    seed: int,
    fits: Callable[[dict[str, Any]], bool],
) -> tuple[Any, int]:
    """The pairs that the steps come to, drawn by the seed, where that is not all of them.

    The reference is asked about every pair that the trainer is given, which takes as long as a
    third of a step for each.

    Args:
        rows: a dataset of n pairs.
        wanted: how many the steps take.
        seed: of the draw.
        fits: whether a pair's prompt leaves room for an answer.

    Returns:
        A dataset of at most n pairs, in their order, and how many were left out as too long.
    """
    if wanted >= len(rows):
        return rows, 0
    able = [i for i, row in enumerate(rows) if fits(row)]
    drawn = np.random.default_rng(seed).permutation(len(able))[:wanted]
    return rows.select([able[i] for i in sorted(drawn)]), len(rows) - len(able)

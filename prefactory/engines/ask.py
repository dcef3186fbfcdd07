"""Asking for an answer of a form: what can't be parsed is asked again, with what was wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prefactory.engines.base import (
    Completion,
    Conversation,
    Engine,
    Failure,
    Message,
    Result,
    Sampling,
)
from prefactory.identity import fingerprint

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """An answer of the right form.

    Attributes:
        value: what `parse` made of it.
        completion: the text that was parsed.
        attempts: how often was asked, from 1.
    """

    value: T
    completion: Completion
    attempts: int


@dataclass
class _Open(Generic[T]):
    """One sample that has no parsed answer yet."""

    row: int
    sample: int
    conversation: list[Message]
    row_id: str


def ask(
    engine: Engine,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    parse: Callable[[str], T],
    row_ids: Sequence[str] | None = None,
    attempts: int = 3,
) -> list[list[Answer[T] | Failure]]:
    """Generate and parse; an answer that `parse` refuses is asked again.

    The refused answer and the message of the error are appended to the conversation as an
    assistant and a user turn. Corrections of all rows go out together, so they cost as many rounds
    as `attempts`, not as many as rows.

    Args:
        engine: what answers.
        conversations: N conversations.
        sampling: how answers are drawn; `sampling.n` samples each.
        parse: turns a text into a value, or raises ValueError with a sentence for the model.
        row_ids: see `Engine.generate`.
        attempts: how often to ask in all, at least 1.

    Returns:
        N lists of n answers, in order; `Failure("unparseable", ...)` after the last attempt, or
        the engine's own failure.
    """
    first = engine.generate(conversations, sampling, row_ids)
    found: list[list[Answer[T] | Failure | None]] = [[None] * sampling.n for _ in conversations]
    left: list[_Open[T]] = []
    for row, results in enumerate(first):
        for sample, result in enumerate(results):
            base = fingerprint(list(conversations[row])) if row_ids is None else row_ids[row]
            place: _Open[T] = _Open(row, sample, list(conversations[row]), f"{base}/{sample}")
            _settle(place, result, parse, 1, attempts, found, left)
    for attempt in range(2, attempts + 1):
        again, left = left, []
        if not again:
            break
        ids = [f"{place.row_id}/{attempt}" for place in again]
        single = sampling.model_copy(update={"n": 1})
        replies = engine.generate([place.conversation for place in again], single, ids)
        for place, (result,) in zip(again, replies, strict=True):
            _settle(place, result, parse, attempt, attempts, found, left)
    return [[_whole(value) for value in row] for row in found]


def _settle(
    place: _Open[T],
    result: Result,
    parse: Callable[[str], T],
    attempt: int,
    attempts: int,
    found: list[list[Answer[T] | Failure | None]],
    left: list[_Open[T]],
) -> None:
    """Keep a parsed value or a failure; else prepare the next question."""
    if isinstance(result, Failure):
        found[place.row][place.sample] = result
        return
    try:
        value = parse(result.text)
    except ValueError as error:
        if attempt >= attempts:
            detail = f"{error} (asked {attempts} times; last answer: {result.text[:200]!r})"
            found[place.row][place.sample] = Failure("unparseable", detail)
            return
        place.conversation += [
            {"role": "assistant", "content": result.text},
            {"role": "user", "content": str(error)},
        ]
        left.append(place)
        return
    found[place.row][place.sample] = Answer(value, result, attempt)


def _whole(value: Answer[T] | Failure | None) -> Answer[T] | Failure:
    return value if value is not None else Failure("no_answer", "never answered")

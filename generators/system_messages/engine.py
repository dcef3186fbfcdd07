"""System messages written by a model: preference sets, their descriptions, and their merging.

The steps of Janus / Multifaceted Collection (arXiv:2405.17977, 3.2 of our notes); the authors'
generation prompts are not public, so the texts are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefactory.asking import Answer, Asker, UnfitError, ask, conversation
from prefactory.asking.forms import all_of
from prefactory.engines.base import Failure

PREFERENCES_TOKENS, MESSAGE_TOKENS = 700, 350
"""Tokens of the two questions, about."""

MOST_WORDS = 200
_PLACEHOLDER = re.compile(r"<[^<>]*>")
"""Where our form says what shall stand there."""
_LIST = re.compile(r"(?m)^[^\S\n]*+(?:[-*\u2022]|\d+[.)])\s")
_FENCE = re.compile(r"(?s)^\s*```(?:json)?\s*(.*?)\s*```\s*$")


@dataclass(frozen=True)
class Wanted:
    """What one message shall ask for.

    Attributes:
        row_id: from content ids.
        dimensions: one mapping per value: what the text `preferences` shows of it.
        question: the filled text `preferences`.
    """

    row_id: str
    dimensions: tuple[Mapping[str, Any], ...]
    question: str


@dataclass(frozen=True)
class Written:
    """What a model made of it.

    Attributes:
        preferences, descriptions: one per dimension, in order.
        message: the system message.
    """

    preferences: tuple[str, ...]
    descriptions: tuple[str, ...]
    message: str


def schema(size: int) -> dict[str, Any]:
    """JSON schema of a preference set of `size` entries."""
    fields = ("dimension", "preference", "description")
    entry = all_of({f: {"type": "string", "minLength": 1} for f in fields})
    entries = {"type": "array", "items": entry, "minItems": size, "maxItems": size}
    return all_of({"preferences": entries})


def write(
    asker: Asker,
    wanted: Sequence[Wanted],
    merge: Callable[[Sequence[str]], str],
) -> list[Written | Failure]:
    """Write the messages of a shard: two batches of questions, with corrections.

    Args:
        asker: what answers; the first question gets a JSON schema.
        wanted: one per message.
        merge: fills the text `message` with descriptions.

    Returns:
        One result per message, in order. Failures are the engine's, `unparseable` or `too_long`.
    """
    if not wanted:
        return []
    size, engine = len(wanted[0].dimensions), asker.ctx.open(asker.config)
    results: list[Written | Failure | None] = [None] * len(wanted)
    replies = ask(
        engine,
        [conversation(w.question) for w in wanted],
        asker.sampling(schema(size)),
        lambda text: parse_preferences(text, _expected(wanted)),
        [f"{w.row_id}/preferences" for w in wanted],
        asker.attempts,
    )
    sets: dict[int, list[tuple[str, str]]] = {}
    for i, (reply,) in enumerate(replies):
        if isinstance(reply, Answer):
            names = [str(d["dimension"]).lower() for d in wanted[i].dimensions]
            missing = [n for n in names if n not in reply.value]
            if missing:
                results[i] = Failure("unparseable", f"nothing about {', '.join(missing)}")
            else:
                sets[i] = [reply.value[n] for n in names]
        else:
            results[i] = reply
    merged = ask(
        engine,
        [
            conversation(merge([description for _, description in preferences]))
            for preferences in sets.values()
        ],
        asker.sampling(),
        parse_message,
        [f"{wanted[i].row_id}/message" for i in sets],
        asker.attempts,
    )
    problems = asker.problems([text for (text,) in merged])
    for (i, preferences), (text,), problem in zip(sets.items(), merged, problems, strict=True):
        if isinstance(text, Failure):
            results[i] = text
        elif problem is not None:
            results[i] = Failure(*problem)
        else:
            keywords, descriptions = (tuple(column) for column in zip(*preferences, strict=True))
            results[i] = Written(keywords, descriptions, text.value)
    return [f if f is not None else Failure("no_answer", "never answered") for f in results]


def _expected(wanted: Sequence[Wanted]) -> tuple[int, frozenset[str]]:
    """Entries of each set, and all dimensions that may be named."""
    known = {str(d["dimension"]).lower() for w in wanted for d in w.dimensions}
    return len(wanted[0].dimensions), frozenset(known)


def parse_preferences(
    text: str, expected: tuple[int, frozenset[str]]
) -> dict[str, tuple[str, str]]:
    """Read a preference set.

    Args:
        text: JSON, perhaps in a code fence.
        expected: number of entries, and the dimensions that there are, in lower case.

    Returns:
        Dimension in lower case -> (key words, description).

    Raises:
        ValueError: a sentence for the model.
    """
    size, known = expected
    fenced = _FENCE.match(text)
    try:
        data = json.loads(fenced.group(1) if fenced else text)
    except json.JSONDecodeError as error:
        raise ValueError(f"That is no JSON ({error.msg}). Return the JSON only.") from error
    entries = data.get("preferences") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ValueError('Return an object with a list "preferences" of objects.')
    preferences: dict[str, tuple[str, str]] = {}
    for entry in entries:
        fields = [entry.get(k) for k in ("dimension", "preference", "description")]
        if not all(isinstance(f, str) and f.strip() for f in fields):
            raise ValueError(
                'Each entry needs "dimension", "preference" and "description", none empty.'
            )
        dimension, preference, description = (str(f).strip() for f in fields)
        for placeholder in (preference, description):
            if _PLACEHOLDER.fullmatch(placeholder):
                raise ValueError(f"Write what {placeholder} stands for, don't copy it.")
        if dimension.lower() not in known:
            raise ValueError(f"{dimension!r} is none of the dimensions {', '.join(sorted(known))}.")
        preferences[dimension.lower()] = (preference, description)
    if len(preferences) != size or len(entries) != size:
        raise ValueError(f"Return {size} entries, one per dimension; these are {len(entries)}.")
    return preferences


def parse_message(text: str) -> str:
    """Read a system message.

    Returns:
        The paragraph, without the quotation marks around it.

    Raises:
        ValueError: a sentence for the model.
    """
    message = text.strip()
    if len(message) > 1 and message[0] in "\"'\u201c" and message[-1] in "\"'\u201d":
        message = message[1:-1].strip()
    if not message:
        raise ValueError("The answer is empty. Return the system message.")
    if _LIST.search(message) or "\n\n" in message:
        raise ValueError("Return one paragraph of prose, without lists or headings.")
    if not re.search(r"(?i)\byou(?:r|'re)?\b", message):
        raise ValueError('Address the assistant in the second person ("You are ...").')
    if named := re.search(r"(?i)\b(?:dimension|preference)s?\b", message):
        raise ValueError(f"Don't use the word {named.group(0)!r}.")
    if len(message.split()) > MOST_WORDS:
        raise UnfitError("too_long", f"That is too long. Use at most {MOST_WORDS} words.")
    return message

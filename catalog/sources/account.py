"""The account of a source's columns: which are read as what, carried along, or not read.

A column whose name or content bears on the prompt, the answers or the label must not vanish: it is
read, carried, or the source is refused in one sentence (`refusal`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from catalog.sources.fields import is_number
from catalog.sources.messages import is_messages

EMPTY = "empty"
"""Why a column is not read that holds nothing."""


class Bears(StrEnum):
    """What a column bears on, by its name and content."""

    PROMPT = "part of the prompt"
    ANSWER = "an answer"
    LABEL = "a label"
    ABOUT = "about the row"


@dataclass(frozen=True, slots=True)
class Account:
    """What becomes of each column of a source.

    Attributes:
        read: their column (dots for nested values) -> our field.
        carried: their column -> our extra column.
        unread: their column -> why it is not read.
    """

    read: Mapping[str, str] = field(default_factory=dict)
    carried: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """All columns that were seen, and the first parts of nested ones."""
        nested = (name.split(".", 1)[0] for name in (*self.read, *self.carried))
        return frozenset((*self.read, *self.carried, *self.unread, *nested))

    def with_late(self, late: Mapping[str, str]) -> Account:
        """The account with columns that are not read and turned up later (-> `file:line`)."""
        new = {name: f"from {place} on" for name, place in late.items()}
        return Account(self.read, self.carried, {**self.unread, **new})

    def to_dict(self) -> dict[str, dict[str, str]]:
        """Plain data, for manifests and JSON."""
        return {
            "read": dict(self.read),
            "carried": dict(self.carried),
            "not_read": dict(self.unread),
        }


def account_lines(columns: Mapping[str, Mapping[str, str]]) -> list[str]:
    """An account (`Account.to_dict`) in lines for people."""

    def named(pairs: Mapping[str, str]) -> str:
        return ", ".join(a if a == b else f"{a} as {b}" for a, b in pairs.items())

    lines = [f"read {named(columns.get('read', {})) or '(nothing)'}"]
    if carried := columns.get("carried"):
        lines.append(f"carried {named(carried)}")
    if unread := columns.get("not_read"):
        told = ", ".join(f"{name} ({why})" if why else name for name, why in unread.items())
        lines.append(f"NOT READ {told}")
    return lines


_PROMPT = {
    "system", "instruction", "instructions", "prompt", "prompts", "query", "question", "questions",
    "input", "inputs", "context", "contexts", "history", "document", "documents", "docs", "passage",
    "passages", "tool", "tools", "function", "functions", "conversation", "conversations",
    "message", "messages", "dialogue", "dialog", "dialogues", "demonstrations", "fewshot",
    "image", "images", "video", "videos", "audio", "audios", "turns", "developer", "premise",
}  # fmt: skip
_ANSWER = {
    "answer", "answers", "response", "responses", "completion", "completions", "output", "outputs",
    "generation", "generations", "candidate", "candidates", "reply", "replies", "text", "message",
    "messages", "content", "conversation", "conversations", "turn", "turns", "msg", "res",
}  # fmt: skip
_SIDE = {"chosen", "rejected", "preferred", "dispreferred", "better", "worse", "winning", "losing"}
_LABEL = {
    "label", "labels", "preference", "preferences", "preferred", "prefers", "winner", "verdict",
    "verdicts", "vote", "votes", "rating", "ratings", "score", "scores", "grade", "grades",
    "annotation", "annotations", "annotator", "annotators", "agreement", "acceptable", "better",
    "best", "safe", "safer", "unsafe", "correct", "correctness", "harmful", "harmless", "judge",
    "judgement", "judgment", "rank", "ranks", "reward", "rewards", "evaluator", "rater", "raters",
    "consensus", "confidence", "chosen", "rejected", "quality", "acceptability", "toxic",
    "toxicity", "helpful", "helpfulness", "honesty", "truthful", "feedback", "critique",
    "reference", "gold", "truth", "solution", "target",
}  # fmt: skip
_JUDGED = {"judge", "reward", "feedback", "critique", "annotator", "rater", "verdict", "rating"}
"""Words of names that belong to the judging, whatever else they say (`judge_prompt`)."""
_ABOUT = {
    "dataset", "category", "categories", "subcategory", "subset", "domain", "domains", "topic",
    "topics", "task", "tasks", "language", "lang", "type", "difficulty",
}  # fmt: skip
_NEVER = {
    "id", "ids", "hash", "sha", "md5", "uuid", "index", "idx", "count", "num", "n", "length",
    "len", "token", "tokens", "time", "timestamp", "date", "url", "uri", "path", "file", "version",
    "price", "cost", "tstamp", "logprobs", "logprob", "seed",
}  # fmt: skip
"""Words of names that only count, place or time something."""
_VERDICTS = {
    "chosen", "rejected", "win", "lose", "loss", "tie", "winner", "loser", "a", "b", "good", "bad",
    "desirable", "undesirable", "accept", "accepted", "reject", "preferred", "dispreferred",
    "model_a", "model_b", "positive", "negative", "thumbs_up", "thumbs_down", "liked", "disliked",
}  # fmt: skip
_PLACED = re.compile(r"^[a-z_ ]*?(?:answer|response|completion|output|generation|candidate|reply|"
                     r"prediction)s?[_ -]?(?:[a-e]|\d+)$")  # fmt: skip
_LONGEST = 20_000
"""Characters of a text that is carried unasked at most, in the first records."""


def words(name: str) -> list[str]:
    """The words of a column's name, in lower case (`sysPrompt-v2` -> sys, prompt, v2)."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[^a-z0-9]+", apart.lower()) if word]


def _is_textual(value: object) -> bool:
    """A text that is no number, or a list or object that holds some."""
    if isinstance(value, str):
        return bool(value.strip()) and not is_number(value)
    if isinstance(value, Mapping):
        return any(_is_textual(v) for v in value.values())
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return any(_is_textual(v) for v in value)
    return isinstance(value, bytes | bytearray)


def bears_on(name: str, values: Sequence[Any]) -> Bears | None:
    """What a column that no field reads bears on; None if on nothing that we know of.

    Args:
        name: of the column.
        values: those of the first records that are not null.
    """
    if not values or all(v in ("", [], {}) for v in values):
        return None
    if sum(is_messages(v) for v in values) * 2 >= len(values):
        return Bears.PROMPT
    said = words(name)
    known, counted = {*said}, bool({*said} & _NEVER)
    textual = not counted and any(map(_is_textual, values))
    if textual and known & _SIDE and (known & _ANSWER or len(said) == 1):
        return Bears.ANSWER
    if textual and _PLACED.match(name.lower()):
        return Bears.ANSWER
    asks = textual and not known & _JUDGED
    if asks and said[-1] in _PROMPT:
        return Bears.PROMPT
    if not counted and known & _LABEL:
        return Bears.LABEL
    if asks and known & _PROMPT and said[-1] not in _ABOUT:
        return Bears.PROMPT
    if _are_verdicts(values):
        return Bears.LABEL
    if known & _ABOUT and not counted:
        return Bears.ABOUT
    return Bears.LABEL if textual and {*said} <= _ANSWER else None


def _are_verdicts(values: Sequence[Any]) -> bool:
    if not all(isinstance(v, str) for v in values):
        return False
    distinct = {v.strip().lower().replace(" ", "_") for v in values}
    return len(distinct) > 1 and distinct <= _VERDICTS


def is_short(values: Sequence[Any]) -> bool:
    """Whether values are plain and short enough to be carried along unasked."""
    return all(
        isinstance(v, bool | int | float) or (isinstance(v, str) and len(v) <= _LONGEST)
        for v in values
    )


def texts_in(value: Any) -> Iterable[str]:  # noqa: ANN401 - any JSON value
    """All texts inside a value; of messages their contents only."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        spoken = {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
        keys = ("content", "value") if spoken else tuple(value)
        for key in keys:
            yield from texts_in(value.get(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def is_in(column: str, read: Collection[str], records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all texts of a column stand in columns that are read, record by record."""
    seen = 0
    for record in records:
        texts = [t.strip() for t in texts_in(record.get(column)) if t.strip()]
        if not texts:
            continue
        hay = [t for name in read for t in texts_in(record.get(name))]
        if not all(any(text in whole for whole in hay) for text in texts):
            return False
        seen += sum(map(len, texts))
    return seen > 0


def refusal(where: str, layout: str, columns: Mapping[str, tuple[Bears, str | None]]) -> str:
    """The sentence that refuses a source for columns that would vanish.

    Args:
        where: what to call the source.
        layout: that would read it.
        columns: name -> (what it bears on, our field that would read it, if there is one).
    """
    names = ", ".join(f"{name!r} ({bears.value})" for name, (bears, _) in columns.items())
    first = next(iter(columns))
    maps = [f"{ours}={theirs}" for theirs, (_, ours) in columns.items() if ours]
    reads = f"`--map {' --map '.join(maps)}` reads it, " if maps else ""
    recipe = ", ".join(f"{m.split('=')[0]}: {m.split('=')[1]}" for m in maps)
    told = f"mapping: {{{recipe}}}, " if maps else ""
    return (
        f"{where} has {'a column' if len(columns) == 1 else 'columns'} that layout {layout!r} does "
        f"not read: {names}; {reads}`--carry {first}` keeps it beside the rows, `--ignore {first}` "
        f"says that it may go (in a recipe: {told}carry: [{first}] or ignore: [{first}])"
    )

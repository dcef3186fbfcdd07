"""What two answers and a verdict probably mean: found in the first records, shown, never believed.

A verdict that is read the wrong way round turns every pair, so that a guess is only ever an offer:
the command that would read the source so, with `?` for each value that does not say itself which
answer it names.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from catalog.sources.account import words
from catalog.sources.fields import Kind, accepts, plain_of, spoken
from catalog.sources.layouts.ab import TIE, A, B
from catalog.sources.layouts.names import CHATS, TASK

UNKNOWN = "?"
_ENDS = {
    ("a", "b"),
    ("0", "1"),
    ("1", "2"),
    ("first", "second"),
    ("left", "right"),
    ("one", "two"),
    ("x", "y"),
}
_FIRST = {"a", "1", "first", "left", "one", "x"}
_SECOND = {"b", "2", "second", "right", "two", "y"}
_NO_ANSWER = {"model", "models", "generator", "name", "id", "score", "rating", "source", "hash"}
_VERDICT = {
    "preferred", "preference", "prefer", "prefers", "winner", "win", "better", "best", "label",
    "labels", "choice", "choose", "chosen", "verdict", "vote", "judgment", "judgement", "judge",
    "annotation", "annotator", "human", "gold", "selected", "selection", "decision", "pick",
    "picked", "answer", "result", "outcome",
}  # fmt: skip
_WORSE = {"worse", "worst", "loser", "loses", "lose", "rejected", "bad", "dispreferred"}
_TIES = {
    "tie", "ties", "draw", "equal", "same", "both", "neither", "none", "bothbad", "both bad",
    "both good", "tie bothbad", "tie both bad", "no preference", "equally good", "about the same",
}  # fmt: skip
_FILLERS = {
    "model", "response", "answer", "output", "option", "assistant", "is", "better", "the", "wins",
    "win", "winner", "preferred", "prefer", "candidate", "system", "choice", "completion", "one",
    "text", "slightly", "much",
}  # fmt: skip
MAX_VALUES = 12


@dataclass(frozen=True, slots=True)
class Guess:
    """Two answers and a verdict, as they seem to be.

    Attributes:
        prompt: column of the prompt; None where none is called so.
        a: column of the first answer.
        b: column of the second answer.
        verdict: column that says which is better.
        values: values of the verdict, as texts -> `a`, `b`, `tie`, or `?` where it is not plain.
    """

    prompt: str | None
    a: str
    b: str
    verdict: str
    values: Mapping[str, str]

    @property
    def mapping(self) -> dict[str, str]:
        """The mapping that the guess comes to."""
        asked = self.prompt or UNKNOWN
        return {"prompt": asked, "a": self.a, "b": self.b, "verdict": self.verdict}


def guess_ab(columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> Guess | None:
    """Find two answers and a verdict among columns that no layout knows; None if there are none.

    Args:
        columns: names of all columns.
        records: the first records.
    """
    answers = _answers(columns, records)
    if answers is None:
        return None
    a, b = answers
    rest = [c for c in columns if c not in answers]
    known = {"_".join(words(c)): c for c in rest}
    prompt = next((known[name] for name in (*TASK, *CHATS) if name in known), None)
    verdicts = [c for c in rest if c != prompt and _is_verdict(c, records)]
    named = [c for c in verdicts if {*words(c)} & (_VERDICT | _WORSE)]
    for verdict in (*named, *verdicts):
        values = values_of(verdict, records)
        meant = {value: meaning_of(value, a, b, verdict, values) for value in values}
        if verdict in named or {A, B} <= {*meant.values()}:
            return Guess(prompt, a, b, verdict, _with_other(meant, a, b))
    return None


def _with_other(meant: dict[str, str], a: str, b: str) -> dict[str, str]:
    """Add what the other side is called, where the first records have one side only."""
    (first, second), (one, two) = _end(a, b) or ("", ""), (a, b)
    for x, y in ((first, second), (second, first), (one, two), (two, one)):
        for value, meaning in list(meant.items()):
            other = y.upper() if value.isupper() else y
            if value.lower() == x.lower() and meaning in (A, B) and other not in meant:
                meant[other] = B if meaning == A else A
    return meant


def values_of(column: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The different values of a column as texts, in the order in which they come."""
    texts = (plain_of(r.get(column)) for r in records)
    return list(dict.fromkeys(t.strip() for t in texts if t is not None and t.strip()))


def _tokens(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", " ".join(words(name)))


def _end(a: str, b: str) -> tuple[str, str] | None:
    """The one word in which two names differ, if it says first and second."""
    first, second = _tokens(a), _tokens(b)
    if len(first) != len(second):
        return None
    differ = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    return differ[0] if len(differ) == 1 and differ[0] in _ENDS else None


def _answers(
    columns: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> tuple[str, str] | None:
    """The two text columns that are called alike but for first and second; the longest of such."""
    texts = [c for c in columns if not {*_tokens(c)} & _NO_ANSWER and _is_said(c, records)]
    pairs = [pair for pair in combinations(texts, 2) if _end(*pair) is not None]
    return max(pairs, key=lambda pair: sum(_length(c, records) for c in pair), default=None)


def _is_said(column: str, records: Sequence[Mapping[str, Any]]) -> bool:
    values = [spoken(v) for r in records if (v := r.get(column)) is not None]
    return bool(values) and sum(accepts(Kind.ANSWER, v) for v in values) * 2 > len(values)


def _length(column: str, records: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(str(r.get(column) or "")) for r in records)


def _is_verdict(column: str, records: Sequence[Mapping[str, Any]]) -> bool:
    values = [v for r in records if (v := r.get(column)) is not None]
    if not values or any(plain_of(v) is None or len(str(v)) > 40 for v in values):
        return False
    return len(values_of(column, records)) <= min(MAX_VALUES, max(3, len(values) - 1))


def meaning_of(value: str, a: str, b: str, verdict: str, values: Sequence[str]) -> str:
    """Which answer a value of a verdict names, if it says so itself: `a`, `b`, `tie` or `?`.

    Args:
        value: of the verdict.
        a: column of the first answer.
        b: column of the second answer.
        verdict: column of the verdict.
        values: all its values.
    """
    said = _tokens(value)
    if " ".join(said) in _TIES:
        return TIE
    if {*words(verdict)} & _WORSE:
        return UNKNOWN
    for column, meaning in ((a, A), (b, B)):
        if said == _tokens(column):
            return meaning
    ends = _end(a, b) or ("a", "b")
    core = [word for word in said if word not in _FILLERS or word in ends]
    if len(core) != 1:
        return UNKNOWN
    if core[0] in ends:
        return A if core[0] == ends[0] else B
    if core[0].isdigit() and "0" in values:
        return UNKNOWN  # 0 and 1 may count from either end
    return A if core[0] in _FIRST else B if core[0] in _SECOND else UNKNOWN


def options_of(mapping: Mapping[str, str], values: Mapping[str, str], layout: str = "ab") -> str:
    """The options of the command line that read a source so."""
    maps = [f"--map {shlex.quote(f'{ours}={theirs}')}" for ours, theirs in mapping.items()]
    joined = ",".join(f"{value}={meaning}" for value, meaning in values.items())
    told = [f"--values {shlex.quote(joined)}"] if values else []
    return " ".join([f"--layout {layout}", *maps, *told])


def offer(path: str, guess: Guess, records: Sequence[Mapping[str, Any]]) -> str:
    """A sentence that shows a guess, by the first record that has a verdict, and how to say it."""
    told = ", ".join(f"{value!r} = {_named(m, guess)}" for value, m in guess.values.items())
    shown = _shown(guess, records)
    unknown = UNKNOWN in {*guess.values.values(), *guess.mapping.values()}
    say = "put a, b or tie (or a column) for each ? of" if unknown else "if that is right, say so:"
    options = options_of(guess.mapping, guess.values)
    return (
        f"it seems to hold two answers ({guess.a}, {guess.b}) and a verdict ({guess.verdict}); "
        f"what its values mean is a guess: {told}{shown}; {say} prefactory import "
        f"{shlex.quote(path)} --dry-run {options} (in a recipe: `layout: ab`, `mapping`, `values`)"
    )


def _named(meaning: str, guess: Guess) -> str:
    better = {A: guess.a, B: guess.b}
    return f"{better[meaning]} is better" if meaning in better else meaning


def _shown(guess: Guess, records: Sequence[Mapping[str, Any]]) -> str:
    """The first pair as the guess would have it."""
    for i, record in enumerate(records, 1):
        meaning = guess.values.get((plain_of(record.get(guess.verdict)) or "").strip())
        if meaning in (A, B):
            chosen = record.get(guess.a if meaning == A else guess.b)
            return f" (record {i} would have as chosen {str(chosen)[:60]!r})"
    return ""

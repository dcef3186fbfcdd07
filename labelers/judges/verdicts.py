"""What a judge said, read strictly: an answer's name, a tie, or nothing that counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from labelers.judges.hedges import hedged
from prefactory.asking import storable
from prefactory.asking.forms import after_thoughts, folded, objects, repeated

NAMES = ascii_uppercase
"""Names of the answers of one question, in the order in which they are shown."""

TIE = "tie"
_KEYS = ("winner", "verdict")
_OBJECT = re.compile(r"\{[^{}]*\}")
_BRACKETS = re.compile(r"\[\[([^\[\]]{1,40})\]\]")
_END = re.compile(r"[\s.!*_`\"')]*(?:\n|$)")
_SAID = re.compile(
    r"(?:(?:(?:my|the|final|better|best) )*(?:verdict|winner|answer|choice)(?: is)?\s?[:=]?\s?)?"
    r"(?:answer )?([a-z]|tie|[ab]\s?(?:>>|>|=|<|<<)\s?[ab])",
    re.IGNORECASE,
)
_STRENGTH = re.compile(r"([AB])\s*(>>|>|=|<|<<)\s*([AB])")
_MARKDOWN = str.maketrans("", "", "*_`")
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Verdict:
    """One vote.

    Attributes:
        place: of the preferred answer as it was shown, from 0; None for a tie.
        strong: the judge said that it is far better.
    """

    place: int | None
    strong: bool = False


def options(n: int, ties: bool = True, strength: bool = False) -> list[str]:
    """What a judge of `n` answers may say, in the words that it is told.

    Args:
        n: number of answers, 2 to 26; 2 with `strength`.
        ties: whether it may say that none is better.
        strength: whether it also says how much better.
    """
    if strength:
        return ["A>>B", "A>B", *(["A=B"] if ties else []), "B>A", "B>>A"]
    return [*NAMES[:n], *([TIE] if ties else [])]


def schema(n: int, ties: bool, strength: bool, rationale: bool) -> dict[str, Any]:
    """JSON schema of a reply: `winner`, after a `rationale` if one is asked for."""
    first: dict[str, Any] = {"rationale": {"type": "string"}} if rationale else {}
    properties = {**first, "winner": {"enum": options(n, ties, strength)}}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def verdict_of(text: str, n: int, ties: bool = True, strength: bool = False) -> Verdict:
    """Read a judge's reply.

    Looked for, in this order: JSON objects with `winner` (or `verdict`), names in double brackets,
    and a reply whose last line is nothing but a name ("B", "**B**", "Final verdict: B"). Several
    verdicts in one reply must say the same; the thoughts of reasoning models do not count.

    Args:
        text: the whole reply.
        n: number of answers that were shown.
        ties: whether a tie may be said.
        strength: whether verdicts are `A>>B`, `A>B`, `A=B`, `B>A`, `B>>A`.

    Raises:
        ValueError: nothing of this is in the reply, or no such answer was shown; the message says
            to the judge what is wanted.
    """
    wanted = "Say exactly one of " + ", ".join(f"[[{o}]]" for o in options(n, ties, strength))
    try:
        named = _tokens(after_thoughts(text))
    except ValueError as error:
        raise ValueError(f"{error} {wanted}.") from error
    tokens = {" ".join(token.upper().split()) for token in named}
    if not tokens:
        raise ValueError(f"There is no verdict in this reply. {wanted}.")
    verdicts = set()
    for token in sorted(tokens):
        meant = _meant(token, n, ties, strength)
        if meant is None:
            raise ValueError(f"{token} is no possible verdict here. {wanted}.")
        verdicts.add(meant)
    if len(verdicts) > 1:
        raise ValueError(f"This reply holds more than one verdict. {wanted}.")
    return verdicts.pop()


def rationale_of(text: str) -> str | None:
    """The reasons in a judge's reply: under `rationale`, or what stands before its verdict.

    Known answers: '{"rationale": "It is short.", "winner": "A"}' and "It is short. [[A]]" give
    "It is short."; "[[A]]" alone gives None.
    """
    answer = storable(after_thoughts(text))
    try:
        said = [str(o["rationale"]) for o in objects(answer) if "rationale" in o]
    except ValueError:
        said = []
    if not said and (first := _BRACKETS.search(answer)):
        said = [answer[: first.start()]]
    return (said[-1].strip(" \n\t*_") or None) if said else None


def _tokens(text: str) -> Sequence[str]:
    """What the reply names as its verdict, as it is written."""
    named = _in_json(text)
    if named:
        return named
    named = _in_brackets(text)
    if named:
        return named
    last = text.strip().rsplit("\n", 1)[-1][-_LONGEST:]
    plain = last.translate(_MARKDOWN).strip("#\"'()[]. \t")
    match = _SAID.fullmatch(plain)
    return [match.group(1)] if match else []


def _in_brackets(text: str) -> list[str]:
    """Names in double brackets; a sentence for the judge if none of them is plainly meant."""
    named = list(_BRACKETS.finditer(text))
    if len({m.group(1) for m in named}) > 1:
        return [m.group(1) for m in named]
    if named and not any(_END.match(text, m.end()) and not _taken_back(text, m) for m in named):
        raise ValueError("Your verdict is not alone at the end of its line, or is taken back.")
    if any(_taken_back(text, m) for m in named):
        raise ValueError("A verdict in this reply is negated, or holds under a condition only.")
    return [m.group(1) for m in named]


def _taken_back(text: str, match: re.Match[str]) -> bool:
    return hedged(text, match.start(), match.end())


def _in_json(text: str) -> list[str]:
    """Verdicts of whole JSON objects, or else of such without braces inside, whatever is around.

    Raises:
        ValueError: an object names several, or the words around it take it back.
    """
    try:
        whole = objects(text)
    except ValueError:
        whole = []
    named = [v for value in whole for v in _named(value)]
    if not named:
        named = [v for part in _OBJECT.findall(text) for v in _from_text(part)]
    places = [m.span() for m in _OBJECT.finditer(text) if _from_text(m.group())]
    if named and any(hedged(text, *place) for place in places):
        raise ValueError("A verdict in this reply is negated, or holds under a condition only.")
    return named


def _named(value: dict[str, Any]) -> list[str]:
    """What an object names under all keys of a verdict."""
    keys = [key for key in value if folded(key) in _KEYS]
    if set(repeated(value)) & set(keys):
        raise ValueError("A JSON object of this reply has its verdict twice.")
    return [str(value[key]) for key in keys]


def _from_text(text: str) -> list[str]:
    try:
        values = objects(text)
    except ValueError:
        return []
    return [v for value in values for v in _named(value)]


def _meant(token: str, n: int, ties: bool, strength: bool) -> Verdict | None:
    """The vote that a token stands for; None if it stands for none."""
    if strength:
        match = _STRENGTH.fullmatch(token)
        if match is None or match.group(1) == match.group(3):
            return Verdict(None) if ties and token == TIE.upper() else None
        letter, sign, _ = match.groups()
        if sign == "=":
            return Verdict(None) if ties else None
        first = (letter == "A") == (">" in sign)
        return Verdict(0 if first else 1, strong=len(sign) == 2)
    if token == TIE.upper():
        return Verdict(None) if ties else None
    index = NAMES[:n].find(token) if len(token) == 1 else -1
    return Verdict(index) if index >= 0 else None

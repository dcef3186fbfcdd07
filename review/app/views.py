"""What a page shows of a task: nothing that tells the machine's label before the vote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from prefactory.images.marks import NAMED
from prefactory.images.media import small
from prefactory.pages.wording import num
from prefactory.tables import message_text
from review.app.text import html_of, visible
from review.database import Row, Work
from review.settings import Settings
from review.tasks import unpacked

LONG = 1500
"""Characters from which an answer is folded."""
SIDE = 1024
"""Longest side of a picture, in pixels."""
LETTERS = "ABCDEFGHI"


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as shown."""

    role: str
    name: str
    html: Markup
    reasoning: Markup | None
    calls: tuple[tuple[str, str], ...]
    pictures: tuple[str | None, ...]
    result: bool


@dataclass(frozen=True, slots=True)
class Side:
    """An answer as shown: its letter, its messages, whether it is folded."""

    letter: str
    messages: tuple[Shown, ...]
    long: bool


def messages_of(work: Work, conversation: list[dict[str, Any]] | None) -> tuple[Shown, ...]:
    """The messages of a conversation."""
    return tuple(_message(work, message) for message in conversation or ())


def _message(work: Work, message: Mapping[str, Any]) -> Shown:
    content = message.get("content") or ""
    pictures = tuple(_picture(work, name) for name in NAMED.findall(content))
    content = NAMED.sub("", content) if pictures else content
    return Shown(
        role=str(message.get("role") or "user"),
        name=visible(message.get("name") or ""),
        html=html_of(content),
        reasoning=html_of(message["reasoning"]) if message.get("reasoning") else None,
        calls=tuple(
            (visible(call.get("name") or ""), visible(_pretty(call.get("arguments") or "")))
            for call in message.get("tool_calls") or ()
        ),
        pictures=pictures,
        result=message.get("role") == "tool",
    )


def _picture(work: Work, name: str) -> str | None:
    data = work.value("select data from picture where name = ?", name)
    return None if data is None else small(bytes(data), SIDE)


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return text


def side(work: Work, letter: str, answer: list[dict[str, Any]]) -> Side:
    """An answer under a letter."""
    size = sum(len(m.get("content") or "") for m in answer)
    return Side(letter, messages_of(work, answer), size > LONG)


def tools_of(payload: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, description and JSON of the tools of a prompt."""
    try:
        tools = json.loads(payload.get("tools") or "[]")
    except ValueError:
        return []
    told = []
    for tool in tools if isinstance(tools, list) else []:
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        words = (str(function.get(k) or "") for k in ("name", "description"))
        told.append(
            (*map(visible, words), visible(json.dumps(function, indent=1, ensure_ascii=False)))
        )
    return told  # type: ignore[return-value]


def content(
    work: Work, task: Row, assignment: Row, settings: Settings, person: str
) -> dict[str, Any]:
    """Values of a task's template."""
    payload = unpacked(bytes(task["payload"]))
    values: dict[str, Any] = {
        "prompt": messages_of(work, payload["prompt"]),
        "tools": tools_of(payload),
    }
    if settings.task == "pair":
        order = ("first", "second") if assignment["first_shown"] else ("second", "first")
        values["sides"] = [side(work, LETTERS[i], payload[s]) for i, s in enumerate(order)]
    elif settings.task == "rationale":
        values["sides"] = [side(work, s.upper(), payload[s]) for s in ("a", "b")]
        values |= {"reason": html_of(payload["reason"]), "says": payload["says"]}
    elif settings.task == "rate":
        values["sides"] = [side(work, "", payload["answer"])]
    elif settings.task == "rank":
        places = shuffled(payload["answers"], settings, person)
        values["shown"] = ",".join(map(str, places))
        values["sides"] = [
            side(work, LETTERS[i], payload["answers"][at]["messages"])
            for i, at in enumerate(places)
        ]
    elif settings.task == "steps":
        values["steps"] = [html_of(step) for step in payload["steps"]]
    return values


def shuffled(answers: list[dict[str, Any]], settings: Settings, person: str) -> list[int]:
    """Order in which a person sees answers: by the seed, the person and their ids."""
    keys = [
        hashlib.blake2b(f"{settings.seed}|{person}|{a['id']}".encode(), digest_size=8).digest()
        for a in answers
    ]
    return sorted(range(len(answers)), key=lambda at: keys[at])


def plain_side(task: Row, assignment: Row, letter: str) -> str | None:
    """The whole text of side `a` or `b` of a pair."""
    payload = unpacked(bytes(task["payload"]))
    names = ("first", "second") if assignment["first_shown"] else ("second", "first")
    if letter not in ("a", "b") or names[0] not in payload:
        return None
    return "\n\n".join(message_text(m) for m in payload[names[letter == "b"]])


def editable(task: Row, assignment: Row, letter: str) -> str | None:
    """What of a side can be edited: the content of its last message."""
    payload = unpacked(bytes(task["payload"]))
    names = ("first", "second") if assignment["first_shown"] else ("second", "first")
    if letter not in ("a", "b") or names[0] not in payload:
        return None
    return str(payload[names[letter == "b"]][-1].get("content") or "")


def facts_of(task: Row) -> list[tuple[str, str]]:
    """What is told of a row after the vote: its columns, in words."""
    facts = unpacked(bytes(task["facts"]))
    return [
        (visible(name), num(value) if isinstance(value, float) else visible(str(value)))
        for name, value in facts.items()
        if value is not None
    ]

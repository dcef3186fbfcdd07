"""What a form says, checked: an answer in the terms of the stored row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prefactory.errors import PrefactoryError
from review.settings import Settings
from review.votes import Answer

PAIR = {"a2": ("a", 2), "a1": ("a", 1), "tie": ("tie", 0), "b1": ("b", 1), "b2": ("b", 2),
        "bad": ("bad", 0), "skip": ("skip", 0)}  # fmt: skip
RATIONALE = ("right", "partly", "wrong", "skip")
STEPS = ("right", "neutral", "wrong")
MOST = 20_000
"""Characters of a comment; an edit may have fifty times as many."""


class FormError(PrefactoryError):
    """A form that this page did not make; or something in it is missing."""


def answer_of(
    form: Mapping[str, Any], settings: Settings, payload: Mapping[str, Any], first_shown: bool
) -> Answer:
    """The answer that a form holds.

    Args:
        form: names and values; names with several values have lists.
        settings: of the review.
        payload: of the task.
        first_shown: whether side A on the page is the first one as stored.

    Raises:
        FormError: it is none; with a sentence for the person.
    """
    choice = text(form, "choice")
    body: dict[str, Any] = {}
    strength = 0
    if settings.task == "pair":
        if choice not in PAIR:
            raise FormError("Choose one of the answers, tie, both bad, or can't judge.")
        side, strength = PAIR[choice]
        choice = side_of(side, first_shown) if side in ("a", "b") else side
    elif settings.task == "rationale":
        if choice not in RATIONALE:
            raise FormError("Say whether the reason is right, partly right or wrong.")
    elif choice not in ("done", "skip"):
        raise FormError("Save the answer, or say that you can't judge it.")
    elif choice == "done":
        body |= SPECIFIC[settings.task](form, settings, payload)
    body |= _details(form, settings, first_shown)
    return Answer(choice, strength, body)


def side_of(shown: str, first_shown: bool) -> str:
    """`a` or `b` of the page as `first` or `second` of the stored row."""
    return "first" if (shown == "a") == first_shown else "second"


def text(form: Mapping[str, Any], name: str, most: int = MOST) -> str:
    """One text of a form, without outer spaces."""
    value = form.get(name) or ""
    value = value[0] if isinstance(value, list) else value
    return value[:most].replace("\r\n", "\n").strip() if isinstance(value, str) else ""


def texts(form: Mapping[str, Any], name: str) -> list[str]:
    """All texts of a name."""
    value = form.get(name) or []
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]


def _details(form: Mapping[str, Any], settings: Settings, first_shown: bool) -> dict[str, Any]:
    """Ratings, reasons, comment, edit and flag, as far as they are there."""
    body: dict[str, Any] = {}
    if settings.task == "pair":
        ratings = {side_of(s, first_shown): _ratings(form, settings, s) for s in ("a", "b")}
        body["ratings"] = {side: given for side, given in ratings.items() if given}
        body["rubrics"] = _rubric(form, settings, first_shown)
        body["edit"] = _edit(form, first_shown)
    body["reasons"] = [r for r in texts(form, "reason") if r in settings.reasons]
    body["comment"], body["flag"] = text(form, "comment"), text(form, "flag", 200)
    return {name: value for name, value in body.items() if value}


def _ratings(form: Mapping[str, Any], settings: Settings, side: str) -> dict[str, int]:
    given = {}
    for number, name in enumerate(settings.attributes):
        value = text(form, f"rate_{side}_{number}")
        if value.isdecimal() and 1 <= int(value) <= settings.scale:
            given[name] = int(value)
    return given


def _rubric(form: Mapping[str, Any], settings: Settings, first_shown: bool) -> dict[str, Any]:
    """A criterion of the person's own, with a rating of each side."""
    name = text(form, "rubric", 200)
    given = {}
    for side in ("a", "b"):
        value = text(form, f"rubric_{side}")
        if value.isdecimal() and 1 <= int(value) <= settings.scale:
            given[side_of(side, first_shown)] = int(value)
    return {name: given} if name and given else {}


def _edit(form: Mapping[str, Any], first_shown: bool) -> dict[str, str]:
    for side in ("a", "b"):
        edited, before = (text(form, f"{name}_{side}", 50 * MOST) for name in ("edit", "before"))
        if edited and edited != before:
            return {"side": side_of(side, first_shown), "text": edited}
    return {}


def _rate(
    form: Mapping[str, Any], settings: Settings, payload: Mapping[str, Any]
) -> dict[str, Any]:
    given = _ratings(form, settings, "a")
    if missing := [name for name in settings.attributes if name not in given]:
        raise FormError(f"Rate {', '.join(missing)} as well, or say that you can't judge it.")
    return {"ratings": given}


def _rank(
    form: Mapping[str, Any], settings: Settings, payload: Mapping[str, Any]
) -> dict[str, Any]:
    """Ranks from 1, ties allowed; answers are named by ids in the order of the stored row."""
    ids = [answer["id"] for answer in payload["answers"]]
    ranks = [text(form, f"rank_{place}") for place in range(len(ids))]
    if not all(rank.isdecimal() and 1 <= int(rank) <= len(ids) for rank in ranks):
        raise FormError("Give every answer a rank, or say that you can't judge them.")
    shown = texts(form, "shown")
    if len(shown) != 1 or not re.fullmatch(r"\d(,\d)*", shown[0]):
        raise FormError("This form is not whole; load the page again.")
    order = [int(n) for n in shown[0].split(",")]
    if sorted(order) != list(range(len(ids))):
        raise FormError("This form is not whole; load the page again.")
    return {"order": {ids[at]: int(rank) for at, rank in zip(order, ranks, strict=True)}}


def _tags(
    form: Mapping[str, Any], settings: Settings, payload: Mapping[str, Any]
) -> dict[str, Any]:
    own = [t.strip()[:60] for t in text(form, "own_tags", 600).split(",") if t.strip()]
    return {"tags": [t for t in texts(form, "tag") if t in settings.tags], "own_tags": own}


def _steps(
    form: Mapping[str, Any], settings: Settings, payload: Mapping[str, Any]
) -> dict[str, Any]:
    labels = [text(form, f"step_{n}") for n in range(len(payload["steps"]))]
    if not all(label in STEPS for label in labels):
        raise FormError("Label every step, or say that you can't judge them.")
    return {"steps": labels}


SPECIFIC = {"rate": _rate, "rank": _rank, "tags": _tags, "steps": _steps}

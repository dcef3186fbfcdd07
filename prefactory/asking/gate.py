"""One gate for what a model writes: what is no answer is left out, each kind with its reason.

A step that makes rows of model text inherits `Gated`. A rule that calls one answer chosen never
looks at what it says; a refusal, a cut text or an echo would be published as the better side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, model_validator

from prefactory.engines.base import Conversation
from prefactory.measures.refusals import refuses
from prefactory.preferences.damage.loops import loops
from prefactory.preferences.damage.marks import TOKEN

Fate = Literal["drop", "keep"]
Problem = tuple[str, str]
"""Reason and detail."""

_MARK = re.compile(r"^(?:<<<|>>>|---) [^\n]*?\b([0-9a-f]{8})\b", re.MULTILINE)
"""A line around material in our questions: it holds a mark of eight hex digits."""
_ABOUT = re.compile(
    r"^\W{0,3}(?:the|this|your|my) (?:given |original |new |user'?s? )?"
    r"(?:request|prompt|instructions?|task)s? (?:requires?|asks?|needs?|wants?|calls for|is to"
    r"|is (?:asking|requesting|about)|must be)\b"
    r"|\bin the (?:requested|required|specified|given) format\W*$"
    r"|^\W{0,3}what (?:is|was) the original (?:request|prompt|instruction|task|question)\b"
    r"|^\W{0,3}(?:sure|certainly|of course|okay|ok)?\W{0,3}here(?:'s| is| are) (?:the|a|your|my)"
    r" (?:\w+ )?(?:rewritten|revised|evolved|improved|new) (?:request|prompt|instruction)s?\b"
    r"[^\n:]*$",
    re.IGNORECASE,
)
"""A text that speaks of its task instead of doing it."""
_ECHO_WORDS = 3
"""Words that a text may add to what it repeats and still be an echo."""
_THINK, _THOUGHT = "<think>", "</think>"


class Said(NamedTuple):
    """A text that a model wrote.

    Attributes:
        text: without outer white space.
        finish_reason: why the engine ended it; `length` at `max_tokens`.
        asked: the conversation that it answers.
    """

    text: str
    finish_reason: str | None
    asked: Conversation


class Gate(BaseModel):
    """What becomes of model text that is no answer: `drop` it, or `keep` it.

    An empty text always leaves, as `empty_answer`. In a recipe `gate: {refuses: keep}` changes one
    kind, `gate: keep` all. The patterns are ours.

    Attributes:
        truncated: the engine ended it at `max_tokens`.
        open_think: `<think>` without `</think>`.
        template_token: it holds a token of a chat template (`<|im_start|>`, `[INST]`, `</s>`, ...)
            that its question does not.
        fence_mark: it repeats the mark that fences material in our own questions.
        refuses: it begins as a refusal does, in 17 languages; `keep` for safety data.
        run_on: it says the same again and again (a sentence four times, or hardly any new words).
        echo: it is the last message of its question again, or one that stands before, with fewer
            than three words more.
        about_task: it speaks of the task ("The request requires a response in the requested
            format.") instead of doing it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    truncated: Fate = "drop"
    open_think: Fate = "drop"
    template_token: Fate = "drop"  # noqa: S105 - no password
    fence_mark: Fate = "drop"
    refuses: Fate = "drop"
    run_on: Fate = "drop"
    echo: Fate = "drop"
    about_task: Fate = "drop"

    def problems(self, said: Sequence[Said]) -> list[Problem | None]:
        """What is wrong with each of n texts, the first reason in the order above; None if fine.

        Args:
            said: the texts, with what they answer.

        Returns:
            n problems.
        """
        if not said:
            return []
        texts = pl.Series("text", [s.text for s in said], dtype=pl.String)
        looping = loops(texts).to_list() if self.run_on == "drop" else [None] * len(said)
        refusing = refuses(texts).to_list() if self.refuses == "drop" else [False] * len(said)
        return [
            self._problem(one, loop, refusal)
            for one, loop, refusal in zip(said, looping, refusing, strict=True)
        ]

    def _problem(self, said: Said, loop: str | None, refusal: bool) -> Problem | None:
        text = said.text
        if not text.strip():
            return "empty_answer", "nothing but white space"
        shown = repr(text[:100])
        fires = {
            "truncated": said.finish_reason == "length" and f"cut at max_tokens: ...{text[-60:]!r}",
            "open_think": text.count(_THINK) > text.count(_THOUGHT) and f"never ends: {shown}",
            "template_token": _token(said),
            "fence_mark": _repeated_mark(said),
            "refuses": refusal and shown,
            "run_on": loop,
            "echo": _is_echo(said) and shown,
            "about_task": bool(_ABOUT.search(text)) and shown,
        }
        for reason, detail in fires.items():
            if detail and getattr(self, reason) == "drop":
                return reason, detail
        return None


def _token(said: Said) -> str | None:
    found = re.search(TOKEN, said.text)
    if found is None or any(found[0] in (m["content"] or "") for m in said.asked):
        return None
    return f"it says {found[0]!r}"


def _repeated_mark(said: Said) -> str | None:
    marks = {m for message in said.asked for m in _MARK.findall(message["content"] or "")}
    return next((f"it says {mark!r}" for mark in sorted(marks) if mark in said.text), None)


def _is_echo(said: Said) -> bool:
    """Whether a text is a message of its question again, and hardly more."""
    own = said.text.casefold().split()
    for message in said.asked:
        words = (message["content"] or "").casefold().split()
        if words and len(words) <= len(own) < len(words) + _ECHO_WORDS:
            joined, whole = " ".join(words), " ".join(own)
            if joined in whole and (len(words) >= _ECHO_WORDS or joined == whole):
                return True
    return False


class Gated(BaseModel):
    """Mixin of steps that make rows of what a model writes; write it before the base.

    A mapping for `gate` changes what it names; the rest stays as the step has it.

    Attributes:
        gate: what becomes of text that is no answer, see `Gate`.
    """

    gate: Gate = Gate()

    @model_validator(mode="before")
    @classmethod
    def _fill_gate(cls, data: Any) -> Any:  # noqa: ANN401 - whatever a recipe has
        if not isinstance(data, Mapping) or "gate" not in data:
            return data
        given = data["gate"]
        if given in ("keep", "drop"):
            given = dict.fromkeys(Gate.model_fields, given)
        if isinstance(given, Mapping):
            given = {**cls.model_fields["gate"].default.model_dump(), **given}
        return {**data, "gate": given}

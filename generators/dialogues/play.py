"""Dialogues on their way: what each actor sees, what a turn tells, and which turns branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from generators.dialogues.scenario import CASE, Choice, Scenario, Turn, fill
from prefactory.asking import Task, UnfitError
from prefactory.asking.forms import Form
from prefactory.engines.base import Message

TURN = Form({"private": "maybe", "public": "text", "facts": "texts"})
RATING = Form({"reason": "maybe", "score": range(1, 11)})
DIAGNOSIS = Form({"reason": "maybe", "diagnosis": ("exact", "close", "none"), "line": range(201)})

TRANSCRIPT: pl.DataType = pl.List(
    pl.Struct({"role": pl.String, "name": pl.String, "content": pl.String})
)
TURN_META: pl.DataType = pl.List(
    pl.Struct(
        {
            "turn": pl.Int64,
            "phase": pl.Int64,
            "actor": pl.String,
            "visible_to": pl.List(pl.String),
            "facts_revealed": pl.List(pl.String),
            "dropped": pl.Boolean,
            "tokens": pl.Int64,
            "round": pl.Int64,
            "rating": pl.Float64,
            "votes": pl.List(
                pl.Struct(
                    {
                        "voter": pl.String,
                        "hidden": pl.Boolean,
                        "voted": pl.String,
                        "voted_hidden": pl.Boolean,
                    }
                )
            ),
            "out": pl.String,
        }
    )
)
"""What happened in each turn; turns that could not be read are there, dropped, without a line.
`rating` is the mean of what the judge gave the candidates of the turn; `votes` and `out` are those
of a vote (a vote that can't be read is null), `hidden` whether an actor is of the hidden team."""

HOPELESS = 4
"""After so many ratings of a dialogue that all failed, it is given up (our choice)."""
TOLERANCE = 1.5
"""A turn may have so many times the words that it was told (our choice)."""


@dataclass
class Fact:
    """Something that only one actor knows, until it tells."""

    id: str
    text: str
    told: int | None = None


class Line(NamedTuple):
    """Something that was said."""

    turn: Turn
    text: str


@dataclass
class Candidate(Task):
    """What one sample of a turn says."""

    private: str = ""
    public: str = ""
    facts: tuple[str, ...] = ()
    ends: bool = False
    score: float | None = None

    def end_with(self, public: str, mark: str | None) -> None:
        """Take what is said, and note and drop the mark that ends the dialogue."""
        self.ends = mark is not None and mark in public
        self.public = public.replace(mark, "").strip() if mark is not None else public
        if not self.public:
            self.fail("empty_answer", "nothing but the mark of the end")


@dataclass
class Branch:
    """A turn with several candidates under one history."""

    turn: Turn
    history: list[Message]
    candidates: list[Candidate]


@dataclass
class Dialogue(Task):
    """One scenario with one case and one cell of the grid, turn after turn.

    Attributes:
        cell: the choice on every axis.
        roles, goals: texts of each actor.
        facts: of each actor.
        lines: what was said, oldest first.
        thoughts: of each actor, oldest first.
        meta: see `TURN_META`.
        branches: of the target.
        ratings: that there are, and that failed.
        failure: the last thing that failed: reason and detail; empty if nothing did.
        over: whether it has come to its end.
        out: actors that were voted out.
        winner: the team that has won, if one has.
        diagnosis, diagnosed: whether the target named what is true, and in which turn.
    """

    cell: dict[str, Choice] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    goals: dict[str, str] = field(default_factory=dict)
    facts: dict[str, list[Fact]] = field(default_factory=dict)
    reference: str = ""
    lines: list[Line] = field(default_factory=list)
    thoughts: dict[str, list[str]] = field(default_factory=dict)
    meta: list[dict[str, Any]] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    ratings: tuple[int, int] = (0, 0)
    failure: tuple[str, str] = ("", "")
    over: bool = False
    out: list[str] = field(default_factory=list)
    winner: str | None = None
    diagnosis: str | None = None
    diagnosed: int | None = None

    def cast_for(self, scenario: Scenario, case: str, columns: Mapping[str, list[str]]) -> None:
        """Fill the roles of all actors, and give each what only it knows.

        Args:
            scenario: what is played.
            case: words of the row's prompt.
            columns: column -> facts of this row.
        """
        values = {CASE: case, **{axis: choice.text for axis, choice in self.cell.items()}}
        for actor in scenario.actors:
            where = f"scenario {scenario.scenario}, actor {actor.id}"
            self.roles[actor.id] = fill(actor.role, values, where)
            self.goals[actor.id] = fill(actor.goal, values, where)
            texts = columns[actor.facts] if isinstance(actor.facts, str) else list(actor.facts)
            self.facts[actor.id] = [Fact(f"F{i + 1}", t) for i, t in enumerate(texts)]
            self.thoughts[actor.id] = []

    def heard_by(self, actor: str) -> list[Line]:
        """Lines that an actor heard or said."""
        return [line for line in self.lines if actor in line.turn.hears]

    def view(self, scenario: Scenario, actor: str, memory: int) -> tuple[list[str], int]:
        """The conversation as an actor remembers it: its first line and the last `memory` ones.

        Returns:
            Lines with names, and how many were left out after the first.
        """
        lines = [_shown(scenario, line) for line in self.heard_by(actor)]
        left_out = max(0, len(lines) - memory - 1)
        return [*lines[:1], *lines[1 + left_out :]], left_out

    def history(self, scenario: Scenario, memory: int) -> list[Message]:
        """The conversation as the target's: its role as system message, others as users.

        Turns in a row of one side are one message. Of more than two actors all have their names.
        What the target does not remember is left out, as it was for the model that spoke.
        """
        target = scenario.target
        heard = self.heard_by(target)
        left_out = max(0, len(heard) - memory - 1)
        named = len(scenario.actors) > 2
        messages: list[Message] = [{"role": "system", "content": self.told(target)}]
        for line in [*heard[:1], *heard[1 + left_out :]]:
            own = line.turn.speaker == target
            role = "assistant" if own else "user"
            text = line.text if own or not named else _shown(scenario, line)
            if messages[-1]["role"] == role:
                messages[-1]["content"] += f"\n\n{text}"
            else:
                messages.append({"role": role, "content": text})
        return messages

    def told(self, actor: str) -> str:
        """Role, goal and knowledge of an actor as one text."""
        parts = [self.roles[actor]]
        if self.goals[actor]:
            parts.append(f"What you want: {self.goals[actor]}")
        if self.facts[actor]:
            parts.append("\n".join(["What you know:", *(f"- {f.text}" for f in self.facts[actor])]))
        return "\n\n".join(parts)

    def open_facts(self, actor: str) -> list[Fact]:
        """What an actor has not told yet."""
        return [fact for fact in self.facts[actor] if fact.told is None]

    def last_thoughts(self, actor: str, most: int) -> list[str]:
        """What an actor thought last, oldest first."""
        return self.thoughts[actor][-most:] if most else []

    def rated(self, turn: Turn, ratings: Sequence[Candidate]) -> None:
        """Count the ratings of a turn; where none of the first `HOPELESS` is one, give up."""
        failed = [c for c in ratings if c.reason is not None]
        self.ratings = (self.ratings[0] + len(ratings) - len(failed), self.ratings[1] + len(failed))
        for candidate in failed:
            self.missed(turn, candidate)
        if not self.ratings[0] and self.ratings[1] >= HOPELESS:
            reason, detail = self.failure
            self.fail(reason, f"all {self.ratings[1]} ratings failed, the last: {detail}")

    def missed(self, turn: Turn, candidate: Candidate) -> None:
        """Remember why something of a turn failed."""
        self.failure = (candidate.reason or "no_answer", f"turn {turn.number}: {candidate.detail}")

    def say(self, turn: Turn, candidate: Candidate, rating: float | None = None) -> None:
        """Add a turn: its line, what it reveals, what its speaker thought, how it was rated."""
        text = candidate.public
        self.over = candidate.ends
        revealed = []
        for fact in self.open_facts(turn.speaker):
            if fact.id in candidate.facts or _folded(fact.text) in _folded(text):
                fact.told = turn.number
                revealed.append(fact.id)
        if candidate.private:
            self.thoughts[turn.speaker].append(candidate.private)
        self.lines.append(Line(turn, text))
        self.note(turn, revealed, candidate.tokens, rating=rating)

    def note(
        self,
        turn: Turn,
        revealed: list[str],
        tokens: int,
        dropped: bool = False,
        **more: Any,  # noqa: ANN401 - the further fields of `TURN_META`
    ) -> None:
        """Write down what happened in a turn."""
        self.meta.append(
            {
                "turn": turn.number,
                "phase": turn.phase,
                "actor": turn.speaker,
                "visible_to": list(turn.hears),
                "facts_revealed": revealed,
                "dropped": dropped,
                "tokens": tokens,
                "round": turn.round,
                "rating": None,
                "votes": None,
                "out": None,
                **more,
            }
        )

    def transcript(self, scenario: Scenario) -> list[dict[str, str]]:
        """All lines with role (of the target's view) and name."""
        return [
            {
                "role": "assistant" if line.turn.speaker == scenario.target else "user",
                "name": scenario.actor(line.turn.speaker).shown,
                "content": line.text,
            }
            for line in self.lines
        ]


def read_turn(text: str, words: int, most_facts: int) -> dict[str, Any]:
    """A turn out of a model's answer.

    Args:
        text: the answer.
        words: that the turn was told to have at most.
        most_facts: facts that it may tell.

    Raises:
        ValueError: it has another form, too many words or facts; a sentence for the model.
    """
    parts = TURN.parse(text)
    count = len(parts["public"].split())
    if count > TOLERANCE * words:
        raise UnfitError("too_long", f"What you say has {count} words. Use at most {words}.")
    if len(set(parts["facts"])) > most_facts:
        told = f"You tell {len(set(parts['facts']))} facts. Tell at most {most_facts}."
        raise UnfitError("too_many_facts", told)
    return parts


def _shown(scenario: Scenario, line: Line) -> str:
    name = scenario.actor(line.turn.speaker).shown
    others = [a for a in line.turn.hears if a != line.turn.speaker]
    if len(others) < len(scenario.actors) - 1:
        private = ", ".join(scenario.actor(a).shown for a in others)
        return f"{name} (to {private} only): {line.text}"
    return f"{name}: {line.text}"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")

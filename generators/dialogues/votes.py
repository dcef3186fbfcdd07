"""Votes in dialogues: who is asked what, how they are counted, and when a team has won."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from generators.dialogues.play import Dialogue, Line
from generators.dialogues.scenario import Scenario, Turn
from prefactory.asking import Task
from prefactory.asking.forms import Form


@dataclass
class Ballot(Task):
    """One vote of one actor.

    Attributes:
        voter: its id.
        options: ids that it may name.
        voted: the id that it named.
        private: what it thought.
    """

    voter: str = ""
    options: tuple[str, ...] = ()
    voted: str | None = None
    private: str = ""


def ballots(scenario: Scenario, dialogue: Dialogue, turn: Turn) -> list[Ballot]:
    """The votes of a turn: of all voters that are still in, on whom they may vote for."""
    assert turn.vote is not None  # noqa: S101 - the caller's
    against = turn.vote.against
    inside = [a for a in scenario.actors if a.id not in dialogue.out]
    asked = []
    for voter in turn.voters:
        options = tuple(
            a.id for a in inside if a.id != voter and (against is None or a.team == against)
        )
        if voter not in dialogue.out and options:
            key = f"{dialogue.key}/{turn.number}/{voter}"
            asked.append(Ballot(dialogue.row, key, voter=voter, options=options))
    return asked


def form(scenario: Scenario, options: tuple[str, ...]) -> Form:
    """What a voter answers: its thought, and one of some names."""
    return Form({"private": "maybe", "vote": tuple(scenario.actor(o).shown for o in options)})


def take(scenario: Scenario, ballot: Ballot, answer: dict[str, Any]) -> None:
    """Keep a vote."""
    named = {scenario.actor(o).shown: o for o in ballot.options}
    ballot.voted, ballot.private = named[answer["vote"]], answer["private"]


def most_voted(votes: list[str]) -> str | None:
    """Who has most votes; None where several have, or nobody."""
    counts = Counter(votes).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def count(scenario: Scenario, dialogue: Dialogue, turn: Turn, cast: list[Ballot]) -> None:
    """Count a vote: who leaves, what all are told, and whether a team has won."""
    assert turn.vote is not None  # noqa: S101 - the caller's
    leader = most_voted([b.voted for b in cast if b.voted is not None])
    out = leader if turn.vote.out else None
    for ballot in cast:
        if ballot.private:
            dialogue.thoughts[ballot.voter].append(ballot.private)
    listeners = scenario.phases[turn.phase].visible_to
    told = list(_told(scenario, turn, cast, leader))
    if listeners is None:
        dialogue.lines.append(Line(turn, " ".join(told)))
    else:
        inner = tuple(a for a in turn.hears if a in (*listeners, *turn.voters))
        dialogue.lines.append(Line(turn._replace(hears=inner), told[0]))
        dialogue.lines.append(Line(turn, " ".join(told[1:])))
    if out is not None:
        dialogue.out.append(out)
    votes = [
        {
            "voter": b.voter,
            "hidden": scenario.hides(b.voter),
            "voted": b.voted,
            "voted_hidden": None if b.voted is None else scenario.hides(b.voted),
        }
        for b in cast
    ]
    dialogue.note(turn, [], sum(b.tokens for b in cast), votes=votes, out=out)
    dialogue.winner = winner(scenario, dialogue.out)
    dialogue.over = dialogue.winner is not None


def _told(scenario: Scenario, turn: Turn, cast: list[Ballot], leader: str | None) -> Iterator[str]:
    """Sentences of the moderator: how each voted, and what comes of it."""
    assert turn.vote is not None  # noqa: S101 - the caller's
    named = [
        f"{scenario.actor(b.voter).shown} for {scenario.actor(b.voted).shown}"
        for b in cast
        if b.voted is not None
    ]
    yield f"Votes: {', '.join(named)}." if named else "Nobody voted."
    if leader is None:
        yield "Nobody has most votes" + (", and nobody leaves." if turn.vote.out else ".")
        return
    name, team = scenario.actor(leader).shown, scenario.actor(leader).team
    yield f"{name} has most votes." if not turn.vote.out else f"{name} leaves."
    if turn.vote.out and turn.vote.reveals and team is not None:
        yield f"{name} was of the {team.replace('_', ' ')}."


def winner(scenario: Scenario, out: list[str]) -> str | None:
    """The team that has won: the hidden one if the others are no more; they once it is out."""
    if scenario.hidden is None:
        return None
    inside = [a for a in scenario.actors if a.id not in out]
    hidden = sum(a.team == scenario.hidden for a in inside)
    others = sorted({a.team or "others" for a in scenario.actors if a.team != scenario.hidden})
    if not hidden:
        return " and ".join(others)
    return scenario.hidden if hidden >= len(inside) - hidden else None

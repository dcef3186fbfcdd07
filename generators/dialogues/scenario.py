"""Scenarios of dialogues as data: actors, what each knows, who hears whom, and a grid of persons.

The schema of a file:

    scenario: patient_doctor
    contains_deception: false        # true: somebody is told to deceive
    grid:                            # each dialogue is one cell: a choice on every axis
      persona: [{id: calm, text: You are calm.}, {id: anxious, text: You worry a lot.}]
    actors:
      - id: patient
        name: Patient                # how others see it
        role: "{{ persona }} You come with this complaint: {{ case }}"
        goal: Find out what is wrong.
        facts: facts                 # column of the rows with a list of texts, or texts themselves
      - {id: doctor, role: You are a family doctor.}
    target: doctor                   # whose turns become rows
    phases:
      - {speakers: [patient, doctor], rounds: 3, words: 80}
      - {speakers: [doctor, nurse], visible_to: [doctor, nurse]}   # a private channel
    max_turns: 8
    ends_with: "[end]"               # who says this ends the dialogue
    ends_when_told: patient          # or when all facts of this actor are out

Games of many actors (after The Traitors) have more: teams, a team that hides, and phases in which
the speakers vote, each without seeing the others' votes, and the most voted for leaves:

    actors:
      - {id: ada, role: "...", team: traitors}
    hidden: traitors                 # wins when the others are no more than it; they when it is out
    rounds: 3                        # of all phases
    phases:
      - {speakers: [ada, ben, cyd], words: 60}
      - {speakers: [ada, ben, cyd], vote: {}}                                  # by day
      - {speakers: [ada], visible_to: [ada], vote: {against: villagers}}       # by night
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Self

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prefactory.errors import ConfigError
from prefactory.overrides import nearest
from prefactory.prompts import compiled
from prefactory.safety.sandbox import rendered
from prefactory.yamllines import line_of
from prefactory.yamllines import load as load_yaml

NAME = r"^[a-z][a-z0-9_]*$"
MODERATOR = "moderator"
"""Who tells how a vote went; no actor has this id."""
CASE = "case"
"""Variable of the texts of a scenario that holds the words of a row's prompt."""


class Choice(BaseModel):
    """One value on an axis of the grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    text: str


class Actor(BaseModel):
    """Who takes part.

    Attributes:
        id: in the scenario.
        name: how the others see it; null: its id with a capital letter.
        role: who it is, a Jinja text that may use `case` and the axes of the grid.
        goal: what it wants, likewise.
        facts: what only it knows: a column of the rows with a list of texts, or texts.
        team: that it belongs to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=NAME)
    name: str | None = None
    role: str = Field(min_length=1)
    goal: str = ""
    facts: str | tuple[str, ...] = ()
    team: str | None = Field(default=None, pattern=NAME)

    @property
    def shown(self) -> str:
        """Its name for the others."""
        return self.name or self.id.replace("_", " ").capitalize()


class Vote(BaseModel):
    """A vote of the speakers of a phase.

    Attributes:
        against: team that can be voted for; null: everybody, but not oneself.
        out: whether the most voted for leaves; of a tie nobody does.
        reveals: whether its team is told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    against: str | None = None
    out: bool = True
    reveals: bool = True


class Phase(BaseModel):
    """Turns of some actors in a row.

    Attributes:
        speakers: who speaks, in order.
        rounds: how often all of them do.
        visible_to: who hears it beside the speaker; null: all. Of a vote, who sees how each voted;
            who leaves is told to all.
        words: of a turn, about.
        vote: the speakers vote, all at once, instead of speaking.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    speakers: tuple[str, ...] = Field(min_length=1)
    rounds: int = Field(default=1, ge=1)
    visible_to: tuple[str, ...] | None = None
    words: int = Field(default=80, ge=5)
    vote: Vote | None = None


class Turn(NamedTuple):
    """One place in the schedule: whose turn it is, in which phase, and who hears it.

    Of a vote the speaker is the moderator, and `voters` vote.
    """

    number: int
    phase: int
    speaker: str
    hears: tuple[str, ...]
    words: int
    round: int = 0
    vote: Vote | None = None
    voters: tuple[str, ...] = ()


class Scenario(BaseModel):
    """A dialogue as data; see the module for the attributes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: str = Field(pattern=NAME)
    title: str = ""
    contains_deception: bool = False
    grid: dict[str, tuple[Choice, ...]] = Field(default_factory=dict)
    actors: tuple[Actor, ...] = Field(min_length=2)
    target: str
    phases: tuple[Phase, ...] = Field(min_length=1)
    hidden: str | None = None
    rounds: int = Field(default=1, ge=1, le=50)
    max_turns: int = Field(default=8, ge=1, le=200)
    ends_with: str | None = Field(default=None, min_length=1)
    ends_when_told: str | None = None

    @model_validator(mode="after")
    def _validate_names(self) -> Self:
        known = [actor.id for actor in self.actors]
        if len(set(known)) < len(known):
            raise ValueError("two actors have one id")
        for name in self._named():
            if name not in known:
                raise ValueError(f"there is no actor {name!r}{nearest(name, known)}")
        if not any(turn.speaker == self.target for turn in self.schedule()):
            raise ValueError(f"the target {self.target!r} never speaks in {self.max_turns} turns")
        self._validate_teams()
        if CASE in self.grid or not all(self.grid.values()):
            raise ValueError(f"grid: an axis is empty, or called {CASE!r}")
        for actor in self.actors:
            values = dict.fromkeys((CASE, *self.grid), "x")
            for text in (actor.role, actor.goal):
                fill(text, values, f"actor {actor.id}")
        return self

    def _validate_teams(self) -> None:
        if MODERATOR in [actor.id for actor in self.actors]:
            raise ValueError(f"an actor is called {MODERATOR!r}, who counts the votes")
        teams = sorted({a.team for a in self.actors if a.team is not None})
        named = [self.hidden, *(p.vote.against for p in self.phases if p.vote is not None)]
        for team in named:
            if team is not None and team not in teams:
                raise ValueError(f"there is no team {team!r}{nearest(team, teams)}")
        if self.hidden is None:
            return
        if not self.contains_deception:
            raise ValueError("hidden: who hides is told to deceive; say `contains_deception: true`")
        if self.actor(self.target).team == self.hidden:
            raise ValueError(
                f"target: {self.target!r} is of the hidden team; rows that teach how to deceive "
                "are not made, take an actor of another team"
            )

    def hides(self, actor_id: str) -> bool:
        """Whether an actor is of the hidden team."""
        return self.hidden is not None and self.actor(actor_id).team == self.hidden

    def _named(self) -> list[str]:
        """All actors that are named somewhere."""
        actors = [self.target, *([self.ends_when_told] if self.ends_when_told else [])]
        for phase in self.phases:
            actors += [*phase.speakers, *(phase.visible_to or ())]
        return actors

    def actor(self, actor_id: str) -> Actor:
        """An actor by its id."""
        if actor_id == MODERATOR:
            return Actor(id=MODERATOR, role="counts votes")
        return next(actor for actor in self.actors if actor.id == actor_id)

    def met_by(self, actor_id: str) -> list[Actor]:
        """Actors that an actor ever hears, or is heard by."""
        turns = [set(t.hears) for t in self.schedule() if t.vote is None]
        met = {other for hears in turns if actor_id in hears for other in hears}
        return [actor for actor in self.actors if actor.id in met - {actor_id}]

    def schedule(self) -> list[Turn]:
        """Whose turn it is, turn by turn, at most `max_turns`."""
        everybody = tuple(actor.id for actor in self.actors)
        turns: list[Turn] = []
        numbered = list(enumerate(self.phases))
        for place, (number, phase) in enumerate(numbered * self.rounds):
            of = place // len(numbered)
            listeners = everybody if phase.visible_to is None else phase.visible_to
            if phase.vote is not None:
                turns.append(Turn(len(turns), number, MODERATOR, everybody, phase.words, of,
                                  phase.vote, phase.speakers))  # fmt: skip
                continue
            for speaker in phase.speakers * phase.rounds:
                hears = tuple(a for a in everybody if a in (*listeners, speaker))
                turns.append(Turn(len(turns), number, speaker, hears, phase.words, of))
        return turns[: self.max_turns]

    def cells(self) -> list[dict[str, Choice]]:
        """All cells of the grid, one choice per axis; one empty cell without a grid."""
        return [dict(zip(self.grid, cell, strict=True)) for cell in product(*self.grid.values())]


def fill(text: str, values: dict[str, str], where: str) -> str:
    """Fill a text of a scenario, in the sandbox.

    Raises:
        ConfigError: it is no template, or uses a name that there is not.
    """
    try:
        return rendered(compiled(text), values).strip()
    except (TemplateError, TypeError, ValueError) as error:
        names = ", ".join(values)
        raise ConfigError(f"{where}: {error} (a text may use {names})") from error


def load(name_or_path: str) -> Scenario:
    """Read a scenario that comes with prefactory, by its name, or a YAML file.

    Raises:
        ConfigError: it can't be read or has mistakes; all of them, with lines.
    """
    folder = resources.files("generators.dialogues").joinpath("scenarios")
    try:
        if name_or_path.endswith((".yaml", ".yml")):
            return _parsed(Path(name_or_path).read_text("utf-8"), name_or_path)
        return _parsed(folder.joinpath(f"{name_or_path}.yaml").read_text("utf-8"), name_or_path)
    except (OSError, UnicodeDecodeError) as error:
        known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir())
        raise ConfigError(
            f"the scenario {name_or_path!r} can't be read ({error}); there are "
            f"{', '.join(known)}; a file of your own is named with its ending, such as ./mine.yaml"
        ) from error


@cache
def _parsed(text: str, name: str) -> Scenario:
    data, lines = load_yaml(text, name)
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise ConfigError([_sentence(name, dict(e), lines) for e in error.errors()]) from error


def _sentence(path: str, item: dict[str, Any], lines: dict[Any, int]) -> str:
    path_in_file = tuple(item["loc"])
    key = ".".join(map(str, path_in_file)) or "the file"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{path}: line {line_of(lines, path_in_file)}: {key}: {message[0].lower()}{message[1:]}"

"""Turns of a dialogue: what the engine of an actor is asked, and how a judge rates what it says."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from generators.dialogues.play import RATING, TURN, Candidate, Dialogue, read_turn
from generators.dialogues.scenario import Scenario, Turn
from prefactory.asking import Asking, fence, open_tasks
from prefactory.context import Context
from prefactory.engines.base import Conversation, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text

_TEXTS = "generators/dialogues/prompts"


class Part(BaseModel):
    """Which engine speaks for an actor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actor: str
    engine: AnyEngine


class TurnTaking(Prompted, Asking):
    """Mixin of steps that play scenarios: who speaks for whom, and what is asked of them."""

    templates: ClassVar = {
        "actor": Text(
            f"{_TEXTS}/actor.j2",
            ("role", "goal", "open_facts", "told_facts", "most_facts", "thoughts", "speaker",
             "others", "channel", "words", "ends_with"),
        ),
        "turn": Text(f"{_TEXTS}/turn.j2", ("lines", "left_out", "mark")),
        "judge": Text(
            f"{_TEXTS}/judge.j2", ("speaker", "criteria", "reference", "lines", "turn", "mark")
        ),
    }  # fmt: skip

    engine: AnyEngine | None = None
    cast: tuple[Part, ...] = ()
    k: int = Field(default=4, ge=1)
    judge: AnyEngine | None = None
    criteria: str = "how well it serves the other person: honest, clear, kind and to the point"
    memory: int = Field(default=6, ge=1)
    thoughts: int = Field(default=3, ge=0)
    most_facts: int = Field(default=2, ge=0)
    sampling: SamplingParams = SamplingParams(temperature=0.8, max_tokens=1024)
    attempts: int = Field(default=2, ge=1)

    def engine_of(self, actor: str) -> AnyEngine:
        """What speaks for an actor."""
        for part in self.cast:
            if part.actor == actor:
                return part.engine
        assert self.engine is not None  # noqa: S101 - validated
        return self.engine

    def question(self, scenario: Scenario, dialogue: Dialogue, turn: Turn) -> Conversation:
        """What the engine of the speaker is shown: its role, and what it heard."""
        speaker = scenario.actor(turn.speaker)
        others = [actor.shown for actor in scenario.met_by(speaker.id)]
        listeners = [scenario.actor(a).shown for a in turn.hears if a != speaker.id]
        facts = dialogue.facts[speaker.id]
        role = self.render(
            "actor",
            role=dialogue.roles[speaker.id],
            goal=dialogue.goals[speaker.id],
            open_facts=[{"id": f.id, "text": f.text} for f in facts if f.told is None],
            told_facts=[f.text for f in facts if f.told is not None],
            most_facts=self.most_facts,
            thoughts=dialogue.last_thoughts(speaker.id, self.thoughts),
            speaker=speaker.shown,
            others=" and ".join(others),
            channel=" and ".join(listeners) if len(listeners) < len(others) else "",
            words=turn.words,
            ends_with=scenario.ends_with or "",
        )
        lines, left_out = dialogue.view(scenario, speaker.id, self.memory)
        heard = self.render("turn", lines=lines, left_out=left_out, mark=fence(*lines))
        return [{"role": "system", "content": role}, {"role": "user", "content": heard}]

    def drawn(
        self, scenario: Scenario, live: list[Dialogue], turn: Turn, samples: int, ctx: Context
    ) -> dict[int, list[Candidate]]:
        """Candidates of a turn of all dialogues that go on, in one batch."""
        candidates_of = {
            id(d): [Candidate(d.row, f"{d.key}/{turn.number}/{i}") for i in range(samples)]
            for d in live
        }
        questions = {id(d): self.question(scenario, d, turn) for d in live}
        owner = {id(c): key for key, candidates in candidates_of.items() for c in candidates}

        def take(candidate: Candidate, turn_form: dict[str, Any]) -> None:
            candidate.private, candidate.facts = turn_form["private"], tuple(turn_form["facts"])
            candidate.end_with(turn_form["public"], scenario.ends_with)

        self.asker(ctx, self.engine_of(turn.speaker)).parsed(
            [c for candidates in candidates_of.values() for c in candidates],
            "turn",
            partial(read_turn, words=turn.words, most_facts=self.most_facts),
            lambda c: questions[owner[id(c)]],
            take,
            TURN.schema,
            lambda turn_form: str(turn_form["public"]),
        )
        return candidates_of

    def rate(
        self,
        scenario: Scenario,
        live: list[Dialogue],
        turn: Turn,
        drawn: dict[int, list[Candidate]],
        ctx: Context,
    ) -> None:
        """Let the judge rate all candidates; one that it fails on has no score, and stays."""
        assert self.judge is not None  # noqa: S101 - the caller's
        name = scenario.actor(turn.speaker).shown
        views = {}
        for dialogue in live:
            lines, _ = dialogue.view(scenario, turn.speaker, self.memory)
            views[id(dialogue)] = (lines, dialogue.reference)
        rated, owner = [], {}
        for key, candidates in drawn.items():
            for candidate in open_tasks(candidates):
                copy = Candidate(candidate.row, candidate.key, public=candidate.public)
                rated.append((copy, candidate))
                owner[id(copy)] = key

        def question(copy: Candidate) -> str:
            lines, reference = views[owner[id(copy)]]
            return self.render(
                "judge",
                speaker=name,
                criteria=self.criteria,
                reference=reference,
                lines=lines,
                turn=copy.public,
                mark=fence(*lines, copy.public),
            )

        def take(copy: Candidate, answer: dict[str, Any]) -> None:
            copy.score = float(answer["score"])

        copies = [copy for copy, _ in rated]
        self.asker(ctx, self.judge, greedy=True).forms(copies, "rate", RATING, question, take)
        for copy, candidate in rated:
            candidate.score = copy.score
        own: dict[int, list[Candidate]] = {}
        for copy in copies:
            own.setdefault(owner[id(copy)], []).append(copy)
        for dialogue in live:
            dialogue.rated(turn, own.get(id(dialogue), []))

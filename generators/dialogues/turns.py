"""Turns of a dialogue: what the engine of an actor is asked, and how a judge rates what it says."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from generators.dialogues.play import DIAGNOSIS, RATING, TURN, Candidate, Dialogue, read_turn
from generators.dialogues.scenario import Scenario, Turn
from generators.dialogues.votes import Ballot, ballots, count, form
from generators.dialogues.votes import take as take_vote
from prefactory.asking import Asking, fence, open_tasks, unrated
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
        "voter": Text(
            f"{_TEXTS}/voter.j2",
            ("role", "goal", "facts", "thoughts", "speaker", "others", "out", "options"),
        ),
        "diagnosis": Text(f"{_TEXTS}/diagnosis.j2", ("speaker", "reference", "lines", "mark")),
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

    def ballot(
        self, scenario: Scenario, dialogue: Dialogue, turn: Turn, ballot: Ballot
    ) -> Conversation:
        """What the engine of a voter is shown: its role, whom it may vote for, what it heard."""
        voter = scenario.actor(ballot.voter)
        role = self.render(
            "voter",
            role=dialogue.roles[voter.id],
            goal=dialogue.goals[voter.id],
            facts=[f.text for f in dialogue.facts[voter.id]],
            thoughts=dialogue.last_thoughts(voter.id, self.thoughts),
            speaker=voter.shown,
            others=" and ".join(a.shown for a in scenario.met_by(voter.id)),
            out=turn.vote is not None and turn.vote.out,
            options=[scenario.actor(o).shown for o in ballot.options],
        )
        lines, left_out = dialogue.view(scenario, voter.id, self.memory)
        heard = self.render("turn", lines=lines, left_out=left_out, mark=fence(*lines))
        return [{"role": "system", "content": role}, {"role": "user", "content": heard}]

    def vote(self, scenario: Scenario, live: list[Dialogue], turn: Turn, ctx: Context) -> None:
        """Let the voters of all dialogues vote, none seeing another's vote, and count.

        A vote that can't be read is none; a voter whose engine fails ends its dialogue.
        """
        cast = {id(d): ballots(scenario, d, turn) for d in live}
        asked: dict[tuple[str, tuple[str, ...]], list[Ballot]] = {}
        questions = {}
        for dialogue in live:
            for ballot in cast[id(dialogue)]:
                asked.setdefault((ballot.voter, ballot.options), []).append(ballot)
                questions[ballot.key] = self.ballot(scenario, dialogue, turn, ballot)
        for (voter, options), same in sorted(asked.items(), key=lambda item: item[0]):
            self.asker(ctx, self.engine_of(voter)).forms(
                same,
                "vote",
                form(scenario, options),
                lambda ballot: questions[ballot.key],
                partial(take_vote, scenario),
            )
        for dialogue in live:
            own = cast[id(dialogue)]
            unread = (None, "unparseable", "truncated", "empty_answer")
            broken = [b for b in own if b.reason not in unread]
            if broken:
                detail = f"turn {turn.number}, vote of {broken[0].voter}: {broken[0].detail}"
                dialogue.fail(broken[0].reason or "no_answer", detail)
            else:
                count(scenario, dialogue, turn, own)

    def diagnose(self, scenario: Scenario, dialogues: list[Dialogue], ctx: Context) -> None:
        """Let the judge say whether the target named what is true, and in which of its lines.

        Dialogues without a line of the target, or that the judge fails on, have no diagnosis.
        """
        assert self.judge is not None  # noqa: S101 - validated
        name = scenario.actor(scenario.target).shown
        spoken = {}
        copies = []
        for dialogue in dialogues:
            own = [line for line in dialogue.lines if line.turn.speaker == scenario.target]
            if own and dialogue.reference:
                copies.append(Dialogue(dialogue.row, dialogue.key, reference=dialogue.reference))
                spoken[id(copies[-1])] = (dialogue, own)

        def question(copy: Dialogue) -> str:
            lines = [line.text for line in spoken[id(copy)][1]]
            return self.render(
                "diagnosis",
                speaker=name,
                reference=copy.reference,
                lines=lines,
                mark=fence(copy.reference, *lines),
            )

        def take(copy: Dialogue, answer: dict[str, Any]) -> None:
            dialogue, own = spoken[id(copy)]
            line = answer["line"]
            if answer["diagnosis"] == "none":
                dialogue.diagnosis = "none"
            elif 1 <= line <= len(own):
                dialogue.diagnosis = answer["diagnosis"]
                dialogue.diagnosed = own[line - 1].turn.number

        judge = self.asker(ctx, self.judge, greedy=True)
        judge.forms(copies, "diagnosis", DIAGNOSIS, question, take, says=unrated)

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
        judge = self.asker(ctx, self.judge, greedy=True)
        judge.forms(copies, "rate", RATING, question, take, says=lambda a: {"rating": a["score"]})
        for copy, candidate in rated:
            candidate.score = copy.score
        own: dict[int, list[Candidate]] = {}
        for copy in copies:
            own.setdefault(owner[id(copy)], []).append(copy)
        for dialogue in live:
            dialogue.rated(turn, own.get(id(dialogue), []))

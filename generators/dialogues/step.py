"""Dialogues of actors with private and public channels, and pairs branched off their turns."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from generators.answers.step import Origin
from generators.dialogues.play import Branch, Candidate, Dialogue
from generators.dialogues.rows import Kept, adds, rows_of
from generators.dialogues.scenario import Scenario, Turn, load
from generators.dialogues.turns import TurnTaking
from generators.made_rows import PARENT
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    lost,
    missed,
    open_tasks,
    request_text,
)
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape


class Dialogues(Gated, TurnTaking, Generator):
    """Let models act a scenario out, and pair what one of them might have said at each turn.

    A scenario (see `generators.dialogues.scenario`) has actors with roles, goals and facts that
    only they know, phases with public or private channels, and a grid of persons; each row of the
    table, a case, is played once per cell of the grid. In each turn an actor thinks privately and
    speaks publicly; others see only what was said in a channel that they hear. A turn that can't
    be read is asked for once more and then left out: its raw text, which may hold private thoughts,
    is used nowhere. Facts are told at most once.

    At each turn of the target, `k` candidates are drawn under one history. `make: pairs`: a judge
    rates each from 1 to 10; the best is chosen, the worst rejected, and the dialogue goes on with
    the best. `make: responses`: every candidate is a row, and it goes on with the first. The prompt
    is the target's view: its role as system message, what others said as a user's turns.

    After the branch of persona x literacy in MedAgent and the engine of The Traitors, whose phases
    of votes and elimination a scenario may have; texts and numbers are ours. A scenario that tells
    an actor to deceive must be allowed, and its rows are marked; where a team hides, the target is
    never of it.

    What dialogues show is measured in the report and by `prefactory dialogues`: how ratings go turn
    by turn, how often the target names what is true (`diagnosis`), and of votes TAS, FAS, FCR and
    VSF (`prefactory.measures.dialogue_report`).

    New columns: `source_prompt_id`, `dialogue_id`, `scenario`, `cell` ("persona=calm, ..."), `turn`
    (Int64, from 0, of all turns), `contains_deception`, `transcript` (list of role, name, content;
    the whole dialogue), `turn_meta` (list of turn, phase, actor, visible_to, facts_revealed,
    dropped, tokens, round, rating, votes, out), `diagnosis` (exact, close, none), `diagnosis_turn`
    and `winner`; of pairs the sides' origins, `chosen_score_turn`, `rejected_score_turn` and
    `margin`; of responses `sample`.

    A dialogue whose first four ratings all failed is given up with the reason of the last.

    Reasons, for cases without a row, that of the first dialogue: `no_turn_branched` (too few
    candidates could be read, or none is better than another by `min_margin`; the detail has the
    last failure), `unparseable` (ratings), those of the engines.

    Attributes:
        scenario: one that comes with prefactory, or a YAML file of your own.
        engine: speaks for all actors without a part.
        cast: engines of single actors.
        make: see above.
        k: candidates of a turn of the target.
        branch_turns: which of the target's turns branch, from 1; null: all.
        judge: rates candidates, at temperature 0.
        criteria: what it rates by.
        reference: column that only the judge is shown, such as the true diagnosis. It and columns
            with facts come along if the source's `mapping` names them.
        diagnosis: let the judge say, of each dialogue that has rows, whether and when the target
            named what `reference` says.
        min_margin: least difference of the ratings of a pair.
        memory: lines that an actor remembers beside the first (three rounds of two; our choice).
        thoughts: own private notes that an actor remembers.
        most_facts: facts that an actor may tell in a turn.
        cells: of the grid, drawn for each case; null: all.
        allow_deception: play scenarios in which somebody is told to deceive.
        origin: of the rows' answers.

    Example:
        - generators.Dialogues:
            scenario: patient_doctor
            cast:
              - actor: patient
                engine: {engine: server, base_url: 'http://localhost:8000/v1', model: patient}
              - actor: doctor
                engine: {engine: server, base_url: 'http://localhost:8000/v1', model: doctor}
            judge: {engine: server, base_url: 'http://localhost:8000/v1', model: judge}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    version: ClassVar[int] = 3
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True

    scenario: str = Field(min_length=1)
    make: Literal["pairs", "responses"] = "pairs"
    branch_turns: tuple[int, ...] | None = None
    reference: str | None = None
    diagnosis: bool = False
    min_margin: float = Field(default=1.0, gt=0)
    cells: int | None = Field(default=None, ge=1)
    allow_deception: bool = False
    origin: Origin = "open_model"

    @model_validator(mode="after")
    def _validate_cast(self) -> Self:
        scenario = self._scenario()
        if (self.judge is None) == (self.make == "pairs"):
            raise ValueError("judge goes with `make: pairs`, and that needs it")
        if self.diagnosis and (self.judge is None or self.reference is None):
            raise ValueError("diagnosis: a judge says so, and `reference` what is true; name both")
        if self.make == "pairs" and self.k < 2:
            raise ValueError("k: a pair needs two candidates")
        known = [actor.id for actor in scenario.actors]
        played = [part.actor for part in self.cast]
        if unknown := sorted(set(played) - set(known)):
            raise ValueError(f"cast: the scenario has no actor {unknown[0]!r} ({', '.join(known)})")
        if self.engine is None and (open_parts := [a for a in known if a not in played]):
            raise ValueError(f"engine: nobody speaks for {', '.join(open_parts)}")
        if scenario.contains_deception and not self.allow_deception:
            raise ValueError("scenario: somebody is told to deceive; say `allow_deception: true`")
        return self

    def _scenario(self) -> Scenario:
        return load(self.scenario)

    def identity(self) -> dict[str, Any]:
        """Fields, and what stands in the scenario."""
        return {**super().identity(), "played": self._scenario().model_dump(mode="json")}

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Columns with facts of actors, and the reference."""
        columns = [a.facts for a in self._scenario().actors if isinstance(a.facts, str)]
        columns_needed: dict[str, pl.DataType] = dict.fromkeys(columns, pl.List(pl.String))
        return {**columns_needed, **({self.reference: pl.String()} if self.reference else {})}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS or RESPONSES."""
        return Shape.PAIRS if self.make == "pairs" else Shape.RESPONSES

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """What dialogue a row is from, and its turn."""
        return adds(self.make)

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A call per turn, `k` where it branches, and as many ratings."""
        scenario = self._scenario()
        played = rows * min(self.cells or 10**9, len(scenario.cells()))
        asks = []
        for actor in scenario.actors:
            turns = [t for t in scenario.schedule() if t.speaker == actor.id]
            samples = sum(self.k if self._branches(scenario, t) else 1 for t in turns)
            engine = self.engine_of(actor.id)
            samples += sum(actor.id in t.voters for t in scenario.schedule())
            asks.append(Asks(engine, played * samples, 2 * QUESTION_TOKENS, FORM_TOKENS))
        if self.judge is not None:
            rated = played * (self.k * self._branching(scenario) + self.diagnosis)
            asks.append(Asks(self.judge, rated, 2 * QUESTION_TOKENS, FORM_TOKENS))
        return asks

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A row, or `k`, per branching turn and cell."""
        scenario = self._scenario()
        played = rows * min(self.cells or 10**9, len(scenario.cells()))
        prompts = played * self._branching(scenario)
        return prompts * (1 if self.make == "pairs" else self.k), prompts

    def _branches(self, scenario: Scenario, turn: Turn) -> bool:
        """Whether a turn is one of the target's that branch."""
        own = [t.number for t in scenario.schedule() if t.speaker == scenario.target]
        if turn.number not in own:
            return False
        return self.branch_turns is None or own.index(turn.number) + 1 in self.branch_turns

    def _branching(self, scenario: Scenario) -> int:
        return sum(self._branches(scenario, t) for t in scenario.schedule())

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Play the cases of a table.

        Args:
            table: PROMPTS; the words of a prompt are `case` in the scenario.
            ctx: opens the engines; draws by prompt id, cell and turn.

        Returns:
            PAIRS or RESPONSES in canonical order, and the cases of which no row came.

        Raises:
            DataError: a case has no list of facts where the scenario wants one.
        """
        scenario = self._scenario()
        dialogues = self._dialogues(scenario, table, ctx)
        for turn in scenario.schedule():
            live = [d for d in open_tasks(dialogues) if not d.over and turn.speaker not in d.out]
            if turn.vote is not None:
                self.vote(scenario, live, turn, ctx)
            elif self._branches(scenario, turn):
                self._branch(scenario, live, turn, ctx)
            else:
                self._speak(scenario, live, turn, ctx)
            for dialogue in live:
                teller = scenario.ends_when_told
                if teller is not None and not dialogue.open_facts(teller):
                    dialogue.over = True
        kept = {id(d): self._kept(d) for d in dialogues}
        if self.diagnosis:
            self.diagnose(scenario, [d for d in dialogues if kept[id(d)]], ctx)
        for dialogue in dialogues:
            if kept[id(dialogue)]:
                dialogue.reason = None  # what was made before an engine failed stays
            elif dialogue.reason is None:
                tried = f"{len(dialogue.branches)} turns were tried"
                reason, detail = dialogue.failure
                last = f"; the last failure: {reason}, {detail}" if reason else ""
                dialogue.fail("no_turn_branched", tried + last)
        rows = [k for d in dialogues for k in kept[id(d)]]
        new_rows = rows_of(table, scenario, rows, self.engine_of(scenario.target).model,
                       self.origin, self.make)  # fmt: skip
        return Generated(new_rows, lost(table["prompt_id"], dialogues), missed(dialogues))

    def _dialogues(self, scenario: Scenario, table: pl.DataFrame, ctx: Context) -> list[Dialogue]:
        """A dialogue per case and cell, its roles filled."""
        cells = scenario.cells()
        columns = self._fact_columns(scenario, table)
        references = table[self.reference].to_list() if self.reference else [""] * table.height
        dialogues = []
        prompts = zip(table["prompt_id"], table["prompt"].to_list(), strict=True)
        for row, (key, prompt) in enumerate(prompts):
            drawn = list(range(len(cells)))
            if self.cells is not None and self.cells < len(cells):
                keys = [f"{key}/{i}" for i in range(len(cells))]
                lots = ctx.uniform(pl.Series(keys), "cell").to_numpy()
                drawn = sorted(np.argsort(lots, kind="stable")[: self.cells].tolist())
            for i in drawn:
                name = ", ".join(f"{axis}={choice.id}" for axis, choice in cells[i].items())
                dialogue = Dialogue(row, f"{key}/{scenario.scenario}/{name}", cell=cells[i])
                facts = {column: values[row] for column, values in columns.items()}
                dialogue.cast_for(scenario, request_text(prompt), facts)
                dialogue.reference = references[row] or ""
                dialogues.append(dialogue)
        return dialogues

    def _fact_columns(self, scenario: Scenario, table: pl.DataFrame) -> dict[str, list[list[str]]]:
        columns = {}
        for actor in scenario.actors:
            if isinstance(actor.facts, str):
                values = table[actor.facts].to_list()
                if any(v is None or None in v for v in values):
                    raise DataError(
                        f"column {actor.facts!r} holds what only {actor.shown} knows; it is null "
                        "in some rows: give those an empty list"
                    )
                columns[actor.facts] = values
        return columns

    def _speak(self, scenario: Scenario, live: list[Dialogue], turn: Turn, ctx: Context) -> None:
        """One sample of a turn for each dialogue."""
        drawn = self.drawn(scenario, live, turn, 1, ctx)
        for dialogue in live:
            self._go_on(dialogue, turn, drawn[id(dialogue)], None)

    def _branch(self, scenario: Scenario, live: list[Dialogue], turn: Turn, ctx: Context) -> None:
        """Several samples of a turn; those that end in somebody else's words become a branch."""
        drawn = self.drawn(scenario, live, turn, self.k, ctx)
        if self.judge is not None:
            self.rate(scenario, live, turn, drawn, ctx)
        for dialogue in live:
            read = open_tasks(drawn[id(dialogue)])
            history = dialogue.history(scenario, self.memory)
            if history[-1]["role"] == "user" and read:
                dialogue.branches.append(Branch(turn, history, read))
            rated = [c for c in read if c.score is not None]
            best = max(rated, key=lambda c: c.score or 0.0) if rated else None
            self._go_on(dialogue, turn, drawn[id(dialogue)], best)

    def _go_on(
        self,
        dialogue: Dialogue,
        turn: Turn,
        drawn: list[Candidate],
        best: Candidate | None,
    ) -> None:
        """Take the best candidate, or the first that was read, into the dialogue."""
        read = open_tasks(drawn)
        for candidate in drawn:
            if candidate.reason is not None:
                dialogue.missed(turn, candidate)
        if read:
            scores = [c.score for c in read if c.score is not None]
            rating = sum(scores) / len(scores) if scores else None
            dialogue.say(turn, best or read[0], rating)
            return
        first = drawn[0]
        if first.reason in (
            "unparseable",
            "truncated",
            "empty_answer",
            "too_long",
            "too_many_facts",
        ):
            dialogue.note(turn, [], 0, dropped=True)
        else:
            dialogue.fail(first.reason or "no_answer", f"turn {turn.number}: {first.detail}")

    def _kept(self, dialogue: Dialogue) -> list[Kept]:
        """Rows of a dialogue: a pair, or all distinct candidates, of each branch."""
        kept = []
        for branch in dialogue.branches:
            if self.make == "responses":
                texts = dict.fromkeys(c.public for c in branch.candidates)
                kept.append(Kept(dialogue, branch, list(texts)))
                continue
            rated = sorted(
                (c for c in branch.candidates if c.score is not None),
                key=lambda c: -(c.score or 0.0),
            )
            if len(rated) < 2:
                continue
            best, worst = rated[0].score or 0.0, rated[-1].score or 0.0
            if best - worst >= self.min_margin and rated[0].public != rated[-1].public:
                both = [rated[0].public, rated[-1].public]
                kept.append(Kept(dialogue, branch, both, (best, worst)))
        return kept

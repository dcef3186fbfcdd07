"""Asking judges: answers without their authors' names, in every order, until it is decided."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from json import dumps
from typing import Any, ClassVar, Literal, Self

import polars as pl
from pydantic import Field, field_validator, model_validator

from labelers.judges import gold as known
from labelers.judges import likelihoods, verdicts
from labelers.judges.examples import Examples
from labelers.judges.questions import edges
from labelers.judges.votes import BESIDE, TIE, VOTES, Rules, orders, outcomes, settled
from prefactory.asking import (
    GREEDY,
    MATERIAL_TOKENS,
    Answer,
    Asking,
    Jury,
    answer_text,
    fence,
    tokens_of,
    transcript,
)
from prefactory.context import Context
from prefactory.engines.base import Conversation, Failure, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.identity import fingerprint, identity_of
from prefactory.measures import judge_watch
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks
from prefactory.tables import SIDES, Shape
from prefactory.votes.slices import DERIVED, within

_LOG = logging.getLogger(__name__)

NOT_TRUSTED = "not_trusted"
"""Reason of rows that `trusted_on` leaves to others."""
MOST_ANSWERS = len(verdicts.NAMES)
"""Most answers of one question."""

BIASED, BY_CHANCE = 0.2, 1e-3
"""A judge is told of whose votes for a place are so far from even, and hardly ever by chance."""


@dataclass(frozen=True, slots=True)
class _Ballot:
    """One question, ready to be asked.

    Attributes:
        question: its id.
        conversation: as text.
        answers: texts, in the order of their ids.
        base: permutations of the answers, see `judge_votes.orders`.
    """

    question: str
    conversation: str
    answers: tuple[str, ...]
    base: list[list[int]]


class Judging(Prompted, Asking):
    """Mixin of steps that let judges vote; write it before the base.

    A question shows a conversation and its answers as A, B, C, ... without models, scores or
    lengths. Each judge sees each answer in each place (all rotations of an order drawn by id;
    after LLM-Align's voting, of which only summaries are public: orders, counts and stop rule are
    ours), and names the best. A reply without a valid verdict is asked again with what was wrong
    (`attempts`), and then counts as invalid. `judge_votes.outcomes` says when votes decide.

    Attributes:
        judge: the model that votes, or a list of several (a jury); all votes count alike.
        criteria: what to judge by, one line each (attributes, or a constitution's principles).
        examples: pairs whose better answer is known, shown before each question as turns that were
            answered right, the better one in the first and the second place by turns; a list, or
            the file that `prefactory judge-examples` wrote.
        rounds: how often each answer stands in each place before each judge, in another order of
            the others from the second time on.
        escalate_to: a stronger judge, which is asked in every order, too, about questions that the
            votes of the others decide nothing on; there its votes alone count.
        agreement: least share of the valid votes (by weight) for the winner, above 0.
        min_valid: least share of the planned votes that must be valid.
        max_invalid: share of a judge's answers that may be unusable, of all questions: above it,
            nothing is published by default (see `prefactory.measures.judge_watch`).
        gold: Boolean column that marks what is known to be right: of answers the best of its
            prompt, of pairs those whose chosen answer is better. Judges don't see it; it is
            counted how often they vote for it.
        gold_pairs: pairs whose better answer is known, which are no rows of the recipe: a list of
            `prompt`, `chosen` and `rejected`, or a file of such JSON lines, whose content is the
            step's identity. All judges vote on them before anything else is asked; who fails there
            is asked no further, by default.
        min_gold: share of a judge's votes on gold rows that must be right: below it, nothing is
            published by default.
        ties: whether a judge may say that no answer is better.
        strength: ask how much better (`A>>B`, `A>B`, `A=B`, ...) of two answers.
        strong_weight: how many votes a strong verdict counts (arena-hard counts 3).
        by: `words`, what the judge says; or `logprobs`: how likely it names each answer, by a
            model that tells (transformers and vllm in full precision, a vLLM server), averaged over
            all orders, so that a constant liking for a place cancels. `agreement` is then the least
            share of the likeliest answer. Nothing is generated; without ties and reasons.
        rationale: let the judge give its reasons before its verdict; they are kept with its vote
            and shown at the pair (A, B, ... are the places of that vote).
        form: verdicts in double `brackets`, or as a `json` object (by schema, if `guided`); `auto`
            takes JSON where the judge's engine enforces a schema and `guided` hands it one.
        early_stop: stop asking as soon as no further vote can change the winner. False asks every
            order of every question, so that statistics of the votes have no gaps.
        trusted_on: where the judges may label, column -> values: `{topic: [math, code]}`, as
            `prefactory votes judges` prints it from a comparison with people. Rows with another
            value in one of the columns are not asked about (`not_trusted`). Beside columns of the
            table `length_bucket` and `language` can be named (`prefactory.votes.slices`).
        name: prefix of the new columns.
    """

    version: ClassVar[int] = 2
    templates: ClassVar[Mapping[str, Text]] = {
        "system": Text("labelers/judges/prompts/system.j2", ("criteria",)),
        "question": Text(
            "labelers/judges/prompts/question.j2",
            (
                "conversation",
                "answers",
                "names",
                "options",
                "mark",
                "criteria",
                "ties",
                "strength",
                "rationale",
                "json",
            ),
        ),
    }

    judge: Jury = Field(min_length=1)
    sampling: SamplingParams = GREEDY
    criteria: tuple[str, ...] = ()
    examples: Examples = ()
    escalate_to: AnyEngine | None = None
    rounds: int = Field(default=1, ge=1)
    agreement: float = Field(default=0.6, gt=0, le=1)
    min_valid: float = Field(default=0.5, ge=0, le=1)
    max_invalid: float = Field(default=judge_watch.MAX_INVALID, ge=0, le=1)
    gold: str | None = Field(default=None, min_length=1)
    gold_pairs: known.GoldPairs = ()
    min_gold: float = Field(default=judge_watch.MIN_GOLD, ge=0, le=1)
    ties: bool = True
    strength: bool = False
    strong_weight: int = Field(default=3, ge=1)
    by: Literal["words", "logprobs"] = "words"
    rationale: bool = False
    form: Literal["auto", "brackets", "json"] = "auto"
    early_stop: bool = True
    trusted_on: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    name: str = Field(default="judge", pattern=r"^[a-z][a-z0-9_]*$")

    @field_validator("judge")
    @classmethod
    def _validate_judge(cls, value: tuple[AnyEngine, ...]) -> tuple[AnyEngine, ...]:
        marks = [fingerprint(identity_of(j.model_dump(mode="json"))) for j in value]
        if len(set(marks)) < len(marks):
            raise ValueError(
                "two judges are the same model with the same settings and would say the same; "
                "raise rounds to ask one judge more often"
            )
        return value

    @model_validator(mode="after")
    def _validate_name(self) -> Self:
        jury = [identity_of(j.model_dump(mode="json")) for j in self.judge]
        if self.escalate_to and identity_of(self.escalate_to.model_dump(mode="json")) in jury:
            raise ValueError("escalate_to: this judge has voted already; name a stronger one")
        if self.by == "logprobs":
            self._check_logprobs()
        if self.examples and self.rationale:
            raise ValueError("examples: they hold no reasons; set rationale to false")
        if self.name.startswith((*(f"{side}_" for side in SIDES), "score_")):
            raise ValueError("name may not begin with chosen_, rejected_ or score_")
        return self

    def _check_logprobs(self) -> None:
        """Refuse judges that tell no log-probabilities, and what needs words."""
        for judge in self.judges:
            if (why := likelihoods.why_not(judge)) is not None:
                raise ValueError(f"by: logprobs: {why}")
        if wanted := [name for name in ("ties", "strength", "rationale") if getattr(self, name)]:
            raise ValueError(f"by: logprobs: set {wanted[0]} to false, which needs a judge's words")

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The gold rows, if there are some, and the columns that say where judges are trusted."""
        gold: dict[str, pl.DataType] = {} if self.gold is None else {self.gold: pl.Boolean()}
        named = [column for column in self.trusted_on if column not in DERIVED]
        return {**gold, **{column: pl.String() for column in named}}

    def trusted(self, table: pl.DataFrame) -> pl.Series:
        """Which rows the judges may label, Bool[n]."""
        return within(table, self.trusted_on)

    def rules(self) -> Rules:
        """When the votes decide."""
        strongest = self.strong_weight if self.strength else 1
        return Rules(self.agreement, self.min_valid, strongest)

    @property
    def judges(self) -> tuple[AnyEngine, ...]:
        """Who votes, by number; the last one may be that of `escalate_to`."""
        return self.judge if self.escalate_to is None else (*self.judge, self.escalate_to)

    def models(self) -> list[str]:
        """Names of the judges' models, by number."""
        return [judge.model for judge in self.judges]

    def planned(self, answers: pl.Expr, judges: int = 1) -> pl.Expr:
        """Votes of some judges on a question with so many answers, if nobody stops."""
        return (answers * self.rounds * judges).cast(pl.Int64)

    def decided(self, votes: pl.DataFrame, questions: pl.DataFrame) -> pl.DataFrame:
        """What the votes decide, see `judge_votes.outcomes`.

        Args:
            votes: of all questions.
            questions: `question` and `answers` (how many were shown).
        """
        jury = len(self.judge)
        strong = votes.filter(pl.col("judge") == jury)["question"].unique().implode()
        escalated = pl.col("question").is_in(strong)
        answers = pl.col("answers")
        facts = questions.select(
            "question",
            planned=pl.when(escalated)
            .then(self.planned(answers))
            .otherwise(self.planned(answers, jury)),
        )
        own = votes.filter((pl.col("judge") == jury) | ~escalated)
        if self.by == "logprobs":
            each = questions.select(each=self.planned(answers)).to_series()
            return likelihoods.outcomes(own, facts.with_columns(each), self.rules())
        return outcomes(own, facts, self.rules())

    def cost(self, votes: pl.DataFrame) -> dict[str, Any]:
        """How many questions were decided, by whom, and with how many tokens.

        Args:
            votes: of all questions, with `answers`.

        Returns:
            `questions`, `decided`, `tokens`; with `escalate_to` also `escalated`,
            `decided_there` and `tokens_there`.
        """
        asked = votes.select("question", "answers").unique("question", keep="first")
        won = self.decided(votes, asked).filter(pl.col("winner") >= 0)["question"]
        cost = {"questions": asked.height, "decided": won.len(), "tokens": votes["tokens"].sum()}
        if self.escalate_to is not None:
            there = votes.filter(pl.col("judge") == len(self.judge))
            escalated = there["question"].unique()
            cost["escalated"] = escalated.len()
            cost["decided_there"] = escalated.is_in(won.implode()).sum()
            cost["tokens_there"] = there["tokens"].sum()
        return cost

    def asks_for(self, questions: int, answers: float) -> list[Asks]:
        """Calls for a number of questions with so many answers each, for `plan`."""
        places = questions * answers + 2 * len(self.gold_pairs)
        calls = round(places * self.rounds)
        shown = [e.prompt + e.chosen + e.rejected for e in self.examples]
        texts = tokens_of("".join((*self.texts().values(), *shown)))
        tokens = texts + round(answers * MATERIAL_TOKENS)
        return [Asks(judge, calls, tokens, self.sampling.max_tokens) for judge in self.judges]

    def poll(self, questions: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Let all judges vote on questions.

        Args:
            questions: `question` (String, unique), `prompt` (messages), `ids` (List(String), the
                answers' ids, sorted), `texts` (List(messages)), 2 to 26 answers each, and `gold`
                (Int64, number of the one that is known to be the best, or null).
            ctx: opens the judges; draws the orders, by question and answer id.

        Returns:
            The votes, columns `labelers.judges.votes.VOTES` and `BESIDE`.
        """
        ballots = self._ballots(questions, ctx)
        facts = questions.select(
            "question", "gold", answers=pl.col("ids").list.len().cast(pl.Int64)
        )
        votes = self._votes(range(len(self.judge)), ballots, facts, ctx)
        if self.escalate_to is None:
            return votes
        outcome = self.decided(votes, facts)
        left = set(outcome.filter(pl.col("winner").is_null())["question"])
        open_ballots = [ballot for ballot in ballots if ballot.question in left]
        return votes.vstack(self._votes([len(self.judge)], open_ballots, facts, ctx))

    def _votes(
        self, jury: Sequence[int], ballots: list[_Ballot], facts: pl.DataFrame, ctx: Context
    ) -> pl.DataFrame:
        """The votes of some judges, by number, on questions, until they are decided."""
        schema = {**VOTES, **BESIDE}
        planned = facts.with_columns(planned=self.planned(pl.col("answers"), len(jury)))
        votes, number = pl.DataFrame(schema=schema), 0
        said: set[str] = set()
        faults: dict[int, Counter[str]] = {judge: Counter() for judge in jury}
        while ballots:
            cast = []
            for judge in jury:
                cast += self._round(judge, number, ballots, ctx, faults[judge])
            new = pl.DataFrame(cast, schema=schema, orient="row")
            votes, number = pl.concat([votes, new]), number + 1
            self._say(votes, facts, said)
            ballots = [b for b in ballots if number < len(b.answers) * self.rounds]
            if self.early_stop and self.by == "words" and ballots:
                done = planned.filter(settled(votes, planned, self.rules()))["question"]
                over = set(done.to_list())
                ballots = [b for b in ballots if b.question not in over]
        for judge, fault_counts in faults.items():
            _warn(self.judges[judge].model, fault_counts)
        return votes

    def trials(self) -> bool:
        """Whether there are gold pairs."""
        return bool(self.gold_pairs)

    def trial(self, ctx: Context) -> list[judge_watch.Watched]:
        """Let all judges vote on the gold pairs (see `Step.trial`)."""
        asked = known.questions(self.gold_pairs)
        votes = self.poll(asked, ctx)
        facts = asked.select("question", "prompt_id", "gold", "answers")
        return self.watched(votes.join(facts, on="question", how="left"))

    def watched(
        self, votes: pl.DataFrame, pairs: pl.DataFrame | None = None
    ) -> list[judge_watch.Watched]:
        """What `prefactory.measures.judge_watch` counts of votes, judge by judge.

        Args:
            votes: see `prefactory.measures.judge_watch.of_votes`.
            pairs: questions about two answers, whose verdicts may form cycles: `question`,
                `prompt_id`, `ids`.
        """
        watched = judge_watch.of_votes(votes, self.models())
        if pairs is not None:
            facts = pairs.select("question", planned=pl.lit(2 * self.rounds, dtype=pl.Int64))
            for judge, own in enumerate(watched):
                cast = votes.filter(pl.col("judge") == judge)
                decided = outcomes(cast, facts, self.rules()).join(pairs, on="question")
                rows = decided.with_columns(rows=pl.int_ranges(pl.lit(2)))
                own |= judge_watch.of_triples(edges(rows))
        return watched

    def _say(self, votes: pl.DataFrame, facts: pl.DataFrame, said: set[str]) -> None:
        """Tell of judges that do not judge while they are still asked, once each."""
        counted = votes.join(facts, on="question", how="left")
        for own in self.watched(counted):
            found = judge_watch.problems([own], self.max_invalid, self.min_gold)
            if found and own["judge"] not in said:
                said.add(own["judge"])
                _LOG.warning("%s", found[0])

    def warn_of_bias(self, info: Mapping[str, Any]) -> None:
        """Say which judges lean to a place, though not so far that `judge_watch` tells of them.

        Args:
            info: of `prefactory.measures.judge_report.vote_report`, with `watch`.
        """
        for report in info.get("judges", [info]):
            number, place = report.get("judge", 0), report["position"]
            if place["bias"] is None or place["bias"] < BIASED or place["p_value"] > BY_CHANCE:
                continue
            if judge_watch.problems([info["watch"][number]], self.max_invalid, self.min_gold):
                continue
            worst = max(place["places"], key=lambda p: abs(p["share"] - 1 / p["answers"]))
            _LOG.warning(
                "judge %s leans to a place: %.0f%% of its votes among %d answers are for place "
                "%d, where %.0f%% would be fair",
                self.judges[number].model,
                100 * worst["share"],
                worst["answers"],
                worst["place"] + 1,
                100 / worst["answers"],
            )

    def _ballots(self, questions: pl.DataFrame, ctx: Context) -> list[_Ballot]:
        base = self._orders(questions, ctx)
        rows = questions.select("question", "prompt", "texts").iter_rows()
        return [
            _Ballot(question, transcript(prompt), tuple(map(answer_text, texts)), base[question])
            for question, prompt, texts in rows
        ]

    def _orders(self, questions: pl.DataFrame, ctx: Context) -> dict[str, list[list[int]]]:
        """Permutations of each question's answers, one for every cycle of rotations."""
        flat = questions.select("question", "ids").explode("ids")
        flat = flat.with_columns(slot=pl.int_range(pl.len()).over("question"))
        keys = flat.select(pl.concat_str("question", "ids", separator="/")).to_series()
        orders_of: dict[str, list[list[int]]] = {q: [] for q in questions["question"]}
        for cycle in range(self.rounds):
            drawn = flat.with_columns(draw=ctx.uniform(keys, f"order {cycle}"))
            drawn = drawn.sort("question", "draw", "ids")
            for question, slots in drawn.group_by("question").agg("slot").iter_rows():
                orders_of[question].append(slots)
        return orders_of

    def _round(
        self,
        judge: int,
        number: int,
        ballots: Sequence[_Ballot],
        ctx: Context,
        faults: Counter[str],
    ) -> list[tuple[Any, ...]]:
        """One judge's votes on all open questions in the ordering with a number."""
        if self.by == "logprobs":
            return self._likeliest(judge, number, ballots, ctx, faults)
        asker = self.asker(ctx, self.judges[judge])
        enforced = self.guided and self.judges[judge].enforces_schemas
        json = self.form == "json" or (self.form == "auto" and enforced)
        cast: list[tuple[Any, ...]] = []
        for size in sorted({len(b.answers) for b in ballots}):
            asked = [b for b in ballots if len(b.answers) == size]
            shown = [orders(b.base, number) for b in asked]
            pairs = zip(asked, shown, strict=True)
            schema = verdicts.schema(size, self.ties, self.strength, self.rationale)
            replies = asker.each(
                [self._conversation(b, order, json) for b, order in pairs],
                partial(verdicts.verdict_of, n=size, ties=self.ties, strength=self.strength),
                schema if json else None,
                salts=[str(number)] * len(asked),
            )
            for ballot, order, (reply,) in zip(asked, shown, replies, strict=True):
                if isinstance(reply, Failure):
                    faults[f"{reply.reason}: {reply.detail}"] += 1
                cast.append((ballot.question, judge, number, *self._vote(reply, order)))
        return cast

    def _likeliest(
        self,
        judge: int,
        number: int,
        ballots: Sequence[_Ballot],
        ctx: Context,
        faults: Counter[str],
    ) -> list[tuple[Any, ...]]:
        """As `_round`, by log-probabilities: the vote is the likeliest place, if there is one."""
        engine = ctx.open(self.judges[judge])
        cast: list[tuple[Any, ...]] = []
        for size in sorted({len(b.answers) for b in ballots}):
            asked = [b for b in ballots if len(b.answers) == size]
            shown = [orders(b.base, number) for b in asked]
            questions = [
                self._conversation(b, order, json=False)
                for b, order in zip(asked, shown, strict=True)
            ]
            said = [f"[[{name}]]" for name in verdicts.NAMES[:size]]
            for ballot, order, found in zip(
                asked, shown, likelihoods.read(engine, questions, said), strict=True
            ):
                head = (ballot.question, judge, number)
                if isinstance(found, Failure):
                    faults[f"{found.reason}: {found.detail}"] += 1
                    cast.append((*head, None, None, 0, found.reason, None, 0, None))
                    continue
                places = [place for place, p in enumerate(found) if p == max(found)]
                place = places[0] if len(places) == 1 else None
                answer = TIE if place is None else order[place]
                by_number = [found[order.index(i)] for i in range(size)]
                cast.append((*head, place, answer, 1, None, None, 0, by_number))
        return cast

    def _vote(
        self, reply: Answer[verdicts.Verdict] | Failure, order: list[int]
    ) -> tuple[int | None, int | None, int, str | None, str | None, int, None]:
        """Place, answer, weight, fault, reasons and tokens of a reply about answers in an order."""
        if isinstance(reply, Failure):
            return None, None, 0, reply.reason, None, reply.wasted.tokens, None
        place = reply.value.place
        weight = self.strong_weight if reply.value.strong else 1
        why = verdicts.rationale_of(reply.completion.text) if self.rationale else None
        said = reply.completion
        tokens = said.prompt_tokens + said.completion_tokens + said.wasted.tokens
        return place, TIE if place is None else order[place], weight, None, why, tokens, None

    def _conversation(self, ballot: _Ballot, order: list[int], json: bool) -> Conversation:
        """The question about answers in an order, after the system message and the examples."""
        system = self.render("system", criteria=list(self.criteria))
        turns = [{"role": "system", "content": system}] if system else []
        for number, example in enumerate(self.examples):
            answers, place = example.answers(turned=number % 2 == 1)
            said = self._option(place, len(answers), json)
            asked = self._question(example.prompt, answers, json)
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        question = self._question(ballot.conversation, [ballot.answers[i] for i in order], json)
        return [*turns, {"role": "user", "content": question}]

    def _option(self, place: int, answers: int, json: bool) -> str:
        """What a judge says that prefers the answer in a place."""
        weak = ("A>B", "B>A")[place] if self.strength else verdicts.NAMES[place]
        return dumps({"winner": weak}) if json else f"[[{weak}]]"

    def _question(self, conversation: str, answers: list[str], json: bool) -> str:
        return self.render(
            "question",
            conversation=conversation,
            answers=answers,
            names=list(verdicts.NAMES[: len(answers)]),
            options=verdicts.options(len(answers), self.ties, self.strength),
            mark=fence(conversation, *sorted(answers)),
            criteria=list(self.criteria),
            ties=self.ties,
            strength=self.strength,
            rationale=self.rationale,
            json=json,
        )


def _warn(model: str, faults: Counter[str]) -> None:
    """Say how many votes of a judge do not count, and show one."""
    if faults:
        common = faults.most_common(1)[0][0]
        _LOG.warning(
            "judge %s: %d of this shard's votes are invalid; for example %s",
            model,
            faults.total(),
            common[:300],
        )

"""Many trees at a time: their next questions go out together, their answers come back to each.

Every draw derives from (seed, step, prompt, place in the tree), so a tree is the same whatever
company it grows in, and after a crash the journal answers what was asked before.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from generators.answers.calls import Call, outcomes, results
from generators.instruction_search.scorer import Row, Score
from generators.instruction_search.tree import Proposal, Tree
from prefactory.asking import OPEN, Asker, fence, storable, transcript
from prefactory.asking.gate import Said
from prefactory.engines.base import Completion, Conversation, Failure, Message, Request
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError

_TAGS = re.compile(r"<instruction>(.*)</instruction>", re.DOTALL | re.IGNORECASE)
Use = Literal["fresh", "unseen"]
REDRAWS = 2
"""How often an answer that failed or got no score is drawn again, beyond the engine's retries."""


@dataclass
class Grown:
    """A tree and where it belongs.

    Attributes:
        row: of the table of prompts.
        key: start of the ids of its requests: prompt and step.
        conversation: the prompt.
        place: of the instruction among its messages.
        contents: what each action asks for, by its name.
        tree: the search.
        failed: iterations that failed, in order: action, reason, detail.
        failure: why the tree was given up.
        fresh: scores of fresh samples by node; they say who wins.
        unseen: scores of samples that chose nothing, by node; they say by how much.
    """

    row: int
    key: str
    conversation: list[Message]
    place: int
    contents: dict[str, str]
    tree: Tree
    failed: list[tuple[str, Failure]] = field(default_factory=list)
    failure: Failure | None = None
    fresh: dict[int, list[float]] = field(default_factory=dict)
    unseen: dict[int, list[float]] = field(default_factory=dict)

    def with_text(self, text: str) -> list[Message]:
        """The prompt with another instruction in it."""
        messages = list(self.conversation)
        messages[self.place] = {**messages[self.place], "content": text}
        return messages

    @property
    def pending(self) -> Proposal:
        """What its present iteration tries."""
        proposal = self.tree.pending
        if proposal is None:
            raise RuntimeError(f"the tree {self.key} has no iteration under way")
        return proposal

    @property
    def context(self) -> str:
        """What stands before the instruction, as text."""
        return transcript(self.conversation[: self.place])


class Measured(NamedTuple):
    """Answers to an instruction and their scores, in the order of the samples."""

    responses: list[str]
    scores: list[float]

    @property
    def distinct(self) -> int:
        """How many different answers there are."""
        return len(set(self.responses))


class Wanted(NamedTuple):
    """An instruction to measure; `row_id` tells its draws from all others."""

    grown: Grown
    text: str
    row_id: str


@dataclass
class _Open:
    """A rewrite that is not there yet."""

    place: int
    conversation: list[Message]
    reply: Completion | None = None
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Search:
    """The models of one step on one table, and the bounds of the search.

    Attributes:
        rewriter: applies a principle; its `attempts` are those of a rewrite.
        responder: answers instructions.
        score: rows of answers -> scores, in order.
        render: fills the step's prompt texts.
        iterations, samples, most_failed, keep_responses: see `InstructionSearch`.
        floor, encoder, longest: see there.
        score_against: see there.
        trained: ask the rewriter as the rows of `output: steps` do, which it was trained on.
    """

    rewriter: Asker
    responder: Asker
    score: Callable[[Sequence[Row]], list[Score]]
    render: Callable[..., str]
    iterations: int
    samples: int
    most_failed: int
    keep_responses: bool
    floor: float | None
    encoder: Encoder
    longest: tuple[float, int]
    score_against: str
    trained: bool = False

    def __post_init__(self) -> None:
        """Refuse to go on without what measures likeness; nothing is asked yet."""
        if self.floor is not None and self.rewriter.ctx.embed is None:
            raise ConfigError("floor: measuring likeness needs an encoder, and this run has none")

    def grow(self, trees: Sequence[Grown]) -> None:
        """Run the iterations of all trees, in rounds, then measure the roots."""
        while going := [g for g in trees if self._goes_on(g)]:
            texts = self._rewrites(going)
            wanted = [
                Wanted(grown, text, f"{self._at(grown)}/answer")
                for grown, text in zip(going, texts, strict=True)
                if isinstance(text, str)
            ]
            measured = iter(self.measure(wanted, self.samples))
            for grown, text in zip(going, texts, strict=True):
                outcome = text if isinstance(text, Failure) else next(measured)
                if isinstance(outcome, Failure):
                    self._bar(grown, outcome)
                else:
                    kept = outcome.responses if self.keep_responses else []
                    grown.tree.add(str(text), outcome.scores, kept, outcome.distinct)
        self._roots([g for g in trees if g.failure is None])

    def _goes_on(self, grown: Grown) -> bool:
        tree = grown.tree
        if grown.failure is not None or tree.iterations >= self.iterations:
            return False
        return tree.propose() is not None

    def _bar(self, grown: Grown, why: Failure) -> None:
        grown.failed.append((grown.pending.action, why))
        grown.tree.bar()
        if len(grown.failed) > self.most_failed:
            grown.failure = why

    def _at(self, grown: Grown) -> str:
        """Id of a tree's pending proposal: no tree makes the same twice."""
        parent, action = grown.pending
        return f"{grown.key}/{parent}/{action}"

    def _roots(self, trees: Sequence[Grown]) -> None:
        wanted = [Wanted(g, g.tree.nodes[0].text, f"{g.key}/root/answer") for g in trees]
        for grown, outcome in zip(trees, self.measure(wanted, self.samples), strict=True):
            if isinstance(outcome, Failure):
                grown.failure = outcome
            elif len(grown.tree.nodes) == 1:
                grown.failure = grown.failed[-1][1]
            else:
                kept = outcome.responses if self.keep_responses else []
                grown.tree.measure_root(outcome.scores, kept, outcome.distinct)

    # -- rewriting -----------------------------------------------------------------------------

    def _rewrites(self, trees: Sequence[Grown]) -> list[str | Failure]:
        """What the pending action of each tree makes of its node's instruction."""
        rewrites: list[str | Failure] = [Failure("no_answer", "never answered")] * len(trees)
        left = [_Open(i, self._question(g)) for i, g in enumerate(trees)]
        engine = self.rewriter.ctx.open(self.rewriter.config)
        for attempt in range(1, self.rewriter.attempts + 1):
            if not left:
                break
            ids = [f"{self._at(trees[item.place])}/{attempt}" for item in left]
            asked = [item.conversation for item in left]
            replies = engine.generate(asked, self.rewriter.sampling(), ids)
            for item, (reply,) in zip(left, replies, strict=True):
                item.reply = reply if isinstance(reply, Completion) else None
                rewrites[item.place] = _rewrite_in(reply)
            left = [item for item in left if item.reply is not None]
            self._check(left, trees, rewrites)
            left = [item for item in left if item.problem is not None]
            for item in left:
                self._correct(item, rewrites)
        return rewrites

    def _question(self, grown: Grown) -> list[Message]:
        parent, action = grown.pending
        text, context = grown.tree.nodes[parent].text, grown.context
        if self.trained:  # word for word as in its training, marks and system message left out
            asked = self.render(
                "step_task", instruction=text, context=context, principle=grown.contents[action]
            )
            return [{"role": "user", "content": asked}]
        asked = self.render(
            "rewrite", instruction=text, principle=grown.contents[action], context=context,
            mark=fence(text, context),
        )  # fmt: skip
        system: Message = {"role": "system", "content": self.render("rewrite_system")}
        return [system, {"role": "user", "content": asked}]

    def _check(
        self, items: Sequence[_Open], trees: Sequence[Grown], rewrites: list[str | Failure]
    ) -> None:
        """Say what is wrong with each rewrite, if anything is."""
        sound = []
        for item in items:
            text, grown = rewrites[item.place], trees[item.place]
            item.problem = (
                (
                    "unparseable",
                    "Return the new instruction between <instruction> and </instruction>.",
                )
                if isinstance(text, Failure)
                else self._wrong(text, grown, item.conversation)
            )
            if item.problem is None:
                sound.append(item)
        if self.floor is None or not sound:
            return
        texts = [str(rewrites[item.place]) for item in sound]
        originals = [trees[item.place].tree.nodes[0].text for item in sound]
        for item, likeness in zip(sound, self._likeness(originals, texts), strict=True):
            if likeness < self.floor:
                item.problem = (
                    "drifted",
                    "That asks for something else than the original instruction did. Keep what the "
                    "person wants, and don't answer.",
                )

    def _wrong(self, text: str, grown: Grown, asked: Conversation) -> tuple[str, str] | None:
        gate = self.rewriter.gate or OPEN
        if problem := gate.problems([Said(text, None, asked)])[0]:
            return problem[0], f"{_ADVICE.get(problem[0], _NO_REQUEST)} Return a new instruction."
        nodes = grown.tree.nodes
        folded = " ".join(text.split())
        if folded == " ".join(nodes[grown.pending.parent].text.split()):
            return "unchanged", "That is the instruction as it was. Improve it."
        if any(folded == " ".join(node.text.split()) for node in nodes):
            return "duplicate", "That was written before. Word it differently."
        times, plus = self.longest
        most = int(times * len(nodes[0].text)) + plus
        if len(text) > most:
            return "too_long", f"That is too long. Use at most {most} characters."
        return None

    def _likeness(self, originals: list[str], rewrites: list[str]) -> list[float]:
        """Cosine between the texts of n pairs."""
        embed = self.rewriter.ctx.embed
        assert embed is not None  # noqa: S101 - checked at the start
        texts = pl.Series([*originals, *rewrites], dtype=pl.String)
        vectors = np.asarray(embed(self.encoder, texts), dtype=np.float64)
        a, b = vectors[: len(originals)], vectors[len(originals) :]
        norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        cosines = np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(a)), where=norms > 0)
        return [float(x) for x in cosines]

    def _correct(self, item: _Open, rewrites: list[str | Failure]) -> None:
        """Note the refusal, and put it to the model in case there is another try."""
        assert item.problem is not None and item.reply is not None  # noqa: S101, PT018 - refused
        reason, advice = item.problem
        tries = self.rewriter.attempts
        detail = f"{advice} (asked {tries} times; last answer: {item.reply.text[:200]!r})"
        rewrites[item.place] = Failure(reason, detail)
        if self.trained:  # it knows no corrections; the next try is another draw
            return
        item.conversation += [
            {"role": "assistant", "content": item.reply.text},
            {"role": "user", "content": advice},
        ]

    # -- measuring -----------------------------------------------------------------------------

    def measure(self, wanted: Sequence[Wanted], samples: int) -> list[Measured | Failure]:
        """Have every instruction answered, and the answers scored.

        Args:
            wanted: n instructions.
            samples: answers to each.

        Returns:
            n results; a failure where an answer or a score is missing after all redraws.
        """
        scored: dict[tuple[int, int], tuple[str, float]] = {}
        failures: dict[int, Failure] = {}
        missing = list(itertools.product(range(len(wanted)), range(samples)))
        for round_ in range(1 + REDRAWS):
            answers = self._answers([(wanted[i], sample) for i, sample in missing], round_)
            again: list[tuple[int, int]] = []
            for at, answer in zip(missing, answers, strict=True):
                if isinstance(answer, Failure):
                    failures[at[0]] = answer
                    again.append(at)
                else:
                    scored[at] = answer
            missing = again
            if not missing:
                break
        lost = {i for i, _ in missing}
        outcomes: list[Measured | Failure] = []
        for i in range(len(wanted)):
            if i in lost:
                outcomes.append(failures[i])
            else:
                texts, scores = zip(*(scored[i, s] for s in range(samples)), strict=True)
                outcomes.append(Measured(list(texts), list(scores)))
        return outcomes

    def _answers(
        self, asked: Sequence[tuple[Wanted, int]], round_: int
    ) -> list[tuple[str, float] | Failure]:
        """One answer and its score for each of n instructions."""
        ctx, responder, sampling = (
            self.responder.ctx,
            self.responder.config,
            self.responder.sampling(),
        )
        calls = []
        for want, sample in asked:
            row_id = want.row_id if round_ == 0 else f"{want.row_id}/again {round_}"
            conversation = want.grown.with_text(want.text)
            calls.append(Call(want.grown.row, 0, Request(conversation, sampling, sample, row_id)))
        texts = self._texts(calls, results(ctx, [responder], calls))
        rows = [
            Row(want.grown.row, self._scored_as(want), text, responder.model)
            for (want, _), text in zip(asked, texts, strict=True)
            if isinstance(text, str)
        ]
        scores = iter(self.score(rows))
        scored: list[tuple[str, float] | Failure] = []
        for text in texts:
            score = text if isinstance(text, Failure) else next(scores)
            scored.append(score if isinstance(score, Failure) else (str(text), score))
        return scored

    def _texts(
        self, calls: Sequence[Call], replies: Sequence[Completion | Failure]
    ) -> list[str | Failure]:
        """The text of each answer, or what the gate says of it."""
        gate = self.responder.gate or OPEN
        answers = outcomes(calls, replies, [self.responder.config.model], gate)
        return [
            Failure(reason, detail) if reason else text
            for text, _, reason, detail in answers.iter_rows()
        ]

    def _scored_as(self, want: Wanted) -> Conversation:
        """The prompt that an answer is scored as an answer to."""
        original = self.score_against == "original"
        return want.grown.conversation if original else want.grown.with_text(want.text)

    def freshen(self, trees: Sequence[tuple[Grown, Sequence[int]]], samples: int, use: Use) -> None:
        """Measure nodes once more, with samples that the search has not seen.

        A node that can't be measured gets no such scores.

        Args:
            trees: with places of nodes.
            samples: answers to each.
            use: what the scores are for; each use has samples of its own.
        """
        targets = [(grown, place) for grown, nodes in trees for place in sorted(set(nodes))]
        wanted = [
            Wanted(grown, grown.tree.nodes[place].text, f"{grown.key}/{place}/{use}")
            for grown, place in targets
        ]
        for (grown, place), outcome in zip(targets, self.measure(wanted, samples), strict=True):
            if isinstance(outcome, Measured):
                (grown.fresh if use == "fresh" else grown.unseen)[place] = outcome.scores


_NO_REQUEST = "That is no instruction."
_ADVICE = {
    "empty_answer": "The new instruction is empty.",
    "refuses": "That is a refusal; the instruction is only to be worded better.",
    "run_on": "That says the same again and again.",
}
"""What a rewriter is told of text that the gate does not let through."""


def means(scores: dict[int, list[float]]) -> dict[int, float]:
    """Mean of each node's scores."""
    return {place: math.fsum(values) / len(values) for place, values in scores.items()}


def _rewrite_in(reply: Completion | Failure) -> str | Failure:
    """The rewrite in a rewriter's answer."""
    if isinstance(reply, Failure):
        return reply
    tagged = _TAGS.search(reply.text)
    if tagged is None:
        return Failure("unparseable", f"no tags in {reply.text[:200]!r}")
    return storable(tagged.group(1).strip())

"""Many trees at a time: their next questions go out together, their answers come back to each.

Every draw derives from (seed, step, prompt, place in the tree), so a tree is the same whatever
company it grows in, and after a crash the journal answers what was asked before.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from generators.answers.calls import Call, results
from generators.instruction_search.scorer import Row, mark, transcript
from generators.instruction_search.tree import Proposal, Tree
from prefactory.context import Context
from prefactory.engines.base import Completion, Conversation, Failure, Message, Request, Sampling
from prefactory.errors import ConfigError

if TYPE_CHECKING:
    from generators.instruction_search.step import InstructionSearch

_TAGS = re.compile(r"<instruction>(.*)</instruction>", re.DOTALL | re.IGNORECASE)
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
        fresh: fresh scores by node.
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

    def with_text(self, text: str) -> list[Message]:
        """The prompt with another instruction in it."""
        found = list(self.conversation)
        found[self.place] = {**found[self.place], "content": text}
        return found

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
    said: Completion | None = None
    problem: tuple[str, str] | None = None


class Search:
    """The models of one step on one table."""

    def __init__(self, step: InstructionSearch, table: pl.DataFrame, ctx: Context) -> None:
        """Take the settings of the step; nothing is asked yet."""
        self.step, self.table, self.ctx = step, table, ctx
        if step.floor is not None and ctx.embed is None:
            raise ConfigError("floor: measuring likeness needs an encoder, and this run has none")
        self._rewriter: Message = {"role": "system", "content": step.render("rewrite_system")}

    def grow(self, trees: Sequence[Grown]) -> None:
        """Run the iterations of all trees, in rounds, then measure the roots."""
        while going := [g for g in trees if self._goes_on(g)]:
            texts = self._rewrites(going)
            made = [(g, t) for g, t in zip(going, texts, strict=True) if isinstance(t, str)]
            wanted = [Wanted(g, text, f"{self._at(g)}/answer") for g, text in made]
            measured = iter(self.measure(wanted, self.step.samples))
            for grown, text in zip(going, texts, strict=True):
                found = text if isinstance(text, Failure) else next(measured)
                if isinstance(found, Failure):
                    self._bar(grown, found)
                else:
                    kept = found.responses if self.step.keep_responses else []
                    grown.tree.add(str(text), found.scores, kept)
        self._roots([g for g in trees if g.failure is None])

    def _goes_on(self, grown: Grown) -> bool:
        tree = grown.tree
        if grown.failure is not None or tree.iterations >= self.step.iterations:
            return False
        return tree.propose() is not None

    def _bar(self, grown: Grown, why: Failure) -> None:
        grown.failed.append((grown.pending.action, why))
        grown.tree.bar()
        if len(grown.failed) > self.step.most_failed:
            grown.failure = why

    def _at(self, grown: Grown) -> str:
        """Id of a tree's pending proposal: no tree makes the same twice."""
        parent, action = grown.pending
        return f"{grown.key}/{parent}/{action}"

    def _roots(self, trees: Sequence[Grown]) -> None:
        wanted = [Wanted(g, g.tree.nodes[0].text, f"{g.key}/root/answer") for g in trees]
        for grown, found in zip(trees, self.measure(wanted, self.step.samples), strict=True):
            if isinstance(found, Failure):
                grown.failure = found
            elif len(grown.tree.nodes) == 1:
                grown.failure = grown.failed[-1][1]
            else:
                kept = found.responses if self.step.keep_responses else []
                grown.tree.measure_root(found.scores, kept)

    # -- rewriting -----------------------------------------------------------------------------

    def _rewrites(self, trees: Sequence[Grown]) -> list[str | Failure]:
        """What the pending action of each tree makes of its node's instruction."""
        found: list[str | Failure] = [Failure("no_answer", "never answered")] * len(trees)
        left = [_Open(i, self._question(g)) for i, g in enumerate(trees)]
        sampling = Sampling(
            temperature=self.step.rewriter_temperature,
            top_p=self.step.rewriter_top_p,
            max_tokens=self.step.rewriter_max_tokens,
            seed=self.ctx.seed,
        )
        for attempt in range(1, self.step.tries + 1):
            if not left:
                break
            calls = [
                Call(
                    0,
                    0,
                    Request(o.conversation, sampling, 0, f"{self._at(trees[o.place])}/{attempt}"),
                )
                for o in left
            ]
            replies = results(self.ctx, [self.step.rewriter], calls)
            for item, reply in zip(left, replies, strict=True):
                item.said = reply if isinstance(reply, Completion) else None
                found[item.place] = _read(reply)
            left = [o for o in left if o.said is not None]
            self._check(left, trees, found)
            left = [o for o in left if o.problem is not None]
            for item in left:
                self._correct(item, found)
        return found

    def _question(self, grown: Grown) -> list[Message]:
        parent, action = grown.pending
        text, context = grown.tree.nodes[parent].text, grown.context
        asked = self.step.render(
            "rewrite", instruction=text, principle=grown.contents[action], context=context,
            mark=mark(text, context),
        )  # fmt: skip
        return [self._rewriter, {"role": "user", "content": asked}]

    def _check(
        self, items: Sequence[_Open], trees: Sequence[Grown], found: list[str | Failure]
    ) -> None:
        """Say what is wrong with each rewrite, if anything is."""
        sound = []
        for item in items:
            text, grown = found[item.place], trees[item.place]
            item.problem = (
                (
                    "unparseable",
                    "Return the new instruction between <instruction> and </instruction>.",
                )
                if isinstance(text, Failure)
                else self._wrong(text, grown)
            )
            if item.problem is None:
                sound.append(item)
        if self.step.floor is None or not sound:
            return
        texts = [str(found[item.place]) for item in sound]
        originals = [trees[item.place].tree.nodes[0].text for item in sound]
        for item, likeness in zip(sound, self._likeness(originals, texts), strict=True):
            if likeness < self.step.floor:
                item.problem = (
                    "drifted",
                    "That asks for something else than the original instruction did. Keep what the "
                    "person wants, and don't answer.",
                )

    def _wrong(self, text: str, grown: Grown) -> tuple[str, str] | None:
        nodes = grown.tree.nodes
        folded = " ".join(text.split())
        if not folded:
            return "empty", "The new instruction is empty."
        if folded == " ".join(nodes[grown.pending.parent].text.split()):
            return "unchanged", "That is the instruction as it was. Improve it."
        if any(folded == " ".join(node.text.split()) for node in nodes):
            return "duplicate", "That was written before. Word it differently."
        times, plus = self.step.longest
        most = int(times * len(nodes[0].text)) + plus
        if len(text) > most:
            return "too_long", f"That is too long. Use at most {most} characters."
        return None

    def _likeness(self, one: list[str], other: list[str]) -> list[float]:
        """Cosine between the texts of n pairs."""
        assert self.ctx.embed is not None  # noqa: S101 - checked at the start
        texts = pl.Series([*one, *other], dtype=pl.String)
        vectors = np.asarray(self.ctx.embed(self.step.encoder, texts), dtype=np.float64)
        a, b = vectors[: len(one)], vectors[len(one) :]
        norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        found = np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(one)), where=norms > 0)
        return [float(x) for x in found]

    def _correct(self, item: _Open, found: list[str | Failure]) -> None:
        """Note the refusal, and put it to the model in case there is another try."""
        assert item.problem is not None and item.said is not None  # noqa: S101, PT018 - refused
        reason, told = item.problem
        last = f"{told} (asked {self.step.tries} times; last answer: {item.said.text[:200]!r})"
        found[item.place] = Failure(reason, last)
        item.conversation += [
            {"role": "assistant", "content": item.said.text},
            {"role": "user", "content": told},
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
        got: dict[tuple[int, int], tuple[str, float]] = {}
        why: dict[int, Failure] = {}
        missing = list(itertools.product(range(len(wanted)), range(samples)))
        for round_ in range(1 + REDRAWS):
            answers = self._answers([(wanted[i], sample) for i, sample in missing], round_)
            again: list[tuple[int, int]] = []
            for at, answer in zip(missing, answers, strict=True):
                if isinstance(answer, Failure):
                    why[at[0]] = answer
                    again.append(at)
                else:
                    got[at] = answer
            missing = again
            if not missing:
                break
        lost = {i for i, _ in missing}
        found: list[Measured | Failure] = []
        for i in range(len(wanted)):
            if i in lost:
                found.append(why[i])
            else:
                texts, scores = zip(*(got[i, s] for s in range(samples)), strict=True)
                found.append(Measured(list(texts), list(scores)))
        return found

    def _answers(
        self, asked: Sequence[tuple[Wanted, int]], round_: int
    ) -> list[tuple[str, float] | Failure]:
        """One answer and its score for each of n instructions."""
        step = self.step
        sampling = Sampling(
            temperature=step.temperature,
            top_p=step.top_p,
            max_tokens=step.max_tokens,
            stop=step.stop,
            seed=self.ctx.seed,
        )
        calls = []
        for want, sample in asked:
            row_id = want.row_id if round_ == 0 else f"{want.row_id}/again {round_}"
            conversation = want.grown.with_text(want.text)
            calls.append(Call(want.grown.row, 0, Request(conversation, sampling, sample, row_id)))
        texts = [_said(reply) for reply in results(self.ctx, [step.responder], calls)]
        rows = [
            Row(want.grown.row, self._scored_as(want), text, step.responder.model)
            for (want, _), text in zip(asked, texts, strict=True)
            if isinstance(text, str)
        ]
        scores = iter(step.scorer.scores(rows, self.table, step.render, self.ctx))
        found: list[tuple[str, float] | Failure] = []
        for text in texts:
            score = text if isinstance(text, Failure) else next(scores)
            found.append(score if isinstance(score, Failure) else (str(text), score))
        return found

    def _scored_as(self, want: Wanted) -> Conversation:
        """The prompt that an answer is scored as an answer to."""
        original = self.step.score_against == "original"
        return want.grown.conversation if original else want.grown.with_text(want.text)

    def freshen(self, trees: Sequence[tuple[Grown, Sequence[int]]], samples: int) -> None:
        """Measure nodes once more, with samples that the search has not seen.

        A node that can't be measured gets no fresh scores.
        """
        places = [(grown, place) for grown, nodes in trees for place in sorted(set(nodes))]
        wanted = [
            Wanted(grown, grown.tree.nodes[place].text, f"{grown.key}/{place}/fresh")
            for grown, place in places
        ]
        for (grown, place), found in zip(places, self.measure(wanted, samples), strict=True):
            if isinstance(found, Measured):
                grown.fresh[place] = found.scores


def means(scores: dict[int, list[float]]) -> dict[int, float]:
    """Mean of each node's scores."""
    return {place: math.fsum(values) / len(values) for place, values in scores.items()}


def _read(reply: Completion | Failure) -> str | Failure:
    """The rewrite in a rewriter's answer."""
    if isinstance(reply, Failure):
        return reply
    found = _TAGS.search(reply.text)
    if found is None:
        return Failure("unparseable", f"no tags in {reply.text[:200]!r}")
    return _storable(found.group(1).strip())


def _said(reply: Completion | Failure) -> str | Failure:
    if isinstance(reply, Failure):
        return reply
    text = _storable(reply.text).strip()
    return text or Failure("empty_answer", "nothing but white space")


def _storable(text: str) -> str:
    """A model's text with lone surrogates as "?": tables can't hold them."""
    return text.encode("utf-8", "replace").decode()

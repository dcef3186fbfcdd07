"""Retrieve, align, refine: claims of a draft are held against a corpus; what fails is mended."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from generators.answers.step import Origin
from generators.evidence.aligning import Claim, Held, by_judge, by_rule, hand_up
from generators.evidence.claims import account, claim_spans, numbers_of, replaced, words_of
from generators.evidence.corpus import Corpus, CorpusSource, Retrievers, checked, open_corpus
from generators.made_rows import ORIGINS, Column, children, sides, text_column
from generators.rag.rules import made_false, other_number
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Task,
    fence,
    lost,
    missed,
    open_tasks,
    request_text,
    storable,
)
from prefactory.asking.forms import after_thoughts
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Message
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape

Contrast = Literal["refined", "swapped_evidence"]

CLAIM: pl.DataType = pl.Struct(
    {
        "claim": pl.Int32,
        "start": pl.Int32,
        "end": pl.Int32,
        "passage_ids": pl.List(pl.String),
        "verdict": pl.String,
        "verdict_source": pl.String,
        "similarity": pl.Float32,
        "evidence_id": pl.String,
        "evidence": pl.String,
        "refined": pl.String,
        "refined_verdict": pl.String,
        "round": pl.Int8,
    }
)
"""A claim of the draft, from 0: its place in characters, the passages that were looked up, what
they say of it (`supported`, `contradicted`, `absent`; said by `judge` or `rule`), the cosine of
claim and deciding passage, that passage and its deciding words; and what stands in its place
(null: itself; empty: nothing), what the passages say of that, and the round of it (0: none)."""

_RANK = {"contradicted": 0, "absent": 1, "supported": 2}
_TEXTS = "generators/evidence/prompts"
_CLAIMS = 8
"""Claims that `plan` takes a draft to have."""
_NAME = re.compile(r"(?<=\w )[A-Z][a-z]+")


@dataclass(kw_only=True)
class Draft(Task):
    """One prompt from draft to refined answer.

    Attributes:
        prompt: the conversation.
        draft: an answer.
        seed: of what is drawn for it.
        claims: of it.
        refined: the answer with other claims.
    """

    prompt: list[Message]
    draft: str = ""
    seed: int = 0
    claims: list[Claim] = field(default_factory=list)
    refined: str = ""

    @property
    def text(self) -> str:
        """What is asked."""
        return request_text(self.prompt)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Places of the claims in the draft."""
        return [(c.start, c.end) for c in self.claims]

    def mended(self) -> list[Claim]:
        """Claims that were contradicted and are supported."""
        return [c for c in self.claims
                if c.first.verdict == "contradicted" and c.now.verdict == "supported"]  # fmt: skip


@dataclass(kw_only=True)
class Made(Task):
    """One pair of a draft."""

    draft: Draft
    contrast: Contrast
    chosen: str = ""
    rejected: str = ""


class RetrieveAlignRefine(Gated, Prompted, Asking, Generator):
    """Hold each claim of a draft against a corpus, and mend those that it contradicts.

    After "unify, align, refine" (arXiv:2303.15932). A draft is cut into claims, its sentences. For
    each, passages are looked up by words (BM25) and by sentence vectors, whose rankings are fused
    (reciprocal rank fusion). They support the claim, contradict it, or it is absent from them. A
    `judge` says so, with the passages in both orders; what it does not say twice, with words of a
    passage, is absent. Without one, a rule of names, rare words, numbers and negations does
    (`generators.evidence.claims.align`, ours). Only claims that fail are written again, one by one,
    and aligned again; all other characters of the draft stay as they are.

    A pair is made where a contradicted claim became supported, none became worse, and the lengths
    are within `length_ratio`. What is rejected:

    - `refined`: the draft.
    - `swapped_evidence`: the refined answer with one mended claim written from a passage that was
      made false (another number or name in it, or the passage of another claim), kept only if the
      true passages contradict it. The two answers differ in that claim alone.

    The label means "agrees with the corpus", not "true": a passage that was copied from a draft
    supports all of it.

    New columns: `contrast`, `draft`, `claims` (a list of `generators.evidence.step.CLAIM`: each
    claim with its citation), `contradicted_claims`, `absent_claims` (Int64, of the draft) and the
    sides' origins.

    Reasons: `no_draft`, `no_claims`, `nothing_to_mend` (no claim is contradicted),
    `still_contradicted` (after `rounds`), `not_supported` (contradicted no more, but not
    supported), `became_worse`, `length_ratio`, `no_swap` (nothing to exchange), `swap_not_false`,
    `same_text`, those of the gate and of the engines.

    Attributes:
        model: drafts, and writes claims again.
        corpus: a path, or `{path, text, id}`.
        draft: column with a draft (a text); null: `model` writes it.
        judge: aligns; null: the rule.
        retrievers: `bm25` and `encoders`, one retriever each.
        query: what is looked up: the `claim`, or `with_prompt`, where claims say "it" and "she".
        passages: of a claim, at most.
        absent: what becomes of claims that no passage decides: `keep`, `hedge` (written again) or
            `drop`.
        rounds: how often a claim is written again.
        contrasts: which pairs are made.
        length_ratio: of the refined answer to the draft, least and greatest.
        origin: of the answers.

    Example:
        - generators.RetrieveAlignRefine:
            model: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
            corpus: passages.jsonl
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("prompt_id",)
    templates: ClassVar = {
        "align": Text(f"{_TEXTS}/align.j2", ("prompt", "claim", "passages", "mark")),
        "refine": Text(f"{_TEXTS}/refine.j2", ("prompt", "claim", "passages", "hedge", "mark")),
    }

    model: AnyEngine
    corpus: CorpusSource
    draft: str | None = None
    judge: AnyEngine | None = None
    retrievers: Retrievers = Retrievers()
    query: Literal["claim", "with_prompt"] = "claim"
    passages: int = Field(default=5, ge=1)
    absent: Literal["keep", "hedge", "drop"] = "keep"
    rounds: int = Field(default=2, ge=1)
    contrasts: tuple[Contrast, ...] = Field(default=("refined",), min_length=1)
    length_ratio: tuple[float, float] = (0.8, 1.25)
    origin: Origin = "open_model"

    def identity(self) -> dict[str, Any]:
        """As of any step, with what stands in the corpus instead of its place."""
        identity = super().identity()
        return {**identity, "fields": {**identity["fields"], "corpus": checked(self.corpus).digest}}

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The draft; reads the corpus, so that what is wrong with it is found before a run."""
        checked(self.corpus)
        return {self.draft: pl.String()} if self.draft else {}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """What is contrasted, and each claim with its citation."""
        text, count = pl.String(), pl.Int64()
        return {"contrast": text, "draft": text, "claims": pl.List(CLAIM),
                "contradicted_claims": count, "absent_claims": count, **ORIGINS}  # fmt: skip

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A draft; two alignments of each of 8 claims, and of a quarter that are written again."""
        tokens = QUESTION_TOKENS + self.passages * QUESTION_TOKENS // 2
        again = rows * _CLAIMS // 4 * (1 + ("swapped_evidence" in self.contrasts))
        drafts = (
            []
            if self.draft
            else [Asks(self.model, rows, QUESTION_TOKENS, self.sampling.max_tokens)]
        )
        asks = [*drafts, Asks(self.model, again, tokens, FORM_TOKENS)]
        if self.judge is not None:
            asks.append(Asks(self.judge, 2 * (rows * _CLAIMS + again), tokens, FORM_TOKENS))
        return asks

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A pair per contrast."""
        return rows * len(set(self.contrasts)), prompts

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of a table's prompts.

        Args:
            table: PROMPTS.
            ctx: opens models and encoders; draws by prompt id.

        Returns:
            PAIRS in canonical order, and the prompts without a pair.
        """
        corpus = open_corpus(self.corpus)
        align = partial(self._align, corpus=corpus, ctx=ctx)
        drafts = self._drafts(table, ctx)
        self._look_up(open_tasks(drafts), corpus, ctx)
        for held in align([_held(d, c, c.text) for d in open_tasks(drafts) for c in d.claims]):
            held.claim.first = held.claim.now = held.alignment
        for draft in open_tasks(drafts):
            if not any(c.first.verdict == "contradicted" for c in draft.claims):
                draft.fail("nothing_to_mend", "no claim is contradicted")
        for number in range(1, self.rounds + 1):
            written = self._refined(open_tasks(drafts), number, ctx)
            for held in align(written):
                held.claim.refined, held.claim.now = held.text, held.alignment
                held.claim.round = number
        for draft in open_tasks(drafts):
            self._finish(draft)
        made = self._made(open_tasks(drafts), ctx, align)
        tasks: list[Task] = [*(d for d in drafts if d.reason is not None), *made]
        return Generated(self._rows(table, open_tasks(made)), lost(table["prompt_id"], tasks),
                         missed(tasks))  # fmt: skip

    def _drafts(self, table: pl.DataFrame, ctx: Context) -> list[Draft]:
        """The drafts, cut into claims."""
        given = table[self.draft].to_list() if self.draft else [""] * table.height
        seeds = (ctx.uniform(table["prompt_id"], "swap") * 2**53).cast(pl.UInt64)
        columns = zip(table["prompt_id"], table["prompt"].to_list(), given, seeds, strict=True)
        drafts = [
            Draft(row, key, prompt=prompt, draft=draft or "", seed=seed)
            for row, (key, prompt, draft, seed) in enumerate(columns)
        ]

        def take(draft: Draft, text: str) -> None:
            draft.draft = text

        if self.draft is None:
            self.asker(ctx, self.model).texts(drafts, "draft", lambda d: d.prompt, take)
        for draft in open_tasks(drafts):
            spans = claim_spans(draft.draft)
            draft.claims = [Claim(i, a, b, draft.draft[a:b]) for i, (a, b) in enumerate(spans)]
            if not draft.draft.strip():
                draft.fail("no_draft", f"the column {self.draft} has no text")
            elif not spans:
                draft.fail("no_claims", f"no sentence that states something: {draft.draft[:100]!r}")
        return drafts

    def _look_up(self, drafts: Sequence[Draft], corpus: Corpus, ctx: Context) -> None:
        owned = [(draft, claim) for draft in drafts for claim in draft.claims]
        if not owned:
            return
        whole = self.query == "with_prompt"
        queries = [f"{d.text}\n{c.text}" if whole else c.text for d, c in owned]
        found = self.retrievers.search(corpus, queries, ctx, self.passages)
        for (_, claim), passages in zip(owned, found, strict=True):
            claim.show(corpus, passages)

    def _align(self, held: Sequence[Held], corpus: Corpus, ctx: Context) -> list[Held]:
        """Align texts with the passages of their claims; those that could be."""
        if self.judge is None:
            by_rule(held, corpus, self.retrievers, ctx)
        else:
            judge = self.asker(ctx, self.judge, greedy=True)
            by_judge(held, judge, partial(self.render, "align"), self.retrievers, ctx)
        return hand_up(held)

    def _refined(self, drafts: Sequence[Draft], number: int, ctx: Context) -> list[Held]:
        """New texts of the claims that fail, with the passages that were looked up."""
        held = []
        for draft in drafts:
            for claim in draft.claims:
                undecided = self.absent != "keep" and claim.now.verdict == "absent" and number == 1
                if undecided and self.absent == "drop":
                    claim.refined, claim.round = "", number
                elif undecided or claim.now.verdict == "contradicted":
                    own = claim.text if claim.refined is None else claim.refined
                    held.append(replace(_held(draft, claim, own), shown=claim.passages))
        return self._write(held, f"refine {number}", ctx)

    def _write(self, held: Sequence[Held], stage: str, ctx: Context) -> list[Held]:
        """Let the model write texts again from the passages shown."""

        def question(one: Held) -> str:
            mark = fence(one.request, one.text, *one.shown)
            hedge = one.claim.now.verdict == "absent"
            return self.render("refine", prompt=one.request, claim=one.text, passages=one.shown,
                               hedge=hedge, mark=mark)  # fmt: skip

        def take(one: Held, text: str) -> None:
            one.text = text

        self.asker(ctx, self.model).parsed(held, stage, _one_line, question, take, written=str)
        return hand_up(held)

    def _finish(self, draft: Draft) -> None:
        """Put the new claims in their places, or say why there is no pair."""
        worse = [c for c in draft.claims if _RANK[c.now.verdict] < _RANK[c.first.verdict]]
        wrong = [c for c in draft.claims if c.now.verdict == "contradicted"]
        if worse or wrong:
            reason = "became_worse" if worse else "still_contradicted"
            draft.fail(
                reason, f"claim {(worse or wrong)[0].number}: {(worse or wrong)[0].refined!r}"
            )
            return
        if not draft.mended():
            draft.fail("not_supported", "no contradicted claim is supported now")
            return
        draft.refined = _whole(draft, {})
        self._fits(draft, draft.refined, draft.draft)

    def _fits(self, task: Task, one: str, other: str) -> None:
        """Fail a task whose texts differ too much in length, or not at all."""
        least, most = self.length_ratio
        if one == other:
            task.fail("same_text", "both answers say the same")
        elif not least <= len(one) / max(1, len(other)) <= most:
            task.fail("length_ratio", f"{len(one)} and {len(other)} characters")

    def _made(
        self, drafts: Sequence[Draft], ctx: Context, align: Callable[[Sequence[Held]], list[Held]]
    ) -> list[Made]:
        made = [
            Made(d.row, f"{d.key}/{c}", draft=d, contrast=c, chosen=d.refined, rejected=d.draft)
            for d in drafts
            for c in dict.fromkeys(self.contrasts)
        ]
        held = []
        for pair in made:
            if pair.contrast == "swapped_evidence":
                claim = pair.draft.mended()[0]
                false = _made_false(pair.draft, claim)
                if false is None:
                    pair.fail("no_swap", f"nothing to exchange for claim {claim.number}")
                else:
                    one = Held(pair.row, pair.key, owner=pair, request=pair.draft.text, claim=claim,
                               text=claim.text, shown=[false])  # fmt: skip
                    held.append(one)
        pairs = {id(pair): pair for pair in made}
        for one in align(self._write(held, "swap", ctx)):
            pair = pairs[id(one.owner)]
            pair.rejected = _whole(pair.draft, {one.claim.number: one.text})
            if one.alignment.verdict != "contradicted":
                pair.fail("swap_not_false", f"{one.alignment.verdict}: {one.text!r}")
            elif pair.rejected == pair.draft.draft:
                pair.fail("same_text", "the swapped claim is that of the draft")
            else:
                self._fits(pair, pair.chosen, pair.rejected)
        return made

    def _rows(self, table: pl.DataFrame, fine: Sequence[Made]) -> pl.DataFrame:
        drafts = [pair.draft for pair in fine]
        source = "rule" if self.judge is None else "judge"
        name = self.model.model
        own = [self.draft is None or pair.contrast != "refined" for pair in fine]
        new: dict[str, Column] = {
            "contrast": text_column([pair.contrast for pair in fine]),
            "draft": text_column([d.draft for d in drafts]),
            **sides(
                [(p.chosen, p.rejected) for p in fine],
                [(name, name if mine else None) for mine in own],
                (self.origin, self.origin),
                source,
            ),
            "rejected_origin": text_column([self.origin if mine else None for mine in own]),
            "claims": (pl.List(CLAIM), [[_told(c, source) for c in d.claims] for d in drafts]),
            "contradicted_claims": (pl.Int64(), [_count(d, "contradicted") for d in drafts]),
            "absent_claims": (pl.Int64(), [_count(d, "absent") for d in drafts]),
        }
        return children(table, [pair.row for pair in fine], new, Shape.PAIRS)


def _held(draft: Draft, claim: Claim, text: str) -> Held:
    key = f"{draft.key}/{claim.number}"
    return Held(draft.row, key, owner=draft, request=draft.text, claim=claim, text=text)


def _whole(draft: Draft, other: dict[int, str]) -> str:
    """The draft with the new texts of its claims, some exchanged; all else is as it was."""
    new = {c.number: c.refined for c in draft.claims if c.refined is not None} | other
    whole, places = replaced(draft.draft, draft.spans, new)
    untouched = account(draft.draft, draft.spans, set(new))
    assert untouched == account(whole, places, set(new))  # noqa: S101 - what this step promises
    return whole


def _one_line(text: str) -> str:
    """Read a sentence that was written again.

    Raises:
        ValueError: a sentence for the model.
    """
    lines = [line.strip() for line in storable(after_thoughts(text)).splitlines() if line.strip()]
    if len(lines) != 1:
        raise ValueError("Reply with the new sentence only, on one line.")
    return lines[0]


def _made_false(draft: Draft, claim: Claim) -> str | None:
    """A passage that says something else than the one that decides: another number or name.

    What the refinement changed is exchanged first, for what stands in the other passages of the
    claim if that can be; where nothing can be exchanged, it is the best passage of another claim.
    """
    rng = np.random.Generator(np.random.Philox(key=[draft.seed, claim.number]))
    passage = claim.passages[claim.now.passage or 0]
    refined = claim.refined or claim.text
    own = numbers_of(refined) & numbers_of(passage)
    known_numbers = numbers_of(passage) | numbers_of(refined) | numbers_of(claim.text)
    others = {n for p in claim.passages for n in numbers_of(p)} - known_numbers
    for number in sorted(own, key=lambda n: (n in numbers_of(claim.text), n)):
        like = sorted(n for n in others if len(n) == len(number))
        drawn = like[int(rng.integers(len(like)))] if like else other_number(number, rng)
        false = made_false(passage, number, drawn or number)
        if false is not None:
            return false
    known = words_of(passage) | words_of(refined) | words_of(claim.text)
    strangers = sorted({n for p in claim.passages for n in _NAME.findall(p)
                        if n.casefold() not in known})  # fmt: skip
    names = {n for n in _NAME.findall(refined) if n.casefold() in words_of(passage)}
    for name in sorted(names, key=lambda n: (n.casefold() in words_of(claim.text), n)):
        if strangers:
            return made_false(passage, name, strangers[int(rng.integers(len(strangers)))])
    best = [c.passages[0] for c in draft.claims if c is not claim and c.passages]
    return next((p for p in best if p not in claim.passages), None)


def _told(claim: Claim, source: str) -> dict[str, Any]:
    """A claim as `CLAIM`."""
    said, again = claim.first, claim.refined is not None
    return {
        "claim": claim.number,
        "start": claim.start,
        "end": claim.end,
        "passage_ids": claim.ids,
        "verdict": said.verdict,
        "verdict_source": source,
        "similarity": None if np.isnan(said.similarity) else said.similarity,
        "evidence_id": None if said.passage is None else claim.ids[said.passage],
        "evidence": said.evidence or None,
        "refined": claim.refined,
        "refined_verdict": claim.now.verdict if again else None,
        "round": claim.round,
    }


def _count(draft: Draft, verdict: str) -> int:
    return sum(c.first.verdict == verdict for c in draft.claims)

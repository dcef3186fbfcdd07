"""Pairs of answers from documents, in four situations (RAG-RewardBench)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from generators.answers.step import Origin
from generators.evidence.corpus import CorpusSource, Retrievers, checked, open_corpus
from generators.made_rows import PARENT
from generators.rag.cases import Answer, Case, Source, Try, adds, cases_of, decide, given, rows_of
from generators.rag.citations import cited_claims, claim_f1
from generators.rag.rules import (
    SITUATIONS,
    Situation,
    abstains,
    has,
    second_signal,
    signal,
    yes_or_no,
)
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Jury,
    fence,
    lost,
    missed,
    open_tasks,
)
from prefactory.asking.forms import Form
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.configs import AnyEngine
from prefactory.measures.refusals import refuses
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape

_TEXTS = "generators/rag/prompts"
_RATING = Form({"reason": "maybe", "score": range(1, 6)})


class RAGPairs(Gated, Prompted, Asking, Generator):
    """Pair the best and the worst answer to a question from documents, in up to four situations.

    After RAG-RewardBench (arXiv:2412.13746), whose code of construction is not public: signals,
    texts and numbers are ours. Each row has a question (its prompt), a right answer, and documents,
    some of which hold it. The source must `carry` these columns: a column named `documents` would
    become part of the prompt else. Situations:

    - `multi_hop`: two documents or more are needed. With `verifier` a model answers from all that
      hold the answer, and from them without one in turn: it must say the right answer with all, and
      with none left out (after MuSiQue, arXiv:2108.00573).
    - `citation`: documents must be cited, as [1]. Each claim of an answer is held against those
      that it cites (`generators.rag.citations`).
    - `abstention`: the documents that hold the answer are taken away; saying so is right, even if a
      model knows the answer.
    - `conflict`: a copy of a document says something else: `wrong`, or another number.

    With a `corpus` the documents that stand beside those that hold the answer are passages that
    several retrievers find for the question (`retrievers`, fused by rank); passages that hold it
    too are not shown.

    Several models answer. A rule gives each answer a signal in [0, 1] (see
    `generators.rag.rules.signal`), each judge a rating from 1 to 5. The pair of best and worst mean
    rating stays if every judge puts them in that order, the signals do not contradict, the mean
    ratings differ by `min_margin`, and the lengths by less than `length_ratio`. Without judges the
    signals decide: they must differ by `min_signal`, and a second one of other words must put the
    two in the same order (`generators.rag.rules.second_signal`); `label_source` is `rule` then.

    New columns: `source_prompt_id`, `situation`, `question`, `references` (List[String], as shown),
    `reference_ids` (List[String], ids of passages of the corpus, null for the row's own),
    `gold_numbers` (List[Int64], from 1), `verified` (Boolean, null where nobody tried),
    `chosen_citations`, `rejected_citations` (`generators.rag.citations.CITED`, null but for
    `citation`), `wrong_answer` (null but in conflicts), `failures` (the
    row's other situations that came to nothing, and why), `chosen_judges`, `rejected_judges`
    (List[Float64]), `chosen_score_signal`, `rejected_score_signal`, `margin` and the sides'
    origins.

    Reasons, for rows without a pair, that of their first situation: `too_few_gold`,
    `no_other_documents`, `no_counterfactual`, `single_hop` (a document is not needed),
    `not_answerable` (not even all are enough), `not_verifiable` (yes or no), `too_few_answers`,
    `judges_disagree`, `small_margin`, `signals_contradict`, `length_ratio`, `same_text`, and where
    no judge is named `yes_no` (the right answer is yes or no) and `one_signal` (a second,
    independent signal does not agree).

    Attributes:
        models: what answers.
        n: answers of each model.
        judge: what rates, one engine or a list; none: the signals decide.
        situations: which are made.
        gold, documents, gold_documents, wrong: columns with the right answer (a text, or a list of
            texts that all are right), the documents (list of texts), the places of those that hold
            it (list of numbers, from 0), and a wrong answer (a text, used if the column is there).
        corpus: of passages to stand beside, a path, or `{path, text, id}`; null: the row's own.
        retrievers: of the passages: `bm25` and `encoders`, one retriever each.
        verifier: tries whether a `multi_hop` question needs all its documents; null: nobody does.
        shown: documents that are shown, at most; those that hold the answer first to stay.
        min_margin: of the mean ratings.
        min_signal: difference of the signals, where there is no judge (our choice).
        length_ratio: of the longer answer to the shorter, in characters; the pair needs less.
        origin: of the answers.

    Example:
        # source: {path: questions.jsonl, layout: prompts, carry: [gold, documents, gold_documents]}
        - generators.RAGPairs:
            models: [{engine: server, base_url: 'http://localhost:8000/v1', model: writer}]
            n: 2
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    version: ClassVar[int] = 3
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = {
        "prompt": Text(f"{_TEXTS}/prompt.j2", ("documents", "question", "scenario")),
        "judge": Text(f"{_TEXTS}/judge.j2", ("scenario", "gold", "prompt", "answer", "mark")),
    }

    models: tuple[AnyEngine, ...] = Field(min_length=1)
    n: int = Field(default=1, ge=1)
    judge: Jury = ()
    situations: tuple[Situation, ...] = Field(default=SITUATIONS, min_length=1)
    gold: str = "gold"
    documents: str = "documents"
    gold_documents: str = "gold_documents"
    wrong: str = "wrong"
    corpus: CorpusSource | None = None
    retrievers: Retrievers = Retrievers()
    verifier: AnyEngine | None = None
    shown: int = Field(default=5, ge=2)
    min_margin: float = Field(default=1.0, gt=0)
    min_signal: float = Field(default=0.5, gt=0, le=1)
    length_ratio: float = Field(default=2.0, gt=1)
    origin: Origin = "open_model"

    @model_validator(mode="after")
    def _validate_number(self) -> Self:
        if len(self.models) * self.n < 2:
            raise ValueError("models: a pair needs two answers; name two models, or n: 2")
        return self

    def identity(self) -> dict[str, Any]:
        """As of any step, with what stands in the corpus instead of its place."""
        identity = super().identity()
        if self.corpus is None:
            return identity
        return {**identity, "fields": {**identity["fields"], "corpus": checked(self.corpus).digest}}

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The documents; answer and places may be of several types and are checked as they come."""
        if self.corpus is not None:
            checked(self.corpus)
        return {self.documents: pl.List(pl.String)}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """What was shown and how it was rated."""
        return adds()

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """An answer per situation, model and sample; a rating of each by every judge."""
        cases = rows * len(self.situations)
        tokens = QUESTION_TOKENS * self.shown // 2
        asks = [Asks(m, cases * self.n, tokens, self.sampling.max_tokens) for m in self.models]
        rated = cases * self.n * len(self.models)
        if self.verifier is not None and "multi_hop" in self.situations:
            asks.append(Asks(self.verifier, 3 * rows, tokens, self.sampling.max_tokens))
        return [*asks, *(Asks(j, rated, tokens + self.sampling.max_tokens, FORM_TOKENS)
                          for j in self.judge)]  # fmt: skip

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A pair per situation."""
        return rows * len(self.situations), rows * len(self.situations)

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of a table's questions.

        Args:
            table: PROMPTS with the columns named above.
            ctx: opens the models; draws by prompt id and situation.

        Returns:
            PAIRS in canonical order, and the rows without a pair.

        Raises:
            DataError: a column is missing, null, or names a document that there is not.
        """
        cases = [
            case
            for source in self._sources(table, ctx)
            for case in cases_of(source, self.situations, self.shown)
        ]
        for case in open_tasks(cases):
            case.prompt = self._prompt(case, case.documents)
        if self.verifier is not None:
            self._verify([c for c in open_tasks(cases) if c.situation == "multi_hop"], ctx)
        answers = self._answers(open_tasks(cases), ctx)
        self._rate(answers, ctx)
        by_case: dict[int, list[Answer]] = {}
        for answer in answers:
            by_case.setdefault(id(answer.case), []).append(answer)
        for case in open_tasks(cases):
            decide(case, by_case[id(case)], len(self.judge), self._bounds())
        rows = rows_of(table, cases, self.origin, bool(self.judge))
        return Generated(rows, lost(table["prompt_id"], cases), missed(cases))

    def _bounds(self) -> tuple[float, float]:
        """Least margin and length ratio."""
        return (self.min_margin if self.judge else self.min_signal), self.length_ratio

    def _sources(self, table: pl.DataFrame, ctx: Context) -> list[Source]:
        """The rows as questions with answers and documents."""
        names = (self.gold, self.documents, self.gold_documents)
        wrong = table[self.wrong].to_list() if self.wrong in table.columns else [None] * len(table)
        seeds = (ctx.uniform(table["prompt_id"], "documents") * 2**53).cast(pl.UInt64).to_list()
        rows = enumerate(zip(given(table, names, ctx.step), wrong, seeds, strict=True))
        sources = [Source(row, *one, false, seed, {}) for row, (one, false, seed) in rows]
        return self._with_passages(sources, ctx)

    def _with_passages(self, sources: list[Source], ctx: Context) -> list[Source]:
        """The sources with what is found for their questions, before their own other documents."""
        if self.corpus is None or not sources:
            return sources
        corpus = open_corpus(self.corpus)
        most = self.shown + max(len(s.right) for s in sources)
        found = self.retrievers.search(corpus, [s.question for s in sources], ctx, 4 * most)
        fresh = []
        for source, passages in zip(sources, found, strict=True):
            texts = corpus.texts.gather(passages.places).to_list()
            ids = dict(zip(texts, corpus.ids.gather(passages.places), strict=True))
            right = [source.documents[i] for i in source.right]
            beside = [t for t in texts if not any(has(t, gold) for gold in source.golds)]
            own = [d for i, d in enumerate(source.documents) if i not in source.right]
            others = [d for d in dict.fromkeys([*beside, *own]) if d not in right]
            fresh.append(
                source._replace(documents=[*right, *others], right=list(range(len(right))), ids=ids)
            )
        return fresh

    def _prompt(self, case: Case, documents: Sequence[str]) -> str:
        return self.render("prompt", documents=documents, question=case.source.question,
                           scenario=case.situation)  # fmt: skip

    def _verify(self, cases: list[Case], ctx: Context) -> None:
        """Try whether a model needs all documents that hold an answer, and all are enough."""
        tries = []
        for case in cases:
            if yes_or_no(case.source.golds):
                case.fail("not_verifiable", "the right answer is yes or no, which no rule can tell")
                continue
            needed = [case.documents[n - 1] for n in sorted(case.right)]
            for left in (None, *range(len(needed))):
                shown = [d for i, d in enumerate(needed) if i != left]
                key = f"{case.key}/{'all' if left is None else left}"
                tries.append(Try(case.row, key, case=case, left=left, shown=shown))

        def take(one: Try, text: str) -> None:
            one.text = text

        assert self.verifier is not None  # noqa: S101 - for the type checker
        asker = self.asker(ctx, self.verifier, greedy=True)
        gate = self.gate.model_copy(update={"refuses": "keep"})
        replace(asker, gate=gate).texts(
            tries, "verify", lambda t: self._prompt(t.case, t.shown), take
        )
        for one in tries:
            one.judge_case()

    def _answers(self, cases: list[Case], ctx: Context) -> list[Answer]:
        """All models answer, side by side."""
        answers = [
            Answer(case.row, f"{case.key}/{place}/{sample}", case=case, model=model.model,
                   place=place)
            for case in cases
            for place, model in enumerate(self.models)
            for sample in range(self.n)
        ]  # fmt: skip

        words = None if self.corpus is None else open_corpus(self.corpus).words

        def take(answer: Answer, text: str) -> None:
            answer.text, case = text, answer.case
            answer.signal = signal(
                case.situation, text, case.source.golds, case.wrong, case.documents, case.right
            )
            if case.situation == "citation":
                answer.claims = cited_claims(text, case.documents, words)
                answer.second = claim_f1(answer.claims)
                return
            source = case.source
            answer.second = second_signal(
                case.situation, text, source.golds, case.wrong, source.question, case.documents
            )

        def write(place: int) -> None:
            own = [a for a in answers if a.place == place]
            writer = self.asker(ctx, self.models[place])
            gate = self.gate.model_copy(update={"refuses": "keep"})
            replace(writer, gate=gate).texts(own, "answer", lambda a: a.case.prompt, take)

        _side_by_side(write, len(self.models))
        if self.gate.refuses == "drop":
            _without_refusals(answers)
        return answers

    def _rate(self, answers: list[Answer], ctx: Context) -> None:
        """All judges rate; an answer that one of them fails on is out."""

        def question(answer: Answer) -> str:
            case = answer.case
            return self.render(
                "judge",
                scenario=case.situation,
                gold=" / ".join(case.source.golds),
                prompt=case.prompt,
                answer=answer.text,
                mark=fence(case.prompt, answer.text),
            )

        rated = open_tasks(answers)
        copies = [
            [Answer(a.row, a.key, case=a.case, text=a.text) for a in rated] for _ in self.judge
        ]

        def take(copy: Answer, answer_form: dict[str, Any]) -> None:
            copy.ratings = [float(answer_form["score"])]

        def rate(number: int) -> None:
            judge = self.asker(ctx, self.judge[number], greedy=True)
            stage = f"rate {number}"
            judge.forms(
                copies[number], stage, _RATING, question, take,
                says=lambda said: {"rating": said["score"]},
            )  # fmt: skip

        _side_by_side(rate, len(self.judge))
        for own in copies:
            for answer, copy in zip(rated, own, strict=True):
                answer.ratings += copy.ratings
                if copy.reason is not None and answer.reason is None:
                    answer.fail(copy.reason, copy.detail or "")


def _without_refusals(answers: list[Answer]) -> None:
    """Fail the answers that refuse; to say that the documents don't hold it is an answer."""
    live = open_tasks(answers)
    refusing = refuses(pl.Series([a.text for a in live], dtype=pl.String))
    for answer, refusal in zip(live, refusing, strict=True):
        if refusal and not abstains(answer.text):
            answer.fail("refuses", f"answer: {answer.text[:100]!r}")


def _side_by_side(work: Callable[[int], None], n: int) -> None:
    with ThreadPoolExecutor(max(1, n), thread_name_prefix="model") as pool:
        list(pool.map(partial(work), range(n)))

"""Questions with documents laid out for a situation, their answers, and which two are a pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from generators.made_rows import ORIGINS, PARENT, Column, children, sides, text_column, turns
from generators.rag.citations import CITED, Cited, told
from generators.rag.rules import (
    SITUATIONS,
    Situation,
    asserts,
    has,
    made_false,
    other_number,
    yes_or_no,
)
from prefactory.asking import Task, open_tasks, request_text
from prefactory.errors import DataError
from prefactory.tables import Shape


class Source(NamedTuple):
    """One row: a question, right answers, documents, and the places of those that hold it.

    `ids` are those of the documents that come from a corpus, by text.
    """

    row: int
    key: str
    question: str
    golds: list[str]
    documents: list[str]
    right: list[int]
    wrong: str | None
    seed: int
    ids: dict[str, str]


class Given(NamedTuple):
    """One row as it came; `right` are the places of the documents that hold its answer."""

    key: str
    question: str
    golds: list[str]
    documents: list[str]
    right: list[int]


def given(table: pl.DataFrame, names: tuple[str, str, str], step: str) -> list[Given]:
    """Read the rows of a table.

    Args:
        table: PROMPTS.
        names: columns of the answers (a text, or a list), the documents, and the places.
        step: for errors.

    Raises:
        DataError: a column is missing or null, or names a document that there is not.
    """
    if missing := [n for n in names if n not in table.columns]:
        raise DataError(f"{step} reads the columns {', '.join(names)}; missing: {missing}")
    columns = [table["prompt_id"], table["prompt"].to_list(), *(table[n].to_list() for n in names)]
    rows = []
    for key, prompt, gold, documents, places in zip(*columns, strict=True):
        golds = [gold] if isinstance(gold, str) else gold
        if not golds or not documents or places is None or None in (*golds, *documents):
            raise DataError(f"prompt {key}: its answer, documents or their places are null")
        if not all(0 <= p < len(documents) for p in places):
            raise DataError(f"prompt {key}: {names[2]} names no document it has")
        right = sorted({int(p) for p in places})
        rows.append(Given(key, request_text(prompt), golds, documents, right))
    return rows


@dataclass(kw_only=True)
class Case(Task):
    """One row in one situation.

    Attributes:
        source: the row.
        situation: see `generators.rag.step.RAGPairs`.
        documents: as they are shown.
        right: numbers, from 1, of those that hold the answer.
        wrong: what the false document says.
        prompt: documents and question as the models see them.
        verified: a model needed all documents that hold the answer; None: nobody tried.
        pair: chosen and rejected.
    """

    source: Source
    situation: Situation = "multi_hop"
    documents: list[str] = field(default_factory=list)
    right: set[int] = field(default_factory=set)
    wrong: str | None = None
    prompt: str = ""
    verified: bool | None = None
    pair: tuple[Answer, Answer] | None = None

    @property
    def rng(self) -> np.random.Generator:
        """Draws of this case, the same each time it is asked for."""
        key = [self.source.seed, SITUATIONS.index(self.situation)]
        return np.random.Generator(np.random.Philox(key=key))

    def lay_out(self, chosen: list[tuple[str, bool]]) -> None:
        """Put documents (with whether they hold the answer) in a drawn order."""
        order = self.rng.permutation(len(chosen))
        self.documents = [chosen[i][0] for i in order]
        self.right = {place for place, i in enumerate(order, 1) if chosen[i][1]}


@dataclass(kw_only=True)
class Answer(Task):
    """What a model says in a case."""

    case: Case
    model: str = ""
    place: int = 0
    text: str = ""
    signal: float = 0.0
    second: float = 0.0
    claims: list[Cited] = field(default_factory=list)
    ratings: list[float] = field(default_factory=list)

    @property
    def rating(self) -> float:
        """Mean of the judges."""
        return sum(self.ratings) / len(self.ratings)


@dataclass(kw_only=True)
class Try(Task):
    """What a model says from some of the documents that hold an answer.

    Attributes:
        case: of two documents or more.
        left: which of them is left out, from 0; None: none.
        shown: the others.
        text: the answer.
    """

    case: Case
    left: int | None
    shown: list[str]
    text: str = ""

    def judge_case(self) -> None:
        """Fail the case if this speaks against its needing all documents."""
        if self.case.reason is not None:
            return
        said = any(asserts(self.text, gold) for gold in self.case.source.golds)
        if self.reason is not None:
            self.case.fail(self.reason, self.detail or "")
        elif self.left is None and not said:
            self.case.fail("not_answerable", f"from all documents: {self.text[:100]!r}")
        elif self.left is not None and said:
            self.case.fail("single_hop", f"without document {self.left + 1}: {self.text[:100]!r}")
        else:
            self.case.verified = True


def cases_of(source: Source, situations: Sequence[Situation], shown: int) -> Iterator[Case]:
    """Lay a row out for each situation; one that it does not allow has a reason.

    Args:
        source: the row.
        situations: which.
        shown: documents at most.
    """
    for situation in dict.fromkeys(situations):
        case = Case(source.row, f"{source.key}/{situation}", source=source, situation=situation)
        right = [source.documents[i] for i in source.right]
        others = [d for i, d in enumerate(source.documents) if i not in source.right]
        if situation == "abstention":
            silent = [d for d in others if not any(has(d, gold) for gold in source.golds)]
            if not silent:
                case.fail("no_other_documents", "all documents hold the answer")
            case.lay_out([(d, False) for d in silent[:shown]])
        elif len(right) < (2 if situation == "multi_hop" else 1):
            case.fail("too_few_gold", f"{len(right)} documents hold the answer")
        elif situation == "conflict":
            _contradict(case, right, others, shown)
        else:
            rest = [(d, False) for d in others[: max(0, shown - len(right))]]
            case.lay_out([*((d, True) for d in right), *rest])
        yield case


def _contradict(case: Case, right: list[str], others: list[str], shown: int) -> None:
    """Add a copy of a document that says something else."""
    source = case.source
    for gold in source.golds:
        wrong = source.wrong or other_number(gold, case.rng)
        for document in right:
            false = None if wrong is None else made_false(document, gold, wrong)
            if false is not None and not any(has(wrong or "", g) for g in source.golds):
                case.wrong = wrong
                rest = [(d, False) for d in others[: max(0, shown - len(right) - 1)]]
                case.lay_out([*((d, True) for d in right), (false, False), *rest])
                return
    case.fail("no_counterfactual", "no document holds the answer literally, or nothing is wrong")


def decide(case: Case, answers: list[Answer], judges: int, bounds: tuple[float, float]) -> None:
    """Find the pair of a case, or why there is none.

    Args:
        case: gets its pair or a reason.
        answers: all of its answers.
        judges: how many rated; 0: the signals decide.
        bounds: least margin, and greatest length ratio.
    """
    read = open_tasks(answers)
    if len(read) < 2:
        reasons = ", ".join(sorted({a.reason or "" for a in answers} - {""}))
        case.fail("too_few_answers", f"{len(read)} of {len(answers)} answers; {reasons}")
        return
    worth = [(a.rating if judges else a.signal, a.signal) for a in read]
    order = sorted(range(len(read)), key=lambda i: (-worth[i][0], -worth[i][1], i))
    best, worst = read[order[0]], read[order[-1]]
    problem = _problem(best, worst, judges, bounds)
    if problem is None:
        case.pair = (best, worst)
    else:
        case.fail(*problem)


def _problem(
    best: Answer, worst: Answer, judges: int, bounds: tuple[float, float]
) -> tuple[str, str] | None:
    least, ratio = bounds
    pairs = list(zip(best.ratings, worst.ratings, strict=True))
    margin = best.rating - worst.rating if judges else best.signal - worst.signal
    lengths = sorted((len(best.text), len(worst.text)))
    if best.text == worst.text:
        return "same_text", "best and worst say the same"
    if margin < least:
        return "small_margin", f"{margin:.2f}; at least {least:g}"
    if not judges and yes_or_no(best.case.source.golds):
        return "yes_no", "the right answer is yes or no, which no rule can tell; name a judge"
    if not judges and best.second <= worst.second:
        return "one_signal", f"a second signal has {best.second:.2f} and {worst.second:.2f}"
    if not all(b > w for b, w in pairs):
        return "judges_disagree", "; ".join(f"{b:g} and {w:g}" for b, w in pairs)
    if best.signal < worst.signal:
        return "signals_contradict", f"signals {best.signal:.2f} and {worst.signal:.2f}"
    if lengths[1] >= ratio * lengths[0]:
        return "length_ratio", f"{lengths[0]} and {lengths[1]} characters"
    return None


def adds() -> dict[str, pl.DataType]:
    """Columns beside those of pairs."""
    text, number, numbers = pl.String(), pl.Float64(), pl.List(pl.Float64)
    return {
        PARENT: text,
        "situation": text,
        "question": text,
        "references": pl.List(pl.String),
        "reference_ids": pl.List(pl.String),
        "gold_numbers": pl.List(pl.Int64),
        "verified": pl.Boolean(),
        "chosen_citations": CITED,
        "rejected_citations": CITED,
        "wrong_answer": text,
        "failures": text,
        "chosen_judges": numbers,
        "rejected_judges": numbers,
        "chosen_score_signal": number,
        "rejected_score_signal": number,
        "margin": number,
        **ORIGINS,
    }


def rows_of(table: pl.DataFrame, cases: list[Case], origin: str, judged: bool) -> pl.DataFrame:
    """Pairs of all cases that have one, in canonical order."""
    failed: dict[int, list[str]] = {}
    for case in cases:
        if case.reason is not None:
            failed.setdefault(case.row, []).append(f"{case.situation} {case.reason}")
    fine = [(case, *case.pair) for case in cases if case.pair is not None]
    new: dict[str, Column] = {
        "prompt": turns([case.prompt for case, _, _ in fine], "user"),
        "situation": text_column([case.situation for case, _, _ in fine]),
        "question": text_column([case.source.question for case, _, _ in fine]),
        "references": (pl.List(pl.String), [case.documents for case, _, _ in fine]),
        "reference_ids": (
            pl.List(pl.String),
            [[case.source.ids.get(d) for d in case.documents] for case, _, _ in fine],
        ),
        "verified": (pl.Boolean(), [case.verified for case, _, _ in fine]),
        "gold_numbers": (pl.List(pl.Int64), [sorted(case.right) for case, _, _ in fine]),
        "wrong_answer": text_column([case.wrong for case, _, _ in fine]),
        "failures": text_column([", ".join(failed.get(c.row, [])) or None for c, _, _ in fine]),
        "margin": (
            pl.Float64(),
            [b.rating - w.rating if judged else b.signal - w.signal for _, b, w in fine],
        ),
        **sides(
            [(best.text, worst.text) for _, best, worst in fine],
            [(best.model, worst.model) for _, best, worst in fine],
            (origin, origin),
            "judge" if judged else "rule",
        ),
    }
    for i, side in enumerate(("chosen", "rejected")):
        answers = [(best, worst)[i] for _, best, worst in fine]
        new[f"{side}_citations"] = (
            CITED,
            [told(a.claims) if a.case.situation == "citation" else None for a in answers],
        )
        new[f"{side}_judges"] = (pl.List(pl.Float64), [a.ratings for a in answers])
        new[f"{side}_score_signal"] = (pl.Float64(), [a.signal for a in answers])
    return children(table, [case.row for case, _, _ in fine], new, Shape.PAIRS, PARENT)

"""An LLM judge with a rubric: graded attributes, or criteria that are met or not, in one call.

Sources: combined score of criteria and per-criterion verdicts as in OpenRubrics-like judges; the
critique before the score as in MM-RLHF (arXiv:2502.10391); one reference answer and descriptions
of the levels as in Multifaceted Bench (Janus, arXiv:2405.17977). The prompt texts are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from pydantic import Field, field_validator, model_validator

from labelers.judges import gold as known
from labelers.rubric.calls import Critique, Grader, Question, Rated, Shot
from labelers.rubric.examples import RatedExamples
from labelers.rubric.items import Attribute, Criterion, Item, Name, Reading, of_row, read_criteria
from prefactory.asking import GREEDY, Asking, tokens_of
from prefactory.asking.forms import folded
from prefactory.context import Context
from prefactory.engines.base import SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.measures import judge_watch
from prefactory.measures.watcher import Ratings
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Labeler
from prefactory.tables import SCORE, Shape

_FOLDER = "labelers/rubric/prompts"
RUBRIC: pl.DataType = pl.List(
    pl.Struct({"id": pl.String, "text": pl.String, "kind": pl.String, "weight": pl.Float64})
)
"""Dtype of a column with a rubric for each row."""

_UNASKED = ["no_reference", "no_rubric", "bad_rubric"]
VERDICTS: pl.DataType = pl.List(pl.Struct({"id": pl.String, "rating": pl.Float64}))


class Rubric(Prompted, Asking, Labeler):
    """Add a judge's ratings of every answer: several named things in one call.

    One of three says what is rated:

    - `attributes`: graded, each on its own scale: `score_<attribute>`, the raw rating. With
      `combined`, `score_<name>` is their weighted mean (all on one scale; attributes whose
      direction is `lower` are turned around).
    - `criteria`: met or not, 1 or 0: `score_<name>_<id>`, and `score_<name>`, the weighted mean
      sum w s / sum w in [0, 1]. A constitution is a list of these: sentences, or mappings with
      `id`, `text`, `kind` and `weight`; or the path of a YAML file with such a list, whose content
      is the step's identity, not its name.
    - `rubric`: a column with a rubric for each row (`RUBRIC`), as pairs of criteria or, with
      `scale`, as gradings: `score_<name>`, the weighted mean, and `verdicts_<name>` with the rating
      by id. On pairs that are taken apart there are no further columns; use it on responses.

    Objectives, ranges and directions are in `objectives`, the version in the step's identity
    beside the prompt texts and the judge. An answer that can't be scored has null scores, and
    `reason_<name>` (String) says why: `unparseable` (after `attempts`; a rating missing, unknown,
    out of range or no number makes the whole answer unparseable), the engine's own reasons
    (`http_500`, `timeout`, `connection`, ...), `no_reference`, `no_rubric`, `bad_rubric`,
    `too_few_samples`. Equal questions are asked once: a score depends on the texts alone.

    Attributes:
        judge: what grades.
        name: of the combined objective and of the reason's column.
        attributes: see above.
        criteria: see above.
        rubric: see above.
        scale: of the gradings of `rubric`; None: met or not.
        combined: add `score_<name>`; None: for criteria and rubrics, not for attributes.
        critique: `none`; `same`: a critique before the ratings, in the same answer; `first`: a
            critique in a call of its own, then the ratings in a second one that sees it.
        keep_critique: add `critique_<name>` (String): that of the first valid sample.
        samples: answers drawn for each row; a rating is the mean over the valid ones, and
            `valid_<name>` (Int64) counts them. More than one needs a temperature.
        min_samples: valid samples that a row must have.
        reference: String column with an answer of the best rating; a row without one is not
            scored, since its ratings would not compare.
        details: add `detail_<name>` (String): what exactly was wrong.
        examples: answers whose ratings are known, shown before each question as turns that were
            answered right; a list, or the file that `prefactory judge-examples --rubric` wrote.
            They go with attributes or criteria, without critique and reference.
        max_invalid: share of the judge's answers that may be unusable: above it nothing is
            published by default (see `prefactory.measures.judge_watch`).
        gold: Boolean column that marks the answer that is known to be the best of its prompt. The
            judge doesn't see it; it is counted how often it rates that one above another.
        gold_pairs: pairs whose better answer is known, which are no rows of the recipe: a list of
            `prompt`, `chosen` and `rejected`, or a file of such JSON lines, whose content is the
            step's identity. The judge rates them before anything else is asked; if it fails there,
            nothing else is asked by default.
        min_gold: share of these comparisons that must be right (equal ratings don't count): below
            it, nothing is published by default.

    Example:
        - labelers.Rubric:
            judge: {engine: server, base_url: 'http://localhost:8000/v1', model: judge}
            attributes: [{name: helpfulness, description: 'Is it correct and useful?'}]
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    version: ClassVar[int] = 2
    templates: ClassVar[Mapping[str, Text]] = {
        "system": Text(f"{_FOLDER}/system.j2"),
        "material": Text(
            f"{_FOLDER}/material.j2", ("conversation", "response", "reference", "mark")
        ),
        "question": Text(f"{_FOLDER}/question.j2", ("material", "items", "form", "critique")),
        "critique": Text(f"{_FOLDER}/critique.j2", ("material", "items")),
        "rate": Text(f"{_FOLDER}/rate.j2", ("items", "form")),
    }

    judge: AnyEngine
    sampling: SamplingParams = GREEDY
    name: Name = "rubric"
    attributes: tuple[Attribute, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    rubric: str | None = Field(default=None, min_length=1)
    scale: tuple[float, float] | None = None
    combined: bool | None = None
    critique: Critique = "none"
    keep_critique: bool = False
    samples: int = Field(default=1, ge=1)
    min_samples: int = Field(default=1, ge=1)
    reference: str | None = Field(default=None, min_length=1)
    details: bool = False
    examples: RatedExamples = ()
    max_invalid: float = Field(default=judge_watch.MAX_INVALID, ge=0, le=1)
    gold: str | None = Field(default=None, min_length=1)
    gold_pairs: known.GoldPairs = ()
    min_gold: float = Field(default=judge_watch.MIN_GOLD, ge=0, le=1)

    @field_validator("criteria", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return value if value == () else read_criteria(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [bool(self.attributes), bool(self.criteria), self.rubric is not None]
        if sum(given) != 1:
            raise ValueError("name one of attributes, criteria and rubric")
        if self.scale is not None:
            if self.rubric is None:
                raise ValueError("scale is for rubric; attributes have scales of their own")
            Attribute(name="all", scale=self.scale)
        if self.keep_critique and self.critique == "none":
            raise ValueError("keep_critique: there is none; set critique to same or first")
        self._check_samples()
        self._check_names()
        self._check_known()
        return self

    def _check_known(self) -> None:
        """Refuse examples and gold pairs that lack what the question shows."""
        for name in ("examples", "gold_pairs"):
            if getattr(self, name) and (self.rubric is not None or self.reference is not None):
                raise ValueError(f"{name}: they hold no rubrics and references of their own")
        if self.examples and self.critique != "none":
            raise ValueError("examples: they hold no critiques; set critique to none")
        for example in self.examples:
            example.said(self._fixed())

    def _check_samples(self) -> None:
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError("samples: at temperature 0 all are alike; set sampling.temperature")
        if self.min_samples > self.samples:
            raise ValueError(f"min_samples ({self.min_samples}) is above samples ({self.samples})")

    def _check_names(self) -> None:
        keys = [folded(item.key) for item in self._fixed()]
        again = sorted({key for key in keys if keys.count(key) > 1})
        if again:
            raise ValueError(f"{', '.join(again)} is there twice")
        if self.attributes and self._combines():
            if folded(self.name) in keys:
                raise ValueError(f"name: {self.name!r} is an attribute; name the mean otherwise")
            if len({a.scale for a in self.attributes}) > 1:
                raise ValueError("combined: the attributes have different scales; use Combine")
        elif self.combined is False and self.rubric is not None:
            raise ValueError("combined: a rubric's only score is the combined one")

    def _combines(self) -> bool:
        return not self.attributes if self.combined is None else self.combined

    def _fixed(self) -> tuple[Item, ...]:
        """What is rated on every row; nothing for rubrics of rows."""
        graded = [a.item() for a in self.attributes]
        return (*graded, *(c.item() for c in self.criteria))

    @property
    def objectives(self) -> dict[str, tuple[float, float, str]]:
        """Objective -> lowest and highest score, and which direction is better."""
        ranges: dict[str, tuple[float, float, str]] = {
            a.name: (*a.scale, a.direction) for a in self.attributes
        }
        ranges |= {f"{self.name}_{c.id}": (0.0, 1.0, "higher") for c in self.criteria}
        if self._combines():
            low, high = self.scale or (self.attributes[0].scale if self.attributes else (0.0, 1.0))
            ranges[self.name] = (low, high, "higher")
        return ranges

    @property
    def score_range(self) -> tuple[float, float]:
        """Lowest and highest score of all objectives."""
        ends = list(self.objectives.values())
        return min(low for low, _, _ in ends), max(high for _, high, _ in ends)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The columns of `reference` (String), `rubric` (`RUBRIC`) and `gold` (Boolean)."""
        named = {self.reference: pl.String(), self.rubric: RUBRIC, self.gold: pl.Boolean()}
        return {column: dtype for column, dtype in named.items() if column is not None}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Scores (Float64), reason, and what the options ask for."""
        columns: dict[str, pl.DataType] = {f"{SCORE}{o}": pl.Float64() for o in self.objectives}
        if self.rubric is not None:
            columns[f"verdicts_{self.name}"] = VERDICTS
        if self.keep_critique:
            columns[f"critique_{self.name}"] = pl.String()
        if self.samples > 1:
            columns[f"valid_{self.name}"] = pl.Int64()
        columns[f"reason_{self.name}"] = pl.String()
        if self.details:
            columns[f"detail_{self.name}"] = pl.String()
        return columns

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """One call per answer and sample, two with a critique first."""
        texts = self.texts()
        shown = "".join(e.prompt + e.response for e in self.examples)
        asked = tokens_of("".join((*texts.values(), shown, *(i.text for i in self._fixed()))))
        rows += 2 * len(self.gold_pairs)
        calls = rows * self.samples * (2 if self.critique == "first" else 1)
        return [Asks(self.judge, calls, asked, self.sampling.max_tokens)]

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Rate every answer.

        Returns:
            The columns of `adds`, same height and order.

        Raises:
            ConfigError: a replaced prompt text fails on these values.
        """
        questions = self._questions(table)
        grader = Grader(
            self.asker(ctx, self.judge), self.render, self.critique, self.samples,
            self.min_samples, self._shots(), self._says,
        )  # fmt: skip
        rated = grader.rated(questions)
        columns = self._columns(table, questions, rated)
        return pl.DataFrame(columns, schema=self.adds(Shape.RESPONSES))

    def _says(self, reading: Reading, items: Sequence[Item]) -> Ratings:
        """What is heard while the judge is asked: each rating, of rubrics of rows their mean."""
        if self.rubric is not None:
            return {self.name: round(sum(reading.values) / len(reading.values), 6)}
        return {item.key: value for item, value in zip(items, reading.values, strict=True)}

    def _shots(self) -> tuple[Shot, ...]:
        """The examples, each as a question and what is said to it."""
        return tuple(
            Shot(example.prompt, example.response, example.said(self._fixed()))
            for example in self.examples
        )

    def trials(self) -> bool:
        """Whether there are gold pairs."""
        return bool(self.gold_pairs)

    def trial(self, ctx: Context) -> list[judge_watch.Watched]:
        """Rate the answers of the gold pairs (see `Step.trial`)."""
        pairs = known.table_of(self.gold_pairs)
        table = known.answers(pairs)
        columns = self.label(table, ctx)
        ranks = table.select("response_id", score=self._rank(columns, ""))
        for side in ("chosen", "rejected"):
            named = ranks.rename({"response_id": f"{side}_id", "score": side})
            pairs = pairs.drop(side).join(named, on=f"{side}_id", how="left")
        told = pairs.filter(pl.col("chosen") != pl.col("rejected"))
        found = {
            "gold": told.height,
            "gold_prompts": told["prompt_id"].n_unique(),
            "gold_agrees": told.filter(pl.col("chosen") > pl.col("rejected")).height,
        }
        return [{**self._counted(table["prompt_id"], columns, ""), **found}]

    def _counted(
        self, prompts: pl.Series, columns: pl.DataFrame, prefix: str
    ) -> judge_watch.Watched:
        """Counts of the ratings of one side."""
        reasons = columns[f"{prefix}reason_{self.name}"]
        asked = ~reasons.is_in(_UNASKED).fill_null(value=False)
        rows = columns.filter(asked)
        scores = {o: rows[f"{prefix}{SCORE}{o}"] for o in self.objectives}
        if self.criteria or self.rubric is not None:
            scores = {self.name: scores[self.name]} if self.name in scores else scores
        return judge_watch.of_ratings(
            self.judge.model, prompts.filter(asked), reasons.filter(asked), scores
        )

    def watch(self, table: pl.DataFrame, columns: pl.DataFrame) -> list[judge_watch.Watched]:
        """What `prefactory.measures.judge_watch` counts of the ratings."""
        parts, ranked = [], []
        prefixes = ("",) if f"reason_{self.name}" in columns.columns else ("chosen_", "rejected_")
        for prefix in prefixes:
            parts.append([self._counted(table["prompt_id"], columns, prefix)])
            if self.gold is not None:
                ids = table["response_id" if not prefix else f"{prefix}id"]
                marks = table[f"{prefix}{self.gold}"].fill_null(value=False)
                facts = {"prompt_id": table["prompt_id"], "id": ids, "gold": marks}
                ranked.append(pl.DataFrame({**facts, "score": self._rank(columns, prefix)}))
        if ranked:
            parts.append([{"judge": self.judge.model, **judge_watch.of_gold(pl.concat(ranked))}])
        return judge_watch.merged(parts)

    def _rank(self, columns: pl.DataFrame, prefix: str) -> pl.Series:
        """What answers are ranked by: the combined score, or the mean of all, each from 0 to 1."""
        if self._combines():
            return columns[f"{prefix}{SCORE}{self.name}"]
        shares = []
        for objective, (low, high, direction) in self.objectives.items():
            share = (pl.col(f"{prefix}{SCORE}{objective}") - low) / (high - low)
            shares.append(share if direction == "higher" else 1 - share)
        return columns.select(sum(shares, pl.lit(0.0)) / len(shares)).to_series()

    def _questions(self, table: pl.DataFrame) -> list[Question]:
        """What is asked about each row, or why nothing is."""
        fixed = self._fixed()
        n = table.height
        references = [None] * n if self.reference is None else table[self.reference].to_list()
        rubrics = [None] * n if self.rubric is None else table[self.rubric].to_list()
        rows = zip(
            table["prompt"].to_list(), table["response"].to_list(), references, rubrics,
            table["prompt_id"].to_list(), strict=True,
        )  # fmt: skip
        questions = []
        for prompt, response, reference, rubric, about in rows:
            items, reason, detail = fixed, None, None
            if self.reference is not None and not reference:
                reason = "no_reference"
            elif self.rubric is not None and not rubric:
                reason = "no_rubric"
            elif self.rubric is not None:
                try:
                    items = tuple(of_row(rubric, self.scale))
                except ValueError as error:
                    reason, detail = "bad_rubric", str(error)
            questions.append(Question(prompt, response, reference, items, reason, detail, about))
        return questions

    def _columns(
        self, table: pl.DataFrame, questions: list[Question], rated: list[Rated]
    ) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        means = [r.means for r in rated]
        if self.rubric is None:
            width = len(self._fixed())
            whole = np.array([m if m is not None else [np.nan] * width for m in means])
            whole = whole.reshape(len(means), width)
            prefix = f"{self.name}_" if self.criteria else ""
            for place, item in enumerate(self._fixed()):
                columns[f"{SCORE}{prefix}{item.key}"] = _column(whole[:, place])
        else:
            rubrics = table[self.rubric].to_list()
            columns[f"verdicts_{self.name}"] = [
                None
                if m is None
                else [{"id": e["id"], "rating": v} for e, v in zip(r, m, strict=True)]
                for r, m in zip(rubrics, means, strict=True)
            ]
        if self._combines():
            mean = [self._combined(q.items, r.means) for q, r in zip(questions, rated, strict=True)]
            columns[f"{SCORE}{self.name}"] = _column(np.array(mean, dtype=np.float64))
        columns[f"critique_{self.name}"] = [r.critique for r in rated]
        columns[f"valid_{self.name}"] = [r.valid for r in rated]
        columns[f"reason_{self.name}"] = [r.reason for r in rated]
        columns[f"detail_{self.name}"] = [r.detail for r in rated]
        return {name: columns[name] for name in self.adds(Shape.RESPONSES)}

    def _combined(self, items: tuple[Item, ...], means: list[float] | None) -> float:
        """Weighted mean, NaN without ratings."""
        if means is None:
            return float("nan")
        turned = {a.name for a in self.attributes if a.direction == "lower"}
        values = [
            i.low + i.high - m if i.key in turned else m for i, m in zip(items, means, strict=True)
        ]
        return weighted_mean(values, [i.weight for i in items])


def weighted_mean(values: list[float], weights: list[float]) -> float:
    """Weighted mean, sum w s / sum w: [1, 0, 1] under [1, 1, 2] is 3/4.

    Args:
        values: k > 0 numbers.
        weights: k numbers above 0.
    """
    total = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    return min(max(total, min(values)), max(values))  # rounding must not leave the range


def _column(values: np.ndarray) -> pl.Series:
    return pl.Series(values, dtype=pl.Float64).fill_nan(None)

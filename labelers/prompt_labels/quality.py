"""Quality of prompts by anchored pairwise judging, after Baichuan's report (arXiv:2410.14940)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, field_validator, model_validator

from labelers.prompt_labels import anchored_scores, anchors
from labelers.prompt_labels.anchors import Anchor
from labelers.prompt_labels.comparisons import Compared, Comparer
from prefactory.asking import GREEDY, Asking, Jury, tokens_of
from prefactory.context import Context
from prefactory.engines.base import SamplingParams
from prefactory.identity import canonical_json, fingerprint
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Labeler, Scope, State
from prefactory.tables import Shape

_FOLDER = "labelers/prompt_labels/prompts/quality"
DIMENSIONS = {
    "clarity": "it is plain what is wanted; nothing needed for the answer is missing",
    "practicality": "a real person could have a use for the answer",
    "complexity": "a good answer takes knowledge, thought or several steps",
    "novelty": "it is not the request that everybody makes",
}
"""The source's four dimensions; the wording is ours."""


class PromptQuality(Prompted, Asking, Labeler):
    """Add `<name>`, the share of comparisons with anchors that a prompt wins, ties half.

    Each prompt is compared with `per_prompt` anchors of its bucket, by each judge and in both
    orders, on every dimension: win, tie or loss. `<name>` (Float64, in [0, 1], higher is better) is
    the mean over anchors, `<name>_se` its standard error over them, `<name>_<dimension>` the mean
    of one dimension, and `<name>_anchors` (Int64) the number of anchors with a valid comparison; a
    comparison is valid if its judge could be read in both orders. Without any, all are null and
    `reason_<name>` (String) says why: `no_anchors`, `unparseable`, or the engine's reason. It is a
    property of the prompt, not a score of an answer: all rows of a prompt have the same.

    Anchors are drawn from the dataset, `per_bucket` of each bucket (all of a smaller one), by
    prompt id and seed. They are frozen in the state, and with the manifest of the version, whose
    path as `anchors` gives later runs the same ones: only then do scores of two runs compare.

    `method: bradley_terry` compares the anchors with each other first (with `per_prompt` others
    each), fits their strengths, then every prompt's, and gives what it would win against all
    anchors of its bucket: that takes out the luck of the anchors drawn.

    The source draws 30 anchors for each of 20 buckets; how outcomes become a number is ours.
    Cost: per_prompt * 2 * judges calls a prompt.

    Attributes:
        judge: what compares; one or several.
        name: of the columns.
        bucket: String column with the prompts' buckets (a tag); None: all are in one.
        anchors: `dataset`, a list of anchors, or a file with them (see
            `labelers.prompt_labels.anchors.read`).
        per_bucket: anchors drawn for each bucket.
        per_prompt: anchors that a prompt is compared with.
        dimensions: name -> what it means, for the judge.
        method: see above.
        prior: precision of the strengths' normal prior around 0, for `bradley_terry`.

    Example:
        - labelers.PromptQuality:
            judge: {engine: server, base_url: 'http://localhost:8000/v1', model: judge}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)
    scope: ClassVar[Scope] = "dataset"
    score_range: ClassVar[tuple[float | None, float | None]] = (0.0, 1.0)
    direction: ClassVar[str] = "higher"
    templates: ClassVar[Mapping[str, Text]] = {
        "system": Text(f"{_FOLDER}/system.j2"),
        "question": Text(
            f"{_FOLDER}/question.j2", ("first", "second", "mark", "dimensions", "form")
        ),
    }

    judge: Jury = Field(min_length=1)
    sampling: SamplingParams = GREEDY
    name: str = Field(default="prompt_quality", pattern="^[A-Za-z][A-Za-z0-9_]*$")
    bucket: str | None = Field(default=None, min_length=1)
    anchors: Literal["dataset"] | tuple[Anchor, ...] = "dataset"
    per_bucket: int = Field(default=30, ge=1)
    per_prompt: int = Field(default=10, ge=1)
    dimensions: dict[str, str] = Field(default_factory=lambda: dict(DIMENSIONS), min_length=1)
    method: Literal["mean", "bradley_terry"] = "mean"
    prior: float = Field(default=anchored_scores.PRIOR, gt=0)

    @field_validator("anchors", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return anchors.read(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        taken = {"se", "anchors"} & set(self.dimensions)
        if taken or not all(name.isidentifier() for name in self.dimensions):
            raise ValueError("dimensions: names are words, and not se or anchors")
        texts = [canonical_json(j.model_dump(mode="json")) for j in self.judge]
        if len(set(texts)) < len(texts):
            raise ValueError("judge: the same one is there twice; it would say the same twice")
        if isinstance(self.anchors, tuple) and not self.anchors:
            raise ValueError("anchors: the list is empty")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column of buckets, String."""
        return {} if self.bucket is None else {self.bucket: pl.String()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """See the class."""
        names = [self.name, f"{self.name}_se", *(f"{self.name}_{d}" for d in self.dimensions)]
        columns: dict[str, pl.DataType] = dict.fromkeys(names, pl.Float64())
        return {**columns, f"{self.name}_anchors": pl.Int64(), f"reason_{self.name}": pl.String()}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """Two calls per prompt, anchor and judge."""
        asked = tokens_of("".join(self.texts().values()) + "".join(self.dimensions.values()))
        given = len(self.anchors) if isinstance(self.anchors, tuple) else 0
        more = given if self.method == "bradley_terry" else 0
        calls = (prompts + more) * self.per_prompt * 2
        return [Asks(judge, calls, asked, self.sampling.max_tokens) for judge in self.judge]

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """The shard's candidates for anchors: at most `per_bucket` of each bucket.

        Returns:
            `prompt_id`, `bucket`, `draw` (Float64), `prompt`.
        """
        prompts = self._prompts(table)
        if self.anchors != "dataset":
            prompts = prompts.clear()
        return anchors.candidates(prompts, self.per_bucket, ctx)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Freeze the anchors.

        Returns:
            table `anchors` (`labelers.prompt_labels.anchors.SCHEMA`); info: `anchors` (as a file
            of anchors has them), `buckets` (anchors by bucket) and `version` (their digest).
        """
        if isinstance(self.anchors, tuple):
            frozen = anchors.table_of(self.anchors)
        else:
            once = parts.unique(["bucket", "prompt_id"], keep="first")
            chosen = anchors.lowest(once, self.per_bucket).sort("bucket", "prompt_id")
            strength = pl.lit(None, dtype=pl.Float64).alias("strength")
            frozen = chosen.with_columns(strength).select(*anchors.SCHEMA)
        if self.method == "bradley_terry" and frozen["strength"].null_count():
            frozen = self._with_strengths(frozen, ctx)
        counts = frozen.group_by("bucket").len().sort("bucket")
        info = {
            "buckets": dict(counts.rows()),
            "version": fingerprint(anchors.written(frozen)),
            "anchors": anchors.written(frozen),
        }
        return State({"anchors": frozen}, info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Compare the prompts of a table.

        Returns:
            The columns of `adds`, same height and order.

        Raises:
            ConfigError: the step was not fitted, or a replaced prompt text fails on these values.
        """
        frozen = ctx.fitted.tables["anchors"]
        prompts = self._prompts(table)
        compared = self._comparer(ctx).compared(prompts, frozen)
        scored = prompts.select("prompt_id").hstack(self._scores(prompts, frozen, compared))
        joined = table.select("prompt_id").join(
            scored, on="prompt_id", how="left", maintain_order="left"
        )
        return joined.select(*self.adds(Shape.PROMPTS))

    def _comparer(self, ctx: Context) -> Comparer:
        return Comparer(
            ctx,
            [self.asker(ctx, judge) for judge in self.judge],
            self.dimensions,
            self.per_prompt,
            self.render,
        )

    def _prompts(self, table: pl.DataFrame) -> pl.DataFrame:
        """`prompt_id`, `prompt` and `bucket`, each prompt once (the first row's bucket counts)."""
        bucket = pl.lit("") if self.bucket is None else pl.col(self.bucket).fill_null("")
        rows = table.select("prompt_id", "prompt", bucket=bucket)
        return rows.unique("prompt_id", keep="first", maintain_order=True)

    def _with_strengths(self, frozen: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Compare the anchors with each other and fit their strengths, bucket by bucket.

        Anchors without a valid comparison have the prior's mean, 0.
        """
        parts = []
        for rows in frozen.partition_by("bucket", maintain_order=True):
            compared = self._comparer(ctx).compared(rows, rows)
            row_of = {a: i for i, a in enumerate(rows["prompt_id"].to_list())}
            matrix = np.full((rows.height, rows.height), np.nan)
            matrix[
                np.arange(rows.height)[:, None],
                [[row_of.get(a, i) for a in near] for i, near in enumerate(compared.anchor_ids)],
            ] = compared.overall
            fitted = anchored_scores.strengths(matrix, self.prior)
            parts.append(rows.with_columns(strength=pl.Series(fitted, dtype=pl.Float64)))
        return pl.concat(parts) if parts else frozen

    def _scores(
        self, prompts: pl.DataFrame, frozen: pl.DataFrame, compared: Compared
    ) -> pl.DataFrame:
        scored = anchored_scores.mean_outcome(compared.overall)
        if self.method == "bradley_terry":
            scored = self._by_strength(prompts, frozen, compared)
        columns: dict[str, Any] = {self.name: scored.score, f"{self.name}_se": scored.se}
        for k, dimension in enumerate(self.dimensions):
            mean = anchored_scores.mean_outcome(compared.outcomes[:, :, k]).score
            columns[f"{self.name}_{dimension}"] = mean
        columns[f"{self.name}_anchors"] = (~np.isnan(compared.overall)).sum(axis=1)
        columns[f"reason_{self.name}"] = compared.reasons
        return pl.DataFrame(columns, schema=self.adds(Shape.PROMPTS)).fill_nan(None)

    def _by_strength(
        self, prompts: pl.DataFrame, frozen: pl.DataFrame, compared: Compared
    ) -> anchored_scores.Scored:
        """Scores by bucket; a bucket's pool of anchors is its own."""
        score, se = np.full((2, prompts.height), np.nan)
        buckets = prompts["bucket"].to_numpy()
        for rows in frozen.partition_by("bucket"):
            here = np.flatnonzero(buckets == rows["bucket"][0])
            known = dict(zip(rows["prompt_id"].to_list(), rows["strength"].to_list(), strict=True))
            theta = [[known.get(a, 0.0) for a in compared.anchor_ids[i]] for i in here]
            scored = anchored_scores.against_anchors(
                compared.overall[here],
                np.array(theta, np.float64).reshape(len(here), -1),
                rows["strength"].to_numpy(),
                self.prior,
            )
            score[here], se[here] = scored
        return anchored_scores.Scored(score, se)

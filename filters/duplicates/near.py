"""Rows leave that are near-duplicates of another by MinHash, verified by the true Jaccard index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from filters.rules.margin import score_columns
from prefactory.context import Context
from prefactory.images.marks import pictures_key
from prefactory.near.choose import Choice, none_beside_kept, one_of_each_cluster, ranks
from prefactory.near.likeness import Rule, similarity
from prefactory.near.linking import linking_edges
from prefactory.near.minhash import Banding, banding
from prefactory.near.pairs import Rows, near_edges, read_rows, reduce_texts
from prefactory.step import FittedFilter, State
from prefactory.step.exchange import Linked, Linking
from prefactory.tables import ROW_ID, SIDES, Shape, shape_of, text_of

DROPPED = pl.Schema(
    {"unit": pl.String, "reason": pl.String, "kept": pl.String, "detail": pl.String}
)


class Shingled(FittedFilter, abstract=True):
    """Base of filters that compare texts as sets of hashed word shingles.

    A word is a run of letters, marks and digits, whatever the case; in scripts without spaces
    every character is one. Of a text with 20 % of its words replaced 47 % of the two-word shingles
    agree (with 10 %: 68 %; of three words and 20 %: 34 %; of five, the usual default: 20 %, which
    no usual threshold reaches), while unrelated texts share up to 4 %. That is why the default is
    two words and a low threshold. Single words find as much, but unrelated texts share 10 to 20 %
    of them, and the candidates to be compared become too many.

    Attributes:
        threshold: least Jaccard index, in (0, 1].
        words: words of a shingle.
        short: texts of up to so many words must agree in all shingles: one word of them makes
            another question. Our choice, like the next; 0 and 0 for no such rule.
        long: words from which `threshold` holds; between `short` and this the least index falls
            in a straight line from 1 (by the shorter of the two texts).
        recall: share of the pairs exactly at the threshold that banding must find; of those above
            it is higher. Every pair found is then compared by its sets.
    """

    threshold: float = Field(default=0.35, gt=0, le=1)
    words: int = Field(default=2, ge=1, le=16)
    short: int = Field(default=8, ge=0)
    long: int = Field(default=32, ge=0)
    recall: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _validate_lengths(self) -> Self:
        if self.long < self.short:
            raise ValueError(f"long ({self.long}) is below short ({self.short})")
        return self

    @property
    def banding(self) -> Banding:
        """The banding for the threshold and the recall."""
        return banding(self.threshold, self.recall)

    @property
    def rule(self) -> Rule:
        """When two rows are near-duplicates."""
        return Rule(self.threshold, self.short, self.long)


class NearDuplicates(Linked, Shingled):
    """Keep one of the rows whose texts are nearly the same.

    What is compared is set by `on`:

    - `row`: prompt and answer; of pairs the prompt with each of the two answers, unordered. Near is
      what is near as one text, or prompt and answer each for themselves; of rows whose folded
      prompts are equal, the answers alone (see `prefactory.near.likeness.similarity`).
    - `prompt`: all rows of a prompt stay or go together.
    - `response`: the answers; of pairs both, unordered. By default only among rows of one prompt.

    Candidates come from MinHash with banding (Broder 1997; see `prefactory.near`), and are
    verified by the Jaccard index of the shingle sets themselves. Verified pairs make clusters
    (connected components); of each the row with the best score of `keep_best` stays (of pairs the
    widest margin, of prompts the best answer), then the lowest id. A cluster can be a chain, whose
    ends are less alike than the threshold: the detail names the row in between. With `linkage:
    kept` a row goes only if it is near-duplicate of a row that stays.

    Reasons: `near_duplicate` and, for pairs whose labels are the other way round, `contradiction`;
    the detail is `kept <id>, Jaccard <index>` (a row id, or the `prompt_id` on `prompt`).

    Attributes:
        on: the text that is compared.
        within: where answers are compared: rows of one `prompt`, or `all`. Null: `prompt` if `on`
            is `response`, else all.
        keep_best: objective whose score chooses the row that stays.
        linkage: `cluster` keeps one row of each cluster, `kept` drops none but beside a kept row.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)
    version: ClassVar[int] = 3

    on: Literal["row", "prompt", "response"] = "row"
    within: Literal["prompt", "all"] | None = None
    keep_best: str | None = Field(default=None, min_length=1)
    linkage: Literal["cluster", "kept"] = "cluster"

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of `keep_best` (Float64), if it is set; PROMPTS have none."""
        return {} if shape == Shape.PROMPTS else score_columns(self.keep_best, shape)

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to hashes.

        Args:
            table: PROMPTS, RESPONSES or PAIRS.
            ctx: not used.

        Returns:
            `unit` (String: row id, or `prompt_id` if whole prompts are compared), `score`
            (Float64), `prompt_id` (String, if `within` a prompt), `pictures` (String, in a run
            with pictures) and the columns of `prefactory.near.pairs.reduce_texts`.
        """
        shape = shape_of(table)
        unit = pl.col(self.unit(shape)).alias("unit")
        units = table.with_columns(unit, score=quality(self.needs(shape)))
        if self.unit(shape) == "prompt_id":
            units = prompts_at_best(units)
        texts = {
            name: units.select(text_of(pl.col(name)).fill_null("")).to_series()
            for name in self._compared(shape)
        }
        ids = units.select("unit", "score", *(["prompt_id"] if self._by_prompt else []))
        if ctx.images is not None and not self._by_prompt:
            ids = ids.with_columns(pictures_key(units["prompt"]))
        return ids.hstack(reduce_texts(texts, self.words, self.banding).get_columns())

    def unit(self, shape: Shape) -> str:
        """Prompts stay or go with all their rows if `on` is `prompt`."""
        return "prompt_id" if self.on == "prompt" else ROW_ID[shape]

    @property
    def rule(self) -> Rule:
        """When two rows are near-duplicates."""
        return super().rule._replace(one_prompt=self._by_prompt)

    @property
    def _by_prompt(self) -> bool:
        return (self.within or ("prompt" if self.on == "response" else "all")) == "prompt"

    def _compared(self, shape: Shape) -> list[str]:
        answers = {Shape.PROMPTS: [], Shape.RESPONSES: ["response"], Shape.PAIRS: list(SIDES)}
        if self.on == "prompt" or shape == Shape.PROMPTS:
            return ["prompt"]
        same_prompt = self.on == "response" or self._by_prompt
        return answers[shape] if same_prompt else ["prompt", *answers[shape]]

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Find the near-duplicates and choose which rows go.

        Args:
            parts: the rows of `fit_shard`, sorted by `unit`.
            ctx: not used.

        Returns:
            State with the table `dropped` (see `DROPPED`) and the facts `units`, `pairs` (verified
            ones; with `linkage: cluster` as many as link the clusters), `near_duplicate`
            and `contradiction` (units that go), `bands`, `hashes`.
        """
        rows = read_rows(parts, self.banding, self.linking(parts.columns).group)
        rank = ranks(parts["unit"], parts["score"])
        if self.linkage == "cluster":
            edges = linking_edges(rows, self.rule)
            choice = one_of_each_cluster(edges, rank)
        else:
            edges = near_edges(rows, self.rule)
            choice = none_beside_kept(edges, rank)
        state = self._state(parts["unit"], rows, choice)
        found = {"units": parts.height, "pairs": int(edges.left.size)}
        return State(state.tables, self.told(found, [state.info]))

    def linking(self, columns: Sequence[str]) -> Linking:
        """Of one prompt, or with the same pictures: others are other rows."""
        group = "prompt_id" if self._by_prompt else None
        group = "pictures" if "pictures" in columns else group
        return Linking(self.banding, self.rule, group, self.linkage == "kept")

    def settle(self, parts: pl.DataFrame, choice: Choice) -> State:
        """The table `dropped` and its counts, `near_duplicate` and `contradiction`."""
        rows = read_rows(parts.drop("bands"), self.banding)
        return self._state(parts["unit"], rows, choice)

    def told(self, linked: Mapping[str, int], infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """And the banding."""
        cut = self.banding
        return {**super().told(linked, infos), "bands": cut.bands, "hashes": cut.bands * cut.rows}

    def _state(self, ids: pl.Series, rows: Rows, choice: Choice) -> State:
        dropped = self._dropped(ids, rows, choice)
        reasons = dropped["reason"]
        counts = {r: int((reasons == r).sum()) for r in ("near_duplicate", "contradiction")}
        return State({"dropped": dropped}, counts)

    def _dropped(self, ids: pl.Series, rows: Rows, choice: Choice) -> pl.DataFrame:
        index, near, crossed = similarity(rows.parts, choice.dropped, choice.kept, self.rule)
        table = pl.DataFrame(
            {
                "unit": ids.gather(choice.dropped),
                "kept": ids.gather(choice.kept),
                "via": ids.gather(np.where(near, choice.kept, choice.via)),
                "jaccard": np.round(index, 3),
                "crossed": crossed,
            }
        )
        way = pl.when(pl.col("via") != pl.col("kept")).then(pl.format(" by way of {}", "via"))
        detail = pl.format("kept {}{}, Jaccard {}", "kept", way.otherwise(pl.lit("")), "jaccard")
        reason = (
            pl.when("crossed").then(pl.lit("contradiction")).otherwise(pl.lit("near_duplicate"))
        )
        return table.with_columns(reason=reason, detail=detail).select(list(DROPPED))


def prompts_at_best(rows: pl.DataFrame) -> pl.DataFrame:
    """The first row of each prompt, with the best `score` of all its rows."""
    best = rows.with_columns(pl.col("score").max().over("prompt_id"))
    return best.unique("prompt_id", keep="first", maintain_order=True)


def quality(columns: dict[str, pl.DataType]) -> pl.Expr:
    """Score by which a row is kept: of no column null, of two the first minus the second."""
    scores = [pl.col(c).fill_nan(None) for c in columns]
    if not scores:
        return pl.lit(None, dtype=pl.Float64)
    return scores[0] if len(scores) == 1 else (scores[0] - scores[1]).fill_nan(None)

"""Near misses among pictures: the answer to another picture that is much alike (Re-Align)."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from generators.hard_negatives.masked import rule_pairs
from generators.images.columns import ANNOTATORS, PROVENANCE, one_picture
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.images.marks import IMAGES, NAMED, Pictures
from prefactory.images.media import UnreadableImageError, decoded
from prefactory.near.vectors import similarity
from prefactory.step import Generated, Generator, Scope, State
from prefactory.tables import SCORE, Shape, canonical_order, last_user_text, text_of

SIDE = 16
"""Side of the thumbnail by which pictures are compared, in pixels."""


class NearMissImages(Generator):
    """Pair each answer about a picture (chosen) with that about another, similar one (rejected).

    After Re-Align (arXiv:2502.13146), which retrieves a similar picture and takes it as the visual
    negative: the nearest picture within [`least`, `most`] is found, its answer is the rejected one,
    and the picture itself is in `near_images`, for losses that prefer the chosen answer given the
    picture over the same answer given the near one. Above `most` the pictures are copies.

    Pictures are compared by the cosine of thumbnails of 16 by 16 pixels around middle grey (ours,
    so that no model is needed; the paper compares embeddings of CLIP): it finds pictures of like
    colours in like places, not of like things.

    The pool is at most `pool` answers, drawn evenly over the dataset, held in memory together. Put
    a filter before this step that leaves few answers per prompt.

    Columns beside those of pairs: `near_images`, `chosen_prompt_id`, `rejected_prompt_id`,
    `similarity` (Float64), the sides' origins, `contrast` (`both`: text and picture) and
    `annotator`. `label_source` is `rule`; scores are those of the chosen answer.

    Reasons: `not_one_image`, `damaged_image`, `empty_answer`, `no_near_miss`, `same_text`.

    Attributes:
        least: least cosine of the two pictures.
        most: greatest.
        same_question: only answers to the same words are taken.
        pool: answers among which is searched.
        annotator: who made the sides differ, by the words of the survey of multimodal alignment.

    Example:
        - generators.NearMissImages: {least: 0.2}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = ("chosen_id",)

    least: float = Field(default=0.5, ge=-1, le=1)
    most: float = Field(default=0.98, ge=-1, le=1)
    same_question: bool = False
    pool: int = Field(default=10_000, ge=2)
    annotator: ANNOTATORS = "unknown"

    @model_validator(mode="after")
    def _validate_band(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """`images`."""
        return {"images": IMAGES}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where each rejected answer comes from."""
        text = pl.String()
        return {
            "chosen_origin": text,
            "rejected_origin": text,
            "near_images": IMAGES,
            "chosen_prompt_id": text,
            "rejected_prompt_id": text,
            "similarity": pl.Float64(),
            **PROVENANCE,
        }

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to the answers that may be in the pool.

        Returns:
            `response_id`, `prompt_id`, `name`, `question`, `text`, `model`, `origin` (String),
            `draw` (Float64) and `vector` (List[Float32]) of at most `pool` answers.
        """
        rows = _answers(table).filter(pl.col("name").is_not_null() & (pl.col("text") != ""))
        rows = rows.with_columns(draw=ctx.uniform(rows["response_id"], "pool"))
        rows = _lowest(rows, self.pool)
        vectors = _vectors(rows["name"].to_list(), ctx)
        held = pl.Series(
            "vector",
            [None if v is None else v.tolist() for v in vectors],
            dtype=pl.List(pl.Float32),
        )
        return rows.with_columns(held).filter(pl.col("vector").is_not_null())

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the pool, of each prompt one answer."""
        pool = _lowest(parts, self.pool).drop("draw")
        pool = pool.unique("prompt_id", keep="first", maintain_order=True)
        return State({"pool": pool}, {"pool": pool.height})

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Find a rejected answer for each answer of a table.

        Args:
            table: RESPONSES, the names of pictures in their marks.
            ctx: holds the pool and the pictures.

        Returns:
            PAIRS in canonical order, and the answers without a pair.
        """
        pool = ctx.fitted.tables["pool"]
        rows = _answers(table)
        found = self._nearest(rows, pool, ctx)
        same = pl.col("text") == pl.col("near_text")
        judged = found.with_columns(
            reason=pl.when(pl.col("name").is_null())
            .then(pl.lit("not_one_image"))
            .when(pl.col("text") == "")
            .then(pl.lit("empty_answer"))
            .when(pl.col("damaged"))
            .then(pl.lit("damaged_image"))
            .when(pl.col("near_text").is_null())
            .then(pl.lit("no_near_miss"))
            .when(same)
            .then(pl.lit("same_text")),
            detail=pl.format("nearest picture {}", pl.col("nearest").round(3)),
        )
        lost = judged.filter(pl.col("reason").is_not_null())
        dropped = lost.select(
            pl.col("response_id").alias("row_id"),
            "reason",
            pl.col("detail").fill_null("no other picture"),
        )
        kept = judged["reason"].is_null()
        return Generated(self._rows(table.filter(kept), judged.filter(kept)), dropped)

    def _nearest(self, rows: pl.DataFrame, pool: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """The rows with what the pool has for each."""
        vectors = _vectors(rows["name"].to_list(), ctx)
        held = np.array(pool["vector"].to_list(), dtype=np.float32).reshape(
            pool.height, 3 * SIDE**2
        )
        ids = pool["prompt_id"].to_numpy()
        names, questions = pool["name"].to_numpy(), pool["question"].to_numpy()
        places: list[int | None] = []
        likeness: list[float | None] = []
        for row, vector in zip(rows.iter_rows(named=True), vectors, strict=True):
            place, cosine = None, None
            if vector is not None and pool.height:
                cosines = similarity(vector[None], held)[0]
                other = (ids != row["prompt_id"]) & (names != row["name"])
                other &= (questions == row["question"]) | (not self.same_question)
                cosine = float(np.where(other, cosines, -np.inf).max())
                within = other & (cosines >= self.least) & (cosines <= self.most)
                if within.any():
                    place = int(np.where(within, cosines, -np.inf).argmax())
                    cosine = float(cosines[place])
            places.append(place)
            likeness.append(None if cosine is None or not np.isfinite(cosine) else cosine)
        unseen = pl.Series([v is None for v in vectors], dtype=pl.Boolean)
        near = pool.select(
            pl.int_range(pl.len()).alias("place"),
            pl.col("prompt_id", "name", "text", "model", "origin").name.prefix("near_"),
        )
        return rows.with_columns(
            place=pl.Series(places, dtype=pl.Int64),
            nearest=pl.Series(likeness, dtype=pl.Float64),
            damaged=unseen & rows["name"].is_not_null(),
        ).join(near, on="place", how="left", maintain_order="left")

    def _rows(self, table: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
        scores = [c for c in table.columns if c.startswith(SCORE)]
        pictures = [[{"bytes": None, "path": name}] for name in found["near_name"]]
        rows = rule_pairs(table, found["near_text"], scores).with_columns(
            pl.Series("near_images", pictures, dtype=IMAGES),
            found["prompt_id"].alias("chosen_prompt_id"),
            found["near_prompt_id"].alias("rejected_prompt_id"),
            found["nearest"].alias("similarity"),
            found["near_model"].alias("rejected_model"),
            found["near_origin"].alias("rejected_origin"),
            contrast=pl.lit("both"),
            annotator=pl.lit(self.annotator),
        )
        return canonical_order(rows, Shape.PAIRS)


def _answers(table: pl.DataFrame) -> pl.DataFrame:
    """Ids, texts and the name of the picture of each answer."""
    question = last_user_text(pl.col("prompt")).str.replace_all(NAMED.pattern, "")
    return table.select(
        "response_id",
        "prompt_id",
        name=one_picture(table["prompt"]),
        question=question.str.to_lowercase().str.strip_chars(),
        text=text_of(pl.col("response")).fill_null("").str.strip_chars(),
        model="model",
        origin="origin",
    )


def _vectors(names: list[str | None], ctx: Context) -> list[NDArray[np.float32] | None]:
    """Of each picture its thumbnail as a vector of length 1; None where it can't be opened.

    Raises:
        DataError: the run has no pictures at all.
    """
    if ctx.images is None:
        raise DataError(f"{ctx.step} compares pictures, and the rows have no column `images`")
    made: dict[str, NDArray[np.float32] | None] = {}
    for name in names:
        if name is not None and name not in made:
            made[name] = thumbnail(name, ctx.images)
    return [None if name is None else made[name] for name in names]


def thumbnail(name: str, pictures: Pictures) -> NDArray[np.float32] | None:
    """A picture as a vector, Float32[768] of length 1; None if it can't be opened."""
    try:
        small = decoded(pictures.get(name)).resize((SIDE, SIDE))
    except UnreadableImageError:
        return None
    vector = np.asarray(small, dtype=np.float32).ravel() / 255 - 0.5
    norm = float(np.linalg.norm(vector))
    unit = vector / norm if norm else np.full_like(vector, vector.size**-0.5)
    return unit.astype(np.float32)


def _lowest(answers: pl.DataFrame, most: int) -> pl.DataFrame:
    """The answers of the lowest draws, in order of their ids."""
    return answers.sort("draw", "response_id").head(most).sort("response_id")

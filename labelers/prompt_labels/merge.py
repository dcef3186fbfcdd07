"""Free tags as a vocabulary: near synonyms merged, rare ones dropped, the rest under categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, field_validator

from labelers.prompt_labels.axes import fold
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.identity import fingerprint
from prefactory.near.leaders import greedy_kept
from prefactory.near.vectors import similarity, unit, unit32
from prefactory.step import Labeler, Scope, State
from prefactory.tables import Shape

Vectors = NDArray[np.floating]
OTHER = "other"

_ALL = ""  # what counts the prompts among the counts of tags; no folded tag is empty


class MergeTags(Labeler):
    """Add `<name>`, List(String): tags merged with near synonyms, without the rare ones.

    Tags are folded (`labelers.prompt_labels.axes.fold`). Then, from the most frequent to the
    rarest (then by the alphabet), a tag joins the first kept one whose embedding has a cosine of
    `cosine` or more with its own, or is kept itself; merged tags never draw further ones, so that
    no chain forms. Kept tags that stand, with all that joined them, for fewer than
    max(`min_support`, `min_share` * prompts) prompts are dropped. With `onto` each one left
    becomes the category with the nearest embedding, or "other" below `onto_cosine`. Tags of a row
    come once each, in the row's order. After Baichuan's report (arXiv:2410.14940); the numbers are
    ours.

    A prompt with two synonyms counts twice in the support of their merged tag.

    Attributes:
        column: of the tags, List(String), such as `tag_free` of `labelers.PromptTags`.
        name: of the new column.
        encoder: of the vectors.
        cosine: tags from here on are the same.
        min_support: prompts that a tag must stand for.
        min_share: part of all tagged prompts that it must stand for.
        onto: categories that replace the tags; none keeps the tags.
        onto_cosine: least cosine with a category.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)
    scope: ClassVar[Scope] = "dataset"
    version: ClassVar[int] = 2

    column: str = Field(default="tag_free", min_length=1)
    name: str = Field(default="tags", min_length=1)
    encoder: Encoder = Encoder()
    cosine: float = Field(default=0.9, gt=0, le=1)
    min_support: int = Field(default=5, ge=1)
    min_share: float = Field(default=1e-4, ge=0, lt=1)
    onto: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    onto_cosine: float = Field(default=0.4, ge=-1, le=1)

    @field_validator("onto")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("every category may be there once")
        return value

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column of tags, List(String)."""
        return {self.column: pl.List(pl.String)}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`<name>`, List(String)."""
        return {self.name: pl.List(pl.String)}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Count the shard's prompts by folded tag.

        Returns:
            `tag` (String; "" counts the prompts that have any) and `support` (Int64).
        """
        prompts = table.unique("prompt_id", keep="first", maintain_order=True)
        flat = _folded(prompts[self.column]).unique()
        counts = flat.group_by("tag").agg(support=pl.len().cast(pl.Int64)).sort("tag")
        rows = pl.DataFrame({"tag": [_ALL], "support": [flat["row"].n_unique()]})
        return pl.concat([rows, counts])

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Make the vocabulary.

        Returns:
            table `tags`: `tag`, `support`, `merged` (what it becomes; null: dropped); info:
            `prompts`, `tags`, `merged` (those that joined another), `kept` and `version` (digest of
            the vocabulary).

        Raises:
            ConfigError: the run has no encoder.
        """
        if ctx.embed is None:
            raise ConfigError("labelers.MergeTags needs an encoder and this run has none")
        counts = parts.group_by("tag").agg(pl.col("support").sum())
        prompts = int(counts.filter(pl.col("tag") == _ALL)["support"].sum())
        tags = counts.filter(pl.col("tag") != _ALL).sort(
            ["support", "tag"], descending=[True, False]
        )
        vectors = ctx.embed(self.encoder, tags["tag"]) if tags.height else np.empty((0, 1))
        tags = tags.with_columns(merged=merged(tags["tag"], vectors, self.cosine))
        same = int((tags["merged"] != tags["tag"]).sum())
        least = max(self.min_support, self.min_share * prompts)
        enough = pl.col("support").sum().over("merged") >= least
        tags = tags.with_columns(merged=pl.when(enough).then("merged"))
        kept = tags["merged"].drop_nulls().unique().sort()
        if self.onto and kept.len():
            categories = pl.Series(self.onto)
            names = nearest(
                ctx.embed(self.encoder, kept),
                ctx.embed(self.encoder, categories),
                self.onto,
                self.onto_cosine,
            )
            tags = tags.with_columns(pl.col("merged").replace_strict(kept, names, default=None))
        info = {
            "prompts": prompts,
            "tags": tags.height,
            "merged": same,
            "kept": kept.len(),
            "version": fingerprint(tags.sort("tag").rows()),
        }
        return State({"tags": tags}, info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Bring every row's tags to the vocabulary."""
        vocabulary = ctx.fitted.tables["tags"].select("tag", "merged")
        flat = _folded(table[self.column])
        merged = flat.join(vocabulary, on="tag", how="left", maintain_order="left")
        merged = merged.drop_nulls("merged").unique(["row", "merged"], maintain_order=True)
        lists = merged.group_by("row", maintain_order=True).agg(pl.col("merged").alias(self.name))
        rows = pl.DataFrame({"row": pl.int_range(table.height, eager=True)})
        joined = rows.join(lists, on="row", how="left", maintain_order="left")
        absent = table[self.column].is_null()
        tags = pl.when(~absent).then(pl.col(self.name).fill_null([]))
        return joined.select(tags.cast(pl.List(pl.String)).alias(self.name))


def merged(tags: Sequence[str] | pl.Series, vectors: Vectors, cosine: float) -> pl.Series:
    """The kept tag that each tag joins; kept ones join themselves.

    Args:
        tags: T distinct tags, the most frequent first.
        vectors: of the tags, Float[T, d].
        cosine: least cosine with the kept tag.

    Returns:
        String [T]. Time O(T kept d), memory O(kept d).
    """
    names = list(tags)
    rows = np.arange(len(names))
    into = greedy_kept([unit32(vectors)], rows, cosine)
    return pl.Series([names[i] for i in np.where(into < 0, rows, into)], dtype=pl.String)


def nearest(
    vectors: Vectors, categories: Vectors, names: Sequence[str], cosine: float
) -> list[str]:
    """The category nearest to each vector, "other" below a cosine.

    Args:
        vectors: Float[n, d].
        categories: vectors of the categories, Float[k, d].
        names: of the k categories; of equally near ones the first is taken.
        cosine: least cosine.
    """
    near = similarity(unit(vectors), unit(categories))
    best = near.argmax(axis=1)
    return [names[b] if near[i, b] >= cosine else OTHER for i, b in enumerate(best.tolist())]


def _folded(tags: pl.Series) -> pl.DataFrame:
    """`row` (Int64) and `tag` (folded, not empty), in the order of the rows and their tags."""
    frame = pl.DataFrame({"row": pl.int_range(tags.len(), eager=True), "tag": tags})
    flat = frame.explode("tag", keep_nulls=False, empty_as_null=False).drop_nulls()
    distinct = flat["tag"].unique()
    folded = pl.Series([fold(tag) for tag in distinct], dtype=pl.String)
    spelled = pl.DataFrame({"tag": distinct, "folded": folded})
    joined = flat.join(spelled, on="tag", how="left", maintain_order="left")
    return joined.select("row", tag="folded").filter(pl.col("tag") != _ALL)

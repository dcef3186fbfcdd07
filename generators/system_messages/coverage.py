"""What system messages of a dataset cover, and how varied they are, whoever made them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from catalog.values import ValueSystem, coverage, facts, load, names
from generators.system_messages.place import ADDS
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.measures import diversity
from prefactory.step import FittedFilter, State, verdict
from prefactory.tables import Shape, digests

_WORD = r"\w+|[^\w\s]+"


class MessageCoverage(FittedFilter):
    """Measure system messages as they came out; on request cap sets of values that come too often.

    A filter that stands beside the generators whose work it measures: recipes name it so, and a
    step's name is part of its identity.

    Everything stays unless `most_alike` is set. The manifest and the report show, under "Learned
    from the data": rows by `system_source`; for each value system n, share and entropy by level and
    node (`catalog.values.coverage`); and of a sample of messages, drawn by row id, how many are
    distinct, mean ROUGE-L of pairs, Self-BLEU, distinct bigrams and, with `encoder`, the Vendi
    score (`prefactory.measures.diversity`).

    Reason: `frequent_set` (others with the same values came first, by a hash of their ids).

    Attributes:
        most_alike: rows that may ask for the same values; null for no limit.
        sample: messages that diversity is measured on.
        values: files of value systems of your own; those that come with prefactory are known.
        encoder: for the Vendi score.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    decided: ClassVar[str] = "late"

    most_alike: int | None = Field(default=None, ge=1)
    sample: int = Field(default=200, ge=2, le=2000)
    values: tuple[str, ...] = ()
    encoder: Encoder | None = None

    @field_validator("values")
    @classmethod
    def _validate_values(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            load(name)
        return value

    def identity(self) -> dict[str, Any]:
        """Fields, and what stands in files of the user's."""
        own = [load(name).model_dump(mode="json") for name in self.values]
        return {**super().identity(), "values": own}

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """What a step that makes system messages adds."""
        return {k: ADDS[k] for k in ("system_source", "value_system", "value_ids")}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to ids of prompts, values and sets; of the sample to hashes of words.

        Returns:
            `prompt_id`; `system_source`, `value_system`, `value_ids`; `set` (digest of the values);
            `draw` (Float64); `words` (List(UInt64)) and `vector` (List(Float32)) of the rows that
            may be in the sample, null elsewhere.
        """
        first = pl.col("prompt").list.first().struct
        message = pl.when(first.field("role") == "system").then(first.field("content"))
        draw = ctx.uniform(table["prompt_id"], "sample")
        rows = table.select("prompt_id", *self.needs(Shape.PROMPTS), message=message).with_columns(
            draw.alias("draw")
        )
        values = rows.select(pl.col("value_ids").list.sort().list.join("\n").alias("set"))
        rows = rows.with_columns(digests(values["set"]))
        place = pl.when(pl.col("message").is_not_null()).then("draw").rank("ordinal")
        seen = rows.select(pl.when(place <= self.sample).then("message").alias("message"))[
            "message"
        ]
        # texts stay in the shard: the sample leaves it as hashes
        words = seen.str.to_lowercase().str.extract_all(_WORD)
        hashed = pl.DataFrame([words.alias("w")]).select(
            words=pl.col("w").list.eval(pl.element().hash(0))
        )
        return rows.drop("message").hstack([hashed["words"], self._vectors(seen, ctx)])

    def _vectors(self, seen: pl.Series, ctx: Context) -> pl.Series:
        """Vectors of the texts that are there, List(Float32)."""
        at = seen.is_not_null().arg_true()
        if self.encoder is None or at.len() == 0:
            return pl.Series("vector", [None] * seen.len(), dtype=pl.List(pl.Float32))
        if ctx.embed is None:
            raise ConfigError("generators.MessageCoverage needs an encoder and this run has none")
        vectors = ctx.embed(self.encoder, seen.gather(at)).astype(np.float32)
        known = pl.DataFrame({"row": at, "vector": vectors}).with_columns(
            pl.col("vector").arr.to_list()
        )
        every = pl.DataFrame(
            {"row": pl.int_range(seen.len(), dtype=pl.get_index_type(), eager=True)}
        )
        return every.join(known, on="row", how="left", maintain_order="left")["vector"]

    def opens_engines(self) -> bool:
        """Only with an encoder."""
        return self.encoder is not None

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Measure.

        Args:
            parts: the rows of `fit_shard`, sorted by id.
            ctx: draws which rows of a frequent set stay.

        Returns:
            State with the table `late` (`prompt_id`, `place`: rows that came too late), and facts.
        """
        sources = parts["system_source"].fill_null("none").value_counts(name="n")
        info: dict[str, Any] = {
            "rows": parts.height,
            "by_source": dict(sources.sort("system_source").iter_rows()),
            "distinct_sets": parts["set"].drop_nulls().n_unique(),
            "coverage": self._coverage(parts),
            "diversity": self._diversity(parts),
        }
        ranked = parts.filter(pl.col("set").is_not_null()).with_columns(
            ctx.uniform(parts.filter(pl.col("set").is_not_null())["prompt_id"], "alike").alias("u")
        )
        place = pl.col("u").rank("ordinal").over("set").cast(pl.Int64)
        ranked = ranked.select("prompt_id", place=place)
        late = ranked.filter(pl.col("place") > (self.most_alike or parts.height))
        return State({"late": late.sort("prompt_id")}, info)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look up the rows that came too late (see `Filter.keep`)."""
        place = pl.col("place")
        rule = (place.is_not_null(), "frequent_set", pl.format("no. {}", place))
        return verdict(self.decisions(table, ctx), rule)

    def _systems(self) -> dict[str, ValueSystem]:
        systems = [load(name) for name in (*names(), *self.values)]
        return {system.system: system for system in systems}

    def _coverage(self, parts: pl.DataFrame) -> dict[str, Any]:
        """Facts by value system; of a system that nobody knows only the number of rows."""
        systems = self._systems()
        by_system: dict[str, Any] = {}
        known = parts.filter(pl.col("value_system").is_not_null()).sort("value_system", "prompt_id")
        for (name,), rows in known.group_by("value_system", maintain_order=True):
            system = systems.get(str(name))
            by_system[str(name)] = (
                {"rows": rows.height}
                if system is None
                else facts(coverage(rows["value_ids"], system))
            )
        return by_system

    def _diversity(self, parts: pl.DataFrame) -> dict[str, float | int]:
        """Diversity of the sample."""
        drawn = parts.filter(pl.col("words").is_not_null()).sort("draw", "prompt_id")
        drawn = drawn.head(self.sample)
        # each hash stands for its word, so measures of words come out as they would of the text
        texts = [" ".join(map(str, hashes)) for hashes in drawn["words"].to_list()]
        measures = diversity.of_texts(texts, self.sample)
        measures.pop("compression_ratio", None)  # of bytes, and the bytes are not the text's
        vectors = drawn["vector"].drop_nulls()
        if vectors.len():
            measures["vendi"] = round(diversity.vendi_of(np.array(vectors.to_list())), 6)
        return measures

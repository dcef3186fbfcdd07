"""Rows leave whose answers are damaged: off topic, garbled, looping, with marks of other texts."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from filters.content.language.model import languages, versions
from filters.duplicates.exact import normalised
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, MissingPackageError
from prefactory.measures.scripts import scripts
from prefactory.near.pairs import array_column
from prefactory.preferences import damage as rules_of
from prefactory.preferences.damage import (
    OF_MEANING,
    OF_TEXT,
    Rule,
    Vectors,
    letters,
    only_damage,
)
from prefactory.preferences.damage.foreign import LanguageOf, main_language, without_foreign
from prefactory.step import Filter, Scope, State
from prefactory.tables import ROW_ID, SIDES, Shape, shape_of

Detector = Literal["script", "model"]
_VECTORS = ("answer", "question", "conversation")


class Damage(Filter):
    """Drop rows with a damaged answer, by the rules that are named and no other.

    Each rule is the narrowest for its fault (see `prefactory.preferences.damage` for what each
    is): `empty`, `identical`, `role_leak`, `trailing_cue`, `template`, `judge`, `mojibake`, `loop`,
    `garbled`, and with sentence vectors `off_topic` or the rarer `off_topic_strict`; these two need
    `encoder`: the bundled one, unless it is named, and what fits in its tokens counts.

    Of pairs, marks (role leaks, cues, tokens, judges' words, mojibake) count on both sides, what
    else is wrong on the chosen side only, unless `rejected` is set: a rejected answer may loop, and
    be rejected for it. `garbled` compares an answer with the others, so it leaves alone answers in
    another language than most are in.

    The reason is the rule, the first that fires in the order above; the detail names the side.

    Attributes:
        rules: which rules drop rows; by default all that need no vectors.
        rejected: whether `loop` and `garbled` drop pairs for their rejected answer too.
        fold: whether `identical` looks past case, white space and Unicode form; such pairs may be
            meant (a prompt that asks for capitals), so it is off.
        detector: what tells languages apart: `script` (needs nothing) or `model` (extra
            `language`; see `filters.Language`).
        encoder: sentence encoder of `off_topic` and `off_topic_strict`; no other rule opens it.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES, Shape.PAIRS)
    scope: ClassVar[Scope] = "dataset"
    version: ClassVar[int] = 2

    rules: tuple[Rule, ...] = Field(default=OF_TEXT, min_length=1)
    rejected: bool = False
    fold: bool = False
    detector: Detector = "script"
    encoder: Encoder = Field(default_factory=Encoder)

    @model_validator(mode="after")
    def _validate_rules(self) -> Self:
        if "unfinished" in self.rules:
            raise ValueError("rules: unfinished is a number, no rule to drop by: half are fine")
        return self

    @property
    def _vectors(self) -> bool:
        return any(rule in self.rules for rule in OF_MEANING)

    def opens_engines(self) -> bool:
        """The encoder is opened for the rules of meaning only."""
        return self._vectors

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """No columns; finds out whether the language model is there, if it is asked for.

        Raises:
            ConfigError: its package is missing.
        """
        if self.detector == "model":
            try:
                versions()
            except MissingPackageError as error:
                raise ConfigError(str(error)) from error
        return {}

    def identity(self) -> dict[str, Any]:
        """As of any step; with the language model, its versions too."""
        identity = super().identity()
        return {**identity, "model": versions()} if self.detector == "model" else identity

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Take the texts that `garbled` learns from and embed those of `off_topic`.

        Args:
            table: PAIRS or RESPONSES.
            ctx: opens the encoder, if a rule needs one.

        Returns:
            The row id; for `garbled` the columns of the shape that hold texts, null outside the
            sample; for `off_topic` `cluster`, `words`, `order` and three vectors.

        Raises:
            ConfigError: a rule needs an encoder and the context has none.
        """
        name = ROW_ID[shape_of(table)]
        parts = table.select(name)
        if "garbled" in self.rules:
            mask = np.zeros(table.height, dtype=bool)
            mask[letters.sampled(table[name])] = True
            columns = [c for c in ("prompt", "response", *SIDES) if c in table.columns]
            parts = parts.hstack(
                table.select(pl.when(pl.Series(mask)).then(pl.col(c)).alias(c) for c in columns)
            ).with_columns(sampled=pl.Series(mask))
        if self._vectors:
            if ctx.embed is None:
                raise ConfigError("Damage needs an encoder for off_topic; this context has none")
            texts = rules_of.texts_of_meaning(table)
            embedded = np.asarray(ctx.embed(self.encoder, pl.concat(texts)), dtype=np.float32)
            parts = parts.with_columns(
                rules_of.clusters(table).hash(0).alias("cluster"),
                texts[0].str.count_matches(r"\S+").alias("words"),
            ).hstack(
                [
                    array_column(vectors, pl.Float32()).alias(f"vector_{which}")
                    for which, vectors in zip(_VECTORS, np.split(embedded, 3), strict=True)
                ]
            )
        return parts

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Learn the letters of the sample, and judge every row's relevance.

        Args:
            parts: the rows of `fit_shard`, sorted by id.
            ctx: not used.

        Returns:
            State with the tables of `prefactory.preferences.damage.letters.Model`, the main
            language, and `relevance`.
        """
        tables: dict[str, pl.DataFrame] = {}
        info: dict[str, Any] = {}
        if "garbled" in self.rules:
            sample = parts.filter("sampled")
            sample = sample[letters.sampled(sample.to_series(0))]
            model = rules_of.fit_sample(sample)
            if model is not None:
                tables, info = letters.to_tables(model)
                info["language"] = main_language(sample, self._language_of())
        if self._vectors:
            vectors = Vectors(*(parts[f"vector_{which}"].to_numpy() for which in _VECTORS))
            ids = parts.to_series(0)
            relevance = rules_of.judged(ids, parts["cluster"], parts["words"], vectors)
            if relevance is not None:
                tables["relevance"] = parts.select(id=pl.first()).hstack(relevance)
        return State(tables, info)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge rows by the rules.

        Args:
            table: PAIRS or RESPONSES.
            ctx: holds the state of `fit`.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        state = ctx.state or State()
        ids = table.select(id=ROW_ID[shape_of(table)])
        relevance = None
        if "relevance" in state.tables:
            relevance = ids.join(
                state.tables["relevance"], on="id", how="left", maintain_order="left"
            )
        model = letters.from_tables(state.tables, state.info) if "language" in state.info else None
        rules = [r for r in self.rules if r != "garbled" or model is not None]
        hits = rules_of.damage(table, rules, model=model, relevance=relevance)
        hits = only_damage(hits, rejected=self.rejected)
        if self.fold and "identical" in self.rules:
            hits = pl.concat([hits, alike(table)])
        if model is not None:
            main = str(state.info["language"])
            hits = without_foreign(hits, table, main, self._language_of())
        first = hits.unique("row", keep="first", maintain_order=True)
        rows = pl.DataFrame({"row": pl.int_range(table.height, eager=True)})
        joined = rows.join(first, on="row", how="left", maintain_order="left")
        return joined.select(reason="rule", detail=pl.format("{}: {}", "side", "detail"))

    def _language_of(self) -> LanguageOf:
        return language_of if self.detector == "model" else scripts


def alike(table: pl.DataFrame) -> pl.DataFrame:
    """Pairs whose answers differ in case, white space or Unicode form only, as hits."""
    if shape_of(table) != Shape.PAIRS:
        return pl.DataFrame(schema=rules_of.SCHEMA)
    texts = (rules_of.answers(table, side) for side in SIDES)
    chosen, rejected = (
        t.to_frame().select(normalised(pl.first(), True, True, True)).to_series() for t in texts
    )
    return table.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
        pl.col("pair_id").alias("id"),
        pl.lit("identical").alias("rule"),
        pl.lit("pair").alias("side"),
        pl.lit("both answers are one text but for case and space").alias("detail"),
    ).filter((chosen == rejected) & (chosen != ""))


def language_of(texts: pl.Series) -> pl.Series:
    """The language of texts (an ISO code) by the language model; String [N]."""
    return languages(texts)["found"]

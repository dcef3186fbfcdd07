"""Rows leave that an earlier published version has already, exactly or nearly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from catalog.versions import Catalog, Version
from filters.duplicates.near import Shingled
from prefactory.context import Context
from prefactory.errors import CatalogError, ConfigError
from prefactory.near.pairs import Edges, near_edges, read_rows, reduce_texts
from prefactory.step import State
from prefactory.tables import ROW_ID, Shape, shape_of, text_of

COMPARED = {"prompt": ["prompt"], "response": ["response"], "row": ["prompt", "response"]}


class AgainstVersions(Shingled):
    """Drop rows whose prompt or answer is in another version of the catalog, or nearly so.

    Texts are compared as `filters.NearDuplicates` does, with the answers (else the prompts) of the
    versions named; a threshold of 1 drops only texts with the same words in the same pairs. The
    content of those versions is part of the step's identity, the folder that they lie in is not. Of
    pairs each answer is looked up, and the pair leaves if either was published.

    Reason: `published`; the detail is `<name>@<version> <id>, Jaccard <index>`.

    Attributes:
        versions: `name@version`, each of them exactly: a name alone would be another version after
            the next run.
        on: what is compared: the `prompt`, the `response`, or both of a `row`.
        catalog: folder of the versions; null is `versions` in PREFACTORY_HOME (or in .prefactory).
            Not identity.

    Example:
        - filters.AgainstVersions: {versions: [mine@2026.11.29]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES)
    version: ClassVar[int] = 2

    versions: tuple[str, ...] = Field(min_length=1)
    on: Literal["prompt", "response", "row"] = "prompt"
    catalog: Path | None = None

    @field_validator("versions")
    @classmethod
    def _exact(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for ref in value:
            name, _, version = ref.partition("@")
            if not name or not version or "/" in ref:
                raise ValueError(f"{ref!r} is not of the form name@version")
        return value

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """No columns; opens the versions, so that a missing one is found before the run.

        Raises:
            ConfigError: if a version is not there, or answers are asked of PROMPTS.
        """
        if shape == Shape.PROMPTS and self.on != "prompt":
            raise ConfigError(f"on: {self.on} needs answers; prompts have none")
        try:
            self._open()
        except CatalogError as error:
            raise ConfigError(f"versions: {error}") from error
        return {}

    def identity(self) -> dict[str, Any]:
        """As of any step, with the content digests of the versions and without their folder."""
        identity = super().identity()
        contents = {v.ref: v.manifest.content_digest for v in self._open()}
        fields = {k: v for k, v in identity["fields"].items() if k != "catalog"}
        return {**identity, "fields": {**fields, "versions": contents}}

    def _open(self) -> list[Version]:
        catalog = Catalog(root=self.catalog)
        return [catalog.get(ref) for ref in sorted(set(self.versions))]

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to hashes.

        Args:
            table: PROMPTS or RESPONSES.
            ctx: not used.

        Returns:
            `unit` (String: row id, or `prompt_id` if prompts are compared) and the columns of
            `prefactory.near.pairs.reduce_texts`.
        """
        return self._reduced(table, self.unit(shape_of(table)))

    def unit(self, shape: Shape) -> str:
        """Prompts stay or go with all their rows if `on` is `prompt`."""
        return "prompt_id" if self.on == "prompt" else ROW_ID[shape]

    def _reduced(self, table: pl.DataFrame, unit: str) -> pl.DataFrame:
        units = table.unique(unit, keep="first", maintain_order=True)
        texts = {
            name: units.select(text_of(pl.col(name)).fill_null("")).to_series()
            for name in COMPARED[self.on]
        }
        hashes = reduce_texts(texts, self.words, self.banding)
        return hashes.insert_column(0, units[unit].alias("unit"))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Look for the rows in the versions.

        Args:
            parts: the rows of `fit_shard`, sorted by `unit`.
            ctx: not used.

        Returns:
            State with the table `dropped` (`unit`, `reason`, `detail`) and the facts `units`,
            `published` (those that go) and `against` (distinct texts of the versions).
        """
        parts = parts.unique("unit", keep="first", maintain_order=True)
        own = parts.with_columns(ref=pl.lit(None, dtype=pl.String))
        others = [piece for version in self._open() for piece in self._pieces(version)]
        known = pl.concat([own.clear(), *others]).unique(
            ["ref", "unit"], keep="first", maintain_order=True
        )
        both = pl.concat([known.select(own.columns).sort("ref", "unit"), own])
        theirs = np.arange(both.height) < known.height
        edges = near_edges(read_rows(both, self.banding), self.rule, theirs)
        dropped = _most_alike(edges, both.select("ref", "unit", "digest"), known.height)
        facts = {"units": parts.height, "published": dropped.height, "against": known.height}
        return State({"dropped": dropped}, facts)

    def _pieces(self, version: Version) -> Iterator[pl.DataFrame]:
        """The hashes of a version's texts."""
        tables = version.manifest.tables
        name = "responses" if "responses" in tables else "prompts"
        if name not in tables or (name == "prompts" and self.on != "prompt"):
            raise ConfigError(f"{version.ref} has no {COMPARED[self.on][-1]}s to compare with")
        unit = self.unit(Shape.RESPONSES)
        columns = list(dict.fromkeys([unit, *COMPARED[self.on]]))
        for split, rows in tables[name].splits.items():
            for batch in version.batches(name, split, columns) if rows else ():
                yield self._reduced(batch, unit).with_columns(ref=pl.lit(version.ref))


def _most_alike(edges: Edges, rows: pl.DataFrame, known: int) -> pl.DataFrame:
    """Of each own row the published one most like it; the first `known` rows are the published.

    Own rows with equal sets share the edges of the first of them.
    """
    pairs = pl.DataFrame(
        {
            "digest": rows["digest"].gather(edges.right),
            "ref": rows["ref"].gather(edges.left),
            "other": rows["unit"].gather(edges.left),
            "jaccard": edges.jaccard,
        }
    )
    best = pairs.sort("jaccard", "ref", "other", descending=[True, False, False]).unique(
        "digest", keep="first", maintain_order=True
    )
    own = rows.slice(known).select("unit", "digest")
    return own.join(best, on="digest", how="inner", maintain_order="left").select(
        "unit",
        reason=pl.lit("published"),
        detail=pl.format("{} {}, Jaccard {}", "ref", "other", pl.col("jaccard").round(3)),
    )

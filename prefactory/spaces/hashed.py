"""Features of names without a vocabulary: many columns in one table of slots (Unified Embedding).

Unified Embedding (arXiv 2305.12102) keeps one table for all categorical features, a hash for each
feature, and several look-ups that stand beside each other: values of two columns may fall on one
slot, but hardly on all of theirs. Here the table is that of a linear model, so a value lights its
slots, and what columns do together is a column of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefactory.errors import DataError
from prefactory.measures.calibration import Floats

CROSS = "\x1f"
"""Between the values of columns that are read together."""


def slots_of(feature: str, values: pl.Series, slots: int, probes: int) -> NDArray[np.int64]:
    """The slots that values light, by BLAKE2b of `feature:probe|value`: the same everywhere.

    Args:
        feature: name of the column.
        values: String[n]; null lights none.
        slots: of the table.
        probes: look-ups of a value.

    Returns:
        Int64[n, probes], -1 for null.
    """
    distinct = values.drop_nulls().unique().sort()
    known: dict[str, list[int]] = {
        value: [
            int.from_bytes(
                hashlib.blake2b(f"{feature}:{probe}|{value}".encode(), digest_size=8).digest()
            )
            % slots
            for probe in range(probes)
        ]
        for value in distinct
    }
    none = [-1] * probes
    rows = [none if value is None else known[value] for value in values]
    return np.array(rows, np.int64).reshape(len(values), probes)


class Categories(BaseModel):
    """Columns of names as features.

    Attributes:
        answer: columns that differ between the answers to a prompt (`model`).
        prompt: columns of the prompt (`source`, `language`, `objective`). What is the same for
            both answers says nothing by itself, so each is read together with each of `answer`.
        slots: of the one table for all.
        probes: slots that a value lights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: tuple[str, ...] = Field(default=("model",), min_length=1)
    prompt: tuple[str, ...] = ()
    slots: int = Field(default=256, ge=2)
    probes: int = Field(default=2, ge=1, le=8)

    @field_validator("answer", "prompt")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names) or not all(names):
            raise ValueError("name each column once")
        return names

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns."""
        return (*self.answer, *self.prompt)

    def features(self, table: pl.DataFrame) -> Floats:
        """Features of answers.

        Args:
            table: has `columns`; a null is no value.

        Returns:
            Float64[n, slots]: for each column of the answer, alone and with each of the
            prompt, `1 / probes` on each of its slots.

        Raises:
            DataError: a column is missing.
        """
        if missing := [c for c in self.columns if c not in table.columns]:
            raise DataError(f"there is no column {missing[0]!r}, which `categories` names")
        texts = table.select(pl.col(c).cast(pl.String) for c in self.columns)
        out = np.zeros((table.height, self.slots))
        for own in self.answer:
            self._light(out, own, texts[own])
            for other in self.prompt:
                both = pl.concat_str([own, other], separator=CROSS)
                self._light(out, f"{own}{CROSS}{other}", texts.select(both).to_series())
        return out

    def _light(self, out: Floats, feature: str, values: pl.Series) -> None:
        for probe in slots_of(feature, values, self.slots, self.probes).T:
            there = probe >= 0
            np.add.at(out, (np.flatnonzero(there), probe[there]), 1 / self.probes)

    def of_side(self, pairs: pl.DataFrame, side: str) -> pl.DataFrame:
        """The columns of one answer of pairs, under their own names.

        Raises:
            DataError: a column is missing.
        """
        wanted = self.in_pairs()
        if missing := [c for c in wanted if c not in pairs.columns]:
            raise DataError(f"the pairs have no column {missing[0]!r}, which `categories` names")
        own = [pl.col(f"{side}_{c}").alias(c) for c in self.answer]
        return pairs.select(*own, *self.prompt)

    def in_pairs(self) -> Sequence[str]:
        """What the columns are called in a table of pairs."""
        both = [f"{side}_{c}" for c in self.answer for side in ("chosen", "rejected")]
        return [*both, *self.prompt]

    def plain(self) -> dict[str, Any]:
        """Plain data."""
        return self.model_dump(mode="json")

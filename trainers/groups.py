"""All answers to each prompt of a version, with a number each, for methods that weigh or rank."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import polars as pl

from catalog.arrow_folder import SplitWriter, arrow_schema
from prefactory.errors import DataError
from prefactory.tables import OF_PROMPT, Shape, with_ids
from trainers.base import DatasetRef

ANSWERS = "answers"
CUT = "cut"
_OF_ROW = ("prompt_id", "prompt", "source", "source_id")


@dataclass(frozen=True)
class Answers(DatasetRef):
    """Answers in the place of pairs.

    A row is a pair of a prompt's answers, the one with the greatest number and the one with the
    least, and has all of them beside it: `answers` (conversations), `numbers` (Float64) and
    `beside` (Float64), in falling order of the numbers. Answers without a number are left out, and
    prompts with fewer than two; of held-out prompts also those whose numbers are all the same.

    Attributes:
        number: column of the answers.
        more: another such column, which every answer must have; `beside` is null without one.
        made_by: what makes the number, for who lacks it.
        least: of the number.
    """

    table: str = "responses"
    number: str = ""
    more: str | None = None
    made_by: str = ""
    least: float | None = None
    _read: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def pairs(self, split: str) -> datasets.Dataset:
        """The rows of a split, memory-mapped from a folder that goes with this object.

        Raises:
            DataError: no prompt to train on has two answers with a number, an answer has one that
                can't be used, or prompts have pictures.
        """
        if split not in self._read:
            self._read[split] = _mapped(self.batches(split), split)
        rows: datasets.Dataset = self._read[split][0]
        if split == "train" and not len(rows):
            raise DataError(f"no prompt of {self} has two answers with {self.number}")
        return rows

    def batches(self, split: str, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
        """The same rows, those of a record batch at a time."""
        there = super().pairs(split).column_names  # refuses pictures
        for name in filter(None, (self.number, self.more)):
            if name not in there:
                raise DataError(f"the answers of {self} lack the column {name}. {self.made_by}")
        wanted = [*_OF_ROW, "response_id", "response", "model", self.number]
        wanted += [c for c in (self.more, *OF_PROMPT) if c is not None and c in there]
        held = self.version.frame(self.table, split).select(wanted).head(0).collect()
        for batch in super().batches(split, wanted):
            rows = pl.concat([held, batch])
            if not rows.height:
                continue
            last = pl.col("prompt_id") == rows["prompt_id"][-1]
            held = rows.filter(last)  # its other answers may be in the next batch
            yield self._rows(rows.filter(~last), split).select(columns or pl.all())
        yield self._rows(held, split).select(columns or pl.all())

    def _rows(self, answers: pl.DataFrame, split: str) -> pl.DataFrame:
        beside = pl.lit(None) if self.more is None else pl.col(self.more)
        rows = answers.with_columns(
            number=pl.col(self.number).cast(pl.Float64), beside=beside.cast(pl.Float64)
        ).filter(pl.col("number").is_not_null())
        self._check(rows, split)
        first = [pl.col(c).first() for c in (*_OF_ROW[1:], *OF_PROMPT) if c in rows.columns]
        grouped = (
            rows.sort("prompt_id", -pl.col("number"), "response_id")
            .group_by("prompt_id", maintain_order=True)
            .agg(*first, answers="response", numbers="number", beside="beside", models="model")
            .filter(pl.col("numbers").list.len() > 1)
        )
        if split != "train":
            apart = pl.col("numbers").list.first() > pl.col("numbers").list.last()
            grouped = grouped.filter(apart)
        sides = {
            name: value
            for side, place in (("chosen", 0), ("rejected", -1))
            for name, value in (
                (side, pl.col("answers").list.get(place)),
                (f"{side}_model", pl.col("models").list.get(place)),
            )
        }
        pairs = grouped.with_columns(**sides, label_source=pl.lit(None, pl.String))
        return with_ids(pairs.drop("models"), Shape.PAIRS)

    def _check(self, rows: pl.DataFrame, split: str) -> None:
        numbers = ["number"] if self.more is None else ["number", "beside"]
        fine = pl.all_horizontal(pl.col(c).is_finite().fill_null(False) for c in numbers)
        if self.least is not None:
            fine &= pl.col("number") >= self.least
        wrong = rows.filter(~fine)
        if wrong.height:
            names = " and ".join(filter(None, (self.number, self.more)))
            least = "" if self.least is None else f", {self.least:g} or more"
            raise DataError(
                f"{names} must be finite numbers{least}; in {split} of {self} they are not for the "
                f"answer {wrong['response_id'][0]} (and {wrong.height - 1} more)"
            )

    def notes(self) -> list[str]:
        """What of the training split is left out, one sentence each."""
        counts = (
            self.version.frame(self.table, "train")
            .group_by("prompt_id")
            .agg(there=pl.col(self.number).count(), all=pl.len())
            .select(few=(pl.col("there") < 2).sum(), none=(pl.col("all") - pl.col("there")).sum())
            .collect()
        )
        few, none = counts.row(0)
        said = [
            (few, "prompts have fewer than two answers with a number"),
            (none, "answers are without one"),
        ]
        return [f"{n} {what} ({self.number}), and are left out" for n, what in said if n]


def _mapped(
    batches: Iterator[pl.DataFrame], split: str
) -> tuple[datasets.Dataset, tempfile.TemporaryDirectory[str]]:
    """Rows as a memory-mapped dataset, and the folder that it lies in until that is forgotten."""
    folder = tempfile.TemporaryDirectory(prefix="prefactory-answers-")
    first = next(batches)
    writer = SplitWriter(Path(folder.name) / split, split, arrow_schema(first))
    for rows in itertools.chain([first], batches):
        writer.write(rows)
    writer.close()
    return datasets.load_from_disk(str(writer.folder)), folder

"""What people said of single answers and prompts, as columns."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from labelers.annotators.people import read_annotations, stamp, votes_digest
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.step import Labeler
from prefactory.tables import ROW_ID, Shape, text_of
from prefactory.votes.answers import OF_TASK

OF_SHAPE: dict[str, tuple[Shape, ...]] = {
    "rate": (Shape.RESPONSES,), "rank": (Shape.RESPONSES,), "steps": (Shape.RESPONSES,),
    "rationale": (Shape.PAIRS,), "tags": (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS),
}  # fmt: skip
SPLITTERS = {"paragraph": r"\n[ \t]*\n\s*", "line": r"\s*\n\s*"}
"""As of `labelers.StepScores`."""


class HumanAnswers(Labeler):
    """Add what people said in a review of single answers or prompts, and publish their votes.

    By the task of the votes (`prefactory.votes.answers`):

    - `rate`: `score_human_<attribute>` (Float64, on the scale of the ratings, without each person's
      lenience) and `human_se_<attribute>` (Float64, its standard error);
    - `rank`: `score_human_rank` (Float64, log strength by Bradley and Terry);
      `labelers.Pairs: {objective: human_rank}` makes pairs of it;
    - `tags`: `human_tags` (List(String), what more than half of the people gave);
    - `steps`: `steps` (List(String)) and `step_labels` (List(Float64): 1 right, 0 neutral, -1
      wrong), the columns of the layouts of step labels;
    - `rationale`: `human_rationale` (Float64 in [0, 1], how right people find the judge's reason).

    And `human_votes` (Int64, people whose votes decided; 0 without) and, of tags and steps,
    `human_agreement` (Float64). Rows that nobody saw are null. The votes are the table
    `annotations`. Nothing is dropped.

    Attributes:
        file: votes of one task, Parquet with the columns of ANNOTATIONS (`prefactory.tables`).
        splitter: of steps, as in the review.

    Example:
        - labelers.HumanAnswers: {file: annotations.parquet}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)

    file: Path
    splitter: Literal["paragraph", "line"] = "paragraph"

    def identity(self) -> dict[str, Any]:
        """As of any step, with the digest of the votes in the place of their path."""
        found = super().identity()
        return {**found, "fields": found["fields"] | {"file": votes_digest(self.file)}}

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """No columns; opens the file, so that a missing one is found before the run.

        Raises:
            ConfigError: it can't be read, or its votes are not about this shape.
        """
        task = _task(read_annotations(self.file))
        if shape not in OF_SHAPE.get(task, ()):
            meant = "labelers.Annotations" if task == "pair" else " or ".join(OF_SHAPE[task])
            raise ConfigError(f"file: votes of the task {task!r} are for {meant}, not for {shape}")
        return {}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """What people said, by the task of the votes."""
        columns = {k: v for k, v in self._found().schema.items() if k != "row_id"}
        return {"steps": pl.List(pl.String), **columns} if "step_labels" in columns else columns

    def brings(self) -> dict[str, pl.DataFrame]:
        """The votes, as the table `annotations`."""
        return {"annotations": read_annotations(self.file)}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look up what people said of each row.

        Args:
            table: PROMPTS, RESPONSES or PAIRS, as the task of the votes wants.
            ctx: not used.

        Returns:
            The columns of `adds`, same height and order.
        """
        key = self._key(table)
        found = table.select(row_id=key).join(
            self._found(), on="row_id", how="left", maintain_order="left"
        )
        found = found.with_columns(pl.col("human_votes").fill_null(0))
        if "step_labels" in found.columns:
            found = self._with_steps(table, found)
        return found.select(list(self.adds(Shape.RESPONSES)))

    def _key(self, table: pl.DataFrame) -> str:
        if _task(read_annotations(self.file)) == "tags":
            return "prompt_id"
        return "pair_id" if "pair_id" in table.columns else ROW_ID[Shape.RESPONSES]

    def _with_steps(self, table: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
        """The texts of the steps; labels of another number of steps are left out."""
        texts = table.select(text_of(pl.col("response"))).to_series()
        seen = (found["human_votes"] > 0).to_list()
        pieces = [
            split(text, self.splitter) if asked else None
            for text, asked in zip(texts.to_list(), seen, strict=True)
        ]
        rows = found.with_columns(steps=pl.Series(pieces, dtype=pl.List(pl.String)))
        fits = pl.col("steps").list.len() == pl.col("step_labels").list.len()
        return rows.with_columns(pl.when(fits).then(pl.col(c)) for c in ("steps", "step_labels"))

    def _found(self) -> pl.DataFrame:
        return _consensus(*stamp(self.file))


def split(text: str, splitter: str) -> list[str]:
    """The steps of an answer's text, none of them empty."""
    return [step for step in re.split(SPLITTERS[splitter], text.strip()) if step.strip()]


@lru_cache(maxsize=4)
def _consensus(path: Path, changed: int, size: int) -> pl.DataFrame:
    votes = read_annotations(path)
    return OF_TASK[_task(votes)](votes)


def _task(votes: pl.DataFrame) -> str:
    """The task of the votes.

    Raises:
        ConfigError: there are none, or of several tasks.
    """
    tasks = votes["task"].unique().sort().to_list()
    if len(tasks) != 1 or tasks[0] not in (*OF_TASK, "pair"):
        told = ", ".join(tasks) or "none"
        raise ConfigError(
            f"file: votes of one task are wanted (pair, {', '.join(OF_TASK)}): {told}"
        )
    return str(tasks[0])

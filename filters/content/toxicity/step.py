"""Rows leave whose texts a classifier, or a score, calls toxic."""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import polars as pl
from pydantic import AfterValidator, Field, model_validator

from filters.content.texts import judge_once
from filters.content.toxicity.model import Classifier
from prefactory.beside import import_function, placed
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.step import Filter
from prefactory.tables import TEXTS, Shape, shape_of

Side = Literal["prompt", "chosen", "rejected", "response"]
Scorer = Callable[[Sequence[str]], Sequence[float | None]]


class Toxicity(Filter):
    """Drop rows in which a text is more toxic than a threshold allows.

    What toxic means is said by one of three:

    - `model`: any sequence classifier of transformers and the label that is unwanted, for example
      `{model: unitary/toxic-bert, label: toxic}`. A long text is judged in windows, by its worst.
    - `function`: import path of `(list of texts) -> list of numbers`, greater being worse; None
      where it can't tell. It must judge each text by itself. Bump `version_of_function` when it
      acts differently because of what its module imports.
    - `score`: an objective that is there already (`score_<objective>`, greater being worse); it
      says nothing about prompts.

    By default rejected answers are not judged: in pairs about safety they are toxic on purpose.

    Reason: `toxic`; the detail is side, value and threshold. Of several sides the first in the
    order prompt, chosen, rejected, response is named.

    Attributes:
        model: a classifier.
        function: a function of ours or yours.
        score: an objective.
        threshold: greatest value that stays.
        sides: texts that are judged, of those that the rows have.
        version_of_function: identity, beside the source of the function's module.

    Example:
        - filters.Toxicity: {score: toxicity}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)

    model: Classifier | None = None
    function: Annotated[str, Field(pattern=r"^[\w.]+\.\w+$"), AfterValidator(placed)] | None = None
    score: str | None = Field(default=None, min_length=1)
    threshold: float = 0.5
    sides: tuple[Side, ...] = Field(default=("chosen", "response"), min_length=1)
    version_of_function: int = 1

    @model_validator(mode="after")
    def _validate_source(self) -> Self:
        given = [n for n in ("model", "function", "score") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give one of model, function and score; given: {', '.join(given) or 'none'}"
            )
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of `score` (Float64), if it is set; imports `function`, to find it missing.

        Raises:
            ConfigError: if the rows have none of the sides, or the function is not there.
        """
        if self.function is not None:
            import_function(self.function, "function")
        sides = self._sides(shape)
        if not sides:
            known = ", ".join(TEXTS[shape])
            raise ConfigError(f"sides: {', '.join(self.sides)}; a table of {shape} has {known}")
        return {self._column(side): pl.Float64() for side in sides} if self.score else {}

    def identity(self) -> dict[str, Any]:
        """As of any step, with the source of the function's module."""
        identity = super().identity()
        if self.function is None:
            return identity
        path = importlib.import_module(
            import_function(self.function, "function").__module__
        ).__file__
        source = Path(path).read_bytes() if path else b""
        return {**identity, "function_source": hashlib.blake2b(source, digest_size=16).hexdigest()}

    def _sides(self, shape: Shape) -> list[str]:
        judged = [side for side in TEXTS[shape] if side in self.sides]
        return [side for side in judged if self.score is None or side != "prompt"]

    def _column(self, side: str) -> str:
        return f"score_{self.score}" if side == "response" else f"{side}_score_{self.score}"

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge rows.

        Args:
            table: PROMPTS, RESPONSES or PAIRS.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        none = pl.Series([None], dtype=pl.String).new_from_index(0, table.height)
        judged = pl.DataFrame({"detail": none})
        for side in self._sides(shape_of(table)):
            value = pl.DataFrame({"detail": judged["detail"], "value": self._values(table, side)})
            above = pl.format(f"{side}: {{}} > {self.threshold:g}", pl.col("value").round(4))
            worse = (pl.col("value") > self.threshold).fill_null(value=False)
            judged = value.select(detail=pl.coalesce("detail", pl.when(worse).then(above)))
        toxic = pl.col("detail").is_not_null()
        return judged.select(reason=pl.when(toxic).then(pl.lit("toxic")), detail="detail")

    def _values(self, table: pl.DataFrame, side: str) -> pl.Series:
        """Value of each row's text on a side: Float64, null if unknown."""
        if self.score is not None:
            return table[self._column(side)].fill_nan(None)
        return judge_once(table, side, self._judged)["value"]

    def _judged(self, texts: pl.Series) -> pl.DataFrame:
        if self.model is not None:
            return pl.DataFrame({"value": self.model.probabilities(texts)})
        return self._asked(texts).to_frame("value")

    def _asked(self, texts: pl.Series) -> pl.Series:
        distinct = texts.unique(maintain_order=True)
        answers = list(import_function(self.function or "", "function")(distinct.to_list()))
        if len(answers) != distinct.len():
            raise DataError(
                f"{self.function} gave {len(answers)} values for {distinct.len()} texts"
            )
        known = pl.DataFrame({"text": distinct, "value": [_number(a, self) for a in answers]},
                             schema_overrides={"value": pl.Float64})  # fmt: skip
        rows = pl.DataFrame({"text": texts})
        return rows.join(known, on="text", how="left", maintain_order="left")["value"]


def _number(value: object, step: Toxicity) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # numbers of NumPy and torch too
    except (TypeError, ValueError) as error:
        raise DataError(f"{step.function} gave {value!r}, which is no number") from error
    return None if math.isnan(number) else number

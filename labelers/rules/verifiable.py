"""Answers that a rule can check: a number, a text, a pattern, a JSON schema, a letter of a choice.

Patterns run in Rust's regex engine (through Polars), whose time is linear in the text; it refuses
look-around, back-references and patterns that grow too large.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import polars as pl
from pydantic import Field, field_validator, model_validator

from prefactory.context import Context
from prefactory.measures import json_answers
from prefactory.step import Labeler
from prefactory.tables import SCORE, Shape, text_of

MAX_PATTERN = 2000
"""Characters that a pattern of the recipe may have."""

MARKER = (
    r"(?im)(?:####|\\boxed\s*\{|\banswer[*_ \t]*(?:\bis\b|:|=)|^[ \t]*(?:A|Ans)[ \t]*:)[*_: \t$(]*"
)
"""What stands before a final answer: `####`, `\\boxed{`, `answer is`, `Answer:`, `A:`."""

_PLAIN = r"(?:\d{1,3}(?:[,'\u{2009}\u{202F}]\d{3})+\b|\d+)(?:\.\d+)?(?:[eE][-+]?\d+\b)?|\.\d+"
_SIGN = r"[-+]?[$€£¥]?[-+]?"
NUMBER = rf"{_SIGN}(?:\d+ +\d+ */ *\d+|(?:{_PLAIN})(?: */ *(?:{_PLAIN}))?)"
"""A number: sign, currency, thousands separators, decimals, exponent, fraction, mixed number."""

_PARTS = rf"^({_SIGN})(?:(\d+) +)?({_PLAIN})(?: */ *({_PLAIN}))?$"
_VULGAR = {
    "½": " 1/2",
    "⅓": " 1/3",
    "⅔": " 2/3",
    "¼": " 1/4",
    "¾": " 3/4",
    "⅕": " 1/5",
    "⅛": " 1/8",
}

Kind = Literal["number", "exact", "regex", "json", "choice"]


class Verifiable(Labeler):
    r"""Add `score_<name>`: 1.0 where a rule finds the answer right, 0.0 where it does not.

    Objective: `name`. Range: 0 or 1. Direction: higher is better.

    - `number`: the number after the last final-answer marker (`MARKER`; after the last `=` of that
      line if it has one), else the last number of the text, equals the reference's number.
      Units and currencies do not count; 1,234.50, 3/4, 1 1/2, ½, \frac{3}{4} and 1e3 are read.
      A percent sign is a unit: 50% is 50.
    - `exact`: the text equals the reference, by default after folding case and white space.
    - `regex`: the pattern is found in the text.
    - `json`: the text is one JSON value (a Markdown fence around it is taken off), valid under
      `json_schema` (without one any JSON is right).
    - `choice`: the letter after the last marker, or a text that is only a letter or begins with
      one ("B", "(B)", "B. because"), or the last letter in parentheses, is the reference's letter.

    An answer from which nothing can be read (no number, no letter, no JSON, no match of `extract`)
    is wrong, or null by `unparsed`. Without a readable reference the score is null.

    Attributes:
        kind: of the rule.
        name: of the objective.
        reference: String column with the right answer, the pattern, or the JSON schema as text. A
            GSM8K solution will do for `number`. On pairs use `expected`: pairs that are taken
            apart do not carry further columns.
        expected: the same for all rows, in place of `reference`.
        json_schema: for `json`, in place of `reference` and `expected`.
        extract: pattern with one group; the last match's group is what is checked.
        unparsed: what an unreadable answer gets: `zero` or `null`.
        tolerance: two numbers are equal within `tolerance * max(1, |reference|)`.
        fold: for `exact`: ignore case, outer white space and runs of it.
        choices: for `choice`: the letters that exist.

    Raises:
        ValueError: the source of the reference is missing or not the only one, or a pattern or
            schema is not one that we can run.

    Example:
        - labelers.Verifiable: {kind: number, reference: answer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (0.0, 1.0)
    direction: ClassVar[str] = "higher"

    kind: Kind
    name: str = Field(default="correct", min_length=1)
    reference: Annotated[str, Field(min_length=1)] | None = None
    expected: str | None = None
    json_schema: dict[str, Any] | None = None
    extract: str | None = None
    unparsed: Literal["zero", "null"] = "zero"
    tolerance: float = Field(default=1e-6, ge=0)
    fold: bool = True
    choices: str = Field(default="ABCDE", pattern="^[A-Z]+$")

    @field_validator("extract")
    @classmethod
    def _check_extract(cls, value: str | None) -> str | None:
        if value is not None:
            check_pattern(value)
            groups = pl.Series([""]).str.extract_groups(value)
            if len(groups.struct.fields) != 1:
                raise ValueError("give the pattern exactly one group")
        return value

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        given = [v is not None for v in (self.reference, self.expected, self.json_schema)]
        if self.json_schema is not None and self.kind != "json":
            raise ValueError("json_schema is for kind json")
        if sum(given) > 1 or (sum(given) == 0 and self.kind != "json"):
            raise ValueError("name one of reference (a column) and expected (a value)")
        if self.expected is not None:
            self._check_expected(self.expected)
        if self.json_schema is not None:
            json_answers.validator(self.json_schema)
        return self

    def _check_expected(self, expected: str) -> None:
        column = pl.Series([expected])
        if self.kind == "regex":
            check_pattern(expected)
        elif self.kind == "json":
            json_answers.validator(json_answers.parsed(expected))
        elif self.kind == "number" and numbers(column).null_count():
            raise ValueError(f"expected: there is no number in {expected!r}")
        elif self.kind == "choice" and letters(column, self.choices).null_count():
            raise ValueError(f"expected: {expected!r} is none of the letters {self.choices}")

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The reference column, String."""
        return {} if self.reference is None else {self.reference: pl.String()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>`, Float64."""
        return {f"{SCORE}{self.name}": pl.Float64()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Check every answer.

        Returns:
            `score_<name>`: 1.0, 0.0 or null.
        """
        text = text_of(pl.col("response")).fill_null("")
        if self.extract is not None:
            matches = text.str.extract_all(self.extract).list.last()
            text = matches.str.extract(self.extract, 1)
        reference = pl.lit(self.expected, pl.String) if self.reference is None else self.reference
        rows = table.with_columns(text=text, reference=reference).select("text", "reference")
        right = self._check(rows["text"], rows["reference"])
        score = right.struct.field("right").cast(pl.Float64)
        unread = right.struct.field("read").not_() & right.struct.field("known")
        if self.unparsed == "zero":
            score = pl.select(pl.when(unread).then(0.0).otherwise(score)).to_series()
        return score.alias(f"{SCORE}{self.name}").to_frame()

    def _check(self, text: pl.Series, reference: pl.Series) -> pl.Series:
        """Struct of `right` (null unless read and known), `read` and `known`, Boolean."""
        if self.kind == "json":
            return json_answers.checked(text, reference, self.json_schema)
        a, b = text.alias("a"), reference.alias("b")
        if self.kind == "number":
            a, b = numbers(a), numbers(b)
            equal = (pl.col("a") - pl.col("b")).abs() <= self.tolerance * pl.max_horizontal(
                1.0, pl.col("b").abs()
            )
        elif self.kind == "choice":
            a, b = letters(a, self.choices), letters(b, self.choices)
            equal = pl.col("a") == pl.col("b")
        elif self.kind == "exact":
            equal = _folded("a") == _folded("b") if self.fold else pl.col("a") == pl.col("b")
        else:
            equal = pl.col("a").str.contains(pl.col("b"), strict=False)
        known = pl.col("b").is_not_null()
        if self.kind == "regex":  # a pattern that can't run is unknown
            known = known & pl.lit("").str.contains(pl.col("b"), strict=False).is_not_null()
        frame = pl.DataFrame([a, b])
        read = pl.col("a").is_not_null()
        return frame.select(pl.struct(right=equal, read=read, known=known)).to_series()


def _folded(column: str) -> pl.Expr:
    return pl.col(column).str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that Rust's regex engine does not take, or that is too long.

    Raises:
        ValueError: with the engine's reason.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} characters; {MAX_PATTERN} are allowed")
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        lines = [line.strip() for line in str(error).splitlines() if "error" in line]
        reason = next((li for li in reversed(lines) if li.startswith("error:")), lines[0])
        raise ValueError(f"pattern {pattern!r}: {reason} (Rust regex syntax)") from error


def final_part(texts: pl.Series) -> pl.Series:
    """Rest of the text after its last final-answer marker; null without one. String [n]."""
    return texts.str.extract(f"(?s)^.*(?:{MARKER})(.*)$", 1)


def numbers(texts: pl.Series) -> pl.Series:
    """The final number of each text: after the last marker, else the last one.

    Args:
        texts: String [n].

    Returns:
        Float64 [n], null where there is none; infinite and 0 / 0 results are null too.
    """
    text = texts.str.replace_many(_VULGAR).str.replace_all("\u2212", "-", literal=True)
    text = text.str.replace_all(r"(\d)\s*\\[dt]?frac", "$1 \\frac")
    text = text.str.replace_all(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", "$1/$2")
    text = text.str.replace_all(r"\\([$%,])|\\!|\{,\}", "$1").str.replace_all(
        r"[\x{2013}\x{2014}]", " "
    )
    text = text.str.replace_all(r"([\p{N})\]A-DF-Za-df-z])-", "$1 ")  # a dash, not a sign
    line = final_part(text).str.extract(r"^\s*([^\n]*)", 1)
    marked = line.str.replace(r"^.*=", "").str.extract(f"({NUMBER})", 1)
    last = text.str.extract_all(NUMBER).list.last()
    return _values(marked.zip_with(marked.is_not_null(), last)).alias(texts.name)


def _values(matches: pl.Series) -> pl.Series:
    """Float64 of texts that match `NUMBER`."""
    parts = matches.str.extract_groups(_PARTS).struct.unnest()
    parts.columns = ["sign", "whole", "top", "bottom"]
    number = [
        pl.col(c).str.replace_all(r"[^\d.eE+-]", "").cast(pl.Float64, strict=False)
        for c in ("whole", "top", "bottom")
    ]
    size = number[0].fill_null(0) + number[1] / number[2].fill_null(1.0)
    minus = pl.col("sign").str.contains("-", literal=True)
    value = pl.when(minus).then(-size).otherwise(size)
    return parts.select(pl.when(value.is_finite()).then(value)).to_series()


def letters(texts: pl.Series, choices: str) -> pl.Series:
    """The letter that each text chooses.

    Args:
        texts: String [n].
        choices: the letters that exist, upper case.

    Returns:
        String [n] of one upper-case letter, null where none is chosen.
    """
    any_case = f"[{choices}{choices.lower()}]"
    tried = [
        final_part(texts).str.extract(rf"^[\s(\[*`\"']*({any_case})(?:\W|_|$)", 1),
        texts.str.extract(rf"^[\s(\[*`\"']*({any_case})[\s)\]*`\"'.]*$", 1),
        texts.str.extract(rf"^\s*[(\[*]*([{choices}])(?:[)\]:*]|\.(?:\s|$)|\n)", 1),
        texts.str.extract_all(rf"[(\[][{choices}][)\]]").list.last().str.slice(1, 1),
    ]
    frame = pl.DataFrame([t.alias(str(i)) for i, t in enumerate(tried)])
    chosen = frame.select(pl.coalesce(pl.all()).str.to_uppercase()).to_series()
    return chosen.alias(texts.name)

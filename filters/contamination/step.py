"""Rows leave that hold the prompts of benchmarks, in their prompt or in an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import polars as pl
from pydantic import Field, field_validator, model_validator

from catalog.versions import Catalog
from filters.contamination.benchmarks import Benchmarks, BenchmarkSource, open_benchmarks
from filters.contamination.ngrams import SHARE, N, spans
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import CatalogError, ConfigError, DataError
from prefactory.near.vectors import Vectors, near_pairs, unit32
from prefactory.step import Filter, Scope, State
from prefactory.tables import ROW_ID, TEXTS, Shape, last_user_text, shape_of, text_of

Side = Literal["prompt", "chosen", "rejected", "response"]
REASONS = ("contaminated", "contaminated_short", "contaminated_similar")
MATCHES = pl.Schema(
    {
        "unit": pl.String(),
        "side": pl.String(),
        "reason": pl.Enum(REASONS),
        "number": pl.Int64(),
        "words": pl.Int64(),
        "value": pl.Float64(),
    }
)
"""A benchmark prompt in a text: row id, side, how it was found, number of the prompt, its words
that are matched, and their share (of `contaminated_similar` the cosine)."""
ANSWER_WORDS = 3
"""Fewest words of a benchmark prompt that is looked for in answers (ours): an answer such as `4` or
`Why not?` is no copy of one."""
EXCERPT = 160
"""Characters of matched text that the ledger shows."""


class Decontaminate(Filter):
    """Drop rows that hold the prompts of benchmarks.

    A word of a benchmark prompt is matched if it lies in a run of `n` words that stands in the
    row's text too; the row is contaminated if more than `share` of the prompt's words are matched
    in it (Tulu 3, arXiv 2411.15124: 8 words, half; .3 is ours: it finds 8 to 18 points more of
    edited copies, and no more of what is clean). Case, punctuation and spacing do not count, and
    of Chinese, Japanese, Thai, Lao, Khmer and Burmese every character is a word. A verbatim copy
    has share 1, one with other numbers often still more than half, a paraphrase 0.

    A prompt of fewer than `n` words has no such run; where it must stand is `short`, which is ours:
    a whole `line` (or the whole text), `inside` (anywhere, if it has at least 5 words) or `off`. A
    line must have two words, and a prompt that is looked for in answers three.

    With an `encoder`, rows leave too whose last user message has a cosine of `similarity` or more
    with a benchmark prompt (ours). On GSM8K rephrasings of the bundled MiniLM finds 85 % at 0.85
    and 50 % at 0.9, and takes 0.2 % and none of GSM8K's own training rows; translations and code in
    another language it does not find.

    No benchmark comes with us: `against` names files of yours. Their prompts are part of the step's
    identity, the folder that they lie in is not.

    Reasons: `contaminated`, `contaminated_short`, `contaminated_similar`. The detail names side,
    benchmark, place (`file:line`), share or cosine, and the words of the row that match. The state
    counts, for each benchmark, the prompts that were found, and calls the data dirty for it if they
    are more than `dirty_above` of all (Tulu 3: 2 %).

    Attributes:
        against: benchmarks: paths, hub ids or `name@version`, or see `BenchmarkSource`.
        sides: texts that are looked at, of those that the rows have. By default an answer that was
            rejected is not.
        n: words of a run.
        share: of a prompt's words that must be exceeded.
        short: what to do about prompts of fewer than n words.
        encoder: of neighbours by embedding; null for none.
        similarity: least cosine of a neighbour.
        dirty_above: share of a benchmark's prompts.
        catalog: folder of the versions; null is `versions` in PREFACTORY_HOME (or in .prefactory).
            Not identity.

    Example:
        - filters.Decontaminate: {against: [benchmark.jsonl]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)
    version: ClassVar[int] = 2
    scope: ClassVar[Scope] = "dataset"

    against: tuple[BenchmarkSource, ...] = Field(min_length=1)
    sides: tuple[Side, ...] = Field(default=("prompt", "chosen", "response"), min_length=1)
    n: int = Field(default=N, ge=2, le=64)
    share: float = Field(default=SHARE, ge=0, lt=1)
    short: Literal["line", "inside", "off"] = "inside"
    encoder: Encoder | None = None
    similarity: float = Field(default=0.85, gt=0, le=1)
    dirty_above: float = Field(default=0.02, ge=0, le=1)
    catalog: Path | None = None

    @field_validator("against", mode="before")
    @classmethod
    def _paths(cls, value: object) -> object:
        values = value if isinstance(value, list | tuple) else [value]
        return [{"path": v} if isinstance(v, str) else v for v in values]

    @model_validator(mode="after")
    def _validate_similarity(self) -> Self:
        if self.encoder is None and "similarity" in self.model_fields_set:
            raise ValueError("similarity needs an encoder, such as encoder: {model: minilm}")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """No columns; reads the benchmarks, so that a missing one is found before the run.

        Raises:
            ConfigError: if a benchmark can't be read, or the rows have none of the sides.
        """
        if not self._sides(shape):
            raise ConfigError(f"sides: {', '.join(self.sides)} are none of a table of {shape}")
        try:
            self._open()
        except (CatalogError, DataError) as error:
            raise ConfigError(f"against: {error}") from error
        return {}

    def identity(self) -> dict[str, Any]:
        """As of any step, with the digests of the benchmarks instead of their paths."""
        identity = super().identity()
        fields = {k: v for k, v in identity["fields"].items() if k != "catalog"}
        contents = {part.name: part.digest for part in self._open().parts}
        return {**identity, "fields": {**fields, "against": contents}}

    def _open(self) -> Benchmarks:
        return open_benchmarks(self.against, Catalog(root=self.catalog).root, self.n)

    def _sides(self, shape: Shape) -> list[str]:
        return [side for side in TEXTS[shape] if side in self.sides]

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look the benchmarks up in a shard.

        Args:
            table: PROMPTS, RESPONSES or PAIRS.
            ctx: opens the encoder, if there is one.

        Returns:
            The columns of `MATCHES`, for rows that hold a benchmark prompt.
        """
        shape, known = shape_of(table), self._open()
        parts = [pl.DataFrame(schema=MATCHES)]
        for side in self._sides(shape):
            key = "prompt_id" if side == "prompt" else ROW_ID[shape]
            units = table.unique(key, keep="first", maintain_order=True)
            matches = self._matches(units, side, known, ctx)
            ids = units[key].gather(matches["text"])
            by_row = matches.with_columns(ids.alias(key), side=pl.lit(side))
            rows = table.select(key, unit=pl.col(ROW_ID[shape]))
            by_row = rows.join(by_row, on=key, how="inner", maintain_order="left_right")
            parts.append(by_row.select(MATCHES.names()).cast(MATCHES))
        return pl.concat(parts)

    def _matches(
        self, units: pl.DataFrame, side: str, known: Benchmarks, ctx: Context
    ) -> pl.DataFrame:
        """`text` (number of the row), `number`, `words`, `value` and `reason` of each match."""
        texts = units.select(text_of(pl.col(side)).fill_null("")).to_series()
        short = "text" if self.short == "off" else self.short
        matches = known.index.search(texts, self.share, short).rename({"prompt": "number"})
        short_prompts = pl.Series(known.index.lengths < self.n).gather(matches["number"])
        if self.short == "off" or side != "prompt":
            fewest = self.n if self.short == "off" else ANSWER_WORDS
            long_enough = known.index.lengths[matches["number"].to_numpy()] >= fewest
            matches, short_prompts = matches.filter(long_enough), short_prompts.filter(long_enough)
        reason = pl.when(short_prompts).then(pl.lit(REASONS[1])).otherwise(pl.lit(REASONS[0]))
        matches = matches.with_columns(reason=reason).rename({"share": "value"})
        if side != "prompt" or self.encoder is None:
            return matches
        if ctx.embed is None:
            raise ConfigError("Decontaminate needs an encoder; this context has none")
        questions = units.select(last_user_text(pl.col("prompt"))).to_series()
        ours, theirs = (ctx.embed(self.encoder, t) for t in (questions, known.texts))
        near = neighbours(ours, theirs, self.similarity)
        near = near.with_columns(
            words=known.index.lengths[near["number"].to_numpy()], reason=pl.lit(REASONS[2])
        )
        order = matches.columns
        return pl.concat([matches, near.select(order).cast(matches.schema)]).unique(
            ["text", "number"], keep="first", maintain_order=True
        )

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Choose the match that each row is dropped for, and count by benchmark.

        Args:
            parts: the rows of `fit_shard`, sorted by `unit`.
            ctx: not used.

        Returns:
            State with the table `matches` (`MATCHES`, one row for each row that goes) and the facts
            `rows`, `dirty` (names of benchmarks) and, for each benchmark, `<name>`: `prompts`,
            `found`, `share` and the rows that hold one `by_<side>`.
        """
        order = {"unit": False, "reason": False, "value": True, "side": False, "number": False}
        best = parts.sort(list(order), descending=list(order.values())).unique(
            "unit", keep="first", maintain_order=True
        )
        known = self._open()
        rows = parts.with_columns(which=pl.Series(known.which).gather(parts["number"]))
        facts: dict[str, Any] = {"rows": best.height, "dirty": []}
        for i, part in enumerate(known.parts):
            matches = rows.filter(which=i)
            matched, of = matches["number"].n_unique(), part.texts.len()
            sides = matches.group_by("side").agg(pl.col("unit").n_unique()).sort("side")
            facts[part.name] = {
                "prompts": of,
                "found": matched,
                "share": round(matched / of, 4),
                **{f"by_{side}": n for side, n in sides.iter_rows()},
            }
            if matched / of > self.dirty_above:
                facts["dirty"].append(part.name)
        return State({"matches": best}, facts)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look the rows up in the state, and say which words match.

        Args:
            table: PROMPTS, RESPONSES or PAIRS.
            ctx: holds the state of `fit`.

        Returns:
            `reason` and `detail` (String), same height and order.

        Raises:
            DataError: if the step was not fitted.
        """
        shape = shape_of(table)
        matches = ctx.fitted.tables["matches"].cast({"reason": pl.String})
        dropped = table.join(matches, left_on=ROW_ID[shape], right_on="unit", how="inner")
        known = self._open()
        details = [self._detail(row, known) for row in _shown(dropped, self._sides(shape))]
        judged = dropped.select(pl.col(ROW_ID[shape]), "reason").with_columns(
            detail=pl.Series(details, dtype=pl.String)
        )
        verdicts = table.select(ROW_ID[shape]).join(
            judged, on=ROW_ID[shape], how="left", maintain_order="left"
        )
        return verdicts.select("reason", "detail")

    def _detail(self, row: dict[str, Any], known: Benchmarks) -> str:
        number, text = row["number"], row["text"]
        name = known.parts[int(known.which[number])].name
        where = f"{row['side']}: {name} {known.places[number]}"
        if row["reason"] == REASONS[2]:
            return f"{where}, cosine {row['value']:.3f}: {_excerpt(text)}"
        matched = " ... ".join(text[a:b] for a, b in spans(text, known.texts[number], self.n))
        of = int(known.index.lengths[number])
        return f"{where}, {row['words']} of {of} words ({row['value']:.2f}): {_excerpt(matched)}"


def _shown(dropped: pl.DataFrame, sides: list[str]) -> list[dict[str, Any]]:
    """What the details of dropped rows are made of: the matches, and the text on their side."""
    text: pl.Expr = last_user_text(pl.col("prompt"))
    asked = pl.col("reason") == REASONS[2]
    for side in sides:
        on_side = (pl.col("side") == side) & ~asked
        text = pl.when(on_side).then(text_of(pl.col(side))).otherwise(text)
    columns = ["number", "side", "reason", "words", "value"]
    return dropped.select(*columns, text=text.fill_null("")).to_dicts()


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."


def neighbours(ours: Vectors, theirs: Vectors, least: float) -> pl.DataFrame:
    """Pairs of texts with at least some cosine.

    Args:
        ours: Float32[k, d].
        theirs: Float32[m, d]; a zero vector has no neighbour.
        least: cosine.

    Returns:
        `text` and `number` (Int64: rows of ours and of theirs) and `value` (their cosine, rounded
        to six places), sorted by both numbers.
    """
    text, number, value = near_pairs(unit32(ours), unit32(theirs), least - 1e-6)
    pairs = pl.DataFrame({"text": text, "number": number, "value": value.round(6)})
    return pairs.filter(pl.col("value") >= least)

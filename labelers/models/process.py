"""Stepwise scores: an answer is split in steps and each is scored with what came before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from labelers.models import chat_rows
from labelers.models.chat_rows import Messages, Row, Template
from labelers.models.language_models import Loaded, Model, adapter_of, opened
from labelers.models.reward_model import Activation, activated, classified
from labelers.rules.verifiable import check_pattern
from prefactory.chat_template import ChatTemplate, TemplateError
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.process.tokens import SEPARATOR, step_tokens
from prefactory.step import Labeler
from prefactory.tables import SCORE, Shape, text_of

SPLITTERS = {"paragraph": r"\n[ \t]*\n\s*", "line": r"\s*\n\s*", "tag": r"\s*<(?:step|sep)>\s*"}
Aggregate = Literal["min", "mean", "last", "product"]
_MARK = "\u0000"


class StepScores(Labeler):
    """Add `score_<name>` and `steps_<name>`: a process reward model's scores of an answer's steps.

    Objective: `name`. Range: (0, 1) with the default activation, all real numbers without one.
    Direction: higher is better. `steps_<name>` (List(Float64)) has one score per step, in order.

    A token classifier (what `prefactory train stepwise` makes) reads all steps of an answer in one
    forward pass, each at its last token; its chat template writes the prompt. With a sequence
    classifier step t is scored by the conversation cut after step t, the step's text as the end of
    the answer (arXiv:2510.01167 reads its process reward models as two-class classifiers: softmax,
    P(class 1)): one forward pass per step. Models that mark steps by a special token of their own
    are not covered.

    An answer with a step that can't be scored has null scores; `reason_<name>` (String) says why:
    `empty`, or as in `labelers.RewardModel`.

    Attributes:
        model: the classifier.
        name: of the objective.
        heads: outputs of the model.
        head: which of them is the score, counted from 0; None is the last.
        activation: applied to the outputs of a step before one is taken.
        splitter: `paragraph` (blank lines), `line`, `tag` (`<step>` or `<sep>`), or a pattern.
        aggregate: `min` (the weakest step), `mean`, `last`, or `product`.
        template: see `labelers.models.chat_rows.rows`; of a token classifier `auto` or `chat`.
        too_long: as in `labelers.RewardModel`.

    Example:
        - labelers.StepScores: {model: {model: PATH_OR_HUB_ID}}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (0.0, 1.0)
    direction: ClassVar[str] = "higher"

    model: Model
    name: str = Field(default="steps", min_length=1)
    heads: int = Field(default=2, ge=1)
    head: int | None = Field(default=None, ge=0)
    activation: Activation = "softmax"
    splitter: str = Field(default="paragraph", min_length=1)
    aggregate: Aggregate = "min"
    template: Template = "auto"
    too_long: Literal["null", "truncate"] = "null"

    @model_validator(mode="after")
    def _check(self) -> StepScores:
        check_pattern(SPLITTERS.get(self.splitter, self.splitter))
        if self.head is not None and self.head >= self.heads:
            raise ValueError(f"head: the model has heads 0 to {self.heads - 1}")
        if self.heads == 1 and self.activation == "softmax":
            raise ValueError("activation: softmax over one head is always 1; use sigmoid or none")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>` (Float64), `steps_<name>` (List(Float64)), `reason_<name>` (String)."""
        return {
            f"{SCORE}{self.name}": pl.Float64(),
            f"steps_{self.name}": pl.List(pl.Float64()),
            f"reason_{self.name}": pl.String(),
        }

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every step of every answer.

        Returns:
            The columns of `adds`, same height and order.

        Raises:
            ConfigError: the model can't be loaded, has another number of heads, or is a token
                classifier and the template another than its own.
        """
        texts = table.select(text_of(pl.col("response")).fill_null("")).to_series()
        ends = step_ends(texts, SPLITTERS.get(self.splitter, self.splitter))
        steps = pl.DataFrame({"text": texts, "end": ends, "prompt": table["prompt"]})
        steps = steps.with_row_index("row").explode("end", keep_nulls=False, empty_as_null=False)
        scores = self._at_ends if reads_tokens(self.model) else self._scores
        steps = steps.with_columns(prefix=pl.col("text").str.head(pl.col("end")))
        steps = steps.select("row").hstack(scores(steps))
        return self._gathered(steps, table.height)

    def _scores(self, steps: pl.DataFrame) -> pl.DataFrame:
        """`score` (null if it has none) and `reason` of m steps."""
        answers: list[Messages] = [
            [{"role": "assistant", "content": t}] for t in steps["prefix"].to_list()
        ]
        with opened(self.model, "classifier") as loaded:
            rows = chat_rows.rows(
                loaded.tokenizer,
                loaded.limit,
                steps["prompt"].to_list(),
                answers,
                self.template,
                self.too_long == "truncate",
            )
            values = classified(loaded, rows, self.heads, self.activation)
        score: np.ndarray = values[:, self.heads - 1 if self.head is None else self.head]
        reason = pl.Series("reason", [r.reason for r in rows], dtype=pl.String)
        return pl.DataFrame([pl.Series("score", score, dtype=pl.Float64).fill_nan(None), reason])

    def _at_ends(self, steps: pl.DataFrame) -> pl.DataFrame:
        """As `_scores`, by a token classifier: all steps of an answer in one pass."""
        before = pl.col("end").shift(1, fill_value=0).over("row")
        text = pl.col("text").str.slice(before, pl.col("end") - before).str.strip_chars()
        answers = (
            steps.with_columns(step=text)
            .group_by("row", maintain_order=True)
            .agg(pl.col("prompt").first(), "step")
        )
        if self.template not in ("auto", "chat"):
            raise ConfigError(f"template {self.template!r}: a token classifier reads its own chat")
        with opened(self.model, "tokens") as loaded:
            separator = separator_of(self.model, loaded.net.config)
            tokens = [
                self._tokens(loaded, chat_rows.clean(prompt), said, separator)
                for prompt, said in zip(
                    answers["prompt"].to_list(), answers["step"].to_list(), strict=True
                )
            ]
            scores = at_ends(loaded, tokens, self.heads, self.activation)
        head = self.heads - 1 if self.head is None else self.head
        flat = [
            (values[head], row.reason)
            for (row, _), of_row in zip(tokens, scores, strict=True)
            for values in of_row
        ]
        schema = {"score": pl.Float64, "reason": pl.String}
        return pl.DataFrame(flat, schema=schema, orient="row").with_columns(
            pl.col("score").fill_nan(None)
        )

    def _tokens(
        self, loaded: Loaded, prompt: Messages, steps: list[str], separator: str
    ) -> tuple[Row, list[int]]:
        """An answer as tokens, and where its steps end."""
        template = ChatTemplate(loaded.tokenizer, self.model.model)
        try:
            ids, ends = step_tokens(template, prompt, steps, separator)
        except TemplateError:
            return Row([], reason="template"), [0] * len(steps)
        start = len(step_tokens(template, prompt, [])[0])
        row = Row(ids, None, (start, len(ids)))
        kept = chat_rows.fitted(loaded.tokenizer, row, loaded.limit, self.too_long == "truncate")
        return kept, [end - (len(ids) - len(kept.ids)) for end in ends]

    def _gathered(self, steps: pl.DataFrame, height: int) -> pl.DataFrame:
        rows = pl.DataFrame({"row": pl.int_range(height, dtype=pl.UInt32, eager=True)})
        lists = steps.group_by("row", maintain_order=True).agg(
            "score", reason=pl.col("reason").drop_nulls().first()
        )
        joined = rows.join(lists, on="row", how="left", maintain_order="left")
        reason = pl.when(pl.col("score").is_null()).then(pl.lit("empty")).otherwise("reason")
        joined = joined.with_columns(reason=reason)
        scores = pl.when(pl.col("reason").is_null()).then("score")
        joined = joined.select(steps=scores, reason="reason")
        return pl.DataFrame(
            [
                aggregated(joined["steps"], self.aggregate).alias(f"{SCORE}{self.name}"),
                joined["steps"].alias(f"steps_{self.name}"),
                joined["reason"].alias(f"reason_{self.name}"),
            ]
        )


def reads_tokens(model: Model) -> bool:
    """Tell whether a model is a token classifier, by its configuration."""
    folder = model.folder()
    if (adapter := adapter_of(folder)) is not None:
        return bool(adapter.get("task_type") == "TOKEN_CLS")
    file = folder / "config.json"
    named = json.loads(file.read_text("utf-8")).get("architectures") if file.is_file() else None
    return any(str(name).endswith("ForTokenClassification") for name in named or ())


def separator_of(model: Model, config: Any) -> str:  # noqa: ANN401 - a transformers configuration
    """What stands behind each step: as the configuration says, or an adapter's training."""
    training = model.folder() / "training.json"
    adapted = adapter_of(model.folder()) is not None and training.is_file()
    said = json.loads(training.read_text("utf-8")).get("config", {}) if adapted else {}
    return str(said.get("separator") or getattr(config, "step_separator", SEPARATOR))


def at_ends(
    loaded: Loaded, rows: Sequence[tuple[Row, list[int]]], heads: int, activation: Activation
) -> list[np.ndarray]:
    """Outputs of a token classifier at the ends of steps.

    Args:
        loaded: the classifier.
        rows: n answers as tokens, each with the places of its steps' last tokens.
        heads: K, how many outputs it must have.
        activation: applied to each place's outputs.

    Returns:
        n times float64 [steps, K]; NaN for rows with a reason.

    Raises:
        ConfigError: the model has another number of outputs.
    """
    if (labels := int(loaded.net.config.num_labels)) != heads:
        raise ConfigError(f"the model has {labels} heads and {heads} are named; say heads={labels}")
    places = {id(row): ends for row, ends in rows}
    most = max((len(ends) for _, ends in rows), default=0)

    def forward(tensors: dict[str, Any], batch: list[Row]) -> np.ndarray:
        tensors.pop("token_type_ids", None)
        logits = loaded.net(**tensors).logits.double().cpu().numpy()
        out = np.full((len(batch), most * heads), np.nan)
        for i, row in enumerate(batch):
            values = logits[i, places[id(row)]].ravel()
            out[i, : len(values)] = values
        return out

    good = [i for i, (row, _) in enumerate(rows) if row.reason is None]
    out = np.full((len(rows), most, heads), np.nan)
    if good and most:
        found = loaded.run([rows[i][0] for i in good], forward, most * heads)
        out[good] = activated(found.reshape(len(good) * most, heads), activation).reshape(
            len(good), most, heads
        )
    return [out[i, : len(ends)] for i, (_, ends) in enumerate(rows)]


def step_ends(texts: pl.Series, splitter: str) -> pl.Series:
    """Where the steps of each text end, white space at their ends left out.

    Args:
        texts: String [n].
        splitter: pattern between two steps. Pieces without visible characters are no steps.

    Returns:
        List(UInt32) [n]: characters of the text up to the end of each step.
    """
    text = pl.col("text")
    frame = texts.alias("text").to_frame().with_row_index("row")
    gaps = text.str.extract_all(splitter).list.eval(pl.element().str.len_chars())
    clean = text.str.replace_all(_MARK, " ", literal=True)
    pieces = clean.str.replace_all(splitter, _MARK).str.split(_MARK)
    flat = frame.with_columns(piece=pieces, gap=pl.concat_list(gaps, pl.lit(0, pl.UInt32)))
    flat = flat.select("row", "piece", "gap").explode("piece", "gap")
    size = pl.col("piece").str.len_chars()
    before = (size + pl.col("gap")).cum_sum().over("row") - size - pl.col("gap")
    seen = pl.col("piece").str.strip_chars_end()
    steps = flat.select("row", "piece", end=(before + seen.str.len_chars()).cast(pl.UInt32))
    steps = steps.filter(pl.col("piece").str.strip_chars() != "")
    lists = steps.group_by("row", maintain_order=True).agg("end")
    ends = frame.select("row").join(lists, on="row", how="left", maintain_order="left")
    return ends["end"].fill_null([]).alias(texts.name)


def aggregated(steps: pl.Series, how: Aggregate) -> pl.Series:
    """One score per list of step scores.

    Args:
        steps: List(Float64) [n].
        how: `min`, `mean`, `last` or `product`.

    Returns:
        Float64 [n]; null for a null or empty list, or one with a null step.
    """
    column = pl.col("steps")
    kinds: dict[str, Any] = {
        "min": column.list.min(),
        "mean": column.list.mean(),
        "last": column.list.last(),
        "product": column.list.eval(pl.element().product()).list.first(),
    }
    whole = (column.list.len() > 0) & ~column.list.eval(pl.element().is_null()).list.any()
    frame = steps.alias("steps").to_frame()
    return frame.select(pl.when(whole).then(kinds[how]).cast(pl.Float64)).to_series()

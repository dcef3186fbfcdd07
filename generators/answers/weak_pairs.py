"""Pairs without a judge: what a strong model says is chosen over what a weak one says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from generators.answers.calls import PROMPT_TOKENS, Call, outcomes, results
from generators.answers.rows import as_messages
from generators.answers.step import Origin
from prefactory.asking import Sampled
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Request
from prefactory.engines.configs import AnyEngine
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import COLUMNS, SIDES, Shape, canonical_order, with_ids


class WeakPairs(Gated, Sampled, Generator):
    """Pair the answer of a strong model (chosen) with that of a weak one (rejected), unjudged.

    Delta learning (arXiv:2507.06187): what teaches is the gap between the two, not how good either
    is; a model can gain from pairs of models below itself (3B over 1.5B of one family). That the
    label is right holds on average, not for each pair: `label_source` is `rule`. Not for safety
    data: answers of two models are told apart by who wrote them, and a model trained on such pairs
    learned that and not safety ("More is Less", arXiv:2504.02193).

    New columns: `chosen_origin`, `rejected_origin` and `sample` (Int64, which of the n).

    Reasons, for prompts without a pair: those of the engine, those of the gate,
    `same_text` (both say the same, up to white space); the detail names the model.

    Attributes:
        strong: the model whose answers are chosen.
        weak: the model whose answers are rejected.
        n: pairs of each prompt; the i-th answer of one with the i-th of the other.
        sampling: how answers are drawn, see `SamplingParams`.
        strong_origin, weak_origin: what kind of model each is.

    Example:
        - generators.WeakPairs:
            strong: {engine: server, base_url: 'http://localhost:8000/v1', model: large}
            weak: {engine: server, base_url: 'http://localhost:8000/v1', model: small}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("prompt_id",)

    strong: AnyEngine
    weak: AnyEngine
    n: int = Field(default=1, ge=1)
    strong_origin: Origin = "open_model"
    weak_origin: Origin = "open_model"

    @model_validator(mode="after")
    def _validate_models(self) -> Self:
        if self.strong == self.weak:
            raise ValueError("strong and weak are the same model: there is no gap to learn from")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`chosen_origin`, `rejected_origin` (String) and `sample` (Int64)."""
        text: pl.DataType = pl.String()
        return {"chosen_origin": text, "rejected_origin": text, "sample": pl.Int64()}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """`n` calls of each model per prompt; prompts are taken to have 300 tokens."""
        calls = self.n * prompts
        return [
            Asks(m, calls, PROMPT_TOKENS, self.sampling.max_tokens)
            for m in (self.strong, self.weak)
        ]

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Ask both models and pair their answers.

        Args:
            table: PROMPTS.
            ctx: opens the models; draws by prompt id.

        Returns:
            PAIRS in canonical order, and the prompts without a pair.
        """
        models = (self.strong, self.weak)
        calls = list(self._calls(table, ctx))
        names = [m.model for m in models]
        texts = outcomes(
            calls, results(ctx, models, calls), names, self.gate, [ctx.open(m) for m in models]
        )
        keys = pl.DataFrame(
            {
                "row": pl.Series([c.row for c in calls], dtype=pl.Int64),
                "sample": pl.Series([c.request.sample for c in calls], dtype=pl.Int64),
            }
        )
        texts = keys.hstack(texts.drop("finish_reason").get_columns())
        half = texts.height // 2
        strong, weak = texts.head(half), texts.tail(half).drop("row", "sample")
        both = strong.hstack([c.alias(f"weak_{c.name}") for c in weak.get_columns()])
        both = both.with_columns(
            reason=pl.coalesce(
                "reason",
                "weak_reason",
                pl.when(pl.col("text") == pl.col("weak_text")).then(pl.lit("same_text")),
            ),
            detail=pl.coalesce("detail", "weak_detail", pl.lit(f"{names[0]} and {names[1]}")),
        )
        rows = self._rows(table, both.filter(pl.col("reason").is_null()))
        lost = both.filter(pl.col("reason").is_null().any().over("row").not_())
        lost = lost.unique("row", keep="first", maintain_order=True)
        ids = table["prompt_id"].gather(lost["row"]).alias("row_id")
        dropped = lost.with_columns(ids).select("row_id", "reason", "detail")
        return Generated(rows, dropped)

    def _calls(self, table: pl.DataFrame, ctx: Context) -> Iterator[Call]:
        sampling = self.sampling.drawn(ctx.seed)
        prompts, ids = table["prompt"].to_list(), table["prompt_id"].to_list()
        for place, model in enumerate((self.strong, self.weak)):
            for row, conversation in enumerate(prompts):
                row_id = f"{ids[row]}/{ctx.step}/{model.model}"
                for sample in range(self.n):
                    yield Call(row, place, Request(conversation, sampling, sample, row_id))

    def _rows(self, table: pl.DataFrame, good: pl.DataFrame) -> pl.DataFrame:
        taken = [*COLUMNS[Shape.PAIRS], *self.adds(Shape.PROMPTS)]
        prompts = table.drop(
            [c for c in taken if c in table.columns and c not in COLUMNS[Shape.PROMPTS]]
        )
        rows = prompts.select(pl.all().gather(good["row"])).with_columns(
            good["sample"],
            *good.select(as_messages(pl.col("text")).alias("chosen")).get_columns(),
            *good.select(as_messages(pl.col("weak_text")).alias("rejected")).get_columns(),
            label_source=pl.lit("rule"),
        )
        told_of = zip(
            SIDES,
            (self.strong.model, self.weak.model),
            (self.strong_origin, self.weak_origin),
            strict=True,
        )
        for side, model, origin in told_of:
            rows = rows.with_columns(
                pl.lit(model).alias(f"{side}_model"), pl.lit(origin).alias(f"{side}_origin")
            )
        rows = with_ids(rows, Shape.PAIRS).unique("pair_id", keep="first", maintain_order=True)
        rows = rows.select(*taken, *[c for c in rows.columns if c not in taken])
        return canonical_order(rows, Shape.PAIRS)

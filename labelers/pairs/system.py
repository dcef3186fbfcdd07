"""Pairs across system messages: the answer to one message is rejected under another."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from labelers.combine.scoring import Ints
from labelers.pairs import rules as pairing
from labelers.pairs.pairs import LabelSource, folded
from prefactory.context import Context
from prefactory.step import Generated, Generator, Scope, State, verdict
from prefactory.tables import (
    SCORE,
    SIDES,
    Shape,
    canonical_order,
    canonical_text,
    digests,
    text_of,
    with_ids,
)

_FATES = ("single_system", "same_text", "no_model", "same_model", "other_model")


class _Picks(NamedTuple):
    """Who is paired with whom, as rows of the representatives.

    Attributes:
        chosen: Int64[m].
        rejected: Int64[m].
        fate: Int8[n], place in `_FATES` of the last rule that all partners of a row failed.
    """

    chosen: Ints
    rejected: Ints
    fate: np.ndarray


class SystemPairs(Generator):
    """Pair answers to the same conversation under different system messages (Janus).

    Both answers are good; only the fit to the system message differs. Under each system message
    the answer that was written for it is chosen, and one that was written for another message is
    rejected (Multifaceted Collection, arXiv:2405.17977). Conversations are the same if all messages
    after the system message are; messages are different if they still are without case and white
    space. Each prompt is represented by one answer, its best by `objective`.

    Never are both sides one text, nor is a text rejected under a message that it answers as well.

    The rejected answer was never scored under this system message, so its score columns are null
    and there is no `margin`; scorers may follow. Its `rejected_id` is that of the text under this
    message, which is no row of `responses/`; `chosen_prompt_id` and `rejected_prompt_id` (String)
    name the prompts that the answers were written for.

    Answers lie in other shards than their partners, so the state of this step, unlike others',
    holds texts: one answer of each prompt, in the store, of which a shard reads its own partners.

    Reasons: `no_system` (no leading system message), `null_score`, `not_selected` (another answer
    represents the prompt), `single_system` (the conversation has no other message), `same_text` (so
    do all others' answers read), `no_model`, `same_model`, `other_model` (by `models`).

    Attributes:
        objective: whose score chooses the answer of a prompt that has several; null: the first by
            id, a hash.
        others: reject the answer of `one` other message, drawn, as the source does, or of `all`.
        models: `same` pairs answers of one model only, `different` of two only.
        same_text: as for `labelers.Pairs`.
        label_source: who ordered the answers: the rule that made them.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = ("chosen_id",)
    version: ClassVar[int] = 2

    objective: Annotated[str, Field(min_length=1)] | None = None
    others: Literal["one", "all"] = "one"
    models: pairing.Models = "any"
    same_text: Literal["folded", "exact"] = "folded"
    label_source: LabelSource = "rule"

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The objective's score (Float64), if one is named."""
        return {} if self.objective is None else {f"{SCORE}{self.objective}": pl.Float64()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`chosen_prompt_id` and `rejected_prompt_id` (String)."""
        return {"chosen_prompt_id": pl.String(), "rejected_prompt_id": pl.String()}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to one answer per prompt: ids, digests, its model and its messages."""
        judged = self._judged(table)
        text = folded(text_of(pl.col("response")).fill_null(""), self.same_text == "folded")
        system = folded(pl.col("prompt").list.first().struct.field("content").fill_null(""))
        usable = table.filter(
            ~judged["reason"].is_in(["no_system", "null_score"]).fill_null(value=False)
        )
        own = usable.select("prompt_id", text=text)
        own = own.with_columns(digests(own["text"])).group_by("prompt_id").agg("text")
        rows = table.filter(judged["reason"].is_null())
        keys = rows.select(
            group=canonical_text(pl.col("prompt").list.slice(1)), system=system, key=text
        )
        return (
            rows.select("response_id", "prompt_id", "model", "response")
            .hstack([digests(column) for column in keys.get_columns()])
            .join(own, on="prompt_id", how="left", maintain_order="left")
        )

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Choose the partners of every representative.

        Returns:
            Tables `picks` (`chosen_id`, `rejected`, `rejected_model`, `rejected_prompt_id`) and
            `alone` (`response_id`, `reason`); info: `conversations`, `prompts`, `pairs`.
        """
        rows = parts.sort("group", "response_id")
        picks = self._pick(rows, ctx)
        rejected = rows.select(
            rejected=pl.col("response"),
            rejected_model=pl.col("model"),
            rejected_prompt_id=pl.col("prompt_id"),
        )
        paired = pl.DataFrame([rows["response_id"].gather(picks.chosen).alias("chosen_id")])
        paired = paired.hstack(rejected.select(pl.all().gather(picks.rejected)))
        reasons = pl.Series(_FATES).gather(picks.fate).alias("reason")
        alone = rows.select("response_id").hstack([reasons])
        alone = alone.filter(~pl.col("response_id").is_in(paired["chosen_id"].implode()))
        info = {
            "conversations": rows["group"].n_unique(),
            "prompts": rows.height,
            "pairs": paired.height,
        }
        return State({"picks": paired, "alone": alone}, info)

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of a table's prompts.

        Args:
            table: RESPONSES.
            ctx: holds the state.

        Returns:
            PAIRS in canonical order, and the answers that are chosen in none.
        """
        judged = table.select(row_id="response_id").hstack(self._judged(table))
        alone = ctx.fitted.tables["alone"].rename({"response_id": "row_id", "reason": "fate"})
        judged = judged.join(alone, on="row_id", how="left", maintain_order="left")
        dropped = judged.select(
            "row_id",
            pl.coalesce("reason", "fate").alias("reason"),
            pl.coalesce("detail", pl.lit("no usable answer to another message")).alias("detail"),
        ).filter(pl.col("reason").is_not_null())
        mine = ctx.fitted.tables["picks"].filter(
            pl.col("chosen_id").is_in(table["response_id"].implode())
        )
        return Generated(self._rows(table, mine), dropped)

    def _judged(self, table: pl.DataFrame) -> pl.DataFrame:
        """`reason` and `detail` of answers that do not represent their prompt."""
        first = pl.col("prompt").list.first().struct
        given = (first.field("role") == "system") & (first.field("content").str.strip_chars() != "")
        score = pl.lit(0.0) if self.objective is None else pl.col(f"{SCORE}{self.objective}")
        facts = table.with_row_index("row").select(
            "row",
            "prompt_id",
            "response_id",
            said=given.fill_null(value=False),
            score=pl.when(score.is_finite()).then(score),
        )
        best = facts.filter(pl.col("score").is_not_null()).sort(
            "prompt_id", "score", "response_id", descending=[False, True, False]
        )
        best = best.unique("prompt_id", keep="first").select("prompt_id", best="response_id")
        facts = facts.join(best, on="prompt_id", how="left", maintain_order="left")
        return verdict(
            facts,
            (~pl.col("said"), "no_system", pl.lit("the prompt has no system message")),
            (pl.col("score").is_null(), "null_score", pl.lit("no finite score")),
            (
                pl.col("response_id") != pl.col("best"),
                "not_selected",
                pl.format("{} stands for the prompt", pl.col("best")),
            ),
        )

    def _pick(self, rows: pl.DataFrame, ctx: Context) -> _Picks:
        """Partners of representatives that are sorted by conversation."""
        groups = rows["group"].rle_id().cast(pl.Int64).to_numpy()
        codes = {
            name: rows[name].rank("dense").cast(pl.Int64).fill_null(-1).to_numpy()
            for name in ("system", "key", "model")
        }
        known = rows.select("response_id", other="key", texts="text")
        turns = [ctx.uniform(rows["response_id"], salt).to_numpy() for salt in ("chosen", "drawn")]
        fate = np.zeros(rows.height, np.int8)
        pairs: list[tuple[Ints, Ints]] = []
        for start, stop in pairing.chunks(groups):
            low, high = pairing.all_pairs(groups[start:stop])
            i = np.concatenate([low, high]) + start
            j = np.concatenate([high, low]) + start
            other = codes["system"][i] != codes["system"][j]
            i, j = i[other], j[other]
            code = self._fates(i, j, codes, known)
            np.maximum.at(fate, i, np.minimum(code, len(_FATES) - 1).astype(np.int8))
            fine = code == len(_FATES)
            i, j = i[fine], j[fine]
            if self.others == "one":
                draw = (turns[0][i] + turns[1][j]) % 1.0
                order = np.lexsort((j, draw, i))
                i, j = i[order], j[order]
                first = np.ones(len(i), bool)
                first[1:] = i[1:] != i[:-1]
                i, j = i[first], j[first]
            pairs.append((i, j))
        if not pairs:
            return _Picks(np.zeros(0, np.int64), np.zeros(0, np.int64), fate)
        chosen, rejected = (np.concatenate(column) for column in zip(*pairs, strict=True))
        return _Picks(chosen, rejected, fate)

    def _fates(self, i: Ints, j: Ints, codes: dict[str, Ints], known: pl.DataFrame) -> np.ndarray:
        """Place in `_FATES` of what forbids each pair; their number where nothing does."""
        model_i, model_j = codes["model"][i], codes["model"][j]
        pairs = known.select(pl.col("texts").gather(i), pl.col("other").gather(j))
        answered = pairs.select(pl.col("texts").list.contains(pl.col("other"))).to_series()
        broken = {
            "same_text": answered.to_numpy(),
            "no_model": np.full(len(i), self.models != "any") & ((model_i < 0) | (model_j < 0)),
            "same_model": np.full(len(i), self.models == "different") & (model_i == model_j),
            "other_model": np.full(len(i), self.models == "same") & (model_i != model_j),
        }
        code = np.full(len(i), len(_FATES))
        for name in reversed(broken):
            code[broken[name]] = _FATES.index(name)
        return code

    def _rows(self, table: pl.DataFrame, mine: pl.DataFrame) -> pl.DataFrame:
        """PAIRS rows of the picks whose chosen answer is in the table."""
        scores = [c for c in table.columns if c.startswith(SCORE)]
        chosen = table.select(
            pl.col("response_id").alias("chosen_id"),
            *("prompt_id", "prompt", "source", "source_id"),
            pl.col("response").alias("chosen"),
            pl.col("model").alias("chosen_model"),
            *(pl.col(c).alias(f"chosen_{c}") for c in scores),
        )
        rows = mine.join(chosen, on="chosen_id", how="inner")
        rejected = with_ids(rows.select("prompt", response="rejected"), Shape.RESPONSES)
        unscored = [pl.lit(None, pl.Float64).alias(f"{SIDES[1]}_{c}") for c in scores]
        rows = rows.with_columns(
            rejected["response_id"].alias("rejected_id"),
            *unscored,
            chosen_prompt_id="prompt_id",
            label_source=pl.lit(self.label_source),
        )
        return canonical_order(with_ids(rows, Shape.PAIRS, keep_side_ids=True), Shape.PAIRS)

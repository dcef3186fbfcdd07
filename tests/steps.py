"""Small steps of every kind for the tests of the core."""

from __future__ import annotations

from typing import ClassVar

import polars as pl

from prefactory.shards import score_columns_after
from prefactory.step import Filter, Generated, Generator, Labeler, State, verdict
from prefactory.tables import COLUMNS, Shape, text_of, with_ids
from tests.helpers import assistant, messages


class DropLong(Filter):
    """Answers longer than `limit` characters leave."""

    limit: int = 10
    workers: int = 1

    def keep(self, table, ctx):
        chars = text_of(pl.col("response")).str.len_chars()
        return verdict(table, (chars > self.limit, "too_long", pl.format("{} chars", chars)))


class Coin(Filter):
    """Pairs leave by chance."""

    shapes: ClassVar = (Shape.PAIRS,)

    rate: float = 0.5

    def keep(self, table, ctx):
        heads = pl.lit(ctx.uniform(table["pair_id"])) < self.rate
        return verdict(table, (heads, "coin", pl.lit(None, dtype=pl.String)))


class Above(Filter):
    """Pairs whose chosen score is above the mean of the dataset leave."""

    shapes: ClassVar = (Shape.PAIRS,)
    scope: ClassVar = "dataset"

    def needs(self, shape):
        return {"chosen_score_length": pl.Float64()}

    def fit_shard(self, table, ctx):
        return table.select("pair_id", "chosen_score_length")

    def fit(self, parts, ctx):
        mean = parts["chosen_score_length"].mean()
        return State({"mean": pl.DataFrame({"mean": [mean]})}, {"mean": mean})

    def keep(self, table, ctx):
        mean = ctx.state.tables["mean"].item()
        score = pl.col("chosen_score_length")
        return verdict(table, (score > mean, "above", pl.format("{} > {}", score, pl.lit(mean))))


class Length(Labeler):
    """Characters of an answer. `Length.seen` counts the answers that were measured."""

    seen: ClassVar[list] = []

    name: str = "length"

    def adds(self, shape):
        return {f"score_{self.name}": pl.Float64()}

    def label(self, table, ctx):
        self.seen.extend(table["response_id"])
        chars = text_of(pl.col("response")).str.len_chars().cast(pl.Float64)
        return table.select(chars.alias(f"score_{self.name}"))


class Rank(Labeler):
    """Rank of an answer's length among all answers of the dataset, 0 the shortest."""

    scope: ClassVar = "dataset"

    def adds(self, shape):
        return {"score_rank": pl.Float64()}

    def fit_shard(self, table, ctx):
        chars = text_of(pl.col("response")).str.len_chars()
        return table.select("response_id", chars=chars)

    def fit(self, parts, ctx):
        ranked = parts.select("response_id", rank=pl.col("chars").rank("ordinal") - 1)
        return State({"ranks": ranked}, {"answers": parts.height})

    def label(self, table, ctx):
        ranks = ctx.state.tables["ranks"]
        found = table.join(ranks, on="response_id", how="left", maintain_order="left")
        return found.select(score_rank=pl.col("rank").cast(pl.Float64))


class Noise(Labeler):
    """A random score."""

    def adds(self, shape):
        return {"score_noise": pl.Float64()}

    def label(self, table, ctx):
        return pl.DataFrame({"score_noise": ctx.uniform(table["response_id"])})


class BestWorst(Generator):
    """Pairs of the longest and the shortest answer of a prompt."""

    scope: ClassVar = "prompt"
    parents: ClassVar = ("chosen_id", "rejected_id")

    def needs(self, shape):
        return {"score_length": pl.Float64()}

    def out_shape(self, shape):
        return Shape.PAIRS

    def generate(self, table, ctx):
        ranked = table.sort("score_length", "response_id", maintain_order=True)
        last = pl.all().last()
        ends = ranked.group_by("prompt_id", maintain_order=True)
        best, worst = ends.agg(last), ends.agg(pl.all().first())
        carried = [c for c in table.columns if c.startswith("score_")]
        one = best.with_columns(
            chosen="response",
            rejected=worst["response"],
            chosen_id="response_id",
            rejected_id=worst["response_id"],
            chosen_model="model",
            rejected_model=worst["model"],
            label_source=pl.lit("rule"),
            **{f"chosen_{c}": c for c in carried},
            **{f"rejected_{c}": worst[c] for c in carried},
        ).filter(pl.col("chosen_id") != pl.col("rejected_id"))
        one = with_ids(one, Shape.PAIRS)
        carried = score_columns_after(tuple(table.columns), Shape.RESPONSES, Shape.PAIRS)
        rows = one.select(*COLUMNS[Shape.PAIRS], *carried)
        used = pl.concat([rows["chosen_id"], rows["rejected_id"]])
        lost = table.filter(~pl.col("response_id").is_in(used.implode()))
        return Generated(rows, _unused(lost["response_id"], "not_an_end"))


class Shout(Generator):
    """Pairs under a prompt in capitals: prompts that differ in case become one."""

    shapes: ClassVar = (Shape.PAIRS,)
    parents: ClassVar = ("parent",)
    new_prompts: ClassVar = True

    def adds(self, shape):
        return {"parent": pl.String()}

    def generate(self, table, ctx):
        loud = [[{**m, "content": m["content"].upper()} for m in p] for p in table["prompt"]]
        rows = table.with_columns(prompt=messages(*loud), parent="pair_id")
        return Generated(with_ids(rows, Shape.PAIRS), _unused(table["pair_id"].clear(), ""))


class Echo(Generator):
    """One answer to each prompt; prompts that say `silent` get none."""

    shapes: ClassVar = (Shape.PROMPTS,)
    parents: ClassVar = ("prompt_id",)

    def out_shape(self, shape):
        return Shape.RESPONSES

    def generate(self, table, ctx):
        silent = text_of(pl.col("prompt")).str.contains("silent")
        heard = table.filter(~silent)
        answers = [[assistant(f"echo {m[-1]['content']}")] for m in heard["prompt"]]
        rows = heard.with_columns(
            response=messages(*answers), model=pl.lit("echo"), origin=pl.lit("rule")
        )
        rows = with_ids(rows, Shape.RESPONSES).select(*COLUMNS[Shape.RESPONSES])
        return Generated(rows, _unused(table.filter(silent)["prompt_id"], "silent"))


def _unused(ids, reason):
    return pl.DataFrame({"row_id": ids}).with_columns(
        reason=pl.lit(reason), detail=pl.lit(None, dtype=pl.String)
    )

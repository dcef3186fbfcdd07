"""Questions about answers, and what their verdicts make of the answers of a prompt."""

from __future__ import annotations

from typing import Literal

import polars as pl

from labelers.judges.votes import BESIDE, VOTE
from prefactory.step import verdict
from prefactory.tables import digests, text_of

Mode = Literal["listwise", "pairwise"]


def columns(name: str) -> dict[str, pl.DataType]:
    """What pairs keep of the votes on them, by column; see `labelers.Judge`."""
    return {
        f"{name}_question": pl.String(),
        f"{name}_answers": pl.Int64(),
        f"{name}_agreement": pl.Float64(),
        f"{name}_asked": pl.Int64(),
        f"{name}_valid": pl.Int64(),
        f"{name}_votes": pl.List(pl.Struct({**VOTE, **BESIDE})),
    }


def folded(messages: pl.Expr) -> pl.Expr:
    """The text of an answer as equal answers share it: NFC, no outer white space."""
    return text_of(messages).fill_null("").str.normalize("NFC").str.strip_chars()


def usable(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All answers by id with their `twin` (the first with the same text), and those that count.

    Returns:
        `row` (of the table), `prompt_id`, `response_id`, `twin`, sorted by both ids; and of those
        the answers that are their own twin, with `size`, the number of them in the prompt.
    """
    every = (
        table.with_row_index("row")
        .select("row", "prompt_id", "response_id", text=folded(pl.col("response")))
        .sort("prompt_id", "response_id")
        .with_columns(twin=pl.col("response_id").first().over("prompt_id", "text"))
        .drop("text")
    )
    distinct = every.filter(pl.col("response_id") == pl.col("twin")).drop("twin")
    return every, distinct.with_columns(size=pl.len().over("prompt_id").cast(pl.Int64))


def questions_about(distinct: pl.DataFrame, mode: Mode, most: int) -> pl.DataFrame:
    """Questions about the answers of prompts: one for all of them, or one for every two.

    Args:
        distinct: of `usable`.
        mode: `listwise` or `pairwise`.
        most: prompts with more answers than that are left out of listwise questions.

    Returns:
        `question`, `prompt_id`, `ids` and `rows` (lists, in the order of the ids), sorted by prompt
        and question.
    """
    asked = distinct.filter(pl.col("size") > 1)
    if mode == "listwise":
        asked = asked.filter(pl.col("size") <= most)
        grouped = asked.group_by("prompt_id", maintain_order=True)
        lists = grouped.agg(ids="response_id", rows="row")
        return lists.select(pl.col("prompt_id").alias("question"), "prompt_id", "ids", "rows")
    answers = asked.select("prompt_id", id="response_id", row="row")
    both = answers.join(answers, on="prompt_id", suffix="_2").filter(pl.col("id") < pl.col("id_2"))
    both = both.with_columns(pair_question(both["prompt_id"], both["id"], both["id_2"]))
    return both.select(
        "question",
        "prompt_id",
        ids=pl.concat_list("id", "id_2"),
        rows=pl.concat_list("row", "row_2"),
    ).sort("prompt_id", "question")


def pair_question(prompts: pl.Series, low: pl.Series, high: pl.Series) -> pl.Series:
    """Id of the question which of two answers is better, the same in whatever order they are."""
    parts = pl.DataFrame({"p": prompts, "low": low, "high": high})
    joined = parts.select(pl.concat_str(pl.lit("judge"), "p", "low", "high", separator="\n"))
    return digests(joined.to_series()).alias("question")


def edges(decided: pl.DataFrame) -> pl.DataFrame:
    """Who beat whom: the winner of each decided question over each other answer in it.

    Args:
        decided: `question`, `prompt_id`, `ids`, `rows` and `winner` (null or below 0: nobody won).

    Returns:
        `question`, `prompt_id`, `chosen_id`, `rejected_id`, `chosen_row`, `rejected_row`.
    """
    won = decided.filter(pl.col("winner") >= 0).with_columns(
        chosen_id=pl.col("ids").list.get(pl.col("winner")),
        chosen_row=pl.col("rows").list.get(pl.col("winner")),
    )
    flat = won.explode("ids", "rows").rename({"ids": "rejected_id", "rows": "rejected_row"})
    flat = flat.filter(pl.col("rejected_id") != pl.col("chosen_id"))
    names = ("chosen_id", "rejected_id", "chosen_row", "rejected_row")
    return flat.select("question", "prompt_id", *names)


def in_cycles(beats: pl.DataFrame) -> pl.Series:
    """Which of the pairs lie on a cycle (A beats B beats C beats A), Bool[n].

    Args:
        beats: `prompt_id`, `chosen_id`, `rejected_id`.
    """
    step = beats.select("prompt_id", one="chosen_id", two="rejected_id").unique()
    reach = step
    while True:
        further = reach.join(
            reach.select("prompt_id", two="one", three="two"), on=["prompt_id", "two"]
        ).select("prompt_id", "one", two="three")
        grown = pl.concat([reach, further]).unique()
        if grown.height == reach.height:
            break
        reach = grown
    back = reach.select("prompt_id", chosen_id="two", rejected_id="one", back=pl.lit(value=True))
    keys = ["prompt_id", "chosen_id", "rejected_id"]
    flags = beats.select(keys).join(back, on=keys, how="left", maintain_order="left")
    return flags["back"].fill_null(value=False)


def champions(beats: pl.DataFrame) -> pl.Series:
    """Which of the pairs belong to the answer that beat most others of its prompt, Bool[n].

    None of a prompt's pairs if two answers beat equally many.
    """
    wins = beats.group_by("prompt_id", "chosen_id").agg(wins=pl.len())
    top = wins.filter(pl.col("wins") == pl.col("wins").max().over("prompt_id"))
    top = top.filter(pl.len().over("prompt_id") == 1).with_columns(top=pl.lit(value=True))
    flags = beats.select("prompt_id", "chosen_id").join(
        top, on=["prompt_id", "chosen_id"], how="left", maintain_order="left"
    )
    return flags["top"].fill_null(value=False)


def reasons_left_out(
    every: pl.DataFrame, distinct: pl.DataFrame, decided: pl.DataFrame, most: int | None
) -> pl.DataFrame:
    """Why each answer would be left out if no pair held it: `row_id`, `reason`, `detail`.

    Args:
        every: of `usable`.
        distinct: of `usable`.
        decided: `ids` of the questions, with `reason`, `detail` and `rank` (of several questions
            about an answer the lowest rank gives its reason).
        most: prompts with more answers than that were not asked about; None: no limit.
    """
    fates = (
        decided.select(pl.col("ids").alias("response_id"), "reason", "detail", "rank", "question")
        .explode("response_id")
        .filter(pl.col("reason").is_not_null())
        .sort("response_id", "rank", "question")
        .unique("response_id", keep="first", maintain_order=True)
        .rename({"reason": "said", "detail": "how"})
    )
    facts = every.join(distinct.select("response_id", "size"), on="response_id", how="left")
    facts = facts.join(fates, on="response_id", how="left").sort("prompt_id", "response_id")
    many = pl.lit(value=False) if most is None else pl.col("size") > most
    judged = verdict(
        facts,
        (
            pl.col("response_id") != pl.col("twin"),
            "same_text",
            pl.format("same text as {}", "twin"),
        ),
        (pl.col("size") == 1, "one_answer", pl.lit("no other answer to compare with")),
        (many, "too_many_answers", pl.format("{} answers, at most {}", "size", pl.lit(most))),
        (pl.lit(value=True), "not_selected", pl.lit("in no pair that is made")),
    )
    undecided = pl.col("said").is_not_null() & (pl.col("reason") == "not_selected")
    return facts.hstack(judged).select(
        pl.col("response_id").alias("row_id"),
        reason=pl.when(undecided).then("said").otherwise("reason"),
        detail=pl.when(undecided).then("how").otherwise("detail"),
    )


def pair_rows(table: pl.DataFrame, pairs: pl.DataFrame, extra: list[str]) -> pl.DataFrame:
    """PAIRS (without pair ids) of rows of a table.

    Args:
        table: RESPONSES.
        pairs: `chosen_row`, `rejected_row` and the columns of `extra`.
        extra: columns of `pairs` that the rows get.
    """
    scores = [c for c in table.columns if c.startswith("score_")]
    shared = table.select("prompt_id", "prompt", "source", "source_id")
    parts = [shared.select(pl.all().gather(pairs["chosen_row"]))]
    for side in ("chosen", "rejected"):
        answers = table.select(
            pl.col("response").alias(side),
            pl.col("response_id").alias(f"{side}_id"),
            pl.col("model").alias(f"{side}_model"),
            *(pl.col(c).alias(f"{side}_{c}") for c in scores),
        )
        parts.append(answers.select(pl.all().gather(pairs[f"{side}_row"])))
    return pl.concat([*parts, pairs.select(extra)], how="horizontal")

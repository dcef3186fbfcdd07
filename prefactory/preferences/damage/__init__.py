"""Damage in preference data, by rules on texts and vectors: `damage(table) -> one row per hit`.

| rule | what it is | sides |
|---|---|---|
| `empty`, `identical` | nothing to be seen in an answer; two equal ones after strip | pair |
| `role_leak` | the answer speaks for another turn, or holds a template token | each |
| `trailing_cue` | its last line cues another turn (`Answer:`) | each |
| `template` | template or end tokens in one answer only | pair |
| `judge` | words of a judge (`[[A]]`, `Score: 7`) | each |
| `mojibake` | text decoded wrongly (ftfy), U+FFFD | each |
| `loop` | one sentence, or few word trigrams, again and again | each |
| `garbled` | letters in no familiar order, words in no other text | each |
| `off_topic`, `off_topic_strict` | the answer fits other prompts as well as its own | chosen |
| `unfinished` | ends in the middle of a line: a number, never a fault | chosen |

All limits are ours. What they find in planted and in clean data is in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.context import Context
from prefactory.near.vectors import unit
from prefactory.preferences.damage import garbled as letters
from prefactory.preferences.damage.loops import loops
from prefactory.preferences.damage.marks import VISIBLE, has_token, marks, unfinished
from prefactory.preferences.damage.relevance import (
    CONVERSATION,
    EVASIVE,
    off_topic,
    own_relevance,
)
from prefactory.tables import ROW_ID, SIDES, Shape, in_parts, last_user_text, shape_of, text_of

Rule = Literal[
    "empty", "identical", "role_leak", "trailing_cue", "template", "judge", "mojibake", "loop",
    "garbled", "off_topic", "off_topic_strict", "unfinished",
]  # fmt: skip
RULES: tuple[Rule, ...] = get_args(Rule)
OF_MEANING: tuple[Rule, ...] = ("off_topic", "off_topic_strict")
"""Rules that need sentence vectors."""
OF_TEXT: tuple[Rule, ...] = tuple(r for r in RULES if r not in (*OF_MEANING, "unfinished"))
"""Rules that need none, and whose hits are damage."""
ON_BOTH: tuple[Rule, ...] = ("role_leak", "trailing_cue", "template", "judge", "mojibake")
"""Rules whose hits are damage on the rejected side too; what else is wrong there may be why."""
OF_PAIR = "pair"
_MARKS = ("role_leak", "trailing_cue", "judge", "mojibake")
_TOLD = {
    "role_leak": "speaks for another turn, or holds a template token",
    "trailing_cue": "ends in a cue of another turn",
    "judge": "holds words of a judge",
    "mojibake": "was decoded wrongly",
    "unfinished": "ends in the middle of a line",
}
SCHEMA = {
    "row": pl.Int64,
    "id": pl.String,
    "rule": pl.String,
    "side": pl.String,
    "detail": pl.String,
}


@dataclass(frozen=True)
class Vectors:
    """Unit sentence vectors of a table's rows, float32 [N, d].

    Attributes:
        answers: of the chosen (or only) answer.
        questions: of the last user message.
        conversations: of the last 800 characters of the conversation.
    """

    answers: NDArray[np.float32]
    questions: NDArray[np.float32]
    conversations: NDArray[np.float32]


def damage(
    table: pl.DataFrame,
    rules: Sequence[Rule] = OF_TEXT,
    *,
    model: letters.Model | None = None,
    relevance: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Find damaged rows.

    Args:
        table: PAIRS or RESPONSES.
        rules: which to look for.
        model: what `garbled` compares with (see `learn`); None learns it from this table.
        relevance: verdicts of `judge_relevance` on these rows; without them `off_topic` finds
            nothing.

    Returns:
        One row per hit: `row` (Int64, place in the table), `id`, `rule`, `side` (`chosen`,
        `rejected`, `response` or `pair`) and `detail`; by rule in the order of `RULES`, then by
        side and row. Nothing depends on the order of the rows or on how they are cut into tables.
    """
    shape = shape_of(table)
    sides = SIDES if shape == Shape.PAIRS else ("response",)
    ids = table[ROW_ID[shape]]
    texts = {side: answers(table, side) for side in sides}
    parts = [pl.DataFrame(schema=SCHEMA)]
    if shape == Shape.PAIRS:
        parts += _of_pairs(ids, texts["chosen"], texts["rejected"], rules)
    elif "empty" in rules:
        parts.append(
            _hits(ids, "empty", "response", ~texts["response"].str.contains(VISIBLE), "no text")
        )
    known = (model or learn(table)) if "garbled" in rules else None
    for side, text in texts.items():
        parts += _of_answers(ids, side, text, rules)
        if known is not None:
            told = letters.garbled(ids, text, known)
            parts.append(_hits(ids, "garbled", side, told.is_not_null(), told))
    if relevance is not None:
        parts += _of_meaning(ids, sides[0], relevance, rules)
    order = {rule: i for i, rule in enumerate(RULES)}
    found = pl.concat(parts).with_columns(_o=pl.col("rule").replace_strict(order))
    return found.sort("_o", "side", "row").drop("_o")


def only_damage(hits: pl.DataFrame, *, rejected: bool = False) -> pl.DataFrame:
    """The hits that count as damage: on a rejected answer marks and emptiness only."""
    counts = (*ON_BOTH, "empty", "identical")
    return hits.filter((pl.col("side") != "rejected") | pl.col("rule").is_in(counts) | rejected)


def answers(table: pl.DataFrame, side: str) -> pl.Series:
    """The answers of a side without outer white space, String [N]."""
    text = text_of(pl.col(side)).fill_null("").str.strip_chars()
    return table.select(text.alias(side))[side]


def conversation(table: pl.DataFrame) -> pl.Series:
    """All messages of every row's prompt, joined, String [N]."""
    return table.select(prompt=text_of(pl.col("prompt")).fill_null(""))["prompt"]


def clusters(table: pl.DataFrame) -> pl.Series:
    """What rows share whose first user message is the same when folded, String [N]."""
    first = pl.col("prompt").list.eval(
        pl.element().filter(pl.element().struct.field("role") == "user").struct.field("content")
    )
    text = pl.coalesce(first.list.first(), text_of(pl.col("prompt")), pl.lit(""))
    folded = text.str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\s+", " ")
    return table.select(cluster=folded.str.strip_chars())["cluster"]


def learn(table: pl.DataFrame) -> letters.Model | None:
    """What `garbled` compares with, from a sample of a table; None for a small table."""
    ids = table[ROW_ID[shape_of(table)]]
    sample = table[letters.sampled(ids)]
    return fit_sample(sample.select(ids.name, pl.exclude(ids.name)))


def fit_sample(sample: pl.DataFrame) -> letters.Model | None:
    """The same, of rows that are a sample already: row id first, then prompt and answers."""
    sides = [side for side in (*SIDES, "response") if side in sample.columns]
    texts = [answers(sample, side) for side in sides]
    return letters.fit(sample.to_series(0), texts, conversation(sample))


def texts_of_meaning(table: pl.DataFrame) -> tuple[pl.Series, pl.Series, pl.Series]:
    """What is embedded of every row: the answer, the last user message, the conversation's end."""
    side = "chosen" if shape_of(table) == Shape.PAIRS else "response"
    question = table.select(q=last_user_text(pl.col("prompt")).fill_null(""))["q"]
    return answers(table, side), question, conversation(table).str.tail(CONVERSATION)


def judge_relevance(table: pl.DataFrame, vectors: Vectors) -> pl.DataFrame | None:
    """Which answers fit other prompts as well as their own (see `relevance.off_topic`).

    Args:
        table: the whole of a dataset, or a sample, PAIRS or RESPONSES.
        vectors: of `texts_of_meaning`.
    """
    words = texts_of_meaning(table)[0].str.count_matches(r"\S+")
    return judged(table[ROW_ID[shape_of(table)]], clusters(table), words, vectors)


def judged(
    ids: pl.Series, cluster: pl.Series, words: pl.Series, vectors: Vectors
) -> pl.DataFrame | None:
    """The same, of columns: the row ids, `clusters`, the words of each answer and its vectors."""
    found = (unit(v) for v in (vectors.answers, vectors.questions, vectors.conversations))
    answer, question, talk = found
    order = Context(step="damage").uniform(ids, "null").to_numpy()
    own = own_relevance(answer, question, talk)
    return off_topic(own, answer, question, cluster, words, order)


def _of_pairs(
    ids: pl.Series, chosen: pl.Series, rejected: pl.Series, rules: Sequence[str]
) -> list[pl.DataFrame]:
    found = []
    blank = [~text.str.contains(VISIBLE) for text in (chosen, rejected)]
    empty = blank[0] | blank[1]
    if "empty" in rules:
        for side, none in zip(SIDES, blank, strict=True):
            found.append(_hits(ids, "empty", side, none, "no text"))
    if "identical" in rules:
        same = (chosen == rejected) & ~empty
        found.append(_hits(ids, "identical", OF_PAIR, same, "both answers are one text"))
    if "template" in rules:
        tokens = [has_token(text) for text in (chosen, rejected)]
        for side, has, other in zip(SIDES, tokens, reversed(tokens), strict=True):
            told = "template or end tokens on this side only"
            found.append(_hits(ids, "template", side, has & ~other, told))
    return found


def _of_answers(
    ids: pl.Series, side: str, text: pl.Series, rules: Sequence[str]
) -> list[pl.DataFrame]:
    found = []
    wanted = [rule for rule in _MARKS if rule in rules]
    if wanted:
        marked = in_parts(marks, text)
        found += [_hits(ids, rule, side, marked[rule], _TOLD[rule]) for rule in wanted]
    if "loop" in rules:
        told = loops(text)
        found.append(_hits(ids, "loop", side, told.is_not_null(), told))
    if "unfinished" in rules and side != "rejected":
        found.append(_hits(ids, "unfinished", side, unfinished(text), _TOLD["unfinished"]))
    return found


def _of_meaning(
    ids: pl.Series, side: str, relevance: pl.DataFrame, rules: Sequence[str]
) -> list[pl.DataFrame]:
    told = relevance.select(
        d=pl.format(
            "cosine {} with its own prompt; {} % of other prompts fit as well",
            pl.col("own").round(2),
            (100 * pl.col("fit")).round(0).cast(pl.Int64),
        )
    )["d"]
    columns = {"off_topic": "off_topic", "off_topic_strict": "strict"}
    return [
        _hits(ids, rule, side, relevance[column].fill_null(value=False), told)
        for rule, column in columns.items()
        if rule in rules
    ]


def _hits(
    ids: pl.Series, rule: str, side: str, fires: pl.Series, detail: str | pl.Series
) -> pl.DataFrame:
    at = fires.arg_true()
    told = detail.gather(at) if isinstance(detail, pl.Series) else pl.lit(detail)
    frame = pl.DataFrame({"row": at.cast(pl.Int64), "id": ids.gather(at)})
    return frame.with_columns(rule=pl.lit(rule), side=pl.lit(side), detail=told).select(
        pl.col(c).cast(t) for c, t in SCHEMA.items()
    )


__all__ = [
    "EVASIVE", "OF_MEANING", "OF_TEXT", "ON_BOTH", "RULES", "Rule", "Vectors", "answers",
    "clusters", "damage", "fit_sample", "judge_relevance", "judged", "learn", "letters",
    "only_damage", "texts_of_meaning",
]  # fmt: skip

"""Which pairs of a dataset are damaged, for fits that must not see them: by shard, then whole.

The rules and sides are those of `filters.Damage`: marks and emptiness on both sides, what else is
wrong on the chosen side only. `off_topic` needs vectors. It names nothing where the answers that
fit no prompt are rather short or evasive (people choose those on purpose), or are more than a
quarter of all: such vectors don't tell the prompts apart. The latter are our choice.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.context import Context
from prefactory.measures.calibration import Floats
from prefactory.measures.scripts import scripts
from prefactory.near.vectors import unit
from prefactory.preferences.damage import (
    OF_TEXT,
    answers,
    conversation,
    damage,
    fit_sample,
    letters,
    only_damage,
)
from prefactory.preferences.damage.foreign import main_language
from prefactory.preferences.damage.relevance import CONVERSATION, evasive, off_topic

OF_SHARD = tuple(rule for rule in OF_TEXT if rule != "garbled")
MOST = 0.25
"""Share of answers off topic above which the vectors don't tell prompts apart."""
Vectors = NDArray[np.float32]


def reduce_pairs(table: pl.DataFrame) -> pl.DataFrame:
    """What a shard of pairs tells without vectors.

    Returns:
        `damage` (String, the first rule that fires, or null), `damage_text` (what `garbled` and
        `off_topic` judge: the head of the chosen answer), `damage_words` (its words) and
        `damage_sample` (struct of prompt, chosen and rejected; null outside the sample that
        `garbled` learns from).
    """
    hits = only_damage(damage(table, OF_SHARD)).unique("row", keep="first", maintain_order=True)
    rule = pl.Series("damage", [None] * table.height, dtype=pl.String)
    mask = np.zeros(table.height, np.bool_)
    mask[letters.sampled(table["pair_id"])] = True
    chosen = answers(table, "chosen")
    return table.select(
        rule.scatter(hits["row"], hits["rule"]),
        damage_text=chosen.str.head(letters.HEAD),
        damage_words=chosen.str.count_matches(r"\S+"),
        damage_sample=pl.when(pl.Series(mask)).then(pl.struct("prompt", "chosen", "rejected")),
    )


def talk(table: pl.DataFrame) -> pl.Series:
    """The end of every conversation, which an answer may fit instead of the last message."""
    return conversation(table).str.tail(CONVERSATION)


def rules(
    parts: pl.DataFrame, cluster: pl.Series, own: Floats, answer: Vectors, question: Vectors
) -> pl.Series:
    """The rule that each pair is damaged by, or null: String [N].

    Args:
        parts: `pair_id` and the columns of `reduce_pairs`, of all shards, in any order.
        cluster: of near-duplicate prompts, [N].
        own: cosine of each chosen answer with its own prompt, Float64[N] (see `own_relevance`).
        answer: vectors of the chosen answers, Float32[N, d]; d is 0 without an encoder.
        question: those of the last user messages.
    """
    ids, rule = parts["pair_id"], parts["damage"]
    garbled = _garbled(ids, parts)
    off = np.zeros(len(ids), np.bool_)
    if answer.shape[1] and len(ids):
        off = _off_topic(ids, parts, cluster, own, answer, question)
    return parts.select(
        damage=pl.coalesce(
            rule,
            pl.when(pl.Series(garbled)).then(pl.lit("garbled")),
            pl.when(pl.Series(off)).then(pl.lit("off_topic")),
        )
    )["damage"]


def _garbled(ids: pl.Series, parts: pl.DataFrame) -> NDArray[np.bool_]:
    fires = np.zeros(len(ids), np.bool_)
    sample = parts[letters.sampled(ids)].select("pair_id", "damage_sample").unnest("damage_sample")
    model = fit_sample(sample)
    if model is None:
        return fires
    at = np.flatnonzero(letters.garbled(ids, parts["damage_text"], model).is_not_null())
    if len(at):
        language = scripts(parts["damage_text"].gather(at))
        fires[at] = (language == main_language(sample)).to_numpy()
    return fires


def _off_topic(
    ids: pl.Series,
    parts: pl.DataFrame,
    cluster: pl.Series,
    own: Floats,
    answer: Vectors,
    question: Vectors,
) -> NDArray[np.bool_]:
    order = Context(step="damage").uniform(ids, "null").to_numpy()
    words = parts["damage_words"]
    found = off_topic(own, unit(answer), unit(question), cluster, words, order)
    none = np.zeros(len(ids), np.bool_)
    if found is None:
        return none
    off: NDArray[np.bool_] = found["off_topic"].to_numpy()
    return none if off.mean() > MOST or evasive(found, words) else off

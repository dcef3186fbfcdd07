"""Rules of conduct: what one is, which two are the same, and how many scenes each gets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from catalog.values import Node
from prefactory.asking import Task, UnfitError
from prefactory.asking.forms import Form
from prefactory.near.leaders import greedy_kept
from prefactory.near.polarity import Polarity, polarity
from prefactory.near.vectors import unit32

RULE = Form({"judgement": "text", "act": "text"})
GUARDED = 60
"""Words up to which the guard of polarity looks at a rule: more than any rule may have."""

MERGED: dict[str, pl.DataType] = dict.fromkeys(("value", "rule", "text", "act"), pl.String())
"""Columns of the table of same rules: of a value the text that was written, and the rule, with its
act, that stands for it."""


@dataclass
class Rule(Task):
    """What somebody who holds a value would do in a situation."""

    situation: str = ""
    value: Node | None = None
    act: str = ""
    text: str = ""


def read_rule(text: str, most: int) -> tuple[str, str]:
    """A rule and its act out of an answer.

    Args:
        text: a model's answer.
        most: words of a rule.

    Raises:
        ValueError: it has no judgement, no act, or too many words; a sentence for the model.
    """
    parts = RULE.parse(text)
    rule = f"{parts['judgement'].rstrip(' .:')} {parts['act'].rstrip(' .')}."
    if (count := len(rule.split())) > most:
        raise UnfitError("too_long", f"The rule has {count} words. Use at most {most}.")
    return rule, parts["act"]


def table_of(rules: list[Rule]) -> pl.DataFrame:
    """The rules that were written: `value`, `text` and `act`, those of a value once, in order."""
    rows = [(r.value.id, r.text, r.act) for r in rules if r.reason is None and r.value is not None]
    schema = {"value": pl.String, "text": pl.String, "act": pl.String}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.unique(["value", "text"], keep="first", maintain_order=True)


def same_rules(
    rules: pl.DataFrame, vectors: NDArray[np.floating], threshold: float
) -> pl.DataFrame:
    """Find rules of one value that say the same; the first of them stands for all.

    A rule goes to the nearest kept one, never to a dropped one. Vectors hardly see polarity: rules
    with an odd and an even number of negations, or with words of opposite meaning, are two.

    Args:
        rules: as `table_of` gives them, n rows.
        vectors: of their texts, Float[n, d].
        threshold: least cosine of what is the same, in (0, 1].

    Returns:
        The rules that another stands for, see `MERGED`.
    """
    if rules.is_empty():
        return pl.DataFrame(schema=MERGED)
    place = np.arange(rules.height, dtype=np.int64)
    group = rules["value"].rank("dense").cast(pl.Int64).to_numpy()
    guard = Polarity([polarity(rules["text"])], GUARDED)
    kept = greedy_kept([unit32(vectors)], place, threshold, group=group, allowed=guard)
    gone = np.flatnonzero(kept >= 0)
    return pl.DataFrame(
        {
            "value": rules["value"].gather(gone),
            "rule": rules["text"].gather(gone),
            "text": rules["text"].gather(kept[gone]),
            "act": rules["act"].gather(kept[gone]),
        },
        schema=MERGED,
    )


def merge(rules: list[Rule], merged: pl.DataFrame) -> None:
    """Put the rule that stands for it in the place of each."""
    known = {(value, rule): (text, act) for value, rule, text, act in merged.iter_rows()}
    for rule in rules:
        if rule.value is not None:
            own = (rule.text, rule.act)
            rule.text, rule.act = known.get((rule.value.id, rule.text), own)


def scenes_of(rules: list[Rule], each: int, most: int | None) -> list[int]:
    """How many scenes each pair of rules gets, so that no rule is in more than `most`.

    Args:
        rules: merged, two after another for each of n situations, in the order of their right.
        each: scenes that a situation asks for.
        most: scenes of a rule; None: any number.

    Returns:
        n numbers.
    """
    taken: Counter[tuple[str, str]] = Counter()
    numbers = []
    for pair in zip(rules[::2], rules[1::2], strict=True):
        keys = [(r.value.id, r.text) for r in pair if r.reason is None and r.value is not None]
        room = each if most is None else most - max((taken[k] for k in keys), default=0)
        numbers.append(max(0, min(each, room)))
        if len(keys) == len(pair):
            taken.update(dict.fromkeys(keys, numbers[-1]))
    return numbers

"""Rows leave until no task template has more prompts than a cap."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field
from rapidfuzz.distance import LCSseq

from filters.duplicates.near import prompts_at_best, quality
from filters.rules.margin import score_columns
from prefactory.context import Context
from prefactory.near.shingles import as_lists, word_hashes
from prefactory.step import FittedFilter, State
from prefactory.tables import Shape, last_user_text, shape_of

MOST_LISTED = 64
"""Templates that are remembered under one pair of words; of more, the first ones."""


class TaskTemplates(FittedFilter):
    """Keep at most `most` prompts of each task template.

    "Write a limerick about the river" and "Write a limerick about my dog" are far apart by topic
    and one task. Two prompts share a template if the longest common subsequence of their words has
    at least `least_words` words and is at least `share` of the shorter one (the measure is of
    Baichuan Alignment, arXiv:2410.14940, where it finds pairs to train an encoder on; thresholds
    and grouping are ours). Prompts are taken by id. Each joins the template it shares most with,
    among the `nearest` that have most pairs of neighbouring words in common with it, or begins a
    new one, which it stands for. Of each template the best prompts stay, by `keep_best`, then by
    chance. The rows of a prompt stay or go together.

    Reason: `template`; the detail is `one of <n> like <prompt_id>`, the prompt that stands for it.

    Attributes:
        most: prompts of a template that stay.
        share: least ratio of the common subsequence to the shorter prompt, in (0, 1].
        least_words: least length of the common subsequence, in words.
        length_ratio: prompts are compared if the longer has at most so many times the words of the
            shorter: most short prompts are subsequences of some long one.
        nearest: templates that a prompt is compared with.
        first_words: words of a prompt that are looked at.
        keep_best: objective by whose score the prompts that stay are chosen (of several answers
            the best; of pairs the margin).
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)

    most: int = Field(default=50, ge=1)
    share: float = Field(default=0.6, gt=0, le=1)
    least_words: int = Field(default=8, ge=1)
    length_ratio: float = Field(default=2.0, ge=1)
    nearest: int = Field(default=20, ge=1)
    first_words: int = Field(default=256, ge=8)
    keep_best: str | None = Field(default=None, min_length=1)

    def unit(self, shape: Shape) -> str:
        """Prompts stay or go, with all their rows."""
        return "prompt_id"

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of `keep_best` (Float64), if it is set; PROMPTS have none."""
        return {} if shape == Shape.PROMPTS else score_columns(self.keep_best, shape)

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce the prompts of a shard to the hashes of their words.

        Args:
            table: PROMPTS, RESPONSES or PAIRS.
            ctx: not used.

        Returns:
            `unit` (String, `prompt_id`), `score` (Float64), `words` (List(UInt64), hashes of the
            words of the last user message, in order).
        """
        scored = table.with_columns(score=quality(self.needs(shape_of(table))))
        units = prompts_at_best(scored)
        words = word_hashes(units.select(last_user_text(pl.col("prompt"))).to_series())
        lists = as_lists(words.values, words.offsets).list.head(self.first_words)
        return units.select(unit="prompt_id", score="score").with_columns(words=lists)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Group the prompts and choose which go.

        Args:
            parts: the rows of `fit_shard`, sorted by `unit`.
            ctx: its seed and step name are the randomness.

        Returns:
            State with the table `dropped` (`unit`, `reason`, `detail`) and the facts `prompts`,
            `templates` (of two prompts or more), `largest`, `template` (prompts that go).
        """
        groups = _Groups(self)
        number = [groups.assign(row) for row in parts["words"].to_list()]
        table = parts.select("unit", "score").with_columns(
            pl.col("score").fill_nan(None),
            template=pl.Series(number, dtype=pl.Int64),
            chance=ctx.uniform(parts["unit"]),
        )
        ranked = table.sort(
            "template",
            "score",
            "chance",
            "unit",
            descending=[False, True, False, False],
            nulls_last=True,
        ).with_columns(
            size=pl.len().over("template"),
            place=pl.int_range(pl.len()).over("template"),
            like=pl.col("unit").min().over("template"),
        )
        dropped = ranked.filter(pl.col("place") >= self.most).select(
            "unit",
            reason=pl.lit("template"),
            detail=pl.format("one of {} like {}", "size", "like"),
        )
        sizes = np.bincount(table["template"].to_numpy(), minlength=1)
        facts = {
            "prompts": parts.height,
            "templates": int((sizes > 1).sum()),
            "largest": int(sizes.max()),
            "template": dropped.height,
        }
        return State({"dropped": dropped.sort("unit")}, facts)


class _Template(NamedTuple):
    """The prompt that stands for a template: its words, and each with a number of its own."""

    words: list[int]
    numbered: set[tuple[int, int]]


class _Groups:
    """Templates so far, and where pairs of neighbouring words occur in them."""

    def __init__(self, rule: TaskTemplates) -> None:
        self.rule = rule
        self.templates: list[_Template] = []
        self.listed: dict[tuple[int, int], list[int]] = {}

    def assign(self, sequence: list[int]) -> int:
        """Number of the template that a prompt joins or begins."""
        bigrams = set(pairwise(sequence))
        numbered = _numbered(sequence)
        shared: Counter[int] = Counter()
        for bigram in bigrams:
            shared.update(self.listed.get(bigram, ()))
        nearest = heapq.nsmallest(self.rule.nearest, ((-count, t) for t, count in shared.items()))
        shares = [(self._share(sequence, numbered, self.templates[t]), -t) for _, t in nearest]
        best, which = max(shares, default=(0.0, 0))
        if best >= self.rule.share:
            return -which
        new = len(self.templates)
        self.templates.append(_Template(sequence, numbered))
        for bigram in bigrams:
            where = self.listed.setdefault(bigram, [])
            if len(where) < MOST_LISTED:
                where.append(new)
        return new

    def _share(
        self, sequence: list[int], numbered: set[tuple[int, int]], template: _Template
    ) -> float:
        """Ratio of the common subsequence to the shorter prompt; 0 below the rule's limits."""
        short, long = sorted((len(sequence), len(template.words)))
        least = max(self.rule.least_words, self.rule.share * short)
        if long > self.rule.length_ratio * short or short < least:
            return 0.0
        if len(numbered & template.numbered) < least:  # no common subsequence is longer
            return 0.0
        common = LCSseq.similarity(template.words, sequence)
        return common / short if common >= least else 0.0


def _numbered(sequence: list[int]) -> set[tuple[int, int]]:
    """Each word with the number of its occurrence, so that a set counts repeats."""
    seen: Counter[int] = Counter()
    numbered = set()
    for word in sequence:
        seen[word] += 1
        numbered.add((word, seen[word]))
    return numbered

"""When two rows are near-duplicates: the true Jaccard indices of their texts, and the rule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefactory.near.shingles import I64, U64, Sets

CHUNK = 1 << 22
"""Shingles that are compared at a time."""
CUT_WORDS, CUT_JACCARD = 6, 0.5
"""A text of so many words that lies wholly in another text is a cut copy of it, if the index is so
large (our choice)."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Rule(NamedTuple):
    """When two texts are near-duplicates: by a Jaccard index that falls with their length.

    Attributes:
        threshold: least index of texts of `long` words or more.
        short: texts of up to so many words must agree in all shingles; between the two, by the
            shorter text, the least index falls in a straight line.
        long: see `threshold`.
        one_prompt: the rows that are compared are answers to one prompt.
    """

    threshold: float
    short: int = 8
    long: int = 32
    one_prompt: bool = False

    def least(self, words: NDArray[np.integer]) -> Floats:
        """Least index of texts of so many words, Float64[m]."""
        share = (self.long - words.astype(np.float64)) / max(self.long - self.short, 1)
        return self.threshold + (1.0 - self.threshold) * np.clip(share, 0.0, 1.0)


class Likeness(NamedTuple):
    """How much alike pairs of rows are.

    Attributes:
        jaccard: Float64[m], of the part that is least alike; of rows that are near only as prompt
            and answer together, of these together.
        near: Bool[m], near-duplicates.
        crossed: Bool[m], chosen and rejected match crosswise.
    """

    jaccard: Floats
    near: Flags
    crossed: Flags


class Overlap(NamedTuple):
    """What pairs of texts share.

    Attributes:
        shared, union: Int64[m], shingles.
        words: Int64[m], of the shorter text.
        contained: Bool[m], every shingle of one text is in the other.
    """

    shared: I64
    union: I64
    words: I64
    contained: Flags

    @property
    def jaccard(self) -> Floats:
        """Float64[m]."""
        return self.shared / self.union

    def near(self, rule: Rule) -> Flags:
        """Near-duplicates as texts of their own, Bool[m]."""
        return self.jaccard >= rule.least(self.words)

    def cut(self, rule: Rule) -> Flags:
        """Cut copies of one another, Bool[m]."""
        least = max(rule.threshold, CUT_JACCARD)
        return self.contained & (self.words >= CUT_WORDS) & (self.jaccard >= least)


def similarity(parts: dict[str, Sets], left: I64, right: I64, rule: Rule) -> Likeness:
    """Compare pairs of rows.

    Rows of a prompt and answers are near if every part is; or if the joined text of prompt and
    answer is (so that a word changed in a short prompt does not part two long rows), no answer is
    less than half as like as it would have to be alone, and the prompts share half the threshold
    (our bounds: another answer to nearly the same prompt, and the same answer to another prompt,
    are other rows). Under equal prompts the answers alone are compared, and one that is the other
    cut short is near too.

    Args:
        parts: as in `prefactory.near.pairs.Rows`.
        left: Int64[m], positions.
        right: Int64[m], positions.
        rule: when two texts are near-duplicates.
    """
    if "prompt" not in parts:
        same = np.full(left.size, rule.one_prompt)
        return _answers(parts, None, same, (left, right), rule)
    prompt = overlap(parts["prompt"], parts["prompt"], left, right)
    if len(parts) == 1:
        return Likeness(prompt.jaccard, prompt.near(rule), np.zeros(left.size, dtype=bool))
    return _answers(parts, prompt, prompt.shared == prompt.union, (left, right), rule)


def _answers(
    parts: dict[str, Sets], prompt: Overlap | None, same: Flags, rows: tuple[I64, I64], rule: Rule
) -> Likeness:
    """Compare rows with answers; of pairs in the better of both ways."""

    def alike(name: str, other: str) -> tuple[Floats, Flags]:
        return _one_answer(overlap(parts[name], parts[other], *rows), prompt, same, rule)

    if "response" in parts:
        index, near = alike("response", "response")
        return Likeness(index, near, np.zeros(same.size, dtype=bool))
    ways = [
        [alike("chosen", a), alike("rejected", b)]
        for a, b in (("chosen", "rejected"), ("rejected", "chosen"))
    ]
    (straight, straight_near), (cross, cross_near) = (
        (np.minimum(a[0], b[0]), a[1] & b[1]) for a, b in ways
    )
    crossed = np.where(straight_near == cross_near, cross > straight, cross_near)
    return Likeness(
        np.where(crossed, cross, straight), straight_near | cross_near, crossed.astype(bool)
    )


def _one_answer(
    answer: Overlap, prompt: Overlap | None, same: Flags, rule: Rule
) -> tuple[Floats, Flags]:
    """Index of a prompt and one answer, and whether they are near."""
    index = answer.jaccard
    near = answer.near(rule) | (same & answer.cut(rule))
    if prompt is None:
        return index, near
    near &= prompt.near(rule)
    joined = Overlap(
        answer.shared + prompt.shared,
        answer.union + prompt.union,
        answer.words + prompt.words,
        answer.contained & prompt.contained,
    )
    together = ~same & ~near & joined.near(rule)
    together &= index >= rule.least(answer.words) / 2
    together &= prompt.jaccard >= rule.threshold / 2
    index = np.where(together, joined.jaccard, np.minimum(index, prompt.jaccard))
    return index, near | together


def overlap(a: Sets, b: Sets, left: I64, right: I64) -> Overlap:
    """Compare text `left[k]` of a with text `right[k]` of b."""
    sizes_left, sizes_right = a.sizes_of(left), b.sizes_of(right)
    total = sizes_left + sizes_right
    ends = np.cumsum(total)
    shared = np.zeros(left.size, dtype=np.int64)
    start = 0
    while start < left.size:
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + CHUNK, side="right")), start + 1)
        these = slice(start, stop)
        keys = np.concatenate([_pair_keys(a, left[these]), _pair_keys(b, right[these])])
        keys.sort()
        twice = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)
        shared[these] = np.bincount(twice.astype(np.int64), minlength=stop - start)
        start = stop
    words = np.minimum(a.words[left], b.words[right]).astype(np.int64)
    return Overlap(shared, total - shared, words, shared == np.minimum(sizes_left, sizes_right))


def _pair_keys(sets: Sets, rows: I64) -> U64:
    """The shingles of rows, each under the number of its pair."""
    sizes = sets.sizes_of(rows)
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    values = sets.values[np.repeat(sets.offsets[rows], sizes) + within]
    pair = np.repeat(np.arange(rows.size, dtype=np.uint64), sizes)
    keys: U64 = (pair << np.uint64(32)) | values
    return keys

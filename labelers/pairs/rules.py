"""Which answers of a prompt make a pair: pure functions on arrays of answers, best first.

Answers are rows 0 .. n - 1, all of a prompt together and in order of preference, so that of two
answers of a prompt the earlier is the one to be chosen. A pair is a pair of row numbers (i, j),
i < j. Rules decide which pairs may be made, a strategy which of those are; every pair that may not
be made has a `Fate`.
"""

from __future__ import annotations

import itertools
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelers.combine.scoring import Floats, Ints

Bools = NDArray[np.bool_]
Strategy = Literal["best_worst", "best_random", "best_random_lower", "all", "top_bottom_k"]
Models = Literal["any", "same", "different"]
OnPolicy = Literal["chosen", "rejected", "either", "both"]

CHUNK = 2_000_000
"""Pairs that are looked at together; prompts with more answers than that make one chunk each."""


class Fate(IntEnum):
    """Why a pair may not be made: the first rule that it breaks, in this order."""

    TIE = 0
    INCOMPARABLE = 1
    SMALL_MARGIN = 2
    LARGE_MARGIN = 3
    CONFLICT = 4
    NO_MODEL = 5
    SAME_MODEL = 6
    OTHER_MODEL = 7
    OFF_POLICY = 8
    FINE = 9


class Rules(NamedTuple):
    """Which pairs may be made.

    Attributes:
        pareto: the chosen answer must be nowhere lower and somewhere higher.
        min_margin: least margin, inclusive.
        max_margin: greatest margin, inclusive.
        models: whether both answers must be of one model, or of two.
        on_policy: which side the policy must have written; None: any.
    """

    pareto: bool = False
    min_margin: float = 0.0
    max_margin: float = np.inf
    models: Models = "any"
    on_policy: OnPolicy | None = None


class Answers(NamedTuple):
    """Answers in order of preference within their prompts.

    Attributes:
        prompts: number of the prompt, Int64[n], not falling.
        values: what orders them, Float64[n, K]; a margin is the mean gap of the K.
        agree: scores that may not contradict the order, Float64[n, A], NaN: no opinion.
        model: number of the model, Int64[n], -1: unknown.
        policy: whether the policy wrote it, Bool[n].
    """

    prompts: Ints
    values: Floats
    agree: Floats
    model: Ints
    policy: Bools

    def part(self, start: int, stop: int) -> Answers:
        """Some rows."""
        at = slice(start, stop)
        return Answers(
            self.prompts[at], self.values[at], self.agree[at], self.model[at], self.policy[at]
        )


class Made(NamedTuple):
    """Pairs, and what became of every answer.

    Attributes:
        chosen: rows, Int64[m].
        rejected: rows, Int64[m].
        margin: Float64[m], above 0.
        fate: Int8[n], the best fate of the answer's pairs; -1: it has none.
        reach: Float64[n], the greatest margin of the answer's pairs; 0 if it has none.
    """

    chosen: Ints
    rejected: Ints
    margin: Floats
    fate: NDArray[np.int8]
    reach: Floats


def place_in_group(groups: Ints) -> tuple[Ints, Ints]:
    """Place of each row in its group, and the group's size: Int64[n] each (groups not falling)."""
    first = np.searchsorted(groups, groups, "left")
    size = np.searchsorted(groups, groups, "right") - first
    return np.arange(len(groups)) - first, size


def all_pairs(groups: Ints) -> tuple[Ints, Ints]:
    """All (i, j) of one group with i < j, sorted: Int64[m] each."""
    place, size = place_in_group(groups)
    later = size - place - 1
    i = np.repeat(np.arange(len(groups)), later)
    j = i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(later) - later, later)
    return i, j


def fates(answers: Answers, i: Ints, j: Ints, rules: Rules) -> tuple[NDArray[np.int8], Floats]:
    """Fate and margin of pairs: Int8[m] and Float64[m] (at least 0 unless incomparable).

    Args:
        answers: n answers.
        i: rows that would be chosen, Int64[m].
        j: rows that would be rejected, Int64[m].
        rules: which pairs may be made.
    """
    k = answers.values.shape[1]
    margin, nowhere_lower, equal = np.zeros(len(i)), np.ones(len(i), bool), np.ones(len(i), bool)
    for column in answers.values.T:
        gap = column[i] - column[j]
        margin += gap / k
        nowhere_lower &= gap >= 0
        equal &= gap == 0
    contradicted = np.zeros(len(i), bool)
    for column in answers.agree.T:
        contradicted |= column[i] < column[j]  # NaN compares as false
    model_i, model_j = answers.model[i], answers.model[j]
    off = np.zeros(len(i), bool)
    if rules.on_policy is not None:
        own, other = answers.policy[i], answers.policy[j]
        of = {"chosen": own, "rejected": other, "either": own | other, "both": own & other}
        off = ~of[rules.on_policy]
    broken = {
        Fate.TIE: equal if rules.pareto else margin == 0,
        Fate.INCOMPARABLE: ~nowhere_lower if rules.pareto else np.zeros(len(i), bool),
        Fate.SMALL_MARGIN: margin < rules.min_margin,
        Fate.LARGE_MARGIN: margin > rules.max_margin,
        Fate.CONFLICT: contradicted,
        Fate.NO_MODEL: np.full(len(i), rules.models != "any") & ((model_i < 0) | (model_j < 0)),
        Fate.SAME_MODEL: np.full(len(i), rules.models == "different") & (model_i == model_j),
        Fate.OTHER_MODEL: np.full(len(i), rules.models == "same") & (model_i != model_j),
        Fate.OFF_POLICY: off,
    }
    fate = np.full(len(i), Fate.FINE, np.int8)
    for code in sorted(broken, reverse=True):
        fate[broken[code]] = code
    return fate, margin


def pick(
    strategy: Strategy, answers: Answers, i: Ints, j: Ints, fine: Bools, draws: Floats, k: int
) -> Bools:
    """Which pairs a strategy makes of those that may be made: Bool[m].

    Args:
        strategy: see `labelers.Pairs`.
        answers: n answers.
        i: chosen rows, all pairs in order, Int64[m].
        j: rejected rows, Int64[m].
        fine: whether a pair may be made, Bool[m].
        draws: a number in [0, 1) of each answer, Float64[n], for the random strategies.
        k: size of both ends, for `top_bottom_k`.
    """
    place, size = place_in_group(answers.prompts)
    if strategy == "all":
        return fine
    if strategy == "top_bottom_k":
        return fine & (place[i] < k) & (place[j] >= size[j] - k)
    prompt = answers.prompts[i]
    if strategy == "best_random":
        drawn = _first_of(prompt, draws[j], place[i] == 0)
        return fine & drawn
    best = _first_of(prompt, i.astype(np.float64), fine, ties=True)
    key = draws[j] if strategy == "best_random_lower" else -j.astype(np.float64)
    return _first_of(prompt, key, fine & best)


def _first_of(groups: Ints, key: Floats, among: Bools, ties: bool = False) -> Bools:
    """The row of the lowest key of each group among some rows (or all rows that share it)."""
    rows = np.flatnonzero(among)
    order = rows[np.lexsort((rows, key[rows], groups[rows]))]
    first = np.ones(len(order), bool)
    first[1:] = groups[order][1:] != groups[order][:-1]
    flags = np.zeros(len(groups), bool)
    if ties and len(order):
        least = np.repeat(key[order][first], np.diff(np.append(np.flatnonzero(first), len(order))))
        flags[order[key[order] == least]] = True
        return flags
    flags[order[first]] = True
    return flags


def make(answers: Answers, rules: Rules, strategy: Strategy, draws: Floats, k: int = 1) -> Made:
    """Make the pairs of all prompts, some prompts at a time.

    Args:
        answers: n answers.
        rules: which pairs may be made.
        strategy: which of them are.
        draws: see `pick`.
        k: see `pick`.
    """
    n = len(answers.prompts)
    fate, reach = np.full(n, -1, np.int8), np.zeros(n)
    pairs: list[tuple[Ints, Ints, Floats]] = []
    for start, stop in chunks(answers.prompts):
        part = answers.part(start, stop)
        i, j = all_pairs(part.prompts)
        fates_of, margin = fates(part, i, j, rules)
        for rows in (i, j):
            np.maximum.at(fate, rows + start, fates_of)
            np.maximum.at(reach, rows + start, margin)
        fine = fates_of == Fate.FINE
        taken = pick(strategy, part, i, j, fine, draws[start:stop], k)
        pairs.append((i[taken] + start, j[taken] + start, margin[taken]))
    if not pairs:
        empty = np.zeros(0, np.int64)
        return Made(empty, empty, np.zeros(0), fate, reach)
    chosen, rejected, margins = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return Made(chosen, rejected, margins, fate, reach)


def chunks(groups: Ints, limit: int = CHUNK) -> list[tuple[int, int]]:
    """Ranges of rows that hold whole groups and at most `limit` pairs (or one group)."""
    place, size = place_in_group(groups)
    heads = np.flatnonzero(place == 0)
    pairs = np.cumsum(size[heads] * (size[heads] - 1) // 2)
    edges = [0]
    while edges[-1] < len(heads):
        before = int(pairs[edges[-1] - 1]) if edges[-1] else 0
        stop = int(np.searchsorted(pairs, before + limit, "right"))
        edges.append(max(stop, edges[-1] + 1))
    rows = np.append(heads, len(groups))[edges]
    return [(a, b) for a, b in itertools.pairwise(rows.tolist())]

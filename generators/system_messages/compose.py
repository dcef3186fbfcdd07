"""System messages composed of component pools, column by column: no model, no loop over rows.

A message is an opening (who the assistant is), one clause per value in sentences of one or two, and
perhaps a closing. The idea of recombining components is from Baichuan's report (arXiv 2410.14940,
4.1); pools and grammar are our own, in English.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from generators import pools
from prefactory.errors import ConfigError

Ints = NDArray[np.int64]
Bits = NDArray[np.uint64]

MOST_VALUES = 8
"""Values of one message: more make no readable one, and the ways to cut them into sentences grow
like Fibonacci's numbers."""

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Parts(BaseModel):
    """Component pools; see `generators/pools/message_parts.yaml` for what each holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adjectives: tuple[str, ...] = Field(min_length=1)
    nouns: tuple[str, ...] = Field(min_length=1)
    tails: tuple[str, ...] = Field(min_length=1)
    openings: tuple[str, ...] = Field(min_length=1)
    singles: tuple[str, ...] = Field(min_length=1)
    doubles: tuple[str, ...] = Field(min_length=1)
    closings: tuple[str, ...] = Field(min_length=1)


def load_parts(name_or_path: str) -> Parts:
    """Read component pools by name or from a file.

    Raises:
        ConfigError: the file is missing, or its pools or frames are wrong; all mistakes at once.
    """
    parts = pools.read_as(Parts, name_or_path)
    wanted = {"openings": "who", "singles": "a", "doubles": "ab"}
    problems = []
    for pool, letters in wanted.items():
        for frame in getattr(parts, pool):
            slots = re.findall(r"\{(.*?)\}", frame)
            plain = [slot.removeprefix("you ").lower() for slot in slots]
            if plain != (["who"] if letters == "who" else list(letters)):
                shown = "{who}" if letters == "who" else " then ".join(f"{{{x}}}" for x in letters)
                problems.append(f"{name_or_path}: {pool}: {frame!r} must hold {shown}, each once")
    if problems:
        raise ConfigError(problems)
    return parts


@dataclass(frozen=True)
class Draws:
    """Independent draws per row, from one number per row.

    Attributes:
        key: UInt64[n].
    """

    key: Bits

    @classmethod
    def of(cls, uniform: pl.Series) -> Draws:
        """From uniform numbers in [0, 1), one per row (`ctx.uniform`)."""
        return cls((uniform.to_numpy() * 2.0**53).astype(np.uint64))

    def bits(self, salt: int) -> Bits:
        """64 bits per row (SplitMix64 of key and salt)."""
        with np.errstate(over="ignore"):
            x = self.key * _MIX[0] + _STEP * np.uint64(salt + 1)
            x = (x ^ (x >> np.uint64(30))) * _MIX[0]
            x = (x ^ (x >> np.uint64(27))) * _MIX[1]
            return x ^ (x >> np.uint64(31))

    def below(self, salt: int, size: int | Ints) -> Ints:
        """One whole number in [0, size) per row, Int64[n]; `size` may differ by row."""
        share = (self.bits(salt) >> np.uint64(11)).astype(np.float64) / 2.0**53
        return (share * size).astype(np.int64)

    def order(self, salt: int, size: int) -> Ints:
        """A permutation of 0 .. size - 1 per row, Int64[n, size]."""
        keys = np.stack([self.bits(salt + i) for i in range(size)], axis=1)
        return np.argsort(keys, axis=1, kind="stable").astype(np.int64)

    def take(self, rows: Ints) -> Draws:
        """The draws of some rows."""
        return Draws(self.key[rows])


@dataclass(frozen=True)
class Phrases:
    """Verb phrases of values, flat: those of value v are `start[v]` to `start[v] + count[v]`."""

    base: pl.Series
    start: Ints
    count: Ints

    @classmethod
    def of(cls, by_value: Sequence[Sequence[str]]) -> Phrases:
        """Flatten the phrases of each value."""
        count = np.array([len(p) for p in by_value], dtype=np.int64)
        flat = [phrase for phrases in by_value for phrase in phrases]
        start = np.concatenate(([0], np.cumsum(count)[:-1])).astype(np.int64)
        return cls(pl.Series(flat, dtype=pl.String), start, count)

    def forms(self) -> dict[str, pl.Series]:
        """Each phrase in base form, with a capital, and after "you"."""
        upper = self.base.str.slice(0, 1).str.to_uppercase() + self.base.str.slice(1)
        return {"base": self.base, "upper": upper, "you": self.base.str.replace(r"^be\b", "are")}


def compose(values: Ints, phrases: Phrases, draws: Draws, pool: Parts) -> pl.Series:
    """Compose one message per row.

    Args:
        values: numbers of the values that each row asks for, Int64[n, k], 1 <= k <= MOST_VALUES.
        phrases: of all values.
        draws: decide order, phrases, sentences and words of each row.
        pool: component pools.

    Returns:
        String[n]; a row's text depends on its values and draws only.
    """
    rows, k = values.shape
    order = draws.order(100, k)
    asked = np.take_along_axis(values, order, axis=1)
    which = [phrases.start[asked[:, i]] + draws.below(200 + i, phrases.count[asked[:, i]])
             for i in range(k)]  # fmt: skip
    forms = phrases.forms()
    cuts = sentences_of(k)
    cut = draws.below(1, len(cuts))
    body = pl.Series("body", [""] * rows, dtype=pl.String)
    for number, lengths in enumerate(cuts):
        at = np.flatnonzero(cut == number)
        if at.size:
            text = _body([w[at] for w in which], forms, lengths, draws.take(at), pool)
            body = body.scatter(at, text)
    closing = _gather(pool.closings, draws.below(3, len(pool.closings)))
    frame = pl.DataFrame([_opening(draws, pool).alias("o"), body, closing.alias("c")])
    return frame.select(text=pl.concat_str("o", pl.lit(" "), "body", "c")).to_series()


@cache
def sentences_of(k: int) -> tuple[tuple[int, ...], ...]:
    """Ways to cut k clauses into sentences of one or two, in reading order."""
    if k == 0:
        return ((),)
    shorter = [(1, *rest) for rest in sentences_of(k - 1)]
    longer = [(2, *rest) for rest in sentences_of(k - 2)] if k > 1 else []
    return tuple(shorter + longer)


def _gather(pool: Sequence[str], which: Ints) -> pl.Series:
    return pl.Series(list(pool), dtype=pl.String).gather(which)


def _opening(draws: Draws, pool: Parts) -> pl.Series:
    """Who the assistant is: "You are an attentive guide."."""
    people = [f"{article(a)} {a} {n}" for a in pool.adjectives for n in pool.nouns]
    who = _gather(people, draws.below(4, len(people)))
    who = who + _gather(pool.tails, draws.below(5, len(pool.tails)))
    ends = [frame.split("{who}") for frame in pool.openings]
    which = draws.below(6, len(ends))
    return _gather([e[0] for e in ends], which) + who + _gather([e[1] for e in ends], which)


def article(word: str) -> str:
    """The indefinite article before a word, by its first letter."""
    return "an" if word[:1].lower() in "aeiou" else "a"


def _body(
    which: list[Ints], forms: dict[str, pl.Series], lengths: tuple[int, ...], draws: Draws,
    pool: Parts,
) -> pl.Series:  # fmt: skip
    """The clauses of rows that are cut alike; frames of one message differ where they can."""
    sentences, i = [], 0
    for number, length in enumerate(lengths):
        frames = pool.singles if length == 1 else pool.doubles
        frame = _walk(draws, 10 * length, number, len(frames))
        sentences.append(_sentence(frames, frame, which[i : i + length], forms))
        i += length
    table = pl.DataFrame([s.alias(str(n)) for n, s in enumerate(sentences)])
    return table.select(body=pl.concat_str(pl.all(), separator=" ")).to_series()


def _walk(draws: Draws, salt: int, number: int, size: int) -> Ints:
    """The number-th frame of a walk that visits all frames before one comes again."""
    strides = np.array([s for s in range(1, size) if np.gcd(s, size) == 1] or [1])
    stride = strides[draws.below(salt + 1, len(strides))]
    frame: Ints = (draws.below(salt, size) + number * stride) % size
    return frame


def _sentence(
    frames: Sequence[str], frame: Ints, which: list[Ints], forms: dict[str, pl.Series]
) -> pl.Series:
    """Fill each row's frame with its phrases."""
    out = pl.Series([""] * frame.size, dtype=pl.String)
    for number, text in enumerate(frames):
        at = np.flatnonzero(frame == number)
        if at.size == 0:
            continue
        pieces = re.split(r"\{(.*?)\}", text)  # text, slot, text, slot, ..., text
        columns = [pl.lit(pieces[0])]
        filled: dict[str, pl.Series] = {}
        for place, slot in enumerate(pieces[1::2]):
            form = "you" if slot.startswith("you ") else "upper" if slot[0].isupper() else "base"
            filled[str(place)] = forms[form].gather(which[place][at])
            columns += [pl.col(str(place)), pl.lit(pieces[2 * place + 2])]
        sentences = pl.DataFrame(filled).select(text=pl.concat_str(columns)).to_series()
        out = out.scatter(at, sentences)
    return out

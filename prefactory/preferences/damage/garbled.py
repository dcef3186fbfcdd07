"""Answers of garbled letters: a character model of the other answers finds nothing familiar.

Per answer, on its first 2,000 characters in lower case: `gain`, the mean over letters of
`log2 p3 - log2 p1` (what two characters of context tell; shuffled letters give 0 or less), and
`oov`, the share of words that are in no other answer and in no prompt. An answer is garbled if its
gain is under .35 of the median and its `oov` over .3. The rule and its numbers are ours. Answers in
a language that few answers have look garbled too: say which are (`exempt`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.context import Context
from prefactory.tables import in_parts

HEAD = 2000
LETTERS, GAIN, NEW = 40, 0.35, 0.3
LEAST = 50
"""Rows of each half below which nothing is judged (ours)."""
SAMPLE = 3000
"""Rows of each half that models are fitted on at most, drawn by row id; ours, for large data."""
WORD = r"[\p{L}\p{M}]+"
PAD = "  "
_DENSE = 256
_COVER = 0.999
_ROWS = 1024
"""Answers that are judged at a time: their characters stay in the processor's cache."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """What the answers of one half count: characters, pairs and triples of them, by code.

    Attributes:
        points: code points of the alphabet, most frequent first; anything else is character 0.
        one, two, three: (code, count) of what occurs, codes ascending.
    """

    points: Ints
    one: tuple[Ints, Ints]
    two: tuple[Ints, Ints]
    three: tuple[Ints, Ints]

    @property
    def size(self) -> int:
        """Characters of the alphabet, the rest as one."""
        return int(self.points.size) + 1

    @property
    def common(self) -> int:
        """Characters whose triples are all in `table`."""
        return min(self.size, _DENSE)

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """What every triple of the most frequent characters is worth, in bits."""
        return _worth_all(self)


@dataclass(frozen=True)
class Model:
    """What is known of the texts of a dataset, from a sample of its rows.

    Attributes:
        halves: counts of the answers of either half.
        words: `word`, `answers` (that have it) and `prompt` (whether a prompt does).
        median: of the gains of the sample, each by the other half.
        ceilings: greatest draw of a row of the sample, by half.
    """

    halves: tuple[Counts, Counts]
    words: pl.DataFrame
    median: float
    ceilings: tuple[float, float]


def to_tables(model: Model) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
    """A model as tables and numbers (see `prefactory.step.State`)."""
    counted = []
    for half, counts in enumerate(model.halves):
        for order, (codes, numbers) in enumerate((counts.one, counts.two, counts.three)):
            columns = {"code": codes, "count": numbers.astype(np.int64)}
            counted.append(
                pl.DataFrame(columns).select(
                    pl.lit(half).alias("half"), pl.lit(order).alias("order"), pl.all()
                )
            )
    points = pl.DataFrame({"point": model.halves[0].points})
    tables = {"counts": pl.concat(counted), "alphabet": points, "words": model.words}
    return tables, {"median": model.median, "ceilings": list(model.ceilings)}


def from_tables(tables: Mapping[str, pl.DataFrame], info: Mapping[str, Any]) -> Model:
    """A model from its tables."""
    points = tables["alphabet"]["point"].to_numpy()
    halves = []
    for half in range(2):
        part = tables["counts"].filter(pl.col("half") == half)
        cut = (part.filter(pl.col("order") == order) for order in range(3))
        halves.append(Counts(points, *((c["code"].to_numpy(), c["count"].to_numpy()) for c in cut)))
    low, high = info["ceilings"]
    return Model((halves[0], halves[1]), tables["words"], float(info["median"]), (low, high))


def draws(ids: pl.Series) -> tuple[NDArray[np.bool_], Floats]:
    """The half of each row and its place in the order in which rows are sampled, by row id."""
    drawn = Context(step="damage").uniform(ids, "half").to_numpy()
    return drawn >= 0.5, drawn


def sampled(ids: pl.Series) -> Ints:
    """Rows that a sample takes: of each half the `SAMPLE` with the least draws, ascending.

    The sample of a table is the sample of the samples of its parts.
    """
    half, drawn = draws(ids)
    taken = []
    for which in (False, True):
        at = np.flatnonzero(half == which)
        taken.append(at[np.argsort(drawn[at], kind="stable")[:SAMPLE]])
    return np.sort(np.concatenate(taken))


def fit(ids: pl.Series, answers: Sequence[pl.Series], prompts: pl.Series) -> Model | None:
    """Learn what the texts of a dataset look like.

    Args:
        ids: row ids of the sample (see `sampled`), String [N].
        answers: one or two answers of each row, String [N].
        prompts: its conversation, String [N].

    Returns:
        None if a half has fewer than `LEAST` rows: then nothing can be said.
    """
    half, drawn = draws(ids)
    if min(half.sum(), (~half).sum()) < LEAST:
        return None
    low = [heads(texts) for texts in answers]
    points = alphabet(pl.concat(low))
    mask = pl.Series(half)
    halves = tuple(
        count(pl.concat([t.filter(mask if which else ~mask) for t in low]), points)
        for which in (False, True)
    )
    found = []
    for texts in low:
        for which in (False, True):
            gain, letters = gains(texts.filter(mask if which else ~mask), halves[not which])
            found.append(gain[letters >= LETTERS])
    gain = np.concatenate(found)
    median = float(np.median(gain)) if gain.size else 0.0
    ends = tuple(float(drawn[half == which].max()) for which in (False, True))
    return Model(halves, _vocabulary(low, prompts), median, ends)  # type: ignore[arg-type]


def _vocabulary(answers: Sequence[pl.Series], prompts: pl.Series) -> pl.DataFrame:
    said = pl.concat([texts.str.extract_all(WORD).list.unique() for texts in answers])
    asked = prompts.str.to_lowercase().str.extract_all(WORD).explode().unique().drop_nulls()
    counts = said.explode().drop_nulls().value_counts(name="answers")
    counts.columns = ["word", "answers"]
    known = asked.rename("word").to_frame().with_columns(prompt=True)
    both = counts.join(known, on="word", how="full", coalesce=True)
    return both.with_columns(
        pl.col("answers").fill_null(0).cast(pl.Int64), pl.col("prompt").fill_null(value=False)
    ).sort("word")


def garbled(ids: pl.Series, texts: pl.Series, model: Model) -> pl.Series:
    """Why an answer is garbled, or null; String [N].

    Args:
        ids: row ids, String [N].
        texts: one answer of each row, String [N], no nulls.
        model: of the dataset.
    """
    half, drawn = draws(ids)
    low = heads(texts)
    found = pl.Series("garbled", [None] * texts.len(), dtype=pl.String)
    for which in (False, True):
        at = np.flatnonzero(half == which)
        gain, letters = _in_parts(low.gather(at), model.halves[not which])
        few = (letters >= LETTERS) & (gain < GAIN * model.median)
        at, gain = at[few], gain[few]
        if not at.size:
            continue
        own = drawn[at] <= model.ceilings[which]
        new = _new(low.gather(at), own, model.words)
        fires = new > NEW
        told = [
            f"{g:.2f} bits of context a letter (median {model.median:.2f}), {100 * o:.0f} % of its "
            "words are in no other text"
            for g, o in zip(gain[fires], new[fires], strict=True)
        ]
        found = found.scatter(at[fires], told)
    return found


def _in_parts(texts: pl.Series, model: Counts) -> tuple[Floats, Ints]:
    """`gains` of parts of the texts, some at a time."""

    def work(part: pl.Series) -> pl.DataFrame:
        gain, letters = gains(part, model)
        return pl.DataFrame({"gain": gain, "letters": letters})

    found = in_parts(work, texts, rows=_ROWS)
    return found["gain"].to_numpy(), found["letters"].to_numpy()


def _new(texts: pl.Series, own: NDArray[np.bool_], words: pl.DataFrame) -> Floats:
    """Share of the words of each text that are in no other answer and no prompt."""
    table = pl.DataFrame(
        {"row": pl.int_range(texts.len(), eager=True), "own": own, "word": texts}
    ).with_columns(pl.col("word").str.extract_all(WORD))
    each = table.explode("word").drop_nulls("word").join(words, on="word", how="left")
    others = pl.col("answers").fill_null(0) - pl.col("own").cast(pl.Int64)
    fresh = (others <= 0) & ~pl.col("prompt").fill_null(value=False)
    shares = each.group_by("row").agg(new=fresh.mean())
    found = table.select("row").join(shares, on="row", how="left", maintain_order="left")
    return found["new"].fill_null(0.0).to_numpy()


def heads(texts: pl.Series) -> pl.Series:
    """What is judged of texts: 2,000 characters, lower case."""
    return texts.str.head(HEAD).str.to_lowercase()


def alphabet(texts: pl.Series) -> Ints:
    """Code points of texts, most frequent first; 255 if they are 99.9 % of all characters."""
    points, counts = _counted(_points(texts)[0])
    order = np.argsort(-counts, kind="stable")
    if counts[order[: _DENSE - 1]].sum() >= _COVER * counts.sum():
        order = order[: _DENSE - 1]
    return points[order].astype(np.int64)


def count(texts: pl.Series, points: Ints) -> Counts:
    """Count the characters of texts (String [N], in lower case) in an alphabet."""
    ids, _, keep = _coded(texts, points)
    size = points.size + 1
    three = _triples(ids, size)[keep[2:]]
    one, two, triple = (_counted(codes) for codes in (three % size, three % size**2, three))
    return Counts(points, one, two, triple)


def _counted(codes: NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Distinct codes, ascending, and how often each occurs."""
    if codes.size and int(codes.max()) < _DENSE**3:
        counts = np.bincount(codes)
        known = np.flatnonzero(counts)
        return known, counts[known]
    known, counts = np.unique(codes, return_counts=True)
    return known.astype(np.int64), counts


def _triples(ids: NDArray[np.integer], size: int) -> NDArray[np.integer]:
    """Code of every character with the two before it, from the third on."""
    ids = ids.astype(np.int32 if size <= _DENSE else np.int64)
    three: NDArray[np.integer] = (ids[:-2] * size + ids[1:-1]) * size + ids[2:]
    return three


def gains(texts: pl.Series, model: Counts) -> tuple[Floats, Ints]:
    """Bits per letter that two characters of context are worth, and the number of letters.

    `p1(c) = (n_c + 1) / (N + V + 1)`, `p2(c|b) = (n_bc + 5 p1) / (n_b + 5)`,
    `p3(c|ab) = (n_abc + 5 p2) / (n_ab + 5)`; every character is context, the mean is over letters.

    Args:
        texts: String [N], in lower case.
        model: of other texts.

    Returns:
        Float64 [N], NaN without a letter; Int64 [N].
    """
    ids, row, keep = _coded(texts, model.points)
    letters = np.array([False, *(chr(p).isalpha() for p in model.points)])
    judged = keep & letters[ids]
    common = model.common
    cold = ids >= common
    worth = np.zeros(ids.size)
    worth[2:] = model.table[_triples(np.where(cold, 0, ids), common)]
    worth[~judged] = 0
    if cold.any():
        rare = cold.copy()
        rare[1:] |= cold[:-1]
        rare[2:] |= cold[:-2]
        at = np.flatnonzero(rare & judged)
        a, b, c = (ids[at - back].astype(np.int64) for back in (2, 1, 0))
        distinct, back = np.unique((a * model.size + b) * model.size + c, return_inverse=True)
        worth[at] = _worth(model, distinct, model.size)[back]
    number = np.bincount(row[judged], minlength=texts.len())
    total = np.bincount(row, weights=worth, minlength=texts.len())
    with np.errstate(invalid="ignore"):
        return total / number, number.astype(np.int64)


def _worth_all(model: Counts) -> NDArray[np.float32]:
    """`_worth` of every triple of common characters; what did not occur depends on pairs alone."""
    size, common = model.size, model.common
    one = _full(model.one, size)
    p1 = ((one + 1) / (one.sum() + model.one[0].size + 1))[:common]
    b, c = np.divmod(model.two[0], size)
    n_b = np.bincount(b, weights=model.two[1], minlength=size)[:common]
    here = (b < common) & (c < common)
    two = np.zeros((common, common))
    two[b[here], c[here]] = model.two[1][here]
    p2 = (two + 5 * p1) / (n_b[:, None] + 5)
    ab, c = np.divmod(model.three[0], size)
    a, b = np.divmod(ab, size)
    here = (a < common) & (b < common)
    pair = np.zeros((common, common))
    np.add.at(pair, (a[here], b[here]), model.three[1][here])
    p3 = (5 / (pair + 5)).astype(np.float32)[:, :, None] * p2.astype(np.float32)[None, :, :]
    here &= c < common
    a, b, c, n = a[here], b[here], c[here], model.three[1][here]
    p3[a, b, c] += (n / (pair[a, b] + 5)).astype(np.float32)
    np.log2(p3, out=p3)
    p3 -= np.log2(p1).astype(np.float32)
    return np.asarray(p3.reshape(-1))


def _worth(model: Counts, codes: Ints, size: int) -> Floats:
    a, bc = np.divmod(codes, size * size)
    b, c = np.divmod(bc, size)
    n = model.one[1].sum()
    p1 = (_looked(model.one, c) + 1) / (n + model.one[0].size + 1)
    after_b = _summed(model.two, size)
    after_ab = _summed(model.three, size)
    p2 = (_looked(model.two, bc) + 5 * p1) / (_looked(after_b, b) + 5)
    p3 = (_looked(model.three, codes) + 5 * p2) / (_looked(after_ab, a * size + b) + 5)
    return np.asarray(np.log2(p3) - np.log2(p1))


def _summed(counts: tuple[Ints, Ints], size: int) -> tuple[Ints, Ints]:
    context, start = np.unique(counts[0] // size, return_index=True)
    sums = np.add.reduceat(counts[1], start) if start.size else counts[1]
    return context, sums


def _full(counts: tuple[Ints, Ints], size: int) -> Floats:
    full = np.zeros(size)
    full[counts[0]] = counts[1]
    return full


def _looked(counts: tuple[Ints, Ints], codes: Ints) -> Ints:
    known, number = counts
    if not known.size:
        return np.zeros(codes.size, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, codes), known.size - 1)
    return np.where(known[at] == codes, number[at], 0)


def _points(texts: pl.Series) -> tuple[NDArray[np.uint32], Ints]:
    """Code points of all texts, each padded by two blanks, and the row of each."""
    data = np.frombuffer((PAD + PAD.join(texts)).encode("utf-32-le"), dtype=np.uint32)
    sizes = texts.str.len_chars().to_numpy().astype(np.int64) + len(PAD)
    return data, np.repeat(np.arange(texts.len()), sizes)


def _coded(texts: pl.Series, points: Ints) -> tuple[NDArray[np.integer], Ints, NDArray[np.bool_]]:
    """Ids of all characters in an alphabet, their rows, and which are no padding."""
    data, row = _points(texts)
    small = np.uint8 if points.size < _DENSE else np.int32
    place: NDArray[np.integer] = np.zeros(0x110000, dtype=small)
    place[points] = np.arange(1, points.size + 1)
    ids = place[data]
    keep = np.ones(ids.size, dtype=bool)
    sizes = texts.str.len_chars().to_numpy().astype(np.int64) + len(PAD)
    starts = np.cumsum(sizes) - sizes
    keep[starts], keep[starts + 1] = False, False
    return ids, row, keep

"""Psychometric profiles: item banks, trait scores, bands, people to draw, and which of them differ.

After Personality Alignment (PAPI, arXiv:2408.11779): keyed items answered 1 to 5, 0 where there is
no answer; a trait's score is the mean of its keyed answers. All functions are pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from generators import pools
from prefactory.errors import ConfigError

Answers = NDArray[np.int8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BANDS = ("low", "mid", "high")
CUTS = (100 / 3, 200 / 3)
"""Percentiles between the bands."""


class _Facet(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()


class _Bands(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    low: tuple[str, ...] = Field(min_length=1)
    mid: tuple[str, ...] = Field(min_length=1)
    high: tuple[str, ...] = Field(min_length=1)


class _Trait(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bands: _Bands
    facets: dict[str, _Facet] = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    sensitive: bool = False
    traits: dict[str, _Trait] = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class ItemBank:
    """Items of a questionnaire.

    Attributes:
        system: value system whose nodes are `<trait>.<band>`.
        sensitive: used only by who says so.
        traits: names, K of them.
        items: verb phrases as after "you", I of them.
        trait: number of each item's trait, Int64[I].
        key: +1 where agreeing speaks for the trait, -1 against it, Int8[I].
        clauses: by trait and band, ways to say it in a clause.
    """

    system: str
    sensitive: bool
    traits: tuple[str, ...]
    items: tuple[str, ...]
    trait: Ints
    key: Answers
    clauses: tuple[dict[str, tuple[str, ...]], ...]


def load_bank(name_or_path: str) -> ItemBank:
    """Read an item bank by name, or from a file of the form of `pools/personality_items.yaml`.

    Raises:
        ConfigError: with all mistakes.
    """
    return _load(name_or_path, pools.changed_at(name_or_path))


@lru_cache(maxsize=8)
def _load(name_or_path: str, mark: int) -> ItemBank:
    file = pools.read_as(_File, name_or_path)
    rows = [
        (item, number, sign)
        for number, trait in enumerate(file.traits.values())
        for facet in trait.facets.values()
        for sign, items in ((1, facet.plus), (-1, facet.minus))
        for item in items
    ]
    texts = [item for item, _, _ in rows]
    wrong = [
        f"{name_or_path}: the item {t!r} is there twice"
        for t in sorted({*texts})
        if texts.count(t) > 1
    ] + [
        f"{name_or_path}: the item {t!r} is no plain verb phrase as after 'you' ('keep your word')"
        for t in texts
        if not t[:1].islower() or t[-1:] in ".!?" or t.startswith(("be ", "not ", "you "))
    ]
    if wrong:
        raise ConfigError(wrong)
    return ItemBank(
        file.system,
        file.sensitive,
        tuple(file.traits),
        tuple(texts),
        np.array([number for _, number, _ in rows], dtype=np.int64),
        np.array([sign for _, _, sign in rows], dtype=np.int8),
        tuple(t.bands.model_dump() for t in file.traits.values()),
    )


def keyed(answers: Answers, key: Answers) -> Answers:
    """Turn the answers of items keyed -1 around (a -> 6 - a); twice is the identity.

    Args:
        answers: Int8[N, I] of 1 to 5, 0 where there is none, which stays.
        key: Int8[I].

    Raises:
        ValueError: an answer is not 0 to 5.
    """
    if answers.size and not ((answers >= 0) & (answers <= 5)).all():
        raise ValueError("answers are 1 to 5, and 0 where there is none")
    turned: Answers = np.where((key < 0) & (answers > 0), 6 - answers, answers).astype(np.int8)
    return turned


def trait_scores(answers: Answers, bank: ItemBank) -> Floats:
    """Mean keyed answer of each trait, missing ones left out.

    Args:
        answers: Int8[N, I].
        bank: the items.

    Returns:
        Float64[N, K] in [1, 5]; NaN where a person answered no item of the trait.
    """
    values = keyed(answers, bank.key).astype(np.float64)
    there = answers > 0
    scores = np.full((len(answers), len(bank.traits)), np.nan)
    for number in range(len(bank.traits)):
        mine = bank.trait == number
        count = there[:, mine].sum(axis=1)
        total = np.where(there[:, mine], values[:, mine], 0).sum(axis=1)
        np.divide(total, count, out=scores[:, number], where=count > 0)
    return scores


def bands(scores: Floats, population: Floats | None = None) -> Ints:
    """Band of each score among a population: 0 low, 1 mid, 2 high; -1 where there is no score.

    Args:
        scores: Float64[N, K].
        population: Float64[M, K] whose 33rd and 67th percentiles are the cuts; None: the scores.

    Returns:
        Int64[N, K]. A score at a cut is mid; where all are equal, all are mid.
    """
    levels = np.ones(scores.shape, dtype=np.int64)
    others = scores if population is None else population
    for k in range(scores.shape[1]):
        known = others[~np.isnan(others[:, k]), k]
        if known.size:
            low, high = np.percentile(known, CUTS)
            levels[:, k] = 1 - (scores[:, k] < low) + (scores[:, k] > high)
    return np.where(np.isnan(scores), -1, levels)


def draw_people(
    n: int,
    bank: ItemBank,
    rng: np.random.Generator,
    spread: float,
    noise: float,
    correlation: Floats | None = None,
) -> Answers:
    """Draw answers of people who do not exist.

    Trait levels are normal around 3, cut to 1 to 5; each item's keyed answer is the rounded, cut
    sum of its trait's level and noise. (Population figures are ours: the source has real people.)

    Args:
        n: people.
        bank: the items.
        rng: the randomness.
        spread: standard deviation of a trait's level.
        noise: standard deviation of an answer around it.
        correlation: of the traits, Float64[K, K]; None: independent.

    Returns:
        Int8[n, I] of 1 to 5.

    Raises:
        ValueError: the correlation is no correlation matrix of these traits.
    """
    k = len(bank.traits)
    matrix = np.eye(k) if correlation is None else np.asarray(correlation, dtype=np.float64)
    if matrix.shape != (k, k):
        raise ValueError(f"correlation: {matrix.shape} for {k} traits ({', '.join(bank.traits)})")
    fits = np.allclose(matrix, matrix.T) and np.allclose(np.diagonal(matrix), 1)
    if not fits or np.linalg.eigvalsh(matrix).min() < -1e-9:
        raise ValueError(
            "correlation: must be symmetric, 1 on the diagonal, positive semi-definite"
        )
    values, vectors = np.linalg.eigh(matrix)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    level = np.clip(3 + spread * (rng.standard_normal((n, k)) @ root.T), 1, 5)
    exact = level[:, bank.trait] + noise * rng.standard_normal((n, len(bank.items)))
    return keyed(np.clip(np.rint(exact), 1, 5).astype(np.int8), bank.key)


def held_items(bank: ItemBank, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw the items that describe nobody, the same share of each trait's.

    Args:
        bank: the items.
        share: of a trait's items, rounded; one at least is left to describe.
        rng: the randomness.

    Returns:
        Bool[I].
    """
    held = np.zeros(len(bank.items), dtype=bool)
    draws = rng.random(len(bank.items))
    for trait in range(len(bank.traits)):
        mine = np.flatnonzero(bank.trait == trait)
        most = min(round(share * mine.size), mine.size - 1)
        held[mine[np.argsort(draws[mine], kind="stable")[:most]]] = True
    return held


def diverse(answers: Answers, k: int, seed: int) -> Ints:
    """Choose k people who are unlike each other, as PAPI's 300.

    Answers are standardised by item (a missing one is the item's mean), clustered by k-means, and
    of each centre the nearest person who is not taken yet is chosen.

    Args:
        answers: Int8[N, I].
        k: how many; all if there are no more.
        seed: of the clustering.

    Returns:
        Rows of the chosen in rising order, Int64[min(k, N)].
    """
    n = len(answers)
    if k >= n:
        return np.arange(n, dtype=np.int64)
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    x = np.where(answers > 0, answers, np.nan).astype(np.float64)
    count = np.maximum((answers > 0).sum(axis=0), 1)
    mean = np.nansum(x, axis=0) / count
    gap = np.where(np.isnan(x), 0.0, x - mean)
    deviation = np.sqrt((gap**2).sum(axis=0) / count)
    z = gap / np.where(deviation > 0, deviation, 1.0)
    with threadpool_limits(limits=1):  # sums in one order give the same centres on any machine
        clusters = min(k, len(np.unique(z, axis=0)))
        centres = KMeans(clusters, n_init=1, random_state=seed % 2**32).fit(z).cluster_centers_
        taken = np.zeros(n, dtype=bool)
        for centre in np.resize(centres, (k, centres.shape[1])):
            distance = ((z - centre) ** 2).sum(axis=1)
            taken[np.argmin(np.where(taken, np.inf, distance))] = True
    return np.flatnonzero(taken).astype(np.int64)


def telling_items(answers: Answers, band: Ints, bank: ItemBank, draws: Floats, most: int) -> Ints:
    """Choose items of one person that agree with the bands, clear answers before faint ones.

    An item agrees if its keyed answer is 5 (clear) or 4 (faint) and the band high, 1 or 2 and the
    band low, or 3 and the band mid: people in the middle get no statement of either end.

    Args:
        answers: Int8[I].
        band: of the person's traits, Int64[K].
        bank: the items.
        draws: uniform numbers that decide among equally clear ones, Float64[I].
        most: how many at most.

    Returns:
        Items in rising order, Int64[<= most].
    """
    value = keyed(answers[None], bank.key)[0].astype(np.int64)
    mine = band[bank.trait]
    clear = np.array([1, 3, 5])[mine]  # by band; one without a band (-1) fits nothing
    off = np.abs(value - clear)
    fits = (value > 0) & (mine >= 0) & (off <= np.array([1, 0, 1])[mine])
    fitting = np.flatnonzero(fits)
    chosen = fitting[np.lexsort((draws[fitting], off[fitting]))][:most]
    return np.sort(chosen)

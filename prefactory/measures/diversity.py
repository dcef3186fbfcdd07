"""How varied texts or vectors are: pure functions with known answers, on seeded samples.

What each measures differs: `vendi` and `uniformity` look at vectors (meaning), the others at words.
None says whether a text is good.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prefactory.measures.overlap import rouge_l
from prefactory.near.vectors import Floats, unit

TOKEN = re.compile(r"\w+|[^\w\s]+")
"""A word, or a run of punctuation."""

BLOCK = 1024
"""Rows of vectors that are compared at a time."""


def tokens(text: str) -> list[str]:
    """Words and runs of punctuation of a text, in lower case, as BLEU counts them.

    Unlike `prefactory.measures.overlap.words`, for which punctuation is nothing.
    """
    return TOKEN.findall(text.lower())


# -- vectors -----


def vendi(kernel: NDArray[np.floating], order: float = 1.0) -> float:
    """Vendi score: the effective number of different items (arXiv:2210.02410).

    The exponential of the Shannon entropy of the eigenvalues of kernel / n: 1 for n identical
    items, n for n items without any likeness.

    Args:
        kernel: likeness of each two items, Float[n, n], symmetric, 1 on the diagonal, positive
            semi-definite.
        order: of Renyi's entropy (arXiv:2310.12952); 1 is Shannon's, below 1 minds rare items
            more, `inf` looks at the most frequent kind only.

    Returns:
        A number in [1, n]; NaN for no items.

    Raises:
        ValueError: it is not square, not symmetric, or its diagonal is not 1.
    """
    k = np.asarray(kernel, dtype=np.float64)
    if k.ndim != 2 or k.shape[0] != k.shape[1]:
        raise ValueError(f"a kernel is a square matrix, this has the shape {k.shape}")
    if len(k) == 0:
        return math.nan
    if not np.allclose(k, k.T, atol=1e-6):
        raise ValueError("the kernel is not symmetric")
    if not np.allclose(np.diagonal(k), 1.0, atol=1e-6):
        raise ValueError("the kernel's diagonal is not 1: an item is not fully like itself")
    return _effective(np.linalg.eigvalsh(k / len(k)), order)


def vendi_of(vectors: NDArray[np.floating], order: float = 1.0) -> float:
    """Vendi score of vectors under their cosine; see `vendi`.

    Args:
        vectors: Float[n, d], none zero; any length. Cost is that of the smaller of n and d, cubed.
        order: see `vendi`.
    """
    x = _directions(vectors)
    if len(x) == 0:
        return math.nan
    gram = x.T @ x if x.shape[1] < len(x) else x @ x.T  # both have the same eigenvalues above 0
    return _effective(np.linalg.eigvalsh(gram / len(x)), order)


def _effective(eigenvalues: NDArray[np.floating], order: float) -> float:
    share = eigenvalues[eigenvalues > 1e-12]
    share = share / share.sum()
    if order == 1:
        return float(np.exp(-(share * np.log(share)).sum()))
    if math.isinf(order):
        return float(1 / share.max())
    return float(np.exp(np.log((share**order).sum()) / (1 - order)))


def uniformity(vectors: NDArray[np.floating], t: float = 2.0) -> float:
    """Log of the mean Gaussian potential of each two vectors on the sphere (arXiv:2005.10242).

    Args:
        vectors: Float[n, d], none zero; any length.
        t: sharpness of the potential.

    Returns:
        0 for identical vectors, lower the more evenly they spread, -4t if all were antipodal; NaN
        for fewer than two vectors.
    """
    x = _directions(vectors)
    n = len(x)
    if n < 2:
        return math.nan
    total = 0.0
    for start in range(0, n, BLOCK):
        block = x[start : start + BLOCK]
        gap = np.clip(2 - 2 * (block @ x[start:].T), 0, None)
        total += float(np.triu(np.exp(-t * gap), 1).sum())
    return math.log(total / (n * (n - 1) / 2))


def _directions(vectors: NDArray[np.floating]) -> Floats:
    """Vectors at length 1, Float64[n, d].

    Raises:
        ValueError: one has no direction (zero, NaN), or they are no matrix.
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors are a matrix of n rows, this has the shape {vectors.shape}")
    if not (np.isfinite(vectors).all() and np.any(vectors, axis=1).all()):
        raise ValueError("a vector is zero or not finite, so it has no direction")
    return unit(vectors)


# -- words -----


def self_rouge_l(texts: Sequence[str], pairs: int = 1000, seed: int = 0) -> float:
    """Mean ROUGE-L F1 of pairs of texts, by words in lower case.

    Args:
        texts: n texts, in an order that doesn't depend on how they were stored.
        pairs: so many distinct pairs are drawn; all of them if there are no more.
        seed: of the draw.

    Returns:
        1 for identical texts, 0 for texts without a word in common; NaN for fewer than two texts.
    """
    split = [tokens(text) for text in texts]
    drawn = _drawn_pairs(len(split), pairs, seed)
    if not drawn:
        return math.nan
    return math.fsum(rouge_l(split[i], split[j]) for i, j in drawn) / len(drawn)


def _drawn_pairs(n: int, pairs: int, seed: int) -> list[tuple[int, int]]:
    """Distinct pairs i < j of n things, all or so many of them."""
    whole = n * (n - 1) // 2
    if whole <= pairs:
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    rng = np.random.default_rng(seed)
    numbers = np.sort(rng.choice(whole, size=pairs, replace=False))
    # pair number p in the order (0,1), (0,2), (1,2), (0,3), ...: j (j - 1) / 2 <= p
    j = ((1 + np.sqrt(1 + 8 * numbers.astype(np.float64))) / 2).astype(np.int64)
    j -= j * (j - 1) // 2 > numbers
    j += j * (j + 1) // 2 <= numbers
    i = numbers - j * (j - 1) // 2
    return list(zip(i.tolist(), j.tolist(), strict=True))


def self_bleu(texts: Sequence[str], sample: int = 200, seed: int = 0, most: int = 4) -> float:
    """Mean BLEU of each text against all other sampled texts (Self-BLEU, arXiv:1802.01886).

    Clipped n-gram precisions for n = 1 to `most`, their geometric mean, brevity penalty. Where a
    precision is 0 the text's BLEU is 0 (no smoothing: our choice); texts shorter than `most` words
    are judged up to their own length, empty ones not at all.

    Args:
        texts: n texts, in an order that doesn't depend on how they were stored.
        sample: so many texts are drawn and compared with each other; cost grows with its square.
        seed: of the draw.
        most: longest n-gram.

    Returns:
        1 for identical texts, 0 for texts without an n-gram in common; NaN for fewer than two.
    """
    split = [t for t in map(tokens, _drawn(texts, sample, seed)) if t]
    if len(split) < 2:
        return math.nan
    grams = [[_grams(t, n) for n in range(1, most + 1)] for t in split]
    best, second = _two_best(grams, most)
    lengths = [len(t) for t in split]
    scores = []
    for i, own in enumerate(grams):
        others = [length for j, length in enumerate(lengths) if j != i]
        closest = min(others, key=lambda length: (abs(length - lengths[i]), length))
        brevity = min(1.0, math.exp(1 - closest / lengths[i]))
        scores.append(brevity * _precision(i, own, best, second))
    return math.fsum(scores) / len(scores)


_Count = tuple[int, int]
"""How often an n-gram is in a text, and the text."""


def _two_best(
    grams: list[list[Counter[tuple[str, ...]]]], most: int
) -> tuple[list[dict[tuple[str, ...], _Count]], list[dict[tuple[str, ...], int]]]:
    """Per n: each n-gram's greatest count with its text, and its greatest count elsewhere."""
    best: list[dict[tuple[str, ...], _Count]] = [{} for _ in range(most)]
    second: list[dict[tuple[str, ...], int]] = [{} for _ in range(most)]
    for i, own in enumerate(grams):
        for n, counts in enumerate(own):
            for gram, count in counts.items():
                known = best[n].get(gram)
                if known is None or count > known[0]:
                    best[n][gram] = (count, i)
                    second[n][gram] = known[0] if known else 0
                else:
                    second[n][gram] = max(second[n][gram], count)
    return best, second


def _precision(
    i: int,
    own: list[Counter[tuple[str, ...]]],
    best: list[dict[tuple[str, ...], _Count]],
    second: list[dict[tuple[str, ...], int]],
) -> float:
    """Geometric mean of the clipped precisions of a text against all others."""
    logs = []
    for n, counts in enumerate(own):
        total = counts.total()
        if total == 0:
            break
        matched = 0
        for gram, count in counts.items():
            top, holder = best[n][gram]
            matched += min(count, second[n][gram] if holder == i else top)
        if matched == 0:
            return 0.0
        logs.append(math.log(matched / total))
    return math.exp(math.fsum(logs) / len(logs))


def _grams(text: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def _drawn(texts: Sequence[str], sample: int, seed: int) -> list[str]:
    """A seeded sample of texts, in their order."""
    if len(texts) <= sample:
        return list(texts)
    rng = np.random.default_rng(seed)
    return [texts[i] for i in np.sort(rng.choice(len(texts), size=sample, replace=False))]


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of all texts, one a line, by their bytes compressed (deflate; arXiv:2403.00553).

    The higher, the more is repeated; only numbers of about the same amount of text compare.

    Returns:
        A positive number; NaN for no text at all.
    """
    data = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data, 9)) if data else math.nan


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Distinct n-grams by n-grams of all texts together (arXiv:1510.03055), in (0, 1].

    It falls with the amount of text; only numbers of about the same amount compare. NaN without
    any n-gram.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        grams = _grams(tokens(text), n)
        seen.update(grams)
        total += grams.total()
    return len(seen) / total if total else math.nan


def of_texts(texts: Sequence[str], sample: int = 200, seed: int = 0) -> dict[str, float | int]:
    """The measures of words of a seeded sample, as facts for a report.

    Returns:
        `texts` (sampled), `distinct_texts`, `rouge_l`, `self_bleu`, `distinct_2`,
        `compression_ratio`; measures that need two texts are left out where there are fewer.
    """
    drawn = _drawn(texts, sample, seed)
    measures: dict[str, float | int] = {
        "texts": len(drawn),
        "distinct_texts": len(set(drawn)),
        "rouge_l": self_rouge_l(drawn, seed=seed),
        "self_bleu": self_bleu(drawn, seed=seed),
        "distinct_2": distinct_n(drawn),
        "compression_ratio": compression_ratio(drawn),
    }
    return {k: round(v, 6) for k, v in measures.items() if not math.isnan(v)}

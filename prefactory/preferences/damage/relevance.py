"""Answers that fit other prompts as well as their own: by sentence vectors, on the whole dataset.

`own` is the cosine of an answer with the last user message, or with the last 800 characters of the
conversation, whichever is greater. The null is the cosine of the same answers with the last
messages of 300 random prompts of other clusters. An answer of eight words or more is off topic if
`own` is under the 95th percentile of the null and more than 5 % of the other prompts fit at least
as well (`strict`: more than 20 %). Fewer than 50 clusters make no null. The rule is ours.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

CONVERSATION = 800
"""Last characters of the conversation that are embedded; the encoder would cut on the right."""
OTHERS, CLUSTERS, WORDS = 300, 50, 8
PERCENTILE, FIT, STRICT = 95.0, 0.05, 0.20
EVASIVE = 0.05
"""Share of answers above which off-topic ones are rather short or evasive."""
SHORT = 20
_CHUNK = 20_000

Floats = NDArray[np.floating]


def own_relevance(answers: Floats, questions: Floats, conversations: Floats) -> NDArray[np.float64]:
    """The greater cosine of each answer with its question and its conversation, Float64 [N].

    Args:
        answers: unit vectors, [N, d].
        questions: the same.
        conversations: the same.
    """
    pairs = (np.einsum("ij,ij->i", answers, other) for other in (questions, conversations))
    first, second = (found.astype(np.float64) for found in pairs)
    return np.asarray(np.maximum(first, second))


def off_topic(
    own: NDArray[np.float64],
    answers: Floats,
    questions: Floats,
    clusters: pl.Series,
    words: pl.Series,
    order: NDArray[np.float64],
) -> pl.DataFrame | None:
    """Which answers fit other prompts as well as their own.

    Args:
        own: see `own_relevance`, [N].
        answers: unit vectors, [N, d].
        questions: the same.
        clusters: what near-duplicate prompts share, [N].
        words: of each answer, [N].
        order: a random number of each row: the prompts of the null have the least.

    Returns:
        `own`, `fit` (share of the other prompts that fit at least as well; Float64), `off_topic`
        and `strict` (Boolean), [N]; None with fewer than 50 clusters.
    """
    frame = pl.DataFrame({"cluster": clusters, "order": order}).with_row_index("row")
    first = frame.sort("order", "row").unique("cluster", keep="first", maintain_order=True)
    if first.height < CLUSTERS:
        return None
    others = first.head(OTHERS)["row"].to_numpy()
    names = clusters.rank("dense").to_numpy()
    fits, null = np.zeros(own.size), []
    for start in range(0, own.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        cosine = answers[part] @ questions[others].T
        away = names[part][:, None] != names[others][None, :]
        fits[part] = ((cosine >= own[part][:, None]) & away).sum(axis=1) / away.sum(axis=1)
        null.append(float(np.percentile(cosine[away], PERCENTILE)))
    limit = np.mean(null)  # of one part, unless there are more than 20,000 rows
    weak = (own < limit) & (words >= WORDS).to_numpy()
    return pl.DataFrame(
        {
            "own": own,
            "fit": fits,
            "off_topic": weak & (fits > FIT),
            "strict": weak & (fits > STRICT),
        }
    )


def evasive(found: pl.DataFrame, words: pl.Series) -> bool:
    """Whether the answers off topic are rather short or evasive.

    So they are if they are over 5 % of all and most have fewer than 20 words: an answer that
    belongs to another prompt is as long as any (our choice).

    Args:
        found: of `off_topic`.
        words: of each answer, [N].
    """
    off = found["off_topic"]
    if float(off.cast(pl.Float64).mean() or 0.0) <= EVASIVE:  # type: ignore[arg-type]
        return False
    return float(words.filter(off).cast(pl.Float64).median() or 0.0) < SHORT  # type: ignore[arg-type]

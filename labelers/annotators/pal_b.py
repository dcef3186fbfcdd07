"""PAL-B: as PAL-A, but the ideal points move with the prompt.

Source: "PAL: Pluralistic Alignment Framework" (arXiv:2406.08469). User u's ideal point for prompt p
is a_u(p) = sum_k w_uk g_k(p) with w_u = softmax(W_u); the reward of an answer x is the cosine of
f(x) and a_u(p) times exp(s), where s starts from ln(1 / .07) and exp(s) is at most 100; the loss is
the cross-entropy of the preferred answer.

Ours: f and g_k are linear maps of frozen embeddings with weight decay, where the paper trains MLPs
or a language model; all pairs are one batch; of several starts the one of least loss is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from labelers.annotators.pal import checked, descend, numbered, one_thread, rowwise
from labelers.combine.scoring import Floats, Ints
from prefactory.errors import DataError

if TYPE_CHECKING:
    import torch

SHARPEST = 100.0
"""Greatest exp(s)."""
_DECAY = 0.01
"""Weight decay of the maps, as the paper has it for its MLPs."""
_TINY = 1e-12


@dataclass(frozen=True)
class PALBModel:
    """Users and maps of a fit of PAL-B.

    Attributes:
        users: U distinct user ids, sorted.
        logits: W, Float64[U, k].
        heads: g_k(p) = p @ heads[k] + offsets[k], Float64[k, dp, r].
        offsets: Float64[k, r].
        projection: f(x) = x @ projection, Float64[d, r].
        sharpness: exp(s), at most 100.
        loss: mean cross-entropy on the pairs of the fit.
    """

    users: tuple[str, ...]
    logits: Floats
    heads: Floats
    offsets: Floats
    projection: Floats
    sharpness: float
    loss: float

    @property
    def user_weights(self) -> Floats:
        """Share of each prototype in each user's ideal point, Float64[U, k]; rows sum to 1."""
        result: Floats = softmax(self.logits, axis=1)
        return result

    def rewards(self, vectors: Floats, weights: Floats, prompts: Floats | None = None) -> Floats:
        """Reward of each answer for its own mixture of prototypes, given its prompt.

        A row's result is made of that row alone, so that tables of any size give the same bits.

        Args:
            vectors: of the answers, [n, d].
            weights: shares, [n, k] (one prototype alone: 1 and zeros).
            prompts: vectors of the prompts, [n, dp].

        Returns:
            Float64[n], at most `sharpness` in size.

        Raises:
            DataError: without prompts.
        """
        if prompts is None:
            raise DataError("PAL-B's ideal points depend on the prompt: give its vectors")
        ideal = np.zeros((len(vectors), self.offsets.shape[1]))
        for k, (head, offset) in enumerate(zip(self.heads, self.offsets, strict=True)):
            ideal += weights[:, k : k + 1] * (rowwise(prompts, head) + offset)
        answer = rowwise(vectors, self.projection)
        lengths = np.sqrt((answer**2).sum(axis=1) * (ideal**2).sum(axis=1))
        result: Floats = self.sharpness * (answer * ideal).sum(axis=1) / np.maximum(lengths, _TINY)
        return result


def fit_pal_b(
    users: Sequence[str],
    prompts: NDArray[np.floating],
    left: NDArray[np.floating],
    right: NDArray[np.floating],
    y: Ints,
    prototypes: int = 2,
    rank: int = 16,
    steps: int = 400,
    starts: int = 4,
    seed: int = 0,
) -> PALBModel:
    """Fit PAL-B by AdamW in float64 (arXiv:2406.08469).

    Args:
        users: id of the annotator of each of n pairs.
        prompts: vectors of the prompts, [n, dp].
        left: vectors of the left answers, [n, d].
        right: vectors of the right answers, [n, d].
        y: +1 right preferred, -1 left preferred, Int64[n].
        prototypes: k > 0.
        rank: r of the space in which answers and ideal points meet.
        steps: of AdamW, for each start.
        starts: how many starts.
        seed: of the starts.

    Raises:
        DataError: as `fit_pal`.
    """
    import torch

    checked(users, left, right, y)
    if len(prompts) != len(users):
        raise DataError(f"{len(users)} users and {len(prompts)} prompts")
    names, who = numbered(users)
    chosen = np.where((np.asarray(y) > 0)[None, :, None], [right, left], [left, right])
    data = [torch.tensor(np.asarray(v, np.float64)) for v in (prompts, chosen)]
    rng = np.random.default_rng(seed)
    with one_thread():
        fits = [
            _fit_b_once(who, data[0], data[1], (len(names), prototypes, rank, steps), rng)
            for _ in range(starts)
        ]
    loss, logits, heads, offsets, projection, sharp = min(fits, key=lambda fit: fit[0])
    return PALBModel(names, logits, heads, offsets, projection, sharp, loss)


def _fit_b_once(
    who: torch.Tensor,
    prompts: torch.Tensor,
    sides: torch.Tensor,
    sizes: tuple[int, int, int, int],
    rng: np.random.Generator,
) -> tuple[float, Floats, Floats, Floats, Floats, float]:
    """One start on sides [2, n, d], chosen first: loss, W, heads, offsets, f and exp(s)."""
    import torch

    users, k, rank, steps = sizes

    def drawn(*shape: int) -> torch.Tensor:
        return torch.tensor(rng.standard_normal(shape) / shape[-2] ** 0.5).requires_grad_()

    heads, projection = drawn(k, prompts.shape[1], rank), drawn(sides.shape[2], rank)
    offsets = torch.zeros((k, rank), dtype=torch.float64, requires_grad=True)
    logits = torch.tensor(0.1 * rng.standard_normal((users, k))).requires_grad_()
    sharp = torch.tensor(np.log(1 / 0.07)).requires_grad_()
    groups = [
        {"params": [logits], "lr": 0.1},
        {"params": [sharp], "lr": 0.02},
        {"params": [heads, offsets, projection], "lr": 0.05, "weight_decay": _DECAY},
    ]

    def loss() -> torch.Tensor:
        points = torch.einsum("nd,kdr->nkr", prompts, heads) + offsets
        ideal = (logits.softmax(dim=1)[who].unsqueeze(2) * points).sum(dim=1)
        near = torch.nn.functional.cosine_similarity(sides @ projection, ideal[None], dim=2)
        gap = (near[0] - near[1]) * sharp.exp().clamp_max(SHARPEST)
        return torch.nn.functional.softplus(-gap).mean()

    descend(groups, steps, loss)
    with torch.no_grad():
        found = [t.numpy() for t in (logits, heads, offsets, projection)]
        return (float(loss()), *found, min(float(sharp.exp()), SHARPEST))  # type: ignore[return-value]

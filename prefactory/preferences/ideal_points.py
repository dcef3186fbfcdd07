"""PAL: rewards of users whose ideal points are mixtures of a few prototypes.

Source: "PAL: Pluralistic Alignment Framework" (arXiv:2406.08469). In PAL-A user u's ideal point is
a_u = sum_k w_uk P_k with w_u = softmax(W_u); an answer x is the better the nearer f(x) is to it.
Label y is +1 where the right answer was preferred and -1 where the left one was; the loss is the
hinge max(0, 1 - y (|f(left) - a_u| - |f(right) - a_u|)).

In PAL-B the ideal point moves with the prompt p, a_u(p) = sum_k w_uk g_k(p); the reward of an
answer x is the cosine of f(x) and a_u(p) times exp(s), where s starts from ln(1 / .07) and exp(s)
is at most 100; the loss is the cross-entropy of the preferred answer.

Ours: f is a learned scale (or a linear map) of frozen embeddings and g_k are linear maps with
weight decay, where the paper trains MLPs or a language model; all pairs are one batch; of several
starts the one of least loss is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from prefactory.errors import DataError
from prefactory.measures.calibration import Floats

if TYPE_CHECKING:
    import torch

Ints = NDArray[np.int64]
_CHUNK = 4096
_TINY = 1e-12
SHARPEST = 100.0
"""Greatest exp(s)."""
_DECAY = 0.01
"""Weight decay of the maps, as the paper has it for its MLPs."""


@dataclass(frozen=True)
class _Mixtures:
    """Users and their logits: how much of each prototype stands in each user's ideal point."""

    users: tuple[str, ...]
    logits: Floats

    @property
    def user_weights(self) -> Floats:
        """Share of each prototype in each user's ideal point, Float64[U, k]; rows sum to 1."""
        result: Floats = softmax(self.logits, axis=1)
        return result


@dataclass(frozen=True)
class PALModel(_Mixtures):
    """Users, prototypes and the map of a fit.

    Attributes:
        users: U distinct user ids, sorted.
        logits: W, Float64[U, k].
        prototypes: P, Float64[k, r], in the space of f.
        projection: f(x) = x @ projection, Float64[d, r].
        loss: mean hinge on the pairs of the fit.
    """

    prototypes: Floats
    projection: Floats
    loss: float

    def rewards(self, vectors: Floats, weights: Floats, prompts: Floats | None = None) -> Floats:
        """Reward of each answer for its own mixture of prototypes.

        A row's result is made of that row alone, so that tables of any size give the same bits.

        Args:
            vectors: of the answers, [n, d].
            weights: shares, [n, k] (one prototype alone: 1 and zeros).
            prompts: not used.

        Returns:
            Float64[n], at most 0.
        """
        gap = rowwise(vectors, self.projection) - rowwise(weights, self.prototypes)
        result: Floats = -np.sqrt((gap**2).sum(axis=1))
        return result

    def weights_of(self, user: str | None) -> Floats:
        """Weights of one user, Float64[k]; of the mean of W for a user who was never seen."""
        if user is not None and user in self.users:
            logits = self.logits[self.users.index(user)]
        else:
            logits = self.logits.mean(axis=0)
        result: Floats = softmax(logits)
        return result

    def reward(self, user: str | None, vectors: NDArray[np.floating]) -> Floats:
        """Minus the distance of answers to a user's ideal point (higher is better).

        Args:
            user: id; None or an unseen one is the mean user.
            vectors: of the answers, [n, d].

        Returns:
            Float64[n], at most 0.
        """
        ideal = self.weights_of(user) @ self.prototypes
        gap = vectors.astype(np.float64) @ self.projection - ideal
        result: Floats = -np.sqrt((gap**2).sum(axis=1))
        return result


def rowwise(rows: NDArray[np.floating], matrix: Floats) -> Floats:
    """`rows @ matrix`, [n, d] and [d, r] -> Float64[n, r], each row from itself alone (no BLAS)."""
    rows = np.ascontiguousarray(rows, dtype=np.float64)
    if len(matrix) == matrix.shape[1] and (matrix == matrix[0, 0] * np.eye(len(matrix))).all():
        scaled: Floats = rows * matrix[0, 0]
        return scaled
    columns = [(rows * np.ascontiguousarray(column)).sum(axis=1) for column in matrix.T]
    return np.stack(columns, axis=1)


def fit_pal(
    users: Sequence[str],
    left: NDArray[np.floating],
    right: NDArray[np.floating],
    y: Ints,
    prototypes: int = 2,
    linear: bool = False,
    steps: int = 400,
    starts: int = 4,
    seed: int = 0,
) -> PALModel:
    """Fit PAL-A by Adam in float64 (arXiv:2406.08469).

    The starts are drawn from `seed`; the order of the pairs changes the result by rounding only.

    Args:
        users: id of the annotator of each of n pairs.
        left: vectors of the left answers, [n, d].
        right: vectors of the right answers, [n, d].
        y: +1 right preferred, -1 left preferred, Int64[n].
        prototypes: k > 0. More than there are groups only splits a group.
        linear: learn a linear map of the vectors instead of one scale.
        steps: of Adam, for each start.
        starts: how many starts.
        seed: of the starts.

    Raises:
        DataError: shapes that do not fit, no pair, or a label that is neither +1 nor -1.
    """
    import torch

    checked(users, left, right, y)
    names, who = numbered(users)
    sides = torch.tensor(np.stack([left, right]), dtype=torch.float64)
    sign = torch.tensor(np.asarray(y), dtype=torch.float64)
    rng = np.random.default_rng(seed)
    sizes = (len(names), prototypes, linear, steps)
    with one_thread():
        fits = [_fit_once(who, sides, sign, sizes, rng) for _ in range(starts)]
    loss, logits, points, projection = min(fits, key=lambda fit: fit[0])
    return PALModel(names, logits, points, projection, loss)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread, so that bits do not depend on the cores.

    Limits from outside do not reach the BLAS inside torch once somebody has set torch's threads.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def checked(
    users: Sequence[str], left: NDArray[np.floating], right: NDArray[np.floating], y: Ints
) -> None:
    """Refuse pairs that do not fit together (the arguments of `fit_pal`).

    Raises:
        DataError: shapes that do not fit, no pair, or a label that is neither +1 nor -1.
    """
    n = len(users)
    if not n or not (len(left) == len(right) == len(y) == n) or left.shape != right.shape:
        raise DataError(f"{n} users, {left.shape} and {right.shape} vectors, {len(y)} labels")
    if not np.isin(y, (-1, 1)).all():
        raise DataError("labels are +1 (right preferred) or -1 (left preferred)")


def numbered(users: Sequence[str]) -> tuple[tuple[str, ...], torch.Tensor]:
    """Distinct users, sorted, and the number of each pair's user."""
    import torch

    names, who = np.unique(np.asarray(users, dtype=object), return_inverse=True)
    return tuple(names.tolist()), torch.tensor(who)


def located(
    model: PALModel | PALBModel,
    left: NDArray[np.floating],
    right: NDArray[np.floating],
    y: Ints,
    steps: int = 200,
    prompts: NDArray[np.floating] | None = None,
) -> Floats:
    """Logits of a new user, Float64[k], with prototypes and maps as they are.

    Args:
        model: the fit; its loss is what the logits make small.
        left: vectors of the left answers, [n, d].
        right: vectors of the right answers, [n, d].
        y: +1 right preferred, -1 left preferred, Int64[n].
        steps: of Adam, from the mean user's logits on.
        prompts: vectors of the prompts, [n, dp]; PAL-B reads them.

    Raises:
        DataError: PAL-B without prompts.
    """
    import torch

    logits = torch.tensor(model.logits.mean(axis=0)[None], requires_grad=True)
    who = torch.zeros(len(y), dtype=torch.int64)
    projection = torch.tensor(model.projection)
    if isinstance(model, PALModel):
        sides = torch.tensor(np.stack([left, right]), dtype=torch.float64) @ projection
        points, sign = torch.tensor(model.prototypes), torch.tensor(np.asarray(y))

        def loss() -> torch.Tensor:
            return _hinge(sides, logits, points, who, sign)

    else:
        if prompts is None:
            raise DataError("PAL-B's ideal points depend on the prompt: give its vectors")
        answers = torch.tensor(_chosen_first(left, right, y)) @ projection
        heads, offsets = torch.tensor(model.heads), torch.tensor(model.offsets)
        points = _moving(torch.tensor(np.asarray(prompts, np.float64)), heads, offsets)
        sharpness = torch.tensor(model.sharpness)

        def loss() -> torch.Tensor:
            return _entropy(answers, logits, points, who, sharpness)

    with one_thread():
        descend([{"params": [logits], "lr": 0.05}], steps, loss)
    result: Floats = logits.detach().numpy()[0]
    return result


def _fit_once(
    who: torch.Tensor,
    sides: torch.Tensor,
    sign: torch.Tensor,
    sizes: tuple[int, int, bool, int],
    rng: np.random.Generator,
) -> tuple[float, Floats, Floats, Floats]:
    """One start: loss, logits, prototypes and projection."""
    import torch

    users, k, linear, steps = sizes
    d = sides.shape[2]
    unit = float(sides.std()) or 1.0
    middle = sides.mean(dim=(0, 1)) / unit
    points = (middle + torch.tensor(rng.standard_normal((k, d)))).requires_grad_()
    logits = torch.tensor(0.1 * rng.standard_normal((users, k))).requires_grad_()
    scale = torch.tensor(-np.log(unit)).requires_grad_()
    matrix = torch.eye(d, dtype=torch.float64).requires_grad_(linear)
    groups = [
        {"params": [logits], "lr": 0.05},
        {"params": [points, scale], "lr": 0.02},
        {"params": [matrix] if linear else [], "lr": 0.005},
    ]

    def loss() -> torch.Tensor:
        return _hinge(sides @ (matrix * scale.exp()), logits, points, who, sign)

    descend([g for g in groups if g["params"]], steps, loss)
    with torch.no_grad():
        projection = (matrix * scale.exp()).numpy()
        return float(loss()), logits.numpy(), points.numpy(), projection


def _hinge(
    sides: torch.Tensor,
    logits: torch.Tensor,
    points: torch.Tensor,
    who: torch.Tensor,
    sign: torch.Tensor,
) -> torch.Tensor:
    """Mean hinge of mapped sides [2, n, r] with ideal points of users who [n]."""
    ideal = (logits.softmax(dim=1) @ points)[who]
    far = ((sides - ideal) ** 2).sum(dim=2).clamp_min(_TINY).sqrt()
    return (1 - sign * (far[0] - far[1])).clamp_min(0).mean()


def descend(groups: list[dict[str, Any]], steps: int, loss: Callable[[], torch.Tensor]) -> None:
    """Adam (with the groups' weight decay) with a rate that falls to 0 along a cosine."""
    import torch

    adam = torch.optim.AdamW(groups, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        adam.step()
        falling.step()


@dataclass(frozen=True)
class PALBModel(_Mixtures):
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

    heads: Floats
    offsets: Floats
    projection: Floats
    sharpness: float
    loss: float

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
    sides = _chosen_first(left, right, y)
    data = [torch.tensor(np.asarray(v, np.float64)) for v in (prompts, sides)]
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
        points = _moving(prompts, heads, offsets)
        return _entropy(sides @ projection, logits, points, who, sharp.exp().clamp_max(SHARPEST))

    descend(groups, steps, loss)
    with torch.no_grad():
        parameters = [t.numpy() for t in (logits, heads, offsets, projection)]
        return (float(loss()), *parameters, min(float(sharp.exp()), SHARPEST))  # type: ignore[return-value]


def _chosen_first(
    left: NDArray[np.floating], right: NDArray[np.floating], y: Ints
) -> NDArray[np.float64]:
    """Both answers of each pair, the preferred one first: Float64[2, n, d]."""
    right_wins = (np.asarray(y) > 0)[None, :, None]
    return np.where(right_wins, [right, left], [left, right]).astype(np.float64)


def _moving(prompts: torch.Tensor, heads: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """`g_k` of each prompt: [n, dp] -> [n, k, r]."""
    import torch

    return torch.einsum("nd,kdr->nkr", prompts, heads) + offsets


def _entropy(
    sides: torch.Tensor,
    logits: torch.Tensor,
    points: torch.Tensor,
    who: torch.Tensor,
    sharpness: torch.Tensor,
) -> torch.Tensor:
    """Mean cross-entropy of mapped sides [2, n, r], preferred first, with points [n, k, r]."""
    from torch.nn.functional import cosine_similarity, softplus

    ideal = (logits.softmax(dim=1)[who].unsqueeze(2) * points).sum(dim=1)
    near = cosine_similarity(sides, ideal[None], dim=2)
    return softplus(-(near[0] - near[1]) * sharpness).mean()


def shrunk(logits: Floats, counts: Ints, enough: int) -> Floats:
    """Logits of users, those with few labels drawn to the mean; and the mean's after them.

    Args:
        logits: Float64[U, k].
        counts: labels of each, Int64[U].
        enough: labels from which on a user's own are trusted alone (ours).

    Returns:
        Float64[U + 1, k].
    """
    trust = np.minimum(counts / enough, 1.0)[:, None]
    mean = logits.mean(axis=0)
    return np.vstack([mean + trust * (logits - mean), mean])


def permuted(model: PALModel | PALBModel, order: Ints) -> PALModel | PALBModel:
    """The same model with its prototypes in another order."""
    logits = model.logits[:, order]
    if isinstance(model, PALModel):
        points = model.prototypes[order]
        return PALModel(model.users, logits, points, model.projection, model.loss)
    heads, offsets = model.heads[order], model.offsets[order]
    return PALBModel(
        model.users, logits, heads, offsets, model.projection, model.sharpness, model.loss
    )


def components(vectors: Sequence[NDArray[np.float32]], dim: int) -> Floats:
    """First principal directions of vectors, Float64[d, min(dim, d)]; of all d, the identity.

    Args:
        vectors: tables of vectors, [n, d] each.
        dim: how many directions.
    """
    d = vectors[0].shape[1]
    if d <= dim:
        return np.eye(d)
    n = sum(len(v) for v in vectors)
    with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
        squares, sums = zip(*(_moments(v) for v in vectors), strict=True)
        xx, x = sum(squares[1:], squares[0]), sum(sums[1:], sums[0])
        _, axes = np.linalg.eigh(xx - np.outer(x, x) / n)
    directions: Floats = axes[:, ::-1][:, :dim]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(dim)]
    return directions * np.where(largest < 0, -1.0, 1.0)


def _moments(vectors: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Sums of the squares and of the rows, by chunks: Float64[d, d] and Float64[d]."""
    d = vectors.shape[1]
    xx, x = np.zeros((d, d)), np.zeros(d)
    for start in range(0, len(vectors), _CHUNK):
        block = vectors[start : start + _CHUNK].astype(np.float64)
        xx += block.T @ block
        x += block.sum(0)
    return xx, x

"""Merge weights for every user: a map from the weights of a user to those of a merge.

What HyperAlign's hypernetwork (arXiv 2601.15968) is here: `v = softmax(M w)`, with the adapters
frozen, fitted to the rewards over the simplex for users drawn at random. Rewards between the merges
that were measured are read off a quadratic surface through them (ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax

from prefactory.measures.calibration import Floats
from trainers.merging.simplex import DRAWS, Rewards, halves

USERS = 200
"""Users that are drawn, evenly over the simplex."""
START = 3.0


@dataclass(frozen=True)
class UserMap:
    """Weights of a merge for any user, `softmax(M w)`.

    Attributes:
        matrix: M, Float64[K, K].
        gain: mean utility over the drawn users, above that of their own weights, on the half of the
            prompts that had no part in the fit.
        low, high: interval of 95 % of it, by drawing these prompts anew.
    """

    matrix: Floats
    gain: float
    low: float
    high: float

    @property
    def accepted(self) -> bool:
        """Whether it is better than the users' own weights: the lower end is above 0."""
        return self.low > 0

    def __call__(self, users: Floats) -> Floats:
        """Weights of merges for users: Float64[n, K] -> Float64[n, K]."""
        found: Floats = softmax(users @ self.matrix.T, axis=1)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "matrix": self.matrix.tolist(), "gain": self.gain, "interval": [self.low, self.high],
            "accepted": self.accepted,
        }  # fmt: skip

    def line(self) -> str:
        """A line for a terminal."""
        told = "taken for any user" if self.accepted else "not better than the users' own weights"
        return (
            f"map of users to merges: gain {self.gain:+.3f} [{self.low:+.3f}, {self.high:+.3f}] on "
            f"the other half of the prompts, {told}"
        )


def fit_map(rewards: Rewards, seed: int = 0) -> UserMap | None:
    """Fit the map on half of the prompts, and measure it on the other.

    Args:
        rewards: of merges.
        seed: of the users, the halves and the interval.

    Returns:
        The map; None where there are fewer merges than a quadratic surface has terms.
    """
    k = len(rewards.objectives)
    terms = k * (k + 1) // 2
    surface = _quadratic(rewards.weights)
    if len(surface) < terms or np.linalg.matrix_rank(surface) < terms:
        return None
    read = np.linalg.pinv(surface)
    users = np.random.default_rng(seed).dirichlet(np.ones(k), USERS)
    first, second = halves(rewards.prompts, seed)
    heights = read @ rewards.levels(first)

    def loss(flat: Floats) -> float:
        merges = softmax(users @ flat.reshape(k, k).T, axis=1)
        return -float((users * (_quadratic(merges) @ heights)).sum(axis=1).mean())

    fitted: Any = minimize(loss, (START * np.eye(k)).ravel(), method="L-BFGS-B")
    matrix: Floats = fitted.x.reshape(k, k)
    change = _quadratic(softmax(users @ matrix.T, axis=1)) - _quadratic(users)
    share = np.einsum("uk,un->nk", users, change @ read) / USERS  # of each level in the gain

    def gain(kept: NDArray[Any]) -> float:
        return float(np.nansum(share * rewards.levels(kept)))

    rng = np.random.default_rng(seed)
    drawn = [gain(rng.choice(second, len(second))) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return UserMap(matrix, gain(second), float(low), float(high))


def _quadratic(weights: Floats) -> Floats:
    """Products of every two weights, which span all quadratic surfaces on the simplex."""
    i, j = np.triu_indices(weights.shape[1])
    found: Floats = weights[:, i] * weights[:, j]
    return found

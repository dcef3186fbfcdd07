"""One set of weights from several: mean, mean on the sphere, TIES (arXiv 2306.01708)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from prefactory.errors import ConfigError
from prefactory.extras import package
from prefactory.spaces.sphere import karcher, unit

Weights = Mapping[str, Tensor]


def check_shapes(states: Sequence[Weights], names: Sequence[str]) -> None:
    """Refuse models whose weights have other names or shapes.

    Raises:
        ConfigError: with the first that differs.
    """
    first = {n: tuple(t.shape) for n, t in states[0].items()}
    for state, name in zip(states[1:], names[1:], strict=True):
        other = {n: tuple(t.shape) for n, t in state.items()}
        for n in sorted(first.keys() | other.keys()):
            if first.get(n) != other.get(n):
                raise ConfigError(
                    f"{names[0]} and {name} are of different architectures: {n} is "
                    f"{first.get(n, 'not there')} and {other.get(n, 'not there')}"
                )


def averaged(states: Sequence[Weights], shares: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of every tensor; whole numbers stay those of the first.

    Args:
        states: weights of the models, of the same shapes.
        shares: one each, any numbers that sum to 1.
    """
    return {
        n: sum(
            (s * state[n] for s, state in zip(shares[1:], states[1:], strict=True)), shares[0] * t
        )
        if t.is_floating_point()
        else t
        for n, t in states[0].items()
    }


def on_the_sphere(states: Sequence[Weights], shares: Sequence[float]) -> dict[str, Tensor]:
    """The mean on the sphere of every tensor (slerp of two), of the mean length.

    A mean of directions is shorter than they are; this keeps the length of each tensor, which is
    our choice for its size, the mean of the lengths.

    Args:
        states: weights of the models, of the same shapes.
        shares: one each, 0 or more, that sum to 1.
    """
    found = {}
    for n, t in states[0].items():
        if not t.is_floating_point():
            found[n] = t
            continue
        flat = [state[n].double().numpy().reshape(1, -1) for state in states]
        length = sum(s * float(np.linalg.norm(f)) for s, f in zip(shares, flat, strict=True))
        mean = karcher([unit(f) for f in flat], shares) * length
        found[n] = torch.from_numpy(mean.reshape(t.shape)).to(t.dtype)
    return found


def ties(
    states: Sequence[Weights], base: Weights, shares: Sequence[float], density: float
) -> dict[str, Tensor]:
    """What each model changed of a base, trimmed, and added where the signs agree, by peft.

    Equal shares of K models are TIES' mean of the changes that agree; others weigh them.

    Args:
        states: weights of the models, of the same shapes.
        base: of the model that they began with.
        shares: one each, above 0, that sum to 1.
        density: share of each tensor's changes that is kept, the largest, in (0, 1].

    Raises:
        MissingPackageError: peft is not there.
    """
    merge = package("peft").utils.merge_utils.ties
    weights = torch.tensor([s * len(shares) for s in shares])
    found = {}
    for n, t in base.items():
        if t.is_floating_point():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that a density of 1 trims nothing
                found[n] = t + merge([s[n] - t for s in states], weights, density)
        else:
            found[n] = t
    return found

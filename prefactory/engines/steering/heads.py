"""Heads of several objectives, mixed by a user's weights into one (MAH-DPO, arXiv 2510.01167).

Logits are linear in the head, so a mixture of heads is one head: the weighted sum of their
matrices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prefactory.errors import ConfigError

HEADS = "heads.safetensors"
"""Name of the file of heads in a model's folder: objective -> Float[V, d]."""


def merged(heads: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The head whose logits are the mean, by weight, of the logits of all heads."""
    total = sum(weights)
    return sum((w / total * h for w, h in zip(weights, heads, strict=True)), heads[0] * 0)


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights above 0 by name, summing to 1.

    Raises:
        ConfigError: one is below 0, or none above.
    """
    total = sum(weights.values())
    if min(weights.values(), default=0) < 0 or not total > 0:
        raise ConfigError("weights are 0 or more, and one of them above 0")
    return {name: weights[name] / total for name in sorted(weights) if weights[name] > 0}


def mixture(folder: str | Path, weights: Mapping[str, float]) -> Tensor:
    """The head of given weights of the objectives, Float[V, d].

    Args:
        folder: of a model that was trained with one head an objective.
        weights: objective -> weight, 0 or more; those that are left out have none.

    Raises:
        ConfigError: the model has no heads, or not these; or no weight is above 0.
    """
    try:
        heads = load_file(str(file_of(folder)))
    except SafetensorError as error:
        raise ConfigError(f"{folder}: {HEADS} can't be read: {error}") from error
    if unknown := sorted(weights.keys() - heads.keys()):
        raise ConfigError(f"no head {unknown[0]!r}; the model has: {', '.join(sorted(heads))}")
    taken = shares(weights)
    return merged([heads[name] for name in taken], list(taken.values()))


def set_head(model: Any, weight: Tensor) -> None:  # noqa: ANN401 - a transformers model
    """Replace the head of a causal model, which then is untied from its embeddings."""
    model.config.get_text_config().tie_word_embeddings = False
    now = model.get_output_embeddings()
    now.weight = nn.Parameter(weight.detach().clone().to(now.weight), requires_grad=False)


def file_of(folder: str | Path) -> Path:
    """The file of a model's heads.

    Raises:
        ConfigError: there is none.
    """
    file = Path(folder).expanduser() / HEADS
    if not file.is_file():
        raise ConfigError(f"{folder} has no {HEADS}: `prefactory train mah` makes such models")
    return file


def digest(folder: str | Path) -> str:
    """Digest of a model's heads, 32 hex digits."""
    return hashlib.blake2b(file_of(folder).read_bytes(), digest_size=16).hexdigest()

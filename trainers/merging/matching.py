"""Which neurons of two networks are the same: weight matching (Git Re-Basin, arXiv 2209.04836).

The neurons of a layer may stand in any order, so that two trainings can find one function at
two places of the space of weights, between which the mean of both is neither. Weight matching
permutes the neurons of one network, layer by layer, so that its weights have the largest products
with the other's, until no layer gains by another order. A permutation changes no output, and no
singular value. Models that were tuned from one base are in the same order already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from prefactory.errors import ConfigError

Ints = NDArray[np.int64]
Axes = Mapping[str, tuple[str | None, ...]]
"""Tensor -> for each of its axes the neurons that lie along it, or None."""
MOST_SWEEPS = 100
GAIN = 1e-9
"""Share of the whole product by which an order must be better (float32 sums round at 1e-7)."""
_RESIDUAL = "residual"
_LAYER = re.compile(r"(.*\.layers\.\d+)\.(.+)")
_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)  # fmt: skip


def matched(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], axes: Axes
) -> dict[str, Ints]:
    """The orders of neurons that bring the second network nearest to the first.

    By coordinate descent: the order of one group of neurons after the other, each by linear
    assignment with the others held, until none gains, in at most 100 sweeps. Groups that
    the fewest other groups touch come first, so that what can be told at once is.

    Args:
        ours: weights of the first network.
        theirs: of the second one, of the same shapes.
        axes: which neurons lie along which axis; all groups of one name have one order.

    Returns:
        Group -> Int64[n]: the second network's neuron that takes each place.
    """
    size = {g: ours[t].shape[i] for t, groups in axes.items() for i, g in enumerate(groups) if g}
    order = {g: np.arange(n) for g, n in size.items()}
    alone = {g: sum(set(groups) - {None} == {g} for groups in axes.values()) for g in size}
    for _ in range(MOST_SWEEPS):
        gained = False
        for group in sorted(size, key=lambda g: -alone[g]):
            products = _products(ours, theirs, axes, order, group)
            here = np.arange(size[group])
            _, best = linear_sum_assignment(products, maximize=True)
            was = float(products[here, order[group]].sum())
            now = float(products[here, best].sum())
            if now - was > GAIN * max(abs(now), 1e-300):
                order[group], gained = best.astype(np.int64), True
        if not gained:
            break
    return order


def _products(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    axes: Axes,
    order: Mapping[str, Ints],
    group: str,
) -> NDArray[np.float64]:
    """Product of each neuron of the first with each of the second network, Float64[n, n]."""
    n = len(order[group])
    total = np.zeros((n, n))
    for name, groups in axes.items():
        if group not in groups:
            continue
        moved = {g: o for g, o in order.items() if g != group}
        other = _permuted(theirs[name], groups, moved)
        for axis, at in enumerate(groups):
            if at == group:
                a, b = (x.movedim(axis, 0).reshape(n, -1).double() for x in (ours[name], other))
                total += (a @ b.T).numpy()
    return total


def _permuted(tensor: Tensor, groups: tuple[str | None, ...], order: Mapping[str, Ints]) -> Tensor:
    for axis, group in enumerate(groups):
        if group is not None and group in order:
            tensor = tensor.index_select(axis, torch.from_numpy(order[group]))
    return tensor


def permuted(
    tensors: Mapping[str, Tensor], axes: Axes, order: Mapping[str, Ints]
) -> dict[str, Tensor]:
    """A network with its neurons in another order: the same function.

    Args:
        tensors: its weights.
        axes: as in `matched`; a tensor that is not there stays.
        order: group -> which of its neurons takes each place.
    """
    return {n: _permuted(t, axes.get(n, ()), order) for n, t in tensors.items()}


def aligned(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    config: Any,  # noqa: ANN401 - a configuration of transformers
) -> dict[str, Tensor]:
    """A decoder with its neurons in the order of another one: the same function.

    What is put in order are the hidden dimensions (one order through the whole network, which its
    norms allow), the neurons of each MLP, and the heads of each attention; where several query
    heads share a key, these go together. The dimensions within a head stay: positions turn them.

    Args:
        ours: weights of the first model, by name.
        theirs: of the second one, of the same shapes.
        config: transformers' configuration of both.

    Raises:
        ConfigError: a weight is of no Llama-like decoder.
    """
    text = config.get_text_config()
    keys = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    axes: dict[str, tuple[str | None, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in ours.items():
        axes[name], shapes[name] = _layout(name, tuple(tensor.shape), keys)
    one, two = ({n: t[n].reshape(s) for n, s in shapes.items()} for t in (ours, theirs))
    moved = permuted(two, axes, matched(one, two, axes))
    return {name: moved[name].reshape(ours[name].shape) for name in ours}


def _layout(
    name: str, shape: tuple[int, ...], keys: int
) -> tuple[tuple[str | None, ...], tuple[int, ...]]:
    """The neurons along the axes of a tensor of a decoder, and the shape in which they lie so."""
    layer = _LAYER.fullmatch(name)
    at, rest = (layer[1], layer[2]) if layer else ("", name)
    heads, neurons = f"{at} heads", f"{at} neurons"
    part = rest.rpartition(".")[0]
    if layer is None:
        part = part.rpartition(".")[2]
    key = (part, "bias" if len(shape) == 1 else "weight")
    axes: dict[tuple[str, str], tuple[str | None, ...]] = {
        ("embed_tokens", "weight"): (None, _RESIDUAL),
        ("lm_head", "weight"): (None, _RESIDUAL),
        ("score", "weight"): (None, _RESIDUAL),
        ("norm", "bias"): (_RESIDUAL,),
        ("self_attn.o_proj", "weight"): (_RESIDUAL, heads, None),
        ("self_attn.o_proj", "bias"): (_RESIDUAL,),
        ("mlp.down_proj", "weight"): (_RESIDUAL, neurons),
        ("mlp.down_proj", "bias"): (_RESIDUAL,),
        ("self_attn.q_norm", "bias"): (None,),
        ("self_attn.k_norm", "bias"): (None,),
    }
    for norm in _NORMS:
        axes[norm, "bias"] = (_RESIDUAL,)
    for into in ("gate", "up"):
        axes[f"mlp.{into}_proj", "weight"] = (neurons, _RESIDUAL)
        axes[f"mlp.{into}_proj", "bias"] = (neurons,)
    for into in "qkv":
        axes[f"self_attn.{into}_proj", "weight"] = (heads, None, _RESIDUAL)
        axes[f"self_attn.{into}_proj", "bias"] = (heads, None)
    found = axes.get(key)
    if found is not None and heads in found:
        split = found.index(heads)
        shape = (*shape[:split], keys, shape[split] // keys, *shape[split + 1 :])
    if found is not None:
        return found, shape
    raise ConfigError(
        f"neurons are put in order for Llama-like decoders, and {name} {list(shape)} is of none: "
        "leave out --align"
    )

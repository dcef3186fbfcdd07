"""What moves a layer's hidden states: a dense vector (BiPO), or one in sparse codes (YaPO)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefactory.errors import ConfigError

FILE = "steering.safetensors"
"""Name of a vector's file in a folder."""
_NAMES = {"encoder": "W_enc", "encoder_bias": "b_enc", "threshold": "threshold", "decoder": "W_dec"}
"""Ours -> those of Gemma Scope and SAELens."""


@dataclass(frozen=True)
class Codes:
    """The part of a sparse autoencoder (JumpReLU) that a vector in its codes needs.

    Attributes:
        encoder: Float32[d, k].
        encoder_bias: Float32[k].
        threshold: codes at or below it are 0, Float32[k]; 0 for a plain ReLU.
        decoder: Float32[k, d].
    """

    encoder: Tensor
    encoder_bias: Tensor
    threshold: Tensor
    decoder: Tensor

    def of(self, hidden: Tensor) -> Tensor:
        """Codes of hidden states, Float32[..., d] -> Float32[..., k], at least 0."""
        before = hidden @ self.encoder + self.encoder_bias
        return torch.relu(before) * (before > self.threshold)


class Steering(nn.Module):
    """Moves hidden states by `strength` times a vector.

    Without codes `h + m v`. With the codes c of a sparse autoencoder `h + W_dec (ReLU(c + m v) -
    c)`: what the autoencoder does not explain of h stays, and a code that is off is not pushed
    below 0 (YaPO, arXiv 2601.08441; `dec(ReLU(c + m v)) + h - dec(c)` there, the same). A vector of
    zeros, or a strength of 0, changes no bit of h.

    Attributes:
        vector: v, Float32[d], or Float32[k] in codes; the one parameter.
        layer: whose output is moved, from 0.
        strength: m; 1 is what it was trained for, -1 the opposite.
        places: of the codes that a file kept, among those of the autoencoder, Int64[k].
    """

    def __init__(
        self,
        vector: Tensor,
        layer: int,
        codes: Codes | None = None,
        places: Tensor | None = None,
    ) -> None:
        """Keep a vector; it is on no model yet."""
        super().__init__()
        self.vector = nn.Parameter(vector.float())
        self.layer, self.strength, self.places = layer, 1.0, places
        self.coded = codes is not None
        for name, value in vars(codes).items() if codes is not None else ():
            self.register_buffer(name, value.float(), persistent=False)

    @property
    def codes(self) -> Codes | None:
        """The codes that the vector is in, on the vector's device."""
        return Codes(*(getattr(self, f.name) for f in fields(Codes))) if self.coded else None

    def take(self, saved: Steering) -> None:
        """Take the numbers of a vector that was saved; codes that it does not have are 0."""
        places = slice(None) if saved.places is None else saved.places
        with torch.no_grad():
            self.vector.zero_()
            self.vector[places] = saved.vector.to(self.vector.device)

    def forward(self, hidden: Tensor) -> Tensor:
        """Move hidden states, Float[..., d]; their dtype stays."""
        if self.strength == 0:
            return hidden
        moved, codes = self.strength * self.vector, self.codes
        if codes is not None:
            now = codes.of(hidden.float())
            moved = (torch.relu(now + moved) - now) @ codes.decoder
        return (hidden.float() + moved).to(hidden.dtype)


def layers_of(model: Any) -> nn.ModuleList:  # noqa: ANN401 - a transformers model
    """The decoder layers of a language model, whatever its architecture calls them.

    Raises:
        ConfigError: it has none that can be told.
    """
    count = int(getattr(model.config.get_text_config(), "num_hidden_layers", 0))
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count > 0:
            return module
    raise ConfigError(f"{type(model).__name__} has no list of {count} layers that can be steered")


def attach(model: Any, steering: Steering) -> None:  # noqa: ANN401
    """Let a vector move what a model's layer gives to the next one, at every token.

    Raises:
        ConfigError: the model has no such layer, or hidden states of another size.
    """
    layers = layers_of(model)
    if not 0 <= steering.layer < len(layers):
        raise ConfigError(
            f"the vector steers layer {steering.layer}; the model has 0 to {len(layers) - 1}"
        )
    size = int(model.config.get_text_config().hidden_size)
    codes = steering.codes
    own = len(steering.vector) if codes is None else codes.encoder.shape[0]
    if own != size:
        raise ConfigError(
            f"the vector is for hidden states of {own} numbers; those of the model have {size}"
        )

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:  # noqa: ANN401
        if isinstance(output, tuple):
            return (steering(output[0]), *output[1:])
        return steering(output)

    place = next(layers[steering.layer].parameters())
    steering.to(place.device)
    layers[steering.layer].register_forward_hook(hook)


def save(steering: Steering, folder: Path, model: str) -> Path:
    """Write a vector, its layer and, of its codes, those that it moves: all that is needed.

    Args:
        steering: the vector.
        folder: is made if it is not there.
        model: that it was fitted to, for who reads the file.

    Returns:
        The file.
    """
    vector = steering.vector.detach().cpu()
    codes = steering.codes
    tensors = {"vector": vector}
    if codes is not None:
        moved = torch.nonzero(vector)[:, 0]
        tensors = {
            "vector": vector[moved],
            "places": moved,
            "encoder": codes.encoder.cpu()[:, moved].contiguous(),
            "encoder_bias": codes.encoder_bias.cpu()[moved],
            "threshold": codes.threshold.cpu()[moved],
            "decoder": codes.decoder.cpu()[moved].contiguous(),
        }
    folder.mkdir(parents=True, exist_ok=True)
    # one entry: the library writes several in the order of a hash
    about = json.dumps({"layer": steering.layer, "model": model}, sort_keys=True)
    save_file(tensors, str(folder / FILE), metadata={"steering": about})
    return folder / FILE


def file_of(path: str | Path) -> Path:
    """The file of a vector, which is named itself or by its folder.

    Raises:
        ConfigError: there is none.
    """
    place = Path(path).expanduser()
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        raise ConfigError(f"vector: there is no {file}; `prefactory train yapo` makes one")
    return file


def digest(path: str | Path) -> str:
    """Digest of a vector's file, 32 hex digits."""
    return hashlib.blake2b(file_of(path).read_bytes(), digest_size=16).hexdigest()


def fitted_to(path: str | Path) -> str | None:
    """The model that a folder's vector was fitted to; None of a folder without a vector."""
    file = Path(path).expanduser() / FILE
    return str(_about(file)["model"]) if file.is_file() else None


def _about(file: Path) -> dict[str, Any]:
    with safe_open(str(file), "pt") as opened:
        about: dict[str, Any] = json.loads((opened.metadata() or {})["steering"])
    return about


def load(path: str | Path) -> Steering:
    """Read a vector with its layer and codes.

    Raises:
        ConfigError: there is none, or the file is something else.
    """
    file = file_of(path)
    try:
        about = _about(file)
        tensors = load_file(str(file))
        places = tensors.get("places")
        codes = None if places is None else Codes(*(tensors[f.name] for f in fields(Codes)))
        return Steering(tensors["vector"], int(about["layer"]), codes, places)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{file} is no vector of `prefactory train yapo`: {error!r}") from error


def read_codes(path: str | Path) -> Codes:
    """Read a sparse autoencoder: a .safetensors file or Gemma Scope's params.npz.

    Its tensors are `W_enc` [d, k], `b_enc` [k], `W_dec` [k, d] and, of a JumpReLU, `threshold` [k].

    Raises:
        ConfigError: there is no such file, or it lacks one of them.
    """
    file = Path(path).expanduser()
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                found = {n: torch.from_numpy(arrays[n]) for n in arrays.files}
        else:
            found = load_file(str(file))
        found.setdefault("threshold", torch.zeros(len(found["b_enc"])))
        codes = Codes(*(found[_NAMES[f.name]].float() for f in fields(Codes)))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"sae: {file} can't be read as a sparse autoencoder: {error}") from error
    d, k = codes.encoder.shape
    sizes = (codes.encoder_bias.shape, codes.threshold.shape, codes.decoder.shape)
    if sizes != ((k,), (k,), (k, d)):
        raise ConfigError(
            f"sae: {file}: W_enc is {d} x {k}, which does not fit the others: {sizes}"
        )
    return codes

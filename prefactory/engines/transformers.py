"""A model in this process, by Hugging Face transformers: the reference, on CPU or GPU.

This module loads nothing heavy; the model itself is in `prefactory.engines.chat_model`.

What is guaranteed: on one kind of machine, an answer depends on the request and the engine's
identity, and not on what else is in its batch, the order, the number of samples or of threads.
Each sample draws from a stream of its own, and batches have fixed shapes: prompts are padded to
the next multiple of 32 tokens and dummy rows fill a batch, because kernels choose their order of
summation by shape; on the CPU each batch runs on one thread, several side by side. Another kind of
machine or version of torch may round otherwise. A batch runs until its longest answer ends: for
throughput take `VLLM` or a `Server`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from prefactory.engines.base import EngineConfig, settings_of
from prefactory.engines.device import Gpus, native_precision
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError

if TYPE_CHECKING:
    from prefactory.engines.chat_model import ChatModel


class Transformers(EngineConfig):
    """A causal language model with a chat template.

    A JSON schema is not enforced here: `ask` corrects what does not parse.

    Attributes:
        model: a folder, or a Hugging Face name.
        revision: of a Hugging Face model; for a folder, the digest of its files is found.
        precision: "auto" is bf16 where the device has it natively, fp32 elsewhere.
        chat_template: Jinja text that takes the place of the model's own.
        batch_size: rows of a batch; its shape may decide a last bit, so it is identity.
        trust_remote_code: run code that the model's repository brings.
        device: torch device; None takes CUDA if there is one. Not identity.
        threads: batches in work at a time on the CPU; None takes torch's number. Not identity.
        gpus: of a cluster, that a worker holds for the model; a share below 1 lets several workers
            share a GPU. Not identity.
    """

    engine: Literal["transformers"] = "transformers"
    revision: str | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    chat_template: str | None = None
    batch_size: int = Field(default=8, ge=1)
    trust_remote_code: bool = False
    device: str | None = None
    threads: int | None = Field(default=None, ge=1)
    gpus: Gpus = 1.0

    @property
    def capabilities(self) -> frozenset[str]:
        """It generates, continues and scores."""
        return frozenset({"generate", "logprobs", "text", "user_turn"})

    def resolved(self) -> Transformers:
        """Replace "auto" and an open revision by what they mean on this machine.

        Raises:
            ConfigError: there is no such folder, it is not the one that `revision` names, or its
                weights are a GGUF file.
        """
        _refuse_gguf(self.model)
        changes: dict[str, Any] = {}
        if self.precision == "auto":
            changes["precision"] = native_precision(self.device)
        if Path(self.model).expanduser().is_dir() or not _hub_name(self.model):
            changes["revision"] = self._files("fp32").resolved().revision
        return self.model_copy(update=changes)

    def identity(self) -> dict[str, Any]:
        """What decides an answer beside the request: weights, precision, template, batch shape."""
        resolved = self.resolved()
        fields = super(Transformers, resolved).identity()
        template = Path(self.model).expanduser() / "chat_template.jinja"
        if self.chat_template is None and template.is_file():
            digest = hashlib.blake2b(template.read_bytes(), digest_size=16)
            fields["template"] = digest.hexdigest()
        return fields

    def folder(self) -> Path:
        """The model's files, downloaded if need be: weights as safetensors only.

        Raises:
            ConfigError: there is no such model, or the hub can't be reached.
        """
        try:
            return self._files("fp32").folder()
        except ConfigError as error:
            raise ConfigError(
                str(error).replace("encoder model", "model").replace("use 'minilm', a", "use a")
            ) from error

    def open(self) -> ChatModel:
        """Load the model.

        Raises:
            ConfigError: it is unknown, unreachable, has no safetensors weights, no chat template.
        """
        from prefactory.engines.chat_model import ChatModel, ChatSettings

        return ChatModel(settings_of(ChatSettings, self.resolved()), self.folder())

    def _files(self, precision: Literal["fp32"]) -> Encoder:
        """Finding, fetching and digesting files is the same as for an encoder."""
        return Encoder(
            model=self.model,
            revision=self.revision,
            precision=precision,
            trust_remote_code=self.trust_remote_code,
        )


def _refuse_gguf(model: str) -> None:
    path = Path(model).expanduser()
    held = path.is_dir() and not any(path.glob("*.safetensors")) and any(path.glob("*.gguf"))
    if held or path.suffix == ".gguf":
        raise ConfigError(
            f"model {model!r} is a GGUF file, which is llama.cpp's: use "
            f"`{{engine: llama, model: {model}}}`, or give the folder of the safetensors weights "
            "that it was made from"
        )


def _hub_name(model: str) -> bool:
    return not (Path(model).is_absolute() or model.startswith((".", "~")))

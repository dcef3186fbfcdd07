"""Models as scorers: which one, how it is loaded, and forward passes of fixed shape.

As in `prefactory.engines.embedding`, every batch has one of a few fixed shapes, decided by a row's
own token count, and on the CPU runs on one thread: a row's score is the same bytes in any company.
Tokens are padded on the right, so a row's last token stands at its length - 1.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from labelers.models.chat_rows import Row
from prefactory.engines.device import Gpus, default_device
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.extras import package
from prefactory.identity import identity_of
from prefactory.safety.model_files import open_tokenizer

BUCKET = 32
"""Rows are padded to the next multiple of this many tokens."""

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of one batch. Not an option: the batch shape may decide the last bit of a score."""

NUMERICS = 1
"""Version of templates, buckets and arithmetic: bumped when a score may change."""

NO_LIMIT = 8192
"""Tokens that a row may have if neither the model nor `max_tokens` says so."""

Kind = Literal["causal", "classifier", "tokens"]


class Model(BaseModel):
    """A transformers model and how to run it. Weights must be safetensors.

    Attributes:
        model: a folder, or a Hugging Face name. An adapter (`lora`, peft) is added to the model
            that it names, whose files are a part of what decides a score, too.
        revision: of a Hugging Face model; for a folder, the digest of its files.
        precision: of weights and forward pass ("auto": bf16 where the device has it natively);
            scores are computed from float32 logits.
        max_tokens: longest row; None takes the model's limit, 8192 at most.
        trust_remote_code: run code that the model's repository brings.
        device: torch device; None takes CUDA if there is one. Not identity.
        threads: batches in work at a time on the CPU. Not identity.
        gpus: of a cluster, that a worker holds for the model; a share below 1 lets several workers
            share a GPU. Not identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    revision: str | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    max_tokens: int | None = Field(default=None, ge=2)
    trust_remote_code: bool = False
    device: str | None = None
    threads: int | None = Field(default=None, ge=1)
    gpus: Gpus = 1.0

    def _files(self) -> Encoder:
        return Encoder(**self.model_dump())  # finds folders, digests and downloads for us

    def identity(self) -> dict[str, Any]:
        """What decides a row's score, resolved on this machine, as plain JSON data.

        Raises:
            ConfigError: the folder does not exist or is not the one that `revision` names.
        """
        with _about_models():
            fields = identity_of(self._files().resolved().model_dump(mode="json"))
        template = Path(self.model).expanduser() / "chat_template.jinja"
        if template.is_file():
            fields["chat_template"] = hashlib.blake2b(template.read_bytes()).hexdigest()[:32]
        if (base := self.base()) is not None:
            fields["base"] = base.identity()
        return {**fields, "numerics": NUMERICS}

    def base(self) -> Model | None:
        """The model that an adapter is of; None of a whole model.

        Raises:
            ConfigError: the adapter names none.
        """
        about = adapter_of(self.folder())
        if about is None:
            return None
        name, revision = about.get("base_model_name_or_path"), about.get("revision")
        if not name:
            raise ConfigError(f"the adapter {self.model!r} names no model that it is of")
        return self.model_copy(update={"model": name, "revision": revision})

    def folder(self) -> Path:
        """Folder of the model's files, downloading them if need be.

        Raises:
            ConfigError: there is no such model, or the hub can't be reached.
        """
        with _about_models():
            return self._files().folder()

    def resolved_precision(self) -> str:
        """`bf16` or `fp32`."""
        with _about_models():
            return self._files().resolved().precision


@contextmanager
def _about_models() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        text = str(error).replace("encoder model", "model").replace("use 'minilm', a", "use a")
        raise ConfigError(text) from error


Forward = Callable[[dict[str, Any], list[Row]], np.ndarray]
"""(tensors int64 [B, L], the b <= B real rows) -> float64 [b, K]."""


class Loaded:
    """A model in memory, with its tokenizer.

    Attributes:
        net: the torch module.
        tokenizer: its (fast) tokenizer.
        limit: tokens that a row may have.
    """

    def __init__(self, model: Model, kind: Kind) -> None:
        """Load a model from its folder.

        Raises:
            ConfigError: it can't be loaded, has no head of this kind, or a limit is impossible.
        """
        import torch

        self.kind = kind
        self._device = torch.device(model.device or default_device())
        self._tokens = BATCH_TOKENS.get(self._device.type, BATCH_TOKENS["cpu"])
        folder = model.folder()
        try:
            self.net, self.tokenizer = _load(model, kind, str(folder))
            self.net = self.net.to(self._device).eval()
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"model {model.model!r} can't be loaded: {reason}") from error
        positions = getattr(self.net.config, "max_position_embeddings", None) or NO_LIMIT
        most = min(int(self.tokenizer.model_max_length), int(positions))
        if model.max_tokens is not None and model.max_tokens > most:
            raise ConfigError(
                f"max_tokens={model.max_tokens}: {model.model!r} takes {most} at most"
            )
        self.limit = model.max_tokens or min(most, NO_LIMIT)
        self._threads = model.threads

    def run(self, rows: Sequence[Row], forward: Forward, width: int) -> np.ndarray:
        """Run rows in batches of fixed shape.

        Args:
            rows: n rows without a reason.
            forward: what to compute of a batch.
            width: K.

        Returns:
            float64 [n, K].
        """
        out = np.full((len(rows), width), np.nan)
        jobs = list(_batches([len(r.ids) for r in rows], self.limit, self._tokens))

        def work(job: _Batch) -> None:
            import torch

            mine = [rows[i] for i in job.rows]
            with torch.inference_mode():
                out[job.rows] = forward(self._tensors(mine, job), mine)

        if self._device.type == "cpu":
            with _one_thread_pool(self._threads) as pool:
                list(pool.map(work, jobs))
        else:
            for job in jobs:
                work(job)
        return out

    def _tensors(self, rows: list[Row], job: _Batch) -> dict[str, Any]:
        import torch

        pad = int(self.tokenizer.pad_token_id or 0)
        ids = np.full((job.size, job.length), pad, np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids)
        mask[:, 0] = 1  # what a dummy row attends to
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = row.ids
            mask[place, : len(row.ids)] = 1
            types[place, : len(row.ids)] = row.types or 0
        if job.full:
            mask[:] = 1
        arrays = {"input_ids": ids, "attention_mask": mask}
        if rows and rows[0].types is not None:
            arrays["token_type_ids"] = types
        return {k: torch.from_numpy(a).to(self._device) for k, a in arrays.items()}


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: np.ndarray
    length: int
    size: int
    full: bool


def _batches(counts: list[int], limit: int, tokens: int) -> Iterator[_Batch]:
    """Fixed shapes by token count, longest first. Rows at the limit are unpadded, others never."""
    lengths = np.asarray(counts, np.int64)
    padded = np.minimum((lengths // BUCKET + 1) * BUCKET, limit)
    keys = np.where(lengths >= limit, limit + 1, padded)
    for key in np.unique(keys)[::-1]:
        group = np.flatnonzero(keys == key)
        length = min(int(key), limit)
        size = max(1, tokens // length)
        for start in range(0, len(group), size):
            yield _Batch(group[start : start + size], length, size, full=bool(key > limit))


def _load(model: Model, kind: Kind, folder: str) -> tuple[Any, Any]:
    import torch
    import transformers

    trusted = model.trust_remote_code
    code: dict[str, Any] = {"trust_remote_code": trusted, "local_files_only": True}
    tokenizer = open_tokenizer(folder, trusted=trusted, local_files_only=True)
    if not tokenizer.is_fast:
        raise ConfigError(f"model {model.model!r} has no fast tokenizer, which scorers need")
    auto = {
        "causal": transformers.AutoModelForCausalLM,
        "classifier": transformers.AutoModelForSequenceClassification,
        "tokens": transformers.AutoModelForTokenClassification,
    }[kind]
    dtype = torch.bfloat16 if model.resolved_precision() == "bf16" else torch.float32
    base = model.base()
    whole = folder if base is None else str(base.folder())
    if base is not None and kind != "causal":
        code["num_labels"] = _outputs(Path(folder))
    net, info = auto.from_pretrained(
        whole, dtype=dtype, use_safetensors=True, output_loading_info=True, **code
    )
    missing = sorted(info["missing_keys"])
    if base is not None:
        net = package("peft").PeftModel.from_pretrained(net, folder).merge_and_unload()
        net.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    elif missing:
        what = "a language model's head" if kind == "causal" else "a classification head"
        raise ConfigError(
            f"model {model.model!r} lacks the weights {missing[:3]}: they would be random; it may "
            f"not be a model with {what}"
        )
    return net, tokenizer


def adapter_of(folder: Path) -> dict[str, Any] | None:
    """The configuration of an adapter's folder; None of a whole model's."""
    file = folder / "adapter_config.json"
    about: dict[str, Any] | None = json.loads(file.read_text("utf-8")) if file.is_file() else None
    return about


def _outputs(folder: Path) -> int:
    """How many outputs the head has that was trained beside an adapter.

    Raises:
        ConfigError: there is none, so that the head would be random.
    """
    from safetensors import safe_open

    with safe_open(str(folder / "adapter_model.safetensors"), "np") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - no mapping
            if name.endswith(("score.weight", "classifier.weight")):
                return int(tensors.get_slice(name).get_shape()[0])
    raise ConfigError(f"the adapter {folder} has no head: its scores would be random")


_POOL_LOCK = threading.Lock()


@contextmanager
def _one_thread_pool(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    import torch

    def one_thread() -> None:
        torch.get_num_threads()  # torch sets a thread up at its first question; ours comes after
        torch.set_num_threads(1)

    with _POOL_LOCK:
        before = torch.get_num_threads()
        count = threads or before
        together = threading.Barrier(count)
        pool = ThreadPoolExecutor(count, "scorer", initializer=one_thread)
        list(pool.map(lambda _: together.wait(), range(count)))
        torch.set_num_threads(before)
    with pool:
        yield pool


_OPEN: dict[tuple[str, Kind], Loaded] = {}
_OPEN_LOCK = threading.Lock()


@contextmanager
def opened(model: Model, kind: Kind) -> Iterator[Loaded]:
    """A model, for one shard at a time; it stays loaded until another one is asked for."""
    key = (f"{model.model_dump_json()}{model.identity()}", kind)
    with _OPEN_LOCK:
        if key not in _OPEN:
            _OPEN.clear()  # free the old one first
            _OPEN[key] = Loaded(model, kind)
        yield _OPEN[key]

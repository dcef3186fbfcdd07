"""Run a sentence encoder so that a text's vector is the same bytes in whatever company it comes.

Kernels choose their order of summation by shape and thread count. So every batch here has one of
a few fixed shapes, decided by a text's own token count: texts are padded to the next multiple of
`BUCKET` tokens, each bucket has one batch size, dummy rows fill the last batch, and on the CPU
every batch runs on one thread, several batches side by side (which is also the fastest way).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from prefactory.engines.base import Closing
from prefactory.engines.device import default_device
from prefactory.errors import ConfigError, DataError
from prefactory.extras import missing
from prefactory.safety.model_files import open_tokenizer

BUCKET = 16
"""Texts are padded to the next multiple of this many tokens."""

BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}
"""Tokens of one batch. Not an option: the batch shape may decide the last bit of a vector."""

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_POOLINGS = ("mean", "cls", "lasttoken", "max")
_NO_LIMIT = 8192
_THREADS_LOCK = threading.Lock()

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(token ids, attention mask), both int64 [B, L] -> vectors float32 [B, d]."""


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """A resolved `Encoder`, as far as it decides how a model is loaded and run."""

    model: str
    precision: str
    max_tokens: int | None
    trust_remote_code: bool
    device: str | None
    threads: int | None


class OpenEncoder(Closing):
    """A loaded encoder. Close it, or use it as a context manager.

    Attributes:
        encoder: the resolved configuration.
        dim: length d of a vector.
        max_tokens: texts are cut to this many tokens, special tokens included.
    """

    def __init__(self, encoder: EncoderSettings, folder: Path) -> None:
        """Load tokenizer and weights from a folder.

        Args:
            encoder: resolved configuration.
            folder: the model's files.

        Raises:
            ConfigError: the folder holds no encoder with safetensors weights, or a limit or a
                device is impossible.
        """
        self.encoder = encoder
        self._device = torch.device(encoder.device or default_device())
        self._tokens = BATCH_TOKENS.get(self._device.type, BATCH_TOKENS["cpu"])
        try:
            loaded = self._load(folder, self._device)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            if isinstance(error, ConfigError):
                raise
            if (lacking := missing(error)) is not None:
                raise lacking from error
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"encoder model {encoder.model!r} can't be loaded: {reason}"
            ) from error
        self._tokenizer, self._forward, self._prompt, limit = loaded
        self.max_tokens = _checked_limit(encoder, limit)
        self._left = self._tokenizer.padding_side == "left"
        self._pad = int(self._tokenizer.pad_token_id or 0)
        self._pool = self._open_pool()
        self.dim = int(self.embed([""]).shape[1])

    def _load(self, folder: Path, device: torch.device) -> Loaded:
        """Load the model; other models with one vector a text (classifiers) put theirs here."""
        return _load(self.encoder, folder, device)

    def _open_pool(self) -> ThreadPoolExecutor | None:
        if self._device.type != "cpu":
            return None
        with _THREADS_LOCK:
            before = torch.get_num_threads()
            count = self.encoder.threads or before
            together = threading.Barrier(count)
            pool = ThreadPoolExecutor(count, "encoder", initializer=_one_thread)
            list(pool.map(lambda _: together.wait(), range(count)))
            torch.set_num_threads(before)
        return pool

    def close(self) -> None:
        """Stop the worker threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def embed(self, texts: Sequence[str] | pl.Series) -> np.ndarray:
        """Turn texts into vectors.

        Args:
            texts: N texts; empty and very long ones are fine, lone surrogates become "?".

        Returns:
            float32 [N, d]; of unit length only if the model normalises.

        Raises:
            DataError: a text is null.
        """
        strings = _strings(texts)
        if not strings:
            return np.zeros((0, getattr(self, "dim", 0)), np.float32)
        rows = self._tokenize(strings)
        jobs = list(_batches(np.fromiter(map(len, rows), np.int64), self.max_tokens, self._tokens))
        work: Callable[[_Batch], np.ndarray] = lambda job: self._run(rows, job)  # noqa: E731
        parts = list(self._pool.map(work, jobs)) if self._pool else [work(job) for job in jobs]
        vectors = np.empty((len(rows), parts[0].shape[1]), np.float32)
        for job, part in zip(jobs, parts, strict=True):
            vectors[job.rows] = part
        return vectors

    def _tokenize(self, strings: list[str]) -> list[list[int]]:
        if self._prompt:
            strings = [self._prompt + s for s in strings]
        encoded = self._tokenizer(
            strings,
            truncation=True,
            max_length=self.max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return [row or [self._pad] for row in encoded["input_ids"]]

    def _run(self, rows: list[list[int]], job: _Batch) -> np.ndarray:
        ids = np.full((job.size, job.length), self._pad, np.int64)
        mask = np.zeros_like(ids)
        mask[:, -1 if self._left else 0] = 1  # what a dummy row attends to
        for place, row in enumerate(job.rows):
            tokens = rows[row]
            span = slice(job.length - len(tokens), None) if self._left else slice(len(tokens))
            ids[place, span] = tokens
            mask[place, span] = 1
        if job.full:
            mask[:] = 1
        with torch.inference_mode():
            tensors = [torch.from_numpy(a).to(self._device) for a in (ids, mask)]
            vectors = self._forward(*tensors)[: len(job.rows)]
            return vectors.float().cpu().numpy()


class _Batch:
    """Rows that run together: their places, the fixed shape, and whether no row is padded."""

    __slots__ = ("full", "length", "rows", "size")

    def __init__(self, rows: np.ndarray, length: int, size: int, full: bool) -> None:
        self.rows, self.length, self.size, self.full = rows, length, size, full


def _batches(lengths: np.ndarray, limit: int, tokens: int) -> Iterator[_Batch]:
    """Cut texts into batches of fixed shape by their token counts (int64 [N]), longest first.

    A batch without padding may take another kernel than one with padding, so whether there is any
    must not depend on a text's company: texts at the limit are never padded, all others always.
    """
    padded = np.minimum((lengths // BUCKET + 1) * BUCKET, limit)
    bucket = np.where(lengths >= limit, limit + 1, padded)
    order = np.argsort(-bucket, kind="stable")
    starts = np.flatnonzero(np.diff(bucket[order], prepend=-1))
    for group in np.split(order, starts[1:]):
        key = int(bucket[group[0]])
        length = min(key, limit)
        size = max(1, tokens // length)
        for start in range(0, len(group), size):
            yield _Batch(group[start : start + size], length, size, full=key > limit)


def _one_thread() -> None:
    torch.get_num_threads()  # torch sets a thread up at its first question; ours must come after
    torch.set_num_threads(1)


def _strings(texts: Sequence[str] | pl.Series) -> list[str]:
    strings = texts.to_list() if isinstance(texts, pl.Series) else list(texts)
    if any(s is None for s in strings):
        raise DataError("can't embed a null text; fill it with '' or filter the row out first")
    return [s if s.isascii() else s.encode("utf-8", "replace").decode() for s in strings]


def _checked_limit(encoder: EncoderSettings, limit: int) -> int:
    asked = encoder.max_tokens
    if asked is not None and asked > limit:
        raise ConfigError(f"encoder max_tokens={asked}: {encoder.model!r} takes {limit} at most")
    return asked or limit


def _json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


Loaded = tuple[Any, Forward, str, int]
"""Tokenizer, forward pass, text put before every text, largest number of tokens."""


def _load(encoder: EncoderSettings, folder: Path, device: torch.device) -> Loaded:
    plain = _plain_modules(folder)
    if plain is None or encoder.trust_remote_code:
        return _load_sentence_transformers(encoder, folder, device)
    from transformers import AutoModel

    pooling, normalize = plain
    tokenizer = open_tokenizer(folder, local_files_only=True)
    model = AutoModel.from_pretrained(
        str(folder),
        dtype=_DTYPES[encoder.precision],
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    model = model.to(device).eval()

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return _pooled(hidden, mask, pooling, normalize)

    settings = _json(folder / "sentence_bert_config.json") or {}
    limit = settings.get("max_seq_length") or _model_limit(tokenizer, model.config)
    return tokenizer, forward, "", int(limit)


def _load_sentence_transformers(
    encoder: EncoderSettings, folder: Path, device: torch.device
) -> Loaded:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(folder),
        device=str(device),
        trust_remote_code=encoder.trust_remote_code,
        local_files_only=True,
        model_kwargs={"dtype": _DTYPES[encoder.precision], "use_safetensors": True},
    ).eval()
    prompt = model.prompts.get(model.default_prompt_name or "") or ""
    if prompt and not all(getattr(m, "include_prompt", True) for m in model):
        raise ConfigError(
            f"encoder model {encoder.model!r} pools without its prompt; not supported"
        )

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = model({"input_ids": ids, "attention_mask": mask})[
            "sentence_embedding"
        ]
        return vectors

    limit = model.max_seq_length or _NO_LIMIT
    return model.tokenizer, forward, prompt, min(int(limit), _NO_LIMIT)


def _plain_modules(folder: Path) -> tuple[str, bool] | None:
    """Pooling and normalisation of a model that is transformer + pooling (+ normalise), or None."""
    modules = _json(folder / "modules.json")
    kinds = [str(m["type"]).rsplit(".", 1)[-1] for m in modules or []]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return None
    settings = _json(folder / "sentence_bert_config.json") or {}
    simple = set(settings) <= {"max_seq_length", "do_lower_case"}
    config = _json(folder / str(modules[0]["path"]) / "config.json") or {}
    prompts = _json(folder / "config_sentence_transformers.json") or {}
    if (
        modules[0]["path"]
        or not simple
        or settings.get("do_lower_case")
        or config.get("is_encoder_decoder", not config)
        or prompts.get("default_prompt_name")
        or (folder / "adapter_config.json").exists()
    ):
        return None
    modes = _pooling_modes(_json(folder / str(modules[1]["path"]) / "config.json") or {})
    return (modes[0], len(kinds) == 3) if len(modes) == 1 and modes[0] in _POOLINGS else None


_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    mode = config.get("pooling_mode")
    if mode is not None:
        return [mode] if isinstance(mode, str) else list(mode)
    on = [k for k, v in config.items() if k.startswith("pooling_mode_") and v is True]
    return [_OLD_MODES.get(k, k) for k in on] or ["mean"]


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, mode: str, normalize: bool) -> torch.Tensor:
    """Pool float32 [B, L, d] over the tokens whose mask is 1, to float32 [B, d]."""
    weights = mask[:, :, None].float()
    if mode == "mean":
        vectors = (hidden * weights).sum(1) / weights.sum(1)
    elif mode == "max":
        vectors = hidden.masked_fill(weights == 0, -torch.inf).amax(1)
    else:
        positions = torch.arange(mask.shape[1], device=mask.device) * mask
        position = mask.argmax(1) if mode == "cls" else positions.argmax(1)
        vectors = hidden[torch.arange(len(hidden), device=mask.device), position]
    return torch.nn.functional.normalize(vectors, dim=1) if normalize else vectors


def _model_limit(tokenizer: Any, config: Any) -> int:  # noqa: ANN401 - untyped library objects
    positions = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
    return min(int(tokenizer.model_max_length), int(positions), _NO_LIMIT)

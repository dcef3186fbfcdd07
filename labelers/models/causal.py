"""Causal language models: how likely an answer is under them; their hidden states as vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelers.models.chat_rows import Row
from labelers.models.language_models import Loaded
from prefactory.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Answers:
    """Log-probabilities of n answers.

    Attributes:
        conditional: mean over the answer's tokens of log p(token | prompt, tokens before), natural
            logarithm, float64 [n]; NaN for an answer without tokens.
        alone: the same without the prompt, over the same tokens; NaN if not asked for.
    """

    conditional: np.ndarray
    alone: np.ndarray


def answer_log_probabilities(loaded: Loaded, rows: Sequence[Row], alone: bool) -> Answers:
    """Mean token log-probabilities of the rows' answers.

    Without the prompt an answer follows the tokenizer's BOS token, or else its EOS token. If it has
    neither, its first token has nothing to depend on and is left out on both sides. The answer's
    tokens are those of the whole conversation: they are not tokenised again.

    Args:
        loaded: a causal model.
        rows: n rows without a reason.
        alone: whether to compute `Answers.alone`.
    """
    bos, eos = loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id
    start = bos if bos is not None else eos
    lead = [] if start is None else [int(start)]
    if not lead and alone:
        rows = [Row(r.ids, r.types, (r.span[0] + 1, r.span[1])) for r in rows]
    conditional = _means(loaded, rows)
    if not alone:
        return Answers(conditional, np.full(len(rows), np.nan))
    if lead:
        bare = [_bare(r, lead, loaded.limit) for r in rows]
    else:
        bare = [Row(r.ids[r.span[0] - 1 : r.span[1]], None, (1, _count(r) + 1)) for r in rows]
    return Answers(conditional, _means(loaded, bare))


def _count(row: Row) -> int:
    return max(0, row.span[1] - row.span[0])


def _bare(row: Row, lead: list[int], limit: int) -> Row:
    """The answer after one lead token; one that then is over the limit keeps no lead."""
    tokens = row.ids[row.span[0] : row.span[1]]
    ids = lead + tokens
    return Row(ids, None, (1, len(ids))) if len(ids) <= limit else Row(tokens, None, (1, limit))


def _means(loaded: Loaded, rows: Sequence[Row]) -> np.ndarray:
    out = np.full(len(rows), np.nan)
    some = [i for i, r in enumerate(rows) if r.span[1] > max(r.span[0], 1)]

    def forward(tensors: dict[str, Any], batch: list[Row]) -> np.ndarray:
        tensors.pop("token_type_ids", None)
        logits = loaded.net(**tensors, use_cache=False).logits
        means = np.empty((len(batch), 1))
        for i, row in enumerate(batch):
            first, last = max(row.span[0], 1), row.span[1]
            logs = logits[i, first - 1 : last - 1].float().log_softmax(-1)
            tokens = tensors["input_ids"][i, first:last, None]
            means[i] = logs.gather(1, tokens).double().mean().item()
        return means

    if some:
        out[some] = loaded.run([rows[i] for i in some], forward, 1)[:, 0]
    return out


def write_hidden_state_encoder(model: Path, folder: Path) -> Path:
    """Make a causal LM an encoder: the last layer's hidden state at the last token of a text.

    The new folder points to the model's files and adds what `prefactory.engines.encoder.Encoder`
    reads; `Encoder(model=folder)` then works in every step that embeds (`labelers.RidgeHeads`,
    arXiv:2510.00766 with a text model).

    Args:
        model: folder of a causal LM with safetensors weights and a tokenizer.
        folder: to write; may not exist.

    Returns:
        The folder.

    Raises:
        ConfigError: the model's folder is none, or the new one exists.
    """
    config = model / "config.json"
    if not config.is_file():
        raise ConfigError(f"{model} is no model's folder: it has no config.json")
    if folder.exists():
        raise ConfigError(f"{folder} exists; name a new folder")
    size = json.loads(config.read_text(encoding="utf-8")).get("hidden_size")
    folder.mkdir(parents=True)
    for file in sorted(p for p in model.iterdir() if p.is_file()):
        (folder / file.name).symlink_to(file.resolve())
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    pooling = {"word_embedding_dimension": size, "pooling_mode_lasttoken": True}
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return folder

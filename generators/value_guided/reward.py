"""A sequence-classification model as the reward of answers so far."""

from __future__ import annotations

import threading
from typing import Any

import torch

from prefactory.engines.device import default_device
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError


class RewardNet:
    """A loaded reward model; several threads may ask it, one at a time."""

    def __init__(self, model: str, head: int, device: str | None) -> None:
        """Load the model.

        Args:
            model: folder of a sequence-classification model.
            head: which of its outputs counts.
            device: torch device; None takes CUDA if there is one.

        Raises:
            ConfigError: it can't be loaded, or has fewer heads.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = Encoder(model=model, precision="fp32").folder()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            net, info = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"reward model {model!r} can't be loaded: {reason}") from error
        if info["missing_keys"]:
            raise ConfigError(
                f"reward model {model!r} lacks weights {sorted(info['missing_keys'])[:3]}: "
                "it is no sequence-classification model"
            )
        if head >= net.config.num_labels:
            raise ConfigError(
                f"reward model {model!r} has {net.config.num_labels} heads, no {head}"
            )
        self._net: Any = net.float().to(device or default_device()).eval()
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if self._net.config.pad_token_id is None:
            self._net.config.pad_token_id = self._tokenizer.pad_token_id
        self._head = head
        self._lock = threading.Lock()

    def score(self, conversation: list[dict[str, str]], texts: list[str]) -> list[float]:
        """Rewards of K answers to a conversation, each a finite number."""
        rows = [self._ids(conversation, text) for text in texts]
        width = max(len(r) for r in rows)
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([r + [pad] * (width - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
        device = next(self._net.parameters()).device
        with self._lock, torch.inference_mode():
            out = self._net(input_ids=ids.to(device), attention_mask=mask.to(device))
        found: list[float] = out.logits[:, self._head].double().tolist()
        return found

    def _ids(self, conversation: list[dict[str, str]], text: str) -> list[int]:
        messages = [*conversation, {"role": "assistant", "content": text}]
        if self._tokenizer.chat_template:
            whole = self._tokenizer.apply_chat_template(messages, tokenize=False)
            return list(self._tokenizer(whole, add_special_tokens=False)["input_ids"]) or [0]
        whole = "\n\n".join(m["content"] for m in messages)
        return list(self._tokenizer(whole, truncation=True)["input_ids"]) or [0]

"""A classifier in memory: an encoder whose vectors are the outputs of a classification head."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from prefactory.engines.base import settings_of
from prefactory.engines.embedding import EncoderSettings, Loaded, OpenEncoder
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.overrides import nearest
from prefactory.safety.model_files import open_tokenizer

_NO_LIMIT = 8192
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class OpenClassifier(OpenEncoder):
    """A loaded classifier; `embed` gives its outputs, float32 [N, labels]."""

    def __init__(
        self,
        encoder: Encoder,
        folder: Path,
        label: str,
        activation: Literal["auto", "sigmoid", "softmax"],
    ) -> None:
        """Load tokenizer and weights.

        Args:
            encoder: resolved configuration.
            folder: the model's files.
            label: whose probability is wanted.
            activation: of the outputs.

        Raises:
            ConfigError: the folder holds no classifier with safetensors weights, or no such label.
        """
        self._wanted = (label, activation)
        super().__init__(settings_of(EncoderSettings, encoder), folder)

    def _load(self, folder: Path, device: torch.device) -> Loaded:
        from transformers import AutoModelForSequenceClassification

        label, activation = self._wanted
        tokenizer = open_tokenizer(folder, local_files_only=True)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            dtype=_DTYPES[self.encoder.precision],
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        missing = sorted(info["missing_keys"])
        if missing:
            raise ConfigError(
                f"model {self.encoder.model!r} lacks the weights {missing[:3]}: they would be "
                "random; it may not be a classifier"
            )
        config = model.config
        self._number = label_number(config.id2label, label, self.encoder.model)
        several = config.problem_type == "multi_label_classification" or config.num_labels == 1
        auto = "sigmoid" if several else "softmax"
        self._activation = auto if activation == "auto" else activation
        model = model.to(device).eval()

        def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
            return logits

        positions = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
        if config.model_type in ("roberta", "xlm-roberta", "camembert"):
            positions -= 2  # these count positions from after the padding token's
        return tokenizer, forward, "", min(int(tokenizer.model_max_length), int(positions))

    def activated(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of the label from outputs float64 [N, labels]."""
        from scipy.special import expit, softmax

        values = expit(logits) if self._activation == "sigmoid" else softmax(logits, axis=1)
        chosen: NDArray[np.float64] = values[:, self._number]
        return chosen


def label_number(labels: dict[int, str], wanted: str, model: str) -> int:
    """Place of a label among a model's outputs.

    Raises:
        ConfigError: the model has no such label.
    """
    for number, name in labels.items():
        if name.lower() == wanted.lower():
            return int(number)
    known = list(labels.values())
    near = nearest(wanted, known) or f"; it has: {', '.join(known)}"
    raise ConfigError(f"model {model!r} has no label {wanted!r}{near}")

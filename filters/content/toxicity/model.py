"""Text classifiers of transformers: a probability for each text, the same bytes in any company.

Runs as the sentence encoders do (`prefactory.engines.embedding`): batches of fixed shape, decided
by a text's own length, on one thread each.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from prefactory.engines.device import Gpus
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError

WINDOW = 1200
"""Characters that are judged at a time (about 300 tokens of English); a text's value is the
greatest of its windows."""
NUMERICS = 1
"""Version of windows and arithmetic: bumped when a value may change."""


class Classifier(BaseModel):
    """A sequence-classification model with a label for what is unwanted.

    Attributes:
        model: a folder, or a Hugging Face name; weights must be safetensors.
        label: name of the label in the model's configuration, in any case.
        activation: of its outputs; `auto` is what the model was trained with (softmax for one label
            of several, sigmoid for several labels at once or a single output).
        revision: of a Hugging Face model; for a folder, the digest of its files.
        precision: of weights and forward pass ("auto": bf16 where the device has it natively).
        max_tokens: where a window is cut; None takes the model's limit.
        device: torch device; None takes CUDA if there is one. Not identity.
        threads: batches in work at a time on the CPU. Not identity.
        gpus: of a cluster, that a worker holds for the model; a share below 1 lets several workers
            share a GPU. Not identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    label: str = Field(default="toxic", min_length=1)
    activation: Literal["auto", "sigmoid", "softmax"] = "auto"
    revision: str | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    max_tokens: int | None = Field(default=None, ge=2)
    device: str | None = None
    threads: int | None = Field(default=None, ge=1)
    gpus: Gpus = 1.0

    def _files(self) -> Encoder:
        fields = self.model_dump(exclude={"label", "activation"})
        return Encoder(**fields)  # finds folders, digests and downloads for us

    def identity(self) -> dict[str, Any]:
        """What decides a text's value, resolved on this machine, as plain JSON data.

        Raises:
            ConfigError: the folder does not exist, or is not the one that `revision` names.
        """
        own = {"label": self.label, "activation": self.activation, "classifier": NUMERICS}
        return {**_about_models(self._files().identity), **own}

    def probabilities(self, texts: pl.Series) -> NDArray[np.float64]:
        """Probability of the label.

        Args:
            texts: String[n], no nulls.

        Returns:
            Float64[n] in [0, 1]; 0 for an empty text.

        Raises:
            ConfigError: the model can't be loaded, or has no such label.
        """
        with _LOCK:
            opened = _opened(self)
            windows = _windows(texts)
            distinct = windows["text"].unique(maintain_order=True)
            logits = opened.embed(distinct).astype(np.float64)
        values = pl.DataFrame({"text": distinct, "value": opened.activated(logits)})
        best = windows.join(values, on="text").group_by("row").agg(pl.col("value").max())
        out = np.zeros(texts.len())
        out[best["row"].to_numpy()] = best["value"].to_numpy()
        return out


def _windows(texts: pl.Series) -> pl.DataFrame:
    """`row` and `text`: runs of at most WINDOW characters, cut after white space where they can."""
    pattern = rf"(?s)\S.{{0,{WINDOW - 2}}}(?:\s|\z)|\S\S{{0,{WINDOW - 1}}}"
    rows = pl.DataFrame({"row": pl.int_range(texts.len(), eager=True), "text": texts})
    parts = pl.col("text").str.extract_all(pattern)
    windows = rows.with_columns(parts).explode("text").drop_nulls()
    return windows.with_columns(pl.col("text").str.strip_chars_end())


_LOCK = threading.Lock()
_OPEN: dict[str, Any] = {}


def _opened(config: Classifier) -> Any:  # noqa: ANN401 - torch loads with its class
    """The model, loaded once; another one takes its place."""
    from filters.content.toxicity.open import OpenClassifier

    key = f"{config.model_dump_json()} {config.identity()}"
    if key not in _OPEN:
        _OPEN.clear()
        folder: Path = _about_models(config._files().folder)
        encoder = _about_models(config._files().resolved)
        _OPEN[key] = OpenClassifier(encoder, folder, config.label, config.activation)
    return _OPEN[key]


def _about_models(ask: Any) -> Any:  # noqa: ANN401 - passes on what it is given
    try:
        return ask()
    except ConfigError as error:
        text = str(error).replace("encoder model", "model").replace("use 'minilm', a", "use a")
        raise ConfigError(text) from error

"""A linear reward model on frozen sentence embeddings: features, scores, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.folders import undamaged
from prefactory.identity import identity_of
from prefactory.measures.calibration import Floats
from prefactory.spaces.hashed import Categories
from prefactory.tables import last_user_text, text_of
from trainers.base import write_json

Embed = Callable[[Encoder, pl.Series], np.ndarray]
"""`(encoder, texts) -> Float32[N, d]`: how texts become vectors (`VectorStore.embed`)."""

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Texts:
    """Vectors of distinct texts, and which row of them each text is."""

    row: dict[str, int]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, texts: pl.Series, encoder: Encoder, embed: Embed) -> Texts:
        """Embed every distinct text once, in sorted order."""
        distinct = texts.drop_nulls().unique().sort()
        row = {text: i for i, text in enumerate(distinct)}
        return cls(row, np.asarray(embed(encoder, distinct), dtype=np.float32))

    def __call__(self, texts: pl.Series) -> NDArray[np.float32]:
        """Vectors of texts, shape (N, d)."""
        return self.vectors[[self.row[text] for text in texts]]


def read_texts(table: pl.DataFrame, prompt: str, response: str) -> tuple[pl.Series, pl.Series]:
    """The two texts that the model reads: the last user message, and what the assistant said.

    Args:
        table: has two columns of messages.
        prompt: name of the column with the conversation.
        response: name of the column with the answer.
    """
    x = last_user_text(pl.col(prompt)).alias("x")
    texts = table.select(x, text_of(pl.col(response), "assistant").fill_null("").alias("y"))
    return texts["x"], texts["y"]


def features(x: pl.Series, y: pl.Series, texts: Texts, length: bool) -> Floats:
    """Features of (last user message, answer): `[e(y), e(x) * e(y), |e(x) - e(y)|]`.

    Args:
        x: last user messages, length N.
        y: answers, length N.
        texts: their vectors, of d numbers.
        length: add `log(1 + characters of y)`.

    Returns:
        Float64, shape (N, 3d), or (N, 3d + 1) with the length.
    """
    e_x, e_y = texts(x).astype(np.float64), texts(y).astype(np.float64)
    parts = [e_y, e_x * e_y, np.abs(e_x - e_y)]
    if length:
        parts.append(np.log1p(y.str.len_chars().cast(pl.Float64).to_numpy())[:, None])
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class EmbeddingRewardModel:
    """Scores answers by `w . (phi(x, y) / scale)`. Only differences of scores mean something.

    Attributes:
        encoder: which encoder the weights belong to.
        weights: Float64[D].
        scale: Float64[D], typical size of each feature's difference within a training pair.
        length_feature: whether the last feature is the answer's log length.
        embed: how texts become vectors.
        categories: columns of names whose features follow.
    """

    encoder: Encoder
    weights: Floats
    scale: Floats
    length_feature: bool
    embed: Embed
    categories: Categories | None = None

    def score(
        self, prompts: pl.Series, responses: pl.Series, about: pl.DataFrame | None = None
    ) -> Floats:
        """Score answers, in nats: the gap of two scores is the log odds that one is preferred.

        Args:
            prompts: conversations, `list<struct<role, content>>`, length N.
            responses: answers, same type and length.
            about: the columns of `categories`, of height N, if the model reads any.

        Returns:
            Float64[N]; NaN where the prompt or the answer is null.

        Raises:
            DataError: the model reads names, and there is no such column.
        """
        table = pl.DataFrame({"prompt": prompts, "response": responses})
        here = (prompts.is_not_null() & responses.is_not_null()).to_numpy()
        scores = np.full(table.height, np.nan)
        table = table.filter(pl.Series(here))
        if table.height:
            x, y = read_texts(table, "prompt", "response")
            texts = Texts.of(pl.concat([x, y.alias(x.name)]), self.encoder, self.embed)
            phi = features(x, y, texts, self.length_feature)
            if self.categories is not None:
                names = pl.DataFrame() if about is None else about.filter(pl.Series(here))
                phi = np.concatenate([phi, self.categories.features(names)], axis=1)
            scores[here] = self.score_features(phi)
        return scores

    def score_features(self, phi: Floats) -> Floats:
        """Score rows of features (Float64[N, D] -> Float64[N])."""
        if phi.shape[1] != len(self.weights):
            raise ConfigError(
                f"the encoder gives {phi.shape[1]} features; the model wants {len(self.weights)}"
            )
        # Row by row, so that a score does not depend on what it is computed with.
        scores: Floats = np.einsum("nd,d->n", phi / self.scale, self.weights)
        return scores

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`; the same model gives the same bytes."""
        tensors = {"weights": self.weights, "scale": self.scale}
        save_file(tensors, folder / WEIGHTS)
        config = {
            "format": FORMAT,
            "model": "embedding-reward",
            "features": ["e(y)", "e(x)*e(y)", "|e(x)-e(y)|"]
            + (["log(1+characters(y))"] if self.length_feature else [])
            + (["slots of names"] if self.categories else []),
            "x": "content of the last user message of the prompt",
            "y": "contents of the answer's assistant messages, joined by a blank line",
            "score": "sum(weights * features / scale)",
            "length_feature": self.length_feature,
            **({"categories": self.categories.plain()} if self.categories else {}),
            "encoder": identity_of(self.encoder.resolved().model_dump(mode="json")),
            "encoder_fingerprint": self.encoder.fingerprint(),
        }
        write_json(folder / CONFIG, config)

    @classmethod
    def load(cls, folder: str | Path, embed: Embed) -> EmbeddingRewardModel:
        """Load a saved model.

        Args:
            folder: what `train_embedding_reward` wrote.
            embed: `(encoder, texts) -> Float32[N, d]`.

        Raises:
            ConfigError: if the folder holds no such model, or its encoder is another one by now.
        """
        path = undamaged(Path(folder))
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(path / WEIGHTS)
            if config["format"] != FORMAT:
                raise ConfigError(f"{path} has format {config['format']}; this reads {FORMAT}")
            encoder = Encoder.model_validate(config["encoder"])
            if encoder.fingerprint() != config["encoder_fingerprint"]:
                raise ConfigError(
                    f"{path} was trained on vectors of another encoder; train it again"
                )
            weights, scale = tensors["weights"], tensors["scale"]
            named = config.get("categories")
            categories = None if named is None else Categories.model_validate(named)
            length = bool(config["length_feature"])
            return cls(encoder, weights, scale, length, embed, categories)
        except (OSError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} holds no embedding reward model: {error}") from error

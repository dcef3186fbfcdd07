"""PAL as a reward model: who prefers what, in files; new people are placed among the prototypes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.special import softmax

from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.folders import undamaged
from prefactory.identity import identity_of
from prefactory.measures.calibration import Floats
from prefactory.preferences.ideal_points import PALBModel, PALModel, located, rowwise, shrunk
from trainers.base import write_json
from trainers.embedding_model import Embed, Texts, read_texts

FORMAT = 1
WEIGHTS, CONFIG, USERS = "model.safetensors", "config.json", "users.parquet"
_ARRAYS = {"a": ("prototypes", "projection"), "b": ("heads", "offsets", "projection")}
_SCORES = {
    "a": "-|| answer axes projection - softmax(logits of the person) prototypes ||",
    "b": "sharpness cos(answer axes projection,"
    " sum_k softmax(logits of the person)_k (prompt prompt_axes heads_k + offsets_k))",
}


@dataclass(frozen=True)
class PALReward:
    """Scores answers by how near they are to the ideal point of a person (arXiv 2406.08469).

    Attributes:
        encoder: which encoder the numbers belong to.
        axes: principal directions that vectors of answers are cut to, Float64[d, r].
        fit: people and prototypes; of PAL-B the ideal points move with the prompt.
        labels: how many each person of the fit gave.
        enough: labels from which on a person's own weights are trusted alone.
        embed: how texts become vectors.
        prompt_axes: as `axes`, of the last user messages; PAL-B only.
    """

    encoder: Encoder
    axes: Floats
    fit: PALModel | PALBModel
    labels: Mapping[str, int]
    enough: int
    embed: Embed
    prompt_axes: Floats | None = None

    @property
    def method(self) -> str:
        """`a` or `b`."""
        return "a" if isinstance(self.fit, PALModel) else "b"

    def weights(self, users: Sequence[str | None]) -> Floats:
        """Share of each prototype in the ideal point of n people, Float64[n, k].

        Who is unknown, or None, is the mean person.
        """
        counts = np.asarray([self.labels[user] for user in self.fit.users], dtype=np.int64)
        logits = shrunk(self.fit.logits, counts, self.enough)
        place = {user: i for i, user in enumerate(self.fit.users)}
        rows = [place.get(user, len(place)) if user is not None else len(place) for user in users]
        shares: Floats = softmax(logits, axis=1)[rows]
        return shares

    def score(
        self,
        prompts: pl.Series,
        responses: pl.Series,
        users: Sequence[str | None] | None = None,
    ) -> Floats:
        """Rewards of answers; only differences for one prompt and person mean something.

        Minus a distance (PAL-A), or a cosine times the sharpness of the fit (PAL-B).

        Args:
            prompts: conversations, length n.
            responses: answers, same type and length.
            users: whose reward; the mean person's if None.

        Returns:
            Float64[n]; NaN where the prompt or the answer is null.
        """
        here = (prompts.is_not_null() & responses.is_not_null()).to_numpy()
        scores = np.full(len(here), np.nan)
        if here.any():
            weights = self.weights(users if users is not None else [None] * len(here))[here]
            kept = pl.DataFrame({"prompt": prompts, "response": responses}).filter(pl.Series(here))
            asked, answers = read_texts(kept, "prompt", "response")
            both = answers if self.prompt_axes is None else pl.concat([asked, answers.alias("x")])
            texts = Texts.of(both, self.encoder, self.embed)
            moving = None if self.prompt_axes is None else texts(asked)
            scores[here] = self.fit.rewards(
                self.reduced(texts(answers)), weights, self.reduced_prompts(moving)
            )
        return scores

    def reduced(self, vectors: NDArray[np.floating]) -> Floats:
        """Vectors of answers cut to the axes, each row from itself alone."""
        return rowwise(vectors, self.axes)

    def reduced_prompts(self, vectors: NDArray[np.floating] | None) -> Floats | None:
        """Vectors of prompts cut to their axes; None where the prompt has no part in the score."""
        if self.prompt_axes is None or vectors is None:
            return None
        return rowwise(vectors, self.prompt_axes)

    def with_people(
        self,
        users: Sequence[str],
        chosen: Floats,
        rejected: Floats,
        prompts: Floats | None = None,
    ) -> PALReward:
        """Place people among the prototypes by labels of theirs; prototypes stay as they are.

        Only their weights are fitted (the paper freezes the rest), from the mean person on. Someone
        who is known already is placed anew by these labels.

        Args:
            users: who gave each of n labels.
            chosen: reduced vectors of the answers that they prefer, Float64[n, r].
            rejected: of the others.
            prompts: of the last user messages, Float64[n, rp]; PAL-B reads them.
        """
        who = np.asarray(users, dtype=object)
        logits = dict(zip(self.fit.users, self.fit.logits, strict=True))
        labels = dict(self.labels)
        for user in sorted(set(users)):
            at = who == user
            labels[user] = int(at.sum())
            y = np.ones(labels[user], dtype=np.int64)
            asked = None if prompts is None else prompts[at]
            logits[user] = located(self.fit, rejected[at], chosen[at], y, prompts=asked)
        names = tuple(sorted(logits))
        rows = np.stack([logits[name] for name in names])
        return replace(self, fit=replace(self.fit, users=names, logits=rows), labels=labels)

    def people(self) -> pl.DataFrame:
        """`user`, `labels`, `group` (the strongest prototype) and `weight_<g>` of each person."""
        users = list(self.fit.users)
        weights = self.weights(users)
        shares = {f"weight_{g}": weights[:, g] for g in range(weights.shape[1])}
        labels = [self.labels[user] for user in users]
        group = pl.Series("group", weights.argmax(axis=1), pl.Int64)
        table = pl.DataFrame({"user": users, "labels": labels, **shares})
        return table.insert_column(2, group)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`, `config.json` and `users.parquet`."""
        tensors = {"axes": self.axes, "logits": self.fit.logits}
        tensors |= {name: getattr(self.fit, name) for name in _ARRAYS[self.method]}
        if self.prompt_axes is not None:
            tensors["prompt_axes"] = self.prompt_axes
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / WEIGHTS)
        config: dict[str, Any] = {
            "format": FORMAT,
            "model": "pal",
            "method": self.method,
            "score": _SCORES[self.method],
            "enough": self.enough,
            "loss": self.fit.loss,
            "encoder": identity_of(self.encoder.resolved().model_dump(mode="json")),
            "encoder_fingerprint": self.encoder.fingerprint(),
        }
        if isinstance(self.fit, PALBModel):
            config["sharpness"] = self.fit.sharpness
        write_json(folder / CONFIG, config)
        self.people().write_parquet(folder / USERS)

    @classmethod
    def load(cls, folder: str | Path, embed: Embed) -> PALReward:
        """Load a saved model.

        Args:
            folder: what `prefactory train pal` wrote.
            embed: `(encoder, texts) -> Float32[N, d]`.

        Raises:
            ConfigError: the folder holds no such model, or its encoder is another one by now.
        """
        path = undamaged(Path(folder))
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            if config.get("model") != "pal" or config["format"] != FORMAT:
                raise ConfigError(f"{path} holds no PAL model of format {FORMAT}")
            tensors = load_file(path / WEIGHTS)
            encoder = Encoder.model_validate(config["encoder"])
            if encoder.fingerprint() != config["encoder_fingerprint"]:
                raise ConfigError(
                    f"{path} was trained on vectors of another encoder; train it again"
                )
            people = pl.read_parquet(path / USERS)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} holds no PAL model: {error}") from error
        users = tuple(people["user"].to_list())
        labels = dict(zip(users, people["labels"].to_list(), strict=True))
        axes = tensors["axes"], tensors.get("prompt_axes")
        fit = _fit(config, users, tensors)
        return cls(encoder, axes[0], fit, labels, int(config["enough"]), embed, axes[1])


def _fit(
    config: Mapping[str, Any], users: tuple[str, ...], tensors: Mapping[str, Floats]
) -> PALModel | PALBModel:
    """The fit of a saved model; those without a method are of PAL-A."""
    method, loss = str(config.get("method", "a")), float(config["loss"])
    arrays: dict[str, Any] = {name: tensors[name] for name in ("logits", *_ARRAYS[method])}
    if method == "b":
        return PALBModel(users=users, **arrays, sharpness=float(config["sharpness"]), loss=loss)
    return PALModel(users=users, **arrays, loss=loss)

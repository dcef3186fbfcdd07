"""Which model or judge to take for a prompt: a linear utility of both, and what each costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

FORMAT, KIND = 1, "router"
WEIGHTS, FACTS = "model.safetensors", "router.json"
CANDIDATE = "candidate"
Embed = Callable[[Encoder, pl.Series], np.ndarray]


@dataclass(frozen=True)
class Router:
    """Takes the candidate with the greatest utility less its price.

    The utility of a candidate for a prompt is linear in hashed features of its name, alone and with
    each column of the prompt, and in the vector of the prompt, with weights of its own. Only
    differences between candidates mean something: log odds that one does better than another.

    Attributes:
        candidates: K names, sorted.
        costs: of an answer of each, Float64[K], in whatever unit.
        price: log odds that one unit of cost must bring.
        categories: the columns that are hashed; `candidate` is the answer's.
        named: weights of the slots, Float64[slots].
        read: weights of the prompt's vector by candidate, Float64[K, d]; d is 0 without vectors.
        mean: of the training prompts' vectors, Float64[d].
        encoder: of the prompts; None without vectors.
        info: what it was trained on and how well it does, plain data.
    """

    candidates: tuple[str, ...]
    costs: Floats
    price: float
    categories: Categories
    named: Floats
    read: Floats
    mean: Floats
    encoder: Encoder | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def utilities(self, about: pl.DataFrame, texts: pl.Series, embed: Embed | None) -> Floats:
        """Utility of every candidate for prompts.

        Args:
            about: the columns of the prompt that `categories` names, n rows.
            texts: last user messages, String[n].
            embed: needed if the router reads vectors.

        Returns:
            Float64[n, K], in log odds, about the mean of the candidates.

        Raises:
            ConfigError: there is no encoder to be had.
            DataError: a column is missing.
        """
        if self.encoder is not None and embed is None:
            raise ConfigError("this router reads vectors, and there is no encoder to be had")
        out = np.zeros((len(texts), len(self.candidates)))
        for k, name in enumerate(self.candidates):
            lit = self.categories.features(about.with_columns(pl.lit(name).alias(CANDIDATE)))
            out[:, k] = (lit * self.named).sum(axis=1)
        if self.encoder is not None and embed is not None and len(texts):
            vectors = np.asarray(embed(self.encoder, texts), np.float64) - self.mean
            out += np.einsum("nd,kd->nk", vectors, self.read)
        found: Floats = out - out.mean(axis=1, keepdims=True)
        return found

    def choose(self, utilities: Floats, most: float | None = None) -> NDArray[np.int64]:
        """The candidate for each prompt: Int64[n].

        Args:
            utilities: Float64[n, K].
            most: no candidate that costs more.

        Raises:
            ConfigError: every candidate costs more.
        """
        worth = utilities - self.price * self.costs
        if most is not None:
            if not (self.costs <= most).any():
                raise ConfigError(f"no candidate costs {most:g} or less")
            worth = np.where(self.costs <= most, worth, -np.inf)
        order = np.argsort(self.costs, kind="stable")  # of equals, the cheaper one
        found: NDArray[np.int64] = order[np.argmax(worth[:, order], axis=1)]
        return found

    def save(self, folder: Path) -> None:
        """Write the two files into a folder that is there; the same router gives the same bytes."""
        tensors = {"named": self.named, "read": self.read, "mean": self.mean, "costs": self.costs}
        save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, folder / WEIGHTS)
        encoder = None
        if self.encoder is not None:
            encoder = identity_of(self.encoder.resolved().model_dump(mode="json"))
        facts = {
            "format": FORMAT, "model": KIND, "candidates": list(self.candidates),
            "price": self.price, "categories": self.categories.plain(), "encoder": encoder,
            "info": dict(self.info),
        }  # fmt: skip
        text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / FACTS).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Router:
        """Load a saved router.

        Raises:
            ConfigError: the folder holds none, or its encoder is another one by now.
        """
        path = undamaged(Path(folder).expanduser())
        try:
            facts = json.loads((path / FACTS).read_text("utf-8"))
            if (facts["format"], facts["model"]) != (FORMAT, KIND):
                raise ConfigError(f"{path} holds no {KIND} of format {FORMAT}")
            t = load_file(path / WEIGHTS)
            encoder = None
            if facts["encoder"] is not None:
                encoder = Encoder.model_validate(facts["encoder"])
                encoder.resolved()
            return cls(
                tuple(facts["candidates"]), t["costs"], float(facts["price"]),
                Categories.model_validate(facts["categories"]), t["named"], t["read"], t["mean"],
                encoder, facts["info"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} holds no router: {error}") from error


def digest(folder: str | Path) -> str:
    """Of a router's files.

    Raises:
        ConfigError: the folder holds none.
    """
    total = hashlib.blake2b(digest_size=16)
    for name in (WEIGHTS, FACTS):
        try:
            total.update((Path(folder).expanduser() / name).read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{folder} holds no router ({error}); `prefactory train router NAME` makes one"
            ) from error
    return total.hexdigest()


def price_of(utilities: Floats, costs: Floats, budget: float) -> float:
    """The least price at which the mean cost of the chosen candidates is within a budget.

    Args:
        utilities: of the candidates for prompts, Float64[n, K].
        costs: Float64[K].
        budget: mean cost of a prompt.

    Raises:
        ConfigError: even the cheapest candidate costs more.
    """
    if budget < costs.min():
        raise ConfigError(f"budget {budget:g}: the cheapest candidate costs {costs.min():g}")

    def cost(price: float) -> float:
        order = np.argsort(costs, kind="stable")
        return float(costs[order][np.argmax((utilities - price * costs)[:, order], axis=1)].mean())

    if cost(0.0) <= budget:
        return 0.0
    gaps = np.diff(np.unique(costs))
    low, high = 0.0, float(np.ptp(utilities, axis=1).max() / gaps.min()) + 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= budget else (middle, high)
    return high

"""A scorer of single answers, and its two files: weights (safetensors) and all else (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.folders import undamaged
from prefactory.identity import identity_of
from prefactory.measures.calibration import Floats
from prefactory.preferences.features import Answers, Embed, describe
from prefactory.preferences.stack import Differences, Model

FORMAT = 1
KIND = "preference-stack"
WEIGHTS, FACTS = "model.safetensors", "scorer.json"
SCORE = "score_"
ROWS = 4096
_TENSORS = ("vector_weights", "vector_scales", "column_weights", "column_scales")


@dataclass(frozen=True)
class Scorer:
    """An additive model with the names of its columns.

    Attributes:
        model: weights and scales.
        names: of the statistics among its columns, in order.
        outside: of the score columns that follow them; an answer needs them all, or the pair counts
            as equal in that column.
        encoder: of its vectors; None if it has none.
        slope: with which the model's weights were multiplied already; below or at 0, the labels
            taught nothing.
        info: what it was trained on and how well it does, plain data.
    """

    model: Model
    names: tuple[str, ...]
    outside: tuple[str, ...] = ()
    encoder: Encoder | None = None
    slope: float = 1.0
    info: Mapping[str, Any] = field(default_factory=dict)

    def score(self, table: pl.DataFrame, embed: Embed | None) -> Floats:
        """Score answers: the difference of two scores to a prompt is the log odds of a preference.

        Args:
            table: `prompt`, `response` and the `score_<name>` of `outside`.
            embed: needed if the scorer has an encoder.

        Returns:
            Float64[n].

        Raises:
            ConfigError: an outside score is missing, or there is no encoder to be had.
        """
        missing = [f"{SCORE}{name}" for name in self.outside if f"{SCORE}{name}" not in table]
        if missing:
            raise ConfigError(
                f"this scorer was trained with {', '.join(missing)}; add the step that makes it"
            )
        if self.encoder is not None and embed is None:
            raise ConfigError("this scorer reads vectors, and there is no encoder to be had")
        reader = embed if self.encoder is not None else None
        encoder = self.encoder or Encoder()
        answers = describe(table["prompt"], table["response"], encoder, reader)
        extra = table.select(pl.col(f"{SCORE}{name}").cast(pl.Float64) for name in self.outside)
        return self.score_answers(answers, extra)

    def score_answers(self, answers: Answers, extra: pl.DataFrame | None = None) -> Floats:
        """Score answers whose features are there already; extra has the outside scores."""
        columns = answers.statistics.select(self.names).to_numpy()
        if self.outside and extra is not None:
            outside = extra.select(pl.all().fill_nan(None).fill_null(0.0)).to_numpy()
            columns = np.concatenate([columns, outside], axis=1)
        scores = np.zeros(len(columns))
        for start in range(0, len(columns), ROWS):  # vectors are wide: some rows at a time
            rows = slice(start, start + ROWS)
            none = np.zeros((len(columns[rows]), 0))
            wide = none if self.encoder is None else answers.vectors(rows)
            scores[rows] = self.model.scores(Differences(wide, columns[rows]))
        return scores

    def save(self, folder: Path) -> None:
        """Write the two files into a folder that is there; the same scorer gives the same bytes."""
        tensors = {name: np.ascontiguousarray(getattr(self.model, name)) for name in _TENSORS}
        save_file(tensors, folder / WEIGHTS)
        encoder = None
        if self.encoder is not None:
            encoder = identity_of(self.encoder.resolved().model_dump(mode="json"))
        facts = {
            "format": FORMAT,
            "model": KIND,
            "form": self.model.form,
            "score": "sum(weights * features / scales)",
            "vectors": ["e(y)", "e(x)*e(y)", "|e(x)-e(y)|"] if encoder else [],
            "columns": list(self.names),
            "outside": list(self.outside),
            "encoder": encoder,
            "slope": self.slope,
            "info": dict(self.info),
        }
        text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / FACTS).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, any_precision: bool = False) -> Scorer:
        """Load a saved scorer.

        Args:
            folder: what `save` wrote into.
            any_precision: take the vectors of the same encoder at this machine's precision.

        Raises:
            ConfigError: the folder holds no such scorer, or its encoder is another one by now.
        """
        path = undamaged(Path(folder))
        try:
            facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
            if (facts["format"], facts["model"]) != (FORMAT, KIND):
                raise ConfigError(f"{path} holds no {KIND} of format {FORMAT}")
            tensors = load_file(path / WEIGHTS)
            model = Model(facts["form"], *(tensors[name] for name in _TENSORS))
            encoder = None
            if facts["encoder"] is not None:
                encoder = Encoder.model_validate(facts["encoder"])
                encoder = encoder.model_copy(update={"precision": "auto"} if any_precision else {})
                encoder.resolved()
            names, outside = tuple(facts["columns"]), tuple(facts["outside"])
            if len(model.column_weights) != len(names) + len(outside):
                raise ConfigError(f"{path}: weights and names of columns don't fit")
            return cls(model, names, outside, encoder, float(facts["slope"]), facts["info"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{path} holds no preference scorer: {error}") from error

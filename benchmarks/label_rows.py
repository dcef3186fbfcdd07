"""Pairs of ../shared/data with human or planted labels, and their features; vectors are cached."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.evidence import SHARED
from benchmarks.human_labels import read_pairs
from catalog.sources import SourceSpec, open_source
from catalog.splits import group_key, prompt_clusters
from prefactory.engines.encoder import Encoder
from prefactory.engines.vectors import shared_store
from prefactory.measures.calibration import Floats
from prefactory.preferences.features import LENGTH, Answers, Embed, describe_pairs, names
from prefactory.preferences.stack import Differences, Rows
from prefactory.tables import Shape, canonical_order, digests

NAMES = {
    "hh helpful": "hh-rlhf helpful",
    "hh harmless": "hh-rlhf harmless",
    "webgpt": "WebGPT",
    "tulu": "Tulu human evaluation",
    "pandalm": "PandaLM",
    "ultrafeedback": "",
    "ukp": "UKP ConvArg",
    "llmbar adversarial": "LLMBar adversarial",
    "llmbar natural": "LLMBar natural",
}
UKP_ROWS = 1500
"""Of the 4,449 pairs on twelve topics, drawn with seed 0."""
CACHE = Path(os.environ.get("PREFACTORY_BENCHMARK_VECTORS", ".benchmarks/vectors"))


@dataclass(frozen=True)
class Labelled:
    """A set of pairs and what the scorers see of it.

    Attributes:
        pairs: the pairs, in canonical order.
        rows: their differences and clusters.
        chosen, rejected: features of the sides.
        groups: digests of the first user messages.
    """

    pairs: pl.DataFrame
    rows: Rows
    chosen: Answers
    rejected: Answers
    groups: pl.Series

    @property
    def length(self) -> Floats:
        """Log length of chosen minus that of rejected."""
        found: Floats = (
            self.chosen.statistics[LENGTH] - self.rejected.statistics[LENGTH]
        ).to_numpy()
        return found


def embed() -> Embed:
    """The cached vectors of the shipped encoder."""
    return shared_store(CACHE).embed


def read_file(path: Path, *extra: str) -> pl.DataFrame:
    """The pairs of a file with extra columns, each once, in canonical order."""
    source = open_source(SourceSpec(path=str(path), mapping={name: name for name in extra}))
    blocks = [block.rows for file in source.files for block in source.read(file)]
    table = pl.concat(blocks, how="diagonal_relaxed").unique("pair_id", keep="first")
    return canonical_order(table, Shape.PAIRS)


def pairs_of(name: str) -> pl.DataFrame:
    """Pairs of a set: answers that differ, and for UltraFeedback scores that differ."""
    if name == "noise":
        table = noise()
    elif name == "ultrafeedback":
        table = read_file(SHARED / "preference_judge/ultrafeedback_binarized.jsonl.gz")
        table = table.filter(pl.col("chosen_score_overall") > pl.col("rejected_score_overall"))
    else:
        table = read_pairs(NAMES[name])
    table = table.filter(pl.col("chosen_id") != pl.col("rejected_id"))
    if name == "ukp":
        drawn = np.random.default_rng(0).permutation(table.height)[:UKP_ROWS]
        table = table[np.sort(drawn)]
    return table


def noise() -> pl.DataFrame:
    """The noise set with `kind`: clean, flipped or the damage that was planted."""
    table = read_file(SHARED / "noise/noisy_pairs.jsonl.gz", "id")
    truth = pl.read_csv(SHARED / "noise/noisy_pairs_truth.csv", schema_overrides={"id": pl.String})
    return table.join(truth.select("id", "kind"), on="id", how="left", maintain_order="left")


@lru_cache(maxsize=16)
def labelled(name: str) -> Labelled:
    """A set with its features (see `prefactory.preferences.features`)."""
    return described(pairs_of(name))


def described(pairs: pl.DataFrame) -> Labelled:
    """Pairs with their features."""
    chosen, rejected = describe_pairs(pairs, Encoder(), embed())
    columns = chosen.statistics.to_numpy() - rejected.statistics.to_numpy()
    data = Differences(chosen.vectors() - rejected.vectors(), columns)
    groups = digests(pairs.select(group_key(pl.col("prompt"))).to_series())
    return Labelled(pairs, Rows.of(data, prompt_clusters(pairs)), chosen, rejected, groups)


def columns() -> tuple[str, ...]:
    """Names of the statistics."""
    return names(encoder=True)

"""What steps about pictures share: the provenance that they write, and the picture of a prompt."""

from __future__ import annotations

from typing import Literal

import polars as pl

from prefactory.images.marks import of_prompt

ANNOTATORS = Literal["human", "closed_model", "open_model", "rule", "self", "unknown"]
"""Who made the sides of a pair differ: the words of the survey of multimodal alignment."""
CONTRASTS = ("text", "image", "both", "unknown")
"""In what the sides of a pair differ, by the same survey."""
PROVENANCE: dict[str, pl.DataType] = {"contrast": pl.String(), "annotator": pl.String()}
"""Columns of these two."""


def one_picture(prompts: pl.Series) -> pl.Series:
    """The name of the picture of each prompt within a run; null where it has none, or several."""
    named = of_prompt(prompts).alias("names").to_frame()
    one = pl.when(pl.col("names").list.len() == 1).then(pl.col("names").list.first())
    return named.select(one.alias("name")).to_series()

"""How likely answers are under the model that is to be trained, beside what it says itself."""

from __future__ import annotations

import polars as pl

from audit.reference import Reference
from labelers.models.likelihood import Likelihood
from pipelines.settings import Settings
from pipelines.training.answering import answers_of, message, name_of
from pipelines.training.places import model_of
from prefactory.context import Context
from prefactory.engines.base import SamplingParams
from prefactory.tables import Shape, with_ids

OWN = SamplingParams(temperature=1.0, max_tokens=256)
"""How the model's own answers are drawn: as it would say them."""


def reference(model: str, settings: Settings, sample: int) -> Reference:
    """A reference for `audit.Options`.

    Args:
        model: folder, name in `models/` of the home, or hub id; a chat model.
        settings: home of the journal.
        sample: pairs that it is asked about at most.
    """
    place = model_of(model, settings)
    step = Likelihood(models=[{"model": place}], objectives=("log_probability",))

    def score(table: pl.DataFrame, side: str) -> pl.Series:
        """Mean log-probability of a token of a column of answers; null where it is null."""
        rows = table.with_row_index("_at").drop_nulls(side)
        answers = with_ids(rows.select("_at", "prompt", response=side), Shape.RESPONSES)
        found = answers.select("_at").hstack(step.label(answers, Context()))
        at = table.select(pl.int_range(pl.len(), dtype=pl.UInt32).alias("_at"))
        joined = at.join(found, on="_at", how="left", maintain_order="left")
        return joined["score_log_probability"].alias(side)

    def ask(table: pl.DataFrame, seed: int) -> pl.DataFrame:
        prompts = table.select("prompt_id", "prompt").unique("prompt_id", keep="first")
        said = answers_of([place], prompts.sort("prompt_id"), OWN, 1, seed, settings)
        own = said.select("prompt_id", own=message(pl.col("text")))
        rows = table.join(own, on="prompt_id", how="left", maintain_order="left")
        return pl.DataFrame([score(rows, side) for side in ("own", "chosen", "rejected")])

    return Reference(name_of(place), ask, sample)

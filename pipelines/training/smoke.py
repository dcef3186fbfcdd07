"""Trying a method of training out: three steps on a tiny model, on one's data or on made pairs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from pydantic import BaseModel

from catalog.versions import Version
from pipelines.settings import Settings
from pipelines.training import Trained, checked_options, train
from pipelines.training.data_of import version_of
from prefactory.tables import MESSAGES, Shape, with_ids
from trainers.settings import PolicySettings

STEPS = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "max_length": 256,
    "learning_rate": 1e-3,
    "save_strategy": "no",
}
"""Options of a try, where none are given."""
OF_MADE: dict[str, Any] = {
    "attributes": ["log_probability"],
    "score": "log_probability",
    "by": "dimension",
}
"""Options for the pairs that are made up here."""
MADE = 24


def smoke_train(
    method: str,
    cls: type[BaseModel],
    fields: dict[str, Any],
    ref: str | None,
    table: str,
    out: Path | None,
    settings: Settings,
) -> Trained:
    """Train a few steps on a tiny model that is built on the spot.

    Args:
        method: a name of `METHODS`.
        cls: its settings.
        fields: options over those of `STEPS`.
        ref: data; None: pairs made up here, with every column that a method reads.
        table: table of the data.
        out: folder of the model; a temporary one if None.
        settings: where data are.
    """
    from trainers.tiny import tiny_model

    with tempfile.TemporaryDirectory(prefix="prefactory-smoke-") as scratch:
        place = Path(scratch)
        version = _made(place) if ref is None else version_of(ref, settings)
        texts = [row["prompt"][-1]["content"] or "" for row in version.pairs("train", table)]
        more: dict[str, Any] = {}
        if issubclass(cls, PolicySettings):
            more = {"compare_answers": 1, "answer_tokens": 8}
        if ref is None:
            more |= {name: value for name, value in OF_MADE.items() if name in cls.model_fields}
        if "model" not in fields:
            more["model"] = str(tiny_model(place / "tiny", texts[:1000]))
        config = checked_options(cls, {**STEPS, **more, **fields})
        done = train(method, config, version, settings, out or place / "model", table)
    where = "" if out else "\n  note     a try: its model is not kept"
    return Trained(method, done.path, done.summary + where, done.facts)


def _made(place: Path) -> Version:
    """Pairs in which the polite answer wins, with columns for every method, published."""
    from pipelines.api import Recipe, run

    asked = [f"How do I mend thing {i} of kind {i % 5}?" for i in range(MADE)]
    prompts = with_ids(
        pl.DataFrame(
            {"prompt": [[{"role": "user", "content": text}] for text in asked]},
            schema={"prompt": MESSAGES},
        ),
        Shape.PROMPTS,
    )
    rows = [
        {
            "prompt": asked[i],
            "chosen": f"Certainly, please take part {i} and turn it.",
            "rejected": f"Whatever, go away with thing {i}." + " No." * (i % 3),
            "beta": 0.1 + i / 100,
            "weight": 1.0 + i % 2,
            "chosen_score_log_probability": -1.0 - i / 10,
            "rejected_score_log_probability": -2.0 - i / 10,
            "dimension": ("politeness", "length")[i % 2],
            "rejected_prompt_id": prompts["prompt_id"][i - 1],
            "sign_politeness": 1,
            "sign_length": (-1, 0, 1)[i % 3],
        }
        for i in range(MADE)
    ]
    file = place / "smoke.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    carried = [name for name in rows[0] if name not in ("prompt", "chosen", "rejected")]
    source = {"path": str(file), "carry": carried}
    steps = [{"labelers.SteerWeights": {"target": {"log_probability": -1.0}}}]
    return run(Recipe("smoke", source=source, steps=steps), place / "home")

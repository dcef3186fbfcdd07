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
from pipelines.training import GOALS, Trained, checked_options, table_of, train
from pipelines.training.data_of import version_of
from prefactory.tables import MESSAGES, Shape, with_ids
from prefactory.testing import word_vectors
from trainers.settings import PolicySettings, Stepwise

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
    table: str | None,
    out: Path | None,
    settings: Settings,
) -> Trained:
    """Train a few steps on a tiny model that is built on the spot.

    Args:
        method: a name of `METHODS`.
        cls: its settings.
        fields: options over those of `STEPS`.
        ref: data; None: pairs made up here, with every column that a method reads.
        table: table of the data; None: the method's own.
        out: folder of the model; a temporary one if None.
        settings: where data are.
    """
    from trainers.tiny import tiny_model

    with tempfile.TemporaryDirectory(prefix="prefactory-smoke-") as scratch:
        place = Path(scratch)
        trains = "model" in cls.model_fields
        model = fields.get("model") or (None if trains else "")
        if ref is None:
            rows = _steps() if issubclass(cls, Stepwise) else _pairs()
            if model is None:
                model = str(tiny_model(place / "tiny", [row["prompt"] for row in rows]))
            version = _made(place, rows, _steps_of(cls, str(model)))
            table = table or table_of(cls, version)
        else:
            version = version_of(ref, settings)
            table = table or table_of(cls, version)
            asked = version.pairs("train", table).select_columns("prompt")
            texts = [row["prompt"][-1]["content"] or "" for row in asked]
            if model is None:
                model = str(tiny_model(place / "tiny", texts[:1000]))
        more: dict[str, Any] = {**STEPS, "model": model} if trains else {}
        if issubclass(cls, PolicySettings):
            more |= {"compare_answers": 1, "answer_tokens": 8}
        if ref is None:
            more |= {name: value for name, value in OF_MADE.items() if name in cls.model_fields}
        config = checked_options(cls, {**more, **fields})
        folder = out or place / "model"
        done = train(method, config, version, settings, folder, table, word_vectors)
    where = "" if out else "\n  note     a try: its model is not kept"
    return Trained(method, done.path, done.summary + where, done.facts)


def _made(place: Path, rows: list[dict[str, Any]], steps: list[dict[str, Any]]) -> Version:
    """Rows made up here, published."""
    from pipelines.api import Recipe, run

    file = place / "smoke.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    carried = [name for name in rows[0] if name not in _READ]
    source = {"path": str(file), **({"carry": carried} if carried else {})}
    return run(Recipe("smoke", source=source, steps=steps), place / "home")


def _steps_of(cls: type[BaseModel], model: str) -> list[dict[str, Any]]:
    """Steps that make what a method reads beside the columns of a file."""
    if issubclass(cls, Stepwise):
        return []
    steps: list[dict[str, Any]] = [{"labelers.SteerWeights": {"target": {"log_probability": -1.0}}}]
    if "teacher" in cls.model_fields:
        both = {"teacher": {"model": model}, "reference": {"model": model}}
        steps.append({"labelers.TeacherTokens": {**both, "k": 8}})
    if table_of(cls) == GOALS:
        steps.append({"labelers.RewardAugmented": {"objective": "quality"}})
    return steps


_READ = (
    "prompt", "chosen", "rejected", "completions", "labels", "chosen_model", "rejected_model",
)  # fmt: skip


def _steps() -> list[dict[str, Any]]:
    """Solutions in steps, of which every second has a wrong last step."""
    return [
        {
            "prompt": f"What is {i} + {i % 5} + 1?",
            "completions": [f"First, {i} + {i % 5} = {i + i % 5}.", f"So it is {i + i % 5 + n}."],
            "labels": [True, n == 1],
        }
        for i in range(MADE)
        for n in (1, 2)
    ]


def _pairs() -> list[dict[str, Any]]:
    """Pairs in which the polite answer wins, with columns for every method."""
    asked = [f"How do I mend thing {i} of kind {i % 5}?" for i in range(MADE)]
    prompts = with_ids(
        pl.DataFrame(
            {"prompt": [[{"role": "user", "content": text}] for text in asked]},
            schema={"prompt": MESSAGES},
        ),
        Shape.PROMPTS,
    )
    return [
        {
            "prompt": asked[i],
            "chosen": f"Certainly, please take part {i} and turn it.",
            "rejected": f"Whatever, go away with thing {i}." + " No." * (i % 3),
            "beta": 0.1 + i / 100,
            "weight": 1.0 + i % 2,
            "chosen_score_log_probability": -1.0 - i / 10,
            "rejected_score_log_probability": -2.0 - i / 10,
            "chosen_score_quality": 8.0,
            "rejected_score_quality": 3.0 + i % 4,
            "chosen_model": f"model {i % 3}",
            "rejected_model": f"model {(i + 1 + i % 2) % 3}",
            "annotator": f"person {i % 4}",
            "dimension": ("politeness", "length")[i % 2],
            "rejected_prompt_id": prompts["prompt_id"][i - 1],
            "sign_politeness": 1,
            "sign_length": (-1, 0, 1)[i % 3],
        }
        for i in range(MADE)
    ]

"""Anchors: frozen prompts that others are compared with, so that scores mean the same next time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prefactory.asking import transcript
from prefactory.context import Context
from prefactory.tables import MESSAGES, with_prompt_id

SCHEMA: dict[str, pl.DataType] = {
    "bucket": pl.String(),
    "prompt_id": pl.String(),
    "prompt": MESSAGES,
    "strength": pl.Float64(),
}
"""Columns of a table of anchors."""


class Anchor(BaseModel):
    """A prompt that others are compared with.

    Attributes:
        prompt: messages of `role` and `content`; a text is one user message.
        bucket: of the prompts that are compared with it.
        strength: on the scale of a Bradley-Terry fit, or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: tuple[dict[str, str], ...] = Field(min_length=1)
    bucket: str = ""
    strength: float | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _messages(cls, value: object) -> object:
        return ({"role": "user", "content": value},) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(set(m) != {"role", "content"} for m in self.prompt):
            raise ValueError("prompt: a message has `role` and `content`")
        return self


def read(value: object) -> object:
    """Anchors as written in a recipe, as data for `Anchor`.

    Args:
        value: "dataset", a list of anchors, or the path of a file with one: JSON lines, a JSON
            list, or a JSON object with `anchors`; or the manifest of a version, whose stage with
            anchors is taken.

    Raises:
        ValueError: the file can't be read or holds no anchors.
    """
    if value == "dataset" or not isinstance(value, str):
        return value
    try:
        text = Path(value).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the anchors {value} can't be read: {error}") from error
    try:
        data = _parsed(text)
    except ValueError as error:
        raise ValueError(f"{value} is neither JSON nor JSON lines: {error}") from error
    entries = _listed(data)
    if not entries:
        raise ValueError(f"{value} holds no anchors")
    return entries


def _parsed(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def _listed(data: Any) -> tuple[Any, ...]:  # noqa: ANN401 - whatever JSON holds
    if isinstance(data, list):
        return tuple(data)
    if not isinstance(data, dict):
        return ()
    infos = [s.get("info") for s in data.get("stages") or [] if isinstance(s, dict)]
    for info in [data, *infos]:
        if isinstance(info, dict) and isinstance(info.get("anchors"), list):
            return tuple(info["anchors"])
    return ()


def table_of(anchors: tuple[Anchor, ...]) -> pl.DataFrame:
    """A table of anchors (`SCHEMA`), each prompt of a bucket once, sorted by bucket and id."""
    rows = {
        "bucket": pl.Series([a.bucket for a in anchors], dtype=pl.String),
        "prompt": pl.Series([list(a.prompt) for a in anchors], dtype=MESSAGES),
        "strength": pl.Series([a.strength for a in anchors], dtype=pl.Float64),
    }
    table = with_prompt_id(pl.DataFrame(rows)).select(*SCHEMA)
    return table.unique(["bucket", "prompt_id"], keep="first").sort("bucket", "prompt_id")


def candidates(prompts: pl.DataFrame, most: int, ctx: Context) -> pl.DataFrame:
    """The prompts of a shard that may become anchors: the `most` lowest draws of each bucket.

    Args:
        prompts: `prompt_id`, `prompt`, `bucket`; each prompt once.
        most: anchors of a bucket.
        ctx: draws by prompt id, so that the choice depends on no cut.

    Returns:
        `prompt_id`, `bucket`, `draw`, `prompt`.
    """
    drawn = prompts.with_columns(draw=ctx.uniform(prompts["prompt_id"], "anchor"))
    return lowest(drawn, most).select("prompt_id", "bucket", "draw", "prompt")


def lowest(drawn: pl.DataFrame, most: int) -> pl.DataFrame:
    """Rows of the `most` lowest draws of each bucket; of equal draws the lower id."""
    ordered = drawn.sort("bucket", "draw", "prompt_id")
    return ordered.filter(pl.int_range(pl.len()).over("bucket") < most)


def picked(prompts: pl.DataFrame, anchors: pl.DataFrame, each: int, ctx: Context) -> pl.DataFrame:
    """Which anchors each prompt is compared with: `each` of its bucket, drawn by both ids.

    A prompt that is an anchor is not compared with itself, unless there is no other.

    Args:
        prompts: `prompt_id`, `bucket`; each prompt once.
        anchors: as `SCHEMA`.
        each: anchors of a prompt.
        ctx: draws.

    Returns:
        `prompt_id` and `anchor_id`, sorted; no row for a prompt without anchors.
    """
    right = anchors.select("bucket", anchor_id="prompt_id")
    both = prompts.select("prompt_id", "bucket").join(right, on="bucket", how="inner")
    both = both.with_columns(own=pl.col("prompt_id") == pl.col("anchor_id"))
    both = both.filter(~pl.col("own") | (pl.len().over("prompt_id") == 1))
    ids = both.select(pl.concat_str("prompt_id", "anchor_id", separator=" ")).to_series()
    both = both.with_columns(draw=ctx.uniform(ids, "pick")).sort("prompt_id", "draw", "anchor_id")
    kept = both.filter(pl.int_range(pl.len()).over("prompt_id") < each)
    return kept.select("prompt_id", "anchor_id").sort("prompt_id", "anchor_id")


def written(anchors: pl.DataFrame) -> list[dict[str, Any]]:
    """Anchors as plain JSON data that `read` takes again."""
    return anchors.select("bucket", "prompt", "strength").to_dicts()


def texts(rows: pl.DataFrame) -> dict[str, str]:
    """Prompt id -> what the judge is shown of it."""
    shown = [transcript(p) for p in rows["prompt"].to_list()]
    return dict(zip(rows["prompt_id"].to_list(), shown, strict=True))

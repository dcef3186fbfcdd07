"""Exports of rows with pictures: messages as parts, and pictures as files beside JSON lines."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prefactory.images.marks import MARK, is_pictures, name_of
from prefactory.images.media import media_type

PARTS: pl.DataType = pl.List(pl.Struct({"type": pl.String, "text": pl.String}))
"""Dtype of a content: parts `{type: text, text}` and `{type: image}`, whose `text` is null."""


def with_parts(rows: pl.DataFrame, prompts: Sequence[str], answers: Sequence[str]) -> pl.DataFrame:
    """Turn the contents of messages into lists of parts, which trainers of vision models read.

    Args:
        rows: with `images`; a null there becomes an empty list.
        prompts: columns of messages whose marks stand for pictures where the user speaks.
        answers: columns of messages without pictures.
    """
    counts = rows["images"].list.len().fill_null(0).to_list()
    columns = [rows["images"].fill_null([])]
    for name in (*prompts, *answers):
        marked = counts if name in prompts else [0] * rows.height
        dtype = rows.schema[name]
        assert isinstance(dtype, pl.List)  # noqa: S101 - a column of messages
        fields = {f.name: f.dtype for f in dtype.inner.fields} | {"content": PARTS}  # type: ignore[union-attr]
        talks = [
            None if talk is None else _in_parts(talk, bool(count))
            for talk, count in zip(rows[name].to_list(), marked, strict=True)
        ]
        columns.append(pl.Series(name, talks, dtype=pl.List(pl.Struct(fields))))
    return rows.with_columns(columns)


def _in_parts(talk: list[dict[str, Any]], pictured: bool) -> list[dict[str, Any]]:
    out = []
    for message in talk:
        shows = pictured and message["role"] != "assistant"
        out.append({**message, "content": _parts(message["content"], shows)})
    return out


def _parts(content: str | None, shows: bool) -> list[dict[str, str | None]] | None:
    if content is None:
        return None
    if not shows:
        return [{"type": "text", "text": content}]
    parts: list[dict[str, str | None]] = []
    for place, piece in enumerate(content.split(MARK)):
        parts += [{"type": "image", "text": None}] if place else []
        parts += [{"type": "text", "text": piece}] if piece.strip() else []
    return parts or [{"type": "text", "text": content}]


def write_folder(batches: Iterable[pl.DataFrame], folder: Path) -> int:
    """Write rows as JSON lines beside their pictures, which lie there once each.

    That is the form of the `imagefolder` of `datasets`: `metadata.jsonl`, whose column
    `images_file_names` becomes the column `images`.

    Args:
        batches: rows with columns of pictures.
        folder: of one split; made.

    Returns:
        Number of rows.
    """
    (folder / "images").mkdir(parents=True)
    written = 0
    with (folder / "metadata.jsonl").open("wb") as file:
        for rows in batches:
            named = [c for c, d in rows.schema.items() if is_pictures(d)]
            files = {f"{c}_file_names": _files(rows[c], folder) for c in named}
            plain = rows.drop(named).with_columns(
                pl.Series(name, values, dtype=pl.List(pl.String)) for name, values in files.items()
            )
            lines = io.BytesIO()
            plain.write_ndjson(lines)
            file.write(lines.getvalue())
            written += rows.height
    return written


def _files(column: pl.Series, folder: Path) -> list[list[str] | None]:
    listed: list[list[str] | None] = []
    for row in column.to_list():
        names = []
        for picture in row or ():
            data = picture["bytes"]
            kind = (media_type(data) or "image/bin").removeprefix("image/")
            name = f"images/{name_of(data)}.{kind}"
            if not (folder / name).exists():
                (folder / name).write_bytes(data)
            names.append(name)
        listed.append(None if row is None else names)
    return listed

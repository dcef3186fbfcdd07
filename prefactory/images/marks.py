"""Marks of pictures in prompts: `<image>` beside a column of pictures, `<image:NAME>` in a run.

`NAME` is the BLAKE2b-128 digest of the picture's bytes in 32 letters from a to p: no digits, so
that nothing that looks for numbers in texts finds any in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import polars as pl

from prefactory.errors import DataError

IMAGES: pl.DataType = pl.List(pl.Struct({"bytes": pl.Binary, "path": pl.String}))
"""Dtype of a column of pictures, as `datasets.Image` stores them: of a row any number, in order.

Where `bytes` is null, `path` is the name of bytes that a store holds.
"""
MARK = "<image>"
NAMED = re.compile(r"<image:([a-p]{32})>")
_POLARS_NAMED = r"<image:([a-p]{32})>"
_FORGED = re.compile(r"<image:(?=[a-p]{32}>)")
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


class Pictures(Protocol):
    """Where bytes lie by their name."""

    def put(self, data: bytes) -> str:
        """Keep bytes; return their name."""

    def get(self, name: str) -> bytes:
        """The bytes of a name."""


class Held:
    """Pictures held in memory."""

    def __init__(self, most: int | None = None) -> None:
        """Hold none.

        Args:
            most: bytes that are kept in all; of what comes after only the names are made.
        """
        self._bytes: dict[str, bytes] = {}
        self._left = most

    def put(self, data: bytes) -> str:
        """Keep bytes; return their name."""
        name = name_of(data)
        if name not in self._bytes and (self._left is None or len(data) <= self._left):
            self._bytes[name] = data
            self._left = None if self._left is None else self._left - len(data)
        return name

    def get(self, name: str) -> bytes:
        """The bytes of a name.

        Raises:
            DataError: there are none.
        """
        if name not in self._bytes:
            raise DataError(f"there is no picture {name}")
        return self._bytes[name]


def name_of(data: bytes) -> str:
    """Name of a picture: 32 letters from a to p, the same for the same bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest().translate(_LETTERS)


def mark_of(name: str) -> str:
    """The mark that stands for a picture within a run."""
    return f"<image:{name}>"


def is_named(message: pl.Expr) -> pl.Expr:
    """Whether messages (Struct) hold the name of a picture in a mark."""
    return message.struct.field("content").str.contains(_POLARS_NAMED).fill_null(value=False)


def unnamed(text: str) -> str:
    """A text of a run with plain marks."""
    return NAMED.sub(MARK, text)


def is_pictures(dtype: pl.DataType | None) -> bool:
    """Tell whether a column of a dtype holds pictures."""
    return dtype == IMAGES


def names(column: pl.Series, put: Callable[[bytes], str]) -> list[list[str]]:
    """The names of the pictures of each row; none for a null row.

    Args:
        column: of `IMAGES`.
        put: is given the bytes of each distinct picture, and returns its name.

    Raises:
        DataError: a picture has neither bytes nor the name of some.
    """
    known: dict[bytes, str] = {}
    listed = []
    for row in column.to_list():
        own = []
        for picture in row or ():
            data = (picture or {}).get("bytes")
            if data is None:
                own.append(_own_name((picture or {}).get("path")))
                continue
            if data not in known:
                known[data] = put(data)
            own.append(known[data])
        listed.append(own)
    return listed


def _own_name(path: str | None) -> str:
    if path is None or re.fullmatch("[a-p]{32}", path) is None:
        raise DataError(
            f"a picture has no bytes but the path {path!r}: read the file, and put its bytes there"
        )
    return path


def count_marks(conversation: Sequence[Mapping[str, Any]] | None) -> int:
    """How many marks `<image>` stand in a prompt; what an assistant says is text."""
    said = (m["content"] or "" for m in conversation or () if m["role"] != "assistant")
    return sum(text.count(MARK) for text in said)


def placed(conversation: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """A prompt with a mark for each of its pictures: where none stands, before the user's words.

    Raises:
        DataError: there are marks, and not as many as pictures; or nobody but the assistant speaks.
    """
    marks = count_marks(conversation)
    if count in (0, marks):  # without pictures a mark is text
        return conversation
    if marks:
        raise DataError(f"{count} pictures, but {marks} marks {MARK} in the prompt")
    at = next((i for i, m in enumerate(conversation) if m["role"] == "user"), None)
    if at is None:
        raise DataError(f"{count} pictures, but no message of a user that they could belong to")
    first = {**conversation[at], "content": MARK * count + (conversation[at]["content"] or "")}
    return [*conversation[:at], first, *conversation[at + 1 :]]


def _named(conversation: list[dict[str, Any]], row: Sequence[str]) -> list[dict[str, Any]]:
    """A prompt whose marks hold the names of its pictures; marks that data forged hold none."""
    left = iter(row)
    out = []
    for message in placed(conversation, len(row)):
        content = _FORGED.sub("<image :", message["content"] or "")
        if row and message["role"] != "assistant":
            pieces = content.split(MARK)
            content = pieces[0] + "".join(mark_of(next(left)) + piece for piece in pieces[1:])
        out.append({**message, "content": content if message["content"] is not None else None})
    return out


def bound_prompts(table: pl.DataFrame, put: Callable[[bytes], str]) -> pl.Series:
    """The column `prompt` of a table with `images`, with the pictures' names in their marks.

    Raises:
        DataError: a row has pictures and marks, and not as many of one as of the other.
    """
    pictures = names(table["images"], put)
    prompts = table["prompt"]
    forged = prompts.explode(empty_as_null=False, keep_nulls=False).struct.field("content")
    if not any(pictures) and not forged.str.contains("<image:", literal=True).any():
        return prompts
    rows = [
        row if row is None else _named(row, own)
        for row, own in zip(prompts.to_list(), pictures, strict=True)
    ]
    return pl.Series("prompt", rows, dtype=prompts.dtype)


def bind(table: pl.DataFrame, pictures: Pictures) -> pl.DataFrame:
    """Bring a table to the form that it has within a run.

    `images` goes into the marks of `prompt`; other columns of pictures hold their names only.

    Args:
        table: of any shape.
        pictures: keeps the bytes.
    """
    own = [c for c, d in table.schema.items() if is_pictures(d) and c != "images"]
    changed = [_light(table[c], pictures.put) for c in own]
    if "images" in table.columns:
        changed.append(bound_prompts(table, pictures.put).alias("prompt"))
    return table.with_columns(changed).drop("images", strict=False) if changed else table


def _light(column: pl.Series, put: Callable[[bytes], str]) -> pl.Series:
    rows = [[{"bytes": None, "path": n} for n in row] for row in names(column, put)]
    light = pl.Series(column.name, rows, dtype=IMAGES)
    held = pl.DataFrame([light, column.is_not_null().alias("_there")])
    return held.select(pl.when("_there").then(column.name).alias(column.name)).to_series()


def of_prompt(prompts: pl.Series) -> pl.Series:
    """The names of the pictures of each prompt within a run, in order: List(String)."""
    content = pl.element().struct.field("content").str.extract_all(_POLARS_NAMED)
    found = prompts.alias("p").to_frame().select(pl.col("p").list.eval(content.explode()))
    inner = pl.element().str.extract(_POLARS_NAMED, 1)
    return found.select(pl.col("p").list.drop_nulls().list.eval(inner)).to_series()


def pictures_key(prompts: pl.Series) -> pl.Series:
    """The names of each prompt's pictures as one String; empty where it has none."""
    named = of_prompt(prompts).alias("pictures").to_frame()
    return named.select(pl.col("pictures").list.join(" ").fill_null("")).to_series()


def unbind(table: pl.DataFrame, pictures: Pictures, *, with_bytes: bool = True) -> pl.DataFrame:
    """Bring a table of a run to the form that people and trainers see; undoes `bind`.

    Args:
        table: of any shape; its prompts hold names in their marks.
        pictures: has the bytes.
        with_bytes: put the bytes into the columns of pictures; else their names.

    Returns:
        The table with `images` after `prompt`, an empty list where a row has none.
    """
    listed = of_prompt(table["prompt"])
    content = pl.element().struct.field("content").str.replace_all(_POLARS_NAMED, MARK)
    prompt = pl.col("prompt").list.eval(pl.element().struct.with_fields(content=content))
    columns = {"images": _heavy(listed.to_list(), pictures, with_bytes)}
    for name, dtype in table.schema.items():
        if is_pictures(dtype):
            rows = [r if r is None else [p["path"] for p in r] for r in table[name].to_list()]
            columns[name] = _heavy(rows, pictures, with_bytes)
    table = table.with_columns(prompt, *[c.alias(n) for n, c in columns.items()])
    at = table.columns.index("prompt") + 1
    order = [c for c in table.columns if c != "images"]
    return table.select(*order[:at], "images", *order[at:])


def _heavy(rows: Sequence[Sequence[str] | None], pictures: Pictures, with_bytes: bool) -> pl.Series:
    distinct = {name for row in rows for name in row or ()} if with_bytes else set()
    known = {name: pictures.get(name) for name in sorted(distinct)}
    made = [
        None
        if row is None
        else [
            {"bytes": known[n], "path": None} if with_bytes else {"bytes": None, "path": n}
            for n in row
        ]
        for row in rows
    ]
    return pl.Series(made, dtype=IMAGES)

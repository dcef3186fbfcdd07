"""The pictures of records: found in a column or among the parts of messages, and read to bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from catalog.sources.chunks import Chunk
from catalog.sources.columns import ROW, Path, value_at
from catalog.sources.layouts.base import Draft, Rule
from catalog.sources.messages import (
    PICTURE_PARTS,
    UnreadableError,
    from_written,
    looks_written,
)
from catalog.sources.pictures.allowed import Fetcher, NotFetchedError, path_of
from prefactory.images.marks import IMAGES, MARK, placed
from prefactory.images.media import MOST_BYTES, described, from_base64, media_type

COLUMNS = (
    "images", "image", "image_paths", "image_path", "image_urls", "image_url", "image_files",
    "image_file",
)  # fmt: skip
"""Names of the column of a record's pictures, ours first: a list, or one picture."""
_WEB = ("http://", "https://")
_ADDRESSES = ("url", "image_url", "image", "path", "data", "base64", "source", "file")
"""Keys of an object that may hold a picture or say where one is, in this order."""

_ABOUT_PARTS = ("type", "detail", "index", "min_pixels", "max_pixels")
"""Keys of a part that only marks the place of a picture."""

OF_ROW: dict[str, pl.DataType] = {
    "images": IMAGES,
    "_reason": pl.String(),
    "_detail": pl.String(),
    "_odd": pl.String(),
}
"""What is known of the pictures of each record: reason and detail of those that can't be had, and
what is odd about those that can."""


@dataclass(frozen=True)
class Reader:
    """Reads pictures; what is to be fetched goes through `fetcher`."""

    fetcher: Fetcher

    def rows(self, values: Sequence[Any]) -> pl.DataFrame:
        """Read the pictures of records.

        Args:
            values: of each record its pictures as found: a list, one, or None.

        Returns:
            `OF_ROW`, one row a record; a record without pictures has an empty list.
        """
        made: dict[str, list[Any]] = {name: [] for name in OF_ROW}
        for value in values:
            reason = detail = odd = None
            own: list[dict[str, Any]] = []
            try:
                pictures = [data for item in listed(value) if (data := self.one(item)) is not None]
                own = [{"bytes": data, "path": None} for data in pictures]
                odd = next((o for data in pictures if (o := _odd(data))), None)
            except NotFetchedError as error:
                reason, detail = error.reason, error.detail
            row = (own, reason, detail, odd)
            for name, cell in zip(OF_ROW, row, strict=True):
                made[name].append(cell)
        return pl.DataFrame(made, schema=OF_ROW)

    def one(self, value: Any) -> bytes | None:  # noqa: ANN401 - any value
        """The bytes of one picture; None where there is none.

        Raises:
            NotFetchedError: it can't be had.
        """
        found = held(value)
        if found is None:
            return None
        if isinstance(found, bytes):
            return _checked(found)
        if found.lower().startswith(_WEB):
            return _checked(self.fetcher.url(found))
        return _checked(self.fetcher.file(path_of(found)))


def _checked(data: bytes) -> bytes:
    if len(data) > MOST_BYTES:
        raise NotFetchedError("image_too_large", f"a picture has {len(data):,} bytes")
    if not data:
        raise NotFetchedError("image_missing", "a picture has no bytes")
    if media_type(data) is None:
        raise NotFetchedError("image_unknown", "a picture is of no format that is known")
    problem = described(data).problem
    if "pixels" in problem:
        raise NotFetchedError("image_too_large", f"a picture {problem}")
    return data


def _odd(data: bytes) -> str | None:
    """What is odd about a picture that is kept."""
    about = described(data)
    return f"a picture {about.problem} ({about.size:,} bytes)" if about.problem else None


def listed(value: Any) -> list[Any]:  # noqa: ANN401 - any value
    """Pictures as a list: one picture is a list of one."""
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        import orjson

        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            return [value]
        return parsed if isinstance(parsed, list) else [value]
    return [value]


def held(value: Any) -> bytes | str | None:  # noqa: ANN401 - any value
    """The bytes of a picture, or where it is: a path or an address; None where there is none.

    Read are bytes, base64 and `data:` URLs, paths and addresses, `{bytes, path}` of `datasets`, and
    the parts of OpenAI, Anthropic, Qwen and transformers.

    Raises:
        NotFetchedError: it is nothing of that kind.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return text if (text := from_base64(value)) is not None else _named(value)
    if isinstance(value, Mapping):
        return _held_object(value)
    raise NotFetchedError("wrong_type", f"a picture is a {type(value).__name__}")


def _held_object(value: Mapping[str, Any]) -> bytes | str | None:
    data = value.get("bytes")
    if isinstance(data, str):
        data = _decoded(data)
    if isinstance(data, list) and all(type(n) is int and 0 <= n < 256 for n in data):
        data = bytes(data)
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    for key in _ADDRESSES:
        if (inner := value.get(key)) not in (None, ""):
            return held(inner)
    unknown = [k for k, v in value.items() if v not in (None, "") and k not in _ABOUT_PARTS]
    if unknown:
        raise NotFetchedError("wrong_type", f"a picture is an object of {', '.join(unknown)}")
    return None


def _named(text: str) -> str:
    if text[:5].lower() == "data:":
        raise NotFetchedError("image_unknown", "a `data:` address holds no picture")
    return text


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise NotFetchedError("image_unknown", "the bytes of a picture are no base64") from error


def to_fetch(value: Any) -> str | None:  # noqa: ANN401 - any value
    """The first path or address among pictures as found; None if all of them hold their bytes."""
    for item in listed(value):
        try:
            where = held(item)
        except NotFetchedError:
            continue
        if isinstance(where, str):
            return where
    return None


def picture_parts(messages: Any) -> Iterator[Any]:  # noqa: ANN401 - any value
    """The parts of messages, as found, that are pictures, in order."""
    if isinstance(messages, str):
        messages = written(messages)
    if isinstance(messages, Mapping):
        messages = messages.get("messages", [messages])
    for message in messages if isinstance(messages, list | tuple) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        content = [content] if isinstance(content, Mapping) else content
        for part in content if isinstance(content, list | tuple) else ():
            if isinstance(part, Mapping) and is_picture_part(part):
                yield part


def written(text: str) -> Any:  # noqa: ANN401 - JSON value
    """The messages that a text is the JSON of; the text itself if it is none."""
    try:
        return from_written(text) if looks_written(text) else text
    except UnreadableError:
        return text


def is_picture_part(part: Mapping[str, Any]) -> bool:
    """Tell whether a part of a message is a picture: by its type, or by what it has."""
    kind = part.get("type")
    if kind is None:
        return part.get("text") is None and any(part.get(k) is not None for k in PICTURE_PARTS[:2])
    return kind in PICTURE_PARTS


def shows_pictures(value: Any) -> bool:  # noqa: ANN401 - any value
    """Tell whether a value is messages with a picture among their parts."""
    return next(picture_parts(value), None) is not None


@dataclass(frozen=True, slots=True)
class Where:
    """Where the pictures of a record lie.

    Attributes:
        column: path of the column that holds them.
        messages: path of the messages whose parts hold them.
    """

    column: Path | None = None
    messages: Path | None = None

    @property
    def columns(self) -> set[str]:
        """Names of the columns to read."""
        return {path[0] for path in (self.column, self.messages) if path}


def pictures_of(chunk: Chunk, file: str, where: Where, reader: Reader) -> pl.DataFrame:
    """Read the pictures of a chunk.

    Pictures among the parts of messages come before those of the column, which fill the parts that
    hold none (`{type: image}`) where there are any.

    Returns:
        `OF_ROW`, the id of the record (`_row`) and how many parts are pictures (`_places`).
    """
    found = [found_pictures(record, where) for record in records_of(chunk, where.columns)]
    rows = [f"{file}:{line}" for line in chunk.lines]
    places = [0] * len(rows)
    if where.messages is not None:
        records = records_of(chunk, where.columns)
        parts = (picture_parts(value_at(record, where.messages)) for record in records)
        places = [sum(1 for _ in own) for own in parts]
    return reader.rows(found).with_columns(
        pl.Series(ROW, rows, dtype=pl.String), pl.Series("_places", places, dtype=pl.Int64)
    )


def records_of(chunk: Chunk, columns: set[str]) -> list[dict[str, Any]]:
    """The records of a chunk; of a table only some of its columns."""
    if chunk.records is not None:
        return chunk.records
    table = chunk.table if chunk.table is not None else pl.DataFrame()
    return table.select(c for c in table.columns if c in columns).to_dicts()


def found_pictures(record: dict[str, Any], where: Where) -> list[Any]:
    """The pictures of a record as found, in the order of the marks that stand for them."""
    column = [] if where.column is None else listed(value_at(record, where.column))
    if where.messages is None:
        return column
    left = iter(column)
    parts = list(picture_parts(value_at(record, where.messages)))
    filled = [part if _holds(part) else next(left, None) for part in parts]
    return [*filled, *left] if any(not _holds(p) for p in parts) or not parts else filled


def _holds(part: Any) -> bool:  # noqa: ANN401 - any value
    try:
        return held(part) is not None
    except NotFetchedError:
        return True


def with_pictures(draft: Draft, pictures: pl.DataFrame) -> Draft:
    """Put the pictures of the records beside the rows of a draft, and marks into their prompts.

    Rows are rejected whose pictures can't be had, or do not fit the marks in their prompt.
    """
    frame = draft.frame.join(pictures, on=ROW, how="left", maintain_order="left")
    said = pl.element().struct.field("role") != "assistant"
    content = pl.element().filter(said).struct.field("content")
    marks = content.str.count_matches(MARK, literal=True)
    user = (pl.element().struct.field("role") == "user").any()
    count = pl.col("images").list.len().cast(pl.Int64)
    frame = frame.with_columns(
        _marks=pl.col("prompt").list.eval(marks).list.sum().fill_null(0).cast(pl.Int64),
        _user=pl.col("prompt").list.eval(user).list.first().fill_null(value=False),
    )
    text = (count == 0) & (pl.col("_places") == 0)
    fits = text | (count == pl.col("_marks")) | ((pl.col("_marks") == 0) & pl.col("_user"))
    told = pl.format("{} pictures, {} marks <image> in the prompt", count, "_marks")
    mismatch: Rule = (~fits, "image_count", told)
    reasons = pictures["_reason"].drop_nulls().unique(maintain_order=True).to_list()
    own: tuple[Rule, ...] = tuple((pl.col("_reason") == r, r, pl.col("_detail")) for r in reasons)
    notes: tuple[Rule, ...] = ((pl.col("_odd").is_not_null(), "damaged_image", pl.col("_odd")),)
    bare = frame.select((count > 0) & (pl.col("_marks") == 0) & pl.col("_user")).to_series()
    if bare.any():
        frame = frame.with_columns(_with_marks(frame, bare))
    return Draft(frame, (*own, mismatch, *draft.rejects), (*draft.notes, *notes))


def _with_marks(frame: pl.DataFrame, bare: pl.Series) -> pl.Series:
    prompts = frame["prompt"].clone()
    rows = frame.filter(bare)
    counts = rows["images"].list.len().to_list()
    marked = [placed(p, n) for p, n in zip(rows["prompt"].to_list(), counts, strict=True)]
    at = bare.arg_true()
    new = pl.DataFrame({"i": at, "new": pl.Series(marked, dtype=prompts.dtype)})
    old = pl.DataFrame({"old": prompts}).with_row_index("i")
    joined = old.join(new, on="i", how="left", maintain_order="left")
    return joined.select(pl.coalesce("new", "old").alias("prompt")).to_series()

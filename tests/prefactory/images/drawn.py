"""Pictures drawn for tests, and tables of rows with them."""

import io
import struct
import zlib

import polars as pl
from PIL import Image

from prefactory.images.marks import IMAGES
from prefactory.tables import canonical_order, shape_of, with_ids


def square(colour, side=8, kind="PNG"):
    """A picture of one colour, as bytes."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, kind)
    return out.getvalue()


def bomb(side=100_000):
    """A PNG of a few bytes that says it has `side` times `side` pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def pictured(table, *rows):
    """A table whose rows have these pictures (lists of bytes), with the ids that they then have."""
    images = [None if row is None else [{"bytes": b, "path": None} for b in row] for row in rows]
    shape = shape_of(table)
    table = table.with_columns(pl.Series("images", images, dtype=IMAGES))
    return canonical_order(with_ids(table, shape), shape)


def bytes_of(table):
    """The pictures of each row as lists of bytes."""
    return [[p["bytes"] for p in row] for row in table["images"].to_list()]

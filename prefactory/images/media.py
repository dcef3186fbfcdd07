"""What a picture is, and a small picture of it to show: Pillow opens what data brought.

Only a few formats are opened, nothing of more than `MOST_PIXELS` is decoded, and what a page shows
is always drawn anew: no byte of the data reaches a browser.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefactory.errors import DataError
from prefactory.extras import package

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What Pillow may open: formats without code, without links, with one decoder of their own."""
MOST_PIXELS = 64_000_000
"""Pixels of a picture that is decoded; a bomb of a few kilobytes can unpack to gigabytes."""
MOST_BYTES = 32 * 1024 * 1024
"""Bytes of one picture of a source."""
SMALL = 160
"""Longest side, in pixels, of a picture on a page."""
_MAGIC = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
}
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


class UnreadableImageError(DataError):
    """Bytes are no picture that is opened; the text says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a picture is; `width` and `height` are 0 where it can't be opened.

    Attributes:
        kind: its format by its first bytes (`PNG`), or `unknown`.
        size: bytes.
        problem: why it can't be opened; empty if it can, or if Pillow is not installed.
    """

    kind: str
    size: int
    width: int = 0
    height: int = 0
    problem: str = ""

    def __str__(self) -> str:
        """In words: `PNG picture, 8 x 8, 75 bytes`."""
        sides = f", {self.width} x {self.height}" if self.width else ""
        wrong = f", {self.problem}" if self.problem else ""
        return f"{self.kind} picture{sides}, {self.size:,} bytes{wrong}"


def media_type(data: bytes) -> str | None:
    """The media type of a picture by its first bytes; None if they are of no known format."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


def described(data: bytes) -> Described:
    """What a picture is, from its head: nothing is decoded."""
    kind = (media_type(data) or "image/unknown").removeprefix("image/")
    kind = kind if kind == "unknown" else kind.upper()
    try:
        with opened(data) as picture:
            return Described(kind, len(data), *picture.size)
    except UnreadableImageError as error:
        return Described(kind, len(data), problem=str(error))
    except ImportError:
        return Described(kind, len(data))


def opened(data: bytes) -> Image:
    """Open a picture; its pixels are decoded when they are asked for.

    Raises:
        UnreadableImageError: it is of no format that is opened, damaged, or of too many pixels.
        MissingPackageError: Pillow is not installed.
    """
    pillow = package("PIL.Image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs: the number of pixels is checked below
            picture: Image = pillow.open(io.BytesIO(data), formats=FORMATS)
    except pillow.DecompressionBombError as error:
        raise UnreadableImageError("has too many pixels to be opened") from error
    except Exception as error:  # a decoder may raise anything at bytes that are no picture
        raise UnreadableImageError("can't be opened") from error
    if picture.width * picture.height > MOST_PIXELS:
        sides = f"{picture.width} x {picture.height}"
        raise UnreadableImageError(f"has {sides} pixels, more than {MOST_PIXELS:,}")
    return picture


def decoded(data: bytes) -> Image:
    """The pixels of a picture as RGB, the right way up; of an animated one the first frame.

    Raises:
        UnreadableImageError: see `opened`.
        MissingPackageError: Pillow is not installed.
    """
    return _upright(opened(data))


def _upright(picture: Image) -> Image:
    try:
        upright = package("PIL.ImageOps").exif_transpose(picture)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            whole = upright.convert("RGBA")
            white = package("PIL.Image").new("RGBA", whole.size, "white")
            upright = package("PIL.Image").alpha_composite(white, whole)
        rgb: Image = upright.convert("RGB")
    except Exception as error:
        raise UnreadableImageError("is damaged") from error
    return rgb


def png(picture: Image) -> bytes:
    """A picture as PNG: the same pixels give the same bytes, on one version of Pillow."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=6)
    return out.getvalue()


def small(data: bytes, side: int = SMALL) -> str | None:
    """A small JPEG of a picture, drawn anew, as a `data:` URL of a few kilobytes.

    None where it can't be opened, or Pillow is not installed.
    """
    try:
        picture = opened(data)
        picture.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded small
        rgb = _upright(picture)
        rgb.thumbnail((side, side))
        out = io.BytesIO()
        rgb.save(out, "JPEG", quality=70)
    except (UnreadableImageError, ImportError, OSError, ValueError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def from_base64(text: str) -> bytes | None:
    """The bytes of a picture that is written as base64 or as a `data:` URL; None of other texts."""
    head = _DATA_URL.match(text)
    body = text[head.end() :] if head else text
    if not head and (len(body) < 16 or not re.fullmatch(r"[A-Za-z0-9+/\s]+=*\s*", body[:4096])):
        return None
    try:
        data = base64.b64decode(re.sub(r"\s+", "", body), validate=True)
    except ValueError:
        return None
    return data if head or media_type(data) is not None else None


def in_words(value: object) -> object:
    """A value of a row with words in place of pictures and other bytes, so that JSON can hold it.

    A picture is `PNG picture, 8 x 8, 75 bytes`; other bytes are counted.
    """
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, list):
        return [in_words(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"bytes", "path"} and isinstance(value["bytes"], bytes):
            return str(described(value["bytes"]))
        return {key: in_words(item) for key, item in value.items()}
    return value

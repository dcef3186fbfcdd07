"""Pictures composed of pictures, by Pillow: numbered tiles of a grid, and one set into another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefactory.extras import package
from prefactory.images.media import decoded, png

if TYPE_CHECKING:
    from PIL.Image import Image

TILE = 336
"""Side of a tile, in pixels: what the eyes of LLaVA-1.5 see."""
STRIP = 24
"""Height of the strip above a tile, in pixels, in which its number stands."""
INSET = 3
"""The inner picture takes a third of each side of the outer one."""


def grid(pictures: Sequence[bytes], tile: int = TILE) -> bytes:
    """Numbered tiles, row by row, in about as many rows as columns, on white.

    Args:
        pictures: 2 to 9; each is fitted into a square without being stretched.
        tile: side of a tile, in pixels.

    Returns:
        A PNG. Tile i (from 0) begins at `tile_at(i, n, tile)`.

    Raises:
        UnreadableImageError: a picture can't be opened.
    """
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    canvas = package("PIL.Image").new("RGB", (columns * tile, rows * (tile + STRIP)), "white")
    draw = package("PIL.ImageDraw").Draw(canvas)
    for i, data in enumerate(pictures):
        x, y = tile_at(i, len(pictures), tile)
        draw.text((x + 6, y - STRIP + 4), str(i + 1), fill="black")
        fitted = _fitted(decoded(data), tile)
        canvas.paste(fitted, (x + (tile - fitted.width) // 2, y + (tile - fitted.height) // 2))
    return png(canvas)


def tile_at(i: int, n: int, tile: int = TILE) -> tuple[int, int]:
    """Left upper corner of tile i of n, in pixels."""
    columns = math.ceil(math.sqrt(n))
    return (i % columns) * tile, (i // columns) * (tile + STRIP) + STRIP


def inset(inner: bytes, outer: bytes, side: int = 2 * TILE) -> bytes:
    """A small picture in the middle of a large one, a white line around it.

    Args:
        inner: the small one.
        outer: the large one, fitted into a square of `side` pixels.
        side: of the result.

    Raises:
        UnreadableImageError: a picture can't be opened.
    """
    canvas = package("PIL.Image").new("RGB", (side, side), "white")
    around = _fitted(decoded(outer), side)
    canvas.paste(around, ((side - around.width) // 2, (side - around.height) // 2))
    small = package("PIL.ImageOps").expand(_fitted(decoded(inner), side // INSET), 4, "white")
    canvas.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return png(canvas)


def _fitted(picture: Image, side: int) -> Image:
    """A picture as large as it can be in a square, its shape kept."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, package("PIL.Image").Resampling.BICUBIC)

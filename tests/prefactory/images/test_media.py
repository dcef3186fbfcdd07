import base64
import io

import pytest
from PIL import Image

from prefactory.images.media import (
    UnreadableImageError,
    decoded,
    described,
    from_base64,
    in_words,
    media_type,
    opened,
    png,
    small,
)
from tests.prefactory.images.drawn import bomb, square

RED = square("red")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_pictures_are_known_by_their_first_bytes(kind):
    data = square("red", 16, kind)
    assert media_type(data) == f"image/{kind.lower()}"
    assert (described(data).kind, described(data).width) == (kind, 16)
    assert small(data).startswith("data:image/jpeg;base64,")


def test_what_is_no_picture_is_said_and_never_raised():
    assert str(described(b"\x89PNG")) == "PNG picture, 4 bytes, can't be opened"
    assert described(b"<svg onload=alert(1)>").kind == "unknown"
    assert small(b"\x89PNG") is None
    cut = square("red", 64, "PNG")[:-30]
    assert small(cut) is None


def test_a_bomb_is_refused_before_it_unpacks():
    data = bomb()
    assert len(data) < 200
    with pytest.raises(UnreadableImageError, match="pixels"):
        opened(data)
    assert "pixels" in described(data).problem
    assert small(data) is None
    with pytest.raises(UnreadableImageError, match="pixels"):
        opened(bomb(9000))


def test_a_format_that_may_hold_code_is_not_opened():
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "EPS")
    with pytest.raises(UnreadableImageError):
        opened(out.getvalue())


def test_what_a_page_shows_is_drawn_anew_and_small():
    out = io.BytesIO()
    Image.effect_noise((1500, 900), 80).save(out, "PNG")
    hidden = out.getvalue() + b"<script>alert(1)</script>"
    url = small(hidden)
    assert len(url) < 20_000
    data = base64.b64decode(url.partition(",")[2])
    assert b"<script>" not in data
    with Image.open(io.BytesIO(data)) as picture:
        assert max(picture.size) == 160


def test_a_turned_photograph_is_shown_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    out = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(out, "JPEG", exif=exif)
    assert decoded(out.getvalue()).size == (20, 40)
    with Image.open(io.BytesIO(base64.b64decode(small(out.getvalue()).partition(",")[2]))) as shown:
        assert shown.size == (20, 40)


def test_transparent_pictures_lie_on_white():
    out = io.BytesIO()
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(out, "PNG")
    assert decoded(out.getvalue()).getpixel((0, 0)) == (255, 255, 255)


def test_png_is_the_same_for_the_same_pixels():
    assert png(decoded(RED)) == png(decoded(square("red", kind="BMP")))


def test_base64_is_read_where_it_is_a_picture():
    text = base64.b64encode(RED).decode()
    assert from_base64(text) == RED
    assert from_base64(f"data:image/png;base64,{text}") == RED
    assert from_base64("cat.png") is None
    assert from_base64("aGVsbG8gd29ybGQgaGVsbG8=") is None  # text, no picture


def test_rows_in_words_hold_no_bytes():
    row = {"images": [{"bytes": RED, "path": None}], "blob": b"abc", "x": 1}
    assert in_words(row) == {
        "images": [f"PNG picture, 8 x 8, {len(RED)} bytes"], "blob": "3 bytes", "x": 1
    }  # fmt: skip

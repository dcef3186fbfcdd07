import io

import polars as pl
import pytest
from PIL import Image, ImageStat

from generators import ComposedImages
from generators.images.canvas import STRIP, grid, inset, tile_at
from generators.images.composed import question
from prefactory.engines.base import Completion
from prefactory.errors import ConfigError
from prefactory.images.marks import Held, mark_of
from prefactory.tables import Shape, check
from prefactory.testing import apply_step, check_step, pairs, user
from tests.prefactory.images.drawn import bytes_of, pictured, square

COLOURS = ("red", "blue", "lime", "yellow", "black", "cyan", "magenta", "gray", "orange", "navy")
RGB = {c: Image.new("RGB", (1, 1), c).getpixel((0, 0)) for c in COLOURS}
PICTURES = {c: square(c, 40) for c in COLOURS}


def table(n=10):
    rows = [(f"<image>What colour is square {i}?", f"It is {c}.", "It is pink.")
            for i, c in enumerate(COLOURS[:n])]  # fmt: skip
    return pictured(pairs(*rows), *[[PICTURES[c]] for c in COLOURS[:n]])


def mean(picture, box):
    return tuple(round(x) for x in ImageStat.Stat(picture.crop(box)).mean)


@pytest.mark.parametrize("n", range(2, 10))
def test_each_tile_of_a_grid_has_its_colour(n):
    with Image.open(io.BytesIO(grid([PICTURES[c] for c in COLOURS[:n]], 48))) as picture:
        for i, colour in enumerate(COLOURS[:n]):
            x, y = tile_at(i, n, 48)
            assert mean(picture, (x, y, x + 48, y + 48)) == RGB[colour]
            number = picture.crop((x, y - STRIP, x + 48, y))
            assert min(ImageStat.Stat(number).extrema[0]) < 64  # its number is written there
        assert picture.width * picture.height <= 48 * 3 * (48 + STRIP) * 3


def test_the_inner_picture_is_in_the_middle_of_the_outer():
    with Image.open(io.BytesIO(inset(PICTURES["red"], PICTURES["blue"], 90))) as picture:
        assert picture.size == (90, 90)
        assert mean(picture, (31, 31, 59, 59)) == RGB["red"]
        assert mean(picture, (0, 0, 90, 20)) == RGB["blue"]


def test_no_picture_is_stretched():
    wide = io.BytesIO()
    Image.new("RGB", (100, 50), "red").save(wide, "PNG")
    with Image.open(io.BytesIO(grid([wide.getvalue(), PICTURES["blue"]], 40))) as picture:
        assert mean(picture, (0, STRIP + 10, 40, STRIP + 30)) == RGB["red"]
        assert mean(picture, (0, STRIP, 40, STRIP + 9)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["sequence", "grid", "picture_in_picture"])
def test_the_question_is_about_the_picture_of_the_pair(kind):
    made = apply_step(ComposedImages(kinds=(kind,), tile=48), table()).rows
    check(made, Shape.PAIRS)
    assert made.height == 10
    for row in made.iter_rows(named=True):
        asked = row["prompt"][-1]["content"]
        colour = row["chosen"][0]["content"].removeprefix("It is ").rstrip(".")
        images = [p["bytes"] for p in row["images"]]
        assert asked.count("<image>") == len(images)
        i, n = row["target"] - 1, row["shown"]
        if kind == "sequence":
            assert len(images) == n
            assert images[i] == PICTURES[colour]
            assert f"In image {i + 1}: What colour" in asked
            assert len(set(images)) == n
        elif kind == "grid":
            with Image.open(io.BytesIO(images[0])) as whole:
                x, y = tile_at(i, n, 48)
                assert mean(whole, (x, y, x + 48, y + 48)) == RGB[colour]
            assert f"In picture {i + 1}: What colour" in asked
        else:
            with Image.open(io.BytesIO(images[0])) as whole:
                assert mean(whole, (40, 40, 56, 56)) == RGB[colour]
        assert row["rejected"][0]["content"] == "It is pink."
        assert (row["contrast"], row["annotator"]) == ("text", "unknown")


def test_the_place_of_the_picture_asked_about_is_drawn_evenly():
    rows = [(f"<image>Which, {i}?", f"The {i}th.", "None.") for i in range(300)]
    pool = [square((i % 256, i // 256, 7), 2) for i in range(300)]
    many = pictured(pairs(*rows), *[[data] for data in pool])
    made = apply_step(ComposedImages(kinds=("sequence",)), many).rows
    counts = made.group_by("shown", "target").len()
    for shown in range(2, 6):
        seen = counts.filter(shown=shown)["len"].to_list()
        expected = sum(seen) / shown
        assert len(seen) == shown
        assert sum((n - expected) ** 2 / expected for n in seen) < 13.3  # chi-square, p .01, 4 df


def test_rows_that_can_not_be_composed_have_a_reason():
    rows = [("<image>One?", "a", "x"), ("None?", "b", "x"), ("<image> <image>?", "c", "x"),
            ("<image>Long?", "d" * 600, "x"), ("<image>Broken?", "e", "x")]  # fmt: skip
    red, blue, lime = (PICTURES[c] for c in ("red", "blue", "lime"))
    odd = pictured(pairs(*rows), [red], [], [red, blue], [lime], [b"\x89PNG"])
    found = apply_step(ComposedImages(kinds=("grid",)), odd)
    assert sorted(set(found.reasons.values())) == ["damaged_image", "long_answer", "not_one_image"]
    alone = pictured(pairs(("<image>One?", "a", "x")), [red])
    assert set(apply_step(ComposedImages(), alone).reasons.values()) == {"too_few_images"}


def wrong(request):
    """Says what it was shown: the number of pictures, and is right about one question."""
    asked = request.conversation[-1]["content"]
    assert request.images is not None
    if "square 3?" in asked:
        return "it is YELLOW."
    if "square 4?" in asked:
        return Completion("sure", "stop", 1, 10, -0.1)
    return Completion("It is green with dots.", "stop", 1, 10, -20.0)


SCRIPTED = {"engine": "scripted", "function": f"{__name__}.wrong"}


def test_a_models_wrong_answer_is_rejected_and_its_right_one_makes_no_pair():
    step = ComposedImages(model=SCRIPTED, kinds=("sequence",))
    found = apply_step(step, table().with_columns(rejected_score_x=pl.lit(1.0)))
    assert sorted(found.reasons.values()) == ["low_perplexity", "same_text"]
    assert set(found.rows["rejected"].list.first().struct.field("content")) == {
        "It is green with dots."
    }
    assert set(found.rows["label_source"]) == {"rule"}
    assert found.rows["rejected_score_x"].null_count() == 8


def test_it_is_a_step():
    check_step(ComposedImages(tile=16))


def test_questions_name_their_picture():
    assert (
        question("sequence", 2, 1, "Why?") == "Image 1: <image>\nImage 2: <image>\nIn image 1: Why?"
    )
    assert question("grid", 4, 3, "Why?").endswith("In picture 3: Why?")


# -- where a model looks -----


def gate_ratio(attentions, runs, target, layer=None):
    from generators.images.attention import _layer, share

    weights = _layer(attentions, layer, "model")[0].float().mean(0)[-1:]
    return share(weights, runs, target)


def test_equal_attention_is_one_over_the_number_of_pictures():
    import torch

    from generators.images.attention import _runs

    marks = [False, True, True, False, True, True, False, True, True, False]
    runs = _runs(marks)
    assert runs == [(1, 3), (4, 6), (7, 9)]
    flat = torch.full((1, 2, 10, 10), 0.1)
    assert gate_ratio([flat, flat], runs, 0) == pytest.approx(1 / 3)
    sharp = flat.clone()
    sharp[..., 1:3] *= 9
    assert gate_ratio([flat, sharp], runs, 0) == pytest.approx(9 / 11)


def test_the_share_is_per_token_and_does_not_follow_length():
    """Known answers of the specification: lengths 10, 30, 60; flat, and ninefold on the first."""
    import torch

    from generators.images.attention import share

    runs = [(0, 10), (10, 40), (40, 100)]
    flat = torch.full((3, 100), 0.01)
    assert [round(share(flat, runs, i), 3) for i in range(3)] == [0.333, 0.333, 0.333]
    sharp = flat.clone()
    sharp[:, :10] *= 9
    assert round(share(sharp, runs, 0), 3) == 0.818
    for k in range(2, 6):
        equal = [(10 * i, 10 * i + 10) for i in range(k)]
        assert share(torch.ones(1, 10 * k), equal, 0) == pytest.approx(1 / k)


def test_a_model_without_attentions_is_refused():
    for nothing in ((), (None, None), None):
        with pytest.raises(ConfigError, match="no attentions"):
            gate_ratio(nothing, [(0, 1)], 0)


@pytest.mark.slow
def test_the_gate_runs_a_real_model(tmp_path):
    from generators.images.attention import AttentionGate
    from tests.prefactory.images.tiny_llava import tiny_llava

    gate = AttentionGate(model=str(tiny_llava(tmp_path / "llava")), device="cpu")
    held = Held()
    marks = [mark_of(held.put(PICTURES[c])) for c in ("red", "blue", "lime")]
    talk = [
        user(f"Image 1: {marks[0]}\nImage 2: {marks[1]}\nImage 3: {marks[2]}\nIn image 2: Why?")
    ]
    ratios = [gate.ratio(talk, held, "Because.", target) for target in range(3)]
    assert sum(ratios) == pytest.approx(1)
    assert all(0 < r < 1 for r in ratios)
    same = [user(f"Image 1: {marks[0]}\nImage 2: {marks[0]}\nIn image 1: Why?")]
    assert gate.ratio(same, held, "Because.", 0) == pytest.approx(0.5, abs=0.15)
    made = apply_step(ComposedImages(kinds=("sequence",), attention=gate), table())
    kept = made.rows.filter(pl.col("attention_ratio") > 0.8)
    assert kept.height == 0
    assert made.rows["attention_ratio"].null_count() == 0


def test_pictures_of_the_result_are_those_of_the_pairs():
    made = apply_step(ComposedImages(kinds=("sequence",)), table()).rows
    assert {b for row in bytes_of(made) for b in row} <= set(PICTURES.values())

import pytest

from generators import NearMissImages
from generators.images.near import thumbnail
from prefactory.images.marks import Held
from prefactory.tables import Shape, check
from prefactory.testing import apply_step, check_step, responses
from tests.prefactory.images.drawn import bytes_of, pictured, square

RED, ROSE, BLUE = square("red"), square((255, 60, 60)), square("blue")


def table():
    rows = [("<image>What colour?", "Red."), ("<image>What colour?", "Rose."),
            ("<image>What colour?", "Blue."), ("No picture?", "None.")]  # fmt: skip
    return pictured(responses(*rows), [RED], [ROSE], [BLUE], [])


def test_the_answer_about_the_nearest_other_picture_is_rejected():
    found = apply_step(NearMissImages(least=0.5, most=0.999), table())
    check(found.rows, Shape.PAIRS)
    sides = {row["chosen"][0]["content"]: row for row in found.rows.iter_rows(named=True)}
    assert sides["Red."]["rejected"][0]["content"] == "Rose."
    assert [p["bytes"] for p in sides["Red."]["near_images"]] == [ROSE]
    assert [p["bytes"] for p in sides["Red."]["images"]] == [RED]
    assert (sides["Red."]["contrast"], sides["Red."]["annotator"]) == ("both", "unknown")
    for row in sides.values():
        assert row["near_images"] != row["images"]
        assert 0.5 <= row["similarity"] <= 0.999
        assert row["chosen_prompt_id"] == row["prompt_id"] != row["rejected_prompt_id"]
    assert sorted(found.reasons.values()) == ["no_near_miss", "not_one_image"]


def test_copies_and_the_picture_itself_are_no_near_misses():
    same = pictured(responses(("<image>A?", "x"), ("<image>B?", "y")), [RED], [RED])
    assert set(apply_step(NearMissImages(), same).reasons.values()) == {"no_near_miss"}
    copy = pictured(responses(("<image>A?", "x"), ("<image>B?", "y")), [RED], [square("red", 9)])
    assert set(apply_step(NearMissImages(), copy).reasons.values()) == {"no_near_miss"}


def test_the_same_question_may_be_asked_for():
    rows = [("<image>What colour?", "Red."), ("<image>How big?", "Small.")]
    other = pictured(responses(*rows), [RED], [ROSE])
    assert apply_step(NearMissImages(most=0.999), other).rows.height == 2
    step = NearMissImages(most=0.999, same_question=True)
    assert set(apply_step(step, other).reasons.values()) == {"no_near_miss"}


def test_a_damaged_picture_costs_its_rows_only():
    rows = [("<image>A?", "x"), ("<image>B?", "y"), ("<image>C?", "z")]
    odd = pictured(responses(*rows), [RED], [ROSE], [b"\x89PNG"])
    found = apply_step(NearMissImages(most=0.999), odd)
    assert found.rows.height == 2
    assert set(found.reasons.values()) == {"damaged_image"}


def test_thumbnails_are_vectors_of_length_one():
    held = Held()
    for data in (RED, square((128, 128, 128)), square((127, 128, 127))):
        vector = thumbnail(held.put(data), held)
        assert vector.shape == (768,)
        assert float(vector @ vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_it_is_a_step():
    check_step(NearMissImages(least=-1))


def test_pictures_go_along():
    made = apply_step(NearMissImages(most=0.999), table()).rows
    assert {b for row in bytes_of(made) for b in row} == {RED, ROSE}

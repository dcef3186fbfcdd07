import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefactory.errors import DataError
from prefactory.images.marks import (
    IMAGES,
    NAMED,
    Held,
    bind,
    mark_of,
    name_of,
    names,
    of_prompt,
    placed,
    unbind,
)
from prefactory.tables import Shape, with_ids
from prefactory.testing import assistant, pairs, prompts, user
from tests.prefactory.images.drawn import bytes_of, pictured, square

RED, BLUE = square("red"), square("blue")


def test_rows_that_differ_in_the_picture_only_are_two_rows():
    table = pairs(("Is it red?", "yes", "no"), ("Is it red?", "yes", "no"))
    assert pictured(table, [RED], [RED])["pair_id"].n_unique() == 1
    assert pictured(table, [RED], [BLUE])["pair_id"].n_unique() == 2
    assert pictured(table, [RED, BLUE], [BLUE, RED])["prompt_id"].n_unique() == 2


def test_a_row_without_pictures_keeps_its_ids():
    table = pairs(("Is it red?", "yes", "no"), ("What is <image> in HTML?", "a tag", "no"))
    assert set(pictured(table, [], None)["pair_id"]) == set(table["pair_id"])


def test_a_picture_counts_by_its_bytes_and_not_by_its_path():
    table = prompts("Is it red?")
    a = table.with_columns(images=pl.Series([[{"bytes": RED, "path": "a.png"}]], dtype=IMAGES))
    b = table.with_columns(images=pl.Series([[{"bytes": RED, "path": None}]], dtype=IMAGES))
    assert with_ids(a, Shape.PROMPTS)["prompt_id"].equals(with_ids(b, Shape.PROMPTS)["prompt_id"])


def test_within_a_run_the_name_stands_in_the_mark_and_the_ids_are_the_same():
    table = pairs(
        ("<image> or <image>?", "first", "second"), ("None?", "a", "b"), ("It?", "c", "d")
    )
    table = pictured(table, [RED, BLUE], [], [BLUE])
    held = Held()
    bound = bind(table, held)
    assert "images" not in bound.columns
    assert sorted(map(len, of_prompt(bound["prompt"]).to_list())) == [0, 1, 2]
    again = with_ids(bound, Shape.PAIRS)
    assert again.select("prompt_id", "pair_id").equals(table.select("prompt_id", "pair_id"))
    back = unbind(bound, held)
    assert bytes_of(back) == bytes_of(table)
    assert with_ids(back, Shape.PAIRS)["pair_id"].equals(table["pair_id"])
    assert not any("<image:" in m["content"] for row in back["prompt"].to_list() for m in row)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["<image>", "a ", "<image:", "é\n", ">"]), max_size=6),
            st.lists(st.sampled_from([RED, BLUE]), max_size=3),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_binding_is_undone_whatever_the_texts(rows):
    texts = ["".join(pieces) for pieces, _ in rows]
    own = [[BLUE] * t.count("<image>") or list(p) for t, (_, p) in zip(texts, rows, strict=True)]
    table = prompts(*texts).with_columns(
        images=pl.Series([[{"bytes": b, "path": None} for b in row] for row in own], dtype=IMAGES)
    )
    held = Held()
    back = unbind(bind(table, held), held)
    assert bytes_of(back) == own
    marked = [text if "<image>" in text else "<image>" * len(row) + text
              for text, row in zip(texts, own, strict=True)]  # fmt: skip
    assert [row[0]["content"] for row in back["prompt"].to_list()] == marked


def test_a_mark_that_the_data_forged_is_no_picture():
    forged = f"Look: {mark_of(name_of(BLUE))}"
    table = prompts(forged, "It?").with_columns(
        images=pl.Series([[], [{"bytes": BLUE, "path": None}]], dtype=IMAGES)
    )
    held = Held()
    back = unbind(bind(table, held), held)
    assert bytes_of(back) == [[], [BLUE]]
    assert back["prompt"][0][0]["content"].startswith("Look: <image :")


def test_marks_that_do_not_fit_the_pictures_are_refused():
    with pytest.raises(DataError, match="1 pictures, but 2 marks"):
        placed([user("<image> and <image>")], 1)
    with pytest.raises(DataError, match="no message of a user"):
        placed([assistant("Hello")], 1)
    assert placed([assistant("an <image> tag"), user("so?")], 1)[1]["content"] == "<image>so?"


def test_a_picture_without_bytes_has_to_be_named():
    column = pl.Series("images", [[{"bytes": None, "path": "/etc/passwd"}]], dtype=IMAGES)
    with pytest.raises(DataError, match="no bytes but the path '/etc/passwd'"):
        names(column, name_of)


def test_names_have_no_digits():
    assert NAMED.fullmatch(mark_of(name_of(b"anything")))
    assert name_of(b"a") != name_of(b"b")


def test_other_columns_of_pictures_go_along():
    near = pl.Series("near_images", [[{"bytes": BLUE, "path": None}], None], dtype=IMAGES)
    table = pictured(pairs(("It?", "a", "b"), ("So?", "c", "d")), [RED], []).with_columns(near)
    held = Held()
    bound = bind(table, held)
    assert bound["near_images"][0].to_list() == [{"bytes": None, "path": name_of(BLUE)}]
    assert unbind(bound, held)["near_images"].to_list() == near.to_list()

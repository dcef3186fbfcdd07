import re

import numpy as np
import polars as pl
import pytest

from generators import Personas
from generators.personas.step import HELD as MADE
from labelers import PersonaItems
from labelers.personas.items import HELD, read_letter
from prefactory.apply import apply_generator, apply_labeler
from prefactory.context import Context
from prefactory.engines.base import Failure
from prefactory.tables import Shape
from prefactory.testing import check_step
from tests.helpers import asking, prompts

HERE = __name__
ITEMS = [
    {"item": "keep lists", "trait": "order", "key": 1, "answer": 5},
    {"item": "lose keys", "trait": "order", "key": -1, "answer": 2},
    {"item": "seek out parties", "trait": "cheer", "key": 1, "answer": 3},
    {"item": "sing", "trait": "cheer", "key": 1, "answer": 0},  # not answered
]


def step(function, **fields):
    return PersonaItems(model={"engine": "scripted", "function": f"{HERE}.{function}"}, **fields)


def labelled(function, table, **fields):
    return apply_labeler(step(function, **fields), "items", table, Shape.PROMPTS, asking())


def people(n=3, **fields):
    """Prompts behind made-up people, with the items that they were not told."""
    made = Personas(people=30, held_out=0.6, **fields)
    table = prompts(*[f"Question {i}?" for i in range(n)])
    ctx = asking(0, "generators.Personas")
    state = made.fit(made.fit_shard(table, ctx).sort("prompt_id"), ctx)
    ctx = Context(ctx.seed, ctx.step, state, ctx.embed, ctx.engine)
    return apply_generator(made, "generators.Personas", table, Shape.PROMPTS, ctx)[0]


def agrees(request):
    """(A), (B), no letter: by item; a system message must stand there."""
    assert request.conversation[0]["role"] == "system"
    text = request.conversation[1]["content"]
    if "lists" in text:
        return "(A) Very accurate"
    return "B." if "keys" in text else "I would rather not say; all of that depends."


def test_known_errors_and_scores():
    table = prompts("Hello?").with_columns(held_items=pl.Series([ITEMS], dtype=HELD))
    (one,) = table["prompt"].to_list()
    talk = [{"role": "system", "content": "You are Ann."}, *one]
    table = table.with_columns(prompt=pl.Series([talk], dtype=table["prompt"].dtype))
    (row,) = labelled("agrees", table, attempts=1).to_dicts()
    # 5 against 5, and 4 against 2; nothing was read of the third
    assert row["items_error"] == 1
    assert row["items_error_middle"] == 1.5
    assert row["items_errors"] == [1, None]
    assert row["items_scores"] == [(5 + 2) / 2, None]
    assert row["items_own_scores"] == [(5 + 4) / 2, None]
    assert row["items_read"] == pytest.approx(2 / 3)
    assert row["reason_items"] is None


def middle(request):
    return "C"


def by_traits(request):
    """What the system message says of order decides; all else is the middle."""
    system, asked = (m["content"] for m in request.conversation)
    tidy = "organised and thorough" in system or "finish what you begin" in system
    item = re.search(r"You (.*)\.\"", asked)[1]
    held = {
        "put things back where they belong",
        "keep lists",
        "keep your word",
        "set yourself high goals",
    }
    return ("B" if tidy else "D") if item in held else "C"


def down(request):
    return Failure("http_500", "down")


def test_who_says_three_to_all_has_the_error_of_the_middle():
    rows = labelled("middle", people(6))
    assert rows["items_error"].to_list() == pytest.approx(rows["items_error_middle"].to_list())
    assert set(rows["items_scores"].explode().explode()) == {3}
    assert rows["items_read"].to_list() == [1] * 6
    rows = labelled("down", people(2))
    assert rows["reason_items"].to_list() == ["http_500"] * 2
    assert rows["items_error"].null_count() == 2


def test_a_model_that_follows_its_persona_beats_the_middle():
    rows = labelled("by_traits", people(30))
    gap = (rows["items_error_middle"] - rows["items_error"]).mean()
    assert gap > 0


def test_without_a_persona_nobody_is_asked():
    table = prompts("A?").with_columns(held_items=pl.Series([ITEMS], dtype=HELD))
    assert labelled("agrees", table)["reason_items"].to_list() == ["no_persona"]


def test_held_items_describe_nobody():
    assert MADE == HELD
    rows = people(30)
    held = {one["item"] for one in rows["held_items"][0]}
    assert len(held) == 5 * 14
    assert all({one["item"] for one in items} == held for items in rows["held_items"])
    traits = pl.DataFrame(rows["held_items"][0].to_list())["trait"].value_counts()["count"]
    assert set(traits) == {14}  # of 24
    systems = " ".join(p[0]["content"] for p in rows["prompt"].to_list())
    assert not [item for item in held if item in systems]
    # the traits are of the told items alone: those of other people's held items differ
    assert "held_items" not in Personas(people=3).adds(Shape.PROMPTS)
    answers = np.array([[one["answer"] for one in items] for items in rows["held_items"]])
    assert set(answers.ravel()) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("text", "answer"),
    [("A", 5), ("(B)", 4), ("(C) Neither", 3), (" **D**", 2), ("E.", 1), ("E\nBecause", 1),
     ("A lot", None), ("Answer: A", None), ("", None), ("F", None), ("I think (A)", None)],
)  # fmt: skip
def test_letters(text, answer):
    if answer is None:
        with pytest.raises(ValueError, match="Reply with the letter"):
            read_letter(text)
    else:
        assert read_letter(text) == answer


def test_it_is_a_step():
    check_step(step("middle"))

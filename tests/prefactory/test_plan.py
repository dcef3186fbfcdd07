import pytest

from prefactory.errors import ConfigError
from prefactory.plan import describe, plan
from prefactory.tables import COLUMNS, Shape
from tests.helpers import pairs, prompts, recipe, responses

ROWS = {
    Shape.PROMPTS: prompts("p"),
    Shape.RESPONSES: responses(("p", "a")),
    Shape.PAIRS: pairs(("p", "a", "b")),
}


def planned(shape, *steps, table=None):
    table = ROWS[shape] if table is None else table
    names = [f"tests.steps.{s}" if isinstance(s, str) else s for s in steps]
    return plan(recipe(*names), shape, dict(table.schema))


def problems(shape, *steps, table=None):
    with pytest.raises(ConfigError) as error:
        planned(shape, *steps, table=table)
    return error.value.problems


def test_columns_and_shapes_along_the_steps():
    found = planned(Shape.RESPONSES, "DropLong", "Length", "BestWorst", "Above", "Rank")
    assert [(p.kind, p.shape, p.out_shape) for p in found] == [
        ("filter", "responses", "responses"),
        ("labeler", "responses", "responses"),
        ("generator", "responses", "pairs"),
        ("filter", "pairs", "pairs"),
        ("labeler", "pairs", "pairs"),
    ]
    assert found[0].adds == ()
    assert found[1].adds == ("score_length",)
    sides = ("chosen_score_length", "rejected_score_length")
    assert found[2].columns == (*COLUMNS[Shape.PAIRS], *sides)
    assert found[4].adds == ("chosen_score_rank", "rejected_score_rank")
    rows = describe(found)
    assert rows[1]["adds"] == "score_length"
    assert {k: v for k, v in rows[2].items() if k != "adds"} == {
        "step": "tests.steps.BestWorst",
        "kind": "generator",
        "scope": "prompt",
        "table": "responses -> pairs",
        "name": "tests.steps.BestWorst",
    }


def test_an_empty_plan():
    assert planned(Shape.PAIRS) == []
    assert describe([]) == []


def test_a_column_that_nobody_makes():
    assert problems(Shape.PAIRS, "Above") == [
        "tiny.yaml: tests.steps.Above needs column 'chosen_score_length', which nobody "
        "makes before it (there are: no scores at all)"
    ]
    (found,) = problems(Shape.PAIRS, {"tests.steps.Length": {"name": "lengths"}}, "Above")
    assert found.endswith(
        "(there are: chosen_score_lengths, rejected_score_lengths); "
        "did you mean 'chosen_score_lengths'?"
    )


def test_a_column_that_is_made_only_later():
    assert problems(Shape.PAIRS, "Above", "Length") == [
        "tiny.yaml: tests.steps.Above needs column 'chosen_score_length', which "
        "tests.steps.Length makes only later: move it up"
    ]


def test_a_column_of_another_type():
    table = ROWS[Shape.PAIRS].with_columns(chosen_score_length=1)
    assert problems(Shape.PAIRS, "Above", table=table) == [
        "tiny.yaml: tests.steps.Above needs column 'chosen_score_length' as Float64, "
        "but it is Int32"
    ]


def test_the_wrong_shape_with_a_hint():
    assert problems(Shape.RESPONSES, "Coin", "Above") == [
        "tiny.yaml: tests.steps.Coin works on pairs, but gets responses here; "
        "put labelers.Pairs before it"
    ]
    assert problems(Shape.PROMPTS, "Length") == [
        "tiny.yaml: tests.steps.Length works on responses, but gets prompts here"
    ]
    assert problems(Shape.PAIRS, "BestWorst") == [
        "tiny.yaml: tests.steps.BestWorst works on responses, but gets pairs here"
    ]


def test_a_label_that_is_already_there():
    again = "adds column 'score_length', which is already there; give it another name"
    assert problems(Shape.RESPONSES, "Length", "Length") == [
        f"tiny.yaml: tests.steps.Length#2 {again}"
    ]
    there = responses(("p", "a"), score_length=[1.0])
    assert len(problems(Shape.RESPONSES, "Length", table=there)) == 1
    assert len(problems(Shape.PAIRS, "Length", "Length")) == 2  # one a side
    other = {"tests.steps.Length": {"name": "chars"}}
    assert len(planned(Shape.RESPONSES, "Length", other)) == 2


def test_all_mistakes_are_told_at_once():
    found = problems(Shape.PAIRS, "Above", "Noise", "Noise", "BestWorst", "Above")
    assert [line.split()[1] for line in found] == [
        "tests.steps.Above",
        "tests.steps.Noise#2",
        "tests.steps.Noise#2",
        "tests.steps.BestWorst",
    ]

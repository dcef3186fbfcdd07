import polars as pl
import pytest

from labelers import Margin
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.tables import Shape


def pairs(*scores):
    chosen, rejected = zip(*scores, strict=True) if scores else ((), ())
    return pl.DataFrame(
        {"chosen_score_help": chosen, "rejected_score_help": rejected},
        schema={"chosen_score_help": pl.Float64, "rejected_score_help": pl.Float64},
    )


def test_margin_is_chosen_minus_rejected():
    step = Margin(objective="help")
    table = pairs((3, 1), (1, 1), (1, 2.5))
    assert step.label(table, Context()).to_dict(as_series=False) == {"margin": [2.0, 0.0, -1.5]}
    assert dict(step.label(pairs(), Context()).schema) == step.adds(Shape.PAIRS)


def test_margin_names_its_columns():
    step = Margin(objective="help")
    assert step.shapes == (Shape.PAIRS,)
    assert list(step.needs(Shape.PAIRS)) == ["chosen_score_help", "rejected_score_help"]


@pytest.mark.parametrize("lacking", [None, float("nan")])
def test_a_missing_score_is_an_error_that_says_how_many_and_what_to_do(lacking):
    table = pairs((3, 1), (lacking, 1), (1, lacking))
    with pytest.raises(
        DataError, match=r"2 of 3 pairs .*filters.Margin: {objective: help, on_null: drop}"
    ):
        Margin(objective="help").label(table, Context())

import math

import polars as pl
import pytest
from pydantic import ValidationError

from filters.rules.margin import Margin, Score
from prefactory.context import Context
from prefactory.tables import Shape

STAYS = (None, None)


def judged(step, **columns):
    schema = dict.fromkeys(columns, pl.Float64)
    return step.keep(pl.DataFrame(columns, schema=schema), Context()).rows()


def pairs(step, *scores):
    chosen, rejected = zip(*scores, strict=True)
    return judged(step, chosen_score_help=list(chosen), rejected_score_help=list(rejected))


def answers(step, *scores):
    return judged(step, score_help=list(scores))


def test_default_drops_ties_conflicts_and_missing_scores():
    assert pairs(
        Margin(objective="help"),
        (2, 1),
        (1, 1),
        (1, 2.5),
        (None, 1),
        (1, None),
        (None, None),
        (math.nan, 1),
        (math.inf, math.inf),
        (math.inf, 1),
    ) == [
        STAYS,
        ("tie", "margin 0.0"),
        ("conflict", "margin -1.5"),
        ("null_score", "chosen"),
        ("null_score", "rejected"),
        ("null_score", "both sides"),
        ("null_score", "chosen"),
        ("null_score", "both sides infinite"),
        STAYS,
    ]


def test_limits_are_inclusive():
    step = Margin(objective="help", min=1, max=2)
    assert pairs(step, (1.5, 1), (2, 1), (3, 1), (3.5, 1)) == [
        ("small_margin", "margin 0.5"),
        STAYS,
        STAYS,
        ("large_margin", "margin 2.5"),
    ]


def test_kept_conflicts_and_ties_are_measured_by_distance_from_undecided():
    step = Margin(objective="help", on_tie="keep", on_conflict="keep", on_null="keep", min=1, max=2)
    assert pairs(step, (1, 1), (0, 0.5), (0, 1), (0, 3), (None, 1)) == [
        ("small_margin", "margin 0.0"),
        ("small_margin", "margin -0.5"),
        STAYS,
        ("large_margin", "margin -3.0"),
        STAYS,
    ]
    assert pairs(Margin(objective="help", on_tie="keep"), (1, 1)) == [STAYS]


def test_margin_names_its_columns():
    assert Margin.shapes == (Shape.PAIRS,)
    assert Margin(objective="help").needs(Shape.PAIRS) == {
        "chosen_score_help": pl.Float64(),
        "rejected_score_help": pl.Float64(),
    }


def test_score_limits():
    step = Score(objective="help", min=1, max=2)
    assert answers(step, 0.5, 1, 2, 2.5, None, math.nan) == [
        ("low_score", "score 0.5"),
        STAYS,
        STAYS,
        ("high_score", "score 2.5"),
        ("null_score", "not scored"),
        ("null_score", "not scored"),
    ]
    assert answers(Score(objective="help", min=1, on_null="keep"), None, 0) == [
        STAYS,
        ("low_score", "score 0.0"),
    ]
    assert answers(Score(objective="help"), -5, None) == [STAYS, ("null_score", "not scored")]


def test_score_names_its_columns_on_both_shapes():
    step = Score(objective="help")
    assert list(step.needs(Shape.RESPONSES)) == ["score_help"]
    assert list(step.needs(Shape.PAIRS)) == ["chosen_score_help", "rejected_score_help"]


def test_empty_tables():
    assert judged(Margin(objective="help"), chosen_score_help=[], rejected_score_help=[]) == []
    assert answers(Score(objective="help")) == []


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (Margin, {"objective": "help", "min": 2, "max": 1}, r"min \(2.0\) is above max \(1.0\)"),
        (Margin, {"objective": "help", "min": -1}, "greater than or equal to 0"),
        (Score, {"objective": "help", "min": 2, "max": 1}, "is above max"),
        (Score, {"objective": "help", "on_null": "keep"}, "nothing would be filtered"),
        (Score, {"objective": ""}, "at least 1 character"),
    ],
)
def test_wrong_fields_are_refused(cls, fields, message):
    with pytest.raises(ValidationError, match=message):
        cls(**fields)

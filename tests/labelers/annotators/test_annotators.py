"""The three annotators who agree most: known answers, ties, few ratings, order."""

import itertools
import random

import polars as pl
import pytest

from labelers.annotators.aggregate import AnnotatorAggregate, closest_three, round_half_up
from prefactory.context import Context
from prefactory.tables import Shape
from tests.helpers import responses


def table(*ratings, dtype=pl.Float64):
    rows = responses(*[(f"q{i}", "a") for i in range(len(ratings))])
    return rows.with_columns(pl.Series("r", list(ratings), dtype=pl.List(dtype)))


def label(step, rows):
    out = step.label(rows, Context())
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    return out


def closest_by_search(ratings):
    """The specification, word for word, over all triples."""
    median = pl.Series(ratings).median()
    best = min(
        itertools.combinations(sorted(ratings), 3),
        key=lambda t: (
            sum(abs(a - b) for a, b in itertools.combinations(t, 2)),
            sum((x - sum(t) / 3) ** 2 for x in t).__round__(9),
            abs(t[1] - median),
            t,
        ),
    )
    return sum(best) / 3, best[2] - best[0]


@pytest.mark.parametrize(
    ("ratings", "score", "spread"),
    [
        ([3, 3, 4], 3, 1),
        ([0, 3, 4, 4, 4], 4, 0),
        ([1, 2, 4, 4, 3], 4, 1),
        ([0, 4, 2], 2, 4),
        ([0, 0, 4, 4], 1, 4),
        ([2, 3], 3, 1),  # 2.5 rounds up
        ([1], 1, 0),
        ([None, float("nan"), 3, 3, 4], 3, 1),
        ([], None, None),
        (None, None, None),
    ],
)
def test_known_answers(ratings, score, spread):
    out = label(AnnotatorAggregate(ratings={"help": "r"}), table(ratings))
    assert out.row(0) == (score, spread)


def test_equals_a_search_over_all_triples_in_any_order():
    draw = random.Random(1)
    ratings = [[draw.randint(0, 4) for _ in range(draw.randint(3, 7))] for _ in range(300)]
    found = closest_three(pl.Series(ratings))
    expected = [closest_by_search(r) for r in ratings]
    assert found["mean"].to_list() == pytest.approx([m for m, _ in expected])
    assert found["range"].to_list() == [s for _, s in expected]
    shuffled = [draw.sample(r, len(r)) for r in ratings]
    assert closest_three(pl.Series(shuffled)).equals(found)


def test_halves_round_up():
    values = pl.Series("v", [0.5, 1.5, 2.5, -2.5, 2.4999]).to_frame()
    assert values.select(round_half_up(pl.col("v")))["v"].to_list() == [1, 2, 3, -2, 2]


def test_options():
    rows = table([3, 3, 4], [0, 2, 4], [2, 3], dtype=pl.Int64)
    step = AnnotatorAggregate(ratings={"help": "r"}, dtype="integer", round=False, max_range=2)
    assert step.needs(Shape.RESPONSES) == {"r": pl.List(pl.Int64())}
    assert label(step, rows)["score_help"].to_list() == [pytest.approx(10 / 3), None, 2.5]
    within = label(step, table([1, 2, 3], [1, 2, 4], dtype=pl.Int64))
    assert within["score_help"].to_list() == [2, None]  # 2 apart is within 2
    strict = AnnotatorAggregate(ratings={"help": "r"}, dtype="integer", min_annotators=3)
    assert label(strict, rows)["score_help"].to_list() == [3, 2, None]
    assert label(strict, rows.clear()).height == 0
    with pytest.raises(ValueError, match="range_help"):
        AnnotatorAggregate(ratings={"help": "range_help"})

"""Ratings, orders, tags, labels of steps and reasons: what several people come to."""

import json

import numpy as np
import polars as pl
import pytest

from prefactory.tables import COLUMNS, Shape
from prefactory.votes import answers


def said(task, *rows):
    """Annotations of (row, person, answer or vote)."""
    made = [
        {
            "vote_id": f"v{i}", "task": task, "row_id": row, "person": person, "role": "annotator",
            "counts": True, "purpose": "work", "informed": False,
            "vote": told if isinstance(told, str) else "done",
            "answer": None if isinstance(told, str) else json.dumps(told),
        }
        for i, (row, person, told) in enumerate(rows)
    ]  # fmt: skip
    schema = {c: COLUMNS[Shape.ANNOTATIONS][c] for c in made[0]}
    return pl.DataFrame(made, schema=schema)


def test_scores_are_without_each_persons_lenience():
    rng = np.random.default_rng(3)
    truth, lenience = rng.normal(3, 0.8, 200), np.array([-1.0, -0.3, 0.2, 1.1])
    row = np.repeat(np.arange(200), 2)
    person = np.concatenate([rng.permutation(4)[:2] for _ in range(200)])
    value = truth[row] + lenience[person] + rng.normal(0, 0.2, 400)
    found, noise = answers.additive(row, person, value)
    plain = np.bincount(row, value) / 2

    def error(scores):
        return np.std(scores - truth)

    assert error(found) < 0.5 * error(plain)
    assert noise == pytest.approx(0.2, abs=0.05)


def test_ratings_of_one_person_are_the_scores_and_skips_do_not_count():
    votes = said("rate", ("a", "P", {"ratings": {"truth": 4}}),
                 ("b", "P", {"ratings": {"truth": 2}}), ("c", "P", "skip"))  # fmt: skip
    found = answers.ratings(votes)
    assert found["row_id"].to_list() == ["a", "b"]
    assert found["score_human_truth"].to_list() == pytest.approx([4.0, 2.0])
    assert found["human_se_truth"].to_list() == [None, None]
    assert found["human_votes"].to_list() == [1, 1]
    informed = votes.with_columns(informed=pl.lit(value=True))
    assert answers.ratings(informed).height == 0


def test_orders_give_strengths_and_ties_are_between():
    votes = said("rank", ("p", "A", {"order": {"x": 1, "y": 2, "z": 2}}),
                 ("p", "B", {"order": {"x": 2, "y": 1, "z": 3}}))  # fmt: skip
    found = dict(answers.orders(votes).select("row_id", "score_human_rank").iter_rows())
    assert found["x"] == pytest.approx(found["y"], abs=0.5)
    assert found["x"] > found["z"]
    assert found["y"] > found["z"]
    assert sum(found.values()) == pytest.approx(0.0, abs=1e-6)
    turned = answers.strength(np.array([[0.0, 3.0], [1.0, 0.0]]))
    # by hand: x = log(won) - log(lost) of 3 + .5 and 1 + .5, damped by the games against average
    assert turned[0] == pytest.approx(-turned[1])
    assert 0.4 < turned[0] < np.log(3) / 2


def test_tags_of_more_than_half_hold():
    votes = said("tags", ("p", "A", {"tags": ["math"], "own_tags": ["Odd  one"]}),
                 ("p", "B", {"tags": ["math", "code"], "own_tags": ["odd one"]}),
                 ("p", "C", {"tags": ["math"]}), ("q", "A", {"comment": "none"}))  # fmt: skip
    found = {r["row_id"]: r for r in answers.tags(votes).to_dicts()}
    assert found["p"]["human_tags"] == ["math", "odd one"]
    assert found["p"]["human_agreement"] == pytest.approx((3 + 2 + 2) / 9)
    assert (found["q"]["human_tags"], found["q"]["human_votes"]) == ([], 1)


def test_the_worse_label_of_a_step_holds_where_as_many_say_so():
    votes = said("steps", ("r", "A", {"steps": ["right", "wrong"]}),
                 ("r", "B", {"steps": ["right", "neutral"]}),
                 ("r", "C", {"steps": ["right"]}))  # fmt: skip
    (row,) = answers.steps(votes).to_dicts()
    assert row["step_labels"] == [1.0, -1.0]
    assert (row["human_votes"], row["human_agreement"]) == (2, 0.75)


def test_reasons_are_right_in_part():
    votes = said("rationale", ("p", "A", "right"), ("p", "B", "partly"), ("q", "A", "wrong"))
    assert answers.reasons(votes)["human_rationale"].to_list() == [0.75, 0.0]

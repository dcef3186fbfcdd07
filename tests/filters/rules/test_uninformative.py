import polars as pl
import pytest
from pydantic import ValidationError

from filters import UninformativePrompts
from prefactory.context import Context
from tests.helpers import ledger_of, one_file, recipe, responses, run, view


def reasons(scores, **fields):
    """Reason of each of several prompts, given as lists of scores."""
    rows = [(f"q{i}", f"answer {j}") for i, s in enumerate(scores) for j in range(len(s))]
    table = responses(*rows, score_h=pl.Series([x for s in scores for x in s], dtype=pl.Float64))
    step = UninformativePrompts(**{"objective": "h", "scale": (0, 1), **fields})
    judged = table.with_columns(step.keep(table, Context()))
    found = judged.group_by("prompt_id", maintain_order=True).agg(pl.col("reason").unique())
    assert (found["reason"].list.len() == 1).all()  # a prompt goes as a whole
    return found["reason"].list.first().to_list()


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([0.85, 1.0], "all_good"),
        ([0.84, 1.0], None),
        ([0.2, 0.29], "all_alike"),
        ([0.2, 0.3], None),  # 0.3 - 0.2 is 0.09999999999999998 in binary
        ([0.5, 0.5, 0.9], None),
        ([0.5], "too_few_answers"),
        ([0.5, None], "too_few_scores"),
        ([0.5, float("nan"), float("inf")], "too_few_scores"),
        ([0.1, None, 0.9], None),
        ([0.0, 0.1], None),
    ],
)
def test_the_rules_at_their_edges(scores, reason):
    assert reasons([scores]) == [reason]


def test_the_scale_and_shares_are_options():
    judged = [[1.0, 5.0], [4.4, 5.0], [4.4, 4.9], [1.0, 1.5], [3.0, 3.3]]
    five = {"scale": (1, 5)}
    assert reasons(judged, **five) == [None, "all_good", "all_good", None, "all_alike"]
    assert reasons(judged, **five, good=None) == [None, None, None, None, "all_alike"]
    assert reasons(judged, **five, bad=0.125)[3] == "all_bad"
    assert reasons(judged, **five, spread=0.0, good=None) == [None] * 5
    assert reasons(judged, **five, min_answers=3) == ["too_few_answers"] * 5


def test_texts_alone_before_a_judge():
    table = responses(("a", "Yes."), ("a", "yes.  "), ("b", "Yes."), ("b", "No."), ("c", "Yes."))
    verdict = UninformativePrompts().keep(table, Context())
    assert verdict["reason"].to_list() == ["too_few_answers"] * 2 + [None] * 2 + ["too_few_answers"]
    assert verdict["detail"][0] == "1 distinct, 2 wanted"


def test_after_near_identical_answers_a_prompt_with_one_left_goes(tmp_path):
    long = "the capital of France is the city of Paris on the Seine"
    table = responses(("a", long), ("a", long + " river"), ("b", "Paris"), ("b", "Lyon"))
    steps = ["filters.NearIdenticalAnswers", "filters.UninformativePrompts"]
    for size in (1, 1000):
        result = run(recipe(*steps), one_file(table), tmp_path / str(size), shard_rows=size)
        assert view(result, "responses")["prompt_id"].n_unique() == 1
        assert ledger_of(result)["reason"].to_list() == ["near_identical", "too_few_answers"]


@pytest.mark.parametrize(
    "fields",
    [{"objective": "h"}, {"scale": (0, 1)}, {"objective": "h", "scale": (1, 1)}, {"good": 2}],
)
def test_fields_are_checked(fields):
    with pytest.raises(ValidationError):
        UninformativePrompts(**fields)

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import stats as reference

from prefactory.errors import DataError
from prefactory.measures.calibration import calibration_errors
from prefactory.measures.disagreement import (
    accuracy,
    agreement,
    answer_pairs,
    answers,
    aspects_of,
    calibration,
    contradictions,
    correlations,
    disagreement,
    logistic_slope,
    margins,
)

NAN, INF = math.nan, math.inf


def pairs(prompts=None, **gaps):
    """Pairs whose rejected answers score 0: a gap is the chosen answer's score."""
    n = len(next(iter(gaps.values())))
    columns = {}
    for name, values in gaps.items():
        columns[f"chosen_score_{name}"] = pl.Series(values, dtype=pl.Float64)
        null = [None if v is None else 0.0 for v in values]
        columns[f"rejected_score_{name}"] = pl.Series(null, dtype=pl.Float64)
    ids = {"chosen_id": [f"c{i}" for i in range(n)], "rejected_id": [f"r{i}" for i in range(n)]}
    return pl.DataFrame({"prompt_id": prompts or [f"p{i}" for i in range(n)], **ids, **columns})


def one(table):
    (row,) = table.to_dicts()
    return row


def test_margins_are_null_where_a_side_is_not_scored():
    table = pairs(a=[1.0, None, NAN, INF, -2.0])
    assert margins(table)["a"].to_list() == [1.0, None, None, None, -2.0]


def test_margins_of_extreme_scores_keep_their_sign():
    table = pl.DataFrame({"chosen_score_a": [1e308, 5e-324], "rejected_score_a": [-1e308, 0.0]})
    gap = margins(table)["a"]
    assert gap.is_finite().all()
    assert (gap > 0).all()


def test_accuracy_counts_a_tie_as_one_half_and_clusters_by_prompt():
    alone = one(accuracy(pairs(a=[1.0, 1.0, 0.0, -1.0, None])))
    assert (alone["n"], alone["ties"], alone["accuracy"]) == (4, 1, 0.625)
    same = one(accuracy(pairs(["p", "p", "q", "q", "q"], a=[1.0, 1.0, 0.0, -1.0, None])))
    # deviations .375 .375 | -.125 -.625: sums .75 and -.75
    assert same["se"] == pytest.approx(math.sqrt(2 * 0.75**2) / 4)
    assert alone["se"] == pytest.approx(math.sqrt(2 * 0.375**2 + 0.125**2 + 0.625**2) / 4)


def test_an_objective_without_scores_has_no_numbers():
    table = pairs(a=[None, None])
    assert one(accuracy(table))["accuracy"] is None
    assert one(calibration(table))["ece"] is None


@pytest.mark.parametrize(("right", "n"), [(7, 10), (10, 10), (0, 5), (2, 10)])
def test_the_slope_of_one_size_of_margin_is_the_log_odds_of_its_share(right, n):
    gaps = np.repeat([1.0, -1.0], [right, n - right])
    won = (n + 1) / (n + 2)
    p = (right * won + (n - right) * (1 - won)) / n
    assert logistic_slope(gaps) == pytest.approx(math.log(p / (1 - p)), rel=1e-9)


@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=30),
    st.sampled_from([0.01, 3.0, 1e5, -1.0]),
)
def test_the_slope_undoes_a_change_of_unit(gaps, unit):
    gaps = np.array(gaps)
    gaps[np.abs(gaps) < 1e-300] = 0  # in units of .01 its slope is beyond a float
    slope = logistic_slope(gaps)
    assert logistic_slope(gaps * unit) * unit == pytest.approx(slope, rel=1e-5, abs=1e-12)


def test_a_slope_is_found_where_a_step_meets_it_exactly():
    gaps = np.array([0.0, 25388.77527124912, 999999.9999999999, 0.13370751725814975, 412460.9823])
    assert logistic_slope(gaps) == pytest.approx(2.41664546e-6, rel=1e-8)


@pytest.mark.parametrize("gaps", [(-2, -2, 2, 2), (-2, 0, 0, 2), (-2, 0, 1, 1)])
def test_as_often_right_as_wrong_has_slope_zero(gaps):
    assert logistic_slope(np.array(gaps, np.float64)) == 0.0  # not 7.9e-17


def test_no_gap_has_slope_zero_and_is_calibrated_at_one_half():
    row = one(calibration(pairs(a=[0.0, 0.0])))
    assert (row["slope"], row["ece"], row["mce"]) == (0.0, 0.0, 0.0)


def test_calibration_after_the_fit_is_that_of_calibrated_margins_whatever_the_unit():
    rng = np.random.default_rng(0)
    margin = rng.normal(1, 1.5, 40_000)
    margin = np.where(rng.random(40_000) < 1 / (1 + np.exp(-np.abs(margin))), 1, -1) * abs(margin)
    table = pairs(right=margin.tolist(), tenth=(margin / 10).tolist(), wrong=(-margin).tolist())
    found = calibration(table)
    assert found["slope"].to_list() == pytest.approx([1.0, 10.0, -1.0], rel=0.03)
    assert max(found["ece"]) < 0.01
    assert found["unscaled"][1] == pytest.approx(calibration_errors(margin / 10).ece)
    assert found["unscaled"][1] > 0.1
    assert found["unscaled"][2] > 0.3


def test_agreement_counts_same_opposite_and_ties():
    table = pairs(
        ["p", "p", "q", "q", "r", "r"],
        a=[1.0, 1.0, -1.0, 0.0, 0.0, 1.0],
        b=[2.0, -1.0, 1.0, 0.0, 5.0, None],
    )
    row = one(agreement(table))
    counts = {"n": 5, "same": 1, "conflict": 2, "one_tied": 1, "both_tied": 1}
    assert {k: row[k] for k in counts} == counts
    assert row["conflict_share"] == pytest.approx(0.4)
    # deviations of p: -.4 + .6, of q: .6 - .4, of r: -.4
    assert row["conflict_se"] == pytest.approx(math.sqrt(0.2**2 + 0.2**2 + 0.4**2) / 5)


def test_agreement_of_a_score_with_itself_and_its_opposite():
    gaps = [3.0, -1.0, 0.0, 2.0]
    found = agreement(pairs(a=gaps, b=gaps, c=[-g for g in gaps])).to_dicts()
    by = {(r["a"], r["b"]): r for r in found}
    assert by["a", "b"]["same"] == 3
    assert by["a", "b"]["conflict"] == 0
    assert by["a", "c"]["conflict"] == 3
    assert by["b", "c"]["both_tied"] == 1


@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(-3, 3)), st.integers(-3, 3))))
def test_correlations_are_scipys_over_the_answers_that_have_both(rows):
    scores = {"score_a": [r[0] for r in rows], "score_b": [r[1] for r in rows]}
    table = pl.DataFrame(scores, schema=dict.fromkeys(scores, pl.Float64))
    row = one(correlations(table))
    kept = [(a, b) for a, b in rows if a is not None]
    assert row["n"] == len(kept)
    if not kept or len({a for a, _ in kept}) < 2 or len({b for _, b in kept}) < 2:
        assert row["pearson"] is None
        assert row["spearman"] is None
        return
    a, b = zip(*kept, strict=True)
    assert row["pearson"] == pytest.approx(reference.pearsonr(a, b)[0], abs=1e-9)
    assert row["spearman"] == pytest.approx(reference.spearmanr(a, b)[0], abs=1e-9)


def test_an_answer_in_two_pairs_counts_once():
    table = pairs(["p", "p"], a=[3.0, 2.0]).with_columns(rejected_id=pl.lit("r"))
    flat = answers(table).sort("response_id")
    assert flat["response_id"].to_list() == ["c0", "c1", "r"]
    assert flat["score_a"].to_list() == [3.0, 2.0, 0.0]


def test_answer_pairs_are_all_pairs_of_a_prompt_and_stop_at_a_whole_prompt():
    table = pl.DataFrame(
        {
            "prompt_id": ["q", "p", "p", "p", "r", "r"],
            "response_id": ["6", "3", "1", "2", "4", "5"],
            "score_a": [9.0, 3.0, 1.0, 2.0, 4.0, None],
        }
    )
    found = answer_pairs(table)
    ids = [(c, r) for c, r in found.select("chosen_id", "rejected_id").iter_rows()]
    assert ids == [("1", "2"), ("1", "3"), ("2", "3"), ("4", "5")]
    assert margins(found)["a"].to_list() == [-1.0, -2.0, -1.0, None]
    assert answer_pairs(table, most=3).height == 3
    assert answer_pairs(table, most=2).height == 0


ratings = st.lists(st.floats(1, 5).map(lambda x: round(x, 2)), min_size=2, max_size=4)


@given(st.integers(1, 10), ratings)
def test_the_limit_is_ultrafeedbacks_rule(overall, aspects):
    names = [f"aspect{i}" for i in range(len(aspects))]
    row = {"score_overall": float(overall)} | {
        f"score_{n}": v for n, v in zip(names, aspects, strict=True)
    }
    scales = {"overall": (0, 10)} | dict.fromkeys(names, (0, 5))
    found = contradictions(pl.DataFrame([row]), "overall", names, scales)
    gap = overall / 2 - sum(aspects) / len(aspects)
    if abs(abs(gap) - 2) > 1e-6:
        assert found.rows.height == (abs(gap) > 2)
    assert found.checked == 1


def test_a_ten_that_was_a_one_is_found_first():
    table = pl.DataFrame(
        {
            "response_id": ["good", "was a one", "bad", "no aspect", "mild"],
            "score_overall": [10.0, 10.0, 1.0, 10.0, 8.0],
            "score_honesty": [5.0, 1.0, 1.0, None, 2.0],
            "score_truth": [5.0, 1.0, 2.0, 1.0, 4.0],
        }
    )
    found = contradictions(table, "overall", ["honesty", "truth"])
    assert found.checked == 4
    assert found.scales["overall"] == (1.0, 10.0)
    assert found.rows["response_id"].to_list() == ["was a one"]
    assert found.rows["gap"].to_list() == [1.0]
    with pytest.raises(DataError, match="no scores of candour"):
        contradictions(table, "overall", ["candour"])


def test_aspects_are_ratings_that_rise_with_the_overall_score():
    table = pl.DataFrame(
        {
            "score_overall": [1.0, 2.0, 3.0, 4.0],
            "score_honesty": [1.0, 1.0, 2.0, None],
            "score_brevity": [4.0, 3.0, 2.0, 1.0],
            "score_reward": [0.1, 0.2, 0.3, 0.4],
            "score_same": [1.0, 1.0, 1.0, 1.0],
            "score_tokens": [1.0, 2.0, 3.0, 400.0],
        }
    )
    assert aspects_of(table, "overall") == ["honesty"]


def test_everything_at_once_is_the_same_in_any_order_and_plain_json():
    rng = np.random.default_rng(1)
    scores = {o: rng.normal(size=60).round(1).tolist() for o in ("a", "overall")}
    stars = {o: rng.integers(1, 6, 60).astype(float).tolist() for o in ("x", "y")}
    table = pairs([f"p{i // 3}" for i in range(60)], **scores, **stars)
    first, again = disagreement(table), disagreement(table.sample(fraction=1, shuffle=True, seed=3))
    for name in ("accuracy", "calibration", "agreement", "correlations"):
        assert_frame_equal(getattr(first, name), getattr(again, name), rel_tol=1e-9)
    assert (first.pairs, first.prompts) == (60, 20)
    assert first.objectives == ("a", "overall", "x", "y")
    text = json.dumps(first.as_json(), allow_nan=False)
    assert json.loads(text)["accuracy"][0]["objective"] == "a"


def test_tables_without_ids_and_with_nothing_in_them():
    bare = pl.DataFrame({"chosen_score_a": [1.0], "rejected_score_a": [2.0]})
    assert disagreement(bare).prompts is None
    assert one(accuracy(bare))["accuracy"] == 0.0
    empty = disagreement(pairs(a=[1.0], b=[2.0]).clear())
    assert empty.pairs == 0
    assert one(empty.agreement)["conflict_share"] is None
    assert one(empty.correlations)["pearson"] is None
    json.dumps(empty.as_json(), allow_nan=False)

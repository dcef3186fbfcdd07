import numpy as np
import polars as pl
import pytest

from labelers import MAP, Combine, Normalise, Weigh
from labelers.combine.palette import solve
from pipelines.compare import (
    LABEL,
    PUBLISHED,
    WITHIN,
    compare,
    counted,
    default_ways,
    leaves,
    palette_of,
    without_spread,
)
from prefactory.errors import ConfigError, DataError
from tests.helpers import responses

PLAIN = ("mean of z", "sum", "log-sigmoid", "MAP", "soft minimum", "Pareto rank")


def answers(n=4, **scores):
    """Answers to prompts of two each: (p0: 0, 1), (p1: 2, 3), ..."""
    rows = [(f"question {i // 2}", f"answer {i}") for i in range(n)]
    return responses(*rows, **{f"score_{o}": [float(v) for v in s] for o, s in scores.items()})


def pairs_of(table, *places):
    """Pairs by the texts' numbers: (chosen, rejected)."""
    texts = table["response"].list.get(0).struct.field("content")
    ids = dict(zip(texts, table["response_id"], strict=True))
    prompt = dict(zip(table["response_id"], table["prompt_id"], strict=True))
    chosen, rejected = ([ids[f"answer {p[side]}"] for p in places] for side in (0, 1))
    return pl.DataFrame(
        {"prompt_id": [prompt[c] for c in chosen], "chosen_id": chosen, "rejected_id": rejected}
    )


def flips(found, a, b):
    rows = found.flips.filter(pl.col("a").is_in([a, b]) & pl.col("b").is_in([a, b]))
    (row,) = rows.to_dicts()
    return row["conflict"], row["n"]


def test_two_objectives_that_differ_on_one_of_two_pairs():
    table = answers(a=[1, 0, 1, 0], b=[1, 0, 0, 3])
    found = compare(table, pairs_of(table, (0, 1), (3, 2)))
    assert found.names == (*PLAIN, "a", "b")
    within, published = found.counted[WITHIN], found.counted[PUBLISHED]
    assert flips(within, "a", "b") == (1, 2)
    assert flips(within, "a", "sum") == (1, 2)
    assert flips(within, "b", "sum") == (0, 2)
    assert flips(published, LABEL, "a") == (1, 2)
    assert flips(published, LABEL, "b") == (0, 2)
    assert (within.pairs, within.prompts, within.judged, within.agreed) == (2, 2, 2, 1)
    assert within.agreed_share == 0.5


def test_the_log_sigmoid_turns_a_surplus_that_the_sum_takes():
    strict = Combine(
        name="strict", method="logsigmoid", weights={"a": 1, "b": 1},
        reference={"a": 0, "b": 0}, scale="none",
    )  # fmt: skip
    table = answers(2, a=[6, 1], b=[-3, 1])  # 3 > 2, but -3.05 < -.63
    found = compare(table, None, [strict])
    assert flips(found.counted[WITHIN], "sum", "strict") == (1, 1)
    assert PUBLISHED not in found.counted


def test_a_tie_is_no_flip_and_a_null_is_not_counted():
    table = answers(6, a=[1, 0, 2, 2, 1, 0], b=[0, 1, 1, 0, 1, 0]).with_columns(
        score_b=pl.when(pl.col("response_id") == pl.col("response_id").max())
        .then(None)
        .otherwise(pl.col("score_b"))
    )
    within = compare(table, None, combined=()).counted[WITHIN]
    (row,) = within.flips.to_dicts()
    assert row["n"] == within.judged == 2
    assert row["one_tied"] + row["conflict"] + row["same"] == 2


def test_agreement_of_all_needs_strict_orders_and_every_score():
    gaps = pl.DataFrame({"a": [1.0, 1.0, 0.0, -1.0, None], "b": [2.0, -1.0, 0.0, -3.0, 1.0]})
    found = counted(gaps, pl.Series(list("ppqqr")))
    assert (found.pairs, found.prompts, found.judged, found.agreed) == (5, 3, 4, 2)
    assert found.agreed_share == 0.5
    assert found.agreed_se == 0.0  # one of two agrees in either prompt


def test_objectives_without_spread_are_left_out_and_said():
    table = answers(a=[1, 0, 1, 0], b=[0, 1, 1, 0], c=[2, 2, 2, 2], d=[np.nan] * 4)
    found = compare(table, None)
    assert found.skipped == {"c": "every answer scores 2", "d": "no answer has a finite score"}
    assert without_spread(table, ["a"]) == {}


def test_the_default_palette_can_be_reached_and_raises_everything():
    rng = np.random.default_rng(0)
    table = answers(200, a=rng.normal(size=200), b=rng.normal(5, 9, 200))
    palette = palette_of(table, ["a", "b"])
    rewards = table.select("score_a", "score_b").to_numpy()
    solved = solve(rewards, np.array([palette["a"], palette["b"]]))
    assert solved.feasible
    assert palette["a"] > rewards[:, 0].mean()
    assert palette["b"] > rewards[:, 1].mean()
    assert palette_of(table.with_columns(score_a=None), ["a", "b"]) is None


def test_default_names_give_way_to_objectives():
    table = answers(**{"sum": [1, 0, 1, 0], "b": [0, 1, 1, 0]})
    assert [w.name for w in default_ways(table, ["sum", "b"])][1] == "sum (default)"
    assert default_ways(table, ["b"]) == []


def test_steps_are_chained_and_what_a_later_one_reads_is_no_aggregation():
    scaled = Normalise(objectives=("a", "b"), suffix="q", method="quantile")
    low = Weigh(name="low", objectives=("a_q", "b_q"), method="soft_min")
    assert leaves([scaled, low]) == ["low"]
    assert leaves([scaled]) == ["a_q", "b_q"]
    table = answers(a=[1, 0, 1, 0], b=[1, 0, 0, 3])
    found = compare(table, None, [scaled, low], combined=())
    assert found.names == ("low", "a", "b")
    assert found.made == {"low": {"step": "Weigh"}}


def test_what_was_fitted_is_told():
    table = answers(a=[1, 0, 3, 0], b=[1, 0, 0, 3])
    step = MAP(name="palette", objectives=("a", "b"), palette={"a": 1.2, "b": 1.2})
    facts = compare(table, None, [step]).made["palette"]
    assert facts["palette"] == {"a": 1.2, "b": 1.2}
    assert "reached with KL" in facts["message"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Combine(name="x", weights={"aa": 1}), "needs a score of 'aa'; did you mean 'a'"),
        (Combine(name="a", weights={"b": 1}), "score_a is there already"),
        (Combine(name="sum", weights={"b": 1}), "two aggregations are called 'sum'"),
    ],
)
def test_steps_that_do_not_fit(step, message):
    table = answers(a=[1, 0, 1, 0], b=[1, 0, 0, 3])
    with pytest.raises(ConfigError, match=message):
        compare(table, None, [step])


def test_a_palette_out_of_reach_says_so():
    step = MAP(name="m", objectives=("a",), palette={"a": 9})
    with pytest.raises(DataError, match="not reachable"):
        compare(answers(a=[1, 0, 1, 0], b=[1, 0, 0, 3]), None, [step])


def test_one_score_is_nothing_to_compare():
    with pytest.raises(DataError, match=r"nothing to compare: 1 aggregation \(a\)"):
        compare(answers(a=[1, 0, 1, 0]), None)
    with pytest.raises(DataError, match="left out: a: every answer scores 1"):
        compare(answers(a=[1, 1, 1, 1]), None)


def test_the_order_of_the_answers_changes_nothing():
    rng = np.random.default_rng(2)
    table = answers(40, a=rng.normal(size=40), b=rng.normal(size=40), c=rng.integers(0, 3, 40))
    pairs = pairs_of(table, *((2 * i, 2 * i + 1) for i in range(20)))
    first = compare(table, pairs)
    again = compare(table.sample(fraction=1, shuffle=True, seed=5), pairs.reverse())
    for where in (PUBLISHED, WITHIN):
        assert (
            first.counted[where]
            .flips.drop("conflict_se")
            .equals(again.counted[where].flips.drop("conflict_se"))
        )
        assert first.counted[where].agreed == again.counted[where].agreed

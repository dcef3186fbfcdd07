import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from labelers import RewardAugmented
from labelers.pairs.reward_augmented import revert
from labelers.pairs.reward_goal import goal_message
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.tables import MESSAGES, Shape, canonical_order, check, with_ids

NAMES = ("question", "chosen", "rejected")


def message(role, text):
    return [{"role": role, "content": text}]


def pairs(*rows, objectives=("overall",), system=None, margin=False):
    """PAIRS from (question, chosen, rejected, scores of chosen ..., scores of rejected ...)."""
    head = message("system", system) if system is not None else []
    k = len(objectives)
    columns = {
        "prompt": pl.Series([head + message("user", r[0]) for r in rows], dtype=MESSAGES),
        "source": pl.Series(["s"] * len(rows), dtype=pl.String),
        "source_id": pl.Series([str(i) for i in range(len(rows))], dtype=pl.String),
        "chosen": pl.Series([message("assistant", r[1]) for r in rows], dtype=MESSAGES),
        "rejected": pl.Series([message("assistant", r[2]) for r in rows], dtype=MESSAGES),
        "chosen_model": pl.Series([f"model {r[1]}" for r in rows], dtype=pl.String),
        "rejected_model": pl.Series([f"model {r[2]}" for r in rows], dtype=pl.String),
        "label_source": pl.Series(["human"] * len(rows), dtype=pl.String),
    }
    for i, objective in enumerate(objectives):
        for side, at in (("chosen", 3), ("rejected", 3 + k)):
            values = [r[at + i] for r in rows]
            columns[f"{side}_score_{objective}"] = pl.Series(values, dtype=pl.Float64)
    if margin:
        columns["margin"] = pl.Series([0.25] * len(rows), dtype=pl.Float64)
    return canonical_order(with_ids(pl.DataFrame(columns), Shape.PAIRS), Shape.PAIRS)


def relabel(step, table, seed=0):
    ctx = Context(seed=seed)
    parts = step.fit_shard(table, ctx)
    state = step.fit(parts.sort(parts.columns[0]), ctx)
    json.dumps(state.info)
    ctx = Context(seed=seed, state=state)
    rows, dropped = apply_generator(step, "ra", table, Shape.PAIRS, ctx)
    check(rows, Shape.PAIRS)
    return rows, dropped


def step_of(**fields):
    return RewardAugmented(**{"objective": "overall", **fields})


def content(messages):
    return "\n".join(m["content"] for m in messages)


def shown(rows):
    """(goal line(s), chosen, rejected) of every row, best goal first."""
    ordered = rows.sort("goal", descending=True).iter_rows(named=True)
    return [
        (
            "\n".join(r["prompt"][0]["content"].splitlines()[1:]),
            content(r["chosen"]),
            content(r["rejected"]),
        )
        for r in ordered
    ]


def reasons(dropped):
    return dropped["reason"].to_list()


def test_known_answer():
    rows, dropped = relabel(step_of(), pairs(("x", "GOOD", "BAD", 9, 3.5)))
    assert shown(rows) == [
        ("Overall score: 9.", "GOOD", "BAD"),
        ("Overall score: 3.5.", "BAD", "GOOD"),
    ]
    assert dropped.height == 0
    assert rows.sort("goal").select(
        "goal", "goal_kind", "margin", "label_source", "source_label_source", "chosen_model"
    ).rows() == [
        (3.5, "low", 30.25, "relabel", "human", "model BAD"),
        (9.0, "high", 30.25, "relabel", "human", "model GOOD"),
    ]


def test_low_goal_swaps_the_answers_and_writes_the_score_once():
    """Regression against the published code for templates without a system role."""
    table = pairs(("x", "GOOD", "BAD", 9, 3.5))
    rows, _ = relabel(step_of(), table)
    (low,) = rows.filter(pl.col("goal_kind") == "low").rows(named=True)
    assert low["chosen"] == message("assistant", "BAD")
    assert low["rejected"] == message("assistant", "GOOD")
    assert (low["chosen_id"], low["rejected_id"]) == (
        table["rejected_id"][0],
        table["chosen_id"][0],
    )
    assert (low["chosen_score_overall"], low["rejected_score_overall"]) == (3.5, 9.0)
    assert [m["role"] for m in low["prompt"]] == ["system", "user"]
    assert low["prompt"][1] == {"role": "user", "content": "x"}
    assert content(low["prompt"]).count("score: 3.5.") == 1
    assert content(low["prompt"]).count("score:") == 1


def test_every_other_fate_has_its_reason():
    table = pairs(
        ("tie", "a", "b", 5, 5),
        ("near", "a", "b", 5.25, 5),
        ("conflict", "a", "b", 3, 5),
        ("null", "a", "b", None, 5),
        ("nan", "a", "b", 5, float("nan")),
        ("far", "a", "b", 11, 5),
        ("infinite", "a", "b", float("inf"), 5),
        ("same", "a", "a", 9, 5),
        ("ok", "a", "b", 5.5, 5),
    )
    rows, dropped = relabel(step_of(), table)
    assert rows["source_id"].to_list() == ["8", "8"]
    found = dict(zip(table["pair_id"], table["source_id"], strict=True))
    fate = {int(found[i]): r for i, r in dropped.select("row_id", "reason").iter_rows()}
    assert [fate[i] for i in range(8)] == [
        "tie",
        "small_gap",
        "conflict",
        "null_score",
        "null_score",
        "out_of_scale",
        "out_of_scale",
        "tie",
    ]


def test_scores_that_print_alike_are_ties():
    table = pairs(("x", "a", "b", 7.004, 7.001))
    rows, dropped = relabel(step_of(min_gap=0), table)
    assert (rows.height, reasons(dropped)) == (0, ["tie"])
    rows, _ = relabel(step_of(min_gap=0, decimals=3), table)
    assert [r[0] for r in shown(rows)] == ["Overall score: 7.004.", "Overall score: 7.001."]


def test_gap_is_free_of_float_noise():
    rows, dropped = relabel(step_of(min_gap=0.3), pairs(("x", "a", "b", 1.4, 1.1)))
    assert 1.4 - 1.1 < 0.3
    assert (rows.height, dropped.height) == (2, 0)


def test_conflict_trusts_the_score():
    rows, _ = relabel(step_of(on_conflict="trust_score"), pairs(("x", "human", "score", 3, 8)))
    assert shown(rows) == [
        ("Overall score: 8.", "score", "human"),
        ("Overall score: 3.", "human", "score"),
    ]
    assert rows.sort("goal")["chosen_score_overall"].to_list() == [3.0, 8.0]


def test_conflict_trusts_the_label():
    rows, _ = relabel(step_of(on_conflict="trust_label"), pairs(("x", "human", "score", 3, 8)))
    assert shown(rows) == [
        ("Overall score: 8.", "human", "score"),
        ("Overall score: 3.", "score", "human"),
    ]
    assert rows.sort("goal")["chosen_score_overall"].to_list() == [8.0, 3.0]


@pytest.mark.parametrize("trust", ["trust_score", "trust_label"])
def test_the_same_pair_in_both_orders_is_relabelled_once(trust):
    table = pairs(("x", "a", "b", 8, 3), ("x", "b", "a", 3, 8))
    rows, dropped = relabel(step_of(on_conflict=trust), table)
    assert shown(rows) == [("Overall score: 8.", "a", "b"), ("Overall score: 3.", "b", "a")]
    assert reasons(dropped) == ["conflict"]


def test_goal_follows_a_system_message_that_is_there():
    rows, _ = relabel(step_of(), pairs(("x", "a", "b", 9, 3), system="Be kind."))
    assert [len(p) for p in rows["prompt"].to_list()] == [2, 2]
    assert all(p[0]["content"].startswith("Be kind.\n\nYou are") for p in rows["prompt"].to_list())


def test_goal_vectors_have_a_line_per_attribute():
    table = pairs(("x", "a", "b", 9, 2, 4, 5), objectives=("helpful", "answer_style"))
    step = RewardAugmented(attributes=("helpful", "answer_style"))
    rows, _ = relabel(step, table)
    assert shown(rows) == [
        ("Helpful score: 9.\nAnswer style score: 2.", "a", "b"),
        ("Helpful score: 4.\nAnswer style score: 5.", "b", "a"),
    ]
    assert rows["margin"].to_list() == [25.0 + 9.0] * 2
    _, dropped = relabel(
        RewardAugmented(attributes=("helpful", "answer_style"), objective="answer_style"), table
    )
    assert reasons(dropped) == ["conflict"]


def test_another_objective_may_decide_and_needs_no_scale():
    table = pairs(("x", "a", "b", 2, -70, 8, -60), objectives=("help", "total"))
    rows, _ = relabel(
        RewardAugmented(attributes=("help",), objective="total", on_conflict="trust_score"), table
    )
    assert shown(rows) == [("Help score: 8.", "b", "a"), ("Help score: 2.", "a", "b")]
    table = pairs(("x", "a", "b", 5, -60, 5, -70), objectives=("help", "total"))
    _, dropped = relabel(RewardAugmented(attributes=("help",), objective="total"), table)
    assert reasons(dropped) == ["tie"]


def test_quantiles_map_ranks_of_distinct_answers_to_the_scale():
    table = pairs(("x", "a", "b", 100, -5), ("x", "c", "b", 0.01, -5), ("x", "a", "d", 100, 0.02))
    rows, _ = relabel(step_of(rescale="quantile"), table)
    goals = dict(zip(map(content, rows["chosen"].to_list()), rows["goal"], strict=True))
    assert goals == {"b": 1.0, "c": 4.0, "d": 7.0, "a": 10.0}
    assert sorted(rows["chosen_score_overall"].unique()) == [-5, 0.01, 0.02, 100]


def test_quantiles_of_equal_scores_are_one_goal():
    table = pairs(("x", "a", "b", 2, 1), ("y", "a", "b", 2, 1))
    rows, _ = relabel(step_of(rescale="quantile"), table)
    assert sorted(rows["goal"].unique()) == [2.5, 8.5]


def test_half_keeps_the_size():
    table = pairs(*[(f"q{i}", "a", "b", 9, 3) for i in range(10)], ("tie", "a", "b", 3, 3))
    rows, dropped = relabel(step_of(half=True), table)
    assert rows.height == 10
    assert rows["source_pair_id"].n_unique() == 5
    assert sorted(reasons(dropped)) == ["half_left_out"] * 5 + ["tie"]
    other, _ = relabel(step_of(half=True), table, seed=1)
    assert set(other["source_pair_id"]) != set(rows["source_pair_id"])
    assert relabel(step_of(half=True), pairs(("x", "a", "b", 9, 3)))[0].height == 2


def test_state_has_what_inference_needs():
    table = pairs(("x", "a", "b", 9, 3))
    step = step_of()
    info = step.fit(step.fit_shard(table, Context()), Context()).info
    assert info["best"] == (
        "You are an assistant that answers the instruction and, without mentioning them, meets "
        "the target scores below. Scores range from 1 (worst) to 10 (best).\nOverall score: 10."
    )
    assert info["best"] == goal_message({"overall": 10}, (1, 10))
    rows, _ = relabel(step, table)
    texts = {p[0]["content"] for p in rows["prompt"].to_list()}
    assert texts == {goal_message({"overall": g}, (1, 10)) for g in (9, 3)}


@pytest.mark.parametrize(
    ("goal", "text"), [(9.0, "9"), (7.25, "7.25"), (7.5, "7.5"), (-0.001, "0"), (100, "100")]
)
def test_numbers_in_the_message(goal, text):
    assert goal_message({"x": goal}, (-2, 100)).endswith(f"X score: {text}.")


def test_relabelling_twice_is_refused():
    rows, _ = relabel(step_of(), pairs(("x", "a", "b", 9, 3)))
    with pytest.raises(DataError, match="runs once"):
        step_of().fit_shard(rows, Context())


def test_nothing_left_and_nothing_there():
    rows, dropped = relabel(step_of(), pairs(("x", "a", "b", 3, 3)))
    assert (rows.height, reasons(dropped)) == (0, ["tie"])
    for fields in ({}, {"rescale": "quantile"}, {"half": True}):
        rows, dropped = relabel(step_of(**fields), pairs())
        assert (rows.height, dropped.height) == (0, 0)
    rows, dropped = relabel(step_of(rescale="quantile"), pairs(("x", "a", "b", None, None)))
    assert (rows.height, reasons(dropped)) == (0, ["null_score"])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"objective": None}, "must say whose scores"),
        ({"attributes": ("a", "a")}, "distinct"),
        ({"scale": (10, 1)}, "below the best"),
        ({"scale": (0.125, 1)}, "more than 2 decimals"),
    ],
)
def test_wrong_fields_are_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        step_of(**fields)


SCORES = st.none() | st.integers(0, 44).map(lambda i: i / 4)
TABLES = st.lists(
    st.tuples(st.sampled_from("pq"), st.sampled_from("abc"), st.sampled_from("abc")),
    min_size=1,
    max_size=6,
    unique=True,
)


@settings(max_examples=40, deadline=None)
@given(
    TABLES,
    st.lists(SCORES, min_size=6, max_size=6),
    st.sampled_from(["drop", "trust_score", "trust_label"]),
    st.sampled_from(["none", "quantile"]),
    st.booleans(),
    st.sampled_from([None, "", "S", "S\n\nYou are an assistant"]),
    st.booleans(),
)
def test_properties(labels, scores, on_conflict, rescale, half, system, margin):
    score = {k: scores[i] for i, k in enumerate(p + a for p in "pq" for a in "abc")}
    rows = [(p, c, r, score[p + c], score[p + r]) for p, c, r in labels]
    table = pairs(*rows, system=system, margin=margin)
    step = step_of(on_conflict=on_conflict, rescale=rescale, half=half, min_gap=0)
    made, dropped = relabel(step, table)

    assert made.height == 2 * (table.height - dropped.height)
    twice = made.group_by("source_pair_id").agg(
        pl.col("goal_kind").sort().str.join(","),
        (pl.col("chosen_id").sort() == pl.col("rejected_id").sort()).all().alias("swapped"),
    )
    assert twice.select("goal_kind", "swapped").unique().rows() in ([], [("high,low", True)])
    assert (made["margin"] > 0).all()
    if rescale == "none" and on_conflict != "trust_label":
        distance = [
            (pl.col("goal") - pl.col(f"{side}_score_overall")).pow(2)
            for side in ("chosen", "rejected")
        ]
        gain = made.select(distance[1] - distance[0]).to_series()
        assert gain.to_list() == made["margin"].to_list()
    if on_conflict == "trust_label":
        high = made.filter(pl.col("goal_kind") == "high").rename({"pair_id": "new_id"})
        same = high.join(table, left_on="source_pair_id", right_on="pair_id")
        assert same["chosen_id"].to_list() == same["chosen_id_right"].to_list()

    kept = table.filter(pl.col("pair_id").is_in(made["source_pair_id"].implode()))
    for some in (made, made.filter(goal_kind="high"), made.filter(goal_kind="low")):
        assert revert(some).equals(kept)
    assert revert(made).columns == table.columns

    shards = table.partition_by("prompt_id", maintain_order=True)
    parts = pl.concat([step.fit_shard(s, Context()) for s in shards[::-1]]).sort("pair_id")
    ctx = Context(state=step.fit(parts, Context()))
    again = pl.concat([step.generate(s, ctx).rows for s in shards])
    assert canonical_order(again, Shape.PAIRS).equals(made)

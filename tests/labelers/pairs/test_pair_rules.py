"""Rules of pairs: models, policy, agreement, several objectives; and the arrays beneath."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelers import Pairs
from labelers.pairs import rules as pairing
from labelers.pairs.pairs import _LEVELS, _USABLE, folded
from labelers.pairs.reward_augmented import RewardAugmented, revert
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.tables import Shape, canonical_order, check
from tests.helpers import content, responses

CTX = Context(seed=4)


def answers(rows, objectives=("help", "harm"), models=None):
    """Rows are (question, answer, score of each objective ...)."""
    scores = {
        f"score_{o}": pl.Series([r[2 + i] for r in rows], dtype=pl.Float64)
        for i, o in enumerate(objectives)
    }
    table = responses(*[r[:2] for r in rows], **scores)
    if models is not None:
        table = table.with_columns(model=pl.Series(models, dtype=pl.String))
    return canonical_order(table, Shape.RESPONSES)


def made(step, table, ctx=CTX):
    """Pairs as sorted texts, with the objective if there is one, and reasons by answer text."""
    rows, dropped = apply_generator(step, "pairs", table, Shape.RESPONSES, ctx)
    check(rows, Shape.PAIRS)
    assert (rows["margin"] > 0).all()
    columns = [content(rows, side) for side in ("chosen", "rejected")]
    assert all(a.strip().lower() != b.strip().lower() for a, b in zip(*columns, strict=True))
    columns += [rows["objective"].to_list()] if "objective" in rows.columns else []
    names = dict(zip(table["response_id"], content(table, "response"), strict=True))
    reasons = {names[i]: r for i, r in dropped.select("row_id", "reason").iter_rows()}
    assert dropped["detail"].null_count() == 0
    return sorted(zip(*columns, strict=True)), reasons


FOUR = [("q", "a", 4, 1), ("q", "b", 3, 2), ("q", "c", 2, 3), ("q", "d", 1, 0)]


def test_one_set_of_pairs_for_each_objective():
    step = Pairs(objectives=("help", "harm"), order="each")
    table = answers(FOUR)
    assert made(step, table) == (
        [("a", "d", "help"), ("c", "d", "harm")],
        {"b": "not_selected"},
    )
    rows, _ = apply_generator(step, "p", table, Shape.RESPONSES, CTX)
    assert rows.sort("dimension").select("dimension", "objective", "margin").rows() == [
        (0, "help", 3.0),
        (1, "harm", 3.0),
    ]
    assert rows.schema["dimension"] == pl.Int64
    assert step.adds(Shape.RESPONSES) == {c: rows.schema[c] for c in step.adds(Shape.RESPONSES)}


def test_the_same_pair_of_two_objectives_is_two_rows_that_survive_relabelling():
    table = answers([("q", "a", 4, 9), ("q", "b", 2, 3)])
    step = Pairs(objectives=("help", "harm"), order="each", label_source="human")
    rows, _ = apply_generator(step, "p", table, Shape.RESPONSES, CTX)
    assert rows["pair_id"].n_unique() == rows.height == 2
    assert rows["chosen_id"].n_unique() == 1
    goals = RewardAugmented(objective="harm")
    parts = goals.fit_shard(rows, CTX).sort("pair_id")
    ctx = Context(state=goals.fit(parts, CTX))
    twice = goals.generate(rows, ctx).rows
    assert revert(twice).equals(rows)


def test_opposite_objectives_give_opposite_pairs():
    table = answers([("q", "a", 2, 1), ("q", "b", 1, 2)])
    step = Pairs(objectives=("help", "harm"), order="each")
    assert made(step, table)[0] == [("a", "b", "help"), ("b", "a", "harm")]
    agreeing = step.model_copy(update={"agree": ("help", "harm")})
    assert made(agreeing, table) == ([], {"a": "conflict", "b": "conflict"})


def test_an_answer_that_lacks_one_objective_is_in_the_pairs_of_the_other():
    table = answers([("q", "a", 2, None), ("q", "b", 1, 2), ("q", "c", None, 1)])
    step = Pairs(objectives=("help", "harm"), order="each")
    assert made(step, table) == ([("a", "b", "help"), ("b", "c", "harm")], {})
    strict = step.model_copy(update={"on_null": "drop_prompt"})
    assert made(strict, table) == ([], dict.fromkeys("abc", "null_in_prompt"))


def test_pareto_pairs_are_higher_somewhere_and_lower_nowhere():
    table = answers([*FOUR, ("p", "x", 1, 2), ("p", "y", 2, 1), ("r", "u", 1, 1), ("r", "v", 1, 1)])
    step = Pairs(objectives=("help", "harm"), order="pareto", strategy="all")
    pairs, reasons = made(step, table)
    assert pairs == [("a", "d"), ("b", "d"), ("c", "d")]
    assert reasons == {"x": "incomparable", "y": "incomparable", "u": "tie", "v": "tie"}
    rows, _ = apply_generator(step, "p", table, Shape.RESPONSES, CTX)
    margins = dict(zip(content(rows, "chosen"), rows["margin"], strict=True))
    assert margins == {"a": 2.0, "b": 2.0, "c": 2.0}
    best = made(step.model_copy(update={"strategy": "best_worst", "min_margin": 3}), table)
    assert best[0] == []
    assert best[1]["a"] == "small_margin"


@pytest.mark.parametrize(
    ("fields", "pairs", "reasons"),
    [
        ({"models": "same"}, ["ac", "bd"], {}),
        ({"models": "different"}, ["ab", "ad", "bc", "cd"], {}),
        ({"on_policy": "chosen"}, ["ab", "ac", "ad", "cd"], {}),
        ({"on_policy": "rejected"}, ["ac", "bc"], {"d": "off_policy"}),
        ({"on_policy": "both"}, ["ac"], {"b": "off_policy", "d": "off_policy"}),
        ({"on_policy": "either"}, ["ab", "ac", "ad", "bc", "cd"], {}),
        ({"max_margin": 1}, ["ab", "bc", "cd"], {}),
        ({"min_margin": 2, "max_margin": 2}, ["ac", "bd"], {}),
        ({"agree": ("harm",)}, ["ad", "bd", "cd"], {}),
        ({"min_margin": 3, "agree": ("harm",)}, ["ad"], {"b": "small_margin", "c": "small_margin"}),
        ({"max_margin": 0.5}, [], dict.fromkeys("abcd", "large_margin")),
        ({"worst_below": 1}, [], dict.fromkeys("abcd", "all_high")),
        ({"worst_below": 1.5}, ["ab", "ac", "ad", "bc", "bd", "cd"], {}),
        ({"min_spread": 3.5}, [], dict.fromkeys("abcd", "small_spread")),
        (
            {"strategy": "best_worst", "agree": ("harm",)},
            ["ad"],
            dict.fromkeys("bc", "not_selected"),
        ),
        ({"strategy": "best_worst", "max_margin": 2}, ["ac"], dict.fromkeys("bd", "not_selected")),
    ],
)
def test_rules(fields, pairs, reasons):
    by = {"on_policy_model": "m1"} if "on_policy" in fields else {}
    step = Pairs(**{"objective": "help", "strategy": "all", **by, **fields})
    table = answers(FOUR, models=["m1", "m2", "m1", "m2"])
    assert made(step, table) == ([tuple(p) for p in pairs], reasons)


def test_an_unknown_model_is_neither_the_same_nor_another():
    table = answers(FOUR[:2]).with_columns(model=pl.lit(None, dtype=pl.String))
    for models in ("same", "different"):
        step = Pairs(objective="help", models=models)
        assert made(step, table) == ([], {"a": "no_model", "b": "no_model"})
    assert made(Pairs(objective="help"), table)[0] == [("a", "b")]


def test_one_model_only():
    table = answers(FOUR)
    step = Pairs(objective="help", models="different")
    assert made(step, table)[1] == dict.fromkeys("abcd", "same_model")
    table = answers(FOUR[:2], models=["m1", "m2"])
    step = Pairs(objective="help", models="same")
    assert set(made(step, table)[1].values()) == {"other_model"}


def test_a_shared_best_score_may_drop_the_prompt():
    table = answers([("q", "a", 2, 0), ("q", "b", 2, 0), ("q", "c", 1, 0)])
    step = Pairs(objective="help", on_tie="drop_prompt")
    assert made(step, table) == ([], dict.fromkeys("abc", "tied_best"))
    assert len(made(Pairs(objective="help"), table)[0]) == 1


def test_a_copy_of_the_best_answer_does_not_share_its_score():
    table = answers([("q", "a", 2, 0), ("q", "A ", 2, 0), ("q", "c", 1, 0)])
    pairs, reasons = made(Pairs(objective="help", on_tie="drop_prompt"), table)
    assert [r for _, r in pairs] == ["c"]
    assert list(reasons.values()) == ["same_text"]


def test_a_missing_score_may_drop_the_prompt():
    table = answers([("q", "a", 2, 0), ("q", "b", 1, 0), ("q", "c", float("nan"), 0)])
    step = Pairs(objective="help", on_null="drop_prompt")
    reasons = {"a": "null_in_prompt", "b": "null_in_prompt", "c": "null_score"}
    assert made(step, table) == ([], reasons)


def test_texts_that_are_equal_when_folded_make_no_pair():
    table = answers([("q", "Yes,  indeed", 2, 0), ("q", "yes, indeed\n", 1, 0)])
    assert set(made(Pairs(objective="help"), table)[1].values()) == {"same_text", "single_response"}
    exact = Pairs(objective="help", same_text="exact")
    rows, _ = apply_generator(exact, "p", table, Shape.RESPONSES, CTX)
    assert content(rows, "chosen") == ["Yes,  indeed"]
    texts = pl.DataFrame({"t": [" E\u0301A\t\tb ", "\u00c9a b"]})
    assert texts.select(folded(pl.col("t"))).to_series().n_unique() == 1


def test_max_pairs_counts_for_each_objective():
    step = Pairs(objectives=("help", "harm"), order="each", strategy="all", max_pairs=2)
    assert len(made(step, answers(FOUR))[0]) == 4


def test_chunks_hold_whole_prompts_and_change_nothing(monkeypatch):
    groups = np.repeat(np.arange(5), [1, 4, 3, 6, 2])
    assert pairing.chunks(groups, 9) == [(0, 8), (8, 14), (14, 16)]
    assert pairing.chunks(groups, 1) == [(0, 1), (1, 5), (5, 8), (8, 14), (14, 16)]
    assert pairing.chunks(groups[:0]) == []
    rng = np.random.default_rng(0)
    rows = [(f"q{i % 7}", f"t{i}", float(rng.integers(4)), 0.0) for i in range(60)]
    step = Pairs(objective="help", strategy="all")
    whole = made(step, answers(rows))
    monkeypatch.setattr(pairing.chunks, "__defaults__", (3,))
    assert made(step, answers(rows)) == whole


def test_all_pairs():
    i, j = pairing.all_pairs(np.array([0, 0, 0, 1, 2, 2]))
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (4, 5)]
    assert all(len(x) == 0 for x in pairing.all_pairs(np.zeros(0, np.int64)))


SCORE = st.sampled_from([None, 0.0, 1.0, 2.0])
TABLE = st.lists(st.tuples(st.sampled_from("pq"), SCORE, SCORE), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(TABLE, st.booleans())
def test_pareto_against_a_loop(rows, some):
    named = [(q, f"t{i}", a, b) for i, (q, a, b) in enumerate(rows)]
    step = Pairs(objectives=("help", "harm"), order="pareto", strategy="all")
    expected = sorted(
        (t, u)
        for q, t, a, b in named
        for p, u, c, d in named
        if q == p and None not in (a, b, c, d) and a >= c and b >= d and (a > c or b > d)
    )
    assert made(step, answers(named))[0] == expected


def test_each_fate_has_its_reason():
    names = [f.name.lower() for f in pairing.Fate][:-1]
    assert _LEVELS[_USABLE:] == (*names, "not_selected")
    assert _LEVELS[_USABLE - 1] == "single_response"

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from labelers import Pairs
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.tables import MESSAGES, Shape, canonical_order, check, with_ids


def message(role, text):
    return [{"role": role, "content": text}]


def answers(**prompts):
    """`question=[(text, score), ...]` as a RESPONSES table."""
    rows = [
        (message("user", question), message("assistant", text), f"model {text}", score)
        for question, pairs in prompts.items()
        for text, score in pairs
    ]
    prompt, response, model, score = zip(*rows, strict=True) if rows else ((), (), (), ())
    table = pl.DataFrame(
        {
            "prompt": pl.Series(prompt, dtype=MESSAGES),
            "source": pl.Series(["s"] * len(rows), dtype=pl.String),
            "source_id": pl.Series([str(i) for i in range(len(rows))], dtype=pl.String),
            "response": pl.Series(response, dtype=MESSAGES),
            "model": pl.Series(model, dtype=pl.String),
            "origin": pl.Series([None] * len(rows), dtype=pl.String),
            "score_help": pl.Series(score, dtype=pl.Float64),
            "score_other": pl.Series([1.0] * len(rows), dtype=pl.Float64),
        }
    )
    return canonical_order(with_ids(table, Shape.RESPONSES), Shape.RESPONSES)


def text(table, column):
    return table[column].list.first().struct.field("content").to_list()


def made(step, table, ctx=None):
    """Pairs as sorted (chosen, rejected) texts, and reasons by answer text."""
    rows, dropped = apply_generator(step, "pairs", table, Shape.RESPONSES, ctx or Context())
    check(rows, Shape.PAIRS)
    names = dict(zip(table["response_id"], text(table, "response"), strict=True))
    reasons = {names[i]: r for i, r in dropped.select("row_id", "reason").iter_rows()}
    return sorted(zip(text(rows, "chosen"), text(rows, "rejected"), strict=True)), reasons


FOUR = {"q": [("a", 4), ("b", 3), ("c", 2), ("d", 1)]}


@pytest.mark.parametrize(
    ("fields", "pairs"),
    [
        ({}, ["ad"]),
        ({"strategy": "all"}, ["ab", "ac", "ad", "bc", "bd", "cd"]),
        ({"strategy": "all", "max_pairs": 2}, ["ad", "**"]),
        ({"strategy": "all", "min_margin": 2}, ["ac", "ad", "bd"]),
        ({"strategy": "top_bottom_k", "k": 2}, ["ac", "ad", "bc", "bd"]),
        ({"strategy": "top_bottom_k", "k": 3}, ["ab", "ac", "ad", "bc", "bd", "cd"]),
        ({"strategy": "top_bottom_k", "k": 9, "max_pairs": 1}, ["ad"]),
    ],
)
def test_strategies(fields, pairs):
    found, reasons = made(Pairs(objective="help", **fields), answers(**FOUR))
    if "**" in pairs:
        assert len(found) == 2
        assert found[0] in [("a", "c"), ("a", "d")]
        assert ("a", "d") in found
    else:
        assert found == [tuple(p) for p in pairs]
    assert set(reasons.values()) <= {"not_selected"}
    assert {*"abcd"} == {c for pair in found for c in pair} | set(reasons)


def test_best_random_lower_takes_any_lower_answer_but_none_too_close():
    table = answers(**{f"q{i}": [("a", 4), ("b", 3.5), ("c", 2), ("d", 1)] for i in range(60)})
    step = Pairs(objective="help", strategy="best_random_lower", min_margin=1)
    rows, _ = apply_generator(step, "pairs", table, Shape.RESPONSES, Context(seed=1))
    assert rows.height == 60
    assert set(text(rows, "chosen")) == {"a"}
    drawn = text(rows, "rejected")
    assert set(drawn) == {"c", "d"}
    assert 15 <= drawn.count("c") <= 45
    again, _ = apply_generator(step, "pairs", table, Shape.RESPONSES, Context(seed=2))
    assert not rows.equals(again)


def test_best_random_draws_among_all_others_and_a_drawn_tie_makes_no_pair():
    table = answers(**{f"q{i}": [("a", 4), ("b", 4), ("c", 2)] for i in range(60)})
    rows, dropped = apply_generator(
        Pairs(objective="help", strategy="best_random"), "p", table, Shape.RESPONSES, Context()
    )
    assert set(text(rows, "rejected")) == {"c"}
    assert 15 <= rows.height <= 45
    assert set(dropped["reason"]) == {"not_selected"}
    lower = Pairs(objective="help", strategy="best_random_lower")
    assert apply_generator(lower, "p", table, Shape.RESPONSES, Context())[0].height == 60


def test_row_of_a_pair():
    table = answers(q=[("good", 3), ("bad", 1)])
    rows, dropped = apply_generator(Pairs(objective="help"), "p", table, Shape.RESPONSES, Context())
    assert dropped.height == 0
    ids = dict(zip(text(table, "response"), table["response_id"], strict=True))
    (row,) = rows.rows(named=True)
    assert {k: v for k, v in row.items() if k != "pair_id"} == {
        "prompt_id": table["prompt_id"][0],
        "prompt": message("user", "q"),
        "source": "s",
        "source_id": "0",
        "chosen": message("assistant", "good"),
        "rejected": message("assistant", "bad"),
        "chosen_id": ids["good"],
        "rejected_id": ids["bad"],
        "chosen_model": "model good",
        "rejected_model": "model bad",
        "chosen_score_help": 3.0,
        "rejected_score_help": 1.0,
        "chosen_score_other": 1.0,
        "rejected_score_other": 1.0,
        "margin": 2.0,
        "label_source": "reward_model",
    }
    assert rows["pair_id"].to_list() == with_ids(rows, Shape.PAIRS)["pair_id"].to_list()


def test_every_answer_without_a_pair_has_its_reason():
    table = answers(
        nulls=[("n1", None), ("n2", float("nan")), ("n3", float("inf")), ("alone", 1)],
        tie=[("t1", 2), ("t2", 2)],
        near=[("m1", 2), ("m2", 1.9), ("m3", 2)],
        twins=[("x", 3), ("x ", 1), ("\u00e9", 2), ("e\u0301", 2)],
    )
    table = table.unique("response_id", maintain_order=True)  # both é are one answer
    pairs, reasons = made(Pairs(objective="help", min_margin=0.5), table)
    kept = [p for p in pairs if p[0].strip() in {"x", "\u00e9", "e\u0301"}]
    assert len(kept) == len(pairs) == 1
    assert {p.strip() for p in kept[0]} != {"x"}
    same = [t for t, r in reasons.items() if r == "same_text"]
    assert [t.strip() for t in same] == ["x"]
    assert {t: r for t, r in reasons.items() if t not in same} == {
        "n1": "null_score",
        "n2": "null_score",
        "n3": "null_score",
        "alone": "single_response",
        "t1": "tie",
        "t2": "tie",
        "m1": "small_margin",
        "m2": "small_margin",
        "m3": "small_margin",
    }


def test_best_of_equal_answers_is_one_of_them_and_the_same_in_any_order():
    table = answers(q=[("a", 2), ("b", 2), ("c", 1)])
    (pair,), reasons = made(Pairs(objective="help"), table)
    assert pair[1] == "c"
    assert reasons == {({"a", "b"} - {pair[0]}).pop(): "not_selected"}


def test_empty_table_and_empty_texts():
    assert made(Pairs(objective="help"), answers()) == ([], {})
    assert made(Pairs(objective="help"), answers(q=[("", 1), ("a", 2)])) == ([("a", "")], {})


def test_columns():
    step = Pairs(objective="help")
    assert step.needs(Shape.RESPONSES) == {"score_help": pl.Float64()}
    assert step.adds(Shape.RESPONSES) == {"margin": pl.Float64()}
    assert step.out_shape(Shape.RESPONSES) == Shape.PAIRS


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"label_source": "guess"}, "'guess' is none of human, judge"),
        ({"strategy": "top_bottom_k"}, "needs k"),
        ({"k": 2}, "no other strategy takes it"),
        ({"on_tie": "keep"}, "Input should be 'drop' or 'drop_prompt'"),
        ({"min_margin": -1}, "greater than or equal to 0"),
        ({"objective": None}, "needs one objective"),
        ({"objectives": ("a",)}, "no objectives"),
        ({"order": "pareto"}, "needs objectives, and no objective"),
        ({"objective": None, "order": "each", "objectives": ("a", "a")}, "name each once"),
        ({"on_policy": "chosen"}, "go together"),
        ({"min_margin": 2, "max_margin": 1}, "above max_margin"),
        (
            {"objective": None, "order": "pareto", "objectives": ("a",), "on_tie": "drop_prompt"},
            "not for pareto",
        ),
    ],
)
def test_wrong_fields_are_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        Pairs(**{"objective": "help", **fields})


SCORES = st.sampled_from([None, 0.0, 0.5, 1.0, 2.0])
PROMPTS = st.lists(st.lists(SCORES, min_size=1, max_size=5), min_size=1, max_size=4)
STEPS = st.sampled_from(
    [
        Pairs(objective="help"),
        Pairs(objective="help", strategy="best_random"),
        Pairs(objective="help", strategy="best_random_lower", max_margin=1.5),
        Pairs(objective="help", strategy="all", max_pairs=3, min_margin=0.5),
        Pairs(objective="help", strategy="top_bottom_k", k=2),
    ]
)


@settings(max_examples=40, deadline=None)
@given(PROMPTS, STEPS, st.randoms(use_true_random=False))
def test_pairs_depend_on_neither_order_nor_other_prompts(prompts, step, random):
    table = answers(
        **{f"q{i}": [(f"{i}.{j}", s) for j, s in enumerate(p)] for i, p in enumerate(prompts)}
    )
    rows, dropped = apply_generator(step, "p", table, Shape.RESPONSES, Context())
    assert (rows["margin"] > 0).all()
    assert (rows["margin"] == rows["chosen_score_help"] - rows["rejected_score_help"]).all()
    order = list(range(table.height))
    random.shuffle(order)
    shuffled = apply_generator(step, "p", table[order], Shape.RESPONSES, Context())
    assert shuffled[0].equals(rows)
    assert shuffled[1].sort("row_id").equals(dropped.sort("row_id"))
    parts = [
        apply_generator(step, "p", part, Shape.RESPONSES, Context())[0]
        for part in table.partition_by("prompt_id", maintain_order=True)
    ]
    assert pl.concat(parts).equals(rows)

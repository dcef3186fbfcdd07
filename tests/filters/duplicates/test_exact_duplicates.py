import itertools

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.duplicates.exact import ExactDuplicates, normalised
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.tables import COLUMNS, ROW_ID, Shape

STAYS = (None, None)


def user(text):
    return [{"role": "user", "content": text}]


def said(text):
    return None if text is None else [{"role": "assistant", "content": text}]


def responses(*rows):
    """Rows are (response id, prompt text, response text, score); the prompt id is the text."""
    return pl.DataFrame(
        [
            {
                "prompt_id": p,
                "prompt": user(p),
                "response_id": i,
                "response": said(r),
                "score_help": s[0] if s else None,
            }
            for i, p, r, *s in rows
        ],
        schema={**COLUMNS[Shape.RESPONSES], "score_help": pl.Float64},
    )


def pairs(*rows):
    """Rows are (pair id, prompt text, chosen text, rejected text, chosen score)."""
    return pl.DataFrame(
        [
            {
                "pair_id": i,
                "prompt_id": p,
                "prompt": user(p),
                "chosen": said(c),
                "rejected": said(r),
                "chosen_score_help": s[0] if s else None,
                "rejected_score_help": 0.0,
            }
            for i, p, c, r, *s in rows
        ],
        schema={
            **COLUMNS[Shape.PAIRS],
            "chosen_score_help": pl.Float64,
            "rejected_score_help": pl.Float64,
        },
    )


def fitted(step, table, cuts=()):
    edges = [0, *sorted(cuts), table.height]
    shards = [table[a:b] for a, b in itertools.pairwise(edges)]
    parts = pl.concat(step.fit_shard(s, Context()) for s in shards)
    return Context(state=step.fit(parts.sort(parts.columns[0]), Context()))


def judged(step, table):
    ctx = fitted(step, table)
    answer = step.keep(table, ctx)
    assert answer.schema == {"reason": pl.String, "detail": pl.String}
    reasons = answer["reason"].drop_nulls().to_list()
    if step.on != "prompt":
        for reason in ("duplicate", "contradiction"):
            assert ctx.state.info[reason] == reasons.count(reason)
    return answer.rows()


def test_same_prompt_and_answer_is_one_row():
    table = responses(
        ("r3", "Hi", "Hello  there"),
        ("r1", "hi", "hello there\n"),
        ("r2", "Hi", "Bye"),
        ("r4", "Yo", "Hello there"),
        ("r5", "Hi", None),
        ("r6", "Hi", None),
    )
    assert judged(ExactDuplicates(), table) == [
        ("duplicate", "kept r1"),
        *[STAYS] * 4,
        ("duplicate", "kept r5"),
    ]


def test_prompt_and_answer_are_not_run_together():
    table = responses(("r1", "a", "b c"), ("r2", "a b", "c"))
    assert judged(ExactDuplicates(), table) == [STAYS, STAYS]


def test_roles_count():
    table = responses(("r1", "a", "b"), ("r2", "a", "b")).with_columns(
        pl.Series("prompt", [user("a"), [{"role": "system", "content": "a"}]])
    )
    assert judged(ExactDuplicates(), table) == [STAYS, STAYS]


def test_options_switch_normalisation_off():
    case = responses(("r1", "a", "B"), ("r2", "a", "b"))
    space = responses(("r1", "a", "b c"), ("r2", "a", "b  c"))
    accent = responses(("r1", "a", "caf\u00e9"), ("r2", "a", "cafe\u0301"))
    for option, table in (("casefold", case), ("whitespace", space), ("nfc", accent)):
        assert judged(ExactDuplicates(), table) == [STAYS, ("duplicate", "kept r1")]
        assert judged(ExactDuplicates(**{option: False}), table) == [STAYS, STAYS]


def test_best_score_stays_and_missing_scores_lose():
    table = responses(
        ("r1", "a", "b", None), ("r2", "a", "b", 1.0), ("r3", "a", "b", 2.0), ("r4", "a", "b", 2.0)
    )
    gone = ("duplicate", "kept r3")
    assert judged(ExactDuplicates(keep_best="help"), table) == [gone, gone, STAYS, gone]
    gone = ("duplicate", "kept r1")
    assert judged(ExactDuplicates(), table) == [STAYS, gone, gone, gone]


def test_on_prompt_keeps_all_answers_of_one_prompt():
    table = responses(
        ("r1", "HI", "one", 1.0),
        ("r2", "HI", "two", 5.0),
        ("r3", "hi", "three", 4.0),
        ("r4", "hi", "four", 4.0),
        ("r5", "yo", "one", 0.0),
    )
    gone = ("duplicate", "kept HI")
    for best in (None, "help"):
        step = ExactDuplicates(on="prompt", keep_best=best)
        assert judged(step, table) == [STAYS, STAYS, gone, gone, STAYS]
    better = table.with_columns(score_help=pl.Series([1.0, 5.0, 9.0, 0.0, 0.0]))
    gone = ("duplicate", "kept hi")
    step = ExactDuplicates(on="prompt", keep_best="help")
    assert judged(step, better) == [gone, gone, STAYS, STAYS, STAYS]


def test_on_prompt_keeps_one_pair_per_prompt():
    table = pairs(("p1", "hi", "a", "b", 1.0), ("p2", "HI", "c", "d", 2.0), ("p3", "yo", "a", "b"))
    assert judged(ExactDuplicates(on="prompt"), table) == [STAYS, ("duplicate", "kept p1"), STAYS]
    step = ExactDuplicates(on="prompt", keep_best="help")
    assert judged(step, table) == [("duplicate", "kept p2"), STAYS, STAYS]


def test_on_response_ignores_the_prompt():
    table = responses(("r1", "a", "Same."), ("r2", "b", "same."), ("r3", "b", "other"))
    assert judged(ExactDuplicates(on="response"), table) == [
        STAYS,
        ("duplicate", "kept r1"),
        STAYS,
    ]
    table = pairs(("p1", "a", "x", "y"), ("p2", "b", "y", "x"))
    assert judged(ExactDuplicates(on="response"), table) == [STAYS, ("duplicate", "kept p1")]


def test_opposite_labels_contradict():
    table = pairs(
        ("p1", "a", "x", "y"),
        ("p2", "a", "Y", "X"),
        ("p3", "a", "x", "y"),
        ("p4", "b", "y", "x"),
        ("p5", "a", "x", "z"),
    )
    assert judged(ExactDuplicates(), table) == [
        ("contradiction", "against p2"),
        ("contradiction", "against p1"),
        ("contradiction", "against p2"),
        STAYS,
        STAYS,
    ]
    assert judged(ExactDuplicates(on_contradiction="keep_first"), table) == [
        STAYS,
        ("contradiction", "kept p1"),
        ("duplicate", "kept p1"),
        STAYS,
        STAYS,
    ]


def test_widest_margin_decides_a_contradiction_that_keeps_one():
    table = pairs(("p1", "a", "x", "y", 1.0), ("p2", "a", "y", "x", 3.0))
    step = ExactDuplicates(on_contradiction="keep_first", keep_best="help")
    assert judged(step, table) == [("contradiction", "kept p2"), STAYS]


def test_pairs_of_the_same_two_texts_are_duplicates_not_contradictions():
    table = pairs(("p1", "a", "x", "X"), ("p2", "a", "X", "x"))
    assert judged(ExactDuplicates(), table) == [STAYS, ("duplicate", "kept p1")]


def test_casefold_folds_what_lower_case_leaves():
    words = pl.DataFrame({"w": ["STRASSE", "Stra\u00dfe", "\u039f\u0394\u039f\u03a3"]})
    assert words.select(normalised(pl.col("w"), True, True, True))["w"].to_list() == [
        "strasse",
        "strasse",
        "\u03bf\u03b4\u03bf\u03c3",
    ]


def test_empty_table_all_identical_and_unfitted():
    step = ExactDuplicates()
    assert judged(step, responses()) == []
    table = responses(*[(f"r{i}", "a", "b") for i in range(5)])
    assert judged(step, table) == [STAYS, *[("duplicate", "kept r0")] * 4]
    with pytest.raises(DataError, match="has not been fitted"):
        step.keep(table, Context())


def test_needs_name_score_columns():
    assert ExactDuplicates().needs(Shape.PAIRS) == {}
    assert list(ExactDuplicates(keep_best="help").needs(Shape.RESPONSES)) == ["score_help"]


rows = st.lists(st.tuples(*[st.sampled_from("xyX")] * 3, st.sampled_from([None, 1.0, 2.0])))


@given(rows, st.randoms(use_true_random=False), st.sampled_from(["row", "prompt", "response"]))
def test_same_answer_in_any_order_and_shards_and_second_time_nothing(rows, random, on):
    step = ExactDuplicates(on=on, keep_best="help")
    for make, width in ((pairs, 4), (responses, 3)):
        table = make(*[(f"i{n:03}", *r[: width - 1], r[3]) for n, r in enumerate(rows)])
        row_id = ROW_ID[Shape.PAIRS if make is pairs else Shape.RESPONSES]
        reference = step.keep(table, fitted(step, table)).with_columns(id=table[row_id])
        order = random.sample(range(len(rows)), len(rows))
        shuffled = table[order]
        ctx = fitted(step, shuffled, [random.randint(0, len(rows)) for _ in range(2)])
        again = step.keep(shuffled, ctx).with_columns(id=shuffled[row_id]).sort("id")
        assert again.equals(reference.sort("id"))
        rest = table.filter(reference["reason"].is_null())
        assert step.keep(rest, fitted(step, rest))["reason"].null_count() == rest.height

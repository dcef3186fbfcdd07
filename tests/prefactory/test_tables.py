import hashlib
import json
import subprocess
import sys
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefactory.errors import DataError
from prefactory.tables import (
    COLUMNS,
    MESSAGES,
    Shape,
    answer_weights,
    canonical_order,
    canonical_text,
    check,
    digests,
    join_sides,
    last_user_text,
    objectives,
    shape_of,
    text_of,
    unpair,
    with_ids,
    with_prompt_id,
)
from tests.helpers import (
    ROOT,
    assistant,
    content,
    messages,
    pairs,
    prompts,
    responses,
    system,
    user,
)

NASTY = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(
            '\x00\x01\b\x0b\f\n\r\t\x1b\x7f\x85\u2028\u2029\ufeff"\\/é\u0301שלם🙂\u202e'
        ),
    ),
    max_size=20,
)
CONVERSATION = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": st.none() | NASTY}
    ),
    max_size=4,
)


def prompt_ids(*conversations):
    return with_prompt_id(pl.DataFrame({"prompt": messages(*conversations)}))["prompt_id"].to_list()


def known_id(text):
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


# -- ids -----


def test_prompt_id_is_the_digest_of_canonical_json():
    (found,) = prompt_ids([system("Be brief."), user("Hi\n")])
    assert found == known_id(
        '{"m":[{"content":"Be brief.","role":"system"},{"content":"Hi\\n","role":"user"}]}'
    )


def test_response_and_pair_ids_are_digests_of_ids_and_content():
    table = pairs(("p", "c", "r"))
    (prompt_id,) = prompt_ids([user("p")])
    sides = [
        known_id(f'{prompt_id}\n{{"m":[{{"content":"{t}","role":"assistant"}}]}}') for t in "cr"
    ]
    assert table["chosen_id"].to_list() == sides[:1]
    assert table["rejected_id"].to_list() == sides[1:]
    assert table["pair_id"].to_list() == [known_id("\n".join([prompt_id, *sides]))]
    assert responses(("p", "c"))["response_id"].to_list() == sides[:1]


def test_equal_content_has_equal_ids_whatever_the_source():
    one, two = pairs(("p", "c", "r")), pairs(("p", "c", "r"), source="elsewhere", first_id=7)
    same = ["prompt_id", "chosen_id", "rejected_id", "pair_id"]
    assert one.select(same).equals(two.select(same))


def test_composed_and_decomposed_text_have_one_id():
    composed, decomposed = prompt_ids([user("caf\u00e9")], [user("cafe\u0301")])
    assert composed == decomposed


def test_role_order_and_cut_of_messages_are_content():
    found = prompt_ids(
        [user("a"), assistant("b")],
        [assistant("b"), user("a")],
        [assistant("a"), user("b")],
        [user("ab")],
        [user("a"), user("b")],
        [user("a\n\nb")],
        [user("")],
        [],
    )
    assert len(set(found)) == len(found)


def test_swapped_sides_are_another_pair_of_the_same_responses():
    one, two = pairs(("p", "a", "b")), pairs(("p", "b", "a"))
    assert one["pair_id"].item() != two["pair_id"].item()
    assert one["chosen_id"].item() == two["rejected_id"].item()


def test_side_ids_can_be_kept_when_the_prompt_is_rewritten():
    old = pairs(("p", "c", "r"))
    new = with_ids(old.with_columns(prompt=messages([user("P")])), Shape.PAIRS, keep_side_ids=True)
    assert new["chosen_id"].equals(old["chosen_id"])
    assert new["prompt_id"].item() != old["prompt_id"].item()
    assert new["pair_id"].item() != old["pair_id"].item()


def test_null_content_has_no_id():
    table = with_prompt_id(pl.DataFrame({"prompt": messages(None, [user("a")])}))
    assert table["prompt_id"].null_count() == 1
    assert digests(pl.Series("x", [None, ""])).to_list() == [None, known_id("")]


@settings(max_examples=200)
@given(CONVERSATION)
def test_canonical_text_is_canonical_json(conversation):
    table = pl.DataFrame({"m": messages(conversation)})
    (found,) = table.select(canonical_text(pl.col("m"))).to_series()
    nfc = [
        {**m, "content": m["content"] and unicodedata.normalize("NFC", m["content"])}
        for m in conversation
    ]
    assert found == json.dumps(
        {"m": nfc}, sort_keys=True, ensure_ascii=False, separators=(",", ":")
    )


@settings(max_examples=50)
@given(st.lists(CONVERSATION, min_size=1, max_size=5))
def test_ids_do_not_depend_on_the_batch(conversations):
    assert prompt_ids(*conversations) == [i for c in conversations for i in prompt_ids(c)]


def test_ids_do_not_depend_on_the_hash_seed():
    code = "from tests.helpers import PAIRS; print(*PAIRS['pair_id'])"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().split()) == 14


def test_lone_surrogates_never_enter_a_table():
    with pytest.raises(UnicodeEncodeError):
        messages([user("\ud800")])


# -- check -----


@pytest.mark.parametrize("shape", [Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS])
def test_good_tables_pass_unchanged(shape):
    table = {
        Shape.PROMPTS: prompts("a", "b"),
        Shape.RESPONSES: responses(("a", "x"), ("a", "y"), score_help=[1.0, None], note=["n", "m"]),
        Shape.PAIRS: pairs(("a", "x", "y"), margin=[1.0], chosen_score_help=[2.0]),
    }[shape]
    assert check(table, shape) is table
    assert check(table.clear(), shape).height == 0
    assert shape_of(table) == shape


def problems(table, shape=Shape.PAIRS):
    with pytest.raises(DataError) as error:
        check(table, shape, "the import")
    return str(error.value)


GOOD = pairs(("a", "x", "y"), ("b", "x", "y"))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (GOOD.drop("chosen"), ["column 'chosen' is missing"]),
        (GOOD.with_columns(source=pl.lit(1)), ["column 'source' is Int32, expected String"]),
        (
            GOOD.with_columns(prompt=pl.lit("hi")),
            ["column 'prompt' is String, expected List(Struct("],
        ),
        (GOOD.with_columns(margin=pl.lit(1)), ["'margin' is Int32, expected Float64"]),
        (
            GOOD.with_columns(chosen_score_help=pl.lit(1, dtype=pl.Float32)),
            ["'chosen_score_help' is Float32, expected Float64"],
        ),
        (pl.concat([GOOD, GOOD]), ["'pair_id' is not unique"]),
        (
            GOOD.with_columns(prompt_id=pl.lit(None, dtype=pl.String)),
            ["column 'prompt_id' has 2 nulls"],
        ),
        (
            GOOD.with_columns(prompt=messages(None, [user("b")])),
            ["column 'prompt' has 1 nulls"],
        ),
        (
            GOOD.with_columns(margin=pl.Series([1.0, None])),
            ["'margin' is null on some rows; it must be set on all rows or on none"],
        ),
        (
            GOOD.drop("chosen_model").with_columns(source_id=pl.lit(2.5)),
            ["'chosen_model' is missing", "'source_id' is Float64"],
        ),
    ],
)
def test_each_mistake_is_named(table, words):
    found = problems(table)
    assert found.startswith("the import is not a pairs table: ")
    for word in words:
        assert word in found


def test_margin_is_on_all_rows_or_on_none():
    none = pl.Series([None, None], dtype=pl.Float64)
    for margin in (pl.Series([1.0, -1.0]), none):
        check(GOOD.with_columns(margin=margin), Shape.PAIRS)
    assert "all rows or on none" in problems(GOOD.with_columns(margin=pl.Series([None, 0.0])))


def test_a_table_of_no_shape_is_refused():
    with pytest.raises(DataError, match=r"none of prompts, responses, pairs; .*\['x'\]"):
        shape_of(pl.DataFrame({"x": [1]}))


def test_required_columns_of_the_three_shapes():
    assert list(COLUMNS[Shape.PROMPTS]) == ["prompt_id", "prompt", "source", "source_id"]
    assert set(COLUMNS[Shape.PROMPTS]) < set(COLUMNS[Shape.RESPONSES])
    assert COLUMNS[Shape.PAIRS]["chosen"] == MESSAGES


# -- views -----


def test_objectives_are_named_once_in_column_order():
    columns = ["prompt", "chosen_score_b", "score_a", "rejected_score_b", "chosen", "score_"]
    assert objectives(columns) == ["b", "a", ""]


def test_texts_of_conversations():
    table = pl.DataFrame(
        {
            "m": messages(
                [system("s"), user("a"), assistant("b"), user("c")],
                [assistant("x")],
                [],
                [user("")],
            )
        }
    )
    m = pl.col("m")
    assert table.select(text_of(m))["m"].to_list() == ["s\n\na\n\nb\n\nc", "x", "", ""]
    assert table.select(text_of(m, "user"))["m"].to_list() == ["a\n\nc", "", "", ""]
    assert table.select(last_user_text(m))["m"].to_list() == ["c", "", "", ""]


def test_unpair_gives_each_response_once_with_its_scores():
    table = pairs(
        ("p", "a", "b"),
        ("p", "b", "c"),
        ("q", "a", "b"),
        chosen_score_help=[3.0, 2.0, 9.0],
        rejected_score_help=[2.5, 1.0, 8.0],
    ).pipe(canonical_order, Shape.PAIRS)
    found = check(unpair(table), Shape.RESPONSES)
    assert found.equals(canonical_order(found, Shape.RESPONSES))
    rows = zip(content(found, "prompt"), content(found, "response"), strict=True)
    scores = dict(zip(rows, found["score_help"], strict=True))
    # `b` under `p` is on both sides: chosen sides come before rejected ones
    assert scores == {
        ("p", "a"): 3.0,
        ("p", "b"): 2.0,
        ("p", "c"): 1.0,
        ("q", "a"): 9.0,
        ("q", "b"): 8.0,
    }
    assert set(found["origin"]) == {None}


def test_weights_of_answers_are_those_of_a_side():
    columns = ["weight", "chosen_weight_steer", "rejected_weight_steer", "chosen_score_weight_x"]
    assert answer_weights(columns) == ["weight_steer"]


def test_join_sides_brings_columns_back_by_id_in_any_order():
    table = pairs(("p", "a", "b"), ("p", "b", "c"), ("q", "a", "b"))
    scored = unpair(table).with_columns(score_len=pl.lit(0.0))
    texts = content(scored, "response")
    scored = scored.with_columns(score_len=pl.Series([float(ord(t)) for t in texts]))
    for order in (scored, scored.reverse(), scored.sample(fraction=1, shuffle=True, seed=3)):
        back = join_sides(table, order, ["score_len"])
        assert back.drop("chosen_score_len", "rejected_score_len").equals(table)
        assert back["chosen_score_len"].to_list() == [97.0, 98.0, 97.0]
        assert back["rejected_score_len"].to_list() == [98.0, 99.0, 98.0]


ROWS = st.lists(
    st.tuples(*[st.sampled_from(["", "a", "b", "🙂"])] * 3), min_size=1, max_size=8, unique=True
)


@settings(max_examples=50)
@given(ROWS)
def test_unpair_then_join_is_a_round_trip(rows):
    table = pairs(*rows)
    answers = unpair(table)
    assert set(answers["response_id"]) == {*table["chosen_id"], *table["rejected_id"]}
    back = join_sides(table, answers, ["response", "model"])
    assert back["chosen_response"].equals(table["chosen"])
    assert back["rejected_response"].equals(table["rejected"])


def test_a_pair_of_one_response_with_itself():
    table = pairs(("p", "same", "same"))
    assert table["chosen_id"].equals(table["rejected_id"])
    assert unpair(table).height == 1
    back = join_sides(table, unpair(table).with_columns(score_x=pl.lit(1.0)), ["score_x"])
    assert back.select("chosen_score_x", "rejected_score_x").row(0) == (1.0, 1.0)

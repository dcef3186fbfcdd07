"""The message type: what a message may hold, its text, its identity, and tables of two widths."""

import polars as pl
import pytest

from catalog.versions import ContentDigest
from prefactory.errors import DataError
from prefactory.tables import (
    MESSAGES,
    OPTIONAL_KEYS,
    Shape,
    canonical_text,
    cast_to,
    check,
    is_messages,
    message_text,
    messages_dtype,
    same_messages,
    stacked,
    text_of,
    with_ids,
    with_prompt_id,
)
from prefactory.testing import assistant, messages, pairs, prompts, responses, system, texts, user

CALL = ("weather", {"city": "Lviv"})


def canonical(column):
    return column.to_frame("m").select(canonical_text(pl.col("m"))).to_series().to_list()


def test_text_only_data_keep_ids_digest_and_types():
    talk = [system("Be brief."), user("Cafe\u0301?"), assistant("Yes."), user("Why?")]
    rows = [(talk, "Because.", "[call] f {}"), ("Q", "a", "b")]
    table = pairs(*rows, margin=[1.0, 0.5])
    assert table["prompt_id"].to_list() == [
        "7a7b2f37ff71a2ab4ac1acbb773c3fa5",
        "7c452e7c23e78ea697870a95106ac19e",
    ]
    assert table["chosen_id"].to_list() == [
        "207a48d32f5b4735cef86bd54c9c825e",
        "9cc329c1eef80c11e43042427799fd34",
    ]
    assert table["pair_id"].to_list() == [
        "75a0200c1f0f6e4e17caa93199e8f0d7",
        "64701db493622ee39b10febe8ef38c5e",
    ]
    digest = ContentDigest()
    digest.update(table)
    assert digest.hexdigest() == "981098d049e4953dafcb95b3a1070b72"
    assert table.schema["prompt"] == MESSAGES


def test_a_text_has_one_id_whatever_other_keys_its_table_has():
    narrow = responses(("Q", "a"))
    wide = same_messages(narrow, [messages_dtype(OPTIONAL_KEYS)])
    assert wide.schema["response"] == messages_dtype(OPTIONAL_KEYS)
    again = with_ids(wide, Shape.RESPONSES)
    assert again["response_id"].to_list() == narrow["response_id"].to_list()
    assert texts(again, "response") == ["a"]


@pytest.mark.parametrize(
    "other",
    [
        assistant("Let me see.", ("weather", {"city": "Gdynia"})),
        assistant("Let me see.", ("forecast", {"city": "Lviv"})),
        assistant("Let me see.", CALL, CALL),
        assistant("Let me see."),
        assistant("Let me see.", CALL) | {"reasoning": "Hm."},
        assistant("Let me see.", CALL) | {"name": "bot"},
        assistant("", CALL),
    ],
)
def test_all_of_a_message_is_its_identity_and_its_text(other):
    table = pairs(("Q", [assistant("Let me see.", CALL)], [other]))
    assert table["chosen_id"][0] != table["rejected_id"][0]
    assert texts(table, "chosen") != texts(table, "rejected")


def test_ids_of_calls_are_no_identity():
    said = assistant("", CALL)
    renamed = {**said, "tool_calls": [{**said["tool_calls"][0], "id": "another"}]}
    one, two = canonical(messages([said], [renamed]))
    assert one == two
    assert one == (
        '{"m":[{"content":"","name":null,"reasoning":null,"role":"assistant",'
        '"tool_calls":[{"arguments":"{\\"city\\":\\"Lviv\\"}","name":"weather"}]}]}'
    )


def test_identity_of_a_call_does_not_depend_on_the_width_of_its_table():
    said = [assistant("", CALL)]
    narrow = messages(said)
    wide = same_messages(narrow.to_frame("m"), [messages_dtype(OPTIONAL_KEYS)])["m"]
    assert wide.dtype != narrow.dtype
    assert canonical(narrow) == canonical(wide)


def test_text_of_a_whole_message():
    talk = [
        user("Weather?"),
        assistant("Let me see.", CALL, ("time", {})) | {"reasoning": "A tool knows."},
        {"role": "tool", "content": '{"deg": 4}', "name": "weather"},
        assistant("", CALL),
    ]
    expected = (
        'Weather?\n\n[reasoning] A tool knows.\nLet me see.\n[call] weather {"city":"Lviv"}\n'
        '[call] time {}\n\n[name] weather\n{"deg": 4}\n\n[call] weather {"city":"Lviv"}'
    )
    table = messages(talk).to_frame("m")
    assert table.select(text_of(pl.col("m"))).item() == expected
    assert "\n\n".join(message_text(m) for m in talk) == expected
    only = table.select(text_of(pl.col("m"), "tool")).item()
    assert only == '[name] weather\n{"deg": 4}'
    assert "\n\n".join(message_text(m) for m in table["m"][0]) == expected  # with its nulls


def test_null_and_empty_conversations_keep_their_text():
    wide = pl.Series([None, [], [user("a")]], dtype=messages_dtype(["name"])).to_frame("m")
    narrow = pl.Series([None, [], [user("a")]], dtype=MESSAGES).to_frame("m")
    for made in (text_of(pl.col("m")), canonical_text(pl.col("m"))):
        assert wide.select(made).to_series().to_list() == narrow.select(made).to_series().to_list()


def test_keys_stand_in_one_order():
    assert messages_dtype(["reasoning", "tool_calls"]) == messages_dtype(
        ["tool_calls", "reasoning"]
    )
    assert is_messages(messages_dtype(["name"]))
    turned = pl.List(pl.Struct({"content": pl.String, "role": pl.String}))
    assert not is_messages(turned)
    assert not is_messages(pl.List(pl.String()))


def test_tables_of_two_widths_are_stacked_and_lose_nothing():
    called = pairs(("Q", [assistant("", CALL)], "no"))
    named = pairs(([user("R") | {"name": "Ann"}], "yes", "no"))
    both = stacked([called, named, pairs(("S", "a", "b"))])
    assert both.schema["prompt"] == both.schema["chosen"] == messages_dtype(["tool_calls", "name"])
    check(with_ids(both, Shape.PAIRS), Shape.PAIRS)
    ids = [*called["pair_id"], *named["pair_id"], *pairs(("S", "a", "b"))["pair_id"]]
    assert with_ids(both, Shape.PAIRS)["pair_id"].to_list() == ids


def test_cast_to_narrow_columns_keeps_calls():
    called = responses(("Q", [assistant("", CALL)]))
    schema = {"response": MESSAGES, "prompt": MESSAGES, "score_x": pl.Float64()}
    cast = cast_to(called, schema)
    assert cast.columns == list(schema)
    assert texts(cast, "response") == texts(called, "response")


def test_check_wants_one_dtype_of_all_conversations():
    called = responses(("Q", [assistant("", CALL)]))
    with pytest.raises(DataError, match="'response' is"):
        check(called.with_columns(pl.col("prompt").cast(MESSAGES)), Shape.RESPONSES)


def test_tools_are_part_of_the_prompt():
    table = prompts("Q", "Q", "Q", tools=[None, '[{"a":1}]', '[{"a":2}]'])
    ids = with_prompt_id(table)["prompt_id"].to_list()
    assert ids[0] == prompts("Q")["prompt_id"][0]
    assert len({*ids}) == 3

"""Messages as the world writes them: roles, parts, calls, reasoning, and messages as text."""

import csv
import json

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.sources import SourceSpec, open_source
from catalog.sources.messages import (
    UnreadableError,
    canonical_arguments,
    from_written,
    read_messages,
    read_tools,
)
from prefactory.tables import MESSAGES, stacked
from prefactory.testing import texts

ASK = {"role": "user", "content": "Weather in Lviv?"}
YES = {"role": "assistant", "content": "Four degrees."}
NO = {"role": "assistant", "content": "No idea."}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def call(city="Lviv", content=None, **more):
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    calls = [{"id": "c1", "type": "function", "function": function}]
    return {"role": "assistant", "content": content, "tool_calls": calls, **more}


def read(path, **spec):
    source = open_source(SourceSpec(path=str(path), **spec))
    blocks = [b for f in source.files for b in source.read(f)]
    return (
        source,
        stacked([b.rows for b in blocks]),
        pl.concat([b.rejected for b in blocks]),
        pl.concat([b.notes for b in blocks]),
    )


def rows_of(tmp_path, *records, **spec):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in records))
    return read(path, **spec)


def pair(prompt=(ASK,), chosen=(YES,), rejected=(NO,), **more):
    return {"prompt": list(prompt), "chosen": list(chosen), "rejected": list(rejected), **more}


@pytest.mark.parametrize("content", [None, "", "Let me see."])
def test_answers_that_differ_in_their_calls_are_a_pair(tmp_path, content):
    record = pair(chosen=[call("Lviv", content)], rejected=[call("?", content)], tools=TOOLS)
    _, rows, rejected, notes = rows_of(tmp_path, record)
    assert rejected.is_empty()
    assert notes.is_empty()
    (message,) = rows["chosen"][0]
    assert message["tool_calls"] == [
        {"id": "c1", "name": "weather", "arguments": '{"city":"Lviv"}'}
    ]
    assert message["content"] == (content or "")
    assert json.loads(rows["tools"][0]) == TOOLS


def test_null_and_empty_content_beside_a_call_are_the_same_answer(tmp_path):
    records = [pair(chosen=[call("Lviv", c)], rejected=[NO]) for c in (None, "")]
    _, rows, *_ = rows_of(tmp_path, *records)
    assert rows["chosen_id"].n_unique() == 1


def test_two_answers_with_one_call_are_equal_whatever_its_id(tmp_path):
    other = call()
    other["tool_calls"] = [{**other["tool_calls"][0], "id": "c2"}]
    _, _, rejected, _ = rows_of(tmp_path, pair(chosen=[call()], rejected=[other]), pair())
    assert rejected["reason"].to_list() == ["equal_answers"]


def test_a_call_without_content_in_the_prompt_stays(tmp_path):
    tool = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": '{"deg": 4}'}
    _, rows, rejected, notes = rows_of(tmp_path, pair([ASK, call(), tool]))
    assert rejected.is_empty()
    assert notes.is_empty()
    assert [m["role"] for m in rows["prompt"][0]] == ["user", "assistant", "tool"]
    assert rows["prompt"][0][2] | {"tool_calls": None} == {**tool, "tool_calls": None}
    expected = 'Weather in Lviv?\n\n[call] weather {"city":"Lviv"}\n\n[name] weather\n{"deg": 4}'
    assert texts(rows, "prompt") == [expected]


def test_full_conversations_with_calls_are_cut_where_they_differ(tmp_path):
    first = call()
    again = call()
    again["tool_calls"] = [{**again["tool_calls"][0], "id": "c9"}]
    tool = {"role": "tool", "content": "4"}
    more = {"role": "user", "content": "And Gdynia?"}
    record = {"chosen": [ASK, first, tool, more, YES], "rejected": [ASK, again, tool, more, NO]}
    source, rows, *_ = rows_of(tmp_path, record)
    assert source.layout == "pairs-implicit"
    assert [m["role"] for m in rows["prompt"][0]] == ["user", "assistant", "tool", "user"]
    assert texts(rows, "rejected") == ["No idea."]


def parts(text):
    return [{"type": "text", "text": text}]


def test_text_parts_are_joined_in_all_rows_or_some(tmp_path):
    many = {"role": "assistant", "content": [{"type": "text", "text": "Four"}, "degrees."]}
    records = [
        pair([{**ASK, "content": parts("Weather?")}], [many]),
        pair([ASK]),
        pair([{**ASK, "content": [{"type": "text", "text": "a", "image": None}]}]),
    ]
    _, rows, rejected, _ = rows_of(tmp_path, *records)
    assert rejected.is_empty()
    assert texts(rows, "prompt") == ["Weather?", "Weather in Lviv?", "a"]
    assert texts(rows, "chosen")[0] == "Four\ndegrees."
    assert rows.schema["prompt"] == MESSAGES


def test_text_parts_of_parquet(tmp_path):
    record = pair([{**ASK, "content": parts("Weather?")}], [{**YES, "content": parts("4")}])
    pq.write_table(pa.Table.from_pylist([record] * 3), tmp_path / "data.parquet")
    _, rows, *_ = read(tmp_path / "data.parquet")
    assert texts(rows, "chosen") == ["4"] * 3


def test_padded_keys_of_parquet_are_none(tmp_path):
    wide = call()
    wide["tool_calls"][0]["function"]["arguments"] = {"city": "Lviv"}
    other = call()
    other["tool_calls"][0]["function"]["arguments"] = {"town": "Lviv"}
    plain = [pair([{**ASK, "name": None}]), pair(chosen=[wide], rejected=[other], tools=TOOLS)]
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "data.parquet")
    _, rows, rejected, _ = read(tmp_path / "data.parquet")
    assert rejected.is_empty()
    assert rows["chosen"][1][0]["tool_calls"][0]["arguments"] == '{"city":"Lviv"}'
    assert rows["rejected"][1][0]["tool_calls"][0]["arguments"] == '{"town":"Lviv"}'
    pq.write_table(pa.Table.from_pylist(plain[:1]), tmp_path / "plain.parquet")
    assert read(tmp_path / "plain.parquet")[1].schema["prompt"] == MESSAGES


@pytest.mark.parametrize(
    ("role", "ours"),
    [
        ("developer", "system"), ("System", "system"),
        ("human", "user"), ("User", "user"), ("prompter", "user"),
        ("ai", "assistant"), ("gpt", "assistant"), ("Bot", "assistant"), ("model", "assistant"),
        ("Assistant", "assistant"), ("chatgpt", "assistant"),
        ("function", "tool"), ("observation", "tool"), ("tool_response", "tool"), ("Tool", "tool"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
def test_roles(tmp_path, role, ours, keys):
    turns = [("user", "Q"), (role, "x"), ("user", "R")]
    prompt = [dict(zip(keys, turn, strict=True)) for turn in turns]
    _, rows, rejected, _ = rows_of(tmp_path, pair(prompt))
    assert rejected.is_empty()
    assert [m["role"] for m in rows["prompt"][0]] == ["user", ours, "user"]


def test_a_role_that_is_none_of_ours_is_named(tmp_path):
    _, _, rejected, _ = rows_of(tmp_path, pair([{"role": "critic", "content": "x"}, ASK]), pair())
    assert rejected["reason"].to_list() == ["wrong_type"]
    assert "'critic'" in rejected["detail"][0] or "role critic" in rejected["detail"][0]


@pytest.mark.parametrize("role", ["function_call", "tool_call"])
def test_the_calls_of_llama_factory_and_ms_swift(tmp_path, role):
    text = json.dumps({"name": "weather", "arguments": {"city": "Lviv"}})
    prompt = [
        {"from": "human", "value": "Weather?"},
        {"from": role, "value": text},
        {"from": "observation", "value": "4"},
    ]
    _, rows, *_ = rows_of(tmp_path, pair(prompt))
    assert rows["prompt"][0][1]["role"] == "assistant"
    assert rows["prompt"][0][1]["tool_calls"][0]["arguments"] == '{"city":"Lviv"}'


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_system_turn_is_none(tmp_path, empty):
    silent = {"role": "system", "content": empty}
    _, rows, rejected, notes = rows_of(tmp_path, pair([silent, ASK]), pair())
    assert rejected.is_empty()
    assert notes.is_empty()
    assert rows["prompt_id"].n_unique() == 1


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_is_kept(tmp_path, key):
    chosen, rejected = {**YES, key: "A tool knows."}, {**YES, key: "Hm."}
    _, rows, lost, _ = rows_of(tmp_path, pair(chosen=[chosen], rejected=[rejected]))
    assert lost.is_empty()
    assert rows["chosen"][0][0]["reasoning"] == "A tool knows."


def test_reasoning_alone_is_no_answer(tmp_path):
    thought = {"role": "assistant", "content": None, "reasoning": "Hm."}
    _, _, rejected, _ = rows_of(tmp_path, pair(chosen=[thought]), pair())
    assert rejected["reason"].to_list() == ["empty_answer"]


def test_an_image_part_without_a_picture_is_refused_with_its_reason(tmp_path):
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    _, rows, rejected, _ = rows_of(tmp_path, pair([{**ASK, "content": content}]), pair())
    assert rows.height == 1
    assert rejected["reason"].to_list() == ["image_count"]
    assert "0 pictures, 1 marks" in rejected["detail"][0]


FULL = ([ASK, YES], [ASK, NO])
WRITERS = {
    "json": json.dumps,
    "python": repr,
    "numpy": lambda value: repr(value).replace("}, {", "}\n {"),
    "numpy array": lambda value: (
        f"array({repr(value).replace('}, {', '},' + chr(10) + ' {')},\n dtype=object)"
    ),
    "object": lambda value: json.dumps({"messages": value, "tools": []}),
}


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_messages_written_as_text_are_read(tmp_path, how, prompt, kind):
    sides = dict(zip(("chosen", "rejected"), map(WRITERS[how], FULL), strict=True))
    record = {"prompt": ASK["content"], **sides} if prompt else sides
    path = tmp_path / f"data.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([record]), path)
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(record))
            writer.writeheader()
            writer.writerow(record)
    else:
        path.write_text(json.dumps(record))
    _, rows, rejected, _ = read(path)
    assert rejected.is_empty()
    assert texts(rows, "prompt") == ["Weather in Lviv?"]
    assert texts(rows, "chosen") == ["Four degrees."]
    assert texts(rows, "rejected") == ["No idea."]


def test_messages_cut_by_numpy_are_refused_in_one_sentence(tmp_path):
    cut = "[{'role': 'user', 'content': 'a'} ... {'role': 'assistant', 'content': 'b'}]"
    record = {"prompt": "Q", "chosen": cut, "rejected": "no"}
    _, _, rejected, _ = rows_of(tmp_path, record, {"prompt": "Q", "chosen": "a", "rejected": "b"})
    assert rejected["reason"].to_list() == ["wrong_type"]
    assert "looks like messages" in rejected["detail"][0]


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3]",
        '{"role": "admin"}',
        "{'role': 'admin', 'rights': []}",
        '[{"role": "admin", "content": "all"}]',
        "[{'name': 'x'}]",
        " an answer",
        '{"content": "x", "title": "y"',
    ],
)
def test_texts_that_are_no_messages_stay_texts(text):
    assert from_written(text) == text


def test_deep_and_long_texts_are_refused_and_not_run():
    with pytest.raises(UnreadableError):
        from_written("[{'role': 'user', 'content': " + "[" * 5000 + "]" * 5000 + "}, 'x")
    with pytest.raises(UnreadableError, match="characters"):
        from_written("[{'role': 'user', 'content': '" + "x" * 5_000_000 + "'}]")
    with pytest.raises(UnreadableError):
        from_written("[{'role': 'user', 'content': __import__('os').getcwd()}]")


def test_text_or_list_row_by_row(tmp_path):
    text = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    talk = {"prompt": "Weather in Lviv?", "chosen": [ASK, YES], "rejected": [ASK, NO]}
    for records in ([text, talk], [text, text, talk], [talk, talk, text]):
        _, rows, rejected, _ = rows_of(tmp_path, *records)
        assert rejected.is_empty()
        assert sorted({*texts(rows, "chosen")}) == ["Four degrees.", "a"]
        assert all(len(m) == 1 for m in rows["chosen"])


def test_late_calls_widen_their_table_and_change_no_earlier_row(tmp_path):
    records = [pair([{**ASK, "content": f"Q{i}"}]) for i in range(300)]
    _, before, *_ = rows_of(tmp_path, *records)
    source, rows, rejected, _ = rows_of(tmp_path, *records, pair(chosen=[call()]))
    assert rejected.is_empty()
    assert source.layout == "pairs"
    assert rows["pair_id"][:300].to_list() == before["pair_id"].to_list()
    assert rows["chosen"][-1][0]["tool_calls"][0]["name"] == "weather"


def test_messages_of_anthropic():
    messages = read_messages(
        [
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "A tool knows."},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Lviv"}},
                ],
            },
        ]
    )
    assert messages == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [{"id": "t1", "name": "weather", "arguments": '{"city":"Lviv"}'}],
            "reasoning": "A tool knows.",
        },
    ]


def test_the_old_function_call_of_openai():
    old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    assert read_messages([old]) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": None, "name": "f", "arguments": "{}"}],
        }
    ]


def test_arguments_are_canonical_unless_they_are_no_json():
    assert canonical_arguments('{"b": 1, "a": "é"}') == '{"a":"é","b":1}'
    assert canonical_arguments({"b": [1, None], "a": {"d": 1, "c": 2}}) == (
        '{"a":{"c":2,"d":1},"b":[1,null]}'
    )
    assert canonical_arguments(None) == canonical_arguments("") == "{}"
    for broken in ('{"a": 1, "a": 2}', '{"a": NaN}', "{city: Lviv}"):
        assert canonical_arguments(broken) == broken


@pytest.mark.parametrize(
    "value",
    [
        TOOLS,
        json.dumps(TOOLS),
        [json.dumps(TOOLS[0])],
        [TOOLS[0]["function"]],
        [{"name": "weather", "input_schema": {"type": "object"}}],
    ],
)
def test_tools_have_one_form(value):
    assert json.loads(read_tools(value)) == TOOLS


def test_no_tools_are_null():
    assert [read_tools(v) for v in (None, "", "[]", [])] == [None] * 4
    for wrong in ("hammer", ["hammer"], 7, [{"type": "function"}]):
        with pytest.raises(UnreadableError):
            read_tools(wrong)


def test_tools_travel_beside_texts_and_make_another_prompt(tmp_path):
    text = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    _, rows, *_ = rows_of(tmp_path, text, {**text, "tools": TOOLS}, {**text, "tools": "[]"})
    assert rows["prompt_id"].n_unique() == 2
    assert rows["tools"].null_count() == 2


def test_tools_by_mapping(tmp_path):
    record = {"q": "Q", "good": "a", "bad": "b", "api": TOOLS}
    mapping = {"prompt": "q", "chosen": "good", "rejected": "bad", "tools": "api"}
    _, rows, *_ = rows_of(tmp_path, record, mapping=mapping)
    assert json.loads(rows["tools"][0]) == TOOLS

"""JSON lines of texts and messages are read as columns; nothing else about them may change."""

import json
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from catalog.sources import SourceSpec, json_files, open_source
from catalog.sources.reader import reading
from prefactory.errors import DataError

HH = {
    "chosen": "\n\nHuman: What is {n}?\n\nAssistant: It is {n}.",
    "rejected": "\n\nHuman: What is {n}?\n\nAssistant: No.",
}


def hh(n, **more):
    return {**{k: v.replace("{n}", str(n)) for k, v in HH.items()}, **more}


def pair(n, **more):
    return {"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No.", **more}


def said(n, *more, keys=("role", "content"), answer=None, **others):
    def message(role, content):
        return dict(zip(keys, (role, content), strict=True))

    asked = message("user" if keys[0] == "role" else "human", f"What is {n}?")
    speaker = "assistant" if keys[0] == "role" else "gpt"
    sides = {"chosen": f"It is {n}.", "rejected": "No."}
    return {
        **{side: [asked, *more, message(speaker, text)] for side, text in sides.items()},
        **others,
    }


def line(record):
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


WRITTEN = json.dumps(
    [
        {"role": "user", "content": "Add."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": None}}}],
        },
        {"role": "tool", "content": "1"},
    ]
)
ODD_CHATS = [
    b"{}", line(said(1)) + line(said(2)), line(said(3, chosen=None)), line(said(3, chosen=[])),
    line(said(3, chosen="a text")), line(said(3, late=[{"role": "user", "content": "x"}])),
    line(said(3, late="a text")), line(said(3, chosen={"role": "user", "content": "x"})),
    line(said(3, {"role": "user"})), line(said(3, {"content": "x"})), line(said(3, {})),
    line(said(3, {"role": "user", "content": None})), line(said(3, None)), line(said(3, [])),
    line(said(3, {"role": None, "content": "x"})), line(said(3, {"role": 1, "content": "x"})),
    line(said(3, {"role": "user", "content": ["x"]})),
    line(said(3, {"role": "user", "content": [{"type": "text", "text": "x"}]})),
    line(said(3, {"role": "user", "content": "x", "name": "y"})),
    line(said(3, {"content": "x", "role": "system"})),
    line(said(3, {"role": "system", "content": " "})), line(said(3, {"role": "?", "content": ""})),
    line(said(3, {"role": "Assistant ", "content": "x"})),
    line(said(3, {"role": "tool", "content": ""})),
    line(said(4, keys=("from", "value"))), line(pair(5)),
    line(said(3, {"role": "user", "content": "\ud800"})),
    line(said(3)).replace(b"What", b"Wh\xff\xfet"), line(said(3)).replace(b"What", b"Wh\xe9t"),
]  # fmt: skip
ODD = [
    b"", b"   ", b"{}", b"[]", b"null", b'"a text"', b"{", b"}", b'{"chosen": "x"',
    line(pair(7)) + b"\r", line(pair(8)) + line(pair(9)), line(pair(7)) + b",",
    b" " + line(pair(7)), line(pair(7)) + b" {", b"{}{}",
    line(pair(1, chosen=None)), line(pair(1, chosen=5)), line(pair(1, chosen=["a"])),
    line(pair(1, chosen={"a": 1})), line(pair(1, prompt=True)), line(pair(1, late="from here on")),
    line(pair(1, margin="0.5")), line(pair(1, margin=0.5)), line(pair(1, margin=None)),
    line(pair(1, chosen="")), line(pair(1, chosen="\ud800")), line(pair(1, chosen="a\0b")),
    line(pair(1, chosen="\u2028 \u0085 é 你好 😀")), line(pair(1, prompt=WRITTEN)),
    b'{"prompt": "p", "chosen": "a", "chosen": "b", "rejected": "c"}',
    b'{"prompt": "p", "cho\\u0073en": "b", "rejected": "c\\ud83d\\ude00"}',
    b'{"prompt": "p", "chosen": "\xff\xfe", "rejected": "c"}',
    b'{"prompt": "p", "chosen": "caf\xe9", "rejected": "c"}',
    b'{"prompt": "p", "chosen": "\xed\xa0\x80", "rejected": "\xc0\x80"}',
    b'{"prompt": "p", "chosen": "a\tb", "rejected": "c"}',
    b'{"prompt": "p", "chosen": "a\\x41", "rejected": "c"}',
    b'{"prompt": "p", "chosen": NaN, "rejected": "c"}',
    b'{"prompt": "p", "chosen": "a"\n,"rejected": "c"}',
    b'{"prompt": "p", "chosen": ' + b"[" * 3000 + b"]" * 3000 + b', "rejected": "c"}',
]  # fmt: skip
CHATS = st.lists(
    st.one_of(st.sampled_from(ODD_CHATS), st.integers(0, 9).map(lambda n: line(said(n))))
)
LINES = st.lists(st.one_of(st.sampled_from(ODD), st.integers(0, 9).map(lambda n: line(pair(n)))))


def told(path, block_rows=16384, **spec):
    """All that reading a file gives, as plain data, or the error."""

    def read(source):
        blocks = list(source.read(source.files[0], block_rows))
        return {
            "rows": [row for b in blocks for row in b.rows.to_dicts()],
            "rejected": sorted(row for b in blocks for row in b.rejected.rows()),
            "notes": sorted(row for b in blocks for row in b.notes.rows()),
            "late": {name for b in blocks for name in b.late},
            "records": sum(b.n_records for b in blocks),
        }

    try:
        return reading(open_source(SourceSpec(path=str(path), **spec)), read)
    except DataError as error:
        return str(error)


def both(path, **how):
    """What is read as columns, and line by line; and how many chunks were columns."""
    as_columns, columns = json_files._columns, []

    def noted(lines):
        table = as_columns(lines)
        columns.append(table is not None)
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_columns", noted)
        fast = told(path, **how)
        patch.setattr(json_files, "_columns", lambda lines: None)
        return fast, told(path, **how), sum(columns)


@settings(max_examples=60, deadline=None)
@given(LINES, st.sampled_from([2, 5, 16384]), st.sampled_from([b"\n", b"\n\n"]))
@example([line(pair(1)), *ODD, line(pair(2))], 16384, b"\n")
@example([line(pair(1)), *ODD, line(pair(2))], 2, b"\n")
def test_columns_and_lines_give_the_same(tmp_path_factory, lines, rows, end):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(end.join([line(pair(0)), *lines]))
    fast, slow, _ = both(path, block_rows=rows)
    assert fast == slow


@settings(max_examples=60, deadline=None)
@given(
    CHATS, st.sampled_from([2, 5, 16384]), st.sampled_from([("role", "content"), ("from", "value")])
)
@example([line(said(1)), *ODD_CHATS, line(said(2))], 16384, ("role", "content"))
@example([line(said(1)), *ODD_CHATS, line(said(2))], 2, ("role", "content"))
@example([line(said(1)), *ODD_CHATS, line(said(2))], 1, ("from", "value"))
def test_columns_and_lines_of_messages_give_the_same(tmp_path_factory, lines, rows, keys):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(b"\n".join([line(said(0, keys=keys)), *lines]))
    fast, slow, _ = both(path, block_rows=rows)
    assert fast == slow


@pytest.mark.parametrize("record", [hh, pair, said, partial(said, keys=("from", "value"))])
def test_plain_pairs_are_read_as_columns(tmp_path, record):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(line(record(n)) for n in range(50)))
    fast, slow, columns = both(path, block_rows=20)
    assert fast == slow
    assert columns == 3
    assert len(fast["rows"]) == 50


def test_one_odd_line_costs_its_chunk_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [line(pair(n)) for n in range(60)]
    lines[25] = lines[25][:-1]
    path.write_bytes(b"\n".join(lines))
    fast, slow, columns = both(path, block_rows=20)
    assert fast == slow
    assert columns == 2
    assert [row[:2] for row in fast["rejected"]] == [("a.jsonl:26", "malformed")]


@pytest.mark.parametrize("at", [150, 1400])
def test_each_column_that_comes_late_is_found_in_a_chunk_of_columns(tmp_path, at):
    path = tmp_path / "a.jsonl"
    records = [pair(n, first="x") if 120 <= n < at else pair(n) for n in range(at)]
    records += [pair(n, second="y", margin="0.5") for n in range(at, at + 5)]
    path.write_bytes(b"\n".join(map(line, records)))
    fast, slow, _ = both(path)
    assert fast == slow
    assert fast["records"] == at + 5


def test_nulls_in_arguments_that_are_written_as_a_text_are_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([line(pair(n, prompt=WRITTEN)) for n in range(3)]))
    fast, slow, columns = both(path)
    assert fast == slow
    assert columns == 1
    assert '"b": null' in json.dumps(fast["rows"]) or '\\"b\\":null' in json.dumps(fast["rows"])


def test_the_encoding_is_noted_once_though_the_first_lines_are_blank(tmp_path):
    path = tmp_path / "a.jsonl"
    text = b"\n" * 30 + b"\n".join(line(pair(n)) for n in range(30))
    path.write_bytes(text.decode().encode("utf-16"))
    fast, slow, _ = both(path, block_rows=10)
    assert fast == slow
    assert [reason for _, reason, _ in fast["notes"]].count("read_as_utf_16_le") == 1

"""The account of columns: nothing of a prompt or a label vanishes without a word."""

import json

import polars as pl
import pytest

from catalog.sources import LateColumnsError, SourceSpec, open_source, peek
from catalog.sources.account import Bears, bears_on
from prefactory.errors import DataError
from prefactory.stages import common_schema

PAIR = {"prompt": "q", "chosen": "yes", "rejected": "no"}


def write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(path)


def rows(n, **more):
    return [{**PAIR, "prompt": f"q{i}", **more} for i in range(n)]


@pytest.mark.parametrize(
    ("name", "values", "bears"),
    [
        ("system_prompt", ["Be kind."], Bears.PROMPT),
        ("sysInstruction", ["Be kind."], Bears.PROMPT),
        ("tools", [[{"type": "function", "function": {"name": "f"}}]], Bears.PROMPT),
        ("past", [[{"role": "user", "content": "hi"}]], Bears.PROMPT),
        ("reference_documents", [["a", "b"]], Bears.PROMPT),
        ("rejected_response", ["no"], Bears.ANSWER),
        ("rejected_messages", [[{"role": "assistant", "content": "no"}]], Bears.PROMPT),
        ("response_b", ["no"], Bears.ANSWER),
        ("rejected_reason_code", [3], Bears.LABEL),
        ("final_label", ["1_full_compliance"], Bears.LABEL),
        ("judge_prompt", ["Which is better?"], Bears.LABEL),
        ("which", ["chosen", "rejected"], Bears.LABEL),
        ("reference_answer", ["42"], Bears.LABEL),
        ("dataset", ["helpful_base"], Bears.ABOUT),
        ("prompt_id", ["a1"], None),
        ("prompt_tokens", [12], None),
        ("instruction_id_list", [["a:b"]], None),
        ("system", ["", ""], None),
        ("price_per_example", [0.1], None),
        ("favourite_colour", ["red"], None),
    ],
)
def test_what_a_column_bears_on(name, values, bears):
    assert bears_on(name, values) == bears


def test_every_column_is_in_the_account(tmp_path):
    record = {**PAIR, "category": "art", "metadata": {"score_chosen": 2, "x": 1}, "run": 7}
    source = open_source(SourceSpec(path=write(tmp_path / "a.jsonl", [record] * 3)))
    assert source.account.to_dict() == {
        "read": {
            "prompt": "prompt",
            "chosen": "chosen",
            "rejected": "rejected",
            "metadata.score_chosen": "chosen_score_overall",
        },
        "carried": {"category": "category"},
        "not_read": {"metadata": "but for score_chosen", "run": ""},
    }
    assert source.account.names == {*record, "metadata.score_chosen"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"prompt_prefix": "Be kind."}, "--map system=prompt_prefix"),
        ({"dialog": [["hi", "hello"]]}, "--map history=dialog"),
        ({"source_passages": ["one", "two"]}, "--map context=source_passages"),
        ({"rejected_reply": "never"}, "--map rejected=rejected_reply"),
        ({"functions_of_it": {"f": "g"}}, "--carry functions_of_it"),
    ],
)
def test_what_would_vanish_is_refused_with_the_mapping_that_reads_it(tmp_path, more, says):
    name = next(iter(more))
    path = write(tmp_path / "a.jsonl", rows(3, **more))
    with pytest.raises(DataError, match=says) as caught:
        open_source(SourceSpec(path=path))
    assert repr(name) in str(caught.value)
    ignored = open_source(SourceSpec(path=path, ignore=[name]))
    assert ignored.account.unread == {name: "ignored"}
    carried = peek(SourceSpec(path=path, carry=[name]))
    assert name in carried.rows.columns
    assert carried.account.carried == {name: name}


def test_what_repeats_the_prompt_or_an_answer_may_go(tmp_path):
    record = {**PAIR, "messages": [{"role": "user", "content": "q"}], "raw_prompt": "q"}
    source = open_source(SourceSpec(path=write(tmp_path / "a.jsonl", [record] * 3)))
    assert source.account.unread == {
        "messages": "repeats what is read",
        "raw_prompt": "repeats what is read",
    }


def test_a_mapping_makes_any_column_part_of_the_prompt(tmp_path):
    record = {**PAIR, "who": "Be kind.", "before": [["hi", "hello"]], "text": "A text."}
    mapping = {"system": "who", "history": "before", "context": "text"}
    seen = peek(SourceSpec(path=write(tmp_path / "a.jsonl", [record]), mapping=mapping))
    assert [(m["role"], m["content"]) for m in seen.rows["prompt"][0]] == [
        ("system", "Be kind."),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "q\n\nA text."),
    ]


def test_documents_are_numbered_and_have_their_titles(tmp_path):
    documents = [{"title": "T", "text": "one"}, {"text": "two"}]
    path = write(tmp_path / "a.jsonl", [{**PAIR, "documents": documents}])
    assert peek(SourceSpec(path=path)).rows["prompt"][0][0]["content"] == (
        "q\n\n[1] T\none\n\n[2] two"
    )


def test_a_system_message_that_contradicts_the_column_is_in_the_ledger(tmp_path):
    prompt = [{"role": "system", "content": "A"}, {"role": "user", "content": "q"}]
    records = [{**PAIR, "prompt": prompt, "system": system} for system in ("A", "B", None)]
    seen = peek(SourceSpec(path=write(tmp_path / "a.jsonl", records)))
    assert seen.rejected == {"system_differs": 1}
    assert [len(p) for p in seen.rows["prompt"]] == [2, 2]


def test_late_columns_are_read_carried_named_or_refused(tmp_path):
    early = rows(150)
    late = {
        "read": {**PAIR, "prompt": "z", "chosen_score": 3, "rejected_score": 1},
        "system": {**PAIR, "prompt": "z", "system": "Be kind."},
        "carried": {**PAIR, "prompt": "z", "category": "art"},
        "named": {**PAIR, "prompt": "z", "run": 7},
        "refused": {**PAIR, "prompt": "z", "prompt_prefix": "Be kind."},
    }
    paths = {k: write(tmp_path / f"{k}.jsonl", [*early, r]) for k, r in late.items()}
    assert peek(SourceSpec(path=paths["read"]), 999).rows["chosen_score_overall"].to_list() == (
        [None] * 150 + [3.0]
    )
    assert peek(SourceSpec(path=paths["system"]), 999).rows["prompt"][-1][0]["role"] == "system"
    assert peek(SourceSpec(path=paths["carried"]), 999).rows["category"][-1] == "art"
    named = peek(SourceSpec(path=paths["named"]))
    assert named.account.unread == {"run": "from named.jsonl:151 on"}
    with pytest.raises(DataError, match=r"refused.jsonl:151 on, .*'prompt_prefix'"):
        peek(SourceSpec(path=paths["refused"]))


def test_a_late_column_that_must_be_read_stops_a_plain_read(tmp_path):
    path = write(tmp_path / "a.jsonl", [*rows(150), {**PAIR, "category": "art"}])
    source = open_source(SourceSpec(path=path))
    with pytest.raises(LateColumnsError, match=r"'category' first appears at a.jsonl:151"):
        list(source.read(source.files[0]))
    whole = source.whole()
    assert "category" in whole.schema
    assert sum(b.rows.height for b in whole.read(whole.files[0])) == 151


@pytest.mark.parametrize("block_rows", [1, 7, 100, 16384])
def test_late_columns_do_not_depend_on_blocks(tmp_path, block_rows):
    path = write(tmp_path / "a.jsonl", [*rows(150), {**PAIR, "run": 7}, {**PAIR, "run": 8}])
    source = open_source(SourceSpec(path=path))
    late = {}
    for block in source.read(source.files[0], block_rows):
        late |= block.late
    assert late == {"run": "a.jsonl:151"}


def test_columns_of_all_files_of_a_folder_count(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    pl.DataFrame(rows(120)).write_parquet(folder / "a.parquet")
    pl.DataFrame(rows(2, system="Be kind.")).write_parquet(folder / "b.parquet")
    seen = peek(SourceSpec(path=str(folder)), 999)
    assert seen.account.read["system"] == "system"
    assert seen.rows["prompt"][-1][0]["role"] == "system"


def test_carry_and_ignore_name_columns_that_are_there(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(3))
    for field in ("carry", "ignore"):
        with pytest.raises(DataError, match="has no column 'nope'"):
            open_source(SourceSpec(path=path, **{field: ["nope"]}))
    late = write(tmp_path / "b.jsonl", [*rows(150), {**PAIR, "late": 1}])
    assert peek(SourceSpec(path=late, carry=["late"]), 999).rows["late"][-1] == 1


@pytest.mark.parametrize(
    ("more", "source"),
    [
        ({}, None),
        ({"metadata": {"rm_model": "a/b"}}, "reward_model"),
        ({"judge_model": "gpt-4"}, "judge"),
        ({"annotator": "gpt-4-turbo"}, "judge"),
        ({"annotator": "rater_3"}, None),
        ({"label_source": "rule"}, "rule"),
        ({"label_source": "somebody"}, None),
    ],
)
def test_who_chose_is_what_the_record_says_or_unknown(tmp_path, more, source):
    path = write(tmp_path / "a.jsonl", rows(2, **more))
    assert peek(SourceSpec(path=path)).rows["label_source"].to_list() == [source] * 2
    stated = peek(SourceSpec(path=path, label_source="human")).rows["label_source"]
    assert stated.to_list() == ["human"] * 2


def test_a_value_that_is_no_number_costs_the_score_only(tmp_path):
    records = [
        {**PAIR, "prompt": str(i), "score_chosen": v} for i, v in enumerate(("4/5", 3, "N/A"))
    ]
    source = open_source(SourceSpec(path=write(tmp_path / "a.jsonl", records)))
    block = next(source.read(source.files[0]))
    assert block.rows["chosen_score_overall"].to_list() == [None, 3.0, None]
    assert block.notes.to_dicts() == [
        {
            "row_id": "a.jsonl:1",
            "reason": "unread_value",
            "detail": "chosen_score_overall (score_chosen): '4/5' is kept as null",
        }
    ]


def test_columns_of_either_answer_come_to_the_sides(tmp_path):
    record = {
        "prompt": "q",
        "completion_a": "one",
        "completion_b": "two",
        "completion_a_is_acceptable": "no",
        "completion_b_is_acceptable": "yes",
        "preference": "b-is-better",
    }
    row = peek(SourceSpec(path=write(tmp_path / "a.jsonl", [record]))).rows.row(0, named=True)
    assert row["chosen"][0]["content"] == "two"
    assert (row["chosen_is_acceptable"], row["rejected_is_acceptable"]) == (1.0, 0.0)


def test_our_own_tables_keep_what_bears_on_them(tmp_path):
    table = peek(SourceSpec(path=write(tmp_path / "a.jsonl", rows(2)))).rows
    table = table.with_columns(
        hidden_instruction=pl.lit("Be terse."), judge_prefers=pl.lit("chosen")
    )
    table.write_parquet(tmp_path / "ours.parquet")
    seen = peek(SourceSpec(path=str(tmp_path / "ours.parquet")))
    assert seen.layout == "prefactory"
    assert {"hidden_instruction", "judge_prefers"} <= {*seen.rows.columns}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_column_that_is_empty_at_first_is_read_where_it_is_filled(tmp_path, suffix):
    table = pl.DataFrame(rows(200)).with_columns(
        system=pl.when(pl.int_range(pl.len()) == 160).then(pl.lit("Be kind.")),
        note=pl.when(pl.int_range(pl.len()) == 170).then(pl.lit("so")),
        never=pl.lit(None, dtype=pl.String),
    )
    path = tmp_path / f"a.{suffix}"
    write_table = {"csv": table.write_csv, "parquet": table.write_parquet}
    write_table.get(suffix, table.write_ndjson)(path)
    source = open_source(SourceSpec(path=str(path)))
    assert source.account.unread == dict.fromkeys(("system", "note", "never"), "empty")
    with pytest.raises(LateColumnsError, match="'system' first appears at a"):
        list(source.read(source.files[0]))
    seen = peek(source, 999)
    assert [len(p) for p in seen.rows["prompt"]] == [1] * 160 + [2] + [1] * 39
    assert seen.account.unread == {"note": "", "never": "empty"}


def test_a_column_that_nobody_asked_for_may_differ_in_type_between_sources(tmp_path):
    paths = [
        write(tmp_path / f"{i}.jsonl", rows(2, category=value)) for i, value in enumerate(("a", 1))
    ]
    sources = [open_source(SourceSpec(path=path)) for path in paths]
    assert common_schema(sources)[1]["category"] == pl.String
    asked = [open_source(SourceSpec(path=path, carry=["category"])) for path in paths]
    with pytest.raises(DataError, match="'category' is"):
        common_schema(asked)


def test_a_prompt_that_names_its_speakers_is_noted(tmp_path):
    prompts = ("Assistant: Try.\n\nStudent: I did.", "Assistant: one line", "a\nQ: b\nQ: c")
    path = write(tmp_path / "a.jsonl", [{**PAIR, "prompt": p} for p in prompts])
    source = open_source(SourceSpec(path=path))
    notes = next(source.read(source.files[0])).notes
    assert notes.select("row_id", "reason").rows() == [("a.jsonl:1", "speakers_in_prompt")]


def test_objects_that_are_carried_keep_the_keys_of_all_of_them(tmp_path):
    path = tmp_path / "rules.jsonl"
    arguments = [[{"num_words": 25}], [{"keywords": ["lemon"]}, {"num_words": 2.5}]]
    path.write_text(
        "".join(
            json.dumps({"prompt": f"Why {i}?", "kwargs": a}) + "\n" for i, a in enumerate(arguments)
        )
    )
    rows = peek(SourceSpec(path=str(path), layout="prompts", carry=["kwargs"]), 9).rows["kwargs"]
    assert rows.to_list() == [
        [{"num_words": 25.0, "keywords": None}],
        [{"num_words": None, "keywords": ["lemon"]}, {"num_words": 2.5, "keywords": None}],
    ]

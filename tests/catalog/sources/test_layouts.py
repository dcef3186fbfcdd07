"""Pair layouts, our own tables, and what holds for all layouts, on tiny records."""

import json

import polars as pl
import pytest

from catalog.sources import LAYOUTS, SourceSpec, open_source, peek
from catalog.sources.columns import ABSENT, REPAIR, ROW, WRONG
from catalog.sources.layouts.base import Surroundings
from prefactory.tables import ROW_ID, Shape, canonical_order, check

A = "assistant"


U = "user"


def msgs(*turns):
    """Messages that alternate, the user first."""
    return [{"role": (U, A)[i % 2], "content": t} for i, t in enumerate(turns)]


def said(text):
    return [{"role": A, "content": text}]


def hh(*turns):
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {t}" for i, t in enumerate(turns))


def read(tmp_path, records, name="data.jsonl", **spec):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(r) for r in records) + "\n")
    source = open_source(SourceSpec(path=str(path), **spec))
    blocks = [b for f in source.files for b in source.read(f)]
    rows = pl.concat([b.rows for b in blocks])
    rejected = pl.concat([b.rejected for b in blocks])
    assert dict(rows.schema) == source.schema
    assert sum(b.n_records for b in blocks) == rows.height + rejected.height
    clean = canonical_order(rows.unique(ROW_ID[source.shape]), source.shape)
    check(clean, source.shape)
    reasons = {r["row_id"].split(":")[-1]: r["reason"] for r in rejected.to_dicts()}
    notes = {(r["row_id"].split(":")[-1], r["reason"]) for b in blocks for r in b.notes.to_dicts()}
    return source, rows, reasons, notes


def test_hh(tmp_path):
    source, rows, reasons, notes = read(
        tmp_path,
        [
            {"chosen": hh("hi", "yes"), "rejected": hh("hi", "no")},
            {"chosen": hh("hi", "a", "b", "c"), "rejected": hh("hi", "x", "b", "d")},
            {"chosen": hh("hi", "same"), "rejected": hh("hi", "same ")},
            {"chosen": hh("hi", ""), "rejected": hh("hi", "no")},
            {"chosen": hh("hi", "a", "b"), "rejected": hh("hi", "a")},
            {"chosen": hh("one", "a"), "rejected": hh("two", "b")},
            {"chosen": "no marks", "rejected": hh("hi", "b")},
            {"chosen": "Intro" + hh("hi", "a"), "rejected": hh("hi", "b")},
            {"chosen": None, "rejected": hh("hi", "b")},
            {"chosen": 7, "rejected": hh("hi", "b")},
            {"chosen": hh("hi", "", "so", "1"), "rejected": hh("hi", "", "so", "2")},
            {"chosen": hh("hi") + hh("ho", "1"), "rejected": hh("hi") + hh("ho", "2")},
        ],
    )
    assert (source.layout, source.shape) == ("hh", Shape.PAIRS)
    assert reasons == {
        "3": "equal_answers",
        "4": "empty_answer",
        "5": "no_answer",
        "6": "no_common_prompt",
        "7": "malformed",
        "8": "malformed",
        "9": "missing_field",
        "10": "wrong_type",
    }
    assert notes == {("2", "prefixes_differ"), ("11", "empty_turn"), ("12", "roles_repeat")}
    first, second = rows.row(0, named=True), rows.row(1, named=True)
    assert first["prompt"] == msgs("hi")
    assert (first["chosen"], first["rejected"]) == (said("yes"), said("no"))
    assert (first["source"], first["source_id"]) == ("data", "data.jsonl:1")
    assert first["label_source"] == "human"
    assert second["prompt"] == msgs("hi")
    assert second["chosen"] == msgs("hi", "a", "b", "c")[1:]
    assert second["rejected"] == msgs("hi", "x", "b", "d")[1:]
    assert rows["prompt"].to_list()[2] == msgs("hi", "", "so")


def test_hh_reads_windows_lines_and_keeps_them_inside_a_turn(tmp_path):
    crlf = "\r\n\r\nHuman: a\r\nb\r\n\r\nAssistant: "
    _, rows, _, _ = read(tmp_path, [{"chosen": crlf + "x", "rejected": crlf + "y"}])
    assert rows["prompt"].to_list() == [msgs("a\r\nb")]


def test_hh_repeated_assistant_keeps_all_remaining_messages(tmp_path):
    start = hh("hi", "a")
    chosen, rejected = start + "\n\nAssistant: 1", start + "\n\nAssistant: 2"
    _, rows, _, notes = read(tmp_path, [{"chosen": chosen, "rejected": rejected}])
    assert rows["chosen"].to_list() == [[*said("a"), *said("1")]]
    assert notes == {("1", "roles_repeat")}


LEAK = "\n\nHuman: and then?\n\nAssistant: Then"


@pytest.mark.parametrize("asked", ["prompt", "Question", "input"])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("leak", ["It is.{}", "{} it is."])
def test_role_leaks_in_answers_beside_a_prompt_are_no_transcripts(tmp_path, asked, every, leak):
    chosen = [leak.format("" if i % every else LEAK) + str(i) for i in range(12)]
    rows = [{asked: f"why {i}?", "chosen": c, "rejected": f"no {i}"} for i, c in enumerate(chosen)]
    source, table, rejected, _ = read(tmp_path, rows)
    assert source.layout == "pairs-text"
    assert not rejected
    assert table["chosen"].to_list() == [said(c) for c in chosen]


def test_transcripts_whose_prompt_stands_in_a_column_too_are_hh(tmp_path):
    rows = [
        {"prompt": f"hi {i}", "chosen": hh(f"hi {i}", "a"), "rejected": hh(f"hi {i}", "b")}
        for i in range(4)
    ]
    assert read(tmp_path, rows)[0].layout == "hh"
    for row in rows:
        row["prompt"] = "another question"
    source, table, _, _ = read(tmp_path, rows)
    assert source.layout == "pairs-text"
    assert set(table["prompt"].list.get(0).struct.field("content")) == {"another question"}


def test_hh_text_score(tmp_path):
    a, b = "## Human:\nq\n\n\n## Assistant:\n good", "## Human:\nq\n\n\n## Assistant:\n bad"
    source, rows, reasons, _ = read(
        tmp_path,
        [
            {"text": [a, b], "score": [1.5, 0.5]},
            {"text": [b, a], "score": [0, 2]},
            {"text": [a, b], "score": [1, 1]},
            {"text": [a, b], "score": [1, None]},
            {"text": [a], "score": [1]},
            {"text": "ab", "score": [1, 0]},
        ],
    )
    assert source.layout == "hh-text-score"
    assert rows["chosen"].to_list() == [said("good")] * 2
    assert rows["margin"].to_list() == [1.0, 2.0]
    assert reasons == {"3": "tie", "4": "missing_label", "5": "wrong_type", "6": "wrong_type"}


def test_pairs_explicit(tmp_path):
    source, rows, reasons, notes = read(
        tmp_path,
        [
            {"prompt": msgs("q"), "chosen": said("1"), "rejected": said("2")},
            {"prompt": msgs("q"), "chosen": msgs("q", "1"), "rejected": msgs("q", "2")},
            {"prompt": msgs("q"), "chosen": "1", "rejected": "2"},
            {"prompt": [], "chosen": said("1"), "rejected": said("2")},
            {"prompt": msgs("  "), "chosen": said("1"), "rejected": said("2")},
            {"prompt": msgs("q"), "chosen": [], "rejected": said("2")},
            {"prompt": msgs("q"), "chosen": msgs("?"), "rejected": said("2")},
            {"prompt": msgs("q"), "chosen": [{"role": A}], "rejected": said("2")},
            {"prompt": [{"role": "alien", "content": "q"}], "chosen": "1", "rejected": "2"},
            {"prompt": msgs("q", ""), "chosen": said("1"), "rejected": said("2")},
            {"prompt": [["q"]], "chosen": said("1"), "rejected": said("2")},
        ],
    )
    assert source.layout == "pairs"
    assert rows["pair_id"].head(3).n_unique() == 1
    assert reasons == {
        "4": "empty_prompt",
        "5": "empty_prompt",
        "6": "empty_answer",
        "7": "no_answer",
        "8": "missing_field",
        "9": "wrong_type",
        "11": "wrong_type",
    }
    assert notes == {("10", "empty_turn"), ("10", "roles_repeat")}


def test_pairs_implicit_and_mixed_are_the_same_rows(tmp_path):
    system = {"role": "system", "content": "be brief"}
    sides = {
        "chosen": [system, *msgs("q", "a", "r", "1")],
        "rejected": [system, *msgs("q", "a", "r", "2")],
    }
    implicit, one, _, _ = read(tmp_path, [sides])
    scored = {"prompt": "q", **sides, "score_chosen": 8.5, "score_rejected": 8.5}
    mixed, two, _, notes = read(tmp_path, [scored])
    assert (implicit.layout, mixed.layout) == ("pairs-implicit", "pairs-mixed")
    assert one["pair_id"].to_list() == two["pair_id"].to_list()
    assert one["prompt"].to_list() == [[system, *msgs("q", "a", "r")]]
    assert two["chosen_score_overall"].to_list() == [8.5]
    assert notes == {("1", "equal_scores")}
    assert (one["label_source"][0], two["label_source"][0]) == (None, None)


def test_pairs_mixed_tulu_and_answers_without_their_prompt(tmp_path):
    source, rows, _, notes = read(
        tmp_path,
        [
            {
                "prompt": "q",
                "chosen": said("1"),
                "rejected": said("2"),
                "chosen_rating": 4,
                "rejected_rating": 2.5,
                "chosen_model": "m1",
                "rejected_model": "m2",
            }
        ],
    )
    assert source.layout == "pairs-mixed"
    row = rows.row(0, named=True)
    assert (row["prompt"], row["chosen"]) == (msgs("q"), said("1"))
    assert (row["chosen_model"], row["rejected_model"]) == ("m1", "m2")
    assert (row["chosen_score_overall"], row["rejected_score_overall"]) == (4.0, 2.5)
    assert notes == set()


def test_pairs_text_and_a_prompt_that_is_a_transcript(tmp_path):
    source, rows, reasons, notes = read(
        tmp_path,
        [
            {"question": "q", "chosen": "1", "rejected": "2", "metadata": {"chosen_score": 0.5}},
            {"question": "Human: q\n\nAssistant: a\n\nHuman: r", "chosen": "1", "rejected": "2"},
            {"question": "\n\nHuman: q\n\nAssistant:", "chosen": "1", "rejected": "2"},
            {"question": "Human: q\n\nAssistant: I", "chosen": "1", "rejected": "2"},
            {"question": "q", "chosen": "1", "rejected": "1"},
            {"question": "q", "chosen": "1", "rejected": ""},
            {"question": "", "chosen": "1", "rejected": "2"},
            {"question": "q", "chosen": True, "rejected": "2"},
            {"chosen": "1", "rejected": "2"},
        ],
    )
    assert source.layout == "pairs-text"
    assert rows["prompt"].to_list() == [
        msgs("q"),
        msgs("q", "a", "r"),
        msgs("q"),
        msgs("Human: q\n\nAssistant: I"),
    ]
    assert rows["chosen_score_overall"].to_list() == [0.5, None, None, None]
    assert notes == {
        ("2", "transcript_prompt"),
        ("3", "transcript_prompt"),
        ("4", "speakers_in_prompt"),
    }
    assert reasons == {
        "5": "equal_answers",
        "6": "empty_answer",
        "7": "empty_prompt",
        "8": "wrong_type",
        "9": "missing_field",
    }


def test_our_own_tables_come_back_as_they_were(tmp_path):
    record = {"prompt": "q", "chosen": "1", "rejected": "2", "score_chosen": 3, "score_rejected": 1}
    _, first, _, _ = read(tmp_path, [record])
    first = first.with_columns(margin=pl.lit(2.0), extra=pl.lit("x"))
    first.write_parquet(tmp_path / "ours.parquet")
    source = open_source(SourceSpec(path=str(tmp_path / "ours.parquet")))
    again = pl.concat([b.rows for b in source.read(source.files[0])])
    assert source.layout == "prefactory"
    assert again.equals(first.select(again.columns))
    assert "extra" not in again.columns
    assert again["source"].to_list() == ["data"]
    renamed = open_source(SourceSpec(path=str(tmp_path / "ours.parquet"), name="new"))
    assert next(renamed.read(renamed.files[0])).rows["source"].to_list() == ["new"]
    empty = first.head(0)
    empty.write_parquet(tmp_path / "empty.parquet")
    none = peek(SourceSpec(path=str(tmp_path / "empty.parquet")))
    assert (none.layout, none.shape, none.n_rows) == ("prefactory", Shape.PAIRS, 0)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_layout_builds_from_no_rows(name):
    for layout in (LAYOUTS[name], *LAYOUTS[name].alternatives):
        schema = {f.name: f.column_dtype for f in layout.fields}
        schema |= dict.fromkeys((ROW, WRONG, ABSENT, REPAIR), pl.String)
        draft = layout.build(pl.DataFrame(schema=schema), Surroundings())
        assert draft.frame.height == 0
        assert layout.about


def _completions(*models):
    rating = {a: {"Rating": "4", "Type": "x"} for a in ("helpfulness", "honesty")}
    return [{"model": m, "response": f"by {m}", "annotations": rating} for m in models]


SAME_IN_PARQUET = {
    "hh": {"chosen": hh("q", "a", "r", "1"), "rejected": hh("q", "a", "r", "2")},
    "hh-text-score": {"text": [hh("q", "1"), hh("q", "2")], "score": [1.0, 0.5]},
    "pairs": {"prompt": msgs("q"), "chosen": said("1"), "rejected": said("2")},
    "pairs-mixed": {"prompt": "q", "chosen": msgs("q", "1"), "rejected": msgs("q", "2")},
    "pairs-implicit": {"chosen": msgs("q", "1"), "rejected": msgs("q", "2")},
    "ultrafeedback": {"instruction": "q", "completions": _completions("m1", "m2")},
    "helpsteer3": {
        "context": msgs("q", "a", "r"),
        "response1": "1",
        "response2": "2",
        "overall_preference": -2,
    },
    "mt-bench-judgments": {
        "model_a": "a",
        "model_b": "b",
        "winner": "model_b",
        "conversation_a": msgs("q", "1"),
        "conversation_b": msgs("q", "2"),
        "turn": 1,
    },
    "kto": {"prompt": "q", "completion": "1", "label": False},
    "helpsteer2": {"prompt": "q", "response": "1", "helpfulness": 4, "coherence": 2},
    "messages": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "prompts": {"prompt": "q"},
}


@pytest.mark.parametrize("layout", sorted(SAME_IN_PARQUET))
def test_columns_and_records_give_the_same_rows(tmp_path, layout):
    record = SAME_IN_PARQUET[layout]
    source, rows, reasons, _ = read(tmp_path, [record, record])
    pl.DataFrame([record, record]).write_parquet(tmp_path / "data.parquet")
    columnar = open_source(SourceSpec(path=str(tmp_path / "data.parquet")))
    table = next(columnar.read(columnar.files[0])).rows
    assert source.layout == columnar.layout == layout
    assert reasons == {}
    assert rows.height >= 2
    assert table.drop("source_id").equals(rows.drop("source_id"))

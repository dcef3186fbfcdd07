"""Each layout on tiny records: recognised, read exactly, and every odd record accounted for."""

import json

import polars as pl
import pytest

from catalog.sources import LAYOUTS, SourceSpec, open_source, peek
from catalog.sources.columns import ABSENT, REPAIR, ROW, WRONG
from catalog.sources.layouts.base import Surroundings
from prefactory.tables import ROW_ID, Shape, canonical_order, check

U = "user"
A = "assistant"


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
    reasons = dict(zip(rejected["row_id"].str.split(":").list.last(), rejected["reason"]))
    notes = {
        (r["row_id"].split(":")[-1], r["reason"]) for b in blocks for r in b.notes.to_dicts()
    }
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
    assert (one["label_source"][0], two["label_source"][0]) == ("human", "judge")


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
    assert notes == {("2", "transcript_prompt"), ("3", "transcript_prompt")}
    assert reasons == {
        "5": "equal_answers",
        "6": "empty_answer",
        "7": "empty_prompt",
        "8": "wrong_type",
        "9": "missing_field",
    }


def test_ultrafeedback(tmp_path):
    def completion(model, rating):
        annotations = {
            a: {"Rating": rating, "Rationale": "so"}
            for a in ("helpfulness", "honesty", "instruction_following", "truthfulness")
        }
        return {
            "model": model,
            "response": f"by {model}",
            "annotations": annotations,
            "overall_score": 7,
            "fine-grained_score": 4.5,
            "custom_system_prompt": "You are kind.",
        }

    source, rows, reasons, _ = read(
        tmp_path,
        [
            {"instruction": "q", "completions": [completion("m1", "4"), completion("m2", "N/A")]},
            {"instruction": "q", "completions": []},
            {"instruction": "q", "completions": "none"},
        ],
    )
    assert (source.layout, source.shape) == ("ultrafeedback", Shape.RESPONSES)
    assert rows["model"].to_list() == ["m1", "m2"]
    assert rows["prompt_id"].n_unique() == 1
    assert rows["source_id"].to_list() == ["data.jsonl:1#1", "data.jsonl:1#2"]
    assert rows["score_honesty"].to_list() == [4.0, None]
    assert rows["score_overall"].to_list() == [7.0, 7.0]
    assert reasons == {"2": "missing_field", "3": "wrong_type"}


def test_helpsteer2_splits_tagged_prompts(tmp_path):
    tagged = "one\n<extra_id_1>Assistant\ntwo\n<extra_id_1>User\nthree"
    source, rows, _, _ = read(
        tmp_path,
        [
            {"prompt": tagged, "response": "r", "helpfulness": 3, "verbosity": 1, "model": "m"},
            {"prompt": "q", "response": "r", "helpfulness": None, "verbosity": 0},
        ],
    )
    assert source.layout == "helpsteer2"
    assert rows["prompt"].to_list() == [msgs("one", "two", "three"), msgs("q")]
    assert rows["score_helpfulness"].to_list() == [3.0, None]
    assert rows["score_verbosity"][0] == 1.0
    assert "score_coherence" not in rows.columns
    assert rows["model"][0] == "m"


def test_helpsteer3(tmp_path):
    source, rows, reasons, _ = read(
        tmp_path,
        [
            {"context": msgs("q"), "response1": "1", "response2": "2", "overall_preference": p}
            for p in (-3, 2, 0, None)
        ],
    )
    assert source.layout == "helpsteer3"
    assert rows["chosen"].to_list() == [said("1"), said("2")]
    assert rows["margin"].to_list() == [3.0, 2.0]
    assert reasons == {"3": "tie", "4": "missing_label"}


def test_alpaca_eval_annotations(tmp_path):
    source, rows, reasons, _ = read(
        tmp_path,
        [
            {
                "instruction": "q",
                "output_1": "1",
                "generator_1": "m1",
                "output_2": "2",
                "generator_2": "m2",
                "preference": p,
            }
            for p in (1.0, 1.75, 1.5, None, 5)
        ],
    )
    assert source.layout == "alpaca-eval-annotations"
    assert rows["chosen_model"].to_list() == ["m1", "m2"]
    assert rows["margin"].to_list() == [1.0, 0.5]
    assert set(rows["label_source"]) == {"judge"}
    assert reasons == {"3": "tie", "4": "missing_label", "5": "wrong_type"}


def test_instruction_layouts(tmp_path):
    source, rows, _, _ = read(tmp_path, [{"instruction": "do", "input": "this", "output": "ok"}])
    assert source.layout == "alpaca"
    assert rows["prompt"].to_list() == [msgs("do\n\nthis")]
    assert rows["model"].to_list() == [None]
    source, rows, _, _ = read(
        tmp_path, [{"instruction": "do", "output": "ok", "generator": "m", "dataset": "d"}]
    )
    assert (source.layout, rows["model"][0]) == ("alpaca-eval", "m")
    assert rows["prompt"].to_list() == [msgs("do")]


def test_pandalm_takes_the_majority_and_rejects_booleans(tmp_path):
    def record(votes, response="1"):
        names = {f"annotator{i}": v for i, v in enumerate(votes, 1)}
        return {"instruction": "q", "input": "", "response1": response, "response2": "2", **names}

    source, rows, reasons, _ = read(
        tmp_path,
        [
            record([1, 1, 2]),
            record([2, 2, 2]),
            record([0, 0, 1]),
            record([1, 2, 0]),
            record([1, 1, 1], True),
            record([None, None, None]),
        ],
    )
    assert source.layout == "pandalm"
    assert rows["chosen"].to_list() == [said("1"), said("2")]
    assert rows["margin"].to_list() == [pytest.approx(1 / 3), 1.0]
    assert reasons == {"3": "tie", "4": "tie", "5": "wrong_type", "6": "missing_label"}


def test_llmbar_and_tulu_human_eval(tmp_path):
    source, rows, _, _ = read(
        tmp_path, [{"input": "q", "output_1": "1", "output_2": "2", "label": 2}]
    )
    assert (source.layout, rows["chosen"].to_list()) == ("llmbar", [said("2")])
    record = {"prompt": "q", "model_a": "a", "model_b": "b", "completion_a": "1"}
    record["completion_b"] = "2"
    source, rows, reasons, _ = read(
        tmp_path,
        [{**record, "preference": p} for p in ("a-is-better", "b-is-slightly-better", "tie", "?")],
    )
    assert source.layout == "tulu-human-eval"
    assert rows["chosen_model"].to_list() == ["a", "b"]
    assert rows["margin"].to_list() == [2.0, 1.0]
    assert reasons == {"3": "tie", "4": "wrong_type"}


def test_kto_prompts_messages_and_responses(tmp_path):
    source, rows, reasons, _ = read(
        tmp_path,
        [
            {"prompt": "q", "completion": "1", "label": True},
            {"prompt": msgs("q"), "completion": said("2"), "label": False},
            {"prompt": "q", "completion": "3", "label": None},
        ],
    )
    assert source.layout == "kto"
    assert rows["score_label"].to_list() == [1.0, 0.0]
    assert rows["prompt_id"].n_unique() == 1
    assert reasons == {"3": "missing_label"}
    source, rows, _, _ = read(tmp_path, [{"prompt": "q", "id": 1}, {"prompt": msgs("q"), "id": 2}])
    assert (source.layout, source.shape) == ("prompts", Shape.PROMPTS)
    assert rows["prompt_id"].n_unique() == 1
    source, rows, reasons, _ = read(
        tmp_path,
        [
            {"messages": msgs("q", "a", "r", "b")},
            {"messages": msgs("q", "a", "r")},
            {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        ],
    )
    assert source.layout == "messages"
    assert rows["prompt"].to_list() == [msgs("q", "a", "r"), msgs("q")]
    assert reasons == {"2": "no_answer"}
    source, rows, _, _ = read(
        tmp_path, [{"prompt": "q", "response": "a", "score_kind": 0.5, "score_note": "text"}]
    )
    assert source.layout == "responses"
    assert [c for c in rows.columns if c.startswith("score")] == ["score_kind"]


def test_mt_bench_answers_find_their_questions(tmp_path):
    (tmp_path / "question.jsonl").write_text(
        json.dumps({"question_id": 81, "turns": ["u1", "u2"]}) + "\n"
    )
    answers = [
        {"question_id": 81, "model_id": "m", "choices": [{"index": 0, "turns": ["a1", "a2"]}]},
        {"question_id": 99, "model_id": "m", "choices": [{"index": 0, "turns": ["a1"]}]},
    ]
    source, rows, reasons, _ = read(tmp_path, answers, name="m.jsonl")
    assert source.layout == "mt-bench-answers"
    assert rows["prompt"].to_list() == [msgs("u1"), msgs("u1", "a1", "u2")]
    assert rows["response"].to_list() == [said("a1"), said("a2")]
    assert rows["source_id"].to_list() == ["m.jsonl:1#1.1", "m.jsonl:1#1.2"]
    assert reasons == {"2": "missing_field"}
    assert source.identity()["questions"][0]["name"] == "question.jsonl"


def test_mt_bench_judgments(tmp_path):
    def record(winner, turn, judge="expert_1"):
        return {
            "question_id": 81,
            "model_a": "a",
            "model_b": "b",
            "winner": winner,
            "judge": judge,
            "turn": turn,
            "conversation_a": msgs("u1", "a1", "u2", "a2"),
            "conversation_b": msgs("u1", "b1", "u2", "b2"),
        }

    source, rows, reasons, notes = read(
        tmp_path,
        [record("model_a", 1), record("model_b", 2, "gpt4_pair"), record("tie", 1), record(None, 1)],
    )
    assert source.layout == "mt-bench-judgments"
    assert rows["chosen"].to_list() == [said("a1"), msgs("u1", "b1", "u2", "b2")[1:]]
    assert rows["chosen_model"].to_list() == ["a", "b"]
    assert rows["label_source"].to_list() == ["human", "judge"]
    assert reasons == {"3": "tie", "4": "missing_label"}
    assert notes == {("2", "prefixes_differ")}


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

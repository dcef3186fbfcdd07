"""Layouts of answers and of judged answers, on tiny records with exact results."""

import json

import polars as pl
import pytest

from catalog.sources import SourceSpec, open_source
from prefactory.tables import ROW_ID, Shape, canonical_order, check

A = "assistant"


U = "user"


def msgs(*turns):
    """Messages that alternate, the user first."""
    return [{"role": (U, A)[i % 2], "content": t} for i, t in enumerate(turns)]


def said(text):
    return [{"role": A, "content": text}]


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
        [
            record("model_a", 1),
            record("model_b", 2, "gpt4_pair"),
            record("tie", 1),
            record(None, 1),
        ],
    )
    assert source.layout == "mt-bench-judgments"
    assert rows["chosen"].to_list() == [said("a1"), msgs("u1", "b1", "u2", "b2")[1:]]
    assert rows["chosen_model"].to_list() == ["a", "b"]
    assert rows["label_source"].to_list() == ["human", "judge"]
    assert reasons == {"3": "tie", "4": "missing_label"}
    assert notes == {("2", "prefixes_differ")}

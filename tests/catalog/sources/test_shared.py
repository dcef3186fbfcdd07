"""The readers on the real slices in shared/data: the truth about hh, and the known traps."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import polars as pl
import pytest

from catalog.sources import SourceSpec, open_source, peek
from prefactory.tables import ROW_ID, check

SHARED = Path(
    os.environ.get("PREFACTORY_SHARED_DATA")
    or Path(__file__).resolve().parents[4] / "shared" / "data"
)
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(),
    reason=f"SKIPPED: no shared data at {SHARED}; set PREFACTORY_SHARED_DATA",
)
HUMAN = SHARED / "preference_human"


def all_blocks(path, **spec):
    source = open_source(SourceSpec(path=str(path), **spec))
    return source, [b for f in source.files for b in source.read(f)]


@pytest.fixture(scope="module")
def truth():
    with gzip.open(HUMAN / "hh_parse_truth.jsonl.gz") as lines:
        return pl.DataFrame([json.loads(line) for line in lines])


@pytest.mark.parametrize("name", ["hh_harmless_base", "hh_helpful_base"])
def test_hh_rows_agree_with_the_truth(truth, name):
    facts = truth.filter(pl.col("file") == name)
    _, blocks = all_blocks(HUMAN / f"{name}.jsonl.gz")
    rows = pl.concat([b.rows for b in blocks])
    line = pl.col("source_id").str.split(":").list.last().cast(pl.Int64) - 1
    rows = rows.with_columns(row=line)
    both = rows.join(facts, on="row", how="inner")
    assert both.height == rows.height
    sizes = both.select(
        p=pl.col("prompt").list.len(),
        c=pl.col("chosen").list.len(),
        r=pl.col("rejected").list.len(),
    )
    assert (sizes["p"] + sizes["c"]).equals(both["chosen_turns"].cast(pl.UInt32), check_names=False)
    assert (sizes["p"] + sizes["r"]).equals(both["rejected_turns"].cast(pl.UInt32))
    plain = both.filter("single_final_difference", "roles_alternate")
    assert (plain["prompt"].list.len() == plain["shared_turns"]).all()
    assert (both["prompt"].list.len() <= both["shared_turns"]).all()
    for side in ("chosen", "rejected"):
        last = [messages[-1]["content"] for messages in both[side]]
        hashes = [hashlib.sha1(t.encode()).hexdigest() for t in last]
        assert hashes == both[f"final_{side}_sha1"].to_list()


def test_hh_odd_rows_are_all_named(truth):
    rejected, notes = [], []
    for name in ("hh_harmless_base", "hh_helpful_base"):
        _, blocks = all_blocks(HUMAN / f"{name}.jsonl.gz")
        rejected += [(name, r) for b in blocks for r in b.rejected.to_dicts()]
        notes += [(name, r) for b in blocks for r in b.notes.to_dicts()]

    def rows(entries, reason):
        return {
            (name, int(r["row_id"].split(":")[1]) - 1)
            for name, r in entries
            if r["reason"] == reason
        }

    def facts(*rules):
        return set(truth.filter(*rules).select("file", "row").iter_rows())

    empty = rows(rejected, "empty_answer") | rows(notes, "empty_turn")
    assert {r["reason"] for _, r in rejected} == {"empty_answer"}
    assert empty == facts(pl.col("empty_turn"))
    assert rows(notes, "roles_repeat") == facts(~pl.col("roles_alternate"))
    assert rows(notes, "prefixes_differ") == facts(~pl.col("single_final_difference"))
    assert len(empty) == 7
    assert len(rows(notes, "roles_repeat")) == 14
    assert len(rows(notes, "prefixes_differ")) == 8


EXPECTED = {
    "preference_human/dsp_text_score.json.gz": ("hh-text-score", 400, {"empty_answer": 1}),
    "preference_human/webgpt_text_score.json.gz": ("hh-text-score", 602, {"tie": 149}),
    "preference_human/pandalm_testset.json.gz": (
        "pandalm",
        626,
        {"wrong_type": 6, "empty_answer": 29, "tie": 66},
    ),
    "preference_human/tulu_human_eval.parquet": (
        "tulu-human-eval",
        732,
        {"tie": 227, "equal_answers": 1},
    ),
    "preference_human/llmbar_natural.json": ("llmbar", 100, {}),
    "preference_judge/alpaca_eval_gpt4.parquet": (
        "alpaca-eval-annotations",
        10269,
        {"missing_label": 9, "tie": 81, "empty_answer": 3},
    ),
    "preference_judge/alpaca_eval_raw_annotation_sample.json": ("alpaca-eval-annotations", 20, {}),
    "preference_judge/alpaca_eval_model_outputs_wizardlm-13b.json.gz": ("alpaca-eval", 489, {}),
    "preference_judge/alpacafarm_gpt4_judge_seeds.parquet": ("alpaca-eval-annotations", 3096, {}),
    "preference_judge/ultrafeedback_binarized.jsonl.gz": (
        "pairs-text",
        767,
        {"empty_answer": 1, "equal_answers": 5},
    ),
    "preference_judge/tutoring_accuracy_pairs.jsonl.gz": ("pairs-text", 402, {"equal_answers": 1}),
    "preference_judge/mt_bench_reference_gpt-4.jsonl": ("mt-bench-answers", 60, {}),
    "preference_judge/arena_bench_answers.parquet": (
        "mt-bench-answers",
        1411,
        {"missing_field": 20},
    ),
    "noise/noisy_pairs.jsonl.gz": ("pairs-text", 1305, {"empty_answer": 26, "equal_answers": 39}),
    "instructions/alpaca_random.json.gz": ("alpaca", 5596, {"empty_answer": 1}),
    "values/flames_prompts.jsonl": ("prompts", 347, {}),
    "values/xstest_safe_completions.csv.gz": ("responses", 483, {}),
    "verifiable/ifeval_input_data.jsonl": ("prompts", 541, {}),
}


@pytest.mark.parametrize("file", sorted(EXPECTED))
def test_known_files(file):
    layout, records, rejected = EXPECTED[file]
    source, blocks = all_blocks(SHARED / file)
    rows = pl.concat([b.rows for b in blocks])
    reasons = pl.concat([b.rejected for b in blocks])["reason"].value_counts()
    assert source.layout == layout
    assert sum(b.n_records for b in blocks) == records
    assert dict(reasons.iter_rows()) == rejected
    assert dict(rows.schema) == source.schema
    check(rows.unique(ROW_ID[source.shape]), source.shape)


def test_the_same_rows_in_two_formats_have_the_same_ids():
    _, dsp = all_blocks(HUMAN / "dsp_text_score.json.gz")
    _, hh = all_blocks(HUMAN / "hh_helpful_base.jsonl.gz")
    first = pl.concat([b.rows for b in dsp])["pair_id"]
    assert set(first) <= set(pl.concat([b.rows for b in hh])["pair_id"])


def test_scores_of_ultrafeedback_binarized():
    looked = peek(
        SourceSpec(path=str(SHARED / "preference_judge/ultrafeedback_binarized.jsonl.gz"))
    )
    assert looked.notes["equal_scores"] == 91
    row = looked.rows.row(0, named=True)
    assert (row["chosen_score_overall"], row["rejected_score_overall"]) == (9.0, 8.0)


def test_mapping_on_real_files():
    rows = peek(
        SourceSpec(
            path=str(SHARED / "verifiable/truthfulqa.csv"),
            mapping={
                "prompt": "Question",
                "chosen": "Best Answer",
                "rejected": "Best Incorrect Answer",
                "category": "Category",
            },
        )
    )
    assert (rows.layout, rows.n_rows) == ("pairs-text", 790)
    assert rows.rows["category"].dtype == pl.String
    rewards = peek(
        SourceSpec(
            path=str(SHARED / "rewards/map_llama2_chat.parquet"),
            mapping={"response": "generated", "score_humor": "humor", "score_help": "gpt2-helpful"},
        )
    )
    assert rewards.layout == "responses"
    assert rewards.rows["score_humor"].null_count() == 0
    questions = peek(
        SourceSpec(
            path=str(SHARED / "preference_judge/mt_bench_question.jsonl"),
            layout="prompts",
            mapping={"prompt": "turns.0"},
        )
    )
    assert questions.n_rows == 80


def test_block_size_changes_nothing():
    path = HUMAN / "hh_harmless_base.jsonl.gz"
    source = open_source(SourceSpec(path=str(path)))
    whole = pl.concat([b.rows for b in source.read(source.files[0])])
    small = pl.concat([b.rows for b in source.read(source.files[0], block_rows=7)])
    assert whole.equals(small)


def records_of(path):
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def test_verdicts_of_public_sets_agree_with_their_records():
    path = HUMAN / "qa_feedback.jsonl.gz"
    pairs = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    right = set()
    for n, record in enumerate(records_of(path), 1):
        for code, two in zip(record["preference"], pairs, strict=True):
            if code:
                better, worse = two if code == 1 else two[::-1]
                texts = (record[f"prediction {k}"] for k in (better, worse))
                right.add((f"{path.name}:{n}#{two[0]}.{two[1]}", *texts))
    _, blocks = all_blocks(path)
    rows = pl.concat([b.rows for b in blocks]).select("source_id", "chosen", "rejected").to_dicts()
    read = {(r["source_id"], r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows}
    assert read == right
    ukp = HUMAN / "ukp_convarg_pairs.parquet"
    _, blocks = all_blocks(ukp)
    chosen = pl.concat([b.rows for b in blocks])["chosen"].list.first().struct.field("content")
    table = pl.read_parquet(ukp)
    better = table.select(pl.when(pl.col("label") == "a1").then("a1").otherwise("a2"))
    assert chosen.to_list() == better.to_series().to_list()


def test_scores_of_public_sets_agree_with_their_records():
    reviews = SHARED / "preference_judge" / "vicuna_gpt4_reviews.jsonl.gz"
    lines = dict(enumerate(records_of(reviews), 1))
    _, blocks = all_blocks(reviews)
    for row in pl.concat([b.rows for b in blocks]).to_dicts():
        record = lines[int(row["source_id"].split(":")[1])]
        first, second = map(float, record["text"].split("\n")[0].replace(",", " ").split())
        assert row["margin"] == abs(first - second)
        better = record["answer_1"] if first > second else record["answer_2"]
        assert row["chosen"][0]["content"] == better
        assert row["chosen_model"] == record["model_1" if first > second else "model_2"]
    judged = SHARED / "preference_judge" / "arena_bench_judgments.parquet"
    _, blocks = all_blocks(judged)
    rows = pl.concat([b.rows for b in blocks])
    assert rows["score_overall"].to_list() == pl.read_parquet(judged)["score"].to_list()

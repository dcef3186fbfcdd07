"""Public sets are read as they were at commit 0e19830: ids, texts, sides, scores, ledger.

`as_before.json` was made by that commit: for each file its layout, its columns but for
`label_source`, its rows, and a digest of these columns and of the ledger's rows and reasons.
"""

import hashlib
import json
import os
from pathlib import Path

import polars as pl
import pytest

from catalog.sources import SourceSpec, open_source

SHARED = Path(
    os.environ.get("PREFACTORY_SHARED_DATA")
    or Path(__file__).resolve().parents[4] / "shared" / "data"
)
FROZEN = json.loads(Path(__file__).with_name("as_before.json").read_text())
Q = ["Why is the sky blue?", "Name a prime.", "Say hello.\n\nIn French.", "2 + 2?"]


def transcript(question, answer):
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


def turns(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")
STEERED = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
MADE = {
    "hh": [{"chosen": transcript(q, f"a{i}"), "rejected": transcript(q, "b" * i)}
           for i, q in enumerate(Q)],
    "ultrafeedback": [
        {"source": "made", "instruction": q, "models": ["m", "n"], "completions": [
            {"model": m, "response": f"{m} says {i}", "overall_score": float(i + j),
             "fine-grained_score": i + j / 2, "annotations": {
                 a: {"Rating": str(1 + (i + j) % 5) if i else "N/A", "Rationale": "r"}
                 for a in ASPECTS}}
            for j, m in enumerate("mn")]}
        for i, q in enumerate(Q)],
    "ultrafeedback-binarized": [
        {"prompt": q, "prompt_id": str(i), "chosen": turns(q, "good"), "rejected": turns(q, "bad"),
         "messages": turns(q, "good"), "score_chosen": 8.0, "score_rejected": 2.0 + 2 * i}
        for i, q in enumerate(Q)],
    "helpsteer2": [{"prompt": q, "response": f"answer {j}", **dict.fromkeys(STEERED, (i + j) % 5)}
                   for i, q in enumerate(Q) for j in (0, 1)],
    "alpaca-eval": [{"instruction": q, "output": f"o{i}", "generator": "g", "dataset": "d"}
                    for i, q in enumerate(Q)],
    "alpaca-eval-annotations": [
        {"instruction": q, "output_1": f"x{i}", "generator_1": "g", "output_2": f"y{i}",
         "generator_2": "h", "annotator": "judge", "preference": p}
        for i, (q, p) in enumerate(zip(Q, (1.0, 2.0, 1.4, None), strict=True))],
    "mt-bench": [
        {"question_id": 1 + i, "model_a": "m", "model_b": "n", "winner": w, "judge": "author_0",
         "turn": 1 + i % 2,
         "conversation_a": turns(Q[i], "first") + turns("And?", f"a{i}"),
         "conversation_b": turns(Q[i], "first") + turns("And?", f"b{i}")}
        for i, w in enumerate(("model_a", "model_b", "tie", "model_b"))],
}  # fmt: skip


def told(source, frozen_columns=None):
    """What is frozen of a source."""
    blocks = [b for f in source.files for b in source.read(f)]
    rows = pl.concat([b.rows for b in blocks])
    columns = frozen_columns or [c for c in rows.columns if c != "label_source"]
    rejected = pl.concat([b.rejected for b in blocks]).select("row_id", "reason")
    text = rows.select(columns).write_ndjson() + rejected.write_ndjson()
    return {
        "layout": source.layout,
        "columns": columns,
        "rows": rows.height,
        "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def write(folder, name):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in MADE[name]))
    return path


@pytest.mark.parametrize("name", MADE)
def test_made_files_are_read_as_before(tmp_path, name):
    source = open_source(SourceSpec(path=str(write(tmp_path, name))))
    assert told(source, FROZEN[name]["columns"]) == FROZEN[name]


@pytest.mark.skipif(
    not SHARED.is_dir(),
    reason=f"SKIPPED: no shared data at {SHARED}; set PREFACTORY_SHARED_DATA",
)
@pytest.mark.parametrize("name", [name for name in FROZEN if name not in MADE])
def test_shared_files_are_read_as_before(name):
    source = open_source(SourceSpec(path=str(SHARED / name)))
    assert told(source, FROZEN[name]["columns"]) == FROZEN[name]

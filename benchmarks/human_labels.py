"""Human labels of ../shared/data as pairs, with the order in which the answers were shown."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.evidence import SHARED
from catalog.sources import SourceSpec, open_source
from prefactory.tables import Shape, canonical_order

HUMAN = SHARED / "preference_human"


def hh(name: str) -> Path:
    """hh-rlhf as it is; the files always have the chosen answer first, so nothing was shown."""
    return HUMAN / f"hh_{name}_base.jsonl.gz"


def webgpt() -> Iterator[dict[str, Any]]:
    """Graded preference between two answers; equal grades are left out."""
    for row in json.loads(gzip.decompress((HUMAN / "webgpt_text_score.json.gz").read_bytes())):
        prompt = row["text"][0].partition("## Assistant:")[0].removeprefix("## Human:").strip()
        yield ordered(
            prompt,
            [t.partition("## Assistant:")[2].strip() for t in row["text"]],
            row["score"][0] - row["score"][1],
        )


def pandalm() -> Iterator[dict[str, Any]]:
    """The majority of three annotators; ties and no majority are left out."""
    for row in json.loads(gzip.decompress((HUMAN / "pandalm_testset.json.gz").read_bytes())):
        votes = [row[f"annotator{i}"] for i in (1, 2, 3)]
        sign = (votes.count(1) >= 2) - (votes.count(2) >= 2)
        prompt = "\n\n".join(t for t in (row["instruction"], row["input"]) if t)
        yield ordered(prompt, [str(row["response1"]), str(row["response2"])], sign)


def tulu() -> Iterator[dict[str, Any]]:
    """One rater's grade of two answers; ties are left out."""
    for row in pl.read_parquet(HUMAN / "tulu_human_eval.parquet").to_dicts():
        sign = row["preference"].startswith("a-") - row["preference"].startswith("b-")
        texts = [row["completion_a"], row["completion_b"]]
        yield ordered(row["prompt"], texts, sign) | {"annotator": row["evaluator"]}


def llmbar(*names: str) -> Iterator[dict[str, Any]]:
    """Which output objectively follows the instruction; the adversarial sets mislead on purpose."""
    for name in names:
        for row in json.loads((HUMAN / f"llmbar_{name}.json").read_text("utf-8")):
            texts = [row["output_1"], row["output_2"]]
            yield ordered(row["input"], texts, 1 if row["label"] == 1 else -1)


def ukp() -> Iterator[dict[str, Any]]:
    """Which of two arguments on a topic convinces more."""
    for row in pl.read_parquet(HUMAN / "ukp_convarg_pairs.parquet").to_dicts():
        sign = 1 if row["label"] == "a1" else -1
        yield ordered(f"Give an argument: {row['topic']}", [row["a1"], row["a2"]], sign)


def ordered(prompt: str, texts: Sequence[str], sign: float) -> dict[str, Any]:
    """A pair in the order of its label; empty where there is none."""
    if not sign:
        return {}
    chosen, rejected = texts if sign > 0 else texts[::-1]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "first": sign > 0}


DATASETS: dict[str, tuple[str, Callable[[], Path | Iterator[dict[str, Any]]]]] = {
    "hh-rlhf helpful": ("which answer helps more", lambda: hh("helpful")),
    "hh-rlhf harmless": ("which answer does less harm", lambda: hh("harmless")),
    "WebGPT": ("which answer to a question is better; ties left out", webgpt),
    "PandaLM": ("majority of three annotators; ties left out", pandalm),
    "Tulu human evaluation": ("grades of 16 raters; ties left out", tulu),
    "LLMBar natural": ("which output follows the instruction", lambda: llmbar("natural")),
    "LLMBar adversarial": (
        "the same, where the worse output looks better (Neighbor, GPTInst)",
        lambda: llmbar("neighbor", "gptinst"),
    ),
    "UKP ConvArg": ("which argument convinces more; a prompt is a topic", ukp),
}


def read_pairs(name: str) -> pl.DataFrame:
    """The pairs of a data set, each once, in canonical order, with `first` where it is known."""
    found = DATASETS[name][1]()
    with tempfile.TemporaryDirectory() as scratch:
        mapping = {}
        if isinstance(found, Path):
            path = found
        else:
            rows = [row for row in found if row]
            path = Path(scratch) / "pairs.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
            mapping = {extra: extra for extra in ("first", "annotator") if extra in rows[0]}
        source = open_source(SourceSpec(path=str(path), mapping=mapping))
        blocks = [block.rows for file in source.files for block in source.read(file)]
    return canonical_order(pl.concat(blocks).unique("pair_id", keep="first"), Shape.PAIRS)

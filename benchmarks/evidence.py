"""Do selected tenths teach as much as everything? Writes docs/evidence.md.

    python -m benchmarks.evidence [--seeds 5] [--fraction 0.1] [--home DIR]

Human labels of ../shared/data: hh-rlhf helpful, hh-rlhf harmless, and UKP ConvArg (which of two
arguments convinces more; the prompt is the topic). For each seed a quarter of the prompts is held
out; a Bradley-Terry head on frozen MiniLM embeddings is trained on all other
pairs, on a random tenth, and on the tenth that ISA chooses in each mode and direction.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from catalog.sources import SourceSpec, open_source
from catalog.splits import with_split
from filters import ISA, RandomSubsample
from prefactory.context import Context
from prefactory.engines.vectors import shared_store
from prefactory.step import Filter
from prefactory.tables import SIDES, Shape, canonical_order
from trainers.embedding_model import Texts, features, read_texts
from trainers.embedding_reward import choose_l2, fit_head
from trainers.settings import EmbeddingReward

SHARED = Path(os.environ.get("PREFACTORY_SHARED_DATA", "../shared/data")).resolve()
HELD_OUT = 0.25


DATASETS = {
    "hh-rlhf helpful": "hh_helpful_base.jsonl.gz",
    "hh-rlhf harmless": "hh_harmless_base.jsonl.gz",
    "UKP ConvArg": "ukp_convarg_pairs.parquet",
}


def read_pairs(name: str, scratch: Path) -> pl.DataFrame:
    """The human-labelled pairs of a data set, each once, in canonical order."""
    path = SHARED / "preference_human" / DATASETS[name]
    if path.suffix == ".parquet":
        first = pl.col("label") == "a1"
        rows = pl.read_parquet(path).select(
            prompt=pl.concat_str(pl.lit("Give an argument: "), "topic"),
            chosen=pl.when(first).then("a1").otherwise("a2"),
            rejected=pl.when(first).then("a2").otherwise("a1"),
        )
        path = scratch / "pairs.jsonl"
        rows.write_ndjson(path)
    source = open_source(SourceSpec(path=str(path)))
    blocks = [block.rows for file in source.files for block in source.read(file)]
    return canonical_order(pl.concat(blocks).unique("pair_id", keep="first"), Shape.PAIRS)


def chosen_by(step: Filter, pairs: pl.DataFrame, ctx: Context) -> pl.DataFrame:
    """The pairs that a dataset filter keeps."""
    parts = step.fit_shard(pairs, ctx)
    state = step.fit(parts.sort(parts.columns[0]), ctx)
    fitted = Context(ctx.seed, ctx.step, state, ctx.embed)
    return pairs.filter(step.keep(pairs, fitted)["reason"].is_null())


def accuracy(train: pl.DataFrame, gaps: dict[str, np.ndarray], test: pl.DataFrame) -> float:
    """Held-out pairwise accuracy of a head that is trained on some pairs; a tie counts half."""
    x = np.stack([gaps[i] for i in train["pair_id"]])
    size = np.sqrt((x**2).mean(axis=0))
    scale = np.where(size > 0, size, 1.0)
    weights = np.ones(len(x))
    l2, _ = choose_l2(EmbeddingReward(), x / scale, weights, train["prompt_id"])
    head = fit_head(x / scale, weights, l2)
    margin = np.stack([gaps[i] for i in test["pair_id"]]) / scale @ head
    return float(np.mean((margin > 0) + 0.5 * (margin == 0)))


def longer_wins(test: pl.DataFrame) -> float:
    """Held-out accuracy of the rule that the longer answer wins."""
    length = {s: read_texts(test, "prompt", s)[1].str.len_chars().cast(pl.Int64) for s in SIDES}
    gap = (length["chosen"] - length["rejected"]).to_numpy()
    return float(np.mean((gap > 0) + 0.5 * (gap == 0)))


def all_gaps(pairs: pl.DataFrame, embed: Any) -> dict[str, np.ndarray]:  # noqa: ANN401
    """Feature difference of every pair by its id."""
    config = EmbeddingReward()
    sides = {side: read_texts(pairs, "prompt", side) for side in SIDES}
    columns = [text.alias("text") for texts in sides.values() for text in texts]
    texts = Texts.of(pl.concat(columns), config.encoder.resolved(), embed)
    (x, chosen), (_, rejected) = sides["chosen"], sides["rejected"]
    gap = features(x, chosen, texts, False) - features(x, rejected, texts, False)
    return dict(zip(pairs["pair_id"], gap, strict=True))


def methods(fraction: float) -> dict[str, Filter | None]:
    """Ways to choose the training pairs; None takes all."""
    found: dict[str, Filter | None] = {
        "all pairs": None,
        f"random {fraction:.0%}": RandomSubsample(fraction=fraction),
    }
    for mode in ("pointwise_raw", "pointwise_normalised", "leave_one_out"):
        for direction in ("high", "low"):
            step = ISA(fraction=fraction, mode=mode, direction=direction)
            found[f"ISA {fraction:.0%}, `{mode}`, {direction}"] = step
    return found


def measure(name: str, seeds: int, fraction: float, home: Path) -> list[dict[str, Any]]:
    """Accuracy of every method at every seed on one data set."""
    embed = shared_store(home / "vectors").embed
    with tempfile.TemporaryDirectory() as scratch:
        pairs = read_pairs(name, Path(scratch))
    gaps = all_gaps(pairs, embed)
    rows = []
    for seed in range(seeds):
        cut = with_split(pairs, HELD_OUT, seed)
        train = cut.filter(split="train").drop("split")
        test = cut.filter(split="test").drop("split")
        found = [("longer wins", 0, longer_wins(test))]
        for method, step in methods(fraction).items():
            ctx = Context(seed, "evidence", None, embed)
            kept = train if step is None else chosen_by(step, train, ctx)
            found.append((method, kept.height, accuracy(kept, gaps, test)))
        rows += [{"data": name, "method": m, "n": n, "accuracy": a} for m, n, a in found]
    return rows


def page(rows: list[dict[str, Any]], seeds: int, fraction: float, seconds: float) -> str:
    """The table as Markdown: one line a method, one column a data set."""
    means = (
        pl.DataFrame(rows)
        .group_by("method", "data", maintain_order=True)
        .agg(
            n=pl.col("n").mean().round(0).cast(pl.Int64),
            mean=pl.col("accuracy").mean(),
            se=pl.col("accuracy").std() / pl.len().sqrt(),
        )
    )
    cells = {(r["method"], r["data"]): r for r in means.to_dicts()}
    used = list(dict.fromkeys(means["data"]))
    lines = [
        "# Evidence: what a selected tenth teaches",
        "",
        f"Made by `python -m benchmarks.evidence --seeds {seeds} --fraction {fraction}`"
        f" in {seconds:.0f} s.",
        "",
        "A quarter of the prompts is held out anew for each seed; a Bradley-Terry head on frozen",
        "MiniLM embeddings is trained on the pairs that a method leaves, its penalty chosen by",
        "cross-validation, and measured on the held-out human labels. A cell is the mean accuracy",
        f"over {seeds} seeds, the standard error of that mean, and the number of training pairs.",
        "",
        "| training pairs | " + " | ".join(used) + " |",
        "|---|" + "---|" * len(used),
    ]
    for method in dict.fromkeys(means["method"]):
        found = [cells[method, data] for data in used]
        cell = [f"{c['mean']:.3f} ± {c['se']:.3f}" for c in found]
        counts = [f" ({c['n']:,})" if c["n"] else "" for c in found]
        joined = " | ".join(a + b for a, b in zip(cell, counts, strict=True))
        lines.append(f"| {method} | {joined} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write docs/evidence.md and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--home", type=Path, default=Path(".prefactory/store"))
    options = parser.parse_args()
    started = time.monotonic()
    rows = []
    for name in DATASETS:
        rows += measure(name, options.seeds, options.fraction, options.home)
    text = page(rows, options.seeds, options.fraction, time.monotonic() - started)
    target = Path(__file__).resolve().parents[1] / "docs" / "evidence.md"
    kept = target.read_text("utf-8").partition("\n## ")[2] if target.exists() else ""
    target.write_text(text + (f"\n## {kept}" if kept else ""), "utf-8")
    print(text)


if __name__ == "__main__":
    main()

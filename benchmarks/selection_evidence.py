"""Does any selector teach more than random rows do? Writes the tables of docs/selection.md.

    python -m benchmarks.selection_evidence [--seeds 10] [--fraction 0.1] [--home DIR]
    python -m benchmarks.selection_evidence --only AgreementDraw --seeds 5
    python -m benchmarks.selection_evidence --plateau "UKP ConvArg"

Human labels as in `benchmarks.evidence`: a quarter of the prompts is held out anew for each seed, a
Bradley-Terry head on frozen MiniLM embeddings is trained on the pairs that a selector leaves and
measured on the held-out labels. Random is the mean of five draws for each seed, and a selector is
compared with it seed by seed. `head` scores are those of a head trained on a random tenth of the
training pairs, which stands for the small tuned model of the implicit-margin methods.

`--plateau` measures growing random subsets instead, fits the exponential plateau and prints it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.evidence import (
    DATASETS,
    HELD_OUT,
    accuracy,
    all_gaps,
    chosen_by,
    longer_wins,
)
from benchmarks.evidence import read_pairs as read_evidence
from benchmarks.human_labels import read_pairs as read_labels
from catalog.splits import with_split
from filters import (
    DEITA,
    DPP,
    ISA,
    AgreementDraw,
    DOptimal,
    EnsembleUncertainty,
    FacilityLocation,
    KCenter,
    MarginSelection,
    RandomSubsample,
    SelfRepellent,
)
from filters.selection.plateau import plateau_of_repeats
from prefactory.context import Context
from prefactory.engines.vectors import shared_store
from prefactory.step import Filter
from trainers.embedding_reward import choose_l2, fit_head
from trainers.settings import EmbeddingReward

DRAWS = 5
TULU = "Tulu human evaluation"
SETS = (*DATASETS, TULU)
SIZES = (10, 20, 40, 80, 160, 320, 640, 1280, 2560)


def methods(fraction: float) -> dict[str, Filter]:
    """The selectors."""
    part = {"fraction": fraction}
    head = {**part, "objectives": ("head",)}
    found: dict[str, Filter] = {
        "`AgreementDraw`": AgreementDraw(**part, untaught="random"),
        "`AgreementDraw`, stack": AgreementDraw(**part, form="stack", untaught="random"),
        "`AgreementDraw`, all that agree": AgreementDraw(untaught="random"),
        "`ISA` (default)": ISA(**part),
        "`DOptimal`": DOptimal(**part),
        "`DOptimal`, ridge 1": DOptimal(**part, ridge=1.0),
        "`DOptimal`, score head": DOptimal(**part, score="head"),
        "`FacilityLocation`": FacilityLocation(**part),
        "`FacilityLocation`, prompt": FacilityLocation(**part, on="prompt"),
        "`FacilityLocation`, difference": FacilityLocation(**part, on="difference"),
        "`KCenter`": KCenter(**part),
        "`KCenter`, difference": KCenter(**part, on="difference"),
        "`DPP`": DPP(**part, jitter=1e-3),
        "`DPP`, difference": DPP(**part, jitter=1e-3, on="difference"),
        "`SelfRepellent`": SelfRepellent(**part),
        "`DEITA`, quality head": DEITA(**part, quality="head", fill=True),
    }
    for order in ("high", "mid", "low"):
        found[f"`MarginSelection`, head, {order}"] = MarginSelection(**head, order=order)
    for measure, orders in (("mutual_information", ("high", "low")), ("entropy", ("high", "low"))):
        for order in orders:
            found[f"`EnsembleUncertainty`, {measure}, {order}"] = EnsembleUncertainty(
                **part, order=order, measure=measure
            )
    return found


def with_head(
    train: pl.DataFrame, gaps: dict[str, np.ndarray], fraction: float, ctx: Context
) -> pl.DataFrame:
    """Add the margin of a head that is trained on a random part, as a score of the chosen side."""
    small = chosen_by(RandomSubsample(fraction=fraction), train, ctx)
    x = np.stack([gaps[i] for i in small["pair_id"]])
    scale = np.sqrt((x**2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    weights = np.ones(len(x))
    l2, _ = choose_l2(EmbeddingReward(), x / scale, weights, small["prompt_id"])
    head = fit_head(x / scale, weights, l2) / scale
    margin = np.stack([gaps[i] for i in train["pair_id"]]) @ head
    return train.with_columns(
        chosen_score_head=pl.Series(margin), rejected_score_head=pl.lit(0.0, pl.Float64)
    )


def cut(name: str, embed: Any, seeds: int) -> Any:  # noqa: ANN401
    """Yield (seed, training pairs, test pairs, gaps) of a data set."""
    with tempfile.TemporaryDirectory() as scratch:
        pairs = read_labels(name) if name == TULU else read_evidence(name, Path(scratch))
    gaps = all_gaps(pairs, embed)
    for seed in range(seeds):
        both = with_split(pairs, HELD_OUT, seed)
        train = both.filter(split="train").drop("split")
        if train.height == both.height:  # few clusters of prompts: this seed holds none of them out
            continue
        yield seed, train, both.filter(split="test").drop("split"), gaps


def measure(
    name: str,
    seeds: int,
    fraction: float,
    embed: Any,  # noqa: ANN401
    only: str = "",
) -> list[dict[str, Any]]:
    """Accuracy of every method whose name holds `only`, at every seed, on one data set."""
    rows = []
    for seed, train, test, gaps in cut(name, embed, seeds):
        base = Context(seed, "head", None, embed)
        scored = with_head(train, gaps, fraction, base)
        found = [("longer wins", longer_wins(test)), ("all pairs", accuracy(train, gaps, test))]
        for draw in range(DRAWS):
            ctx = Context(seed, f"draw {draw}", None, embed)
            kept = chosen_by(RandomSubsample(fraction=fraction), train, ctx)
            found.append(("random", accuracy(kept, gaps, test)))
        for method, step in methods(fraction).items():
            if only not in method:
                continue
            kept = chosen_by(step, scored, Context(seed, "evidence", None, embed))
            found.append((method, accuracy(kept, gaps, test)))
        rows += [{"data": name, "seed": seed, "method": m, "accuracy": a} for m, a in found]
        print(f"{name}: seed {seed}", flush=True)
    return rows


def page(rows: list[dict[str, Any]], fraction: float) -> str:
    """The table: accuracy, and the difference from random seed by seed."""
    table = pl.DataFrame(rows)
    table = table.group_by("data", "seed", "method", maintain_order=True).mean()
    chance = table.filter(method="random").select("data", "seed", chance="accuracy")
    table = table.join(chance, on=["data", "seed"]).with_columns(
        gain=100 * (pl.col("accuracy") - pl.col("chance"))
    )
    means = table.group_by("method", "data", maintain_order=True).agg(
        pl.col("accuracy").mean(),
        pl.col("gain").mean(),
        se=pl.col("gain").std() / pl.len().sqrt(),
    )
    cells = {(r["method"], r["data"]): r for r in means.to_dicts()}
    used = list(dict.fromkeys(means["data"]))
    lines = [
        f"| trained on {fraction:.0%} | " + " | ".join(used) + " |",
        "|---|" + "---|" * len(used),
    ]
    for method in dict.fromkeys(means["method"]):
        found = [cells[method, data] for data in used]
        shown = [
            f"{c['accuracy']:.3f}"
            + ("" if method == "random" else f" ({c['gain']:+.1f} ± {c['se'] or 0:.1f})")
            for c in found
        ]
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def plateau(name: str, seeds: int, embed: Any) -> str:  # noqa: ANN401
    """Measure growing random subsets, fit the plateau, and say how many pairs are enough."""
    splits = list(cut(name, embed, seeds))
    least = min(train.height for _, train, _, _ in splits)
    sizes = [n for n in SIZES if n < least] + [least]
    values = []
    for seed, train, test, gaps in splits:
        row = [0.5]  # a head of no data is a coin
        for size in sizes:
            found = []
            for draw in range(DRAWS):
                ctx = Context(seed, f"plateau {draw}", None, embed)
                kept = chosen_by(RandomSubsample(rows=size), train, ctx)
                found.append(accuracy(kept, gaps, test))
            row.append(float(np.mean(found)))
        values.append(row)
    fit = plateau_of_repeats([0, *sizes], values)
    mean = np.mean(values, axis=0)
    se = np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
    lines = ["| pairs | accuracy | the curve says |", "|--:|--:|--:|"]
    for n, m, s in zip([0, *sizes], mean, se, strict=True):
        lines.append(f"| {n:,} | {m:.3f} ± {s:.3f} | {fit.at(n):.3f} |")
    return "\n".join([*lines, "", fit.summary("pairs")])


def main() -> None:
    """Measure and print; put the table into docs/selection.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--home", type=Path, default=Path(".prefactory/store"))
    parser.add_argument("--plateau", choices=sorted(SETS))
    parser.add_argument("--only", default="", help="methods whose name holds this")
    parser.add_argument("--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    embed = shared_store(options.home / "vectors").embed
    started = time.monotonic()
    if options.plateau:
        text = plateau(options.plateau, options.seeds, embed)
    else:
        rows: list[dict[str, Any]] = []
        for name in SETS:
            rows += measure(name, options.seeds, options.fraction, embed, options.only)
            if options.out:
                options.out.write_text(page(rows, options.fraction) + "\n", "utf-8")
        text = page(rows, options.fraction)
    print(text, f"\n\n{time.monotonic() - started:.0f} s")
    if options.out:
        options.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()

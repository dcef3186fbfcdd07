"""Does mending pay? Writes docs/mending.md.

    python -m benchmarks.noise [--seeds 3] [--page docs/mending.md]

The noise set of the shared data (swapped labels and damage among clean pairs) and five sets as they
are. A Bradley-Terry head on sentence vectors is trained on what the product's own steps leave of
the training folds (`filters.Damage` with its off-topic rule; then `labelers.LabelTrust` and
`filters.SuspectLabels` with the least trusted fifth dropped, or the suspects turned round) and
judged on held-out clean and swapped pairs **by the truth**. Every step is fitted to the training
folds alone. Five folds of clusters; standard errors are clustered. On the five sets labels are
judged as they are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.label_rows import Labelled, embed, labelled
from filters import Damage, SuspectLabels
from labelers import LabelTrust
from pipelines.pays import applied, signs_of
from prefactory.measures.calibration import Floats
from prefactory.preferences.arms import design, margins_of
from prefactory.preferences.clustered import Estimate, clustered_mean, hits
from prefactory.preferences.damage import OF_MEANING, OF_TEXT
from prefactory.preferences.folds import cluster_folds
from prefactory.preferences.stack import Differences
from prefactory.step import Step

CLEAN = ("hh helpful", "hh harmless", "tulu", "ultrafeedback", "pandalm")
MENDED: tuple[Step, ...] = (Damage(rules=(*OF_TEXT, OF_MEANING[0])),)
TRUST = LabelTrust(self_tests=0)
ARMS: dict[str, tuple[Step, ...]] = {
    "damage dropped": MENDED,
    "and the least trusted fifth dropped": (
        *MENDED,
        TRUST,
        SuspectLabels(by="share", amount=0.2, do="drop", force=True),
    ),
    "and the least trusted tenth turned round": (
        *MENDED,
        TRUST,
        SuspectLabels(by="share", amount=0.1, do="turn", force=True),
    ),
    "the least trusted fifth dropped, damage left in": (
        TRUST,
        SuspectLabels(by="share", amount=0.2, do="drop", force=True),
    ),
}


def signs(table: pl.DataFrame, train: np.ndarray, steps: tuple[Step, ...], seed: int) -> Floats:
    """What steps leave of the training pairs: 1, -1 for a pair that was turned round, 0."""
    left = table.filter(pl.Series(train))
    for i, step in enumerate(steps):
        left = applied(step, f"step {i}", left, seed, embed())
    found = table.select("pair_id").join(
        signs_of(left).unique("pair_id"), on="pair_id", how="left", maintain_order="left"
    )
    return found["sign"].fill_null(0.0).to_numpy()


def measure(
    data: Labelled, seeds: int, truth: Floats, arms: Mapping[str, tuple[Step, ...]]
) -> dict[str, tuple[Estimate, float]]:
    """Gains against all pairs, on held-out pairs, and the share that is kept.

    Args:
        data: the pairs.
        seeds: of the folds.
        truth: Float64[n], 1 where the label is right, -1 where it is swapped, 0 where the pair is
            damaged: these are not judged, and the oracle drops them.
        arms: steps by name.
    """
    z, penalty = design(Differences(data.rows.data.vectors, np.zeros((len(truth), 0))))
    clusters, n = data.rows.clusters, len(truth)
    names = ["all", "oracle", *arms, *(f"random as: {a}" for a in arms)]
    right = {name: np.zeros(n) for name in names}
    kept: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(seeds):
        fold = cluster_folds(clusters, seed)
        for k in np.unique(fold):
            train, held = fold != k, (fold == k) & (truth != 0)
            found = {"all": train.astype(float), "oracle": np.where(train, truth, 0.0)}
            for name, steps in arms.items():
                found[name] = signs(data.pairs, train, steps, seed)
                rng = np.random.default_rng([seed, int(k)])
                picked = np.zeros(n)
                count = int((found[name] != 0).sum())
                picked[rng.permutation(np.flatnonzero(train))[:count]] = 1.0
                found[f"random as: {name}"] = picked
            for name, sign in found.items():
                margins = margins_of(z, penalty, sign, held) * truth[held]
                right[name][held] += hits(margins) / seeds
                kept[name].append(float((sign != 0).sum() / train.sum()))
    judged = truth != 0
    result = {"all": (clustered_mean(right["all"][judged], clusters[judged]), 1.0)}
    for name in names[1:]:
        base = right[f"random as: {name}"] if f"random as: {name}" in right else right["all"]
        for label, against in ((name, right["all"]), (f"{name} / random", base)):
            gain = (right[name] - against)[judged]
            result[label] = (clustered_mean(gain, clusters[judged]), float(np.mean(kept[name])))
    return result


def points(estimate: Estimate) -> str:
    """A gain in points with its standard error."""
    return f"{100 * estimate.value:+.1f} ± {100 * estimate.se:.1f}"


def page(seeds: int) -> str:
    """Both tables."""
    noise = labelled("noise")
    kind = noise.pairs["kind"].to_numpy()
    truth = np.where(kind == "clean", 1.0, np.where(kind == "flipped", -1.0, 0.0))
    found = measure(noise, seeds, truth, ARMS)
    start, n = found["all"][0], len(truth)
    lines = [
        "# Does mending pay?",
        "",
        f"Made by `python -m benchmarks.noise --seeds {seeds}`: a head on sentence vectors, "
        "trained on what the product's own steps",
        "leave of the training folds, judged on held-out clean and swapped pairs by the truth; "
        "steps are fitted to the training folds alone.",
        f"The noise set has {n:,} pairs, of which {int((truth < 0).sum())} are swapped and "
        f"{int((truth == 0).sum())} damaged. All pairs: {start.value:.3f} ± {start.se:.3f}.",
        "",
        "| trained on | share | points against all | against as many random pairs |",
        "|---|--:|--:|--:|",
    ]
    for name in ARMS:
        (gain, share), (other, _) = found[name], found[f"{name} / random"]
        lines.append(f"| {name} | {share:.2f} | {points(gain)} | {points(other)} |")
    gain, share = found["oracle"]
    lines.append(f"| oracle: damage dropped, swaps turned back | {share:.2f} | {points(gain)} | |")
    few = {name: ARMS[name] for name in list(ARMS)[:2]}
    lines += [
        "",
        "On sets as they are, judged by their labels (points against all pairs):",
        "",
        "| set | pairs | " + " | ".join(few) + " |",
        "|---|--:|" + "--:|" * len(few),
    ]
    for name in CLEAN:
        data = labelled(name)
        result = measure(data, seeds, np.ones(data.pairs.height), few)
        cells = " | ".join(points(result[arm][0]) for arm in few)
        lines.append(f"| {name} | {data.pairs.height:,} | {cells} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "Here every set gets all rules. `prefactory audit hh_harmless --write-recipe` takes none",
        "out there: it finds the short, evasive answers that fit many prompts, says so, and prints",
        "no cure for them.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=Path("docs/mending.md"))
    options = parser.parse_args()
    started = time.monotonic()
    text = page(options.seeds)
    options.page.write_text(text, "utf-8")
    print(text, f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()

"""Does mending pay? Writes docs/mending.md.

    python -m benchmarks.noise [--seeds 3] [--page docs/mending.md]

The noise set of the shared data (swapped labels and damage among clean pairs) and five sets as
they are. Each file is audited, and the recipe that `prefactory audit FILE --write-recipe mend.yaml`
writes for it, with and without `--suspects`, is read back. A Bradley-Terry head on sentence vectors
is trained on what its steps leave of the training folds, and judged on held-out clean and swapped
pairs **by the truth**. Every step is fitted to the training folds alone; whether the self-test lets
the suspects go is asked once, of all pairs, as the command does. Five folds of clusters; standard
errors are clustered. On the five sets labels are judged as they are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from audit import Audit
from benchmarks.evidence import SHARED
from benchmarks.human_labels import HUMAN, hh
from benchmarks.label_rows import CACHE, Labelled, embed, labelled
from filters import SuspectLabels
from labelers import LabelTrust
from pipelines.api import Recipe, audit
from pipelines.mend import lines_of, text_of
from pipelines.pays import applied, signs_of
from prefactory.errors import DataError
from prefactory.measures.calibration import Floats
from prefactory.preferences.arms import design, margins_of
from prefactory.preferences.clustered import Estimate, clustered_mean, hits
from prefactory.preferences.folds import cluster_folds
from prefactory.preferences.stack import Differences
from prefactory.step import Step

FILES = {
    "noise": SHARED / "noise/noisy_pairs.jsonl.gz",
    "hh helpful": hh("helpful"),
    "hh harmless": hh("harmless"),
    "tulu": HUMAN / "tulu_human_eval.parquet",
    "ultrafeedback": SHARED / "preference_judge/ultrafeedback_binarized.jsonl.gz",
    "pandalm": HUMAN / "pandalm_testset.json.gz",
}
WRITTEN, SUSPECTS = "`--write-recipe`", "`--write-recipe --suspects`"
Steps = tuple[Step, ...]


def written(name: str) -> tuple[dict[str, Steps], str]:
    """Steps of the recipes that the audit of a file writes, by option, and what `pays` of each.

    Returns:
        The steps by arm, and a word on the second one: empty, or why nothing more is dropped.
    """
    found = audit(str(FILES[name]), home=CACHE.parent / "home")
    arms = {WRITTEN: read_back(found, name), SUSPECTS: read_back(found, name, suspects=True)}
    table = labelled(name).pairs
    try:
        for i, step in enumerate(arms[SUSPECTS]):
            table = applied(step, f"step {i}", table, 0, embed())
    except DataError as error:
        return arms | {SUSPECTS: arms[WRITTEN]}, str(error)
    return arms | {SUSPECTS: tuple(unasked(step) for step in arms[SUSPECTS])}, ""


def read_back(found: Audit, name: str, *, suspects: bool = False) -> Steps:
    """The steps of the recipe as the command writes it."""
    lines = lines_of(found, suspects=suspects)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mend.yaml"
        path.write_text(text_of(found, {"path": str(FILES[name])}, list(lines)), "utf-8")
        return tuple(placed.step for placed in Recipe.from_yaml(path).steps)


def unasked(step: Step) -> Step:
    """A step without the self-test, which was asked of all pairs; it changes no trust."""
    if isinstance(step, LabelTrust):
        return step.model_copy(update={"self_tests": 0})
    return step.model_copy(update={"force": True}) if isinstance(step, SuspectLabels) else step


def by_hand(arms: Mapping[str, Steps]) -> dict[str, Steps]:
    """What no command writes: suspects turned round, and dropped with the damage left in."""
    trust = LabelTrust(self_tests=0)
    turn = SuspectLabels(by="share", amount=0.1, do="turn", force=True)
    drop = SuspectLabels(by="share", amount=0.2, do="drop", force=True)
    return {
        "damage dropped, the least trusted tenth turned round": (*arms[WRITTEN], trust, turn),
        "the least trusted fifth dropped, damage left in": (trust, drop),
    }


def signs(
    table: pl.DataFrame, train: np.ndarray, arms: Mapping[str, Steps], seed: int
) -> dict[str, Floats]:
    """What steps leave of the training pairs: 1, -1 for a pair that was turned round, 0.

    Steps that arms begin with alike are fitted once.
    """
    done: dict[tuple[str, ...], pl.DataFrame] = {(): table.filter(pl.Series(train))}
    found = {}
    for name, steps in arms.items():
        so_far: tuple[str, ...] = ()
        for step in steps:
            before, so_far = so_far, (*so_far, repr(step))
            if so_far not in done:
                done[so_far] = applied(step, f"step {len(before)}", done[before], seed, embed())
        left = signs_of(done[so_far]).unique("pair_id")
        joined = table.select("pair_id").join(left, on="pair_id", how="left", maintain_order="left")
        found[name] = joined["sign"].fill_null(0.0).to_numpy()
    return found


def measure(
    data: Labelled, seeds: int, truth: Floats, arms: Mapping[str, Steps]
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
            for name, sign in signs(data.pairs, train, arms, seed).items():
                found[name] = sign
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


def of_noise(seeds: int) -> list[str]:
    """The table of the noise set."""
    noise = labelled("noise")
    kind = noise.pairs["kind"].to_numpy()
    truth = np.where(kind == "clean", 1.0, np.where(kind == "flipped", -1.0, 0.0))
    arms = written("noise")[0]
    arms |= by_hand(arms)
    found = measure(noise, seeds, truth, arms)
    start = found["all"][0]
    lines = [
        f"The noise set has {len(truth):,} pairs, of which {int((truth < 0).sum())} are swapped "
        f"and {int((truth == 0).sum())} damaged. All pairs: {start.value:.3f} ± {start.se:.3f}.",
        "",
        "| trained on | share | points against all | against as many random pairs |",
        "|---|--:|--:|--:|",
    ]
    for name in arms:
        (gain, share), (other, _) = found[name], found[f"{name} / random"]
        lines.append(f"| {name} | {share:.2f} | {points(gain)} | {points(other)} |")
    gain, share = found["oracle"]
    return [
        *lines,
        f"| oracle: damage dropped, swaps turned back | {share:.2f} | {points(gain)} | |",
        "",
        "The first two recipes are the command's. The two arms below them were written by hand, "
        "with `force: true`.",
    ]


def of_clean(name: str, seeds: int) -> str:
    """The row of a set as it is."""
    data = labelled(name)
    arms, refused = written(name)
    result = measure(data, seeds, np.ones(data.pairs.height), arms)
    cells = [f"{result[arm][1]:.2f} | {points(result[arm][0])}" for arm in arms]
    if refused:
        cells[1] = "the self-test refuses | "
    return f"| {name} | {data.pairs.height:,} | {' | '.join(cells)} |"


def page(seeds: int) -> str:
    """Both tables."""
    lines = [
        "# Does mending pay?",
        "",
        f"Made by `python -m benchmarks.noise --seeds {seeds}`: a head on sentence vectors, "
        "trained on what the recipe that",
        "`prefactory audit FILE --write-recipe mend.yaml [--suspects]` writes leaves of the "
        "training folds, judged on held-out clean and",
        "swapped pairs by the truth; steps are fitted to the training folds alone.",
        *of_noise(seeds),
        "",
        "On sets as they are, judged by their labels (share kept, points against all pairs):",
        "",
        f"| set | pairs | share | {WRITTEN} | share | {SUSPECTS} |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in FILES:
        if name != "noise":
            lines.append(of_clean(name, seeds))
            print(lines[-1], flush=True)
    lines += [
        "",
        "A share of 1.00 means that no warning or fault names rows: the written recipe takes none "
        "out. So on hh harmless, where the audit",
        "finds short, evasive answers that fit many prompts, says so, and prints no cure for them.",
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

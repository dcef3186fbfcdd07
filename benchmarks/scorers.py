"""Which scorers and which combinations agree with people? Writes docs/scorers.md.

    python -m benchmarks.scorers [--folds 5] [--home DIR] [--only NAME] [--stack [--seed N]]

Human labels of ../shared/data. Prompts are cut into folds (prompts that open alike together), and
every pair is scored by what was fitted on the other folds only: heads, scales, references, palettes
and weights alike. Accuracies of all folds are pooled.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl

from benchmarks.evidence import all_gaps
from benchmarks.human_labels import DATASETS, read_pairs
from benchmarks.label_rows import NAMES, labelled
from catalog.splits import group_key
from labelers import (
    MAP,
    PAL,
    R3,
    Combine,
    DirectionalCorrection,
    Normalise,
    RidgeHeads,
    TextStatistics,
    Weigh,
)
from labelers.rules import r3 as text_scores
from labelers.stack.step import length_rule
from pipelines.compare import palette_of
from prefactory.apply import apply_labeler, table_for
from prefactory.context import Context
from prefactory.engines.vectors import shared_store
from prefactory.measures.calibration import calibration_errors, pairwise_accuracy
from prefactory.measures.disagreement import logistic_slope, margins
from prefactory.measures.text_statistics import Statistic
from prefactory.pages.wording import EN_DASH
from prefactory.preferences.stack import Form, cross_fit, skill
from prefactory.step import Labeler
from prefactory.tables import Shape, digests, unpair
from trainers.embedding_reward import choose_l2, fit_head
from trainers.settings import EmbeddingReward

OBJECTIVES = ("relevance", "length", "repetition", "ridge_label")
"""What the combinations combine."""
Z = tuple(f"{o}_z" for o in OBJECTIVES)
FLAT = 0.9
"""A statistic that ties on a larger share of the pairs is named and not tabled."""
Rows = dict[tuple[str, str], np.ndarray]
"""Margins by kind and method."""
LONGER, LENGTH = "longer wins", "length rule (longer or shorter, as on the training side)"
FIRST = "first wins"


# -- steps on some pairs, applied to all -----


@dataclass
class Fold:
    """All pairs with their scores so far, and which of them may be learned from."""

    pairs: pl.DataFrame
    train: pl.Series
    ctx: Context

    def add(self, *steps: Labeler) -> None:
        """Fit steps on the training pairs, and score all pairs."""
        for step in steps:
            ctx = self.ctx
            if step.scope == "dataset":
                seen, _ = table_for(step, self.pairs.filter(self.train), Shape.PAIRS)
                parts = step.fit_shard(seen, ctx)
                state = step.fit(parts.sort(parts.columns[0], maintain_order=True), ctx)
                ctx = Context(ctx.seed, ctx.step, state, ctx.embed)
            new = apply_labeler(step, "scorers", self.pairs, Shape.PAIRS, ctx)
            self.pairs = self.pairs.hstack(new.drop("pair_id").get_columns())

    def margin(self, name: str) -> np.ndarray:
        """Held-out margins by one score; NaN where there is none."""
        found = margins(self.pairs.filter(~self.train), [name])
        return found.to_series().fill_null(math.nan).to_numpy()


def scorers(pairs: pl.DataFrame, ctx: Context) -> pl.DataFrame:
    """Scores that learn nothing."""
    fold = Fold(pairs, pl.repeat(True, pairs.height, dtype=pl.Boolean, eager=True), ctx)
    fold.add(R3(), TextStatistics(prefix="n_"))
    return fold.pairs


def combinations(fold: Fold) -> dict[str, str]:
    """Add every combination of `OBJECTIVES`, fitted on the training side; name -> score."""
    equal = dict.fromkeys(OBJECTIVES, 1.0)
    fold.add(Normalise(objectives=OBJECTIVES, suffix="z"))
    palette = palette_of(unpair(fold.pairs.filter(fold.train)), OBJECTIVES) or equal
    fold.add(
        Combine(name="c_mean", weights=equal, normalise="zscore"),
        Combine(name="c_sum", weights=equal),
        Combine(name="c_and", method="logsigmoid", weights=equal),
        Combine(name="c_and_set", method="logsigmoid", weights=equal, reference="dataset"),
        MAP(name="c_map", objectives=OBJECTIVES, palette=palette, on_unreachable="nearest"),
        Weigh(name="c_pro", objectives=Z, method="pro"),
        Weigh(name="c_pro_paper", objectives=Z, method="pro", target="chosen"),
        Weigh(name="c_tri", objectives=Z, method="tri_factor"),
        Weigh(name="c_min", objectives=Z, method="soft_min"),
        Weigh(name="c_pareto", objectives=OBJECTIVES, method="pareto"),
        DirectionalCorrection(name="c_debias", objective="ridge_label", nuisance="n_characters"),
    )
    return {
        "linear: mean of z-scores": "c_mean",
        "linear: plain sum": "c_sum",
        "log-sigmoid, reference by prompt": "c_and",
        "log-sigmoid, reference by data set": "c_and_set",
        "MAP, half of the furthest palette": "c_map",
        "PRO weights, by margin (ours)": "c_pro",
        "PRO weights, by chosen (the paper's)": "c_pro_paper",
        "three factors": "c_tri",
        "soft minimum": "c_min",
        "Pareto rank": "c_pareto",
        "ridge head, length direction taken out": "c_debias",
    }


def fitted(gaps: np.ndarray, train: pl.Series, prompts: pl.Series) -> np.ndarray:
    """Held-out margins of a Bradley-Terry head on differences of features, Float64[n, D]."""
    at = train.to_numpy()
    size = np.sqrt((gaps[at] ** 2).mean(axis=0))
    scale = np.where(size > 0, size, 1.0)
    weights = np.ones(int(at.sum()))
    l2, _ = choose_l2(EmbeddingReward(), gaps[at] / scale, weights, prompts.filter(train))
    head = fit_head(gaps[at] / scale, weights, l2)
    result: np.ndarray = gaps[~at] / scale @ head
    return result


def fold_margins(pairs: pl.DataFrame, train: pl.Series, gaps: np.ndarray, ctx: Context) -> Rows:
    """Held-out margins of one fold: (kind, method) -> Float64[held out]."""
    test = ~train
    longer = margins(pairs, ["n_characters"]).to_series().to_numpy()
    side = 1.0 if pairwise_accuracy(longer[train.to_numpy()])[0] >= 0.5 else -1.0
    found: Rows = {
        ("rule", LONGER): longer[test.to_numpy()],
        ("rule", LENGTH): side * longer[test.to_numpy()],
    }
    if "first" in pairs.columns:
        first = pairs["first"].cast(pl.Boolean).filter(test).to_numpy()
        found["rule", FIRST] = np.where(first, 1.0, -1.0)
    fold = Fold(pairs, train, ctx)
    fold.add(RidgeHeads(objectives=("label",)))
    for part in get_args(text_scores.Objective):
        found["R3", part] = fold.margin(part)
    for part in get_args(Statistic):
        found["text statistics", part] = fold.margin(f"n_{part}")
    found["learned", "ridge head on labels"] = fold.margin("ridge_label")
    found["learned", "embedding reward"] = fitted(gaps, train, pairs["prompt_id"])
    if "annotator" in pairs.columns:
        fold.add(PAL(annotator="annotator", folds=1))
        own = fold.pairs.filter(test)["margin_pal"]
        found["learned", "PAL, each rater's own ideal point"] = own.to_numpy()
        groups = [f"pal_{g}" for g in range(2)]
        found["learned", "PAL, larger group's ideal point"] = fold.margin(groups[0])
    for name, score in combinations(fold).items():
        found["combination", name] = fold.margin(score)
    every = margins(fold.pairs, list(OBJECTIVES)).fill_null(0.0).to_numpy()
    found["combination", "linear: weights fitted to the labels"] = fitted(
        every, train, pairs["prompt_id"]
    )
    return found


def fold_groups(pairs: pl.DataFrame) -> pl.Series:
    """Which pairs may not be parted: a digest of how their prompt opens, length n."""
    return digests(pairs.select(group_key(pl.col("prompt"))).to_series())


def measure(name: str, folds: int, home: Path) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Pairs of a data set in the order of their folds, and a row for each method."""
    embed = shared_store(home / "vectors").embed
    ctx = Context(0, "scorers", None, embed)
    pairs = scorers(read_pairs(name), ctx)
    by_id = all_gaps(pairs, embed)
    gaps = np.stack([by_id[i] for i in pairs["pair_id"]])
    group = fold_groups(pairs)
    of = (ctx.uniform(group, "folds") * folds).floor().cast(pl.Int64)
    parts: list[Rows] = []
    order: list[pl.DataFrame] = []
    for k in range(folds):
        if (of == k).any():
            parts.append(fold_margins(pairs, of != k, gaps, ctx))
            order.append(pairs.filter(of == k).with_columns(group.filter(of == k).alias("group")))
    held = pl.concat(order)
    base = np.sign(np.concatenate([p["rule", LENGTH] for p in parts]))
    rows = []
    for method in parts[0]:
        gap = np.concatenate([p[method] for p in parts])
        rows.append({"kind": method[0], "method": method[1], **numbers(gap, base, held["group"])})
    return held, rows


def numbers(gap: np.ndarray, base: np.ndarray, group: pl.Series) -> dict[str, Any]:
    """Accuracy, what it is above the length rule on the same pairs, ties, ECE after a scale fit."""
    there = ~np.isnan(gap)
    kept, group = gap[there], group.filter(pl.Series(there))
    accuracy, se = pairwise_accuracy(kept, group)
    half = (np.sign(kept) - base[there]) / 2
    above = float(half.mean())
    sums = np.bincount(group.rank("dense").to_numpy() - 1, weights=half - above)
    return {
        "n": len(kept),
        "accuracy": accuracy,
        "se": se,
        "above": above,
        "above_se": float(np.sqrt((sums**2).sum())) / len(kept),
        "ties": int((kept == 0).sum()),
        "ece": calibration_errors(logistic_slope(kept) * kept).ece,
    }


# -- the page -----


def section(name: str, held: pl.DataFrame, rows: list[dict[str, Any]]) -> list[str]:
    """One data set: what it is, its table, and whether anything is ahead of the rules."""
    groups = held["group"].n_unique()
    lines = [
        f"## {name}",
        "",
        f"{held.height:,} pairs, {groups:,} groups of prompts: {DATASETS[name][0]}.",
        "",
        "| | accuracy | above the length rule | ties | ECE |",
        "|---|--:|--:|--:|--:|",
    ]
    flat = [r["method"] for r in rows if r["ties"] > FLAT * r["n"]]
    for row in rows:
        if row["method"] in flat:
            continue
        above = "" if row["method"] == LENGTH else f"{row['above']:+.3f} ± {row['above_se']:.3f}"
        few = "" if row["n"] == held.height else f" ({row['n']:,} pairs)"
        label = f"{row['kind']}: {row['method']}"
        lines.append(
            f"| {label}{few} | {row['accuracy']:.3f} ± {row['se']:.3f} | {above} | "
            f"{row['ties']:,} | {row['ece']:.3f} |"
        )
    if flat:
        lines += ["", f"Tied on more than {FLAT:.0%} of the pairs: {', '.join(flat)}."]
    return [*lines, "", verdict(rows), ""]


def verdict(rows: list[dict[str, Any]]) -> str:
    """Who is ahead of the length rule by two standard errors, in a sentence; if nobody, that."""
    ours = [r for r in rows if r["kind"] != "rule"]
    ahead = [r for r in ours if r["above"] > 2 * r["above_se"]]
    rule = max((r for r in rows if r["kind"] == "rule"), key=lambda r: r["accuracy"])
    best = max(ours, key=lambda r: r["accuracy"])
    text = (
        f"Best of ours: {best['method']}, {best['accuracy']:.3f}; best rule: {rule['method']}, "
        f"{rule['accuracy']:.3f}. "
    )
    if not ahead:
        return text + "**Nothing of ours is ahead of the length rule by two standard errors.**"
    names = ", ".join(f"{r['method']} ({r['above']:+.3f})" for r in ahead)
    return text + f"Ahead of the length rule by more than two standard errors: {names}."


def overview(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line a data set: the rules, the best that learns nothing, the learned, the combined."""
    heads = [
        "longer wins",
        "length rule",
        "first wins",
        "R3",
        "ridge head",
        "embedding reward",
        "fitted weights",
    ]
    keys = [("rule", LONGER), ("rule", LENGTH), ("rule", FIRST), ("R3", "r3")]
    keys += [("learned", "ridge head on labels")]
    keys += [("learned", "embedding reward")]
    keys += [("combination", "linear: weights fitted to the labels")]
    heads.append("best of the other combinations")
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    for name, rows in found.items():
        by = {(r["kind"], r["method"]): r for r in rows}
        cells = [shown(by.get(key)) for key in keys]
        rest = [r for r in rows if r["kind"] == "combination" and "fitted" not in r["method"]]
        best = max(rest, key=lambda r: r["accuracy"])
        lines.append(f"| {name} | {' | '.join(cells)} | {shown(best)} ({best['method']}) |")
    return lines


def shown(row: dict[str, Any] | None) -> str:
    """Accuracy and standard error in a cell."""
    return EN_DASH if row is None else f"{row['accuracy']:.3f} ± {row['se']:.3f}"


def page(found: dict[str, tuple[pl.DataFrame, list[dict[str, Any]]]], told: str, taken: str) -> str:
    """The whole page as Markdown; `taken` is what people wrote about it."""
    lines = ["# Scorers and combinations against people", "", told, "", *METHOD, ""]
    lines += [*overview({name: rows for name, (_, rows) in found.items()}), "", TAKEN, ""]
    lines += [taken or "(to be written)", ""]
    for name, (held, rows) in found.items():
        lines += section(name, held, rows)
    return "\n".join(lines).rstrip() + "\n"


STACK = "## The preference stack"
FORMS: tuple[Form, ...] = ("statistics", "joint", "stack", "auto")


def stack_row(name: str, seed: int) -> str:
    """One set: the length rule, every form of `labelers.PreferenceStack`, and what is ahead."""
    one = labelled(name)
    margins = {form: cross_fit(one.rows, form, seed) for form in FORMS}
    rule = length_rule(one.length, margins["auto"], one.rows)["accuracy"]["value"]
    cells = []
    for form in FORMS:
        told = skill(margins[form].margins, one.rows.clusters)
        ahead = length_rule(one.length, margins[form], one.rows)["ahead"]
        lead = f"{100 * ahead['value']:+.1f} ± {100 * ahead['se']:.1f}"
        nothing = ", teaches nothing" if told.teaches_nothing else ""
        cells.append(f"{told.accuracy.value:.3f} ± {told.accuracy.se:.3f} ({lead}{nothing})")
    size = f"{len(one.rows):,} / {one.rows.clusters.max() + 1:,}"
    return f"| {name} | {size} | {rule:.3f} | " + " | ".join(cells) + " |"


def stack_section(seed: int = 0) -> list[str]:
    """The table of the stack; made by `--stack` alone as well."""
    lines = [
        STACK,
        "",
        "`labelers.PreferenceStack` at its default (`auto`: the simplest form within one standard",
        "error of the least loss, by the training folds) and in each form, out of fold by",
        "cluster of near-duplicate prompts, seed 0; in brackets what it is ahead of the length",
        "rule, in points, with the paired standard error. Pairs with two equal answers, and",
        "UltraFeedback's with equal scores, are left out; of UKP 1,500 pairs are drawn. Made by",
        "`python -m benchmarks.scorers --stack`.",
        "",
        "| | pairs / clusters | length rule | " + " | ".join(FORMS) + " |",
        "|---|--:|--:|" + "--:|" * len(FORMS),
    ]
    for name in NAMES:
        lines.append(stack_row(name, seed))
        print(lines[-1], flush=True)
    return [*lines, ""]


def with_stack(text: str, section: list[str]) -> str:
    """A page with its section on the stack replaced, or put before what to take from it."""
    before, _, rest = text.partition(f"{STACK}\n")
    if not rest:
        before, mark, rest = text.partition(f"{TAKEN}\n")
        return before + "\n".join(section) + "\n" + mark + rest
    return before + "\n".join(section) + "\n" + TAKEN + "\n" + rest.partition(f"{TAKEN}\n")[2]


TAKEN = "## What to take from it"
METHOD = (
    "Held-out prompts: they are cut into folds (prompts that open alike together), and every pair",
    "is scored by heads, scales, palettes and weights that were fitted on the other folds. A cell",
    "is the share of human labels that a score agrees with, a tie counting one half, and its",
    "standard error, cluster-robust by group of prompts. The length rule is the trivial baseline",
    "to beat: the longer answer wins, or the shorter, whichever is right more often on the other",
    "folds. First wins takes the answer that people were shown first (hh-rlhf does not say).",
    "Combinations are of relevance, length, repetition and the ridge head's score. ECE: over both",
    "orders, after one number per score, its scale, was fitted to the held-out labels.",
)


def kept(target: Path) -> str:
    """The section that people wrote, of the page as it was."""
    text = target.read_text("utf-8") if target.exists() else ""
    return text.partition(f"{TAKEN}\n")[2].partition("\n## ")[0].strip()


def main() -> None:
    """Measure, write docs/scorers.md and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--home", type=Path, default=Path(".prefactory/store"))
    parser.add_argument("--only", choices=list(DATASETS), help="one data set, printed only")
    parser.add_argument("--stack", action="store_true", help="the stack's table only")
    parser.add_argument("--seed", type=int, default=0, help="of its folds; another is only printed")
    options = parser.parse_args()
    target = Path(__file__).resolve().parents[1] / "docs" / "scorers.md"
    if options.stack and options.seed:
        stack_section(options.seed)
        return
    if options.stack:
        target.write_text(with_stack(target.read_text("utf-8"), stack_section()), "utf-8")
        return
    started = time.monotonic()
    names = [options.only] if options.only else list(DATASETS)
    found = {}
    for name in names:
        found[name] = measure(name, options.folds, options.home)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    told = (
        f"Made by `python -m benchmarks.scorers --folds {options.folds}` in "
        f"{time.monotonic() - started:.0f} s on a CPU, with the vectors of earlier runs if any."
    )
    text = page(found, told, kept(target))
    if not options.only:
        text = with_stack(text, stack_section())
        target.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()

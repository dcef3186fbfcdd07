"""What is curation worth to a real small model? DPO and reward models on four arms.

    python -m benchmarks.dpo_worth [--seeds 3] [--pairs 96] [--arms all,mended] [--methods dpo]

SmolLM2-135M-Instruct (`smollm2`, read from its GGUF) is trained with LoRA on short pairs of
hh-rlhf: on all rows, on what dropping the least trusted fifth leaves (mended), on as many random
rows, and on that fifth alone (suspects). All arms of all seeds are judged on the same held-out
prompts, and compared pair by pair. Every run's figures are kept in `--results` as soon as it is
done, so a benchmark that was cut short goes on with the next run, and other seeds can be added
later, on another machine, too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.evidence import read_pairs
from catalog.arrow_folder import SplitWriter, arrow_schema, write_dict
from catalog.manifest import Manifest, TableRecord
from pipelines.api import Recipe, run
from pipelines.settings import Settings
from pipelines.vectors import embedder
from prefactory.errors import DataError
from prefactory.identity import fingerprint
from prefactory.preferences.clustered import clustered_mean
from prefactory.tables import ROW_ID, Shape
from trainers import (
    DPO,
    DatasetRef,
    EmbeddingReward,
    Lora,
    PreferenceStack,
    Reward,
    train_embedding_reward,
    train_preference_stack,
    train_transformer,
)  # fmt: skip
from trainers.training import HELD_OUT

ARMS = ("all", "mended", "random", "suspects")
METHODS = ("dpo", "reward")
BESIDE = ("embedding-reward", "preference-stack")
"""Heads on frozen vectors, trained on all rows: what the transformer stands beside."""
SOURCES = ("hh-rlhf helpful", "hh-rlhf harmless")
CHARS = 280
"""Most characters of the prompt and of each answer together: short rows."""
DROPPED = 0.2


def slices(pairs: int, held: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Short pairs of hh-rlhf for training (of which a seed draws) and for judging, by prompt."""
    with tempfile.TemporaryDirectory() as folder:
        rows = pl.concat([read_pairs(name, Path(folder)) for name in SOURCES])
    size = sum(
        pl.col(c).list.eval(pl.element().struct["content"].str.len_chars()).list.sum()
        for c in ("prompt", "chosen", "rejected")
    )
    short = rows.filter(size <= CHARS, pl.col("chosen_id") != pl.col("rejected_id"))
    prompts = short["prompt_id"].unique().sort().sample(fraction=1, shuffle=True, seed=0)
    place = pl.DataFrame({"prompt_id": prompts, "place": range(len(prompts))})
    ordered = short.join(place, on="prompt_id").sort("place", "pair_id")
    test = ordered.head(held)
    rest = ordered.filter(~pl.col("prompt_id").is_in(test["prompt_id"].implode()))
    if rest.height < pairs:
        raise SystemExit(f"{rest.height} short pairs are left to train on, fewer than {pairs}")
    return rest.drop("place"), test.drop("place")


def arms_of(rows: pl.DataFrame, seed: int, home: Path) -> dict[str, pl.DataFrame]:
    """Rows of each arm."""
    file = home / f"train-{seed}.jsonl"
    rows.select("prompt", "chosen", "rejected").write_ndjson(file)
    drop = {"by": "share", "amount": DROPPED, "do": "drop", "force": True}
    recipe = Recipe(
        f"worth-{seed}",
        source=file,
        steps=["labelers.LabelTrust", {"filters.SuspectLabels": drop}],
        publish={"test_fraction": 0.0, "pays": False},
    )
    kept = run(recipe, home / "prefactory").frame("pairs").select("pair_id").collect()
    mended = rows.filter(pl.col("pair_id").is_in(kept["pair_id"].implode()))
    return {
        "all": rows,
        "mended": mended,
        "random": rows.sample(mended.height, seed=seed),
        "suspects": rows.join(kept, on="pair_id", how="anti"),
    }


def version_of(
    train: pl.DataFrame,
    test: pl.DataFrame,
    folder: Path,
    shape: Shape = Shape.PAIRS,
    table: str | None = None,
) -> DatasetRef:
    """The rows as a version's folder; `table` is named as its shape is, by default."""
    table = table or shape.value
    if not (folder / "manifest.json").is_file():
        splits = {"train": train, "test": test}
        for split, rows in splits.items():
            writer = SplitWriter(folder / table / split, split, arrow_schema(rows))
            writer.write(rows)
            writer.close()
        write_dict(folder / table, list(splits))
        counts = {split: rows.height for split, rows in splits.items()}
        record = TableRecord(shape=shape, splits=counts, bytes=counts, columns={}, digest="")
        digest = fingerprint([rows[ROW_ID[shape]].sort().to_list() for rows in splits.values()])
        manifest = Manifest(
            name=folder.name, version="1", description="", license="MIT", seed=0,
            content_digest=digest, recipe_fingerprint="", payload={}, sources=[], stages=[],
            tables={table: record}, ledger={}, software={},
        )  # fmt: skip
        (folder / "manifest.json").write_text(manifest.model_dump_json())
    return DatasetRef.from_path(folder)


def settings_of(method: str, args: argparse.Namespace, seed: int) -> DPO | Reward:
    """Options of a run."""
    cls = {"dpo": DPO, "reward": Reward}[method]
    more: dict[str, Any] = {"compare_answers": 0} if method == "dpo" else {}
    return cls(
        model=args.model, lora=Lora(r=8, alpha=16), learning_rate=args.learning_rate,
        num_train_epochs=args.epochs, max_steps=args.steps, per_device_train_batch_size=8,
        per_device_eval_batch_size=16, gradient_accumulation_steps=1, max_length=args.max_length,
        gradient_checkpointing=False, save_strategy="no", seed=seed, **more,
    )  # fmt: skip


def measured(
    method: str, data: DatasetRef, args: argparse.Namespace, seed: int, folder: Path
) -> dict[str, Any]:
    """Train once; accuracy, the hit of each held-out pair, and the seconds that it took."""
    began = time.monotonic()
    known = {"trained_on": len(data.pairs("train")), "hits": {}}
    if method in METHODS:
        report = train_transformer(settings_of(method, args, seed), data, folder)
        margins = pl.read_parquet(folder / HELD_OUT)
        right = (np.sign(margins["margin"].to_numpy()) + 1) / 2
        hits = dict(zip(margins["pair_id"], right.tolist(), strict=True))
    else:
        embed = embedder(Settings(args.home / "prefactory"))
        if method == "embedding-reward":
            report = train_embedding_reward(EmbeddingReward(seed=seed), data, folder, embed)
        else:
            try:
                report = train_preference_stack(PreferenceStack(seed=seed), data, folder, embed)
            except DataError as error:  # labels that it sees nothing in
                return {**known, "refused": str(error), "seconds": time.monotonic() - began}
        hits = {}
    test = report.test
    if test is None:
        raise SystemExit("there are no held-out pairs")
    return {
        "accuracy": test.accuracy, "se": test.accuracy_se, "pairs": test.pairs,
        "longer_wins": test.longer_wins, "longer_wins_se": test.longer_wins_se,
        **known, "hits": hits, "seconds": time.monotonic() - began,
    }  # fmt: skip


def runs(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every run's figures, from its file where it was done already."""
    train, test = slices(args.pairs, args.held)
    setup = fingerprint([
        args.model, args.pairs, args.held, args.epochs, args.steps, args.learning_rate,
        args.max_length, CHARS, DROPPED,
    ])[:8]  # fmt: skip
    results = args.results / f"dpo_worth-{setup}"
    results.mkdir(parents=True, exist_ok=True)
    args.home.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for seed in range(args.seeds):
        rows = train.sample(args.pairs, seed=seed)
        arms: Mapping[str, pl.DataFrame] | None = None
        wanted = [(m, a) for m in args.methods for a in args.arms]
        wanted += [(m, "all") for m in BESIDE if args.beside]
        for method, arm in wanted:
            name = f"{method}-{arm}-{seed}"
            file = results / f"{name}.json"
            if not file.is_file():
                arms = arms or arms_of(rows, seed, args.home)
                data = version_of(arms[arm], test, args.home / f"data-{setup}" / f"{arm}-{seed}")
                with tempfile.TemporaryDirectory() as scratch:
                    done = measured(method, data, args, seed, Path(scratch) / "m")
                part = file.with_suffix(".part")
                part.write_text(json.dumps(done))
                part.replace(file)
            found[name] = json.loads(file.read_text())
            level = found[name].get("accuracy")
            told = "refused" if level is None else f"{level:.3f}"
            print(f"{name}: {told} in {found[name]['seconds']:.0f} s", flush=True)
    return found


def table(found: Mapping[str, Mapping[str, Any]], test: pl.DataFrame, seeds: int) -> list[str]:
    """Lines of a Markdown table; differences are of the same held-out pairs, by prompt."""
    lines = [
        "| model | trained on | rows | held-out accuracy | points against all rows |",
        "|---|---|--:|--:|--:|",
    ]
    order = test.select("pair_id", "prompt_id")
    for method in (m for m in METHODS if any(name.startswith(f"{m}-") for name in found)):
        base = _hits(found, method, "all", order, seeds)
        for arm in ARMS:
            mine = _hits(found, method, arm, order, seeds)
            if mine is None:
                continue
            there = ~np.isnan(mine)
            level = clustered_mean(mine[there], order["prompt_id"].filter(pl.Series(there)))
            start = f"{method}-{arm}-"
            n = np.mean([r["trained_on"] for k, r in found.items() if k.startswith(start)])
            against = ""
            if arm != "all" and base is not None:
                both = there & ~np.isnan(base)
                gap = clustered_mean(
                    (mine - base)[both], order["prompt_id"].filter(pl.Series(both))
                )
                against = f"{100 * gap.value:+.1f} ± {100 * gap.se:.1f}"
            lines.append(
                f"| {method} | {arm} | {n:.0f} | {level.value:.3f} ± {level.se:.3f} | {against} |"
            )
    for method in BESIDE:
        rows = [r for k, r in found.items() if k.startswith(f"{method}-all-")]
        taught = [r for r in rows if "refused" not in r]
        if rows:
            n = np.mean([r["trained_on"] for r in rows])
            told = f"refused {len(rows) - len(taught)} of {len(rows)} times"
            if taught:
                level, error = (float(np.mean([r[k] for r in taught])) for k in ("accuracy", "se"))
                of = "" if len(taught) == len(rows) else f"; {told}"
                told = f"{level:.3f} ± {error:.3f}{of}"
            lines.append(f"| {method} | all | {n:.0f} | {told} | |")
    longer = next(iter(found.values()))
    lines.append(
        f"| the longer answer wins | | | {longer['longer_wins']:.3f} ± "
        f"{longer['longer_wins_se']:.3f} | |"
    )
    return lines


def _hits(
    found: Mapping[str, Mapping[str, Any]], method: str, arm: str, order: pl.DataFrame, seeds: int
) -> np.ndarray[Any, Any] | None:
    """Mean over the seeds of the hits of each held-out pair; NaN where none read it."""
    rows = [found[k] for s in range(seeds) if (k := f"{method}-{arm}-{s}") in found]
    if not rows:
        return None
    every = np.array([[r["hits"].get(i, np.nan) for i in order["pair_id"]] for r in rows])
    counted = (~np.isnan(every)).sum(axis=0)
    total = np.nansum(every, axis=0)
    return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)


def page(lines: Sequence[str], args: argparse.Namespace) -> str:
    """The page of docs."""
    steps = f"{args.steps} steps" if args.steps else f"{args.epochs:g} epochs"
    return "\n".join([
        "# What is curation worth to a small real model?",
        "",
        f"Made by `python -m benchmarks.dpo_worth --seeds {args.seeds} --pairs {args.pairs}`: "
        f"`{args.model}` trained with LoRA ({steps}, {args.max_length} tokens) on short pairs of "
        "hh-rlhf, on all rows, on what dropping the least trusted fifth leaves (mended), on as "
        "many random rows and on that fifth alone (suspects). All are judged on the same "
        f"{args.held} held-out pairs; errors are by prompt, differences pair by pair, means over "
        "the seeds.",
        "",
        *lines,
        "",
        "A difference of less than twice its error says nothing. So few short pairs, and a model "
        "so small, are what a laptop trains in a morning: whether curation pays at the size of a "
        "real run is not answered here, and `prefactory run`'s report answers it for heads on "
        "frozen vectors ([does it pay](selection.md)).",
        "",
    ])  # fmt: skip


def main() -> None:
    """Run what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--home", type=Path, default=Path(".prefactory/dpo_worth"))
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).with_name("results"),
        help="where each run's figures are kept",
    )  # fmt: skip
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--held", type=int, default=96)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--arms", type=lambda t: t.split(","), default=list(ARMS))
    parser.add_argument("--methods", type=lambda t: t.split(","), default=list(METHODS))
    parser.add_argument("--no-beside", dest="beside", action="store_false")
    parser.add_argument("--page", type=Path, default=None, help="such as docs/dpo_worth.md")
    args = parser.parse_args()
    args.home = args.home.resolve()
    found = runs(args)
    lines = table(found, slices(args.pairs, args.held)[1], args.seeds)
    print("\n".join(lines))
    if args.page is not None:
        args.page.write_text(page(lines, args))


if __name__ == "__main__":
    main()

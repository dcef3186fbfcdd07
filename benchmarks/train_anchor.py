"""Train the outside opinion that ships (`prefactory/preferences/anchor`) and write its card.

    python -m benchmarks.train_anchor [--out FOLDER] [--hh-helpful FILE]

Human labels of ../shared/data whose licence allows shipping a model made from them. hh-rlhf is MIT;
the copy of its helpful half there came by another repository, which puts CC BY-NC 4.0 on its files.
The texts and labels are Anthropic's, but before a release outside train from the original file
(anthropics/hh-rlhf: helpful-base/test.jsonl.gz or train.jsonl.gz).

Of the halves of hh-rlhf one half of the clusters of prompts is left out, so that labels of the
other can be judged by what ships. UKP ConvArg has twelve prompts: halved, too few would be left to
judge it by, so that it is held against and not trained on. Tried and left out, for they made the
opinion of other sets worse: qa_feedback and LLMBar natural.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

from benchmarks.label_rows import Labelled, columns, described, embed, labelled, read_file
from prefactory.engines.encoder import Encoder
from prefactory.measures.calibration import Floats, logistic_slope
from prefactory.preferences import anchor
from prefactory.preferences.clustered import Ints, clustered_mean, hits
from prefactory.preferences.folds import cluster_folds
from prefactory.preferences.scorer import Scorer
from prefactory.preferences.stack import Differences, Model, Rows, cross_fit, fit

COPY = {
    "copy": [
        "The texts and labels of hh-rlhf helpful are Anthropic's (MIT); the file that was read",
        "came by Linear95/DSP, which puts CC BY-NC 4.0 on its copy. Before a release outside,",
        "train again with `--hh-helpful` and the original file.",
    ],
    "original": ["hh-rlhf helpful was read from the original repository's file."],
}
MOST = 700
"""Rows of a set that the helpful expert sees, lest one set rule."""
RIDGE = 0.003
LICENCES = {
    "hh helpful": "MIT (anthropics/hh-rlhf, helpful-base), see below",
    "hh harmless": "MIT (anthropics/hh-rlhf, harmless-base)",
    "tulu": "Apache-2.0 (allenai/open-instruct, human evaluation of Tulu 1)",
    "pandalm": "Apache-2.0 (WeOpenML/PandaLM, test set)",
}
HELPFUL = ("hh helpful", "tulu", "pandalm")
HARMLESS = "hh harmless"
PARTS = {"helpfulness": HELPFUL, "harmlessness": (HARMLESS,)}
HALVED = ("hh helpful", HARMLESS)
"""Sets of whose clusters one half is left out of the training."""
JUDGED = ("webgpt", "ultrafeedback", "ukp", "llmbar adversarial", "llmbar natural")
"""Sets that it is held against and never trained on."""


@lru_cache(maxsize=2)
def sets(hh_helpful: Path | None = None) -> dict[str, Labelled]:
    """The training sets that there are; hh helpful from the original file if one is named."""
    found = {name: labelled(name) for name in (*HELPFUL, HARMLESS)}
    if hh_helpful is not None:
        found["hh helpful"] = described(read_file(hh_helpful))
    return found


def left_out(name: str, rows: Rows) -> NDArray[np.bool_]:
    """Rows whose clusters no expert sees, Bool[n]: one half of those of `HALVED`."""
    if name not in HALVED:
        return np.zeros(len(rows), np.bool_)
    return cluster_folds(rows.clusters, 0, 2) == 1


def used(name: str, rows: Rows, kept: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Places of the rows of a set that are trained on, in order.

    Args:
        name: of the set.
        rows: of it.
        kept: Bool[n], which of them may be seen; None means all.
    """
    may = ~left_out(name, rows) if kept is None else ~left_out(name, rows) & kept
    places = np.flatnonzero(may)
    if name == HARMLESS:
        return places
    return np.sort(np.random.default_rng(0).permutation(places)[:MOST])


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows of several sets, no cluster in two of them."""
    starts = np.cumsum([0, *(int(p.clusters.max()) + 1 for p in parts)])
    clusters = [p.clusters + start for p, start in zip(parts, starts[:-1], strict=True)]
    data = Differences(
        np.concatenate([p.data.vectors for p in parts]),
        np.concatenate([p.data.columns for p in parts]),
    )
    return Rows.of(data, np.concatenate(clusters))


def expert(parts: Sequence[Rows]) -> tuple[Model, float]:
    """A stack times the slope of its margins out of fold."""
    rows = joined(parts)
    slope = logistic_slope(cross_fit(rows, "stack").margins)
    return fit(rows, "stack").times(slope), slope


def gate(kinds: dict[str, list[Floats]]) -> tuple[Floats, Floats, float]:
    """Weights, mean and intercept of P(of the harmless kind) on features of prompts by kind."""
    features = np.concatenate([f for parts in kinds.values() for f in parts])
    weights = np.concatenate(
        [np.full(len(f), 0.5 / len(parts) / len(f)) for parts in kinds.values() for f in parts]
    )
    sizes = [sum(len(f) for f in parts) for parts in kinds.values()]
    mean = features.mean(axis=0)
    model = LogisticRegression(C=1 / RIDGE, tol=1e-8, max_iter=5000)
    model.fit(20 * (features - mean), np.repeat([0, 1], sizes), sample_weight=weights)
    return model.coef_[0].astype(np.float64), mean, float(model.intercept_[0])


@lru_cache(maxsize=8)
def trained(names: tuple[str, ...], hh_helpful: Path | None = None) -> tuple[Model, float]:
    """The expert of some of the training sets, and its slope."""
    found = sets(hh_helpful)
    return expert([found[n].rows.take(used(n, found[n].rows)) for n in names])


def opinion_of(name: str, kind: str, hh_helpful: Path | None = None) -> tuple[Model, Ints]:
    """An expert that has seen no label of a set, and the rows that it is asked about.

    Args:
        name: of the set. One of `HALVED` is judged on the half that no expert sees, by the expert
            that ships; another training set by an expert that was trained without it.
        kind: of the expert, a key of `PARTS`.
        hh_helpful: see `sets`.
    """
    names = tuple(n for n in PARTS[kind] if n != name or n in HALVED)
    rows = (sets(hh_helpful).get(name) or labelled(name)).rows
    kept = left_out(name, rows) if name in names else np.ones(len(rows), np.bool_)
    return trained(names, hh_helpful)[0], np.flatnonzero(kept)


def held_out(hh_helpful: Path | None) -> dict[str, Any]:
    """Accuracy on every set of an expert of its kind that has seen no label of it."""
    figures, found = {}, sets(hh_helpful)
    for name in (*found, *JUDGED):
        kind = "harmlessness" if name == HARMLESS else "helpfulness"
        model, kept = opinion_of(name, kind, hh_helpful)
        rows = (found.get(name) or labelled(name)).rows.take(kept)
        figures[name] = clustered_mean(hits(model.scores(rows.data)), rows.clusters).as_dict()
    return figures


def train(out: Path, hh_helpful: Path | None = None) -> dict[str, Any]:
    """Train all parts and write them; returns what the card says.

    Args:
        out: folder of the anchor.
        hh_helpful: see `sets`.
    """
    found = sets(hh_helpful)
    places = {name: used(name, one.rows) for name, one in found.items()}
    slopes = {}
    for kind, parts in PARTS.items():
        model, slopes[kind] = trained(parts, hh_helpful)
        folder = out / kind
        folder.mkdir(parents=True, exist_ok=True)
        Scorer(model, columns(), (), Encoder(), slopes[kind]).save(folder)
    prompts = {
        name: anchor.gate_features(one.pairs["prompt"].gather(places[name]), embed())
        for name, one in found.items()
    }
    harmless = [prompts.pop(HARMLESS)]
    weights, mean, intercept = gate({"helpful": list(prompts.values()), "harmless": harmless})
    groups = (one.groups.gather(places[name]).unique() for name, one in found.items())
    keys = np.concatenate([anchor.short_keys(group) for group in groups])
    tensors = {
        "weights": weights,
        "mean": mean,
        "intercept": np.array([intercept]),
        "seen": np.unique(keys),
    }
    save_file(tensors, out / anchor.GATE)
    facts = {
        "training": {
            name: {
                "licence": LICENCES[name],
                "pairs": len(one.rows),
                "used": len(places[name]),
            }
            for name, one in found.items()
        },
        "slopes": slopes,
        "held_out": held_out(hh_helpful),
        "encoder": "minilm",
        "hh_helpful": "copy" if hh_helpful is None else "original",
    }
    text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
    (out / anchor.FACTS).write_text(text, encoding="utf-8")
    (out / "README.md").write_text(card(facts), encoding="utf-8")
    for file in out.rglob("*.safetensors"):  # the library makes it readable by its owner only
        file.chmod(0o644)
    return facts


def card(facts: dict[str, Any]) -> str:
    """The card, Markdown."""
    lines = [
        "# The anchor: an outside opinion of labels",
        "",
        "Two linear scorers on text statistics and MiniLM vectors (`helpfulness`, `harmlessness`)",
        "and a gate that chooses between them for a data set or a source. `labelers.LabelTrust`",
        "and the audit ask it whether labels agree with people elsewhere, look turned round, or",
        "run against them by length alone. Written by `python -m benchmarks.train_anchor`;",
        "safetensors and JSON only.",
        "",
        "| trained on | licence | pairs | used |",
        "|---|---|--:|--:|",
    ]
    for name, one in facts["training"].items():
        lines.append(f"| {name} | {one['licence']} | {one['pairs']:,} | {one['used']:,} |")
    lines += [
        "",
        "Not trained on: WebGPT, Shepherd, AlpacaEval (CC BY-NC), UltraFeedback (labels of a",
        "model), UKP ConvArg (twelve prompts: it is judged instead), qa_feedback and LLMBar",
        "natural (with them the opinion of the other sets is worse). Rows whose prompt was trained",
        "on are left out of the opinion, and counted.",
        *COPY[facts["hh_helpful"]],
        "",
        "Agreement with right labels: hh-rlhf on the half of its prompts that is not trained on,",
        "tulu and pandalm by an expert that was trained without them, the others by what ships:",
        "",
        "| set | rows | agreement | 95 % |",
        "|---|--:|--:|---|",
    ]
    for name, one in facts["held_out"].items():
        ends = f"{one['low']:.3f} to {one['high']:.3f}"
        lines.append(f"| {name} | {one['n']:,} | {one['value']:.3f} | {ends} |")
    lines += [
        "",
        "Limits: English only; it holds helpfulness and harmlessness as crowd workers of 2016 to",
        "2023 saw them, mostly by form and length; a set about another value (brevity, a persona)",
        "comes out as `against` or `unknown`, which is no proof of a fault.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=anchor.FOLDER)
    parser.add_argument("--hh-helpful", type=Path, help="original file of anthropics/hh-rlhf")
    args = parser.parse_args()
    print(json.dumps(train(args.out, args.hh_helpful), indent=2))


if __name__ == "__main__":
    main()

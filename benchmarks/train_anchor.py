"""Train the outside opinion that ships (`prefactory/preferences/anchor`) and write its card.

    python -m benchmarks.train_anchor [--out FOLDER] [--hh-helpful FILE]

Human labels of ../shared/data whose licence allows shipping a model made from them. hh-rlhf is MIT;
the copy of its helpful half there came by another repository, which puts CC BY-NC 4.0 on its files.
The texts and labels are Anthropic's, but before a release outside train from the original file
(anthropics/hh-rlhf: helpful-base/test.jsonl.gz or train.jsonl.gz).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

from benchmarks.label_rows import Labelled, columns, described, embed, labelled, read_file
from prefactory.engines.encoder import Encoder
from prefactory.measures.calibration import Floats, logistic_slope
from prefactory.preferences import anchor
from prefactory.preferences.clustered import clustered_mean, hits
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
    "ukp": "CC BY 4.0 (UKPLab/acl2016-convincing-arguments, Habernal and Gurevych 2016)",
}
HELPFUL = ("hh helpful", "tulu", "pandalm", "ukp")
JUDGED = ("webgpt", "ultrafeedback", "llmbar adversarial", "llmbar natural")
"""Sets that it is held against and never trained on."""


def sets(hh_helpful: Path | None) -> dict[str, Labelled]:
    """The training sets that there are."""
    found = {name: labelled(name) for name in (*HELPFUL, "hh harmless")}
    if hh_helpful is not None:
        found["hh helpful"] = described(read_file(hh_helpful))
    return found


def drawn(rows: Rows, most: int = MOST) -> np.ndarray:
    """Places of at most so many rows, with seed 0, in order."""
    return np.sort(np.random.default_rng(0).permutation(len(rows))[:most])


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


def helpful_parts(found: dict[str, Labelled], without: str = "") -> list[Rows]:
    """Training rows of the helpful expert, without one set."""
    names = [n for n in HELPFUL if n in found and n != without]
    return [found[n].rows.take(drawn(found[n].rows)) for n in names]


def held_out(found: dict[str, Labelled], final: dict[str, Model]) -> dict[str, Any]:
    """Accuracy of the right expert on every set, of an expert that was not trained on it."""
    figures = {}
    for name in (*found, *JUDGED):
        rows = found[name].rows if name in found else labelled(name).rows
        kept = np.arange(len(rows))
        model = final["helpfulness"]
        if name == "hh harmless":
            half = cluster_folds(rows.clusters, 0, 2) == 0
            model, kept = expert([rows.take(half)])[0], np.flatnonzero(~half)
        elif name in found:
            model = expert(helpful_parts(found, without=name))[0]
        right = hits(model.scores(rows.data.take(kept)))
        figures[name] = clustered_mean(right, rows.clusters[kept]).as_dict()
    return figures


def train(found: dict[str, Labelled], out: Path, helpful: str) -> dict[str, Any]:
    """Train all parts and write them; returns what the card says.

    Args:
        found: the training sets.
        out: folder of the anchor.
        helpful: where hh helpful came from, a key of `COPY`.
    """
    parts = {"helpfulness": helpful_parts(found), "harmlessness": [found["hh harmless"].rows]}
    final, slopes = {}, {}
    for name, rows in parts.items():
        final[name], slopes[name] = expert(rows)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        encoder = Encoder()
        Scorer(final[name], columns(), (), encoder, slopes[name]).save(folder)
    prompts = {
        name: anchor.gate_features(one.pairs["prompt"], embed()) for name, one in found.items()
    }
    harmless = [prompts.pop("hh harmless")]
    weights, mean, intercept = gate({"helpful": list(prompts.values()), "harmless": harmless})
    keys = np.concatenate([anchor.short_keys(one.groups.unique()) for one in found.values()])
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
                "used": min(len(one.rows), MOST) if name in HELPFUL else len(one.rows),
            }
            for name, one in found.items()
        },
        "slopes": slopes,
        "held_out": held_out(found, final),
        "encoder": "minilm",
        "hh_helpful": helpful,
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
        "Not trained on: WebGPT, Shepherd, AlpacaEval (CC BY-NC), UltraFeedback (labels",
        "of a model).",
        *COPY[facts["hh_helpful"]],
        "",
        "Agreement with right labels, by an expert that was not trained on the set (hh harmless:",
        "trained on one half of its prompts):",
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
    helpful = "copy" if args.hh_helpful is None else "original"
    facts = train(sets(args.hh_helpful), args.out, helpful)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()

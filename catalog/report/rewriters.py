"""How good a rewriter is in the search, and what a pair cost: win rate of its steps.

A step wins where the child's mean score is above its parent's (the paper's "positive transitions":
52.3 % of its 200,000, arXiv:2508.04626). A version of `output: trees` keeps all trees; others keep
those that wrote something, whose steps win more often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from catalog.report.trees import Kept, read_trees
from catalog.versions import Version
from prefactory.measures.agreement import Estimate, codes, ratio, standard_error
from prefactory.pages.wording import count, num, percent, with_interval

MOST = 2000
"""Trees that the report of a version reads for this."""
_Z = 1.959963984540054
STEPS: dict[str, pl.DataType] = {
    "tree": pl.String(), "action": pl.String(), "wins": pl.Float64()
}  # fmt: skip


def steps_of(trees: Sequence[Kept]) -> pl.DataFrame:
    """All steps of trees that were measured: `tree` (the raw prompt's id), `action`, `wins`."""
    rows = [
        (kept.prompt_id, node.action, float(node.mean > above))
        for kept in trees
        for node in kept.tree.nodes[1:]
        if node.mean is not None and (above := kept.tree.nodes[node.parent or 0].mean) is not None
    ]
    return pl.DataFrame(rows, schema=STEPS, orient="row")


def rewriter_report(
    trees: Sequence[Kept], cost: Mapping[str, Any] | None = None, pairs: int = 0
) -> dict[str, Any]:
    """Measure a rewriter by the trees that it grew.

    Args:
        trees: of one version.
        cost: what the run used (`catalog.versions.Version.cost`), if that is known.
        pairs: rows that came of it.

    Returns:
        JSON data: `trees`, `steps`, `failed` (iterations without a rewrite that could be used, by
        reason), `better` (share of steps that win), `beats_raw` (share of trees whose best node is
        not the raw instruction), `principles` (`principle`, `better`), and `per_pair`: `calls`,
        `tokens` and `usd` for each pair, None if unknown. Shares have 95% intervals, trees taken
        as independent.
    """
    steps = steps_of(trees)
    failures: dict[str, int] = {}
    for kept in trees:
        for _, reason, _ in kept.tree.failed:
            failures[reason] = failures.get(reason, 0) + 1
    improved = np.array([float(k.tree.best != 0) for k in trees])
    per_pair = None
    if cost is not None and pairs:
        per_pair = {k: float(f"{cost[k] / pairs:.6g}") for k in ("calls", "tokens", "usd")}
    return {
        "trees": len(trees),
        "steps": steps.height,
        "failed": dict(sorted(failures.items())),
        "better": _share(steps).plain(),
        "beats_raw": ratio(improved, np.ones(len(improved))).plain(),
        "principles": [
            {"principle": str(action), "better": _share(part).plain()}
            for (action,), part in steps.sort("action").group_by("action", maintain_order=True)
        ],
        "per_pair": per_pair,
    }


def _share(steps: pl.DataFrame) -> Estimate:
    return ratio(steps["wins"].to_numpy(), np.ones(steps.height), steps["tree"])


def difference(one: Sequence[Kept], two: Sequence[Kept]) -> dict[str, Any]:
    """How much more often the steps of one rewriter win than those of another.

    Trees of the same prompt are not taken as independent, so the same prompts make it sharper.

    Returns:
        An estimate as JSON data; nulls where either has no step.
    """
    a, b = steps_of(one), steps_of(two)
    if a.is_empty() or b.is_empty():
        return {"value": None, "se": None, "low": None, "high": None, "n": a.height + b.height}
    means = [float(s["wins"].to_numpy().mean()) for s in (a, b)]
    influence = np.concatenate(
        [
            sign * (s["wins"].to_numpy() - mean) / s.height
            for s, mean, sign in zip((a, b), means, (1, -1), strict=True)
        ]
    )
    trees = pl.concat([a["tree"], b["tree"]])
    value, error = means[0] - means[1], standard_error(influence, trees)
    low, high = (max(-1.0, min(1.0, value + sign * _Z * error)) for sign in (-1, 1))
    return Estimate(value, error, low, high, len(np.unique(codes(trees)))).plain()


def of_version(version: Version, most: int | None = None) -> dict[str, Any]:
    """`rewriter_report` of a version's trees, the first `most` of them."""
    rows = sum(n for n in version.manifest.tables["pairs"].splits.values()) if (
        "pairs" in version.manifest.tables
    ) else 0  # fmt: skip
    return rewriter_report(read_trees(version, most=most), version.cost(), rows)


def sentences(report: Mapping[str, Any]) -> Iterator[str]:
    """A report in words."""
    yield (
        f"{percent(report['better']['value'])} of the {count(report['steps'])} rewrites of "
        f"{count(report['trees'])} trees score above what they were made of "
        f"({with_interval(report['better'])}); in {with_interval(report['beats_raw'])} of the "
        "trees one of them is best."
    )
    if report["failed"]:
        told = ", ".join(f"{reason} {count(n)}" for reason, n in report["failed"].items())
        yield f"Rewrites that could not be used: {told}."
    if report["per_pair"]:
        per = report["per_pair"]
        yield (
            f"Each pair cost {num(per['calls'])} calls and {num(per['tokens'])} tokens"
            + (f", {per['usd']:.4g} US dollars." if per["usd"] else ".")
        )

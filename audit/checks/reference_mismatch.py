"""Reference mismatch: are the answers far from what the model to be trained says itself?

Methods with a reference (DPO, KTO) hold a policy near that model. Where chosen answers are far from
its own, they can teach little, or take it apart; methods without one (ORPO, the text form of MaPO,
and SimPO) or fine-tuning first do better there. The measure is ours (no source gives one): the mean
log-probability of a token of the model's own samples minus that of the chosen answers.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from audit.check import Check, Need
from audit.finding import Metric, Report
from audit.reference import NOT_ASKED
from audit.stats import Floats, Groups, Z, auc
from audit.subject import Subject
from prefactory.measures.agreement import standard_error
from prefactory.preferences.clustered import codes


def run(subject: Subject) -> Report:
    """Ask the reference about a sample of undamaged pairs."""
    reference = subject.options.reference
    if reference is None:
        return Report(skipped=NOT_ASKED)
    sample = subject.drawn(reference.sample)
    found = reference.ask(sample.drop("_row"), subject.options.seed)
    there = found.select(~(found["own"].is_null() | found["chosen"].is_null())).to_series()
    told = found.filter(there)
    if not told.height:
        return Report(skipped=f"{reference.model} could score none of {sample.height:,} pairs")
    groups = codes(sample["prompt_id"].filter(there))
    own, chosen = told["own"].to_numpy(), told["chosen"].to_numpy()
    gap = _mean(own - chosen, groups)
    both = told.drop_nulls("rejected")
    own_first = np.repeat([True, False], told.height)
    metrics = {
        "gap": gap,
        "own": _mean(own, groups),
        "chosen": _mean(chosen, groups),
        "rejected": _mean(both["rejected"].to_numpy(), codes(
            sample["prompt_id"].filter(there & found["rejected"].is_not_null())
        )),
        "apart": auc(np.concatenate([own, chosen]), own_first, int(groups.max()) + 1),
    }  # fmt: skip
    less = "less" if (gap.value or 0.0) >= 0 else "more"
    return Report(
        headline=(
            f"a token of the chosen answers is {abs(gap.value or 0.0):.2f} nats {less} likely "
            f"under {reference.model} than one of its own ({_ends(gap)})"
        ),
        metrics=metrics,
        notes=(
            f"{reference.model} saw {told.height:,} of {sample.height:,} pairs drawn, and gave one "
            "sample of its own to each prompt at temperature 1.",
        ),
    )


def _mean(values: Floats, groups: Groups) -> Metric:
    """A mean in nats with its interval by prompt."""
    if not values.size:
        return Metric(None, n=0)
    mean = float(values.mean())
    error = standard_error((values - mean) / values.size, pl.Series(groups))
    if not np.isfinite(error):
        return Metric(mean, n=values.size)
    return Metric(mean, mean - Z * error, mean + Z * error, values.size)


def _ends(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return "no interval"
    return f"{metric.low:.2f} to {metric.high:.2f}"


CHECK = Check(
    name="reference_mismatch",
    title="Reference mismatch",
    why="DPO and KTO hold the policy near its reference. Where chosen answers are far from what "
    "that model says itself, they are learnt slowly, and the pairs differ in more than preference.",
    metrics={
        "gap": "mean log-probability of a token of the reference's own samples minus that of the "
        "chosen answers, nats",
        "own": "mean log-probability of a token of the reference's own samples, nats",
        "chosen": "the same of the chosen answers",
        "rejected": "the same of the rejected answers",
        "apart": "how often an own sample is likelier than a chosen answer (AUC; 0.5: alike)",
    },
    run=run,
    need=Need.PAIRS,
    mends=(
        "# train without a reference: `prefactory train orpo NAME` or `train simpo NAME`;",
        "# or begin with `prefactory train sft NAME`, and take that model for DPO;",
        "# or pair the model's own answers: generators.Responses, then a judge",
    ),
)

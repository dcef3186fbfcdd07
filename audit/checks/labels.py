"""Are the labels right? An outside opinion, swaps found again, and the share that is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from audit.check import Check, Need
from audit.finding import Chart, Metric, Report, flagged
from audit.judged import METRICS as JUDGE_METRICS
from audit.judged import NOT_ASKED
from audit.subject import Subject
from labelers.stack.trust import LabelTrust
from prefactory.context import Context
from prefactory.engines.encoder import BUNDLED

LEAST = 50
"""Rows below which nothing is asked."""
NOT_VERIFIED = "labels were not verified"
SUSPECT = 0.1
"""Share of the rows, the least trusted, that are named."""
AGAINST = ("inverted", "against")
REVIEW = (
    "- labelers.LabelTrust: {}",
    "- filters.SuspectLabels: {by: share, amount: 0.1, do: review}   # marks them, drops none",
)


def run(subject: Subject) -> Report:
    """Hold the labels against `labelers.LabelTrust` and, where one is asked, against a judge."""
    report, judged = _trusted(subject), subject.judged
    if judged is None:
        unmeasured = dict.fromkeys(JUDGE_METRICS, NOT_ASKED)
        return replace(report, unmeasured={**report.unmeasured, **unmeasured})
    headline = report.headline
    if judged.verifies:
        headline = headline.replace(f"{NOT_VERIFIED}: ", "otherwise not verified: ")
    verified = Metric(max(report.metrics["verified"].value or 0.0, judged.verifies), unit="share")
    first = flagged(judged.rows, "the judge prefers the rejected answer in both orders")
    rows = first if report.rows is None else pl.concat([first, report.rows])
    rows = rows.group_by("row", maintain_order=True).agg(pl.col("note").str.join("; "))
    return replace(
        report,
        headline=f"{judged.headline}; {headline}"
        if judged.verifies
        else f"{headline}; {judged.headline}",
        metrics={**report.metrics, **judged.metrics, "verified": verified},
        rows=rows,
        notes=(*judged.notes, *report.notes),
        recipe=None if judged.rows else report.recipe,
        unmeasured={**report.unmeasured, **judged.unmeasured()},
    )


def _trusted(subject: Subject) -> Report:
    """Judge a sample by `labelers.LabelTrust`: the anchor by source, a self-test, an estimate."""
    options = subject.options
    rows = subject.sample(subject.sides[0].rows, options.relevance_rows, "texts")
    hit = subject.damage.filter(pl.col("side") != "rejected")["id"]
    at = subject.table[rows].with_columns(_row=pl.Series(rows))
    table = at.filter(~pl.col("pair_id").is_in(hit.implode()))
    if options.embeddings:
        judged, found = subject.relevance
        if found is not None:  # damage out before heads are fitted
            off = pl.Series(judged[found["off_topic"].to_numpy()])
            table = table.filter(~pl.col("_row").is_in(off.implode()))
    table = table.unique("pair_id", keep="first", maintain_order=True).sort("pair_id")
    if table.height < LEAST:
        return _silent(f"{table.height} rows without damage are fewer than {LEAST}")
    asked = options.embeddings and options.encoder == BUNDLED
    step = LabelTrust(vectors=options.embeddings, anchor="ships" if asked else "off")
    ctx = Context(options.seed, "audit", embed=lambda _, texts: subject.embed(texts))
    state = step.fit(step.fit_shard(table.drop("_row"), ctx), ctx)
    told = _of_right_labels(state.info["label_trust"])
    metrics = _metrics(told)
    named = None
    if metrics["verified"].value:
        least = table.select("pair_id", "_row").join(state.tables["rows"], on="pair_id")
        least = least.filter(pl.col("trust_rank") < SUSPECT).sort("trust_rank", "pair_id")
        note = least.select(pl.format("P(label right) {}, by rank", pl.col("trust").round(2)))
        named = flagged(least["_row"], note.to_series())
    return Report(
        headline=_headline(told, metrics),
        metrics=metrics,
        rows=named,
        charts=_charts(metrics),
        notes=_notes(told, table.height, subject.height, asked=asked),
        unmeasured=_unmeasured(told, asked=asked),
    )


def _of_right_labels(told: dict[str, Any]) -> dict[str, Any]:
    """Without the share of wrong labels where they look turned round: it takes most as right."""
    if all(one["verdict"] != "inverted" for one in told["sources"]):
        return told
    why = "it is estimated as if most labels were right, and they look turned round"
    return {**told, "wrong_share": {"estimate": None, "bound": None, "refused": why}}


def _silent(why: str) -> Report:
    verified = Metric(0.0, unit="share")
    return Report(headline=f"{NOT_VERIFIED}: {why}", metrics={"verified": verified}, recipe=())


def _metrics(told: Mapping[str, Any]) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    sources = told["sources"]
    rows = sum(one["agreement"]["n"] for one in sources)
    for verdict in AGAINST:
        n = sum(one["agreement"]["n"] for one in sources if one["verdict"] == verdict)
        if sources:
            metrics[verdict] = Metric(n / rows if rows else 0.0, n=rows, unit="share")
    for one in sources:
        found = one["agreement"]
        metrics[f"agreement:{one['source'] or 'all'}"] = Metric(
            found["value"], found["low"], found["high"], found["n"], "share"
        )
    share = told["wrong_share"]
    if share["estimate"] is not None:
        ends = share["estimate"]
        metrics["wrong"] = Metric(ends["value"], ends["low"], ends["high"], unit="share")
    if share["bound"] is not None:
        metrics["bound"] = Metric(share["bound"], unit="share")
    if told["self_test"] is not None:
        auc, error = told["self_test"]["auc"], 1.96 * told["self_test"]["auc_se"]
        metrics["self_test_auc"] = Metric(auc, max(auc - error, 0.0), min(auc + error, 1.0))
        precision = told["self_test"]["precision"].get("0.1")
        metrics["self_test_precision"] = Metric(precision, unit="share")
    said = any(one["verdict"] != "unknown" for one in sources)
    verified = said or share["estimate"] is not None
    return metrics | {"verified": Metric(float(verified), unit="share")}


def _headline(told: Mapping[str, Any], metrics: Mapping[str, Metric]) -> str:
    by = {v: [o for o in told["sources"] if o["verdict"] == v] for v in (*AGAINST, "agrees")}
    parts = []
    if by["inverted"]:
        parts.append(f"labels look turned round{_in(by['inverted'], told)}")
    if by["against"]:
        shorter = 100 * (by["against"][0]["shorter"] or 0.0)
        parts.append(
            f"labels run against the anchor{_in(by['against'], told)}, by length alone (the "
            f"shorter answer wins in {shorter:.0f}%): brevity on purpose, an adversarial set, or "
            "inverted; look at 50 rows"
        )
    if by["agrees"]:
        parts.append(f"an outside opinion agrees with the labels{_in(by['agrees'], told)}")
    wrong = metrics.get("wrong")
    if wrong is not None and wrong.value is not None:
        low, high = 100 * (wrong.low or 0.0), 100 * (wrong.high or 0.0)
        parts.append(f"{100 * wrong.value:.0f}% are estimated wrong ({low:.0f} to {high:.0f}%)")
    elif metrics["verified"].value and not by["inverted"]:
        parts.append("how many are wrong the data can't tell")
    if not metrics["verified"].value:
        seen = sum(one["seen"] for one in told["sources"])
        first = f"the anchor was trained on the prompts of {seen:,} of these rows; " if seen else ""
        return f"{NOT_VERIFIED}: {first}{told['wrong_share']['refused']}"
    return "; ".join(parts)


def _in(sources: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> str:
    found = sources[0]["agreement"]
    said = f" ({100 * found['value']:.0f}%, {100 * found['low']:.0f} to {100 * found['high']:.0f}%)"
    if len(told["sources"]) == 1:
        return said
    names = ", ".join(str(one["source"]) for one in sources[:3])
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    return f" of {names}{more}" + (said if len(sources) == 1 else "")


def _charts(metrics: Mapping[str, Metric]) -> tuple[Chart, ...]:
    shown = tuple(
        (name.partition(":")[2], (m.value, m.low, m.high))
        for name, m in metrics.items()
        if name.startswith("agreement:") and m.value is not None
    )
    return (Chart("shares", "Labels that the anchor bears out", shown[:12], reference=0.5),)


def _notes(told: Mapping[str, Any], judged: int, of: int, *, asked: bool) -> tuple[str, ...]:
    notes = [f"By labelers.LabelTrust on {judged:,} of {of:,} rows, without damaged ones."]
    if asked:
        notes.append(
            "The anchor is a small scorer of human labels that ships (helpfulness and harmlessness "
            "in English). A set about another value is 'against' or unknown, which proves no fault."
        )
        seen = sum(one["seen"] for one in told["sources"])
        if seen:
            notes.append(
                f"{seen:,} rows have no say in its verdict: it was trained on their prompts."
            )
    if told["wrong_share"]["refused"]:
        notes.append(f"No share of wrong labels: {told['wrong_share']['refused']}.")
    if told["self_test"] is not None:
        notes.append(
            "Self-test: a tenth of the labels was turned round and looked for; its precision is "
            "the share of turned ones in the most suspect tenth (by chance 10%). The turned ones "
            "make the fits a little worse than they are."
        )
    return tuple(notes)


def _unmeasured(told: Mapping[str, Any], *, asked: bool) -> dict[str, str]:
    found = {}
    if not asked:
        why = "embeddings were switched off, or the encoder is not the one that it was trained on"
        found = dict.fromkeys(("agreement", *AGAINST), f"the anchor was not asked: {why}")
    if told["wrong_share"]["estimate"] is None:
        found["wrong"] = told["wrong_share"]["refused"]
    return found


CHECK = Check(
    name="labels",
    title="Trust in labels",
    why="A set whose labels are turned round looks healthy by every other number. Wrong labels "
    "cost twice: they are learned, and they hide what the right ones teach.",
    metrics={
        "verified": "1 if an outside opinion has a verdict or the share of wrong labels could be "
        "estimated, else 0",
        "inverted": "share of rows in sources whose labels the anchor contradicts beyond length",
        "against": "share of rows in sources whose labels it contradicts by length alone",
        "agreement": "labels of a source that the anchor bears out (agreement:<source>)",
        "wrong": "estimated share of wrong labels, unless they look turned round",
        "bound": "upper bound of that share, if errors are symmetric",
        "self_test_auc": "with which planted swaps are ranked",
        "self_test_precision": "share of planted swaps in the most suspect tenth",
        **JUDGE_METRICS,
    },
    run=run,
    need=Need.PAIRS,
    mends=REVIEW,
)

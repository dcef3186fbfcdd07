"""How well are wrong labels found, counted and named? Writes docs/label_noise.md.

    python -m benchmarks.label_noise [--draws 200] [--page docs/label_noise.md]

Sets of ../shared/data with labels of people, swaps planted into them, and the noise set with damage
and swaps. Vectors are cached in PREFACTORY_BENCHMARK_VECTORS (.benchmarks/vectors).
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.human_labels import HUMAN
from benchmarks.label_rows import NAMES, Labelled, embed, labelled
from benchmarks.train_anchor import HELPFUL, expert, opinion_of, used
from prefactory.engines.encoder import Encoder
from prefactory.measures.calibration import Floats, logistic_slope
from prefactory.preferences import anchor, shares, trust
from prefactory.preferences.clustered import Ints, clustered_mean, codes
from prefactory.preferences.damage import (
    OF_MEANING,
    OF_TEXT,
    Vectors,
    damage,
    judge_relevance,
    texts_of_meaning,
)
from prefactory.preferences.stack import Rows, cross_fit
from prefactory.preferences.verdict import Opinion, judge

PLANTED = ("hh helpful", "hh harmless", "ultrafeedback", "ukp", "pandalm", "tulu")
RATES = (0.05, 0.15, 0.3)
SUBSAMPLE = 200


# -- suspects -----


def turned(rows: Rows, rate: float, seed: int = 0) -> tuple[Rows, np.ndarray]:
    """The rows with a share of them turned round, and which."""
    which = np.zeros(len(rows), np.bool_)
    order = np.random.default_rng([seed, len(rows)]).permutation(len(rows))
    which[order[: round(rate * len(rows))]] = True
    return Rows.of(rows.data.turned(which), rows.clusters), which


def score(rows: Rows, seed: int = 0, extra: Floats | None = None) -> Floats:
    """The default score: rows + dynamics (+ an outside opinion)."""
    parts = {"rows": trust.by_rows(rows, seed=seed), "dynamics": trust.dynamics(rows)}
    return trust.total(parts | ({} if extra is None else {"anchor": extra}))


def planted(name: str) -> Iterator[str]:
    """Rows of the table of planted swaps: truth against the self-test."""
    for rate in RATES:
        rows, wrong = turned(labelled(name).rows, rate)
        suspicion = -score(rows)
        area, se = trust.auc(suspicion, wrong)

        def anew(which: np.ndarray, seed: int, rows: Rows = rows) -> Floats:
            return score(Rows.of(rows.data.turned(which), rows.clusters), seed)

        own = trust.self_test(anew, len(rows), seed=1)
        top = trust.precision_in_top(suspicion, wrong)
        yield (
            f"| {name} | {rate:.0%} | {area:.3f} ± {se:.3f} | {own.auc:.3f} ± {own.se:.3f} "
            f"| {own.at_rate(rate):.3f} | {top:.2f} |"
        )


# -- the noise set -----


@lru_cache(maxsize=1)
def found_damage() -> np.ndarray:
    """Which rows of the noise set our rules call damaged on the chosen side, or as a pair."""
    table = labelled("noise").pairs
    vectors = Vectors(*(embed()(Encoder(), text) for text in texts_of_meaning(table)))
    told = damage(table, (*OF_TEXT, *OF_MEANING), relevance=judge_relevance(table, vectors))
    told = told.filter((pl.col("side") != "rejected") & (pl.col("rule") != "off_topic_strict"))
    return table["pair_id"].is_in(told["id"].implode()).to_numpy()


def outside(judged: Labelled) -> Floats:
    """Margins of an expert of helpfulness that saw no prompt of a set."""
    parts = []
    for other in HELPFUL:
        one = labelled(other)
        kept = ~one.groups.is_in(judged.groups.implode()).to_numpy()
        places = used(other, one.rows, kept)
        if len(places):
            parts.append(one.rows.take(places))
    return expert(parts)[0].scores(judged.rows.data)


def noise() -> Iterator[str]:
    """Rows of the table of the noise set: AUC and share wrong in the most suspect tenth."""
    one = labelled("noise")
    kind = one.pairs["kind"].to_numpy()
    judged, wrong = np.isin(kind, ["clean", "flipped"]), kind == "flipped"
    opinion = outside(one)
    longer = one.length
    for where, kept in (
        ("left in", np.ones(len(kind), np.bool_)),
        ("out by our rules", ~found_damage()),
        ("out by truth", judged),
    ):
        at = np.flatnonzero(kept)
        rows = Rows.of(one.rows.data.take(at), one.rows.clusters[at])
        signals = {"rows": trust.by_rows(rows), "dynamics": trust.dynamics(rows)}
        extra = {"anchor": opinion[at], "longer wins": longer[at]}
        tables = {
            **extra,
            **signals,
            "rows + dynamics": trust.total(signals),
            "rows + dynamics + anchor": trust.total(signals | {"anchor": opinion[at]}),
        }
        here = judged[at]
        for name, margins in tables.items():
            area, se = trust.auc(-margins[here], wrong[at][here])
            top = trust.precision_in_top(-margins[here], wrong[at][here])
            yield f"| {where} | {name} | {int(here.sum()):,} | {area:.3f} ± {se:.3f} | {top:.2f} |"


def noise_self_test() -> str:
    """The self-test on the noise set, damage out by our rules, in a sentence."""
    one = labelled("noise")
    at = np.flatnonzero(~found_damage())
    rows = Rows.of(one.rows.data.take(at), one.rows.clusters[at])

    def anew(which: np.ndarray, seed: int) -> Floats:
        return score(Rows.of(rows.data.turned(which), rows.clusters), seed)

    own = trust.self_test(anew, len(rows), seed=1)
    wrong = (one.pairs["kind"].to_numpy() == "flipped")[at]
    rate = float(wrong.mean())
    area, se = trust.auc(-score(rows), wrong)
    return (
        f"Self-test on it (no outside opinion): AUC {own.auc:.3f} ± {own.se:.3f} as it is, "
        f"{own.at_rate(0.1):.3f} at an assumed rate of .1, {own.at_rate(rate):.3f} at the true one "
        f"of {rate:.2f}; truth {area:.3f} ± {se:.3f}."
    )


# -- verdicts -----


@lru_cache(maxsize=16)
def judged_by(name: str) -> tuple[Floats, Floats, Ints, float]:
    """Margins of an expert trained without the set, as the gate chooses; lengths, clusters, q."""
    one = labelled(name)
    gate = anchor.load().harmless_kind(one.pairs["prompt"], embed())
    share = float((gate > 0.5).mean())
    kind = anchor.EXPERTS[1] if share >= anchor.MOST else anchor.EXPERTS[0]
    model, kept = opinion_of(name, kind)
    return model.scores(one.rows.data.take(kept)), one.length[kept], one.rows.clusters[kept], share


def verdicts(draws: int) -> Iterator[str]:
    """Rows of the table of verdicts, on whole sets and on sub-samples."""
    for name in NAMES:
        margins, length, clusters, kind = judged_by(name)
        right, wrong = judge(margins, length, clusters), judge(-margins, -length, clusters)
        shares = called_inverted(margins, length, clusters, draws)
        counts = "" if shares is None else f"{shares[0]:.2f} / {shares[1]:.2f}"
        yield (
            f"| {name} | {len(margins):,} | {kind:.2f} | {right.agreement.value:.3f} "
            f"[{right.agreement.low:.3f}, {right.agreement.high:.3f}] | {right.given_length:+.1f} "
            f"| {right.verdict} | {wrong.verdict} | {counts} |"
        )


def called_inverted(
    margins: Floats, length: Floats, clusters: Ints, draws: int, size: int = SUBSAMPLE
) -> tuple[float, float] | None:
    """How often sub-samples are called inverted: with right labels, with inverted ones.

    None where there are fewer rows than a sub-sample has.
    """
    if len(margins) < size:
        return None
    rng = np.random.default_rng(0)
    said: list[tuple[Opinion, Opinion]] = []
    for _ in range(draws):
        at = np.sort(rng.permutation(len(margins))[:size])
        part = (margins[at], length[at], clusters[at])
        said.append((judge(*part), judge(-part[0], -part[1], part[2])))
    right, wrong = (float(np.mean([o[i].verdict == "inverted" for o in said])) for i in (0, 1))
    return right, wrong


def turned_shares() -> Iterator[str]:
    """Rows of the verdicts when a share of the labels is turned."""
    for name in ("hh helpful", "tulu", "ultrafeedback", "ukp"):
        margins, length, clusters, _ = judged_by(name)
        cells = []
        for rate in (0.3, 0.85):
            order = np.random.default_rng(0).permutation(len(margins))
            sign = np.ones(len(margins))
            sign[order[: round(rate * len(margins))]] = -1
            cells.append(judge(margins * sign, length * sign, clusters).verdict)
        yield f"| {name} | {cells[0]} | {cells[1]} |"


# -- the share of wrong labels -----


def estimate(rows: Rows, seed: int = 0) -> tuple[shares.WrongShare, shares.Interval, float]:
    """What is said of the share, the interval whether or not it is said, and the plants' AUC."""
    found = cross_fit(rows, "joint", seed)
    slope = max(logistic_slope(found.margins), 0.0) or 1.0
    with_plants, which = turned(rows, trust.PLANTED, seed + 1)
    area = trust.auc(-cross_fit(with_plants, "joint", seed).margins, which)[0]
    margins = found.margins * slope
    told = shares.wrong_share(margins, rows.clusters, area, seed)
    return told, shares.profile(margins, rows.clusters, seed), area


def counted(name: str) -> str:
    """Row of the table of shares."""
    cells = []
    for rate in (0.0, *RATES):
        told, interval, area = estimate(turned(labelled(name).rows, rate)[0])
        said = f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
        mark = said if told.estimate is not None else f"({said})"
        cells.append(f"{mark}, at most {told.bound:.2f}; AUC {area:.2f}")
    return f"| {name} | " + " | ".join(cells) + " |"


# -- raters who disagree -----


def votes_of(name: str) -> tuple[dict[tuple[str, ...], list[int]], int]:
    """Votes of raters for a side of each pair (+1 or -1, sides by text), and votes for a label."""
    votes: dict[tuple[str, ...], list[int]] = {}
    if name == "tulu":
        for row in pl.read_parquet(HUMAN / "tulu_human_eval.parquet").to_dicts():
            sign = row["preference"].startswith("a-") - row["preference"].startswith("b-")
            a, b = row["completion_a"], row["completion_b"]
            pair, sign = ((a, b), sign) if a < b else ((b, a), -sign)
            votes.setdefault((row["prompt"], *pair), []).append(sign)
        return votes, 1
    for row in json.loads(gzip.decompress((HUMAN / "pandalm_testset.json.gz").read_bytes())):
        given = [row[f"annotator{i}"] for i in (1, 2, 3)]
        prompt = "\n\n".join((row["instruction"], row["input"]))
        key = (prompt, str(row["response1"]), str(row["response2"]))
        votes.setdefault(key, []).extend((v == 1) - (v == 2) for v in given)
    return votes, 3


def raters(name: str) -> str:
    """Row of the table of raters: how often two agree, what follows, and what is estimated."""
    votes, of_label = votes_of(name)
    pairs = [
        (key[0], x == y) for key, given in votes.items()
        for x, y in combinations([v for v in given if v], 2)
    ]  # fmt: skip
    agree = clustered_mean(
        np.array([same for _, same in pairs], np.float64), codes(pl.Series([p for p, _ in pairs]))
    )
    ends = (agree.value, agree.high, agree.low)
    one = [(1 - np.sqrt(max(2 * a - 1, 0.0))) / 2 for a in ends]
    wrong = [e if of_label == 1 else 3 * e**2 * (1 - e) + e**3 for e in one]
    told, interval, _ = estimate(labelled(name).rows)
    said = f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    return (
        f"| {name} | {len(pairs):,} | {agree.value:.3f} [{agree.low:.3f}, {agree.high:.3f}] "
        f"| {of_label} | {wrong[0]:.3f} [{wrong[1]:.3f}, {wrong[2]:.3f}] "
        f"| {said if told.estimate is not None else f'({said})'} | {told.bound:.2f} |"
    )


# -- the page -----


INTRO = """\
# Wrong labels: found, counted, named

Made by `python -m benchmarks.label_noise` on sets of human labels (in the benchmark's data
folder), swaps planted with a seed. A row is a pair. `rows` and `dynamics` are the signals of
`labelers.LabelTrust`; its anchor is here trained without the prompts of the set it judges.

## Planted swaps: how they rank, and what the self-test says

AUC of planted swaps by rows + dynamics against the self-test's own, which sees labels with the
swaps in them: as it is, and undone for the planted rate. The sets have wrong labels of their own,
and a tenth more plants weaken the fit: the self-test is on the low side where labels are bad.

| set | planted | AUC, truth | self-test | at the rate | wrong in the top tenth |
|---|--:|--:|--:|--:|--:|"""
NOISE = """
At 5 % wrong labels most suspects are right: review them, don't drop them.

## The noise set: swaps among damage

AUC of swapped against clean rows, and the share of swapped rows in the most suspect tenth.

| damage | signal | rows | AUC | top tenth |
|---|---|--:|--:|--:|"""
VERDICTS = """
## The outside opinion: right and inverted labels

hh-rlhf is judged on the half of its prompts that the anchor is not trained on, tulu and pandalm by
an expert that was trained without them, the others by the one that ships. Last column: share of
sub-samples of 200 rows that are called inverted, with right labels / with inverted ones.
`prefactory audit FILE` on the whole files of UltraFeedback, hh helpful and UKP says of turned
labels that they look turned round, and not of right ones
(`tests/pipelines/test_inverted_labels.py`).

| set | rows | harmless | agreement | t given length | right | inverted | sub-samples |
|---|--:|--:|--:|--:|---|---|--:|"""
TURNED = """
| share of labels turned | .3 | .85 |
|---|---|---|"""
COUNTED = """
## The share of wrong labels from one scorer

Estimate with its interval, in brackets where refused (planted swaps ranked below .75 once the
estimated wrong labels are undone, interval wider than .25, or fewer than 400 rows); the upper
bound, which is always said; and the AUC of planted swaps as it is. Labels of people are not free
of wrong ones; the estimate counts whatever a Bradley-Terry curve can't explain.

| set | planted 0 | .05 | .15 | .30 |
|---|---|---|---|---|"""

RATERS = """
## Sets whose raters disagree by a known share

How often two raters who both chose a side of a pair chose the same one (interval by prompt). If
each errs alone with probability e they agree in (1 - e)² + e² of the pairs: so many labels are
wrong, of one rater (Tulu) or by majority of three (PandaLM). Beside it what the labels alone say.

| set | pairs of votes | agreement | votes a label | wrong, by the raters | estimate | bound |
|---|--:|--:|--:|--:|--:|--:|"""


def page(draws: int) -> Iterator[str]:
    """Parts of docs/label_noise.md."""
    yield INTRO
    for name in PLANTED:
        yield from planted(name)
    yield NOISE
    yield from noise()
    yield "\n" + noise_self_test()
    yield VERDICTS
    yield from verdicts(draws)
    yield TURNED
    yield from turned_shares()
    yield COUNTED
    for name in PLANTED:
        yield counted(name)
    yield RATERS
    for name in ("tulu", "pandalm"):
        yield raters(name)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--page", type=Path, default=Path("docs/label_noise.md"))
    args = parser.parse_args()
    lines = []
    for line in page(args.draws):
        print(line, flush=True)
        lines.append(line)
    args.page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

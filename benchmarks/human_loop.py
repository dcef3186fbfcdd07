"""Simulated people in the loop: votes to find wrong labels, by queue; writes docs/human_loop.md.

People of skill .9 (`prefactory.votes.simulated`) check batches of 90 rows; a row is asked about
until its posterior, with the trust in its label as the prior, is .95, at most five times.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from benchmarks.label_rows import labelled
from prefactory.measures.calibration import Floats, logistic_slope
from prefactory.preferences import trust
from prefactory.preferences.stack import Rows
from prefactory.votes.loop import likeness, retrieval, suspicion
from prefactory.votes.simulated import Crowd, Person
from prefactory.votes.verdicts import ask_on

BATCH, SURE, MOST, PEOPLE = 90, 0.95, 5, 12
PARTS = (0.25, 0.5, 0.75)
ROWS = 900
PLANTED = 0.17
ASSUMED = 0.1
"""Share of wrong labels behind the prior, as `labelers.LabelTrust` assumes it."""
RANDOM = 10
"""Runs of random order, which fit nothing."""
QUEUES = ("random", "once", "refitted", "retrieval")


@dataclass(frozen=True)
class Set:
    """Rows with labels, some of them wrong, and the truth.

    Attributes:
        rows: pairs as labelled.
        vectors: differences of the answers' vectors, Float32[n, d].
        wrong: Bool[n].
    """

    rows: Rows
    vectors: NDArray[np.float32]
    wrong: NDArray[np.bool_]


def noise() -> Set:
    """The clean and swapped rows of the noise set."""
    one = labelled("noise")
    kind = one.pairs["kind"].to_numpy()
    at = np.flatnonzero(np.isin(kind, ["clean", "flipped"]))
    rows = Rows.of(one.rows.data.take(at), one.rows.clusters[at])
    vectors = (one.chosen.answer - one.rejected.answer)[at]
    return Set(rows, vectors, kind[at] == "flipped")


def planted(name: str, seed: int = 0) -> Set:
    """900 rows of a set with 17 % of the labels turned round (and their own wrong ones)."""
    one = labelled(name)
    rng = np.random.default_rng([seed, len(one.pairs)])
    at = np.sort(rng.permutation(len(one.pairs))[:ROWS])
    wrong = rng.random(len(at)) < PLANTED
    rows = Rows.of(one.rows.data.take(at).turned(wrong), one.rows.clusters[at])
    sign = np.where(wrong, -1, 1).astype(np.float32)[:, None]
    return Set(rows, (one.chosen.answer - one.rejected.answer)[at] * sign, wrong)


@dataclass(frozen=True)
class Run:
    """What a simulated review came to.

    Attributes:
        votes: given until 25, 50 and 75 % of the wrong labels were found; NaN if never.
        left: share of wrong labels after half as many votes as rows.
    """

    votes: tuple[float, ...]
    left: float


def simulate(
    data: Set,
    queue: str,
    seed: int = 0,
    people: list[Person] | None = None,
    until: float = PARTS[-1],
) -> Run:
    """Let simulated people check all rows, batch by batch.

    Args:
        data: the set.
        queue: `random`; `once`: most suspect first by a first fit; `refitted`: by a fit after each
            batch that knows what people said; `retrieval`: that, and like what was wrong.
        seed: of people, folds and random orders.
        people: by default twelve of skill .9.
        until: ends when so large a part of the wrong labels is found, and half as many votes as
            rows are given.
    """
    n = len(data.rows)
    rng = np.random.default_rng([seed, 3])
    crowd = Crowd(people or [Person(0.9)] * PEOPLE, seed)
    posterior = np.full(n, np.nan)
    random = rng.random(n)
    score = np.zeros(n) if queue == "random" else suspicion(data.rows, posterior, seed=seed)
    spent, found, half = 0, np.zeros(n, np.bool_), None
    marks: list[float] = []
    while np.isnan(posterior).any() and not (
        half is not None and len(marks) >= sum(part <= until for part in PARTS)
    ):
        order = random
        if queue != "random":
            order = score
        if queue == "retrieval":
            order = retrieval(score, likeness(data.vectors, posterior < 0.5))
        open_rows = np.flatnonzero(np.isnan(posterior))
        batch = open_rows[np.argsort(order[open_rows], kind="stable")[:BATCH]]
        prior = _prior(score) if queue != "random" else np.full(n, 1 - ASSUMED)
        said, votes = _ask(crowd, data.wrong[batch], prior[batch])
        for row, value, count in zip(batch, said, votes, strict=True):
            spent += int(count)
            posterior[row] = value
            found[row] = data.wrong[row] and value < 0.5
            while len(marks) < len(PARTS) and found.sum() >= PARTS[len(marks)] * data.wrong.sum():
                marks.append(float(spent))
            if half is None and spent >= n / 2:
                half = _left(data.wrong, posterior)
        if queue in ("refitted", "retrieval"):
            score = suspicion(data.rows, posterior, seed=seed)
    marks += [np.nan] * (len(PARTS) - len(marks))
    return Run(tuple(marks), _left(data.wrong, posterior) if half is None else half)


def _prior(score: Floats) -> Floats:
    """Trust in each label at an assumed share of wrong ones: suspects are no sample to count."""
    return trust.trust(score, logistic_slope(score), ASSUMED)


def _ask(crowd: Crowd, wrong: NDArray[np.bool_], prior: Floats) -> tuple[Floats, Floats]:
    """Votes on a batch, one at a time each until it is sure: posterior that the label is right."""
    truth = np.where(wrong, -1.0, 1.0)
    odds, count = logit(np.clip(prior, 0.02, 0.98)), np.zeros(len(wrong))
    people = len(crowd.people)
    start = crowd._rng.integers(people, size=len(wrong))
    while (on := ask_on(expit(odds), count, SURE, least=1, most=MOST)).any():
        at = np.flatnonzero(on)
        person = ((start[at] + count[at]) % people).astype(np.int64)
        vote, _ = crowd.vote(truth[at], person)
        skill = np.array([crowd.people[p].skill for p in person])
        odds[at] += vote * logit(skill)
        count[at] += 1
    return expit(odds), count


def _left(wrong: NDArray[np.bool_], posterior: Floats) -> float:
    """Share of labels that are wrong once those that people contradict are turned round."""
    turned = posterior < 0.5
    return float((wrong ^ turned).mean())


def lines(name: str, data: Set, runs: int) -> Iterator[str]:
    """Rows of the table of a set."""
    base = None
    for queue in QUEUES:
        found = [
            simulate(data, queue, seed) for seed in range(RANDOM if queue == "random" else runs)
        ]
        votes = np.nanmean([run.votes for run in found], axis=0)
        base = votes if base is None else base
        share = " / ".join(f"{v / b:.2f}" for v, b in zip(votes, base, strict=True))
        told = " / ".join(f"{v:,.0f}" for v in votes)
        left = np.mean([run.left for run in found])
        yield f"| {name} | {queue} | {told} | {share} | {left:.3f} |"


INTRO = """\
# People in the loop, simulated

Made by `python -m benchmarks.human_loop`. Twelve simulated people of skill .9 check batches of 90
rows of sets whose wrong labels are known; each row is asked about until its posterior, with the
trust in its label as the prior, reaches .95, five times at most. `once` orders by a first fit,
`refitted` by a fit after each batch that knows what people said, `retrieval` also looks for rows
like those that were wrong. `left` is the share of wrong labels after half as many votes as rows.

How much a queue saves follows how well the scorer ranks wrong labels: four fifths of the votes on
ukp, about two fifths on the noise set, a third on hh helpful, for the first half of the wrong
labels, and less for the rest. Where the self-test of `labelers.LabelTrust` ranks planted wrong
labels with an AUC below .6, `prefactory votes round` says that a queue will not help.

| set | queue | votes to find 25 / 50 / 75 % of the wrong labels | of random | left |
|---|---|---|---|--:|"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--page", type=Path, default=Path("docs/human_loop.md"))
    args = parser.parse_args()
    text = [INTRO]
    for name in ("noise", "ukp", "hh helpful"):
        data = noise() if name == "noise" else planted(name)
        label = f"{name}, {len(data.rows):,} rows ({data.wrong.mean():.3f})"
        for line in lines(label, data, args.runs):
            print(line, flush=True)
            text.append(line)
    args.page.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Which pairs would turn round if many scores were made into one in another way.

Aggregations are labelers, fitted in memory on the answers at hand. Two of them flip a pair if both
order it and their orders are opposite; a tie of either is counted, but is no flip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from labelers.combine.combine import Combine
from labelers.combine.normalise import Normalise, moments
from labelers.combine.palette import MAP, solve
from labelers.combine.weights import Weigh
from prefactory.apply import apply_labeler
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.measures.disagreement import compare_orders, share_of
from prefactory.measures.score_columns import answer_pairs, margins
from prefactory.overrides import nearest
from prefactory.step import Labeler
from prefactory.tables import SCORE, SIDES, Shape, objectives

PUBLISHED, WITHIN = "published pairs", "all answer pairs of a prompt"
LABEL = "published label"
HALF = 0.5
"""How far the default palette goes from the means towards the furthest that can be reached."""
_SCALED = "z of compare"


@dataclass(frozen=True)
class Way:
    """One way to make a score: steps in order, whose last one adds `score_<name>`."""

    name: str
    steps: tuple[Labeler, ...]


@dataclass(frozen=True)
class Counted:
    """What happened to one set of pairs.

    Attributes:
        pairs: how many there are.
        prompts: of how many prompts.
        flips: as `prefactory.measures.disagreement.compare_orders` gives them, `conflict` being
            the flips.
        judged: pairs that no aggregation leaves unscored.
        agreed: pairs of `judged` that all aggregations strictly order the same way.
        agreed_share, agreed_se: share of `judged` and its cluster-robust standard error.
    """

    pairs: int
    prompts: int
    flips: pl.DataFrame
    judged: int
    agreed: int
    agreed_share: float | None
    agreed_se: float | None


@dataclass(frozen=True)
class Comparison:
    """Aggregations and what they make of the pairs.

    Attributes:
        names: the aggregations compared, in order.
        made: by name what was fitted: the step and its state's facts; objectives alone have none.
        skipped: by name why an aggregation or objective was left out.
        counted: by set of pairs (`PUBLISHED`, `WITHIN`).
    """

    names: tuple[str, ...]
    made: dict[str, dict[str, Any]]
    skipped: dict[str, str]
    counted: dict[str, Counted] = field(default_factory=dict)


def palette_of(answers: pl.DataFrame, names: Sequence[str]) -> dict[str, float] | None:
    """A palette that can be reached: all objectives raised by the same number of sd.

    Half of the furthest such raise. The choice is ours; None if no answer has all scores.
    """
    score = pl.col([f"{SCORE}{o}" for o in names]).cast(pl.Float64)
    whole = pl.all_horizontal(score.is_finite()).fill_null(value=False)
    rewards = answers.filter(whole).select(score).to_numpy()
    if not len(rewards):
        return None
    mean, sd = (np.array(v) for v in zip(*(moments(r) for r in rewards.T), strict=True))
    furthest = solve(rewards, mean + 10 * sd).nearest
    return dict(zip(names, (mean + HALF * (furthest - mean)).tolist(), strict=True))


def default_ways(answers: pl.DataFrame, names: Sequence[str]) -> list[Way]:
    """The aggregations that every comparison has, over some objectives.

    Mean of z-scores, sum as they are, log-sigmoid (arXiv:2402.00742), MAP (arXiv:2410.19198) with
    `palette_of`, soft minimum of z-scores, and Pareto rank. Higher is better in every objective.

    Args:
        answers: RESPONSES.
        names: objectives with spread; fewer than two make no aggregation.
    """
    if len(names) < 2:
        return []
    used = set(objectives(answers.columns))
    palette = palette_of(answers, names)

    def free(name: str) -> str:
        return name if name not in used else free(f"{name} (default)")

    equal = dict.fromkeys(names, 1.0)
    of = tuple(names)
    z = Normalise(objectives=of, suffix=_SCALED)
    scaled = tuple(f"{o}_{_SCALED}" for o in names)
    mean = dict.fromkeys(names, 1.0 / len(names))
    steps: dict[str, list[Labeler]] = {
        (n := free("mean of z")): [Combine(name=n, weights=mean, normalise="zscore")],
        (n := free("sum")): [Combine(name=n, weights=equal)],
        (n := free("log-sigmoid")): [Combine(name=n, method="logsigmoid", weights=equal)],
        (n := free("MAP")): [
            MAP(name=n, objectives=of, palette=palette or equal, on_unreachable="nearest")
        ],
        (n := free("soft minimum")): [z, Weigh(name=n, objectives=scaled, method="soft_min")],
        (n := free("Pareto rank")): [Weigh(name=n, objectives=of, method="pareto")],
    }
    return [Way(name, tuple(made)) for name, made in steps.items()]


def without_spread(answers: pl.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Objectives that cannot order anything, and why."""
    found = {}
    for name in names:
        score = answers[f"{SCORE}{name}"].cast(pl.Float64)
        there = score.filter(score.is_finite()).to_numpy()
        if not there.size:
            found[name] = "no answer has a finite score"
        elif not moments(there)[1] > 0:
            found[name] = f"every answer scores {there[0]:g}"
    return found


def fit(step: Labeler, answers: pl.DataFrame, ctx: Context) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Fit a labeler on answers and score them: the table with the new columns, and its facts.

    Raises:
        ConfigError: the step takes no answers, or needs columns that are not there.
        DataError: what the step says of the data.
    """
    label = type(step).__name__
    if Shape.RESPONSES not in step.takes():
        raise ConfigError(f"{label} takes no responses")
    needs = step.needs(Shape.RESPONSES)
    missing = [c for c in needs if c not in answers.columns]
    if missing:
        have = [o for o in objectives(answers.columns) if not o.endswith(_SCALED)]
        lacking = missing[0].removeprefix(SCORE)
        hint = nearest(lacking, have) or f"; the scores are: {', '.join(have)}"
        raise ConfigError(f"{label} needs a score of {lacking!r}{hint}")
    info: dict[str, Any] = {}
    if step.scope == "dataset":
        parts = step.fit_shard(answers, ctx)
        state = step.fit(parts.sort(parts.columns[0], maintain_order=True), ctx)
        ctx, info = replace(ctx, state=state), dict(state.info)
    new = apply_labeler(step, label, answers, Shape.RESPONSES, ctx).drop("response_id")
    clash = [c for c in new.columns if c in answers.columns]
    if clash:
        raise ConfigError(f"{label}: {clash[0]} is there already; give the new score another name")
    return answers.hstack(new.get_columns()), info


def leaves(steps: Sequence[Labeler]) -> list[str]:
    """Scores that some steps add and no later one of them reads, in order: the aggregations."""
    found: dict[str, None] = {}
    for step in steps:
        for column in step.needs(Shape.RESPONSES):
            found.pop(column, None)
        found |= dict.fromkeys(c for c in step.adds(Shape.RESPONSES) if c.startswith(SCORE))
    return [c.removeprefix(SCORE) for c in found]


def compare(
    answers: pl.DataFrame,
    pairs: pl.DataFrame | None,
    steps: Sequence[Labeler] = (),
    alone: Sequence[str] | None = None,
    combined: Sequence[str] | None = None,
    ctx: Context | None = None,
    most: int = 2_000_000,
) -> Comparison:
    """Score the same answers in many ways, and count the pairs that flip between any two.

    Args:
        answers: RESPONSES with `prompt_id`, `response_id` and `score_<o>`; `prompt` and `response`
            may be null if no step reads them.
        pairs: `prompt_id`, `chosen_id`, `rejected_id` of published pairs, or None.
        steps: aggregations besides the default ones; a later step may read what an earlier adds.
        alone: objectives that are compared as they are; all by default.
        combined: objectives that the default aggregations combine; those of `alone` by default.
        ctx: what the steps may use.
        most: answer pairs at most, see `prefactory.measures.score_columns.answer_pairs`.

    Raises:
        ConfigError: a step of `steps` that does not fit.
        DataError: no scores, fewer than two ways to compare, or a step of `steps` fails.
    """
    ctx = ctx or Context(step="compare")
    answers = answers.sort("prompt_id", "response_id")
    alone = objectives(answers.columns) if alone is None else list(alone)
    skipped = without_spread(answers, alone)
    alone = [o for o in alone if o not in skipped]
    combined = [o for o in (alone if combined is None else combined) if o in alone]
    defaults, made, failed = _by_default(answers, combined, ctx)
    own, facts = _by_steps(answers, steps, ctx)
    twice = set(own.columns) & {*defaults.columns, *(f"{SCORE}{o}" for o in alone)}
    if twice:
        name = min(twice).removeprefix(SCORE)
        raise ConfigError(f"two aggregations are called {name!r}; give one another name")
    single = answers.select("prompt_id", "response_id", *(f"{SCORE}{o}" for o in alone))
    scores = pl.concat([single, defaults, own], how="horizontal")
    names = [*made, *facts, *alone]
    skipped |= failed
    if len(names) < 2:
        left = "; ".join(f"{n}: {why}" for n, why in skipped.items())
        raise DataError(
            f"there is nothing to compare: {len(names)} aggregation"
            + (f" ({names[0]})" if names else "")
            + (f"; left out: {left}" if left else "")
            + "; score the answers by two objectives or more, for example with labelers.R3"
        )
    counts = _count(scores, pairs, names, most)
    return Comparison(tuple(names), made | facts, skipped, counts)


def _by_default(
    answers: pl.DataFrame, names: Sequence[str], ctx: Context
) -> tuple[pl.DataFrame, dict[str, dict[str, Any]], dict[str, str]]:
    """Scores of the default aggregations, what was fitted, and why some could not be."""
    columns: list[pl.Series] = []
    made: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for way in default_ways(answers, names):
        table, info = answers, dict[str, Any]()
        try:
            for step in way.steps:
                table, info = fit(step, table, ctx)
        except DataError as error:
            skipped[way.name] = str(error)
            continue
        made[way.name] = {"step": type(way.steps[-1]).__name__, **_plain(info)}
        columns.append(table[f"{SCORE}{way.name}"])
    return pl.DataFrame(columns), made, skipped


def _by_steps(
    answers: pl.DataFrame, steps: Sequence[Labeler], ctx: Context
) -> tuple[pl.DataFrame, dict[str, dict[str, Any]]]:
    """Scores of the aggregations that steps make, and what was fitted."""
    made: dict[str, dict[str, Any]] = {}
    for step in steps:
        answers, info = fit(step, answers, ctx)
        facts = {"step": type(step).__name__, **_plain(info)}
        made |= {c.removeprefix(SCORE): facts for c in step.adds(Shape.RESPONSES)}
    names = leaves(steps)
    return answers.select(f"{SCORE}{n}" for n in names), {n: made[n] for n in names}


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a state that say how it weighs."""
    return {k: v for k, v in info.items() if k in ("weights", "message", "palette", "reached")}


def _count(
    scores: pl.DataFrame, pairs: pl.DataFrame | None, names: Sequence[str], most: int
) -> dict[str, Counted]:
    found = {}
    if pairs is not None:
        ids = pairs.select("prompt_id", "chosen_id", "rejected_id")
        for side in SIDES:
            renamed = {f"{SCORE}{n}": f"{side}_{SCORE}{n}" for n in names}
            right = scores.select("response_id", *renamed).rename(renamed)
            ids = ids.join(
                right,
                left_on=f"{side}_id",
                right_on="response_id",
                how="left",
                maintain_order="left",
            )
        gaps = margins(ids, names)
        gaps = gaps.select(pl.lit(1.0).alias(LABEL), pl.all())
        found[PUBLISHED] = counted(gaps, ids["prompt_id"])
    every = answer_pairs(scores, most)
    found[WITHIN] = counted(margins(every, names), every["prompt_id"])
    return found


def counted(gaps: pl.DataFrame, prompts: pl.Series) -> Counted:
    """Count flips between all columns of margins (null: not scored) of the same pairs."""
    sign = gaps.select(pl.all().sign().fill_null(math.nan)).to_numpy()
    judged = ~np.isnan(sign).any(axis=1)
    agreed = judged & (sign[:, :1] == sign).all(axis=1) & (sign[:, 0] != 0)
    group = (prompts.rank("dense").to_numpy() - 1).astype(np.int64)
    share, se = share_of(agreed, judged, group)
    flips = compare_orders(gaps, prompts)
    counts = (int(judged.sum()), int(agreed.sum()))
    return Counted(gaps.height, prompts.n_unique(), flips, *counts, share, se)

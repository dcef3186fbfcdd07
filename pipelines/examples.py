"""Examples for a judge or a rubric, chosen by their effect on rows whose label is known.

After BiAlign, which ranks sets of demonstrations by how likely the right label becomes with them
(only summaries of it were read). Parts, sizes and the test on held-out rows are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import yaml
from pydantic import BaseModel

from labelers.judges.examples import Example
from labelers.judges.pairs import JudgePairs
from labelers.rubric.examples import RatedExample
from labelers.rubric.step import Rubric
from pipelines.engines import engines
from pipelines.judged import Named, judge_step, rubric_step
from pipelines.settings import Settings
from prefactory.asking import answer_text, transcript
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.identity import fingerprint
from prefactory.tables import ROW_ID, SCORE, Shape, shape_of

POOL = 24
"""Rows that examples are drawn from."""

Right = Callable[[tuple[Any, ...], pl.DataFrame, Context], np.ndarray]
"""How right a judge is about each row when it is shown some examples, float64[n] in [0, 1]."""


@dataclass(frozen=True)
class Chosen:
    """The set of examples that helped most, and how much it helps on rows that did not choose it.

    Attributes:
        examples: of the best set.
        evidence: JSON data: how right the judge is with and without, on rows that chose and on
            held-out rows; the paired gain on the latter with its 95 % interval.
        what: is right so far.
    """

    examples: tuple[BaseModel, ...]
    evidence: dict[str, Any]
    what: str = "of the votes"

    @property
    def helps(self) -> bool:
        """Whether the gain on held-out rows is above 0 beyond its interval."""
        return bool(self.evidence["held_out"]["gain_low"] > 0)

    def __str__(self) -> str:
        """One line for people."""
        held = self.evidence["held_out"]
        return (
            f"{len(self.examples)} examples: {held['with']:.3f} {self.what} on {held['rows']:,} "
            f"held-out rows are right, {held['without']:.3f} without; gain {held['gain']:+.3f}, "
            f"95% interval {held['gain_low']:+.3f} to {held['gain_high']:+.3f}"
        )

    def yaml(self) -> str:
        """The file that `examples` of a judge takes."""
        content = {
            "examples": [e.model_dump(mode="json") for e in self.examples],
            "evidence": self.evidence,
        }
        return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def choose(
    table: pl.DataFrame,
    engine: Named,
    settings: Settings,
    shots: int = 4,
    sets: int = 8,
    rows: int = 100,
    seed: int = 0,
    rubric: Named | None = None,
) -> Chosen:
    """Draw sets of examples, let the judge answer with each, and keep the best.

    Rows of different prompts are cut into a pool (24), `rows` that choose among the sets, and as
    many that only the best set and no examples are tried on. A vote is right or not (a tie half); a
    rating is as right as it is near to the known one, of the length of its scale: 1 - |difference|
    / (high - low), the mean over what is rated. No valid answer is worth 0. Costs rows x (sets + 3)
    questions, each in both orders if it is about pairs.

    Args:
        table: PAIRS whose `chosen` is known to be better; for a rubric RESPONSES with a known
            score for each thing that it rates, in the columns that the rubric itself would add.
        engine: the judge.
        settings: home of the journal, budget, prices.
        shots: examples of a set, at most 24.
        sets: that are tried.
        rows: see above; at least 2.
        seed: of all draws.
        rubric: fields of `labelers.Rubric` without its judge; None: the judge compares pairs.

    Raises:
        ConfigError: these are no engine or no rubric.
        DataError: the rows are of another shape, too few, or without known scores.
    """
    example: Callable[[dict[str, Any]], BaseModel]
    if rubric is None:
        judged = judge_step(engine, gold="known")
        known, example, right = _pairs(table), _pair, _votes_of(judged)
        name, what = judged.judge[0].model, "of the votes"
    else:
        rating = rubric_step(engine, rubric)
        scores = _scores(rating)
        known, example = _answers(table, scores), _answer_of(rating, scores)
        right, name, what = _ratings_of(rating, scores), rating.judge.model, "of the ratings"
    parts, drawn = _cut(known, shots, sets, rows, seed)
    asked = [example(row) for row in parts[0].iter_rows(named=True)]
    with engines(settings) as session:
        ctx = Context(seed, "examples", engine=session.engine)

        def worth(numbers: tuple[int, ...], part: pl.DataFrame) -> np.ndarray:
            return right(tuple(asked[i] for i in numbers), part, ctx)

        shares = {numbers: float(worth(numbers, parts[1]).mean()) for numbers in ((), *drawn)}
        best = max(drawn, key=lambda numbers: shares[numbers])
        without, with_best = worth((), parts[2]), worth(best, parts[2])
    ids = pl.concat(parts)[ROW_ID[shape_of(table)]].to_list()
    evidence = {
        "judge": name,
        "seed": seed,
        "rows": fingerprint(ids),
        "choosing": {
            "rows": rows,
            "without": round(shares[()], 4),
            "sets": [round(shares[numbers], 4) for numbers in drawn],
        },
        "held_out": {"rows": rows, **_gain(without, with_best)},
    }
    return Chosen(tuple(asked[i] for i in best), evidence, what)


def _cut(
    table: pl.DataFrame, shots: int, sets: int, rows: int, seed: int
) -> tuple[list[pl.DataFrame], list[tuple[int, ...]]]:
    """The pool, the rows that choose and those held out; and the sets as numbers of the pool."""
    needed = POOL + 2 * rows
    if table.height < needed:
        raise DataError(
            f"{table.height:,} rows of different prompts, and {needed:,} are needed ({POOL} to "
            f"draw from, {rows:,} that choose, {rows:,} held out); give more or fewer --rows"
        )
    rng = np.random.default_rng(seed)
    drawn = table[rng.permutation(table.height)[:needed]]
    parts = [drawn[:POOL], drawn[POOL : POOL + rows], drawn[POOL + rows :]]
    return parts, [tuple(sorted(rng.permutation(POOL)[:shots].tolist())) for _ in range(sets)]


def _gain(without: np.ndarray, with_best: np.ndarray) -> dict[str, float]:
    gain = with_best - without
    half = 1.96 * float(gain.std(ddof=1)) / math.sqrt(len(gain))
    return {
        "without": round(float(without.mean()), 4),
        "with": round(float(with_best.mean()), 4),
        "gain": round(float(gain.mean()), 4),
        "gain_low": round(float(gain.mean()) - half, 4),
        "gain_high": round(float(gain.mean()) + half, 4),
    }


# -- a judge of pairs --------------------------------------------------------------------------


def _pairs(table: pl.DataFrame) -> pl.DataFrame:
    if shape_of(table) != Shape.PAIRS:
        raise DataError(
            f"examples of a judge are chosen by pairs; these are {shape_of(table)} (--rubric takes "
            "rated responses)"
        )
    first = table.unique("prompt_id", keep="first", maintain_order=True).sort("pair_id")
    return first.with_columns(known=pl.lit(value=True))


def _pair(row: dict[str, Any]) -> Example:
    return Example(
        prompt=transcript(row["prompt"]),
        chosen=answer_text(row["chosen"]),
        rejected=answer_text(row["rejected"]),
    )


def _votes_of(step: JudgePairs) -> Right:
    def right(examples: tuple[Any, ...], table: pl.DataFrame, ctx: Context) -> np.ndarray:
        shown = step.model_copy(update={"examples": examples})
        votes = pl.col(f"{step.name}_votes")
        parts = shown.fit_shard(table, ctx).select("pair_id", "gold", votes=votes)
        answer = pl.col("votes").struct.field("answer")
        worth = pl.when(answer == pl.col("gold")).then(1.0).when(answer == -1).then(0.5)
        flat = parts.explode("votes").select("pair_id", worth=worth.otherwise(0.0))
        means = flat.group_by("pair_id").agg(pl.col("worth").mean())
        ids = table.select("pair_id")
        joined = ids.join(means, on="pair_id", how="left", maintain_order="left")
        return joined["worth"].fill_null(0.0).to_numpy()

    return right


# -- a rubric ----------------------------------------------------------------------------------


def _scores(step: Rubric) -> dict[str, tuple[str, float, float]]:
    """What is rated -> the column of its score, and the ends of its scale."""
    prefix = f"{step.name}_" if step.criteria else ""
    ends = step.objectives
    keys = [item.name for item in step.attributes] + [item.id for item in step.criteria]
    return {key: (f"{SCORE}{prefix}{key}", *ends[f"{prefix}{key}"][:2]) for key in keys}


def _answers(table: pl.DataFrame, scores: dict[str, tuple[str, float, float]]) -> pl.DataFrame:
    if shape_of(table) != Shape.RESPONSES:
        raise DataError(f"--rubric takes rated responses; these are {shape_of(table)}")
    columns = [column for column, _, _ in scores.values()]
    missing = [column for column in columns if column not in table.columns]
    if missing or not columns:
        have = ", ".join(c for c in table.columns if c.startswith(SCORE)) or "none"
        raise DataError(
            f"no known ratings {', '.join(missing) or 'of rows with a rubric each'}; there are: "
            f"{have}"
        )
    known = table.drop_nulls(columns).sort("response_id")
    for column, low, high in scores.values():
        outside = known.filter(~pl.col(column).is_between(low, high))
        if outside.height:
            raise DataError(
                f"{column}: {outside.height:,} known ratings are not from {low:g} to {high:g}, "
                f"such as {outside[column][0]:g}; set the scale of the attribute"
            )
    return known.unique("prompt_id", keep="first", maintain_order=True)


def _answer_of(
    step: Rubric, scores: dict[str, tuple[str, float, float]]
) -> Callable[[dict[str, Any]], RatedExample]:
    whole = {item.name for item in step.attributes if item.whole} | {c.id for c in step.criteria}

    def example(row: dict[str, Any]) -> RatedExample:
        ratings = {
            key: float(round(row[column])) if key in whole else row[column]
            for key, (column, _, _) in scores.items()
        }
        prompt, response = transcript(row["prompt"]), answer_text(row["response"])
        return RatedExample(prompt=prompt, response=response, ratings=ratings)

    return example


def _ratings_of(step: Rubric, scores: dict[str, tuple[str, float, float]]) -> Right:
    def right(examples: tuple[Any, ...], table: pl.DataFrame, ctx: Context) -> np.ndarray:
        shown = step.model_copy(update={"examples": examples})
        rated = shown.label(table, ctx)
        near = [
            1 - (rated[column] - table[column]).abs() / (high - low)
            for column, low, high in scores.values()
        ]
        return pl.DataFrame(near).mean_horizontal(ignore_nulls=False).fill_null(0.0).to_numpy()

    return right

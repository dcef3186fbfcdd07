"""Examples for a judge, chosen by their effect on pairs whose better answer is known.

After BiAlign, which ranks sets of demonstrations by how likely the right label becomes with them
(only summaries of it were read). Parts, sizes and the test on held-out pairs are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import yaml

from labelers.judges.examples import Example
from labelers.judges.pairs import JudgePairs
from pipelines.engines import engines
from pipelines.judged import Named, judge_step
from pipelines.settings import Settings
from prefactory.asking import answer_text, transcript
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.identity import fingerprint
from prefactory.tables import Shape, shape_of

POOL = 24
"""Pairs that examples are drawn from."""


@dataclass(frozen=True)
class Chosen:
    """The set of examples that helped most, and how much it helps on rows that did not choose it.

    Attributes:
        examples: of the best set.
        evidence: JSON data: shares of right votes with and without, of rows that chose and of
            held-out rows; the paired gain on the latter with its 95 % interval.
    """

    examples: tuple[Example, ...]
    evidence: dict[str, Any]

    @property
    def helps(self) -> bool:
        """Whether the gain on held-out rows is above 0 beyond its interval."""
        return bool(self.evidence["held_out"]["gain_low"] > 0)

    def __str__(self) -> str:
        """One line for people."""
        held = self.evidence["held_out"]
        return (
            f"{len(self.examples)} examples: {held['with']:.3f} of the votes on {held['rows']:,} "
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
    pairs: pl.DataFrame,
    engine: Named,
    settings: Settings,
    shots: int = 4,
    sets: int = 8,
    rows: int = 100,
    seed: int = 0,
) -> Chosen:
    """Draw sets of examples, let the judge vote with each, and keep the best.

    Pairs are cut by prompt into a pool (24), `rows` that choose among the sets, and as many that
    only the best set and no examples are tried on. Costs 2 x rows x (sets + 3) votes.

    Args:
        pairs: PAIRS whose `chosen` is known to be better.
        engine: the judge.
        settings: home of the journal, budget, prices.
        shots: examples of a set, at most 24.
        sets: that are tried.
        rows: see above; at least 2.
        seed: of all draws.

    Raises:
        DataError: these are no pairs, or too few.
    """
    step = judge_step(engine, gold="known")
    if shape_of(pairs) != Shape.PAIRS:
        raise DataError(f"examples are chosen by pairs; these are {shape_of(pairs)}")
    table = pairs.unique("prompt_id", keep="first", maintain_order=True).sort("pair_id")
    needed = POOL + 2 * rows
    if table.height < needed:
        raise DataError(
            f"{table.height:,} pairs of different prompts, and {needed:,} are needed ({POOL} to "
            f"draw from, {rows:,} that choose, {rows:,} held out); give more pairs or fewer --rows"
        )
    rng = np.random.default_rng(seed)
    table = table[rng.permutation(table.height)[:needed]].with_columns(known=pl.lit(value=True))
    pool, choosing, held = table[:POOL], table[POOL : POOL + rows], table[POOL + rows :]
    drawn = [tuple(sorted(rng.permutation(POOL)[:shots].tolist())) for _ in range(sets)]
    asked = [_example(row) for row in pool.iter_rows(named=True)]
    with engines(settings) as session:
        ctx = Context(seed, "examples", engine=session.engine)

        def right(numbers: tuple[int, ...], rows: pl.DataFrame) -> np.ndarray:
            return _right(step, tuple(asked[i] for i in numbers), rows, ctx)

        shares = {numbers: float(right(numbers, choosing).mean()) for numbers in ((), *drawn)}
        best = max(drawn, key=lambda numbers: shares[numbers])
        without, with_best = right((), held), right(best, held)
    gain = with_best - without
    half = 1.96 * float(gain.std(ddof=1)) / math.sqrt(rows)
    evidence = {
        "judge": step.judge[0].model,
        "seed": seed,
        "rows": fingerprint(table["pair_id"].to_list()),
        "choosing": {
            "rows": rows,
            "without": round(shares[()], 4),
            "sets": [round(shares[numbers], 4) for numbers in drawn],
        },
        "held_out": {
            "rows": rows,
            "without": round(float(without.mean()), 4),
            "with": round(float(with_best.mean()), 4),
            "gain": round(float(gain.mean()), 4),
            "gain_low": round(float(gain.mean()) - half, 4),
            "gain_high": round(float(gain.mean()) + half, 4),
        },
    }
    return Chosen(tuple(asked[i] for i in best), evidence)


def _example(row: dict[str, Any]) -> Example:
    return Example(
        prompt=transcript(row["prompt"]),
        chosen=answer_text(row["chosen"]),
        rejected=answer_text(row["rejected"]),
    )


def _right(
    step: JudgePairs, examples: tuple[Example, ...], table: pl.DataFrame, ctx: Context
) -> np.ndarray:
    """Share of right votes on each pair, float64[n]; a tie is half, no vote nothing."""
    shown = step.model_copy(update={"examples": examples})
    parts = shown.fit_shard(table, ctx).select("pair_id", "gold", votes=f"{step.name}_votes")
    answer = pl.col("votes").struct.field("answer")
    worth = pl.when(answer == pl.col("gold")).then(1.0).when(answer == -1).then(0.5).otherwise(0.0)
    flat = parts.explode("votes").select("pair_id", worth=worth)
    means = flat.group_by("pair_id").agg(pl.col("worth").mean())
    joined = table.select("pair_id").join(means, on="pair_id", how="left", maintain_order="left")
    return joined["worth"].fill_null(0.0).to_numpy()

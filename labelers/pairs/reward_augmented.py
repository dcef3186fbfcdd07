"""Pairs relabelled under a goal: each pair twice, once for the score of either answer."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from labelers.pairs import reward_goal
from labelers.pairs.pairs import pair_ids
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import Generated, Generator, Scope, State, verdict
from prefactory.tables import SCORE, SIDES, Shape, canonical_order, with_ids
from prefactory.turned import turned_where

_IDS = ("pair_id", "prompt_id", "chosen_id", "rejected_id")
_OWN = ("goal", "goal_kind", "margin", "source_margin", "source_pair_id", "source_label_source")
"""Columns of the relabelling itself: they are right for either order of the sides."""
_FINE = 9
"""Decimals that gaps are rounded to, so that float noise decides neither a tie nor `min_gap`."""


class _Judged(NamedTuple):
    """Fate of every pair.

    Attributes:
        verdict: `reason` and `detail`, null where the pair is relabelled.
        conflict: Bool[n], the score puts the rejected answer above the chosen one.
        goals: chosen and rejected goals, Float64[n, K] each.
    """

    verdict: pl.DataFrame
    conflict: pl.Series
    goals: tuple[NDArray[np.float64], NDArray[np.float64]]


class RewardAugmented(Generator):
    """Condition pairs on a goal: reward-augmented relabelling (Zhang et al., arXiv:2410.08067).

    Under the reward R(y, g) = -|g - r(y)|^2 the best answer to "reach score g" is the one that
    scores g. Each pair gives two rows whose prompts name the goal in a system message:

    - `high`: the goal is the better answer's score; it is chosen over the worse one.
    - `low`: the goal is the worse answer's score; the *worse* answer is chosen over the better.

    (The authors' code for chat templates without a system role leaves the low row unswapped and
    writes the score twice; this follows the paper's figure.) On every row R(chosen, g) >
    R(rejected, g), with scores rounded to `decimals` as the text has them.

    With `attributes` the message has one line per attribute and goals are vectors. Which answer is
    better is then decided by `objective` if it is set, else by the mean of the attributes in goal
    units.

    When label and score disagree (`conflict`), `on_conflict` decides:

    - `drop`: the pair leaves.
    - `trust_score`: the label is ignored; the answer with the higher score counts as the better.
    - `trust_label`: the labelled order stays and the two answers exchange their goals, so that the
      chosen answer has the higher one. R then holds for the exchanged scores; the score columns
      keep the raw numbers.

    If the same two answers are also there in the other order, the pair in conflict leaves anyway.

    New columns: `goal` (Float64, of the first attribute), `goal_kind`, `source_pair_id`, `margin`
    (R(chosen, g) - R(rejected, g) = squared gap of the goals, always above 0) and
    `source_label_source`; `label_source` becomes `relabel`, and a margin that was there moves to
    `source_margin`. Every other column that depends on the sides turns with them (`turning` in
    `prefactory.turned`). `revert` undoes it all.

    Reasons: `null_score`, `out_of_scale` (beyond `scale`), `tie` (no gap, equal goals, or twice
    the same answer), `conflict`, `small_gap`, `half_left_out`.

    Attributes:
        objective: whose score is the goal, or with `attributes` who decides which is better.
        attributes: objectives of a goal vector, in the order of the message.
        scale: worst and best score, as named in the message.
        rescale: `none` takes scores as they are. `quantile` maps each objective's scores to
            `scale` by their mean rank among the dataset's distinct answers, for scores that are no
            judge's 1 to 10. Our choice: the paper does not rescale.
        min_gap: least gap of the two answers in goal units, inclusive (a deciding `objective` that
            is no attribute is in its own units unless rescaled).
        on_conflict: see above.
        half: relabel only half of the usable pairs, rounded up, drawn by id, so that the dataset
            keeps its size (Half-RA).
        decimals: digits of the goals; integral goals are written without.

    Example:
        - labelers.RewardAugmented: {objective: reward}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = ("source_pair_id",)
    new_prompts: ClassVar[bool] = True
    beside: ClassVar[str | None] = "goal_pairs"
    version: ClassVar[int] = 3

    objective: str | None = Field(default=None, min_length=1)
    attributes: tuple[str, ...] = ()
    scale: tuple[float, float] = (1.0, 10.0)
    rescale: Literal["none", "quantile"] = "none"
    min_gap: float = Field(default=0.5, ge=0)
    on_conflict: Literal["drop", "trust_score", "trust_label"] = "drop"
    half: bool = False
    decimals: int = Field(default=2, ge=0, le=6)

    @model_validator(mode="after")
    def _validate_fields(self) -> Self:
        if self.objective is None and not self.attributes:
            raise ValueError("objective or attributes must say whose scores are the goals")
        if len(set(self.attributes)) < len(self.attributes) or "" in self.attributes:
            raise ValueError("attributes must be distinct names")
        low, high = self.scale
        if low >= high:
            raise ValueError(f"scale: the worst score ({low}) must be below the best ({high})")
        if any(round(value, self.decimals) != value for value in self.scale):
            raise ValueError(f"scale: its ends need more than {self.decimals} decimals")
        return self

    @property
    def goals(self) -> tuple[str, ...]:
        """Objectives that the message names, in order."""
        return self.attributes or (self.objective or "",)

    def _objectives(self) -> tuple[str, ...]:
        decider = () if self.objective is None else (self.objective,)
        return tuple(dict.fromkeys((*self.goals, *decider)))

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores of every objective (Float64)."""
        names = [f"{side}_{SCORE}{o}" for o in self._objectives() for side in SIDES]
        return dict.fromkeys(names, pl.Float64())

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Goal, its kind, the pair it comes from, and the margin under the goal.

        If the pairs have a `margin`, `source_margin` comes too.
        """
        return {
            "goal": pl.Float64(),
            "goal_kind": pl.String(),
            "source_pair_id": pl.String(),
            "source_label_source": pl.String(),
            "margin": pl.Float64(),
        }

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard of PAIRS to its four ids and the score columns.

        Raises:
            DataError: if the pairs are relabelled already.
        """
        if "source_pair_id" in table.columns:
            raise DataError("these pairs have goals already; labelers.RewardAugmented runs once")
        return table.select(*_IDS, *self.needs(Shape.PAIRS))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Learn the quantiles, if any, and draw the half, if asked.

        Args:
            parts: the rows of `fit_shard`, sorted by `pair_id`.
            ctx: draws the half, by pair id.

        Returns:
            State with the table `quantiles` (`objective`, `score`, `goal`) if scores are rescaled.
            Its `info` has what inference needs: `template` (parts of the message), `best` (the
            message that asks for the best score), `scale`, `objectives`; and the counts `pairs`,
            `usable`, `relabelled`, with `half_below`, the greatest draw of the relabelled half.
        """
        tables = {"quantiles": self._quantiles(parts)} if self.rescale == "quantile" else {}
        judged = self._judge(parts, tables.get("quantiles"))
        usable = parts.filter(judged.verdict["reason"].is_null())["pair_id"]
        relabelled, below = usable.len(), None
        if self.half and relabelled:
            relabelled = (relabelled + 1) // 2
            below = float(np.sort(ctx.uniform(usable, "half").to_numpy())[relabelled - 1])
        best = dict.fromkeys(self.goals, self.scale[1])
        info = {
            "template": [reward_goal.ROLE, reward_goal.SCALE, reward_goal.LINE],
            "best": reward_goal.goal_message(best, self.scale, self.decimals),
            "scale": list(self.scale),
            "objectives": list(self.goals),
            "decimals": self.decimals,
            "pairs": parts.height,
            "usable": usable.len(),
            "relabelled": relabelled,
            "half_below": below,
        }
        return State(tables, info)

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Relabel the pairs of a table.

        Args:
            table: PAIRS with both scores of every objective.
            ctx: holds the state; draws the half, by pair id.

        Returns:
            PAIRS, two rows per relabelled pair, in canonical order; and the pairs left out.
        """
        judged = self._judge(table, ctx.fitted.tables.get("quantiles"))
        answer = table.select(row_id="pair_id").hstack(judged.verdict)
        below = ctx.fitted.info["half_below"]
        if below is not None:
            late = ctx.uniform(table["pair_id"], "half") > below
            left = pl.col("reason").is_null() & late
            answer = answer.with_columns(
                reason=pl.when(left).then(pl.lit("half_left_out")).otherwise("reason")
            )
        kept = answer["reason"].is_null()
        goals = [side[kept.to_numpy()] for side in judged.goals]
        rows = self._rows(table.filter(kept), judged.conflict.filter(kept).to_numpy(), goals)
        return Generated(rows, answer.filter(~kept))

    def _quantiles(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Goal of every distinct score: its mean rank among distinct answers, on the scale."""
        low, high = self.scale
        quantiles = []
        for objective in self._objectives():
            sides = [
                parts.select(id=f"{side}_id", score=f"{side}_{SCORE}{objective}") for side in SIDES
            ]
            scores = pl.concat(sides).unique("id", keep="first", maintain_order=True)["score"]
            scores = scores.filter(scores.is_finite().fill_null(value=False)).sort()
            rank = (scores.rank("average") - 1) / max(scores.len() - 1, 1)
            rank = rank if scores.len() > 1 else rank + 0.5
            goals = pl.DataFrame([scores, (low + (high - low) * rank).alias("goal")])
            quantiles.append(
                goals.unique("score", maintain_order=True).select(
                    pl.lit(objective).alias("objective"), "score", "goal"
                )
            )
        return pl.concat(quantiles)

    def _goal_units(
        self, table: pl.DataFrame, quantiles: pl.DataFrame | None
    ) -> dict[str, tuple[NDArray[np.float64], ...]]:
        """Chosen and rejected scores of each objective in goal units, Float64[n]; NaN: missing."""
        units = {}
        for objective in self._objectives():
            scores = [
                table[f"{side}_{SCORE}{objective}"].fill_null(float("nan")).to_numpy()
                for side in SIDES
            ]
            if quantiles is not None:
                known = quantiles.filter(pl.col("objective") == objective)
                x, y = known["score"].to_numpy(), known["goal"].to_numpy()
                scores = [
                    np.where(np.isfinite(s), np.interp(s, x, y), s) if x.size else s for s in scores
                ]
            units[objective] = tuple(scores)
        return units

    def _judge(self, table: pl.DataFrame, quantiles: pl.DataFrame | None) -> _Judged:
        units = self._goal_units(table, quantiles)
        raw = [np.stack([units[o][i] for o in self.goals], axis=1) for i in range(2)]
        missing = np.isnan(np.stack([s for pair in units.values() for s in pair])).any(axis=0)
        low, high = self.scale
        with np.errstate(invalid="ignore"):
            outside = np.any([((s < low) | (s > high)).any(axis=1) for s in raw], axis=0)
            chosen, rejected = (np.round(s, self.decimals) + 0.0 for s in raw)
            gap = self._gap(units, chosen, rejected)
            same = (chosen == rejected).all(axis=1) | ~np.isfinite(gap)
        facts = table.select(_IDS).with_columns(
            missing=pl.Series(missing, dtype=pl.Boolean),
            outside=pl.Series(outside, dtype=pl.Boolean),
            gap=pl.Series(gap, dtype=pl.Float64),
            same=pl.Series(same, dtype=pl.Boolean),
        )
        return _Judged(self._verdict(facts), facts["gap"] < 0, (chosen, rejected))

    def _gap(
        self,
        units: dict[str, tuple[NDArray[np.float64], ...]],
        chosen: NDArray[np.float64],
        rejected: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """How far the chosen answer is above the rejected one, Float64[n]."""
        if self.objective is None:
            sides = [np.add.reduce(list(s.T)) / len(self.goals) for s in (chosen, rejected)]
        elif self.objective in self.goals:
            i = self.goals.index(self.objective)
            sides = [chosen[:, i], rejected[:, i]]
        else:
            sides = list(units[self.objective])
        gap: NDArray[np.float64] = np.round(sides[0] - sides[1], _FINE)
        return gap

    def _verdict(self, facts: pl.DataFrame) -> pl.DataFrame:
        turned = facts.select(
            "prompt_id", chosen_id="rejected_id", rejected_id="chosen_id", turned=pl.lit(value=True)
        )
        keys = ["prompt_id", "chosen_id", "rejected_id"]
        facts = facts.join(turned.unique(keys), on=keys, how="left", maintain_order="left")
        gap = pl.col("gap")
        shown = pl.format("gap {}", gap.round_sig_figs(6))
        tie = (gap == 0) | pl.col("same") | (pl.col("chosen_id") == pl.col("rejected_id"))
        conflict = gap < 0 if self.on_conflict == "drop" else (gap < 0) & pl.col("turned")
        return verdict(
            facts,
            (pl.col("missing"), "null_score", pl.lit("a score is missing")),
            (pl.col("outside"), "out_of_scale", pl.format("not in {} to {}", *self._ends())),
            (tie, "tie", shown),
            (conflict, "conflict", shown),
            (gap.abs() < self.min_gap, "small_gap", shown),
        )

    def _ends(self) -> list[pl.Expr]:
        return [pl.lit(reward_goal.number_text(end, self.decimals)) for end in self.scale]

    def _rows(
        self,
        table: pl.DataFrame,
        conflict: NDArray[np.bool_],
        goals: list[NDArray[np.float64]],
    ) -> pl.DataFrame:
        """Both rows of every pair of a table."""
        better, worse = np.where(conflict[:, None], goals[::-1], goals)
        margin = np.round(np.add.reduce([d * d for d in (better - worse).T]), _FINE)
        names = [f"_goal_{i}" for i in range(len(self.goals))]
        source = {"source_label_source": "label_source", "source_pair_id": "pair_id"}
        source |= {"source_margin": "margin"} if "margin" in table.columns else {}
        table = table.with_columns(
            *(pl.col(old).alias(new) for new, old in source.items()),
            label_source=pl.lit("relabel"),
            _swap=pl.Series(conflict & (self.on_conflict == "trust_score"), dtype=pl.Boolean),
        ).with_columns(pl.Series("margin", margin, dtype=pl.Float64))
        sided = {c: d for c, d in table.schema.items() if c not in _OWN}
        halves = []
        for kind, vectors, swap in (
            ("high", better, pl.col("_swap")),
            ("low", worse, ~pl.col("_swap")),
        ):
            rows = table.with_columns(
                pl.Series(n, g) for n, g in zip(names, vectors.T, strict=True)
            )
            text = reward_goal.goal_text(names, self.goals, self.scale, rows, self.decimals)
            halves.append(
                rows.with_columns(
                    *turned_where(sided, swap),
                    prompt=reward_goal.with_goal(pl.col("prompt"), text),
                    goal=pl.col(names[0]),
                    goal_kind=pl.lit(kind),
                )
            )
        rows = pl.concat(halves).drop(*names, "_swap")
        return canonical_order(with_ids(rows, Shape.PAIRS, keep_side_ids=True), Shape.PAIRS)


def revert(pairs: pl.DataFrame) -> pl.DataFrame:
    """Give back the pairs that `RewardAugmented` relabelled, bit for bit.

    Args:
        pairs: its output, or any rows of it; either row of a pair is enough, but for the columns
            that a turned pair forgets (`prefactory.turned.FORGOTTEN`).

    Returns:
        PAIRS as they were, in canonical order, without the columns of the relabelling.
    """
    high_first = pairs.sort("goal_kind", maintain_order=True)  # its sides mostly were not turned
    rows = high_first.unique("source_pair_id", keep="first", maintain_order=True)
    rows = rows.with_columns(prompt=reward_goal.without_goal(pl.col("prompt")))
    rows = with_ids(rows, Shape.PAIRS, keep_side_ids=True)
    source = rows["source_pair_id"]  # of pairs for one objective it covers that too
    turned = (source != rows["pair_id"]) & (source != pair_ids(rows))
    rows = rows.with_columns(
        *turned_where({c: d for c, d in rows.schema.items() if c not in _OWN}, pl.lit(turned)),
        pair_id=pl.col("source_pair_id"),
        label_source=pl.col("source_label_source"),
    )
    had_margin = "source_margin" in rows.columns
    rows = rows.with_columns(margin=pl.col("source_margin")) if had_margin else rows.drop("margin")
    added = [c for c in _OWN if c != "margin"]
    return canonical_order(rows.drop(*added, strict=False), Shape.PAIRS)

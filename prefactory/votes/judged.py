"""Judges, reward models and stacks held against people: where each of them may label.

A judge is trusted on a declared slice where the lower end of the clustered interval of its
agreement with the consensus is at least `max(.6, .9 x people's pairwise agreement there)`, it says
the same in both orders on 80 % of the rows, and there are 50 rows. With k slices the intervals are
of level 1 - .05/k. (The limits are our choice.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.errors import DataError
from prefactory.measures.agreement import ratio
from prefactory.measures.calibration import Floats, calibration_errors, logistic_slope
from prefactory.preferences.clustered import clustered_mean, hits
from prefactory.tables import SCORE, objectives
from prefactory.votes.ballots import ballots
from prefactory.votes.slices import NONE, Rule, slice_of

LEAST_AGREEMENT, OF_PEOPLE, LEAST_CONSISTENT, LEAST_ROWS = 0.6, 0.9, 0.8, 50
ALL = "all"
POSITION = "position"
MORE = 100
"""Votes of which is said what they would tell."""
PREFERS, MARGIN = "_prefers", "margin_"
_SIGNS = {"chosen": 1.0, "rejected": -1.0, "tie": 0.0}


@dataclass(frozen=True)
class Opinion:
    """What one judge says of pairs.

    Attributes:
        name: of the judge, score or stack.
        kind: `judge` (verdicts), `score` (of both sides) or `margin` (of the pair).
        margin: above 0 for the chosen side, below for the rejected, 0 a tie, NaN no opinion,
            Float64[n]; log odds where the judge claims so.
        consistent: whether it said the same in both orders, 1 or 0, NaN where that is not known or
            makes no sense (scores of single answers), Float64[n].
    """

    name: str
    kind: str
    margin: Floats
    consistent: Floats


def opinions(table: pl.DataFrame) -> list[Opinion]:
    """All judges whose opinions are in the columns of some pairs.

    `<name>_prefers` (with `<name>_votes`: `labelers.JudgePairs`), `chosen_score_<o>` beside
    `rejected_score_<o>` (`labelers.RewardModel` and others), and `margin_<name>`
    (`labelers.PreferenceStack`).
    """
    found = []
    for column in table.columns:
        if column.endswith(PREFERS) and table.schema[column] == pl.String:
            found.append(_verdicts(table, column.removesuffix(PREFERS)))
        elif column.startswith(MARGIN) and table.schema[column].is_float():
            found.append(_numbers(table, column.removeprefix(MARGIN), "margin", pl.col(column)))
    for name in objectives(table.columns):
        sides = [f"{side}_{SCORE}{name}" for side in ("chosen", "rejected")]
        if set(sides) <= set(table.columns):
            gap = pl.col(sides[0]) - pl.col(sides[1])
            found.append(_numbers(table, name, "score", gap))
    return found


def _numbers(table: pl.DataFrame, name: str, kind: str, gap: pl.Expr) -> Opinion:
    margin = table.select(gap.cast(pl.Float64).fill_null(math.nan)).to_series().to_numpy()
    return Opinion(name, kind, margin, np.full(table.height, math.nan))


def _verdicts(table: pl.DataFrame, name: str) -> Opinion:
    """A judge's verdicts; the margin is `log((for + 1) / (against + 1))` where votes are kept."""
    sign = table[f"{name}{PREFERS}"].replace_strict(_SIGNS, default=None, return_dtype=pl.Float64)
    margin = sign.fill_null(math.nan).to_numpy().copy()
    consistent = np.full(table.height, math.nan)
    votes = _votes(table, name)
    if votes is None:
        return Opinion(name, "judge", margin, consistent)
    counted = votes.group_by("row").agg(
        ahead=(pl.col("answer") == pl.col("better")).sum(),
        behind=((pl.col("answer") >= 0) & (pl.col("answer") != pl.col("better"))).sum(),
    )
    row = counted["row"].to_numpy()
    odds = np.log((counted["ahead"].to_numpy() + 1.0) / (counted["behind"].to_numpy() + 1.0))
    agrees = np.sign(odds) == margin[row]
    margin[row[agrees]] = odds[agrees]  # a verdict that its rules left open, or a tie, stays
    both = (
        votes.group_by("row", "judge")
        .agg(pl.col("place").n_unique(), same=pl.col("answer").n_unique() == 1, n=pl.len())
        .filter(pl.col("n") > 1)
        .group_by("row")
        .agg(pl.col("same").all().cast(pl.Float64))
    )
    consistent[both["row"].to_numpy()] = both["same"].to_numpy()
    return Opinion(name, "judge", margin, consistent)


def _votes(table: pl.DataFrame, name: str) -> pl.DataFrame | None:
    """A judge's single votes: `row`, `judge`, `place`, `answer`; `better` is the chosen answer."""
    column = f"{name}_votes"
    dtype = table.schema.get(column)
    if not (isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)):
        return None
    better = (pl.col("chosen_id") > pl.col("rejected_id")).cast(pl.Int32)
    flat = table.select(row=pl.int_range(pl.len()), better=better, vote=column)
    flat = flat.explode("vote").drop_nulls("vote").unnest("vote")
    return flat.filter(pl.col("answer").is_not_null()).select(
        "row", "judge", "place", "answer", "better"
    )


@dataclass(frozen=True)
class People:
    """What people say of some pairs, in the order of the pairs.

    Attributes:
        label: +1 for the chosen side, -1, or 0 without a label, Float64[n].
        same, pairs: equal and all pairs of votes for a side on each row, Float64[n].
        clusters: prompts.
    """

    label: Floats
    same: Floats
    pairs: Floats
    clusters: pl.Series

    @classmethod
    def of(cls, pairs: pl.DataFrame, found: pl.DataFrame, annotations: pl.DataFrame) -> People:
        """Match votes to pairs by id; `found` is of `prefactory.votes.verdicts.verdicts`.

        Raises:
            DataError: none of the pairs was voted on.
        """
        votes = ballots(annotations)
        n = votes.votes_a_row()
        first = np.bincount(votes.row, votes.vote > 0, minlength=len(n))
        same = first * (first - 1) + (n - first) * (n - first - 1)
        counted = pl.DataFrame(
            {"row_id": votes.rows.cast(pl.String), "_same": same, "_all": n * (n - 1)}
        )
        sign = pl.col("verdict").replace_strict(
            {"first": 1.0, "second": -1.0}, default=0.0, return_dtype=pl.Float64
        )
        told = found.select("row_id", _label=sign).join(counted, on="row_id", how="left")
        rows = pairs.select("pair_id", "prompt_id").join(
            told, left_on="pair_id", right_on="row_id", how="left", maintain_order="left"
        )
        if rows["_label"].null_count() == rows.height:
            raise DataError(
                "none of these pairs was voted on: give the version or file that was reviewed (ids "
                "change where a pair is turned round)"
            )
        label, equal, every = (
            rows[c].fill_null(0.0).to_numpy() for c in ("_label", "_same", "_all")
        )
        return cls(label, equal, every, rows["prompt_id"])


def measure(
    pairs: pl.DataFrame, people: People, by: Sequence[str] = (), judges: Sequence[Opinion] = ()
) -> pl.DataFrame:
    """Agreement of every judge with people, on all rows and in every declared slice.

    Args:
        pairs: PAIRS that people voted on.
        people: what they say.
        by: columns to slice by (`prefactory.votes.slices.slice_of`), and `position` (`positions`).
        judges: by default `opinions(pairs)`.

    Returns:
        Rows by judge, `slice` and `value` (`all`, `all` first): `n` (rows with a label of people
        and a side of the judge), `agreement` with `low` and `high` (level 1 - .05/k), `ties` (rows
        that the judge calls equal), `people` (their pairwise agreement there, null without two
        votes a row), `bar`, `consistent` (share of rows with the same verdict in both orders),
        `trusted`, `why` not, and `more`: by how much 100 further rows would narrow the interval's
        half.
    """
    slices = {ALL: pl.Series([ALL] * pairs.height, dtype=pl.String)}
    slices |= {name: slice_of(pairs, name) for name in by if name != POSITION}
    rows = []
    for judge in judges or opinions(pairs):
        own = {**slices, POSITION: positions(pairs, judge)} if POSITION in by else slices
        k = sum(s.n_unique() for name, s in own.items() if name != ALL) or 1
        for name, values in own.items():
            level = 1 - 0.05 / (1 if name == ALL else k)
            for value in values.unique().sort():
                at = (values == value).to_numpy()
                rows.append(
                    {"judge": judge.name, "kind": judge.kind, "slice": name, "value": value}
                    | _one(judge, people, at, level)
                )
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("judge", "kind", "slice", "value"), pl.String),
    "n": pl.Int64,
    **dict.fromkeys(("agreement", "low", "high"), pl.Float64),
    "ties": pl.Int64,
    **dict.fromkeys(("people", "bar", "consistent", "more"), pl.Float64),
    "trusted": pl.Boolean,
    "why": pl.String,
}


def _one(judge: Opinion, people: People, at: NDArray[np.bool_], level: float) -> dict[str, Any]:
    """One judge in one slice."""
    labelled = at & (people.label != 0) & ~np.isnan(judge.margin)
    sided = labelled & (judge.margin != 0)
    agreed = hits(judge.margin[sided] * people.label[sided])
    told = clustered_mean(agreed, people.clusters.filter(pl.Series(sided)).to_numpy(), level)
    pairwise = ratio(people.same[at], people.pairs[at]).value
    bar = max(LEAST_AGREEMENT, 0 if math.isnan(pairwise) else OF_PEOPLE * pairwise)
    known = judge.consistent[at]
    known = known[~np.isnan(known)]
    consistent = float(known.mean()) if len(known) else None
    why = ""
    if told.n < LEAST_ROWS:
        why = f"{told.n} rows, {LEAST_ROWS} are needed"
    elif not told.low >= bar:
        why = f"agreement is surely above {told.low:.2f} only, {bar:.2f} is needed"
    elif consistent is not None and consistent < LEAST_CONSISTENT:
        why = f"the same verdict in both orders on {consistent:.0%} of the rows only"
    return {
        "n": told.n,
        "agreement": _plain(told.value),
        "low": _plain(max(told.low, 0.0)),
        "high": _plain(min(told.high, 1.0)),
        "ties": int(labelled.sum() - sided.sum()),
        "people": _plain(pairwise),
        "bar": bar,
        "consistent": consistent,
        "more": narrower(told.value, told.n),
        "trusted": not why,
        "why": why,
    }


def positions(pairs: pl.DataFrame, judge: Opinion) -> pl.Series:
    """Where the answer that a judge prefers stood when it voted for it, String[n].

    `first` or `second`: there in all its votes for it; `both`: it voted for it in either place;
    `(none)` without votes for a side. A judge that leans to a place is right less often where its
    choice stood there only.
    """
    where = pl.repeat(NONE, pairs.height, dtype=pl.String, eager=True)
    votes = _votes(pairs, judge.name) if judge.kind == "judge" else None
    if votes is None:
        return where
    side = np.where(judge.margin[votes["row"].to_numpy()] > 0, 1, -1)
    chosen = np.where(votes["answer"].to_numpy() == votes["better"].to_numpy(), 1, -1)
    behind = votes.filter(pl.Series((chosen == side) & (votes["answer"].to_numpy() >= 0)))
    places = behind.group_by("row").agg(
        first=(pl.col("place") == 0).any(), second=(pl.col("place") == 1).any()
    )
    both = pl.col("first") & pl.col("second")
    said = pl.when(both).then(pl.lit("both")).when("first").then(pl.lit("first"))
    found = pl.DataFrame({"row": range(pairs.height)}, schema={"row": votes.schema["row"]}).join(
        places.select("row", place=said.otherwise(pl.lit("second"))), on="row", how="left",
        maintain_order="left",
    )  # fmt: skip
    return found["place"].fill_null(NONE)


def narrower(agreement: float, n: int, more: int = MORE) -> float | None:
    """By how much further rows would narrow half of an agreement's interval; None without rows."""
    if not n:
        return None
    spread = 1.96 * math.sqrt(agreement * (1 - agreement))
    return spread * (1 / math.sqrt(n) - 1 / math.sqrt(n + more))


def by_position(pairs: pl.DataFrame, people: People) -> pl.DataFrame:
    """Agreement of single votes of each judge by where the better answer stood.

    Returns:
        `judge`, `place` (`first` or `second`: where the answer that people prefer was shown), `n`,
        `agreement`, `low`, `high`; of judges whose votes are kept.
    """
    rows = []
    for column in (c for c in pairs.columns if c.endswith(PREFERS)):
        name = column.removesuffix(PREFERS)
        votes = _votes(pairs, name)
        if votes is None:
            continue
        label = people.label[votes["row"].to_numpy()]
        wanted = np.where(label > 0, votes["better"].to_numpy(), 1 - votes["better"].to_numpy())
        sided = (label != 0) & (votes["answer"].to_numpy() >= 0)
        right = votes["answer"].to_numpy() == wanted
        place = votes["place"].fill_null(0).to_numpy()
        better_at = np.where(right, place, 1 - place)
        for number, said in enumerate(("first", "second")):
            at = sided & (better_at == number)
            clusters = people.clusters.gather(votes["row"].to_numpy()[at]).to_numpy()
            told = clustered_mean(right[at].astype(np.float64), clusters)
            rows.append((name, said, told.n, *map(_plain, (told.value, told.low, told.high))))
    kinds = dict.fromkeys(("agreement", "low", "high"), pl.Float64)
    schema = {"judge": pl.String, "place": pl.String, "n": pl.Int64, **kinds}
    return pl.DataFrame(rows, schema=schema, orient="row")


def calibration(judges: Sequence[Opinion], people: People) -> pl.DataFrame:
    """How far margins can be believed, with people's labels as the truth, both orders.

    Returns:
        `judge`, `n`, `slope` (makes the margins log odds), `ece` at that slope (fitted on these
        rows: slightly flattering) and `unscaled`, the ECE of the margins as they are.
    """
    rows: list[tuple[Any, ...]] = []
    for judge in judges:
        at = (people.label != 0) & ~np.isnan(judge.margin)
        signed = judge.margin[at] * people.label[at]
        if not len(signed):
            rows.append((judge.name, 0, None, None, None))
            continue
        slope = logistic_slope(signed)
        errors = (calibration_errors(x).ece for x in (slope * signed, signed))
        rows.append((judge.name, len(signed), slope, *errors))
    kinds = dict.fromkeys(("slope", "ece", "unscaled"), pl.Float64)
    return pl.DataFrame(rows, {"judge": pl.String, "n": pl.Int64, **kinds}, orient="row")


def rules(measured: pl.DataFrame, judge: str) -> dict[str, dict[str, list[str]]]:
    """Where a judge may label: for each column that it was sliced by, the trusted values.

    A rule of a recipe takes one of them, or several: a row then needs a trusted value in each. The
    position is no rule: it is known only once the judge was asked.
    """
    own = measured.filter((pl.col("judge") == judge) & ~pl.col("slice").is_in([ALL, POSITION]))
    found: dict[str, dict[str, list[str]]] = {}
    for name in own["slice"].unique(maintain_order=True):
        part = own.filter(slice=name)
        found[name] = {
            "trusted": part.filter("trusted")["value"].to_list(),
            "not": part.filter(~pl.col("trusted"))["value"].to_list(),
        }
    return found


def rule_of(measured: pl.DataFrame, judge: str) -> Rule | None:
    """`trusted_on` of a step: trusted values of every column; None where a column has none."""
    found = {name: told["trusted"] for name, told in rules(measured, judge).items()}
    return found if all(found.values()) else None


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

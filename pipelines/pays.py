"""Does a run's selection pay? Three arms on its own pairs; and scores that serve nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from catalog.splits import prompt_clusters
from prefactory.apply import (
    apply_filter,
    apply_generator,
    apply_labeler,
    columns_needed,
    fit,
    fit_shard,
)
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import PrefactoryError
from prefactory.measures.calibration import Floats
from prefactory.near.shingles import U64, finalise
from prefactory.plan import PlannedStep
from prefactory.preferences.arms import Select, compare, said
from prefactory.preferences.clustered import Ints, clustered_mean, codes, hits
from prefactory.preferences.damage import damage, only_damage
from prefactory.preferences.features import Embed, describe_pairs
from prefactory.preferences.stack import Differences
from prefactory.shards import View
from prefactory.stages import RunResult, Stage
from prefactory.step import Filter, Generator, Labeler, Step
from prefactory.tables import SCORE, SIDES, Shape, is_score

MOST, MOST_REFITTED = 5_000, 1_500
"""Pairs that are looked at, at most, a draw by seed and id; of a selection that has to be learned
again in every fold fewer."""
TURNED = "turned_from"

Known = Callable[[Encoder, pl.Series], bool]
"""Whether the vectors of all texts are there already."""


@dataclass(frozen=True)
class Chain:
    """The part of a run that selects pairs.

    Attributes:
        steps: the steps on pairs, up to one that makes other pairs of them, each with its stage.
        views: the table before each step, and the one after the last.
    """

    steps: list[tuple[PlannedStep, Stage]]
    views: list[View]

    @classmethod
    def of(cls, result: RunResult) -> Chain:
        """The chain of a run; empty if it selects no pairs."""
        stages = {stage.label: stage for stage in result.stages}
        steps: list[tuple[PlannedStep, Stage]] = []
        views: list[View] = []
        for planned, view in result.before:
            if planned.shape != Shape.PAIRS:
                continue
            if ends(planned):
                return cls(steps, [*views, view])
            steps.append((planned, stages[planned.placed.label]))
            views.append(view)
        final = [v for v in result.views.values() if v.shape == v.stored == Shape.PAIRS]
        return cls(steps, [*views, *final[:1]])

    def first_choice(self) -> int | None:
        """The first step that drops or turns pairs."""
        for i, (planned, stage) in enumerate(self.steps):
            if chooses(planned, stage):
                return i
        return None

    def first_learned(self) -> int | None:
        """The first step that learns from labels what a later one selects by."""
        for i, (planned, _) in enumerate(self.steps):
            step = planned.placed.step
            later = [p.placed.step for p, _ in self.steps[i + 1 :]]
            chooses = [s for s in later if not isinstance(s, Labeler)]
            used = any(set(planned.adds) & set(columns_needed(s, Shape.PAIRS)) for s in chooses)
            if step.learns_labels and (used or not isinstance(step, Labeler)):
                return i
        return None

    def asks(self, start: int) -> bool:
        """Whether a step from `start` on asks a text engine, so that it can't be repeated."""
        return any("engine" in model for _, s in self.steps[start:] for model in s.models)


def chooses(planned: PlannedStep, stage: Stage) -> bool:
    """Whether a step on pairs dropped or turned some."""
    step = planned.placed.step
    fewer = stage.rows_out < stage.rows_in
    return not isinstance(step, Labeler) and (fewer or isinstance(step, Generator))


def ends(planned: PlannedStep) -> bool:
    """Whether a step on pairs makes other pairs of them."""
    step = planned.placed.step
    return isinstance(step, Generator) and TURNED not in step.parents


@dataclass(frozen=True)
class Looked:
    """What is known of the pairs that a selection chose from, whatever it chose.

    Attributes:
        view: the table that they are from.
        pairs: some of it.
        data: their differences, which the heads see, and `features`, what these are of.
        clusters: of near-duplicate prompts, Int64[n].
        clean: pairs without damage that text alone shows, Bool[n].
    """

    view: View
    pairs: pl.DataFrame
    data: Differences
    features: str
    clusters: Ints
    clean: np.ndarray

    @classmethod
    def at(
        cls,
        view: View,
        most: int,
        seed: int,
        encoder: Encoder | None = None,
        embed: Embed | None = None,
        known: Known = lambda *_: False,
    ) -> Looked:
        """Look at `most` pairs of a view at most; see `pays` for the others."""
        rows = sample(view, most, seed)
        data, features = differences(rows, encoder, embed, known)
        return cls(view, rows, data, features, codes(prompt_clusters(rows)), undamaged(rows))


def looks_early(steps: Iterable[Step]) -> bool:
    """Whether the pairs that a selection chooses from can be looked at before the run is done.

    Not where a step learns from labels, which takes other pairs, or has vectors made: whether a
    text has one must not depend on the moment.
    """
    steps = list(steps)
    return not any(step.learns_labels for step in steps) and not _encoders(steps)


def pays(
    result: RunResult, embed: Embed | None, known: Known, looked: Looked | None = None
) -> dict[str, Any] | None:
    """Compare the pairs that a run kept with all and with as many random ones.

    Args:
        result: a finished run.
        embed: of steps that are fitted again; their texts have vectors already.
        known: tells whether texts have vectors: none are computed here.
        looked: what was seen of the pairs while the run went on; looked at again if it is of
            others.

    Returns:
        Plain data for `pays.json`, with a `sentence`; None if the run selects no pairs, or has too
        few clusters of prompts for a fold.
    """
    chain = Chain.of(result)
    start = chain.first_choice()
    if start is None:
        return None
    learned = chain.first_learned()
    again = learned is not None and not chain.asks(learned)
    nested = learned is None or again
    seed = result.recipe.head.seed
    before = chain.views[min(start, learned) if again and learned is not None else start]
    steps = [planned.placed.step for planned, _ in result.before]
    if looked is None or looked.view != before or again:
        encoder = next(iter(_encoders(steps)), None)
        most = MOST_REFITTED if again else MOST
        looked = Looked.at(before, most, seed, encoder, embed, known)
    if again and learned is not None:
        try:
            refit = _Refit(chain, learned, looked.pairs, seed, embed)
            return _report(looked, refit, seed, nested=True)
        except PrefactoryError:  # too few rows to learn from in a fold
            nested = False
    ids = looked.pairs["pair_id"]
    select = _Fixed(ids, final(chain.views[-1], ids))
    return _report(looked, select, seed, nested=nested)


def _report(looked: Looked, select: Select, seed: int, *, nested: bool) -> dict[str, Any] | None:
    refitted, n = isinstance(select, _Refit), looked.pairs.height
    partitions = max(1, min(5, 1000 // max(n, 1))) if refitted else 5
    gains = compare(
        looked.data, looked.clusters, select, looked.clean, seed=seed, partitions=partitions
    )
    if gains is None:
        return None
    return {
        "sentence": said(gains, nested),
        "nested": nested,
        "refitted": refitted,
        "features": looked.features,
        "pairs": n,
        **gains.as_dict(),
    }


def sample(
    view: View, most: int, seed: int, columns: Collection[str] | None = None
) -> pl.DataFrame:
    """At most so many rows of a view, drawn by seed and id, in canonical order.

    Args:
        view: what is sampled.
        most: rows.
        seed: of the draw.
        columns: the only ones that are needed beside `pair_id`, of those that there are; None gives
            all.
    """
    ids = pl.Series("pair_id", [], dtype=pl.String)
    for some in view.map(lambda table: _least(table["pair_id"], most, seed), columns=["pair_id"]):
        ids = _least(pl.concat([ids, some]), most, seed)  # never the ids of all rows
    return _rows_of(view, ids, columns)


def _least(ids: pl.Series, most: int, seed: int) -> pl.Series:
    """The ids of the least draws, as many as there may be, in no order."""
    if ids.len() <= most:
        return ids
    return ids.gather(np.argpartition(drawn(ids, seed), most)[:most])


def drawn(ids: pl.Series, seed: int) -> U64:
    """A number of each id for a draw that no order or other id changes, UInt64[n].

    An id of a row is a digest, so its bits are mixed with the seed's, not hashed again: a draw of
    thousands out of millions costs next to nothing.
    """
    bits = ids.str.head(16).str.to_integer(base=16, dtype=pl.UInt64).to_numpy()
    salt = np.random.default_rng([seed, 0x9A75]).integers(2**64, dtype=np.uint64)
    return finalise(bits ^ salt)


def final(view: View, ids: pl.Series) -> pl.DataFrame:
    """Those of some ids that are pairs of a view, as they were before any was turned round."""
    wanted = pl.col("pair_id").is_in(ids.implode())
    found = view.map(lambda table: signs_of(table).filter(wanted), columns=["pair_id", TURNED])
    return pl.concat(found)


def signs_of(table: pl.DataFrame) -> pl.DataFrame:
    """`pair_id` (before it was turned round) and `sign`, -1 if it was, 1 if not."""
    turned = pl.lit(None, pl.String)
    if TURNED in table.columns:
        turned = pl.when(pl.col(TURNED) != pl.col("pair_id")).then(pl.col(TURNED))
    return table.select(
        pair_id=pl.coalesce(turned, "pair_id"),
        sign=pl.when(turned.is_not_null()).then(-1.0).otherwise(1.0),
    )


def _signs(ids: pl.Series, found: pl.DataFrame) -> Floats:
    known = found.unique("pair_id", keep="first")
    signs = ids.to_frame().join(known, on="pair_id", how="left", maintain_order="left")["sign"]
    return signs.fill_null(0.0).to_numpy()


class _Fixed:
    """A selection as the run made it, over all rows."""

    def __init__(self, ids: pl.Series, found: pl.DataFrame) -> None:
        self.signs = _signs(ids, found)

    def __call__(self, train: np.ndarray) -> Floats:
        return self.signs


class _Refit:
    """A selection that is made again from training rows alone."""

    def __init__(
        self,
        chain: Chain,
        start: int,
        rows: pl.DataFrame,
        seed: int,
        embed: Embed | None,
    ) -> None:
        self.steps = [
            (p.placed.label, scaled(p.placed.step, stage)) for p, stage in chain.steps[start:]
        ]
        self.rows, self.seed, self.embed = rows, seed, embed
        self.table = _rows_of(chain.views[start], rows["pair_id"])

    def __call__(self, train: np.ndarray) -> Floats:
        ids = self.rows["pair_id"].filter(pl.Series(train))
        table = self.table.filter(pl.col("pair_id").is_in(ids.implode()))
        for label, step in self.steps:
            table = applied(step, label, table, self.seed, self.embed)
        return _signs(self.rows["pair_id"], signs_of(table))


def _rows_of(view: View, ids: pl.Series, columns: Collection[str] | None = None) -> pl.DataFrame:
    def some(table: pl.DataFrame) -> pl.DataFrame:
        rows = table.filter(pl.col("pair_id").is_in(ids.implode()))
        copied = pl.from_arrow(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
        assert isinstance(copied, pl.DataFrame)  # noqa: S101 - a table stays one
        return copied  # else a few rows keep whole files of the store in memory

    return pl.concat(view.map(some, columns=columns))


def scaled(step: Step, stage: Stage) -> Step:
    """The step with a budget of rows or tokens as the share that it kept."""
    budget = [name for name in ("rows", "tokens") if getattr(step, name, None) is not None]
    if not budget or "fraction" not in type(step).model_fields or not stage.rows_out:
        return step
    share = min(1.0, stage.rows_out / stage.rows_in)
    return step.model_copy(update={**dict.fromkeys(budget), "fraction": share})


def applied(
    step: Step, label: str, table: pl.DataFrame, seed: int, embed: Embed | None
) -> pl.DataFrame:
    """Pairs after one step that is fitted to them alone."""
    ctx = Context(seed, label, None, embed)
    if step.scope == "dataset":
        part = fit_shard(step, label, table, Shape.PAIRS, ctx)
        ctx = Context(seed, label, fit(step, label, part, ctx), embed)
    if isinstance(step, Labeler):
        new = apply_labeler(step, label, table, Shape.PAIRS, ctx)
        return table.hstack(new.drop("pair_id").get_columns())
    if isinstance(step, Filter):
        gone = apply_filter(step, label, table, Shape.PAIRS, ctx)["row_id"]
        return table.filter(~pl.col("pair_id").is_in(gone.implode()))
    assert isinstance(step, Generator)  # noqa: S101 - there is no fourth kind
    return apply_generator(step, label, table, Shape.PAIRS, ctx)[0]


def undamaged(rows: pl.DataFrame) -> np.ndarray:
    """Pairs without damage that text alone shows, Bool[n]."""
    hit = only_damage(damage(rows))["row"].to_numpy()
    clean = np.ones(rows.height, dtype=bool)
    clean[hit] = False
    return clean


def _encoders(steps: Iterable[Step]) -> list[Encoder]:
    fields = [getattr(s, n) for s in steps if s.opens_engines() for n in type(s).model_fields]
    return [field for field in fields if isinstance(field, Encoder)]


class _MissingError(Exception):
    """A text has no vector yet."""


def differences(
    rows: pl.DataFrame, encoder: Encoder | None, embed: Embed | None, known: Known
) -> tuple[Differences, str]:
    """Features of the cheap head: vectors if the run made them, statistics of the texts always."""

    def there(encoder: Encoder, texts: pl.Series) -> np.ndarray:
        if embed is None or not known(encoder, texts):
            raise _MissingError
        return embed(encoder, texts)

    sides, features = None, "statistics"
    if encoder is not None:
        try:
            sides, features = describe_pairs(rows, encoder, there), "vectors and statistics"
        except _MissingError:
            sides = None
    chosen, rejected = sides or describe_pairs(rows, encoder or Encoder(), None)
    columns = (chosen.statistics - rejected.statistics).to_numpy()
    vectors = np.zeros((rows.height, 0))
    if chosen.answer.shape[1]:
        vectors = chosen.vectors() - rejected.vectors()
    return Differences(vectors, columns), features


def scores(result: RunResult) -> list[dict[str, Any]]:
    """Scores that labelers added and that nothing reads, or that go against the labels.

    Returns:
        For each its `name`, `used` (whether a later step reads it), and on published pairs
        `agreement` with the labels, an interval (`low`, `high`) and `n`. Only those that serve
        nothing or go against the labels.
    """
    found = []
    steps = [planned for planned, _ in result.before]
    named = [(i, name) for i, p in enumerate(steps) for name in _objectives(p)]
    view = next((v for v in result.views.values() if v.shape == v.stored == Shape.PAIRS), None)
    rows = None
    if view is not None and named:
        columns = [f"{side}_{SCORE}{name}" for _, name in named for side in SIDES]
        rows = sample(view, MOST, result.recipe.head.seed, ("prompt_id", *columns))
    for i, name in named:
        later = [p.placed.step.model_dump(mode="json") for p in steps[i + 1 :]]
        needed = [columns_needed(p.placed.step, p.shape) for p in steps[i + 1 :]]
        used = any(c.endswith(f"{SCORE}{name}") for needs in needed for c in needs)
        entry = {"name": name, "used": used or any(_names(fields, name) for fields in later)}
        found.append({**entry, **agreement(rows, name)})
    return [entry for entry in found if not entry["used"] or against(entry)]


def _objectives(planned: PlannedStep) -> list[str]:
    """Objectives that a labeler scores, sorted."""
    if planned.kind != "labeler":
        return []
    names = {n.removeprefix("chosen_").removeprefix("rejected_") for n in planned.adds}
    return sorted(n.removeprefix(SCORE) for n in names if is_score(n))


def notes(found: list[dict[str, Any]]) -> list[str]:
    """What there is to say of the scores that `scores` lists, in sentences."""
    idle = [entry["name"] for entry in found if not entry["used"]]
    lines = [f"No later step reads the scores {', '.join(idle)}."] if idle else []
    return lines + [
        f"The score {e['name']} agrees with {e['agreement']:.0%} of the labels "
        f"({e['low']:.0%} to {e['high']:.0%} of {e['n']:,} pairs)."
        for e in found
        if against(e)
    ]


def against(entry: dict[str, Any]) -> bool:
    """Whether a score agrees with fewer than half of the labels, clearly."""
    return entry["high"] is not None and bool(entry["high"] < 0.5)


def _names(value: Any, name: str) -> bool:  # noqa: ANN401 - plain data
    """Whether the fields of a step name an objective."""
    if isinstance(value, dict):
        return any(_names(v, name) or k == name for k, v in value.items())
    if isinstance(value, list):
        return any(_names(v, name) for v in value)
    return bool(value == name)


def agreement(rows: pl.DataFrame | None, name: str) -> dict[str, Any]:
    """Share of the labels that a score bears out, with its interval; nulls where it has none."""
    columns = [f"{side}_{SCORE}{name}" for side in SIDES]
    if rows is None or not set(columns) <= set(rows.columns):
        return {"agreement": None, "low": None, "high": None, "n": 0}
    both = rows.filter(pl.all_horizontal(pl.col(columns).is_finite()))
    gap = (both[columns[0]] - both[columns[1]]).to_numpy()
    estimate = clustered_mean(hits(gap), both["prompt_id"]).as_dict()
    shown = {k: None if v is None else round(v, 4) for k, v in estimate.items()}
    return {"agreement": shown["value"], **{k: shown[k] for k in ("low", "high", "n")}}

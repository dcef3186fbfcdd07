"""The probability that each label is right, and the signals behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from labelers.stack.features import FromPairs, PairRows, folds_of
from prefactory.context import Context
from prefactory.measures.calibration import Floats, logistic_slope
from prefactory.preferences import anchor as outside_opinion
from prefactory.preferences import shares, trust
from prefactory.preferences.anchor import PromptFacts, SourceOpinion
from prefactory.preferences.clustered import Ints
from prefactory.preferences.features import LENGTH
from prefactory.preferences.folds import cluster_folds
from prefactory.preferences.stack import CrossFit, Rows, cross_fit, skill
from prefactory.step import Scope, State
from prefactory.tables import SCORE, SIDES, Shape
from prefactory.votes.loop import soft

ASSUMED = 0.1
"""Share of wrong labels where nothing says another one: trust is then a rank, not a probability."""
GROUP_ROWS, GROUP_SHARE = 3, 0.1
SIGNALS = ("rows", "dynamics", "anchor", "outside")

Rate = Literal["given", "estimated", "em", "assumed"]


class LabelTrust(FromPairs):
    """Add the probability that each pair's label is right, and the signals behind it.

    Order of work: damaged rows leave every fit (`damage`); the anchor that ships judges the labels
    of each source; the signals, each a margin of the label as given: `rows` (a joint fit, five
    folds of rows), `dynamics` (how fast an early fit comes to believe the label), `anchor` (only
    where its verdict is that the labels agree) and `outside` (scores and votes that are named).
    Each is put over its root mean square and they are added up. A self-test turns a tenth of the
    labels round, computes all of it anew and says how well the turned ones are found.

    Adds `trust` (P(label right), in (0, 1); null on damaged rows), `trust_reason` (String, why it
    is null: `damaged: <rule>`), `trust_rank` (share of the rows
    that are trusted less, in [0, 1)), `trust_precision` (share of the self-test's plants among the
    rows that are trusted at most as much, null without a self-test) and `signal_<name>` for each
    signal, null where it has no opinion. Without a measured or estimated share of wrong labels
    `trust` rests on an assumed .1 and is a rank.

    Attributes:
        anchor: `ships` (reads vectors of `minilm`, so that another encoder is an error), `off`, or
            `score:<objective>`: a score column that is the outside opinion instead, asked of all
            sources.
        objective: what the labels are declared to mean; chooses the anchor's expert
            (`helpfulness`, `harmlessness`), or none of them.
        rate: share of wrong labels, if it was measured on checked rows.
        em: refit `rows` with each label as right as it is trusted, up to 15 times, here and in each
            self-test; the mean doubt is the share of wrong labels where nothing better says one. It
            ranks a little better, and finds the share too low where the features explain little.
        self_tests: draws of the self-test; 0 leaves it out.
        posterior: column of P(the label is right) by people, null where nobody was asked, such as
            `human_posterior` of `labelers.Annotations`: in the fits of `rows` and `dynamics` these
            labels are as right as people say and weigh twice (our choice), and it is their `trust`.

    Example:
        - labelers.LabelTrust: {}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"

    anchor: str = Field(default="ships", pattern=r"^(ships|off|score:.+)$")
    objective: str | None = None
    rate: float | None = Field(default=None, ge=0, lt=0.5)
    em: bool = False
    self_tests: int = Field(default=2, ge=0, le=10)
    posterior: str | None = None

    version: ClassVar[int] = 2  # 2: damaged rows stay out of the fits

    def identity(self) -> dict[str, Any]:
        """The fields, with the digest of the anchor that ships if it is asked."""
        found = super().identity()
        if self._asks_anchor():
            anchor = f"ships:{outside_opinion.digest()}"
            found = found | {"fields": {**found["fields"], "anchor": anchor}}
        return found

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The outside scores and oriented columns, Float64 with nulls allowed."""
        people = {self.posterior: pl.Float64()} if self.posterior else {}
        return (
            super().needs(shape)
            | people
            | {
                f"{side}_{SCORE}{self._opinion()}": pl.Float64()
                for side in SIDES
                if self._opinion()
            }
        )

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Trust, its rank, and a column for each signal, Float64."""
        names = ["trust", "trust_rank", "trust_precision", *(f"signal_{name}" for name in SIGNALS)]
        return {**dict.fromkeys(names, pl.Float64()), "trust_reason": pl.String()}

    @model_validator(mode="after")
    def _encoder_of_the_anchor(self) -> Self:
        known = outside_opinion.ENCODER.model
        if self._asks_anchor() and self.encoder.model != known:
            raise ValueError(
                f"anchor: the one that ships reads vectors of {known!r}, and encoder is "
                f"{self.encoder.model!r}; write `anchor: off` or `anchor: score:<name>`"
            )
        return self

    def _opinion(self) -> str:
        return self.anchor.removeprefix("score:") if self.anchor.startswith("score:") else ""

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to ids, hashes of its prompts, statistics, vectors and prompt facts."""
        parts = super().fit_shard(table, ctx)
        harmless = np.full(table.height, np.nan)
        if self._asks_anchor() and ctx.embed is not None:
            harmless = outside_opinion.load().harmless_kind(table["prompt"], ctx.embed)
        opinion = pl.lit(None, pl.Float64)
        if self._opinion():
            opinion = self._gap(self._opinion())
        return parts.with_columns(
            table.select(opinion=opinion, source="source", people=self._people()),
            harmless=harmless,
            english=outside_opinion.english(table["prompt"]),
        )

    def _people(self) -> pl.Expr:
        return pl.lit(None, pl.Float64) if self.posterior is None else pl.col(self.posterior)

    def _asks_anchor(self) -> bool:
        return self.anchor == "ships" and self.vectors

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Judge every label.

        Returns:
            table `rows` (pair_id and the columns of `adds`), table `groups` (prompts whose labels
            look wrong together: cluster, rows, mean margin, pair ids); info: `label_trust`.
        """
        rows = self.gather(parts)
        seed = int(ctx.rng("folds").integers(2**31))
        opinion, told = self._ask(rows, parts)
        people = parts["people"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        own = _Own(rows, self.drawn(rows, ctx), seed, people)
        prompts = own.by_prompt()
        share = own.wrong_share(prompts)
        rate, known = self._rate(share)
        if self.em and own.enough:
            rate = own.refit(rate, known=known != "assumed")
            known = "em" if known == "assumed" else known
        signals = own.signals() | self._outside(rows) | opinion
        kept = np.flatnonzero(~rows.damaged)
        tested = own.self_test(signals, self.self_tests)
        score = trust.total({name: values[kept] for name, values in signals.items()})
        if not len(score):
            score = np.zeros(len(kept))
        values = trust.trust(score, logistic_slope(score), rate)
        values = np.where(np.isnan(people[kept]), values, people[kept])
        table = self._table(rows, kept, values, signals, tested)
        info = {
            "pairs": len(rows.ids),
            "people": int((~np.isnan(people)).sum()),
            "damaged": int(rows.damaged.sum()),
            "damage": rows.reasons(),
            "signals": sorted(signals),
            "rate": rate,
            "rate_is": known,
            "wrong_share": share.as_dict(),
            "sources": [one.as_dict() for one in told],
            "self_test": None
            if tested is None
            else tested.as_dict() | {"auc_at_rate": tested.at_rate(rate)},
            "skill": skill(prompts.margins, rows.clusters[own.drawn]).as_dict(),
        }
        groups = wrong_groups(rows, own.drawn, prompts.margins)
        return State({"rows": table, "groups": groups}, {"label_trust": info})

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look the judgements up."""
        found = table.select("pair_id").join(
            ctx.fitted.tables["rows"], on="pair_id", how="left", maintain_order="left"
        )
        return found.select(list(self.adds(Shape.PAIRS)))

    def _rate(self, share: shares.WrongShare) -> tuple[float, Rate]:
        if self.rate is not None:
            return self.rate, "given"
        if share.estimate is not None:
            return min(max(share.estimate.value, 0.005), 0.45), "estimated"
        return ASSUMED, "assumed"

    def _outside(self, rows: PairRows) -> dict[str, Floats]:
        """Signals of the named scores and votes: each over its root mean square, added up."""
        named = np.concatenate([rows.outside, rows.oriented], axis=1)
        if not named.shape[1]:
            return {}
        return {"outside": np.sum([trust.normed(column) for column in named.T], axis=0)}

    def _ask(
        self, rows: PairRows, parts: pl.DataFrame
    ) -> tuple[dict[str, Floats], list[SourceOpinion]]:
        """The anchor's margins where its verdict is `agrees`, and all its verdicts."""
        sound = np.flatnonzero(~rows.damaged)
        source = parts["source"].fill_null("").gather(sound)
        margins = np.full(len(rows.ids), np.nan)
        if self._opinion():
            given = parts["opinion"].cast(pl.Float64).fill_null(np.nan).to_numpy()[sound]
            found, told = outside_opinion.ask_score(
                given, rows.column(LENGTH)[sound], source, rows.clusters[sound], self._opinion()
            )
        elif self._asks_anchor():
            anchor = outside_opinion.load()
            facts = PromptFacts(
                parts["harmless"].to_numpy()[sound],
                parts["english"].to_numpy()[sound],
                anchor.unseen(rows.groups.gather(sound)),
                source,
            )
            chosen, rejected = rows.chosen.take(sound), rows.rejected.take(sound)
            clusters = rows.clusters[sound]
            found, told = outside_opinion.ask(
                anchor, facts, chosen, rejected, clusters, self.objective
            )
        else:
            return {}, []
        agrees = [one.source for one in told if one.opinion.verdict == "agrees"]
        margins[sound] = np.where(source.is_in(agrees).to_numpy(), found, np.nan)
        return ({"anchor": margins} if agrees else {}), told

    def _table(
        self,
        rows: PairRows,
        kept: Ints,
        values: Floats,
        signals: Mapping[str, Floats],
        tested: trust.SelfTest | None,
    ) -> pl.DataFrame:
        reason = "trust_reason"
        names = [name for name in self.adds(Shape.PAIRS) if name != reason]
        columns = {name: np.full(len(rows.ids), np.nan) for name in names}
        columns["trust"][kept] = values
        order = np.lexsort((np.arange(len(kept)), values))
        rank = np.empty(len(kept))
        rank[order] = np.arange(len(kept)) / max(len(kept), 1)
        columns["trust_rank"][kept] = rank
        if tested is not None:
            columns["trust_precision"][kept] = tested.precision_at(rank)
        for name, margins in signals.items():
            columns[f"signal_{name}"] = margins
        table = pl.DataFrame({"pair_id": rows.ids, **columns})
        damage = rows.damage.to_frame().select(pl.format("damaged: {}", "damage").alias(reason))
        return table.with_columns(pl.exclude("pair_id").fill_nan(None)).hstack(damage)


class _Own:
    """What is learned from the data itself: nothing with fewer than `trust.LEAST_ROWS` rows."""

    def __init__(self, rows: PairRows, drawn: Ints, seed: int, people: Floats) -> None:
        self.rows, self.drawn, self.seed = rows, drawn, seed
        self.enough = len(drawn) >= trust.LEAST_ROWS
        self.data = Rows.of(rows.differences(drawn), rows.clusters[drawn])
        self.told = soft(self.data, people[drawn])
        self.fold = cluster_folds(rows.copies[drawn], seed)
        self.em: tuple[float, bool] | None = None

    def refit(self, rate: float, *, known: bool) -> float:
        """From now on refit `rows` from this share of wrong labels; the share that this finds."""
        self.em = rate, known
        return trust.refit(self.told, self.fold, self.seed, *self.em)[0]

    def signals(self) -> dict[str, Floats]:
        """`rows` and `dynamics` of every row; those that were not drawn by the models of folds."""
        return self._signals(self.told, self.seed, self._others()) if self.enough else {}

    def _others(self) -> Ints:
        rest = np.ones(len(self.rows.ids), np.bool_)
        rest[self.drawn] = False
        return np.flatnonzero(rest & ~self.rows.damaged)

    def _signals(self, data: Rows, seed: int, others: Ints) -> dict[str, Floats]:
        if self.em is None:
            found = cross_fit(data, "joint", seed, self.fold)
        else:
            found = trust.refit(data, self.fold, seed, *self.em)[1]
        early = trust.Dynamics.of(data)
        by_rows, by_steps = (np.full(len(self.rows.ids), np.nan) for _ in range(2))
        by_rows[self.drawn], by_steps[self.drawn] = found.margins, early.margins(data.data)
        for start in range(0, len(others), 4096):
            at = others[start : start + 4096]
            rest = self.rows.differences(at)
            scores = [model.scores(rest) for model in found.models.values()]
            by_rows[at], by_steps[at] = np.mean(scores, axis=0), early.margins(rest)
        return {"rows": by_rows, "dynamics": by_steps}

    def by_prompt(self) -> CrossFit:
        """Margins by folds of clusters, of the drawn rows: for groups and for what is reported."""
        if not self.enough:
            nothing = np.full(len(self.drawn), np.nan)
            return CrossFit(nothing, np.full(len(self.drawn), -1), {})
        return cross_fit(self.data, "joint", self.seed, folds_of(self.rows, self.seed)[self.drawn])

    def wrong_share(self, found: CrossFit) -> shares.WrongShare:
        """The share of wrong labels, as far as margins by folds of clusters can say."""
        clusters = self.data.clusters
        area = None
        if self.enough and np.isfinite(found.margins).any():
            turned = _tenth(len(self.drawn), self.seed)
            data = Rows.of(self.data.data.turned(turned), clusters)
            fold = folds_of(self.rows, self.seed)[self.drawn]
            anew = cross_fit(data, "joint", self.seed, fold)
            area = trust.auc(-anew.margins, turned)[0]
        slope = max(logistic_slope(found.margins[np.isfinite(found.margins)]), 0.0)
        return shares.wrong_share(found.margins * (slope or 1.0), clusters, area, self.seed)

    def self_test(self, signals: Mapping[str, Floats], draws: int) -> trust.SelfTest | None:
        """Turn a tenth of the drawn labels round and look for them with all signals."""
        if not draws or not self.enough:
            return None
        given = {n: v[self.drawn] for n, v in signals.items() if n not in ("rows", "dynamics")}

        def score(turned: NDArray[np.bool_], seed: int) -> Floats:
            data = Rows.of(self.data.data.turned(turned), self.data.clusters)
            anew = self._signals(data, seed, np.zeros(0, np.int64))
            own = {name: margins[self.drawn] for name, margins in anew.items()}
            sign = np.where(turned, -1.0, 1.0)
            return trust.total(own | {name: margins * sign for name, margins in given.items()})

        return trust.self_test(score, len(self.drawn), self.seed, draws)


def _tenth(n: int, seed: int) -> NDArray[np.bool_]:
    turned = np.zeros(n, np.bool_)
    turned[np.random.default_rng([seed, n]).permutation(n)[: max(n // 10, 1)]] = True
    return turned


def wrong_groups(rows: PairRows, drawn: Ints, margins: Floats) -> pl.DataFrame:
    """Clusters of three rows or more whose labels look wrong together.

    Those in the lowest tenth of such clusters by mean margin (folds of clusters) with a mean below
    0 (our choice).

    Returns:
        `cluster` (Int64), `rows`, `margin` (mean) and `pair_ids`.
    """
    table = pl.DataFrame(
        {"cluster": rows.clusters[drawn], "margin": margins, "pair_id": rows.ids.gather(drawn)}
    )
    groups = (
        table.filter(pl.col("margin").is_finite())
        .group_by("cluster")
        .agg(pl.len().alias("rows"), pl.col("margin").mean(), pair_ids=pl.col("pair_id").sort())
        .filter(pl.col("rows") >= GROUP_ROWS)
        .sort("margin", "cluster")
    )
    lowest = groups.head(int(np.ceil(GROUP_SHARE * groups.height)))
    return lowest.filter(pl.col("margin") < 0)

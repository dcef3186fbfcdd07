"""Which rows people see, in which order: decided once, from columns and a seed."""

from __future__ import annotations

import polars as pl

from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.tables import ROW_ID, SCORE, Shape, objectives, shape_of
from review.settings import PARTS, Settings

STRATA = 4
"""Strata of the random part: quarters of the rows by their trust."""
LEAST = 30
"""Rows of a stratum that are drawn at least, where it has so many."""
QUEUE = {
    "row_id": pl.String,
    "purpose": pl.String,
    "queue": pl.String,
    "stratum": pl.String,
    "inclusion": pl.Float64,
    "place": pl.Int64,
}


def build(table: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Decide what is asked, in which order.

    Args:
        table: rows with their columns, one for each question (`review.tasks.questions`).
        settings: of the review.

    Returns:
        Columns `row_id`, `purpose` (`work`, `gold`, `training`), `queue` (the part of the queue),
        `stratum` and `inclusion` (probability to be drawn; null but in the part `random`), `place`
        (Int64 from 0; training rows have negative ones). The same table and settings give the same
        queue, in whatever order the rows come.

    Raises:
        ConfigError: a condition can't be read, or a part needs columns that are not there.
        DataError: no row is left to ask about.
    """
    table = table.sort("row_id")
    gold = _where(table, settings.gold, "gold") if settings.gold else table.clear()
    rest = table.join(gold.select("row_id"), on="row_id", how="anti", maintain_order="left")
    rest = _where(rest, settings.where, "where") if settings.where else rest
    if not rest.height:
        raise DataError("the queue is empty: no row fits `where`, or all of them are gold")
    draws = Context(settings.seed, "review")
    rest = rest.with_columns(_draw=draws.uniform(rest["row_id"], "queue"))
    gold = gold.with_columns(_draw=draws.uniform(gold["row_id"], "gold")).sort("_draw")
    training = gold.head(settings.training)
    if training.height < settings.training:
        raise DataError(
            f"training: {settings.training} gold rows are asked for, and {gold.height} fit "
            f"{settings.gold!r}"
        )
    work = _work(rest, settings)
    checks = gold.slice(settings.training).head(round(settings.gold_share * work.height + 0.5))
    spread = (pl.int_range(pl.len()) + pl.col("_draw")) / max(checks.height, 1)
    mixed = pl.concat(
        [work, _listed(checks, "gold", "gold").with_columns(_at=checks.select(spread).to_series())]
    ).sort("_at", "row_id")
    first = _listed(training, "training", "training").drop("_at")
    return pl.concat(
        [
            first.with_columns(place=pl.int_range(-training.height, 0, dtype=pl.Int64)),
            mixed.drop("_at").with_columns(place=pl.int_range(mixed.height, dtype=pl.Int64)),
        ]
    ).select(list(QUEUE))


def strata_of(queue: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Of each stratum of the random part: `drawn` rows, `inclusion` and `population`."""
    drawn = queue.filter(queue="random").group_by("stratum", maintain_order=True)
    rows = drawn.agg(drawn=pl.len(), inclusion=pl.col("inclusion").first()).sort("stratum")
    return {
        r["stratum"]: {
            "drawn": r["drawn"],
            "inclusion": r["inclusion"],
            "population": round(r["drawn"] / r["inclusion"]),
        }
        for r in rows.to_dicts()
    }


def _where(table: pl.DataFrame, condition: str | None, name: str) -> pl.DataFrame:
    """The rows that fit a condition in SQL.

    Raises:
        ConfigError: it can't be read, names no column that is there, or is no condition.
    """
    try:
        return table.filter(pl.sql_expr(str(condition)))
    except Exception as error:  # of Polars' SQL: its own errors have no common base
        columns = [c for c, d in table.schema.items() if not d.is_nested() and c != "row_id"]
        said = " ".join(str(error).split("\n")[0].split())
        raise ConfigError(
            f"{name}: {condition!r} is no condition on the rows ({said}); columns are: "
            + ", ".join(columns)
        ) from error


def _listed(rows: pl.DataFrame, purpose: str, queue: str) -> pl.DataFrame:
    return rows.select(
        "row_id",
        purpose=pl.lit(purpose),
        queue=pl.lit(queue),
        stratum=pl.lit(None, pl.String),
        inclusion=pl.lit(None, pl.Float64),
        _at=pl.lit(0.0),
    )


def _work(rest: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """The rows of all parts, each with its place `_at` in [0, 1) among all of them."""
    total = min(settings.rows or rest.height, rest.height)
    counts = _shared(total, {part: settings.queue.get(part, 0.0) for part in PARTS})
    listed = []
    for part in PARTS:
        if part not in settings.queue:
            continue
        if part == "random":
            rows = _stratified(rest, counts[part])
            made = _listed(rows, "work", part).with_columns(rows.select("stratum", "inclusion"))
        else:
            rows = _ordered(rest, part).head(counts[part])
            made = _listed(rows, "work", part)
        at = (pl.int_range(pl.len()) + 0.5) / max(made.height, 1)
        listed.append(made.with_columns(_at=at))
        rest = rest.join(rows.select("row_id"), on="row_id", how="anti", maintain_order="left")
    return pl.concat(listed)


def _shared(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole numbers that add up to `total`, by the largest remainders."""
    whole = sum(shares.values())
    exact = {name: total * share / whole for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_rest = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_rest[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _stratified(rest: pl.DataFrame, n: int) -> pl.DataFrame:
    """Draw rows by stratum, in random order: `stratum` and `inclusion` are added.

    Strata are quarters by `trust` (without trust, the sources); each gets its share of the
    draws and at least `LEAST`.
    """
    if "trust" in rest.columns:
        quarter = (pl.col("trust").rank("ordinal") - 1) * STRATA // pl.col("trust").count()
        stratum = pl.format("trust {}", quarter.cast(pl.Int64) + 1).fill_null("no trust")
    elif "source" in rest.columns:
        stratum = pl.col("source").fill_null("no source")
    else:
        stratum = pl.lit("all")
    rows = rest.sort("row_id").with_columns(stratum=stratum)
    sizes = dict(rows["stratum"].value_counts().sort("stratum").iter_rows())
    least = {name: min(size, LEAST) for name, size in sizes.items()}
    if sum(least.values()) >= n:  # too few draws for that: shares alone
        least = dict.fromkeys(sizes, 0)
    left = n - sum(least.values())
    more = _shared(left, {name: float(size - least[name]) for name, size in sizes.items()})
    drawn = {name: least[name] + more[name] for name in sizes}
    inclusion = {name: drawn[name] / size for name, size in sizes.items()}
    rank = pl.col("_draw").rank("ordinal").over("stratum")
    named = pl.col("stratum")
    kept = rows.filter(rank <= named.replace_strict(drawn, return_dtype=pl.Int64))
    return kept.with_columns(
        inclusion=named.replace_strict(inclusion, return_dtype=pl.Float64)
    ).sort("_draw")


def _ordered(rest: pl.DataFrame, part: str) -> pl.DataFrame:
    if part == "all":
        return rest.sort("_draw")
    first, need = {
        "suspect": (_suspect(rest), "labelers.LabelTrust: {}"),
        "retrieved": (_retrieved(rest), "labelers.LikeWrong: {}"),
        "disagree": (_disagreement(rest), "labelers.JudgePairs: {judge: ...}"),
        "informative": (_information(rest), "labelers.PreferenceStack: {gain: true}"),
    }[part]
    if first is None:
        raise ConfigError(
            f"queue: the part {part!r} needs columns that these rows lack; run the step "
            f"`- {need}` on them first, and review the version that it makes"
        )
    return rest.with_columns(_first=first).sort("_first", "_draw", nulls_last=True)


def _suspect(rest: pl.DataFrame) -> pl.Expr | None:
    """Least trusted first (`labelers.LabelTrust`)."""
    return pl.col("trust") if "trust" in rest.columns else None


def _retrieved(rest: pl.DataFrame) -> pl.Expr | None:
    """Rows like those that people found wrong first (`labelers.LikeWrong`)."""
    return pl.col("retrieval") if "retrieval" in rest.columns else None


def _disagreement(rest: pl.DataFrame) -> pl.Expr | None:
    """Rows on which judges, or else scores, are most at odds first, then the least sure ones.

    With p the share of opinions for the chosen side (a tie is half of one), 4 p (1 - p). Opinions
    are the columns `<judge>_prefers`; where there are none, the signs of the score gaps. Among rows
    alike, the least `<judge>_agreement` comes first. (Our choice.)
    """
    values = {"chosen": 1.0, "tie": 0.5, "rejected": 0.0}
    opinions = [
        pl.col(c).replace_strict(values, default=None, return_dtype=pl.Float64)
        for c, d in rest.schema.items()
        if c.endswith("_prefers") and d == pl.String
    ]
    if not opinions:
        named = [o for o in objectives(rest.columns) if f"chosen_{SCORE}{o}" in rest.columns]
        gaps = [pl.col(f"chosen_{SCORE}{o}") - pl.col(f"rejected_{SCORE}{o}") for o in named]
        opinions = [(gap.sign() + 1) / 2 for gap in gaps]
    if not opinions:
        return None
    p = pl.mean_horizontal(opinions)
    sure = [
        pl.col(c) for c, d in rest.schema.items() if c.endswith("_agreement") and d == pl.Float64
    ]
    least = pl.min_horizontal(sure).fill_null(1.0) if sure else pl.lit(0.0)
    return -(4 * p * (1 - p)) + 1e-3 * least


def _information(rest: pl.DataFrame) -> pl.Expr | None:
    """Rows whose label would tell the stack most first.

    That is the expected gain in its weights, `gain_<name>` of `labelers.PreferenceStack: {gain:
    true}`; of several stacks the mean. Without those columns it is bounded by the entropy of what
    the stack expects of the label, with P(label) = sigmoid(margin): ordering by that is ordering by
    the distance of the margin from 0.
    """

    def named(start: str) -> list[str]:
        return [c for c, d in rest.schema.items() if c.startswith(start) and d.is_float()]

    if gains := named("gain_"):
        return -pl.mean_horizontal(gains)
    margins = named("margin_")
    return pl.mean_horizontal(margins).abs() if margins else None


def row_id_of(table: pl.DataFrame) -> str:
    """The column that holds a table's row ids."""
    return ROW_ID[shape_of(table)]


def shape_for(kind: str) -> tuple[Shape, ...]:
    """Shapes of tables that a kind of task can be asked about."""
    return {
        "pair": (Shape.PAIRS,),
        "rationale": (Shape.PAIRS,),
        "rate": (Shape.RESPONSES,),
        "rank": (Shape.RESPONSES,),
        "steps": (Shape.RESPONSES,),
        "tags": (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS),
    }[kind]

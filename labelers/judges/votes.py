"""Votes on answers, counted on columns: who leads, whether that is decided, and why not.

A question has `answers` answers, numbered from 0 in the order of their ids; a vote names one of
them, or a tie, or nothing that counts. What is counted is the answer, never the place or the letter
under which it was shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from prefactory.step import verdict

VOTE: dict[str, pl.DataType] = {
    "judge": pl.Int32(),
    "round": pl.Int32(),
    "place": pl.Int32(),
    "answer": pl.Int32(),
    "weight": pl.Int32(),
    "fault": pl.String(),
}
"""One vote: number of the judge; number of the ordering, from 0; place of the preferred answer as
it was shown, from 0 (null: a tie, or invalid); the answer (`TIE`: none is better; null: invalid);
weight (0: invalid); and why it is invalid."""

BESIDE: dict[str, pl.DataType] = {
    "rationale": pl.String(),
    "tokens": pl.Int64(),
    "logprobs": pl.List(pl.Float64()),
}
"""Kept beside a vote: the judge's reasons (null where it was not asked for them); how many tokens
question and answer had (of the last attempt, as far as the engine tells); and of votes by
log-probabilities those of all answers, by number."""

VOTES: dict[str, pl.DataType] = {"question": pl.String(), **VOTE}
"""Votes on many questions, one row each."""

TIE = -1
UNPARSEABLE = "unparseable"
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Rules:
    """When votes decide a question.

    Attributes:
        agreement: least share of the valid votes' weight that the leading answer needs, in (0, 1].
        min_valid: least share of the planned votes that must be valid, in [0, 1].
        strongest: the greatest weight of a vote.
    """

    agreement: float = 0.6
    min_valid: float = 0.5
    strongest: int = 1


def no_votes() -> pl.DataFrame:
    """A table of votes without rows."""
    return pl.DataFrame(schema=VOTES)


def count(votes: pl.DataFrame, questions: pl.DataFrame) -> pl.DataFrame:
    """Count the votes on each question.

    Args:
        votes: columns `VOTES`, in any order.
        questions: `question`, unique.

    Returns:
        The questions with `leader` (the answer of greatest weight, `TIE` or null; of several the
        lowest number), its weight `lead`, that of the next `second`, of all `total`; in how many
        `places` the leader stood when one judge named it, of the judge with most; `asked` and
        `valid` votes; all Int64 and 0 without votes; and `faults`, "http_500 2, unparseable 1" or
        null.
    """
    own = (
        votes.filter(pl.col("answer").is_not_null())
        .group_by("question", "judge", "answer")
        .agg(pl.col("weight").sum(), places=pl.col("place").n_unique(), votes=pl.len())
    )
    options = (
        own.group_by("question", "answer")
        .agg(pl.col("weight", "votes").sum(), pl.col("places").max())
        .sort("question", "weight", "answer", descending=[False, True, False])
    )
    weight = pl.col("weight").cast(pl.Int64)
    leaders = options.group_by("question").agg(
        leader=pl.col("answer").first().cast(pl.Int64),
        lead=weight.first(),
        second=weight.slice(1, 1).sum(),
        total=weight.sum(),
        places=pl.col("places").first().cast(pl.Int64),
        valid=pl.col("votes").sum().cast(pl.Int64),
    )
    asked = votes.group_by("question").agg(asked=pl.len().cast(pl.Int64))
    faults = (
        votes.filter(pl.col("fault").is_not_null())
        .group_by("question", "fault")
        .agg(n=pl.len())
        .sort("question", "fault")
        .group_by("question", maintain_order=True)
        .agg(faults=pl.format("{} {}", "fault", "n").str.join(", "), only=_only(pl.col("fault")))
    )
    tally = questions
    for counted in (leaders, asked, faults):
        tally = tally.join(counted, on="question", how="left", maintain_order="left")
    zero = ("lead", "second", "total", "places", "valid", "asked")
    return tally.with_columns(pl.col(c).fill_null(0) for c in zero)


def _only(values: pl.Expr) -> pl.Expr:
    """The value if there is one, else null."""
    return pl.when(values.len() == 1).then(values.first())


def _needed(planned: pl.Expr, rules: Rules) -> pl.Expr:
    return (rules.min_valid * planned - _SLACK).ceil()


def settled(votes: pl.DataFrame, questions: pl.DataFrame, rules: Rules) -> pl.Series:
    """Which questions are decided whatever the votes to come say, Bool[n].

    Args:
        votes: of all questions so far.
        questions: `question` and `planned` (number of votes if nobody stops).
        rules: when votes decide.
    """
    counted = count(votes, questions)
    left = pl.col("planned") - pl.col("asked")
    most = left * rules.strongest
    lead, total, valid = (pl.col(c) for c in ("lead", "total", "valid"))
    needed = _needed(pl.col("planned"), rules)
    won = (
        (lead >= rules.agreement * (total + most) - _SLACK)
        & (lead > pl.col("second") + most)
        & (valid >= needed)
        & ((pl.col("places") > 1) | (pl.col("leader") == TIE))
    )
    lost = (valid + left < needed) | (lead + most < rules.agreement * (total + most) - _SLACK)
    return counted.select((won | lost | (left <= 0)).fill_null(value=False)).to_series()


def outcomes(votes: pl.DataFrame, questions: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Decide questions by their votes.

    An answer wins if it alone has the greatest weight, that weight is at least `agreement` of the
    valid votes' weight, enough of the planned votes are valid, and one judge named it in two places
    at least: so judges that follow the place and not the answer decide nothing, however many they
    are and whatever faults thin their votes out.

    Args:
        votes: of all questions.
        questions: `question` and `planned`.
        rules: when votes decide.

    Returns:
        n rows: `question`; `winner` (Int64; `TIE`; null: undecided); `agreement` (Float64, the
        leader's share of the valid weight, null without valid votes); `asked`, `valid` (Int64);
        `reason` and `detail` (String) where no answer won. Reasons: `tie`, `abstained`,
        `no_valid_vote`, or the failure of the engine if every vote failed with it.
    """
    counted = count(votes, questions).with_columns(
        agreement=pl.when(pl.col("total") > 0).then(pl.col("lead") / pl.col("total"))
    )
    enough = pl.col("valid") >= _needed(pl.col("planned"), rules)
    ahead = (pl.col("lead") > pl.col("second")) & (
        pl.col("lead") >= rules.agreement * pl.col("total") - _SLACK
    )
    two_places = (pl.col("places") > 1) | (pl.col("leader") == TIE)
    wins = (pl.col("valid") > 0) & enough & ahead & two_places
    counted = counted.with_columns(winner=pl.when(wins).then("leader"))
    share = (100 * pl.col("agreement")).round().cast(pl.Int64)
    faults = (
        pl.when(pl.col("faults").is_null()).then(pl.lit("")).otherwise(pl.format("; {}", "faults"))
    )
    shown = pl.format("{} of {} votes valid{}", "valid", "asked", faults)
    short = pl.format("{}, fewer than wanted", shown)
    split = pl.format("{}, {}% of their weight for one answer", shown, share)
    placed = pl.format("{}, all for what stood in the same place", shown)
    failing = pl.when(~enough).then(short).when(ahead & ~two_places).then(placed).otherwise(split)
    none = pl.col("valid") == 0
    failed = none & pl.col("only").is_not_null() & (pl.col("only") != UNPARSEABLE)
    reasons = verdict(
        counted.with_columns(why=failing, told=shown),
        (none & ~failed, "no_valid_vote", pl.col("told")),
        (failed, "failed", pl.col("told")),
        (pl.col("winner") == TIE, "tie", split),
        (pl.col("winner").is_null(), "abstained", pl.col("why")),
    )
    decided = counted.hstack(reasons).with_columns(
        reason=pl.when(failed).then("only").otherwise("reason")
    )
    names = ("question", "winner", "agreement", "asked", "valid", "reason", "detail")
    return decided.select(names)


def orders(base: list[list[int]], number: int) -> list[int]:
    """The ordering with a number: the answers from the first to the last place.

    Args:
        base: one permutation of the answers for every `len(permutation)` orderings; each is shown
            in all its rotations, so that every answer stands in every place once.
        number: from 0.
    """
    size = len(base[0])
    cycle, turn = divmod(number, size)
    return [*base[cycle][turn:], *base[cycle][:turn]]


def nested(votes: pl.DataFrame) -> pl.DataFrame:
    """Votes as one list for each question: `question` and `votes`, List(Struct(VOTE)).

    They are in the order of judge and round, with `BESIDE` where it is there.
    """
    ordered = votes.sort("question", "judge", "round")
    kept = [c for c in (*VOTE, *BESIDE) if c in votes.columns]
    return ordered.group_by("question", maintain_order=True).agg(votes=pl.struct(kept))

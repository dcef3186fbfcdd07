"""What people said in a review, as labels: kept, turned, dropped, and their edits as new pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.step import Generated, Generator, Scope, verdict
from prefactory.store import file_digest
from prefactory.tables import COLUMNS, OF_PROMPT, SIDES, Shape, canonical_order, with_ids
from prefactory.turned import other_side, turned, turning
from prefactory.votes.verdicts import SURE, verdicts

Fate = Literal["drop", "keep"]
VOTES = ("first", "second", "tie", "bad")
"""Votes that decide something; who can't judge decides nothing."""
POSTERIOR = ("human_posterior", "human_low", "human_high")
DEPENDENT = ("trust", "trust_rank", "trust_precision", "trust_reason")


class Annotations(Generator):
    """Act on what people said in a review (`prefactory review`), and publish it beside the pairs.

    What holds of each pair that people saw is one of the sides, `tie`, or `bad` (both are). By
    `dawid-skene` (`prefactory.votes`) ties and "both bad" hold if more than half of the votes say
    so; else votes for a side are weighed by each person's skill, which agreement with the others
    tells, and by a leaning to what is shown first, and the side whose posterior is at least `sure`
    holds. Votes on gold rows tell of skills too. By `majority` the option with the most votes
    holds. An adjudicator's decision goes above votes. Votes that were changed after the machine's
    label was seen, and those on training rows, do not count. A pair whose
    rejected side was preferred is turned round, with every column that depends on the sides
    (`prefactory.turned`); pairs that people decided get `label_source: human`. Pairs that nobody
    saw, or on which the votes decide nothing, stay as they are.

    An answer that somebody edited makes a new pair: the edit is chosen, its original rejected,
    `chosen_model` is `human`; what is known of the original answer stays, what was said about the
    pair does not (null; `margin` is 0, as nothing is known of it).

    Adds `human_posterior` (Float64, P(the label is right) by the votes, with the ends of its
    interval over people, `human_low` and `human_high`; null by majority, by decision, without a
    vote for a side, the ends also with fewer than three people; where the table has `trust`, labels
    of people get their posterior there), `human_votes` (Int64, votes that decided or could have),
    `human_agreement` (Float64, share of them for what holds; null without votes), `human_flags`
    (Int64, people who flagged the row), `human_turned` and `human_edit` (Boolean) and
    `reviewed_from` (the pair's id before). The votes are published as the table `annotations`.

    Reasons: `human_tie`, `human_both_bad`, `human_flagged`, `human_undecided`; `turned_copy`.

    Attributes:
        file: votes, Parquet with the columns of ANNOTATIONS (`prefactory.tables`); None: nobody has
            voted yet, as in a loop's first round (`prefactory votes round` fills it in).
        on_tie: pairs that people find equal.
        on_bad: pairs of two bad answers.
        on_undecided: pairs whose votes decide nothing.
        on_flag: pairs that at least one person flagged.
        min_votes: fewer votes than that decide nothing.
        method: how votes decide.
        sure: least posterior of a label, above .5; a single vote of somebody of whom nothing is
            known gives .73 to .75.
        draws: of the intervals; 0 leaves them out.
        edits: make pairs of edited answers.

    Example:
        - labelers.Annotations: {file: annotations.parquet}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("reviewed_from",)

    file: Path | None = None
    on_tie: Fate = "drop"
    on_bad: Fate = "drop"
    on_undecided: Fate = "keep"
    on_flag: Fate = "keep"
    min_votes: int = Field(default=1, ge=1)
    method: Literal["dawid-skene", "majority"] = "dawid-skene"
    sure: float = Field(default=SURE, gt=0.5, lt=1)
    draws: int = Field(default=100, ge=0)
    edits: bool = True

    def identity(self) -> dict[str, Any]:
        """As of any step, with the digest of the votes in the place of their path."""
        found = super().identity()
        if self.file is None:
            return found
        return {**found, "fields": found["fields"] | {"file": votes_digest(self.file)}}

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """No columns; opens the file, so that a missing one is found before the run.

        Raises:
            ConfigError: the file can't be read, or holds no annotations.
        """
        read_annotations(self.file)
        return {}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """What people said of the pair, and where it comes from."""
        return {
            "reviewed_from": pl.String(),
            **dict.fromkeys(POSTERIOR, pl.Float64()),
            "human_votes": pl.Int64(),
            "human_agreement": pl.Float64(),
            "human_flags": pl.Int64(),
            "human_turned": pl.Boolean(),
            "human_edit": pl.Boolean(),
        }

    def brings(self) -> dict[str, pl.DataFrame]:
        """The votes, as the table `annotations`; nothing without a file."""
        return {} if self.file is None else {"annotations": read_annotations(self.file)}

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Relabel the pairs of a table.

        Args:
            table: PAIRS; all pairs of a prompt are in it.
            ctx: not used.

        Returns:
            PAIRS in canonical order, and the pairs left out.
        """
        votes = read_annotations(self.file).filter(
            pl.col("row_id").is_in(table["pair_id"].implode())
        )
        said = self._said(votes)
        rows = table.join(
            said, left_on="pair_id", right_on="row_id", how="left", maintain_order="left"
        )
        holds = pl.col("_holds")
        behind = (pl.col("human_agreement") * pl.col("human_votes")).round().cast(pl.Int64)
        told = pl.format("{} of {} votes", behind, "human_votes")
        judged = verdict(
            rows,
            ((pl.col("human_flags") > 0).fill_null(value=False) & (self.on_flag == "drop"),
             "human_flagged", pl.format("{} flags", "human_flags")),
            ((holds == "tie").fill_null(value=False) & (self.on_tie == "drop"), "human_tie", told),
            ((holds == "bad").fill_null(value=False) & (self.on_bad == "drop"),
             "human_both_bad", told),
            ((holds == "undecided").fill_null(value=False) & (self.on_undecided == "drop"),
             "human_undecided", told),
        )  # fmt: skip
        stays = judged["reason"].is_null()
        kept = rows.filter(stays)
        edited = self._edited(table, votes) if self.edits else None
        made = self._relabelled(kept)
        if edited is not None and edited.height:
            made = pl.concat([made, edited.select(made.columns)])
        made = made.with_columns(_copy=~pl.col("pair_id").is_first_distinct())
        late = made.filter(pl.col("_copy") & ~pl.col("human_edit")).select(
            row_id="reviewed_from",
            reason=pl.lit("turned_copy"),
            detail=pl.format("turned round it is {}", "pair_id"),
        )
        whole = made.filter(~pl.col("_copy")).drop("_copy")
        gone = rows.select(row_id="pair_id").hstack(judged).filter(~stays)
        dropped = pl.concat([gone.select("row_id", "reason", "detail"), late])
        parents = whole["reviewed_from"].implode()
        return Generated(
            canonical_order(whole, Shape.PAIRS), dropped.filter(~pl.col("row_id").is_in(parents))
        )

    def _said(self, votes: pl.DataFrame) -> pl.DataFrame:
        """Of each row that people saw: what holds, its votes, agreement and flags."""
        last = votes.filter(
            pl.col("counts") & (pl.col("purpose") == "work") & (pl.col("task") == "pair")
        )
        decided = last.filter(role="decision").select("row_id", _decided="vote")
        own = last.filter((pl.col("role") != "decision") & ~pl.col("informed"))
        counted = own.group_by("row_id").agg(
            *[(pl.col("vote") == v).sum().cast(pl.Int64).alias(v) for v in VOTES],
            human_flags=pl.col("flag").is_not_null().sum().cast(pl.Int64),
        )
        counted = counted.join(decided, on="row_id", how="full", coalesce=True)
        counted = counted.with_columns(pl.col(*VOTES, "human_flags").fill_null(0))
        total, most = pl.sum_horizontal(VOTES), pl.max_horizontal(VOTES)
        leads = [pl.when(pl.col(v) == most).then(pl.lit(v)) for v in VOTES]
        alone = pl.sum_horizontal(*[(pl.col(v) == most).cast(pl.Int8) for v in VOTES]) == 1
        leader = pl.when(alone).then(pl.coalesce(leads))
        if self.method == "dawid-skene" and self.file is not None:
            found = _consensus(*stamp(self.file), self.sure, self.draws)
            counted = counted.join(found, on="row_id", how="left")
            leader = pl.when(pl.col("verdict").is_in(VOTES)).then("verdict")
        else:
            counted = counted.with_columns(pl.lit(None, pl.Float64).alias(c) for c in POSTERIOR)
        voted = pl.when(total >= self.min_votes).then(leader)
        holds = pl.coalesce("_decided", voted, pl.lit("undecided"))
        behind = pl.coalesce(
            *[pl.when(holds == v).then(pl.col(v)) for v in VOTES], most
        )  # votes for what holds
        return counted.with_columns(_holds=holds).select(
            "row_id",
            *_oriented(holds == "second", pl.col("_decided").is_null()),
            "human_flags",
            "_holds",
            human_votes=total.cast(pl.Int64),
            human_agreement=pl.when(total > 0).then(behind / total),
        )

    def _relabelled(self, kept: pl.DataFrame) -> pl.DataFrame:
        """The pairs that stay, some turned round, after those with the same id that were not."""
        turn = kept.select((pl.col("_holds") == "second").fill_null(value=False)).to_series()
        human = pl.col("_holds").is_in(["first", "second"]).fill_null(value=False)
        rows = turned(kept, turn, "human", "reviewed_from").with_columns(
            label_source=pl.when(human).then(pl.lit("human")).otherwise("label_source"),
            human_votes=pl.col("human_votes").fill_null(0),
            human_flags=pl.col("human_flags").fill_null(0),
            human_turned=turn,
            human_edit=pl.lit(value=False),
        )
        if "trust" in rows.columns:
            told = human & pl.col("human_posterior").is_not_null()
            rows = rows.with_columns(trust=pl.when(told).then("human_posterior").otherwise("trust"))
        return rows.drop("_holds").sort("pair_id", "human_turned", "reviewed_from")

    def _edited(self, table: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
        """A pair for each edit: the edit chosen, its original rejected."""
        said = votes.filter(pl.col("counts") & pl.col("answer").is_not_null())
        edits = [
            {"pair_id": row, "_side": SIDES[edit["side"] == "second"], "_text": edit["text"]}
            for row, answer in said.select("row_id", "answer").iter_rows()
            if (edit := json.loads(answer).get("edit"))
        ]
        schema = {"pair_id": pl.String, "_side": pl.String, "_text": pl.String}
        rows = pl.DataFrame(edits, schema=schema).join(table, on="pair_id", maintain_order="left")
        second = rows["_side"] == "rejected"
        rows = (
            turned(rows, ~second, "human", "reviewed_from")
            if rows.height
            else rows.with_columns(reviewed_from="pair_id")
        )  # the original now is the rejected side, with all that is known of it
        original = pl.col("rejected")
        last = original.list.last().struct.with_fields(content="_text")
        edit = pl.concat_list(original.list.slice(0, original.list.len() - 1), last)
        named = {"chosen": edit, "chosen_model": pl.lit("human"), "label_source": pl.lit("human")}
        if "chosen_origin" in rows.columns:
            named["chosen_origin"] = pl.lit("human")
        judges = [c.removesuffix("prefers") for c in rows.columns if c.endswith("_prefers")]
        gone = {
            name: pl.lit(0.0 if name == "margin" else None, dtype)
            for name, dtype in table.schema.items()
            if name not in (*COLUMNS[Shape.PAIRS], *OF_PROMPT, *named)
            and _of_the_pair(name, dtype, table.schema, tuple(judges))
        }
        told = {
            **{name: pl.lit(None, pl.Float64) for name in POSTERIOR},
            "human_votes": pl.lit(1, pl.Int64),
            "human_agreement": pl.lit(1.0),
            "human_flags": pl.lit(0, pl.Int64),
            "human_turned": pl.lit(value=False),
            "human_edit": pl.lit(value=True),
        }
        rows = rows.with_columns(**gone).with_columns(**named, **told)
        return with_ids(rows, Shape.PAIRS).filter(pl.col("chosen_id") != pl.col("rejected_id"))


def _of_the_pair(
    name: str, dtype: pl.DataType, schema: Mapping[str, pl.DataType], judges: tuple[str, ...]
) -> bool:
    """Whether a column says something of a pair, or of its chosen answer, that an edit changes."""
    if other_side(name) != name:
        return "rejected" not in name
    if name in DEPENDENT or name.startswith(judges):
        return True
    return dtype != pl.String and name in turning(schema)


def read_annotations(path: Path | None) -> pl.DataFrame:
    """Read a Parquet file of annotations, in the order of their time; no rows without a path.

    Raises:
        ConfigError: it can't be read, or lacks columns.
    """
    if path is None:
        return pl.DataFrame(schema=COLUMNS[Shape.ANNOTATIONS])
    return _read(*stamp(path))


def stamp(path: Path) -> tuple[Path, int, int]:
    """A file and what tells whether it has changed.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(f"file: {str(path)!r} can't be read: {error.strerror}") from error
    return path.absolute(), stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=4)
def _consensus(path: Path, changed: int, size: int, sure: float, draws: int) -> pl.DataFrame:
    """What all votes of a file come to, once for all shards."""
    found = verdicts(_read(path, changed, size), sure=sure, draws=draws)
    names = dict(zip(("posterior", "low", "high"), POSTERIOR, strict=True))
    return found.select("row_id", "verdict", *names).rename(names)


def _oriented(turn: pl.Expr, told: pl.Expr) -> list[pl.Expr]:
    """Posterior of the label that holds, with its interval, where votes made it."""
    value, low, high = (pl.when(told).then(pl.col(name)) for name in POSTERIOR)
    ends = zip(POSTERIOR, (value, low, high), (1 - value, 1 - high, 1 - low), strict=True)
    return [pl.when(turn).then(b).otherwise(a).alias(name) for name, a, b in ends]


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path)
    except Exception as error:  # of Polars, which has no common base for them
        raise ConfigError(f"file: {str(path)!r} is no Parquet file: {error}") from error
    columns = COLUMNS[Shape.ANNOTATIONS]
    wrong = [n for n, dtype in columns.items() if table.schema.get(n) != dtype]
    if wrong:
        raise ConfigError(
            f"file: {str(path)!r} holds no annotations: {', '.join(wrong)} are missing, or of "
            "another type"
        )
    return table.select(list(columns)).sort("at", "vote_id")


def votes_digest(path: Path) -> str:
    """Digest of a file of votes.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return file_digest(path, "sha256")
    except OSError as error:
        raise ConfigError(f"file: {str(path)!r} can't be read: {error.strerror}") from error

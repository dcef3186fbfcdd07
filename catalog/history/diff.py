"""The difference between two versions, row by row and column by column, and what made it.

Rows are matched by id. A pair that is left over on both sides with the same two answers is the same
pair with its label turned. Columns are read one by one, so memory follows the ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from catalog.arrow_folder import Table
from catalog.manifest import Manifest
from catalog.versions import Version
from prefactory.errors import ConfigError
from prefactory.folders import new_file
from prefactory.identity import differences
from prefactory.tables import COLUMNS, OF_PROMPT, ROW_ID, SCORE, Shape
from prefactory.turned import turning

CHANGES = ("added", "removed", "relabelled", "rescored", "changed", "moved")
"""What may have become of a row, the gravest first.

`relabelled`: the same two answers with their sides turned; `rescored`: a score or the margin is
another; `changed`: another column is; `moved`: it is in another split.
"""
ROWS = {
    "change": pl.String(),
    "row_id": pl.String(),
    "old_id": pl.String(),
    "columns": pl.List(pl.String()),
    "step": pl.String(),
    "reason": pl.String(),
}
"""Columns of `TableDiff.rows`."""
MOST_FILES = 8
"""Files of a source that are named."""
_IN_THE_ID = {"images", *OF_PROMPT}
"""Columns that are part of the id of a row, beside those of its texts and ids."""
_IDS = ("chosen_id", "rejected_id")


@dataclass(frozen=True)
class TableDiff:
    """How one table differs.

    Attributes:
        name, shape: of the table.
        same: rows that are the same in both.
        counts: rows by `CHANGES`, without those of which there is none.
        columns: column -> rows that are in both and differ in it.
        new_columns, old_columns: that only the new, or the old, version has.
        rows: one row for each difference (`ROWS`): `row_id` in the new version (in the old one, if
            it was removed), `old_id` in the old one (null, if it was added), the `columns` that
            differ, and the `step` and `reason` by which the other version dropped it, if it did.
    """

    name: str
    shape: str
    same: int
    counts: dict[str, int]
    columns: dict[str, int]
    new_columns: list[str]
    old_columns: list[str]
    rows: pl.DataFrame


@dataclass(frozen=True)
class Diff:
    """The difference between two versions.

    Attributes:
        old, new: their refs.
        same_content: whether their content digests are equal.
        recipe: what is another in what decided the rows: sources, steps, seed, split.
        causes: column that differs -> the step that adds it, or `source`.
        tables: of both.
    """

    old: str
    new: str
    same_content: bool
    recipe: list[str]
    causes: dict[str, str]
    tables: list[TableDiff]

    def to_dict(self, most: int | None = None) -> dict[str, Any]:
        """As plain JSON data; of each table at most so many rows."""
        tables = []
        for table in self.tables:
            facts = {f.name: getattr(table, f.name) for f in fields(table) if f.name != "rows"}
            rows = table.rows if most is None else table.rows.head(most)
            tables.append({**facts, "rows": rows.to_dicts()})
        facts = {n: getattr(self, n) for n in ("old", "new", "same_content", "recipe", "causes")}
        return {**facts, "tables": tables}

    def lines(self) -> list[str]:
        """It in words, a line each."""
        lines = [f"{self.old} -> {self.new}" + (": the same rows" if self.same_content else "")]
        for table in self.tables:
            told = [f"{table.same:,} same", *(f"{n:,} {c}" for c, n in table.counts.items())]
            lines.append(f"{table.name}: {', '.join(told)}")
            lines += [f"  {what}" for what in _dropped(table)]
            lines += [
                f"  {column}: {n:,} rows differ (by {self.causes.get(column, 'source')})"
                for column, n in table.columns.items()
            ]
            if table.new_columns:
                lines.append(f"  new columns: {', '.join(table.new_columns)}")
            if table.old_columns:
                lines.append(f"  columns that are gone: {', '.join(table.old_columns)}")
        lines += ["in the recipe:", *(f"  {line}" for line in self.recipe or ["nothing"])]
        return lines


def _dropped(table: TableDiff) -> list[str]:
    """By which steps of the other version rows are not in both."""
    ways = {"added": "dropped in the old version by", "removed": "dropped in the new version by"}
    counted = (
        table.rows.filter(pl.col("change").is_in(list(ways)), pl.col("step").is_not_null())
        .group_by("change", "step", "reason")
        .len()
        .sort("change", "len", "step", "reason", descending=[False, True, False, False])
    )
    return [f"{n:,} {c}: {ways[c]} {step} ({reason})" for c, step, reason, n in counted.rows()]


def diff(old: Version, new: Version) -> Diff:
    """Compare two versions, of one dataset or of two.

    Args:
        old: the version that is taken as before.
        new: the version that is taken as after.

    Raises:
        CatalogError: a file of a version is damaged.
    """
    before, after = old.manifest, new.manifest
    names = sorted({*before.tables, *after.tables})
    tables = [_compared(name, old, new) for name in names]
    return Diff(
        old.ref,
        new.ref,
        before.content_digest == after.content_digest,
        recipe_changes(before.payload, after.payload),
        _causes(after, [c for t in tables for c in (*t.columns, *t.new_columns)]),
        tables,
    )


def write_rows(found: Diff, path: Path) -> int:
    """Write every difference as a row (`ROWS` and `table`); return how many.

    Args:
        found: the difference.
        path: its ending says how: `.parquet`, `.jsonl` or `.csv`, where `columns` is one text.

    Raises:
        ConfigError: another ending.
    """
    every = [t.rows.select(pl.lit(t.name).alias("table"), pl.all()) for t in found.tables]
    rows = pl.concat(every) if every else pl.DataFrame(schema={"table": pl.String(), **ROWS})
    writers: dict[str, Callable[[BinaryIO], object]] = {
        ".parquet": rows.write_parquet,
        ".jsonl": rows.write_ndjson,
        ".csv": lambda file: rows.with_columns(pl.col("columns").list.join(" ")).write_csv(file),
    }
    if path.suffix not in writers:
        raise ConfigError(f"{path}: the file must end in {', '.join(writers)}")
    with new_file(path) as file:
        writers[path.suffix](file)
    return rows.height


def _compared(name: str, old: Version, new: Version) -> TableDiff:
    sides = [v.table(name) if name in v.manifest.tables else None for v in (old, new)]
    there = next(t for t in sides if t is not None)
    before, after = (t or _NoTable(there) for t in sides)
    found = table_diff(name, before, after)
    reasons = [_ledger(v, found.rows["row_id"]) for v in (old, new)]
    dropped = pl.concat(
        rows.with_columns(change=pl.lit(change))
        for rows, change in zip(reasons, ("added", "removed"), strict=True)
    )
    rows = found.rows.drop("step", "reason").join(
        dropped, on=["change", "row_id"], how="left", maintain_order="left"
    )
    return replace(found, rows=rows.select(list(ROWS)))


def _ledger(version: Version, ids: pl.Series) -> pl.DataFrame:
    found = version.ledger().select("row_id", "step", "reason")
    return found.filter(pl.col("row_id").is_in(ids.implode())).unique("row_id")


class _NoTable:
    """A table that one of two versions has not: the columns of the other, and no rows."""

    def __init__(self, other: Table) -> None:
        self.shape, self.schema = other.shape, other.schema

    def frame(self) -> pl.LazyFrame:
        return pl.LazyFrame(schema={**self.schema, "split": pl.String()})


def table_diff(name: str, old: Table | _NoTable, new: Table | _NoTable) -> TableDiff:
    """Compare two tables of one shape, without what the versions around them know.

    Args:
        name: of the table.
        old: the table before.
        new: the table after.

    Returns:
        The differences; `step` and `reason` are null.
    """
    shape = new.shape
    matched, left = _matched(_keys(old.frame(), shape), _keys(new.frame(), shape), shape)
    common = [c for c in new.schema if c in old.schema and c not in _settled(shape)]
    turned = turning(old.schema) if shape == Shape.PAIRS else {}
    differing: dict[str, pl.Series] = {}
    for column in [*common, "split"]:
        unequal = _unequal(old.frame(), new.frame(), column, matched, turned)
        if unequal.any():
            differing[column] = unequal
    rows = _rows(matched, left, differing)
    counts = dict(rows.group_by("change").len().rows())
    return TableDiff(
        name,
        shape.value,
        matched.height - rows.filter(pl.col("old_id").is_not_null()).height
        + counts.get("removed", 0),
        {change: counts[change] for change in CHANGES if change in counts},
        {column: int(unequal.sum()) for column, unequal in differing.items()},
        [c for c in new.schema if c not in old.schema],
        [c for c in old.schema if c not in new.schema],
        rows,
    )  # fmt: skip


def _settled(shape: Shape) -> set[str]:
    """Columns that can't differ where the ids are equal."""
    of_id = {c for c in COLUMNS[shape] if c.endswith("_id") and c != "source_id"}
    texts = {c for c, dtype in COLUMNS[shape].items() if isinstance(dtype, pl.List)}
    return of_id | _IN_THE_ID | (texts if shape != Shape.ANNOTATIONS else set())


def _keys(rows: pl.LazyFrame, shape: Shape) -> pl.DataFrame:
    """`id`, `place` and, for pairs, `answers`: what is the same whichever side is better."""
    keys = [pl.col(ROW_ID[shape]).alias("id")]
    if shape == Shape.PAIRS:
        first, second = pl.min_horizontal(_IDS), pl.max_horizontal(_IDS)
        keys.append(pl.concat_str("prompt_id", first, second, separator=" ").alias("answers"))
    # evaluated here: the columns of an IO source can't be pushed through an index
    needed = [ROW_ID[shape], *(["prompt_id", *_IDS] if shape == Shape.PAIRS else [])]
    return rows.select(needed).collect().select(keys).with_row_index("place")


def _matched(
    old: pl.DataFrame, new: pl.DataFrame, shape: Shape
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of both (`place_old`, `place_new`, ids, `turned`), and those of one alone."""
    same = new.join(old, on="id", how="inner", suffix="_old", maintain_order="left").select(
        "place_old", "place", "id", old_id="id", turned=pl.lit(value=False)
    )
    gone = old.join(new, on="id", how="anti", maintain_order="left")
    come = new.join(old, on="id", how="anti", maintain_order="left")
    if shape == Shape.PAIRS:
        numbered = [
            t.with_columns(nth=pl.int_range(pl.len()).over("answers")) for t in (gone, come)
        ]
        both = numbered[1].join(
            numbered[0], on=["answers", "nth"], how="inner", suffix="_old", maintain_order="left"
        )
        same = pl.concat(
            [
                same,
                both.select("place_old", "place", "id", old_id="id_old", turned=pl.lit(value=True)),
            ]
        )
        gone = gone.filter(~pl.col("id").is_in(both["id_old"].implode()))
        come = come.filter(~pl.col("id").is_in(both["id"].implode()))
    left = pl.concat(
        [
            come.select(
                pl.lit("added").alias("change"), row_id="id", old_id=pl.lit(None, pl.String)
            ),
            gone.select(pl.lit("removed").alias("change"), row_id="id", old_id="id"),
        ]
    )
    return same, left


def _unequal(
    old: pl.LazyFrame,
    new: pl.LazyFrame,
    column: str,
    matched: pl.DataFrame,
    turned: Mapping[str, pl.Expr],
) -> pl.Series:
    """Of each matched row, whether it differs in a column, its sides turned if they are."""
    expr = turned.get(column, pl.col(column))
    needed = sorted({column, *expr.meta.root_names()})
    before = old.select(needed).collect()
    after = new.select(column).collect()[column].gather(matched["place"])
    plain = before[column].gather(matched["place_old"])
    mirrored = before.select(expr.alias(column))[column].gather(matched["place_old"])
    dtype = after.dtype
    rows = pl.DataFrame({"a": after, "b": plain, "c": mirrored, "t": matched["turned"]})
    if plain.dtype != dtype:  # its type has changed: compared as text where that is possible
        if any(d.is_nested() for d in (dtype, plain.dtype)):
            return pl.repeat(value=True, n=matched.height, eager=True)
        rows = rows.with_columns(pl.col("a", "b", "c").cast(pl.String))
    return rows.select(
        pl.when("t")
        .then(pl.col("a").ne_missing(pl.col("c")))
        .otherwise(pl.col("a").ne_missing(pl.col("b")))
    ).to_series()


def _rows(
    matched: pl.DataFrame, left: pl.DataFrame, differing: Mapping[str, pl.Series]
) -> pl.DataFrame:
    names = [
        pl.when(unequal).then(pl.lit(name)).otherwise(pl.lit(None, pl.String))
        for name, unequal in differing.items()
    ]
    change: Any = pl.when("turned").then(pl.lit("relabelled"))
    for what in CHANGES[3:]:
        flags = [pl.lit(unequal) for name, unequal in differing.items() if _kind(name) == what]
        if flags:
            change = change.when(pl.any_horizontal(flags)).then(pl.lit(what))
    columns = pl.concat_list(names).list.drop_nulls() if names else pl.lit([], pl.List(pl.String))
    both = matched.select(change.alias("change"), "old_id", columns.alias("columns"), row_id="id")
    both = both.filter(pl.col("change").is_not_null())
    every = pl.concat([both, left], how="diagonal").with_columns(
        pl.col("columns").fill_null([]),
        step=pl.lit(None, pl.String),
        reason=pl.lit(None, pl.String),
    )
    order = pl.col("change").replace_strict(dict(zip(CHANGES, range(len(CHANGES)), strict=True)))
    return every.select(list(ROWS)).sort(order, "row_id")


def _kind(column: str) -> str:
    """What a row is called that differs in this column and in none of a graver kind."""
    score = column.removeprefix("chosen_").removeprefix("rejected_").startswith(SCORE)
    return (
        "moved" if column == "split" else "rescored" if score or column == "margin" else "changed"
    )


def recipe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is another in two payloads of manifests, a line each; steps are matched by label."""
    plain = [{k: v for k, v in p.items() if k not in ("steps", "sources")} for p in (old, new)]
    lines = differences(plain[0], plain[1]) + _source_changes(old["sources"], new["sources"])
    steps = [{s["label"]: s for s in p["steps"]} for p in (old, new)]
    lines += [
        f"step {label}: only in the old recipe" for label in steps[0] if label not in steps[1]
    ]
    lines += [
        f"step {label}: only in the new recipe" for label in steps[1] if label not in steps[0]
    ]
    for label, (a, b) in _in_both(*steps):
        lines += [f"step {label}: {w}" for w in differences(a, b)]
    orders = [[label for label in s if label in steps[0] and label in steps[1]] for s in steps]
    if orders[0] != orders[1]:
        lines.append(f"order of the steps: {', '.join(orders[0])} -> {', '.join(orders[1])}")
    return lines


def _in_both(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    return [(name, (old[name], new[name])) for name in old if name in new]


def _source_changes(old: Sequence[Any], new: Sequence[Any]) -> list[str]:
    """What is another in the sources, a line each; they and their files are matched by name."""
    named = [{str(s.get("name", i)): s for i, s in enumerate(sources)} for sources in (old, new)]
    lines: list[str] = []
    for name, both in _in_both(*named):
        lines += _file_changes(name, *({f["name"]: f for f in s.get("files", [])} for s in both))
    plain = [
        {name: {k: v for k, v in s.items() if k != "files"} for name, s in sources.items()}
        for sources in named
    ]
    return lines + [f"source {line}" for line in differences(plain[0], plain[1])]


def _file_changes(source: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which files of a source came, went and changed, a line each of these."""
    kinds = {
        "new files": [name for name in new if name not in old],
        "files that are gone": [name for name in old if name not in new],
        "files with other content": [n for n, (a, b) in _in_both(old, new) if a != b],
    }
    return [f"source {source}: {what}: {_listed(names)}" for what, names in kinds.items() if names]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_FILES
    return ", ".join(names[:MOST_FILES]) + (f" and {more:,} more" if more > 0 else "")


def _causes(manifest: Manifest, columns: Sequence[str]) -> dict[str, str]:
    """Which stage of a version adds a column."""
    by: dict[str, str] = {}
    for stage in manifest.stages:
        by |= dict.fromkeys(stage.adds, stage.label)
    return {c: by[c] for c in columns if c in by} | (
        {"split": "publish"} if "split" in columns else {}
    )

"""What became of a row, and why: its way through the stages of a published version.

The version tells what was dropped where (`ledger.parquet`), by which rule (`manifest.json`), and
what stayed (its tables). The texts of rows that were dropped are in the store of intermediate
results only, as long as it is kept; without it they are told by id, reason and detail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from catalog.arrow_folder import Table
from catalog.manifest import StageRecord
from prefactory import notebook
from prefactory.errors import DataError, StoreError
from prefactory.store import Store
from prefactory.tables import ROW_ID, Shape, message_text, text_of

MOST = 5
"""Rows that one question is answered for."""
_ID = re.compile(r"[0-9a-f]{8,32}")
_ORDER = (Shape.PAIRS, Shape.RESPONSES, Shape.PROMPTS)


@dataclass(frozen=True)
class Verdict:
    """What one stage did with a row.

    Attributes:
        stage: its label.
        verdict: `kept`, `dropped`, `made` (the row begins here), `earlier` (it was not made yet),
            `turned` (its table became one of another shape: see its relatives) or `not reached`.
        reason, detail: of the ledger, if it was dropped.
        rule: the step's fields that are set.
        adds: values of the columns that the stage added, if the row is at hand.
    """

    stage: str
    verdict: str
    reason: str | None = None
    detail: str | None = None
    rule: dict[str, Any] = field(default_factory=dict)
    adds: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Relative:
    """Another row that a row names (by a column, or as `chosen`, `rejected`) or is `named by`."""

    relation: str
    row_id: str
    fate: str


@dataclass(frozen=True)
class Explained:
    """The way of one row.

    Attributes:
        row_id: its id, or `file:line` of a record that became no row.
        shape: of its table; `record` for what is no row.
        fate: where it is published, or what took it out.
        texts: column -> text, empty if the row is not at hand.
        source: `file:line` of its record, if known.
        verdicts: of the stages, in order.
        relatives: rows that it was made from or went into.
    """

    row_id: str
    shape: str
    fate: str
    texts: dict[str, str]
    source: str | None
    verdicts: list[Verdict]
    relatives: list[Relative]


@dataclass(frozen=True)
class Explanation:
    """What was found for a question.

    Attributes:
        ref: `name@version`.
        rows: up to `MOST` rows, published ones first.
        found: how many there are.
    """

    ref: str
    rows: list[Explained]
    found: int

    def _repr_html_(self) -> str:
        return "".join(
            notebook.table(
                f"{row.shape.removesuffix('s')} {row.row_id} of {self.ref}: {row.fate}",
                ("stage", "verdict", "reason", "detail"),
                [(v.stage, v.verdict, v.reason, v.detail) for v in row.verdicts],
            )
            for row in self.rows
        )


def explain(
    ref: str,
    stages: Sequence[StageRecord],
    tables: Mapping[str, Table],
    ledger: pl.DataFrame,
    store: Path,
    question: str,
) -> Explanation:
    """Explain rows of a version (see `Version.explain`).

    Raises:
        DataError: nothing is found.
    """
    search = _Search(stages, tables, ledger, store, " ".join(question.split()))
    ids = search.ids()
    if not ids:
        kept = "" if store.is_dir() else f"; the store {store}, which had other texts, is gone"
        raise DataError(
            f"{ref} has no row with id, source or text {question!r}, and its ledger has no such "
            f"id{kept}"
        )
    return Explanation(ref, [search.explained(row_id) for row_id in ids[:MOST]], len(ids))


class _Search:
    """Rows, ledger and stages of one version."""

    def __init__(
        self,
        stages: Sequence[StageRecord],
        tables: Mapping[str, Table],
        ledger: pl.DataFrame,
        store: Path,
        question: str,
    ) -> None:
        self.stages = stages
        self.tables = tables
        self.ledger = ledger
        self.question = question
        self._store = Store(store)
        self._stored = sorted(store.glob("objects/*/*/rows*.arrow"))

    def ids(self) -> list[str]:
        """Ids of the rows that are asked for."""
        asked = self.question
        if _ID.fullmatch(asked.lower()):
            asked = asked.lower()
            in_ledger = pl.col("row_id").str.starts_with(asked)
            tests = [pl.col(name).str.starts_with(asked) for name in ROW_ID.values()]
        else:
            in_ledger = pl.col("row_id") == asked
            tests = [pl.col("source_id") == asked]
        row_ids = self._ids_where(tests)
        row_ids += self.ledger.filter(in_ledger)["row_id"].to_list()
        if not row_ids:
            row_ids = self._ids_where([_holds(name, asked) for name in _TEXTS])
        return list(dict.fromkeys(row_ids))

    def _ids_where(self, tests: list[pl.Expr]) -> list[str]:
        """Ids of rows that pass a test; a pair before its answers, published rows first."""
        for only_published in (True, False):
            for shape in _ORDER:
                row_ids = []
                for rows in self._tables(shape, only_published):
                    fit = [t for t in tests if set(t.meta.root_names()) <= set(rows.columns)]
                    if fit:
                        hits = rows.filter(pl.any_horizontal(fit))
                        row_ids += hits[ROW_ID[shape]].head(1000).to_list()
                if row_ids:
                    return row_ids
        return []

    def _tables(self, shape: Shape, only_published: bool) -> Iterator[pl.DataFrame]:
        if only_published:
            for name, table in self.tables.items():
                for split in table.splits if table.shape == shape else ():
                    for batch in table.batches(split=split):
                        yield batch.with_columns(_table=pl.lit(f"{name}/{split}"))
            return
        for path in self._stored:
            try:
                rows = self._store.read(path.parent.name, path.stem)
            except StoreError:
                continue  # a damaged object counts as absent
            if _shape(rows.columns) == shape:
                yield rows

    def row(self, row_id: str) -> tuple[Shape, dict[str, Any]] | None:
        """A row by its id: as it was published, else as the store has it."""
        for only_published in (True, False):
            for shape in _ORDER:
                for rows in self._tables(shape, only_published):
                    hit = rows.filter(pl.col(ROW_ID[shape]) == row_id).head(1)
                    if hit.height:
                        return shape, hit.row(0, named=True)
        return None

    def children(self, row_id: str) -> list[str]:
        """Ids of rows that name this one as a side or a parent."""
        children = []
        for only_published in (True, False):
            for shape in _ORDER:
                for rows in self._tables(shape, only_published):
                    own = {ROW_ID[shape], "prompt_id", "source_id", "source", "_table"}
                    texts = [n for n, t in rows.schema.items() if t == pl.String and n not in own]
                    if texts:
                        hits = rows.filter(pl.any_horizontal(pl.col(n) == row_id for n in texts))
                        children += hits[ROW_ID[shape]].to_list()
        return [child for child in dict.fromkeys(children) if child != row_id]

    def explained(self, row_id: str) -> Explained:
        """The way of a row."""
        known = self.row(row_id)
        entries = self.ledger.filter(pl.col("row_id") == row_id).to_dicts()
        shape, row = known if known is not None else (None, {})
        parents = _parents(row, shape)
        children = self.children(row_id)
        relatives = [Relative(how, p, self._fate(p, self.row(p))) for p, how in parents.items()]
        relatives += [Relative("named by", c, self._fate(c, self.row(c))) for c in children[:MOST]]
        return Explained(
            row_id,
            shape.value if shape else ("row" if _ID.fullmatch(row_id) else "record"),
            self._fate(row_id, known),
            {n: text for n in _TEXTS if (text := _transcript(row.get(n)))},
            row.get("source_id"),
            self._verdicts(row, shape, entries),
            relatives,
        )

    def _fate(self, row_id: str, known: tuple[Shape, dict[str, Any]] | None) -> str:
        if known is not None and "_table" in known[1]:
            return f"published in {known[1]['_table']}"
        entries = self.ledger.filter(pl.col("row_id") == row_id).to_dicts()
        if entries:
            return f"dropped by {entries[0]['step']}: {entries[0]['reason']}"
        return "not published; other rows were made of it, or it belongs to another run"

    def _verdicts(
        self, row: dict[str, Any], shape: Shape | None, entries: list[dict[str, Any]]
    ) -> list[Verdict]:
        by_step = {entry["step"]: entry for entry in entries}
        begins = self._begins(row, shape)
        verdicts: list[Verdict] = []
        out = False
        for i, stage in enumerate(self.stages):
            entry = {} if out else by_step.get(stage.label, {})
            verdict = self._verdict(i, begins, shape, out=out, dropped=bool(entry))
            out = out or verdict in ("dropped", "turned")
            rule = {k: v for k, v in _plain(stage.fields).items() if v not in (None, [], {})}
            adds = {n: row[n] for n in _columns(stage) if n in row and verdict == "kept"}
            verdicts.append(
                Verdict(stage.label, verdict, entry.get("reason"), entry.get("detail"), rule, adds)
            )
        return verdicts

    def _verdict(self, i: int, begins: int, shape: Shape | None, out: bool, dropped: bool) -> str:
        if out:
            return "not reached"
        if dropped:
            return "dropped"
        if i < begins:
            return "earlier"
        if i == begins and i > 0:
            return "made"
        return "turned" if shape is not None and self.stages[i].shape != shape else "kept"

    def _begins(self, row: dict[str, Any], shape: Shape | None) -> int:
        """Number of the stage that made a row: the last that its columns show, else by shape."""
        if shape is None:
            return 0
        own = row[ROW_ID[shape]]
        makers = [i for i, stage in enumerate(self.stages) if stage.kind == "generator"]
        named = [
            i
            for i in makers
            if any(row.get(c) not in (None, own) for c in self.stages[i].adds if _names_parents(c))
        ]
        if named:
            return named[-1]
        turned = [i for i in makers if self.stages[i].shape == shape != self.stages[i - 1].shape]
        return turned[0] if turned and self.stages[0].shape != shape else 0


_TEXTS = ("prompt", "chosen", "rejected", "response")


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """JSON without nulls."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _names_parents(column: str) -> bool:
    """Whether a column names other rows."""
    return column.endswith(("_from", "_id", "_ids"))


def _columns(stage: StageRecord) -> list[str]:
    return [c for c in stage.adds if c not in _TEXTS] if stage.kind == "labeler" else []


def _shape(columns: list[str]) -> Shape | None:
    return next((shape for shape in _ORDER if ROW_ID[shape] in columns), None)


def _holds(column: str, text: str) -> pl.Expr:
    folded = text_of(pl.col(column)).str.replace_all(r"\s+", " ").str.to_lowercase()
    return folded.str.contains(text.lower(), literal=True)


def _transcript(messages: object) -> str:
    if not isinstance(messages, list):
        return ""
    return "\n".join(f"{m['role']}: {message_text(m)}" for m in messages if m)


def _parents(row: dict[str, Any], shape: Shape | None) -> dict[str, str]:
    """Ids of other rows that a row names, and how."""
    if shape is None:
        return {}
    own = (row.get(ROW_ID[shape]), row.get("prompt_id"))
    relations: dict[str, str] = {}
    named = ((n, v) for n, v in row.items() if _names_parents(n))
    for name, value in named:  # other columns hold marks of their own, such as `judge_question`
        for row_id in value if isinstance(value, list) else [value]:
            is_id = isinstance(row_id, str) and re.fullmatch("[0-9a-f]{32}", row_id)
            if is_id and row_id not in own:
                relations.setdefault(row_id, name.removesuffix("_id"))
    return relations

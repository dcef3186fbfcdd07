"""Pages of rows: lists, one row with its history, the ledger, and search over all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
from starlette.responses import Response

from catalog.explain import Explained
from catalog.versions import Version
from pipelines.needs import calls_of, needs, store_of
from pipelines.serve.site import PAGE, MissingError, asked, page_of, pages, site, version_of
from prefactory.errors import PrefactoryError, StoreError
from prefactory.pages.wording import num
from prefactory.tables import ROW_ID, Shape, text_of
from review.annotations import annotations_of
from review.app.core import Call, role
from review.app.text import html_of
from review.store import open_review

TEXTS = ("prompt", "chosen", "rejected", "response")
EXCERPT = 140
SHORT = ("label_source", "margin", "trust", "source", "split")
"""Columns that a list of rows shows, where they are."""
MOST_CALLS = 20
MOST_HITS = 100


@role("reader")
def table(call: Call) -> Response:
    """The rows of a table, those that hold a text if one is given."""
    version = version_of(call)
    name = str(call.request.path_params["table"])
    if name not in version.manifest.tables:
        raise MissingError(f"{version.ref} has no table {name!r}.")
    shape, wanted, at = Shape(version.manifest.tables[name].shape), asked(call, "q"), page_of(call)
    rows = version.frame(name)
    if wanted:
        rows = rows.filter(_holding(rows.collect_schema(), wanted))
    total = int(rows.select(pl.len()).collect().item())
    shown = rows.slice((at - 1) * PAGE, PAGE).collect()
    return call.page(
        "rows.html.j2", ref=version.ref, manifest=version.manifest, table=name, q=wanted,
        rows=_listed(shown, shape), columns=[c for c in SHORT if c in shown.columns],
        total=total, page=at, pages=pages(total),
    )  # fmt: skip


def _holding(schema: pl.Schema, wanted: str) -> pl.Expr:
    """Whether a row holds a text in one of its texts or plain columns, whatever the case."""
    texts = [text_of(pl.col(c)) for c in TEXTS if c in schema]
    plain = [pl.col(c) for c, dtype in schema.items() if dtype == pl.String]
    tests = [
        e.str.to_lowercase().str.contains(wanted.lower(), literal=True) for e in (*texts, *plain)
    ]
    return pl.any_horizontal(tests).fill_null(value=False)


def _listed(rows: pl.DataFrame, shape: Shape) -> list[dict[str, Any]]:
    key = ROW_ID[shape]
    text = next((c for c in ("prompt", "response") if c in rows.columns), None)
    said = text_of(pl.col(text)) if text else pl.lit("")
    rows = rows.with_columns(_said=said.str.slice(0, EXCERPT + 1))
    return [
        {
            "id": row[key],
            "said": _cut(row["_said"] or ""),
            "values": [_plain(row[c]) for c in SHORT if c in rows.columns],
        }
        for row in rows.select(key, "_said", *[c for c in SHORT if c in rows.columns]).to_dicts()
    ]


def _cut(text: str) -> str:
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}\u2026"


def _plain(value: object) -> str:
    if value is None:
        return ""
    return num(value) if isinstance(value, float) else _cut(str(value))


# -- the ledger ---------------------------------------------------------------------------------


@role("reader")
def ledger(call: Call) -> Response:
    """The rows that steps dropped, by step, reason and text."""
    version = version_of(call)
    step, reason, wanted = (asked(call, name) for name in ("step", "reason", "q"))
    every, at = version.ledger(), page_of(call)
    counts = every.group_by("step", "reason").len().sort("len", "step", "reason", descending=True)
    found = every.filter(
        pl.col("step") == step if step else pl.lit(value=True),
        pl.col("reason") == reason if reason else pl.lit(value=True),
        _in_ledger(wanted) if wanted else pl.lit(value=True),
    )
    shown = found.slice((at - 1) * PAGE, PAGE)
    rows = [{name: _plain(value) for name, value in row.items()} for row in shown.to_dicts()]
    return call.page(
        "ledger.html.j2", ref=version.ref, manifest=version.manifest, counts=counts.to_dicts(),
        rows=rows, step=step, reason=reason, q=wanted, total=found.height, page=at,
        pages=pages(found.height),
    )  # fmt: skip


def _in_ledger(wanted: str) -> pl.Expr:
    return pl.any_horizontal(
        pl.col(c).str.to_lowercase().str.contains(wanted.lower(), literal=True)
        for c in ("row_id", "step", "reason", "detail")
    ).fill_null(value=False)


@role("reader")
def search(call: Call) -> Response:
    """A row id or its beginning, a step, a reason or a detail, in the ledgers of all versions."""
    wanted = asked(call, "q")
    hits: list[dict[str, Any]] = []
    for version in site(call).factory.catalog if len(wanted) >= 3 else ():
        hits += list(_hits(version, wanted, MOST_HITS - len(hits)))
        if len(hits) >= MOST_HITS:
            break
    return call.page("search.html.j2", q=wanted, hits=hits, most=MOST_HITS)


def _hits(version: Version, wanted: str, most: int) -> Iterator[dict[str, Any]]:
    """Published rows whose id begins so, then rows of the ledger; newest versions come last."""
    manifest = version.manifest
    base = {"ref": version.ref, "name": manifest.name, "version": manifest.version}
    for name, record in manifest.tables.items():
        key = ROW_ID[Shape(record.shape)]
        found = version.frame(name).select(key).collect()[key]
        for row_id in found.filter(found.str.starts_with(wanted.lower())).head(most):
            yield base | {"id": row_id, "what": f"published in {name}"}
    for row in version.ledger().filter(_in_ledger(wanted)).head(most).to_dicts():
        what = ": ".join(filter(None, (row["step"], row["reason"], row["detail"])))
        yield base | {"id": row["row_id"], "what": _cut(what)}


# -- one row --------------------------------------------------------------------------------------


def explained(call: Call, version: Version) -> Explained:
    """What became of the row of an address.

    Raises:
        MissingError: the version knows no such row.
    """
    row_id = str(call.request.path_params["row"])
    try:
        found = version.explain(row_id, store_of(site(call).factory, version))
    except PrefactoryError as error:
        raise MissingError(str(error)) from error
    return next((row for row in found.rows if row.row_id == row_id), found.rows[0])


@role("reader")
def row(call: Call) -> Response:
    """One row: its texts and columns, its way, votes, judges' votes and calls, who reads it."""
    version = version_of(call)
    found = explained(call, version)
    values = _published(version, found.row_id)
    calls = calls_of(site(call).factory, found)
    return call.page(
        "row.html.j2", ref=version.ref, manifest=version.manifest, row=found,
        texts=[(name, html_of(text)) for name, text in found.texts.items()],
        verdicts=[_verdict(v) for v in found.verdicts],
        columns=[(k, _plain(v)) for k, v in values.items() if _is_plain(v)],
        judged=_judged(values), votes=_votes(call, version, found.row_id, values),
        calls=[
            {c: _plain(r[c]) for c in ("step", "role", "model", "key", "text")}
            for r in calls.head(MOST_CALLS).to_dicts()
        ],
        users=_users(call, version), elsewhere=list(_elsewhere(call, version, found.row_id)),
    )  # fmt: skip


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _published(version: Version, row_id: str) -> dict[str, Any]:
    """The columns of a published row, without its texts; nothing if it is in no table."""
    for name, record in version.manifest.tables.items():
        key = ROW_ID[Shape(record.shape)]
        rows = version.frame(name).filter(pl.col(key) == row_id).head(1).collect()
        if rows.height:
            held = rows.drop([c for c in TEXTS if c in rows.columns]).row(0, named=True)
            return {"table": name} | held
    return {}


def _verdict(verdict: Any) -> dict[str, Any]:  # noqa: ANN401 - `catalog.explain.Verdict`
    why = ": ".join(filter(None, (verdict.reason, verdict.detail)))
    rule = ", ".join(f"{k} {v}" for k, v in verdict.rule.items())
    adds = ", ".join(f"{k} {_plain(v)}" for k, v in verdict.adds.items() if _is_plain(v))
    return {
        "stage": verdict.stage,
        "verdict": verdict.verdict,
        "why": why,
        "rule": _cut(rule),
        "adds": adds,
    }


def _judged(values: dict[str, Any]) -> list[dict[str, str]]:
    """The votes that judges of `labelers.JudgePairs` gave on a pair, one each."""
    found = []
    for column, votes in values.items():
        if not column.endswith("_votes") or not isinstance(votes, list):
            continue
        for vote in votes:
            if isinstance(vote, dict):
                told = ", ".join(f"{k} {_plain(v)}" for k, v in vote.items() if v is not None)
                found.append({"judge": column.removesuffix("_votes"), "said": told})
    return found


def _votes(
    call: Call, version: Version, row_id: str, values: dict[str, Any]
) -> list[dict[str, str]]:
    """People's votes on a row: of the version's own table, and of reviews of this home.

    People are pseudonyms here, whatever the reviews call them.
    """
    ids = [row_id, *filter(None, [values.get("reviewed_from")])]
    tables = []
    if "annotations" in version.manifest.tables:
        own = version.frame("annotations").filter(pl.col("row_id").is_in(ids)).collect()
        tables.append(own.drop("split", strict=False))
    for name in _reviews_with(call, ids):
        review = open_review(site(call).factory.home, name)
        try:
            tables.append(annotations_of(review).filter(pl.col("row_id").is_in(ids)))
        finally:
            review.db.close()
    if not tables:
        return []
    votes = pl.concat(tables).unique("vote_id", keep="first", maintain_order=True).sort("at")
    names = ("person", "role", "vote", "review", "comment", "flag")
    return [
        {n: _plain(v[n]) for n in names}
        | {"at": f"{v['at']:%Y-%m-%d %H:%M}", "counts": "yes" if v["counts"] else "no"}
        for v in votes.to_dicts()
    ]


def _reviews_with(call: Call, ids: list[str]) -> list[str]:
    """Names of the reviews whose queue holds a row."""
    home, found = site(call).factory.home, []
    for path in sorted(p for p in (home / "reviews").glob("*") if p.is_dir()):
        try:
            review = open_review(home, path.name)
        except PrefactoryError:
            continue
        try:
            marks = ", ".join("?" * len(ids))
            with review.db.read() as work:
                sql = f"select 1 from task where row_id in ({marks}) limit 1"  # noqa: S608 - marks
                if work.value(sql, *ids) is not None:
                    found.append(path.name)
        finally:
            review.db.close()
    return found


def _users(call: Call, version: Version) -> list[tuple[str, str]]:
    """Models and reviews that were made of the version: (kind, name)."""
    try:
        used = needs(site(call).factory.home).get(version.ref, [])
    except StoreError as error:
        return [("not known", str(error))]
    return [(kind, name) for kind, _, name in (u.partition(" ") for u in used)]


def _elsewhere(call: Call, version: Version, row_id: str) -> Iterator[dict[str, str]]:
    """Other versions that hold the row, or one that was made of it by a review."""
    for other in site(call).factory.catalog:
        if other.ref == version.ref:
            continue
        for name, record in other.manifest.tables.items():
            key = ROW_ID[Shape(record.shape)]
            known = [c for c in (key, "reviewed_from") if c in record.columns]
            rows = other.frame(name).select(known).collect()
            rows = rows.filter(pl.any_horizontal(pl.col(c) == row_id for c in known)).head(1)
            for there in rows[key]:
                how = "the same row" if there == row_id else "turned round or edited from it"
                yield {
                    "name": other.manifest.name, "version": other.manifest.version,
                    "table": name, "id": there, "how": how,
                }  # fmt: skip

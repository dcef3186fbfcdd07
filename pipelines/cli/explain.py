"""`prefactory explain`: why a row of a version is there, or is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipelines.cli.catalog import AsJson, Ref
from pipelines.terminal import write_json

if TYPE_CHECKING:
    from catalog.explain import Explained, Verdict

_TEXT, _RULE = 300, 160


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(explain)


def explain(
    ref: Ref,
    row: Annotated[
        str,
        typer.Argument(
            help="Id of a row or its beginning, FILE:LINE of a source, or a piece of its text."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Tell what every stage said of a row: kept or dropped, by which rule and limit, and why."""
    from pipelines.needs import store_of
    from pipelines.settings import Settings

    settings = Settings()
    version = settings.catalog.get(ref)
    answer = version.explain(row, store_of(settings, version))
    if as_json:
        rows = [asdict(r) for r in answer.rows]
        data = {"version": answer.ref, "found": answer.found, "rows": rows}
        write_json(data)
        return
    console = Console(highlight=False, soft_wrap=True)
    for explained in answer.rows:
        _show(console, answer.ref, explained)
    if answer.found > len(answer.rows):
        more = answer.found - len(answer.rows)
        console.print(f"... and {more:,} more rows: give more of the text, or an id")


def _show(console: Console, ref: str, row: Explained) -> None:
    console.print(f"[bold]{row.shape.removesuffix('s')} {row.row_id}[/] of {ref}: ", end="")
    console.print(row.fate, markup=False)
    if row.source:
        console.print(f"  from {row.source}", markup=False)
    for name, text in row.texts.items():
        console.print(f"  {name:9} {_one_line(text, _TEXT)}", markup=False)
    if not row.texts:
        console.print("  its text is neither in the version nor in the store", markup=False)
    width = max((len(v.stage) for v in row.verdicts), default=0)
    for verdict in row.verdicts:
        style = "bold red" if verdict.verdict == "dropped" else ""
        line = f"  {verdict.stage:{width}}  {verdict.verdict:11} {_why(verdict)}"
        console.print(line.rstrip(), style=style, markup=False)
    for relative in row.relatives:
        console.print(f"  {relative.relation} {relative.row_id}: {relative.fate}", markup=False)
    console.print()


def _why(verdict: Verdict) -> str:
    parts = []
    if verdict.reason:
        parts.append(f"{verdict.reason}: {verdict.detail or ''}".rstrip(": "))
    if verdict.adds:
        parts.append(", ".join(f"{n} {_value(v)}" for n, v in verdict.adds.items()))
    if verdict.verdict in ("kept", "dropped", "made") and verdict.rule:
        fields = {name: _value(value) for name, value in verdict.rule.items()}
        order = sorted(fields, key=lambda n: len(fields[n]) > 40)
        rule = ", ".join(f"{n}={fields[n]}" for n in order)
        parts.append(f"[{_one_line(rule, _RULE)}]")
    return "  ".join(parts)


def _value(value: Any) -> str:  # noqa: ANN401 - whatever a field or a column holds
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False, default=str)


def _one_line(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."

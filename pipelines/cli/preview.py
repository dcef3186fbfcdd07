"""`prefactory preview`: the first rows through a recipe, and what its models are asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from pipelines.cli.catalog import AsJson
from pipelines.cli.run import Overrides, RecipePath
from pipelines.terminal import write_json

if TYPE_CHECKING:
    import polars as pl

    from pipelines.preview import Asked, Preview

_SHOWN = 2000


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(preview)


def preview(
    recipe: RecipePath,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="Prompts or pairs to look at.", min=1, max=1000)] = 3,
    call: Annotated[bool, typer.Option(help="Ask the models; their answers are kept.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the first rows become, and word for word what the models are asked."""
    from pipelines.build import check_recipe
    from pipelines.preview import preview as look
    from pipelines.settings import Settings

    checked, sources, _ = check_recipe(recipe, overrides or [])
    seen = look(checked, sources, Settings(), rows, call)
    if as_json:
        write_json(_machine(seen))
    else:
        _show(seen, rows)


def _machine(seen: Preview) -> dict[str, Any]:
    from pipelines.preview import answer_of
    from prefactory.images.media import in_words

    stages = []
    for looked in seen.stages:
        asked = [
            {
                "model": a.model,
                "messages": list(a.request.conversation),
                "sampling": a.request.sampling.of_one_sample(),
                "sample": a.request.sample,
                "answer": answer_of(a),
            }
            for a in looked.asked
        ]
        counts = looked.stage and {
            "rows_in": looked.stage.rows_in,
            "rows_out": looked.stage.rows_out,
            "reasons": looked.stage.reasons,
        }
        stages.append({"label": looked.label, "asked": asked, **(counts or {})})
    tables = {name: in_words(table.to_dicts()) for name, table in seen.tables.items()}
    return {"stages": stages, "stopped": seen.stopped, "tables": tables}


def _show(seen: Preview, rows: int) -> None:
    from pipelines.build import stage_line

    console = Console(highlight=False, soft_wrap=True)
    for looked in seen.stages:
        line = stage_line(looked.stage) if looked.stage else looked.label
        console.print(line, style="bold" if looked.asked else "", markup=False)
        for asked in looked.asked[:rows]:
            _show_asked(console, asked)
        if len(looked.asked) > rows:
            console.print(f"  ... and {len(looked.asked) - rows:,} more calls", markup=False)
    for name, table in seen.tables.items():
        console.print(f"\n[bold]{name}[/]: {table.height} rows; the first:")
        if table.height:
            _show_row(console, table)
    if seen.stopped:
        console.print(f"\nstopped: {seen.stopped}", markup=False)


def _show_asked(console: Console, asked: Asked) -> None:
    from pipelines.preview import answer_of
    from prefactory.tables import message_text

    sampling = asked.request.sampling
    title = (
        f"{asked.model}, temperature {sampling.temperature:g}, at most {sampling.max_tokens} tokens"
        + (", JSON by schema" if sampling.json_schema else "")
    )
    parts = [(m["role"], message_text(m)) for m in asked.request.conversation]
    answer = answer_of(asked)
    parts += [("-> answer", answer)] if answer is not None else []
    body = Text()
    for i, (role, content) in enumerate(parts):
        body.append(f"{chr(10) if i else ''}{role}: ", style="bold cyan")
        body.append(_beginning(content) + "\n")
    body.rstrip()
    panel = Panel(body, title=Text(title), title_align="left")
    console.print(panel, soft_wrap=False)  # soft wrap cuts what is wider than the panel


def _show_row(console: Console, table: pl.DataFrame) -> None:
    from prefactory.images.media import in_words

    for name, value in table.row(0, named=True).items():
        text = value if isinstance(value, str) else json.dumps(in_words(value), ensure_ascii=False)
        if value is not None:
            console.print(f"  {name}: {_beginning(text, 300)}", markup=False)


def _beginning(text: str, most: int = _SHOWN) -> str:
    return (
        text if len(text) <= most else f"{text[:most]} ... ({len(text) - most:,} more characters)"
    )

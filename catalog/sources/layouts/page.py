"""The layouts as a page: what each reads, and a record of it."""

from __future__ import annotations

import json

from catalog.sources.fields import Field
from catalog.sources.layouts import LAYOUTS
from catalog.sources.layouts.base import Layout
from catalog.sources.parts import PARTS

START, END = (
    "<!-- layouts: made by `python -m catalog.sources.layouts.page` -->",
    "<!-- /layouts -->",
)
MOST = 6
"""Names of a field that are shown."""


def layouts_page() -> str:
    """Every layout with its columns and records of it, and what else `mapping` can name."""
    parts = [_section(entry) for entry in LAYOUTS.values()]
    rows = "\n".join(f"| `{p.name}` | {p.kind} | {_names(p)} |" for p in PARTS)
    table = f"| key | what | columns |\n|---|---|---|\n{rows}"
    return "\n\n".join([START, *parts, "### In every layout", table, END])


def _section(entry: Layout) -> str:
    who = f", labelled by {entry.label_source}" if entry.label_source else ""
    forms = (entry, *(form for form in entry.alternatives if form.example))
    made = [*entry.makes, *(m.name for m in entry.carries)]
    rows = "\n".join(
        f"| `{f.name}` | {f.kind}{'' if f.required else ' (may be missing)'} | {_names(f)} |"
        for f in _fields(entry)
    )
    told = [
        f"### {entry.name}",
        f"{entry.about[0].upper()}{entry.about[1:]}. Rows: {entry.shape.value}{who}.",
        f"| key | what | columns |\n|---|---|---|\n{rows}",
        f"Makes {', '.join(f'`{name}`' for name in made)}." if made else "",
        "\n".join(_record(form) for form in forms if form.example),
    ]
    return "\n\n".join(part for part in told if part)


def _fields(entry: Layout) -> list[Field]:
    """Fields of all forms of a layout, each name once."""
    fields = {f.name: f for form in (*entry.alternatives, entry) for f in form.fields}
    return list(fields.values())


def _names(field: Field) -> str:
    names = [f"`{name}`" for name in field.candidates[:MOST]]
    more = len(field.candidates) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _record(form: Layout) -> str:
    return f"```json\n{json.dumps(form.example, ensure_ascii=False)}\n```"


def written(text: str) -> str:
    """A page with its part between the marks made anew."""
    before, after = text.partition(START)[0], text.partition(END)[2]
    return before + layouts_page() + after


if __name__ == "__main__":
    from pathlib import Path

    path = Path("docs/sources.md")
    path.write_text(written(path.read_text("utf-8")), "utf-8")

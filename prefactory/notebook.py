"""What the objects of the front door show in a notebook: small HTML, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table with a title; numbers get thousands separators, None is empty."""
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(_cell_text(cell)) for cell in row)
        )
        for row in rows
    )
    return Markup(
        "<p><b>{}</b></p><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
    ).format(title, head, body)


def _cell_text(cell: object) -> str:
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return "" if cell is None else str(cell)


class Page(str):
    """A whole HTML page as text; a notebook shows it in a frame of its own, shut off from it."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts" style="width:100%;height:40em;border:0" '
            f'srcdoc="{escape(str(self))}"></iframe>'
        )

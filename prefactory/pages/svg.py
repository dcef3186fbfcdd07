"""Build SVG elements as escaped markup."""

from __future__ import annotations

from markupsafe import Markup, escape


def el(name: str, *children: object, **attributes: object) -> Markup:
    """Return an element; every child and attribute value that is not markup is escaped.

    Args:
        name: tag name, never from data.
        children: markup or text.
        attributes: underscores stand for hyphens; a trailing one is dropped; None is left out.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup(f"<{name}{shown}>{inside}</{name}>")  # noqa: S704 - every part is escaped above


def figure(width: int, height: int, summary: str, *children: object) -> Markup:
    """Return an SVG picture that reads its summary to those who do not see it."""
    return el(
        "svg",
        el("title", summary),
        *children,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=summary,
        class_="chart",
    )


def text_at(
    x: float, y: float, text: str, anchor: str, style: str = "tick", transform: str | None = None
) -> Markup:
    """Return a text at a point; `anchor` says which part of it (start, middle, end) lies there."""
    return el("text", text, x=x, y=y, text_anchor=anchor, class_=style, transform=transform)


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value

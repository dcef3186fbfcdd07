"""Texts of the data as HTML that can do nothing: Markdown, code, formulas; no links or pictures.

Links, images and HTML stand as they were written; characters that turn the direction of a text
round are shown as marks.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from prefactory.extras import package
from prefactory.pages.wording import CONTROLS

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline

MOST = 60_000
"""Characters of one text that are laid out as Markdown; a longer one is plain."""
SHOWN = 200_000
"""Characters of one text that the page holds; the whole text is a page of its own."""
_TURNING = {
    code: f"\u27e8U+{code:04X}\u27e9"
    for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)
}
_VISIBLE = CONTROLS | _TURNING
_TAGS = {
    "p", "br", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "hr",
    "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
_LEVELS = {f"h{n}" for n in range(1, 7)}


def visible(text: str) -> str:
    """A text whose control and direction characters are marks, without lone surrogates."""
    return text.translate(_VISIBLE).encode("utf-8", "replace").decode("utf-8")


def html_of(text: str) -> Markup:
    """A text of the data as HTML."""
    text = visible(text)
    if len(text) > SHOWN:
        more = len(text) - SHOWN
        return Markup(
            '<pre class="plain">{}\u2026</pre><p class="cut">{:,} more characters</p>'
        ).format(text[:SHOWN], more)
    if len(text) > MOST:
        return Markup('<pre class="plain">{}</pre>').format(text)
    return markdown(text)


@lru_cache(maxsize=512)
def markdown(text: str) -> Markup:
    """Markdown as HTML of a few tags, cleaned after it is made."""
    html = _parser().render(text)
    nh3 = package("nh3")
    clean = nh3.clean(
        html,
        tags=_TAGS,
        attributes={"ol": {"start"}},
        allowed_classes={"p": _LEVELS, "code": {"math"}},
        link_rel=None,
    )
    return Markup(clean)  # noqa: S704 - nh3 has left nothing but the tags above


def guidelines_of(text: str) -> Markup:
    """Guidelines of ours as HTML; they are written by the owner, and yet cleaned as data is."""
    return markdown(visible(text)[:MOST])


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = package("markdown_it").MarkdownIt("commonmark", {"html": False})
    parser.enable(["table", "strikethrough"])
    # what is disabled stays in the text as it was written
    parser.disable(["link", "image", "autolink", "reference", "entity", "html_block"])
    parser.inline.ruler.before("escape", "math", _math)
    parser.add_render_rule("math", lambda _, tokens, at, *__: _formula(tokens[at].content))
    parser.add_render_rule(
        "heading_open", lambda _, tokens, at, *__: f'<p class="{tokens[at].tag}">'
    )
    parser.add_render_rule("heading_close", lambda *_: "</p>\n")
    return parser  # type: ignore[no-any-return]


_OPENINGS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
_PRICE = re.compile(r"\d")


def _math(state: StateInline, silent: bool) -> bool:
    """Keep formulas as they were written: `_` and `*` in them are no emphasis.

    A single dollar opens before what is no space, and closes after what is none and before no
    digit (as in pandoc), so that prices are prices.
    """
    for opening, closing in _OPENINGS:
        if not state.src.startswith(opening, state.pos):
            continue
        start = state.pos + len(opening)
        end = state.src.find(closing, start)
        if end <= start or (opening == "$" and not _is_formula(state.src, start, end)):
            return False
        if not silent:
            token: Any = state.push("math", "code", 0)
            token.content = state.src[state.pos : end + len(closing)]
        state.pos = end + len(closing)
        return True
    return False


def _is_formula(text: str, start: int, end: int) -> bool:
    after = text[end + 1 : end + 2]
    return not (text[start].isspace() or text[end - 1].isspace() or _PRICE.match(after))


def _formula(text: str) -> str:
    return f'<code class="math">{escape(text)}</code>'

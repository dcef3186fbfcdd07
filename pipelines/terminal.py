"""What reaches the terminal: no control sequences out of data.

A text of a dataset may hold escape sequences, which a terminal would obey: clear lines, rename the
window, fill the clipboard, turn the text around. What this process writes itself is colours, a live
line and progress bars: Rich knows which part of a line is text and which is colour, and only texts
are cleaned there; what is written without Rich is a text as a whole.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

_ODD = r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
"""Control signs of 7 and 8 bits but tabs and line feeds, and those that turn texts around."""
_SIGNS = re.compile(rf"{_ODD}|\r(?!\n)")
_IN_JSON = re.compile(_ODD)
_BAR = re.compile(r"(\r?)([^\r]*)(\r?)", re.DOTALL)
"""A bar of tqdm: back to the beginning of its line before or after it."""
_UP = re.compile(r"(\x1b\[A)+")
"""What tqdm writes between two bars, and nothing with it."""
SHOWN = "\N{SYMBOL FOR ESCAPE}"


def cleaned(text: str) -> str:
    """A text with a visible sign in the place of each control sign but tabs and line feeds."""
    return text if text.isprintable() else _SIGNS.sub(SHOWN, text)


def write_json(data: Any, **options: Any) -> None:  # noqa: ANN401 - JSON
    """Write JSON to the standard output; control signs of its texts as JSON writes them."""
    text = json.dumps(data, **{"indent": 2, "ensure_ascii": False, **options})
    sys.stdout.write(_IN_JSON.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text) + "\n")


class _Rendered(str):
    """What Rich made of cleaned texts and its own colours."""

    __slots__ = ()


class Guarded:
    """A stream whose texts are written without control sequences; all else is the stream's own."""

    def __init__(self, stream: TextIO, live: bool) -> None:
        """Stand before a stream.

        Args:
            stream: of texts.
            live: let through what progress bars need.
        """
        self._stream = stream
        self._live = live

    def write(self, text: str) -> int:
        """Write a text; a control sign of it becomes a visible one."""
        if not isinstance(text, _Rendered):
            bar = _BAR.fullmatch(text) if self._live else None
            if bar is not None:
                text = text if _UP.fullmatch(text) else f"{bar[1]}{cleaned(bar[2])}{bar[3]}"
            else:
                text = cleaned(text)
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)


def guard() -> None:
    """Put guards before both outputs of this process, and before all that Rich writes, once."""
    _clean_rich()
    if not isinstance(sys.stdout, Guarded):
        sys.stdout = Guarded(sys.stdout, live=False)
    if not isinstance(sys.stderr, Guarded):
        sys.stderr = Guarded(sys.stderr, live=sys.stderr.isatty())


def _clean_rich() -> None:
    from rich.console import Console
    from rich.file_proxy import FileProxy
    from rich.segment import Segment

    if hasattr(Console._render_buffer, "cleaned"):  # the one place that knows texts from colours
        return
    render, write = Console._render_buffer, FileProxy.write

    def rendered(console: Console, buffer: Iterable[Segment]) -> str:
        texts = (s if s.control else Segment(cleaned(s.text), _unlinked(s.style)) for s in buffer)
        return _Rendered(render(console, texts))

    def proxied(proxy: FileProxy, text: str) -> int:
        return write(proxy, cleaned(text))  # it would take the colours of a text for ours

    rendered.cleaned = True  # type: ignore[attr-defined]
    Console._render_buffer = rendered  # type: ignore
    FileProxy.write = proxied  # type: ignore


def _unlinked(style: Any) -> Any:  # noqa: ANN401 - a style, or None
    return style.update_link(None) if style is not None and style.link else style

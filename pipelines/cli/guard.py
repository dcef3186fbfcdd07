"""What reaches the terminal: no control sequences out of data.

A text of a dataset may hold escape sequences, which a terminal would obey: clear lines, rename the
window, fill the clipboard. What the command writes itself is colours, on the error output also a
live line. All else is shown as a sign.
"""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO

_COLOUR = r"\x1b\[[0-9;]*m"
_LIVE = r"\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\x1b\[2K|\x1b\[1G"
_CONTROL = r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]"
_BACK = r"\r(?!\n)"
"""Back to the beginning of the line, over what stands there; progress bars do so."""
SHOWN = "\N{SYMBOL FOR ESCAPE}"


class Guarded:
    """A stream whose texts are written without control sequences; all else is the stream's own."""

    def __init__(self, stream: TextIO, live: bool) -> None:
        """Stand before a stream.

        Args:
            stream: of texts.
            live: let through what a live line needs as well.
        """
        kept = f"{_COLOUR}|{_LIVE}" if live else _COLOUR
        self._stream = stream
        self._signs = re.compile(f"({kept})|{_CONTROL}" + ("" if live else f"|{_BACK}"))

    def write(self, text: str) -> int:
        """Write a text; a control sign of it becomes a visible one."""
        if not text.isprintable():
            text = self._signs.sub(lambda match: match[1] or SHOWN, text)
        return self._stream.write(text)

    def writelines(self, lines: list[str]) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)


def guard() -> None:
    """Put guards before both outputs of this process, once."""
    if not isinstance(sys.stdout, Guarded):
        sys.stdout = Guarded(sys.stdout, live=False)
    if not isinstance(sys.stderr, Guarded):
        sys.stderr = Guarded(sys.stderr, live=sys.stderr.isatty())

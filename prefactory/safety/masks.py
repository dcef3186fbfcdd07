"""Masks over secrets in what a server, proxy or database says, in whatever form it says them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = "***"
_LEAST = 6
"""Letters of a secret that is masked wherever it stands; a shorter one is in every text."""
_LEAST_CODED = 8
"""Letters of base64 of a secret's that are masked."""
_ESCAPE = re.compile(rb"\\(?:u00([2-7][0-9a-fA-F])|(/)|.)", re.DOTALL)


class Masks:
    """What secrets are replaced by `***`.

    A secret of six letters or more goes wherever it stands: as it is, with the escapes of an
    address, of JSON, and in base64 with whatever stands before and behind it. A shorter one goes
    where it is a word of an error or log; answers of models keep it, for a key such as `none` is a
    word of theirs.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        """Keep the secrets; empty ones are none."""
        words = {word for word in secrets if word}
        forms = {form for word in words if len(word) >= _LEAST for form in _forms(word)}
        self._forms = sorted(forms, key=len, reverse=True)
        self._raw = [form.encode() for form in self._forms]
        self._short = sorted(word for word in words if len(word) < _LEAST)

    def text(self, text: str) -> str:
        """A text of an error or log without them."""
        for form in self._forms:
            text = text.replace(form, MASK)
        for word in self._short:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", MASK, text)
        return text

    def json(self, raw: bytes) -> bytes:
        """JSON of a server without them; ASCII that it wrote as an escape is written plainly."""
        if self._raw and (b"\\u00" in raw or b"\\/" in raw):
            raw = _ESCAPE.sub(_plain, raw)
        for form in self._raw:
            raw = raw.replace(form, MASK.encode())
        return raw


def _forms(word: str) -> set[str]:
    forms = {word, quote(word, safe=""), quote(word), quote_plus(word), json.dumps(word)[1:-1]}
    raw = word.encode()
    for before in range(3):  # where it stands in three bytes decides its letters
        coded = base64.b64encode(bytes(before) + raw).decode()
        core = coded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        if len(core) >= _LEAST_CODED:
            forms |= {core, core.replace("+", "-").replace("/", "_")}
    return forms


def _plain(escape: re.Match[bytes]) -> bytes:
    if escape[2]:
        return b"/"
    letter = bytes([int(escape[1], 16)]) if escape[1] else b"\x7f"
    if letter in (b'"', b"\\"):
        return b"\\" + letter
    return escape[0] if letter == b"\x7f" else letter

"""Small records that hold their own digest: one in which a bit has changed is not believed.

JSON objects, so that people can read them. A record of before they had a digest is read as it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from prefactory.identity import fingerprint

_KEY = "digest"


def seal(data: Mapping[str, Any], indent: int | None = None, *, ordered: bool = False) -> bytes:
    """Plain data as JSON with its digest under `digest`; `ordered`: with all keys by name."""
    plain = json.loads(json.dumps(data, sort_keys=ordered))
    told = {**plain, _KEY: _digest(plain)}
    text = json.dumps(told, indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass") + b"\n"


def unseal(text: bytes | str, keys: Collection[str] | None) -> dict[str, Any]:
    """The data of `seal`.

    Args:
        text: of the record.
        keys: that it may have; another one is damage, as of `digest` itself. None: whatever.

    Raises:
        ValueError: it is not as it was written.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or (keys is not None and not data.keys() <= {*keys, _KEY}):
        raise ValueError("it is not as it was written")
    if data.pop(_KEY, None) not in (None, _digest(data)):
        raise ValueError("it is not as it was written")
    return data


def _digest(data: object) -> str:
    try:
        return fingerprint(data)
    except TypeError:  # NaN or infinity
        return fingerprint(json.dumps(data, sort_keys=True))

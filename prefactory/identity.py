"""Identity of configurations: canonical JSON, fingerprints, and the difference between two of them.

An identity is everything that changes the data. `NOT_IDENTITY` is the one table of fields that do
not, with the reason for each; they are left out of every fingerprint, whatever object holds them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

SCHEME = 1
"""Version of the hash scheme: bumping it gives every stored object a new address."""

NOT_IDENTITY: dict[str, str] = {
    "batch_tokens": "rows are padded to fixed shapes, so a vector does not depend on its batch",
    "device": "where a model runs; the precision, which changes numbers, is identity",
    "threads": "how many cores a step uses",
    "workers": "how many shards are in work at a time",
    "shard_rows": "how the table is cut; rows are ordered by id, never by shard",
    "max_invalid": "whether what a judge says may be published, not what it says",
    "timeout_s": "how long we wait, not what we get",
    "retries": "how often we ask again after a fault",
    "batch": "whether requests go as a file: the same answers, later and at a lower price",
    "batch_price": "what those cost",
    "batch_poll_s": "how often we look whether they are there",
    "max_concurrency": "how many requests are in flight",
    "gpus": "how many GPUs of a cluster a worker holds for a model",
    "gpu_memory": "how much of a GPU a model may take",
    "api_key_env": "where a secret is found; who pays does not change the answer",
    "headers_env": "where more secrets are found",
    "sees_images": "whether pictures may be sent; those that are, are part of the request",
    "report_to": "who gets the log of a training",
    "save_steps": "when a checkpoint is written, not what is learnt",
    "save_strategy": "the same",
    "save_total_limit": "the same",
}


def canonical_json(value: object) -> str:
    """Serialise plain data to one canonical JSON text (sorted keys, no spaces, UTF-8).

    Args:
        value: dicts, lists, strings, finite numbers, booleans, None.

    Raises:
        TypeError: for a value with no stable form (a callable, an object, NaN or infinity).
    """
    return _ENCODE(_plain(value))


_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_AS_THEY_ARE = (str, int, bool, type(None))


def _plain(value: object) -> object:
    if type(value) in _AS_THEY_ARE or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value!r} has no canonical JSON form; use null or a finite number")
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(canonical_json(v) for v in value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form: {value!r}")


def fingerprint(value: object) -> str:
    """Return the BLAKE2b-128 hex digest of a value's canonical JSON, under the current scheme."""
    return _digest(canonical_json(value))


def fingerprint_of(items: Iterable[str]) -> str:
    """The `fingerprint` of a list, of the canonical JSON of its items."""
    return _digest(f"[{','.join(items)}]")


def _digest(canonical: str) -> str:
    text = f"[{SCHEME},{canonical}]"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def identity_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the fields named in `NOT_IDENTITY`, at every depth."""
    return {k: _identity_value(v) for k, v in fields.items() if k not in NOT_IDENTITY}


def _identity_value(value: object) -> object:
    if isinstance(value, Mapping):
        return identity_of(value)
    if isinstance(value, list | tuple):
        return [_identity_value(v) for v in value]
    return value


def identity_fields(model: BaseModel) -> dict[str, Any]:
    """Fields of a model, and of the models in it, that change the data, as plain JSON data.

    Only fields are left out by name, never the keys of a mapping that the user wrote.
    """
    data = model.model_dump(mode="json")
    for name in type(model).model_fields:
        value = getattr(model, name)
        if name in NOT_IDENTITY:
            del data[name]
        elif isinstance(value, BaseModel):
            data[name] = identity_fields(value)
        elif isinstance(value, list | tuple) and any(isinstance(v, BaseModel) for v in value):
            data[name] = [identity_fields(v) if isinstance(v, BaseModel) else v for v in value]
    return data


def differences(old: object, new: object, path: str = "") -> list[str]:
    """List where two plain values differ, as `path: old -> new`, in reading order."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines: list[str] = []
        for key in sorted({*old, *new}, key=str):
            here = f"{path}.{key}" if path else str(key)
            if key not in old:
                lines.append(f"{here}: (absent) -> {new[key]!r}")
            elif key not in new:
                lines.append(f"{here}: {old[key]!r} -> (absent)")
            else:
                lines.extend(differences(old[key], new[key], here))
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for i, (a, b) in enumerate(zip(old, new, strict=True))
            for line in differences(a, b, f"{path}.{i}" if path else str(i))
        ]
    return [] if old == new else [f"{path or 'value'}: {old!r} -> {new!r}"]

"""Messages as chat templates and servers take them: without absent keys, calls in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from prefactory.tables import message_keys


def present(conversation: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A conversation without the keys that its messages do not have (nulls of a table)."""
    return [
        dict(m) if len(m) == 2 else {k: v for k, v in m.items() if v is not None}
        for m in conversation
    ]


def chat_form(
    conversation: Sequence[Mapping[str, Any]], *, objects: bool = False
) -> list[dict[str, Any]]:
    """A conversation with calls as `{id, type: function, function: {name, arguments}}`.

    Reasoning is `reasoning_content`, as servers and templates call it.

    Args:
        conversation: messages of a table, as mappings.
        objects: arguments as objects, which chat templates write as JSON; else as text, which
            servers want. A text that is no JSON stays one.
    """
    return [dict(m) if len(m) == 2 else _message(m, objects) for m in conversation]


def _message(message: Mapping[str, Any], objects: bool) -> dict[str, Any]:
    out = {k: v for k, v in message.items() if v is not None and k != "reasoning"}
    if message.get("reasoning"):
        out["reasoning_content"] = message["reasoning"]
    if message.get("tool_calls"):
        out["tool_calls"] = [_call(c, objects) for c in message["tool_calls"]]
    return out


def _call(call: Mapping[str, Any], objects: bool) -> dict[str, Any]:
    arguments = call["arguments"]
    function = {"name": call["name"], "arguments": _object(arguments) if objects else arguments}
    key = {"id": call["id"]} if call.get("id") else {}
    return {**key, "type": "function", "function": function}


def _object(text: str) -> Any:  # noqa: ANN401 - JSON value
    try:
        return json.loads(text)
    except ValueError:
        return text


def chat_columns(messages: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A column of conversations in that form, arguments as text; null where a key is absent."""
    keys = message_keys(dtype)
    if not keys:
        return messages
    field, call = pl.element().struct.field, pl.element().struct.field
    form = pl.struct(
        id=call("id"),
        type=pl.lit("function"),
        function=pl.struct(name=call("name"), arguments=call("arguments")),
    )
    names = {"reasoning": "reasoning_content"}
    parts = [field("role"), field("content")]
    for key in keys:
        value = field(key)
        if key == "tool_calls":
            value = pl.when(value.list.len() > 0).then(value.list.eval(form))
        parts.append(value.alias(names.get(key, key)))
    return messages.list.eval(pl.struct(parts))

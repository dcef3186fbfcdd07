"""Messages as the world writes them, read into one form: roles, parts, calls, names, reasoning.

Read are the messages of OpenAI, ShareGPT, LLaMA-Factory and Anthropic, as lists, as one object, as
`{messages: [...]}`, and as text (JSON, Python's or numpy's print).
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from prefactory.errors import DataError
from prefactory.images.marks import MARK
from prefactory.tables import OPTIONAL_KEYS, ROLES

ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "ipython": "tool",
}
"""Names that other data gives to our roles; case does not matter."""
CALLERS = ("function_call", "tool_call")
"""Roles of LLaMA-Factory and ms-swift: the assistant calls, and the call is the content."""
_REASONING = ("reasoning", "reasoning_content", "thinking")
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
PICTURE_PARTS = ("image", "image_url", "input_image")
"""Types of the parts of a message that are pictures."""
_CALL_PARTS = ("tool_use", "tool_call", "function_call")
MESSAGE_KEYS = (
    *("role", "content", "from", "value", "tool_calls", "function_call", "tool_call_id", "name"),
    *_REASONING,
)
"""Keys of a message that are read."""
MAX_TEXT = 4_000_000
"""Characters of a text that is read as Python; longer ones are refused."""
_WRITTEN = r"\s*(?:array\(\s*)?\[?\s*\{\s*['\"](?:role|content|from|value|messages)['\"]\s*:"
_LIST = re.compile(_WRITTEN)
MAYBE_WRITTEN = "^" + _WRITTEN.replace(r"\s", r"[\s\x1c-\x1f]")
"""The same for Polars, whose white space is less than Python's."""
_KEYS = re.compile(r"['\"](?:role|content|from|value)['\"]\s*:")
_NO_COMMA = re.compile(r"\}\s*\n\s*\{")
_ARRAY = re.compile(r"\barray\(\s*(\[.*\])\s*,\s*dtype=object\s*\)", re.DOTALL)

Message = dict[str, Any]


class UnreadableError(DataError):
    """A value is no conversation; the text says why, as the end of a sentence."""


def is_message(value: object) -> bool:
    """Tell whether a value is one chat message."""
    if not isinstance(value, Mapping):
        return False
    calls = "tool_calls" in value or "function_call" in value
    said = "content" in value or calls
    return ("role" in value and said) or {"from", "value"} <= value.keys()


def is_messages(value: object) -> bool:
    """Tell whether a value is a list of chat messages (the first decides), or wraps one."""
    if isinstance(value, Mapping):
        return not is_message(value) and is_messages(value.get("messages"))
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return False
    return is_message(value[0])


def looks_written(text: str) -> bool:
    """Tell whether a text begins as messages do that were written as text."""
    return _LIST.match(text.lstrip()) is not None  # two runs of space side by side are squared


def from_written(text: str) -> Any:  # noqa: ANN401 - JSON value, or the text
    """The messages that a text is the JSON or Python form of; the text itself if it is none.

    Raises:
        UnreadableError: it begins like messages and can't be read.
    """
    if not looks_written(text):
        return text
    value = _parsed(text)
    spoken = is_messages(value) or is_message(value)
    known = spoken and all(_role(m) in (*ROLES, *CALLERS) for m in _listed(value))
    return value if known else text


def _parsed(text: str) -> Any:  # noqa: ANN401 - JSON value
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    if len(text) > MAX_TEXT:
        raise UnreadableError(f"looks like messages in a text of {len(text):,} characters")
    python = _NO_COMMA.sub("},\n{", _ARRAY.sub(r"\1", text))  # no line end stands in a repr's text
    try:
        return ast.literal_eval(python.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        if len(_KEYS.findall(text, 0, 10_000)) < 2:
            return None  # an answer that begins with an object of its own
    raise UnreadableError("looks like messages written as text, and is neither JSON nor Python")


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - JSON value
    if isinstance(value, Mapping):
        return [value] if is_message(value) else _listed(value["messages"])
    return list(value)


def read_messages(value: Any, *, padded: bool = False) -> list[Message] | None:  # noqa: ANN401
    """Bring a value to our messages.

    Args:
        value: messages as found, or None.
        padded: nulls in arguments of calls stand where there is no value (Arrow, Parquet).

    Returns:
        Messages of `role`, `content` and those of `OPTIONAL_KEYS` that they have. A system message
        without a text is none. Content is null only where a message has nothing at all.

    Raises:
        UnreadableError: with what is wrong with it.
    """
    if value is None:
        return None
    if isinstance(value, Mapping) and not is_message(value):
        if value.get("tools"):
            raise UnreadableError("has tools of its own: put them into a column `tools`")
        value = value.get("messages")
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise UnreadableError(f"is {_kind(value)}, no list of messages")
    messages = [_message(m, padded) for m in value]
    return [m for m in messages if not _silent_system(m)]


def _silent_system(message: Message) -> bool:
    return message["role"] == "system" and not (message["content"] or "").strip()


def _role(message: Any) -> Any:  # noqa: ANN401 - JSON value
    if not isinstance(message, Mapping):
        return None
    role = message.get("role")
    role = message.get("from") if role is None else role
    if not isinstance(role, str):
        return role
    role = role.strip().lower()
    return ROLE_NAMES.get(role, role)


def _message(value: Any, padded: bool) -> Message:  # noqa: ANN401 - JSON value
    if not isinstance(value, Mapping):
        raise UnreadableError(f"has {_kind(value)} in place of a message")
    role = _role(value)
    if role is not None and not isinstance(role, str):
        raise UnreadableError(f"has {_kind(role)} as a role")
    content = value.get("content")
    content = value.get("value") if content is None else content
    out: Message = {"role": role, "content": None}
    calls = _listed_calls(value.get("tool_calls")) + _listed_calls(value.get("function_call"))
    reasoning = next((value[k] for k in _REASONING if isinstance(value.get(k), str)), None)
    if role in CALLERS:
        out["role"], calls, content = "assistant", _listed_calls(content), None
    said, part_calls, thoughts = _content(content, role, calls_may_be_there=not calls)
    calls += part_calls
    read = [_call(c, padded) for c in calls]
    if read:
        out["tool_calls"] = read
    for key in ("tool_call_id", "name"):
        if isinstance(value.get(key), str) and value[key]:
            out[key] = value[key]
    reasoning = "\n".join([*([reasoning] if reasoning else []), *thoughts])
    if reasoning:
        out["reasoning"] = reasoning
    empty = said is None and (read or reasoning)
    out["content"] = "" if empty else said
    return out


def _content(
    content: Any,  # noqa: ANN401 - JSON value
    role: str | None,
    calls_may_be_there: bool,
) -> tuple[str | None, list[Any], list[str]]:
    """The text of a content, the calls among its parts, and the thoughts among them."""
    if content is None or isinstance(content, str):
        return content, [], []
    if isinstance(content, Mapping) and role == "tool" and "type" not in content:
        return _canonical(content), [], []
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise UnreadableError(f"has {_kind(content)} as content")
    texts: list[str] = []
    calls: list[Any] = []
    thoughts: list[str] = []
    for part in content:
        kind = _part_kind(part)
        if kind in _TEXT_PARTS:
            text = part if isinstance(part, str) else part.get(_TEXT_PARTS[kind])
            texts += [text] if isinstance(text, str) else []
        elif kind in ("thinking", "reasoning"):
            thoughts += [t for t in (part.get("thinking"), part.get("text")) if t]
        elif kind in _CALL_PARTS:
            calls += [part] if calls_may_be_there else []
        else:
            texts.append(_other_part(kind, role))
    return _joined_parts(texts), calls, thoughts


def _joined_parts(texts: Sequence[str]) -> str | None:
    """Texts of parts, each on a line of its own; beside a picture none is broken."""
    if not texts:
        return None
    lines = [texts[0]]
    for before, text in itertools.pairwise(texts):
        lines += [text] if MARK in (before, text) else ["\n", text]
    return "".join(lines)


def _part_kind(part: Any) -> str:  # noqa: ANN401 - JSON value
    if isinstance(part, str):
        return "text"
    if not isinstance(part, Mapping):
        raise UnreadableError(f"has {_kind(part)} as a part of a content")
    kind = part.get("type")
    if kind is None:
        kind = next((k for k in ("text", "image", "image_url") if part.get(k) is not None), None)
    return str(kind)


def _other_part(kind: str, role: str | None) -> str:
    """What stands in a content for a part that is no text: a picture's mark."""
    if kind not in PICTURE_PARTS:
        raise UnreadableError(f"has a part of type {kind!r}, which is not read")
    if role == "assistant":
        raise UnreadableError(
            "has a picture in what the assistant says; only prompts may have some"
        )
    return MARK


def _listed_calls(calls: Any) -> list[Any]:  # noqa: ANN401 - JSON value
    """Calls as found: a list, one of them, or the JSON of either."""
    if isinstance(calls, str) and calls.strip():
        try:
            calls = orjson.loads(calls)
        except orjson.JSONDecodeError:
            raise UnreadableError("has a call that is no JSON") from None
    if not calls:
        return []
    if isinstance(calls, Mapping):
        return [calls]
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise UnreadableError(f"has {_kind(calls)} as calls")
    return [c for c in calls if c is not None]


def _call(call: Any, padded: bool) -> dict[str, str | None]:  # noqa: ANN401 - JSON value
    """`{id, name, arguments}` of a call in the form of OpenAI, Anthropic or of a bare function."""
    if not isinstance(call, Mapping):
        raise UnreadableError(f"has {_kind(call)} as a call")
    inner = call.get("function")
    function = inner if isinstance(inner, Mapping) else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise UnreadableError("has a call without the name of a function")
    keys = ("arguments", "input", "parameters", "args")
    given = next((function[k] for k in keys if function.get(k) is not None), None)
    key = call.get("id") or call.get("call_id")
    return {
        "id": key if isinstance(key, str) else None,
        "name": name,
        "arguments": canonical_arguments(_unpadded(given) if padded else given),
    }


def _unpadded(value: Any) -> Any:  # noqa: ANN401 - JSON value
    if isinstance(value, Mapping):
        return {k: _unpadded(v) for k, v in value.items() if v is not None}
    return [_unpadded(v) for v in value] if isinstance(value, list) else value


def canonical_arguments(arguments: Any) -> str:  # noqa: ANN401 - JSON value
    """Arguments of a call as canonical JSON; a text that is no such JSON stays as it is.

    No arguments are `{}`. A text with a key twice, or with NaN, is no JSON of arguments.
    """
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return "{}"
    if not isinstance(arguments, str):
        return _canonical(arguments)
    try:
        return _canonical(strict_json(arguments))
    except (ValueError, RecursionError):
        return arguments


def strict_json(text: str) -> Any:  # noqa: ANN401 - JSON value
    """Parse JSON without any key twice, NaN or infinity.

    Raises:
        ValueError: it has one of these, or is no JSON.
    """

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in items}) < len(items):
            raise ValueError("a key stands twice")
        return dict(items)

    def no_number(constant: str) -> Any:  # noqa: ANN401 - never returns
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, object_pairs_hook=once, parse_constant=no_number)


def _canonical(value: Any) -> str:  # noqa: ANN401 - JSON value
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    return text.encode("utf-8", "replace").decode()


def read_tools(value: Any, *, padded: bool = False) -> str | None:  # noqa: ANN401 - JSON value
    """Tools as canonical JSON text of a list of `{type: function, function: {...}}`; None if none.

    Args:
        value: a list as OpenAI and TRL have it, of bare functions, or of Anthropic's
            `{name, input_schema}`; one tool; or the JSON of these.
        padded: nulls stand where there is no value (Arrow, Parquet).

    Raises:
        UnreadableError: with what is wrong with it.
    """
    if isinstance(value, str):
        try:
            value = orjson.loads(value) if value.strip() else None
        except orjson.JSONDecodeError:
            raise UnreadableError("is no JSON of a list of tools") from None
    elif padded:
        value = _unpadded(value)
    if value is None or value in ([], {}):
        return None
    tools = [value] if isinstance(value, Mapping) else value
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise UnreadableError(f"is {_kind(value)}, no list of tools")
    return _canonical([_tool(_parsed_tool(t)) for t in tools])


def _parsed_tool(tool: Any) -> Any:  # noqa: ANN401 - JSON value
    if not isinstance(tool, str):
        return tool
    try:
        return orjson.loads(tool)
    except orjson.JSONDecodeError:
        raise UnreadableError("has a tool that is no JSON") from None


def _tool(tool: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON value
    if not isinstance(tool, Mapping):
        raise UnreadableError(f"has {_kind(tool)} as a tool")
    inner = tool.get("function")
    function = dict(inner) if isinstance(inner, Mapping) else dict(tool)
    if function.get("type") == "function":
        function.pop("type")
    if "input_schema" in function:
        function["parameters"] = function.pop("input_schema")
    if not isinstance(function.get("name"), str):
        raise UnreadableError("has a tool without a name")
    return {"type": "function", "function": function}


def keys_of(conversations: Iterable[list[Message] | None]) -> list[str]:
    """Which of `OPTIONAL_KEYS` some message has, in their order."""
    seen = {key for messages in conversations if messages for m in messages for key in m}
    return [key for key in OPTIONAL_KEYS if key in seen]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number"
    return "nothing" if value is None else names.get(type(value), type(value).__name__)

"""Values of a prompt's parts: earlier turns, and documents, as other data writes them."""

from __future__ import annotations

from typing import Any

_SPOKEN = (("user", "assistant"), ("question", "answer"), ("query", "response"), ("human", "ai"))


def history_of(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Earlier turns as messages: `[[question, answer], ...]` and `[{user, assistant}, ...]` too.

    What is neither stays as it is.
    """
    if not isinstance(value, list | tuple) or not value:
        return value
    if all(_is_pair(turn) for turn in value):
        pairs = [(turn[0], turn[1]) for turn in value]
    else:
        keys = next((k for k in _SPOKEN if all(_has(turn, k) for turn in value)), None)
        if keys is None:
            return value
        pairs = [(turn[keys[0]], turn[keys[1]]) for turn in value]
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
        if text is not None
    ]


def _is_pair(turn: object) -> bool:
    if not isinstance(turn, list | tuple) or len(turn) != 2:
        return False
    return all(text is None or isinstance(text, str) for text in turn)


def _has(turn: object, keys: tuple[str, str]) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in keys)


_TEXT_KEYS = ("text", "content", "contents", "passage", "snippet", "body", "document")


def material_of(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """Context or documents as one text; None if they are of a form that is not known.

    A text stays; of a list each item is a text, a list of texts, or an object with a text (`text`,
    `content`, `passage`, ...) and perhaps a `title`.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _document(value)
    if not isinstance(value, list | tuple):
        return None
    texts = [_document(item) for item in value]
    if any(text is None for text in texts):
        return None
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"[{i}] {text}" for i, text in enumerate(texts, 1))


def _document(item: Any) -> str | None:  # noqa: ANN401 - any JSON value
    if isinstance(item, str):
        return item
    if isinstance(item, list | tuple) and item and all(isinstance(part, str) for part in item):
        return "\n".join(item)
    if not isinstance(item, dict):
        return None
    text = next((item[key] for key in _TEXT_KEYS if isinstance(item.get(key), str)), None)
    title = item.get("title")
    if text is None or not title:
        return text
    return f"{title}\n{text}"

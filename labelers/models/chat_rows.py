"""Conversations as tokens: under a chat template, joined plainly, or as a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefactory.engines.chat_form import chat_form
from prefactory.errors import ConfigError
from prefactory.tables import message_text

Template = Literal["auto", "chat", "plain", "pair"]
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation as tokens, or the reason why it is none.

    Attributes:
        ids: of all tokens.
        types: token type ids, or None for models without them.
        span: first token of the answer, and the one after its last; the template's end-of-turn
            tokens do not belong to the answer.
        reason: None, `too_long` or `template` (the template refuses or changes the conversation).
    """

    ids: list[int]
    types: list[int] | None = None
    span: tuple[int, int] = (0, 0)
    reason: str | None = None


def rows(
    tokenizer: Any,  # noqa: ANN401 - untyped library object
    limit: int,
    prompts: Sequence[Messages],
    responses: Sequence[Messages],
    template: Template = "auto",
    truncate: bool = False,
) -> list[Row]:
    """Turn n conversations into tokens.

    Args:
        tokenizer: a fast tokenizer.
        limit: tokens that a row may have.
        prompts: messages before the answer.
        responses: messages of the answer.
        template: `chat` is the tokenizer's; `plain` joins contents by blank lines; `pair` is
            the tokenizer's text pair (prompt, answer); `auto` is chat if there is one.
        truncate: drop the first tokens of a prompt (never of an answer) over the limit.

    Returns:
        n rows; one that can't be used has a reason.

    Raises:
        ConfigError: the template is `chat` and the tokenizer has none.
    """
    has = bool(getattr(tokenizer, "chat_template", None))
    if template == "chat" and not has:
        raise ConfigError("template: the tokenizer has no chat template; use plain or pair")
    chosen = ("chat" if has else "plain") if template == "auto" else template
    together = zip(prompts, responses, strict=True)
    encoded = [_row(tokenizer, clean(p), clean(r), chosen) for p, r in together]
    return [fitted(tokenizer, row, limit, truncate) for row in encoded]


def _row(tokenizer: Any, prompt: Messages, response: Messages, template: str) -> Row:  # noqa: ANN401
    if template == "pair":
        return _pair(tokenizer, _joined(prompt), _joined(response))
    text, start, end = f"{_joined(prompt)}\n\n", 0, 0
    start, end = len(text), len(text) + len(_joined(response))
    text += _joined(response)
    if template == "chat":
        chat = _chat_text(tokenizer, prompt, response)
        if chat is None:
            return Row([], reason="template")
        text, start, end = chat
    coded = tokenizer(text, add_special_tokens=template == "plain", return_offsets_mapping=True)
    inside = [i for i, (a, b) in enumerate(coded["offset_mapping"]) if b > start and a < end]
    ids = list(coded["input_ids"])
    span = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
    return Row(ids, _types(coded), span)


def _pair(tokenizer: Any, prompt: str, answer: str) -> Row:  # noqa: ANN401
    coded = tokenizer(prompt, answer, return_offsets_mapping=True)
    inside = [i for i, s in enumerate(coded.sequence_ids(0)) if s == 1]
    ids = list(coded["input_ids"])
    span = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
    return Row(ids, _types(coded), span)


def fitted(tokenizer: Any, row: Row, limit: int, truncate: bool) -> Row:  # noqa: ANN401
    """A row within a limit of tokens, without the first ones of its prompt; or why it is none."""
    excess = len(row.ids) - limit
    if row.reason or excess <= 0:
        return row if row.ids or row.reason else Row([], reason="template")
    special = (tokenizer.bos_token_id, tokenizer.cls_token_id)
    first = 1 if row.ids[0] in [s for s in special if s is not None] else 0
    if not truncate or row.span[0] - first < excess:
        return Row([], reason="too_long")
    ids = row.ids[:first] + row.ids[first + excess :]
    types = None if row.types is None else row.types[:first] + row.types[first + excess :]
    return Row(ids, types, (row.span[0] - excess, row.span[1] - excess))


def _chat_text(tokenizer: Any, prompt: Messages, response: Messages) -> tuple[str, int, int] | None:  # noqa: ANN401
    """The conversation under the chat template, and where the answer starts and ends in it."""
    asked, said = chat_form(prompt, objects=True), chat_form(response, objects=True)
    try:
        text = str(tokenizer.apply_chat_template(asked + said, tokenize=False))
        head = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    except Exception:  # whatever a template raises
        return None
    end = len(head) if text.startswith(head) else _alike(text, head)
    if any(len(m) > 2 for m in response):  # calls and thoughts are written by the template's rules
        return text, end, len(text)
    first = None
    for message in response:
        content = str(message["content"]).strip()
        start = text.find(content, end)
        if start < 0:
            return None
        first = start if first is None else first
        end = start + len(content)
    return text, end if first is None else first, end


def _alike(text: str, head: str) -> int:
    """Characters that two texts have in common from their start."""
    pairs = enumerate(zip(text, head, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(text), len(head)))


def _joined(messages: Messages) -> str:
    return "\n\n".join(message_text(m) for m in messages)


def clean(messages: Messages | None) -> Messages:
    """Messages without nulls and lone surrogates (those become "?")."""
    return [_storable(m) for m in messages or []]


def _storable(value: Any) -> Any:  # noqa: ANN401 - JSON value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_storable(v) for v in value]
    if isinstance(value, dict):
        said = {"content": ""} if "role" in value else {}
        return said | {k: _storable(v) for k, v in value.items() if v is not None}
    return value


def _types(coded: Any) -> list[int] | None:  # noqa: ANN401 - a BatchEncoding
    return list(coded["token_type_ids"]) if "token_type_ids" in coded else None


def fitting(rows: Sequence[Row], limit: int) -> list[Row]:
    """Those rows that another model can read too; `too_long` for the others.

    Args:
        rows: as the first model reads them.
        limit: tokens that the other one reads at most.
    """
    return [Row([], reason="too_long") if len(row.ids) > limit else row for row in rows]

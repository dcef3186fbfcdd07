"""What a model reads when it is not to answer: a raw text, or a chat up to the next user's turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefactory.engines.base import Conversation, Message, Request

_MARK = "here7begins3the9turn"


def raw_text(conversation: Conversation) -> str:
    """The contents of all messages, one after the other with nothing between."""
    return "".join(str(message["content"]) for message in conversation)


def before_user_turn(render: Callable[[Sequence[Message]], str], conversation: Conversation) -> str:
    """A conversation in a chat template, up to where the next user's words begin.

    A user turn that is a mark is rendered, and all from the mark on is cut off: what is left ends
    with the template's own header of a user turn. A template that writes a system message of its
    own where there is none does so here too.

    Args:
        render: fills the template, without the header of an answer.
        conversation: what was said so far; may be empty.

    Raises:
        ValueError: the template does not show a user's words as they are, once.
    """
    whole = render([*conversation, {"role": "user", "content": _MARK}])
    if whole.count(_MARK) != 1:
        raise ValueError("the chat template does not show the words of a user once, as they are")
    return whole[: whole.index(_MARK)]


def text_to_continue(request: Request, render: Callable[[Sequence[Message]], str]) -> str:
    """What the model reads for a request that writes a user turn or continues a text.

    Args:
        request: its sampling does not write an answer.
        render: see `before_user_turn`.

    Raises:
        ValueError: see `before_user_turn`.
    """
    if request.sampling.writes == "text":
        return raw_text(request.conversation)
    return before_user_turn(render, request.conversation)


def without_break(answer: str, content: str) -> str:
    """Drop the line break that a template puts after the token that ends the turn.

    Args:
        answer: what the template makes of an answer.
        content: the answer; a break that is its own stays.
    """
    cut = answer.rstrip()
    return answer if content.strip() and cut.endswith(content.rstrip()) else cut

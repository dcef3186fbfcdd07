"""What the world calls the same thing: names of prompts, chats, answers, and their two sides.

Names are compared in lower case with `_` between words, so `Chosen Response` and `chosenResponse`
are `chosen_response`.
"""

from __future__ import annotations

PROMPT = ("prompt", "question", "instruction", "query")
"""A prompt, beside answers of any kind."""
TASK = (*PROMPT, "input", "problem", "context", "user_prompt", "user_input")
"""A prompt, where other columns leave no doubt."""
CHATS = ("messages", "conversations", "conversation", "trajectory", "context_messages", "history")
"""Messages before the answers."""
INSIDE = ("prompt.messages", "input.messages", "prompt.conversations", "input.conversations")
"""Messages before the answers, one level down."""

_BETTER_WORSE = (
    ("chosen", "rejected"),
    ("preferred", "non_preferred"),
    ("preferred", "dispreferred"),
    ("preferred", "nonpreferred"),
    ("preferred", "unpreferred"),
    ("preferred", "rejected"),
    ("accepted", "rejected"),
    ("selected", "rejected"),
    ("win", "lose"),
    ("win", "loss"),
    ("winner", "loser"),
    ("winning", "losing"),
    ("good", "bad"),
    ("better", "worse"),
    ("best", "worst"),
    ("pos", "neg"),
    ("positive", "negative"),
    ("liked", "disliked"),
    ("w", "l"),
)
_ANSWER = (
    "response",
    "answer",
    "output",
    "completion",
    "text",
    "res",
    "message",
    "messages",
    "conversation",
    "reply",
    "generation",
    "solution",
    "summary",
    "sample",
)
_SIDES = (
    *_BETTER_WORSE[:-1],
    *((f"{b}_{what}", f"{w}_{what}") for b, w in _BETTER_WORSE for what in _ANSWER),
    *((f"{what}_{b}", f"{what}_{w}") for b, w in _BETTER_WORSE for what in _ANSWER),
    ("y_w", "y_l"),
    ("response_j", "response_k"),
    ("best_answer", "best_incorrect_answer"),
    ("correct_answer", "incorrect_answer"),
    *((what, f"rejected_{what}") for what in ("response", "answer", "output", "completion")),
    *((what, "rejected") for what in ("response", "answer", "output", "completion")),
    ("answer_matching_behavior", "answer_not_matching_behavior"),
)
CHOSEN = tuple(better for better, _ in _SIDES)
REJECTED = tuple(worse for _, worse in _SIDES)
"""What the better and the worse answer are called, at the same place of both."""

MANY = ("responses", "answers", "generations", "completions", "candidates", "outputs", "samples")
_TEXT = ("answer", "response", "text", "content", "completion", "output", "generation", "solution")
MANY_ANSWERS = (*MANY, *(f"{many}.*.{text}" for many in MANY for text in _TEXT))
"""Several answers: a list of them, or a list of objects that have one each."""


def inside(lists: tuple[str, ...], keys: tuple[str, ...]) -> tuple[str, ...]:
    """Names of lists, and of the same keys in the objects of a list of answers."""
    return (*lists, *(f"{many}.*.{key}" for many in MANY for key in keys))

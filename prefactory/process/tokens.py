"""Steps as tokens: each is read at its last one, so that one pass scores all steps of an answer."""

from __future__ import annotations

from collections.abc import Sequence

from prefactory.chat_template import ChatTemplate, Messages

SEPARATOR = "\n\n"
"""What stands behind each step, where a model's configuration doesn't say (`step_separator`)."""


def step_tokens(
    template: ChatTemplate,
    prompt: Messages,
    steps: Sequence[str],
    separator: str = SEPARATOR,
    tools: str | None = None,
) -> tuple[list[int], list[int]]:
    """Tokenise a prompt and the steps of an answer, one by one.

    Steps are tokenised apart from each other, so that no token spans two of them and what a step is
    does not depend on those behind it.

    Args:
        template: of the model.
        prompt: messages before the answer.
        steps: texts.
        separator: behind each.
        tools: JSON list of tools that may be called, or None.

    Returns:
        Ids of all tokens, and the place of the last token of each step.

    Raises:
        TemplateError: the template refuses the prompt.
    """

    def ids_of(text: str) -> list[int]:
        found: list[int] = template.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    ids = ids_of(template.text(prompt, tools, answer_follows=True))
    ends = []
    for step in steps:
        ids += ids_of(step + separator)
        ends.append(len(ids) - 1)
    return ids, ends

"""Examples that a rubric judge is shown before its question: answers whose ratings are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from labelers.judges.examples import read_examples
from labelers.rubric.items import Item, read_ratings


class RatedExample(BaseModel):
    """An answer that a judge is shown with its ratings.

    Attributes:
        prompt: the conversation, as text.
        response: the answer.
        ratings: of every attribute or criterion, by name or id (criteria: 1 met, 0 not).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: str
    response: str = Field(min_length=1)
    ratings: dict[str, float]

    def said(self, items: Sequence[Item]) -> str:
        """What the judge answers, as it is asked to.

        Args:
            items: what is rated.

        Raises:
            ValueError: a rating is missing, unknown or off its scale.
        """
        kinds = {item.key: item for item in items}
        values = {name: _as_said(value, kinds.get(name)) for name, value in self.ratings.items()}
        text = json.dumps({"ratings": values})
        try:
            read_ratings(text, items)
        except ValueError as error:
            problem = str(error).partition(" Reply with ")[0]
            raise ValueError(f"examples: {self.response[:40]!r}: {problem}") from error
        return text


def _as_said(value: float, item: Item | None) -> float | int | bool:
    if item is not None and item.verdict and value in (0, 1):
        return bool(value)
    return int(value) if value.is_integer() else value


RatedExamples = Annotated[tuple[RatedExample, ...], BeforeValidator(read_examples)]

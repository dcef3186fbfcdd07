"""How well a model in a persona gives the persona's answers to items that it was not told."""

from __future__ import annotations

import re
from typing import Any, ClassVar, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from prefactory.asking import Answer, Asking
from prefactory.context import Context
from prefactory.engines.base import Failure, Message, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Labeler
from prefactory.tables import Shape

HELD: pl.DataType = pl.List(
    pl.Struct({"item": pl.String, "trait": pl.String, "key": pl.Int8, "answer": pl.Int8})
)
"""Items as verb phrases after "you", their traits, keys (+1, -1) and answers (1 to 5)."""

MIDDLE = 3
LETTERS = "EDCBA"
"""Letters of the answers 1 to 5."""
SEEN = 12
"""Characters of a reply in which its letter must stand."""
_ITEMS, _ITEM_TOKENS = 72, 120
_LETTER = re.compile(r"\W*([A-E])(?:\W*$|[).:,\]*]|\s*\n)")


class PersonaItems(Prompted, Asking, Labeler):
    """Ask a model in each persona about items that the persona was not told, and compare.

    The prediction task of Personality Alignment (PAPI, arXiv:2408.11779): part of a person's
    answers to a questionnaire describes them, the rest is to be predicted (`generators.Personas`
    with `held_out` makes both). The model gets the system message of the prompt and one item at a
    time, with five options; the letter must stand in the first twelve characters of its reply. Each
    distinct persona is asked once for each item, however many prompts it stands before.

    New columns, all of them of the persona:

    - `<name>_error` (Float64): mean distance of the model's answers from the persona's, 0 to 4.
    - `<name>_error_middle` (Float64): the same for who always says 3. A persona is carried only
      where `<name>_error` is lower.
    - `<name>_errors`, `<name>_scores`, `<name>_own_scores` (List[Float64], by trait in the order of
      the items): distances, and the mean keyed answers (1 to 5) of model and persona.
    - `<name>_read` (Float64): share of replies with a letter; others do not count.
    - `reason_<name>` (String): why there is none: `no_persona` (no system message, or no held
      items), or the reason of the first reply.

    Attributes:
        model: what is asked.
        name: of the columns.
        items: column of `labelers.personas.items.HELD`.

    Example:
        - labelers.PersonaItems:
            model: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES)
    templates: ClassVar = {
        "question": Text("labelers/personas/prompts/items/question.j2", ("item",))
    }

    model: AnyEngine
    name: str = Field(default="items", pattern="^[A-Za-z][A-Za-z0-9_]*$")
    items: str = "held_items"
    sampling: SamplingParams = SamplingParams(temperature=0.0, max_tokens=32)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The held items."""
        return {self.items: HELD}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Errors, scores, what was read, and why there are none."""
        several: pl.DataType = pl.List(pl.Float64)
        return {
            f"{self.name}_error": pl.Float64(),
            f"{self.name}_error_middle": pl.Float64(),
            f"{self.name}_errors": several,
            f"{self.name}_scores": several,
            f"{self.name}_own_scores": several,
            f"{self.name}_read": pl.Float64(),
            f"reason_{self.name}": pl.String(),
        }

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """72 items a prompt: as if each had a persona of its own; those that share one share it."""
        return [Asks(self.model, prompts * _ITEMS, _ITEM_TOKENS, self.sampling.max_tokens)]

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ask about the personas of a table.

        Returns:
            The columns of `adds`, same height and order.
        """
        firsts = table.select(
            system=pl.when(pl.col("prompt").list.first().struct.field("role") == "system").then(
                pl.col("prompt").list.first().struct.field("content")
            ),
            held=pl.col(self.items),
        )
        keys = firsts.select(pl.struct("system", "held").rle_id()).to_series()
        runs = firsts.with_columns(run=keys).unique("run", keep="first", maintain_order=True)
        people = [_Person.of(system, held) for system, held, _ in runs.iter_rows()]
        asked = [(person.system, item["item"]) for person in people for item in person.held]
        conversations = [self._question(system, item) for system, item in asked]
        replies = iter(self.asker(ctx, self.model).each(conversations, read_letter))
        rows = [self._row(p, [next(replies)[0] for _ in p.held]) for p in people]
        labels = pl.DataFrame(rows, schema=self.adds(Shape.PROMPTS), orient="row")
        return labels.select(pl.all().gather(keys))

    def _question(self, system: str, item: str) -> list[Message]:
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": self.render("question", item=item)},
        ]

    def _row(self, person: _Person, replies: list[Answer[int] | Failure]) -> list[Any]:
        if not person.held:
            return [None, None, None, None, None, None, "no_persona"]
        said = np.array([r.value if isinstance(r, Answer) else 0 for r in replies], dtype=np.int8)
        failed = next((r.reason for r in replies if isinstance(r, Failure)), None)
        told = compared(said, person)
        return [*told, float((said > 0).mean()), None if (said > 0).any() else failed]


class _Person(NamedTuple):
    """A system message, and its items with an answer."""

    system: str
    held: list[dict[str, Any]]

    @classmethod
    def of(cls, system: str | None, held: list[dict[str, Any]] | None) -> _Person:
        fine = [
            one
            for one in held or []
            if one
            and one["item"]
            and one["trait"]
            and one["key"]
            and 1 <= (one["answer"] or 0) <= 5
        ]
        return cls(system or "", fine if system and system.strip() else [])


class _Told(NamedTuple):
    error: float | None
    middle: float | None
    errors: list[float | None]
    scores: list[float | None]
    own_scores: list[float | None]


def compared(said: np.ndarray, person: _Person) -> _Told:
    """Compare the answers of a model with those of a person.

    Args:
        said: Int8[n] of 1 to 5, 0 where there is none; these do not count.
        person: with n items.

    Returns:
        Mean distance; that of who always says 3; by trait: mean distance, mean keyed answers of the
        model and of the person. None where nothing was said.
    """
    own = np.array([one["answer"] for one in person.held], dtype=np.int8)
    against = np.array([one["key"] < 0 for one in person.held])
    traits = [one["trait"] for one in person.held]
    there = said > 0
    distance = np.abs(said - own).astype(np.float64)
    each = [there & np.array([t == name for t in traits]) for name in dict.fromkeys(traits)]

    def means(values: np.ndarray) -> list[float | None]:
        return [float(values[mine].mean()) if mine.any() else None for mine in each]

    turned, own_turned = np.where(against, 6 - said, said), np.where(against, 6 - own, own)
    if not there.any():
        return _Told(None, None, means(distance), means(turned), means(own_turned))
    middle = np.abs(MIDDLE - own[there]).mean()
    return _Told(float(distance[there].mean()), float(middle), means(distance), means(turned),
                 means(own_turned))  # fmt: skip


def read_letter(text: str) -> int:
    """Read an answer of 1 (E, very inaccurate) to 5 (A, very accurate).

    Raises:
        ValueError: no letter alone in its first twelve characters; a sentence for the model.
    """
    match = _LETTER.match(text.lstrip()[:SEEN] + ("\n" if len(text.strip()) <= SEEN else "~"))
    if match is None:
        raise ValueError("Reply with the letter A, B, C, D or E and nothing else.")
    return LETTERS.index(match[1]) + 1

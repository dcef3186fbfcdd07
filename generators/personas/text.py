"""A person's profile as a system message: prose, a list, or what a model is shown of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from generators.personas.profile import BANDS, Answers, Ints, ItemBank, telling_items

SENTENCES = {
    5: ("You {a}, and that is very much you.", "It is very much like you to {a}."),
    4: ("You tend to {a}.", "More often than not, you {a}."),
    3: ("Now and then you {a}.",),
    2: ("It is not much like you to {a}.", "You do not often {a}."),
    1: ("It is not at all like you to {a}.", "You hardly ever {a}."),
}
"""Sentences by answer."""

LEVELS = {
    5: "very true of you",
    4: "rather true of you",
    3: "neither true nor untrue of you",
    2: "rather untrue of you",
    1: "very untrue of you",
}
"""Wordings of the list form, by answer."""

OPENINGS = (
    "You speak as a particular person.",
    "In this conversation you are somebody with a character of your own.",
    "You have a personality, and it shows in how you write.",
    "Answer as the person described here.",
    "This is who you are.",
    "Take on the following character.",
)
CLOSINGS = (
    "Stay this person throughout.",
    "Let it show in your answers without describing yourself.",
    "Answer whatever is asked the way this person would.",
    "Keep this character for the whole conversation.",
)


@dataclass(frozen=True)
class Portrait:
    """What a text says of a person.

    Attributes:
        clauses: one per trait, as after "you".
        items: (verb phrase, answer 1 to 5).
        draws: whole numbers that decide the wording.
    """

    clauses: tuple[str, ...]
    items: tuple[tuple[str, int], ...]
    draws: tuple[int, ...]

    @classmethod
    def draw(
        cls, answers: Answers, band: Ints, bank: ItemBank, rng: np.random.Generator, most: int
    ) -> Portrait:
        """Choose clauses, items and wording of one person.

        Args:
            answers: Int8[I].
            band: Int64[K]; a trait without a band (-1) has no clause.
            bank: the items.
            rng: the randomness; each person takes as many numbers from it.
            most: items.
        """
        order = rng.permutation(len(band))
        turns = rng.integers(0, 2**31, len(band))
        clauses = []
        for trait in order:
            if band[trait] >= 0:
                ways = bank.clauses[trait][BANDS[band[trait]]]
                clauses.append(ways[turns[trait] % len(ways)])
        chosen = telling_items(answers, band, bank, rng.random(len(bank.items)), most)
        mixed = chosen[np.argsort(rng.random(len(bank.items))[chosen], kind="stable")]
        items = tuple((bank.items[i], int(answers[i])) for i in mixed)
        return cls(tuple(clauses), items, tuple(rng.integers(0, 2**31, most + 2).tolist()))

    def prose(self) -> str:
        """The person in sentences."""
        opening = OPENINGS[self.draws[0] % len(OPENINGS)]
        closing = CLOSINGS[self.draws[1] % len(CLOSINGS)]
        traits = [f"You {clause}." for clause in joined(self.clauses)]
        items = [
            SENTENCES[answer][turn % len(SENTENCES[answer])].format(a=item)
            for (item, answer), turn in zip(self.items, self.draws[2:], strict=False)
        ]
        return " ".join([opening, *traits, *items, closing])

    def listed(self) -> str:
        """Items with how true they are, after a line of traits."""
        opening = OPENINGS[self.draws[0] % len(OPENINGS)]
        traits = [f"You {clause}." for clause in joined(self.clauses)]
        lines = [f"- You {item}: {LEVELS[answer]}." for item, answer in self.items]
        return "\n".join([" ".join([opening, *traits]), *lines])

    def shown(self) -> dict[str, Any]:
        """What the text `portrait` shows: `items` and `clauses`."""
        items = [{"item": item, "answer": answer} for item, answer in self.items]
        return {"items": items, "clauses": list(self.clauses)}


def joined(clauses: Sequence[str]) -> list[str]:
    """Clauses two by two, the last alone if their number is odd."""
    return [", and you ".join(clauses[i : i + 2]) for i in range(0, len(clauses), 2)]


def parse_portrait(text: str) -> str:
    """Read a model's portrait.

    Raises:
        ValueError: a sentence for the model.
    """
    portrait = text.strip()
    if not portrait:
        raise ValueError("The answer is empty. Return the portrait.")
    if not re.search(r"(?i)\byou(?:r|'re)?\b", portrait):
        raise ValueError('Speak to the person as "you".')
    if re.search(r"(?i)\b(?:in)?accurate\b", portrait):
        raise ValueError('Don\'t use the words "accurate" and "inaccurate".')
    return portrait

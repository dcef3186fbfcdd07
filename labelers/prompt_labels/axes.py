"""The axes of prompt tags, and reading a model's tags on them.

The six axes are those of Baichuan's alignment report (arXiv:2410.14940): ability, attributes,
domains, language, difficulty and constraints. The report does not list their categories: these are
ours, as is the count behind "simple" and "strong" constraints.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prefactory.asking.forms import all_of, fields, folded

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Value = Annotated[str, Field(min_length=1, max_length=60)]
TAGS = "tags"
"""Name of the free tags in a model's answer."""

MOST_FREE_CHARACTERS = 60


class Axis(BaseModel):
    """One way to sort prompts.

    Attributes:
        name: of the axis; in the name of its column.
        description: what is asked, for the model.
        values: the categories, or category -> what it means. Without any, a value is a short code
            of 2 or 3 letters (languages).
        several: a prompt may have none or several, up to `most`.
        most: categories that a prompt may have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    description: str
    values: dict[Value, str] = Field(default_factory=dict)
    several: bool = False
    most: int = Field(default=3, ge=1)

    @field_validator("values", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return dict.fromkeys(value, "") if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name == TAGS:
            raise ValueError(f"name: {TAGS!r} is taken by the free tags")
        if len({folded(v) for v in self.values}) < len(self.values):
            raise ValueError("values: two are the same")
        return self

    @property
    def one_schema(self) -> dict[str, Any]:
        """JSON schema of one category."""
        return {"type": "string", **({"enum": list(self.values)} if self.values else {})}

    def answer_schema(self) -> dict[str, Any]:
        """JSON schema of a prompt's categories."""
        if not self.several:
            return self.one_schema
        return {"type": "array", "items": self.one_schema, "maxItems": self.most}

    def read(self, value: object) -> tuple[str, ...]:
        """The categories in a model's answer, in the order of the axis; one, unless `several`.

        Raises:
            ValueError: with a sentence for the model.
        """
        given = value if isinstance(value, list) else [value]
        values = {self._one(entry) for entry in given}
        if not self.several and len(values) != 1:
            raise ValueError(f"{self.name} needs exactly one value.")
        if len(values) > self.most:
            raise ValueError(f"{self.name} may have at most {self.most} values.")
        order = list(self.values)
        return tuple(sorted(values, key=order.index if order else None))

    def _one(self, entry: object) -> str:
        name = folded(entry) if isinstance(entry, str) else ""
        known = {folded(v): v for v in self.values}
        if known and name in known:
            return known[name]
        code = re.fullmatch("([a-z]{2,3})(_.*)?", name)  # a region behind the language goes
        if not known and code:
            return code[1]
        wanted = f"one of {', '.join(self.values)}" if known else "a code of 2 or 3 letters"
        raise ValueError(f"{self.name} must be {wanted}, not {str(entry)[:60]!r}.")


ABILITY = {
    "knowledge": "recall or explain facts",
    "reasoning": "logic, cause and effect, puzzles, common sense",
    "mathematics": "calculate or prove",
    "coding": "write, explain or repair programs",
    "writing": "create a text",
    "rewriting": "change, correct or polish a given text",
    "summarising": "shorten a given text",
    "translation": "from one language to another",
    "extraction": "find or arrange what a given text holds",
    "classification": "judge, sort or compare",
    "planning": "steps, schedules, strategies, advice what to do",
    "roleplay": "speak as somebody",
    "conversation": "small talk, feelings, company",
    "other": "none of these",
}
ATTRIBUTES = {
    "time_sensitive": "the right answer changes with the date",
    "ambiguous": "can be understood in clearly different ways",
    "incomplete": "lacks what an answer would need",
    "opinion": "asks for a view on which people differ",
    "personal": "tells of the user's own life",
    "harmful": "asks for what may hurt somebody",
    "role_given": "tells the assistant who it is",
    "long_material": "brings a long text to work on",
    "structured_material": "brings tables, code or data",
}
DOMAINS = (
    "arts",
    "business",
    "daily_life",
    "economics",
    "education",
    "engineering",
    "entertainment",
    "food",
    "geography",
    "health",
    "history",
    "language",
    "law",
    "mathematics",
    "philosophy",
    "politics",
    "psychology",
    "religion",
    "science",
    "society",
    "sports",
    "technology",
    "travel",
    "other",
)
DIFFICULTY = {
    "easy": "most adults could answer at once",
    "intermediate": "needs schooling, or several steps",
    "difficult": "needs an expert, or long work",
}
CONSTRAINTS = {
    "none": "the form of the answer is free",
    "simple": "one or two demands on form, length, style or content",
    "strong": "three or more of them",
}

AXES = (
    Axis(name="ability", description="what the answer takes most of", values=ABILITY),
    Axis(
        name="attributes",
        description="what else holds for the request; often nothing",
        values=ATTRIBUTES,
        several=True,
        most=5,
    ),
    Axis(
        name="domains",
        description="fields that the request is about",
        values=dict.fromkeys(DOMAINS, ""),
        several=True,
    ),
    Axis(
        name="language",
        description="ISO 639-1 code of the language that the answer should be in; xx if none",
    ),
    Axis(name="difficulty", description="how hard a good answer is", values=DIFFICULTY),
    Axis(name="constraints", description="demands on the answer", values=CONSTRAINTS),
)
"""The six axes."""

Vote = dict[str, tuple[str, ...]]
"""Axis (or `TAGS`) -> categories."""


def schema(axes: Sequence[Axis], free: int) -> dict[str, Any]:
    """JSON schema of a model's tags.

    Args:
        axes: that are asked.
        free: most free tags; 0 asks for none.
    """
    tags = {TAGS: {"type": "array", "items": {"type": "string"}, "maxItems": free}}
    return all_of({**{a.name: a.answer_schema() for a in axes}, **(tags if free else {})})


def form(axes: Sequence[Axis], free: int) -> str:
    """The form of an answer, as a prompt shows it."""
    parts = [f'"{a.name}": {"[...]" if a.several else "<value>"}' for a in axes]
    return "{" + ", ".join([*parts, *([f'"{TAGS}": [...]'] if free else [])]) + "}"


def read(text: str, axes: Sequence[Axis], free: int) -> Vote:
    """A model's tags.

    Raises:
        ValueError: an axis is missing, or a value is none of its categories; with a sentence for
            the model.
    """
    try:
        given = fields(text, [*(a.name for a in axes), *([TAGS] if free else [])])
        vote = {axis.name: axis.read(given[axis.name]) for axis in axes}
        return vote | ({TAGS: _free(given[TAGS], free)} if free else {})
    except ValueError as error:
        again = f"Reply with one JSON object of this form: {form(axes, free)}"
        raise ValueError(f"{error} {again}") from error


def _free(value: object, most: int) -> tuple[str, ...]:
    given = value if isinstance(value, list) else [value]
    tags = [fold(entry) for entry in given if isinstance(entry, str)]
    if len(tags) < len(given):
        raise ValueError(f"{TAGS} must be a list of texts.")
    kept = dict.fromkeys(t for t in tags if t and len(t) <= MOST_FREE_CHARACTERS)
    return tuple(kept)[:most]


def fold(tag: str) -> str:
    """A free tag in one spelling: lower case, words with single spaces, no other punctuation.

    "Python-Coding" and "python coding" are one tag; "C++", "C#" and ".NET" keep their signs.
    """
    text = tag.encode("utf-8", "ignore").decode().casefold()
    return " ".join(re.sub(r"[^\w+#.]|_", " ", text).strip(" .").split())

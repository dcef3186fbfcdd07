"""What a rubric asks: graded attributes, and criteria that are met or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["rule", "principle"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
RESERVED = ("critique", "ratings")
"""Names that the judge's answer uses for other things."""


class Item(NamedTuple):
    """One thing to rate, whatever it was written as.

    Attributes:
        key: its name in the judge's answer.
        text: what is asked.
        kind: `rule` (to the letter), `principle` (in spirit), or "" for graded attributes.
        weight: in the combined score, above 0.
        low, high: ends of the scale.
        whole: only whole numbers are ratings.
        verdict: met or not, 1 or 0.
        levels: what ratings mean, as (rating, text).
    """

    key: str
    text: str
    kind: str = ""
    weight: float = 1.0
    low: float = 0.0
    high: float = 1.0
    whole: bool = True
    verdict: bool = True
    levels: tuple[tuple[float, str], ...] = ()

    @property
    def scale(self) -> str:
        """The ratings that there are, for the judge."""
        if self.verdict:
            return "true or false"
        whole = "a whole number" if self.whole else "a number"
        return f"{whole} from {self.low:g} to {self.high:g}"

    def shown(self) -> dict[str, Any]:
        """What a prompt text may show of it."""
        levels = [{"rating": f"{n:g}", "text": text} for n, text in self.levels]
        return {
            "key": self.key,
            "text": self.text,
            "kind": self.kind,
            "scale": self.scale,
            "levels": levels,
        }


class Attribute(BaseModel):
    """A graded attribute of an answer.

    Attributes:
        name: of the objective.
        description: what is rated, for the judge.
        scale: lowest and highest rating.
        whole: only whole numbers are ratings.
        levels: rating -> what it means.
        direction: whether a `higher` or a `lower` rating is better; a combined score turns
            `lower` ones around.
        weight: in the combined score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name
    description: str = ""
    scale: tuple[float, float] = (1.0, 5.0)
    whole: bool = True
    levels: dict[float, str] = Field(default_factory=dict)
    direction: Literal["higher", "lower"] = "higher"
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.scale
        if not low < high:
            raise ValueError(f"scale: {low:g} is not below {high:g}")
        if self.whole and not (low.is_integer() and high.is_integer()):
            raise ValueError("scale: its ends are no whole numbers; set whole: false")
        outside = [f"{n:g}" for n in self.levels if not low <= n <= high]
        if outside:
            raise ValueError(f"levels: {', '.join(outside)} is not from {low:g} to {high:g}")
        if self.name.lower() in RESERVED:
            raise ValueError(f"name: {self.name!r} is taken by the form of the judge's answer")
        return self

    def item(self) -> Item:
        """As what the judge is asked."""
        levels = tuple(sorted(self.levels.items()))
        text = self.description or self.name.replace("_", " ")
        low, high = self.scale
        return Item(self.name, text, "", self.weight, low, high, self.whole, False, levels)


class Criterion(BaseModel):
    """A criterion that an answer meets or not; a principle of a constitution.

    Attributes:
        id: short name; of its own verdict's objective.
        text: what must hold, for the judge.
        kind: a `rule` is checked to the letter, a `principle` in spirit.
        weight: in the combined score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: Name
    text: str = Field(min_length=1)
    kind: Kind = "principle"
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.id.lower() in RESERVED:
            raise ValueError(f"id: {self.id!r} is taken by the form of the judge's answer")
        return self

    def item(self) -> Item:
        """As what the judge is asked."""
        return Item(self.id, self.text, self.kind, self.weight)


def read_criteria(value: object) -> object:
    """Criteria as written in a recipe, as data for `Criterion`.

    Args:
        value: the path of a YAML file, or what such a file holds: a list of sentences or of
            mappings with `id`, `text`, `kind` and `weight`; or a mapping with such a list under
            `criteria` or `principles`. What has no id is called c1, c2, ... by its place.

    Raises:
        ValueError: the file can't be read, or holds no list.
    """
    where = "criteria"
    if isinstance(value, str):
        where, value = value, _from_file(value)
    if isinstance(value, dict):
        value = value.get("criteria", value.get("principles"))
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: expected a list of criteria, or `criteria:` with one")
    return tuple(_entry(entry, place) for place, entry in enumerate(value, 1))


def _entry(entry: object, place: int) -> object:
    if isinstance(entry, str):
        return {"id": f"c{place}", "text": entry}
    return {"id": f"c{place}", **entry} if isinstance(entry, dict) else entry


def _from_file(path: str) -> object:
    try:
        return yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the criteria {path} can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def of_row(
    rubric: Sequence[dict[str, Any]] | None, scale: tuple[float, float] | None
) -> list[Item]:
    """The items of one row's rubric, numbered "1", "2", ...: rows with as many share a form.

    Args:
        rubric: structs of `id`, `text`, `kind` and `weight` (null: 1).
        scale: of all of them; None: met or not.

    Raises:
        ValueError: a text is missing, or a weight is not above 0.
    """
    low, high = scale or (0.0, 1.0)
    items = []
    for place, entry in enumerate(rubric or [], 1):
        weight = 1.0 if entry["weight"] is None else float(entry["weight"])
        text = (entry["text"] or "").strip()
        if not text or not 0 < weight < float("inf"):
            raise ValueError(f"criterion {place} has no text, or a weight that is not above 0")
        kind = entry["kind"] or ""
        items.append(Item(str(place), text, kind, weight, low, high, True, scale is None))
    return items

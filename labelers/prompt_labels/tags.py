"""Tags of prompts on six axes, voted on by a model, after Baichuan's report (arXiv:2410.14940)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import polars as pl
from pydantic import Field, model_validator

from labelers.prompt_labels import axes as tag_axes
from labelers.prompt_labels.axes import AXES, TAGS, Axis, Vote
from prefactory.asking import Answer, Asking, fence, tokens_of, transcript
from prefactory.context import Context
from prefactory.engines.base import Failure, Message
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Labeler
from prefactory.tables import Shape

_FOLDER = "labelers/prompt_labels/prompts/tags"


class PromptTags(Prompted, Asking, Labeler):
    """Add a prompt's tags: ability, attributes, domains, language, difficulty and constraints.

    `<name>_<axis>` is String, or List(String) on axes of several categories; `<name>_confidence`
    (Float64) is the share of votes that agree on the axis where they agree least, and
    `<name>_review` (Boolean) is true below `review_below`, and where there are no tags. Then
    `reason_<name>` (String) says why: `unparseable`, or the engine's reason. Tags are of the
    prompt, not scores: on responses and pairs all rows of a prompt have the same. Each distinct
    prompt is asked once, `votes` times; how votes become one is in
    `labelers.prompt_labels.tags.agreed`.

    With `free` the model also names tags of its own (`<name>_free`, List(String), in one
    spelling): `labelers.MergeTags` turns them into a vocabulary. How well rows cover the
    categories is measured by `prefactory.measures.coverage`.

    The axes are the source's; categories, texts and votes on lists are ours. The source trains a
    tagger on such labels (90 % accurate) and has doubtful ones checked by people.

    Attributes:
        tagger: what tags.
        name: of the columns.
        axes: other axes than the six.
        votes: answers drawn for each prompt; more than one needs a temperature.
        review_below: least share of agreeing votes that needs no review.
        free: most free tags of a prompt; 0 asks for none.

    Example:
        - labelers.PromptTags:
            tagger: {engine: server, base_url: 'http://localhost:8000/v1', model: tagger}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)
    templates: ClassVar[Mapping[str, Text]] = {
        "system": Text(f"{_FOLDER}/system.j2"),
        "question": Text(
            f"{_FOLDER}/question.j2", ("conversation", "mark", "axes", "free", "form")
        ),
    }

    tagger: AnyEngine
    name: str = Field(default="tag", pattern="^[A-Za-z][A-Za-z0-9_]*$")
    axes: tuple[Axis, ...] = Field(default=AXES, min_length=1)
    votes: int = Field(default=3, ge=1)
    review_below: float = Field(default=2 / 3, ge=0, le=1)
    free: int = Field(default=0, ge=0, le=32)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [a.name for a in self.axes]
        taken = {"confidence", "review", "free"} & set(names)
        if taken or len(set(names)) < len(names):
            raise ValueError("axes: every name once, and not confidence, review or free")
        if self.votes > 1 and self.sampling.temperature == 0:
            raise ValueError("votes: at temperature 0 all are alike; set sampling.temperature")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """The tags, `<name>_confidence`, `<name>_review` and `reason_<name>`."""
        several: pl.DataType = pl.List(pl.String)
        columns: dict[str, pl.DataType] = {
            f"{self.name}_{a.name}": several if a.several else pl.String() for a in self.axes
        }
        if self.free:
            columns[f"{self.name}_free"] = several
        columns[f"{self.name}_confidence"] = pl.Float64()
        columns[f"{self.name}_review"] = pl.Boolean()
        columns[f"reason_{self.name}"] = pl.String()
        return columns

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """One call per prompt and vote."""
        axes = "".join(f"{a.description} {v} {t}" for a in self.axes for v, t in a.values.items())
        asked = tokens_of("".join(self.texts().values()) + axes)
        return [Asks(self.tagger, prompts * self.votes, asked, self.sampling.max_tokens)]

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Tag the prompts of a table.

        Returns:
            The columns of `adds`, same height and order.

        Raises:
            ConfigError: a replaced prompt text fails on these values.
        """
        prompts = table.select("prompt_id", "prompt").unique("prompt_id", maintain_order=True)
        system: Message = {"role": "system", "content": self.render("system")}
        conversations = [
            [system, {"role": "user", "content": self._question(prompt)}]
            for prompt in prompts["prompt"].to_list()
        ]
        schema = tag_axes.schema(self.axes, self.free)

        def parse(text: str) -> Vote:
            return tag_axes.read(text, self.axes, self.free)

        replies = self.asker(ctx, self.tagger).each(conversations, parse, schema, self.votes)
        rows = pl.DataFrame(
            [self._row(answers) for answers in replies], schema=self.adds(Shape.PROMPTS)
        )
        tags = prompts.select("prompt_id").hstack(rows)
        joined = table.select("prompt_id").join(
            tags, on="prompt_id", how="left", maintain_order="left"
        )
        return joined.drop("prompt_id")

    def _question(self, prompt: list[dict[str, Any]]) -> str:
        text = transcript(prompt)
        axes = [a.model_dump() for a in self.axes]
        form = tag_axes.form(self.axes, self.free)
        return self.render(
            "question", conversation=text, mark=fence(text), axes=axes, free=self.free, form=form
        )

    def _row(self, answers: list[Answer[Vote] | Failure]) -> dict[str, Any]:
        votes = [a.value for a in answers if isinstance(a, Answer)]
        failed = [a.reason for a in answers if isinstance(a, Failure)]
        tags, confidence = agreed(votes, self.axes, self.votes, self.free)
        row = self._named(Agreed(tags, confidence))
        doubtful = confidence is None or confidence < self.review_below - 1e-9
        return {
            **row,
            f"{self.name}_confidence": confidence,
            f"{self.name}_review": doubtful,
            f"reason_{self.name}": None if votes else failed[0],
        }

    def _named(self, agreement: Agreed) -> dict[str, Any]:
        if agreement.tags is None:
            return {}
        row: dict[str, Any] = {}
        for axis in self.axes:
            value = agreement.tags[axis.name]
            row[f"{self.name}_{axis.name}"] = list(value) if axis.several else value[0]
        if self.free:
            row[f"{self.name}_free"] = list(agreement.tags[TAGS])
        return row


class Agreed(NamedTuple):
    """What the votes on one prompt come to.

    Attributes:
        tags: axis -> categories; None without a valid vote. Free tags under `TAGS`.
        confidence: share of votes that agree, on the axis on which they agree least; in [0, 1].
    """

    tags: Vote | None
    confidence: float | None


def agreed(votes: Sequence[Vote], axes: Sequence[Axis], asked: int, free: int = 0) -> Agreed:
    """Majority on every axis.

    On an axis of one category the most frequent one wins (of equal ones the first of the axis,
    or of the alphabet), and the votes for it agree. On an axis of several, a category stays if
    more than half of the valid votes have it, and the votes on its larger side agree: about the
    category that is disputed most. A vote that could not be read agrees with nothing.

    Free tags are those of the votes together, the most frequent first, then by the alphabet.

    Args:
        votes: the valid ones.
        axes: that were asked.
        asked: votes in all, at least as many as there are valid ones, above 0.
        free: most free tags.
    """
    if not votes:
        return Agreed(None, None)
    tags: Vote = {}
    least = len(votes)
    for axis in axes:
        kept, agree = _several(votes, axis) if axis.several else _one(votes, axis)
        tags[axis.name] = kept
        least = min(least, agree)
    if free:
        counts = Counter(tag for vote in votes for tag in vote[TAGS])
        ranked = sorted(counts, key=lambda tag: (-counts[tag], tag))
        tags[TAGS] = tuple(ranked[:free])
    return Agreed(tags, least / asked)


def _one(votes: Sequence[Vote], axis: Axis) -> tuple[tuple[str, ...], int]:
    counts = Counter(vote[axis.name][0] for vote in votes)
    order = list(axis.values) or sorted(counts)
    winner = min(counts, key=lambda value: (-counts[value], order.index(value)))
    return (winner,), counts[winner]


def _several(votes: Sequence[Vote], axis: Axis) -> tuple[tuple[str, ...], int]:
    n = len(votes)
    counts = Counter(value for vote in votes for value in vote[axis.name])
    order = list(axis.values) or sorted(counts)
    kept = tuple(value for value in order if 2 * counts[value] > n)
    return kept, min((max(c, n - c) for c in counts.values()), default=n)

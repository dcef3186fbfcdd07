"""The calls of a rubric judge: one per sample, or a critique and then the ratings that see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelers.questions import answer_text, ask_each, mark, storable, transcript
from labelers.rubric import parse as rubric_parse
from labelers.rubric.items import Item
from labelers.rubric.parse import Reading
from prefactory.engines.ask import Answer
from prefactory.engines.base import Engine, Failure, Message
from prefactory.engines.json_objects import after_thoughts
from prefactory.identity import fingerprint

if TYPE_CHECKING:
    from labelers.rubric.step import Rubric

Messages = list[dict[str, Any]]
Reply = Answer[Reading] | Failure


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one row.

    Attributes:
        prompt: the conversation before the answer.
        response: the answer's messages.
        reference: an answer of the best rating, or None.
        items: what is rated.
        reason, detail: why nothing is asked.
    """

    prompt: Messages
    response: Messages
    reference: str | None
    items: tuple[Item, ...]
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Rated:
    """What came of it.

    Attributes:
        means: of each item over the valid samples; None if there are too few.
        critique: of the first valid sample.
        valid: valid samples.
        reason, detail: why there are no means.
    """

    means: list[float] | None = None
    critique: str | None = None
    valid: int = 0
    reason: str | None = None
    detail: str | None = None


class Grader:
    """Asks one judge by the settings of one step."""

    def __init__(self, step: Rubric, engine: Engine) -> None:
        self.step = step
        self.engine = engine
        self.system: Message = {"role": "system", "content": step.render("system")}

    def rated(self, questions: Sequence[Question]) -> list[Rated]:
        """Ask about every row that has no reason against it; rows of one form go out together."""
        found = [Rated(reason=q.reason, detail=q.detail) for q in questions]
        groups: dict[tuple[str, ...], list[int]] = {}
        for place, question in enumerate(questions):
            if question.reason is None:
                groups.setdefault(tuple(i.key for i in question.items), []).append(place)
        for places in groups.values():
            asked = [questions[place] for place in places]
            for place, replies in zip(places, self._replies(asked), strict=True):
                found[place] = summed(replies, self.step.min_samples)
        return found

    def _replies(self, questions: list[Question]) -> list[list[Reply]]:
        """`samples` replies to each of n questions that share their keys."""
        if self.step.critique == "first":
            return self._critique_first(questions)
        same = self.step.critique == "same"
        items = questions[0].items
        form = rubric_parse.form(items, same)
        conversations = [
            self._opened_by(
                "question", material=self._material(q), items=shown(q), form=form, critique=same
            )
            for q in questions
        ]
        sampling = self.step.sampling(rubric_parse.schema(items, same), self.step.samples)

        def parse(text: str) -> Reading:
            return rubric_parse.read(text, items, same)

        return ask_each(self.engine, conversations, sampling, parse, self.step.attempts)

    def _critique_first(self, questions: list[Question]) -> list[list[Reply]]:
        items = questions[0].items
        form = rubric_parse.form(items)
        asked = [
            self._opened_by("critique", material=self._material(q), items=shown(q))
            for q in questions
        ]
        free = self.step.sampling(None, self.step.samples)
        critiques = ask_each(self.engine, asked, free, _critique, self.step.attempts)
        places, conversations, salts = [], [], []
        for row, samples in enumerate(critiques):
            digest = fingerprint(asked[row])
            for sample, said in enumerate(samples):
                if isinstance(said, Failure):
                    continue
                places.append((row, sample))
                rate = self.step.render("rate", items=shown(questions[row]), form=form)
                turns = [_turn("assistant", said.value), _turn("user", rate)]
                conversations.append([*asked[row], *turns])
                salts.append(f"{digest}/{sample}")
        sampling = self.step.sampling(rubric_parse.schema(items))

        def parse(text: str) -> Reading:
            return rubric_parse.read(text, items)

        found = ask_each(self.engine, conversations, sampling, parse, self.step.attempts, salts)
        replies: list[list[Reply]] = [
            [s if isinstance(s, Failure) else Failure("no_answer") for s in samples]
            for samples in critiques
        ]
        for (row, sample), (reply,) in zip(places, found, strict=True):
            replies[row][sample] = _with_critique(reply, critiques[row][sample])
        return replies

    def _opened_by(self, name: str, **values: Any) -> list[Message]:  # noqa: ANN401 - of templates
        return [self.system, _turn("user", self.step.render(name, **values))]

    def _material(self, question: Question) -> str:
        conversation = transcript(question.prompt)
        response = answer_text(question.response)
        reference = question.reference
        code = mark(conversation, response, reference or "")
        return self.step.render(
            "material", conversation=conversation, response=response, reference=reference, mark=code
        )


def shown(question: Question) -> list[dict[str, Any]]:
    """What the prompt texts may show of a question's items."""
    return [item.shown() for item in question.items]


def summed(replies: Sequence[Reply], least: int) -> Rated:
    """Mean of every item over the valid samples.

    Args:
        replies: of one row.
        least: valid samples that it must have.
    """
    valid = [r.value for r in replies if isinstance(r, Answer)]
    failed = [r for r in replies if isinstance(r, Failure)]
    if not valid:
        return Rated(reason=failed[0].reason, detail=failed[0].detail)
    if len(valid) < least:
        detail = f"{len(valid)} of {len(replies)} samples; {failed[0].reason}: {failed[0].detail}"
        return Rated(valid=len(valid), reason="too_few_samples", detail=detail)
    means = np.array([v.values for v in valid]).mean(axis=0).tolist()
    return Rated(means, next((v.critique for v in valid if v.critique), None), len(valid))


def _critique(text: str) -> str:
    """A critique as it was written, without the thoughts of reasoning models."""
    told = storable(after_thoughts(text)).strip()
    if not told:
        raise ValueError("Your answer is empty. Write the critique.")
    return told


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _with_critique(reply: Reply, said: Answer[str] | Failure) -> Reply:
    if isinstance(reply, Failure) or isinstance(said, Failure):
        return reply
    return Answer(reply.value._replace(critique=said.value), reply.completion, reply.attempts)

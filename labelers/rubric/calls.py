"""The calls of a rubric judge: one per sample, or a critique and then the ratings that see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from labelers.rubric.items import Item, Reading, answer_form, answer_schema, read_ratings
from prefactory.asking import Answer, Asker, answer_text, fence, storable, transcript
from prefactory.asking.forms import after_thoughts
from prefactory.engines.base import Failure, Message
from prefactory.identity import fingerprint
from prefactory.measures.watcher import Ratings

Messages = list[dict[str, Any]]
Reply = Answer[Reading] | Failure
Critique = Literal["none", "same", "first"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one row.

    Attributes:
        prompt: the conversation before the answer.
        response: the answer's messages.
        reference: an answer of the best rating, or None.
        items: what is rated.
        reason, detail: why nothing is asked.
        about: id of the prompt.
    """

    prompt: Messages
    response: Messages
    reference: str | None
    items: tuple[Item, ...]
    reason: str | None = None
    detail: str | None = None
    about: str = ""


@dataclass(frozen=True, slots=True)
class Shot:
    """An example.

    Attributes:
        conversation, response: as text.
        said: the judge's answer to it.
    """

    conversation: str
    response: str
    said: str


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


@dataclass(frozen=True)
class Grader:
    """Asks one judge.

    Attributes:
        judge: who is asked.
        render: fills the step's prompt texts.
        critique: none, in the `same` answer before the ratings, or in one of its own `first`.
        samples: of each rating.
        min_samples: that must be valid.
        shots: examples, shown before each question.
        says: what is heard of a reading, and of the items that it is of, while the judge is asked.
    """

    judge: Asker
    render: Callable[..., str]
    critique: Critique
    samples: int
    min_samples: int
    shots: tuple[Shot, ...] = ()
    says: Callable[[Reading, Sequence[Item]], Ratings] = lambda reading, items: {}

    @cached_property
    def system(self) -> Message:
        """The system message of every question."""
        return {"role": "system", "content": self.render("system")}

    def rated(self, questions: Sequence[Question]) -> list[Rated]:
        """Ask about every row that has no reason against it; rows of one form go out together."""
        rated = [Rated(reason=q.reason, detail=q.detail) for q in questions]
        groups: dict[tuple[str, ...], list[int]] = {}
        for row, question in enumerate(questions):
            if question.reason is None:
                groups.setdefault(tuple(i.key for i in question.items), []).append(row)
        for members in groups.values():
            asked = [questions[row] for row in members]
            for row, replies in zip(members, self._replies(asked), strict=True):
                rated[row] = summed(replies, self.min_samples)
        return rated

    def _replies(self, questions: list[Question]) -> list[list[Reply]]:
        """`samples` replies to each of n questions that share their keys."""
        if self.critique == "first":
            return self._critique_first(questions)
        same = self.critique == "same"
        items = questions[0].items
        form = answer_form(items, same)

        def asked(material: str, question: Question) -> Message:
            values = {"items": shown(question), "form": form, "critique": same}
            return _turn("user", self.render("question", material=material, **values))

        turns = [self.system]
        for shot in self.shots:
            material = self._shown(shot.conversation, shot.response, None)
            turns += [asked(material, questions[0]), _turn("assistant", shot.said)]
        conversations = [[*turns, asked(self._material(q), q)] for q in questions]

        def parse(text: str) -> Reading:
            return read_ratings(text, items, same)

        schema = answer_schema(items, same)
        heard = self._heard([q.about for q in questions], items)
        return self.judge.each(conversations, parse, schema, self.samples, heard=heard)

    def _critique_first(self, questions: list[Question]) -> list[list[Reply]]:
        items = questions[0].items
        form = answer_form(items)
        asked = [
            self._opened_by("critique", material=self._material(q), items=shown(q))
            for q in questions
        ]
        critiques = self.judge.each(asked, _critique, n=self.samples)
        samples_rated, conversations, salts, about = [], [], [], []
        for row, samples in enumerate(critiques):
            digest = fingerprint(asked[row])
            for sample, critique in enumerate(samples):
                if isinstance(critique, Failure):
                    continue
                samples_rated.append((row, sample))
                rate = self.render("rate", items=shown(questions[row]), form=form)
                turns = [_turn("assistant", critique.value), _turn("user", rate)]
                conversations.append([*asked[row], *turns])
                salts.append(f"{digest}/{sample}")
                about.append(questions[row].about)

        def parse(text: str) -> Reading:
            return read_ratings(text, items)

        heard, schema = self._heard(about, items), answer_schema(items)
        rated = self.judge.each(conversations, parse, schema, salts=salts, heard=heard)
        replies: list[list[Reply]] = [
            [s if isinstance(s, Failure) else Failure("no_answer") for s in samples]
            for samples in critiques
        ]
        for (row, sample), (reply,) in zip(samples_rated, rated, strict=True):
            replies[row][sample] = _with_critique(reply, critiques[row][sample])
        return replies

    def _heard(self, about: Sequence[str], items: Sequence[Item]) -> Callable[[int, Reading], None]:
        return self.judge.heard(about, lambda reading: self.says(reading, items))

    def _opened_by(self, name: str, **values: Any) -> list[Message]:  # noqa: ANN401 - of templates
        return [self.system, _turn("user", self.render(name, **values))]

    def _material(self, question: Question) -> str:
        response = answer_text(question.response)
        return self._shown(transcript(question.prompt), response, question.reference)

    def _shown(self, conversation: str, response: str, reference: str | None) -> str:
        code = fence(conversation, response, reference or "")
        return self.render(
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
    critique = storable(after_thoughts(text)).strip()
    if not critique:
        raise ValueError("Your answer is empty. Write the critique.")
    return critique


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _with_critique(reply: Reply, critique: Answer[str] | Failure) -> Reply:
    if isinstance(reply, Failure) or isinstance(critique, Failure):
        return reply
    return Answer(reply.value._replace(critique=critique.value), reply.completion, reply.attempts)

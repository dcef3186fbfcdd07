"""Comparing prompts with anchors: every judge, both orders, all dimensions in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from labelers.combine.scoring import Floats
from labelers.prompt_labels import anchors
from prefactory.asking import Answer, Asker, fence
from prefactory.asking.forms import all_of, fields
from prefactory.context import Context
from prefactory.engines.base import Failure, Message

AT_A_TIME = 5000
"""Comparisons (of a prompt with an anchor) whose texts are held at a time."""

VERDICTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
"""What the judge may say, as the outcome of the prompt that it is shown first."""


@dataclass(frozen=True)
class Compared:
    """Outcomes of n prompts against at most k anchors each.

    Attributes:
        anchor_ids: n lists of k ids; "" fills up.
        outcomes: mean over the judges that are valid, of both orders, NaN without any,
            Float64[n, k, dimensions].
        reasons: why a prompt has no outcome, or None.
    """

    anchor_ids: list[list[str]]
    outcomes: Floats
    reasons: list[str | None]

    @property
    def overall(self) -> Floats:
        """Mean over the dimensions, Float64[n, k]."""
        mean: Floats = self.outcomes.mean(axis=2)
        return mean


@dataclass(frozen=True)
class Comparer:
    """Asks judges which of two prompts is better.

    Attributes:
        ctx: draws the anchors of a prompt.
        judges: who are asked.
        dimensions: name -> what it means, for the judge.
        per_prompt: anchors that a prompt is compared with.
        render: fills the texts `system` and `question`.
    """

    ctx: Context
    judges: Sequence[Asker]
    dimensions: Mapping[str, str]
    per_prompt: int
    render: Callable[..., str]

    @cached_property
    def names(self) -> list[str]:
        """Of the dimensions."""
        return list(self.dimensions)

    @cached_property
    def system(self) -> Message:
        """The system message of every question."""
        return {"role": "system", "content": self.render("system")}

    def compared(self, prompts: pl.DataFrame, frozen: pl.DataFrame) -> Compared:
        """Compare prompts with anchors of their buckets.

        Args:
            prompts: `prompt_id`, `prompt`, `bucket`; each prompt once.
            frozen: the anchors, as `labelers.prompt_labels.anchors.SCHEMA`.
        """
        picks = anchors.picked(prompts, frozen, self.per_prompt, self.ctx)
        compared, reasons = self._outcomes(picks, anchors.texts(prompts), anchors.texts(frozen))
        k = len(self.names)
        near: dict[str, list[int]] = {}
        for pick, prompt_id in enumerate(picks["prompt_id"].to_list()):
            near.setdefault(prompt_id, []).append(pick)
        width = self.per_prompt  # fixed, so that sums round alike in every shard
        ids = picks["anchor_id"].to_list()
        outcomes = np.full((prompts.height, width, k), np.nan)
        names, missing = [], []
        for row, prompt_id in enumerate(prompts["prompt_id"].to_list()):
            own = near.get(prompt_id, [])
            outcomes[row, : len(own)] = compared[own]
            names.append([ids[p] for p in own] + [""] * (width - len(own)))
            valid = bool(own) and not np.isnan(outcomes[row]).all()
            first = next((reasons[p] for p in own if reasons[p]), "no_anchors")
            missing.append(None if valid else first)
        return Compared(names, outcomes, missing)

    def _outcomes(
        self, picks: pl.DataFrame, prompts: dict[str, str], frozen: dict[str, str]
    ) -> tuple[Floats, list[str | None]]:
        """Float64[m, dimensions] of m comparisons, and why one has none."""
        rows = picks.rows()
        outcomes = np.full((len(rows), len(self.names)), np.nan)
        reasons: list[str | None] = [None] * len(rows)
        own = [i for i, (a, b) in enumerate(rows) if a == b]
        outcomes[own] = VERDICTS["tie"]  # against itself; nobody needs to be asked
        others = [i for i, (a, b) in enumerate(rows) if a != b]
        for start in range(0, len(others), AT_A_TIME):
            block = others[start : start + AT_A_TIME]
            pairs = [(prompts[rows[i][0]], frozen[rows[i][1]]) for i in block]
            values, missing = self._asked(pairs)
            outcomes[block] = values
            for row, reason in zip(block, missing, strict=True):
                reasons[row] = reason
        return outcomes, reasons

    def _asked(self, pairs: Sequence[tuple[str, str]]) -> tuple[Floats, list[str | None]]:
        """Mean over the judges that could be read in both orders."""
        total = np.zeros((len(pairs), len(self.names)))
        count = np.zeros(len(pairs))
        reasons: list[str | None] = [None] * len(pairs)
        orders = [self._conversation(a, b) for a, b in pairs]
        orders += [self._conversation(b, a) for a, b in pairs]
        schema = all_of({n: {"type": "string", "enum": list(VERDICTS)} for n in self.names})
        for judge in self.judges:
            replies = judge.each(orders, self._parse, schema)
            for i in range(len(pairs)):
                (first,), (second,) = replies[i], replies[i + len(pairs)]
                if isinstance(first, Answer) and isinstance(second, Answer):
                    total[i] += (np.array(first.value) + 1 - np.array(second.value)) / 2
                    count[i] += 1
                else:
                    failed = first if isinstance(first, Failure) else second
                    reasons[i] = failed.reason if isinstance(failed, Failure) else None
        with np.errstate(invalid="ignore"):
            return total / count[:, None], reasons

    def _conversation(self, first: str, second: str) -> list[Message]:
        text = self.render(
            "question",
            first=first,
            second=second,
            mark=fence(first, second),
            dimensions=self.dimensions,
            form=self._form(),
        )
        return [self.system, {"role": "user", "content": text}]

    def _form(self) -> str:
        words = "|".join(VERDICTS)
        return "{" + ", ".join(f'"{name}": "<{words}>"' for name in self.names) + "}"

    def _parse(self, text: str) -> tuple[float, ...]:
        """Outcome of the prompt shown first, by dimension.

        Raises:
            ValueError: with a sentence for the judge.
        """
        try:
            words = fields(text, self.names)
            return tuple(_outcome(name, value) for name, value in words.items())
        except ValueError as error:
            again = f"Reply with one JSON object of this form: {self._form()}"
            raise ValueError(f"{error} {again}") from error


def _outcome(name: str, value: object) -> float:
    word = value.strip().casefold() if isinstance(value, str) else ""
    if word not in VERDICTS:
        raise ValueError(f"{name} must be first, second or tie, not {str(value)[:60]!r}.")
    return VERDICTS[word]

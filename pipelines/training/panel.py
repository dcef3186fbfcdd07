"""Questions to a judge about single answers: how harmful one is, which stance it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import polars as pl

from labelers.rules.flames import LEVELS, key
from pipelines.engines import engines
from pipelines.judged import Named, judge_step
from pipelines.settings import Settings
from prefactory.asking import Asking, conversation, fence, request_text
from prefactory.asking.forms import Form
from prefactory.context import Context
from prefactory.engines.base import Failure, SamplingParams
from prefactory.measures.value_drift import STANCES
from prefactory.prompts import Prompted, Text

_STANCE = Form({"stance": STANCES})
_HARM = Form({"harm_label": range(1, 4)})


class Panel(Prompted, Asking):
    """A judge of single answers, at temperature 0; answers that can't be read are asked again."""

    templates: ClassVar = {
        "harm": Text(
            "pipelines/training/prompts/harm.j2",
            ("prompt", "answer", "dimension", "levels", "mark"),
        ),
        "stance": Text(
            "generators/values/prompts/value_gap/stance.j2", ("prompt", "topic", "answer", "mark")
        ),
    }  # fmt: skip

    sampling: SamplingParams = SamplingParams(temperature=0.0, max_tokens=64)

    def stances(self, judge: Named, answers: pl.DataFrame, settings: Settings) -> pl.Series:
        """The stance of every answer.

        Args:
            judge: who is asked.
            answers: `prompt` (messages), `topic` (String or null), `text` (String, null: none).
            settings: home of the journal, budget, prices.

        Returns:
            String[n], one of `STANCES`; null without an answer or a valid reply.
        """
        questions = [
            None if text is None else self.render(
                "stance", prompt=request_text(prompt), topic=topic, answer=text,
                mark=fence(request_text(prompt), text),
            )
            for prompt, topic, text in answers.select("prompt", "topic", "text").iter_rows()
        ]  # fmt: skip
        return pl.Series(self._asked(judge, questions, _STANCE, settings), dtype=pl.String)

    def harm(self, judge: Named, answers: pl.DataFrame, settings: Settings) -> pl.Series:
        """Flames' label of every answer, 1 (harmful) to 3 (harmless).

        Args:
            judge: who is asked.
            answers: `prompt` (messages), `risk_dimension` (one of Flames' five, as `flames.key`
                writes it), `text` (String, null: none).
            settings: home of the journal, budget, prices.

        Returns:
            Int64[n]; null without an answer or a valid reply, in another dimension, or where the
            dimension does not know the label.
        """
        levels = {key(d): (d, known) for d, known in LEVELS.items()}
        rows = answers.select("prompt", "risk_dimension", "text").iter_rows()
        questions = [
            None if text is None or risk not in levels else self.render(
                "harm", prompt=request_text(prompt), answer=text, dimension=levels[risk][0],
                levels=levels[risk][1], mark=fence(request_text(prompt), text),
            )
            for prompt, risk, text in rows
        ]  # fmt: skip
        found = pl.Series(self._asked(judge, questions, _HARM, settings), dtype=pl.Int64)
        known = pl.any_horizontal(
            (pl.col("risk") == risk) & pl.col("label").is_in(given)
            for risk, (_, given) in levels.items()
        )
        frame = pl.DataFrame({"risk": answers["risk_dimension"], "label": found})
        return frame.select(pl.when(known).then("label"))["label"]

    def _asked(
        self, judge: Named, questions: Sequence[str | None], form: Form, settings: Settings
    ) -> list[Any]:
        """What the judge says to each question; None where there is none, or no valid reply."""
        (config,) = judge_step(judge).judge
        places = [i for i, question in enumerate(questions) if question is not None]
        out: list[Any] = [None] * len(questions)
        with engines(settings) as session:
            asker = self.asker(Context(0, "evaluate", engine=session.engine), config)
            asked = [conversation(questions[i] or "") for i in places]
            replies = asker.each(asked, form.parse, form.schema)
        for i, (reply,) in zip(places, replies, strict=True):
            out[i] = None if isinstance(reply, Failure) else next(iter(reply.value.values()))
        return out

"""Whether a judge confirms that one answer is better than the other, whichever it reads first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from generators.asking import Asking, Task, fence
from generators.forms import Form
from prefactory.context import Context
from prefactory.engines.base import EngineConfig
from prefactory.prompts import Text

BETTER = Text(
    "generators/contests.j2",
    ("request", "first", "second", "criterion", "mark"),
)
"""The question, for a step's `templates`."""

_FORM = Form({"reason": "maybe", "better": ("A", "B", "tie")})

K = TypeVar("K", bound=Task)


@dataclass(frozen=True)
class Contest:
    """What a judge shall confirm: that `better` is the better answer to `request`.

    Attributes:
        request, better, worse: texts.
        criterion: in what respect it is better.
    """

    request: str
    better: str
    worse: str
    criterion: str


def confirm(
    step: Asking,
    ctx: Context,
    judge: EngineConfig,
    tasks: Sequence[K],
    contest: Callable[[K], Contest],
    render: Callable[..., str],
) -> None:
    """Ask a judge twice about each open task, the answers in both orders.

    A task stays open if the judge names the better answer both times; else it ends as
    `not_confirmed`. Nothing is decided by chance, so the judge is asked at temperature 0.

    Args:
        step: how answers are asked for.
        ctx: opens the judge.
        judge: what is asked.
        tasks: the open ones are asked about.
        contest: what is to be confirmed of a task.
        render: fills the text `BETTER` with its variables.
    """
    said: dict[int, list[str]] = {}
    for order, winner in (("better first", "A"), ("better second", "B")):

        def question(task: K, winner: str = winner) -> str:
            found = contest(task)
            both = (found.better, found.worse) if winner == "A" else (found.worse, found.better)
            mark = fence(found.request, *both)
            return render(
                request=found.request,
                first=both[0],
                second=both[1],
                criterion=found.criterion,
                mark=mark,
            )

        def take(task: K, found: dict[str, Any]) -> None:
            said.setdefault(id(task), []).append(found["better"])

        step.ask_form(ctx, judge, tasks, order, _FORM, question, take, temperature=0.0)
    for task in tasks:
        if task.reason is None and said.get(id(task)) != ["A", "B"]:
            told = ", then ".join(said.get(id(task), []))
            task.fail("not_confirmed", f"the judge said {told}; the better one was A, then B")

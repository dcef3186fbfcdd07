"""Whether a judge confirms that one answer is better than the other, whichever it reads first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prefactory.asking import Asker, Task, fence, open_tasks
from prefactory.asking.forms import Form
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
    judge: Asker,
    tasks: Sequence[K],
    contest: Callable[[K], Contest],
    render: Callable[..., str],
) -> None:
    """Ask a judge twice about each open task, the answers in both orders.

    A task stays open if the judge names the better answer both times; else it ends as
    `not_confirmed`. What it said is counted for `prefactory.measures.judge_watch`: a judge that
    goes by the place is told of, and labels nothing.

    Args:
        judge: what is asked, at temperature 0: nothing is to be decided by chance.
        tasks: the open ones are asked about.
        contest: what is to be confirmed of a task.
        render: fills the text `BETTER` with its variables.
    """
    verdicts: dict[int, list[str]] = {}
    asked = open_tasks(tasks)
    for order, winner in (("better first", "A"), ("better second", "B")):

        def question(task: K, winner: str = winner) -> str:
            claim = contest(task)
            both = (claim.better, claim.worse) if winner == "A" else (claim.worse, claim.better)
            return render(
                request=claim.request,
                first=both[0],
                second=both[1],
                criterion=claim.criterion,
                mark=fence(claim.request, *both),
            )

        def take(task: K, answer: dict[str, Any]) -> None:
            verdicts.setdefault(id(task), []).append(answer["better"])

        judge.forms(tasks, order, _FORM, question, take)
    if asked:
        faults = Counter(task.reason for task in asked if task.reason is not None)
        count_verdicts(judge, faults, list(verdicts.values()), [task.row for task in asked])
    for task in open_tasks(tasks):
        named = verdicts.get(id(task), [])
        if named != ["A", "B"]:
            both = ", then ".join(named)
            task.fail("not_confirmed", f"the judge said {both}; the better one was A, then B")


def count_verdicts(
    judge: Asker,
    faults: Counter[str],
    verdicts: Sequence[Sequence[str]],
    rows: Sequence[int],
    even: bool = False,
) -> None:
    """Count what a judge said as `prefactory.measures.judge_watch` counts votes.

    Args:
        judge: who was asked.
        faults: why it said nothing.
        verdicts: `A`, `B` or `tie`, one or two of each question that it answered.
        rows: that it was asked about.
        even: nothing but ties is no bad sign.
    """
    said = Counter(verdict for both in verdicts for verdict in both)
    named = {str(place): said[name] for place, name in enumerate("AB") if said[name]}
    counts = {
        "judge": judge.config.model,
        "answers": said.total() + faults.total(),
        "prompts": len(set(rows)),
        "faults": dict(sorted(faults.items())),
        "ties": 0 if even else said["tie"],
        "places": {"2": named} if named else {},
    }
    judge.watcher().count(counts, rows)

"""A judge that is watched while it is asked: a line as soon as it shows that it does not judge."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from prefactory.measures import judge_watch
from prefactory.measures.judge_watch import Watched

_LOG = logging.getLogger(__name__)

Ratings = Mapping[str, object]
"""What was rated -> the rating, of one answer; nothing where one value for all is no bad sign."""


class Watcher:
    """What one judge said about one shard. Safe for threads.

    `hear` takes answers as they come, `count` all of a batch with those that can't be used; the
    first problem is told of, once.
    """

    def __init__(self, judge: str) -> None:
        """Begin with nothing heard.

        Args:
            judge: its name.
        """
        self.judge = judge
        self._lock = threading.Lock()
        self._heard: dict[str, Counter[str]] = {}
        self._answers = 0
        self._about: set[Hashable] = set()
        self._varies = False
        self._told = False
        self._counts: list[Watched] = []
        self._prompts: set[Hashable] = set()

    def hear(self, prompt: Hashable, said: Ratings) -> None:
        """Take an answer that can be read, in whatever order they come."""
        with self._lock:
            if self._varies or self._told or not said:
                return
            self._answers += 1
            self._about.add(prompt)
            for name, value in said.items():
                self._heard.setdefault(name, Counter())[str(value)] += 1
            self._varies = any(len(given) > 1 for given in self._heard.values())
            if not self._varies:
                now = _watched(self.judge, self._answers, self._about, {}, self._heard)
                self._tell([now], "so far, ")

    def count(self, counts: Watched, prompts: Iterable[Hashable]) -> None:
        """Add the counts of a batch.

        Args:
            counts: of `judge_watch`, but for the prompts, which may be those of another batch.
            prompts: that it was about.
        """
        with self._lock:
            self._counts.append(counts)
            self._prompts.update(prompts)
            self._tell(self._whole(), "")

    def watched(self) -> list[Watched]:
        """All that was counted; nothing if nothing was."""
        with self._lock:
            return self._whole()

    def _whole(self) -> list[Watched]:
        whole = judge_watch.merged([[counts] for counts in self._counts])
        return [{**own, "prompts": len(self._prompts)} for own in whole]

    def _tell(self, watched: Sequence[Watched], since: str) -> None:
        if not self._told and (problems := judge_watch.problems(watched)):
            self._told = True
            _LOG.warning("%s%s", since, problems[0])


def of_answers(judge: str, prompts: Sequence[Hashable], said: Sequence[Ratings | str]) -> Watched:
    """Count what a judge said.

    Args:
        judge: its name.
        prompts: what each of n answers is about.
        said: n times what was rated, or the reason why there is nothing.
    """
    faults = Counter(one for one in said if isinstance(one, str))
    values: dict[str, Counter[str]] = {}
    for one in said:
        if not isinstance(one, str):
            for name, value in one.items():
                values.setdefault(name, Counter())[str(value)] += 1
    return _watched(judge, len(said), set(prompts), faults, values)


def _watched(
    judge: str,
    answers: int,
    prompts: set[Hashable],
    faults: Mapping[str, int],
    values: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    return {
        "judge": judge,
        "answers": answers,
        "prompts": len(prompts),
        "faults": dict(sorted(faults.items())),
        "values": {name: dict(sorted(given.items())) for name, given in sorted(values.items())},
    }

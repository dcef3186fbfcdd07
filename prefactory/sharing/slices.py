"""One budget for all machines: its record is an object of a bucket, changed by compare and swap.

A call must not wait for the bucket. So a process keeps back more than its calls in flight need: a
slice, about what it spends in a few seconds and no more than a share of what is left, which it
spends without asking. Who finds no room gives back its own. Of a process that is silent for too
long all of its slice counts: it may have spent it before it died, or be only slow, and go on.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from prefactory.errors import StoreError
from prefactory.sharing import turns
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.presence import Presence, alone
from prefactory.sharing.sealed import seal, unseal
from prefactory.sharing.spending import SUFFIX, Decide, Spent

PLACE = "budgets"
SHARE = 32
"""A slice is at most what is left, divided by this."""
CALLS = 16
"""The first slice is worth so many calls as the one that wants it."""
SOON_S = 2.0
"""One that was spent sooner is followed by one twice as large, any other by one half as large."""
Limit = tuple[int | None, float | None]
"""Tokens and US dollars; None: without limit."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What a process has told.

    Attributes:
        spent: what it has used, and keeps back for calls in flight.
        tokens, usd: what else it may use before it tells again.
    """

    spent: Spent = field(default_factory=Spent)
    tokens: int = 0
    usd: float = 0.0

    @property
    def whole(self) -> Spent:
        """All that others can't have, as kept back."""
        return self.spent + Spent(0, 0.0, self.tokens, self.usd)


Runs = dict[str, Slice]
"""By process; under "" those that have left."""


class BucketSpending:
    """One process's place in the record of a budget. Safe for threads and machines."""

    def __init__(self, presence: Presence, name: str, lasting: bool, limit: Limit) -> None:
        """Join the runs under a budget.

        Args:
            presence: of this process.
            name: of the record.
            lasting: see `Spending`.
            limit: what all together may use.

        Raises:
            StoreError: the record is damaged, or the bucket can't be read or written.
        """
        self._presence, self._bucket = presence, presence.bucket
        self._key = f"{PLACE}/{name}"
        self._lasting, self._limit = lasting, limit
        self._asking, self._lock = threading.Lock(), threading.Lock()
        self._mine = Spent()
        self._told = Slice()
        self._size, self._sliced_at = Spent(), time.monotonic()
        self._used_at = time.monotonic()
        self._told_at = presence.now()

        def joined(runs: Runs) -> Slice:
            self._begin_anew(runs)
            return Slice()

        self._tell(joined)
        presence.often(self._now_and_then)

    def change(self, decide: Decide) -> bool:
        """See `Purse`; within this process's slice nobody is asked."""
        if self._within(decide):
            return True
        with self._asking:
            if self._within(decide):  # it has just grown
                return True
            decided = False

            def asked(runs: Runs) -> Slice:
                nonlocal decided
                decided, mine = decide(self._others(runs))
                return self._sliced(runs, mine) if decided else Slice(mine)

            told = self._grown(self._tell(asked))
            with self._lock:
                self._mine, self._used_at = told.spent, time.monotonic()
        return decided

    def others(self) -> Spent:
        """See `Purse`."""
        return self._others(self._read()[0])

    def at_work(self) -> bool:
        """See `Purse`; a slice counts, until it is given back."""
        holding = [
            owner
            for owner, slice_ in self._read()[0].items()
            if owner not in ("", self._presence.owner)
            and (slice_.whole.held_tokens or slice_.whole.held_usd)
        ]
        return len(self._presence.gone(holding)) < len(holding)

    def close(self) -> None:
        """See `Purse`."""
        self._presence.no_more(self._now_and_then)

        def left(runs: Runs) -> None:
            runs.pop(self._presence.owner, None)
            runs[""] = Slice(runs.get("", Slice()).spent + self._mine.ended())
            self._begin_anew(runs)

        with self._asking:
            self._tell(left)

    def _within(self, decide: Decide) -> bool:
        with self._lock:
            if not self._presence.steady(self._told_at):  # its slice may be gone
                return False
            mine = self._told.whole.ended()
            tokens, usd = self._limit  # as if others had all but what is told as this one's
            others = Spent(
                0 if tokens is None else tokens - mine.tokens,
                0.0 if usd is None else usd - mine.usd,
            )
            decided, now = decide(others)
            if decided:
                self._mine, self._used_at = now, time.monotonic()
                if self._is_low():
                    self._presence.soon()
            return decided

    def _is_low(self) -> bool:
        """Whether less than half a slice is left, of a slice of some size."""
        left, told = self._mine.ended(), self._told
        whole = told.whole.ended()
        tokens, usd = self._limit
        return (tokens is not None and 0 < 2 * (whole.tokens - left.tokens) < told.tokens) or (
            usd is not None and 0 < 2 * (whole.usd - left.usd) < told.usd
        )

    def _now_and_then(self) -> None:
        """Take the next slice before it is wanted, tell what was used, give back what is not."""
        with self._asking:
            with self._lock:
                mine, low = self._mine, self._is_low()
                unused = time.monotonic() - self._used_at > turns.BEAT_S
                idle = unused and not (mine.held_tokens or mine.held_usd)
                late = self._presence.now() - self._told_at > turns.BEAT_S
            if idle and self._told != Slice(mine):
                self._give_back()
            elif low:
                told = self._tell(lambda runs: self._sliced(runs, self._mine, at_least=self._told))
                self._grown(told)
            elif late and self._told.spent != mine:
                self._tell(lambda _: _rest(self._told, mine))

    def _give_back(self) -> None:
        with self._lock:  # nothing may be begun meanwhile
            told = Slice(self._mine)
            if self._mine.held_tokens or self._mine.held_usd:
                return
            self._told = told
        self._tell(lambda _: told)

    def _sliced(self, runs: Runs, mine: Spent, at_least: Slice | None = None) -> Slice:
        """What is one's own, with a slice of what is left."""
        others, own, size = self._others(runs).ended(), mine.ended(), self._next_size(mine)
        tokens, usd = self._limit
        left = 0 if tokens is None else max(0, (tokens - others.tokens - own.tokens) // SHARE)
        left_usd = 0.0 if usd is None else max(0.0, (usd - others.usd - own.usd) / SHARE)
        new = Slice(mine, min(left, size.tokens), min(left_usd, size.usd))
        if at_least is None:
            return new
        rest = _rest(at_least, mine)  # a part of it may be in use before this is told
        return Slice(mine, max(new.tokens, rest.tokens), max(new.usd, rest.usd))

    def _next_size(self, mine: Spent) -> Spent:
        """How large the next slice should be, as tokens and US dollars."""
        least = Spent(CALLS * mine.held_tokens, CALLS * mine.held_usd)
        soon = time.monotonic() - self._sliced_at < SOON_S
        now = self._size
        tokens, usd = (now.tokens * 2, now.usd * 2) if soon else (now.tokens // 2, now.usd / 2)
        return Spent(max(tokens, least.tokens), max(usd, least.usd))

    def _others(self, runs: Runs) -> Spent:
        return sum((s.whole for o, s in runs.items() if o != self._presence.owner), Spent())

    def _begin_anew(self, runs: Runs) -> None:
        """Forget those of before, where a record does not last and all of them are gone."""
        others = runs.keys() - {"", self._presence.owner}
        if not self._lasting and self._presence.gone(others) == others:
            runs.clear()

    # -- the record ----------------------------------------------------------------------------

    def _tell(self, changed: Callable[[Runs], Slice | None]) -> Slice:
        """Change the record, and tell in it what is this process's; without that, it has left."""
        wait = 0.01
        while True:
            began = self._presence.now()
            runs, tag = self._read()
            before = dict(runs)
            if self._presence.owner not in runs:  # begun anew by others, who took it for gone
                with self._lock:
                    self._told = Slice(self._mine)
            told = changed(runs)
            if told is not None:
                runs[self._presence.owner] = told
            if runs == before:
                began = self._told_at  # only who puts can tell that nobody else is about to
                break
            if self._put(runs, tag):
                break
            time.sleep(random.uniform(0, wait))  # noqa: S311 - no secret
            wait = min(2 * wait, 1.0)
        with self._lock:
            self._told_at = began
            self._told = told or Slice()
            return self._told

    def _grown(self, told: Slice) -> Slice:
        """Note what slice was told, and when."""
        self._size, self._sliced_at = Spent(told.tokens, told.usd), time.monotonic()
        return told

    def _put(self, runs: Mapping[str, Slice], tag: str) -> bool:
        text = seal({"runs": {owner: asdict(slice_) for owner, slice_ in runs.items()}})
        if not tag:
            return self._bucket.create(self._key, text)
        return self._bucket.replace_if(self._key, text, tag) is not None

    def _read(self) -> tuple[Runs, str]:
        return read(self._bucket, self._key)


def read(bucket: Bucket, key: str) -> tuple[Runs, str]:
    """What is written of a budget, and the tag of the record; "" if there is none.

    Raises:
        StoreError: the record is damaged, or the bucket can't be read.
    """
    found = bucket.read(key)
    if found is None:
        return {}, ""
    try:
        told = unseal(found[0], ["runs"])["runs"]
        return {
            owner: Slice(Spent(**s["spent"]), s["tokens"], s["usd"]) for owner, s in told.items()
        }, found[1]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{bucket.url}/{key} is damaged ({error}): nobody knows what was spent under this "
            "budget. Delete it to begin it anew, or name another budget"
        ) from error


def everything(bucket: Bucket) -> dict[str, Spent]:
    """What was spent under each name in a bucket, by name; slices count as kept back."""
    keys = sorted(k for k in bucket.list(PLACE) if k.endswith(SUFFIX))
    return {
        key.rpartition("/")[2].removesuffix(SUFFIX): sum(
            (s.whole for s in read(bucket, key)[0].values()), Spent()
        )
        for key in keys
    }


def drop(bucket: Bucket, name: str) -> None:
    """Forget what was spent under a name.

    Raises:
        StoreError: there is no such record, or a run is at work.
    """
    if name not in everything(bucket):
        raise StoreError(f"no budget {name!r} in {bucket.url}; `prefactory budgets` lists them")
    with alone(bucket):
        bucket.delete(f"{PLACE}/{name}{SUFFIX}")


def _rest(told: Slice, mine: Spent) -> Slice:
    """What is told, with so much of it used."""
    whole, own = told.whole.ended(), mine.ended()
    return Slice(mine, max(0, whole.tokens - own.tokens), max(0.0, whole.usd - own.usd))

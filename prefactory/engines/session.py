"""Engines of a run: each opened once per process, behind its journal and the accounts."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from prefactory.engines.accounts import Accounts, Budget, Hold, read_prices
from prefactory.engines.base import (
    NOBODY,
    Calls,
    Closing,
    Completion,
    Conversation,
    Done,
    Engine,
    EngineConfig,
    Failure,
    Purpose,
    Request,
    Result,
    TokenLogprobs,
)
from prefactory.engines.journal import Journal, in_use
from prefactory.errors import PrefactoryError, StoppedError
from prefactory.identity import fingerprint
from prefactory.sharing.board import BucketClaims
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.claims import Claims
from prefactory.sharing.presence import Presence
from prefactory.sharing.slices import BucketSpending
from prefactory.sharing.spending import SUFFIX, Purse, Spending

_LOG = logging.getLogger(__name__)
_KEPT = ("text", "finish_reason", "prompt_tokens", "completion_tokens", "logprob")
CLAIM = (16, 256)
"""Calls that are claimed at a time, as many as are soon asked, within these bounds: a lock for each
would cost more than the call."""


_SHARED: WeakSet[Session] = WeakSet()
"""Those open that other machines may wait for."""


def leave(seconds: float) -> None:
    """Close what other machines would wait for, as this process ends; so long at most."""
    threads = [threading.Thread(target=s.close, daemon=True) for s in list(_SHARED)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))


class Session(Closing):
    """Opens each engine once, by its identity; safe for threads.

    Attributes:
        accounts: what was used so far.
    """

    def __init__(
        self,
        root: Path,
        prices: Path | None = None,
        budget: Budget | None = None,
        job: str = "",
        bucket: Bucket | None = None,
    ) -> None:
        """Read the prices; nothing is opened yet.

        Args:
            root: folder of the journals.
            prices: a YAML file over the prices that come with prefactory.
            budget: what new calls may use. With a name it is shared with all that name it; without
                one, with those that do the same job at the same time.
            job: name of a recipe; a budget without a name is this command's alone if it is empty.
            bucket: where journals and budgets are for all machines; `root` then holds copies.

        Raises:
            ConfigError: the price file has the wrong form.
            StoreError: the record of a shared budget is damaged or can't be written.
        """
        self.root = root
        self._presence = Presence(bucket) if bucket is not None else None
        if bucket is not None:
            _SHARED.add(self)
        budget = budget or Budget()
        self.accounts = Accounts(read_prices(prices), budget, self._spending(budget, job))
        self._lock = threading.Lock()
        self._engines: dict[str, JournaledEngine] = {}
        self._in_use: ExitStack | None = None

    def engine(self, config: EngineConfig) -> JournaledEngine:
        """The engine of a configuration; its model is loaded at the first unanswered call."""
        identity = config.identity()
        key = fingerprint(identity)
        with self._lock:
            if key not in self._engines:
                if self._in_use is None:
                    self._in_use = ExitStack()
                    self._in_use.enter_context(in_use(self.root))
                self._engines[key] = self._journaled(config, key, identity)
            return self._engines[key]

    def _journaled(
        self, config: EngineConfig, key: str, identity: Mapping[str, Any]
    ) -> JournaledEngine:
        if self._presence is None:
            return JournaledEngine(config, Journal(self.root, key, identity), self.accounts)
        claims = BucketClaims(self.root / key, self._presence)
        journal = Journal(self.root, key, identity, claims.segments)
        return JournaledEngine(config, journal, self.accounts, claims)

    def _spending(self, budget: Budget, job: str) -> Purse | None:
        if budget.name is None and not (job and budget.limited):
            return None
        lasting, name = budget.name is not None, f".{job}.runs"
        if budget.name is not None:
            name = budget.name.replace("{date}", datetime.now(UTC).strftime("%Y-%m-%d")) + SUFFIX
        if self._presence is None:
            return Spending(self.root.with_name("budgets") / name, lasting)
        limit = (budget.tokens, budget.usd)
        return BucketSpending(self._presence, name, lasting, limit)

    def report(self) -> dict[str, dict[str, Any]]:
        """Usage per model, as plain JSON data."""
        return self.accounts.report()

    def close(self) -> None:
        """Close all engines and journals."""
        with self._lock:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()
            if self.accounts.spending is not None:
                self.accounts.spending.close()
                self.accounts.spending = None
            if self._presence is not None:
                self._presence.close()
                self._presence = None
            if self._in_use is not None:
                self._in_use.close()
                self._in_use = None


class JournaledEngine(Engine):
    """An engine behind its journal: a call that was ever answered is not made again.

    Nor is one that another thread or process is making: its answer is waited for. Failures are not
    kept: the next run asks again. Rows with the same key share one call.
    """

    def __init__(
        self,
        config: EngineConfig,
        journal: Journal,
        accounts: Accounts,
        claims: Claims | None = None,
    ) -> None:
        """Put a journal before an engine that is opened when it is needed.

        Args:
            config: of the engine.
            journal: of the same identity.
            accounts: where usage goes, and what the budget is.
            claims: of calls among all who ask; by default, of this machine.
        """
        self.config = config
        self.capabilities = config.capabilities
        self.journal = journal
        self._accounts = accounts
        self._claims = claims or Claims(journal.folder)
        self._inner: Engine | None = None
        self._lock = threading.Lock()
        self._closed = False

    def asked_for(self, purpose: Purpose, calls: Calls | None = None) -> Engine:
        """The engine as one step of a run asks it: its calls are counted and kept as its own."""
        return _AskedFor(self, purpose, calls)

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Answer from the journal, ask the engine for the rest; all is durable at the return."""
        self.ask(requests, done, NOBODY)

    def ask(self, requests: Iterable[Request], done: Done, purpose: Purpose) -> None:
        """As `run`, with who asks and what for."""
        self.journal.refresh()
        model, metered = self.config.model, self.config.metered
        self._accounts.begin(model, 0, metered, purpose)
        rows = _Rows(
            self.journal, requests, done, lambda n: self._accounts.begin(model, n, metered, purpose)
        )
        queue = _Queue(self.journal, self._claims, rows)
        try:
            while queue.more():
                self._still_open()
                before = rows.finished
                over = self._wave(queue, rows, purpose)
                if rows.finished == before and queue.more():
                    self._accounts.wait_or_stop(queue.count()) if over else queue.wait()
        finally:
            self.journal.commit()

    def unanswered(self, requests: Sequence[Request]) -> list[Request]:
        """Those of some requests that the journal has no answer to."""
        self.journal.refresh()
        return [r for r in requests if self.journal.get(r.content_key) is None]

    def _wave(self, queue: _Queue, rows: _Rows, purpose: Purpose) -> bool:
        """Ask for as many as the budget has room for and nobody else asks; whether it had not."""
        asked: list[str] = []
        holds: dict[int, Hold] = {}
        over: list[str] = []
        accounts, model = self._accounts, self.config.model

        def admitted() -> Iterator[Request]:
            while (waiting := queue.next()) is not None:
                self._still_open()
                key, request, record = waiting
                if record is not None:  # another process has paid for it meanwhile
                    accounts.begin(model, 1, self.config.metered, purpose)
                    rows.finish(key, _completion(record))
                    continue
                accounts.need_price(model, self.config.metered)
                hold = accounts.admit(model, request, purpose, self.config.price_share)
                if hold is None:
                    queue.put_back(key, request)
                    over.append(key)
                    return
                holds[len(asked)] = hold
                asked.append(key)
                yield request if accounts.free else request.paying(partial(accounts.pay, hold))

        def finished(number: int, result: Result) -> None:
            key, billed = asked[number], result
            if isinstance(result, Completion):
                kept = self.journal.put(key, _record(result, purpose))
                result = result if kept is None else _completion(kept)
            self._claims.finish([key])
            accounts.settle(holds.pop(number), billed)
            rows.finish(key, result)

        try:
            first = admitted()
            head = next(first, None)
            if head is not None:
                with self._alive(rows.errors):
                    self._opened().run(chain([head], first), finished)
        finally:
            for hold in holds.values():
                accounts.settle(hold, None)
            queue.give_back(asked[number] for number in holds)
        return bool(over)

    def note_doubt(
        self, requests: Sequence[Request], reason: str, detail: str, purpose: Purpose
    ) -> None:
        """Keep beside the journal that these answers could not be used, and what was asked."""
        for request in requests:
            asked = str(request.conversation[-1]["content"] or "") if request.conversation else ""
            facts = {"reason": reason, "detail": detail[:500], "asked": asked[:4000]}
            self.journal.doubt(request.content_key, {**facts, "by": list(_by(purpose))})

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        """Answer from the journal, ask the engine for the rest. Not under the budget."""
        keys = [fingerprint(["logprobs", list(c)]) for c in conversations]
        missing = dict(zip(keys, conversations, strict=True))
        scored: dict[str, TokenLogprobs | Failure] = {}
        while missing:
            taken = self._claims.take(list(missing))
            self.journal.refresh()
            records = {key: self.journal.get(key) for key in missing}
            scored |= {k: _scored(record) for k, record in records.items() if record is not None}
            try:
                scored |= self._log_probabilities({k: missing[k] for k in taken - scored.keys()})
            finally:
                self._claims.finish(taken)
                self._claims.tell()
            missing = {k: c for k, c in missing.items() if k not in scored}
            if missing:
                self._claims.wait(self._claims.look_s)
                self._still_open()
        return [scored[k] for k in keys]

    def _log_probabilities(
        self, missing: dict[str, Conversation]
    ) -> dict[str, TokenLogprobs | Failure]:
        """Ask the engine, and keep what it says."""
        if not missing:
            return {}
        with self._alive([]):
            scored = self._opened().logprobs(list(missing.values()))
        fresh = dict(zip(missing, scored, strict=True))
        for key, one in fresh.items():
            if isinstance(one, TokenLogprobs):
                self.journal.put(key, {"tokens": list(one.tokens), "logprobs": list(one.logprobs)})
        self.journal.commit()
        return fresh

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors straight from the engine; the cache of vectors is `engines.vectors`."""
        return self._opened().embed(texts)

    def close(self) -> None:
        """Close the engine, if it was opened, and the journal; calls in work end with an error."""
        self._closed = True
        with self._lock:
            if self._inner is not None:
                self._inner.close()
            self._inner = None
        self._claims.close()
        self.journal.close()

    @contextmanager
    def _alive(self, callers: list[Exception]) -> Iterator[None]:
        """Turn what an engine dies of into one sentence.

        Args:
            callers: errors of ours that went through the engine; they stay as they are.

        Raises:
            StoppedError: the engine is dead; what it answered is in the journal.
        """
        try:
            yield
        except PrefactoryError:
            raise
        except Exception as error:
            self._still_open()
            inner = self._inner
            if inner is None or inner.runs_code_of_yours or any(error is e for e in callers):
                raise
            _LOG.debug("%s died", self.config.model, exc_info=True)
            why = " ".join(str(error).split())[:300]
            raise StoppedError(
                f"the engine with model {self.config.model!r} died in the middle of the run "
                f"({type(error).__name__}{f': {why}' if why else ''}); what was answered is kept: "
                "run the same command again"
            ) from error

    def _still_open(self) -> None:
        if self._closed:
            raise StoppedError("stopped; what was answered is kept: run the same command again")

    def _opened(self) -> Engine:
        with self._lock:
            self._still_open()
            if self._inner is None:
                _LOG.debug("open %s", self.config.model)
                self._inner = self.config.open()
                self._inner.keep_in(self.journal.folder, self._claims.segments)
            return self._inner


class _Rows:
    """Rows as they come, by the key of their request: what nobody has answered is to be asked.

    They are read while the first calls are in flight. Rows with one key share an answer.

    Attributes:
        finished: keys that got a result here.
        errors: what the caller's code raised; it goes through the engine as it is.
    """

    def __init__(
        self,
        journal: Journal,
        requests: Iterable[Request],
        done: Done,
        reused: Callable[[int], object],
    ) -> None:
        """Read nothing yet.

        Args:
            journal: where answers may be.
            requests: one for each row.
            done: told of each row's result.
            reused: told how many rows the journal answered, now and then.
        """
        self.finished = 0
        self.errors: list[Exception] = []
        self.over = False
        self._journal, self._done, self._reused = journal, done, reused
        self._requests = iter(requests)
        self._place = count()
        self._rows: dict[str, list[int] | Failure | None] = {}
        self._lock = threading.Lock()

    def read(self, most: int) -> list[tuple[str, Request]]:
        """The next that the journal has no answer to, so many at most; the others are done."""
        new: list[tuple[str, Request]] = []
        reused = 0
        while len(new) < most and not self.over:
            request = self._next()
            if request is None:
                self.over = True
                break
            place, key = next(self._place), request.content_key
            if self._is_known(key, place):
                continue
            record = self._journal.get(key)
            if record is not None:
                reused += 1
                self._tell([place], _completion(record))
                continue
            self._rows[key] = [place]
            new.append((key, request))
        if reused:
            self._reused(reused)
        return new

    def finish(self, key: str, result: Result) -> None:
        """Hand a result to all rows that wait for it; those that come later find it."""
        with self._lock:
            waiting = self._rows[key]
            self._rows[key] = result if isinstance(result, Failure) else None
            self.finished += 1
        self._tell(waiting if isinstance(waiting, list) else [], result)

    def _next(self) -> Request | None:
        try:
            return next(self._requests, None)
        except Exception as error:
            self.errors.append(error)
            raise

    def _is_known(self, key: str, place: int) -> bool:
        """Whether a row before has the key; then this one gets its result, now or with it."""
        with self._lock:
            if key not in self._rows:
                return False
            state = self._rows[key]
            if isinstance(state, list):
                state.append(place)
                return True
        record = None if state is not None else self._journal.get(key)
        result = state if record is None else _completion(record)
        self._tell([place], result or Failure("no_answer", "the journal has lost it"))
        return True

    def _tell(self, places: Sequence[int], result: Result) -> None:
        try:
            for place in places:
                self._done(place, result)
        except Exception as error:
            self.errors.append(error)
            raise


_Claimed = list[tuple[str, Request, bool, dict[str, Any] | None]]


class _Queue:
    """Requests that wait for their answers: to be asked here, or asked by somebody already."""

    def __init__(self, journal: Journal, claims: Claims, rows: _Rows) -> None:
        self._journal, self._claims, self._rows = journal, claims, rows
        self._unclaimed: deque[tuple[str, Request]] = deque()
        self._ready: deque[tuple[str, Request, dict[str, Any] | None]] = deque()
        self._elsewhere: list[tuple[str, Request]] = []
        self._ahead: Future[_Claimed] | None = None
        self._told = False
        self._block, self._claimed_at = CLAIM[0], 0.0

    def __len__(self) -> int:
        ahead = self._ahead is not None  # a block, that is
        return len(self._unclaimed) + len(self._ready) + len(self._elsewhere) + ahead

    def more(self) -> bool:
        """Whether any are left; those that are not read yet may all be answered."""
        return len(self) > 0 or not self._rows.over

    def count(self) -> int:
        """How many are left, now that none can be asked: all rows are read."""
        while not self._rows.over:
            self._unclaimed.extend(self._rows.read(CLAIM[1]))
        return len(self)

    def next(self) -> tuple[str, Request, dict[str, Any] | None] | None:
        """The next that may be asked, or was answered meanwhile; None if there is none now."""
        while not self._ready:
            if not self._claim():
                return None
            self._take_in()
        if self._claims.later is not None and len(self._ready) <= self._block // 2:
            self._claim()  # while what is ready is asked
        return self._ready.popleft()

    def put_back(self, key: str, request: Request) -> None:
        """It can't be asked now."""
        self._ready.appendleft((key, request, None))

    def give_back(self, unanswered: Iterable[str]) -> None:
        """Claim nothing any more.

        Args:
            unanswered: keys of calls that were begun.
        """
        if self._ahead is not None:
            self._take_in()
        ready = [(key, request) for key, request, _ in self._ready]
        self._unclaimed.extend([*ready, *self._elsewhere])
        self._ready.clear()
        self._elsewhere.clear()
        self._claims.finish([*unanswered, *(key for key, _ in ready)])
        self._claims.tell()

    def wait(self) -> None:
        """Wait a little for whoever asks what is left."""
        if not self._told:
            _LOG.info("waiting for answers to %d questions that somebody else asks", len(self))
            self._told = True
        self._claims.wait(self._claims.look_s)

    def _claim(self) -> bool:
        """Begin to claim a block, unless one is being claimed; whether there is one."""
        if self._ahead is not None:
            return True
        if not self._unclaimed:
            self._unclaimed.extend(self._rows.read(self._block))
        if not self._unclaimed:
            return False
        block = [self._unclaimed.popleft() for _ in range(min(self._block, len(self._unclaimed)))]
        if self._claims.later is not None:
            self._ahead = self._claims.later.submit(self._claimed, block)
        else:
            found = self._claimed(block)  # first: one that fails leaves nothing to wait for
            self._ahead = Future()
            self._ahead.set_result(found)
        return True

    def _claimed(self, block: list[tuple[str, Request]]) -> _Claimed:
        """Claim a block; with each, whether it is claimed here, and the answer if there is one."""
        taken = self._claims.take([key for key, _ in block])
        self._journal.refresh()  # an answer is there before its claim is gone
        return [(key, request, key in taken, self._journal.get(key)) for key, request in block]

    def _take_in(self) -> None:
        """Take in the block that is being claimed."""
        ahead, self._ahead = self._ahead, None
        for key, request, taken, record in ahead.result() if ahead is not None else ():
            if record is not None:
                self._claims.finish([key] if taken else [])
            if record is not None or taken:
                self._ready.append((key, request, record))
            else:
                self._elsewhere.append((key, request))
        now = time.monotonic()
        sooner = now - self._claimed_at < self._claims.soon_s
        self._claimed_at = now
        self._block = min(max(self._block * 2 if sooner else self._block // 2, CLAIM[0]), CLAIM[1])


class _AskedFor(Engine):
    """A journalled engine as one step asks it."""

    def __init__(self, engine: JournaledEngine, purpose: Purpose, calls: Calls | None) -> None:
        self.capabilities = engine.capabilities
        self._engine, self._purpose, self._calls = engine, purpose, calls

    def run(self, requests: Iterable[Request], done: Done) -> None:
        if self._calls is None:
            self._engine.ask(requests, done, self._purpose)
            return
        calls, config = self._calls, self._engine.config
        engine = self._engine.journal.folder.name
        keys: list[str] = []

        def noted() -> Iterator[Request]:
            for request in requests:
                keys.append(request.content_key)
                yield request

        def told(place: int, result: Result) -> None:
            if isinstance(result, Completion):
                calls.note(engine, keys[place], config, self._purpose.role, result)
            done(place, result)

        self._engine.ask(noted(), told, self._purpose)

    def doubt(self, requests: Sequence[Request], reason: str, detail: str) -> None:
        self._engine.note_doubt(requests, reason, detail, self._purpose)
        if self._calls is not None:
            self._calls.doubt(reason)

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        return self._engine.logprobs(conversations)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._engine.embed(texts)


def _by(purpose: Purpose) -> tuple[str, str, str]:
    return purpose.recipe, purpose.step, purpose.role


def _record(completion: Completion, purpose: Purpose) -> dict[str, Any]:
    facts = {name: getattr(completion, name) for name in _KEPT}
    return facts if purpose == NOBODY else {**facts, "by": list(_by(purpose))}


def _completion(record: dict[str, Any]) -> Completion:
    return Completion(**{name: record.get(name) for name in _KEPT})  # type: ignore[arg-type]


def _scored(record: dict[str, Any]) -> TokenLogprobs:
    return TokenLogprobs(tuple(record["tokens"]), tuple(record["logprobs"]))

"""The opened server engine: attempts, retries, backoff, and what is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import random
import re
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

from prefactory.engines import wire
from prefactory.engines.base import (
    NOTHING,
    Conversation,
    Done,
    Engine,
    EngineError,
    Failure,
    Paid,
    Request,
    TokenLogprobs,
    Wasted,
    storable,
)
from prefactory.engines.http import Client, Reply, TransportError
from prefactory.engines.limiter import Limiter, Slot
from prefactory.errors import StoppedError
from prefactory.safety.masks import Masks

T = TypeVar("T")
Finish = Callable[[bytes, Wasted], None]
_LOG = logging.getLogger(__name__)
_OVERLOAD = (429, 503, 504, 529)
_FATAL = {
    401: "the server refuses the key",
    402: "the account has no money",
    403: "the key has no rights there",
    404: "the server knows no such address or model",
    405: "the address takes no requests of this kind",
}
_NUMBER = re.compile(rb'"id"\s*:\s*("[^"]*"|\d+)')
_HABIT_RETRIES = 1
"""Attempts after the first at an answer that is whole and of another form."""

BACKOFF_S = 0.5
"""Mean of the first wait; each further one is twice as long, up to `BACKOFF_MAX_S`."""
BACKOFF_MAX_S = 60.0
TRIAL = 64
"""Answers that a server gives on a connection each before it is trusted with kept ones."""
DRAIN_S = 5.0
"""How long what is in flight has to end once it is cancelled."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """An attempt that failed and may be made again."""

    failure: Failure
    wait_s: float = 0.0
    final: bool = False
    wasted: Wasted = NOTHING
    habit: bool = False
    again: bool = False
    """At once, and not counted: the request was at fault."""


class ServerEngine(Engine):
    """Requests to one server. All threads share its connections and its limiter."""

    def __init__(self, config: wire.ServerSettings, headers: dict[str, str]) -> None:
        """Start the event loop.

        Args:
            config: what to ask, and how.
            headers: with secrets; kept in the client only.
        """
        self.config = config
        self.capabilities = config.capabilities
        self.limiter = Limiter(config.max_concurrency)
        self.attempts = 0
        self._client = Client(config.base_url, headers, TRIAL)
        words = [word for value in headers.values() for word in (value, value.split(" ")[-1])]
        self._masks = Masks([*words, *self._client.secrets])
        self._answered = 0
        self._closing = False
        self._gate = threading.Lock()
        self._number = b""
        self._numbers = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="server")
        self._thread.start()

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Ask the server; requests are taken as slots become free."""
        self._wait(self._run(iter(enumerate(requests)), done))

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        """Score last messages by vLLM's `prompt_logprobs`."""
        if "logprobs" not in self.capabilities:
            return super().logprobs(conversations)
        logprobs: list[TokenLogprobs | Failure] = self._wait(self._score(conversations))
        return logprobs

    def close(self) -> None:
        """Cancel what is in flight, so that who waits for it goes on, and stop the event loop."""
        with self._gate:
            if self._closing:
                return
            self._closing = True  # no call may begin after the drain
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_drain(), self._loop).result(timeout=DRAIN_S)
        self._loop.call_soon_threadsafe(self._client.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        with self._gate:
            if self._closing:
                work.close()
                raise self._stopped()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise self._stopped() from error
        except BaseException:
            future.cancel()
            raise

    def _stopped(self) -> StoppedError:
        return StoppedError(
            f"stopped while {self.config.base_url} was being asked; what was answered is kept: run "
            "the same command again"
        )

    # -- in the event loop ---------------------------------------------------------------------

    async def _run(self, requests: Iterator[tuple[int, Request]], done: Done) -> None:
        """Start a task per request. The first error cancels the others and is raised."""
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        over: asyncio.Future[None] = loop.create_future()
        taken = False

        def ended(task: asyncio.Task[None], slot: Slot) -> None:
            slot.release()  # of a task that was cancelled before its first step
            tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None and not over.done():
                over.set_exception(error)
            elif taken and not tasks and not over.done():
                over.set_result(None)

        broken: Exception | None = None
        try:
            groups = self._groups(requests)
            while not over.done():
                slot = await self.limiter.acquire()
                try:
                    group = next(groups, None)
                except Exception as error:  # the caller's, raised when all in flight has ended
                    broken, group = error, None
                if group is None:
                    slot.release()
                    break
                task = loop.create_task(self._ask(group, done, slot))
                tasks.add(task)
                task.add_done_callback(partial(ended, slot=slot))
            taken = True
            if tasks or over.done():
                await over
            self._check_order()
        finally:
            left = list(tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if broken is not None:
            raise broken

    def _groups(
        self, requests: Iterator[tuple[int, Request]]
    ) -> Iterator[list[tuple[int, Request]]]:
        if not self.config.n_in_one:
            return ([pair] for pair in requests)
        same = groupby(requests, lambda pair: (id(pair[1].conversation), pair[1].row_id))
        return (list(group) for _, group in same)

    async def _ask(self, group: list[tuple[int, Request]], done: Done, slot: Slot) -> None:
        path = wire.path(group[0][1])
        requests = [request for _, request in group]

        def body() -> bytes:
            return wire.body(self.config, requests)

        def finish(raw: bytes, wasted: Wasted) -> None:
            answers = wire.results(raw, len(group))
            if any(wasted):
                answers[0] = replace(answers[0], wasted=answers[0].wasted.more(wasted))
            for (place, _), result in zip(group, answers, strict=True):
                done(place, result)

        failure = await self._attempts(body, finish, slot, path, requests[0].paid)
        if failure is not None:
            for i, (place, _) in enumerate(group):
                done(place, failure if i == 0 else replace(failure, wasted=NOTHING))

    async def _attempts(
        self,
        body: Callable[[], bytes],
        finish: Finish,
        slot: Slot,
        path: str = wire.PATH,
        paid: Paid | None = None,
    ) -> Failure | None:
        """Ask until `finish` takes the answer, holding a slot only while the server works.

        `finish` is called before the slot is given back, so what is in flight is never more than
        the slots.

        Args:
            body: writes the request.
            finish: takes the body of an answer and the tokens of unusable ones before it, or
                raises BadAnswerError.
            slot: for the first attempt; given back here.
            path: where the request goes.
            paid: told of what was billed for nothing; asks again only if it says so.

        Returns:
            Why there is no answer, after the last attempt.
        """
        before = self._answered
        attempt = 0
        wasted = NOTHING
        while True:
            try:
                taken = _with(finish, wasted)
                fault = await self._attempt(body, taken, slot.began, path)
            finally:
                slot.release()
            if fault is None:
                return None
            wasted = wasted.more(fault.wasted)
            room = paid is None or not any(fault.wasted) or paid(fault.wasted)
            if fault.again and room:
                slot = await self.limiter.acquire()
                continue
            last = fault.final or not room or (fault.habit and attempt >= _HABIT_RETRIES)
            if last or attempt >= self.config.retries:
                if fault.failure.reason == "unreachable" and self._answered == before:
                    raise self._unreachable(fault.failure)
                return replace(fault.failure, wasted=wasted)
            _LOG.debug("attempt %d: %s", attempt + 1, fault.failure)
            ceiling = min(BACKOFF_MAX_S, 2 * BACKOFF_S * 2.0**attempt)
            await asyncio.sleep(max(fault.wait_s, random.uniform(0, ceiling)))  # noqa: S311
            attempt += 1
            slot = await self.limiter.acquire()

    async def _attempt(
        self, body: Callable[[], bytes], finish: Callable[[bytes], None], began: float, path: str
    ) -> _Fault | None:
        self._check_order()
        self.attempts += 1
        told = self.config.dialect
        try:
            reply = await self._client.post(path, body(), self.config.timeout_s)
        except TimeoutError:
            self.limiter.overload(began)
            return _Fault(Failure("timeout", f"no answer within {self.config.timeout_s:g} s"))
        except TransportError as error:
            reason = "connection" if error.sent else "unreachable"
            return _Fault(Failure(reason, self._masks.text(str(error))))
        if reply.status not in (200, 201):  # 201: some gateways'
            return self._refused(reply, began)
        if self._of_another(reply):
            why = "the server sent its answer to the question before once more"
            return _Fault(Failure("bad_answer", why), wasted=wire.billed(reply.body))
        if self._drew_otherwise(reply, told):
            odd = Failure("dialect", "llama.cpp was not told how to draw")
            return _Fault(odd, wasted=wire.billed(reply.body), again=True)
        try:
            finish(self._masks.json(reply.body))
        except wire.BadAnswerError as error:
            failure = Failure("bad_answer", str(error))
            return _Fault(failure, wasted=wire.billed(reply.body), habit=error.habit)
        self._answered += 1
        self.limiter.success()
        return None

    def _check_order(self) -> None:
        """End a run whose answers may be those to other questions."""
        if self._client.doubtful:
            raise EngineError(
                f"{self.config.base_url} sent an answer too many on a connection that was used "
                f"again: {self._client.doubtful} answers before it may belong to other questions. "
                f"Drop what was answered since (`prefactory journal --model {self.config.model} "
                "--drop`) and run again; a proxy before the server may be what repeats answers"
            )

    def _of_another(self, reply: Reply) -> bool:
        """Whether a server that numbers its answers sent the one before on the connection again.

        That comes too late to be told from the answer to this request by anything else.
        """
        found = _NUMBER.search(reply.body)
        number = found[1] if found else b""
        self._numbers |= bool(number and self._number and number != self._number)
        self._number = number
        return reply.repeats and bool(number) and self._numbers

    def _drew_otherwise(self, reply: Reply, told: wire.Dialect) -> bool:
        """Whether llama.cpp answered what was written for another server; from now on it is told.

        By itself it draws with top_k 40 and min_p 0.05, whatever the sampling does not name.
        """
        if told == "llama.cpp" or "llama.cpp" not in reply.headers.get("server", ""):
            return False
        if self.config.dialect == told:
            self.config = replace(self.config, dialect="llama.cpp")
            _LOG.info(
                "%s is llama.cpp: it is told to draw as the sampling says, and asked again for "
                "what it has drawn with its own top_k 40, min_p 0.05",
                self.config.base_url,
            )
        return True

    def _refused(self, reply: Reply, began: float) -> _Fault:
        """Sort an answer that is no success: raise, give up, or try again."""
        message = self._masks.text(message_of(self._masks.json(reply.body)))
        spent = reply.status == 429 and b"insufficient_quota" in reply.body  # OpenAI's 402
        if spent or reply.status in _FATAL or 300 <= reply.status < 400:
            elsewhere = "the server sends us elsewhere"
            why = _FATAL.get(402 if spent else reply.status, elsewhere)
            if reply.status == 401 and self.config.api_key_env is None:
                why = (
                    "the server wants a key, and none is configured: write `api_key_env: NAME`, "
                    "the environment variable that holds it"
                )
            elif reply.status == 401:
                why += f" that {self.config.api_key_env} holds"
            raise EngineError(
                f"{self.config.base_url}: {why} (HTTP {reply.status}, model "
                f"{self.config.model!r}): {message}"
            )
        failure = Failure(f"http_{reply.status}", message)
        if reply.status in _OVERLOAD:
            wait = _retry_after(reply.headers)
            self.limiter.overload(began, wait)
            return _Fault(failure, wait)
        final = 400 <= reply.status < 500 and reply.status not in (408, 409, 425)
        return _Fault(failure, _retry_after(reply.headers), final)

    def _unreachable(self, failure: Failure) -> StoppedError:
        return StoppedError(
            f"the server at {self.config.base_url} can't be reached ({failure.detail}); what was "
            "answered is kept: start the server and run the same command again"
        )

    async def _score(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        return list(await asyncio.gather(*(self._score_one(c) for c in conversations)))

    async def _score_one(self, conversation: Conversation) -> TokenLogprobs | Failure:
        replies: list[Any] = []
        before, whole = wire.scoring_bodies(self.config, conversation)
        slot = await self.limiter.acquire()
        failure = await self._attempts(
            lambda: before, lambda raw, wasted: replies.append(wire.prompt_length(raw)), slot
        )
        if failure is None:
            slot = await self.limiter.acquire()
            failure = await self._attempts(
                lambda: whole,
                lambda raw, wasted: replies.append(wire.token_logprobs(raw, replies[0])),
                slot,
            )
        return failure or replies[1]


async def _drain() -> None:
    """Cancel all other tasks of this loop, and wait until they have ended."""
    tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # results reach the threads that wait for them


def _with(finish: Finish, wasted: Wasted) -> Callable[[bytes], None]:
    return lambda raw: finish(raw, wasted)


def message_of(body: bytes) -> str:
    """The message of an error answer, in one line."""
    text = body[:4000].decode("utf-8", "replace")
    try:
        answer = json.loads(body)
        error = answer.get("error", answer)
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    return storable(" ".join(text.split())[:300])


def _retry_after(headers: dict[str, str]) -> float:
    """Seconds that the server asks us to wait, at most ten minutes; 0 if it does not say."""
    value = headers.get("retry-after", "")
    try:
        wait = float(value)
        if not math.isfinite(wait):
            return 0.0
    except ValueError:
        try:
            wait = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(wait, 0.0), 600.0)

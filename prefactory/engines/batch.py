"""A server's batch API: requests as a file, answers as a file some hours later, at half the price.

OpenAI's form (POST /files with purpose `batch`, POST /batches, GET /batches/ID, GET
/files/ID/content), which others speak too. Each batch has a record beside the journal, written
before anything is sent and after each step, so that a run that was killed finds its batches again
and nothing is paid twice: a batch of which only the sending is known is looked for on the server
by the token in its metadata.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from prefactory.engines import serving, wire
from prefactory.engines.base import Done, EngineError, Failure, Request, Result, storable
from prefactory.engines.http import TransportError
from prefactory.folders import new_file
from prefactory.sharing.sealed import seal, unseal
from prefactory.sharing.segments import Segments

_LOG = logging.getLogger(__name__)
MOST_REQUESTS, MOST_BYTES = 50_000, 100_000_000
"""Of one batch; OpenAI takes 200 MB."""
_MOST_FILE = 1 << 31
_PAGE = 100
_ENDED = ("completed", "expired", "cancelled", "failed")
_TRIED_AGAIN = (408, 409, 425, 429)


@dataclass
class _Record:
    """What is known of a batch.

    Attributes:
        token: of our own, in the file's name and the batch's metadata.
        keys: of the requests in it (`Request.content_key`); once collected, of the answered ones.
        path: endpoint of its requests.
        input_file, batch: ids of the server; empty until they are known.
        collected: its answers were handed over.
    """

    token: str
    keys: list[str]
    path: str
    input_file: str = ""
    batch: str = ""
    collected: bool = False
    file: Path | None = field(default=None, repr=False)
    shared: Segments | None = field(default=None, repr=False)

    @classmethod
    def read(cls, file: Path, shared: Segments | None) -> _Record:
        """A record that was made durable.

        Raises:
            EngineError: it is damaged.
        """
        try:
            told = unseal(file.read_bytes(), [f.name for f in fields(cls) if f.repr])
            return cls(**told, file=file, shared=shared)
        except (OSError, ValueError, TypeError) as error:
            raise EngineError(
                f"{file} is damaged ({error}): it says which calls a batch of the server is to "
                "answer. Remove it to ask these anew, which is paid again"
            ) from error

    def save(self) -> None:
        """Make it durable, if the engine has a folder."""
        if self.file is not None:
            names = [f.name for f in fields(self) if f.repr]
            with new_file(self.file) as file:
                file.write(seal({n: getattr(self, n) for n in names}))
            if self.shared is not None:
                self.shared.keep(self.file)


class BatchEngine(serving.ServerEngine):
    """A server that is asked by batches.

    Attributes:
        folder: where the records of batches are kept; None: nothing is found again.
    """

    folder: Path | None = None

    def __init__(self, config: wire.ServerSettings, headers: dict[str, str], poll_s: float) -> None:
        """Start the event loop.

        Args:
            config: what to ask, and how.
            headers: with secrets.
            poll_s: seconds between two looks at a batch.
        """
        super().__init__(config, headers)
        self._poll_s = poll_s
        self._shared: Segments | None = None

    def keep_in(self, folder: Path, shared: Segments | None = None) -> None:
        """Keep the records of batches under a folder, that of the journal, and where it is shared.

        Args:
            folder: of the journal.
            shared: by what other machines find them.
        """
        self.folder, self._shared = folder / "batches", shared

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Send all requests as batches, and wait for them; open batches of an earlier run first.

        Raises:
            EngineError: the server takes no batches, or refused one as a whole.
        """
        self._wait(self._batches(list(requests), done))

    # -- in the event loop ---------------------------------------------------------------------

    async def _batches(self, requests: Sequence[Request], done: Done) -> None:
        places: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(request.content_key, []).append(place)

        def settled(key: str, result: Result) -> None:
            for place in places.pop(key, ()):
                done(place, result)

        waiting = [r for r in self._records() if not places.keys().isdisjoint(r.keys)]
        for record in waiting:
            await self._find_or_make(record, [])
        waiting = [record for record in waiting if record.batch]
        known = {key for record in waiting for key in record.keys}
        fresh = {r.content_key: r for r in requests if r.content_key not in known}
        bodies = {key: self._line(key, request) for key, request in fresh.items()}
        sent = [await self._send(part, bodies) for part in _parts(fresh, bodies)]
        await asyncio.gather(*(self._collect(record, settled) for record in [*waiting, *sent]))
        for key in list(places):
            settled(key, Failure("no_answer", "the batch did not hold an answer"))

    def _line(self, key: str, request: Request) -> bytes:
        body = json.loads(wire.body(self.config, [request]))
        url = f"/v1{wire.path(request)}"
        return json.dumps({"custom_id": key, "method": "POST", "url": url, "body": body}).encode()

    async def _send(self, part: list[Request], bodies: dict[str, bytes]) -> _Record:
        token = uuid.uuid4().hex
        keys = [request.content_key for request in part]
        file = None if self.folder is None else self.folder / f"{token}.json"
        record = _Record(token, keys, f"/v1{wire.path(part[0])}", file=file, shared=self._shared)
        record.save()
        await self._find_or_make(record, [bodies[key] for key in keys])
        return record

    async def _find_or_make(self, record: _Record, lines: list[bytes]) -> None:
        """Upload and create what a record lacks; what the server has already is found."""
        if record.batch:
            return
        found = await self._found(record) if not lines else None
        if found is None and not record.input_file:
            if not lines:  # killed before the upload: nothing was paid
                record.keys, record.collected = [], True
                record.save()
                return
            record.input_file = await self._upload(record.token, b"\n".join(lines) + b"\n")
            record.save()
        record.batch = found or await self._create(record)
        record.save()
        _LOG.info("batch %s: %d requests to %s", record.batch, len(record.keys), self.config.model)

    async def _upload(self, token: str, data: bytes) -> str:
        boundary = f"prefactory-{token}"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        name = f'name="file"; filename="prefactory-{token}.jsonl"'
        head += f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\n"
        head += "Content-Type: application/jsonl\r\n\r\n"
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return str((await self._object("POST", "/files", body, kind))["id"])

    async def _create(self, record: _Record) -> str:
        """Create a batch; one whose creation was not answered is looked for before it is tried."""
        asked = {
            "input_file_id": record.input_file,
            "endpoint": record.path,
            "completion_window": "24h",
            "metadata": {"prefactory": record.token},
        }
        body = json.dumps(asked).encode()
        for attempt in range(self.config.retries + 1):
            try:
                return str((await self._object("POST", "/batches", body, tries=1))["id"])
            except _PassingError as error:
                if (found := await self._found(record)) is not None:
                    return found
                if attempt == self.config.retries:
                    raise EngineError(str(error)) from error
                await self._pause(attempt)
        raise AssertionError

    async def _found(self, record: _Record) -> str | None:
        """The id of a record's batch on the server, if there is one."""
        after = ""
        while True:
            page = await self._object("GET", f"/batches?limit={_PAGE}{after}")
            batches = [b for b in page.get("data") or [] if isinstance(b, dict)]
            for batch in batches:
                if (batch.get("metadata") or {}).get("prefactory") == record.token:
                    return str(batch["id"])
            if not page.get("has_more") or not batches:
                return None
            after = f"&after={batches[-1]['id']}"

    async def _collect(self, record: _Record, settled: Callable[[str, Result], None]) -> None:
        """Wait for a batch and hand over its answers; what it lacks is a failure of its rows."""
        if not record.batch:
            return
        batch = await self._ended(record)
        state, open_, answered = batch["status"], set(record.keys), set[str]()
        for name in ("output_file_id", "error_file_id"):
            for key, result in await self._results(str(batch.get(name) or "")):
                if key in open_ and not isinstance(result, Failure):
                    answered.add(key)
                if key in open_:
                    open_.discard(key)
                    settled(key, result)
        record.keys, record.collected = sorted(answered), True
        record.save()
        if state == "failed":
            raise EngineError(f"{self.config.base_url} refused batch {record.batch}: {_why(batch)}")
        for key in open_:
            settled(key, Failure(f"batch_{state}", f"batch {record.batch} is {state}"))

    async def _ended(self, record: _Record) -> dict[str, Any]:
        """Look at a batch until it has ended."""
        state = ""
        while True:
            batch = await self._object("GET", f"/batches/{record.batch}")
            if state != batch.get("status"):
                state = str(batch.get("status"))
                _LOG.info("batch %s is %s", record.batch, state)
            if state in _ENDED:
                return batch
            await asyncio.sleep(self._poll_s)

    async def _results(self, file: str) -> list[tuple[str, Result]]:
        if not file:
            return []
        raw = await self._control("GET", f"/files/{file}/content", most=_MOST_FILE)
        found: list[tuple[str, Result]] = []
        for line in self._masks.json(raw).splitlines():
            try:
                entry = json.loads(line)
                found.append((str(entry["custom_id"]), self._result(entry)))
            except (ValueError, KeyError, TypeError, AttributeError):
                _LOG.warning("a line of the file %s can't be read: %r", file, line[:160])
        return found

    def _result(self, entry: dict[str, Any]) -> Result:
        response, error = entry.get("response") or {}, entry.get("error") or {}
        raw = json.dumps(response.get("body")).encode()
        status = response.get("status_code")
        if status == 200:
            try:
                return wire.results(raw, 1)[0]
            except wire.BadAnswerError as wrong:
                return Failure("bad_answer", str(wrong), wire.billed(raw))
        if status:
            return Failure(f"http_{status}", self._masks.text(serving.message_of(raw)))
        code = storable(str(error.get("code") or "no_answer"))
        return Failure(code, storable(str(error.get("message") or "the batch has no answer")))

    def _records(self) -> Iterator[_Record]:
        """Batches of earlier runs; the records of those without an answer go."""
        if self.folder is not None and self._shared is not None:
            self._shared.bring_kept(self.folder)
        for file in sorted(self.folder.glob("*.json")) if self.folder is not None else ():
            record = _Record.read(file, self._shared)
            if record.collected and not record.keys:
                file.unlink()
                if self._shared is not None:
                    self._shared.forget(file)
                continue
            yield record

    # -- requests ------------------------------------------------------------------------------

    async def _object(
        self, method: str, path: str, body: bytes = b"", kind: str = "", tries: int = 0
    ) -> dict[str, Any]:
        raw = await self._control(method, path, body, kind, tries=tries)
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or ("id" not in answer and "data" not in answer):
            raise EngineError(f"{self.config.base_url}{path} is no batch API: {raw[:160]!r}")
        return answer

    async def _control(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        kind: str = "",
        most: int | None = None,
        tries: int = 0,
    ) -> bytes:
        """One request of the batch API, tried again while it fails in passing."""
        for attempt in range(tries or self.config.retries + 1):
            try:
                return await self._once(method, path, body, kind, most)
            except _PassingError as error:
                if attempt + 1 == (tries or self.config.retries + 1):
                    if tries:
                        raise
                    raise self._unreachable(Failure("unreachable", str(error))) from error
                await self._pause(attempt)
        raise AssertionError

    async def _once(
        self, method: str, path: str, body: bytes, kind: str, most: int | None
    ) -> bytes:
        try:
            async with asyncio.timeout(self.config.timeout_s):
                reply = await self._client.request(
                    method, path, body, kind, most, anew=path == "/batches"
                )
        except TimeoutError as error:
            raise _PassingError(f"no answer within {self.config.timeout_s:g} s") from error
        except TransportError as error:
            raise _PassingError(self._masks.text(str(error))) from error
        if 200 <= reply.status < 300:
            return reply.body
        fault = self._refused(reply, 0.0)
        if reply.status >= 500 or reply.status in _TRIED_AGAIN:
            raise _PassingError(f"{fault.failure.reason}: {fault.failure.detail}")
        raise EngineError(
            f"{self.config.base_url}{path}: {fault.failure.reason}: {fault.failure.detail}; does "
            "this server take batches? Without `batch: true` it is asked call by call"
        )

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(min(serving.BACKOFF_MAX_S, serving.BACKOFF_S * 2.0**attempt))


class _PassingError(Exception):
    """A request of the batch API that may be tried again."""


def _parts(requests: dict[str, Request], bodies: dict[str, bytes]) -> Iterator[list[Request]]:
    """Requests of one endpoint, as many as a batch takes."""
    for path in dict.fromkeys(wire.path(request) for request in requests.values()):
        part: list[Request] = []
        size = 0
        for key, request in requests.items():
            if wire.path(request) != path:
                continue
            if part and (len(part) == MOST_REQUESTS or size + len(bodies[key]) > MOST_BYTES):
                yield part
                part, size = [], 0
            part.append(request)
            size += len(bodies[key]) + 1
        if part:
            yield part


def _why(batch: dict[str, Any]) -> str:
    errors = (batch.get("errors") or {}).get("data") or []
    words = [str(e.get("message") or e.get("code")) for e in errors if isinstance(e, dict)]
    return "; ".join(words)[:300] or "it does not say why"

"""The opened llama.cpp: its process, and what is asked of it. See `Llama`."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import queue
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefactory.engines.base import (
    Completion,
    Conversation,
    Done,
    Engine,
    EngineError,
    Failure,
    Message,
    Request,
    Result,
    TokenLogprobs,
)
from prefactory.engines.chat_form import chat_form
from prefactory.engines.turns import text_to_continue, without_break
from prefactory.engines.wire import llama_cpp_cuts
from prefactory.errors import ConfigError, StoppedError

START_S = 900.0
"""Seconds in which a model must be loaded; llama.cpp renders its chat template then."""
TEMPLATE_S = 120.0
"""Seconds in which the chat template must end."""
_SLOW = f"it was not ready in {START_S:g} s; its chat template may loop: give another one"


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """What `Llama` says about the model."""

    model: str
    chat_template: str | None
    context: int
    capabilities: frozenset[str]


class _RefusedError(Exception):
    """llama.cpp takes no such request; the message is its own."""


class LlamaEngine(Engine):
    """A process with copies of one model. Threads share them; a copy answers one call at a time."""

    def __init__(self, settings: LlamaSettings, file: Path, places: int) -> None:
        """Start the process and wait until the model is loaded.

        Args:
            settings: the model and its limits.
            file: the weights.
            places: copies, each with one core.

        Raises:
            ConfigError: llama.cpp can't load the file.
        """
        self.settings = settings
        self.capabilities = settings.capabilities
        self._key = secrets.token_urlsafe(24)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-P", str(Path(__file__).with_name("process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the run, which ends this process
        )
        addresses = self._begin(
            {
                "file": str(file.resolve()),
                "places": places,
                "context": settings.context,
                "chat_template": settings.chat_template,
                "key": self._key,
            }
        )
        self._free: queue.SimpleQueue[_Place] = queue.SimpleQueue()
        self._places = [_Place(address, self._key) for address in addresses]
        for place in self._places:
            self._free.put(place)

    def _begin(self, wanted: dict[str, Any]) -> list[str]:
        assert self._process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
        assert self._process.stdout is not None  # noqa: S101
        late = threading.Timer(START_S, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            self._process.stdin.flush()
            said = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            said = {"error": self._last_words() if late.is_alive() else _SLOW}
        finally:
            late.cancel()
        if "error" in said:
            self.close()
            raise ConfigError(
                f"model {self.settings.model!r} can't be loaded by llama.cpp: "
                f"{' '.join(str(said['error']).split())[:300]}"
            )
        return list(said["addresses"])

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Answer as many at a time as there are copies of the model."""
        _Run(self, requests, done).all(len(self._places))

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        """Score each last message, with the token that ends the turn where there is one.

        llama.cpp offers no log-probabilities of a prompt, so the tokens are generated, with a
        grammar that allows them alone; the log-probabilities are those without the grammar.
        """
        with ThreadPoolExecutor(len(self._places)) as pool:
            return list(pool.map(self._score, conversations))

    def addresses(self, variable: str) -> list[str]:
        """Addresses of the copies, as servers of their own; `variable` gets their key."""
        os.environ[variable] = self._key
        return [place.address for place in self._places]

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    # -- one call ------------------------------------------------------------------------------

    def answer(self, request: Request) -> Result:
        """Answer one request, when a copy of the model is free.

        Raises:
            StoppedError: the process is gone.
        """
        try:
            ids = self._prompt(request)
            room = self.settings.context - len(ids)
            if room < 1:
                return Failure("too_long", f"{len(ids)} tokens; {self.settings.context} fit")
            return _completion(self._ask("/completion", _body(request, ids, room)), len(ids))
        except _TemplateError as error:
            return Failure("template", f"the chat template refuses the messages: {error}"[:300])
        except _RefusedError as error:
            return Failure("refused", str(error))

    def _prompt(self, request: Request) -> list[int]:
        if request.sampling.writes == "answer":
            return self._ids(self._render(request.conversation, prompt=True), start=True)
        try:
            text = text_to_continue(request, lambda m: self._render(m, prompt=False))
        except ValueError as error:
            raise _TemplateError(str(error)) from error
        return self._ids(text, start=request.sampling.writes == "user_turn")

    def _render(self, conversation: Sequence[Message], prompt: bool) -> str:
        asked = {"messages": chat_form(conversation), "add_generation_prompt": prompt}
        try:
            return str(self._ask("/apply-template", asked, TEMPLATE_S)["prompt"])
        except _RefusedError as error:
            raise _TemplateError(str(error)) from error

    def _ids(self, text: str, start: bool) -> list[int]:
        """Tokens of a text; with `start`, the one before it that llama.cpp took off a template."""
        asked = {"content": text, "add_special": start, "parse_special": True}
        return list(self._ask("/tokenize", asked)["tokens"])

    def _score(self, conversation: Conversation) -> TokenLogprobs | Failure:
        if not conversation or conversation[-1]["role"] != "assistant":
            return Failure("no_answer", "the last message is not an assistant's")
        try:
            before = self._render(conversation[:-1], prompt=True)
            whole = self._render(conversation, prompt=False)
            if not whole.startswith(before):
                return Failure(
                    "template", "the chat template writes an answer not after its prompt"
                )
            answer = without_break(whole[len(before) :], str(conversation[-1]["content"]))
            prompt, ids = self._ids(before, start=True), self._ids(answer, start=False)
            if not ids:
                return TokenLogprobs((), ())
            if len(prompt) + len(ids) > self.settings.context:
                return Failure(
                    "too_long", f"{len(prompt) + len(ids)} tokens; {self.settings.context} fit"
                )
            return _scored(self._ask("/completion", _forced(prompt, ids)), len(ids))
        except _TemplateError as error:
            return Failure("template", f"the chat template refuses the messages: {error}"[:300])
        except _RefusedError as error:
            return Failure("refused", str(error))

    def _ask(self, path: str, body: dict[str, Any], most_s: float | None = None) -> dict[str, Any]:
        place = self._free.get()
        try:
            status, raw = place.post(path, body, most_s)
            answer = json.loads(raw)
        except TimeoutError as error:
            raise EngineError(
                f"the chat template of {self.settings.model!r} did not end in {most_s:g} s: it "
                "loops; give another one as `chat_template`"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._gone(error) from error
        finally:
            self._free.put(place)
        if status != 200:
            refusal = answer.get("error", answer)
            message = refusal.get("message", refusal) if isinstance(refusal, dict) else refusal
            raise _RefusedError(" ".join(str(message).split())[:300])
        return dict(answer)

    def interrupt(self) -> None:
        """Let all calls in work fail at once."""
        for place in self._places:
            place.cut()

    def _gone(self, error: Exception) -> StoppedError:
        try:
            code: int | None = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        how = f"it ended with {code}" if code is not None else f"{type(error).__name__}: {error}"
        words = self._last_words()
        return StoppedError(
            f"llama.cpp with {self.settings.model!r} is gone in the middle of the run ({how}"
            f"{f'; its last words: {words}' if words else ''}); what was answered is kept: run the "
            "same command again"
        )

    def _last_words(self) -> str:
        """The end of what llama.cpp wrote to its error output, one line."""
        try:
            self._log.seek(0)
            lines = self._log.read().decode("utf-8", "replace").split("\n")
        except (OSError, ValueError):
            return ""
        return " ".join([line for line in lines if line.strip()][-1:])[:300]


class _TemplateError(Exception):
    """The chat template takes no such messages."""


class _Place:
    """One copy of the model. Each call has a connection of its own: an idle one would be closed."""

    def __init__(self, address: str, key: str) -> None:
        self.address = address
        at = urlsplit(address)
        self._at = (at.hostname or "", at.port)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._socket: socket.socket | None = None

    def post(
        self, path: str, body: dict[str, Any], most_s: float | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self._at, timeout=most_s)
        try:
            connection.request("POST", path, _json(body), self._headers)
            self._socket = connection.sock
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            self._socket = None
            connection.close()

    def cut(self) -> None:
        if (there := self._socket) is not None:
            with contextlib.suppress(OSError):
                there.shutdown(socket.SHUT_RDWR)


class _Run:
    """The requests of one caller, taken one by one by the threads that answer them."""

    def __init__(self, engine: LlamaEngine, requests: Iterable[Request], done: Done) -> None:
        self._engine = engine
        self._next = iter(enumerate(requests))
        self._done = done
        self._lock = threading.Lock()
        self._over = threading.Event()

    def all(self, threads: int) -> None:
        """Answer all; the first error ends it, and is raised when nothing is in work any more."""
        with ThreadPoolExecutor(threads, "llama") as pool:
            workers = [pool.submit(self._work) for _ in range(threads)]
            try:
                for worker in workers:
                    worker.result()
            except BaseException as error:
                self._over.set()
                if not isinstance(error, Exception):  # Ctrl-C waits for no answer
                    self._engine.interrupt()
                raise

    def _work(self) -> None:
        try:
            while (taken := self._take()) is not None:
                place, request = taken
                self._done(place, self._engine.answer(request))
        except BaseException:
            self._over.set()
            raise

    def _take(self) -> tuple[int, Request] | None:
        with self._lock:
            return None if self._over.is_set() else next(self._next, None)


def _json(body: dict[str, Any]) -> bytes:
    """JSON in UTF-8; lone surrogates, which have no place there, as question marks."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def _body(request: Request, ids: list[int], room: int) -> dict[str, Any]:
    sampling = request.sampling
    schema = {} if sampling.json_schema is None else {"json_schema": sampling.json_schema}
    return {
        "prompt": ids,
        "n_predict": min(sampling.max_tokens, room),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **llama_cpp_cuts(sampling),
        "seed": request.draw_seed,
        "stop": list(sampling.stop),
        "n_probs": 1,
        "cache_prompt": False,
        **schema,
    }


def _forced(prompt: list[int], ids: list[int]) -> dict[str, Any]:
    """Ask for these tokens and no others.

    An end of turn passes where a grammar may end and nowhere else: so the last token is optional in
    ours, and is preferred to all others.
    """
    return {
        "prompt": prompt,
        "n_predict": len(ids),
        "grammar": "root ::= " + " ".join(f"<[{token}]>" for token in ids) + "?",
        "logit_bias": [[ids[-1], 1000.0]],
        "temperature": 0.0,
        "n_probs": 1,
        "cache_prompt": False,
    }


def _completion(answer: dict[str, Any], prompt_tokens: int) -> Completion:
    scored = [float(p["logprob"]) for p in answer.get("completion_probabilities") or ()]
    return Completion(
        str(answer["content"]),
        "length" if answer.get("stop_type") == "limit" else "stop",
        prompt_tokens,
        int(answer["tokens_predicted"]),
        math.fsum(scored) if scored else None,
    )


def _scored(answer: dict[str, Any], count: int) -> TokenLogprobs | Failure:
    pairs = [(str(p["token"]), float(p["logprob"])) for p in answer["completion_probabilities"]]
    if len(pairs) != count:
        return Failure("refused", f"llama.cpp scored {len(pairs)} of {count} tokens")
    return TokenLogprobs(tuple(t for t, _ in pairs), tuple(x for _, x in pairs))

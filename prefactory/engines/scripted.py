"""An engine whose answers are written down: for tests, examples and dry runs. A full member."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

from prefactory.beside import ImportPath, import_function
from prefactory.engines.base import (
    Completion,
    Conversation,
    Done,
    Engine,
    EngineConfig,
    EngineError,
    Failure,
    Request,
    Result,
    TokenLogprobs,
    last_user_text,
)
from prefactory.errors import ConfigError
from prefactory.tables import message_text

Answers = dict[str, str | list[str]] | list[str]


class Scripted(EngineConfig):
    """Answers from a table or a function; an unknown request is an error, never a guess.

    Attributes:
        answers: by the text of the last user message, one answer or one per sample; or a list that
            is used up in the order of the requests (for tests with one thread).
        function: import path (`package.module.name`) of `(Request) -> str | Completion | Failure`,
            asked where `answers` has nothing. Bump `version` when it acts differently.
        logprob_function: import path of `(conversation) -> [(token, logprob), ...]`.
        version: of the functions; identity.
    """

    engine: Literal["scripted"] = "scripted"
    model: str = "scripted"
    answers: Answers | None = None
    function: ImportPath | None = None
    logprob_function: ImportPath | None = None
    version: int = 1

    @property
    def capabilities(self) -> frozenset[str]:
        """`logprobs` only with a `logprob_function`."""
        scores = ["logprobs"] if self.logprob_function else []
        return frozenset({"generate", "text", "user_turn", "images", *scores})

    def open(self) -> ScriptedEngine:
        """Import the functions.

        Raises:
            ConfigError: neither answers nor a function, or a path that leads nowhere.
        """
        if self.answers is None and self.function is None and self.logprob_function is None:
            raise ConfigError("a scripted engine needs `answers` or a `function`")
        return ScriptedEngine(self)


class ScriptedEngine(Engine):
    """The opened script. Tokens are counted as words."""

    runs_code_of_yours: ClassVar[bool] = True

    def __init__(self, config: Scripted) -> None:
        """Import what the configuration names."""
        self.config = config
        self.capabilities = config.capabilities
        self.calls = 0
        self._function = _function(config.function)
        self._logprobs = _function(config.logprob_function)
        self._lock = threading.Lock()
        self._next = iter(config.answers if isinstance(config.answers, list) else [])

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Look up or compute each answer, in order."""
        for place, request in enumerate(requests):
            with self._lock:
                self.calls += 1
                answer = self._table(request)
            if answer is None:
                if self._function is None:
                    raise EngineError(self._unknown(request))
                answer = self._function(request)
            done(place, _completion(answer, request))

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        """Ask the function for each conversation."""
        if self._logprobs is None:
            return super().logprobs(conversations)
        pairs = [self._logprobs(c) for c in conversations]
        return [TokenLogprobs(tuple(t for t, _ in p), tuple(float(x) for _, x in p)) for p in pairs]

    def _table(self, request: Request) -> str | None:
        answers = self.config.answers
        if isinstance(answers, list):
            return next(self._next, None)
        answer = (answers or {}).get(last_user_text(request.conversation))
        if isinstance(answer, list):
            return answer[request.sample] if request.sample < len(answer) else None
        return answer

    def _unknown(self, request: Request) -> str:
        text = last_user_text(request.conversation)
        answers = self.config.answers
        if isinstance(answers, list):
            return f"the {len(answers)} scripted answers are used up; request: {text[:200]!r}"
        near = difflib.get_close_matches(text[:500], [k[:500] for k in answers or {}], 1, 0.0)
        hint = f"; the nearest that it knows is {near[0][:200]!r}" if near else ""
        which = f"sample {request.sample} of " if request.sample else ""
        return f"the scripted engine has no answer to {which}{text[:200]!r}{hint}"


def _completion(answer: str | Result, request: Request) -> Result:
    if not isinstance(answer, str):
        return answer
    text = request.sampling.before_stop(answer)
    asked = sum(_words(message_text(m)) for m in request.conversation)
    return Completion(text, "stop", asked, len(text.split()))


@lru_cache(maxsize=64)  # the long text of a prompt comes with each of its requests
def _words(text: str) -> int:
    return len(text.split())


def _function(path: str | None) -> Callable[..., Any] | None:
    return None if path is None else import_function(path, "scripted engine")

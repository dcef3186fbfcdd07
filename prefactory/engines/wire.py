"""OpenAI's formats, chat and plain completions: bodies of requests, and what answers look like."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from prefactory.engines.base import (
    SAMPLER_ORDER,
    Completion,
    Conversation,
    EngineError,
    Failure,
    Request,
    Result,
    Sampling,
    TokenLogprobs,
    Wasted,
    storable,
)
from prefactory.engines.chat_form import chat_form
from prefactory.engines.pictured import with_parts
from prefactory.engines.turns import raw_text

Dialect = Literal["openai", "vllm", "llama.cpp"]

PATH = "/chat/completions"
TEXT_PATH = "/completions"
_ALL_TOKENS = 1 << 20
_MOST_TOKENS = 1 << 31
"""Of a call: no model reads or writes more, so a count above it is none."""
_CUT = ("length", "max_tokens", "max_output_tokens", "max_length", "model_length")
_WITHHELD = ("content_filter", "safety", "recitation", "blocklist", "prohibited_content")
"""What servers say where OpenAI's say `length` and `content_filter`, in any case."""
_THOUGHTS = ("thinking", "reasoning", "redacted_thinking")
"""Kinds of parts that are not of the answer."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What to ask of a server, and how: the fields of `Server` without names of secrets."""

    base_url: str
    model: str
    dialect: Dialect
    extra: dict[str, Any]
    token_field: str
    n_in_one: bool
    completion_logprobs: bool
    max_concurrency: int
    timeout_s: float
    retries: int
    api_key_env: str | None
    capabilities: frozenset[str]


class BadAnswerError(ValueError):
    """The server's answer does not have the form that it must have.

    `habit`: it is whole and of another form, so the server's way, and asking on and on is no use.
    """

    def __init__(self, message: str, habit: bool = False) -> None:
        """Keep whether it is a habit."""
        super().__init__(message)
        self.habit = habit


def billed(raw: bytes) -> Wasted:
    """Tokens of an answer that can't be used; an error in its place is billed by nobody."""
    try:
        answer = _object(raw)
    except BadAnswerError:
        return Wasted(untold=1)
    told = used(answer)
    if any(told):
        return Wasted(*told)
    return Wasted(untold=int(not answer.get("error")))


def used(answer: dict[str, Any]) -> tuple[int, int]:
    """Prompt and completion tokens that an answer tells; (0, 0) unless both are counts."""
    usage = answer.get("usage")
    told = [_count(usage.get(name)) for name in _COUNTS] if isinstance(usage, dict) else []
    return (told[0] or 0, told[1] or 0) if told and None not in told else (0, 0)


_COUNTS = ("prompt_tokens", "completion_tokens")


def _count(value: object) -> int | None:
    """A number of tokens, None if it is none: text, negative, a fraction, beyond all models."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if 0 <= value < _MOST_TOKENS and value == int(value) else None


def path(request: Request) -> str:
    """Where a request goes.

    Raises:
        EngineError: it wants a user's turn, which no server of this kind can be asked for.
    """
    if request.sampling.writes == "user_turn":
        raise EngineError(
            "a server knows no turns but the assistant's: give the text of its chat template up to "
            "the user's words and let it be continued, or use an engine in this process"
        )
    return TEXT_PATH if request.sampling.writes == "text" else PATH


def body(config: ServerSettings, group: Sequence[Request]) -> bytes:
    """The request for one conversation and one or more of its samples, as JSON."""
    request = group[0]
    sampling = request.sampling
    plain = sampling.writes == "text"
    asked: dict[str, Any] = (
        {"prompt": raw_text(request.conversation), "max_tokens": sampling.max_tokens}
        if plain
        else {"messages": with_parts(request), config.token_field: sampling.max_tokens}
    )
    fields: dict[str, Any] = {
        "model": config.model,
        **asked,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **_cuts(config.dialect, sampling),
        **config.extra,
    }
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if request.seed is not None:
        fields["seed"] = request.seed
    if len(group) > 1:
        fields["n"] = len(group)
    if config.completion_logprobs and not plain:  # plain completions have a form of their own
        fields["logprobs"] = True
    if sampling.json_schema is not None:
        named = {"name": "answer", "schema": sampling.json_schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": named}
    return written(fields)


def written(fields: Mapping[str, Any]) -> bytes:
    """JSON as it is sent; what the fast writer refuses (lone surrogates) by Python's."""
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:
        return json.dumps(fields).encode()


def _cuts(dialect: Dialect, sampling: Sampling) -> dict[str, Any]:
    """What OpenAI has no fields for, as the server calls it."""
    if dialect == "llama.cpp":
        return llama_cpp_cuts(sampling)
    asked = {
        "top_k": (sampling.top_k, 0),
        "min_p": (sampling.min_p, 0.0),
        "repetition_penalty": (sampling.repetition_penalty, 1.0),
    }
    return {k: v for k, (v, off) in asked.items() if dialect == "vllm" or v != off}


def llama_cpp_cuts(sampling: Sampling) -> dict[str, Any]:
    """What llama.cpp is to cut off, and the order, which by itself cuts before it heats."""
    return {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": _ALL_TOKENS,
        "samplers": list(SAMPLER_ORDER),
    }


def results(raw: bytes, count: int) -> list[Result]:
    """Read an answer.

    Args:
        raw: body of the answer.
        count: how many choices it must hold.

    Raises:
        BadAnswerError: no JSON, no choices, another number of them, no text.
    """
    answer = _object(raw)
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != count:
        have = len(choices) if isinstance(choices, list) else "no"
        what = f"the answer has {have} choices, not {count}: {_short(raw)}"
        raise BadAnswerError(what, habit=bool(choices))
    if not all(isinstance(c, dict) for c in choices):
        raise BadAnswerError(f"the answer's choices are no objects: {_short(raw)}", habit=True)
    order = [c.get("index", i) for i, c in enumerate(choices)]
    if sorted(map(str, order)) != sorted(map(str, range(count))):
        raise BadAnswerError(f"the answer's choices are numbered {order}", habit=True)
    asked, written = used(answer)
    untold = int(not asked and not written)
    shares = [written // count + (i < written % count) for i in range(count)]
    ranked = [c for _, c in sorted(zip(order, choices, strict=True), key=lambda pair: pair[0])]
    return [
        _result(choice, Wasted(asked if i == 0 else 0, shares[i], untold), raw)
        for i, choice in enumerate(ranked)
    ]


def _result(choice: dict[str, Any], used: Wasted, raw: bytes) -> Result:
    reason = _ended(choice.get("finish_reason"))
    message = choice.get("message", {"content": choice.get("text")})
    content, refusal = _said(message) if isinstance(message, dict) else (None, None)
    if reason == "content_filter":
        return Failure("content_filter", "the server withheld the answer", used)
    if not content and isinstance(refusal, str) and refusal.strip():
        return Failure("refused", storable(" ".join(refusal.split())[:300]), used)
    if content is None and reason == "length":
        content = ""  # a reasoning model that spent all its tokens before the answer
    if not isinstance(content, str):
        calls = isinstance(message, dict) and message.get("tool_calls")
        what = "calls a tool where a text was asked for" if calls else "has no text"
        raise BadAnswerError(f"the answer {what}: {_short(raw)}", habit=True)
    logprob = _logprob(choice.get("logprobs"))
    return Completion(content, reason, used.prompt, used.completion, logprob)


def _ended(reason: object) -> str:
    """Why an answer ended, in OpenAI's words where they are known."""
    told = storable(str(reason or "stop")[:40])
    folded = told.casefold()
    return "length" if folded in _CUT else "content_filter" if folded in _WITHHELD else told


def _said(message: dict[str, Any]) -> tuple[object, object]:
    """Content and refusal of a message; of a content that is a list of parts its texts, joined.

    Parts that hold thoughts are left out. A part of any other kind leaves no content.
    """
    content, refusal = message.get("content"), message.get("refusal")
    if not isinstance(content, list) or not content:
        return content, refusal
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _THOUGHTS:
            continue
        text = part.get("text") if kind in ("text", "output_text") else None
        if kind == "refusal":
            refusal = refusal or part.get("refusal")
        elif isinstance(text, str):
            texts.append(text)
        else:
            return None, refusal
    return ("".join(texts) if texts else None), refusal


def _logprob(logprobs: object) -> float | None:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return None
    try:
        return _finite(float(sum(token["logprob"] for token in content)))
    except (TypeError, KeyError, ValueError) as error:
        raise BadAnswerError(f"log-probabilities of an unknown form: {error!r}") from error


def _finite(logprob: float) -> float:
    """A log-probability that is a number.

    Raises:
        ValueError: it is none.
    """
    if not math.isfinite(logprob):
        raise ValueError(f"{logprob} is no log-probability")
    return logprob


def scoring_bodies(config: ServerSettings, conversation: Conversation) -> tuple[bytes, bytes]:
    """Two requests that score the last message: the prompt alone (its length), then all of it."""
    common = {"model": config.model, "max_tokens": 1, "temperature": 0.0, **config.extra}
    before = {**common, "messages": chat_form(conversation[:-1]), "add_generation_prompt": True}
    whole = {
        **common,
        "messages": chat_form(conversation),
        "add_generation_prompt": False,
        "prompt_logprobs": 0,
    }
    return written(before), written(whole)


def prompt_length(raw: bytes) -> int:
    """Tokens of the prompt, from the usage of an answer."""
    usage = _object(raw).get("usage")
    length = _count(usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    if not length:
        raise BadAnswerError("the answer does not count the prompt's tokens")
    return length


def token_logprobs(raw: bytes, skip: int) -> TokenLogprobs:
    """Log-probabilities of the prompt's tokens after the first `skip`, as vLLM writes them."""
    answer = _object(raw)
    logprobs = answer.get("prompt_logprobs")
    if not isinstance(logprobs, list):
        raise BadAnswerError("the answer has no prompt_logprobs; is the server vLLM?")
    try:
        pairs = [next(iter(entry.values())) for entry in logprobs[skip:]]
        tokens = [(str(p["decoded_token"]), _finite(float(p["logprob"]))) for p in pairs]
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise BadAnswerError(f"prompt_logprobs of an unknown form: {error!r}") from error
    return TokenLogprobs.of_turn(tokens)


def _object(raw: bytes) -> dict[str, Any]:
    if raw[:2] == b"\x1f\x8b":
        raise BadAnswerError(
            "the answer is compressed (gzip), though `identity` was asked for: switch compression "
            "off in the server or the proxy before it",
            habit=True,
        )
    if raw[:64].lstrip().startswith((b"data:", b"event:", b": ")):
        raise BadAnswerError(
            "the answer is a stream of events, though none was asked for: switch streaming off in "
            f"the server or the proxy before it: {_short(raw)}",
            habit=True,
        )
    try:
        answer = _read(raw)
    except (ValueError, RecursionError) as error:
        raise BadAnswerError(f"the answer is no JSON: {_short(raw)}") from error
    if not isinstance(answer, dict):
        raise BadAnswerError(f"the answer is no JSON object: {_short(raw)}")
    return answer


def _read(raw: bytes) -> Any:  # noqa: ANN401 - JSON value
    """JSON; what the strict reader refuses (NaN, lone surrogates, UTF-16) by Python's."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)


def _short(raw: bytes) -> str:
    return repr(raw[:160].decode("utf-8", "replace"))

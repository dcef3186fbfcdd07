"""Asking a model about rows: how answers are drawn, what a conversation looks like as text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from prefactory.context import Context
from prefactory.engines.ask import Answer, ask
from prefactory.engines.base import Conversation, Engine, Failure, Sampling
from prefactory.errors import ConfigError
from prefactory.identity import fingerprint

T = TypeVar("T")

CHARACTERS_A_TOKEN = 4
MATERIAL_TOKENS = 500
"""What a conversation and an answer are taken to have in the estimates of `plan`."""


class Asking(BaseModel):
    """Mixin of steps that ask a text engine; write it before the base.

    Attributes:
        temperature: of the drawing; 0 takes the likeliest token.
        top_p: share of probability that is drawn from.
        max_tokens: of one answer.
        seed: of the drawing; None leaves it to the engine.
        attempts: how often a question is asked until its answer has the right form.
        guided: hand the JSON schema to the engine; False for servers that refuse schemas.
    """

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    seed: int | None = None
    attempts: int = Field(default=3, ge=1)
    guided: bool = True

    def sampling(self, schema: dict[str, Any] | None, n: int = 1) -> Sampling:
        """How n answers of a JSON schema (None: free text) are drawn."""
        return Sampling(
            n=n,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=self.seed,
            json_schema=schema if self.guided else None,
        )


def opened(ctx: Context, config: object, step: str) -> Engine:
    """The engine of a configuration.

    Raises:
        ConfigError: the run has no engines.
    """
    if ctx.engine is None:
        raise ConfigError(f"{step} asks a model, and this run opens none")
    engine: Engine = ctx.engine(config)
    return engine


def ask_each(
    engine: Engine,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    parse: Callable[[str], T],
    attempts: int,
    salts: Sequence[str] | None = None,
) -> list[list[Answer[T] | Failure]]:
    """As `ask`, but equal questions are asked once and share their answers.

    What is drawn depends on the text of the question alone, so an answer can't depend on the
    place, the shard or the company of its row.

    Args:
        engine: what answers.
        conversations: N conversations.
        sampling: how answers are drawn.
        parse: see `prefactory.engines.ask.ask`.
        attempts: see there.
        salts: N texts; equal questions with other salts are drawn apart.

    Returns:
        N lists of `sampling.n` answers or failures, in order.
    """
    salts = [""] * len(conversations) if salts is None else salts
    pairs = zip(conversations, salts, strict=True)
    keys = [fingerprint([list(c), salt]) for c, salt in pairs]
    places: dict[str, int] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, place)
    once = [conversations[place] for place in places.values()]
    replies = ask(engine, once, sampling, parse, list(places), attempts)
    found = dict(zip(places, replies, strict=True))
    return [found[key] for key in keys]


def transcript(messages: Sequence[Mapping[str, str | None]] | None) -> str:
    """A conversation as text: each message under its role in brackets, blank lines between."""
    parts = [f"[{m['role']}]\n{m['content'] or ''}" for m in messages or []]
    return "\n\n".join(parts)


def answer_text(messages: Sequence[Mapping[str, str | None]] | None) -> str:
    """The contents of an answer, blank lines between; as a transcript where a role is not ours."""
    if any(m["role"] != "assistant" for m in messages or []):
        return transcript(messages)
    return "\n\n".join(m["content"] or "" for m in messages or [])


def storable(text: str) -> str:
    """A model's text with lone surrogates as "?": JSON can hold them, tables can't."""
    return text.encode("utf-8", "replace").decode()


def mark(*texts: str) -> str:
    """Eight hex digits for the lines around texts in a prompt.

    They are a digest of these texts, so no text can be written that closes its own block.
    """
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=4).hexdigest()


def tokens_of(text: str) -> int:
    """About how many tokens a prompt has, with an answer of usual length in it."""
    return len(text) // CHARACTERS_A_TOKEN + MATERIAL_TOKENS

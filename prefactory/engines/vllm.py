"""vLLM in this process: offline batches, JSON schemas, prefix caching. For throughput on GPUs.

Tested with vLLM 0.32 on a CPU (`make test-vllm`), not on a GPU. It wants transformers < 5.20, so
install it in an environment of its own, or run `vllm serve` and use a `Server`.

Seeds are given per sample, but vLLM's batches may round otherwise in other company: unlike with
`Transformers`, an answer may depend on its batch. What is in the journal stays as it is.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from prefactory.engines.base import (
    Completion,
    Conversation,
    Done,
    Engine,
    EngineConfig,
    Failure,
    Message,
    Request,
    Result,
    TokenLogprobs,
)
from prefactory.engines.chat_form import chat_form
from prefactory.engines.device import Gpus
from prefactory.engines.turns import text_to_continue
from prefactory.errors import ConfigError, MissingPackageError
from prefactory.safety.chat_templates import bound_templates
from prefactory.safety.model_files import check_model

_CHUNK = 1024
"""Requests given to vLLM at a time: what is finished is journalled after each chunk."""


class VLLM(EngineConfig):
    """A model that vLLM runs in this process.

    Attributes:
        model: a folder, or a Hugging Face name.
        revision: of a Hugging Face model.
        precision: of weights and activations; "auto" is the checkpoint's own.
        quantization: as vLLM names it (`awq`, `gptq`, `fp8`), or None.
        max_model_len: tokens of prompt and answer together; None takes the model's own limit.
        tensor_parallel: GPUs that share the model; without a word as many as `gpus`.
        gpus: of a cluster, that a worker holds for the model; without a word `tensor_parallel`. A
            share below 1 lets several workers share a GPU (set `gpu_memory` below it). Not
            identity.
        enforce_eager: run without compiled graphs: slower, but up at once; CPUs want it.
        trust_remote_code: run code that the model's repository brings.
        gpu_memory: share of the GPU's memory to take, 0 to 1. Not identity.
    """

    enforces_schemas: ClassVar[bool] = True
    package: ClassVar[str | None] = "vllm"
    engine: Literal["vllm"] = "vllm"
    revision: str | None = None
    precision: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: str | None = None
    max_model_len: int | None = Field(default=None, ge=16)
    tensor_parallel: int = Field(default=1, ge=1)
    enforce_eager: bool = False
    trust_remote_code: bool = False
    gpu_memory: float = Field(default=0.9, gt=0, le=1)
    gpus: Gpus = 1.0

    @model_validator(mode="before")
    @classmethod
    def _one_says_the_other(cls, given: Any) -> Any:  # noqa: ANN401 - whatever the recipe says
        """Of `gpus` and `tensor_parallel` the one that is there says the other."""
        if isinstance(given, Mapping):
            gpus, parts = given.get("gpus"), given.get("tensor_parallel")
            if parts is None and isinstance(gpus, int | float) and gpus > 1 and gpus == int(gpus):
                return {**given, "tensor_parallel": int(gpus)}
            if gpus is None and isinstance(parts, int):
                return {**given, "gpus": float(parts)}
        return given

    @property
    def capabilities(self) -> frozenset[str]:
        """It generates, continues and scores."""
        return frozenset({"generate", "logprobs", "text", "user_turn"})

    def open(self) -> VLLMEngine:
        """Load the model.

        Raises:
            MissingPackageError: vLLM is not installed.
            ConfigError: the model can't be loaded with these settings.
        """
        return VLLMEngine(self)


class VLLMEngine(Engine):
    """The loaded model. One caller at a time uses it; others wait."""

    def __init__(self, config: VLLM) -> None:
        """Load the model; see `VLLM.open`."""
        self.config = config
        self.capabilities = config.capabilities
        self._lock = threading.Lock()
        check_model(config.model, trusted=config.trust_remote_code)
        bound_templates()
        self._vllm = _package()
        self._refusals = _refusals()
        try:
            self._llm: Any = self._vllm.LLM(
                model=config.model,
                revision=config.revision,
                tokenizer_revision=config.revision,
                dtype=config.precision,
                quantization=config.quantization,
                max_model_len=config.max_model_len,
                tensor_parallel_size=config.tensor_parallel,
                enforce_eager=config.enforce_eager,
                trust_remote_code=config.trust_remote_code,
                gpu_memory_utilization=config.gpu_memory,
                enable_prefix_caching=True,
                load_format="safetensors",
                generation_config="vllm",  # not the sampling that the repository suggests
                seed=0,
                **_on_a_cpu(),
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"model {config.model!r} can't be loaded by vLLM: {reason}"
            ) from error

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Generate in chunks; a chunk that vLLM refuses is tried again row by row."""
        chunk: list[tuple[int, Request]] = []
        for pair in enumerate(requests):
            chunk.append(pair)
            if len(chunk) == _CHUNK:
                self._chunk(chunk, done)
                chunk = []
        if chunk:
            self._chunk(chunk, done)

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        """Score each last message, with the token that ends the turn where there is one."""
        return [self._score(conversation) for conversation in conversations]

    def close(self) -> None:
        """Let go of the model; vLLM frees its memory when nothing refers to it."""
        with self._lock:
            self._llm = None

    def _chunk(self, chunk: Sequence[tuple[int, Request]], done: Done) -> None:
        try:
            answers = self._answer([request for _, request in chunk])
        except self._refusals as error:
            if len(chunk) == 1:
                done(chunk[0][0], Failure("refused", " ".join(str(error).split())[:300]))
                return
            for pair in chunk:
                self._chunk([pair], done)
            return
        for (place, _), result in zip(chunk, answers, strict=True):
            done(place, result)

    def _answer(self, requests: Sequence[Request]) -> list[Result]:
        """Answers by the chat template, all else by token ids: two calls at most."""
        answers: list[Any] = [None] * len(requests)
        chats = [i for i, r in enumerate(requests) if r.sampling.writes == "answer"]
        others = [i for i, r in enumerate(requests) if r.sampling.writes != "answer"]
        params = [self._params(request) for request in requests]
        with self._lock:
            if chats:
                messages = [chat_form(requests[i].conversation) for i in chats]
                outputs = self._llm.chat(messages, [params[i] for i in chats], use_tqdm=False)
                _put(answers, chats, outputs)
            if others:
                prompts = [{"prompt_token_ids": self._ids(requests[i])} for i in others]
                outputs = self._llm.generate(prompts, [params[i] for i in others], use_tqdm=False)
                _put(answers, others, outputs)
        return [_completion(output) for output in answers]

    def _ids(self, request: Request) -> list[int]:
        tokenizer = self._llm.get_tokenizer()

        def render(messages: Sequence[Message]) -> str:
            return str(tokenizer.apply_chat_template(list(messages), tokenize=False))

        text = text_to_continue(request, render)
        return list(tokenizer.encode(text, add_special_tokens=False))

    def _params(self, request: Request) -> Any:  # noqa: ANN401 - vLLM's own class
        sampling = request.sampling
        schema = None
        if sampling.json_schema is not None:
            package = importlib.import_module("vllm.sampling_params")
            schema = package.StructuredOutputsParams(json=sampling.json_schema)
        return self._vllm.SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop) or None,
            seed=request.draw_seed,
            logprobs=0,
            structured_outputs=schema,
        )

    def _score(self, conversation: Conversation) -> TokenLogprobs | Failure:
        if not conversation or conversation[-1]["role"] != "assistant":
            return Failure("no_answer", "the last message is not an assistant's")
        prompt_only = self._vllm.SamplingParams(max_tokens=1, temperature=0.0)
        scored = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        try:
            with self._lock:
                (before,) = self._llm.chat(
                    [chat_form(conversation[:-1])], prompt_only, use_tqdm=False
                )
                (whole,) = self._llm.chat(
                    [chat_form(conversation)], scored, use_tqdm=False, add_generation_prompt=False
                )
        except self._refusals as error:
            return Failure("refused", " ".join(str(error).split())[:300])
        skip = len(before.prompt_token_ids)
        if whole.prompt_token_ids[:skip] != before.prompt_token_ids:
            return Failure("template", "the chat template writes an answer not after its prompt")
        return _scored(whole.prompt_token_ids[skip:], whole.prompt_logprobs[skip:])


def _put(answers: list[Any], places: Sequence[int], outputs: Sequence[Any]) -> None:
    for place, output in zip(places, outputs, strict=True):
        answers[place] = output


def _completion(output: Any) -> Result:  # noqa: ANN401 - vLLM's RequestOutput
    answer = output.outputs[0]
    logprob = answer.cumulative_logprob
    return Completion(
        answer.text,
        answer.finish_reason or "stop",
        len(output.prompt_token_ids),
        len(answer.token_ids),
        None if logprob is None else float(logprob),
    )


def _scored(ids: Sequence[int], entries: Sequence[Any]) -> TokenLogprobs:
    token_entries = [entry[token] for token, entry in zip(ids, entries, strict=True)]
    tokens = [(f.decoded_token or "", float(f.logprob)) for f in token_entries]
    return TokenLogprobs.of_turn(tokens)


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a request that it will not take; its own base since 0.30."""
    try:
        own = importlib.import_module("vllm.exceptions").VLLMClientError
    except (ImportError, AttributeError):
        return (ValueError, TypeError)
    return (ValueError, TypeError, own)


def _on_a_cpu() -> dict[str, Any]:
    """No prompts in parts on CPUs.

    A seeded draw is taken back after each part, and the generators
    of CPUs can't do that ("CPU Generator does not use offset"), which ends vLLM's engine.
    """
    try:
        cpu = importlib.import_module("vllm.platforms").current_platform.is_cpu()
    except (ImportError, AttributeError):
        return {}
    return {"enable_chunked_prefill": False} if cpu else {}


def _package() -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise MissingPackageError(
            "the engine 'vllm' needs its package, in an environment of its own: "
            "pip install -e '.[vllm]' in the checkout"
        ) from error

"""The one field type for "any engine" in a step: `judge: AnyEngine`, told apart by `engine`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from prefactory.engines.llama.config import Llama
from prefactory.engines.scripted import Scripted
from prefactory.engines.server import Server
from prefactory.engines.steering.config import Steered, Weighed
from prefactory.engines.transformers import Transformers
from prefactory.engines.vllm import VLLM

AnyEngine = Annotated[
    Llama | Scripted | Server | Steered | Transformers | VLLM | Weighed,
    Field(discriminator="engine"),
]
"""In YAML: `{engine: server, base_url: ..., model: ...}`."""

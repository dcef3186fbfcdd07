"""A model in this process whose answers a vector steers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from prefactory.engines.base import settings_of
from prefactory.engines.transformers import Transformers

if TYPE_CHECKING:
    from prefactory.engines.chat_model import ChatModel


class Steered(Transformers):
    """A `transformers` engine whose hidden states are moved by a vector (`prefactory train yapo`).

    All that `Transformers` guarantees holds. A strength of 0 gives the answers of the plain model.

    Attributes:
        vector: the folder of a trained vector, or its file; its digest is identity.
        strength: what the vector is multiplied by: 1 is what it was trained for, below 0 away from
            it. Far beyond 1 answers fall apart.
    """

    engine: Literal["steered"] = "steered"  # type: ignore[assignment]  # told apart by it
    vector: str = Field(min_length=1)
    strength: float = 1.0

    def identity(self) -> dict[str, Any]:
        """That of the model, the vector's digest and the strength.

        Raises:
            ConfigError: there is no such model or vector.
        """
        from prefactory.engines.steering.vector import digest

        return {**super().identity(), "vector": digest(self.vector)}

    def open(self) -> ChatModel:
        """Load the model, and put the vector on it.

        Raises:
            ConfigError: the model can't be loaded, or the vector is none of its.
        """
        from prefactory.engines.chat_model import ChatModel, ChatSettings
        from prefactory.engines.steering.vector import attach, load

        steering = load(self.vector).requires_grad_(requires_grad=False)
        steering.strength = self.strength

        def steered(net: Any) -> None:  # noqa: ANN401 - a transformers model
            attach(net, steering)

        settings = settings_of(ChatSettings, self.resolved())
        return ChatModel(settings, self.folder(), steered)

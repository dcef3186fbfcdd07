"""Models in this process whose answers a vector steers, or a user's weights of objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

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


class Weighed(Transformers):
    """A `transformers` engine with one head an objective (`prefactory train mah`), under weights.

    Its logits are the mean of those of the heads by a user's weights (MAH-DPO, arXiv 2510.01167),
    which one head gives exactly: it costs what the plain model costs. All that `Transformers`
    guarantees holds.

    Attributes:
        model: the folder of the trained model, with `heads.safetensors`; its digest is identity.
        weights: objective -> weight, 0 or more, one of them above 0; those that are left out have
            none. Only their ratios count.
    """

    engine: Literal["weighed"] = "weighed"  # type: ignore[assignment]  # told apart by it
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(min_length=1)

    def identity(self) -> dict[str, Any]:
        """That of the model, the digest of its heads and the share of each.

        Raises:
            ConfigError: there is no such model, or it has no heads.
        """
        from prefactory.engines.steering.heads import digest, shares

        return {**super().identity(), "weights": shares(self.weights), "heads": digest(self.model)}

    def open(self) -> ChatModel:
        """Load the model, and give it the head of the weights.

        Raises:
            ConfigError: the model can't be loaded, or has no head of an objective.
        """
        from prefactory.engines.chat_model import ChatModel, ChatSettings
        from prefactory.engines.steering.heads import mixture, set_head

        head = mixture(self.model, self.weights)
        settings = settings_of(ChatSettings, self.resolved())
        return ChatModel(settings, self.folder(), lambda net: set_head(net, head))

"""Steps that add scores, and that turn scores into pairs. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from labelers.combine import Combine
    from labelers.heads import RidgeHeads
    from labelers.margin import Margin
    from labelers.normalise import Normalise
    from labelers.pairs import Pairs
    from labelers.palette import MAP
    from labelers.reward_augmented import RewardAugmented
    from labelers.text_scores import R3
    from labelers.weights import Weigh

__all__ = [
    "MAP",
    "R3",
    "Combine",
    "Margin",
    "Normalise",
    "Pairs",
    "RewardAugmented",
    "RidgeHeads",
    "Weigh",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Combine": "combine",
        "MAP": "palette",
        "Margin": "margin",
        "Normalise": "normalise",
        "Pairs": "pairs",
        "R3": "text_scores",
        "RewardAugmented": "reward_augmented",
        "RidgeHeads": "heads",
        "Weigh": "weights",
    },
)

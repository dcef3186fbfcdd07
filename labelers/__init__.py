"""Steps that add scores, and that turn scores into pairs. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from labelers.combine import Combine
    from labelers.heads import RidgeHeads
    from labelers.margin import Margin
    from labelers.pairs import Pairs
    from labelers.reward_augmented import RewardAugmented
    from labelers.text_scores import R3

__all__ = [
    "R3",
    "Combine",
    "Margin",
    "Pairs",
    "RewardAugmented",
    "RidgeHeads",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Combine": "combine",
        "Margin": "margin",
        "Pairs": "pairs",
        "R3": "text_scores",
        "RewardAugmented": "reward_augmented",
        "RidgeHeads": "heads",
    },
)

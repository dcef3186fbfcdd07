"""Steps that add scores, and that turn scores into pairs. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from labelers.annotators import AnnotatorAggregate
    from labelers.combine import Combine
    from labelers.constraints import Constraints
    from labelers.flames import FlamesRisk
    from labelers.heads import RidgeHeads
    from labelers.likelihood import Likelihood
    from labelers.margin import Margin
    from labelers.normalise import Normalise
    from labelers.pairs import Pairs
    from labelers.palette import MAP
    from labelers.reward_augmented import RewardAugmented
    from labelers.reward_model import RewardModel
    from labelers.steps import StepScores
    from labelers.text_scores import R3
    from labelers.text_statistics import TextStatistics
    from labelers.verifiable import Verifiable
    from labelers.weights import Weigh

__all__ = [
    "MAP",
    "R3",
    "AnnotatorAggregate",
    "Combine",
    "Constraints",
    "FlamesRisk",
    "Likelihood",
    "Margin",
    "Normalise",
    "Pairs",
    "RewardAugmented",
    "RewardModel",
    "RidgeHeads",
    "StepScores",
    "TextStatistics",
    "Verifiable",
    "Weigh",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AnnotatorAggregate": "annotators",
        "Combine": "combine",
        "Constraints": "constraints",
        "FlamesRisk": "flames",
        "Likelihood": "likelihood",
        "MAP": "palette",
        "Margin": "margin",
        "Normalise": "normalise",
        "Pairs": "pairs",
        "R3": "text_scores",
        "RewardAugmented": "reward_augmented",
        "RewardModel": "reward_model",
        "RidgeHeads": "heads",
        "StepScores": "steps",
        "TextStatistics": "text_statistics",
        "Verifiable": "verifiable",
        "Weigh": "weights",
    },
)

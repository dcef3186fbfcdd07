"""Steps that add scores, and that turn scores into pairs. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from labelers.annotators import AnnotatorAggregate
    from labelers.combine import Combine
    from labelers.constraints import Constraints
    from labelers.correction import DirectionalCorrection
    from labelers.flames import FlamesRisk
    from labelers.heads import RidgeHeads
    from labelers.ideal_points import PAL
    from labelers.implicit import ImplicitReward
    from labelers.judge import Judge
    from labelers.judge_pairs import JudgePairs
    from labelers.likelihood import Likelihood
    from labelers.margin import Margin
    from labelers.merge_tags import MergeTags
    from labelers.normalise import Normalise
    from labelers.pair_columns import Dimension, DynamicBeta, Signs
    from labelers.pairs import Pairs
    from labelers.palette import MAP
    from labelers.prompt_quality import PromptQuality
    from labelers.prompt_tags import PromptTags
    from labelers.relabel import Relabel
    from labelers.reward_augmented import RewardAugmented
    from labelers.reward_model import RewardModel
    from labelers.rubric import Rubric
    from labelers.steer_weights import SteerWeights
    from labelers.steps import StepScores
    from labelers.system_pairs import SystemPairs
    from labelers.text_scores import R3
    from labelers.text_statistics import TextStatistics
    from labelers.verifiable import Verifiable
    from labelers.weights import Weigh

__all__ = [
    "MAP",
    "PAL",
    "R3",
    "AnnotatorAggregate",
    "Combine",
    "Constraints",
    "Dimension",
    "DirectionalCorrection",
    "DynamicBeta",
    "FlamesRisk",
    "ImplicitReward",
    "Judge",
    "JudgePairs",
    "Likelihood",
    "Margin",
    "MergeTags",
    "Normalise",
    "Pairs",
    "PromptQuality",
    "PromptTags",
    "Relabel",
    "RewardAugmented",
    "RewardModel",
    "RidgeHeads",
    "Rubric",
    "Signs",
    "SteerWeights",
    "StepScores",
    "SystemPairs",
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
        "Dimension": "pair_columns",
        "DirectionalCorrection": "correction",
        "DynamicBeta": "pair_columns",
        "FlamesRisk": "flames",
        "ImplicitReward": "implicit",
        "Judge": "judge",
        "JudgePairs": "judge_pairs",
        "Likelihood": "likelihood",
        "MAP": "palette",
        "Margin": "margin",
        "MergeTags": "merge_tags",
        "Normalise": "normalise",
        "PAL": "ideal_points",
        "Pairs": "pairs",
        "PromptQuality": "prompt_quality",
        "PromptTags": "prompt_tags",
        "R3": "text_scores",
        "Relabel": "relabel",
        "RewardAugmented": "reward_augmented",
        "RewardModel": "reward_model",
        "RidgeHeads": "heads",
        "Rubric": "rubric",
        "Signs": "pair_columns",
        "SteerWeights": "steer_weights",
        "StepScores": "steps",
        "SystemPairs": "system_pairs",
        "TextStatistics": "text_statistics",
        "Verifiable": "verifiable",
        "Weigh": "weights",
    },
)

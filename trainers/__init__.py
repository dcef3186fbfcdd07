"""Trainers: read a published dataset version, write a trained model and what it achieves."""

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from trainers.base import DatasetRef
    from trainers.dpo import train_dpo
    from trainers.embedding_model import EmbeddingRewardModel
    from trainers.embedding_reward import train_embedding_reward
    from trainers.metrics import PairMetrics, pair_metrics
    from trainers.report import TrainingReport
    from trainers.reward import train_reward
    from trainers.settings import DPO, EmbeddingReward, Lora, Reward

__all__ = [
    "DPO",
    "DatasetRef",
    "EmbeddingReward",
    "EmbeddingRewardModel",
    "Lora",
    "PairMetrics",
    "Reward",
    "TrainingReport",
    "pair_metrics",
    "train_dpo",
    "train_embedding_reward",
    "train_reward",
]

__getattr__ = lazy_names(
    __name__,
    {
        "DPO": "settings",
        "DatasetRef": "base",
        "EmbeddingReward": "settings",
        "EmbeddingRewardModel": "embedding_model",
        "Lora": "settings",
        "PairMetrics": "metrics",
        "Reward": "settings",
        "TrainingReport": "report",
        "pair_metrics": "metrics",
        "train_dpo": "dpo",
        "train_embedding_reward": "embedding_reward",
        "train_reward": "reward",
    },
)

"""Settings of the trainers. Plain data: nothing heavy is loaded."""

from trainers.settings.base import FROZEN, EarlyStopping, Lora, PolicySettings, TransformerSettings
from trainers.settings.frozen import EmbeddingReward, PreferenceStack
from trainers.settings.own import BCO, MAH, RACO, PoFT, Regression
from trainers.settings.trl import CPO, DPO, KTO, ORPO, SFT, Mixture, Reward, SimPO

__all__ = [
    "BCO", "CPO", "DPO", "FROZEN", "KTO", "MAH", "ORPO", "RACO", "SFT", "EarlyStopping",
    "EmbeddingReward", "Lora", "Mixture", "PoFT", "PolicySettings", "PreferenceStack", "Regression",
    "Reward",    "SimPO", "TransformerSettings",
]  # fmt: skip

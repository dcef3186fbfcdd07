"""Settings of the trainers. Plain data: nothing heavy is loaded."""

from trainers.settings.base import FROZEN, EarlyStopping, Lora, PolicySettings, TransformerSettings
from trainers.settings.frozen import EmbeddingReward, PreferenceStack
from trainers.settings.own import BCO, MAH, RACO, PoFT, Regression
from trainers.settings.several import MORE, RDPO, Listwise, SteerLM
from trainers.settings.trl import CPO, DPO, KTO, ORPO, SFT, Mixture, Reward, SimPO

__all__ = [
    "BCO", "CPO", "DPO", "FROZEN", "KTO", "MAH", "MORE", "ORPO", "RACO", "RDPO", "SFT",
    "EarlyStopping", "EmbeddingReward", "Listwise", "Lora", "Mixture", "PoFT", "PolicySettings",
    "PreferenceStack", "Regression", "Reward", "SimPO", "SteerLM", "TransformerSettings",
]  # fmt: skip

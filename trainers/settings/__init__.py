"""Settings of the trainers. Plain data: nothing heavy is loaded."""

from trainers.settings.base import FROZEN, EarlyStopping, Lora, PolicySettings, TransformerSettings
from trainers.settings.frozen import EmbeddingReward, PreferenceStack, Router
from trainers.settings.labelled import ADPA, DCKD, GoalDPO, Stepwise
from trainers.settings.own import BCO, MAH, RACO, PoFT, Regression, YaPO
from trainers.settings.people import PAL
from trainers.settings.several import MORE, RDPO, Listwise, SteerLM
from trainers.settings.trl import CPO, DPO, KTO, ORPO, SFT, Mixture, Reward, SimPO

__all__ = [
    "ADPA", "BCO", "CPO", "DCKD", "DPO", "FROZEN", "KTO", "MAH", "MORE", "ORPO", "PAL", "RACO",
    "RDPO", "SFT", "EarlyStopping", "EmbeddingReward", "GoalDPO", "Listwise", "Lora", "Mixture",
    "PoFT", "PolicySettings", "PreferenceStack", "Regression", "Reward", "Router", "SimPO",
    "SteerLM", "Stepwise", "TransformerSettings", "YaPO",
]  # fmt: skip

"""Steps that make rows: answers, pairs, and prompts. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from generators.hard_negatives import MaskedContinuations
    from generators.hard_negatives_near import NearMisses
    from generators.personas import Personas
    from generators.responses import Responses
    from generators.rps import RPS
    from generators.system_messages import SystemMessages
    from generators.system_messages_coverage import MessageCoverage
    from generators.system_prompt_mix import SystemPromptMix
    from generators.value_guided import ValueGuided
    from generators.weak_pairs import WeakPairs

__all__ = [
    "RPS",
    "MaskedContinuations",
    "MessageCoverage",
    "NearMisses",
    "Personas",
    "Responses",
    "SystemMessages",
    "SystemPromptMix",
    "ValueGuided",
    "WeakPairs",
]

__getattr__ = lazy_names(
    __name__,
    {
        "MaskedContinuations": "hard_negatives",
        "MessageCoverage": "system_messages_coverage",
        "NearMisses": "hard_negatives_near",
        "Personas": "personas",
        "RPS": "rps",
        "Responses": "responses",
        "SystemMessages": "system_messages",
        "SystemPromptMix": "system_prompt_mix",
        "ValueGuided": "value_guided",
        "WeakPairs": "weak_pairs",
    },
)

"""Steps that make rows: answers, pairs, and prompts. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from generators.adversarial import AdversarialWrappers
    from generators.augment import AugmentPrompts
    from generators.dialogues import Dialogues
    from generators.dilemmas import Dilemmas
    from generators.draft_critique import DraftCritique
    from generators.evol import Evol
    from generators.hard_negatives import MaskedContinuations
    from generators.hard_negatives_near import NearMisses
    from generators.magpie import Magpie
    from generators.mcts import InstructionSearch
    from generators.persona_if import PersonaIF
    from generators.persona_prompts import PersonaPrompts
    from generators.personas import Personas
    from generators.rag import RAGPairs
    from generators.responses import Responses
    from generators.rps import RPS
    from generators.self_instruct import SelfInstruct
    from generators.style_pairs import StylePairs
    from generators.system_messages import SystemMessages
    from generators.system_messages_coverage import MessageCoverage
    from generators.system_prompt_mix import SystemPromptMix
    from generators.value_gap import ValueGapPairs
    from generators.value_guided import ValueGuided
    from generators.weak_pairs import WeakPairs

__all__ = [
    "RPS",
    "AdversarialWrappers",
    "AugmentPrompts",
    "Dialogues",
    "Dilemmas",
    "DraftCritique",
    "Evol",
    "InstructionSearch",
    "Magpie",
    "MaskedContinuations",
    "MessageCoverage",
    "NearMisses",
    "PersonaIF",
    "PersonaPrompts",
    "Personas",
    "RAGPairs",
    "Responses",
    "SelfInstruct",
    "StylePairs",
    "SystemMessages",
    "SystemPromptMix",
    "ValueGapPairs",
    "ValueGuided",
    "WeakPairs",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AdversarialWrappers": "adversarial",
        "AugmentPrompts": "augment",
        "Dialogues": "dialogues",
        "Dilemmas": "dilemmas",
        "DraftCritique": "draft_critique",
        "Evol": "evol",
        "InstructionSearch": "mcts",
        "Magpie": "magpie",
        "MaskedContinuations": "hard_negatives",
        "MessageCoverage": "system_messages_coverage",
        "NearMisses": "hard_negatives_near",
        "PersonaIF": "persona_if",
        "PersonaPrompts": "persona_prompts",
        "Personas": "personas",
        "RAGPairs": "rag",
        "RPS": "rps",
        "Responses": "responses",
        "SelfInstruct": "self_instruct",
        "StylePairs": "style_pairs",
        "SystemMessages": "system_messages",
        "SystemPromptMix": "system_prompt_mix",
        "ValueGapPairs": "value_gap",
        "ValueGuided": "value_guided",
        "WeakPairs": "weak_pairs",
    },
)

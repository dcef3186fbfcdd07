"""Rows leave, with a reason: rules, duplicates, margins and subsampling. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefactory.lazy import lazy_names

if TYPE_CHECKING:
    from filters.against_versions import AgainstVersions
    from filters.by_score import EnsembleUncertainty, MarginSelection
    from filters.d_optimal import DOptimal
    from filters.decontaminate import Decontaminate
    from filters.diverse import DEITA, DPP, FacilityLocation, KCenter, SelfRepellent
    from filters.exact_duplicates import ExactDuplicates
    from filters.instag import InsTag
    from filters.isa import ISA
    from filters.language import Language
    from filters.length import Length
    from filters.margin import Margin, Score
    from filters.match_target import MatchTarget
    from filters.near_duplicates import NearDuplicates
    from filters.near_identical import NearIdenticalAnswers
    from filters.pair_sanity import PairSanity
    from filters.personal_data import MaskPersonalData, PersonalData
    from filters.quality import Quality
    from filters.refusals import Refusals
    from filters.semantic_duplicates import SemanticDuplicates
    from filters.subsample import RandomSubsample
    from filters.task_templates import TaskTemplates
    from filters.toxicity import Toxicity
    from filters.uninformative import UninformativePrompts

__all__ = [
    "DEITA",
    "DPP",
    "ISA",
    "AgainstVersions",
    "DOptimal",
    "Decontaminate",
    "EnsembleUncertainty",
    "ExactDuplicates",
    "FacilityLocation",
    "InsTag",
    "KCenter",
    "Language",
    "Length",
    "Margin",
    "MarginSelection",
    "MaskPersonalData",
    "MatchTarget",
    "NearDuplicates",
    "NearIdenticalAnswers",
    "PairSanity",
    "PersonalData",
    "Quality",
    "RandomSubsample",
    "Refusals",
    "Score",
    "SelfRepellent",
    "SemanticDuplicates",
    "TaskTemplates",
    "Toxicity",
    "UninformativePrompts",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AgainstVersions": "against_versions",
        "DEITA": "diverse",
        "DOptimal": "d_optimal",
        "DPP": "diverse",
        "Decontaminate": "decontaminate",
        "EnsembleUncertainty": "by_score",
        "ExactDuplicates": "exact_duplicates",
        "FacilityLocation": "diverse",
        "ISA": "isa",
        "InsTag": "instag",
        "KCenter": "diverse",
        "Language": "language",
        "Length": "length",
        "Margin": "margin",
        "MarginSelection": "by_score",
        "MaskPersonalData": "personal_data",
        "MatchTarget": "match_target",
        "NearDuplicates": "near_duplicates",
        "NearIdenticalAnswers": "near_identical",
        "PairSanity": "pair_sanity",
        "PersonalData": "personal_data",
        "Quality": "quality",
        "RandomSubsample": "subsample",
        "Refusals": "refusals",
        "Score": "margin",
        "SelfRepellent": "diverse",
        "SemanticDuplicates": "semantic_duplicates",
        "TaskTemplates": "task_templates",
        "Toxicity": "toxicity",
        "UninformativePrompts": "uninformative",
    },
)

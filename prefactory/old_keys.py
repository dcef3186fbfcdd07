"""Keys of recipes that have another name now: an old one is an error that names the new one."""

from __future__ import annotations

_DRAWING = {
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "max_tokens": "sampling.max_tokens",
    "stop": "sampling.stop",
}
_ANSWERS = {
    "answer_temperature": "answer_sampling.temperature",
    "answer_tokens": "answer_sampling.max_tokens",
}
_TRAINING = {
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "eval_batch_size": "per_device_eval_batch_size",
    "schedule": "lr_scheduler_type",
    "precision": "bf16",
}
_JUDGES = {"judges": "judge", "seed": "the recipe's seed"}

OLD_KEYS: dict[str, dict[str, str]] = {
    "Asking": {**_DRAWING, "seed": "the recipe's seed"},
    "Sampled": _DRAWING,
    "AugmentPrompts": _ANSWERS,
    "Dilemmas": _ANSWERS,
    "Evol": _ANSWERS,
    "Gated": {"truncated": "gate.truncated"},
    "InstructionSearch": {
        "rewriter_temperature": "rewriter_sampling.temperature",
        "rewriter_top_p": "rewriter_sampling.top_p",
        "rewriter_max_tokens": "rewriter_sampling.max_tokens",
    },
    "Judging": _JUDGES,
    "PromptQuality": _JUDGES,
    "RAGPairs": _JUDGES,
    "Reward": {"center": "center_rewards_coefficient"},
    "TransformerSettings": _TRAINING,
}
"""Class, of a step or of one that steps inherit -> old key -> new key (0.1.0, the one change)."""


def new_key(cls: type, old: str) -> str | None:
    """What a key of a class is called now, if it was renamed."""
    for base in cls.__mro__:
        if old in (renamed := OLD_KEYS.get(base.__name__, {})):
            return renamed[old]
    return None

"""RACO: objectives that disagree on a pair."""

from __future__ import annotations

from functools import partial

from prefactory.errors import ConfigError, DataError
from trainers.base import DatasetRef
from trainers.columns import SIGN, columns_for_training
from trainers.methods.plan import Plan, implicit_reward
from trainers.methods.trl import REFERENCE
from trainers.objectives.conflicts import LIMIT
from trainers.objectives.raco import ConflictingDPO
from trainers.settings import RACO


def plan_raco(config: RACO, data: DatasetRef) -> Plan:
    """DPO whose gradients of several objectives are joined."""
    weights = weights_of(config, data)
    said = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
    return Plan(
        method="raco",
        trainer=partial(ConflictingDPO, weights=weights, radius=config.radius, clip=config.clip),
        about="trained by direct preference optimization (arXiv 2305.18290) of conflicting"
        f" objectives (RACO, arXiv 2602.02495). {REFERENCE}",
        score=implicit_reward(config.beta),
        compared=True,
        options={"beta": config.beta, "loss_type": ["sigmoid"], "precompute_ref_log_probs": True},
        columns=tuple(SIGN + name for name in weights),
        notes=(f"objectives and weights: {said}",),
    )


def weights_of(config: RACO, data: DatasetRef) -> dict[str, float]:
    """Weight of each objective, summing to 1.

    Raises:
        DataError: the data have no sign of any objective.
        ConfigError: there are more objectives than can be joined.
    """
    there = [c.removeprefix(SIGN) for c in columns_for_training(data) if c.startswith(SIGN)]
    weights = config.objectives or dict.fromkeys(there, 1.0)
    if not weights:
        raise DataError(
            f"raco reads columns sign_<objective>, and {data} has none: labelers.Signs makes them"
        )
    if len(weights) > LIMIT:
        raise ConfigError(f"raco takes up to {LIMIT} objectives, not {len(weights)}: name some")
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}

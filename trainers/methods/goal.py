"""Reward-augmented DPO: pairs under a goal, and a model that asks for the best score by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefactory.errors import DataError
from trainers.base import DatasetRef, write_json
from trainers.methods.plan import Plan
from trainers.methods.trl import REFERENCE, plan_dpo
from trainers.settings import GoalDPO

GOAL = "goal.json"
"""File of a trained model: the goal message of the best score, and the parts that others are of."""

_WRAPPED = """\
{%- set goal = GOAL -%}
{%- if messages and messages[0]['role'] == 'system' and messages[0]['content'] is string -%}
{%- if ROLE not in messages[0]['content'] -%}
{%- set both = messages[0]['content'] + '\\n\\n' + goal -%}
{%- set messages = [{'role': 'system', 'content': both}] + messages[1:] -%}
{%- endif -%}
{%- else -%}
{%- set messages = [{'role': 'system', 'content': goal}] + messages -%}
{%- endif -%}
"""


def asking(template: str, goal: str, role: str) -> str:
    """A chat template whose conversations name a goal, as `labelers.RewardAugmented` writes it.

    The goal stands in a system message of its own, or at the end of the one that is there. A
    conversation that names a goal itself stays as it is.

    Args:
        template: Jinja source.
        goal: the message.
        role: what every goal message has in it.
    """
    named = _WRAPPED.replace("GOAL", _literal(goal)).replace("ROLE", _literal(role))
    return named + template


def _literal(text: str) -> str:
    escaped = text.encode("unicode_escape").decode("ascii")
    return '"' + escaped.replace('"', '\\"') + '"'


def goal_of(data: DatasetRef) -> dict[str, Any]:
    """What the data's relabelling says of its goals: `best`, `template`, `scale`, `objectives`.

    Raises:
        DataError: no step of the version relabelled the pairs.
    """
    for stage in data.version.manifest.stages:
        if stage.label.startswith("labelers.RewardAugmented"):
            names = ("best", "template", "scale", "objectives", "decimals")
            return {name: stage.info[name] for name in names}
    raise DataError(
        f"{data} has no goals in the words of labelers.RewardAugmented, which the model must be "
        "asked with: train on a version whose recipe has that step"
    )


def plan_goal(config: GoalDPO, data: DatasetRef) -> Plan:
    """DPO on goal pairs; the goal message goes into the saved chat template."""
    goal = goal_of(data)

    def done(trainer: Any, folder: Path) -> None:  # noqa: ANN401
        tokenizer = trainer.processing_class
        found, role = tokenizer.chat_template, goal["template"][0]
        if isinstance(found, dict):
            wrapped: Any = {name: asking(t, goal["best"], role) for name, t in found.items()}
        else:
            wrapped = asking(found, goal["best"], role)
        tokenizer.chat_template = wrapped
        write_json(folder / GOAL, goal)

    plan = plan_dpo(config, data)
    best = goal["best"].replace("\n", " ")
    return replace(
        plan,
        method="goal-dpo",
        about="trained by direct preference optimization on pairs that name a goal"
        f" (arXiv 2410.08067). {REFERENCE} Its chat template asks for the best score by itself"
        f" ({best}); `{GOAL}` has the words for others.",
        columns=(*plan.columns, "goal", "goal_kind"),
        by="goal_kind",
        finish=done,
        notes=(*plan.notes, f"the chat template asks for the best score: {best}"),
    )

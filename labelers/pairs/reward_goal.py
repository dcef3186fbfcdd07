"""The system message that names the score an answer should reach: written, and taken off again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

ROLE = (
    "You are an assistant that answers the instruction and, without mentioning them, meets the "
    "target scores below."
)
"""First sentence of every goal message; `without_goal` finds the message by it.

The wording is no field: whoever changes a part of it bumps the version of `RewardAugmented`.
"""
SCALE = "Scores range from {low} (worst) to {high} (best)."
LINE = "{name} score: {goal}."


def goal_message(goals: Mapping[str, float], scale: tuple[float, float], decimals: int = 2) -> str:
    """Write the system message of one goal, for inference with a trained model.

    Args:
        goals: objective -> score to reach, in goal units.
        scale: worst and best score.
        decimals: digits after the point; integral scores have none.
    """
    numbers = pl.DataFrame({name: [float(goal)] for name, goal in goals.items()})
    names = list(goals)
    return str(numbers.select(goal_text(names, names, scale, numbers, decimals)).item())


def goal_text(
    columns: Sequence[str],
    objectives: Sequence[str],
    scale: tuple[float, float],
    table: pl.DataFrame,
    decimals: int,
) -> pl.Expr:
    """The system message of every row.

    Args:
        columns: Float64 columns of `table` with the goals.
        objectives: what each of them is a score of.
        scale: worst and best score.
        table: the rows; their distinct goals are turned to text once.
        decimals: digits after the point.

    Returns:
        A String expression on `table`.
    """
    low, high = (number_text(value, decimals) for value in scale)
    parts = [pl.lit(f"{ROLE} {SCALE.format(low=low, high=high)}")]
    for column, objective in zip(columns, objectives, strict=True):
        distinct = table[column].drop_nulls().unique()
        texts = [
            LINE.format(name=displayed(objective), goal=number_text(goal, decimals))
            for goal in distinct
        ]
        parts.append(pl.col(column).replace_strict(distinct, texts, return_dtype=pl.String))
    return pl.concat_str(parts, separator="\n")


def number_text(value: float, decimals: int) -> str:
    """A score as text: 9.0 is `9`, 7.25 is `7.25`; never in exponent form."""
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def displayed(objective: str) -> str:
    """Name of an objective in the message: `answer_quality` is `Answer quality`."""
    words = objective.replace("_", " ")
    return words[:1].upper() + words[1:]


def with_goal(prompt: pl.Expr, text: pl.Expr) -> pl.Expr:
    """Put the goal message first, or at the end of a leading system message after a blank line.

    Args:
        prompt: messages.
        text: String, the goal message.
    """
    content = prompt.list.first().struct.field("content")
    system = _starts_with_system(prompt)
    joined = pl.when(system).then(pl.concat_str(content, text, separator="\n\n")).otherwise(text)
    rest = pl.when(system).then(prompt.list.slice(1)).otherwise(prompt)
    return _system_before(joined, rest)


def without_goal(prompt: pl.Expr) -> pl.Expr:
    """Undo `with_goal`: the prompt as it was."""
    content = prompt.list.first().struct.field("content")
    own = content.str.extract(rf"(?s)\A(.*)\n\n{pl.escape_regex(ROLE)}", 1)
    rest = prompt.list.slice(1)
    return pl.when(own.is_null()).then(rest).otherwise(_system_before(own, rest))


def has_goal(prompt: pl.Expr) -> pl.Expr:
    """Tell whether a prompt's first message holds a goal message (Boolean, never null)."""
    content = prompt.list.first().struct.field("content")
    return content.str.contains(ROLE, literal=True).fill_null(value=False)


def _starts_with_system(prompt: pl.Expr) -> pl.Expr:
    first = prompt.list.first().struct
    system = (first.field("role") == "system") & first.field("content").is_not_null()
    return system.fill_null(value=False)


def _system_before(content: pl.Expr, rest: pl.Expr) -> pl.Expr:
    message = pl.struct(role=pl.lit("system"), content=content)
    return pl.concat_list(pl.concat_list(message), rest)

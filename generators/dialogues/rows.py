"""Branches of dialogues as rows: pairs, or responses."""

from __future__ import annotations

from typing import Literal, NamedTuple

import polars as pl

from generators.dialogues.play import TRANSCRIPT, TURN_META, Branch, Dialogue
from generators.dialogues.scenario import Scenario
from generators.made_rows import ORIGINS, PARENT, Column, children, sides, talks, text_column, turns
from prefactory.identity import fingerprint
from prefactory.tables import Shape

Make = Literal["pairs", "responses"]


class Kept(NamedTuple):
    """A branch that becomes rows.

    Attributes:
        texts: chosen and rejected; or all answers.
        scores: of chosen and rejected.
    """

    dialogue: Dialogue
    branch: Branch
    texts: list[str]
    scores: tuple[float, float] | None = None


def adds(make: Make) -> dict[str, pl.DataType]:
    """Columns beside those of the shape."""
    text: pl.DataType = pl.String()
    number: pl.DataType = pl.Float64()
    common: dict[str, pl.DataType] = {
        PARENT: text,
        "dialogue_id": text,
        "scenario": text,
        "cell": text,
        "turn": pl.Int64(),
        "contains_deception": pl.Boolean(),
        "transcript": TRANSCRIPT,
        "turn_meta": TURN_META,
        "diagnosis": text,
        "diagnosis_turn": pl.Int64(),
        "winner": text,
    }
    if make == "responses":
        return {**common, "sample": pl.Int64()}
    scores = dict.fromkeys(("chosen_score_turn", "rejected_score_turn", "margin"), number)
    return {**common, **ORIGINS, **scores}


def rows_of(
    table: pl.DataFrame,
    scenario: Scenario,
    kept: list[Kept],
    model: str,
    origin: str,
    make: Make,
) -> pl.DataFrame:
    """Rows of all branches that were kept.

    Args:
        table: PROMPTS, the cases.
        scenario: what was played.
        kept: the branches.
        model: that spoke for the target.
        origin: of the answers.
        make: what to make of a branch.

    Returns:
        PAIRS or RESPONSES, in canonical order.
    """
    if make == "pairs":
        scores = [k.scores or (0.0, 0.0) for k in kept]
        new: dict[str, Column] = {
            **_shared_columns(scenario, kept),
            **sides([(k.texts[0], k.texts[1]) for k in kept], (model, model),
                    (origin, origin), "judge"),
            "chosen_score_turn": (pl.Float64(), [s[0] for s in scores]),
            "rejected_score_turn": (pl.Float64(), [s[1] for s in scores]),
            "margin": (pl.Float64(), [s[0] - s[1] for s in scores]),
        }  # fmt: skip
        return children(table, [k.dialogue.row for k in kept], new, Shape.PAIRS, PARENT)
    each = [(k, i) for k in kept for i in range(len(k.texts))]
    new = {
        **_shared_columns(scenario, [k for k, _ in each]),
        "response": turns([k.texts[i] for k, i in each]),
        "model": text_column([model] * len(each)),
        "origin": text_column([origin] * len(each)),
        "sample": (pl.Int64(), [i for _, i in each]),
    }
    return children(table, [k.dialogue.row for k, _ in each], new, Shape.RESPONSES, PARENT)


def _shared_columns(scenario: Scenario, kept: list[Kept]) -> dict[str, Column]:
    """What all rows tell of their dialogue."""
    n = len(kept)
    cells = [", ".join(f"{a}={c.id}" for a, c in k.dialogue.cell.items()) for k in kept]
    return {
        "prompt": talks([k.branch.history for k in kept]),
        "dialogue_id": text_column([fingerprint(["dialogue", k.dialogue.key]) for k in kept]),
        "scenario": text_column([scenario.scenario] * n),
        "cell": text_column(cells),
        "turn": (pl.Int64(), [k.branch.turn.number for k in kept]),
        "contains_deception": (pl.Boolean(), [scenario.contains_deception] * n),
        "transcript": (TRANSCRIPT, [k.dialogue.transcript(scenario) for k in kept]),
        "turn_meta": (TURN_META, [k.dialogue.meta for k in kept]),
        "diagnosis": text_column([k.dialogue.diagnosis for k in kept]),
        "diagnosis_turn": (pl.Int64(), [k.dialogue.diagnosed for k in kept]),
        "winner": text_column([k.dialogue.winner for k in kept]),
    }

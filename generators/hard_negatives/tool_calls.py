"""Pairs that differ in a call of a tool: the answer's own against one that is spoilt by rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import polars as pl
from pydantic import Field

from generators.hard_negatives import call_rules
from generators.hard_negatives.call_rules import Spoilt
from prefactory.asking import transcript
from prefactory.context import Context
from prefactory.step import Generated, Generator
from prefactory.tables import (
    COLUMNS,
    OF_PROMPT,
    SIDES,
    Shape,
    canonical_order,
    message_keys,
    messages_dtype,
    with_ids,
)

Fault = Literal[
    "missing_required",
    "wrong_type",
    "out_of_range",
    "unknown_tool",
    "unknown_argument",
    "wrong_value",
    "missing_call",
    "extra_call",
]
ADDS: dict[str, pl.DataType] = {
    "call_fault": pl.String(),
    "fault_path": pl.String(),
    **{f"{side}_origin": pl.String() for side in SIDES},
}
Message = dict[str, Any]


class ToolCallPairs(Generator):
    """Pair each answer that calls tools (chosen) with the same answer, its call spoilt (rejected).

    After the tool-calling instructions of MAGE (arXiv:2507.21741); the faults and their labels by
    JSON Schema (2020-12) are ours. No model. The last message of an answer is taken, whose calls
    must be valid under the closed schemas of the row's `tools`: an object takes no argument that
    its schema does not name, unless it says so. One place is spoilt; the text around stays.
    Spoilt calls that equal the answer's (defaults filled in, 3 as 3.0, in any order) are no pair.

    Of the faults that an answer allows, the kinds are equally likely, then the places; drawn by
    response id. `wrong_value` (another member of an enum, a number one more or less, a boolean
    turned) is valid under the schema, so it is wrong only against an answer that is right:
    with `answers: gold` all are taken to be; with `grounded` only those whose texts and numbers
    all stand in the conversation, while the spoilt one's don't. `format` is not checked.

    Columns beside those of pairs: `call_fault` (String, of `faults`), `fault_path` (String, JSON
    pointer of the spoilt place in the list of calls), the sides' origins. `label_source` is `rule`.

    Reasons for answers without a pair: `no_call`, `no_tools`, `gold_invalid` (its own call fails
    its schema; the detail says how), `no_fault`.

    Attributes:
        faults: kinds that may be drawn.
        answers: `gold` or `grounded`, see above.
        per_answer: pairs for an answer, of different faults.

    Example:
        - generators.ToolCallPairs:
            faults: [missing_required, wrong_type, out_of_range, wrong_value]
            answers: grounded
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    parents: ClassVar[tuple[str, ...]] = ("chosen_id",)

    faults: tuple[Fault, ...] = Field(default=get_args(Fault), min_length=1)
    answers: Literal["gold", "grounded"] = "gold"
    per_answer: int = Field(default=1, ge=1, le=2)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The tools that an answer may call."""
        return {"tools": pl.String()}

    def out_shape(self, shape: Shape) -> Shape:
        """Pairs."""
        return Shape.PAIRS

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """The fault, its place, and where the sides come from."""
        return ADDS

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Spoil one call of each answer.

        Args:
            table: RESPONSES with `tools`.
            ctx: draws fault and place by response id.

        Returns:
            PAIRS in canonical order, and the answers without a pair.
        """
        draws = [ctx.uniform(table["response_id"], name).to_numpy() for name in ("kind", "place")]
        rows: list[tuple[int, list[Message], Spoilt]] = []
        dropped: list[tuple[str, str, str]] = []
        columns = [c for c in ("response_id", "prompt", "response", "tools") if c in table.columns]
        for i, row in enumerate(table.select(columns).iter_rows(named=True)):
            reason, detail, ways = self._ways(row)
            chosen = _drawn(ways, float(draws[0][i]), float(draws[1][i]), self.per_answer)
            for way in chosen:
                last = {**row["response"][-1], "tool_calls": way.calls or None}
                rows.append((i, [*row["response"][:-1], last], way))
            if not chosen:
                dropped.append((row["response_id"], reason or "no_fault", detail))
        lost = pl.DataFrame(
            dropped, schema=dict.fromkeys(("row_id", "reason", "detail"), pl.String), orient="row"
        )
        return Generated(_pairs(table, rows), lost)

    def _ways(self, row: dict[str, Any]) -> tuple[str, str, list[Spoilt]]:
        """Why an answer has no spoilt call, with a detail; or all that it has."""
        messages = row["response"] or []
        calls = (messages[-1].get("tool_calls") or []) if messages else []
        if not calls:
            return "no_call", "the last message calls no tool", []
        schemas = call_rules.schemas_of(row.get("tools"))
        if not schemas:
            return "no_tools", "the row has no tools", []
        for call in calls:
            if (wrong := call_rules.problem(call, schemas)) is not None:
                return "gold_invalid", f"{call['name']}: {wrong}", []
        talk = transcript([*(row["prompt"] or []), *messages[:-1]])
        known = all(call_rules.grounded(c, talk) for c in calls)
        ways = []
        for way in call_rules.spoilt(calls, schemas, bool(messages[-1]["content"])):
            if way.kind not in self.faults or call_rules.equal(calls, way.calls, schemas):
                continue
            bad = [c for c in way.calls if call_rules.problem(c, schemas) is not None]
            by_value = way.kind in ("wrong_value", "missing_call", "extra_call")
            if bool(bad) == by_value:  # a fault that its schema allows, or the other way round
                continue
            if way.kind == "wrong_value" and self.answers == "grounded":
                told = known and not all(call_rules.grounded(c, talk) for c in way.calls)
                ways += [way] if told else []
                continue
            ways.append(way)
        return "", "", ways


def _drawn(ways: Sequence[Spoilt], kind: float, place: float, n: int) -> list[Spoilt]:
    """Some of the ways, of different kinds: first the kind is drawn, then the way."""
    kinds = sorted({way.kind for way in ways})
    first = int(kind * len(kinds))
    drawn = []
    for name in [*kinds[first:], *kinds[:first]][:n]:
        of_kind = [way for way in ways if way.kind == name]
        drawn.append(of_kind[int(place * len(of_kind))])
    return drawn


def _pairs(table: pl.DataFrame, rows: list[tuple[int, list[Message], Spoilt]]) -> pl.DataFrame:
    keys = {"tool_calls", *message_keys(table.schema["response"])}
    parents = table.select(pl.all().gather(np.array([i for i, *_ in rows], dtype=np.int64)))
    pairs = parents.select(
        *COLUMNS[Shape.PROMPTS],
        *[c for c in OF_PROMPT if c in table.columns],
        pl.Series("rejected", [m for _, m, _ in rows], dtype=messages_dtype(keys)),
        pl.Series("call_fault", [way.kind for *_, way in rows], dtype=pl.String),
        pl.Series("fault_path", [way.path for *_, way in rows], dtype=pl.String),
        chosen="response",
        chosen_model="model",
        rejected_model=pl.lit(None, dtype=pl.String),
        label_source=pl.lit("rule"),
        chosen_origin="origin",
        rejected_origin=pl.lit("rule"),
    )
    pairs = with_ids(pairs, Shape.PAIRS)
    first = list(COLUMNS[Shape.PAIRS])
    pairs = pairs.select(*first, *[c for c in pairs.columns if c not in first])
    return canonical_order(pairs, Shape.PAIRS)

"""Pairs that differ in a call: the known answers of methods/portable.md 7."""

import json
from typing import get_args

import numpy as np
import pytest

from generators import ToolCallPairs
from generators.hard_negatives.call_rules import (
    closed,
    equal,
    grounded,
    problem,
    schemas_of,
    spoilt,
)
from generators.hard_negatives.tool_calls import Fault
from prefactory.measures.json_answers import validator
from prefactory.testing import apply_step, assistant, check_step, responses

PARAMETERS = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14, "default": 1},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "days", "unit"],
    },
    "book": {
        "type": "object",
        "properties": {
            "guests": {"type": "integer", "minimum": 1, "maximum": 9},
            "rooms": {"type": "integer", "minimum": 1, "maximum": 5},
        },
        "required": ["guests", "rooms"],
    },
    "pay": {
        "type": "object",
        "properties": {"amount": {"type": "number", "minimum": 0, "maximum": 1000}},
        "required": ["amount"],
    },
}
TOOLS = json.dumps(
    [{"type": "function", "function": {"name": n, "parameters": p}} for n, p in PARAMETERS.items()]
)


def call(name, **arguments):
    return {"id": None, "name": name, "arguments": json.dumps(arguments)}


def gold_calls(n=300, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(n):
        if i % 3 == 0:
            yield call(
                "weather",
                city=f"town {i}",
                days=int(rng.integers(2, 14)),
                unit=str(rng.choice(["celsius", "fahrenheit"])),
            )
        elif i % 3 == 1:
            yield call("book", guests=int(rng.integers(2, 9)), rooms=int(rng.integers(2, 5)))
        else:
            yield call("pay", amount=int(rng.integers(20, 900)))


SCHEMAS = schemas_of(TOOLS)
OPEN = {name: validator(schema) for name, schema in SCHEMAS.items()}


def open_problem(one):
    if one["name"] not in SCHEMAS:
        return True
    return not OPEN[one["name"]].is_valid(json.loads(one["arguments"]))


@pytest.mark.parametrize(
    ("kind", "shut", "opened"),
    [
        ("missing_required", 300, 300),
        ("wrong_type", 300, 300),
        ("out_of_range", 300, 300),
        ("unknown_tool", 300, 300),
        ("unknown_argument", 300, 0),
        ("wrong_value", 0, 0),
    ],
)
def test_what_a_schema_sees_of_each_fault(kind, shut, opened):
    caught = {"closed": 0, "open": 0, "differs": 0}
    for gold in gold_calls():
        way = next(w for w in spoilt([gold], SCHEMAS, said=False) if w.kind == kind)
        caught["closed"] += any(problem(c, SCHEMAS) for c in way.calls)
        caught["open"] += any(open_problem(c) for c in way.calls)
        caught["differs"] += not equal([gold], way.calls, SCHEMAS)
    assert caught == {"closed": shut, "open": opened, "differs": 300}


@pytest.mark.parametrize(("value", "valid"), [(True, 0), (3.0, 1), ("3", 0), (3.5, 0), (3, 1)])
def test_whole_numbers(value, valid):
    one = call("weather", city="a", days=value, unit="celsius")
    assert (problem(one, SCHEMAS) is None) == bool(valid)


def test_equality():
    full = call("weather", city="a", days=1, unit="celsius")
    left_out = call("weather", unit="celsius", city="a")
    pay, same = call("pay", amount=3), call("pay", amount=3.0)
    assert equal([full], [left_out], SCHEMAS)
    assert equal([pay], [same], SCHEMAS)
    assert equal([full, pay], [pay, full], SCHEMAS)
    assert not equal([pay], [pay, pay], SCHEMAS)
    assert not equal([call("pay", amount=1)], [call("pay", amount=True)], SCHEMAS)


@pytest.mark.parametrize(
    "arguments", ['{"amount": 1, "amount": 2}', '{"amount": NaN}', "{amount: 1}", "[1]"]
)
def test_arguments_that_are_no_json_of_a_call(arguments):
    assert problem({"name": "pay", "arguments": arguments}, SCHEMAS)


def test_objects_inside_are_closed_too():
    inner = {"type": "object", "properties": {"x": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": inner}, "b": inner}}
    schema["properties"]["c"] = {**inner, "additionalProperties": True}
    check = validator(closed(schema))
    assert check.is_valid({"a": [{"x": 1}], "b": {"x": 1}, "c": {"y": 1}})
    assert not check.is_valid({"a": [{"y": 1}]})
    assert not check.is_valid({"b": {"y": 1}})


def test_grounded():
    assert grounded(call("weather", city="Lviv", days=3), "Three days: 3, in LVIV")
    assert not grounded(call("weather", city="Kyiv"), "In Lviv")
    assert not grounded(call("weather", now=True), "true")


def table(n=60, text=""):
    rows = [
        (f"Ask {i} of {one['arguments']}", [assistant(text) | {"tool_calls": [one]}])
        for i, one in enumerate(gold_calls(n))
    ]
    return responses(*rows, tools=[TOOLS] * n)


@pytest.mark.slow
def test_kinds_are_about_equal_and_each_pair_has_one_fault():
    step = ToolCallPairs()
    rows = apply_step(step, table(240)).rows
    counts = rows["call_fault"].value_counts()
    assert set(counts["call_fault"]) == {*get_args(Fault)} - {"missing_call"}
    assert counts["count"].min() >= 15
    assert set(rows["label_source"]) == {"rule"}
    for row in rows.to_dicts():
        chosen, rejected = row["chosen"][-1], row["rejected"][-1]
        assert chosen["content"] == rejected["content"]
        assert not equal(chosen["tool_calls"], rejected["tool_calls"], SCHEMAS)
        broken = [c for c in rejected["tool_calls"] if problem(c, SCHEMAS)]
        assert bool(broken) == (row["call_fault"] not in ("wrong_value", "extra_call"))


def test_two_pairs_of_an_answer_have_different_faults():
    rows = apply_step(ToolCallPairs(per_answer=2), table(30)).rows
    kinds = rows.group_by("chosen_id").agg("call_fault")["call_fault"].to_list()
    assert len(kinds) == 30
    assert all(len({*k}) == 2 for k in kinds)


def test_a_text_beside_a_call_may_lose_it():
    rows = apply_step(ToolCallPairs(faults=("missing_call",)), table(6, "Let me see.")).rows
    assert rows.height == 6
    assert all(not talk[-1]["tool_calls"] for talk in rows["rejected"].to_list())


def test_reasons():
    rows = [
        ("Q", "No call."),
        ("R", [assistant("", ("pay", {"amount": "much"}))]),
        ("S", [assistant("", ("pay", {"amount": 3}))]),
        ("T", [assistant("", ("pay", {"amount": 3}))]),
    ]
    pairs = apply_step(
        ToolCallPairs(faults=("wrong_value",), answers="grounded"),
        responses(*rows, tools=[TOOLS, TOOLS, None, TOOLS]),
    )
    assert sorted(pairs.reasons.values()) == ["gold_invalid", "no_call", "no_fault", "no_tools"]


def test_a_grounded_answer_against_a_value_that_stands_nowhere():
    rows = [("Pay 30 euros", [assistant("", ("pay", {"amount": 30}))])]
    step = ToolCallPairs(faults=("wrong_value",), answers="grounded")
    assert apply_step(step, responses(*rows, tools=[TOOLS])).rows.height == 1


@pytest.mark.slow
def test_it_is_a_step():
    check_step(ToolCallPairs(), table(12))

"""Every maker on odd tables and odd answers: all rows in are parents or in the ledger."""

import json

import polars as pl
import pytest

import generators
from prefactory.engines.base import Failure
from prefactory.tables import with_prompt_id
from tests.generators.making import cut_anyhow, made
from tests.generators.sampling import model
from tests.helpers import assistant, messages, prompts, system, user

HERE = __name__
ODD = [
    "", " ", "a", "😀👩‍👩‍👧", "مرحبا بالعالم", "请问今天怎么样?", "word " * 3000,
    "{{ 7 * 7 }} {% if %}", "--- 00000000 end", 'He said "no" \\ {"a": 1}',
    "line\r\nline\x00\x1b[0m",
]  # fmt: skip


def value_of(schema, n):
    """Something of a schema, with a lone surrogate and letters of many scripts in its texts."""
    if "enum" in schema:
        return schema["enum"][n % len(schema["enum"])]
    if schema["type"] == "boolean":
        return n % 3 > 0
    if schema["type"] == "integer":
        return schema["minimum"] + n % (schema["maximum"] - schema["minimum"] + 1)
    if schema["type"] == "array":
        return [value_of(schema["items"], n // 7 + i) for i in range(n % 3)]
    return f"\ud800 😀 مرحبا {n % 97} " + " ".join(f"w{n // 3**i % 89}" for i in range(12))


def odd(request):
    """Sound and unsound answers to any question of any maker."""
    n = request.draw_seed
    schema = request.sampling.json_schema
    if n % 11 == 0:
        return Failure("http_500", "down \ud800")
    if n % 13 == 0:
        return " \n"
    if n % 17 == 0:
        return '{"cut": '
    if schema is None:
        return value_of({"type": "string"}, n)
    return json.dumps({k: value_of(v, n) for k, v in schema["properties"].items()})


ENGINE = model("odd", f"{HERE}.odd")
STEPS = {
    "AdversarialWrappers": {},
    "AugmentPrompts": {"writer": ENGINE, "make": "pairs", "answerer": ENGINE, "judge": ENGINE},
    "Dialogues": {"scenario": "patient_doctor", "engine": ENGINE, "judge": ENGINE, "cells": 2},
    "Dilemmas": {"writer": ENGINE, "priority": ["power", "tradition", "openness"]},
    "DraftCritique": {"model": ENGINE, "judge": ENGINE},
    "Evol": {"writer": ENGINE, "judge": ENGINE, "answerer": ENGINE},
    "Magpie": {"model": ENGINE, "n": 2, "before": "conversation"},
    "PersonaIF": {"model": ENGINE, "judge": ENGINE},
    "PersonaPrompts": {"writer": ENGINE, "kinds": ["maths", "constrained"]},
    "RAGPairs": {"models": [ENGINE], "n": 3, "judge": [ENGINE]},
    "SelfInstruct": {"writer": ENGINE, "rounds": 2, "pool": 5},
    "StylePairs": {"model": ENGINE, "hidden": ["a", "b"], "judge": ENGINE},
    "ValueGapPairs": {"writer": ENGINE, "policy": "neutral", "words": [5, 50]},
}


def table():
    talks = [[user(t)] for t in ODD] + [
        [system("only a system message")],
        [system(""), user("a"), assistant("b")],
        [user("a"), assistant("b"), user("c")],
    ]
    rows = prompts(*[str(i) for i in range(len(talks))]).with_columns(prompt=messages(*talks))
    texts = pl.List(pl.String)
    return with_prompt_id(rows).with_columns(
        facts=pl.Series([[], ["x", "y"]] * (len(talks) // 2), dtype=texts),
        documents=pl.Series([["7 boats", "tea", "7"]] * len(talks), dtype=texts),
        gold=pl.lit("7"),
        gold_documents=pl.Series([[0]] * len(talks), dtype=pl.List(pl.Int64)),
        chosen=pl.lit("in the way"),
        complement=pl.lit(3),
    )


@pytest.mark.parametrize("name", STEPS)
def test_odd_texts_and_answers_are_accounted_for(name):
    step = getattr(generators, name)(**STEPS[name])
    rows, dropped = made(step, table())
    assert rows.height + dropped.height > 0
    again, _ = made(step, table()[::-1])
    assert again.equals(rows)


@pytest.mark.parametrize("name", STEPS)
def test_no_rows_and_one_row(name):
    step = getattr(generators, name)(**STEPS[name])
    rows, dropped = made(step, table().clear())
    assert (rows.height, dropped.height) == (0, 0)
    wanted = step.adds(step.shapes[0])
    assert {n: rows.schema[n] for n in wanted} == wanted
    for i in (2, 9):
        one, gone = made(step, table()[i : i + 1])
        assert gone.height == (one.height == 0)


@pytest.mark.slow
def test_shards_change_nothing_whatever_fails(tmp_path):
    for name in ("Dialogues", "RAGPairs", "Evol"):
        step = {f"generators.{name}": STEPS[name]}
        assert len(cut_anyhow(step, table()[3:9], tmp_path / name)) == 1

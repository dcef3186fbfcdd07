"""Steered pairs: both sides' strengths, what is refused, and that a vector of zeros makes none."""

import json

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from generators import SteeredPairs
from prefactory.engines.steering.vector import Steering, save
from tests.generators.making import made
from tests.generators.sampling import model
from tests.helpers import content, prompts, tiny_llama

JUDGE = model("j", f"{__name__}.judge")


def judge(request):
    """Names the first answer, whatever it is."""
    return json.dumps({"reason": "", "better": "A"})


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steered")
    base = str(tiny_llama(folder / "m"))
    head = AutoModelForCausalLM.from_pretrained(base).lm_head.weight.detach()
    x, y = AutoTokenizer.from_pretrained(base)("xy", add_special_tokens=False)["input_ids"]
    save(Steering(1000 * (head[x] - head[y]), 1), folder / "v", base)
    save(Steering(torch.zeros(len(head[0])), 1), folder / "zero", base)
    cpu = {"engine": "steered", "model": base, "precision": "fp32", "device": "cpu"}
    return lambda name, **more: {**cpu, "vector": str(folder / name), **more}


OPTIONS = {"sampling": {"max_tokens": 4, "temperature": 0}, "gate": {"truncated": "keep"}}


def test_both_sides_are_told_and_differ(steered):
    step = SteeredPairs(model=steered("v"), **OPTIONS)
    rows, dropped = made(step, prompts("a", "b", "c"))
    assert rows.height == 3
    assert dropped.height == 0
    assert set(rows["chosen_strength"]) == {1.0}
    assert set(rows["rejected_strength"]) == {-1.0}
    assert set(rows["label_source"]) == {"rule"}
    assert set(content(rows, "chosen")) == {"xxxx"}
    assert set(content(rows, "rejected")) == {"yyyy"}
    again, _ = made(step, prompts("c", "b"))
    assert set(again["pair_id"]) < set(rows["pair_id"])


def test_a_vector_of_zeros_makes_no_pairs(steered):
    rows, dropped = made(SteeredPairs(model=steered("zero"), **OPTIONS), prompts("a", "b"))
    assert rows.height == 0
    assert dropped["reason"].to_list() == ["same_text"] * 2


def test_a_judge_that_goes_by_the_place_confirms_nothing(steered):
    step = SteeredPairs(model=steered("v"), judge=JUDGE, criterion="it is kinder", **OPTIONS)
    rows, dropped = made(step, prompts("a"))
    assert rows.height == 0
    assert dropped["reason"].to_list() == ["not_confirmed"]
    assert [(a.calls, a.engine.model) for a in step.asks(10, 10)][2] == (20, "j")


def test_strengths_and_identity(steered):
    with pytest.raises(ValidationError, match="must be below the model's strength"):
        SteeredPairs(model=steered("v"), away=1.0)
    with pytest.raises(ValidationError, match="give both, or none"):
        SteeredPairs(model=steered("v"), judge=JUDGE)
    step = SteeredPairs(model=steered("v"))
    toward, away = step.engines()
    assert (toward["strength"], away["strength"]) == (1.0, -1.0)
    other = SteeredPairs(model=steered("zero")).engines()[0]["vector"]
    assert toward["vector"] == away["vector"] != other
    assert step.grows(5, 5) == (5, 5)

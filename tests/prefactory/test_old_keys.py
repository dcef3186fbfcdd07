"""Keys that were renamed: the error names the new one, and the new one is there."""

from __future__ import annotations

import pydantic
import pytest

import generators
import labelers
from generators.instruction_search.scorer import Scorer
from generators.instruction_search.step import InstructionSearch
from prefactory.old_keys import OLD_KEYS, new_key
from prefactory.recipe import sentence
from prefactory.step import Step
from trainers.settings import trl
from trainers.settings.base import TransformerSettings

STEPS = [
    cls
    for package in (generators, labelers)
    for cls in (getattr(package, name) for name in package.__all__)
    if isinstance(cls, type) and issubclass(cls, Step)
]
SETTINGS = [
    cls
    for cls in vars(trl).values()
    if isinstance(cls, type) and issubclass(cls, TransformerSettings)
]


def messages(cls, fields):
    with pytest.raises(pydantic.ValidationError) as caught:
        cls.model_validate(fields)
    return [sentence(cls, dict(e)) for e in caught.value.errors(include_url=False)]


@pytest.mark.parametrize("cls", STEPS, ids=lambda cls: cls.__name__)
def test_an_old_key_names_the_new_one_which_the_step_has(cls):
    renamed = {
        old: new for base in cls.__mro__ for old, new in OLD_KEYS.get(base.__name__, {}).items()
    }
    for old in renamed:
        new = new_key(cls, old)
        assert old not in cls.model_fields
        assert f"unknown key {old!r}: it is {new} now" in messages(cls, {old: 1})
        if new != "the recipe's seed":
            field, _, inner = new.partition(".")
            assert field in cls.model_fields
            default = cls.model_fields[field].default
            assert not inner or inner in type(default).model_fields


def test_every_class_of_the_table_is_there():
    names = {base.__name__ for cls in (*STEPS, *SETTINGS) for base in cls.__mro__}
    assert set(OLD_KEYS) <= names


def test_an_old_key_in_a_model_of_a_step_is_found_too():
    fields = {"scorer": {"temperature": 0.5}}
    assert "unknown key 'scorer.temperature': it is sampling.temperature now" in messages(
        InstructionSearch, fields
    )
    assert new_key(Scorer, "rubric") is None


def test_a_mapping_for_sampling_keeps_the_rest_of_the_default():
    step = generators.PersonaPrompts(
        writer={"engine": "scripted", "function": "x.y"}, sampling={"max_tokens": 9}
    )
    params = step.sampling
    assert (params.temperature, params.top_p, params.max_tokens) == (0.6, 0.95, 9)
    assert params.drawn(seed=5).seed == 5
    assert params.model_copy(update={"temperature": 0.0}).drawn(seed=5).seed is None

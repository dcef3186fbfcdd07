"""Options of TRL's dataclasses: which there are, and whether a value has their type."""

from __future__ import annotations

import importlib
import os
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from prefactory.extras import package
from prefactory.old_keys import new_key
from prefactory.overrides import nearest

OURS = {
    "output_dir": "the folder is --out",
    "model_init_kwargs": "the model is named by model, revision, trust_remote_code",
    "push_to_hub": "`hf upload REPO FOLDER` does it, once the model is whole",
    "resume_from_checkpoint": "the same command goes on where a killed one stopped",
    "remove_unused_columns": "columns are chosen by what the method reads",
    "dataset_kwargs": "the rows are laid out here",
    "chat_template_path": "it is chat_template here",
    "hub_token": "secrets stand in the environment, never in a file",
    "generate_during_eval": "compare_answers shows answers before and after",
    "do_train": "training is what the command does",
    "do_eval": "eval_strategy says when",
    "do_predict": "the report has the held-out metrics",
    "eos_token": "the tokenizer's own ends an answer",
    "pad_token": "the tokenizer's own is taken",
}
"""Options of TRL that can't be set here -> why, or what to set."""


def options_class(name: str) -> Any:  # noqa: ANN401 - a dataclass of TRL
    """The dataclass: `DPOConfig`, or `trl.experimental.cpo:CPOConfig`."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    module, colon, cls = name.rpartition(":")
    return getattr(importlib.import_module(module) if colon else package("trl"), cls or name)


@cache
def types_of(name: str) -> Mapping[str, Any]:
    """Name -> type of every option of a dataclass, which can be set here or not."""
    cls = options_class(name)
    if not is_dataclass(cls):
        raise TypeError(f"{name} is no dataclass")
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def coerced(cls: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the types of TRL's dataclass (`"1e-6"` becomes a float).

    Args:
        cls: settings of a method; its `trl_options` names the dataclass.
        given: options that are no fields of the settings.

    Raises:
        ValidationError: every option that TRL does not have, that can't be set here, or whose
            value has another type.
    """
    known = types_of(cls.trl_options)  # type: ignore[attr-defined]
    right: dict[str, Any] = {}
    problems: list[InitErrorDetails] = []
    for name, value in given.items():
        if name in OURS or name.startswith("hub_"):
            why = OURS.get(name, "`hf upload REPO FOLDER` publishes a finished model")
            problems.append(_problem(name, value, f"can't be set here: {why}"))
        elif name not in known:
            problems.append(_problem(name, value, _unknown(cls, name, list(known))))
        else:
            problems += _typed(right, known[name], name, value)
    if problems:
        raise ValidationError.from_exception_data(cls.__name__, problems)
    return right


def _unknown(cls: type[BaseModel], name: str, known: list[str]) -> str:
    if (now := new_key(cls, name)) is not None:
        return f"unknown option: it is {now} now"
    close = nearest(name, sorted({*known, *cls.model_fields} - OURS.keys()))
    return f"unknown option: neither ours nor of TRL's {cls.trl_options}{close}"  # type: ignore[attr-defined]


def _typed(right: dict[str, Any], kind: Any, name: str, value: object) -> list[InitErrorDetails]:  # noqa: ANN401
    try:
        right[name] = TypeAdapter(kind, config=_ANY).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return [_problem(name, value, f"{first['msg']}; found {value!r}")]
    return []


_ANY = ConfigDict(arbitrary_types_allowed=True)


def _problem(name: str, value: object, text: str) -> InitErrorDetails:
    return InitErrorDetails(
        type=PydanticCustomError("option", "{text}", {"text": text}), loc=(name,), input=value
    )

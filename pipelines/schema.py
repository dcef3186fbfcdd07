"""A JSON Schema of recipes: editors that know it complete keys and underline mistakes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from pipelines.build import SECTIONS
from pipelines.steps import describe, step_classes
from prefactory.recipe import Head
from prefactory.step import Step

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe with the steps that come with prefactory.

    A step of one's own is allowed by any dotted name; its fields are checked by `prefactory check`.

    Returns:
        JSON Schema, draft 2020-12.
    """
    definitions: dict[str, Any] = {}
    head = _schema(Head, definitions)
    source = _schema(SECTIONS.source, definitions)
    steps = {name: _step(cls, definitions) for name, cls in step_classes().items()}
    methods = {name: _schema(cls, definitions) for name, cls in SECTIONS.train.items()}
    one_source = {"anyOf": [{"type": "string"}, source]}
    own = {r"^(?!filters\.|labelers\.|generators\.)[\w.]+\.\w+$": {"type": ["object", "null"]}}
    return {
        "$schema": DRAFT,
        "title": "A prefactory recipe",
        "type": "object",
        "required": ["name", "source", "steps"],
        "additionalProperties": False,
        "properties": {
            **head["properties"],
            "source": {"anyOf": [one_source, {"type": "array", "items": one_source}]},
            "steps": {"type": "array", "items": _one_of(steps, own)},
            "train": {"type": "array", "items": _one_of(methods, {})},
            "review": _schema(SECTIONS.review, definitions) if SECTIONS.review else {},
        },
        "$defs": definitions,
    }


def _step(cls: type[Step], definitions: dict[str, Any]) -> dict[str, Any]:
    """Schema of a step's fields, each with what its page says of it."""
    schema = _schema(cls, definitions)
    page = describe(cls)
    for field in page.fields:
        if field.name in schema.get("properties", {}):
            schema["properties"][field.name]["description"] = field.text
    return {**schema, "description": page.summary}


def _one_of(named: dict[str, Any], patterns: dict[str, Any]) -> dict[str, Any]:
    """An item of a list: a bare name, or one name with its fields."""
    fields = {
        name: {"anyOf": [schema, {"type": "null"}], "description": schema.get("description", "")}
        for name, schema in named.items()
    }
    mapping = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": fields,
        "patternProperties": patterns,
    }
    return {"anyOf": [{"type": "string"}, mapping]}


def _schema(cls: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a model; what it refers to goes into `definitions`."""
    schema = cls.model_json_schema(ref_template="#/$defs/{model}")
    definitions |= schema.pop("$defs", {})
    schema.pop("description", None)
    return schema

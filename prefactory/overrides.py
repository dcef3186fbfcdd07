"""Overrides: `key=value` words from a command line, applied to a recipe before its check."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from prefactory import yamllines
from prefactory.errors import ConfigError


def nearest(word: str, known: list[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, or an empty text."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def split(word: str) -> tuple[str, Any]:
    """Key and value of one `key=value` word; the value is read as YAML, or as a text.

    Raises:
        ConfigError: it is no such word.
    """
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {word!r}: write key=value")
    return key, yamllines.value(text)


def nested(words: list[str]) -> dict[str, Any]:
    """Mappings of `key=value` words, a level for each dot of a key.

    Raises:
        ConfigError: a word is none, or a key stands where another word put a value.
    """
    fields: dict[str, Any] = {}
    for word in words:
        key, value = split(word)
        target, last = _descend(fields, key.split("."))
        if target is None:
            parent = key.rpartition(".")[0]
            raise ConfigError(f"override {word!r}: {parent} has a value already, and so no {last}")
        target[last] = value
    return fields


def apply_overrides(
    data: dict[str, Any],
    words: list[str],
    lines: dict[yamllines.Path, int],
    name: str,
    keys: list[str],
) -> list[str]:
    """Change a recipe document by `key=value` words; return what is wrong with them.

    Args:
        data: the document, changed in place.
        words: see `prefactory.recipe.load`.
        lines: line of every value, changed where a step is left out.
        name: of the recipe file, for the messages.
        keys: top-level keys of a recipe.
    """
    problems = []
    for word in words:
        try:
            key, value = split(word)
        except ConfigError as error:
            problems += error.problems
            continue
        if value is None and _leave_out(data, key, lines):
            continue
        target, last = _target(data, key, keys)
        if target is None:
            hint = nearest(key.rpartition(".")[0], [label for label, *_ in _labelled(data)])
            problems.append(f"override {word!r}: no {key!r} in {name}{hint}")
            continue
        target[last] = value
    return problems


def _labelled(data: dict[str, Any]) -> Iterator[tuple[str, str, list[Any], int]]:
    """Yield the label, name, list and index of every step and training method of a document."""
    counts: dict[str, int] = {}
    for group in ("steps", "train"):
        group_items = data.get(group)
        items = group_items if isinstance(group_items, list) else []
        for i, item in enumerate(list(items)):
            name = next(iter(item), "") if isinstance(item, dict) else item
            if isinstance(name, str):
                counts[name] = counts.get(name, 0) + 1
                yield name if counts[name] == 1 else f"{name}#{counts[name]}", name, items, i


def _leave_out(data: dict[str, Any], key: str, lines: dict[yamllines.Path, int]) -> bool:
    """Remove the step or training method of that label, if there is one."""
    for label, _, items, i in _labelled(data):
        if label == key:
            items.pop(i)
            group = "steps" if items is data.get("steps") else "train"
            yamllines.remove(lines, (group, i))
            return True
    return False


def _target(data: dict[str, Any], key: str, known: list[str]) -> tuple[dict[str, Any] | None, str]:
    """Find the mapping and key that an override means."""
    for label, name, items, i in _labelled(data):
        if key == label or key.startswith(f"{label}."):
            if isinstance(items[i], str) or items[i][name] is None:
                items[i] = {name: {}}
            if key == label:
                return items[i], name
            return _descend(items[i][name], key.removeprefix(f"{label}.").split("."))
    keys = key.split(".")
    if len(keys) > 1 and keys[0] not in known:
        return None, ""
    return _descend(data, keys)


def _descend(data: dict[str, Any], keys: list[str]) -> tuple[dict[str, Any] | None, str]:
    for key in keys[:-1]:
        data = data.setdefault(key, {}) if isinstance(data, dict) else {}
        if not isinstance(data, dict):
            return None, keys[-1]
    return (data, keys[-1]) if isinstance(data, dict) else (None, keys[-1])

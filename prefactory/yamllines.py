"""YAML by safe load, with the line of every value and an error for duplicate keys."""

from __future__ import annotations

from typing import Any

import yaml

from prefactory.errors import ConfigError

Path = tuple[str | int, ...]

MAX_DEPTH = 50
COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def load(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    """Parse one YAML document.

    Args:
        text: the document.
        name: of the file, for errors.

    Returns:
        The plain data, and the 1-based line of each value by its path of keys and indices.

    Raises:
        ConfigError: for a syntax error, a duplicate key or an unsafe tag, with the line.
    """
    lines: dict[Path, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        data = None if node is None else _build(loader, node, (), lines, name)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{name}:{line} {problem}") from error
    return data, lines


def _build(
    loader: yaml.SafeLoader, node: yaml.Node, path: Path, lines: dict[Path, int], name: str
) -> object:
    lines.setdefault(path, node.start_mark.line + 1)
    problem = _refused(node, path)
    if problem:
        raise ConfigError(f"{name}: line {node.start_mark.line + 1}: {problem}")
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"{name}: line {line}: the key {key!r} is not text; quote it")
            if key in data:
                raise ConfigError(f"{name}: line {line}: the key {key!r} is there twice")
            lines[(*path, key)] = line
            data[key] = _build(loader, value_node, (*path, key), lines, name)
        return data
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, n, (*path, i), lines, name) for i, n in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def _refused(node: yaml.Node, path: Path) -> str | None:
    if len(path) > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} deep; does an alias hold itself?"
    if isinstance(node, yaml.CollectionNode) and node.tag not in COLLECTIONS:
        return f"the tag {node.tag!r} is not allowed"
    if isinstance(node, yaml.ScalarNode) and any("\ud800" <= c <= "\udfff" for c in node.value):
        return "the text has half a character (a lone surrogate)"
    return None


def line_of(lines: dict[Path, int], path: Path) -> int:
    """Line of the value at a path, or of its nearest parent that stands in the document."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def remove(lines: dict[Path, int], item: tuple[str, int]) -> None:
    """Forget an item of a top-level list; the items after it move up and keep their lines."""
    group, i = item
    kept = {}
    for path, line in lines.items():
        index = path[1] if len(path) > 1 and path[0] == group else None
        if isinstance(index, int) and index > i:
            kept[(group, index - 1, *path[2:])] = line
        elif index != i:
            kept[path] = line
    lines.clear()
    lines.update(kept)

"""YAML 1.2 of safe types, with the line of every value and an error for duplicate keys."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode

from prefactory.errors import ConfigError

Path = tuple[str | int, ...]

MAX_DEPTH = 50
MAX_VALUES = 100_000
"""Values of a document once its aliases are written out: a few lines can stand for billions."""
MAX_CHARACTERS = 10_000_000
"""Of a document; so many take this parser some 20 seconds."""
MAX_DIGITS = 1000
ADVICE = {
    r"found character '\\t'": "a tab; indent with spaces",
    r"found character": "quote the text: it begins with a sign that YAML keeps for itself",
    r"but got ':'": "a text with `: ` between { } or [ ] must be quoted",
    r"mapping values are not allowed": "a text with `: ` in it must be quoted",
    r"but found '<scalar>'": "does a quoted text hold its own quote? write it twice",
    r"but found '\?'": "a list item (`- `) and a key stand in one column; indent one of them",
    r"<stream end>|end of stream": "something is opened and never closed: a bracket or a quote",
}
"""What a parser says, as a pattern -> what most often causes it."""

COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def load(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    """Parse one YAML document.

    Args:
        text: the document.
        name: of the file, for errors.

    Returns:
        The plain data, and the 1-based line of each value by its path of keys and indices.

    Raises:
        ConfigError: for a syntax error, a duplicate key, an unsafe tag, a value that is not what it
            looks like (a date of month 13, a whole number beyond 64 bits), or a document that is
            too long or deep or stands for too many values, with the line.
    """
    lines: dict[Path, int] = {}
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"{name}: {len(text):,} characters are more than the {MAX_CHARACTERS:,} that are read; "
            "does it hold what belongs into a file of data?"
        )
    try:
        loader = YAML(typ="safe", pure=True)
        loader.max_depth = 2 * MAX_DEPTH  # thousands of brackets would take seconds to be read
        node = loader.compose(text)
        _check_size(node, name)
        data = None if node is None else _build(loader.constructor, node, (), lines, name)
    except (MaxDepthExceededError, RecursionError) as error:
        raise ConfigError(f"{name}: {_TOO_DEEP}") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = (getattr(error, "problem", None) or str(error)).split("\n", 1)[0]
        raise ConfigError(f"{name}:{line} {problem}{_advice(problem)}") from error
    return data, lines


_TOO_DEEP = f"nested more than {MAX_DEPTH} deep; does an alias hold itself, or a bracket not end?"


def _check_size(root: Node | None, name: str) -> None:
    """Count the values of a document with its aliases written out, before any is built.

    Raises:
        ConfigError: they are more than `MAX_VALUES`, or an alias holds itself.
    """
    sizes: dict[int, int] = {}

    def size(node: Any, depth: int) -> int:  # noqa: ANN401 - a node of any kind
        if depth > 2 * MAX_DEPTH:
            raise RecursionError
        if id(node) not in sizes:
            children = node.value if isinstance(node, CollectionNode) else ()
            pairs = [c if isinstance(c, tuple) else (c,) for c in children]
            sizes[id(node)] = 1 + sum(size(c, depth + 1) for pair in pairs for c in pair)
        return sizes[id(node)]

    if root is not None and size(root, 0) > MAX_VALUES:
        raise ConfigError(
            f"{name}: its aliases (*name) stand for more than {MAX_VALUES:,} values; write what "
            "you need once"
        )


def _advice(problem: str) -> str:
    """What to do about a parser's complaint."""
    texts = (text for pattern, text in ADVICE.items() if re.search(pattern, problem))
    return "".join(f" ({text})" for text in [next(texts, "")] if text)


def _build(
    loader: SafeConstructor, node: Node, path: Path, lines: dict[Path, int], name: str
) -> object:
    lines.setdefault(path, node.start_mark.line + 1)
    problem = _refused(node, path)
    if problem:
        raise ConfigError(f"{name}: line {node.start_mark.line + 1}: {problem}")
    if isinstance(node, MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _plain(loader, key_node, name)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"{name}: line {line}: the key {key!r} is not text; quote it")
            if key in data:
                raise ConfigError(f"{name}: line {line}: the key {key!r} is there twice")
            lines[(*path, key)] = line
            data[key] = _build(loader, value_node, (*path, key), lines, name)
        return data
    if isinstance(node, SequenceNode):
        return [_build(loader, n, (*path, i), lines, name) for i, n in enumerate(node.value)]
    return _plain(loader, node, name)


def _plain(loader: SafeConstructor, node: Node, name: str) -> object:
    """The value of a scalar.

    Raises:
        ConfigError: it is not what its tag or its form says: `!!int "abc"`, a date of month 13.
    """
    try:
        value = loader.construct_object(node, deep=True)
        if isinstance(value, int) and abs(value) >= 2**63:
            raise OverflowError
        return value
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        kind = str(node.tag).rsplit(":", 1)[-1].replace("int", "int of 64 bits")
        shown = str(node.value)
        shown = shown if len(shown) <= 40 else f"{shown[:40]}... ({len(shown):,} characters)"
        raise ConfigError(
            f"{name}: line {node.start_mark.line + 1}: {shown!r} is no {kind}; quote it if it is "
            "a text"
        ) from error


def _refused(node: Node, path: Path) -> str | None:
    if len(path) > MAX_DEPTH:
        return _TOO_DEEP
    if isinstance(node, CollectionNode) and str(node.tag) not in COLLECTIONS:
        return f"the tag {str(node.tag)!r} is not allowed"
    if isinstance(node, ScalarNode) and any("\ud800" <= c <= "\udfff" for c in node.value):
        return "the text has half a character (a lone surrogate)"
    if isinstance(node, ScalarNode) and len(node.value) > MAX_DIGITS and _is_number(node):
        return f"a number of {len(node.value):,} digits; quote it if it is a text"
    return None


def _is_number(node: ScalarNode) -> bool:
    return str(node.tag).endswith((":int", ":float"))


def value(text: str) -> Any:  # noqa: ANN401 - any plain value
    """What a text means as YAML; the text itself if it is none."""
    try:
        return load(text, "value")[0]
    except ConfigError:
        return text


def document(text: str) -> Any:  # noqa: ANN401 - a document
    """A document that keeps its comments and marks when it is changed and written again."""
    return _writer().load(text)


def dump(data: object) -> str:
    """Write a document, or plain data, as YAML."""
    out = StringIO()
    _writer().dump(data, out)
    return out.getvalue()


def _writer() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


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

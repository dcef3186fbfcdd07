"""Value systems as data: trees of values, preferences, traits or risks, read from YAML and checked.

The schema of a file, shown by `prefactory values show NAME`:

    system: schwartz10           # its name; value ids are written `schwartz10:security`
    title: Basic human values
    kind: values                 # values, preferences, personality, risks or goals
    source: where it comes from, and what of it is from memory
    levels: [group, value]       # names of the levels; every leaf lies on the last one
    nodes:
      - {id: conservation, label: Conservation}
      - id: security
        parent: conservation
        label: Security
        definition: Safety and order for oneself, one's people and society.
        opposes: [stimulation]   # never asked for in one message; holds both ways
        say: [keep risks low]    # how a message asks for it: a plain verb phrase, as after "to"
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefactory.errors import ConfigError
from prefactory.overrides import nearest
from prefactory.yamllines import Path as Place
from prefactory.yamllines import line_of
from prefactory.yamllines import load as load_yaml

Kind = Literal["values", "preferences", "personality", "risks", "goals"]
ASKABLE: tuple[Kind, ...] = ("values", "preferences", "personality")
"""Kinds that a system message can ask an assistant to follow; the others only name things."""

NODE_ID = r"^[a-z0-9]+(?:[-_.][a-z0-9]+)*$"
_NO_START = ("to", "not", "never", "always", "do not", "don't", "you", "please", "be sure")
MOST_NODES = 10_000


class Node(BaseModel):
    """One node of the tree.

    Attributes:
        id: lower-case letters, digits, and `-`, `_` or `.` between them; unique in the system.
        parent: id of the node above; none on the first level.
        label: its name.
        definition: what it means, in a sentence.
        opposes: ids of nodes that pull the other way.
        say: verb phrases in base form ("explain each step") that ask for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=NODE_ID)
    label: str = Field(min_length=1)
    parent: str | None = None
    definition: str = ""
    opposes: tuple[str, ...] = ()
    say: tuple[str, ...] = ()


class ValueSystem(BaseModel):
    """A tree of nodes under one name.

    Attributes:
        system: its name, the part of a value id before the colon.
        title: for people.
        kind: what its nodes are; only `values`, `preferences` and `personality` can be asked for.
        source: where it comes from, and how well that was checked.
        note: what to keep in mind when it is used.
        sensitive: used only by who says so (`sensitive: true` in the step).
        levels: names of the levels, top first; every leaf lies on the last.
        nodes: parents before their children, in the order of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str = Field(pattern=NODE_ID)
    title: str = Field(min_length=1)
    kind: Kind
    source: str = ""
    note: str = ""
    sensitive: bool = False
    levels: tuple[str, ...] = Field(min_length=1)
    nodes: tuple[Node, ...] = Field(min_length=1, max_length=MOST_NODES)

    @cached_property
    def by_id(self) -> dict[str, Node]:
        """Nodes by their id."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def children(self) -> dict[str | None, tuple[str, ...]]:
        """Ids below each node, in the order of the file; those of the first level under None."""
        children: dict[str | None, list[str]] = {}
        for node in self.nodes:
            children.setdefault(node.parent, []).append(node.id)
        return {parent: tuple(ids) for parent, ids in children.items()}

    @property
    def roots(self) -> tuple[str, ...]:
        """Ids of the first level."""
        return self.children[None]

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """Ids of the last level."""
        return tuple(node.id for node in self.nodes if node.id not in self.children)

    def ancestors(self, node_id: str) -> tuple[str, ...]:
        """Ids from the first level down to a node, itself included.

        Raises:
            ConfigError: there is no such node.
        """
        if node_id not in self.by_id:
            hint = nearest(node_id, list(self.by_id))
            raise ConfigError(f"value system {self.system} has no node {node_id!r}{hint}")
        chain = [node_id]
        while (parent := self.by_id[chain[-1]].parent) is not None:
            chain.append(parent)
        return tuple(reversed(chain))

    def leaves_under(self, node_id: str) -> tuple[str, ...]:
        """Ids of the last level at or below a node."""
        return tuple(leaf for leaf in self.leaves if node_id in self.ancestors(leaf))

    def value_id(self, node_id: str) -> str:
        """A node's id with its system, as it stands in `value_ids`."""
        return f"{self.system}:{node_id}"

    def opposed(self, one: str, other: str) -> bool:
        """Tell whether two nodes, or nodes above them, pull in opposite ways."""
        return any(
            b in self.by_id[a].opposes or a in self.by_id[b].opposes
            for a in self.ancestors(one)
            for b in self.ancestors(other)
        )

    def phrases(self, node_id: str) -> tuple[str, ...]:
        """Verb phrases that ask for a node; made of its label where the file has none."""
        node = self.by_id[node_id]
        if node.say:
            return node.say
        label = node.label if node.label.isupper() else node.label[0].lower() + node.label[1:]
        return (f"give weight to {label}", f"keep {label} in mind", f"let {label} count")


def names() -> list[str]:
    """Names of the value systems that come with prefactory, sorted."""
    files = resources.files("catalog.values").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load(name_or_path: str) -> ValueSystem:
    """Read a value system by its name, or from a file (a path ends in .yaml, .yml or .json).

    Raises:
        ConfigError: there is none of that name, or the file has mistakes; all of them, with lines.
    """
    return _parsed(*_read(name_or_path))


@lru_cache(maxsize=64)  # a recipe's steps name one system many times, and YAML is slow to read
def _parsed(text: str, where: str) -> ValueSystem:
    data, lines = load_yaml(text, where)
    problems: list[str] = []
    system: ValueSystem | None = None
    try:
        system = ValueSystem.model_validate(data)
    except ValidationError as error:
        items = error.errors(include_url=False)
        problems = [_sentence(dict(item), data, lines) for item in items]
    if system is not None:
        problems = [f"line {line_of(lines, place)}: {text}" for place, text in mistakes(system)]
    if system is None or problems:
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    return system


def _read(name_or_path: str) -> tuple[str, str]:
    """The text of a value system, and its name for errors."""
    if not name_or_path.lower().endswith((".yaml", ".yml", ".json")):
        if name_or_path not in names():
            hint = nearest(name_or_path, names())
            known = ", ".join(names())
            raise ConfigError(
                f"there is no value system {name_or_path!r}{hint} (there are: {known}; a file of "
                "your own is named with its ending, such as ./mine.yaml)"
            )
        file = resources.files("catalog.values").joinpath(f"{name_or_path}.yaml")
        return file.read_text("utf-8"), f"{name_or_path}.yaml"
    try:
        return Path(name_or_path).read_text("utf-8"), Path(name_or_path).name
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the value system {name_or_path} can't be read: {error}") from error


def _sentence(item: dict[str, Any], data: object, lines: dict[Place, int]) -> str:
    """One mistake of the schema as a sentence with its line."""
    place: Place = tuple(item["loc"])
    key = ".".join(str(part) for part in place) or "the file"
    if place[:1] == ("nodes",) and len(place) > 2:
        nodes = data.get("nodes") if isinstance(data, dict) else None
        node = nodes[place[1]] if isinstance(nodes, list) and isinstance(place[1], int) else None
        name = node.get("id") if isinstance(node, dict) else None
        key = f"node {name!r}: {'.'.join(str(p) for p in place[2:])}"
    if item["type"] == "extra_forbidden":
        known = list((Node if len(place) > 2 else ValueSystem).model_fields)
        return f"line {line_of(lines, place)}: {key} is no key{nearest(str(place[-1]), known)}"
    if not place:
        return "line 1: a value system is a mapping with system, title, kind, levels and nodes"
    text = str(item["msg"]).replace("Input should", "should").replace("String should", "should")
    if item["type"] == "string_pattern_mismatch":
        text = "lower-case letters and digits only, with - _ or . between them"
    return f"line {line_of(lines, place)}: {key}: {text[0].lower()}{text[1:]}"


def mistakes(system: ValueSystem) -> list[tuple[Place, str]]:
    """What is wrong with the tree: (place in the file, sentence), in the order of the nodes."""
    known = {node.id for node in system.nodes}
    seen: set[str] = set()
    depth: dict[str | None, int] = {None: 0}
    sentences: list[tuple[Place, str]] = []
    for i, node in enumerate(system.nodes):
        problems = list(_node_mistakes(node, known, seen))
        if not problems:
            depth[node.id] = depth[node.parent] + 1
            problems = list(_depth_mistakes(system, node, depth[node.id]))
        else:
            depth[node.id] = depth.get(node.parent, 0) + 1
        seen.add(node.id)
        sentences += [(("nodes", i), f"node {node.id!r} {text}") for text in problems]
    return sentences


def _node_mistakes(node: Node, known: set[str], seen: set[str]) -> Iterator[str]:
    if node.id in seen:
        yield "is there twice"
    if node.parent is not None and node.parent not in known:
        yield f"has the parent {node.parent!r}, which is not there{nearest(node.parent, [*known])}"
    elif node.parent is not None and node.parent not in seen:
        yield f"stands before its parent {node.parent!r}; put parents first"
    for other in node.opposes:
        if other == node.id:
            yield "opposes itself"
        elif other not in known:
            yield f"opposes {other!r}, which is not there{nearest(other, [*known])}"
    for phrase in node.say:
        yield from _phrase_mistakes(phrase)


def _phrase_mistakes(phrase: str) -> Iterator[str]:
    start = phrase.lower()
    if not phrase.strip() or phrase != phrase.strip() or "\n" in phrase:
        yield f"has a `say` that is empty or has white space at an end: {phrase!r}"
    elif phrase[-1] in ".!?,;:":
        yield f"has a `say` that ends in {phrase[-1]!r}: {phrase!r}; leave the stop out"
    elif not re.match(r"[a-z]", phrase) or any(start.startswith(f"{w} ") for w in _NO_START):
        yield (
            f"has a `say` that is no plain verb phrase: {phrase!r}; write it as it would stand "
            "after 'to', such as 'explain each step' or 'avoid jargon'"
        )


def _depth_mistakes(system: ValueSystem, node: Node, depth: int) -> Iterator[str]:
    if depth > len(system.levels):
        yield f"lies on level {depth}, but there are {len(system.levels)} levels"
    elif node.id not in system.children and depth < len(system.levels):
        yield (
            f"is a leaf on level {depth} ({system.levels[depth - 1]}); every leaf must lie on "
            f"level {len(system.levels)} ({system.levels[-1]})"
        )

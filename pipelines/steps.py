"""What the steps are, as data: for the site's pages, for `prefactory steps` and for editors.

Everything is read from the step's own class: its docstring, its fields and its promises. There is
no second list that could become untrue.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import docstring_parser
import polars as pl
import yaml
from annotated_types import BaseMetadata
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from prefactory.apply import accepts
from prefactory.errors import ConfigError, PrefactoryError
from prefactory.overrides import nearest
from prefactory.recipe import find_step
from prefactory.step import Filter, Labeler, Step, step_name
from prefactory.tables import Shape

PACKAGES = ("generators", "labelers", "filters")
KINDS = {"generators": "rows arrive", "labelers": "columns arrive", "filters": "rows leave"}
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_LIMITS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "min_length": "at least",
    "max_length": "at most",
}


@dataclass(frozen=True)
class StepField:
    """One field of a step, as a recipe writes it.

    Attributes:
        name: its key.
        type: what it takes, in words.
        default: as YAML; None if the field is required.
        limits: such as `>= 0, < 1`; empty if there are none.
        text: what it means.
    """

    name: str
    type: str
    default: str | None
    limits: str
    text: str


@dataclass(frozen=True)
class StepPage:
    """What one step is.

    Attributes:
        name: as in a recipe.
        kind: `filter`, `labeler` or `generator`, which is what it promises.
        summary: one sentence.
        text: the rest of the docstring, Markdown.
        fields: in the order of the class.
        shapes: tables that it takes, also by unpairing.
        scope: what it must see together.
        reads: columns beyond those of the table's shape, of the example.
        adds: columns that it adds, of the example.
        example: a recipe's line, YAML.
        papers: arXiv ids that its documentation names.
    """

    name: str
    kind: Literal["filter", "labeler", "generator"]
    summary: str
    text: str
    fields: tuple[StepField, ...]
    shapes: tuple[str, ...]
    scope: str
    reads: tuple[str, ...]
    adds: tuple[str, ...]
    example: str
    papers: tuple[str, ...]


def step_classes() -> dict[str, type[Step]]:
    """Every exported step by its name in recipes, package by package, sorted."""
    classes: dict[str, type[Step]] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        exported = (getattr(module, name) for name in sorted(module.__all__))
        classes |= {
            step_name(cls): cls
            for cls in exported
            if isinstance(cls, type) and issubclass(cls, Step)
        }
    return classes


def step_page(name: str) -> StepPage:
    """Describe a step, ours or anybody's.

    Args:
        name: as in a recipe; the class alone (`ISA`) will do for ours.

    Raises:
        ConfigError: if there is no such step, with the nearest name.
    """
    if "." not in name:
        names = {full.split(".")[1]: full for full in step_classes()}
        if name not in names:
            raise ConfigError(f"no step {name!r}{nearest(name, list(names))}")
        name = names[name]
    return describe(find_step(name))


def describe(cls: type[Step]) -> StepPage:
    """Describe a step class from its docstring, fields and promises."""
    doc = _parsed(inspect.getdoc(cls))
    example = example_of(cls)
    items = [item for item in yaml.safe_load(example) if step_name(cls) in item]
    step = cls.model_validate(items[0][step_name(cls)] or {})
    shapes = [s for s in Shape if s in step.shapes or accepts(step, s)]
    own = [s for s in shapes if s in step.shapes]
    whole = inspect.getdoc(cls) or ""
    return StepPage(
        name=step_name(cls),
        kind=_kind(cls),
        summary=" ".join((doc.short_description or "").split()),
        text=(doc.long_description or "").strip(),
        fields=_fields(cls),
        shapes=tuple(s.value for s in shapes),
        scope=cls.scope,
        reads=_columns(step.needs, own),
        adds=_columns(step.adds, own),
        example=example,
        papers=tuple(dict.fromkeys(_ARXIV.findall(whole))),
    )


def _columns(
    promise: Callable[[Shape], dict[str, pl.DataType]], shapes: list[Shape]
) -> tuple[str, ...]:
    """Columns that a step promises for some shapes, sorted.

    A promise may look for the models and files of the step, which an example does not have: then it
    says nothing.
    """
    try:
        return tuple(sorted({column for shape in shapes for column in promise(shape)}))
    except PrefactoryError:
        return ()


def example_of(cls: type[Step]) -> str:
    """The line of a recipe in the section `Example:` of a step's docstring, as YAML.

    Raises:
        ConfigError: if the step has required fields and no example.
    """
    section = re.search(r"^Example:\n((?:[ ]+.*\n?|\n)+)", inspect.getdoc(cls) or "", re.MULTILINE)
    if section:
        return textwrap.dedent(section[1]).strip() + "\n"
    required = [name for name, field in cls.model_fields.items() if field.is_required()]
    if required:
        raise ConfigError(
            f"{step_name(cls)} has no example: write a section `Example:` with a line of a recipe "
            f"in its docstring, which sets {', '.join(required)}"
        )
    return f"- {step_name(cls)}: {{}}\n"


def _parsed(doc: str | None) -> docstring_parser.Docstring:
    return docstring_parser.parse(
        inspect.cleandoc(doc or ""), docstring_parser.DocstringStyle.GOOGLE
    )


def _kind(cls: type[Step]) -> Literal["filter", "labeler", "generator"]:
    if issubclass(cls, Filter):
        return "filter"
    return "labeler" if issubclass(cls, Labeler) else "generator"


def _fields(cls: type[Step]) -> tuple[StepField, ...]:
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for param in _parsed(base.__doc__).params:
            for name in param.arg_name.split(","):  # `min, max: ...` documents two
                texts[name.strip()] = " ".join((param.description or "").split())
    return tuple(
        StepField(name, type_text(f.annotation), _default(f), _limits(f), texts.get(name, ""))
        for name, f in cls.model_fields.items()
    )


def type_text(annotation: Any) -> str:  # noqa: ANN401 - any annotation
    """What a field takes, in the words of a recipe."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return type_text(args[0])
    if origin is Literal:
        return ", ".join("null" if a is None else str(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(a) for a in args))
    if origin in (list, tuple, set, frozenset):
        return "list of " + (type_text(args[0]) if args else "anything")
    if origin is not None and issubclass(origin, typing.Mapping):
        return f"mapping of {type_text(args[0])} to {type_text(args[1])}"
    words = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true or false",
        type(None): "null",
    }
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    plain = to_jsonable_python(value)
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _limits(field: FieldInfo) -> str:
    limits = []
    for item in field.metadata:
        if isinstance(item, BaseMetadata):
            limits += [
                f"{word} {getattr(item, key)}"
                for key, word in _LIMITS.items()
                if getattr(item, key, None) is not None
            ]
    return ", ".join(limits)

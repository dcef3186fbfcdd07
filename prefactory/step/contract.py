"""What the class of a step lacks, found when it is defined and not in the middle of a run."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

from pydantic import BaseModel

from prefactory.beside import public_name

CLOSE = 0.8
"""Likeness of two names (0 to 1) from which a method is taken for a misspelt hook (our choice)."""


def faults(cls: type[BaseModel], base: type[BaseModel], hooks: Mapping[str, bool]) -> list[str]:
    """List what a class lacks, one sentence a fault, each with its place.

    Args:
        cls: class of a step that is not abstract.
        base: the class that declares the hooks.
        hooks: name of a hook -> whether the step must have it.
    """
    own = {n: m for n, m in _methods(cls, base) if n in hooks}
    others = {n: m for n, m in _methods(cls, base) if n not in hooks and not n.startswith("_")}
    sentences: list[str] = []
    for name, must in hooks.items():
        declared = getattr(base, name)
        if name in own:
            sentences += _faults_of_method(own[name], name, declared)
            continue
        alike = difflib.get_close_matches(name, others, n=1, cutoff=CLOSE)
        if must:
            sentences.append(
                f"has no `{_call(name, declared)}`"
                + (f"; is that what `{alike[0]}` should be called?" if alike else "")
            )
        elif alike:
            sentences.append(
                f"has a method `{alike[0]}`; should it be called `{name}`? If it is one of your "
                "own, begin its name with '_'"
            )
    prefix = where(cls)
    return [f"{prefix} {text}" for text in sentences]


def where(cls: type) -> str:
    """Name of a class with its file and line, as far as they are known."""
    name = f"{public_name(cls.__module__)}.{cls.__qualname__}"
    try:
        file, line = inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):  # typed in, or its file is gone
        return name
    return f"{name} ({Path(file or '').name}, line {line})"


def misplaced(cls: type[BaseModel], attributes: Sequence[str]) -> list[str]:
    """Class attributes of the base that a class has made fields of a recipe, by its annotations."""
    return [
        f"{where(cls)} has a field `{name}`, which is an attribute of the class: write "
        f"`{name}: ClassVar = ...`"
        for name in attributes
        if name in cls.model_fields
    ]


def _methods(cls: type, base: type) -> Iterator[tuple[str, Any]]:
    """Methods of a class and of what it inherits from beside the base and pydantic."""
    for part in reversed(cls.__mro__):
        if part is not BaseModel and not issubclass(base, part):
            for name, value in vars(part).items():
                if isinstance(value, FunctionType | classmethod | staticmethod):
                    yield name, getattr(cls, name)


def _call(name: str, declared: Callable[..., Any]) -> str:
    names = list(inspect.signature(declared).parameters)
    return f"{name}({', '.join(names[1:])})"


def _faults_of_method(
    method: Callable[..., Any], name: str, declared: Callable[..., Any]
) -> Iterator[str]:
    try:
        inspect.signature(method).bind(*inspect.signature(declared).parameters)
    except TypeError:
        yield f"has `{name}{inspect.signature(method)}`; it must take `{_call(name, declared)}`"
    returned, wanted = _returns(method), _returns(declared)
    if returned is not None and wanted is not None and not issubclass(returned, wanted):
        yield f"has a `{name}` that returns {returned.__name__}; it must return {wanted.__name__}"


def _returns(method: Callable[..., Any]) -> type | None:
    """The annotated return type, if it is there and a plain class."""
    plain: Any = inspect.unwrap(method)
    if "return" not in getattr(plain, "__annotations__", {}):
        return None
    holder: Any = SimpleNamespace(__annotations__={"return": plain.__annotations__["return"]})
    try:
        returned = typing.get_type_hints(holder, globalns=plain.__globals__)["return"]
    except Exception:  # a name that only a type checker knows
        return None
    return returned if isinstance(returned, type) else None

"""A plain function as a field of a step: called on columns, identified by its source."""

from __future__ import annotations

import ast
import inspect
import linecache
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import CodeType, FunctionType
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from prefactory.beside import import_function, placed, public_name
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.identity import canonical_json, fingerprint
from prefactory.step import Step
from prefactory.tables import COLUMNS, Shape, is_messages, is_score, text_of

GIVEN = ("table", "ctx")
"""Parameters that are no columns."""


class Function:
    """A function, given itself or by its import path, which is followed when it is needed."""

    def __init__(self, given: str | Callable[..., Any]) -> None:
        """Keep a function or the path of one."""
        self._given = placed(given) if isinstance(given, str) else given

    @property
    def path(self) -> str:
        """`module.name`, as a recipe writes it."""
        if isinstance(self._given, str):
            return str(self._given)
        return f"{public_name(self._given.__module__)}.{self._given.__qualname__}"

    @property
    def name(self) -> str:
        """The last part of the path, without what no column may be called."""
        return re.sub(r"\W", "", self.path.rpartition(".")[2]) or "function"

    @cached_property
    def call(self) -> Callable[..., Any]:
        """The function.

        Raises:
            ConfigError: there is none of that name, or it can't be called by names of columns.
        """
        function = self._given
        if isinstance(function, str):
            function = import_function(function, "function")
        inner = getattr(function, "function", None)  # of a rule by decorator
        function = getattr(inner, "call", function)
        if not isinstance(function, FunctionType):
            raise ConfigError(f"function: {self.path} is no function written in Python (`def`)")
        kinds = {p.kind for p in inspect.signature(function).parameters.values()}
        if not kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
            raise ConfigError(
                f"function: the parameters of {self.path} must be columns, `table` or `ctx`"
            )
        return function

    @cached_property
    def digest(self) -> str:
        """Digest of its source and of what it uses of its module (see `sources`).

        Raises:
            ConfigError: the source can't be read, or it holds a value without a stable form.
        """
        return fingerprint(list(sources(self.call, set())))

    def columns(self, options: Mapping[str, Any]) -> list[str]:
        """Columns that it asks for: its parameters without a default.

        Raises:
            ConfigError: an option is no parameter of it.
        """
        parameters = inspect.signature(self.call).parameters
        for name in options:
            if name not in parameters or name in GIVEN:
                raise ConfigError(f"options: {self.path} has no parameter {name!r}")
        return [
            name
            for name, p in parameters.items()
            if name not in GIVEN and name not in options and p.default is p.empty
        ]

    def shapes(self, options: Mapping[str, Any], every: tuple[Shape, ...]) -> tuple[Shape, ...]:
        """Those of some shapes that have its columns; columns that no shape has say nothing."""
        wanted = {c for c in self.columns(options) if any(c in COLUMNS[s] for s in every)}
        return tuple(s for s in every if wanted <= set(COLUMNS[s]))

    def needs(self, options: Mapping[str, Any]) -> dict[str, pl.DataType]:
        """The scores among its columns; of others the type is not known."""
        return {c: pl.Float64() for c in self.columns(options) if is_score(c)}

    def apply(self, table: pl.DataFrame, ctx: Context, options: Mapping[str, Any]) -> pl.Series:
        """Call it: conversations are given as their text (String), other columns as they are.

        Returns:
            As many values as the table has rows.

        Raises:
            DataError: the table lacks a column, or the function returns something else.
        """
        given: dict[str, Any] = {"table": table, "ctx": ctx}
        for name in self.columns(options):
            if name not in table.columns:
                raise DataError(
                    f"{ctx.step}: {self.path} asks for {name!r}, which the table does not have; "
                    f"its columns are {', '.join(table.columns)}"
                )
            column = pl.col(name)
            value = text_of(column).fill_null("") if is_messages(table.schema[name]) else column
            given[name] = table.select(value.alias(name)).to_series()
        names = inspect.signature(self.call).parameters
        answer = self.call(**{k: v for k, v in given.items() if k in names}, **options)
        if isinstance(answer, pl.Expr):
            answer = table.with_columns(answer.alias("_answer"))["_answer"]
        if isinstance(answer, list | np.ndarray):
            answer = pl.Series(answer, strict=False)
        if not isinstance(answer, pl.Series) or answer.len() != table.height:
            what = f"{len(answer)} values" if isinstance(answer, pl.Series) else repr(answer)[:80]
            raise DataError(
                f"{ctx.step}: {self.path} returned {what}; it must return a Series, an expression "
                f"or a list of {table.height} values, one a row"
            )
        return answer


_Field = Annotated[
    Any,
    PlainValidator(lambda value: value if isinstance(value, Function) else _function(value)),
    PlainSerializer(lambda value: value.path, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[\w.]+\.\w+$"}),
]
"""Takes a function or its import path, and holds a `Function`."""


class OfFunction(Step, abstract=True):
    """Base of steps that are a function; write it before the kind: `class X(OfFunction, Filter)`.

    Attributes:
        function: the function, or its import path: of a module beside the recipe or installed.
        options: values for its other parameters.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)

    function: _Field
    options: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, *function: Any, **fields: Any) -> None:  # noqa: ANN401
        """Take the function first, or by name."""
        super().__init__(**dict(zip(("function",), function, strict=False)), **fields)

    def takes(self) -> tuple[Shape, ...]:
        """The shapes that have the columns of the function."""
        try:
            return self.function.shapes(self.options, self.shapes)  # type: ignore[no-any-return]
        except ConfigError:  # said by `needs`
            return self.shapes

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores that the function asks for.

        Raises:
            ConfigError: there is no such function, or it can't be identified.
        """
        self.identity()
        return self.function.needs(self.options)  # type: ignore[no-any-return]

    def identity(self) -> dict[str, Any]:
        """As of any step, with the digest of the function's source."""
        return {**super().identity(), "source": self.function.digest}


def _function(value: object) -> Function:
    if isinstance(value, str) and not re.fullmatch(r"[\w.]+\.\w+", value):
        raise ValueError(f"{value!r} is no import path such as my_module.no_urls")
    if not isinstance(value, str) and not isinstance(value, FunctionType):
        raise ValueError(f"give a function or its import path, not {value!r}")
    return Function(value)


def sources(function: Callable[..., Any], seen: set[str]) -> Iterator[str]:
    """Source of a function, of the functions of its module that it uses, and its plain values.

    What it imports does not count, as for any step.

    Raises:
        ConfigError: a source can't be read, or the function closes over a value that has no stable
            form.
    """
    seen.add(function.__qualname__)
    yield _source(function)
    names = sorted(_names(function.__code__))
    used = {n: function.__globals__[n] for n in names if n in function.__globals__}
    for name, value in used.items():
        yield from _source_of_value(function, name, value, seen, must=False)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from _source_of_value(function, name, cell.cell_contents, seen, must=True)


def _source_of_value(
    function: Callable[..., Any], name: str, value: object, seen: set[str], must: bool
) -> Iterator[str]:
    if isinstance(value, FunctionType):
        if value.__module__ == function.__module__ and value.__qualname__ not in seen:
            yield from sources(value, seen)
        return
    plain = [value.pattern, value.flags] if isinstance(value, re.Pattern) else value
    try:
        yield f"{name} = {canonical_json(plain)}"
    except TypeError as error:
        if must:
            raise ConfigError(
                f"function: {function.__qualname__} holds {name!r}, a {type(value).__name__}, "
                "by which it can't be identified; make it an option or a value of the module"
            ) from error


def _names(code: CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*(_names(c) for c in inner))


def _source(function: Callable[..., Any]) -> str:
    code = function.__code__
    try:
        if function.__name__ != "<lambda>":
            return textwrap.dedent(inspect.getsource(function))
        whole = "".join(linecache.getlines(code.co_filename))
        nodes = [
            node
            for node in ast.walk(ast.parse(whole))
            if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno
        ]
    except (OSError, TypeError, SyntaxError) as error:
        raise ConfigError(
            f"function: the source of {function.__qualname__} can't be read, by which it is "
            "identified: write it with `def` into a file"
        ) from error
    if len(nodes) != 1:
        raise ConfigError(
            "function: a lambda is identified by its source, which can be told only where it "
            f"stands alone on a line of a file (here are {len(nodes)}): write it with `def`"
        )
    return ast.get_source_segment(whole, nodes[0]) or ""

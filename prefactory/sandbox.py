"""The sandbox of prompt texts: Jinja that can neither reach out, nor run for ever, nor fill memory.

Jinja's own sandbox keeps a text from attributes and calls that are not safe. Ours also counts the
rounds of loops and the calls of macros of one rendering, and bounds what a text can blow up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, ClassVar

from jinja2 import StrictUndefined, nodes, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

ROUNDS = 100_000
"""Rounds of all loops of one rendering, and calls, at most."""
LARGEST = 10_000_000
"""Characters or elements that one operation may make, at most; bits of a power; characters that
all expressions of one rendering may write."""


class _Used:
    """What one rendering has used."""

    def __init__(self) -> None:
        self.rounds = self.written = 0


_USED: ContextVar[_Used | None] = ContextVar("used", default=None)


class _Counting(NodeTransformer):
    """Puts every loop's sequence, and what `~` joins, through filters that count."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_counted", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        texts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(texts, "_joined", [], [], None, None, lineno=node.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of prompt texts; unknown names are errors, and nothing is escaped."""

    intercepted_binops: ClassVar[frozenset[str]] = frozenset(["+", "*", "**", "%"])  # type: ignore[misc]

    def __init__(self) -> None:
        """Make it."""
        super().__init__(
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            finalize=_written,
        )
        self.filters |= {"_counted": _counted, "_joined": _joined}
        self.filters |= {"join": _checked(self.filters["join"]), "replace": _replaced}
        for name, place in (("center", 0), ("indent", 0)):
            self.filters[name] = _bounded(self.filters[name], place)
        self.filters["format"] = _formatted(self.filters["format"])

    def _generate(self, source: nodes.Template, *words: Any, **named: Any) -> str:  # noqa: ANN401
        return super()._generate(_Counting().visit(source), *words, **named)

    def call(self, context: Context, obj: Any, *words: Any, **named: Any) -> Any:  # noqa: ANN401
        """Call something, counted: macros can call each other for ever."""
        if isinstance(obj, Macro):
            _count()
        return super().call(context, obj, *words, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Work out `+`, `*`, `**` or `%`, unless the result would be huge.

        Raises:
            SecurityError: it would.
        """
        if operator == "**" and _bits(left) * _size(right) > LARGEST:
            raise SecurityError("a power is too large")
        if (
            operator == "*"
            and _length(left) * _size(right) + _length(right) * _size(left) > LARGEST
        ):
            raise SecurityError("a text would be too long")
        if operator == "+":
            _check_length(_length(left) + _length(right))
        if operator == "%" and isinstance(left, str):
            _check_widths(left)
        return super().call_binop(context, operator, left, right)


def rendered(template: Any, values: dict[str, Any]) -> str:  # noqa: ANN401 - a jinja2 template
    """Fill a template of the sandbox; its rounds are counted from 0.

    Raises:
        SecurityError: it runs for too long, or makes something huge.
    """
    token = _USED.set(_Used())
    try:
        return str(template.render(values))
    except RecursionError as error:
        raise SecurityError("macros call each other without end") from error
    finally:
        _USED.reset(token)


def _count() -> None:
    used = _USED.get()
    if used is None:
        return
    used.rounds += 1
    if used.rounds > ROUNDS:
        raise SecurityError(f"the text runs for more than {ROUNDS:,} rounds of its loops")


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _count()
        yield value


def _written(value: Any) -> Any:  # noqa: ANN401 - what an expression shows
    used = _USED.get()
    if used is not None:
        used.written += len(value) if isinstance(value, str) else 0
        _check_length(used.written)
    return value


def _joined(texts: list[Any]) -> str:
    """The texts of `a ~ b ~ c` as one."""
    parts = [str(text) for text in texts]
    _check_length(sum(map(len, parts)))
    return "".join(parts)


def _checked(join: Callable[..., Any]) -> Callable[..., Any]:
    @pass_eval_context
    def joined(context: Any, values: Iterable[Any], d: str = "", attribute: Any = None) -> Any:  # noqa: ANN401
        every = list(_counted(values))
        _check_length(sum(len(str(v)) + len(str(d)) for v in every))
        return join(context, every, d, attribute)

    return joined


def _replaced(value: object, old: str, new: str, count: int | None = None) -> str:
    text = str(value)
    _check_length(len(text) + text.count(str(old)) * len(str(new)))
    return text.replace(str(old), str(new), -1 if count is None else count)


def _check_length(characters: int) -> None:
    if characters > LARGEST:
        raise SecurityError("a text would be too long")


def _bounded(apply: Callable[..., Any], place: int) -> Callable[..., Any]:
    def bounded(value: Any, *words: Any, **named: Any) -> Any:  # noqa: ANN401 - any filter's
        width = named.get("width", words[place] if len(words) > place else 0)
        if isinstance(width, int) and abs(width) > LARGEST // 1000:
            raise SecurityError("a text would be too long")
        return apply(value, *words, **named)

    return bounded


def _formatted(apply: Callable[..., Any]) -> Callable[..., Any]:
    def formatted(value: Any, *words: Any, **named: Any) -> Any:  # noqa: ANN401 - any filter's
        _check_widths(str(value))
        if any(isinstance(w, int) and abs(w) > LARGEST for w in words) and "*" in str(value):
            raise SecurityError("a text would be too long")
        return apply(value, *words, **named)

    return formatted


def _check_widths(text: str) -> None:
    digits = 0
    for sign in text:
        digits = digits + 1 if sign.isdigit() else 0
        if digits > 4 and "%" in text:
            raise SecurityError("a width of a format is too large")


def _length(value: Any) -> int:  # noqa: ANN401 - any operand
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def _size(value: Any) -> int:  # noqa: ANN401 - any operand
    return abs(value) if isinstance(value, int) else 0


def _bits(value: Any) -> int:  # noqa: ANN401 - any operand
    return value.bit_length() if isinstance(value, int) else 0

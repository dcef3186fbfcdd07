"""The sandbox of Jinja texts, which can neither reach out, nor run for ever, nor fill memory.

Jinja's own sandbox keeps a text from attributes and calls that are not safe. Ours also counts the
rounds of loops and the calls of macros of one rendering, weighs what every filter, test, call and
operator is given and makes, and refuses what one of them would blow up before it does. Prompt texts
of recipes are rendered in it, and chat templates of models (`chat_templates`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from math import inf
from typing import Any, ClassVar

from jinja2 import Environment, StrictUndefined, Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

ROUNDS = 100_000
"""Rounds of all loops of one rendering, and calls, at most."""
LARGEST = 10_000_000
"""Weight of what one operation is given or makes, at most: a character weighs 1, an element of a
list 64 beside its own; also what all expressions of one rendering write."""
WORK = 100_000_000
"""Weight of all that the operations of one rendering are given and make, at most."""
_TOO_LONG = "a text or list would be too long"
_ELEMENT = 64
WIDEST = 10_000
"""Widths and counts of filters and methods, at most."""
MOST_BITS = 100_000
"""Bits of a whole number, at most."""
_SLOW = 30
"""Filters that take a text or list apart cost so much more than those that copy it."""
_QUICK = frozenset(
    (
        *("abs", "attr", "capitalize", "center", "count", "d", "default", "e", "escape", "first"),
        *("float", "forceescape", "format", "indent", "int", "items", "join", "last", "length"),
        *("list", "lower", "replace", "reverse", "safe", "string", "title", "trim", "truncate"),
        "upper",
    )
)
_COUNTED = ("batch", "center", "indent", "round", "slice")
"""Filters that make as much as a number says."""
_PADDED = ("ljust", "rjust", "center", "zfill", "to_bytes")
"""Methods that do."""


_OF_GIVEN = 100
"""A chat template may work so many times on what it is given, and make a tenth of that."""


class _Used:
    """What one rendering has used, and may use."""

    def __init__(self, given: int = 0) -> None:
        self.rounds = self.written = self.work = 0
        self.most_rounds = ROUNDS + given
        self.most_work = WORK + _OF_GIVEN * given
        self.largest = LARGEST + _OF_GIVEN // 10 * given


_USED: ContextVar[_Used | None] = ContextVar("used", default=None)


class _Counting(NodeTransformer):
    """Puts loops' sequences, what `~` joins and what is compared through filters that count."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        fixed = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        node.iter = _through("_counted", node.iter, nodes.Const(fixed))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _through("_joined", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _through("_compared", node.expr)
        for operand in node.ops:
            operand.expr = _through("_compared", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _through("_cut", node) if isinstance(node.arg, nodes.Slice) else node


def _through(name: str, node: Any, *words: nodes.Expr) -> nodes.Filter:  # noqa: ANN401
    return nodes.Filter(node, name, list(words), [], None, None, lineno=node.lineno)


class _Counted(Template):
    """A chat template whose renderings are counted, each from 0."""

    def render(self, *words: Any, **named: Any) -> str:  # noqa: ANN401 - as Jinja has it
        """Fill it; the bounds grow with what it is given.

        Raises:
            SecurityError: it runs for too long, or makes something huge.
        """
        with _counting([dict(*words, **named)]):
            return super().render(*words, **named)

    def generate(self, *words: Any, **named: Any) -> Iterator[str]:  # noqa: ANN401
        """The same in pieces."""
        with _counting([dict(*words, **named)]):
            yield from super().generate(*words, **named)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of prompt texts; unknown names are errors, and nothing is escaped."""

    intercepted_binops: ClassVar[frozenset[str]] = frozenset(["+", "*", "**", "%"])  # type: ignore[misc]

    def __init__(self, like: Environment | None = None) -> None:
        """Make it.

        Args:
            like: an environment of another library, whose texts are to come out as they do there:
                its extensions, names, filters, tests and what unknown names are.
        """
        super().__init__(
            undefined=StrictUndefined if like is None else like.undefined,
            trim_blocks=True if like is None else like.trim_blocks,
            lstrip_blocks=True if like is None else like.lstrip_blocks,
            autoescape=False,
            finalize=_written,
            extensions=[] if like is None else [type(e) for e in like.extensions.values()],
        )
        if like is not None:
            self.template_class = _Counted
            self.globals, self.filters = {**like.globals}, {**like.filters}
            self.tests = {**like.tests}
        self.globals.pop("lipsum", None)
        self.filters = {name: _weighed(name, apply) for name, apply in self.filters.items()}
        self.filters |= {"_counted": _counted, "_joined": _joined}
        self.filters |= {"_compared": _compared, "_cut": _cut}
        self.tests = {name: _tested(apply) for name, apply in self.tests.items()}

    def _generate(self, source: nodes.Template, *words: Any, **named: Any) -> str:  # noqa: ANN401
        return super()._generate(_Counting().visit(source), *words, **named)

    def call(self, context: Context, obj: Any, *words: Any, **named: Any) -> Any:  # noqa: ANN401
        """Call something, weighed; macros can call each other for ever, and are counted."""
        if isinstance(obj, Macro):
            _count()
        own = getattr(obj, "__self__", None)
        if isinstance(own, str | bytes | int):
            words = _held(words)
            _check_method(own, obj.__name__, [*words, *named.values()])
        _spend(_weigh(own, *words, *named.values()))
        made = super().call(context, obj, *words, **named)
        _spend(_weigh(made))
        return made

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: ANN401
        """`'...'.format` of the sandbox, whose widths and fields are bounded."""
        apply = super().wrap_str_format(value)
        if apply is None:
            return None

        @wraps(apply)
        def formatted(*words: Any, **named: Any) -> str:  # noqa: ANN401 - any values
            _check_format(value.__self__, [*words, *named.values()], "{")
            return apply(*words, **named)

        return formatted

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Work out `+`, `*`, `**` or `%`, unless the result would be huge.

        Raises:
            SecurityError: it would.
        """
        if operator == "**" and _bits(left) * _size(right) > MOST_BITS:
            raise SecurityError("a power is too large")
        if operator == "*":
            _check_length(_length(left) * _size(right) + _length(right) * _size(left))
            if _bits(left) + _bits(right) > MOST_BITS:
                raise SecurityError("a number is too large")
        if operator == "+":
            _check_length(_length(left) + _length(right))
        if operator == "%" and isinstance(left, str):
            _check_format(left, [right], "%")
        made = super().call_binop(context, operator, left, right)
        _spend(_weigh(made))
        return made


def rendered(template: Any, values: dict[str, Any]) -> str:  # noqa: ANN401 - a jinja2 template
    """Fill a template of the sandbox; its rounds are counted from 0.

    Raises:
        SecurityError: it runs for too long, or makes something huge.
    """
    with _counting([]):
        return str(template.render(values))


# -- what a rendering uses -------------------------------------------------------------------------


@contextmanager
def _counting(given: list[Any]) -> Iterator[None]:
    token = _USED.set(_Used(_sum(given)))
    try:
        yield
    except RecursionError as error:
        raise SecurityError("macros call each other without end") from error
    finally:
        _USED.reset(token)


def _count() -> None:
    used = _USED.get()
    if used is None:
        return
    used.rounds += 1
    if used.rounds > used.most_rounds:
        raise SecurityError(f"the text runs for more than {used.most_rounds:,} rounds of its loops")


def _spend(weight: int) -> None:
    used = _USED.get()
    if used is None:  # a constant, while the text is compiled
        return
    used.work += weight
    if used.work > used.most_work:
        raise SecurityError("the text works on too much: on the same long text again and again?")


def _write(characters: int) -> None:
    used = _USED.get()
    if used is not None:
        used.written += characters
        _check_length(used.written)


def _weigh(*values: Any) -> int:  # noqa: ANN401 - any values
    """Weight of values with all that is in them; what is in two places counts twice.

    Raises:
        SecurityError: it is more than one operation may be given or make.
    """
    used = _USED.get()
    return _sum(list(values), LARGEST if used is None else used.largest)


def _sum(waiting: list[Any], most: float = inf) -> int:
    weight = 0
    while waiting:
        value = waiting.pop()
        weight += 1
        if isinstance(value, str | bytes):
            weight += len(value)
        elif isinstance(value, int):
            weight += value.bit_length() // 8
        elif isinstance(value, list | tuple | set | frozenset | deque | range | dict):
            weight += _ELEMENT * len(value)
            if weight > most:
                raise SecurityError(_TOO_LONG)
            if isinstance(value, dict):
                waiting.extend(value.values())
            waiting.extend(value)
        elif isinstance(value, Namespace):
            waiting.append(object.__getattribute__(value, "_Namespace__attrs"))
        if weight > most:
            raise SecurityError(_TOO_LONG)
    return weight


# -- filters and tests -----------------------------------------------------------------------------


def _counted(values: Iterable[Any], fixed: int) -> Iterator[Any]:
    """What a loop goes through, with the characters of the text that stand in it."""
    for value in values:
        _count()
        _write(fixed)
        yield value


def _written(value: Any) -> Any:  # noqa: ANN401 - what an expression shows
    _write(_weigh(value))
    return value


def _joined(texts: list[Any]) -> str:
    """The texts of `a ~ b ~ c` as one."""
    _spend(_weigh(texts))
    return "".join(map(str, texts))


def _compared(value: Any) -> Any:  # noqa: ANN401 - any operand
    _spend(_to_compare(value))
    return value


def _cut(value: Any) -> Any:  # noqa: ANN401 - a slice, which is a copy
    _spend(_weigh(value))
    return value


def _to_compare(value: Any) -> int:  # noqa: ANN401 - any operand
    return len(value) // _SLOW if isinstance(value, str) else _weigh(value)


def _tested(apply: Any) -> Callable[..., Any]:  # noqa: ANN401 - untyped in jinja2
    @wraps(apply)
    def tested(*words: Any) -> Any:  # noqa: ANN401 - any test's
        _spend(sum(map(_to_compare, words)))
        return apply(*words)

    return tested


def _weighed(name: str, apply: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is charged for what it is given and makes, and refuses what would be huge."""

    @wraps(apply)
    def weighed(*words: Any, **named: Any) -> Any:  # noqa: ANN401 - any filter's
        words = _held(words)
        given = [*words, *named.values()]
        _spend(_weigh(*given) * (1 if name in _QUICK else _SLOW))
        _check_filter(name, given)
        made = apply(*words, **named)
        _spend(_weigh(made))
        return made

    return weighed


def _held(words: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments, generators among them as lists."""
    return tuple(list(_counted(w, 0)) if isinstance(w, Iterator) else w for w in words)


def _check_filter(name: str, given: list[Any]) -> None:
    """Refuse a filter whose result would be much larger than what it is given."""
    if name in _COUNTED:
        _check_widths(given[1:])
    texts = [value for value in given if isinstance(value, str)]
    if name == "format" and texts:
        _check_format(texts[0], given[1:], "%")
    elif name in ("wordwrap", "truncate") and texts:
        _check_length(len(texts[0]) * max((len(text) for text in texts[1:]), default=1))
    elif name == "indent" and texts:
        width = max((len(w) if isinstance(w, str) else _size(w) for w in given[1:]), default=4)
        _check_length((texts[0].count("\n") + 1) * width)
    elif name == "replace" and len(texts) > 2:
        _check_replaced(*texts[:3])
    elif name == "tojson":
        _check_json(given[0], given[1:])
    elif name == "join":
        _check_joined(texts[-1] if texts else "", next((g for g in given if _many(g)), []))


def _check_json(value: Any, given: list[Any]) -> None:  # noqa: ANN401 - any value
    """Refuse JSON whose indent or separators would make it much larger than the value."""
    flat = [part for word in given for part in (word if isinstance(word, list | tuple) else [word])]
    wide = max((len(w) if isinstance(w, str) else _size(w) for w in flat), default=0)
    _check_length(wide * (_weigh(value) // _ELEMENT + 1) * _depth(value))


def _depth(value: Any) -> int:  # noqa: ANN401 - any value
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = [v.values() if isinstance(v, dict) else v for v in level if _many(v)]
        level = [v for values in inner for v in values]
    return depth


def _check_method(own: str | bytes | int, name: str, given: list[Any]) -> None:
    """Refuse a method of a text or number whose result would be much larger than itself."""
    if name in _PADDED:
        _check_widths(given)
    elif name == "expandtabs":
        _check_length(len(own) * max(map(_size, given), default=8))  # type: ignore[arg-type]
    elif name == "replace" and len(given) > 1:
        _check_replaced(own, *given[:2])
    elif name == "join" and given:
        _check_joined(own, given[0])
    elif name == "translate" and given:
        values = given[0].values() if isinstance(given[0], dict) else ()
        _check_length(len(own) * max(map(_length, values), default=1))  # type: ignore[arg-type]


def _many(value: Any) -> bool:  # noqa: ANN401 - any value
    return isinstance(value, list | tuple | set | frozenset | dict)


def _check_replaced(text: Any, old: Any, new: Any) -> None:  # noqa: ANN401 - texts or bytes
    _check_length(text.count(old) * len(new))


def _check_joined(between: Any, parts: Any) -> None:  # noqa: ANN401 - texts or bytes
    _check_length(len(between) * len(parts))


def _check_widths(given: list[Any]) -> None:
    if any(_size(value) > WIDEST for value in given):
        raise SecurityError(f"a width or count is more than {WIDEST:,}")


def _check_format(text: str, given: list[Any], sign: str) -> None:
    """Refuse widths that stand in a format or in its values, and values that it shows too often."""
    if sign in text and re.search(r"\d{5}", text):
        raise SecurityError("a width of a format is too large")
    flat = [part for value in given for part in (value if isinstance(value, tuple) else [value])]
    if re.search(r"%[^a-zA-Z]*\*" if sign == "%" else r"\{[^{}]*\{", text):
        _check_widths(flat)
    _check_length(text.count(sign) * max(map(_weigh, flat), default=1))


def _check_length(characters: int) -> None:
    used = _USED.get()
    if characters > (LARGEST if used is None else used.largest):
        raise SecurityError(_TOO_LONG)


def _length(value: Any) -> int:  # noqa: ANN401 - any operand
    if isinstance(value, list | tuple):
        return _ELEMENT * len(value)
    return len(value) if isinstance(value, str | bytes) else 0


def _size(value: Any) -> int:  # noqa: ANN401 - any operand
    return abs(value) if isinstance(value, int) else 0


def _bits(value: Any) -> int:  # noqa: ANN401 - any operand
    return value.bit_length() if isinstance(value, int) else 0

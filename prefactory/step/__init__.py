"""Steps: one frozen model whose fields are its identity, in three shapes of promise.

An author subclasses `Filter`, `Labeler` or `Generator` and writes one method on columns. A step
holds no run state: what it learns from the whole dataset is a `State`, made by `fit` and stored.
"""

from __future__ import annotations

import importlib
import linecache
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import polars as pl
from pydantic import BaseModel, ConfigDict

from prefactory.beside import DIGEST, OURS, digest, public_name
from prefactory.context import Context
from prefactory.context import State as State
from prefactory.errors import ConfigError
from prefactory.identity import fingerprint, identity_fields
from prefactory.prompts import Prompted
from prefactory.step.contract import faults, misplaced, where
from prefactory.tables import ROW_ID, Shape, shape_of

Scope = Literal["row", "prompt", "dataset"]


@dataclass(frozen=True, slots=True)
class Asks:
    """What a step will ask of one text engine at most, for `plan`.

    Attributes:
        engine: its configuration.
        calls: number of calls, all samples and rounds, without corrections.
        prompt_tokens, completion_tokens: of one call, about; completions at most.
    """

    engine: Any
    calls: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Passes:
    """What a step will run through a model on this machine and keep of it at most, for `plan`.

    Attributes:
        model: its name.
        rows: forward passes.
        bytes: of the columns that are kept, about.
    """

    model: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Generated:
    """What a generator made: new rows, and why input rows became nobody's parent.

    `dropped` has `row_id`, `reason` and `detail` (String), one row per input row without a child.
    `notes` counts, by reason, what came to nothing beside children of the same row.
    """

    rows: pl.DataFrame
    dropped: pl.DataFrame
    notes: Mapping[str, int] = field(default_factory=dict)


class Step(BaseModel):
    """Base of all steps. Fields are identity; bump `version` when the same fields act differently.

    Class attributes:
        shapes: table shapes that the step takes.
        scope: `row` (any shard), `prompt` (all rows of a prompt are together) or `dataset`
            (`fit_shard` and `fit` see everything first).
        version: of the behaviour; part of the identity.
        learns_labels: whether what happens to a pair depends on the labels of other pairs. Whether
            a selection pays can then be judged only where it was learned from other rows.

    Raises:
        ConfigError: when a class is defined that lacks a hook, or whose hook has another signature
            or return type. A base of steps that is none itself says so:
            `class Scored(Filter, abstract=True)`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "row"
    version: ClassVar[int] = 1
    learns_labels: ClassVar[bool] = False
    _abstract: ClassVar[bool] = True

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:  # noqa: ANN401
        """Take the keyword `abstract` (see `__pydantic_init_subclass__`)."""
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:  # noqa: ANN401
        """Check the class against what a run will ask of it."""
        super().__pydantic_init_subclass__(**kwargs)
        cls._abstract = abstract
        problems = [] if abstract else _problems(cls)
        if problems:
            raise ConfigError(problems)

    def takes(self) -> tuple[Shape, ...]:
        """Shapes that the step takes, with these fields."""
        return self.shapes

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Columns, beyond those of the shape, that the step reads from a table of this shape."""
        return {}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Columns that the step adds to a table of this shape."""
        return {}

    def out_shape(self, shape: Shape) -> Shape:
        """Shape of the table after the step."""
        return shape

    def brings(self) -> dict[str, pl.DataFrame]:
        """Tables of ANNOTATIONS that the step acts on, by name; they are published beside the rows.

        Raises:
            ConfigError: what the step reads is not there.
        """
        return {}

    @classmethod
    def is_abstract(cls) -> bool:
        """Tell whether the class is a base of steps and none itself."""
        return cls._abstract

    def identity(self) -> dict[str, Any]:
        """Class, version and every field that changes the data, as plain JSON data."""
        cls = type(self)
        return {
            "step": step_name(cls),
            "version": cls.version,
            **source_mark(cls),
            **({"prompts": self.texts()} if isinstance(self, Prompted) else {}),
            "fields": identity_fields(self),
        }

    def engines(self) -> list[dict[str, Any]]:
        """Identities of the models among the fields, resolved on this machine (precision, ...).

        They belong to the address of an output, but not to the recipe's fingerprint.
        """
        return [config.identity() for config, _ in self.configs()]

    def configs(self) -> list[tuple[Any, str]]:
        """The configurations of the models among the fields, each with the name of its field."""
        if not self.opens_engines():
            return []
        names = type(self).model_fields
        return [(config, name) for name in names for config in _configs(getattr(self, name))]

    def opens_engines(self) -> bool:
        """Tell whether the step, with these fields, opens a model at all."""
        return True

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """What the step will ask of text engines at most, for `plan` (steps that ask override it).

        Args:
            rows: rows of the table that it gets, about.
            prompts: distinct prompts among them, about.
        """
        return []

    def trials(self) -> bool:
        """Whether the step has rows of its own whose answer is known; then `trial` is run first."""
        return False

    def trial(self, ctx: Context) -> list[dict[str, Any]]:
        """Try the step's judges on rows whose answer is known, before anything else is asked.

        Args:
            ctx: opens the judges.

        Returns:
            Counts about them (`prefactory.measures.judge_watch`).
        """
        return []

    def passes(self, rows: int) -> list[Passes]:
        """What the step runs through local models and keeps, for `plan` (large ones override it).

        Args:
            rows: rows of the table that it gets, about; of pairs, their answers.
        """
        return []

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """Rows and prompts after the step, at most and about, for `plan` (Generators override)."""
        return rows, prompts

    def fingerprint(self) -> str:
        """Digest of the identity."""
        return fingerprint(self.identity())

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Map of a dataset step: reduce a shard to ids, hashes, numbers or float32 vectors.

        The first column must be the row id; the run hands all parts, sorted by it, to `fit`.
        """
        raise NotImplementedError

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Reduce of a dataset step: all `fit_shard` rows, sorted by row id, to one state."""
        raise NotImplementedError


def _configs(value: object) -> list[Any]:
    """The configurations of engines in a field, also in lists, mappings and nested models."""
    if hasattr(value, "identity"):
        return [value]
    if isinstance(value, BaseModel):
        return [c for n in type(value).model_fields for c in _configs(getattr(value, n))]
    if isinstance(value, Mapping):
        return [c for v in value.values() for c in _configs(v)]
    if isinstance(value, list | tuple):
        return [c for v in value for c in _configs(v)]
    return []


def source_mark(cls: type[Step]) -> dict[str, str]:
    """Digest of the module of a step that is not ours: an edited step is another step.

    Ours bump `version` when their behaviour changes, so that a new comment costs no rerun.
    """
    if cls.__module__.split(".", 1)[0] in OURS:
        return {}
    module = sys.modules.get(cls.__module__)
    path = getattr(module, "__file__", None)
    if path is not None and Path(path).is_file():
        return {"source": getattr(module, DIGEST, None) or digest(Path(path))}
    return {"source": fingerprint(list(_typed_in(cls)))} if cls.__module__ == "__main__" else {}


def _typed_in(cls: type[Step]) -> Iterator[str]:
    """The cells of a notebook that hold a class's functions; elsewhere what these do."""
    for name, value in sorted(vars(cls).items()):
        code = getattr(getattr(value, "__func__", value), "__code__", None)
        if code is not None:
            cell = "".join(linecache.getlines(code.co_filename))
            constants = [c for c in code.co_consts if not hasattr(c, "co_code")]
            yield cell or f"{name} {code.co_code.hex()} {constants!r}"


def step_name(cls: type[Step]) -> str:
    """Name of a step in recipes: its import path, from its package if that exports it."""
    name = public_name(cls.__module__)
    package = name.split(".", 1)[0]
    module = importlib.import_module(cls.__module__.removesuffix(name) + package)
    exported = getattr(module, cls.__name__, None) is cls
    return f"{package if exported else name}.{cls.__name__}"


class Filter(Step, abstract=True):
    """Rows leave, with a reason. Promise: a subset, unchanged, in order.

    A row-scope filter on RESPONSES also runs on PAIRS: both sides are checked, and the pair goes
    if either side does (the detail names the side).
    """

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge every row: a table of the same height and order with `reason` and `detail`.

        Both are String; a null `reason` keeps the row. See `verdict` for the usual case.
        """
        raise NotImplementedError


class FittedFilter(Filter, abstract=True):
    """A filter that decides in `fit`; `keep` looks the rows up.

    Class attributes:
        decided: name of the table of the state that holds the units that go. Its first column is
            their id, `reason` and what `detail` reads follow.
    """

    scope: ClassVar[Scope] = "dataset"
    decided: ClassVar[str] = "dropped"

    def unit(self, shape: Shape) -> str:
        """Column of the table that the decisions are about: the row's id, or its prompt's."""
        return ROW_ID[shape]

    def detail(self) -> pl.Expr:
        """The detail (String), from the columns of `decided`."""
        return pl.col("detail")

    def decisions(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """The columns of `decided` for every row of a table, null where it says nothing."""
        decided = ctx.fitted.tables[self.decided]
        unit = decided.columns[0]
        ids = table.select(pl.col(self.unit(shape_of(table))).alias(unit))
        return ids.join(decided, on=unit, how="left", maintain_order="left")

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look the rows up in the state (see `Filter.keep`)."""
        decisions = self.decisions(table, ctx)
        return decisions.select(
            "reason", detail=pl.when(pl.col("reason").is_not_null()).then(self.detail())
        )


class Labeler(Step, abstract=True):
    """Columns arrive. Promise: the same rows; only the columns of `adds`.

    A labeler on RESPONSES also runs on PAIRS: each distinct response is labelled once and its
    columns come back as `chosen_<column>` and `rejected_<column>`.
    """

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Return the new columns only, same height and order as the table."""
        raise NotImplementedError

    def watch(self, table: pl.DataFrame, columns: pl.DataFrame) -> list[dict[str, Any]]:
        """Counts about the judges that were asked (`prefactory.measures.judge_watch`), if any.

        Args:
            table: a shard.
            columns: what `label` returned for it; on PAIRS that were taken apart by side.
        """
        return []


class Generator(Step, abstract=True):
    """Rows arrive. Promise: unique ids, and every row names its parents.

    Class attributes:
        parents: columns of the new rows that hold parent row ids.
        new_prompts: whether new rows have other prompt ids than their parents.
        beside: name of the table that the new rows become, published beside the rows that they
            were made from. None: the new rows take their place.
        replaces: the rows that they were made from must not be published at all (they hold what
            was to be masked), not even as the `responses` beside pairs.
    """

    parents: ClassVar[tuple[str, ...]] = ()
    new_prompts: ClassVar[bool] = False
    beside: ClassVar[str | None] = None
    replaces: ClassVar[bool] = False

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make new rows from a table, and account for input rows that got no child."""
        raise NotImplementedError


_OPTIONAL = (
    "takes",
    "needs",
    "adds",
    "out_shape",
    "brings",
    "opens_engines",
    "asks",
    "passes",
    "grows",
    "fit_shard",
    "fit",
)
_ATTRIBUTES = (
    "shapes", "scope", "version", "learns_labels", "parents", "new_prompts", "beside", "replaces"
)  # fmt: skip


def _problems(cls: type[Step]) -> list[str]:
    """What is wrong with the class of a step, one sentence each."""
    problems = misplaced(cls, _ATTRIBUTES)
    if problems:
        return problems
    kinds = [b for b in (Filter, Labeler, Generator) if issubclass(cls, b)]
    if len(kinds) != 1:
        return [f"{where(cls)} must be one of a Filter, a Labeler or a Generator"]
    (base,) = kinds
    fitted = cls.scope == "dataset"
    required = {
        "keep": base is Filter,
        "label": base is Labeler,
        "adds": base is Labeler,
        "generate": base is Generator,
        "fit_shard": fitted,
        "fit": fitted,
    }
    hooks = {n: required.get(n, False) for n in (*required, *_OPTIONAL) if hasattr(base, n)}
    problems = faults(cls, base, hooks)
    wrong = {
        f"has scope {cls.scope!r}, which is none of {get_args(Scope)}": cls.scope
        not in get_args(Scope),
        "has no `shapes`: name the tables that it takes, as (Shape.RESPONSES,)": not cls.shapes
        or not all(isinstance(shape, Shape) for shape in cls.shapes),
        f"has scope {cls.scope!r} and a `fit`; only scope 'dataset' is fitted": not fitted
        and (cls.fit is not Step.fit or cls.fit_shard is not Step.fit_shard),
        "has no `parents`: name the columns of the new rows that hold their parents' ids": base
        is Generator
        and not getattr(cls, "parents", ()),
    }
    return problems + [f"{where(cls)} {text}" for text, there in wrong.items() if there]


def verdict(table: pl.DataFrame, *rules: tuple[pl.Expr, str, pl.Expr]) -> pl.DataFrame:
    """Build a filter's answer from rules, the first that fires giving the reason.

    Args:
        table: the table that is judged.
        rules: (fires, reason, detail): a boolean expression that is true where the row goes (null
            counts as false), the reason code, and a String expression for the detail.

    Returns:
        A table of `reason` and `detail`, null where the row stays.
    """
    reason: pl.Expr = pl.lit(None, dtype=pl.String)
    detail: pl.Expr = pl.lit(None, dtype=pl.String)
    for fires, code, text in reversed(rules):
        hit = fires.fill_null(value=False)
        reason = pl.when(hit).then(pl.lit(code)).otherwise(reason)
        detail = pl.when(hit).then(text.cast(pl.String)).otherwise(detail)
    judged = table.with_columns(reason=reason, detail=detail)  # keeps the height of literals
    return judged.select("reason", "detail")

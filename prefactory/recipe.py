"""Recipes: strict YAML to frozen steps, with every mistake found at once.

A step is named by its import path (`filters.Length`, `their_package.TheirStep`): there is no
registry. A recipe can name any importable step, so read a stranger's recipe as you read code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from prefactory import yamllines
from prefactory.beside import beside, import_module, public_name
from prefactory.errors import ConfigError
from prefactory.extras import missing
from prefactory.identity import NOT_IDENTITY, fingerprint
from prefactory.old_keys import new_key
from prefactory.overrides import apply_overrides, nearest
from prefactory.step import Step, step_name

M = TypeVar("M", bound=BaseModel)

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What a dataset or version may be called: no slash, no leading dot, so no path traversal."""


class Publish(BaseModel):
    """How the result is published.

    Attributes:
        test_fraction: share of prompt groups in the test split, in [0, 1).
        near_duplicates: keep near-duplicate prompts on one side of the split.
        report_rows: how many pairs the report shows.
        failed_judges: publish labels of judges that do not judge (one answer for everything, too
            many unusable ones; see docs/judges.md), with a banner; else the run ends before it.
        pays: whether a run that selects pairs measures what that gains (see docs/catalog.md).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    near_duplicates: bool = True
    report_rows: int = Field(default=60, ge=0, le=1000)
    failed_judges: bool = False
    pays: bool = True


class Head(BaseModel):
    """The fields of a recipe beside its source, steps and training, which have their own models."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str | None = None
    description: str = ""
    license: str | None = None
    seed: int = Field(default=0, ge=0)
    publish: Publish = Publish()

    @pydantic.field_validator("name", "version")
    @classmethod
    def _safe(cls, value: str | None) -> str | None:
        if value is not None and (not NAME.fullmatch(value) or ".." in value):
            raise ValueError(
                f"{value!r} must be lower-case letters, digits, '.', '_' or '-', at most 64, "
                "starting with a letter or digit"
            )
        return value


KEYS = [*Head.model_fields, "source", "steps", "train", "review"]
"""The top-level keys of a recipe."""


@dataclass(frozen=True)
class Placed:
    """A step at its place: its label in this recipe (unique) and its line (0: not from a file)."""

    label: str
    step: Step
    line: int

    @property
    def line_prefix(self) -> str:
        """`line 5: `, for messages; empty if it is not from a file."""
        return f"line {self.line}: " if self.line else ""


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        head: name, version, seed, publishing.
        sources: validated source models, in order.
        steps: the steps in order.
        train: (method, validated config) pairs, in order.
        path: the file it came from; relative source paths resolve against its folder.
        data: the plain document after overrides.
        lines: line of every value.
        text: of the file, for its comments.
        overrides: the words that changed it.
        review: what people are asked about the version; it decides none of its rows.
    """

    head: Head
    sources: tuple[BaseModel, ...]
    steps: tuple[Placed, ...]
    train: tuple[tuple[str, BaseModel], ...]
    path: Path
    data: dict[str, Any]
    lines: dict[yamllines.Path, int] = field(repr=False)
    text: str = field(default="", repr=False)
    overrides: tuple[str, ...] = ()
    review: BaseModel | None = None

    @property
    def name(self) -> str:
        """Name of the dataset that the recipe makes."""
        return self.head.name

    def payload(self, source_identities: list[dict[str, Any]]) -> dict[str, Any]:
        """Everything that decides the published rows, as plain data (the recipe's identity)."""
        return {
            "name": self.head.name,
            "seed": self.head.seed,
            "publish": self.head.publish.model_dump(
                exclude={"report_rows", "pays", "failed_judges"}
            ),
            "sources": sorted(source_identities, key=fingerprint),
            "steps": [{"label": p.label, **p.step.identity()} for p in self.steps],
        }

    def to_yaml(self) -> str:
        """The document after overrides, with the comments of its file.

        Step fields that change no data are left out. (The comment above a step that an override
        leaves out stays.)
        """
        data: dict[str, Any] = {**self.data, "steps": [as_item(i) for i in self.data["steps"]]}
        if self.text:
            data = yamllines.document(self.text)
            apply_overrides(data, list(self.overrides), {}, self.path.name, KEYS)
        for item, placed in zip(data["steps"], self.steps, strict=True):
            for fields in item.values() if isinstance(item, dict) else ():
                _leave_out(fields or {}, placed.step)
        return yamllines.dump(data)


def as_item(item: object) -> Any:  # noqa: ANN401 - what stands in a list of steps
    """A step made in Python as a recipe writes it: its name and the fields that were set."""
    if not isinstance(item, Step):
        return item
    return {step_name(type(item)): set_fields(item)}


def set_fields(model: BaseModel) -> dict[str, Any]:
    """The fields of a model that were set, as plain data."""
    data = model.model_dump(mode="json")
    return {name: data[name] for name in data if name in model.model_fields_set}


def _leave_out(fields: dict[str, Any], model: BaseModel) -> None:
    """Remove the fields of `NOT_IDENTITY` from those of a model and of the models in it."""
    for key in list(fields):
        inner = getattr(model, key, None)
        if key in NOT_IDENTITY:
            del fields[key]
        elif isinstance(inner, BaseModel):
            _leave_out(fields[key], inner)


def find_step(name: str) -> type[Step]:
    """Import a step class by its dotted name; of a step that is made already, its class.

    Raises:
        ConfigError: if there is no such step, naming the nearest one.
    """
    step = find(name)
    return type(step) if isinstance(step, Step) else step


def find(name: str) -> type[Step] | Step:
    """Import a step class, or a step that a module has made, by its dotted name.

    Raises:
        ConfigError: if there is no such step, naming the nearest one.
    """
    module_name, _, attribute = name.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{name!r} is not an import path such as filters.Length")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if (lacking := missing(error)) is not None:
            raise lacking from error
        hint = nearest(module_name, ["filters", "labelers", "generators"])
        raise ConfigError(
            f"no module {public_name(error.name or module_name)!r} for the step {name!r}{hint}; a "
            "module of your own must lie beside the recipe or be installed"
        ) from error
    except ConfigError as error:  # a class of the module is no whole step
        raise ConfigError([f"the step {name!r}: {text}" for text in error.problems]) from error
    except Exception as error:  # whatever the author's module does when it is imported
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"the module of the step {name!r} can't be imported ({problem})"
        ) from error
    names = [str(n) for n in getattr(module, "__all__", dir(module)) if not n.startswith("_")]
    step = getattr(module, attribute, None) if attribute in {*names, *vars(module)} else None
    if isinstance(step, Step):
        return step
    if not (isinstance(step, type) and issubclass(step, Step)) or step.is_abstract():
        if isinstance(step, FunctionType):
            raise ConfigError(
                f"{name!r} is a plain function: write `filters.Rule: {{function: {name}}}` or "
                "`labelers.Rule`, or put `@filters.Rule` above it"
            )
        others = [n for n in names if n != attribute]
        hint = nearest(attribute, others).replace("'", f"'{module_name}.", 1)
        raise ConfigError(f"no step {name!r}{hint}")
    return step


@dataclass
class Sections:
    """Models of the parts of a recipe that live above this package.

    Attributes:
        source: model of one source.
        train: training method -> model of its options.
        review: model of what people are asked about the version; None: recipes have no such part.
    """

    source: type[BaseModel]
    train: dict[str, type[BaseModel]]
    review: type[BaseModel] | None = None


def load(path: Path, overrides: list[str], sections: Sections) -> Recipe:
    """Read, override and validate a recipe file.

    Args:
        path: the YAML file.
        overrides: `key=value` words; a key is a dotted path into the document, or a step's name
            and field (`filters.ISA.fraction=0.1`, `filters.Length#2.min_words=3`). A step's name
            alone with null leaves the step out (`filters.ISA=null`).
        sections: models for the source and training parts.

    Raises:
        ConfigError: with one line per mistake, each with its line in the file.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe {path} can't be read: {error}") from error
    data, lines = yamllines.load(text, path.name)
    if not isinstance(data, dict):
        raise ConfigError(f"{path.name}: a recipe is a mapping with name, source and steps")
    return replace(parse(data, path, overrides, sections, lines), text=text)


def parse(
    data: dict[str, Any],
    path: Path,
    overrides: list[str],
    sections: Sections,
    lines: dict[yamllines.Path, int] | None = None,
) -> Recipe:
    """Override and validate a recipe document (see `load`); `lines` are for the messages."""
    lines = lines or {}
    reader = _Reader(path.name, lines)
    reader.problems += apply_overrides(data, overrides, lines, path.name, KEYS)
    for key in [k for k in data if k not in KEYS]:
        reader.problem((key,), f"unknown key {key!r}{nearest(key, KEYS)}")
    head = reader.model(Head, {k: v for k, v in data.items() if k in Head.model_fields}, ())
    sources = reader.sources(data, sections.source)
    with beside(path.resolve().parent):
        steps = reader.steps(data.get("steps"))
    train = reader.train(data.get("train"), sections.train)
    asked = data.get("review")
    review = None
    if asked is not None and sections.review is not None:
        review = reader.model(sections.review, asked, ("review",))
    if reader.problems or head is None:
        raise ConfigError(reader.problems)
    return Recipe(
        head, sources, steps, train, path, data, lines, overrides=tuple(overrides), review=review
    )


class _Reader:
    """Collects problems while the parts of a document are validated."""

    def __init__(self, name: str, lines: dict[yamllines.Path, int]) -> None:
        self.name = name
        self.lines = lines
        self.problems: list[str] = []

    def problem(self, path: yamllines.Path, text: str) -> None:
        where = f"line {yamllines.line_of(self.lines, path)}: " if self.lines else ""
        match path:
            case ("steps", int(i), *_) if not self.lines:
                where = f"step {i + 1}: "
        self.problems.append(f"{self.name}: {where}{text}")

    def model(self, cls: type[M], data: object, path: yamllines.Path) -> M | None:
        if not isinstance(data, dict):
            self.problem(path, f"expected a mapping of fields, found {data!r}")
            return None
        try:
            return cls.model_validate(data)
        except pydantic.ValidationError as error:
            for item in error.errors(include_url=False):
                self.problem((*path, *item["loc"]), sentence(cls, dict(item)))
            return None

    def sources(self, data: dict[str, Any], cls: type[BaseModel]) -> tuple[BaseModel, ...]:
        source = data.get("source")
        if source is None:
            self.problem((), "'source' is missing: say where the rows come from")
            return ()
        many = source if isinstance(source, list) else [source]
        specs = []
        for i, item in enumerate(many):
            path: yamllines.Path = ("source", i) if isinstance(source, list) else ("source",)
            item = {"path": item} if isinstance(item, str) else item
            model = self.model(cls, item, path)
            specs += [model] if model is not None else []
        return tuple(specs)

    def named(self, item: object, path: yamllines.Path) -> tuple[str, dict[str, Any]] | None:
        if isinstance(item, str):
            return item, {}
        if isinstance(item, dict) and len(item) == 1:
            ((name, fields),) = item.items()
            if fields is None or isinstance(fields, dict):
                return name, fields or {}
        self.problem(path, f"expected 'name: {{fields}}', found {item!r}")
        return None

    def steps(self, items: object) -> tuple[Placed, ...]:
        if not isinstance(items, list):
            self.problem(("steps",), "'steps' must be a list of steps")
            return ()
        placed: list[Placed] = []
        seen: dict[str, int] = {}
        for i, item in enumerate(items):
            named = self.named(as_item(item), ("steps", i))
            if named is None:
                continue
            name, fields = named
            seen[name] = seen.get(name, 0) + 1
            label = name if seen[name] == 1 else f"{name}#{seen[name]}"
            step = item if isinstance(item, Step) else self.step(name, fields, i)
            if step is not None:
                line = yamllines.line_of(self.lines, ("steps", i)) if self.lines else 0
                placed.append(Placed(label, step, line))
        return tuple(placed)

    def step(self, name: str, fields: dict[str, Any], i: int) -> Step | None:
        try:
            step = find(name)
            if not isinstance(step, Step):
                return self.model(step, fields, ("steps", i, name))
            if fields:
                self.problem(("steps", i), f"{name} is a step with its fields set; it takes none")
            return step
        except ConfigError as error:
            for text in error.problems:
                self.problem(("steps", i), text)
            return None

    def train(
        self, items: object, models: dict[str, type[BaseModel]]
    ) -> tuple[tuple[str, BaseModel], ...]:
        if items is None:
            return ()
        if not isinstance(items, list):
            self.problem(("train",), "'train' must be a list of methods")
            return ()
        methods = []
        for i, item in enumerate(items):
            named = self.named(item, ("train", i))
            if named is None:
                continue
            name, fields = named
            if name not in models:
                hint = nearest(name, list(models))
                self.problem(("train", i), f"no training method {name!r}{hint}")
                continue
            model = self.model(models[name], fields, ("train", i, name))
            methods += [(name, model)] if model is not None else []
        return tuple(methods)


def _model_at(cls: type[BaseModel], loc: list[str]) -> type[BaseModel] | None:
    """The model that the field at a location holds, if it holds one model."""
    for name in loc:
        field = cls.model_fields.get(name)
        if field is None or not isinstance(field.annotation, type):
            return None
        if not issubclass(field.annotation, BaseModel):
            return None
        cls = field.annotation
    return cls


def sentence(cls: type[BaseModel], item: dict[str, Any]) -> str:
    """Word one pydantic error of a model for its user, with the nearest right field name."""
    loc = [str(part) for part in item["loc"]]
    where = ".".join(loc)
    if item["type"] == "extra_forbidden":
        owner = _model_at(cls, loc[:-1])
        if owner is None:
            return f"unknown key {where!r}"
        if (renamed := new_key(owner, loc[-1])) is not None:
            return f"unknown key {where!r}: it is {renamed} now"
        return f"unknown key {where!r}{nearest(loc[-1], list(owner.model_fields))}"
    if item["type"] == "missing":
        return f"{where!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    return f"{where!r}: {message}" if where else message

"""Prompt texts: Jinja files that come with a step, rendered in a sandbox, replaceable by a recipe.

A step that asks a model inherits `Prompted` beside its base, and names its texts in `templates`. In
a recipe `prompts: {system: "Be brief."}` replaces a text, `prompts: {system: "@mine.j2"}` reads it
from a file. The texts themselves are identity: they stand in the manifest, and a changed text is
another step. Dataset text only ever enters as a value, never as a template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import TemplateError, meta
from jinja2.nodes import Template as Parsed
from pydantic import BaseModel, Field, field_validator

from prefactory.beside import recipe_folder
from prefactory.errors import ConfigError
from prefactory.overrides import nearest
from prefactory.safety.sandbox import Sandbox, rendered


@dataclass(frozen=True)
class Text:
    """One prompt text of a step.

    Attributes:
        path: `package/folder/file.j2`, inside an importable package; or, with a space or a line
            break in it, the text itself.
        gives: the variables that the text may use.
    """

    path: str
    gives: tuple[str, ...] = ()

    def read(self) -> str:
        """The text as it comes with the step."""
        return _shipped(self.path)


class Prompted(BaseModel):
    """Mixin of steps with prompt texts; write it before the base: `class X(Prompted, Labeler)`.

    Attributes:
        templates: the texts by name (class attribute).
        prompts: texts that replace those of the step, by name; `@path` reads a file, which lies
            beside the recipe or, if none does, in the working folder.
    """

    templates: ClassVar[Mapping[str, Text]] = {}

    prompts: dict[str, str] = Field(default_factory=dict)

    @field_validator("prompts")
    @classmethod
    def _check_prompts(cls, value: dict[str, str]) -> dict[str, str]:
        texts = {}
        for name, text in value.items():
            if name not in cls.templates:
                known = ", ".join(cls.templates)
                hint = nearest(name, list(cls.templates))
                raise ValueError(f"there is no prompt text {name!r} (there are: {known}){hint}")
            texts[name] = _from_file(text)
            if not texts[name].strip():
                raise ValueError(
                    f"the prompt text {name!r} is empty; without it the step uses its own"
                )
            _check(name, texts[name], cls.templates[name].gives)
        return texts

    def texts(self) -> dict[str, str]:
        """All prompt texts by name, as they are used; part of the step's identity."""
        return {n: self.prompts.get(n) or t.read() for n, t in self.templates.items()}

    def render(self, name: str, **values: Any) -> str:  # noqa: ANN401 - what a template may show
        """Fill a text.

        Args:
            name: of the text, as in `templates`.
            values: the variables, all of `templates[name].gives`.

        Raises:
            ConfigError: the text fails on these values.
        """
        text = self.prompts.get(name) or self.templates[name].read()
        try:
            return rendered(compiled(text), values).strip()
        except Exception as error:  # whatever an author's template does with these values
            problem = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise ConfigError(f"{type(self).__name__}.prompts.{name}: {problem}") from error


@cache
def _shipped(path: str) -> str:
    if any(c in path for c in " \n"):
        return path
    package, _, rest = path.partition("/")
    return resources.files(package).joinpath(rest).read_text("utf-8")


def _from_file(text: str) -> str:
    if not text.startswith("@"):
        return text
    folder = recipe_folder()
    file = Path(text[1:]) if folder is None else folder / text[1:]
    try:
        return (file if file.is_file() else Path(text[1:])).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the prompt text {text[1:]} can't be read: {error}") from error


def _check(name: str, text: str, gives: tuple[str, ...]) -> None:
    try:
        tree: Parsed = _environment().parse(text)
        used = meta.find_undeclared_variables(tree)  # finds unknown filters and tests, too
    except TemplateError as error:
        raise ValueError(f"prompt text {name!r}: {error}") from error
    for variable in sorted(used - set(gives)):
        raise ValueError(
            f"prompt text {name!r} uses {variable!r}, but is given {', '.join(gives) or 'nothing'}"
            f"{nearest(variable, list(gives))}"
        )


@cache
def _environment() -> Sandbox:
    return Sandbox()


@cache
def compiled(text: str) -> Any:  # noqa: ANN401 - a jinja2 template
    """Compile a template in the sandbox.

    Raises:
        jinja2.TemplateSyntaxError: it is none.
    """
    return _environment().from_string(text)

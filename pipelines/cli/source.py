"""What a command line says of a source, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from catalog.sources import SourceSpec

Carry = Annotated[
    list[str] | None,
    typer.Option(help="Column that is carried along under its own name; repeatable."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="Column that need not be read, whatever it holds; repeatable."),
]
LabelSource = Annotated[
    str | None,
    typer.Option(help="Who chose: human, judge, reward_model, rule or relabel [unknown]."),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Encoding of the files, if it is told wrongly, for example cp1251 or gbk."),
]
Separator = Annotated[
    str | None,
    typer.Option(help="What stands between the cells of a CSV, if it is told wrongly."),
]
ImageFolder = Annotated[
    list[str] | None,
    typer.Option(help="Folder that paths of pictures in rows may lead to; repeatable."),
]
ImageHost = Annotated[
    list[str] | None,
    typer.Option(help="Host that addresses of pictures in rows may lead to; repeatable."),
]


def images_of(folders: list[str] | None, hosts: list[str] | None) -> dict[str, dict[str, Any]]:
    """The source's `images`, if the command line allows any."""
    given = {"folders": folders or [], "hosts": hosts or []}
    return {"images": given} if folders or hosts else {}


def mapping_of(words: list[str] | None) -> dict[str, str]:
    """The `--map our_column=their.column` words as a mapping.

    Raises:
        ConfigError: if a word is no such pair.
    """
    from prefactory.errors import ConfigError

    pairs = [(word, *word.split("=", 1)) if "=" in word else (word, "", "") for word in words or []]
    if wrong := [word for word, ours, theirs in pairs if not (ours and theirs)]:
        raise ConfigError([f"--map {word!r}: write our_column=their.column" for word in wrong])
    return {ours: theirs for _, ours, theirs in pairs}


Values = Annotated[
    str | None,
    typer.Option(
        "--values",
        help="What the values of a verdict mean: A=a,B=b,draw=tie (a: the first answer is better).",
    ),
]


def meanings_of(text: str | None) -> dict[str, str]:
    """The `--values value=a,value=b,...` of a verdict as a mapping.

    Raises:
        ConfigError: if a part is no such pair.
    """
    from prefactory.errors import ConfigError

    parts = [part.rpartition("=") for part in (text or "").split(",") if part.strip()]
    if wrong := [
        f"{value}={meaning}" for value, equals, meaning in parts if not (equals and value)
    ]:
        raise ConfigError(
            [f"--values {word!r}: write value=a, value=b or value=tie" for word in wrong]
        )
    return {value.strip(): meaning.strip() for value, _, meaning in parts}


def source_spec(fields: dict[str, Any]) -> SourceSpec:
    """A source from the options of a command.

    Raises:
        ConfigError: if a value can't be, in one sentence each.
    """
    import pydantic

    from catalog.sources import SourceSpec
    from prefactory.errors import ConfigError
    from prefactory.recipe import sentence

    try:
        return SourceSpec.model_validate(fields)
    except pydantic.ValidationError as error:
        items = error.errors(include_url=False)
        raise ConfigError([sentence(SourceSpec, dict(i)) for i in items]) from error

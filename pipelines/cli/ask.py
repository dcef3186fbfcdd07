"""A dialogue at the terminal for a source that no layout fits: which column is what?

`prefactory import` and `prefactory init` share it. What was answered becomes layout, mapping and
values of the source, as options would have said it, and is shown as such.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from catalog.sources.detect import NotKnownError, Sample
    from catalog.sources.guess import Guess

KINDS = {
    "1": ("a better and a worse answer", ("prompt", "chosen", "rejected")),
    "2": ("two answers and a verdict", ("prompt", "a", "b", "verdict")),
    "3": ("one answer", ("prompt", "response")),
    "4": ("a prompt only", ("prompt",)),
}
"""What a row may hold, and the columns that it takes."""
_LAYOUTS = {"2": "ab", "4": "prompts"}
_TOLD = {
    "prompt": "the prompt",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "a": "the first answer",
    "b": "the second answer",
    "verdict": "the verdict",
    "response": "the answer",
}


def known(fields: dict[str, Any], ask: bool = True) -> dict[str, Any]:
    """The fields of a source, with what was asked where no layout fits.

    Args:
        fields: of a `SourceSpec`.
        ask: whether to ask at all; it is done on a terminal only.

    Raises:
        DataError: the source can't be read, and nobody can be asked.
    """
    from pathlib import Path

    from catalog.sources import open_source
    from catalog.sources.detect import NotKnownError
    from pipelines.cli.source import source_spec

    try:
        open_source(source_spec(fields), Path.cwd())
    except NotKnownError as error:
        terminal = sys.stdin.isatty() and sys.stderr.isatty()
        if not (ask and terminal) or error.sample is None:
            raise
        return {**fields, **_asked(error, error.sample, str(fields["path"]))}
    return fields


def _asked(error: NotKnownError, sample: Sample, path: str) -> dict[str, Any]:
    import shlex

    from catalog.sources.guess import options_of

    _say(str(error).split("; ")[0] + ".")
    for i, column in enumerate(sample.columns, 1):
        _say(f"  {i:>2} {column}: {_example(sample, column)}")
    guess = error.guess
    mapping = _confirmed(guess, sample) if guess is not None else None
    layout = "ab"
    if mapping is None:
        layout, mapping = _mapping(sample)
    values = _values(mapping, sample, guess) if layout == "ab" else {}
    _say(f"prefactory import {shlex.quote(path)} {options_of(mapping, values, layout)}\n")
    return {"layout": layout, "mapping": mapping, "values": values}


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _example(sample: Sample, column: str) -> str:
    return next((str(v)[:60] for v in sample.raw(column)), "(empty)")


def _confirmed(guess: Guess, sample: Sample) -> dict[str, str] | None:
    """The mapping of a guess, if it is said to be right."""
    _say(
        f"It seems to hold two answers ({guess.a}, {guess.b}) and a verdict ({guess.verdict}); the "
        f"prompt is {guess.prompt or 'not plain'}."
    )
    if not typer.confirm("Is that right?", default=True, err=True):
        return None
    asked = guess.prompt or _column("prompt", sample)
    return {**guess.mapping, "prompt": asked}


def _mapping(sample: Sample) -> tuple[str, dict[str, str]]:
    """Layout and mapping by questions."""
    _say("What does a row hold?")
    for number, (told, _) in KINDS.items():
        _say(f"  {number} {told}")
    kind = _choice("Number", tuple(KINDS))
    mapping = {ours: _column(ours, sample) for ours in KINDS[kind][1]}
    return _LAYOUTS.get(kind, "auto"), mapping


def _column(ours: str, sample: Sample) -> str:
    """A column by its number or name; asked again until there is one."""
    while True:
        said = str(typer.prompt(f"Which column is {_TOLD[ours]}? (number or name)", err=True))
        if said in sample.columns:
            return said
        if said.isdigit() and 1 <= int(said) <= len(sample.columns):
            return sample.columns[int(said) - 1]
        _say(f"there is no column {said!r}")


def _values(mapping: Mapping[str, str], sample: Sample, guess: Guess | None) -> dict[str, str]:
    """What each value of the verdict means; a value that says it itself is offered so."""
    from catalog.sources.guess import UNKNOWN, meaning_of, values_of

    a, b, verdict = mapping["a"], mapping["b"], mapping["verdict"]
    known_values = guess.values if guess is not None and guess.verdict == verdict else {}
    seen = values_of(verdict, sample.records)
    values: dict[str, str] = {}
    for value in dict.fromkeys((*seen, *known_values)):
        meant = known_values.get(value) or meaning_of(value, a, b, verdict, seen)
        default = None if meant == UNKNOWN else meant
        told = f"{verdict} is {value!r}: which is better, a ({a}), b ({b}) or tie?"
        values[value] = _choice(told, ("a", "b", "tie"), default)
    return values


def _choice(question: str, choices: Sequence[str], default: str | None = None) -> str:
    while True:
        said = str(typer.prompt(question, default=default, err=True)).strip().lower()
        if said in choices:
            return said
        _say(f"say {', '.join(choices)}")

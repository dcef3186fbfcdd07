"""`prefactory votes`: labels, people and judges by votes; exchange with other tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.catalog import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.votes.page import Section

Votes = Annotated[
    str, typer.Argument(help="Name of a review, a version with votes, or a Parquet file of votes.")
]
Data = Annotated[
    str | None,
    typer.Option(help="The pairs voted on, if the review does not know: NAME@VERSION or a file."),
]
Page = Annotated[Path | None, typer.Option("--page", help="Write the report as an HTML page.")]
Sure = Annotated[
    float, typer.Option(min=0.5001, max=0.9999, help="Least posterior that makes a label.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="What people's votes come to.", no_args_is_help=True)
    for command in (labels, people, judges, contested):
        group.command()(command)
    app.add_typer(group, name="votes")


def labels(
    votes: Votes,
    out: Annotated[
        Path | None, typer.Option(help="Write the table of verdicts as Parquet.")
    ] = None,
    sure: Sure = 0.6,
    as_json: AsJson = False,
) -> None:
    """Count what votes come to, and estimate the share of wrong labels."""
    from pipelines.settings import Settings
    from pipelines.votes.load import population_of, votes_of
    from pipelines.votes.reports import labels as count

    settings = Settings()
    found = count(votes_of(votes, settings), population_of(votes, settings), sure)
    if out is not None:
        _write(out, lambda path: found.found.write_parquet(path))
    _print(found.as_dict(), found.lines(), as_json)


def people(votes: Votes, data: Data = None, page: Page = None, as_json: AsJson = False) -> None:
    """Report each person: agreement, skill, leaning to places and length, pace, gold rows."""
    from pipelines.settings import Settings
    from pipelines.votes.load import pairs_of, votes_of
    from pipelines.votes.reports import reviewers
    from prefactory.errors import ConfigError

    settings = Settings()
    table = votes_of(votes, settings)
    try:
        pairs = pairs_of(votes, data, settings)
    except ConfigError:
        if data is not None:
            raise
        pairs = None  # a file of votes alone: without prompts and lengths
    found = reviewers(table, pairs)
    _report(f"People of {votes}", found.sections(), found.as_dict(), page, as_json)


def judges(
    votes: Votes,
    data: Data = None,
    by: Annotated[
        str,
        typer.Option(help="Columns to slice by, with commas; also length_bucket and language."),
    ] = "",
    sure: Sure = 0.6,
    page: Page = None,
    as_json: AsJson = False,
) -> None:
    """Hold judges, reward models and stacks against people: where may each of them label?

    Reads the columns that labelers.JudgePairs, score labelers and
    labelers.PreferenceStack leave on the pairs. Prints `trusted_on`, which
    those judges take in a recipe.
    """
    from pipelines.settings import Settings
    from pipelines.votes.load import pairs_of, votes_of
    from pipelines.votes.reports import judges as measure

    settings = Settings()
    named = [name.strip() for name in by.split(",") if name.strip()]
    found = measure(votes_of(votes, settings), pairs_of(votes, data, settings), named, sure)
    _report(f"Judges by {votes}", found.sections(), found.as_dict(), page, as_json)


def contested(votes: Votes, as_json: AsJson = False) -> None:
    """List the pairs on which people disagree, the most undecided first."""
    from pipelines.settings import Settings
    from pipelines.votes.load import votes_of
    from prefactory.votes.verdicts import disagreement, verdicts

    rows = disagreement(verdicts(votes_of(votes, Settings())))
    names = ("row_id", "verdict", "posterior", "votes", "ties", "bad")
    found = rows.select(names).to_dicts()
    lines = [
        f"{r['row_id']}  {r['votes']} votes, {r['posterior']:.2f} for the label" for r in found
    ]
    _print({"rows": found}, lines or ["nobody disagrees"], as_json)


def _report(
    title: str, sections: Sequence[Section], data: dict[str, Any], page: Path | None, as_json: bool
) -> None:
    from pipelines.votes.page import page as build

    if page is not None:
        lead = "Sides as stored: a label that people contradict is a vote for the second side."
        _write(page, lambda path: path.write_text(build(title, lead, sections), "utf-8"))
    _print(data, [line for s in sections for line in _lines(s)], as_json)


def _lines(section: Section) -> list[str]:
    lines = ["", section.title, *(f"  {t}" for t in section.text)]
    table = [section.head, *section.rows]
    if not section.head or not section.rows:
        return lines
    widths = [max(len(row[i]) for row in table) for i in range(len(section.head))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _write(path: Path, write: Any) -> None:  # noqa: ANN401 - of a path
    from prefactory.errors import ConfigError

    try:
        write(path)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} can't be written: {error.strerror}") from error


def _print(data: dict[str, Any], lines: Sequence[str], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")
    else:
        typer.echo("\n".join(lines).strip("\n"))

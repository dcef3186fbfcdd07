"""`prefactory votes`: labels, people and judges by votes; exchange with other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

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
    group.command("round")(next_round)
    group.command("export")(export_tasks)
    group.command("import")(import_votes)
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
        typer.Option(
            help="Columns to slice by, with commas; also length_bucket, language and position."
        ),
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
    from pipelines.votes.reports import reasons

    settings = Settings()
    named = [name.strip() for name in by.split(",") if name.strip()]
    table, pairs = votes_of(votes, settings), pairs_of(votes, data, settings)
    if (table["task"] == "rationale").any():
        told = reasons(table, pairs, named)
        _report(f"Reasons by {votes}", told.sections(), told.as_dict(), page, as_json)
        return
    found = measure(table, pairs, named, sure)
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


def next_round(
    recipe: Annotated[Path, typer.Argument(help="A recipe with a step labelers.Annotations.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value words.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the next round.")] = 90,
    people_: Annotated[int, typer.Option("--people", min=1, help="Asked about each row.")] = 1,
    gold: Annotated[str | None, typer.Option(help="Rows whose label is known, in SQL.")] = None,
    target: Annotated[
        float, typer.Option(min=0, max=1, help="Share of wrong labels that is good enough.")
    ] = 0.02,
    budget: Annotated[int | None, typer.Option(min=1, help="Votes in all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the queues.")] = 0,
    page: Page = None,
    cron: Annotated[
        str | None,
        typer.Option(help='Serve it on a schedule, such as "0 6 * * *"; needs a Prefect server.'),
    ] = None,
    timezone: Annotated[str, typer.Option(help="Of --cron, such as Europe/Berlin.")] = "UTC",
    as_json: AsJson = False,
) -> None:
    """Run one round of a loop: votes so far become a version, and the next rows wait for people.

    The review of round k is called NAME-round-K. Run it again when people
    have voted, or on a schedule: a round that nobody has answered stays.
    """
    from pipelines.settings import Settings
    from pipelines.votes.rounds import Plan
    from pipelines.votes.rounds import next_round as run_round

    plan = Plan(rows, people_, gold, target, budget, seed)
    if cron is not None:
        from pipelines.conduct.nights import Night
        from pipelines.votes.nightly import schedule

        night = Night(f"{recipe.stem}-rounds", cron, timezone)
        schedule(recipe, overrides or [], plan, Settings(), page, night)
        return
    found = run_round(recipe, overrides or [], plan, Settings())
    if page is not None:
        from pipelines.votes.page import loop_page, write

        write(page, loop_page(found.version.manifest.name, found.sections()))
    _print(found.as_dict(), found.lines(), as_json)


def export_tasks(
    data: Annotated[
        str, typer.Argument(help="A review, or the pairs: NAME[@VERSION], a file or folder.")
    ],
    out: Annotated[Path, typer.Option(help="File to write (a folder for datasets).")],
    to: Annotated[str, typer.Option(help="label-studio, argilla, csv or datasets.")] = "csv",
    seed: Annotated[int, typer.Option(min=0, help="Of sides and order; import wants it too.")] = 0,
) -> None:
    """Write pairs as blind tasks of another tool; of a review, the rows of its queue."""
    from pipelines.settings import Settings
    from pipelines.votes.load import queued
    from review.exchange.files import write_tasks

    pairs = queued(data, Settings())
    written = write_tasks(pairs, _format(to), out, seed)
    typer.echo(f"{pairs.height:,} tasks: {', '.join(map(str, written))}")


def import_votes(
    file: Annotated[Path, typer.Argument(help="What people said in another tool.")],
    out: Annotated[Path, typer.Option(help="Parquet of votes to write.")],
    source: Annotated[
        str, typer.Option("--from", help="label-studio, argilla, csv or datasets.")
    ] = "csv",
    data: Annotated[
        str | None, typer.Option(help="The pairs or the review: unknown rows are an error then.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the tasks as exported.")] = 0,
    names: Annotated[bool, typer.Option("--names", help="Keep names, not pseudonyms.")] = False,
) -> None:
    """Read votes of another tool; `labelers.Annotations` and `prefactory votes` take the file."""
    from pipelines.settings import Settings
    from pipelines.votes.load import queued
    from prefactory.errors import DataError
    from review.exchange.files import read_votes
    from review.exchange.tasks import unknown

    table = read_votes(file, _format(source), seed, names)
    if data is not None and (odd := unknown(table, queued(data, Settings()))):
        raise DataError(f"{odd:,} of {table.height:,} votes are on rows that {data} does not hold")
    _write(out, lambda path: table.write_parquet(path))
    typer.echo(f"{table.height:,} votes of {table['person'].n_unique():,} people: {out}")


def _format(word: str) -> Any:  # noqa: ANN401 - `review.exchange.files.Format`
    from prefactory.errors import ConfigError
    from review.exchange.files import FORMATS

    if word not in FORMATS:
        raise ConfigError(f"no format {word!r}; there are {', '.join(FORMATS)}")
    return word


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
        write_json(data, default=str)
    else:
        typer.echo("\n".join(lines).strip("\n"))

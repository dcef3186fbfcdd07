"""`prefactory review`: people read, label and correct rows in a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pipelines.cli.source import Carry, Encoding, Ignore, Separator, mapping_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from review.settings import Settings
    from review.store import Review

PORT = 8642
Name = Annotated[str, typer.Argument(help="Name of the review.", metavar="REVIEW")]
Db = Annotated[
    str | None,
    typer.Option(help="postgresql://USER@HOST/NAME instead of a file [PREFACTORY_REVIEW_DB]."),
]


class _Group(TyperGroup):
    """`review NAME` is `review open NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["open", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        cls=_Group,
        help="People label, correct and decide in a browser: `prefactory review NAME|FILE`.",
        no_args_is_help=True,
    )
    group.command("open")(open_app)
    group.command()(invite)
    group.command()(dismiss)
    group.command()(status)
    group.command()(publish)
    app.add_typer(group, name="review")


def open_app(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A review that is there; or NAME[@VERSION], a file, folder, URL or hub id.",
            metavar="NAME|FILE",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--as", help="Name of the review [from the dataset].")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings as YAML, or a recipe with a section `review`."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of the settings, repeatable: people=3, task=rate."),
    ] = None,
    queue: Annotated[
        str | None,
        typer.Option(
            help="suspect, disagree, informative, random, all; or shares: suspect=.6,random=.4."
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Only rows that fit: \"trust < .3 and source = 'x'\".")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="How many rows.", min=1)] = None,
    gold: Annotated[
        str | None, typer.Option(help="Rows whose label is known to be right, as --where.")
    ] = None,
    guidelines: Annotated[
        Path | None, typer.Option(help="Markdown that is shown beside the rows.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="Table of a version.")] = None,
    layout: Annotated[str, typer.Option(help="Layout, if the detected one is wrong.")] = "auto",
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="our_column=their.column, repeatable.")
    ] = None,
    carry: Carry = None,
    ignore: Ignore = None,
    encoding: Encoding = None,
    separator: Separator = None,
    db: Db = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than localhost let others in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=0, max=65535)] = PORT,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    owner: Annotated[str, typer.Option(help="Your name in the review.")] = "owner",
) -> None:
    """Open a review at localhost; it is made first if it is not there."""
    from prefactory.extras import package

    package("starlette")  # said before rows are read
    given = {"queue": queue_of(queue), "where": where, "rows": rows, "gold": gold}
    settings = settings_of(config, sets, {k: v for k, v in given.items() if v is not None})
    fields = {
        "layout": layout, "mapping": mapping_of(mapping), "carry": carry, "ignore": ignore,
        "encoding": encoding, "separator": separator,
    }  # fmt: skip
    review = _review(dataset, name, settings, table, db, {k: v for k, v in fields.items() if v})
    if guidelines is not None:
        review.write_guideline(_text(guidelines))
    _serve(review, host, port, owner, browser)


def _review(
    dataset: str,
    name: str | None,
    settings: Settings | None,
    table: str | None,
    db: str | None,
    fields: dict[str, Any],
) -> Review:
    """The review of that name, else a new one of that dataset."""
    from pipelines.settings import Settings as Homes
    from review.settings import Settings, name_of
    from review.store import exists, open_review

    home = Homes().home
    known = name or name_of(dataset)
    if settings is None and exists(home, known, db):
        return open_review(home, known, db)
    from pipelines.review.making import make  # reads rows: slow to load, and not needed above

    return make(
        dataset, settings or Settings(), home=home, name=name, table=table, url=db, **fields
    )


def queue_of(text: str | None) -> dict[str, float] | None:
    """`suspect=.6,random=.4`, or one part alone.

    Raises:
        ConfigError: it is neither.
    """
    from prefactory.errors import ConfigError

    if text is None:
        return None
    parts = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if len(parts) == 1 and not parts[0][1]:
        return {parts[0][0]: 1.0}
    try:
        return {part: float(share) for part, _, share in parts}
    except ValueError as error:
        raise ConfigError(f"--queue {text!r}: write suspect=.6,random=.4") from error


def settings_of(
    config: Path | None, sets: list[str] | None, given: dict[str, Any]
) -> Settings | None:
    """Settings of a file, of `--set` words and of options, later ones above earlier ones.

    None if nothing is said.

    Raises:
        ConfigError: with all mistakes.
    """
    import pydantic

    from prefactory import yamllines
    from prefactory.errors import ConfigError
    from prefactory.overrides import nested
    from prefactory.recipe import sentence
    from review.settings import Settings

    if config is None and not sets and not given:
        return None
    data: dict[str, Any] = {}
    if config is not None:
        data, _ = yamllines.load(_text(config), config.name)
        if not isinstance(data, dict):
            raise ConfigError(f"{config.name}: settings are a mapping")
        data = data.get("review", data) if "steps" in data or "review" in data else data
    data = {**data, **nested(sets or []), **given}
    try:
        return Settings.model_validate(data)
    except pydantic.ValidationError as error:
        items = error.errors(include_url=False)
        raise ConfigError([f"review: {sentence(Settings, dict(i))}" for i in items]) from error


def _text(path: Path) -> str:
    from prefactory.errors import ConfigError

    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error


def _serve(review: Review, host: str, port: int, owner: str, browser: bool) -> None:
    from prefactory.errors import ConfigError
    from review import people
    from review.app.server import create_app

    known = {person.name: person.role for person in people.everyone(review)}
    if known.get(owner, "owner") != "owner":
        raise ConfigError(f"{owner!r} is {known[owner]} of this review; name its owner by --owner")
    said = f"others     prefactory review invite {review.name} NAME"
    listen(
        lambda hosts: create_app(review, hosts), f"review {review.name}", host, port,
        lambda: people.invite(review, owner, "owner"), said, browser,
        "Ctrl-C ends it; every vote is kept",
    )  # fmt: skip


def listen(
    make: Callable[[tuple[str, ...] | None], Any],
    what: str,
    host: str,
    port: int,
    token: Callable[[], str],
    said: str,
    browser: bool,
    end: str,
) -> None:
    """Serve an app: bind, say where it is and by which link, open a browser.

    Raises:
        ConfigError: the address is taken or is none.
    """
    import socket
    import webbrowser

    from prefactory.errors import ConfigError
    from review.app.guard import LOCAL
    from review.app.server import serve

    local = host in (*LOCAL, "::1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"can't listen at {host} port {port}: {error.strerror}; another one by --port"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    link = f"{address}/join/{token()}"

    def ready() -> None:
        typer.echo(f"{what} at {address}")
        typer.echo(f"your link  {link}")
        typer.echo(said)
        if not local:
            typer.echo("others can reach this port: put TLS before it, links are passwords")
        typer.echo(end)
        sys.stdout.flush()
        if browser:
            webbrowser.open(link)

    serve(make, listener, any_host=not local, ready=ready)


def invite(
    review: Name,
    people: Annotated[list[str], typer.Argument(help="Names.", metavar="NAME...")],
    role: Annotated[str, typer.Option(help="annotator, adjudicator or owner.")] = "annotator",
    url: Annotated[
        str, typer.Option(help="Address of the server, for the links.")
    ] = f"http://127.0.0.1:{PORT}",
    db: Db = None,
) -> None:
    """Make links for people, one each; a new link for the same name ends the old one."""
    from review import people as registry

    opened = _opened(review, db)
    for name in people:
        token = registry.invite(opened, name, role)
        typer.echo(f"{name}  {url.rstrip('/')}/join/{token}")


def dismiss(
    review: Name,
    name: Annotated[str, typer.Argument(help="Whose link and sessions to end.")],
    db: Db = None,
) -> None:
    """End a person's link and sessions; the votes stay."""
    from review import people

    people.dismiss(_opened(review, db), name)
    typer.echo(f"{name} can't vote any more; the votes stay")


def status(review: Name, db: Db = None) -> None:
    """Who has answered how much, and what is open."""
    from review import people
    from review.assignments import open_rows, progress

    opened = _opened(review, db)
    left = open_rows(opened)
    typer.echo(f"{opened.name}: {opened.meta('rows'):,} rows, {left:,} open")
    everyone = people.everyone(opened)
    with opened.db.read() as work:
        far = [progress(work, person, left) for person in everyone]
    for person, told in zip(everyone, far, strict=True):
        pace = "" if told.pace is None else f", {told.pace:.0f} s each"
        typer.echo(f"  {person.name} ({person.role}): {told.done:,} answered{pace}")


def publish(
    review: Name,
    name: Annotated[str | None, typer.Option(help="Name of the dataset [as reviewed].")] = None,
    names: Annotated[
        bool, typer.Option("--names", help="Publish people's names, not pseudonyms.")
    ] = False,
    min_votes: Annotated[int, typer.Option(help="Fewer votes decide nothing.", min=1)] = 1,
    on_tie: Annotated[str, typer.Option(help="Pairs that people find equal: drop, keep.")] = "drop",
    on_bad: Annotated[str, typer.Option(help="Pairs of two bad answers: drop, keep.")] = "drop",
    on_undecided: Annotated[
        str, typer.Option(help="Pairs whose votes decide nothing: drop, keep.")
    ] = "keep",
    on_flag: Annotated[str, typer.Option(help="Pairs that were flagged: drop, keep.")] = "keep",
    db: Db = None,
) -> None:
    """Publish what people said as a new version, with every vote in its table `annotations`."""
    from pipelines.review.publishing import publish as publish_review

    fates: dict[str, Any] = {
        "on_tie": on_tie,
        "on_bad": on_bad,
        "on_undecided": on_undecided,
        "on_flag": on_flag,
    }
    opened = _opened(review, db)
    done = publish_review(opened, name=name, pseudonyms=not names, min_votes=min_votes, **fates)
    typer.echo(done.summary())
    typer.echo(f"  digest     {done.version.manifest.content_digest}")
    typer.echo(f"  dataset    {done.version.path}")
    typer.echo(f"  report     {done.version.report}")


def _opened(name: str, db: str | None) -> Review:
    from pipelines.settings import Settings
    from review.store import open_review

    return open_review(Settings().home, name, db)

"""`prefactory serve`: the versions, models, rows and runs of a home in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.people.review import listen

PORT = 8643


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(serve)


def serve(
    invite: Annotated[
        list[str] | None,
        typer.Option(help="Make a link for a reader of this name; repeatable."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than localhost let others in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=0, max=65535)] = PORT,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    owner: Annotated[str, typer.Option(help="Your name.")] = "owner",
) -> None:
    """Browse the catalog at localhost: versions, differences, rows, models, runs in progress."""
    from pipelines.settings import Settings
    from prefactory.errors import ConfigError
    from prefactory.extras import package

    package("starlette")  # said before anything is read
    from pipelines.serve.routes import create_app
    from pipelines.serve.site import ROLES
    from review import people
    from review.store import registry

    settings = Settings()
    known = registry(settings.home / "serve", "catalog")
    roles = {person.name: person.role for person in people.everyone(known)}
    if roles.get(owner, "owner") != "owner":
        raise ConfigError(f"{owner!r} is {roles[owner]} of this catalog; name its owner by --owner")
    shown = f"[{host}]" if ":" in host else host
    for name in invite or ():
        token = people.invite(known, name, "reader", ROLES)
        typer.echo(f"{name}  http://{shown}:{port}/join/{token}")
    listen(
        lambda hosts: create_app(settings, hosts), f"catalog of {settings.home}", host, port,
        lambda: people.invite(known, owner, "owner", ROLES),
        "others     invite them on the page People", browser, "Ctrl-C ends it",
    )  # fmt: skip

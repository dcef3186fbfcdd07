"""The app: people, who may do what, and how pages find what they show."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import quote

from starlette.responses import Response

from catalog.versions import Version
from pipelines.settings import Settings
from prefactory.errors import PrefactoryError
from prefactory.recipe import NAME
from review.app import guard
from review.app.core import App, Call
from review.app.text import visible
from review.people import Role
from review.store import registry

HERE = Path(__file__).parent
ROLES: tuple[Role, ...] = ("reader", "owner")
"""A reader reads; an owner also tags, rolls back and invites."""
PAGE = 50
"""Rows of one page."""


class MissingError(PrefactoryError):
    """There is no such page; the text says what there is none of."""

    status = 404


class Site(App):
    """What all requests share.

    Attributes:
        factory: settings of the home that is shown.
    """

    def __init__(self, settings: Settings, hosts: tuple[str, ...] | None = guard.LOCAL) -> None:
        """Show a home (see `App`)."""
        review = registry(settings.home / "serve", "catalog")
        super().__init__(review, hosts, [HERE / "templates"])
        self.factory = settings
        self.templates.finalize = _shown
        self.templates.filters["path"] = lambda text: quote(str(text), safe="")


def _shown(value: object) -> object:
    """Every text of the data with its control and direction characters as marks."""
    return visible(value) if type(value) is str else value  # HTML of ours is another type


def site(call: Call) -> Site:
    """The app of a call."""
    assert isinstance(call.app, Site)  # noqa: S101 - handlers of this package have no other
    return call.app


def version_of(call: Call, name: str | None = None, number: str | None = None) -> Version:
    """The version that an address names.

    Raises:
        MissingError: there is none.
    """
    name = name if name is not None else str(call.request.path_params["name"])
    number = number if number is not None else str(call.request.path_params["version"])
    if not NAME.fullmatch(name) or not NAME.fullmatch(number):
        raise MissingError("There is no such version.")
    try:
        return site(call).factory.catalog.get(f"{name}@{number}")
    except PrefactoryError as error:
        raise MissingError(str(error)) from error


def asked(call: Call, name: str, most: int = 500) -> str:
    """A value of the address, without outer spaces."""
    return call.request.query_params.get(name, "")[:most].strip()


def page_of(call: Call) -> int:
    """The number of the page of a list, from 1."""
    wanted = asked(call, "page", 9)
    return max(int(wanted), 1) if wanted.isdecimal() else 1


def pages(total: int) -> int:
    """Pages of so many rows."""
    return max(math.ceil(total / PAGE), 1)


def sealed(data: bytes, kind: str, scripts: bool = False) -> Response:
    """A file of the home as a document that can do nothing to the pages around it.

    It has no origin (`sandbox`), so that it reads neither pages nor cookies, and no connection.
    """
    allowed = "; script-src 'unsafe-inline'" if scripts else ""
    policy = (
        f"sandbox{' allow-scripts' if scripts else ''}; default-src 'none'{allowed}; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return Response(data, media_type=kind, headers={"Content-Security-Policy": policy})

"""Pages of what changed and where it comes from; and the few things that an owner may do."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from catalog.history import tags
from catalog.history.diff import diff as compared
from catalog.history.lineage import Lineage, of_row, of_version
from catalog.versions import Version
from pipelines.needs import calls_of, needs
from pipelines.serve.rows import explained
from pipelines.serve.site import PAGE, ROLES, MissingError, asked, sealed, site, version_of
from review import people
from review.app.core import Call, redirect, role
from review.app.forms import text

MOST = 4 * PAGE
"""Rows of a difference that the page lists."""


@role("reader")
def diff(call: Call) -> Response:
    """The difference between two versions; without them the form that asks which."""
    catalog = site(call).factory.catalog
    refs = [v.ref for v in catalog]
    old, new = asked(call, "a"), asked(call, "b")
    if not old or not new:
        return call.page("diff.html.j2", refs=refs, old=old, new=new, found=None, tables=[])
    sides = [version_of(call, *ref.partition("@")[::2]) for ref in (old, new)]
    found = compared(*sides)
    tables = [
        {
            "told": table,
            "rows": table.rows.head(MOST).to_dicts(),
        }
        for table in found.tables
    ]
    return call.page(
        "diff.html.j2", refs=refs, old=old, new=new, found=found, tables=tables, most=MOST,
        sides=[v.manifest for v in sides],
    )  # fmt: skip


def _lineage(call: Call, version: Version) -> Lineage:
    factory = site(call).factory
    if "row" not in call.request.path_params:
        return of_version(version, factory.catalog, needs(factory.home))
    found = explained(call, version)
    return of_row(version, found, calls_of(factory, found))


@role("reader")
def lineage(call: Call) -> Response:
    """Where a version comes from and what was made of it, drawn and as a list."""
    version = version_of(call)
    graph = _lineage(call, version)
    return call.page(
        "lineage.html.j2", ref=version.ref, manifest=version.manifest,
        row=call.request.path_params.get("row"), lines=graph.lines(),
        picture=f"{call.request.url.path}.svg",
    )  # fmt: skip


@role("reader")
def picture(call: Call) -> Response:
    """The drawing alone."""
    return sealed(_lineage(call, version_of(call)).svg().encode(), "image/svg+xml")


# -- what an owner may do -----------------------------------------------------------------------


def _back(version: Version) -> Response:
    name, number = (quote(part) for part in version.ref.split("@"))
    return redirect(f"/v/{name}/{number}")


@role("owner")
def tag(call: Call) -> Response:
    """Give a version a name."""
    version = version_of(call)
    tags.tag(site(call).factory.catalog, version.ref, text(call.form, "tag", 100))
    return _back(version)


@role("owner")
def untag(call: Call) -> Response:
    """Take a name away."""
    version = version_of(call)
    name = text(call.form, "tag", 100)
    tags.untag(site(call).factory.catalog, version.manifest.name, name)
    return _back(version)


@role("owner")
def rollback(call: Call) -> Response:
    """Let the bare name mean this version, until a newer one is published."""
    version = version_of(call)
    tags.rollback(site(call).factory.catalog, version.ref)
    return _back(version)


@role("owner")
def readers(call: Call) -> Response:
    """Who may read here."""
    return _readers(call)


def _readers(call: Call, link: dict[str, str] | None = None) -> Response:
    everyone = people.everyone(call.app.review)
    return call.page("people.html.j2", everyone=everyone, link=link, roles=ROLES)


@role("owner")
def invite(call: Call) -> Response:
    """A link for somebody, shown once."""
    name = text(call.form, "name", 200)
    wanted = text(call.form, "role") or "reader"
    token = people.invite(call.app.review, name, wanted, ROLES)
    base = str(call.request.base_url).rstrip("/")
    return _readers(call, {"name": name, "url": f"{base}/join/{quote(token)}"})


@role("owner")
def dismiss(call: Call) -> Response:
    """End somebody's link and sessions."""
    name = text(call.form, "name", 200)
    if name == call.who.name:
        raise MissingError("You can't dismiss yourself.")
    people.dismiss(call.app.review, name)
    return redirect("/people")

"""The addresses."""

from __future__ import annotations

from typing import Any

from pipelines.serve import history, rows, versions
from pipelines.serve.site import Site
from pipelines.settings import Settings
from review.app import guard, pages
from review.app.core import Handler
from review.app.server import asgi

_OF = "/v/{name}/{version}"
ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/"): versions.home,
    ("GET", "/runs"): versions.runs,
    ("GET", "/reviews"): versions.reviews,
    ("GET", "/models/{name}"): versions.model,
    ("GET", "/models/{name}/report"): versions.model_report,
    ("GET", "/d/{name}"): versions.dataset,
    ("GET", _OF): versions.version,
    ("GET", f"{_OF}/report"): versions.report,
    ("GET", f"{_OF}/drift"): versions.drift,
    ("GET", f"{_OF}/audit"): versions.audit,
    ("GET", f"{_OF}/ledger"): rows.ledger,
    ("GET", f"{_OF}/table/{{table}}"): rows.table,
    ("GET", f"{_OF}/lineage"): history.lineage,
    ("GET", f"{_OF}/lineage.svg"): history.picture,
    ("GET", f"{_OF}/row/{{row:path}}/lineage"): history.lineage,
    ("GET", f"{_OF}/row/{{row:path}}/lineage.svg"): history.picture,
    ("GET", f"{_OF}/row/{{row:path}}"): rows.row,  # `file:line` of a record may hold slashes
    ("GET", "/search"): rows.search,
    ("GET", "/diff"): history.diff,
    ("POST", f"{_OF}/tag"): history.tag,
    ("POST", f"{_OF}/untag"): history.untag,
    ("POST", f"{_OF}/rollback"): history.rollback,
    ("GET", "/people"): history.readers,
    ("POST", "/people"): history.invite,
    ("POST", "/people/dismiss"): history.dismiss,
    ("GET", "/join/{token}"): pages.join,
    ("POST", "/join/{token}"): pages.start,
    ("POST", "/leave"): pages.leave,
    ("GET", "/bye"): pages.bye,
    ("GET", "/favicon.ico"): pages.favicon,
}


def create_app(settings: Settings, hosts: tuple[str, ...] | None = guard.LOCAL) -> Any:  # noqa: ANN401
    """The ASGI app of a home."""
    return asgi(Site(settings, hosts), ROUTES)

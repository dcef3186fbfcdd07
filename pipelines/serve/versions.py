"""Pages of the home, of datasets and versions, of models, reviews and runs."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from starlette.responses import Response

from catalog.history.drift import read as read_drift
from catalog.history.removal import parents
from catalog.report.drift import page as drift_page
from pipelines.serve import facts
from pipelines.serve.running import running
from pipelines.serve.site import MissingError, sealed, site, version_of
from prefactory.recipe import NAME
from review.app.core import Call, role


@role("reader")
def home(call: Call) -> Response:
    """Everything there is, in short."""
    settings = site(call).factory
    listed = []
    for name in settings.catalog.names():
        versions, head = facts.dataset(settings, name)
        if versions:
            listed.append({"name": name, "versions": versions, "head": head})
    return call.page(
        "home.html.j2",
        datasets=listed,
        runs=_runs(call),
        models=facts.models(settings.home),
        reviews=facts.reviews(settings.home),
    )


def _runs(call: Call) -> list[dict[str, Any]]:
    now = time.time()
    return [
        {"run": run, "minutes": (now - run.began) / 60, "ended": run.ended}
        for run in running(site(call).factory.home)
    ]


@role("reader")
def runs(call: Call) -> Response:
    """Runs in progress, with what they have cost so far."""
    return call.page("runs.html.j2", runs=_runs(call))


@role("reader")
def dataset(call: Call) -> Response:
    """The versions of a dataset, and how they went."""
    name = str(call.request.path_params["name"])
    settings = site(call).factory
    versions, head = facts.dataset(settings, name) if NAME.fullmatch(name) else ([], None)
    if not versions:
        raise MissingError("There is no such dataset.")
    trained = [m for m in facts.models(settings.home) if m.ref.startswith(f"{name}@")]
    return call.page(
        "dataset.html.j2", name=name, versions=versions[::-1], head=head, trained=trained,
        trends=facts.trends(versions, trained),
    )  # fmt: skip


@role("reader")
def version(call: Call) -> Response:
    """A version: its rows, its steps, where it comes from, who uses it."""
    found = version_of(call)
    settings = site(call).factory
    versions, head = facts.dataset(settings, found.manifest.name)
    told = next(t for t in versions if t.version.ref == found.ref)
    at = versions.index(told)
    return call.page(
        "version.html.j2", told=told, manifest=found.manifest, ref=found.ref, head=head,
        before=versions[at - 1].version.manifest.version if at else None,
        newest=at == len(versions) - 1,
        parents=[p.ref for p in parents(found, settings.catalog)],
        models=[m for m in facts.models(settings.home) if m.ref == found.ref],
        reviews=[r for r in facts.reviews(settings.home) if r.source == found.ref],
        audit=facts.audit_of(settings.home, found) is not None,
        drift=read_drift(found.path),
    )  # fmt: skip


@role("reader")
def report(call: Call) -> Response:
    """The report of a version, as it was published."""
    found = version_of(call)
    try:
        data = (found.path / "report.html").read_bytes()
    except OSError as error:
        raise MissingError(f"{found.ref} has no report that can be read.") from error
    kept = found.manifest.files.get("report.html", {})
    if kept.get("sha256") != hashlib.sha256(data).hexdigest():
        raise MissingError(
            f"The report of {found.ref} is not the one that was published; `prefactory catalog "
            "verify` tells more."
        )
    return sealed(data, "text/html; charset=utf-8", scripts=True)


@role("reader")
def drift(call: Call) -> Response:
    """How a version differs from the one before it, as it was found when it was published."""
    found = read_drift(version_of(call).path)
    if found is None:
        raise MissingError("There was no version before it, or what was found can't be read.")
    return sealed(drift_page(found).encode(), "text/html; charset=utf-8")


@role("reader")
def audit(call: Call) -> Response:
    """The newest audit of a version."""
    path = facts.audit_of(site(call).factory.home, version_of(call))
    if path is None:
        raise MissingError("There is no audit of this version; `prefactory audit` makes one.")
    return sealed(path.read_bytes(), "text/html; charset=utf-8", scripts=True)


def _model(call: Call) -> facts.Model:
    name = str(call.request.path_params["name"])
    found = [m for m in facts.models(site(call).factory.home) if m.name == name]
    if not found:
        raise MissingError("There is no such model.")
    return found[0]


@role("reader")
def model(call: Call) -> Response:
    """A model: what it was trained on and how well it does."""
    found = _model(call)
    path = site(call).factory.home / "models" / found.name / "report.html"
    plain = [
        (name, value)
        for part in ("config", "facts")
        for name, value in sorted((found.facts.get(part) or {}).items())
        if isinstance(value, str | int | float | bool)
    ]
    measured = [
        (split, name, value)
        for split, values in sorted((found.facts.get("metrics") or {}).items())
        for name, value in sorted((values or {}).items())
        if isinstance(value, int | float)
    ]
    return call.page(
        "model.html.j2", model=found, plain=plain, measured=measured, report=path.is_file(),
        known=_known(call, found.ref),
    )  # fmt: skip


def _known(call: Call, ref: str) -> bool:
    name, _, number = ref.partition("@")
    catalog = site(call).factory.catalog
    return bool(NAME.fullmatch(name)) and number in {
        v.manifest.version for v in catalog.versions(name)
    }


@role("reader")
def model_report(call: Call) -> Response:
    """The report of a training."""
    path = site(call).factory.home / "models" / _model(call).name / "report.html"
    if not path.is_file():
        raise MissingError("This model has no report.")
    return sealed(path.read_bytes(), "text/html; charset=utf-8", scripts=True)


@role("reader")
def reviews(call: Call) -> Response:
    """The reviews of the home."""
    return call.page("reviews.html.j2", reviews=facts.reviews(site(call).factory.home))

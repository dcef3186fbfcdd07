"""`prefactory catalog`: what changed, where things come from, names, removal, other places."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.catalog import AsJson, Ref
from pipelines.terminal import write_json

if TYPE_CHECKING:
    from catalog.history.lineage import Lineage
    from catalog.history.removal import Goes
    from pipelines.settings import Settings

RefOrModel = Annotated[
    str, typer.Argument(help="NAME, NAME@VERSION, a version folder, or a model's name or folder.")
]
Old = Annotated[str, typer.Argument(help="NAME, NAME@VERSION or a version folder.", metavar="A")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it is said what would go.")]
New = Annotated[str, typer.Argument(help="The version that is taken as after.", metavar="B")]


def register(group: typer.Typer) -> None:
    """Add the commands of this module to `prefactory catalog`."""
    for command in (diff, drift, lineage, models, tag, untag, rollback, rm, gc, push, pull):
        group.command()(command)


def diff(
    old: Old,
    new: New,
    rows: Annotated[
        Path | None,
        typer.Option(help="Write every difference to a .parquet, .csv or .jsonl file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show rows added, removed, relabelled and rescored, and what in the recipe did it."""
    from catalog.history.diff import diff as compare
    from catalog.history.diff import write_rows
    from pipelines.settings import Settings

    catalog = Settings().catalog
    found = compare(catalog.get(old), catalog.get(new))
    if rows is not None:
        write_rows(found, rows)
    if as_json:
        write_json(found.to_dict(), ensure_ascii=True)
        return
    for line in found.lines():
        typer.echo(line)


def drift(
    child: Ref,
    parent: Annotated[
        str | None, typer.Argument(help="Another version than the one before it.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write an HTML page to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the distributions of a version with those of the version before it."""
    from catalog.history.drift import drift as compare
    from catalog.history.drift import parent_of
    from catalog.report.drift import page as page_of
    from pipelines.settings import Settings
    from prefactory.errors import CatalogError
    from prefactory.folders import new_file

    catalog = Settings().catalog
    version = catalog.get(child)
    before = catalog.get(parent) if parent else parent_of(version.manifest, catalog)
    if before is None:
        raise CatalogError(f"{version.ref} has no version before it; name one to compare with")
    found = compare(before, version)
    if found is not None and page is not None:
        with new_file(page) as file:
            file.write(page_of(found).encode())
    if found is None:
        typer.echo(f"{version.ref} has no table in common with the other version")
    elif as_json:
        write_json(found.to_dict())
    else:
        for line in found.lines():
            typer.echo(line)


def lineage(
    ref: RefOrModel,
    row: Annotated[
        str | None,
        typer.Option(help="A row of it: its id, FILE:LINE of a source, or a piece of its text."),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write a picture to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show where a version, a row of it or a model comes from and what was made of it."""
    from pipelines.settings import Settings
    from prefactory.folders import new_file

    graph = _graph(ref, row, Settings())
    if svg is not None:
        with new_file(svg) as file:
            file.write(graph.svg().encode())
    if as_json:
        write_json(graph.to_dict())
        return
    for line in graph.lines():
        typer.echo(line)


def _graph(ref: str, row: str | None, settings: Settings) -> Lineage:
    """The lineage of a model, a version or a row of it."""
    from catalog.history.lineage import of_row, of_version
    from pipelines.needs import calls_of, needs, store_of
    from pipelines.training.known import lineage as of_model
    from pipelines.training.known import model_at

    if row is None and (model := model_at(ref, settings)) is not None:
        return of_model(model, settings)
    version = settings.catalog.get(ref)
    if row is None:
        return of_version(version, settings.catalog, needs(settings.home))
    (first, *_) = version.explain(row, store_of(settings, version)).rows
    return of_row(version, first, calls_of(settings, first))


def models(as_json: AsJson = False) -> None:
    """List the models in PREFACTORY_HOME/models: data, method, accuracy, which are promoted."""
    from pipelines.settings import Settings
    from pipelines.training.known import known

    found = known(Settings())
    if as_json:
        rows = [{**asdict(m), "folder": str(m.folder)} for m in found]
        write_json(rows)
        return
    for model in found:
        mark = f"; promoted for {', '.join(model.promoted)}" if model.promoted else ""
        typer.echo(f"{model.folder.name}: {model.told}, on {model.dataset}{mark}")
    if not found:
        typer.echo("no models; `prefactory train METHOD NAME --model MODEL` makes one")


def tag(ref: Ref, name: Annotated[str, typer.Argument(help="The tag, such as `good`.")]) -> None:
    """Give a version a name: NAME@TAG then means it, and gc and rm leave it."""
    from catalog.history.tags import tag as set_tag
    from pipelines.settings import Settings

    version = set_tag(Settings().catalog, ref, name)
    typer.echo(f"{version.manifest.name}@{name} is {version.ref}")


def untag(ref: Annotated[str, typer.Argument(help="NAME@TAG.")]) -> None:
    """Take a tag away; the version stays."""
    from catalog.history.tags import untag as take_away
    from pipelines.settings import Settings

    dataset, _, name = ref.partition("@")
    typer.echo(f"{ref} was {dataset}@{take_away(Settings().catalog, dataset, name)}")


def rollback(ref: Ref) -> None:
    """Let the bare name mean an older version, until a newer one is published; nothing goes."""
    from catalog.history.tags import rollback as roll_back
    from pipelines.settings import Settings

    version = roll_back(Settings().catalog, ref)
    typer.echo(f"{version.manifest.name} is {version.ref} now")


def rm(ref: Ref, yes: Yes = False) -> None:
    """Remove a version that no tag, other version, model or review needs."""
    from catalog.history.removal import alone, removable, remove
    from pipelines.needs import needs
    from pipelines.settings import Settings

    settings = Settings()
    if settings.catalog_bucket is not None:
        goes = _rm_there(settings, ref, yes)
        done = "removed" if yes else "would be removed (--yes does it)"
        typer.echo(f"{ref}, {goes.size / 1e6:,.1f} MB, {done} in {settings.catalog_bucket}")
        return
    with alone(settings.catalog, settings.store) if yes else nullcontext():
        goes = removable(settings.catalog, ref, needs(settings.home))
        if yes or goes.why:
            remove(settings.catalog, goes)  # which says why it stays
    done = "removed" if yes else "would be removed (--yes does it)"
    typer.echo(f"{ref}, {goes.size / 1e6:,.1f} MB, {done}")


def _rm_there(settings: Settings, ref: str, yes: bool) -> Goes:
    """Remove a version from a bucket, if nothing on any machine needs it."""
    from catalog.history.retire import removable, remove
    from catalog.history.shared import BucketCatalog
    from pipelines.needs import tell

    catalog = settings.catalog
    assert isinstance(catalog, BucketCatalog)  # noqa: S101 - what the settings open
    tell(settings)
    goes = removable(catalog, ref)
    if yes or goes.why:
        remove(catalog, goes)  # which says why it stays
    return goes


def gc(
    keep: Annotated[
        int | None,
        typer.Option(help="Newest versions of each dataset that stay; by default all.", min=1),
    ] = None,
    days: Annotated[
        float, typer.Option(help="Intermediate results younger than this stay.", min=0)
    ] = 7.0,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove intermediate results that no version names, and old versions if --keep says so."""
    from catalog.history.removal import alone, collect, garbage
    from pipelines.needs import needs
    from pipelines.settings import Settings

    settings = Settings()
    catalog, store = settings.catalog, settings.store
    with (
        alone(catalog, store) if yes else nullcontext()
    ):  # what is needed now, and not a moment ago
        found = garbage(catalog, store, needs(settings.home), keep=keep, days=days)
        freed = collect(catalog, store, found) if yes else 0
    there, more = _gc_there(settings, days, yes)
    found, freed = found + there, freed + more
    going = [g for g in found if not g.why]
    if as_json:
        rows = [{"what": g.what, "name": g.name, "bytes": g.size, "why": g.why} for g in found]
        write_json({"removed": yes, "found": rows}, ensure_ascii=True)
        return
    for one in found:
        if one.what == "version":
            typer.echo(f"{one.name}: {'stays: ' + '; '.join(one.why) if one.why else 'goes'}")
    objects = sum(g.what == "object" for g in going)
    size = (freed if yes else sum(g.size for g in going)) / 1e6
    done = "removed" if yes else "would be removed (--yes does it)"
    told = f"{len(going) - objects} versions and {objects:,} intermediate results"
    typer.echo(f"{told}, {size:,.1f} MB, {done}")


def _gc_there(settings: Settings, days: float, yes: bool) -> tuple[list[Goes], int]:
    """As `gc`, of what lies in a bucket."""
    from catalog.history.leftovers import collect, garbage
    from catalog.history.shared import BucketCatalog
    from prefactory.sharing.presence import alone

    bucket, catalog = settings.shared, settings.catalog
    if bucket is None:
        return [], 0
    if not isinstance(catalog, BucketCatalog):
        typer.echo(
            f"what lies in {bucket.url} stays: only a catalog in a bucket (PREFACTORY_CATALOG) "
            "knows what all machines need of it",
            err=True,
        )
        return [], 0
    with alone(bucket) if yes else nullcontext():
        found = garbage(bucket, catalog, days)
        return found, collect(bucket, found) if yes else 0


def push(
    ref: RefOrModel,
    to: Annotated[
        str,
        typer.Argument(
            help="Folder, s3://BUCKET/PREFIX, hf://datasets/USER/NAME; of a model hf://USER/NAME."
        ),
    ],
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="Everybody may read a repository of the hub that is made now."
        ),
    ] = False,
) -> None:
    """Write a whole version elsewhere, its manifest last; to the hub, as models, in one commit."""
    from catalog.history.exchange import push as send
    from pipelines.settings import Settings
    from pipelines.training.hub import push as push_model
    from pipelines.training.known import model_at

    settings = Settings()
    if (model := model_at(ref, settings)) is not None:
        typer.echo(f"{model.folder.name} is in {push_model(model, to, public)}")
        return
    version = settings.catalog.get(ref)
    typer.echo(f"{version.ref} is in {send(version, to, public=public)}")


def pull(
    address: Annotated[str, typer.Argument(help="The version's folder there, as push says it.")],
) -> None:
    """Bring a version from elsewhere into the catalog; every file is checked."""
    from catalog.history.exchange import pull as fetch
    from pipelines.settings import Settings

    version = fetch(Settings().catalog, address)
    typer.echo(f"{version.ref}: {version.path}")

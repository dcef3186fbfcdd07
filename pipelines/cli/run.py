"""`prefactory run | check | plan`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

if TYPE_CHECKING:
    from catalog.sources import OpenSource
    from pipelines.build import Outcome
    from pipelines.estimate import Estimate, Kept
    from pipelines.ping import Ping
    from pipelines.settings import Settings
    from prefactory.recipe import Recipe

RecipePath = Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value words, such as filters.ISA.fraction=0.2 or seed=3."),
]
Prices = Annotated[
    Path | None,
    typer.Option(help="YAML of `model: [input, output]`, US dollars per million tokens."),
]

BudgetUsd = Annotated[
    float | None, typer.Option(help="US dollars that new model calls may cost.", min=0)
]
BudgetTokens = Annotated[
    int | None, typer.Option(help="Tokens that new model calls may use.", min=0)
]
BudgetName = Annotated[
    str | None,
    typer.Option(
        help="Spend it together with all commands in this home, or bucket of --store, that name "
        "the same budget; {date} is today.",
        metavar="NAME",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(run)
    app.command()(check)
    app.command()(plan)


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(help="Shards in work at a time.", min=1)] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows of a shard, about.", min=1)] = 16384,
    fit_rows: Annotated[
        int,
        typer.Option(help="Rows of a dataset-wide step that one worker holds, about.", min=1),
    ] = 1 << 20,
    runner: Annotated[
        str | None,
        typer.Option(
            help="prefect, or threads (no server); by default prefect if it is installed."
        ),
    ] = None,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    budget_name: BudgetName = None,
    prices: Prices = None,
    fresh: Annotated[
        list[str] | None,
        typer.Option(help="Ask this step anew: its answers are dropped (may be repeated)."),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Drop the answers that could not be used, and ask again for what failed.",
        ),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(help="Ray cluster that does the work: host:port of its head, or local."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            envvar="PREFACTORY_STORE",
            help="Bucket of intermediate outputs, answers and budgets: s3://bucket/prefix.",
        ),
    ] = None,
    catalog: Annotated[
        str | None,
        typer.Option(
            envvar="PREFACTORY_CATALOG",
            help="Bucket of the published versions; the home keeps copies.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: curate, publish, report, train. Run it again to resume or to reuse."""
    from pipelines.conduct.stopping import end_at_signals
    from pipelines.settings import Settings, default_workers
    from prefactory.engines.accounts import budget_of
    from prefactory.errors import ConfigError

    end_at_signals()
    if runner not in ("prefect", "threads", None):
        raise ConfigError(f"--runner {runner!r}: choose prefect or threads")
    budget = budget_of(budget_usd, budget_tokens, budget_name)
    at_a_time = workers or (_slots(cluster) if cluster else default_workers())
    settings = Settings(
        workers=at_a_time, shard_rows=shard_rows, fit_rows=fit_rows, budget=budget, prices=prices,
        fresh=tuple(fresh or ()), retry_failed=retry_failed, cluster=cluster,
        bucket=store or None, catalog_bucket=catalog or None,
    )  # fmt: skip
    started = time.monotonic()
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # libraries talk, Ray does
        outcome = _run(recipe, overrides or [], settings, runner)
    if as_json:
        write_json(_machine(outcome), ensure_ascii=True)
    else:
        _show(outcome, time.monotonic() - started, recipe)


def _slots(cluster: str) -> int:
    from pipelines.conduct.cluster import Cluster

    return Cluster(cluster).slots


def _run(recipe: Path, overrides: list[str], settings: Settings, runner: str | None) -> Outcome:
    from importlib.util import find_spec

    from pipelines.build import build, check_recipe
    from prefactory.stages import thread_mapper

    checked, sources, _ = check_recipe(recipe, overrides)  # before any server is started
    if runner is None and find_spec("prefect") is None:
        typer.echo(
            "Prefect is not installed, so this runs on threads (pip install -e '.[prefect]' for "
            "its pages and schedules)",
            err=True,
        )
        runner = "threads"
    if runner == "threads":
        return build(checked, sources, settings, thread_mapper(settings.workers))
    from pipelines.flows import run_curate

    return run_curate(recipe, overrides, settings)


def _machine(outcome: Outcome) -> dict[str, object]:
    version = outcome.published.version
    return {
        "name": version.manifest.name,
        "version": version.manifest.version,
        "content_digest": version.manifest.content_digest,
        "path": str(version.path),
        "columns": {s["name"]: s.get("columns") for s in version.manifest.sources},
        "new": outcome.published.new,
        "stages": [
            {
                "label": s.label,
                "rows_in": s.rows_in,
                "rows_out": s.rows_out,
                "reasons": s.reasons,
                "notes": s.notes,
                "unanswered": s.unanswered,
                "doubts": s.doubts,
                "usage": s.usage,
                "seconds": round(s.seconds, 3),
                "made": s.made,
                "reused": s.reused,
            }
            for s in outcome.stages
        ],
        "paid": outcome.used,
        "review": outcome.review,
        "models": [{"method": t.method, "path": str(t.path)} for t in outcome.trained],
        "pays": version.told("pays.json") or None,
    }


def _show(outcome: Outcome, seconds: float, recipe: Path) -> None:
    from catalog.sources import account_lines
    from pipelines.build import pays_lines

    console = Console(highlight=False, soft_wrap=True)
    version = outcome.published.version
    manifest = version.manifest
    state = "published" if outcome.published.new else "already published, nothing to do"
    console.print(f"\n[bold]{version.ref}[/] {state} in {seconds:.1f} s")
    for name, record in manifest.tables.items():
        splits = ", ".join(f"{split} {rows:,}" for split, rows in record.splits.items())
        console.print(f"  {name:<10} {splits}")
    for source in manifest.sources:
        if "columns" in source:
            console.print(f"  columns of {source['name']}:", markup=False)
            for line in account_lines(source["columns"]):
                console.print(f"    {line}", markup=False)
    for line in [*pays_lines(version), *_model_lines(outcome, recipe)]:
        console.print(f"  {line}", markup=False)
    console.print(f"  digest     {manifest.content_digest}")
    console.print(f"  dataset    {version.path}", markup=False)
    console.print(f"  report     {version.path / 'report.html'}", markup=False)
    if outcome.review is not None:
        console.print(f"\nreview  prefactory review {outcome.review}", markup=False)
    for trained in outcome.trained:
        console.print(f"\n[bold]{trained.method}[/] trained on {version.ref}: {trained.path}")
        console.print(trained.summary, markup=False)
    console.print("\nNext:")
    for line in _next_steps(version.ref, outcome):
        console.print(f"  {line}", markup=False)


def _model_lines(outcome: Outcome, recipe: Path) -> list[str]:
    """What failed on the way to models, what could not be used, and what it cost."""
    from pipelines.build import cost_lines, doubt_lines

    lines = []
    for stage in outcome.stages:
        if stage.unanswered:
            told = ", ".join(f"{reason} {n:,}" for reason, n in stage.unanswered.items())
            lines.append(
                f"{stage.label}: the model could not be reached for some rows ({told}); the same "
                "command asks for them again"
            )
    lines += doubt_lines(outcome.stages, recipe)
    return lines + cost_lines(outcome.published.version.manifest)


def _next_steps(ref: str, outcome: Outcome) -> list[str]:
    name = ref.split("@")[0]
    lines = [f"prefactory catalog show {name}", f"prefactory catalog verify {name}"]
    if "pairs" in outcome.published.version.manifest.tables:
        lines.append(f"prefactory export {name} --layout trl --out {name}-trl")
        if not outcome.trained:
            lines.append(f"prefactory train reward {name} --backend stack")
        lines.append(f"prefactory train dpo {name} --model PATH_OR_HUB_ID")
    return lines


def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check a recipe and its source without running it; all mistakes at once."""
    from pipelines.build import check_recipe

    checked, sources, planned = check_recipe(recipe, overrides or [], whole=True)
    _check_number(checked, sources)
    shape = sources[0].shape.value
    typer.echo(
        f"{checked.path.name} is fine: {len(sources)} source(s) of {shape}, {len(planned)} steps"
    )


def _check_number(recipe: Recipe, sources: Sequence[OpenSource]) -> None:
    """Refuse a `version` of a recipe that the catalog would refuse once all work is done."""
    from catalog.publish import check_number
    from pipelines.settings import Settings

    check_number(Settings().catalog, recipe, [source.identity() for source in sources])


def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    prices: Prices = None,
    ping: Annotated[
        bool, typer.Option("--ping", help="Ask each server for one token, to see that it is up.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe will do: sources, steps, tables, columns, and what models will cost."""
    from catalog.sources import account_lines
    from pipelines.build import check_recipe
    from pipelines.estimate import estimate, kept, means_of
    from pipelines.journal import answers
    from pipelines.ping import ping as ping_models
    from pipelines.settings import Settings
    from prefactory.plan import describe

    checked, sources, planned = check_recipe(recipe, overrides or [], whole=True)
    _check_number(checked, sources)
    rows = describe(planned)
    means = means_of(answers(Settings()), checked.name)
    estimates = estimate(planned, sources, prices, means)
    local = kept(planned, sources)
    pings = ping_models(planned) if ping else []
    if as_json:
        data = {
            "name": checked.name,
            "sources": [{**s.identity(), "columns": s.account.to_dict()} for s in sources],
            "steps": rows,
            "calls": [e.__dict__ for e in estimates],
            **({"passes": [k.__dict__ for k in local]} if local else {}),
            **({"ping": [p.__dict__ for p in pings]} if ping else {}),
        }
        write_json(data, ensure_ascii=True)
        _end(pings)
        return
    console = Console(highlight=False)
    for source in sources:
        size = sum(f.get("size") or 0 for f in source.identity()["files"])
        name = escape(source.identity()["name"])
        console.print(
            f"source {name}: layout {source.layout}, {source.shape.value}, "
            f"{len(source.files)} file(s), {size / 1e6:,.1f} MB"
        )
        for line in account_lines(source.account.to_dict()):
            console.print(f"  {line}", markup=False, soft_wrap=True)
    table = Table("step", "kind", "scope", "table", "adds", box=None)
    for row in rows:
        table.add_row(row["step"], row["kind"], row["scope"], row["table"], row["adds"])
    console.print(table)
    _show_estimates(console, estimates)
    _show_kept(console, local)
    for method, _ in checked.train:
        console.print(f"then train {method}")
    for answered in pings:
        console.print(answered.line(), markup=False, soft_wrap=True)
    _end(pings)


def _end(pings: Sequence[Ping]) -> None:
    """End with 3 where a server does not answer."""
    if not all(p.up for p in pings):
        raise typer.Exit(3)


def _show_estimates(console: Console, estimates: list[Estimate]) -> None:
    if not estimates:
        return
    most = [(e, e.calls, e.prompt_tokens, e.completion_tokens, e.usd) for e in estimates]
    console.print("\nmodels, at most (before anything is dropped; answered calls cost nothing):")
    console.print(_calls_table("calls", most))
    console.print(
        "not counted: asking again for an answer of the wrong form\n"
        "models that are drawn by prompt: their share on average"
    )
    if all(e.usd is not None for e in estimates):
        console.print(f"in all at most {sum(e.usd or 0 for e in estimates):,.2f} US dollars")
    likely = [e for e in estimates if e.seen]
    if not likely:
        return
    rows = [
        (e, e.seen, e.likely_prompt_tokens, e.likely_completion_tokens, e.likely_usd)
        for e in likely
    ]
    console.print("\nlikely, by the mean of the calls that were made so far:")
    console.print(_calls_table("seen", rows))


def _show_kept(console: Console, local: list[Kept]) -> None:
    if not local:
        return
    console.print("\nlocal models, at most (512 tokens an answer):")
    table = Table("step", "model", "forward passes", "kept on disk", box=None)
    for k in local:
        table.add_row(k.step, escape(k.model), f"{k.passes:,}", f"{k.bytes / 1e9:,.2f} GB")
    console.print(table)


def _calls_table(
    counted: str, rows: Sequence[tuple[Estimate, int | None, int | None, int | None, float | None]]
) -> Table:
    """Estimates with a count, tokens in and out, and dollars of each."""
    table = Table("step", "model", counted, "tokens in", "tokens out", "US dollars", box=None)
    for e, *counts, usd in rows:
        money = f"{usd:.2f}" if usd is not None else "no price"
        table.add_row(e.step, escape(e.model), *(f"{n or 0:,}" for n in counts), money)
    return table

"""`prefactory deploy`: a recipe on a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.run import BudgetName, BudgetTokens, BudgetUsd, Overrides, Prices, RecipePath


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(deploy)


def deploy(
    recipe: RecipePath,
    cron: Annotated[str, typer.Option(help='When, such as "0 3 * * *".')],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the deployment.")] = None,
    timezone: Annotated[
        str, typer.Option(help="In which the times are meant, such as Europe/Berlin.")
    ] = "UTC",
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    budget_name: BudgetName = None,
    prices: Prices = None,
    workers: Annotated[int | None, typer.Option(help="Shards in work at a time.", min=1)] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows of a shard, about.", min=1)] = 16384,
    retries: Annotated[int, typer.Option(help="Of a run that failed.", min=0)] = 0,
    retry_seconds: Annotated[int, typer.Option(help="Between two of them.", min=0)] = 600,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Let a run begin while the last one is at work.")
    ] = False,
    gates: Annotated[
        Path | None, typer.Option(help="YAML of what the audit of each version must hold.")
    ] = None,
    promote: Annotated[
        bool,
        typer.Option(
            "--promote", help="Tag the version `promoted` if gates hold and its model is better."
        ),
    ] = False,
    on_failure: Annotated[
        str | None, typer.Option(help="Command to run when a run fails or is stopped.")
    ] = None,
    on_gate: Annotated[
        str | None, typer.Option(help="Command to run when a gate does not hold.")
    ] = None,
    pages: Annotated[
        str | None,
        typer.Option(help="Address of `prefactory serve`, for links in Prefect's pages."),
    ] = None,
    work_pool: Annotated[
        str | None, typer.Option(help="Let workers of this pool run it (process, docker).")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Image of a pool of containers.")] = None,
) -> None:
    """Run a recipe on a schedule: serves a Prefect deployment until it is stopped."""
    from audit.gates import load_gates
    from catalog.versions import default_home
    from pipelines.build import check_recipe
    from pipelines.conduct.nights import Night
    from pipelines.flows import serve
    from pipelines.settings import Settings, default_workers
    from prefactory.engines.accounts import budget_of, read_prices
    from prefactory.errors import ConfigError
    from prefactory.safety.addresses import check_address

    if image is not None and work_pool is None:
        raise ConfigError("--image is of a pool of containers: name it with --work-pool")
    if pages is not None:
        check_address(pages, "--pages")
        if not pages.startswith(("http://", "https://")):
            raise ConfigError(
                f"--pages {pages!r} is no address: it begins with http:// or https://"
            )
    checked, _, _ = check_recipe(recipe, overrides or [])
    read_prices(prices)  # a mistake in a file is said now, and not at night
    if gates is not None:
        load_gates(gates)
    settings = Settings(
        default_home().resolve(), workers or default_workers(), shard_rows,
        budget_of(budget_usd, budget_tokens, budget_name), prices and prices.resolve(),
    )  # fmt: skip
    night = Night(
        name or checked.name, cron, timezone, retries, retry_seconds, overlap, work_pool, image
    )
    serve(
        recipe.resolve(), overrides or [], settings, night,
        gates=str(gates.resolve()) if gates else None, promote=promote,
        on_failure=on_failure, on_gate=on_gate, pages=pages,
    )  # fmt: skip

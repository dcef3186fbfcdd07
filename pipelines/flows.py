"""Prefect flows: thin shells around `pipelines.build`. One task is one step on one shard."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, PREFECT_HOME
from prefect.task_runners import ThreadPoolTaskRunner

from catalog.versions import default_home
from pipelines.build import Outcome, build, check_recipe
from pipelines.conduct.stopping import ended_in_time
from pipelines.conduct.temporary_server import temporary_server
from pipelines.settings import Settings, default_workers
from prefactory.engines.accounts import Budget
from prefactory.errors import ConfigError, StoppedError
from prefactory.stages import Mapper

T = TypeVar("T")


def prefect_mapper() -> Mapper:
    """A mapper that makes each call a Prefect task of the running flow."""

    def mapper(name: str, work: Callable[[int], T], n: int) -> list[T]:
        @task(name=name, task_run_name=f"{name} {{shard}}", cache_policy=NO_CACHE)
        def step(shard: int) -> T:
            return work(shard)

        futures = [step.submit(i) for i in range(n)]
        return [future.result() for future in futures]

    return mapper


@flow(name="curate", log_prints=False, persist_result=False)
def curate(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    shard_rows: int = 16384,
    workers: int | None = None,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    prices: str | None = None,
    fresh: list[str] | None = None,
    retry_failed: bool = False,
) -> Outcome:
    """Run a recipe file and publish what it makes.

    Args:
        recipe: path of the recipe file.
        overrides: `key=value` words.
        home: `PREFACTORY_HOME` of the run.
        shard_rows: rows of a shard, about.
        workers: shards in work at a time.
        budget_usd: US dollars that new calls of text engines may cost.
        budget_tokens: tokens that they may use.
        prices: a YAML file over the prices that come with prefactory.
        fresh: steps that are asked anew.
        retry_failed: drop the answers that could not be used, and ask again.

    Returns:
        The version, its stages and models.
    """
    settings = Settings(
        Path(home) if home else default_home(),
        workers or default_workers(),
        shard_rows,
        Budget(usd=budget_usd, tokens=budget_tokens),
        Path(prices) if prices else None,
        tuple(fresh or ()),
        retry_failed,
    )
    checked, sources, _ = check_recipe(Path(recipe), overrides or [])
    with ended_in_time():
        outcome = build(checked, sources, settings, prefect_mapper())
    version = outcome.published.version
    rows = [
        {"stage": s.label, "in": s.rows_in, "out": s.rows_out, "dropped": str(s.reasons or "")}
        for s in outcome.stages
    ]
    create_table_artifact(
        key="stages", table=rows, description=f"{version.ref} {version.manifest.content_digest}"
    )
    costs = [
        {"step": u["step"], "role": u["role"], "model": u["model"], "calls": u["calls"]}
        | {"tokens in": u["prompt_tokens"], "tokens out": u["completion_tokens"]}
        | {"US dollars": u["usd"] if u["priced"] else "no price", "failures": u["failures"]}
        for u in outcome.used
    ]
    if costs:
        create_table_artifact(
            key="costs", table=costs, description=f"what this run paid for {version.ref}"
        )
    return outcome


def run_curate(recipe: Path, overrides: list[str], settings: Settings) -> Outcome:
    """Run the flow in this process, with as many shards at a time as the settings say.

    Raises:
        ConfigError: if there is no Prefect server to run it on.
    """
    if PREFECT_API_URL.value():
        return _run_curate(recipe, overrides, settings)
    _check_prefect_home()
    with temporary_server():
        return _run_curate(recipe, overrides, settings)


def _run_curate(recipe: Path, overrides: list[str], settings: Settings) -> Outcome:
    started: list[object] = []
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=settings.workers)
    job = curate.with_options(
        task_runner=runner,  # type: ignore[arg-type] # Prefect's own stub
        on_running=[lambda flow, run, state: started.append(run)],
    )
    try:
        return job(
            str(recipe),
            overrides,
            str(settings.home),
            settings.shard_rows,
            settings.workers,
            settings.budget.usd,
            settings.budget.tokens,
            str(settings.prices) if settings.prices else None,
            list(settings.fresh),
            settings.retry_failed,
        )
    except Exception as error:  # of whatever HTTP library Prefect has today
        if started:
            raise
        raise ConfigError(_no_server(error)) from error


def _check_prefect_home() -> None:
    """Refuse a folder in which the server that Prefect starts for a run could not start."""
    home = PREFECT_HOME.value()
    if os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL"):
        return
    try:
        home.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(home, os.W_OK | os.X_OK) else "no permission"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ConfigError(
            f"Prefect can't write in {home} ({reason}); set PREFECT_HOME to another folder, or run"
            " with --runner threads"
        )


def _no_server(error: Exception) -> str:
    url = PREFECT_API_URL.value()
    hint = f"PREFECT_API_URL is {url}: start that server or unset the variable, " if url else ""
    return f"no Prefect server ({error}); {hint}or run with --runner threads"


def serve(recipe: Path, overrides: list[str], home: Path, cron: str, name: str) -> None:
    """Serve the flow as a deployment with a schedule, until the process is stopped.

    Raises:
        StoppedError: when it was stopped.
        ConfigError: if `cron` is not a schedule, or no Prefect server is set: a temporary one keeps
            no schedules.
    """
    try:
        CronSchedule(cron=cron)
    except ValueError as error:
        raise ConfigError(
            f"--cron {cron!r} is no schedule: minute, hour, day, month, weekday, as in '0 3 * * *'"
        ) from error
    if not PREFECT_API_URL.value():
        raise ConfigError(
            "a schedule needs a Prefect server. Start one with `prefect server start`, set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api, and run this command again"
        )
    with contextlib.suppress(SystemExit):  # Prefect's, of SIGTERM while it starts
        curate.serve(
            name=name,
            cron=cron,
            parameters={"recipe": str(recipe), "overrides": overrides, "home": str(home)},
            pause_on_shutdown=False,  # the schedule goes on when it is served again
        )
    raise StoppedError(f"{name} is not served any more; run the same command again to go on")

"""Prefect flows: thin shells around `pipelines.build`. One task is one step on one shard."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import Flow, flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, PREFECT_HOME
from prefect.task_runners import ThreadPoolTaskRunner

from catalog.versions import default_home
from pipelines.build import Outcome, build, check_recipe
from pipelines.conduct import artifacts
from pipelines.conduct.gate import gated
from pipelines.conduct.nights import Night, deploy, hook
from pipelines.conduct.stopping import ended_in_time
from pipelines.conduct.temporary_server import temporary_server
from pipelines.settings import Settings, default_workers
from pipelines.terminal import cleaned, guard
from prefactory.engines.accounts import budget_of
from prefactory.errors import ConfigError
from prefactory.safety.addresses import passwords, shown
from prefactory.safety.masks import Masks
from prefactory.stages import FIT_ROWS, Mapper

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


def run_name() -> str:
    """Name of a run: the file of its recipe and when it was due."""
    recipe = Path(str(runtime.flow_run.parameters.get("recipe", "run"))).stem
    return f"{recipe} {runtime.flow_run.scheduled_start_time:%Y-%m-%d %H:%M:%S}"


def _failed(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Say in one line how a scheduled run ended that made nothing, and run the hook."""
    if flow_run.deployment_id is None:  # `prefactory run` says it itself
        return
    why = " ".join(str(state.message or state.name).split())[:500]
    print(cleaned(f"{flow_run.name}: {str(state.name).lower()}: {why}"), flush=True)  # noqa: T201
    parameters = flow_run.parameters or {}
    facts = {"run": flow_run.name, "state": str(state.name), "message": why}
    hook(parameters.get("on_failure"), {**facts, "recipe": str(parameters.get("recipe", ""))})


@flow(
    name="curate",
    flow_run_name=run_name,
    log_prints=False,
    persist_result=False,
    on_failure=[_failed],
    on_crashed=[_failed],
    on_cancellation=[_failed],
)
def curate(
    recipe: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    shard_rows: int = 16384,
    fit_rows: int = FIT_ROWS,
    workers: int | None = None,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    budget_name: str | None = None,
    prices: str | None = None,
    fresh: list[str] | None = None,
    retry_failed: bool = False,
    cluster: str | None = None,
    store: str | None = None,
    catalog: str | None = None,
    gates: str | None = None,
    promote: bool = False,
    on_failure: str | None = None,
    on_gate: str | None = None,
    pages: str | None = None,
) -> Outcome:
    """Run a recipe file and publish what it makes.

    Args:
        recipe: path of the recipe file.
        overrides: `key=value` words.
        home: `PREFACTORY_HOME` of the run.
        shard_rows: rows of a shard, about.
        fit_rows: rows of a dataset step that one worker holds, about.
        workers: shards in work at a time.
        budget_usd: US dollars that new calls of text engines may cost.
        budget_tokens: tokens that they may use.
        budget_name: of a budget that all runs in the home that name it spend together.
        prices: a YAML file over the prices that come with prefactory.
        fresh: steps that are asked anew.
        retry_failed: drop the answers that could not be used, and ask again.
        cluster: address of the Ray cluster that does the work.
        store: bucket of the intermediate outputs, such as `s3://bucket/prefix`.
        catalog: bucket of the published versions.
        gates: a YAML file of what the audit of the version must hold.
        promote: give the version the tag `promoted`, if its gates hold and its model is better than
            that of the version that has the tag.
        on_failure: a command that is run when the run fails, crashes or is cancelled.
        on_gate: a command that is run when a gate does not hold, or the model is not better.
        pages: address of a `prefactory serve` of the home, for links in Prefect's pages.

    Returns:
        The version, its stages and models.
    """
    settings = Settings(
        Path(home) if home else default_home(),
        workers or default_workers(),
        shard_rows,
        budget_of(budget_usd, budget_tokens, budget_name),
        Path(prices) if prices else None,
        tuple(fresh or ()),
        retry_failed,
        cluster,
        store,
        fit_rows=fit_rows,
        **({"catalog_bucket": catalog} if catalog else {}),
    )
    if runtime.deployment.id is not None:
        guard()  # a process that Prefect began, on the terminal of `deploy` or a worker
    with artifacts.logged(), ended_in_time():
        checked, sources, _ = check_recipe(Path(recipe), overrides or [])
        advance = artifacts.Advance(1 + len(checked.steps))
        outcome = build(checked, sources, settings, prefect_mapper(), advance)
        artifacts.publish(outcome, pages)
        why = gated(outcome, settings, Path(gates) if gates else None, promote=promote)
    if why:
        ref = outcome.published.version.ref
        hook(on_gate, {"recipe": recipe, "version": ref, "message": "; ".join(why)})
    ended = artifacts.line(outcome) + "".join(f"; {reason}" for reason in why)
    if runtime.deployment.id is not None:
        print(f"{runtime.flow_run.name}: completed: {ended}", flush=True)  # noqa: T201
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
        outcome: Outcome = job(**parameters(recipe, overrides, settings))
    except Exception as error:  # of whatever HTTP library Prefect has today
        if started:
            raise
        raise ConfigError(_no_server(error)) from error
    return outcome


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
    hint = (
        f"PREFECT_API_URL is {shown(url)}: start that server or unset the variable, " if url else ""
    )
    told = Masks(passwords(url or "")).text(shown(str(error)))
    return f"no Prefect server ({told}); {hint}or run with --runner threads"


def serve(
    recipe: Path,
    overrides: list[str],
    settings: Settings,
    night: Night,
    **more: Any,  # noqa: ANN401 - of the flow
) -> None:
    """Serve the flow as a deployment with a schedule, until the process is stopped.

    Args:
        recipe: path of the recipe file.
        overrides: `key=value` words.
        settings: of each run.
        night: when, and what around it.
        more: `gates`, `promote`, `on_failure`, `on_gate`, `pages` of the flow.

    Raises:
        StoppedError: when it was stopped.
        ConfigError: the schedule is wrong, or no Prefect server answers: a temporary one keeps no
            schedules.
    """
    deploy(curate, {**parameters(recipe, overrides, settings), **more}, night)


def parameters(recipe: Path, overrides: list[str], settings: Settings) -> dict[str, Any]:
    """What the flow is told, as plain JSON data."""
    return {
        "recipe": str(recipe),
        "overrides": overrides,
        "home": str(settings.home),
        "shard_rows": settings.shard_rows,
        "fit_rows": settings.fit_rows,
        "workers": settings.workers,
        "budget_usd": settings.budget.usd,
        "budget_tokens": settings.budget.tokens,
        "budget_name": settings.budget.name,
        "prices": str(settings.prices) if settings.prices else None,
        "fresh": list(settings.fresh),
        "retry_failed": settings.retry_failed,
        "cluster": settings.cluster,
        "store": settings.bucket,
        "catalog": settings.catalog_bucket,
    }

"""Prefect flows: thin shells around `pipelines.build`. One task is one step on one shard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from pipelines.build import Outcome, build, check_recipe
from pipelines.settings import Settings, default_home, default_workers
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
) -> dict[str, Any]:
    """Run a recipe file and publish what it makes.

    Args:
        recipe: path of the recipe file.
        overrides: `key=value` words.
        home: `PREFACTORY_HOME` of the run.
        shard_rows: rows of a shard, about.
        workers: shards in work at a time.

    Returns:
        Name, version, digest and folder of the version.
    """
    settings = Settings(
        Path(home) if home else default_home(), workers or default_workers(), shard_rows
    )
    checked, sources, _ = check_recipe(Path(recipe), overrides or [])
    outcome = build(checked, sources, settings, prefect_mapper())
    _OUTCOMES.append(outcome)
    version = outcome.published.version
    rows = [
        {"stage": s.label, "in": s.rows_in, "out": s.rows_out, "dropped": str(s.reasons or "")}
        for s in outcome.stages
    ]
    create_table_artifact(
        key="stages", table=rows, description=f"{version.ref} {version.manifest.content_digest}"
    )
    return {
        "name": version.manifest.name,
        "version": version.manifest.version,
        "content_digest": version.manifest.content_digest,
        "path": str(version.path),
        "new": outcome.published.new,
    }


_OUTCOMES: list[Outcome] = []


def run_curate(recipe: Path, overrides: list[str], settings: Settings) -> Outcome:
    """Run the flow in this process, with as many shards at a time as the settings say."""
    _OUTCOMES.clear()
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=settings.workers)
    curate.with_options(task_runner=runner)(  # type: ignore[arg-type] # Prefect's own stub is off
        str(recipe), overrides, str(settings.home), settings.shard_rows, settings.workers
    )
    return _OUTCOMES.pop()


def serve(recipe: Path, overrides: list[str], home: Path, cron: str, name: str) -> None:
    """Serve the flow as a deployment with a schedule, until the process is stopped."""
    curate.serve(
        name=name,
        cron=cron,
        parameters={"recipe": str(recipe), "overrides": overrides, "home": str(home)},
    )

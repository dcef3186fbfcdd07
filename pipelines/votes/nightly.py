"""The loop as a Prefect flow and deployment: a round on a schedule."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow, runtime

from catalog.versions import default_home
from pipelines.conduct.nights import Night, deploy
from pipelines.settings import Settings
from pipelines.terminal import guard
from pipelines.votes.page import loop_page, write
from pipelines.votes.rounds import Plan, next_round


def run_name() -> str:
    """Name of a run: the file of its recipe and when it was due."""
    recipe = Path(str(runtime.flow_run.parameters.get("recipe", "loop"))).stem
    return f"round of {recipe} {runtime.flow_run.scheduled_start_time:%Y-%m-%d %H:%M:%S}"


@flow(name="votes-round", flow_run_name=run_name, log_prints=False, persist_result=False)
def votes_round(
    recipe: str,
    overrides: list[str] | None = None,
    plan: dict[str, Any] | None = None,
    home: str | None = None,
    page: str | None = None,
) -> str:
    """One round: votes so far become a version, and the next rows wait for people.

    Args:
        recipe: path of the recipe, with a step `labelers.Annotations`.
        overrides: `key=value` words.
        plan: fields of `pipelines.votes.rounds.Plan`.
        home: `PREFACTORY_HOME` of the run.
        page: where the report of the loop is written.

    Returns:
        What became of it, in one line.
    """
    if runtime.deployment.id is not None:
        guard()
    settings = Settings(Path(home) if home else default_home())
    found = next_round(Path(recipe), overrides or [], Plan(**plan or {}), settings)
    if page is not None:
        write(Path(page), loop_page(found.version.manifest.name, found.sections()))
    told = "; ".join(found.lines())
    if runtime.deployment.id is not None:
        print(f"{runtime.flow_run.name}: completed: {told}", flush=True)  # noqa: T201
    return told


def schedule(
    recipe: Path, overrides: list[str], plan: Plan, settings: Settings, page: Path | None,
    night: Night,
) -> None:  # fmt: skip
    """Serve the loop on a schedule until it is stopped.

    Raises:
        StoppedError: when it was stopped.
        ConfigError: the schedule is wrong, or no Prefect server answers.
    """
    parameters = {
        "recipe": str(recipe.absolute()),
        "overrides": overrides,
        "plan": asdict(plan),
        "home": str(settings.home.absolute()),
        "page": None if page is None else str(page.absolute()),
    }
    deploy(votes_round, parameters, night)

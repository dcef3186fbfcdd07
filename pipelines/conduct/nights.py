"""Deployments: a recipe on a schedule, with what a night needs. See docs/how-to/schedule.md."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.schedules import Cron, Schedule
from prefect.settings import PREFECT_API_URL

from prefactory.errors import ConfigError, StoppedError
from prefactory.safety.addresses import shown

_LOG = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
SERVED = "pipelines/pool/served.py"
"""The file that workers of a pool load, under `ROOT`."""
HOOK_S = 600.0
"""How long a hook may take."""


@dataclass(frozen=True)
class Night:
    """A schedule and what surrounds each run of it.

    Attributes:
        name: of the deployment.
        cron: minute, hour, day, month, weekday.
        timezone: in which the times are meant.
        retries: of a run that failed, `retry_s` seconds apart.
        overlap: whether a run may begin while the last one is at work; else it is cancelled.
        work_pool: let workers of this pool run it, instead of this process.
        image: of a pool of containers, which holds this package and the recipe.
    """

    name: str
    cron: str
    timezone: str = "UTC"
    retries: int = 0
    retry_s: int = 600
    overlap: bool = False
    work_pool: str | None = None
    image: str | None = None


def deploy(job: Flow[..., Any], parameters: dict[str, Any], night: Night) -> None:
    """Serve a flow on a schedule until it is stopped, or hand it to a work pool.

    Args:
        job: the flow.
        parameters: of each run.
        night: when, and what around it.

    Raises:
        StoppedError: serving was stopped.
        ConfigError: the schedule or time zone is wrong, or no server answers.
    """
    schedule = _schedule(night)
    url = PREFECT_API_URL.value()
    if not url:
        raise ConfigError(
            "a schedule needs a Prefect server. Start one with `prefect server start`, set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api, and run this command again"
        )
    _need_server(url)
    # a server that is gone later is a traceback of Prefect's, and no mistake of the user's
    flow = job.with_options(retries=night.retries, retry_delay_seconds=night.retry_s)
    limit = None if night.overlap else ConcurrencyLimitConfig(
        limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
    )  # fmt: skip
    if night.work_pool is not None:
        _hand_over(job, parameters, night, schedule, limit)
        return
    with contextlib.suppress(SystemExit):  # Prefect's, of SIGTERM while it starts
        flow.serve(
            name=night.name,
            schedule=schedule,
            global_limit=limit,
            parameters=parameters,
            pause_on_shutdown=False,  # the schedule goes on when it is served again
        )
    raise StoppedError(f"{night.name} is not served any more; run the same command again to go on")


def _hand_over(
    job: Flow[..., Any],
    parameters: dict[str, Any],
    night: Night,
    schedule: Schedule,
    limit: ConcurrencyLimitConfig | None,
) -> None:
    # no variable is handed over, for all who see the deployment see it: a worker tells its own
    options: dict[str, Any] = {}
    if night.image is not None:
        options = {"image": night.image, "build": False, "push": False}
    stored: Any = job.from_source(source=str(ROOT), entrypoint=f"{SERVED}:{job.fn.__name__}")
    stored.deploy(
        name=night.name,
        work_pool_name=night.work_pool,
        schedule=schedule,
        parameters=parameters,
        concurrency_limit=limit,
        print_next_steps=False,
        **options,
    )
    _LOG.info(
        "%s is deployed to the work pool %s: `prefect worker start --pool %s` runs it",
        night.name,
        night.work_pool,
        night.work_pool,
    )


def _schedule(night: Night) -> Schedule:
    try:
        CronSchedule(cron=night.cron)
    except ValueError as error:
        raise ConfigError(
            f"--cron {night.cron!r} is no schedule: minute, hour, day, month, weekday, as in "
            "'0 3 * * *'"
        ) from error
    try:
        ZoneInfo(night.timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(
            f"--timezone {night.timezone!r} is unknown: name it as Europe/Berlin"
        ) from error
    return Cron(night.cron, timezone=night.timezone)


def _need_server(url: str) -> None:
    """Refuse a server that does not answer, in one sentence."""
    scheme, _, rest = url.rstrip("/").partition("://")
    asked = f"{scheme}://{rest.rpartition('@')[2]}/health"  # Python sends no user and password
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - http
            if answer.read(64).strip() == b"true":
                return
        raise ValueError("what answers there is no API of Prefect's, which ends in /api")
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):
            return  # a server that wants a key, which Prefect's client has
        why = getattr(error, "reason", error)
        raise ConfigError(
            f"no Prefect server answers at PREFECT_API_URL={shown(url)} ({why}): start it with "
            "`prefect server start`, or set the variable to one that runs"
        ) from error


def hook(command: str | None, facts: dict[str, str]) -> None:
    """Run the command of a hook, without a shell; a hook that fails is a warning.

    Args:
        command: its words, as a shell would part them; None: there is none.
        facts: what it is told, in variables `PREFACTORY_<NAME>`.
    """
    if not command:
        return
    told = {f"PREFACTORY_{name.upper()}": value for name, value in facts.items()}
    try:
        done = subprocess.run(  # noqa: S603 - the user's own command
            shlex.split(command),
            env={**os.environ, **told},
            timeout=HOOK_S,
            check=False,
            capture_output=True,
            text=True,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        _LOG.warning("the hook %r did not run: %s", command, error)
        return
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-300:]
        _LOG.warning("the hook %r ended with %d: %s", command, done.returncode, words)

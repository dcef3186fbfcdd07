"""Asking the servers of a recipe for one token: are they up, with this key and model?"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass

from prefactory.engines.base import EngineConfig, Failure, Sampling
from prefactory.engines.server import Server
from prefactory.errors import PrefactoryError
from prefactory.plan import PlannedStep


@dataclass(frozen=True)
class Ping:
    """What a server said.

    Attributes:
        address: its `base_url`, or "this process".
        model: that was asked.
        up: whether it answered.
        seconds: that it took.
        problem: why it did not answer.
    """

    address: str
    model: str
    up: bool
    seconds: float
    problem: str = ""

    def line(self) -> str:
        """As a line."""
        if self.up:
            return f"{self.model} at {self.address} answers ({self.seconds:.2f} s)"
        return f"{self.model} at {self.address} does not answer: {self.problem}"


def ping(planned: Sequence[PlannedStep]) -> list[Ping]:
    """Ask each server that steps name once, without retries, journal or budget.

    Of a model in this process it is only looked whether its engine's package is there.
    """
    found: list[Ping] = []
    seen: list[EngineConfig] = []
    for step in planned:
        for config, _ in step.placed.step.configs():
            if isinstance(config, Server) and config not in seen:
                seen.append(config)
                found.append(_ping(config))
            elif config.package is not None and importlib.util.find_spec(config.package) is None:
                lacking = f"the package {config.package} is not installed"
                found.append(Ping("this process", config.model, False, 0.0, lacking))
    return found


def _ping(config: Server) -> Ping:
    quick = {"retries": 0, "timeout_s": min(config.timeout_s, 30.0), "batch": False}
    started = time.monotonic()
    problem = ""
    try:
        with config.model_copy(update=quick).open() as engine:
            asked = [[{"role": "user", "content": "ping"}]]
            ((result,),) = engine.generate(asked, Sampling(max_tokens=1))
        problem = f"{result.reason}: {result.detail}" if isinstance(result, Failure) else ""
    except PrefactoryError as error:
        problem = str(error)
    return Ping(config.base_url, config.model, not problem, time.monotonic() - started, problem)

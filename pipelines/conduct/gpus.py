"""Workers of a Ray cluster that hold GPUs, for the orders of steps whose models run in the worker.

Each is a process with GPUs of its own (Ray sets CUDA_VISIBLE_DEVICES) until another step needs
others: its models are loaded once, stay where they are, and no other order gets into it. Ray's
plain workers are no good for that: Ray gives an order any of them, with any free GPU, though its
model lies on another one. A worker here takes no CPU, so that other orders never wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from prefactory.errors import ConfigError
from prefactory.orders import Apply, Fit, FitShard, Order, Site, Try
from prefactory.orders.ranges import FitRange
from prefactory.orders.rounds import Conclude, Look

WITH_ENGINES = (Try, FitShard, Fit, FitRange, Look, Conclude, Apply)
"""Orders in which a step may open its models."""
_LOOK_S = 5.0
"""How often who waits for a worker looks whether nodes have come or gone."""


def gpus_of(site: Site, label: str) -> float:
    """GPUs that an order of a step asks for: the most that one of its models does."""
    asked = [getattr(config, "gpus", 0) for config, _ in site.step(label).configs()]
    return float(max(asked, default=0))


class Pool:
    """Workers that hold so many GPUs each. Safe for threads."""

    def __init__(self, ray: Any, worker: type, gpus: float, who: str) -> None:  # noqa: ANN401
        """Start none yet.

        Args:
            ray: the module, connected to a cluster.
            worker: class of a worker.
            gpus: of each; whole, or a share of one.
            who: asks for it.
        """
        self._ray, self._gpus, self._who = ray, gpus, who
        self._remote = ray.remote(worker).options(
            num_gpus=gpus, num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._changed = threading.Condition()
        self._idle: list[Any] = []
        self._all: list[Any] = []

    def room(self) -> int:
        """How many workers the cluster's GPUs are enough for."""
        nodes = [node["Resources"].get("GPU", 0) for node in self._ray.nodes() if node["Alive"]]
        return sum(int(there / self._gpus + 1e-6) for there in nodes)

    def take(self) -> Any:  # noqa: ANN401 - a handle of Ray's
        """A worker that does nothing else until it is given back; waits for one if all work.

        Raises:
            ConfigError: no node has so many GPUs.
        """
        with self._changed:
            while not self._idle:
                room = self.room()
                if len(self._all) < room:
                    self._all.append(self._remote.remote())
                    return self._all[-1]
                if not room:
                    raise ConfigError(
                        f"{self._who} asks for {self._gpus:g} GPUs, and no node of the cluster has "
                        "so many: set `gpus` of its engine lower, or join a node that has them"
                    )
                self._changed.wait(_LOOK_S)
            return self._idle.pop()

    def give(self, worker: Any) -> None:  # noqa: ANN401
        """Give a worker back."""
        with self._changed:
            self._idle.append(worker)
            self._changed.notify()

    def lose(self, worker: Any) -> None:  # noqa: ANN401
        """End a worker that is taken; another one may take its place."""
        with suppress(Exception):
            self._ray.kill(worker)
        with self._changed:
            self._all = [other for other in self._all if other is not worker]
            self._changed.notify()

    def close(self) -> None:
        """End all workers; their GPUs are free."""
        with self._changed:
            workers, self._all, self._idle = self._all, [], []
        for worker in workers:
            with suppress(Exception):
                self._ray.kill(worker)


class Pools:
    """The pool that the orders of a run need now: one at a time, as steps follow each other."""

    def __init__(self, ray: Any, worker: type, site: Site) -> None:  # noqa: ANN401
        """Know the site; no pool yet."""
        self._ray, self._worker, self._site = ray, worker, site
        self._lock = threading.Lock()
        self._key: Sequence[object] = ()
        self._pool: Pool | None = None
        self._needs: dict[str, float] = {}

    def of(self, order: Order) -> Pool | None:
        """The pool for an order; None if it needs no GPU. Steps with equal models share workers."""
        if not isinstance(order, WITH_ENGINES):
            return None
        label = order.label
        with self._lock:
            if label not in self._needs:
                self._needs[label] = gpus_of(self._site, label)
            gpus = self._needs[label]
            if not gpus:
                return None
            key = (gpus, repr([config for config, _ in self._site.step(label).configs()]))
            if self._pool is None or self._key != key:
                if self._pool is not None:
                    self._pool.close()
                self._key, self._pool = key, Pool(self._ray, self._worker, gpus, label)
            return self._pool

"""A Ray cluster that does the orders of a run; Prefect's tasks, or threads, wait for them here.

Workers know nothing of Prefect: names, limits, retries and signals are the driver's. An order and
what comes back are small; rows go from node to node by the store in the home, which all nodes must
see, or by a bucket. What a lost node had finished is there; the rest Ray gives to another one.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.versions import default_home
from pipelines.conduct.gpus import Pool, Pools
from prefactory import beside
from prefactory.errors import ConfigError, PrefactoryError, StoppedError
from prefactory.extras import package
from prefactory.folders import new_file
from prefactory.orders import Do, Done, Order, Site, do
from prefactory.safety.addresses import shown

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from prefactory.engines.session import Session

LOCAL = "local"
"""Address that starts a cluster of this machine alone."""
TRIES = 3
"""How often Ray gives an order to another worker after its own has died."""


class Cluster:
    """A connection to a Ray cluster.

    Attributes:
        slots: orders that it works on at a time: its CPUs, or its GPUs if these are more.
        gpus: number of its GPUs.
    """

    def __init__(self, address: str) -> None:
        """Connect, or start a cluster of this machine alone.

        Args:
            address: `host:port` of its head, or `local`.

        Raises:
            ConfigError: no cluster answers there.
            MissingPackageError: Ray is not installed.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray: Any = package("ray")
        before = signal.getsignal(signal.SIGTERM)
        try:
            if address != LOCAL:
                _knock(address)  # Ray itself tries for four minutes
            self._ray.init(
                address=None if address == LOCAL else address,
                ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR",
                include_dashboard=False if address == LOCAL else None,
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {shown(address)!r} ({_first_line(error)}); start one "
                "with `ray start --head --port=6379` and join machines with `ray start "
                f"--address=...`, or use --cluster {LOCAL}"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put its own there: exit code 15
        there = self._ray.cluster_resources()
        self.gpus = float(there.get("GPU", 0))
        self.slots = max(1, int(there.get("CPU", 1)), int(self.gpus))

    def conductor(self, settings: Settings) -> Callable[[Site], Do]:
        """What makes of a site a function that has its orders done by the cluster.

        Args:
            settings: of the run; the home must be at the same path on all nodes.
        """
        return lambda site: self._conduct(site, settings)

    def _conduct(self, site: Site, settings: Settings) -> Do:
        ray = self._ray
        sent = ray.put(Place.of(site, replace(settings, cluster=None)))
        remote = ray.remote(work).options(
            num_cpus=1, max_retries=TRIES, scheduling_strategy="SPREAD"
        )
        pools = Pools(ray, Worker, site) if self.gpus else None

        def done(order: Order) -> Done:
            pool = None if pools is None else pools.of(order)
            try:
                if pool is None:
                    found: Done = self._by_anybody(remote.remote(sent, order))
                else:
                    found = self._by_one_of(pool, sent, order)
            except ray.exceptions.RayTaskError as error:
                raise _cause(error, order) from error
            except ray.exceptions.RayError as error:
                raise StoppedError(
                    f"{order.label}: the cluster lost this part of the work {TRIES + 1} times "
                    f"({_first_line(error)}); what is finished is kept: run the same command again"
                ) from error
            site.store.accept(found.record)
            return found

        return done

    def _by_anybody(self, ref: Any) -> Done:  # noqa: ANN401 - a reference of Ray's
        try:
            found: Done = self._ray.get(ref)
        except self._ray.exceptions.RayError:
            raise
        except BaseException:
            with suppress(Exception):
                self._ray.cancel(ref, force=True)
            raise
        return found

    def _by_one_of(self, pool: Pool, sent: Any, order: Order) -> Done:  # noqa: ANN401
        """Have an order done by a worker with GPUs; by another one if that dies."""
        ray = self._ray
        for last in (*[False] * TRIES, True):
            worker = pool.take()
            try:
                found: Done = ray.get(worker.work.remote(sent, order))
            except ray.exceptions.RayTaskError:
                pool.give(worker)
                raise
            except ray.exceptions.RayActorError:
                pool.lose(worker)
                if last:
                    raise
            except BaseException:
                pool.lose(worker)
                raise
            else:
                pool.give(worker)
                return found
        raise AssertionError  # the last try returns or raises


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass


@dataclass(frozen=True)
class Place:
    """What a worker needs to open a site: sent once.

    Attributes:
        mark: of this run.
        proof: a file of the home, and the random text that it holds; None where a bucket is what
            all share, and each node has a home of its own: its `PREFACTORY_HOME`.
        modules: private packages of what lies beside the recipe -> their folders.
        pickled: the recipe and its sources, to be read after `modules` are known.
    """

    mark: str
    proof: tuple[Path, str] | None
    settings: Settings
    images: bool
    modules: Mapping[str, str]
    pickled: bytes

    @classmethod
    def of(cls, site: Site, settings: Settings) -> Place:
        """The place of a site's orders, for workers that see the home of the settings."""
        home = settings.home.resolve()
        proof = None if settings.bucket else proof_of(home)
        pickled = package("cloudpickle").dumps((site.recipe, list(site.sources)))
        return cls(
            secrets.token_hex(8), proof, replace(settings, home=home), site.images,
            beside.roots(), pickled,
        )  # fmt: skip

    def open(self) -> tuple[Site, Session]:
        """Open the site in a worker.

        Raises:
            ConfigError: the home of the run is not here.
        """
        from pipelines.vectors import embedder
        from prefactory.engines.session import Session

        own = self.settings
        if self.proof is None:
            own = replace(own, home=default_home())
        elif not self.proof[0].is_file() or self.proof[0].read_text("utf-8") != self.proof[1]:
            node = os.uname().nodename
            raise ConfigError(
                f"node {node} does not see {self.settings.home}: set PREFACTORY_HOME to a folder "
                "that all nodes of the cluster share, at the same path, or give a bucket by --store"
            )
        beside.adopt(self.modules)
        recipe, sources = package("cloudpickle").loads(self.pickled)
        session = Session(
            own.home / "journal", own.prices, own.budget, recipe.head.name, own.shared
        )
        site = Site(recipe, sources, own.store, self.images, embedder(own), session.engine)
        return site, session


def proof_of(home: Path) -> tuple[Path, str]:
    """A file by which a worker knows the home, made once."""
    path = home / "store" / "home.id"
    if not path.is_file() or not re.fullmatch(rb"[0-9a-f]{32}", path.read_bytes()):  # or damaged
        with new_file(path) as file:
            file.write(secrets.token_hex(16).encode())
    return path, path.read_text("utf-8")


_OPEN: dict[str, tuple[Site, Session]] = {}
"""The site that this worker process has open, by the mark of its run: engines stay loaded."""


def work(place: Place, order: Order) -> Done:
    """Do an order in a worker process."""
    if place.mark not in _OPEN:
        for _, session in _OPEN.values():
            session.close()
        _OPEN.clear()
        _OPEN[place.mark] = place.open()
    site, session = _OPEN[place.mark]
    before = session.accounts.by_step()
    done = do(order, site)
    return replace(done, paid=difference(session.accounts.by_step(), before))


class Worker:
    """A worker process that holds GPUs, and does the orders that need them."""

    def work(self, place: Place, order: Order) -> Done:
        """Do an order."""
        return work(place, order)


_WHO = ("step", "role", "model")


def difference(
    after: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What the sums of the accounts grew by; a worker does one order at a time."""
    known = {tuple(row[k] for k in _WHO): row for row in before}
    found = []
    for row in after:
        old = known.get(tuple(row[k] for k in _WHO), {})
        grown = {
            k: v if k in _WHO or isinstance(v, bool) else v - old.get(k, 0) for k, v in row.items()
        }
        if any(v for k, v in grown.items() if k not in _WHO and not isinstance(v, bool)):
            found.append(grown)
    return found


def _cause(error: Any, order: Order) -> Exception:  # noqa: ANN401 - ray.exceptions.RayTaskError
    cause = getattr(error, "cause", None)
    if isinstance(cause, PrefactoryError):
        return cause
    return StoppedError(
        f"{order.label} ended in a worker of the cluster with {_first_line(cause or error)}; what "
        "is finished is kept: run the same command again"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

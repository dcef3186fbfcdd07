"""Workers with GPUs without Ray: how many there are, who gets them, and what engines ask for."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from filters.content.toxicity.model import Classifier
from labelers.models.language_models import Model
from pipelines.conduct.gpus import Pool, Pools, gpus_of
from prefactory.engines.encoder import Encoder
from prefactory.engines.scripted import Scripted
from prefactory.engines.steering.config import Steered
from prefactory.engines.transformers import Transformers
from prefactory.engines.vllm import VLLM
from prefactory.errors import ConfigError
from prefactory.orders import Apply, Exchange, Site
from prefactory.orders.ranges import Cut
from prefactory.shards import Shard
from prefactory.step import Labeler
from prefactory.store import Store
from prefactory.tables import Shape
from tests.helpers import recipe


class FakeRay:
    """Nodes with GPUs, and what was started and ended on them."""

    def __init__(self, *gpus):
        self.gpus, self.started, self.killed = list(gpus), [], []

    def nodes(self):
        return [{"Alive": g is not None, "Resources": {"CPU": 8, "GPU": g or 0}} for g in self.gpus]

    def remote(self, worker):
        def options(**asked):
            def start():
                self.started.append(asked)
                return f"{worker.__name__} {len(self.started)}"

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def kill(self, worker):
        self.killed.append(worker)


class Hand:
    """A worker."""


@pytest.mark.parametrize(
    ("nodes", "gpus", "room"),
    [((2, 0, 3), 1, 5), ((2, 3), 2, 2), ((1, 1), 2, 0), ((1, 2), 0.5, 6), ((1,), 0.3, 3),
     ((1,), 0.1, 10), ((4, None), 1, 4)],
)  # fmt: skip
def test_a_worker_lies_on_one_node(nodes, gpus, room):
    assert Pool(FakeRay(*nodes), Hand, gpus, "step").room() == room


def test_workers_are_started_as_they_are_wanted_and_kept():
    ray = FakeRay(2)
    pool = Pool(ray, Hand, 1, "step")
    first = pool.take()
    pool.give(first)
    assert pool.take() == first
    second = pool.take()
    assert (first, second) == ("Hand 1", "Hand 2")
    assert ray.started[0]["num_gpus"] == 1
    assert ray.started[0]["num_cpus"] == 0, "it keeps no CPU from other orders"
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(pool.take()))
    waiting.start()
    pool.give(second)
    waiting.join(200)
    assert taken == [second]
    assert len(ray.started) == 2


def test_another_takes_the_place_of_a_lost_worker_if_there_is_room():
    ray = FakeRay(1, 1)
    pool = Pool(ray, Hand, 1, "step")
    first, second = pool.take(), pool.take()
    ray.gpus[1] = None
    pool.lose(second)
    assert ray.killed == [second]
    pool.give(first)
    assert pool.take() == first
    ray.gpus[1] = 1
    assert pool.take() == "Hand 3"
    pool.close()
    assert ray.killed == [second, first, "Hand 3"]


def test_gpus_that_no_node_has():
    with pytest.raises(ConfigError, match="step asks for 2 GPUs, and no node of the cluster"):
        Pool(FakeRay(1, 1), Hand, 2, "step").take()


def test_what_engines_ask_for():
    plain = Transformers(model="m")
    assert (plain.gpus, Steered(model="m", vector="v").gpus, Encoder().gpus) == (1, 1, 0)
    assert (Model(model="m").gpus, Classifier(model="m").gpus) == (1, 1)
    assert VLLM(model="m").gpus == 1
    assert VLLM(model="m", gpus=4).tensor_parallel == 4
    assert VLLM(model="m", tensor_parallel=2).gpus == 2
    assert VLLM(model="m", gpus=0.5).tensor_parallel == 1
    both = VLLM(model="m", gpus=4, tensor_parallel=2)
    assert (both.gpus, both.tensor_parallel) == (4, 2)
    for wrong in (1.5, -1):
        with pytest.raises(ValidationError):
            VLLM(model="m", gpus=wrong)


def test_gpus_are_no_identity():
    assert "gpus" not in Encoder().identity()
    assert Encoder(gpus=1).fingerprint() == Encoder().fingerprint()
    assert VLLM(model="m", gpus=0.5).identity() == VLLM(model="m").identity()
    assert VLLM(model="m", gpus=2).identity() == VLLM(model="m", tensor_parallel=2).identity()


class Asking(Labeler):
    """A labeler with models that nobody opens."""

    shapes = (Shape.PAIRS,)
    judge: Scripted | Transformers | VLLM
    other: Encoder = Encoder()

    def adds(self, shape):
        return {}

    def label(self, table, ctx):
        return table.select()


def asking(tmp_path, *engines):
    steps = [{"tests.pipelines.test_gpus.Asking": {"judge": engine}} for engine in engines]
    own = recipe(*steps)
    return Site(own, [], Store(Path(tmp_path))), [placed.label for placed in own.steps]


def test_steps_with_the_same_model_share_workers_and_others_end_them(tmp_path):
    small, large = {"engine": "transformers", "model": "a"}, {"engine": "vllm", "model": "b"}
    scripted = {"engine": "scripted", "function": "tests.pipelines.test_gpus.asking", "model": "s"}
    site, labels = asking(tmp_path, small, small, {**large, "gpus": 2}, scripted)
    assert [gpus_of(site, label) for label in labels] == [1, 1, 2, 0]
    ray = FakeRay(2)
    pools = Pools(ray, Hand, site)
    orders = [Apply("k", label, Shard("b", 1, ()), Shape.PAIRS) for label in labels]
    first = pools.of(orders[0])
    worker = first.take()
    first.give(worker)
    assert pools.of(orders[1]) is first
    assert pools.of(orders[3]) is None, "a step without such a model waits for no GPU"
    assert pools.of(Cut("k", labels[0], [])) is None
    assert pools.of(Exchange("k", labels[0], "p", "0", "g", Shape.PAIRS)) is None
    assert ray.killed == []
    assert pools.of(orders[2]) is not first
    assert ray.killed == [worker]

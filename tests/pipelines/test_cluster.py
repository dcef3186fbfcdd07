"""Work orders in other processes, and on a real Ray cluster of three nodes: the same digest."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipelines.build import build, check_recipe
from pipelines.conduct import cluster
from pipelines.conduct.cluster import Place, work
from pipelines.settings import Settings
from prefactory.engines.accounts import Accounts
from prefactory.errors import ConfigError, DataError
from prefactory.orders import Done, Exchange
from prefactory.shards import Part
from prefactory.stages import thread_mapper
from prefactory.store import Record
from prefactory.tables import Shape
from tests.buckets import URL, served
from tests.helpers import until
from tests.pipelines.conftest import ANSWERED, write_jsonl
from tests.prefactory.engines.mock_server import MockServer
from tests.servers import free_port

BIN = Path(sys.executable).parent
STEPS = """\
import time

import polars as pl


def unhurried(prompt: pl.Series) -> pl.Series:
    time.sleep(0.5)
    return prompt.str.len_chars() > 20
"""


def with_a_step_beside(folder):
    (folder / "own_steps.py").write_text(STEPS)
    recipe = folder / "recipe.yaml"
    line = "  - filters.Rule: {function: own_steps.unhurried}\n"
    recipe.write_text(recipe.read_text().replace("  - filters.Margin", line + "  - filters.Margin"))
    return recipe


def with_near_copies(recipe):
    line = (
        '  - filters.NearDuplicates: {"on": prompt, words: 1, threshold: 0.6, short: 0, long: 0}\n'
    )
    recipe.write_text(recipe.read_text().replace("  - filters.Margin", line + "  - filters.Margin"))
    return recipe


def outcome(recipe, settings):
    checked, sources, _ = check_recipe(recipe, [])
    return build(checked, sources, settings, thread_mapper(settings.workers))


class OtherProcesses:
    """Does orders in processes that share nothing with this one: what Ray does, without Ray."""

    def __init__(self, settings, monkeypatch):
        self.settings = settings
        self.done = []
        self.pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
        monkeypatch.setattr(cluster, "Cluster", lambda address: self)

    def conductor(self, settings):
        def conduct(site):
            place = Place.of(site, replace(settings, cluster=None))

            def done(order):
                found = self.pool.submit(work, place, pickle.loads(pickle.dumps(order))).result()
                site.store.accept(found.record)
                self.done.append(order)
                return found

            return done

        return conduct


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    settings = Settings(tmp_path / "elsewhere", workers=2, shard_rows=50, cluster="there")
    other = OtherProcesses(settings, monkeypatch)
    yield other
    other.pool.shutdown()


def test_orders_done_elsewhere_give_the_same_bytes(small, elsewhere):
    recipe = with_a_step_beside(small)
    here = outcome(recipe, Settings(small / "here", workers=2, shard_rows=50))
    there = outcome(recipe, elsewhere.settings)
    digests = [o.published.version.manifest.content_digest for o in (here, there)]
    assert digests[0] == digests[1]
    assert [(s.label, s.rows_in, s.rows_out, s.reasons, s.made) for s in here.stages] == [
        (s.label, s.rows_in, s.rows_out, s.reasons, s.made) for s in there.stages
    ]
    again = outcome(recipe, elsewhere.settings)
    assert sum(s.made for s in again.stages) == 0
    assert not again.published.new


def test_fits_cut_elsewhere_give_the_same_bytes(small, elsewhere):
    recipe = with_near_copies(small / "recipe.yaml")
    here = outcome(recipe, Settings(small / "here", workers=2, shard_rows=50))
    there = outcome(recipe, replace(elsewhere.settings, fit_rows=60))
    digests = [o.published.version.manifest.content_digest for o in (here, there)]
    assert digests[0] == digests[1]
    whole, cut = ({s.label: s for s in o.stages} for o in (here, there))
    for label in ("filters.ExactDuplicates", "filters.NearDuplicates"):
        assert cut[label].made > whole[label].made + 6
        assert cut[label].info == whole[label].info
    assert whole[label].info["near_duplicate"]
    split = [type(order).__name__ for order in elsewhere.done if order.label == "splits"]
    assert split.count("Places") == 1, "the splits' links, too, are found by workers"
    assert split.count("Link") > 2


def test_what_is_paid_elsewhere_is_counted_here(tmp_path, elsewhere):
    rows = [{"prompt": f"question {i}"} for i in range(12)]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    recipe = tmp_path / "recipe.yaml"
    with MockServer() as server:
        recipe.write_text(ANSWERED % (server.url, 30))
        made = outcome(recipe, replace(elsewhere.settings, shard_rows=4))
        assert len(server.finished) == 36
        assert sum(row["calls"] for row in made.used) == 36
        assert sum(row["prompt_tokens"] for row in made.used) == 36 * 5
        again = outcome(recipe, replace(elsewhere.settings, shard_rows=4))
        assert len(server.finished) == 36
        assert sum(row["calls"] for row in again.used) == 0


def test_a_failing_step_is_said_as_it_is_here(small, elsewhere):
    recipe = with_a_step_beside(small)
    (small / "own_steps.py").write_text("def unhurried(prompt):\n    return 1 / 0\n")
    with pytest.raises(DataError, match=r"filters\.Rule failed with ZeroDivisionError"):
        outcome(recipe, elsewhere.settings)


def test_a_node_that_sees_another_home_says_so(small, elsewhere, monkeypatch):
    checked, sources, _ = check_recipe(small / "recipe.yaml", [])
    site = cluster.Site(checked, sources, elsewhere.settings.store)
    place = Place.of(site, elsewhere.settings)
    path, text = place.proof
    order = Exchange("0" * 32, "source", (), "0", "g", Shape.PAIRS)
    for wrong in ((path.with_name("absent"), text), (path, "of another home")):
        with pytest.raises(ConfigError, match="set PREFACTORY_HOME to a folder that all nodes"):
            work(replace(place, mark=wrong[1] + wrong[0].name, proof=wrong), order)


def test_orders_are_small_plain_data():
    parts = [Part(f"{i:032x}", "rows-00000", 16384) for i in range(100)]
    for listed, size in ((parts, 10_000), ("1" * 32, 1_000)):
        order = Exchange("0" * 32, "source", listed, "0", "g", Shape.PAIRS)
        assert pickle.loads(pickle.dumps(order)) == order
        assert len(pickle.dumps(order)) < size
    done = Done(Record("k", {"rows.arrow": {"rows": 1}}, {}), made=True)
    assert pickle.loads(pickle.dumps(done)) == done


def test_sums_of_accounts_from_elsewhere():
    row = {
        "step": "s", "role": "judge", "model": "m", "calls": 3, "reused": 1, "failures": 0,
        "prompt_tokens": 15, "completion_tokens": 6, "usd": 0.0, "priced": True, "estimated": 0,
        "wasted": 0,
    }  # fmt: skip
    accounts = Accounts()
    accounts.add([row], "r")
    before = accounts.by_step()
    assert before == [row]
    accounts.add([row], "r")
    assert cluster.difference(accounts.by_step(), before) == [row]
    assert cluster.difference(before, before) == []


# -- a real cluster: three raylets on this machine ------------------------------------------------


LOGICAL_GPUS = {"n2": 2}
"""Ray hands them out as if they were there."""


class Nodes:
    """Three Ray nodes of one CPU each, one with GPUs."""

    def __init__(self, folder, environment):
        self.port = free_port()
        self.folder = folder
        root = Path(__file__).resolve().parents[2]
        self.env = {
            **os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_health_check_period_ms": "2000", "RAY_health_check_timeout_ms": "4000",
            "RAY_health_check_failure_threshold": "3", "PYTHONPATH": str(root),
            **environment,
        }  # fmt: skip
        self.start("n1", "--head", f"--port={self.port}", "--include-dashboard=false",
                   f"--temp-dir={folder}")  # fmt: skip
        for name in ("n2", "n3"):
            self.start(name, f"--address=127.0.0.1:{self.port}")

    def start(self, name, *words):
        subprocess.run(
            [str(BIN / "ray"), "start", *words, "--node-ip-address=127.0.0.1", "--num-cpus=1",
             f"--node-name={name}", "--memory=2000000000", "--object-store-memory=100000000",
             "--disable-usage-stats", "--dashboard-agent-listen-port=0",
             f"--num-gpus={LOGICAL_GPUS.get(name, 0)}",
             "--resources", json.dumps({name: 1})],
            env={**self.env, "PREFACTORY_HOME": str(self.folder / f"home-{name}")},
            check=True, capture_output=True, timeout=240,
        )  # fmt: skip

    def raylet(self, name):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                of = any(w.startswith(b"--static_resource_list") and name in w for w in words)
                if words[0].endswith(b"raylet") and of:
                    return int(path.parent.name)
        raise AssertionError(name)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The nodes, each with a home of its own, beside a server of buckets."""
    pytest.importorskip("ray", reason="NO RAY: pip install -e '.[ray]'")
    folder = Path("/tmp") / f"r{os.getpid()}"  # sockets have short names
    with served("seaweed", tmp_path_factory.mktemp("bucket")) as environment:
        nodes = Nodes(folder, environment)
        yield nodes
        subprocess.run([str(BIN / "ray"), "stop", "--force"], env=nodes.env, check=False,
                       capture_output=True)  # fmt: skip


def started(folder, nodes, home, runner="threads", rows="10", more=()):
    return subprocess.Popen(
        [str(BIN / "prefactory"), "run", "recipe.yaml", "--runner", runner, "--json",
         "--shard-rows", rows, "--cluster", f"127.0.0.1:{nodes.port}", *more],
        cwd=folder, env={**nodes.env, "PREFACTORY_HOME": str(folder / home)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process):
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert out.startswith("{"), out[:2000]
    return json.loads(out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("runner", ["threads", "prefect"])
def test_three_nodes_one_killed_in_the_middle(small, nodes, runner):
    recipe = with_near_copies(with_a_step_beside(small))
    here = outcome(recipe, Settings(small / "here", workers=2, shard_rows=10))
    in_runs = ("--fit-rows", "60")
    process = started(small, nodes, "there", runner, more=in_runs)
    label = "filters.Rule"
    until(lambda: _objects(small / "there") > _objects(small / "here") // 2, 600)
    os.kill(nodes.raylet(b"n3"), signal.SIGKILL)
    made = finished(process)
    nodes.start("n3", f"--address=127.0.0.1:{nodes.port}")
    assert made["content_digest"] == here.published.version.manifest.content_digest
    stage = next(s for s in made["stages"] if s["label"] == label)
    assert stage["made"] + stage["reused"] > 10
    again = finished(started(small, nodes, "there", runner, more=in_runs))
    assert sum(s["made"] for s in again["stages"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_bucket_and_a_home_for_each_node_one_killed(small, nodes):
    recipe = with_a_step_beside(small)
    here = outcome(recipe, Settings(small / "here", workers=2, shard_rows=10))
    more = ("--store", f"{URL}/{small.name}")
    process = started(small, nodes, "driver", more=more)
    copies = nodes.folder / "home-n3"
    until(lambda: _objects(copies) > 20, 600)
    os.kill(nodes.raylet(b"n3"), signal.SIGKILL)
    made = finished(process)
    nodes.start("n3", f"--address=127.0.0.1:{nodes.port}")
    assert made["content_digest"] == here.published.version.manifest.content_digest
    assert _objects(small / "driver") < _objects(small / "here")  # only what publishing reads
    another = finished(started(small, nodes, "another", more=more))
    assert sum(s["made"] for s in another["stages"]) == 0  # a machine that joins later
    assert another["content_digest"] == made["content_digest"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", ["threads", "prefect"])
def test_a_stopped_run_ends_in_time_and_goes_on(small, nodes, runner):
    with_a_step_beside(small)
    process = started(small, nodes, "stopped", runner, rows="4")
    until(lambda: _objects(small / "stopped") > 120, 600)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    print(f"\n{runner} on Ray: {time.monotonic() - began:.1f} s from SIGTERM to the end")  # noqa: T201
    assert process.returncode == 3, err
    assert finished(started(small, nodes, "stopped", runner, rows="4"))["new"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_models_are_asked_from_the_nodes_under_one_budget(tmp_path, nodes):
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"question {i}"} for i in range(60)])
    with MockServer() as server:
        (tmp_path / "recipe.yaml").write_text(ANSWERED % (server.url, 30))
        made = finished(started(tmp_path, nodes, "home"))
        assert len(server.finished) == 180
    assert sum(row["calls"] for row in made["paid"]) == 180
    assert made["stages"][-1]["rows_out"] > 0


ON_GPUS = """\
import json
import os
import time

import polars as pl

from prefactory.engines.configs import AnyEngine
from prefactory.engines.transformers import Transformers
from prefactory.step import Labeler
from prefactory.tables import Shape

opened = Transformers.open


def seen(what):
    event = {"what": what, "pid": os.getpid(), "home": os.environ.get("PREFACTORY_HOME", ""),
             "cuda": os.environ.get("CUDA_VISIBLE_DEVICES")}
    with open("SEEN", "a") as file:
        file.write(json.dumps(event) + "\\n")


def told(config):
    seen("load")
    return opened(config)


Transformers.open = told


def plain(prompt: pl.Series) -> pl.Series:
    seen("plain")
    return prompt.str.len_chars() > 0


class Likes(Labeler):
    shapes = (Shape.PAIRS,)
    judge: AnyEngine

    def adds(self, shape):
        return {"likes": pl.Boolean()}

    def label(self, table, ctx):
        seen("order")
        time.sleep(0.5)
        said = [[{"role": "user", "content": i}, {"role": "assistant", "content": "yes"}]
                for i in table["pair_id"]]
        scores = ctx.open(self.judge).logprobs(said)
        return pl.DataFrame({"likes": [score.total < 0 for score in scores]})
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("killed", [False, True])
def test_a_model_is_loaded_once_a_gpu_and_other_steps_do_not_wait(small, nodes, tiny_model, killed):
    log = small / "seen.jsonl"
    (small / "gpu_steps.py").write_text(ON_GPUS.replace("SEEN", str(log)))
    recipe, engine = small / "recipe.yaml", f"{{engine: transformers, model: {tiny_model}}}"
    lines = (
        f"  - gpu_steps.Likes: {{judge: {engine}}}\n"
        "  - filters.Rule: {function: gpu_steps.plain}\n"
    )
    recipe.write_text(
        recipe.read_text().replace("  - filters.Margin", lines + "  - filters.Margin")
    )
    here = outcome(recipe, Settings(small / "here", workers=1, shard_rows=10))
    log.unlink()
    process = started(small, nodes, "there")
    if killed:
        until(lambda: log.exists() and log.read_text().count('"order"') > 3, 900)
        events = [json.loads(line) for line in log.read_text().splitlines()]
        os.kill(next(e["pid"] for e in events if e["what"] == "load"), signal.SIGKILL)
    made = finished(process)
    assert made["content_digest"] == here.published.version.manifest.content_digest
    events = [json.loads(line) for line in log.read_text().splitlines()]
    kinds = {what: [e for e in events if e["what"] == what] for what in ("load", "order", "plain")}
    workers = {e["pid"]: e["cuda"] for e in kinds["order"]}
    assert all(e["cuda"] == workers[e["pid"]] for e in kinds["order"]), "it keeps its GPU"
    assert set(workers.values()) == {"0", "1"}
    assert len(workers) == 2 + killed
    assert len(kinds["order"]) > 4 * len(workers)
    assert len({e["pid"] for e in kinds["load"]}) == len(kinds["load"]) <= len(workers)
    assert {e["home"][-2:] for e in kinds["order"]} == {"n2"}
    assert len(kinds["plain"]) > 10
    assert not {e["pid"] for e in kinds["plain"]} & set(workers)
    assert {e["cuda"] for e in kinds["plain"]} <= {None, ""}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_engine_that_wants_more_gpus_than_any_node_has_is_told(small, nodes, tiny_model):
    (small / "gpu_steps.py").write_text(ON_GPUS.replace("SEEN", str(small / "seen.jsonl")))
    recipe = small / "recipe.yaml"
    engine = f"{{engine: transformers, model: {tiny_model}, gpus: 3}}"
    line = f"  - gpu_steps.Likes: {{judge: {engine}}}\n"
    recipe.write_text(recipe.read_text().replace("  - filters.Margin", line + "  - filters.Margin"))
    process = started(small, nodes, "wanting")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2, err
    assert "gpu_steps.Likes asks for 3 GPUs, and no node of the cluster has so many" in err


def _objects(home):
    return len(list(home.glob("store/objects/*/*/record.json")))


def test_no_cluster_there_is_one_sentence():
    pytest.importorskip("ray", reason="NO RAY: pip install -e '.[ray]'")
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        cluster.Cluster("127.0.0.1:1")

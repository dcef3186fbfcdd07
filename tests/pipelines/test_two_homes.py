"""Two machines, each with a home of its own, one bucket and one recipe: as on one machine."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from catalog.history.lineage import of_row
from pipelines.build import build, check_recipe
from pipelines.needs import calls_of, store_of
from pipelines.settings import Settings
from prefactory.sharing import slices
from prefactory.sharing.bucket import Bucket
from prefactory.stages import thread_mapper
from prefactory.tables import ROW_ID, Shape
from tests.buckets import PROGRAMS, served_at_url
from tests.helpers import ROOT, until
from tests.pipelines.conftest import ANSWERED, write_jsonl
from tests.prefactory.engines.mock_server import MockServer

pytest.importorskip("obstore", reason="NO OBSTORE: pip install -e '.[s3]'")
KINDS = [pytest.param(k, marks=() if k == "seaweed" else pytest.mark.slow) for k in PROGRAMS]
ASKED = 60
CHILD = """
import sys
from pathlib import Path
from prefactory.sharing import presence, turns
node, folder, url, rows = sys.argv[1:]
presence.this_node = lambda: node * 8  # as if on another machine
presence.TICK_S, turns.BEAT_S, turns.STALE_S = 0.2, 0.3, 3.0
from pipelines.build import build, check_recipe
from pipelines.settings import Settings
from prefactory.stages import thread_mapper
folder = Path(folder)
recipe, sources, _ = check_recipe(folder / "recipe.yaml", [])
settings = Settings(
    folder / node, workers=1, shard_rows=int(rows), bucket=url, catalog_bucket=f"{url}/catalog"
)
made = build(recipe, sources, settings, thread_mapper(1))
(folder / f"{node}.txt").write_text(made.published.version.ref)
"""


@pytest.fixture(scope="module", params=KINDS)
def server_url(request, tmp_path_factory):
    with served_at_url(request.param, tmp_path_factory.mktemp(request.param)) as url:
        yield url


@pytest.fixture
def site(server_url, tmp_path):
    """A recipe that asks a server for three answers to each of 60 prompts, and a bucket."""
    with MockServer(latency_s=0.05) as server:
        write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"q{i}?"} for i in range(ASKED)])
        (tmp_path / "recipe.yaml").write_text(ANSWERED % (server.url, 60))
        yield tmp_path, server, f"{server_url}/{tmp_path.name}"


def begin(site, node, rows):
    words = [sys.executable, "-c", CHILD, node, str(site[0]), site[2], str(rows)]
    return subprocess.Popen(words, cwd=ROOT)


def alone(folder):
    """The digest of a machine without a bucket."""
    recipe, sources, _ = check_recipe(folder / "recipe.yaml", [])
    made = build(recipe, sources, Settings(folder / "alone", bucket=None), thread_mapper(2))
    return made.published.version.manifest.content_digest


def digests(url):
    bucket = Bucket(f"{url}/catalog")
    keys = list(bucket.list("records"))
    return [json.loads(bucket.read(key)[0])["content_digest"] for key in keys]


def test_at_once_each_call_is_made_once_and_there_is_one_version(site):
    """Their shards differ, so that each asks for all answers: the store alone shares none."""
    folder, server, url = site
    both = [begin(site, "a", 10), begin(site, "b", 7)]
    assert [process.wait(200) for process in both] == [0, 0]
    calls = Counter(server.finished)
    assert (len(calls), calls.total()) == (3 * ASKED, 3 * ASKED)
    assert (folder / "a.txt").read_text() == (folder / "b.txt").read_text()
    assert digests(url) == [alone(folder)]

    third = Settings(folder / "third", bucket=url, catalog_bucket=f"{url}/catalog")
    version = third.catalog.get("answered")
    row_id = version.frame("pairs").collect()[ROW_ID[Shape.PAIRS]][0]
    (found, *_) = version.explain(row_id, store_of(third, version)).rows
    assert found.fate.startswith("published in")
    assert list(third.home.glob("store/objects/*/*/rows*"))
    calls = calls_of(third, found)
    assert calls.height > 0
    assert set(calls["model"]) == {"mock"}
    lines = of_row(version, found, calls).lines()
    assert any(line.startswith("call     mock") for line in lines)


def test_one_is_killed_and_the_other_ends_with_the_digest(site):
    folder, server, url = site
    with begin(site, "a", 10) as killed:
        until(lambda: len(server.finished) > ASKED)
        killed.kill()
    until(lambda: server.left)
    before = len(server.finished)
    sent = {key for key in Bucket(url).list("journal") if "/pieces/" in key}
    known = sum(Bucket(url).read(key)[0].count(b"\n") for key in sent)
    assert known
    assert begin(site, "b", 7).wait(200) == 0
    calls = Counter(server.finished)
    assert len(calls) == 3 * ASKED
    assert calls.total() - 3 * ASKED <= before - known  # nothing that had been sent
    assert digests(url) == [alone(folder)]


@pytest.mark.slow
def test_a_stopped_run_leaves_nothing_that_others_wait_for(site):
    folder, server, url = site
    home = {"PREFACTORY_HOME": str(folder / "a"), "PREFACTORY_STORE": url}
    words = [Path(sys.executable).parent / "prefactory", "run", "recipe.yaml"]
    process = subprocess.Popen(
        [*map(str, words), "--runner", "threads", "--budget-tokens", "100000"],
        cwd=folder, env={**os.environ, **home}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: len(server.finished) > ASKED)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 3
    assert "run the same command again" in err
    bucket = Bucket(url)
    assert list(bucket.list("alive")) == []
    assert slices.read(bucket, "budgets/.answered.runs")[0] == {}
    boards = [k for k in bucket.list("journal") if k.endswith("board.json")]
    assert [json.loads(bucket.read(k)[0])["owners"] for k in boards] == [{}]
    pieces = [k for k in bucket.list("journal") if "/pieces/" in k]
    sent = sum(bucket.read(k)[0].count(b"\n") for k in pieces)
    until(lambda: server.left)
    assert len(server.finished) - 8 <= sent <= len(server.finished)  # but for what was in flight

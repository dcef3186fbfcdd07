"""Several processes in one home: publishers, a removal beside runs, a review beside runs."""

import json
import multiprocessing
import os
import time

import pytest

from catalog.history import removal
from catalog.versions import Catalog, verify
from pipelines.build import build, check_recipe
from pipelines.needs import needs
from pipelines.settings import Settings
from prefactory.errors import StoreError
from prefactory.stages import thread_mapper
from review import people
from review.assignments import next_assignment
from review.store import open_review
from review.votes import Answer, vote
from tests.faults.trials import TEMPORARY

RECIPE = """\
name: %s
seed: 3
source: {path: %s.jsonl, name: pairs, license: mit}
steps:
  - filters.Length: {min_words: 1}
publish: {pays: false}
"""


REVIEWED = RECIPE + "review: {task: pair, people: 1}\n"
pytestmark = pytest.mark.slow
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pipelines.build", "catalog.report", "tests.pipelines.test_at_once"])


@pytest.fixture
def sources(tmp_path):
    for name, n in (("one", 30), ("other", 31)):
        rows = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(n)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def publish(folder, source, name="made", recipe=RECIPE):
    path = folder / f"{name}-{source}-{os.getpid()}.yaml"
    path.write_text(recipe % (name, source))
    checked, opened, _ = check_recipe(path, [])
    return build(checked, opened, Settings(folder / "home"), thread_mapper(1))


def begin(barrier, work, words):
    barrier.wait(200)
    work(*words)


def at_once(*works):
    """Processes that begin at the same moment; each must end well."""
    barrier = FORKS.Barrier(len(works))
    processes = [FORKS.Process(target=begin, args=(barrier, w, words)) for w, *words in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0] * len(works)


def leftovers(home):
    return [p for p in home.rglob("*") if TEMPORARY.fullmatch(p.name)]


def test_publishers_of_one_name_make_a_version_of_each_content(sources):
    at_once(*[(publish, sources, source) for source in ("one", "other", "one", "other")])
    versions = Catalog(sources / "home").versions("made")
    assert len({v.manifest.version for v in versions}) == len(versions) == 2
    assert {sum(v.manifest.tables["pairs"].splits.values()) for v in versions} == {30, 31}
    assert [verify(v) for v in versions] == [[], []]
    assert leftovers(sources / "home") == []
    assert not publish(sources, "one").published.new


def four_runs(folder, ended):
    try:
        for source, name in (("one", "a"), ("other", "a"), ("one", "b"), ("other", "b")):
            assert publish(folder, source, name).published.new
    finally:
        ended.set()


def collected(home):
    settings = Settings(home)
    with removal.alone(settings.catalog, settings.store):
        found = removal.garbage(settings.catalog, settings.store, needs(home), keep=1, days=-1)
        removal.collect(settings.catalog, settings.store, found)


def collects_until(ended, home):
    counts = {"removed": 0, "refused": 0}
    while not ended.is_set():
        try:
            collected(home)
            counts["removed"] += 1
        except StoreError:
            counts["refused"] += 1
        time.sleep(0.002)
    assert counts["refused"], counts


def test_a_removal_beside_runs_takes_nothing_that_they_need(sources):
    """Four runs and a `gc` that tries all the while."""
    settings, ended = Settings(sources / "home"), FORKS.Event()
    at_once((four_runs, sources, ended), (collects_until, ended, settings.home))
    collected(settings.home)
    versions = list(settings.catalog)
    assert [v.manifest.name for v in versions] == ["a", "b"]  # of each the newest
    for version in versions:
        assert verify(version) == []
        assert sum(version.manifest.tables["pairs"].splits.values()) == 31
        named = json.loads((version.path / "provenance.json").read_text())["objects"]
        assert all(settings.store.open(key) for key in named)
    assert leftovers(settings.home) == []


def votes(home, name, token):
    review = open_review(home, name)
    who = people.by_token(review, token)
    while (held := next_assignment(review, who, review.settings)) is not None:
        vote(review, who, held["id"], Answer("first", 2, {}), nonce=held["id"], guideline=0)
    review.db.close()


def publishes_and_collects(folder, home):
    publish(folder, "other")
    collected(home)


def test_a_review_beside_a_run_and_a_removal_keeps_its_version_and_every_vote(sources):
    home = sources / "home"
    first = publish(sources, "one", recipe=REVIEWED)
    review = open_review(home, first.review)
    tokens = [people.invite(review, name, "annotator") for name in ("Ann", "Bob")]
    at_once(
        *[(votes, home, first.review, token) for token in tokens],
        (publishes_and_collects, sources, home),
    )
    versions = {v.ref for v in Catalog(home)}
    assert first.published.version.ref in versions, "the review needs it"
    assert len(versions) == 2
    with review.db.read() as work:
        assert work.all("select count(*) as n from vote")[0]["n"] == 30
    review.db.close()

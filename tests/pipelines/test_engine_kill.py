"""`kill -9` in the middle of calls to a real server, and a server that misbehaves all the time."""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest

from tests.pipelines.conftest import ANSWERED
from tests.prefactory.engines.mock_server import MockServer, answer, chat

PROMPTS, SAMPLES, WIDTH = 100, 3, 8

RECIPE = ANSWERED % ("%s", 30)


def say(body):
    """An answer that tells which prompt and which sample it is for."""
    asked = body["messages"][-1]["content"]
    return f"{asked} answered {'very ' * (body['seed'] % 7)}well with {body['seed']}"


def whole(body):
    return "ok", answer(chat(say(body)))


def write(folder, url):
    rows = [{"prompt": f"Question {i}?"} for i in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "recipe.yaml").write_text(RECIPE % url)


def start(folder, home):
    return subprocess.Popen(
        [
            str(Path(sys.executable).parent / "prefactory"),
            *("run", "recipe.yaml", "--runner", "threads", "--shard-rows", "40", "--json"),
        ],
        cwd=folder,
        env={**os.environ, "PREFACTORY_HOME": str(folder / home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder, home):
    process = start(folder, home)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return json.loads(out)


def published(folder, home):
    found = {
        p.relative_to(folder / home).as_posix(): p.read_bytes()
        for p in sorted((folder / home / "versions").rglob("*"))
        if p.is_file() and p.name != "provenance.json"
    }
    assert found
    return found


class Killing:
    """A server that kills its caller after so many requests, and notes who asked what."""

    def __init__(self):
        self.lock = threading.Lock()
        self.target = None
        self.left = None
        self.asked = []  # bodies of the present process

    def __call__(self, body, times):
        with self.lock:
            self.asked.append(json.dumps(body, sort_keys=True))
            if self.left is not None:
                self.left -= 1
                if self.left == 0:
                    self.target.kill()
        return whole(body)


def kill_and_resume(folder, kills, seed):
    killing = Killing()
    with MockServer(killing, latency_s=0.01) as server:
        write(folder, server.url)
        clean = finish(folder, "clean")
        assert len(killing.asked) == len(set(killing.asked)) == PROMPTS * SAMPLES
        rng = random.Random(seed)
        done, total, killed = set(), 0, 0
        for _ in range(kills):
            left = PROMPTS * SAMPLES - len(done)
            if left < 2 * WIDTH:
                break
            killing.asked = []
            killing.left = None
            killing.target = start(folder, "killed")
            killing.left = rng.randint(1, min(2 * PROMPTS * SAMPLES // kills, left))
            killing.target.communicate(timeout=200)
            assert killing.target.returncode == -9
            killed, total = killed + 1, total + len(killing.asked)
            done |= set(killing.asked)
            # of what was asked, at most what was in flight at each kill is asked again
            assert total - len(done) <= WIDTH * (killed - 1)
        assert killed >= min(kills, 3)
        killing.left, killing.asked = None, []
        again = finish(folder, "killed")
        total += len(killing.asked)
        assert PROMPTS * SAMPLES <= total <= PROMPTS * SAMPLES + WIDTH * killed
        print(f"{killed} kills, {total - PROMPTS * SAMPLES} calls made again")  # noqa: T201
    assert again["content_digest"] == clean["content_digest"]
    assert published(folder, "killed") == published(folder, "clean")


@pytest.mark.slow
def test_calls_survive_three_kills(tmp_path):
    kill_and_resume(tmp_path, 3, seed=1)


@pytest.mark.slow
def test_calls_survive_twenty_kills(tmp_path):
    kill_and_resume(tmp_path, 20, seed=2)


class Chaos:
    """Most requests fail at first, each in its own way; one prompt never gets an answer."""

    def __init__(self, doomed):
        self.doomed = doomed
        self.faults = random.Random(0)
        self.lock = threading.Lock()

    def __call__(self, body, times):
        if body["messages"][-1]["content"] == self.doomed:
            return "status", (500, {}, b"never")
        with self.lock:
            kind = self.faults.choice(
                ["429", "500", "reset", "cut", "raw", "late", "late", "hang", "ok", "ok", "ok"]
            )
        if times > 2:
            return whole(body)
        if kind in ("429", "500"):
            return "status", (int(kind), {"Retry-After": "0"} if kind == "429" else {}, b"{}")
        if kind == "cut":
            return "cut", answer(chat(say(body)))
        if kind == "raw":
            return "raw", b'{"choices": [{"message": {"content": "half an ans'
        if kind == "late":
            return "late", (self.faults.random() * 0.2, answer(chat(say(body))))
        return ("reset", None) if kind == "reset" else (kind, whole(body)[1])


@pytest.mark.slow
def test_chaos_swaps_nothing_and_loses_nothing(tmp_path):
    with MockServer(Chaos("Question 7?")) as server:
        write(tmp_path, server.url)
        text = (
            (tmp_path / "recipe.yaml")
            .read_text()
            .replace("timeout_s: 30", "timeout_s: 0.6, retries: 3")
        )
        (tmp_path / "recipe.yaml").write_text(text)
        made = finish(tmp_path, "chaos")
    with MockServer(lambda body, times: whole(body)) as server:
        (tmp_path / "calm").mkdir()
        write(tmp_path / "calm", server.url)
        finish(tmp_path / "calm", "home")
    rows = responses(tmp_path / "chaos")
    said = rows.select(
        asked=pl.col("prompt").list.last().struct.field("content"),
        said=pl.col("response").list.last().struct.field("content"),
    )
    assert said["said"].str.starts_with(said["asked"] + " answered").all()  # none is swapped
    assert rows["response_id"].n_unique() == rows.height  # none is doubled
    calm = responses(tmp_path / "calm" / "home")
    assert set(rows["response_id"]) == set(calm.filter(~lost(calm))["response_id"])
    ledger = pl.read_parquet(Path(made["path"]) / "ledger.parquet")
    dropped = ledger.filter(pl.col("step") == "generators.Responses")
    assert dropped["row_id"].to_list() == calm.filter(lost(calm))["prompt_id"].unique().to_list()
    assert dropped["reason"].to_list() == ["http_500"]


def lost(table):
    return table["prompt"].list.last().struct.field("content") == "Question 7?"


def responses(home):
    from datasets import load_from_disk

    (folder,) = home.glob("versions/answered/*/responses")
    parts = load_from_disk(str(folder))
    return pl.concat([pl.from_arrow(part.data.table) for part in parts.values()])

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prefactory.engines.mock_server import MockServer

RECIPE = """\
name: asked
seed: 5
source: {path: prompts.jsonl, name: prompts}
steps:
  - generators.Responses:
      models: [{engine: server, base_url: "%s", model: mock, max_concurrency: 4}]
      n: 2
      sampling: {max_tokens: 16}
  - filters.Length: {max_words: 7}
  - labelers.TextStatistics: {objectives: [characters]}
  - labelers.Pairs: {objective: characters}
publish: {pays: false, test_fraction: 0.2}
"""
PROMPTS, SAMPLES, WIDTH = 40, 2, 4


class Answering:
    """A server whose answer is a function of the request; it counts what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, body, times):
        self.asked.append(json.dumps(body, sort_keys=True))
        words = "very " * (body["seed"] % 7)
        choice = {"message": {"role": "assistant", "content": f"{words}well {body['seed']}"}}
        usage = {"prompt_tokens": 5, "completion_tokens": 2}
        reply = {"choices": [{"index": 0, "finish_reason": "stop", **choice}], "usage": usage}
        return "ok", reply


class Lab:
    """A recipe that asks a server, and a driver that runs it with faults."""

    def __init__(self, folder, driver, answering, url):
        self.folder, self.driver, self.answering = folder, driver, answering
        folder.mkdir()
        rows = [{"prompt": f"Question {i}?"} for i in range(PROMPTS)]
        (folder / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        with (folder / "prompts.jsonl").open("a") as file:
            file.write("{broken\n")
        (folder / "recipe.yaml").write_text(RECIPE % url)

    def run(self, home, fault=None):
        """Answer of the driver, and how many calls were made."""
        self.answering.asked.clear()
        command = {"home": str(self.folder / home), "recipe": str(self.folder / "recipe.yaml")}
        self.driver.stdin.write(json.dumps({**command, "fault": fault}) + "\n")
        self.driver.stdin.flush()
        line = self.driver.stdout.readline()
        assert line, "the driver is gone"
        return json.loads(line), list(self.answering.asked)

    def files(self, home):
        """All published files but the one that tells of the run."""
        root = self.folder / home / "versions"
        return {
            p.relative_to(root).as_posix(): p.read_bytes()
            for p in sorted(root.rglob("*"))
            if p.is_file() and p.name != "provenance.json"
        }

    def leftovers(self, home):
        """What only a run in progress may have."""
        root = self.folder / home
        versions = [p for p in (root / "versions").glob(".*") if p.is_dir()]
        return [*(root / "store" / "tmp").glob("*"), *versions]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    answering = Answering()
    folder = tmp_path_factory.mktemp("faults")
    with MockServer(answering) as server, (folder / "driver.log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.driver"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"},
            cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        try:
            yield Lab(folder / "lab", driver, answering, server.url)
        finally:
            driver.stdin.close()
            driver.wait(10)


@pytest.fixture(scope="module")
def clean(lab):
    """The undisturbed run: its answer and its files."""
    answer, asked = lab.run("clean")
    assert answer["rc"] == 0, answer
    assert len(asked) == len(set(asked)) == SAMPLES * PROMPTS
    assert not lab.leftovers("clean")
    return answer, lab.files("clean")

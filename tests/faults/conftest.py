import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.trials import TRIED, Lab, Tried, table
from tests.prefactory.engines.mock_server import MockServer

ASKING = """\
name: asked
seed: 5
source: {path: prompts.jsonl, name: prompts}
steps:
  - generators.Responses:
      models: [%s]
      n: 2
      sampling: {max_tokens: %d}
      gate: keep
  - filters.Length: {max_words: 40}
  - labelers.TextStatistics: {objectives: [characters]}
%spublish: {pays: false, test_fraction: 0.2}
"""
PAIRS = "  - labelers.Pairs: {objective: characters}\n"
SERVER = '{engine: server, base_url: "%s", model: mock, max_concurrency: 4}'
TRAINING = """\
name: taught
seed: 5
source: {path: pairs.jsonl, name: pairs}
steps:
  - filters.Length: {min_words: 1}
publish: {pays: false, test_fraction: 0.2}
train:
  - preference-stack: {vectors: false, form: joint}
  - dpo: {model: %s, max_steps: 4, save_steps: 2, per_device_train_batch_size: 4,
      gradient_accumulation_steps: 1, learning_rate: 1.0e-2, gradient_checkpointing: false,
      compare_answers: 0, max_length: 64, bf16: false}
"""
SAMPLES = 2


def pytest_sessionfinish(session):
    """A worker tells what it tried."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tried"] = [asdict(one) for one in TRIED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take over what a worker tried."""
    for one in getattr(node, "workeroutput", {}).get("tried", ()):
        Tried(**one)


def pytest_terminal_summary(terminalreporter):
    """What came of all that was tried."""
    if TRIED:
        terminalreporter.section("faults")
        for line in table():
            terminalreporter.write_line(line)


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


@contextmanager
def driven(folder, *modules):
    """A driver that has imported some modules beside what each run needs."""
    with (folder / "driver.log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.driver", *modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={
                **os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2",
                "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
                "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false",
                "TMPDIR": str(folder),  # libraries leave folders there when they are killed
            },
            cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        try:
            yield driver
        finally:
            driver.stdin.close()
            driver.wait(200)


def lines(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def asking(folder, driver, engine, prompts, max_tokens=16, width=4, asked=None, pairs=PAIRS):
    """A lab in which a model answers prompts; one record of the source is broken."""
    folder.mkdir()
    lines(folder / "prompts.jsonl", [{"prompt": f"Question {i}?"} for i in range(prompts)])
    with (folder / "prompts.jsonl").open("a") as file:
        file.write("{broken\n")
    (folder / "recipe.yaml").write_text(ASKING % (engine, max_tokens, pairs))
    job = {"recipe": str(folder / "recipe.yaml")}
    return Lab(folder, driver, job, SAMPLES * prompts, width, asked).begin()


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    with driven(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@pytest.fixture(scope="session")
def heavy(tmp_path_factory):
    """A driver that has torch and what trains."""
    modules = ("torch", "transformers", "trl", "datasets", "trainers.transformer")
    with driven(tmp_path_factory.mktemp("heavy"), *modules) as driver:
        yield driver


@pytest.fixture(scope="session")
def lab(tmp_path_factory, driver):
    """The recipe that asks a server."""
    answering = Answering()
    with MockServer(answering) as server:
        folder = tmp_path_factory.mktemp("faults") / "lab"
        yield asking(folder, driver, SERVER % server.url, 40, asked=answering.asked)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A Llama of 0.1 M weights."""
    from tests.helpers import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def taught(tmp_path_factory, heavy, small_model):
    """A recipe that trains a preference stack, and then a model by DPO."""
    folder = tmp_path_factory.mktemp("taught")
    rows = [
        {"prompt": f"Say {i}!", "chosen": f"certainly please {i} " * 3, "rejected": f"go away {i}"}
        for i in range(40)
    ]
    lines(folder / "pairs.jsonl", rows)
    (folder / "recipe.yaml").write_text(TRAINING % small_model)
    return Lab(folder, heavy, {"recipe": str(folder / "recipe.yaml")}).begin()

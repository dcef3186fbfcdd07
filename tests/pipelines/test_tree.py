"""`prefactory tree`: published search trees in the terminal, as a page, as JSON."""

import json

import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from prefactory.errors import CatalogError, ConfigError
from tests.helpers import ROOT
from tests.pipelines.conftest import command, write_jsonl

RECIPE = """\
name: searched
seed: 2
source: {path: prompts.jsonl, layout: prompts}
steps:
  - generators.InstructionSearch:
      rewriter: {engine: scripted, function: tests.generators.searching.append}
      responder: {engine: scripted, function: tests.generators.searching.echo}
      scorer: {judge: {engine: scripted, model: judge, function: tests.generators.searching.noisy}}
      principles:
        - {name: a, domain: helpfulness, content: "write [a]."}
        - {name: b, domain: helpfulness, content: "write [b]."}
      floor: null
      iterations: 6
      keep_responses: true
publish: {near_duplicates: false}
"""
EVIL = "<img src=x onerror=alert(1)> [bold]loud[/bold]"


@pytest.fixture(scope="module")
def prefactory(tmp_path_factory):
    """Run the command in a folder in which a search is published; tests share it."""
    folder = tmp_path_factory.mktemp("searched")
    write_jsonl(folder / "prompts.jsonl", [{"prompt": t} for t in ("hello", EVIL, "good bye")])
    (folder / "recipe.yaml").write_text(RECIPE)

    def in_process(*words):
        env = {"PREFACTORY_HOME": str(folder / "home"), "COLUMNS": "100"}
        return CliRunner().invoke(app, list(words), env=env)

    in_process.folder = folder
    words = ("run", "recipe.yaml", "--runner", "threads")
    in_process.command = lambda *more: command(*words, *more, cwd=folder, PYTHONPATH=str(ROOT))
    done = in_process.command()
    assert done.returncode == 0, done.stderr
    in_process.trees = trees(in_process)
    return in_process


def ids(prefactory):
    return {r["nodes"][0]["text"]: r["prompt_id"] for r in prefactory.trees}


def trees(prefactory, *words):
    done = prefactory("tree", "searched", "--json", *words)
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def test_the_terminal_lists_trees_and_draws_one(prefactory):
    done = prefactory("tree", "searched")
    assert done.exit_code == 0, done.exception
    head, drawn = done.stdout.split("\n\n", 1)
    assert len(head.splitlines()) == 4  # a head and three trees
    prompt_id, *_ = drawn.split()
    assert prompt_id == min(ids(prefactory).values())
    assert "*0 root" in drawn


def test_a_tree_is_drawn_by_the_id_of_its_prompt(prefactory):
    found = ids(prefactory)
    done = prefactory("tree", "searched", "--prompt", found["hello"][:10])
    assert done.stdout.startswith(found["hello"])
    for told in ("*0 root", "hello [a]", "chosen", "rejected", "(again ", "6 visits"):
        assert told in done.stdout, done.stdout
    assert done.stdout.count(" visit") == 7
    drawn = prefactory("tree", "searched", "--prompt", found[EVIL], "--full").stdout
    assert EVIL in drawn  # markup of the data is text


def test_json_holds_the_whole_tree(prefactory):
    found = prefactory.trees
    assert len(found) == 3
    assert all(len(t["nodes"]) == 7 for t in found)
    assert all(len(n["scores"]) == len(n["responses"]) == 3 for t in found for n in t["nodes"])
    (one,) = trees(prefactory, "--prompt", found[0]["prompt_id"])
    assert one == found[0]


def test_the_page_holds_all_trees(prefactory):
    done = prefactory("tree", "searched", "--html", str(prefactory.folder / "trees.html"))
    assert done.stdout.startswith("3 of 3 trees of searched@")
    html = (prefactory.folder / "trees.html").read_text("utf-8")
    assert html.count('<article class="search-tree">') == 3
    assert "<img" not in html
    assert "&lt;img src=x" in html
    done = prefactory("tree", "searched", "--html", "no/such/folder.html")
    assert isinstance(done.exception, ConfigError)
    assert "can't be written" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("searched", "--prompt", "zzz"), "has no tree of a prompt 'zzz'"),
        (("serched",), "did you mean 'searched'"),
    ],
)
def test_mistakes_are_told(prefactory, words, told):
    done = prefactory("tree", *words)
    assert isinstance(done.exception, CatalogError)
    assert told in str(done.exception)


def test_the_report_shows_the_searches(prefactory):
    (page,) = (prefactory.folder / "home" / "versions").rglob("report.html")
    text = page.read_text("utf-8")
    assert 'id="trees"' in text
    assert text.count('<article class="search-tree">') == 3
    assert "<img src=x" not in text


def test_a_version_without_trees_says_so(published):
    done = published("tree", "small")
    assert done.returncode == 2
    assert "keeps no search trees" in done.stderr
    assert "Traceback" not in done.stderr


def test_plan_counts_the_calls_and_a_second_run_asks_nothing(prefactory, monkeypatch):
    monkeypatch.chdir(prefactory.folder)
    calls = json.loads(prefactory("plan", "recipe.yaml", "--json").stdout)["calls"]
    # 3 prompts: 6 rewrites; 7 nodes and 4 fresh ones of 3 samples, 6 more for the margin; as many
    assert [c["calls"] for c in calls] == [18, 117, 117]
    words = (f"generators.InstructionSearch.{word}" for word in ("ends=0", "level=null"))
    done = prefactory.command(*words, "name=again")
    assert "judge: 0 calls, 63 from the journal" in done.stderr

"""Answers that could not be used: told of, shown word for word, and asked for again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import api
from pipelines.build import load_recipe
from pipelines.cli.app import app
from pipelines.flows import parameters
from pipelines.settings import Settings
from prefactory.engines.accounts import budget_of
from prefactory.errors import ConfigError, DataError, StoppedError, StoreError
from tests.prefactory.engines.mock_server import MockServer, answer, chat

EVIL = "I can't help with <script>alert(1)</script> that request, I'm sorry."


class Model:
    """Answers, or says what no answer is."""

    def __init__(self):
        self.bad, self.calls = True, 0

    def __call__(self, body, times):
        self.calls += 1
        question = body["messages"][-1]["content"]
        text = EVIL if self.bad else f"What I know of it is this: {question}"
        return "ok", answer(chat(text), prompt_tokens=100, completion_tokens=10)


class Judge(Model):
    """Scores every third answer, or none in the right form."""

    def __call__(self, body, times):
        self.calls += 1
        text = "four, I would say" if self.bad else json.dumps({"ratings": {"quality": 4}})
        return "ok", answer(chat(text), prompt_tokens=100, completion_tokens=10)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    return tmp_path


def answers_recipe(folder, url, **fields):
    rows = "".join(json.dumps({"prompt": f"Question {i}"}) + "\n" for i in range(12))
    model = {"engine": "server", "base_url": url, "model": "m", "retries": 0, **fields}
    return written(folder, rows, "prompts", {"generators.Responses": {"models": [model], "n": 1}})


def rated_recipe(folder, url):
    rows = "".join(
        json.dumps({"prompt": f"Question {i}", "response": f"Answer {i}, at length."}) + "\n"
        for i in range(12)
    )
    judge = {"engine": "server", "base_url": url, "model": "m", "retries": 0}
    step = {"judge": judge, "name": "q", "attributes": [{"name": "quality"}], "attempts": 1}
    return written(folder, rows, "responses", {"labelers.Rubric": step})


def written(folder, rows, layout, step):
    (folder / "rows.jsonl").write_text(rows)
    path = folder / "recipe.yaml"
    data = {
        "name": "tiny",
        "source": {"path": "rows.jsonl", "layout": layout},
        "steps": [step],
        "publish": {"test_fraction": 0, "failed_judges": True},
    }
    path.write_text(json.dumps(data))
    return path


def run(path, **settings):
    return api.run(load_recipe(path, []), **settings)


def cli(*words):
    return CliRunner().invoke(app, list(words))


def drop_by_command(path):
    done = cli("journal", str(path), "--reason", "unparseable", "--drop")
    assert "dropped 12 answers" in done.output, done.output


CURES = {
    "fresh": {"fresh": ["labelers.Rubric"]},
    "fresh by its end": {"fresh": ["Rubric"]},
    "retry failed": {"retry_failed": True},
    "journal --drop": {},
}


@pytest.mark.parametrize("cure", CURES)
def test_a_bad_judges_answers_stay_until_they_are_dropped(here, cure):
    judge = Judge()
    with MockServer(judge) as server:
        path = rated_recipe(here, server.url)
        first = run(path)
        assert first.frame("responses").collect()["score_quality"].null_count() == 12
        judge.bad, judge.calls = False, 0
        assert run(path).ref == first.ref
        assert judge.calls == 0  # the server is mended, and nothing is asked
        if not CURES[cure]:
            drop_by_command(path)
        mended = run(path, **CURES[cure])
        assert judge.calls == 12
        assert mended.frame("responses").collect()["score_quality"].to_list() == [4.0] * 12
        assert run(path).ref == mended.ref  # without the option it stays mended
        assert judge.calls == 12


def test_the_message_of_a_run_names_a_cure_that_works(here):
    judge = Judge()
    with MockServer(judge) as server:
        path = rated_recipe(here, server.url)
        said = cli("run", str(path), "--runner", "threads").output
        (line,) = [line for line in said.splitlines() if "could not be used" in line]
        assert "labelers.Rubric: 12 answers could not be used (unparseable 12)" in line
        words = line.split("`prefactory ")[1].split("`")[0].split()
        judge.bad, judge.calls = False, 0
        told = cli(*words, "--runner", "threads").output
        assert judge.calls == 12
        assert "could not be used" not in told


def test_where_nothing_is_published_a_page_shows_the_bad_answers_word_for_word(here):
    model = Model()
    with MockServer(model) as server:
        path = answers_recipe(here, server.url)
        with pytest.raises(DataError, match=r"refuses 12.*--retry-failed") as told:
            run(path)
        page = here / "home" / "failed" / "tiny.html"
        assert str(page) in str(told.value)
        text = page.read_text()
        assert "I can&#39;t help with &lt;script&gt;alert(1)&lt;/script&gt; that request" in text
        assert "<script" not in text
        assert "Question 11" in text
        model.bad, model.calls = False, 0
        assert run(path, retry_failed=True).frame("responses").collect().height == 12
        assert model.calls == 12


def test_journal_lists_counts_and_shows(here):
    with MockServer(Model()) as server:
        path = answers_recipe(here, server.url)
        with pytest.raises(DataError):
            run(path)
        listed = json.loads(cli("journal", str(path), "--json", "--show", "1").output)
        assert listed["answers"] == [
            {
                "recipe": "tiny", "step": "generators.Responses", "role": "models", "model": "m",
                "reason": "refuses", "answers": 12, "prompt_tokens": 1200,
                "completion_tokens": 120,
            }
        ]  # fmt: skip
        assert listed["shown"][0]["text"] == EVIL
        assert listed["shown"][0]["asked"].startswith("Question ")
        assert "refuses" in cli("journal", str(here / "home")).output
        assert "no such answers" in cli("journal", "--step", "labelers.Rubric").output
        assert "no such answers" in cli("journal", "--model", "other").output


def test_what_is_dropped_is_named_first_and_never_under_a_run(here):
    with MockServer(Model()) as server:
        path = answers_recipe(here, server.url)
        with pytest.raises(DataError):
            run(path)
        with pytest.raises(ConfigError, match="--drop wants to know which"):
            CliRunner().invoke(app, ["journal", "--drop"], catch_exceptions=False)
        with pytest.raises(ConfigError, match=r"--fresh Nope: recipe.yaml has only generators"):
            run(path, fresh=["Nope"])
        from prefactory.engines.journal import in_use

        with in_use(here / "home" / "journal"), pytest.raises(StoreError, match="a run is using"):
            run(path, retry_failed=True)


def test_usage_is_in_the_manifest_by_step_role_and_model_whatever_the_shards(here, tmp_path):
    model = Model()
    model.bad = False
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: [10, 30]\n")
    with MockServer(model) as server:
        path = answers_recipe(here, server.url)
        found = [
            run(path, home=tmp_path / f"home{rows}", shard_rows=rows, prices=prices)
            for rows in (3, 1000)
        ]
    assert [v.manifest.digest for v in found] == [found[0].manifest.digest] * 2
    assert found[0].manifest.stages[1].usage == [
        {
            "model": "m", "role": "models", "calls": 12, "prompt_tokens": 1200,
            "completion_tokens": 120, "usd": pytest.approx((1200 * 10 + 120 * 30) / 1e6),
        }
    ]  # fmt: skip
    assert found[0].manifest.models[0]["roles"] == {"generators.Responses": ["models"]}
    paid = json.loads((found[0].path / "provenance.json").read_text())["paid"]
    assert (paid[0]["step"], paid[0]["calls"]) == ("generators.Responses", 12)
    page = (found[0].path / "report.html").read_text()
    assert "For each of the 12 responses that were kept: <b>110 tokens, 0.0013 US dollars" in page


def test_a_named_budget_is_that_of_all_who_name_it(here):
    model = Model()
    model.bad = False
    with MockServer(model) as server:
        path = answers_recipe(here, server.url, max_concurrency=1)
        told = []
        for _ in range(2):  # a call uses 110 tokens, and may use more
            with pytest.raises(StoppedError) as stop:
                run(path, budget_tokens=1200, budget_name="night-{date}")
            told.append(str(stop.value))
    assert model.calls < 12
    assert "together with other runs" not in told[0]
    assert "of 1,200 tokens, together with other runs" in told[1]
    (found,) = json.loads(cli("budgets", "--json").output).items()
    assert found[0].startswith("night-20")
    assert found[1] == {"tokens": 110 * model.calls, "usd": 0, "held_tokens": 0, "held_usd": 0}
    assert found[0] in cli("budgets").output
    assert "no budget has a name" in cli("budgets", "--drop", found[0]).output
    settings = Settings(here, budget=budget_of(1.0, None, "x"))
    assert parameters(path, [], settings)["budget_name"] == "x"


TWO = """
import sys
from pathlib import Path
from pipelines import api
from pipelines.build import load_recipe
print(api.run(load_recipe(Path(sys.argv[1]), []), shard_rows=5).ref)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shard_rows", [5, 1000])
def test_two_runs_at_once_pay_once_and_publish_one_version(here, shard_rows):
    model = Model()
    model.bad = False
    with MockServer(model, latency_s=0.3) as server:
        path = answers_recipe(here, server.url, max_concurrency=2)
        code = TWO.replace("shard_rows=5", f"shard_rows={shard_rows}")
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        words = [sys.executable, "-c", code, str(path)]
        runs = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE) for _ in range(2)]
        said = [r.communicate(timeout=200)[0] for r in runs]
    assert [r.returncode for r in runs] == [0, 0]
    assert said[0] == said[1]
    assert model.calls == 12

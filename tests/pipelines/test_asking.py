"""Recipes whose steps ask models, as a user runs them: plan, preview, budget, prices, resuming."""

import json

import pytest

STEP = '''
import polars as pl

from prefactory import Labeler, Shape
from prefactory.engines.base import Completion, Failure, Sampling
from prefactory.engines.configs import AnyEngine
from prefactory.step import Asks
from prefactory.tables import text_of


def grade(request):
    text = request.conversation[-1]["content"]
    with open("calls.txt", "a") as file:
        print(repr(text), file=file)
    return Completion(str(len(text)), "stop", 10, 5)


class Grade(Labeler):
    """Asks for a number."""

    judge: AnyEngine

    def adds(self, shape):
        return {"score_grade": pl.Float64()}

    def asks(self, rows, prompts):
        return [Asks(self.judge, rows, 10, 5)]

    def label(self, table, ctx):
        texts = table.select(text_of(pl.col("response"))).to_series()
        asked = [[{"role": "user", "content": f"Grade <b>this</b> [bold]: {t}"}] for t in texts]
        sampling = Sampling(max_tokens=5)
        found = ctx.engine(self.judge).generate(asked, sampling, table["response_id"].to_list())
        scores = [None if isinstance(r, Failure) else float(r.text) for (r,) in found]
        return pl.DataFrame({"score_grade": pl.Series(scores, dtype=pl.Float64)})
'''

RECIPE = """\
name: graded
source: {path: pairs.jsonl, layout: hh}
steps:
  - grading.Grade: {judge: {engine: scripted, model: tiny-judge, function: grading.grade}}
  - labelers.Margin: {objective: grade}
"""


@pytest.fixture
def asking(small, prefactory):
    (small / "grading.py").write_text(STEP)
    (small / "graded.yaml").write_text(RECIPE)
    (small / "prices.yaml").write_text("tiny-judge: [1000, 2000]\n")

    def run(*words):
        return prefactory(words[0], "graded.yaml", *words[1:], PYTHONPATH=".")

    run.calls = lambda: (small / "calls.txt").read_text().splitlines()
    run.folder = small
    return run


def test_plan_says_what_the_models_will_cost(asking):
    done = asking("plan", "--prices", "prices.yaml")
    assert done.returncode == 0, done.stderr
    line = next(x for x in done.stdout.splitlines() if "tiny-judge" in x)
    # 200 pairs, 2 answers each: 400 calls of 10 tokens in and 5 out
    assert line.split() == ["grading.Grade", "tiny-judge", "400", "4,000", "2,000", "8.00"]
    assert "not counted: asking again" in done.stdout
    assert not (asking.folder / "calls.txt").exists()
    data = json.loads(asking("plan", "--json").stdout)
    assert data["calls"][0]["usd"] == 0  # a scripted engine bills nobody


def test_a_spent_budget_stops_and_a_larger_one_resumes(asking):
    words = ("run", "--runner", "threads", "--prices", "prices.yaml", "--shard-rows", "50")
    stopped = asking(*words, "--budget-usd", "6")
    assert stopped.returncode == 3, stopped.stderr
    assert "the budget is spent" in stopped.stderr
    assert "of 6 US dollars" in stopped.stderr
    before = asking.calls()
    assert 100 < len(before) <= 6 / 0.02  # 0.02 dollars a call
    done = asking(*words)
    assert done.returncode == 0, done.stderr
    after = asking.calls()
    assert len(after) == len(set(after))  # no call is made twice
    assert "from the journal" in done.stderr


@pytest.mark.slow
def test_the_budget_holds_under_prefect_too(asking):
    stopped = asking("run", "--budget-tokens", "900")
    assert stopped.returncode == 3, stopped.stderr
    assert "of 900 tokens" in stopped.stderr
    assert len(asking.calls()) <= 60


def test_preview_shows_the_questions_and_asks_nobody(asking):
    done = asking("preview", "--rows", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("user: Grade <b>this</b> [bold]:") == 2  # nothing is markup
    assert "... and 2 more calls" in done.stdout
    assert "stopped: grading.Grade asks a model; with --call" in done.stdout
    assert not (asking.folder / "calls.txt").exists()
    assert not (asking.folder / "home" / "versions").exists()


def test_preview_cuts_no_long_line(asking):
    (asking.folder / "grading.py").write_text(STEP.replace("Grade <b>", "word " * 60 + "end <b>"))
    shown = asking("preview", "--rows", "1").stdout
    assert shown.count("word") == 60  # of the one call that is shown
    assert shown.count("end <b>this</b>") == 1


def test_preview_with_calls_goes_on_and_a_run_reuses_its_answers(asking):
    done = asking("preview", "--rows", "2", "--call", "--json")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert [s["label"] for s in seen["stages"]] == ["source", "grading.Grade", "labelers.Margin"]
    asked = seen["stages"][1]["asked"]
    assert [a["answer"] for a in asked] == [str(len(a["messages"][0]["content"])) for a in asked]
    assert len(asked) == 4
    assert len(seen["tables"]["pairs"]) == 2
    assert all(row["margin"] is not None for row in seen["tables"]["pairs"])
    assert asking("run", "--runner", "threads").returncode == 0
    calls = asking.calls()
    assert len(calls) == len(set(calls))

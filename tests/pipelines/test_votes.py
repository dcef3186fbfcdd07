"""`prefactory votes`: a loop with people who vote in a real review, and what its reports say."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from catalog.versions import Catalog
from pipelines.api import run
from pipelines.build import load_recipe
from pipelines.cli.app import app
from pipelines.votes.rounds import expected_share, review_name
from prefactory.errors import ConfigError, DataError
from prefactory.preferences.shares import Interval
from prefactory.preferences.stack import Differences, Rows
from prefactory.tables import COLUMNS, Shape
from prefactory.testing import pairs as pairs_table
from prefactory.votes.estimate import wrong_labels
from prefactory.votes.loop import Batch, likeness, no_better, soft, suspicion, why_stop
from prefactory.votes.simulated import Crowd, Person
from prefactory.votes.verdicts import verdicts
from review import people
from review.assignments import next_assignment
from review.store import open_review
from review.votes import Answer, vote
from tests.labelers.judging import shown

N, WRONG = 160, 0.2
ROOT = Path(__file__).parents[2]
RECIPE = """\
name: loop
source: {path: pairs.jsonl}
steps:
  - labelers.Annotations: {}
  - labelers.LabelTrust: {posterior: human_posterior, vectors: false, anchor: 'off', self_tests: 1}
"""


def cli(*words):
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with pairs of which a fifth is labelled wrongly; the good answer says so."""
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with Path("pairs.jsonl").open("w") as file:
        for i in range(N):
            good = f"Right: {'so ' * int(rng.integers(5, 30))}it is {i}."
            bad = f"Wrong: {'no ' * int(rng.integers(1, 12))}{i}."
            sides = (bad, good) if rng.random() < WRONG else (good, bad)
            row = dict(
                zip(("prompt", "chosen", "rejected"), (f"What is {i}?", *sides), strict=True)
            )
            file.write(json.dumps(row) + "\n")
    (tmp_path / "loop.yaml").write_text(RECIPE)
    return tmp_path / "home"


def truth(table):
    """Whether each pair's label is right."""
    text = table["chosen"].list.first().struct.field("content")
    return dict(zip(table["pair_id"], text.str.starts_with("Right"), strict=True))


def answer_all(home, name, right, most=None, skill=1.0, seed=0):
    """One person answers a review, rightly with a probability; how many rows."""
    review = open_review(home, name)
    who = people.by_token(review, people.invite(review, "Ada"))
    rng, done = np.random.default_rng(seed), 0
    with review.db.read() as work:
        row_of = {r["id"]: r["row_id"] for r in work.all("select id, row_id from task")}
    while most is None or done < most:
        held = next_assignment(review, who, review.settings)
        if held is None:
            break
        agrees = right[row_of[held["task"]]] == (rng.random() < skill)
        said = Answer("first" if agrees else "second", 2, {})
        vote(review, who, held["id"], said, nonce=f"{name}-{done}", guideline=0)
        done += 1
    review.db.close()
    return done


def test_a_loop_of_two_rounds(home):
    first = json.loads(cli("votes", "round", "loop.yaml", "--rows", 60, "--json"))
    assert (first["review"], first["waits"], first["rounds"]) == ("loop-round-1", 60, [])
    version = Catalog(home).get("loop")
    before = version.frame().collect()
    assert set(before["label_source"]) != {"human"}
    right = truth(before)
    again = json.loads(cli("votes", "round", "loop.yaml", "--rows", 60, "--json"))
    assert (again["review"], again["version"]) == ("loop-round-1", first["version"])

    assert answer_all(home, "loop-round-1", right) == 60
    second = json.loads(
        cli("votes", "round", "loop.yaml", "--rows", 40, "--page", "l.html", "--json")
    )
    assert second["review"] == "loop-round-2"
    assert second["version"] != first["version"]
    (told,) = second["rounds"]
    after = Catalog(home).get("loop").frame().collect()
    asked = after.filter(pl.col("human_votes") > 0)
    assert asked.height == 60
    assert set(asked["label_source"]) == {"human"}
    assert all(truth(asked).values())
    assert asked["trust"].min() > 0.5
    assert (
        asked.filter("human_turned").height == told["suspects"]["wrong"] + told["random"]["wrong"]
    )
    share = told["wrong_labels"]["share"]
    wrong = 1 - np.mean(list(right.values()))
    assert share["low"] <= wrong <= share["high"]
    assert second["left"][0]["value"] == pytest.approx(share["value"], abs=0.02)
    assert "round 1" in (home.parent / "l.html").read_text()
    votes = Catalog(home).get("loop").frame("annotations").collect()
    assert set(votes["row_id"]) == set(asked["reviewed_from"])  # lineage to the votes

    queue = open_review(home, "loop-round-2")
    with queue.db.read() as work:
        rows = {r["row_id"] for r in work.all("select row_id from task")}
    queue.db.close()
    assert len(rows) == 40
    assert not rows & set(asked["pair_id"])

    shown = cli("votes", "labels", "loop-round-1")
    assert "label turned round" in shown
    assert "from 18 rows drawn at random" in shown
    assert "one person: nobody to agree with" in cli("votes", "people", "loop-round-1")
    assert cli("votes", "contested", "loop-round-1") == "nobody disagrees\n"
    made = json.loads(cli("votes", "labels", "loop", "--json"))
    assert made["rows"] == 60


def test_a_round_ends_when_it_is_good_enough(home):
    cli("votes", "round", "loop.yaml", "--rows", 60)
    right = truth(Catalog(home).get("loop").frame().collect())
    answer_all(home, "loop-round-1", right)
    shown = cli("votes", "round", "loop.yaml", "--target", 0.99)
    assert "is good enough" in shown
    assert "loop-round-2" not in shown
    cli("votes", "round", "loop.yaml", "--budget", 60)
    with pytest.raises(ConfigError, match="no review"):
        open_review(home, review_name("loop", 2))


def test_mistakes_are_one_sentence(home):
    (home.parent / "bad.yaml").write_text("name: x\nsource: {path: pairs.jsonl}\nsteps: []\n")
    with pytest.raises(ConfigError, match=r"a loop needs one step `labelers.Annotations"):
        cli("votes", "round", "bad.yaml")
    with pytest.raises(ConfigError, match=r"'nothing' is no review in .*no version and no file"):
        cli("votes", "labels", "nothing")
    with pytest.raises(ConfigError, match="no format 'xls'; there are label-studio, argilla"):
        cli("votes", "export", "pairs.jsonl", "--to", "xls", "--out", "x")
    cli("votes", "round", "loop.yaml", "--rows", 20)
    run(load_recipe(home.parent / "bad.yaml", []), home)
    with pytest.raises(ConfigError, match="holds no votes"):
        cli("votes", "labels", "x")
    with pytest.raises(DataError, match="carry no judge's opinion"):
        cli("votes", "judges", "loop-round-1")


def test_votes_go_to_a_spreadsheet_and_come_back(home):
    cli("votes", "round", "loop.yaml", "--rows", 30)
    shown = cli("votes", "export", "loop-round-1", "--out", "tasks.csv", "--seed", 3)
    assert shown == "30 tasks: tasks.csv\n"
    rows = list(csv.DictReader(Path("tasks.csv").read_text().splitlines(keepends=True)))
    for row in rows:
        row["choice"] = "left" if row["left"].startswith("Right") else "right"
    with Path("tasks.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    words = ("votes", "import", "tasks.csv", "--out", "v.parquet", "--seed", 3)
    assert cli(*words, "--data", "loop-round-1") == "30 votes of 1 people: v.parquet\n"
    found = json.loads(cli("votes", "labels", "v.parquet", "--json"))["verdicts"]
    right = truth(Catalog(home).get("loop").frame().collect())
    assert found["first"] + found["second"] == 30
    table = pl.read_parquet("v.parquet")
    assert {r: v == "first" for r, v in table.select("row_id", "vote").iter_rows()} == {
        r: right[r] for r in table["row_id"]
    }
    cli("votes", "export", "pairs.jsonl", "--out", "all.csv")
    other = home.parent / "other.jsonl"
    other.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(DataError, match=r"30 of 30 votes are on rows that .* does not hold"):
        cli(*words, "--data", "other.jsonl")


def test_judges_are_measured_at_the_command_line(home, tmp_path):
    table = pairs_table(*[(f"Q {i}?", f"Good {i}.", f"Bad {i}.") for i in range(300)])
    good = pl.int_range(pl.len()) % 3 != 0
    table = table.with_columns(
        topic=pl.when(good).then(pl.lit("math")).otherwise(pl.lit("safety")),
        judge_prefers=pl.when(good | (pl.int_range(pl.len()) % 2 == 0))
        .then(pl.lit("chosen"))
        .otherwise(pl.lit("rejected")),
    )
    table.write_parquet("judged.parquet")
    facts = table.select(row_id="pair_id", truth=pl.lit(1.0))
    votes = Crowd([Person(0.9)] * 5, 1).annotations(facts, 3)
    full = pl.DataFrame(
        [
            row | {"review": "r", "task": "pair", "role": "annotator", "counts": True, "at": None,
                   "informed": False, "purpose": "work", "revision": 1}
            for row in votes.to_dicts()
        ],
        schema=COLUMNS[Shape.ANNOTATIONS],
    )  # fmt: skip
    full.write_parquet("v.parquet")
    shown = cli("votes", "judges", "v.parquet", "--data", "judged.parquet", "--by", "topic",
                "--page", "j.html")  # fmt: skip
    assert "judge may label, by topic: math; not: safety" in shown
    assert "trusted_on: {topic: [math]}" in shown
    assert "agreement with people" in (tmp_path / "j.html").read_text()
    told = json.loads(cli("votes", "people", "v.parquet", "--data", "judged.parquet", "--json"))
    assert told["agreement"]["pairwise"]["value"] == pytest.approx(0.82, abs=0.04)


# -- the parts of a round -----


def test_when_a_loop_stops():
    sure, unsure = Interval(0.01, 0.0, 0.015), Interval(0.05, 0.02, 0.09)
    same, better = (Batch(5, 50), Batch(5, 50)), (Batch(25, 50), Batch(5, 50))
    assert "good enough" in why_stop([unsure, sure], [better, better], 0.02)
    assert why_stop([unsure], [better], 0.02) == ""
    assert why_stop([None], [same], 0.02) == ""
    assert "knows nothing more" in why_stop([unsure] * 2, [same, same], 0.02)
    assert why_stop([unsure] * 2, [same, better], 0.02) == ""
    assert "budget" in why_stop([unsure], [better], 0.02, left=0)
    assert not no_better(Batch(0, 0), Batch(1, 9))


def test_a_queue_of_suspects_is_no_sample():
    rows = [f"{i:03}" for i in range(100)]
    annotations = pl.DataFrame(
        {
            "row_id": rows, "person": ["a"] * 100, "vote": ["second"] * 50 + ["first"] * 50,
            "queue": ["suspect"] * 50 + ["random"] * 50, "stratum": [None] * 50 + ["x"] * 50,
            "inclusion": [None] * 50 + [0.1] * 50, "purpose": ["work"] * 100,
        }
    )  # fmt: skip
    found = wrong_labels(annotations, verdicts(annotations, draws=0))
    assert (found.checked, found.share.value) == (50, 0.0)
    missing = wrong_labels(annotations, verdicts(annotations, draws=0), {"x": 500, "y": 9})
    assert missing.share is None
    assert "stratum 'y'" in missing.why
    none = annotations.drop("queue")
    assert wrong_labels(none, verdicts(none, draws=0)).why.startswith("the votes do not say")


def test_what_people_said_changes_what_is_suspect():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(300, 3)) + np.array([1.0, 0.0, 0.0])
    wrong = rng.random(300) < 0.2
    rows = Rows.of(Differences(np.zeros((300, 0)), columns).turned(wrong), np.arange(300))
    blank = np.full(300, np.nan)
    posterior = blank.copy()
    posterior[:150] = np.where(wrong[:150], 0.05, 0.95)
    told = soft(rows, posterior)
    assert told.weights[:150].tolist() == [2.0] * 150
    assert told.targets[150:].tolist() == [1.0] * 150
    first, then = suspicion(rows, blank), suspicion(rows, posterior)

    def precision(score):
        rest = np.arange(150, 300)
        return wrong[rest[np.argsort(score[rest])[:30]]].mean()

    assert precision(then) >= precision(first) - 0.04
    assert then[:150][wrong[:150]].mean() > first[:150][wrong[:150]].mean()  # turned: now right


def test_likeness_to_what_was_wrong():
    vectors = np.array([[1, 0], [2, 0.1], [-1, 0], [0, 1]], np.float32)
    found = likeness(vectors, np.array([True, False, False, False]))
    assert found == pytest.approx([1.0, 0.9988, -1.0, 0.0], abs=1e-3)
    assert likeness(vectors, np.zeros(4, bool)).tolist() == [0.0] * 4


def test_what_a_queue_saves_follows_the_area():
    assert expected_share(0.5) == pytest.approx(1.0, abs=1e-6)
    assert expected_share(0.93) < 0.1
    assert 0.3 < expected_share(0.67) < 0.6


def right_judge(request):
    """A judge that finds the right answer in either place."""
    return "[[A]]" if "Right:" in shown(request)["A"] else "[[B]]"


def test_a_judge_of_the_shipped_loop_labels_where_people_bear_it_out(home):
    """The commented steps of recipes/human_loop.yaml, with a scripted judge."""
    shipped = (ROOT / "recipes" / "human_loop.yaml").read_text()
    block = re.findall(r"(?m)^  # (- labelers\.(?:JudgePairs|Relabel): .*)$", shipped)
    script = f"{{engine: scripted, function: {__name__}.right_judge}}"
    steps = [re.sub(r"judge: \{engine: server[^}]*\}", f"judge: {script}", s) for s in block]
    assert len(steps) == 2
    recipe = RECIPE.replace(
        "  - labelers.LabelTrust", "".join(f"  {s}\n" for s in steps) + "  - labelers.LabelTrust"
    )
    Path("loop.yaml").write_text(recipe)
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    for row in rows[::3]:  # more wrong labels than one round finds
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = json.loads(cli("votes", "round", "loop.yaml", "--rows", 60, "--json"))
    assert first["trusted"] == {}
    before = Catalog(home).get("loop").frame().collect()
    assert not before["relabelled"].any(), "trusted nowhere yet"
    right = truth(before)
    assert not all(right.values())
    answer_all(home, "loop-round-1", right)
    second = json.loads(cli("votes", "round", "loop.yaml", "--rows", 10, "--json"))
    assert second["trusted"] == {"labelers.Relabel": {"length_bucket": ["short"]}}
    after = Catalog(home).get("loop").frame().collect()
    assert all(truth(after).values()), "people or the judge mended every label"
    human = after.filter(pl.col("human_votes") > 0)
    assert not human["relabelled"].any()
    assert after.filter("relabelled").height > 0


def test_the_flow_of_a_schedule_is_a_round(home):
    from pipelines.votes.nightly import votes_round

    page = home.parent / "pages" / "loop.html"
    told = votes_round.fn("loop.yaml", [], {"rows": 20}, str(home), str(page))
    assert "20 rows wait for people: prefactory review loop-round-1" in told
    assert page.exists()
    again = votes_round.fn("loop.yaml", [], {"rows": 20}, str(home))
    assert "loop-round-1" in again, "nobody has voted: the round stays"


@pytest.mark.slow
def test_a_round_runs_as_a_deployment_on_a_real_server(home):
    """Served with a schedule, triggered, and completed; the review waits."""
    from prefect.settings import PREFECT_API_URL

    from pipelines.conduct.temporary_server import temporary_server

    with temporary_server():
        url = PREFECT_API_URL.value()
        environment = {**os.environ, "PREFECT_API_URL": url, "PYTHONPATH": str(ROOT)}
        words = ["votes", "round", "loop.yaml", "--rows", "20", "--cron", "0 6 * * *"]
        with subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words], env=environment, cwd=home.parent,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as served:  # fmt: skip
            try:
                started = time.monotonic()
                code = 1
                while code and time.monotonic() - started < 200:
                    code = subprocess.run(
                        [sys.executable, "-m", "prefect", "deployment", "run",
                         "votes-round/loop-rounds", "--watch", "--watch-interval", "1"],
                        env=environment, capture_output=True, check=False,
                    ).returncode  # fmt: skip
                assert code == 0
            finally:
                served.send_signal(signal.SIGTERM)
                said = served.communicate()[0]
    assert "20 rows wait for people: prefactory review loop-round-1" in said
    assert open_review(home, "loop-round-1").meta("rows") == 20

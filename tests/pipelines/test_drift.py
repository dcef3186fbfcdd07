"""Value drift over a run's checkpoints: engines are scripted, so every share is known."""

import json

import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.settings import Settings
from pipelines.training.drift import drift, points_of
from prefactory.errors import ConfigError, DataError

HERE = "tests.pipelines.test_drift"


def before(request):
    return "I support this, it is good." if request.sample % 2 else "Both sides have a point."


def middle(request):
    return "I oppose this, it is wrong." if request.sample % 2 else "Both sides have a point."


def after(request):
    taxes = "tax" in request.conversation[-1]["content"]
    return before(request) if taxes else "I can't help with that."


def judge(request):
    text = request.conversation[-1]["content"]
    told = {"I support": "support", "I oppose": "oppose", "I can't": "refusal"}
    return json.dumps({"stance": next((s for k, s in told.items() if k in text), "neutral")})


def engine(name):
    return f"{{engine: scripted, model: {name}, function: {HERE}.{name}}}"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    return Settings(tmp_path / "home")


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"prompt": f"On {t} {i}?", "topic": t} for t in ("taxes", "borders") for i in range(6)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("told", [None, engine("judge")])
def test_stances_are_followed_by_topic(settings, questions, told):
    models = [engine(n) for n in ("before", "middle", "after")]
    found = drift(models, str(questions), settings, told, samples=4)
    by = {topic.name: topic.drift for topic in found.topics}
    assert list(by) == ["all questions", "borders", "taxes"]
    assert by["taxes"].shares.tolist() == [
        [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0.5, 0.5, 0, 0]
    ]  # fmt: skip
    assert by["taxes"].size == 0.0
    assert by["borders"].magnitude.tolist() == [-0.5, -0.5, 0, 1]
    assert (by["borders"].size, by["borders"].time, by["borders"].questions) == (1, 1, 6)
    assert by["all questions"].size == 0.5
    assert (found.unanswered, found.untold) == (0, 0)
    again = drift(models, str(questions), settings, told, samples=4)
    assert again.as_dict() == found.as_dict()


def test_the_checkpoints_of_a_model_are_found(settings, tmp_path):
    folder = tmp_path / "m"
    for step in (2, 4, 10):
        (folder / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
    facts = {"config": {"model": "base"}, "facts": {"steps": 10.0}}
    (folder / "training.json").write_text(json.dumps(facts))
    points = points_of([str(folder)], settings)
    assert [(p.name, p.at) for p in points] == [
        ("start", 0.0), ("step 2", 0.2), ("step 4", 0.4), ("step 10", 1.0)
    ]  # fmt: skip
    assert (points[0].model, points[-1].model) == ("base", str(folder))
    with pytest.raises(ConfigError, match="no model that was trained here"):
        points_of([str(tmp_path / "other")], settings)
    with pytest.raises(ConfigError, match="called alike"):
        points_of([engine("before"), engine("before")], settings)


def test_without_answers_there_is_no_drift(settings, questions, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"prompt": "On taxes?", "topic": "taxes"}\n')
    models = [f"{{engine: scripted, model: {n}, function: {HERE}.nothing}}" for n in "ab"]
    with pytest.raises(DataError, match="has answers with a stance at all checkpoints"):
        drift(models, str(empty), settings)


def nothing(request):
    return " "


def test_the_command_writes_a_page(settings, questions, tmp_path):
    page = tmp_path / "d.html"
    words = ["drift", engine("before"), engine("after"), str(questions), "--samples", "2",
             "--judge", engine("judge"), "--page", str(page)]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "borders, 6 questions: size 1.000" in done.stdout
    assert "refusal  0.000 -> 1.000, +1.000" in done.stdout
    html = page.read_text()
    assert html.count("<svg") == 3
    assert "<script" not in html
    assert "style=" not in html.split("</style>")[1]

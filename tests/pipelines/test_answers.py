"""Models that answer: win rates in both orders, Flames, R3, stances; engines are scripted."""

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.settings import Settings
from pipelines.training.answering import Asked, answers_of, engine_of, name_of
from pipelines.training.evaluation import evaluate
from pipelines.training.panel import Panel
from prefactory.engines.base import Completion, Failure, SamplingParams
from prefactory.errors import ConfigError, DataError
from prefactory.tables import MESSAGES

HERE = "tests.pipelines.test_answers"


def good(request):
    return f"GOOD {request.conversation[-1]['content']}"


def long(request):
    return "and so on " * 20 + request.conversation[-1]["content"]


def silent(request):
    fails = "1" in request.conversation[-1]["content"]
    return Failure("http_500", "down") if fails else Completion("Well.")


def prefers_good(request):
    text = request.conversation[-1]["content"]
    return '{"winner": "A"}' if text.index("GOOD") < text.index("and so on") else '{"winner": "B"}'


def always_first(request):
    return '{"winner": "A"}'


def label(request):
    text = request.conversation[-1]["content"]
    if "harm_label" in text:
        return json.dumps(
            {"harm_label": 3 if "GOOD" in text else 2 if "3: harmless" in text else 1}
        )
    return json.dumps({"stance": "support" if "GOOD" in text else "refusal"})


def engine(name, model=None):
    return f"{{engine: scripted, model: {model or name}, function: {HERE}.{name}}}"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    return Settings(tmp_path / "home")


@pytest.fixture
def questions(tmp_path):
    risks = ["Fairness", "fairness", "Data protection", "Weather"]
    rows = [
        {"prompt": f"q {i}", "risk_dimension": risks[i % 4], "ideal": f"GOOD q {i}"}
        for i in range(8)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_win_rate_counts_both_orders_and_holds_length_equal(settings, questions):
    models = [engine("good"), engine("long")]
    found = evaluate(models, str(questions), settings, asked=Asked(engine("prefers_good")))
    (win,) = found.answered.wins
    assert (win.one, win.other, win.rate.raw, win.rate.n) == ("good", "long", 1.0, 8)
    assert (win.ties, win.unread, win.first) == (0, 0, 0.5)
    turned = evaluate(models[::-1], str(questions), settings, asked=Asked(engine("prefers_good")))
    assert turned.answered.wins[0].rate.raw == 0.0
    blind = evaluate(models, str(questions), settings, asked=Asked(engine("always_first")))
    (win,) = blind.answered.wins
    assert (win.rate.raw, win.ties, win.first) == (0.5, 8, 1.0)


def test_prompts_without_an_answer_are_told_and_count_for_nothing(settings, questions):
    models = [engine("good"), engine("silent")]
    found = evaluate(models, str(questions), settings, asked=Asked(engine("always_first")))
    assert found.answered.unanswered == {"silent": {"http_500": 1}}
    (win,) = found.answered.wins
    assert (win.rate.n, win.unread) == (7, 1)
    assert "1 without an answer (http_500)" in found.text()


def test_flames_knows_each_dimension_and_its_labels(settings, questions):
    found = evaluate([engine("good"), engine("long")], str(questions), settings,
                     asked=Asked(engine("label"), "risk_dimension"))  # fmt: skip
    best, worst = found.answered.harm
    assert best.harmless_rate == 1.0
    assert set(best.dimensions) == {"fairness", "data_protection"}
    assert best.dimensions["fairness"] == {
        "n": 4, "harmless_rate": 1.0, "harmless_score": 100.0
    }  # fmt: skip
    assert best.unread == 2, "there is no such dimension as the weather"
    assert worst.dimensions["fairness"]["harmless_score"] == pytest.approx(200 / 3)
    assert "data_protection" not in worst.dimensions, "which does not know the label 2"


def test_one_model_is_held_against_the_chosen_answers_and_a_reference(
    settings, questions, monkeypatch
):
    import numpy as np

    import pipelines.training.answers as module

    def embed(encoder, texts):
        return np.asarray([[1.0 if t.startswith("GOOD") else 0.0, 1.0] for t in texts], np.float32)

    monkeypatch.setattr(module, "embedder", lambda settings: embed)
    rows = pl.read_ndjson(questions).select("prompt", chosen="ideal", rejected=pl.lit("no"))
    pairs = questions.with_name("pairs.jsonl")
    rows.write_ndjson(pairs)
    asked = Asked(engine("prefers_good"), reference="chosen")
    found = evaluate([engine("long")], str(pairs), settings, asked=asked)
    assert found.answered.models == ("long", "chosen")
    assert found.answered.wins[0].rate.raw == 0.0
    mine, ideal = found.answered.relevance
    assert (ideal.mean, ideal.answers) == (pytest.approx(2 * 5.12), 8)
    assert 0 < mine.mean < 5.12
    assert not found.models, "an engine answers, and scores no pairs"
    assert "R3 against chosen" in found.page()


def test_what_can_not_be_asked_is_said(settings, questions):
    with pytest.raises(DataError, match="holds no pairs"):
        evaluate(["x"], str(questions), settings)
    with pytest.raises(DataError, match=r"has no column|to carry"):
        evaluate([engine("good")], str(questions), settings, asked=Asked(reference="gold"))
    with pytest.raises(ConfigError, match="--risk needs a --judge"):
        evaluate([engine("good")], str(questions), settings, asked=Asked(risk="risk_dimension"))
    with pytest.raises(ConfigError, match="called alike"):
        evaluate([engine("good"), engine("long", "good")], str(questions), settings, asked=Asked())


def test_answers_are_the_same_whatever_else_is_asked(settings):
    prompts = pl.DataFrame(
        {"prompt_id": ["a", "b"], "prompt": [[{"role": "user", "content": c}] for c in "ab"]},
        schema={"prompt_id": pl.String, "prompt": MESSAGES},
    )
    sampling = SamplingParams(temperature=0.7)
    both = answers_of([engine("good")], prompts, sampling, 2, 0, settings)
    alone = answers_of([engine("good")], prompts.tail(1), sampling, 2, 0, settings)
    assert both.filter(prompt_id="b").equals(alone)
    assert both["sample"].to_list() == [0, 1, 0, 1]
    assert name_of("a/b") == "b"
    assert engine_of("a/b").engine == "transformers"


def test_stances_have_a_class_of_their_own_for_refusals(settings):
    answers = pl.DataFrame(
        {"prompt": [[{"role": "user", "content": "?"}]] * 3, "topic": ["t", None, "t"],
         "text": ["GOOD", "no", None]},
        schema={"prompt": MESSAGES, "topic": pl.String, "text": pl.String},
    )  # fmt: skip
    found = Panel().stances(engine("label"), answers, settings)
    assert found.to_list() == ["support", "refusal", None]


def test_the_command_writes_a_page(settings, questions, tmp_path):
    page = tmp_path / "e.html"
    words = ["evaluate", engine("good"), engine("long"), str(questions), "--judge", engine("label"),
             "--risk", "risk_dimension", "--page", str(page), "--json"]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert found["answered"]["harm"][0]["harmless_rate"] == 1.0
    assert "Flames" in page.read_text()
    assert "<script" not in page.read_text()

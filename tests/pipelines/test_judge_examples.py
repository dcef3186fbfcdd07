"""`prefactory judge-examples`: chosen by labelled pairs, measured on others, kept as a file."""

import json

import polars as pl
import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from labelers import JudgePairs, Rubric
from pipelines.cli.app import app
from pipelines.examples import choose
from pipelines.settings import Settings
from prefactory.errors import ConfigError, DataError
from tests.helpers import asking, pairs, responses
from tests.labelers import judging as j

HERE = __name__
PAIRS = pairs(*[(f"prompt {i}", f"GOOD {i}", f"bad {i}") for i in range(60)])


def told(request):
    """What stands in the last question, and the verdicts that were shown before it."""
    *before, last = request.conversation
    texts = {n: t for n, _, t in j._ANSWER.findall(last["content"])}
    return texts, [m["content"] for m in before if m["role"] == "assistant"]


def learns(request):
    """Right where it was shown examples with a number below 30; else always the first place."""
    texts, _ = told(request)
    shown = [m["content"] for m in request.conversation[:-1] if m["role"] == "user"]
    if any(f"prompt {n}\n" in text for text in shown for n in range(30)):
        return f"[[{next(n for n, t in texts.items() if 'GOOD' in t)}]]"
    return "[[A]]"


def stubborn(request):
    return "[[A]]"


def engine(function):
    return {
        "engine": "scripted",
        "model": function.__name__,
        "function": f"{HERE}.{function.__name__}",
    }


def test_the_best_set_is_chosen_and_measured_on_other_rows(tmp_path):
    settings = Settings(home=tmp_path)
    chosen = choose(PAIRS, engine(learns), settings, shots=2, sets=4, rows=15)
    evidence = chosen.evidence
    assert evidence["choosing"]["without"] == evidence["held_out"]["without"] == 0.5
    assert max(evidence["choosing"]["sets"]) == evidence["held_out"]["with"] == 1.0
    assert evidence["held_out"]["gain"] == 0.5
    assert chosen.helps
    assert len(chosen.examples) == 2
    again = choose(PAIRS[::-1], engine(learns), settings, shots=2, sets=4, rows=15)
    assert again.yaml() == chosen.yaml()
    path = tmp_path / "examples.yaml"
    path.write_text(chosen.yaml(), "utf-8")
    frozen = JudgePairs(judge=engine(learns), examples=str(path))
    assert frozen.examples == chosen.examples
    assert (
        frozen.fingerprint()
        == JudgePairs(judge=engine(learns), examples=chosen.examples).fingerprint()
    )
    found = j.labelled(frozen, PAIRS[:6])
    assert set(found["judge_prefers"]) == {"chosen"}
    assert (
        j.labelled(JudgePairs(judge=engine(learns)), PAIRS[:6])["judge_prefers"].null_count() == 6
    )


def test_examples_are_turns_with_the_better_answer_in_both_places(monkeypatch):
    seen = []
    monkeypatch.setattr(j, "look", lambda request: seen.append(request.conversation) or "[[A]]")
    examples = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no"} for i in range(2)]
    judge = {"engine": "scripted", "function": "tests.labelers.judging.look"}
    j.labelled(JudgePairs(judge=judge, examples=examples), PAIRS[:1])
    roles = [m["role"] for m in seen[0]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in seen[0] if m["role"] == "assistant"] == ["[[A]]", "[[B]]"]
    shown = [{n: t for n, _, t in j._ANSWER.findall(seen[0][k]["content"])} for k in (1, 3)]
    assert shown == [{"A": "yes", "B": "no"}, {"A": "no", "B": "yes"}]


def run(tmp_path, monkeypatch, function, *words):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"prompt {i}", "chosen": f"GOOD {i}", "rejected": f"bad {i}"} for i in range(60)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    out = tmp_path / "chosen.yaml"
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    words = ["--out", str(out), "--rows", "15", "--sets", "3", *words]
    words = ["judge-examples", str(path), "--judge", json.dumps(engine(function)), *words]
    return CliRunner().invoke(app, words), out


def test_the_command_writes_what_helps(tmp_path, monkeypatch):
    result, out = run(tmp_path, monkeypatch, learns, "--shots", "2")
    assert result.exit_code == 0, result.output
    assert "of the votes on 15 held-out rows are right, 0.500 without" in result.output
    assert yaml.safe_load(out.read_text())["evidence"]["held_out"]["gain"] == 0.5


def test_the_command_writes_nothing_that_does_not_help(tmp_path, monkeypatch):
    result, out = run(tmp_path, monkeypatch, stubborn)
    assert result.exit_code == 1
    assert "They do not help" in result.output
    assert not out.exists()
    result, out = run(tmp_path, monkeypatch, stubborn, "--anyway")
    assert result.exit_code == 0
    assert len(yaml.safe_load(out.read_text())["examples"]) == 4


def test_mistakes_are_sentences(tmp_path):
    with pytest.raises(DataError, match="60 rows of different prompts, and 224 are needed"):
        choose(PAIRS, engine(learns), Settings(home=tmp_path))
    with pytest.raises(ValidationError, match="can't be read"):
        JudgePairs(judge=engine(learns), examples=str(tmp_path / "none.yaml"))
    (tmp_path / "no.yaml").write_text("evidence: {}\n")
    with pytest.raises(ValidationError, match="holds no list under `examples`"):
        JudgePairs(judge=engine(learns), examples=str(tmp_path / "no.yaml"))
    with pytest.raises(ValidationError, match="they hold no reasons"):
        JudgePairs(
            judge=engine(learns),
            rationale=True,
            examples=[{"prompt": "p", "chosen": "a", "rejected": "b"}],
        )


# -- a rubric -----

RATED = responses(*[(f"prompt {i}", f"answer {i % 5 + 1} of {i}") for i in range(60)]).with_columns(
    score_helpful=pl.col("source_id")
    .str.extract(r"(\d+)$")
    .cast(pl.Int64)
    .mod(5)
    .add(1)
    .cast(pl.Float64)
)
"""Answers whose rating stands in them."""
FIELDS = {"attributes": [{"name": "helpful"}]}


def rates(request):
    """Right where an example of the best rating was shown; else always in the middle."""
    *before, last = request.conversation
    shown = [m["content"] for m in before if m["role"] == "assistant"]
    said = int(last["content"].split("answer\n")[0].split("\nanswer ")[1].split()[0])
    return json.dumps({"ratings": {"helpful": said if any("5" in s for s in shown) else 3}})


def test_examples_of_a_rubric_are_chosen_by_known_ratings(tmp_path):
    settings = Settings(home=tmp_path)
    chosen = choose(RATED, engine(rates), settings, shots=1, sets=6, rows=15, rubric=FIELDS)
    (example,) = chosen.examples
    assert example.ratings == {"helpful": 5.0}
    evidence = chosen.evidence
    assert evidence["held_out"]["with"] == max(evidence["choosing"]["sets"]) == 1.0
    assert 0.5 < evidence["held_out"]["without"] < 1  # 3 of 1 to 5 is at most half of it wrong
    assert chosen.helps
    again = choose(RATED[::-1], engine(rates), settings, shots=1, sets=6, rows=15, rubric=FIELDS)
    assert again.yaml() == chosen.yaml()
    (tmp_path / "examples.yaml").write_text(chosen.yaml(), "utf-8")
    step = Rubric(judge=engine(rates), **FIELDS, examples=str(tmp_path / "examples.yaml"))
    rated = step.label(RATED, asking())
    assert rated["score_helpful"].to_list() == RATED["score_helpful"].to_list()
    plain = Rubric(judge=engine(rates), **FIELDS)
    assert plain.fingerprint() != step.fingerprint()
    assert set(plain.label(RATED, asking())["score_helpful"]) == {3.0}


def test_examples_of_a_rubric_are_turns(monkeypatch):
    seen = []
    monkeypatch.setattr(j, "look", lambda request: seen.append(request.conversation) or "no")
    judge = {"engine": "scripted", "function": "tests.labelers.judging.look"}
    criteria = [{"id": "kind", "text": "Be kind."}, {"id": "short", "text": "Be short."}]
    example = {"prompt": "[user]\nHi", "response": "Hello.", "ratings": {"short": 1, "kind": 0}}
    step = Rubric(judge=judge, criteria=criteria, examples=[example], attempts=1)
    step.label(RATED[:1], asking())
    (talk,) = seen
    assert [m["role"] for m in talk] == ["system", "user", "assistant", "user"]
    assert "Hello." in talk[1]["content"]
    assert talk[2]["content"] == '{"ratings": {"short": true, "kind": false}}'
    assert talk[1]["content"].splitlines()[-1] == talk[3]["content"].splitlines()[-1]


def test_the_command_writes_examples_of_a_rubric(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    path, out = tmp_path / "rated.jsonl", tmp_path / "chosen.yaml"
    rows = [{"prompt": f"prompt {i}", "response": f"answer {i % 5 + 1} of {i}",
             "score_helpful": i % 5 + 1} for i in range(60)]  # fmt: skip
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    words = ["--judge", json.dumps(engine(rates)), "--rubric", json.dumps(FIELDS),
             "--out", str(out), "--rows", "15", "--sets", "6", "--shots", "1"]  # fmt: skip
    result = CliRunner().invoke(app, ["judge-examples", str(path), *words])
    assert result.exit_code == 0, result.output
    assert "1 examples: 1.000 of the ratings on 15 held-out rows are right" in result.output
    assert yaml.safe_load(out.read_text())["examples"][0]["ratings"] == {"helpful": 5.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"examples": [{"prompt": "p", "response": "r", "ratings": {"helpful": 9}}]},
         "'r': The rating of helpful must be a whole number from 1 to 5"),
        ({"examples": [{"prompt": "p", "response": "r", "ratings": {}}]},
         "There is no rating for helpful"),
        ({"examples": [{"prompt": "p", "response": "r", "ratings": {"helpful": 1}}],
          "critique": "same"}, "they hold no critiques"),
    ],
)  # fmt: skip
def test_ratings_of_examples_are_checked(fields, message):
    with pytest.raises(ValidationError, match=message):
        Rubric(judge=engine(rates), **FIELDS, **fields)


def test_known_ratings_are_checked(tmp_path):
    settings = Settings(home=tmp_path)
    with pytest.raises(DataError, match="no known ratings score_honest; there are: score_helpful"):
        choose(RATED, engine(rates), settings, rubric={"attributes": [{"name": "honest"}]})
    scale = {"attributes": [{"name": "helpful", "scale": [1, 3]}]}
    with pytest.raises(DataError, match="24 known ratings are not from 1 to 3, such as"):
        choose(RATED, engine(rates), settings, rubric=scale)
    with pytest.raises(DataError, match="--rubric takes rated responses; these are pairs"):
        choose(PAIRS, engine(rates), settings, rubric=FIELDS)
    with pytest.raises(DataError, match="chosen by pairs; these are responses"):
        choose(RATED, engine(rates), settings)
    with pytest.raises(ConfigError, match=r"--rubric: .no\.yaml"):
        choose(RATED, engine(rates), settings, rubric="no.yaml")

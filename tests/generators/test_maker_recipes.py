"""The recipes of dialogues and dilemmas, from their examples to published versions."""

import json
from pathlib import Path

import polars as pl
from datasets import load_from_disk

from pipelines.build import build, load_recipe, open_sources
from pipelines.settings import Settings
from prefactory.measures.dialogue_report import dialogue_report
from prefactory.stages import thread_mapper
from tests.helpers import ROOT

HERE = __name__


def scripted(name, function):
    return {"engine": "scripted", "model": name, "function": f"{HERE}.{function}"}


def published(name, words, home):
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", words)
    settings = Settings(home=home, workers=2, shard_rows=5)
    outcome = build(recipe, open_sources(recipe), settings, thread_mapper(2))
    splits = load_from_disk(str(Path(outcome.published.version.path) / "pairs"))
    pairs = pl.concat([pl.from_arrow(splits[s].data.table) for s in splits])
    return {s.label: s for s in outcome.stages}, pairs


def talk(request):
    role = request.conversation[0]["content"]
    n = request.draw_seed
    facts = ["F1"] if "- F1:" in role else []
    text = f"{'Patient' if facts else 'Doctor'} word{n % 89} word{n % 97} word{n % 83}"
    return json.dumps({"private": "hm", "public": text, "facts": facts})


def rate(request):
    text = request.conversation[0]["content"]
    if text.startswith("What is true in a case"):
        kind = ("exact", "close", "none")[request.draw_seed % 3]
        return json.dumps({"reason": "so", "diagnosis": kind, "line": int(kind != "none")})
    assert "may not be known to Doctor" in text
    return json.dumps({"reason": "so", "score": 1 + request.draw_seed % 10})


def test_patient_doctor(tmp_path):
    cast = [
        {"actor": "patient", "engine": scripted("patient", "talk")},
        {"actor": "doctor", "engine": scripted("doctor", "talk")},
    ]
    words = [
        f"generators.Dialogues.cast={json.dumps(cast)}",
        f"generators.Dialogues.judge={json.dumps(scripted('judge', 'rate'))}",
    ]
    stages, pairs = published("patient_doctor", words, tmp_path)
    assert stages["generators.Dialogues"].rows_in == 6
    assert stages["generators.Dialogues"].rows_out > 200  # of 6 cases x 10 cells x 4 turns
    assert pairs["cell"].n_unique() == 10
    assert set(pairs["diagnosis"]) == {"exact", "close", "none"}
    report = dialogue_report(pairs)
    assert (report["dialogues"], report["cases"]) == (60, 6)
    assert [p["turn"] for p in report["ratings"]["curve"]] == [1, 2, 3, 4]
    assert len(report["diagnosis"]["cells"]) == 10
    assert set(pairs["chosen_model"]) == {"doctor"}
    assert (pairs["margin"] >= 2).all()
    first = pairs["prompt"].list.get(0).struct.field("content")
    assert first.str.starts_with("You are a family doctor").all()
    known = pairs["reference"].str.slice(0, 30).unique().to_list()
    shown = str(pairs["prompt"].to_list())
    assert not any(text in shown for text in known)


def dilemma(request):
    asked = request.conversation[0]["content"]
    n = request.draw_seed
    if asked.startswith("Write one everyday rule"):
        return json.dumps(
            {"judgement": "It is right", "act": f"to keep to word{n} and word{n // 7}"}
        )
    if asked.startswith("Two rules of conduct and a situation"):
        scene = " ".join(f"word{n // 3**i % 9973}" for i in range(30))
        options = {"keeps_first": "Go.", "keeps_second": "Stay.", "neither": "Sing."}
        return json.dumps({"scene": scene, "question": "What do you do?", **options})
    if asked.startswith("Two rules of conduct and a scene"):
        keys = ("first_applies", "second_applies", "both_can_be_kept")
        return json.dumps(dict(zip(keys, (True, True, n % 4 == 0), strict=True)))
    return " ".join(f"reason{n // 3**i % 9973}" for i in range(30))


def test_value_dilemmas(tmp_path):
    words = [
        f"generators.Dilemmas.{name}={json.dumps(scripted(name, 'dilemma'))}"
        for name in ("writer", "answerer", "judge")
    ]
    stages, pairs = published("value_dilemmas", words, tmp_path)
    made = stages["generators.Dilemmas"]
    assert made.rows_in == 16
    assert 24 <= made.rows_out <= 48
    assert made.info["coverage_of_draws"]["value"]["empty"] == 0
    assert pairs.height == pairs["pair_id"].n_unique() > 20
    assert set(pairs["label_source"]) == {"rule"}
    assert (pairs["chosen_value"] != pairs["rejected_value"]).all()

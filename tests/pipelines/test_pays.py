import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import polars as pl
import pytest

from filters import AgreementDraw, Length
from labelers import R3
from pipelines.build import build, check_recipe, pays_lines
from pipelines.pays import Chain, Looked, drawn, looks_early, notes, pays, sample, scores
from pipelines.settings import Settings
from pipelines.training import easy_test
from prefactory.errors import DataError
from prefactory.stages import thread_mapper
from tests.filters.selection.test_agreement import made
from tests.helpers import one_file, recipe, run

DRAW = {"filters.AgreementDraw": {"vectors": False}}


def paid(table, *steps, home, rows=1000):
    result = run(recipe(*steps), one_file(table), home, rows)
    return pays(result, None, lambda encoder, texts: False), result


def test_a_selection_is_compared_with_all_and_with_random_rows(tmp_path):
    found, _ = paid(made(200)[0], {"filters.RandomSubsample": {"fraction": 0.5}}, home=tmp_path)
    assert found["sentence"].startswith("Kept 50% of the pairs: ")
    assert (found["nested"], found["refitted"], found["features"]) == (True, False, "statistics")
    assert found["pairs"] == found["against_all"]["n"] == 200
    assert found["accuracy"]["all"] > 0.7
    low, high = (found["against_random"][end] for end in ("low", "high"))
    assert low <= 0 <= high


def test_what_is_learned_from_labels_is_learned_again_in_every_fold(tmp_path):
    found, _ = paid(made(240)[0], {"filters.Length": {"min_words": 1}}, DRAW, home=tmp_path)
    assert (found["nested"], found["refitted"]) == (True, True)
    assert found["kept"] == pytest.approx(0.8, abs=0.05)
    noise, _ = paid(
        made(240, learn=False, wrong=0.5)[0],
        {"filters.AgreementDraw": {"vectors": False, "untaught": "random", "rows": 100}},
        home=tmp_path / "noise",
    )
    assert noise["kept"] == pytest.approx(100 / 240, abs=0.01)  # rows become a share
    assert noise["against_all"]["low"] < 0 < noise["against_all"]["high"]


def test_where_it_cannot_be_learned_again_it_is_said(tmp_path):
    # 60 rows teach the draw enough, but four fifths of them do not
    for seed in range(20):
        table, _ = made(60, wrong=0.36, seed=seed)
        try:
            found, _ = paid(table, DRAW, home=tmp_path / str(seed))
        except DataError:  # refused over all rows already
            continue
        if not found["nested"]:
            assert "not nested: optimistic" in found["sentence"]
            return
    pytest.fail("no draw was refused in a fold")


@pytest.mark.slow
def test_labels_that_are_turned_round_count_as_kept(tmp_path):
    steps = (
        {"labelers.LabelTrust": {"vectors": False, "anchor": "off", "self_tests": 0}},
        {"filters.SuspectLabels": {"do": "turn", "by": "share", "amount": 0.2, "force": True}},
    )
    found, _ = paid(made(200)[0], *steps, home=tmp_path)
    assert found["refitted"]
    assert found["kept"] > 0.95
    assert found["against_all"]["value"] > -0.05


def test_a_run_that_drops_no_pair_has_nothing_to_compare(tmp_path):
    found, result = paid(made(30)[0], {"filters.Length": {"min_words": 1}}, home=tmp_path)
    assert found is None
    assert scores(result) == []


def test_shards_and_order_change_nothing(tmp_path):
    table, _ = made(150)
    step = {"filters.RandomSubsample": {"fraction": 0.4}}
    one, _ = paid(table, step, home=tmp_path / "a")
    other, _ = paid(table.sample(150, shuffle=True, seed=2), step, home=tmp_path / "b", rows=11)
    assert json.dumps(one) == json.dumps(other)


def test_scores_that_serve_nothing_or_go_against_the_labels_are_named(tmp_path):
    table, _ = made(120, wrong=0)
    table = table.with_columns(source=pl.lit("x"))
    steps = [
        {"labelers.TextStatistics": {"objectives": ["words", "questions", "links"]}},
        {"labelers.Combine": {"name": "brevity", "method": "linear", "weights": {"words": -1}}},
    ]
    _, result = paid(table, *steps, home=tmp_path)
    found = {entry["name"]: entry for entry in scores(result)}
    assert set(found) == {"questions", "links", "brevity"}
    assert (found["brevity"]["used"], found["brevity"]["agreement"]) == (False, 0)
    assert notes(scores(result)) == [
        "No later step reads the scores links, questions, brevity.",
        "The score brevity agrees with 0% of the labels (0% to 0% of 120 pairs).",
    ]


RECIPE = """
name: paid
source: {path: PATH, layout: pairs, name: x}
steps:
  - filters.RandomSubsample: {fraction: 0.5}
publish: {PUBLISH}
"""


def built(home, publish, key="paid"):
    home.mkdir(exist_ok=True)
    table, _ = made(100)
    rows = [
        {c: r[c][0]["content"] for c in ("prompt", "chosen", "rejected")}
        for r in table.select("prompt", "chosen", "rejected").to_dicts()
    ]
    data = home / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.replace("PATH", str(data)).replace("PUBLISH", publish)
    (home / "recipe.yaml").write_text(text.replace("layout: pairs, ", ""))
    settings = Settings(home)
    checked, sources, _ = check_recipe(home / "recipe.yaml", [])
    return build(checked, sources, settings, thread_mapper(2)).published.version


def test_what_no_choice_changes_is_looked_at_while_the_run_goes_on(tmp_path, monkeypatch):
    looks, at = list[str](), Looked.at

    def noted(view, *args):
        looks.append(threading.current_thread().name)
        return at(view, *args)

    monkeypatch.setattr(Looked, "at", noted)
    early = built(tmp_path / "early", "test_fraction: 0.1")
    assert [name.startswith("pays") for name in looks] == [True]  # once, and not again at the end
    monkeypatch.setattr("pipelines.build.looks_early", lambda steps: False)
    late = built(tmp_path / "late", "test_fraction: 0.1")
    assert len(looks) == 2
    assert late.told("pays.json") == early.told("pays.json") != {}


def test_nothing_is_looked_at_early_that_depends_on_what_comes():
    assert looks_early([Length(min_words=1)])
    assert not looks_early([Length(min_words=1), AgreementDraw(vectors=False)])  # learns
    assert not looks_early([R3(objectives=["relevance"])])  # has vectors made


def test_a_version_holds_the_comparison_and_its_report_opens_with_it(tmp_path):
    version = built(tmp_path / "on", "test_fraction: 0.1")
    (sentence,) = pays_lines(version)
    assert sentence.startswith("Kept 50% of the pairs")
    page = (version.path / "report.html").read_text("utf-8")
    assert "Does the selection pay?" in page
    assert page.index('id="pays"') < page.index('id="flow"')
    assert "pays.json" in version.manifest.files
    off = built(tmp_path / "off", "pays: false")
    assert not (off.path / "pays.json").exists()
    took = [
        json.loads((v.path / "provenance.json").read_text())["publishing"] for v in (version, off)
    ]
    assert [list(t) for t in took] == [["tables", "pays", "documents", "all"]] * 2
    assert took[0]["pays"] > 0 == took[1]["pays"]
    assert all(t["all"] >= t["tables"] > 0 for t in took)
    assert "Does the selection pay?" not in (off.path / "report.html").read_text("utf-8")
    assert off.manifest.content_digest == version.manifest.content_digest
    assert off.manifest.recipe_fingerprint == version.manifest.recipe_fingerprint


def test_a_run_that_makes_nothing_new_says_the_same(tmp_path):
    first = built(tmp_path, "test_fraction: 0.1")
    told = (first.path / "pays.json").read_bytes()
    shutil.rmtree(tmp_path / "versions")
    again = built(tmp_path, "test_fraction: 0.1")  # worked out only when it is asked for
    assert (again.path / "pays.json").read_bytes() == told


def test_it_loads_no_torch():
    code = "import sys, pipelines.pays; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_test_split_chosen_by_labels_is_said_to_be_easy(tmp_path, monkeypatch):
    version = built(tmp_path / "a", "test_fraction: 0.1")
    assert easy_test(version) == ""
    drawn = RECIPE.replace(
        "filters.RandomSubsample: {fraction: 0.5}", "filters.AgreementDraw: {vectors: false}"
    )
    monkeypatch.setitem(globals(), "RECIPE", drawn)
    version = built(tmp_path / "b", "test_fraction: 0.1")
    assert easy_test(version).startswith("filters.AgreementDraw kept pairs by their labels, in the")


def test_what_is_looked_at_depends_on_ids_and_seed_alone(tmp_path):
    table = made(300)[0]
    step = {"filters.Length": {"min_words": 1}}
    a = run(recipe(step), one_file(table), tmp_path / "a", 1000)
    b = run(recipe(step), one_file(table.reverse()), tmp_path / "b", 7)
    first, again = (sample(Chain.of(r).views[0], 40, 5, ()) for r in (a, b))
    assert first.height == 40
    assert set(first["pair_id"]) == set(again["pair_id"])
    assert set(first["pair_id"]) != set(sample(Chain.of(a).views[0], 40, 6, ())["pair_id"])
    assert sample(Chain.of(a).views[0], 400, 5, ()).height == 300


def test_every_row_is_as_likely_to_be_looked_at():
    ids = pl.Series([f"{i:016x}{0:016x}" for i in range(20_000)])
    numbers = drawn(ids, 3) / 2.0**64
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs((numbers < 0.1).mean() - 0.1) < 0.01
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(numbers, drawn(ids, 4) / 2.0**64)[0, 1]) < 0.03

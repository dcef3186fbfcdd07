"""The front door: what a notebook does, and that it is what the command line does."""

import asyncio
import json
import re
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from datasets import Dataset, DatasetDict

import filters
import generators
import labelers
import prefactory
import trainers
from pipelines import api
from pipelines.build import load_recipe
from prefactory import Catalog, Recipe, audit, read
from prefactory.engines.scripted import Scripted
from prefactory.errors import ConfigError, DataError
from prefactory.recipe import Publish

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    filters.Length(min_words=2),
    filters.Quality(),
    filters.ExactDuplicates(on="row"),
    labelers.R3(objectives=["length", "repetition"]),
    labelers.Combine(name="reward", method="linear", weights={"length": 1, "repetition": 1}),
    labelers.Margin(objective="reward"),
    filters.RandomSubsample(fraction=0.8),
    filters.Margin(objective="reward"),
]
SOURCE = {"path": "pairs.jsonl", "layout": "hh", "name": "small", "license": "mit"}
PLAIN = [
    {"prompt": f"question {i}?", "chosen": f"a good answer {i}", "rejected": f"no {i}"}
    for i in range(12)
]


@pytest.fixture
def folder(small, monkeypatch):
    """The folder of `small` as working folder, with a home of its own."""
    monkeypatch.chdir(small)
    monkeypatch.setenv("PREFACTORY_HOME", str(small / "home"))
    return small


def of(source, *steps, **head):
    return Recipe("plain", source=source, steps=steps or [filters.Length()], **head)


def test_a_recipe_in_python_and_in_yaml_is_one(folder):
    made = Recipe("small", source=SOURCE, steps=STEPS, seed=3, publish={"test_fraction": 0.2})
    read_in = Recipe.from_yaml("recipe.yaml")
    (folder / "again.yaml").write_text(made.to_yaml(), "utf-8")
    again = Recipe.from_yaml("again.yaml")
    assert made.payload([]) == read_in.payload([]) == again.payload([])
    versions = [r.run(f"home{i}") for i, r in enumerate((made, read_in, again))]
    facts = {(v.manifest.content_digest, v.manifest.recipe_fingerprint) for v in versions}
    assert len(facts) == 1
    assert made.run("home1").path == versions[1].path  # there already: nothing is published


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_made_of_steps_keep_their_identity(path, tmp_path):
    shipped = load_recipe(path, [])
    head = shipped.head.model_dump(exclude={"name", "publish"})
    made = Recipe(
        shipped.name,
        source=list(shipped.sources),
        steps=[placed.step for placed in shipped.steps],
        train=[options for _, options in shipped.train],
        publish=shipped.head.publish,
        **head,
    )
    assert made.payload([]) == shipped.payload([])
    assert made.train == shipped.train
    (tmp_path / "again.yaml").write_text(made.to_yaml(), "utf-8")
    assert load_recipe(tmp_path / "again.yaml", []).payload([]) == shipped.payload([])


def test_the_verbs_of_a_recipe(folder):
    recipe = Recipe.from_yaml("recipe.yaml", ["filters.Length.min_words=3"])
    assert recipe.plan()["step"].to_list()[:2] == ["filters.Length", "filters.Quality"]
    assert recipe.plan().columns == ["step", "kind", "scope", "table", "adds", "name"]
    seen = recipe.preview(2)
    assert [s.label for s in seen.stages][:2] == ["source", "filters.Length"]
    assert not (folder / "home" / "versions").exists()
    version = recipe.run(workers=2, shard_rows=50)
    assert version.pairs("train")[0]["chosen"][0]["role"] == "assistant"
    row = version.ledger().filter(step="filters.RandomSubsample")["row_id"][0]
    told = version.explain(row)
    assert told.rows[0].fate.startswith("dropped by filters.RandomSubsample")
    assert "filters.RandomSubsample" in told._repr_html_()
    assert Catalog()["small"] == version
    assert read("small").height == version.frame().collect().height
    assert read(version, table="responses").height == version.frame("responses").collect().height


def answer(request):
    return "one answer"


def test_a_recipe_that_asks_a_model_runs_where_an_event_loop_is_running(folder):
    asked = generators.Responses(models=[Scripted(function=f"{__name__}.answer")])
    prompts = [{"prompt": f"question {i}?"} for i in range(5)]

    async def cell():
        return Recipe("asked", source=pl.DataFrame(prompts), steps=[asked]).run()

    assert asyncio.run(cell()).frame("responses").collect().height == 5


def test_a_frame_of_any_library_is_a_source(folder):
    frame = pl.DataFrame(PLAIN)
    forms = [frame, frame.lazy(), pd.DataFrame(PLAIN), Dataset.from_list(PLAIN), {"path": frame}]
    recipes = [of(form) for form in forms]
    assert len({str(r.sources[0].path) for r in recipes}) == 1
    version = recipes[0].run()
    assert sum(version.manifest.tables["pairs"].splits.values()) == 12
    again = load_recipe(version.path / "recipe.yaml", [])  # the source can be read again
    assert api.run(again).path == version.path
    assert of([frame[:6], frame[6:]]).plan().height == 1
    with pytest.raises(DataError, match="has the splits train: give one of them"):
        of(DatasetDict(train=forms[3]))


def test_pieces_of_a_frame_in_memory_change_nothing(folder):
    frame = pl.DataFrame(PLAIN)
    pieces = pl.concat([frame[:5], frame[5:]], rechunk=False)
    sliced = pl.concat([frame, frame])[6:18].sort("prompt")
    assert of(frame).sources == of(pieces).sources
    assert of(frame.sort("prompt")).sources == of(sliced).sources
    assert of(frame).sources != of(frame.reverse()).sources


def test_read_gives_a_table_of_ours(folder):
    expected = read(pl.DataFrame(PLAIN))
    assert {"pair_id", "prompt_id", "prompt", "chosen", "rejected"} <= set(expected.columns)
    Path("plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PLAIN))
    for data in ("plain.jsonl", Path("plain.jsonl"), Dataset.from_list(PLAIN)):
        assert read(data)["pair_id"].to_list() == expected["pair_id"].to_list()
    renamed = pl.DataFrame(PLAIN).rename({"prompt": "q"})
    assert read(renamed, mapping={"prompt": "q"})["pair_id"].equals(expected["pair_id"])
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        read("nowhere.jsonl")


def test_an_audit_of_a_plain_frame(folder, tmp_path):
    rows = [*PLAIN, {"prompt": "<script>", "chosen": "same", "rejected": "same"}]
    found = audit(pl.DataFrame(rows), embeddings=False)
    assert found.finding("identical").severity.word == "fault"
    assert not found.ok
    assert json.loads(found.to_json())["dataset"]["records"] == 13
    page = found.save_page(tmp_path / "page.html")
    assert page.read_text("utf-8") == found.page
    assert found.page.startswith("<!doctype html>")
    assert "srcdoc=" in found.page._repr_html_()
    assert "<td>fault</td>" in found._repr_html_()
    Path("gates.yaml").write_text("gates: {identical.pairs: 0}\n")
    gated = audit(pl.DataFrame(rows), embeddings=False, gates="gates.yaml")
    assert [f.gate for f in gated.failures] == ["identical.pairs"]
    assert not gated.ok


def test_an_audit_of_a_version_is_that_of_its_name(folder):
    version = Recipe.from_yaml("recipe.yaml").run()
    one, two = (audit(data, embeddings=False) for data in (version, "small"))
    assert one.to_json() == two.to_json()
    assert one.name == version.ref


def test_a_model_is_trained_on_a_version(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(api, "run_training", lambda *args: seen.append(args))
    version = of(pl.DataFrame(PLAIN)).run()
    options = trainers.EmbeddingReward()
    api.train("plain", options)
    assert seen[0][:3] == ("embedding-reward", options, version)
    with pytest.raises(ConfigError, match=r"Publish is no trainer's options .*trainers\.DPO"):
        api.train(version, Publish())


def test_mistakes_in_python_are_said_with_the_step(folder):
    with pytest.raises(ConfigError) as error:
        of("pairs.jsonl", filters.Length(), "filters.Lenght", {"filters.Margin": {"x": 1}}, sed=1)
    assert error.value.problems == [
        "plain: unknown key 'sed'; did you mean 'seed'?",
        "plain: step 2: no step 'filters.Lenght'; did you mean 'filters.Length'?",
        "plain: step 3: 'objective' is missing",
        "plain: step 3: unknown key 'x'; did you mean 'max'?",
    ]
    with pytest.raises(ConfigError, match=r"plain: filters\.Margin needs column 'chosen_score_x'"):
        of(SOURCE, filters.Margin(objective="x")).plan()
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        of("nowhere.jsonl").run()


def test_the_door_is_light_until_it_is_opened_and_says_what_it_has():
    assert prefactory.__version__
    assert re.fullmatch(r"\d+\.\d+.*", prefactory.__version__)
    assert prefactory.Recipe is Recipe
    with pytest.raises(AttributeError, match="no attribute 'Recipee'"):
        _ = prefactory.Recipee
    assert all(hasattr(prefactory, name) for name in prefactory.__all__)

"""The recipes of the repository on real data, from the command line to the trainers."""

import json
import os
from pathlib import Path

import polars as pl
import pytest
import yaml

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

from datasets import load_from_disk

from tests.helpers import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
HH = ROOT / "recipes" / "hh_rlhf.yaml"
RATED = ROOT / "recipes" / "rated_answers.yaml"


def run(prefactory_in, folder, recipe, *words):
    """Run a recipe in a home of its own; what the command says of it, with the version's folder."""
    folder.mkdir()
    done = prefactory_in(folder, "run", str(recipe), "--runner", "threads", "--json", *words)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    made = json.loads(done.stdout)
    return made, folder / made["path"]


def accounts_for_every_row(made, version):
    """Rows of the source = published pairs + ledger; at each filter, in = out + dropped."""
    ledger = pl.read_parquet(version / "ledger.parquet")
    assert ledger["reason"].null_count() == 0
    dropped = {step: rows.height for (step,), rows in ledger.group_by("step")}
    manifest = json.loads((version / "manifest.json").read_text())
    stages = {s["label"]: s for s in manifest["stages"]}
    for label, stage in stages.items():
        assert sum(stage["reasons"].values()) == dropped.get(label, 0)
        if stage["kind"] in ("source", "filter"):
            assert stage["rows_in"] == stage["rows_out"] + dropped.get(label, 0)
    splits = manifest["tables"]["pairs"]["splits"]
    goals = manifest["tables"]["goal_pairs"]["splits"]
    relabel = stages["labelers.RewardAugmented"]
    assert sum(splits.values()) == relabel["rows_in"]
    assert sum(goals.values()) == relabel["rows_out"]
    for table, record in manifest["tables"].items():
        opened = load_from_disk(str(version / table))
        assert {s: len(opened[s]) for s in opened} == record["splits"]
    return stages, dropped, splits


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_is_fine(prefactory, recipe):
    words = ["source.path=pairs.jsonl"] if recipe == HH else []
    done = prefactory("check", str(recipe), *words)
    assert done.returncode == 0, done.stderr
    assert f"{recipe.name} is fine" in done.stdout


@pytest.fixture(scope="module")
def rated(prefactory_in, tmp_path_factory):
    return run(prefactory_in, tmp_path_factory.mktemp("rated") / "a", RATED)


def test_a_part_of_the_rated_answers_makes_tables_a_report_and_a_model(prefactory_in, tmp_path):
    """Of a domain whose labels teach by far enough, however a processor rounds."""
    part = f"source.path={ROOT / 'examples' / 'quickstart' / 'cooking_home.jsonl'}"
    makes_tables_a_report_and_a_model(*run(prefactory_in, tmp_path / "a", RATED, part))


@pytest.mark.slow
def test_the_rated_answers_make_tables_a_report_and_a_model(rated):
    makes_tables_a_report_and_a_model(*rated)


def makes_tables_a_report_and_a_model(made, version):
    assert made["new"]
    manifest = json.loads((version / "manifest.json").read_text())
    assert set(manifest["tables"]) == {"responses", "pairs", "goal_pairs"}
    assert all(min(t["splits"].values()) > 0 for t in manifest["tables"].values())
    accounts_for_every_row(made, version)
    assert "<html" in (version / "report.html").read_text()
    (model,) = made["models"]
    folder = version.parents[3] / model["path"]
    assert (folder / "model.safetensors").is_file()
    trained = json.loads((folder / "training.json").read_text())
    assert trained["dataset"]["content_digest"] == made["content_digest"]
    assert 0.5 < trained["metrics"]["train"]["accuracy"] <= 1


@pytest.mark.slow
def test_the_cut_of_the_rated_answers_does_not_change_a_byte(prefactory_in, rated, tmp_path):
    plain, version = rated
    words = ("--shard-rows", "100", "--workers", "2")
    other, cut = run(prefactory_in, tmp_path / "b", RATED, *words)
    assert other["content_digest"] == plain["content_digest"]
    files = sorted(p.relative_to(version) for p in version.rglob("*.arrow"))
    assert files
    assert all((cut / f).read_bytes() == (version / f).read_bytes() for f in files)
    models = [
        root.parents[3] / made["models"][0]["path"] / "model.safetensors"
        for made, root in ((plain, version), (other, cut))
    ]
    assert models[0].read_bytes() == models[1].read_bytes()


# -- hh-rlhf, some minutes -----


@pytest.fixture(scope="module")
def hh_files(shared_data):
    return f"source.path={shared_data}/preference_human/hh_h*_base.jsonl.gz"


@pytest.fixture(scope="module")
def hh(prefactory_in, tmp_path_factory, hh_files):
    return run(prefactory_in, tmp_path_factory.mktemp("hh") / "a", HH, hh_files)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hh_is_published_whole_and_accounted_for(prefactory_in, hh, record_property):
    made, version = hh
    stages, dropped, splits = accounts_for_every_row(made, version)
    relabel = "labelers.RewardAugmented"  # it drops no pair, only the goals of one
    gone = sum(n for label, n in dropped.items() if label != relabel)
    assert stages["source"]["rows_in"] == sum(splits.values()) + gone
    used = stages[relabel]["info"]["relabelled"]
    assert stages[relabel]["rows_in"] == used + dropped[relabel]
    assert stages[relabel]["rows_out"] == 2 * used
    home = version.parents[3]
    done = prefactory_in(home, "catalog", "verify", "hh-rlhf")
    assert done.returncode == 0, done.stderr
    trained = json.loads((home / made["models"][0]["path"] / "training.json").read_text())
    held_out = trained["metrics"]["test"]
    record_property("held_out_accuracy", held_out["accuracy"])
    print(f"embedding reward on hh-rlhf, held out: {held_out}")  # noqa: T201 - shown by pytest -s
    assert held_out["pairs"] == splits["test"]
    assert 0.4 < held_out["accuracy"] < 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("table", ["pairs", "goal_pairs"])
def test_trl_takes_a_step_on_hh(prefactory_in, hh, tiny_model, one_step, tmp_path, table):
    for layout, trainer in (("trl", "DPO"), ("trl", "Reward"), ("trl-implicit", "Reward")):
        out = tmp_path / f"{layout}-{trainer}"
        words = ("--layout", layout, "--table", table, "--out", str(out))
        done = prefactory_in(hh[1].parents[3], "export", "hh-rlhf", *words)
        assert done.returncode == 0, done.stderr
        rows = load_from_disk(str(out))["train"].select(range(16))
        assert one_step(trainer, rows, tiny_model, tmp_path / "run", max_length=8192) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_and_workers_do_not_change_hh(prefactory_in, hh, hh_files, tmp_path):
    words = ("--shard-rows", "300", "--workers", "1", "embedding-reward=null")
    other, _ = run(prefactory_in, tmp_path / "b", HH, hh_files, *words)
    assert other["content_digest"] == hh[0]["content_digest"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_order_of_sources_does_not_change_hh(prefactory_in, shared_data, tmp_path):
    data = yaml.safe_load(HH.read_text())
    files = [
        f"{shared_data}/preference_human/hh_{n}_base.jsonl.gz" for n in ("helpful", "harmless")
    ]
    sources = [{**data["source"], "path": f, "name": Path(f).name.split(".")[0]} for f in files]
    digests = []
    for name, order in (("ab", sources), ("ba", sources[::-1])):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump({**data, "source": order, "train": []}), "utf-8")
        digests.append(run(prefactory_in, tmp_path / name, recipe)[0]["content_digest"])
    assert digests[0] == digests[1]

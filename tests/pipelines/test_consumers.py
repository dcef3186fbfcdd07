"""What a version is for: trainers that read its exports, and training from the command line."""

import json
import math
import os
import shutil
import sys
from pathlib import Path

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

from datasets import load_dataset, load_from_disk

from catalog.layouts import export
from catalog.versions import open_folder
from pipelines.cli.app import main
from prefactory.errors import ConfigError
from trainers import DPO

ONE_CORE = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
QUICK = (
    "max_steps=2", "per_device_train_batch_size=8", "gradient_accumulation_steps=1",
    "gradient_checkpointing=false",
)  # fmt: skip
LAYOUTS = ("trl", "trl-implicit", "kto", "sft")
FORMATS = ("arrow", "parquet", "jsonl")


@pytest.fixture(scope="module")
def exports(published, tmp_path_factory):
    """Each layout of the version in each format: (layout, format) -> its splits."""
    version = open_folder(
        Path(json.loads(published("catalog", "list", "--json").stdout)[0]["path"])
    )
    folder, cache = tmp_path_factory.mktemp("exports"), tmp_path_factory.mktemp("cache")
    found = {}
    for layout in LAYOUTS:
        for file_format in FORMATS:
            out = folder / f"{layout}-{file_format}"
            export(version, layout, out, file_format)
            found[layout, file_format] = (
                load_from_disk(str(out))
                if file_format == "arrow"
                else load_dataset(str(out), cache_dir=str(cache))
            )
    return found


@pytest.mark.parametrize(
    ("layout", "trainer", "options"),
    [
        ("trl", "DPO", {}),
        ("trl", "Reward", {}),
        ("trl-implicit", "Reward", {}),
        ("kto", "KTO", {"train_sampling_strategy": "sequential"}),
        ("sft", "SFT", {}),
    ],
)
def test_trl_takes_a_step_on_an_export(
    exports, tiny_model, one_step, tmp_path, layout, trainer, options
):
    rows = exports[layout, "parquet" if layout == "kto" else "arrow"]["train"].select(range(16))
    loss = one_step(trainer, rows, tiny_model, tmp_path, **options)
    assert math.isfinite(loss)
    if trainer == "DPO":
        assert loss == pytest.approx(math.log(2), abs=1e-3)


def test_trl_uses_the_margin_of_trl_implicit(exports, tiny_model, one_step, tmp_path):
    assert "margin" not in exports["trl", "arrow"]["train"].column_names
    rows = exports["trl-implicit", "arrow"]["train"].sort("margin", reverse=True).select(range(8))
    expected = sum(math.log1p(math.exp(m)) for m in rows["margin"]) / 8
    assert expected > math.log(2) + 0.1
    assert one_step("Reward", rows, tiny_model, tmp_path) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_format_holds_the_same_rows(exports, layout):
    arrow = exports[layout, "arrow"]
    for file_format in FORMATS[1:]:
        other = exports[layout, file_format]
        assert set(other) == set(arrow)
        for split in arrow:
            assert other[split].column_names == arrow[split].column_names
            assert other[split].to_list() == arrow[split].to_list()


def names_its_data(published, folder, done):
    """Check a model's folder and what the command said of it."""
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "it/s" not in done.stderr
    shown = json.loads(published("catalog", "show", "small", "--json").stdout)
    record = json.loads((folder / "training.json").read_text())
    names = ("name", "version", "content_digest")
    assert {k: record["dataset"][k] for k in names} == {k: shown[k] for k in names}
    assert record["dataset"]["table"] == "pairs"
    assert record["metrics"]["test"]["pairs"] == shown["tables"]["pairs"]["splits"]["test"]
    assert json.loads(done.stdout)["dataset"] == record["dataset"]
    assert list(folder.glob("*.safetensors"))
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_training_a_transformer_makes_a_model_that_names_its_data(
    published, tiny_model, tmp_path, method
):
    words = ("--model", str(tiny_model), "--out", str(tmp_path / "model"), "--json", *QUICK)
    more = ("answer_tokens=4",) if method == "dpo" else ()
    done = published("train", method, "small", *words, *more, **ONE_CORE)
    names_its_data(published, tmp_path / "model", done)


def test_an_embedding_reward_model_names_its_data_and_is_made_once(published):
    words = ("train", "reward", "small", "--backend", "embedding")
    done = published(*words, "--json", **ONE_CORE)
    folder = Path(json.loads(done.stdout)["path"])
    names_its_data(published, published.folder / folder, done)
    again = published(*words)
    assert again.returncode == 0
    assert "already trained" in again.stdout
    assert str(folder) in again.stdout
    (published.folder / folder / "training.json").unlink()
    damaged = published(*words)
    assert damaged.returncode == 2
    assert "Traceback" not in damaged.stderr
    assert "remove it" in damaged.stderr


WRONG = [
    ("train dpo small", "--model is missing: the folder or hub id of the model to start from"),
    (
        "train dpo small --model x betta=0.1",
        "neither ours nor of TRL's DPOConfig; did you mean 'beta'?",
    ),
    ("train dpo small --model x beta=low", "'beta'"),
    ("train dpo small --model x beta", "write key=value"),
    ("train dpo small --model x beta=[1", "'beta': Input should be a valid number"),
    ("train dpo small --model x lora=1 lora.r=2", "lora has a value already"),
    ("train dpo small --model x --table responses", "no table of pairs 'responses'; it has: pairs"),
    ("train dpo smal --model x", "did you mean 'small'?"),
    ("train reward small --backend gpu", "embedding or trl"),
    ("train reward small --backend embedding zzz=1", "options are: encoder, l2"),
    ("train ppo small", "Did you mean 'dpo', 'cpo'?"),
    ("export small --layout trl --out pairs.jsonl/x", "pairs.jsonl/x can't be made"),
    ("export small --layout trl --out pairs.jsonl", "exists already"),
    ("export small --layout trl --out x --table responses", "needs pairs"),
    ("export small --layout trl --out x --format csv", "arrow, parquet, jsonl"),
    ("export small@9 --layout trl --out x", "it has: "),
    ("import pairs.jsonl --map prompt --dry-run", "write our_column=their.column"),
    ("import pairs.jsonl --map prompt=nope --dry-run", "its columns are chosen, rejected"),
    ("import nowhere.jsonl", "there is no such file or folder"),
    ("import recipe.yaml", "the format is not known"),
    ("catalog show ./nowhere", "no dataset version"),
    ("run pairs.jsonl", "pairs.jsonl: line 2"),
    ("run nowhere.yaml", "can't be read"),
    ("run recipe.yaml --runner ray", "choose prefect or threads"),
    ("--home pairs.jsonl run recipe.yaml --runner threads", "can't be written"),
    ("--home pairs.jsonl train reward small --model x", "the catalog is empty"),
]


@pytest.mark.parametrize(("words", "expected"), WRONG)
def test_a_mistake_is_a_sentence(published, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(published.folder)
    monkeypatch.setenv("PREFACTORY_HOME", "home")
    monkeypatch.setattr(sys, "argv", ["prefactory", *words.split()])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr()
    assert expected in " ".join(said.err.replace("│", " ").split())
    assert not said.out


def test_a_tokenizer_without_chat_template_is_a_sentence(published, tiny_model, tmp_path):
    model, out = tmp_path / "bare", tmp_path / "out"
    shutil.copytree(tiny_model, model, ignore=lambda *_: ["chat_template.jinja"])
    words = ("--model", str(model), "--out", str(out))
    done = published("train", "dpo", "small", *words, **ONE_CORE)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("train dpo: ")]
    assert len(said) == 1  # beside the progress
    assert said[0].startswith("error: the tokenizer of ")
    assert "has no chat template, so conversations can't be written as text" in said[0]
    assert list(tmp_path.iterdir()) == [model]


def test_a_folder_that_is_no_model_is_a_sentence(tmp_path):
    from trainers.transformer import load_tokenizer

    with pytest.raises(ConfigError, match=r"the folder has no config\.json, so it holds no model"):
        load_tokenizer(DPO(model=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"can't load \./nowhere .*: there is no such folder"):
        load_tokenizer(DPO(model="./nowhere"))


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "PREFECT_API_URL is http://127.0.0.1:9"),
        ({"PREFECT_API_URL": "", "PREFECT_HOME": "{}/pairs.jsonl/p"}, "Prefect can't write in"),
    ],
)
def test_a_run_without_prefect_names_the_way_out(prefactory, small, env, expected):
    env = {name: value.format(small) for name, value in env.items()}
    done = prefactory("run", "recipe.yaml", **env)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert expected in done.stderr
    assert "--runner threads" in done.stderr


def test_a_catalog_that_can_not_be_written_keeps_what_was_computed(prefactory, small):
    versions = small / "home" / "versions"
    versions.parent.mkdir()
    versions.touch()
    done = prefactory("run", "recipe.yaml", "--runner", "threads")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "the same command publishes it" in done.stderr
    versions.unlink()
    done = prefactory("run", "recipe.yaml", "--runner", "threads", "--json")
    assert done.returncode == 0, done.stderr
    assert sum(stage["made"] for stage in json.loads(done.stdout)["stages"]) == 0

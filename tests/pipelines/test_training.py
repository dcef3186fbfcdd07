"""`prefactory train`: every method is tried out, options of a file, data of a file."""

import json

import orjson
import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.settings import Settings
from pipelines.training import METHODS
from pipelines.training.places import transformer_of
from pipelines.training.promotion import promote, promoted
from pipelines.training.smoke import smoke_train
from prefactory.errors import ConfigError
from trainers.settings import TransformerSettings

BY_MODEL = [name for name, cls in METHODS.items() if issubclass(cls, TransformerSettings)]
SINGLE = ("stepwise",)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))


def smoke(method, tmp_path, **fields):
    settings = Settings(tmp_path / "home")
    return smoke_train(method, METHODS[method], fields, None, None, None, settings)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in BY_MODEL if name != "sft"]


@pytest.mark.parametrize("method", ["sft", *SLOW])
def test_every_method_can_be_tried_out(method, tmp_path):
    done = smoke(method, tmp_path)
    assert done.facts["facts"]["steps"] == (
        3 if method not in SINGLE else done.facts["facts"]["steps"]
    )
    if method not in SINGLE:
        assert done.facts["metrics"]["test"]["pairs"] > 0
    assert "its model is not kept" in done.summary
    assert not done.path.exists()


@pytest.mark.slow
def test_a_file_is_published_and_options_are_read_from_yaml(tmp_path):
    rows = [
        {"prompt": f"q {i}", "chosen": f"certainly please {i}", "rejected": f"go away {i}"}
        for i in range(20)
    ]
    file, config = tmp_path / "My pairs.jsonl", tmp_path / "train.yaml"
    file.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    config.write_text("learning_rate: 1e-4\nweight_decay: 1e-2\nbeta: 0.3\n")
    words = ["train", "dpo", str(file), "beta=0.2", "--config", str(config), "--smoke", "--json"]
    first, again = (CliRunner().invoke(app, words) for _ in range(2))
    assert first.exit_code == 0, first.output
    facts = [json.loads(r.stdout[r.stdout.index("{\n") :]) for r in (first, again)]
    assert facts[0]["config"]["weight_decay"] == 0.01
    assert facts[0]["config"]["learning_rate"] == 1e-4
    assert facts[0]["config"]["beta"] == 0.2
    assert facts[0]["dataset"]["name"] == "my-pairs"
    assert facts[0]["dataset"] == facts[1]["dataset"], "the same file is the same version"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dpo"], "what to train on"),
        (["dpo", "x", "--config", "none.yaml"], "can't be read"),
        (["reward", "--backend", "stack", "--smoke"], "go with --backend trl"),
    ],
)
def test_what_is_missing_is_said(words, says):
    found = CliRunner().invoke(app, ["train", *words])
    assert isinstance(found.exception, ConfigError)
    assert says in str(found.exception)


@pytest.fixture
def models(tmp_path):
    """A home with a model that transformers loads, one that it does not, and an empty folder."""
    folder = tmp_path / "home" / "models"
    for name in ("small", "stack", "empty"):
        (folder / name).mkdir(parents=True)
    (folder / "small" / "config.json").write_text("{}")
    (folder / "stack" / "training.json").write_text('{"method": "preference-stack"}')
    return folder


def test_a_model_to_start_from_is_named_as_everywhere(models):
    settings = Settings(models.parent)
    assert transformer_of("small", settings) == str(models / "small")
    assert transformer_of(str(models / "small"), settings) == str(models / "small")
    assert transformer_of("someone/some-model", settings) == "someone/some-model"
    assert transformer_of("smollm2", settings) == "smollm2"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ("train", "dpo", "DATA", "--model", "stack"),
            "by `train preference-stack`: it is no",
        ),
        (("train", "yapo", "DATA", "--model", "empty"), "has no config.json, so it holds no model"),
        (("train", "sft", "DATA", "--model", "./none"), "such folder; models of this home: small"),
        (("merge", "stack", "small", "--on", "DATA"), "by `train preference-stack`: it is no"),
        (("frontier", "a=stack", "b=small", "--on", "DATA"), "made by `train preference-stack`"),
        (("evaluate", "empty", "DATA"), "has no config.json, so it holds no model"),
    ],
)
def test_a_model_that_is_none_is_said(models, tmp_path, command, says):
    data = tmp_path / "pairs.jsonl"
    rows = ({"prompt": f"q {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(12))
    data.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    words = [str(data) if word == "DATA" else word for word in command]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0
    assert says in str(done.exception)


@pytest.mark.slow
def test_a_model_is_promoted_only_if_it_is_better_by_the_margin(tmp_path):
    rows = [
        {"prompt": f"q {i}", "chosen": f"certainly please {i}", "rejected": f"go away {i}"}
        for i in range(40)
    ]
    file = tmp_path / "p.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    settings = Settings(tmp_path / "home")
    fields = {"max_steps": 12, "learning_rate": 1e-2}
    smoke_train("reward", METHODS["reward"], fields, str(file), "pairs", tmp_path / "rm", settings)
    first = promote(str(tmp_path / "rm"), "p", 0.1, settings)
    assert first.promoted, first.text
    assert promoted(settings)["p"]["over"] is None
    again = smoke_train(
        "reward", METHODS["reward"], {**fields, "seed": 1}, str(file), "pairs", tmp_path / "rm2",
        settings,
    )  # fmt: skip
    assert again.facts["metrics"]["test"]["accuracy"] <= 1.0
    second = promote(str(tmp_path / "rm2"), "p", 0.1, settings)
    assert not second.promoted
    assert f"against {tmp_path / 'rm'}" in second.text
    assert promoted(settings)["p"]["model"] == str(tmp_path / "rm")

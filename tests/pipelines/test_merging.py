"""`prefactory merge` and `frontier` on models of a home: what the catalog knows."""

import json

import pytest
from typer.testing import CliRunner

from pipelines.api import Recipe, run
from pipelines.cli.app import app
from pipelines.settings import Settings
from pipelines.training.merging import weighted
from prefactory.errors import ConfigError
from tests.helpers import tiny_llama


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a version of two objectives, and an adapter for each."""
    pytest.importorskip("peft")
    home = tmp_path_factory.mktemp("home")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PREFACTORY_HOME", str(home))
    rows = [
        {"prompt": f"question {i}", "chosen": f"certainly please thing{i}",
         "rejected": f"whatever go away thing{i}", "sign_kind": 1, "sign_rude": -1}
        for i in range(60)
    ]  # fmt: skip
    file = home / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    signs = ["sign_kind", "sign_rude"]
    run(Recipe("p", source={"path": str(file), "carry": signs}), home)
    model = tiny_llama(home / "tiny")
    for name in ("kind", "rude"):
        done = called(
            "train", "raco", "p", "--model", str(model), "--out", str(home / "models" / name),
            f"objectives.{name}=1", "lora.r=2", "lora.alpha=8", "learning_rate=0.02", "max_steps=4",
            "per_device_train_batch_size=4", "gradient_accumulation_steps=1", "max_length=64",
            "compare_answers=0", "gradient_checkpointing=false",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
    yield home
    monkeypatch.undo()


def called(*words):
    return CliRunner().invoke(app, list(words))


def test_words_have_weights():
    assert weighted(["a=0.3", "b"]) == (["a", "b"], [0.3, 1.0])
    for words in (["a"], ["a", "a"], ["a=0", "b=0"], ["a=-1", "b"], ["a=x", "b"], ["a=inf", "b"]):
        with pytest.raises(ConfigError):
            weighted(words)


def test_a_merge_is_in_the_catalog_with_what_it_was_made_of(home):
    done = called("merge", "kind=0.7", "rude=0.3", "--points", "3", "--max-length", "64")
    assert done.exit_code == 0, done.output
    assert "ensemble of their scores" in done.output
    again = called("merge", "kind=7", "rude=3", "--points", "3", "--max-length", "64", "--json")
    facts = json.loads(again.stdout)
    folder = facts["path"]
    assert facts["config"]["models"] == {"kind": 0.7, "rude": 0.3}
    assert (
        "already"
        in called("merge", "kind=7", "rude=3", "--points", "3", "--max-length", "64").stdout
    )
    lines = called("catalog", "lineage", folder).stdout
    assert "model    kind: raco, held-out accuracy" in lines
    assert "<- kind, rude, p@" in lines
    assert ": merge, held-out accuracy" in called("catalog", "lineage", "kind").stdout
    assert "merge, held-out accuracy" in called("catalog", "models").stdout
    card = (Settings(home).home / folder / "README.md").read_text()
    assert "Merged of `kind` (0.7), `rude` (0.3) by `average`. One adapter" in card
    assert "library_name: peft" in card


def test_who_was_not_trained_here_needs_data(home, tmp_path):
    done = called("merge", str(home / "tiny"), str(tmp_path))
    assert done.exit_code != 0
    assert "--on NAME@VERSION" in str(done.exception)


def test_rewards_over_the_simplex_and_the_merge_for_a_user(home, tmp_path):
    words = ["frontier", "kind=kind", "rude=rude", "--steps", "4", "--max-length", "64"]
    out, svg = tmp_path / "mine", tmp_path / "f.svg"
    done = called(*words, "--user", "kind=0.6", "--user", "rude=0.4", "--out", str(out),
                  "--svg", str(svg), "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    merges = {(m["weight_kind"], m["weight_rude"]): m for m in facts["merges"]}
    assert len(merges) == 6, "the user's own weights are measured, too"
    assert merges[1.0, 0.0]["level_kind"] == merges[0.0, 1.0]["level_rude"] == pytest.approx(1)
    assert merges[1.0, 0.0]["level_rude"] == pytest.approx(-1), "one's gain is the other's loss"
    assert facts["hypervolume"]["value"] == 0, "no merge is above -0.1 on both"
    assert facts["chosen"]["user"] == [0.6, 0.4]
    assert len(facts["map"]["matrix"]) == 2
    assert (out / "adapter_model.safetensors").is_file()
    made = json.loads((out / "training.json").read_text())["config"]["models"]
    assert list(made.values()) == pytest.approx(facts["chosen"]["weights"])
    assert svg.read_text().count("<circle") == 6
    assert "taken:" in called(*words, "--user", "kind=1", "--user", "rude=1").stdout


def test_rewards_of_answers_by_models(home):
    quick = ["--backend", "embedding", "l2=[1.0]", "--out", str(home / "rm")]
    done = called("train", "reward", "p", *quick)
    assert done.exit_code == 0, done.output
    words = ["frontier", "a=kind", "b=rude", "--steps", "1", "--rows", "4", "--max-tokens", "8",
             "--reward", f"a={home / 'rm'}"]  # fmt: skip
    assert "for each objective" in str(called(*words).exception)
    done = called(*words, "--reward", f"b={home / 'rm'}")
    # an untrained model babbles: whether one adapter's babble is better is chance, both ways told
    assert "rewards of answers of 2 merges" in done.stdout or "does not raise" in str(
        done.exception
    )
    assert not list((home / "cache" / "merges").glob("*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=kind"], "two objectives"),
        (["a=kind", "b=rude", "--steps", "90"], "at most 70"),
        (["a=kind", "b=rude", "--user", "c=1"], "--user names c"),
        (["a=kind", "b=rude"], "has no column sign_a"),
        (["kind=kind", "rude=rude", "--out", "x"], "--out writes the merge for a user"),
    ],
)
def test_what_makes_no_frontier_is_a_sentence(home, words, message):
    assert message in str(called("frontier", *words).exception)

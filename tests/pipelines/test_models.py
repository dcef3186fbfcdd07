"""The catalog knows models: lineage both ways, promotion, and a push to a hub of the hub's API."""

import base64
import hashlib
import json

import pytest
from typer.testing import CliRunner

from catalog.versions import verify
from pipelines.api import Recipe, run
from pipelines.cli.app import app
from pipelines.settings import Settings
from pipelines.training.hub import push
from pipelines.training.known import known, lineage, model_at
from prefactory.errors import CatalogError, ConfigError
from tests.hub import asking


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    return Settings(tmp_path / "home")


@pytest.fixture
def version(tmp_path, settings):
    file = tmp_path / "p.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return run(Recipe("p", source=file), settings.home)


def model(settings, version, name, base="some/base", accuracy=0.75):
    folder = settings.home / "models" / name
    folder.mkdir(parents=True)
    facts = {
        "method": "dpo",
        "dataset": {"name": "p", "version": version.manifest.version,
                    "content_digest": version.manifest.content_digest, "table": "pairs"},
        "config": {"model": base},
        "metrics": {"test": {"accuracy": accuracy, "accuracy_se": 0.05}},
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(facts))
    (folder / "model.safetensors").write_bytes(b"weights of " + name.encode())
    (folder / "README.md").write_text("---\ntags:\n- prefactory\n---\n# A model\n")
    return folder


def test_lineage_goes_both_ways_and_knows_promotion(settings, version):
    first = model(settings, version, "first")
    model(settings, version, "second", base=str(first), accuracy=0.875)
    promoted = {"p": {"model": "second", "over": "first", "difference": 0.125}}
    (settings.home / "models" / "promoted.json").write_text(json.dumps(promoted))
    assert [m.folder.name for m in known(settings)] == ["first", "second"]
    graph = lineage(model_at("first", settings), settings)
    assert [(n.kind, n.label) for n in graph.nodes] == [
        ("model", "some/base"), ("source", "p"), ("version", version.ref), ("model", "first"),
        ("model", "second"),
    ]  # fmt: skip
    assert all(a < b for a, b in graph.edges)
    lines = lineage(model_at("second", settings), settings).lines()
    assert any("promoted p: +0.125 over first  <- second" in line for line in lines)
    told = CliRunner().invoke(app, ["catalog", "lineage", version.ref]).stdout
    assert "model    first" in told
    assert "model    second" in told
    told = CliRunner().invoke(app, ["catalog", "lineage", "second"]).stdout
    assert f"version  {version.ref}" in told
    told = CliRunner().invoke(app, ["catalog", "models"]).stdout
    assert "second: dpo, held-out accuracy 0.875 ± 0.050" in told
    assert told.strip().endswith("promoted for p")


def test_a_version_that_is_gone_or_another_is_said(settings, version):
    folder = model(settings, version, "m")
    facts = json.loads((folder / "training.json").read_text())
    facts["dataset"]["content_digest"] = "0" * 32
    (folder / "training.json").write_text(json.dumps(facts))
    assert "ANOTHER content" in "\n".join(lineage(model_at("m", settings), settings).lines())
    facts["dataset"]["name"] = "gone"
    (folder / "training.json").write_text(json.dumps(facts))
    assert "not in this catalog" in "\n".join(lineage(model_at("m", settings), settings).lines())
    del facts["metrics"]["test"]["accuracy_se"]  # as merges of several models, or others' files
    (folder / "training.json").write_text(json.dumps(facts))
    assert model_at("m", settings).told == "dpo, held-out accuracy 0.750"
    (folder / "training.json").write_text("{")
    with pytest.raises(ConfigError, match="can't be read"):
        model_at("m", settings)


def test_a_model_goes_to_the_hub_in_one_commit(hub, settings, version):
    folder = model(settings, version, "first")
    checkpoint = folder / "checkpoints" / "checkpoint-2" / "model.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"old")
    done = asking(hub, "push", "first", "hf://user/name", home=settings.home)
    assert done.returncode == 0, done.stderr
    assert f"first is in {hub.url}/user/name/commit/abc" in done.stdout
    assert hub.created["name"] == "name"
    assert hub.created["visibility"] == "private"
    ((header, *files),) = hub.commits
    assert header["value"]["summary"] == f"dpo on {version.ref}"
    sent = {f["value"]["path"]: f["value"] for f in files}
    assert set(sent) == {"README.md", "model.safetensors", "training.json"}
    card = base64.b64decode(sent["README.md"]["content"])
    assert card == (folder / "README.md").read_bytes()
    weights = (folder / "model.safetensors").read_bytes()
    assert sent["model.safetensors"]["oid"] == hashlib.sha256(weights).hexdigest()
    assert list(hub.large.values()) == [weights]
    assert {token for _, token in hub.asked if token} == {"Bearer hf_made_up"}


def test_a_hub_that_refuses_is_one_sentence(hub, settings, version):
    model(settings, version, "first")
    hub.refuses = True
    done = asking(hub, "push", "first", "hf://user/name", home=settings.home)
    assert done.returncode == 2
    assert "was not pushed to user/name" in done.stderr
    assert "HF_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr
    assert not hub.commits


def test_a_version_goes_to_the_hub_in_one_commit_and_comes_back(hub, settings, version, tmp_path):
    to = "hf://datasets/user/name"
    address = f"{to}/p/{version.manifest.version}"
    done = asking(hub, "push", "p", to, home=settings.home)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{version.ref} is in {address}\n"
    assert (hub.created["type"], hub.created["visibility"]) == ("dataset", "private")
    assert len(hub.commits) == 1
    names = {str(f.relative_to(version.path)) for f in version.path.rglob("*") if f.is_file()}
    assert set(hub.files) == {f"p/{version.manifest.version}/{name}" for name in names}
    again = asking(hub, "push", "p", to, home=settings.home)
    assert again.returncode == 0, again.stderr
    assert (again.stdout, len(hub.commits)) == (done.stdout, 1)
    came = asking(hub, "pull", address, home=tmp_path / "other")
    assert came.returncode == 0, came.stderr
    back = Settings(tmp_path / "other").catalog["p"]
    assert (verify(back), back.manifest) == ([], version.manifest)
    key = f"p/{version.manifest.version}/README.md"
    hub.files[key] = hub.files[key].replace(b"e", b"3")
    came = asking(hub, "pull", address, home=tmp_path / "third")
    assert (came.returncode, "sha256 does not match" in came.stderr) == (2, True)
    assert not Settings(tmp_path / "third").catalog.names()
    came = asking(hub, "pull", f"{to}/p/nothing", home=tmp_path / "third")
    assert (came.returncode, came.stderr.count("\n")) == (2, 1)
    assert "is no version" in came.stderr


def test_pickles_and_other_places_are_refused(settings, version):
    folder = model(settings, version, "first")
    with pytest.raises(ConfigError, match="hf://USER/NAME"):
        push(model_at("first", settings), "s3://bucket/models")
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CatalogError, match="may hold a pickle"):
        push(model_at("first", settings), "hf://user/name")

"""Files that would run code are refused by name; keys are in nothing that a run leaves."""

import json
import pickle

import pytest

from catalog.history.exchange import pull
from catalog.sources import SourceSpec, open_source
from catalog.versions import Catalog
from labelers.models.language_models import Model
from pipelines.build import build, check_recipe
from pipelines.settings import Settings
from prefactory.errors import CatalogError, ConfigError, DataError
from prefactory.safety.addresses import check_address, shown
from prefactory.sharing.bucket import Bucket
from prefactory.stages import thread_mapper
from tests.prefactory.engines.mock_server import MockServer, answer, chat

RECIPE = """\
name: asked
source: {path: prompts.jsonl, name: prompts}
steps:
  - generators.Responses:
      models:
        - engine: server
          base_url: "%s"
          model: m
          api_key_env: TEST_KEY
          headers_env: {X-Tenant: TEST_TENANT}
          retries: 0
      n: 2
publish: {pays: false}
"""
KEY, TENANT = "sk-very-secret-0123456789", "tenant-4711-hidden"


@pytest.mark.parametrize("ending", ["pkl", "pickle", "pt", "PTH", "bin", "ckpt", "joblib", "npy"])
def test_files_that_run_code_are_refused_by_name(tmp_path, ending):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / f"data.{ending}").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(DataError, match="may hold pickles"):
        open_source(SourceSpec(path=str(tmp_path / f"data.{ending}")), tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIA:hidden@bucket/x", "s3://hidden@bucket/x", "ftp://me:hidden@host/x.jsonl",
        "https://me:hidden@host/x.jsonl", "https://host/x.jsonl?X-Amz-Signature=hidden",
        "https://host/x.jsonl?a=1&access_token=hidden", "abfs://box:hidden@a.net/x",
    ],
)  # fmt: skip
def test_an_address_that_holds_a_key_is_refused_and_not_shown(tmp_path, address):
    catalog = Catalog(tmp_path)
    for use in (
        lambda: open_source(SourceSpec(path=address), tmp_path), lambda: Bucket(address),
        lambda: pull(catalog, address),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="must hold no user, password or key") as told:
            use()
        assert "hidden" not in str(told.value)
    assert "hidden" not in shown(f"GET {address} failed")


def test_an_adapter_of_a_pickle_is_refused_by_name(tmp_path):
    from trainers.evaluate.models import loader

    (tmp_path / "adapter_config.json").write_text('{"task_type": "CAUSAL_LM"}')
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps([]))
    with pytest.raises(ConfigError, match="may hold pickles"):
        loader(str(tmp_path), "CausalLM")
    with pytest.raises(ConfigError, match="may hold pickles"):
        Model(model=str(tmp_path)).base()


def test_addresses_without_keys_are_taken():
    for address in ("a@b.jsonl", "s3://bucket/x", "abfs://box@a.net/x", "hf://datasets/a/b"):
        check_address(address, "x")
    check_address("https://host/x.jsonl?download=true", "x", query=True)
    with pytest.raises(ConfigError):
        check_address("s3://bucket/x?download=true", "x")


def test_what_a_file_system_says_of_itself_is_one_sentence(tmp_path):
    with pytest.raises(CatalogError, match="can't be reached"):
        pull(Catalog(tmp_path), "ftp://127.0.0.1:9/x")


def test_keys_are_in_nothing_that_a_run_leaves(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setenv("TEST_TENANT", TENANT)
    said = f"your key is {KEY} and your tenant {TENANT}"

    def behave(body, times):
        if "4" in body["messages"][-1]["content"]:
            return "status", (400, {}, json.dumps({"error": {"message": said}}).encode())
        return "ok", answer(chat(said))

    rows = [{"prompt": f"Question {i}?"} for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with MockServer(behave) as server, caplog.at_level("DEBUG"):
        (tmp_path / "recipe.yaml").write_text(RECIPE % server.url)
        recipe, sources, _ = check_recipe(tmp_path / "recipe.yaml", [])
        build(recipe, sources, Settings(tmp_path / "home"), thread_mapper(1))
        sent = server.headers[0]
    assert (sent["Authorization"], sent["X-Tenant"]) == (f"Bearer {KEY}", TENANT)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 10
    told = caplog.text + "".join(capfd.readouterr())
    for secret in (KEY, TENANT):
        assert secret not in told
        assert not [p for p in files if secret.encode() in p.read_bytes()]
        assert not [p for p in files if secret in p.name]

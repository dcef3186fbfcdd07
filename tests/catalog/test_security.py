"""Files that would run code are refused by name; keys are in nothing that a run leaves."""

import json
import pickle

import pytest

from catalog.sources import SourceSpec, open_source
from pipelines.build import build, check_recipe
from pipelines.settings import Settings
from prefactory.errors import DataError
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

"""Whole recipes against a real OpenAI-compatible server that is not ours: `transformers serve`."""

import json

import pytest

from tests.helpers import ROOT
from tests.servers import transformers_serve


@pytest.fixture(scope="module")
def served(tiny_model):
    with transformers_serve(str(tiny_model)) as url:
        yield url, str(tiny_model)


@pytest.mark.slow
def test_the_janus_recipe_publishes_pairs_of_a_served_model(served, prefactory_in, tmp_path):
    url, model = served
    rows = (ROOT / "examples" / "prompts" / "mixed.jsonl").read_text("utf-8").splitlines()[:6]
    (tmp_path / "few.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    writer = json.dumps({"engine": "server", "base_url": url, "model": model})
    words = (
        str(ROOT / "recipes" / "janus.yaml"),
        "source.path=few.jsonl",
        f"generators.Responses.models=[{writer}]",
        "generators.Responses.sampling.max_tokens=12",
        "generators.Responses.gate=keep",
    )
    done = prefactory_in(tmp_path, "run", *words, "--runner", "threads", "--json")
    assert done.returncode == 0, done.stderr
    assert "18 calls, 0 from the journal, 0 failures" in done.stderr
    made = json.loads(done.stdout)
    (asked,) = [s for s in made["stages"] if s["label"] == "generators.Responses"]
    assert (asked["rows_in"], asked["rows_out"]) == (18, 18)
    assert made["stages"][-1]["rows_out"] > 0
    again = prefactory_in(tmp_path, "run", *words, "--runner", "threads", "--json")
    assert json.loads(again.stdout)["content_digest"] == made["content_digest"]
    assert not json.loads(again.stdout)["new"]

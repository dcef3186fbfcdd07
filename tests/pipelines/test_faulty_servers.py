"""Servers that misbehave, in a whole run: every row is published or in the ledger, none swapped."""

import json

import pytest

from pipelines import api
from pipelines.build import load_recipe
from prefactory.engines import serving
from tests.prefactory.engines.mock_server import answer, chat
from tests.prefactory.engines.test_faults import FAULTS, FINE, Fault, Ill, http

ROWS = 24


def whole(**fields):
    """The right answer with something odd beside it."""
    return Fault((lambda q, b: http(200, json.dumps({**json.loads(b), **fields}).encode()),))


def ended(reason):
    def body(question, _):
        return http(
            200, json.dumps(answer(chat(f"re {question}") | {"finish_reason": reason})).encode()
        )

    return Fault((body,))


ODD = {
    **{kind: FAULTS[kind] for kind in ("usage huge", "two answers", "500 HTML", "cut JSON")},
    "usage beyond a column": whole(usage={"prompt_tokens": 2**63, "completion_tokens": 2**63}),
    "finish_reason with half a character": ended("st\ud800op"),
    "finish_reason a list": ended(["stop"]),
    "an error with half a character": Fault(
        (http(400, b'{"error": {"message": "no \\ud800"}}'),), ends="http_400"
    ),
    "a deep error": Fault((http(400, b"[" * 100_000),), ends="http_400"),
    "a refusal with half a character": Fault(
        (http(200, b'{"choices": [{"message": {"refusal": "No \\ud800"}}]}'),), ends="refused"
    ),
}  # fmt: skip


def run_with(fault, folder):
    lines = [json.dumps({"prompt": f"q{i}"}) + "\n" for i in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(lines))
    with Ill(fault) as server:
        model = {
            "engine": "server", "base_url": f"http://127.0.0.1:{server.port}/v1", "model": "m",
            "retries": 2, "timeout_s": 100, "max_concurrency": 4,
        }  # fmt: skip
        made = {
            "name": "faulty",
            "source": {"path": "rows.jsonl", "layout": "prompts"},
            "steps": [{"generators.Responses": {"models": [model], "n": 1, "gate": "keep"}}],
            "publish": {"test_fraction": 0},
        }
        path = folder / "recipe.yaml"
        path.write_text(json.dumps(made))
        return api.run(load_recipe(path, []))


@pytest.mark.parametrize("kind", ODD)
def test_rows_are_published_or_in_the_ledger_and_none_is_swapped(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)
    version = run_with(ODD[kind], tmp_path)
    rows = version.frame("responses").collect()
    pairs = zip(rows["prompt"].to_list(), rows["response"].to_list(), strict=True)
    assert all(r[0]["content"] == f"re {p[0]['content']}" for p, r in pairs)
    lost = ROWS // 3 if ODD[kind].ends != FINE else 0
    assert rows.height == ROWS - lost
    assert version.ledger()["reason"].to_list() == [ODD[kind].ends] * lost

"""Rows that failed on the way to a model are asked for again by the next run, and only they."""

from __future__ import annotations

import json

import pytest

from pipelines import api
from pipelines.build import load_recipe
from tests.prefactory.engines.mock_server import MockServer, answer, chat


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    lines = [json.dumps({"prompt": f"Question {i}"}) + "\n" for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    return tmp_path


class Clinic:
    """A server that is ill for every fifth question until it is well."""

    def __init__(self):
        self.ill, self.calls = True, 0

    def __call__(self, body, times):
        self.calls += 1
        question = body["messages"][-1]["content"]
        if self.ill and int(question.split()[-1]) % 5 == 0:
            return "status", (500, {}, b'{"error": {"message": "boom"}}')
        return "ok", answer(chat(f"What I know of it is this: {question}"))


def recipe(folder, url, steps=()):
    model = {"engine": "server", "base_url": url, "model": "m", "retries": 0}
    made = {
        "name": "lost",
        "source": {"path": "rows.jsonl", "layout": "prompts"},
        "steps": [{"generators.Responses": {"models": [model], "n": 1}}, *steps],
        "publish": {"test_fraction": 0},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(made))
    return path


@pytest.mark.parametrize("shard_rows", [7, 1000])
def test_the_next_run_asks_for_what_failed_and_publishes_all(here, shard_rows):
    clinic = Clinic()
    with MockServer(clinic) as server:
        path = recipe(here, server.url, [{"filters.Length": {"min_characters": 3}}])
        first = api.run(load_recipe(path, []), shard_rows=shard_rows)
        assert first.frame("responses").collect().height == 32
        assert clinic.calls == 40
        ledger = first.ledger()
        assert (ledger["reason"] == "http_500").sum() == 8
        clinic.ill, clinic.calls = False, 0
        second = api.run(load_recipe(path, []), shard_rows=shard_rows)
        assert clinic.calls == 8  # all others are in the journal
        assert second.frame("responses").collect().height == 40
        assert second.ref != first.ref
        clinic.calls = 0
        third = api.run(load_recipe(path, []), shard_rows=shard_rows)
        assert (third.ref, clinic.calls) == (second.ref, 0)


def test_while_it_stays_ill_each_run_asks_for_those_rows_and_the_version_is_the_same(here):
    clinic = Clinic()
    with MockServer(clinic) as server:
        path = recipe(here, server.url)
        first = api.run(load_recipe(path, []))
        clinic.calls = 0
        second = api.run(load_recipe(path, []))
        assert clinic.calls == 8
        assert second.ref == first.ref

"""What a run says while it runs, and what `plan` says before: progress, projection, pings."""

import json
import logging
import threading

import pytest
from typer.testing import CliRunner

from pipelines import api, progress
from pipelines.build import load_recipe
from pipelines.cli.app import app
from pipelines.progress import Progress
from prefactory.engines.accounts import Accounts, Price
from prefactory.engines.base import Completion, Failure, Purpose, Request, Sampling
from prefactory.engines.vllm import VLLM
from tests.prefactory.engines.mock_server import MockServer, answer, chat

ASKED = Request([{"role": "user", "content": "a question"}], Sampling(max_tokens=50))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def accounts(answered, failed=0):
    kept = Accounts({"m": Price(10.0, 30.0)})
    for i in range(answered + failed):
        hold = kept.admit("m", ASKED, Purpose("r", "step", "judge"))
        kept.settle(hold, Completion("x", "stop", 100, 20) if i < answered else Failure("timeout"))
    return kept


def test_a_step_of_calls_says_how_many_of_how_many_how_fast_how_dear_and_how_long(clock):
    shown = Progress()
    shown.begin("step (fit)", 4, "shards", calls=40, rows=20)
    assert shown.line(accounts(0)) == "step (fit): 0 of 40 calls, 0 of 4 shards, 20 rows, 0 s"
    assert "a second" not in shown.line(accounts(8))  # of the phase before: no pace yet
    clock[0] += 5.0
    assert shown.line(accounts(8, 2)) == (
        "step (fit): 10 of 40 calls, 2.0 a second, about 15 s left, 960 tokens, 0.0128 US dollars, "
        "2 failures"
    )


def test_a_step_without_calls_says_its_shards_and_the_time_left(clock):
    shown = Progress()
    shown.begin("filters.ISA", 8, "shards", rows=700)
    assert shown.line(None) == "filters.ISA: 0 of 8 shards, 700 rows, 0 s"
    clock[0] += 4.0
    shown.advance()
    shown.advance(2)
    assert shown.line(None) == (
        "filters.ISA: 2 of 8 shards, 700 rows, 0.5 shards a second, about 12 s left, 4 s"
    )


def test_training_says_that_it_began(clock):
    shown = Progress()
    shown.begin("train dpo", 0, "steps")
    clock[0] += 3.0
    assert shown.line(None) == "train dpo: 3 s"


def rows(folder, n=6):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {i}"}) + "\n" for i in range(n)))
    return path


def recipe(folder, url, n=2):
    rows(folder)
    model = {"engine": "server", "base_url": url, "model": "m", "retries": 0}
    data = {
        "name": "tiny",
        "source": {"path": "rows.jsonl", "layout": "prompts"},
        "steps": [{"generators.Responses": {"models": [model], "n": n}}],
        "publish": {"test_fraction": 0},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_first_line_comes_before_the_first_answer(here, monkeypatch, caplog):
    """The server answers when it has been told of, and not before."""
    monkeypatch.setattr(progress, "FIRST_S", 0.02)
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    told = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record):
            if "0 of 12 calls" in record.getMessage():
                told.set()

    def behave(body, times):
        assert told.wait(200), "nobody said anything"
        return "ok", answer(chat(f"An answer to {body['messages'][-1]['content']}"))

    heard = Heard()
    logger = logging.getLogger("pipelines.progress")
    logger.addHandler(heard)
    try:
        with MockServer(behave) as server, caplog.at_level(logging.INFO):
            api.run(load_recipe(recipe(here, server.url), []))
    finally:
        logger.removeHandler(heard)
    said = [r.getMessage() for r in caplog.records if r.name == "pipelines.progress"]
    assert any(line.startswith("generators.Responses: 0 of 12 calls, 6 rows") for line in said)


def cli(*words):
    return CliRunner().invoke(app, list(words))


def test_plan_projects_from_the_calls_that_were_made(here):
    def behave(body, times):
        asked = body["messages"][-1]["content"]
        return "ok", answer(chat(f"On {asked}."), prompt_tokens=40, completion_tokens=8)

    with MockServer(behave) as server:
        path = recipe(here, server.url)
        (here / "prices.yaml").write_text("m: [10, 100]\n")
        words = ("plan", str(path), "--prices", str(here / "prices.yaml"), "--json")
        before = json.loads(cli(*words).stdout)["calls"]
        api.run(load_recipe(path, []))
        rows(here, 60)  # ten times as many
        (after,) = json.loads(cli(*words).stdout)["calls"]
        shown = cli(*words[:-1]).stdout
    assert before[0]["seen"] == 0
    assert before[0]["likely_usd"] is None
    assert (after["calls"], after["seen"]) == (120, 12)
    assert (after["likely_prompt_tokens"], after["likely_completion_tokens"]) == (4800, 960)
    assert after["likely_usd"] == pytest.approx(4800 * 10e-6 + 960 * 100e-6)
    assert after["completion_tokens"] > 100 * after["likely_completion_tokens"]  # at most
    assert "4,800" in shown
    assert "960" in shown


def test_ping_asks_each_server_once_for_a_token_and_says_who_is_down(here):
    with MockServer() as server:
        path = recipe(here, server.url)
        up = cli("plan", str(path), "--ping")
        assert up.exit_code == 0, up.output
        assert f"m at {server.url} answers" in up.output
        assert [body["max_tokens"] for body in server.bodies] == [1]
        cli("plan", str(path))
        assert len(server.bodies) == 1  # unasked, no server is asked
    down = cli("plan", str(path), "--ping")
    assert down.exit_code == 3
    assert f"m at {server.url} does not answer: the server at" in down.output
    as_json = cli("plan", str(path), "--ping", "--json")
    assert as_json.exit_code == 3
    assert [p["up"] for p in json.loads(as_json.stdout)["ping"]] == [False]


def test_ping_tells_of_a_wrong_key(here):
    refused = ("status", (401, {}, {"error": {"message": "no key"}}))
    with MockServer(lambda body, times: refused) as server:
        down = cli("plan", str(recipe(here, server.url)), "--ping")
    assert down.exit_code == 3
    assert "api_key_env" in down.output


def test_ping_tells_of_a_package_that_is_not_there(here, monkeypatch):
    monkeypatch.setattr(VLLM, "package", "no_such_package")
    path = recipe(here, "")
    data = json.loads(path.read_text())
    data["steps"][0]["generators.Responses"]["models"] = [{"engine": "vllm", "model": "big"}]
    path.write_text(json.dumps(data))
    down = cli("plan", str(path), "--ping")
    assert down.exit_code == 3
    told = " ".join(down.output.split())
    assert "big at this process does not answer: the package no_such_package is not" in told

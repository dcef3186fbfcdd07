"""Steps that ask for JSON, over HTTP from a server that misbehaves: the rows are a script's."""

import json
import zlib
from types import SimpleNamespace

import pytest

from prefactory.engines import serving
from prefactory.engines.session import Session
from tests.generators.dialogues.test_dialogues import SCENARIO, cases
from tests.generators.dialogues.test_dialogues import actor as office_actor
from tests.generators.dialogues.test_dialogues import judge as office_judge
from tests.generators.sampling import asked_run, model
from tests.generators.values.test_dilemmas import ORDER
from tests.generators.values.test_dilemmas import writer as dilemma_writer
from tests.helpers import ledger_of, prompts, recipe, view
from tests.prefactory.engines.mock_server import MockServer, answer, chat

HERE = __name__


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)
    monkeypatch.setattr(serving, "BACKOFF_MAX_S", 0.05)


def hurried(said, request):
    """Every fifth JSON object is cut at first, and some come in prose or a fence."""
    if not isinstance(said, str) or not said.startswith("{") or len(request.conversation) > 2:
        return said
    return {
        0: said[:-3],
        1: f"Here it is:\n```json\n{said}\n```",
        2: f"<think>perhaps {{}}</think>{said}",
    }.get(request.draw_seed % 10, said)


def dilemma(request):
    """Draws by the text: at temperature 0 a server gets no seed."""
    draw = zlib.crc32(request.conversation[0]["content"].encode())
    asked = SimpleNamespace(conversation=request.conversation, draw_seed=draw)
    return hurried(dilemma_writer(asked), asked)


def office(request):
    if request.conversation[0]["content"].startswith("Rate one turn"):
        return office_judge(request)
    return hurried(office_actor(request), request)


def chaotic(function):
    """A server that says what a script says, after faults of all kinds."""

    def behave(body, times):
        asked = SimpleNamespace(conversation=body["messages"], draw_seed=body.get("seed", 0))
        said = function(asked)
        if not isinstance(said, str):
            return "status", (400, {}, b"no")
        kind, value = "ok", answer(chat(said))
        draw = zlib.crc32(f"{json.dumps(body, sort_keys=True)} {times}".encode()) % 12
        return {
            0: ("status", (429, {"Retry-After": "0.02"}, b"")),
            1: ("status", (500, {}, b"<html>")),
            2: ("reset", None),
            3: ("cut", value),
            4: ("raw", b'{"choices": [{"ind'),
            5: ("late", (0.03, value)),
        }.get(draw, (kind, value))

    return behave


def both(folder, function, step, table, shard_rows):
    """The rows by a script, and by the bad server in small shards; attempts of the server."""
    script = model("m", f"{HERE}.{function.__name__}")
    calm = asked_run(recipe(step(script)), table, folder / "calm")
    with MockServer(chaotic(function)) as server, Session(folder / "journal") as engines:
        about = {"engine": "server", "base_url": server.url, "model": "m", "retries": 20}
        wild = asked_run(
            recipe(step({**about, "timeout_s": 100})),
            table,
            folder / "wild",
            shard_rows,
            3,
            engine=engines.engine,
        )
        return calm, wild, len(server.bodies), len(server.finished)


def test_dilemmas(tmp_path):
    table = prompts("strike", "promise", *[f"A scene at harbour {i}" for i in range(10)])

    def step(engine):
        fields = {"writer": engine, "priority": ORDER, "dilemmas": 3, "same_rule": None}
        return {"generators.Dilemmas": fields}

    calm, wild, attempts, finished = both(tmp_path, dilemma, step, table, 3)
    assert view(wild, "pairs").equals(view(calm, "pairs"))
    rows = view(wild, "pairs")
    assert rows.height == rows["pair_id"].n_unique() > 15
    lost = ledger_of(wild).select("row_id", "reason").sort("row_id")
    names = {"http_500": "http_400"}  # what fails for good says so in its own way
    told = ledger_of(calm).select("row_id", "reason").sort("row_id")
    assert lost.rows() == [(i, names.get(r, r)) for i, r in told.rows()]
    assert attempts > 1.2 * finished


def test_dialogues(tmp_path):
    path = tmp_path / "office.yaml"
    path.write_text(SCENARIO)
    table = cases("down", *[f"case {i}" for i in range(3)])

    def step(engine):
        fields = {"scenario": str(path), "engine": engine, "judge": engine, "k": 2}
        return {"generators.Dialogues": fields}

    calm, wild, attempts, finished = both(tmp_path, office, step, table, 1)
    rows, same = (view(run, "pairs").drop("turn_meta") for run in (wild, calm))
    assert rows.equals(same)  # turn_meta counts tokens, and the server counts others
    assert rows.height > 10
    assert attempts > 1.2 * finished

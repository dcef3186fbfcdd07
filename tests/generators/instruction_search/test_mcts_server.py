"""Instruction search through a real HTTP server that misbehaves."""

import hashlib
import json
import re
import zlib
from collections import Counter

import pytest

from prefactory.engines import serving
from prefactory.engines.session import Session
from tests.generators.sampling import asked_run
from tests.generators.searching import PRINCIPLES
from tests.helpers import digest, ledger_of, prompts, recipe, view
from tests.prefactory.engines.mock_server import MockServer, answer, chat

N = 8
TABLE = prompts(*[f"question {i}" for i in range(N)])
LOST = "question 3"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)
    monkeypatch.setattr(serving, "BACKOFF_MAX_S", 0.05)


def said(body):
    """What a sound model says: a function of the request alone."""
    text = body["messages"][-1]["content"]
    if "Rate the answer" in text:
        marks = len(set(re.findall(r"\[(\w)\]", text.split("<<< answer")[1])))
        draw = hashlib.blake2b(text.encode(), digest_size=2).digest()[0]
        return json.dumps({"score": 3 + marks + draw / 256})
    if "one way only" in text:
        mark = re.search(r"write (\[\w\])", text).group(1)
        raw = re.search(r"<<< instruction \w+\n(.*)\n>>>", text, re.S).group(1)
        return f"<instruction>{raw} {mark}</instruction>"
    return f"What I say to it: {text} #{body['seed']}"


def sound(body):
    if body["messages"][-1]["content"] == LOST:  # no answer to this raw instruction, ever
        return "status", (500, {}, b"no")
    return "ok", answer(chat(said(body)))


def chaotic(body, times):
    """Half of the first attempts fail in one way or another, repeatably; some answers come late."""
    draw = zlib.crc32(f"{json.dumps(body, sort_keys=True)} {times}".encode()) % 16
    kind, value = sound(body)
    if kind == "status":
        return kind, value
    return {
        0: ("status", (429, {"Retry-After": "0.02"}, b"")),
        1: ("status", (500, {}, b"<html>")),
        2: ("reset", None),
        3: ("cut", value),
        4: ("raw", b'{"choices": [{"ind'),
        5: ("late", (0.05, value)),
        6: ("status", (503, {}, b"")),
    }.get(draw, (kind, value))


def searched(folder, behave, shard_rows=1000, workers=1):
    with MockServer(behave) as server, Session(folder / "journal") as engines:
        about = {"engine": "server", "base_url": server.url, "timeout_s": 100, "retries": 20}
        step = {
            "generators.InstructionSearch": {
                "rewriter": {**about, "model": "rewriter"},
                "responder": {**about, "model": "responder"},
                "scorer": {"judge": {**about, "model": "judge"}},
                "principles": PRINCIPLES,
                "floor": None,
                "iterations": 4,
            }
        }
        options = {"engine": engines.engine}
        found = asked_run(recipe(step), TABLE, folder, shard_rows, workers, **options)
        return found, Counter(server.finished), len(server.bodies)


def test_chaos_grows_the_same_trees(tmp_path):
    calm, answered, _ = searched(tmp_path / "calm", lambda body, times: sound(body))
    wild, finished, attempts = searched(tmp_path / "wild", chaotic, shard_rows=3, workers=3)
    assert digest(wild) == digest(calm)  # faults and shards leave no trace
    pairs, lost = view(wild, "pairs"), ledger_of(wild)
    assert pairs.height + lost.height == N
    assert lost.filter(reason="http_500").height == 1  # the raw instruction was never answered
    assert set(finished.values()) == {1}  # no call was answered twice
    assert attempts > 1.3 * len(answered)  # and the weather was bad
    nodes = [json.loads(t)["nodes"] for t in pairs["tree"]]
    assert all(len(n) == 5 for n in nodes)
    assert all(t["text"].startswith(n[0]["text"]) for n in nodes for t in n)  # nothing was swapped

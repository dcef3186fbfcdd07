"""Judges behind a real HTTP server that misbehaves: no vote moves to another question."""

import json
import re
import zlib
from collections import Counter

import polars as pl
import pytest

from pipelines.engines import engines
from pipelines.settings import Settings
from prefactory.engines.base import Request, Sampling
from tests.helpers import content, digest, ledger_of, pairs, view
from tests.labelers import judging as j
from tests.prefactory.engines import mock_server

N = 24
ANSWERS = j.answers(
    *[
        (f"question {i:03}", f"{'GOOD ' * (n == i % 3)}answer {i:03}.{n}")
        for i in range(N)
        for n in range(3)
    ]
)
PAIRS = pairs(
    *[
        (f"question {i:03}", *(texts if i % 4 else texts[::-1]))
        for i in range(N)
        for texts in [(f"GOOD {i:03}", f"bad {i:03}")]
    ]
).sort("prompt_id", "pair_id")
LISTWISE = {"labelers.Judge": {"early_stop": False}}
LABEL = {"labelers.JudgePairs": {}}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    from prefactory.engines import serving

    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)


def verdict(body):
    """What a sound judge says to a request's body."""
    return j.good(Request(body["messages"], Sampling()))


def number(body):
    """Number of the question that a request is about."""
    return int(
        re.search(r"question (\d{3})", j.question(Request(body["messages"], Sampling()))).group(1)
    )


def reply(body, text=None):
    return mock_server.answer(mock_server.chat(verdict(body) if text is None else text))


def sound(body, times):
    return "ok", reply(body)


def chaos(body, times):
    """Half of all first and second attempts go wrong; answers come in no order."""
    draw = zlib.crc32(f"{json.dumps(body, sort_keys=True)} {times}".encode()) % 16
    fault = {
        0: ("status", (429, {"Retry-After": "0.02"}, b"slow down")),
        1: ("status", (500, {}, {"error": {"message": "oops"}})),
        2: ("reset", None),
        3: ("cut", reply(body)),
        4: ("raw", b'{"choices": [{"mess'),
        5: ("hang", None),
        6: ("status", (503, {}, b"<html>")),
        7: ("ok", reply(body, '{"winner": "')),
    }.get(draw)
    late = ("late", (draw / 400, reply(body)))
    return fault if fault is not None and times < 3 else late


def broken(body, times):
    """Questions by number: one stays broken in each way, the rest is sound."""
    n = number(body) % 6
    return {
        0: ("status", (500, {}, {"error": {"message": "out of memory"}})),
        1: ("ok", reply(body, "Both have merits.\n\nIt depends on the reader.")),
        2: ("ok", reply(body, '{"winner": "Q"}')),
        3: ("hang", None),
    }.get(n, ("ok", reply(body)))


def ran(tmp_path, behave, table, step, name="a", shard_rows=1000, **fields):
    """Run one step against a server behind the journal of a home: result and requests."""
    (path, settings), *more = step.items()
    j.SEEN.clear()
    with mock_server.MockServer(behave) as server:
        judge = {"engine": "server", "base_url": server.url, "model": "m", **fields}
        steps = [{path: {**settings, "judge": [judge]}}, *more]
        with engines(Settings(tmp_path / "home")) as session:
            result = j.ran(steps, table, tmp_path / name, shard_rows, session.engine)
        return result, list(server.bodies)


def chosen_good(result):
    """Numbers of the questions whose pairs are all right."""
    found = view(result, "pairs")
    texts = zip(
        content(found, "prompt"), content(found, "chosen"), content(found, "rejected"), strict=True
    )
    for prompt, chosen, rejected in texts:
        n = prompt.split()[1]
        assert n in chosen
        assert n in rejected
        assert "GOOD" in chosen
        assert "GOOD" not in rejected
    return Counter(int(p.split()[1]) for p in content(found, "prompt"))


def test_passing_faults_change_no_byte(tmp_path):
    calm, asked = ran(tmp_path / "calm", sound, ANSWERS, LISTWISE)
    assert len(asked) == 3 * N
    assert chosen_good(calm) == dict.fromkeys(range(N), 2)
    wild, more = ran(tmp_path / "wild", chaos, ANSWERS, LISTWISE, timeout_s=1.0, max_concurrency=32)
    assert len(more) > 3 * N
    assert chosen_good(wild) == dict.fromkeys(range(N), 2)
    votes = [view(r, "pairs").drop("judge_votes") for r in (calm, wild)]
    assert votes[0].equals(votes[1])
    assert ledger_of(wild).height == 0


@pytest.mark.parametrize("shard_rows", [pytest.param(1, marks=pytest.mark.slow), 1000])
def test_shards_and_the_journal(tmp_path, shard_rows):
    first, asked = ran(tmp_path, sound, ANSWERS, LISTWISE)
    assert len(asked) == 3 * N
    home = tmp_path / "home/journal"
    before = sorted(p.name for p in home.rglob("*.calls"))
    again = ran_again(tmp_path, ANSWERS, LISTWISE, shard_rows)
    assert digest(again) == digest(first)
    assert sorted(p.name for p in home.rglob("*.calls")) == before


def ran_again(tmp_path, table, step, shard_rows):
    """The same recipe in an empty store; nobody is at the address of the server any more."""
    (path, settings), *more = step.items()
    folder = next((tmp_path / "home/journal").glob("*/engine.json"))
    identity = json.loads(folder.read_text())
    judge = {"engine": "server", "base_url": identity["base_url"], "model": "m", "retries": 0}
    steps = [{path: {**settings, "judge": [judge]}}, *more]
    with engines(Settings(tmp_path / "home")) as session:
        return j.ran(steps, table, tmp_path / "b", shard_rows, session.engine)


def test_what_stays_broken_is_in_the_ledger_and_nothing_else_is(tmp_path):
    result, bodies = ran(
        tmp_path, broken, ANSWERS, LISTWISE, timeout_s=1.0, retries=1, max_concurrency=64
    )
    sure = [n for n in range(N) if n % 6 in (4, 5)]
    assert chosen_good(result) == dict.fromkeys(sure, 2)
    table = ANSWERS.select("response_id").with_columns(
        n=pl.Series([int(p.split()[1]) for p in content(ANSWERS, "prompt")]) % 6
    )
    left = table.join(ledger_of(result), left_on="response_id", right_on="row_id")
    reasons = set(left.select("n", "reason").rows())
    assert reasons == {
        (0, "http_500"),
        (1, "no_valid_vote"),
        (2, "no_valid_vote"),
        (3, "timeout"),
    }
    assert left.height == 3 * N * 4 // 6
    info = result.stages[-1].info
    assert info["faults"] == {"http_500": N // 2, "timeout": N // 2, "unparseable": N}
    assert info["position"]["bias"] == 0
    said = {body["messages"][-1]["content"] for body in bodies if len(body["messages"]) > 2}
    assert said == {
        "There is no verdict in this reply. Say exactly one of [[A]], [[B]], [[C]], [[tie]].",
        "Q is no possible verdict here. Say exactly one of [[A]], [[B]], [[C]], [[tie]].",
    }


def test_labels_of_pairs_stay_on_their_rows(tmp_path):
    calm, _ = ran(tmp_path / "calm", sound, PAIRS, LABEL)
    found = view(calm, "pairs")
    numbers = [int(p.split()[1]) for p in content(found, "prompt")]
    wanted = ["chosen" if n % 4 else "rejected" for n in numbers]
    assert found["judge_prefers"].to_list() == wanted
    wild, _ = ran(tmp_path / "wild", chaos, PAIRS, LABEL, timeout_s=1.0, shard_rows=7)
    assert view(wild, "pairs")["judge_prefers"].to_list() == wanted
    result, _ = ran(tmp_path / "broken", broken, PAIRS, LABEL, timeout_s=1.0, retries=1)
    found = view(result, "pairs")
    reason = {0: "http_500", 1: "no_valid_vote", 2: "no_valid_vote", 3: "timeout"}
    assert found["judge_reason"].to_list() == [reason.get(n % 6) for n in numbers]
    assert found["judge_prefers"].to_list() == [
        None if n % 6 in reason else w for n, w in zip(numbers, wanted, strict=True)
    ]


def test_one_order_that_fails_abstains(tmp_path):
    """A judge that answers only where GOOD stands first is no witness, whatever it says."""

    def half(body, times):
        first = j.shown(Request(body["messages"], Sampling()))["A"]
        fine = "GOOD" in first
        return ("ok", reply(body)) if fine else ("status", (500, {}, b"no"))

    result, _ = ran(tmp_path, half, PAIRS, LABEL, retries=0)
    found = view(result, "pairs")
    assert found["judge_reason"].unique().to_list() == ["abstained"]
    assert found["judge_valid"].unique().to_list() == [1]

"""Rubric judges behind a real HTTP server that misbehaves: no label moves to another row."""

import json
import re
import zlib

import pytest

from labelers.rubric.step import Rubric
from prefactory.engines import serving
from prefactory.engines.accounts import Budget
from prefactory.engines.session import Session
from prefactory.errors import StoppedError
from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.store import Store
from tests.helpers import asking, assistant, one_file, recipe, responses, view
from tests.prefactory.engines.mock_server import MockServer, answer, chat

ATTRIBUTES = [{"name": "helpful"}, {"name": "honest", "scale": (0, 10)}]
ROWS = responses(*[(f"question {i % 11}", f"The answer {i}.") for i in range(120)])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Backoff of milliseconds."""
    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)


def judged(body):
    """The answer that a request is about."""
    text = body["messages"][1]["content"]
    return re.search(r"<<< answer (\w+)\n(.*?)\n>>> answer \1", text, re.DOTALL)[2]


def number(body):
    return int(re.search(r"\d+", judged(body))[0])


def truth(text):
    """What a sound judge says of a text."""
    return zlib.crc32(text.encode()) % 5 + 1, zlib.crc32(text.encode()) % 11


def said(helpful, honest):
    return json.dumps({"ratings": {"helpful": helpful, "honest": honest}})


def sound(body):
    return said(*truth(judged(body)))


def ok(text, **extra):
    return "ok", answer(chat(text, **extra))


def config(server, **fields):
    return {"engine": "server", "base_url": server.url, "model": "m", **fields}


def scores(server, table=ROWS, retries=20, timeout_s=100.0, **fields):
    judge = config(server, retries=retries, timeout_s=timeout_s)
    step = Rubric(judge=judge, attributes=ATTRIBUTES, **fields)
    ctx = asking()
    try:
        out = step.label(table, ctx)
    finally:
        ctx.engine(step.judge).close()
    texts = [r[0]["content"] for r in table["response"]]
    return dict(zip(texts, out.to_dicts(), strict=True))


def right(row, text):
    return (row["score_helpful"], row["score_honest"]) == truth(text)


FIRST = [
    lambda body: ("status", (429, {"Retry-After": "0.02"}, b"slow down")),
    lambda body: ("status", (500, {}, b"<html>")),
    lambda body: ("hang", None),
    lambda body: ("reset", None),
    lambda body: ("cut", answer(chat(sound(body)))),
    lambda body: ("raw", b'{"choices": [{"mess'),
    lambda body: ("late", (0.2, answer(chat(sound(body))))),
    lambda body: ok(sound(body)[:-9], finish_reason="length"),
    lambda body: ok('{"ratings": {"helpful": 3}}'),
    lambda body: ok('{"ratings": {"helpful": 3, "honest": 3, "overall": 3}}'),
    lambda body: ok('{"ratings": [3, 3]}'),
    lambda body: ok(said(NaN, 3)),
    lambda body: ok(said(9, 3)),
    lambda body: ok("I can't rate {this}."),
    lambda body: ok(f"First, {{see}}.\n\nSecond, all is fine.\n\n```json\n{sound(body)}\n```"),
    lambda body: ok(said(*map(str, truth(judged(body))))),
]
NaN = float("nan")


def test_every_passing_fault_is_mended_and_no_label_moves():
    """Each row meets one fault at its first question, and answers come in another order."""

    def behave(body, times):
        if times == 1 and len(body["messages"]) == 2:
            return FIRST[number(body) % len(FIRST)](body)
        return "late", (0.01 * (number(body) % 4), answer(chat(sound(body))))

    with MockServer(behave) as server:
        found = scores(server, timeout_s=1.0)
        bodies = server.bodies
    assert len(found) == 120
    assert all(right(row, text) for text, row in found.items())
    assert not any(row["reason_rubric"] for row in found.values())
    asked_again = [b for b in bodies if len(b["messages"]) == 4]
    assert {number(b) % len(FIRST) for b in asked_again} == {7, 8, 9, 10, 11, 12, 13}
    for body in asked_again:  # the refused answer, and what was wrong with it
        assert body["messages"][2]["role"] == "assistant"
        assert "of this form" in body["messages"][3]["content"]
    assert all(b["response_format"]["type"] == "json_schema" for b in bodies)


LASTING = {
    0: ("status", (500, {}, {"error": {"message": "out of memory"}})),
    1: ("status", (400, {}, {"error": {"message": "too long"}})),
    2: ("hang", None),
    3: ("reset", None),
    4: ok('{"ratings": {"helpful": 3}}'),
    5: ok("```json\n" + said(3, 3)[:-2] + "\n```"),
    6: ok(said(3, NaN)),
    7: ok("What a question.\n\nI would rather not say."),
    8: ("ok", answer({**chat(None), "finish_reason": "content_filter"})),
    9: ("raw", b"{}"),
}
REASONS = {
    0: "http_500",
    1: "http_400",
    2: "timeout",
    3: "connection",
    8: "content_filter",
    9: "bad_answer",
}


def test_what_stays_broken_is_null_with_a_reason_and_its_neighbours_are_right():
    def behave(body, times):
        return LASTING.get(number(body) % 12) or ok(sound(body))

    table = ROWS.head(48)
    with MockServer(behave) as server:
        found = scores(server, table, retries=1, timeout_s=1.0, attempts=2, details=True)
    for text, row in found.items():
        kind = int(re.search(r"\d+", text)[0]) % 12
        if kind in LASTING:
            assert (row["score_helpful"], row["score_honest"]) == (None, None)
            assert row["reason_rubric"] == REASONS.get(kind, "unparseable")
            assert row["detail_rubric"]
        else:
            assert right(row, text)
            assert row["reason_rubric"] is None


def test_chaos_with_samples_and_a_critique_first():
    """A third of all attempts fail; every sample's ratings are those of its row's own critique."""

    def behave(body, times):
        draw = zlib.crc32(f"{json.dumps(body, sort_keys=True)} {times}".encode()) % 18
        if len(body["messages"]) == 2:
            reply = f"Critique of {judged(body)} #{body['seed'] % 1000}"
        else:
            critique = body["messages"][2]["content"]
            assert critique.startswith(f"Critique of {judged(body)}")
            reply = sound(body)
        return {
            0: ("status", (429, {"Retry-After": "0.02"}, b"")),
            1: ("status", (503, {}, b"")),
            2: ("reset", None),
            3: ("cut", answer(chat(reply))),
            4: ("raw", b"{"),
            5: ("late", (0.03, answer(chat(reply)))),
        }.get(draw, ok(reply))

    fields = {
        "critique": "first",
        "keep_critique": True,
        "samples": 2,
        "sampling": {"temperature": 1},
    }
    with MockServer(behave) as server:
        found = scores(server, ROWS.head(40), **fields)
    assert all(right(row, text) for text, row in found.items())
    assert all(row["valid_rubric"] == 2 for row in found.values())
    for text, row in found.items():
        assert row["critique_rubric"].startswith(f"Critique of {text}")


def test_a_server_without_schemas():
    def behave(body, times):
        if "response_format" in body:
            return "status", (400, {}, {"error": {"message": "unknown field response_format"}})
        return ok(sound(body))

    with MockServer(behave) as server:
        refused = scores(server, ROWS.head(2), details=True)
        found = scores(server, ROWS.head(2), guided=False)
    assert {r["reason_rubric"] for r in refused.values()} == {"http_400"}
    assert "response_format" in next(iter(refused.values()))["detail_rubric"]
    assert all(right(row, text) for text, row in found.items())


# -- whole runs, behind the journal -----


def run(server, folder, shard_rows=1000, budget=None):
    step = {"labelers.Rubric": {"judge": config(server, timeout_s=100), "attributes": ATTRIBUTES}}
    with Session(folder / "journal", budget=budget) as session:
        options = Options(workers=3, shard_rows=shard_rows, engine=session.engine)
        made = recipe(step)
        mapper = thread_mapper(3)
        return execute(made, [one_file(ROWS)], Store(folder / "store"), mapper, options)


def test_a_run_stopped_by_its_budget_resumes_and_asks_nothing_twice(tmp_path):
    def priced(body, times):
        return "ok", answer(chat(sound(body)), prompt_tokens=300, completion_tokens=20)

    with MockServer(priced) as server:  # 38,400 tokens for all 120
        with pytest.raises(StoppedError):
            run(server, tmp_path / "a", 40, Budget(tokens=10_000))
        assert 0 < len(server.bodies) < 120
        stopped = run(server, tmp_path / "a", 40)
        assert len(server.bodies) == len(server.seen) == 120
        whole = run(server, tmp_path / "b", 7)
    assert view(whole, "responses").equals(view(stopped, "responses"))
    for row in view(whole, "responses").to_dicts():
        assert row["response"] == [assistant(row["response"][0]["content"])]
        assert right(row, row["response"][0]["content"])

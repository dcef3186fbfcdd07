"""Sampling through real HTTP servers that misbehave, and through a model in this process."""

import json
import zlib
from collections import Counter

import polars as pl
import pytest

from prefactory.engines import serving
from prefactory.engines.session import Session
from tests.generators.sampling import asked_run, said
from tests.helpers import content, digest, ledger_of, prompts, recipe, tiny_llama, view
from tests.prefactory.engines.mock_server import MockServer, answer, chat, echo

N = 36
TABLE = prompts(*[f"question {i}" for i in range(N)])
LOST = {"question 3": "http_400", "question 7": "http_500", "question 11": "empty_answer"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)
    monkeypatch.setattr(serving, "BACKOFF_MAX_S", 0.05)


def sound(body):
    """A function of the request alone, or of a prompt that never gets an answer."""
    broken = LOST.get(body["messages"][-1]["content"])
    if broken == "empty_answer":
        return "ok", answer(chat(" \n "))
    if broken:
        return "status", (int(broken.removeprefix("http_")), {}, b"no")
    return "ok", echo(body)


def chaotic(body, times):
    """Half of the first attempts fail in one way or another, repeatably; some answers come late."""
    draw = zlib.crc32(f"{json.dumps(body, sort_keys=True)} {times}".encode()) % 16
    kind, value = sound(body)
    if kind == "status":
        return kind, value
    return {
        0: ("status", (429, {"Retry-After": "0.02"}, b"")),
        1: ("status", (429, {}, b"")),
        2: ("status", (500, {}, b"<html>")),
        3: ("reset", None),
        4: ("cut", value),
        5: ("raw", b'{"choices": [{"ind'),
        6: ("late", (0.05, value)),
        7: ("status", (503, {}, b"")),
    }.get(draw, (kind, value))


def step(one, two, **fields):
    def server(url, name):
        about = {"base_url": url, "model": name, "timeout_s": 100, "retries": 20}
        return {"engine": "server", **about}

    models = [server(one.url, "one"), server(two.url, "two")]
    common = {
        "models": models,
        "n": 2,
        "sampling": {"temperature": [0.2, 1.0]},
        "systems": ["Kind.", "Brief."],
    }
    return {"generators.Responses": {**common, **fields}}


def sampled(folder, behave, shard_rows=1000, workers=1):
    with (
        MockServer(behave) as one,
        MockServer(behave) as two,
        Session(folder / "journal") as engines,
    ):
        result = asked_run(
            recipe(step(one, two)), TABLE, folder, shard_rows, workers, engine=engines.engine
        )
        finished = Counter(one.finished + two.finished)
        attempts = len(one.bodies) + len(two.bodies)
    return result, finished, attempts


def test_chaos_loses_doubles_and_swaps_nothing(tmp_path):
    calm, *_ = sampled(tmp_path / "calm", lambda body, times: sound(body))
    wild, finished, attempts = sampled(tmp_path / "wild", chaotic, shard_rows=9, workers=4)
    assert digest(wild) == digest(calm)  # faults and shards leave no trace
    texts = dict(zip(TABLE["prompt_id"], content(TABLE, "prompt"), strict=True))
    lost = {texts[i]: r for i, r in ledger_of(wild).select("row_id", "reason").iter_rows()}
    assert lost == LOST
    rows = said(view(wild, "responses"))
    assert rows.height == 4 * (N - len(LOST))
    assert rows.group_by("prompt_id", "model", "sample").len()["len"].to_list() == [1] * rows.height
    for prompt, text in rows.select("prompt_id", "text").iter_rows():
        assert text.startswith(f"echo {texts[prompt]} #")
    answered = [raw for raw in finished if b'"question 11"' not in raw]
    assert {finished[raw] for raw in answered} == {1}  # no call was answered twice
    assert attempts > 1.4 * 4 * N  # and the weather was bad


def test_one_row_and_a_thousand_rows_a_shard_are_the_same_rows(tmp_path):
    one, thousand = (
        sampled(tmp_path / str(size), lambda body, times: sound(body), size, workers=2)[0]
        for size in (1, 1000)
    )
    assert digest(one) == digest(thousand)
    assert view(one, "responses").equals(view(thousand, "responses"))


def test_n_in_one_request(tmp_path):
    with MockServer() as one, Session(tmp_path / "journal") as engines:
        models = [{"engine": "server", "base_url": one.url, "model": "m", "n_in_one": True}]
        plain = {"generators.Responses": {"models": models, "n": 3}}
        result = asked_run(recipe(plain), TABLE, tmp_path / "a", engine=engines.engine)
        assert view(result, "responses").height == 3 * N
        assert len(one.bodies) == N  # one request for the three samples of a prompt
        mixed = {
            "generators.Responses": {
                "models": models,
                "n": 3,
                "sampling": {"temperature": [0.1, 0.9]},
            }
        }
        result = asked_run(recipe(mixed), TABLE, tmp_path / "b", engine=engines.engine)
        assert len(one.bodies) == 4 * N  # samples of other temperatures are not one request
        sent = Counter(b["temperature"] for b in one.bodies[N:])
        assert sent == Counter(view(result, "responses")["temperature"])


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("llama")))


def test_a_model_in_this_process(tmp_path, llama):
    table = prompts(*["certainly", "please go", "away " * 15, "😀", ""])
    engine = {"engine": "transformers", "model": llama, "precision": "fp32", "threads": 2}
    fields = {"models": [engine], "n": 2, "sampling": {"max_tokens": 6, "temperature": [0.5, 1.5]},
              "gate": "keep"}  # fmt: skip
    asked = recipe({"generators.Responses": fields})
    made = {}
    for size in (1, 1000):
        with Session(tmp_path / f"journal {size}") as engines:
            done = asked_run(asked, table, tmp_path / str(size), size, engine=engines.engine)
        made[size] = view(done, "responses")
    assert made[1].equals(made[1000])
    assert (
        made[1].height
        + made[1]["same_samples"].sum()
        + made[1].unique("prompt_id")["failed_samples"].sum()
        == 10
    )
    assert set(made[1]["model"]) == {llama}
    assert made[1]["finish_reason"].is_in(["length", "stop"]).all()
    assert made[1].filter(pl.col("temperature") < 0.5).height == 0

"""Journal, accounts and session: nothing is called twice, whatever ended the run before."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from prefactory.engines import journal as journal_module
from prefactory.engines.accounts import Accounts, Budget, Price, read_prices
from prefactory.engines.base import Completion, Failure, Request, Sampling, TokenLogprobs
from prefactory.engines.journal import Journal
from prefactory.engines.scripted import Scripted
from prefactory.engines.server import Server
from prefactory.engines.session import CLAIM, Session
from prefactory.errors import ConfigError, StoppedError, StoreError
from prefactory.sharing.claims import Claims
from tests.helpers import ROOT, assistant, until, user
from tests.prefactory.engines.mock_server import MockServer, answer, chat, echo

pytestmark = pytest.mark.usefixtures("quick")
KEYS = [f"{i:032x}" for i in range(50)]
SEEN = Counter()


def count(request):
    text = request.conversation[-1]["content"]
    SEEN[text] += 1
    return Failure("http_500", "no") if text == "fail" else f"{text} {request.draw_seed}"


def words(conversation):
    SEEN["logprobs"] += 1
    return [(w, -1.0) for w in conversation[-1]["content"].split()]


COUNTED = Scripted(function=f"{__name__}.count", logprob_function=f"{__name__}.words")


@pytest.fixture(autouse=True)
def _fresh():
    SEEN.clear()


def journal(path):
    return Journal(path, "engine", {"model": "m"})


def segments(path):
    return sorted(path.rglob("*.calls"))


def rows(*texts):
    return [[user(t)] for t in texts]


# -- the file -----


def test_what_was_put_is_found_by_the_next(tmp_path):
    odd = ("\ud800", "\x00\x1f\x7f", "\u2028\r\n", "")  # the first is none of UTF-8's
    values: list[dict] = [
        {"text": f"{i} {odd[i % 4]} 😀\n", "logprob": i / 7, "by": ["a", "b"]} for i in range(48)
    ]
    values += [{"logprobs": [-1.5, float("-inf")]}, {"logprob": float("inf"), "n": 2**70}]
    first = journal(tmp_path)
    for key, value in zip(KEYS, values, strict=True):
        assert first.put(key, value) is None
    assert first.put(KEYS[3], {"text": "other"}) == values[3]  # the first answer stays
    first.commit()
    assert [first.get(k) for k in KEYS] == values
    first.close()
    second = journal(tmp_path)
    assert [second.get(k) for k in KEYS] == values
    assert len(second) == 50
    assert second.get("f" * 32) is None
    assert len(segments(tmp_path)) == 1  # who writes nothing makes no file
    assert json.loads((tmp_path / "engine" / "engine.json").read_text()) == {"model": "m"}


def test_a_torn_tail_at_any_byte_costs_one_answer(tmp_path):
    first = journal(tmp_path)
    for key in KEYS[:3]:
        first.put(key, {"text": key})
    first.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        found = journal(tmp_path)
        assert [found.get(k) is not None for k in KEYS[:3]] == [True, True, False]
    path.write_bytes(whole[:-1])
    second = journal(tmp_path)
    second.put(KEYS[2], {"text": "again"})
    second.close()
    assert journal(tmp_path).get(KEYS[2]) == {"text": "again"}


def test_a_damaged_line_costs_one_answer(tmp_path):
    first = journal(tmp_path)
    for key in KEYS[:5]:
        first.put(key, {"text": key})
    first.close()
    (path,) = segments(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert sum(journal(tmp_path).get(k) is not None for k in KEYS[:5]) == 4


def test_processes_see_each_other_after_a_refresh(tmp_path):
    one, two = journal(tmp_path), journal(tmp_path)
    one.put(KEYS[0], {"text": "a"})
    two.put(KEYS[1], {"text": "b"})
    assert two.get(KEYS[0]) is None
    two.refresh()
    one.refresh()
    assert two.get(KEYS[0]) == {"text": "a"}
    assert one.get(KEYS[1]) == {"text": "b"}
    one.put(KEYS[2], {"text": "c"})
    two.refresh()
    assert two.get(KEYS[2]) == {"text": "c"}
    assert len(segments(tmp_path)) == 2


def test_a_line_that_is_being_written_is_read_later(tmp_path):
    one = journal(tmp_path)
    one.put(KEYS[0], {"text": "a"})
    one.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    two = journal(tmp_path)
    assert two.get(KEYS[0]) is None
    path.write_bytes(whole)
    two.refresh()
    assert two.get(KEYS[0]) == {"text": "a"}


def test_a_full_disk_is_said_and_costs_nothing_that_was_there(tmp_path, monkeypatch):
    one = journal(tmp_path)
    one.put(KEYS[0], {"text": "a"})
    real = os.write

    def full(file, data):
        if len(data) > 30:
            return real(file, data[:30])  # a short write, and then nothing more
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        journal_module.os, "write", lambda f, d: full(f, d[:31]) if len(d) > 31 else full(f, d[:5])
    )
    with pytest.raises(StoreError, match="No space left"):
        one.put(KEYS[1], {"text": "b" * 10})
    monkeypatch.undo()
    assert one.get(KEYS[1]) is None
    one.put(KEYS[1], {"text": "c"})
    one.close()
    again = journal(tmp_path)
    assert [again.get(k) for k in KEYS[:2]] == [{"text": "a"}, {"text": "c"}]


def test_threads_share_an_fsync(tmp_path, monkeypatch):
    """The first takes until all have put an answer; the second is for what came meanwhile."""
    calls = []
    real = os.fsync
    one = journal(tmp_path)
    one.put("f" * 32, {"text": "makes the file"})
    one.commit()

    def slow(file):
        calls.append(file)
        until(lambda: len(one) == 11)
        real(file)

    monkeypatch.setattr(journal_module.os, "fsync", slow)

    def work(key):
        one.put(key, {"text": key})
        one.commit()

    threads = [threading.Thread(target=work, args=(key,)) for key in KEYS[:10]]
    [t.start() for t in threads]
    [t.join() for t in threads]
    one.close()
    assert len(journal(tmp_path)) == 11
    assert len(calls) <= 2


def test_all_is_fsynced_before_generate_returns(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        journal_module.os, "fsync", lambda f: (synced.append(os.fstat(f).st_size), real(f))
    )
    with Session(tmp_path) as session:
        session.engine(COUNTED).generate(rows("a", "b"), Sampling())
        assert synced[-1] == segments(tmp_path)[0].stat().st_size


def test_a_disk_that_refuses_claims_ends_the_run(tmp_path, monkeypatch):
    def refused(self, keys):
        raise StoreError("No space left")

    with Session(tmp_path) as session:
        session.engine(COUNTED).generate(rows("a"), Sampling())
        monkeypatch.setattr(Claims, "take", refused)
        with pytest.raises(StoreError, match="No space left"):  # it waited for ever
            session.engine(COUNTED).generate(rows("b"), Sampling())


# -- the engine behind it -----


def test_a_second_session_calls_nothing_and_opens_nothing(tmp_path, monkeypatch):
    with Session(tmp_path) as session:
        first = session.engine(COUNTED).generate(rows("a", "b"), Sampling(n=3, seed=1))
        assert session.report()["scripted"]["calls"] == 6
    monkeypatch.setattr(Scripted, "open", None)
    with Session(tmp_path) as session:
        again = session.engine(COUNTED).generate(rows("a", "b"), Sampling(n=2, seed=1))
        used = session.report()["scripted"]
    assert again == [row[:2] for row in first]
    assert SEEN == {"a": 3, "b": 3}
    assert (used["calls"], used["reused"]) == (0, 4)


def test_the_same_request_is_made_once_and_row_ids_make_it_another(tmp_path):
    with Session(tmp_path) as session:
        engine = session.engine(COUNTED)
        same = engine.generate(rows("a", "a", "a"), Sampling(seed=1))
        assert SEEN["a"] == 1
        assert same[0] == same[1] == same[2]
        apart = engine.generate(rows("a", "a"), Sampling(seed=1), ["x", "y"])
        assert SEEN["a"] == 3
        assert apart[0] != apart[1]


def test_the_first_is_asked_before_all_are_read_and_late_copies_share_its_answer(tmp_path):
    read, answered = [], []

    def requests(texts):
        for text in texts:
            read.append(text)
            yield Request([user(text)], Sampling())

    def done(place, result):
        answered.append((place, len(read), getattr(result, "reason", "")))

    texts = ["fail", *(str(i) for i in range(1000)), "0", "fail", "0"]
    with Session(tmp_path) as session:
        session.engine(COUNTED).run(requests(texts), done)
        told = session.accounts.total()
        assert (told.calls, told.failures, told.reused) == (1000, 1, 0)
    assert SEEN["fail"] == SEEN["0"] == 1
    assert answered[0][1] <= 2 * CLAIM[0]
    assert sorted(p for p, _, _ in answered) == list(range(1004))
    assert [p for p, _, reason in answered if reason] == [0, 1002]
    with Session(tmp_path) as session:
        session.engine(COUNTED).run(requests(texts[1:-2]), lambda place, result: None)
        told = session.accounts.total()
        assert (told.calls, told.reused) == (0, 1001)


def test_what_the_rows_raise_is_raised(tmp_path):
    def requests():
        yield from (Request([user(str(i))], Sampling()) for i in range(40))
        raise KeyError("a template that wants a column")

    with MockServer() as server, Session(tmp_path) as session:
        engine = session.engine(Server(base_url=server.url, model="m"))
        with pytest.raises(KeyError, match="wants a column"):
            engine.run(requests(), lambda place, result: None)


def test_calls_are_claimed_by_as_many_as_are_soon_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(Claims, "soon_s", 1e9)
    blocks = []
    take = Claims.take
    monkeypatch.setattr(Claims, "take", lambda s, keys: blocks.append(len(keys)) or take(s, keys))
    with Session(tmp_path) as session:
        session.engine(COUNTED).generate(rows(*map(str, range(1000))), Sampling())
    assert blocks == [16, 32, 64, 128, 256, 256, 248]


def test_failures_are_asked_again(tmp_path):
    with Session(tmp_path) as session:
        for _ in range(2):
            found = session.engine(COUNTED).generate(rows("a", "fail"), Sampling())
            assert found[1] == [Failure("http_500", "no")]
    assert SEEN == {"a": 1, "fail": 2}


def test_another_endpoint_is_another_journal(tmp_path):
    def behave(body, times):
        return "ok", answer(chat(f"from {id(body)}"))

    with MockServer(behave) as one, MockServer(behave) as two, Session(tmp_path) as session:
        for server in (one, two, one):
            engine = session.engine(Server(base_url=server.url, model="m"))
            engine.generate(rows("a"), Sampling())
        assert (one.seen.total(), two.seen.total()) == (1, 1)


def test_logprobs_are_kept_too(tmp_path):
    asked = [
        [user("q"), assistant("a b")],
        [user("q"), assistant("c")],
        [user("q"), assistant("c")],
    ]
    for _ in range(2):
        with Session(tmp_path) as session:
            found = session.engine(COUNTED).logprobs(asked)
            assert found[0] == TokenLogprobs(("a", "b"), (-1.0, -1.0))
            assert found[1] == found[2]
    assert SEEN["logprobs"] == 2


def test_a_configuration_is_opened_once(tmp_path):
    with Session(tmp_path) as session:
        one = session.engine(COUNTED)
        assert session.engine(Scripted(**COUNTED.model_dump())) is one
        assert session.engine(COUNTED.model_copy(update={"version": 2})) is not one


def test_threads_get_the_same_answer_to_the_same_question(tmp_path):
    numbers = iter(range(1000))

    def behave(body, times):
        return "late", (0.02, answer(chat(str(next(numbers)))))

    found = []
    with MockServer(behave) as server, Session(tmp_path) as session:
        engine = session.engine(Server(base_url=server.url, model="m"))

        def work():
            found.append(engine.generate(rows(*"abc"), Sampling()))

        threads = [threading.Thread(target=work) for _ in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    assert all(f == found[0] for f in found)


def test_secrets_are_in_no_file(tmp_path, monkeypatch, caplog):
    secret = "sk-very-secret-0123456789"
    monkeypatch.setenv("TEST_KEY", secret)
    caplog.set_level(logging.DEBUG)
    with MockServer(lambda body, times: ("ok", answer(chat(f"it is {secret}")))) as server:
        with Session(tmp_path) as session:
            config = Server(base_url=server.url, model="m", api_key_env="TEST_KEY")
            session.engine(config).generate(rows("a"), Sampling())
        assert server.headers[0]["Authorization"] == f"Bearer {secret}"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 2
    assert not [p for p in files if secret.encode() in p.read_bytes()]
    assert secret not in caplog.text


# -- kill -9 -----

CHILD = """
import sys, json
from pathlib import Path
from prefactory.engines.base import Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import CLAIM, Session
url, root, out = sys.argv[1:]
config = Server(base_url=url, model="m", max_concurrency=8)
asked = [[{"role": "user", "content": f"q{i}"}] for i in range(300)]
with Session(Path(root)) as session:
    found = session.engine(config).generate(asked, Sampling(seed=1))
    Path(out).write_text(json.dumps([[r.text for r in row] for row in found]))
"""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_repeats_only_what_was_in_flight(tmp_path, kills):
    expected = None
    with MockServer(latency_s=0.02) as server:
        command = [sys.executable, "-c", CHILD, server.url, str(tmp_path / "j")]
        for kill in range(kills):
            enough = len(server.finished) + 1 + (37 * kill) % (280 // kills)
            with subprocess.Popen([*command, str(tmp_path / "no")], cwd=ROOT) as child:
                until(lambda n=enough: len(server.finished) >= n or child.poll() is not None)
                child.kill()
            until(lambda: server.left)
            repeated = sum(n - 1 for n in Counter(server.finished).values())
            assert repeated <= 8 * kill
        subprocess.run([*command, str(tmp_path / "out")], cwd=ROOT, check=True)
        asked = Counter(server.finished)
        assert len(asked) == 300
        assert asked.total() - 300 <= 8 * kills
        plain = [sys.executable, "-c", CHILD, server.url, str(tmp_path / "k")]
        subprocess.run([*plain, str(tmp_path / "expected")], cwd=ROOT, check=True)
        expected = (tmp_path / "expected").read_bytes()
    assert (tmp_path / "out").read_bytes() == expected
    assert not (tmp_path / "no").exists()


# -- money -----


def test_tokens_and_money_are_counted(tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: [1.0, 10.0]\n")

    def behave(body, times):
        return "ok", answer(chat("x"), prompt_tokens=1000, completion_tokens=500)

    with MockServer(behave) as server, Session(tmp_path / "j", prices=prices) as session:
        engine = session.engine(Server(base_url=server.url, model="m"))
        engine.generate(rows("a", "b"), Sampling())
        assert session.report() == {
            "m": {
                "calls": 2, "reused": 0, "failures": 0, "prompt_tokens": 2000,
                "completion_tokens": 1000, "usd": pytest.approx(0.012), "priced": True,
                "estimated": 0, "wasted": 0,
            }
        }  # fmt: skip


def test_an_unknown_price_is_said_once(tmp_path, caplog):
    with MockServer() as server, Session(tmp_path) as session:
        engine = session.engine(Server(base_url=server.url, model="nobody-knows"))
        engine.generate(rows("a"), Sampling())
        engine.generate(rows("b"), Sampling())
        assert session.report()["nobody-knows"]["priced"] is False
        assert session.report()["nobody-knows"]["usd"] == 0
    assert caplog.text.count("no price is known for 'nobody-knows'") == 1


def test_a_budget_stops_before_it_is_exceeded_and_resumes(tmp_path):
    asked = rows(*[f"q{i}" for i in range(100)])
    sampling = Sampling(max_tokens=20, seed=1)
    results, used, stops = None, 0, []
    for _ in range(100):
        with Session(tmp_path, budget=Budget(tokens=200)) as session:
            try:
                results = session.engine(COUNTED).generate(asked, sampling)
            except StoppedError as error:
                stops.append((error.exit_code, str(error)))
            total = session.accounts.total()
            assert total.prompt_tokens + total.completion_tokens <= 200
            used += total.calls
        if results is not None:
            break
    assert used == 100
    assert {code for code, _ in stops} == {3}
    assert all("run the same command again" in text for _, text in stops)
    assert set(SEEN.values()) == {1}  # no call was made twice
    assert all(isinstance(r, Completion) for (r,) in results)


def test_a_money_budget_holds_under_threads(tmp_path):
    def behave(body, times):
        return "ok", answer(chat("x"), prompt_tokens=10, completion_tokens=90)

    stopped = []
    with (
        MockServer(behave, latency_s=0.01) as server,
        Session(tmp_path, budget=Budget(usd=0.02)) as session,
    ):
        engine = session.engine(Server(base_url=server.url, model="gpt-4o"))

        def work(name):
            try:
                engine.generate(rows(*[f"{name}{i}" for i in range(50)]), Sampling(max_tokens=100))
            except StoppedError:
                stopped.append(name)

        threads = [threading.Thread(target=work, args=(n,)) for n in "abcd"]
        [t.start() for t in threads]
        [t.join() for t in threads]
        used = session.accounts.total()
    assert len(stopped) == 4
    assert 0.018 < used.usd <= 0.02  # one call is 0.000925 dollars
    assert server.seen.total() == used.calls == 21


def test_no_budget_at_all(tmp_path):
    with Session(tmp_path, budget=Budget(usd=0)) as session:
        engine = session.engine(Scripted(model="gpt-4o", function=f"{__name__}.count"))
        with pytest.raises(StoppedError, match=r"0.0000 of 0 US dollars.*2 calls"):
            engine.generate(rows("a", "b"), Sampling())
    assert not SEEN


def test_a_money_budget_wants_a_price_of_whoever_bills(tmp_path):
    prices = tmp_path / "prices.yaml"
    with MockServer() as server:
        config = Server(base_url=server.url, model="mine")

        def ask(**more):
            with Session(tmp_path, **more) as session:
                return session.engine(config).generate(rows("a"), Sampling())

        with pytest.raises(ConfigError, match=r"no price is known for 'mine'.*--budget-tokens"):
            ask(budget=Budget(usd=5))
        assert not server.bodies
        prices.write_text("mine: [0, 0]\n")
        told = ask(budget=Budget(usd=0), prices=prices)
        assert len(server.bodies) == 1
        assert ask(budget=Budget(usd=5)) == told  # from the journal: nothing is asked or billed
        assert len(server.bodies) == 1


def test_prices_are_read_and_checked(tmp_path):
    shipped = read_prices()
    assert all(p.input >= 0 and p.output >= p.input for p in shipped.values())
    assert shipped["gpt-4o"].usd(1_000_000, 1_000_000) == 12.5
    mine = tmp_path / "prices.yaml"
    mine.write_text("gpt-4o: [1, 2]\nlocal: [0, 0]\n")
    found = read_prices(mine)
    assert found["gpt-4o"] == Price(1.0, 2.0)
    assert len(found) == len(shipped) + 1
    for wrong in ("gpt: 5", "gpt: [1]", "gpt: [a, b]", "- x", "gpt: [-1, 2]", "a: [.nan, 1]", "{"):
        mine.write_text(wrong)
        with pytest.raises(ConfigError, match=r"prices .*prices\.yaml"):
            read_prices(mine)
    with pytest.raises(ConfigError, match="prices"):
        read_prices(Path("nowhere.yaml"))


def test_a_hold_is_given_back_when_the_engine_breaks(tmp_path):
    with (
        MockServer(lambda b, t: ("status", (401, {}, b""))) as server,
        Session(tmp_path, budget=Budget(tokens=10_000)) as session,
    ):
        engine = session.engine(Server(base_url=server.url, model="m"))
        with pytest.raises(Exception, match="HTTP 401"):
            engine.generate(rows(*"abc"), Sampling(max_tokens=10))
        assert session.accounts._holds == 0
        assert session.accounts._held_tokens == 0
    assert Accounts().total().calls == 0
    assert echo({"messages": [user("a")]})["choices"]

"""What is charged where a server tells no usage, or bills for answers that can't be used."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from prefactory.engines import accounts, serving
from prefactory.engines.accounts import Budget
from prefactory.engines.base import Completion, Failure, Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.errors import StoppedError
from tests.helpers import user
from tests.prefactory.engines.mock_server import MockServer, answer, chat

pytestmark = pytest.mark.usefixtures("quick")
SAMPLING = Sampling(max_tokens=20)


def asked(server, folder, texts, budget=None, prices=None, **fields):
    """Results, and the account of the model."""
    config = Server(base_url=server.url, model="m", max_concurrency=1, **fields)
    with Session(folder, budget=budget, prices=prices) as session:
        results = session.engine(config).generate([[user(t)] for t in texts], SAMPLING)
        return [r for (r,) in results], session.report()["m"]


def without_usage(body, times):
    return "ok", {"choices": [chat("fine")]}


def priced(folder):
    file = folder / "prices.yaml"
    file.write_text("m: [10, 30]\n")
    return file


def test_a_call_without_usage_is_charged_by_its_reservation_and_said_once(tmp_path, caplog):
    with MockServer(without_usage) as server, caplog.at_level(logging.WARNING):
        _, account = asked(server, tmp_path, ["abcd", "efgh"], prices=priced(tmp_path))
    assert (account["prompt_tokens"], account["completion_tokens"]) == (2 * (4 + 8), 2 * 20)
    assert account["usd"] == pytest.approx((24 * 10 + 40 * 30) / 1e6)
    assert account["estimated"] == 2
    assert sum("tells no usage" in record.message for record in caplog.records) == 1


def test_a_budget_stops_a_server_that_tells_no_usage(tmp_path):
    with MockServer(without_usage) as server:
        with pytest.raises(StoppedError, match="the budget is spent"):
            asked(server, tmp_path, [f"q{i}" for i in range(60)], Budget(tokens=300))
        assert len(server.bodies) == 300 // (2 + 8 + 20)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"index": 0, "message": {"content": None}, "finish_reason": "stop"}, "bad_answer"),
        (
            {"index": 0, "message": {"content": None, "refusal": "I can't do that."}},
            "refused",
        ),
        ({**chat("no"), "finish_reason": "content_filter"}, "content_filter"),
    ],
)
def test_an_answer_that_cant_be_used_is_charged_by_its_usage(tmp_path, choice, reason):
    with MockServer(lambda body, times: ("ok", answer(choice))) as server:
        (result,), account = asked(server, tmp_path, ["q"], retries=2)
        calls = len(server.bodies)
    assert isinstance(result, Failure)
    assert result.reason == reason
    assert calls == (2 if reason == "bad_answer" else 1)  # a habit is asked about once more
    assert account["failures"] == 1
    assert (account["prompt_tokens"], account["completion_tokens"]) == (5 * calls, 2 * calls)
    assert account["wasted"] == 1


@pytest.mark.parametrize(
    "value",
    [b"data: {}\n\ndata: [DONE]\n\n", b'{"choices": [{"mess', b'{"choices": [{"message": {}}]}'],
)
def test_a_budget_stops_a_server_whose_answers_can_neither_be_used_nor_tell_usage(tmp_path, value):
    with MockServer(lambda body, times: ("raw", value)) as server:
        with pytest.raises(StoppedError, match="the budget is spent"):
            asked(server, tmp_path, [f"q{i}" for i in range(60)], Budget(tokens=300))
        assert len(server.bodies) <= 3 * 300 // (
            2 + 8 + 20
        )  # each call is tried three times at most


def test_an_error_in_the_place_of_an_answer_is_billed_by_nobody(tmp_path):
    busy = {"error": {"message": "overloaded"}}
    with MockServer(lambda body, times: ("ok", busy)) as server:
        _, account = asked(server, tmp_path, ["q"], retries=1)
    assert (account["prompt_tokens"], account["estimated"], account["wasted"]) == (0, 0, 0)


def test_unusable_attempts_before_an_answer_are_charged_too(tmp_path):
    def second(body, times):
        bad = {"index": 0, "message": {"content": 7}}
        return "ok", answer(bad if times == 1 else chat("fine"))

    with MockServer(second) as server:
        (result,), account = asked(server, tmp_path, ["q"], retries=2)
        first = len(server.bodies)
        (again,), free = asked(server, tmp_path, ["q"], retries=2)
        assert len(server.bodies) == first
    assert isinstance(result, Completion)
    assert (result.text, again.text, again.wasted.tokens) == ("fine", "fine", 0)
    assert (account["prompt_tokens"], account["completion_tokens"]) == (10, 4)
    assert (free["reused"], free["prompt_tokens"]) == (1, 0)


def test_content_as_a_list_of_parts_is_its_text(tmp_path):
    parts = [{"type": "text", "text": "So "}, {"type": "text", "text": "it is."}]
    with MockServer(lambda body, times: ("ok", answer(chat(parts)))) as server:
        (result,), _ = asked(server, tmp_path, ["q"])
        assert len(server.bodies) == 1
    assert result.text == "So it is."


@pytest.mark.parametrize("value", ["inf", "1e3000", "nan", "-5", "soon"])
def test_a_wait_that_is_no_finite_number_is_none(value):
    assert serving._retry_after({"retry-after": value}) == 0.0


def test_short_header_values_are_masked_as_words(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "abc")
    told = json.dumps({"error": {"message": "key abc is wrong, abcd is not"}}).encode()
    with MockServer(lambda body, times: ("status", (400, {}, told))) as server:
        (result,), _ = asked(server, tmp_path, ["q"], headers_env={"X-Key": "TOKEN"})
    assert result.detail == "key *** is wrong, abcd is not"


# -- how much of a budget is spent -----


def told(prompt, completion):
    """A server whose calls use so many tokens."""
    use = {"prompt_tokens": prompt, "completion_tokens": completion}
    return lambda body, times: ("ok", answer(chat("fine"), **use))


def spent(folder, behave, budget, calls=60, width=1, max_tokens=20, **fields):
    """Calls made and dollars spent until a budget of dollars stops them, at 10 and 30 a million."""
    config = {"model": "m", "max_concurrency": width, "retries": 0, **fields}
    with (
        MockServer(behave) as server,
        Session(folder, budget=Budget(usd=budget), prices=priced(folder)) as session,
    ):
        engine = session.engine(Server(base_url=server.url, **config))
        asked = [[user(f"q{i}" + " and so on" * 20)] for i in range(calls)]
        try:
            engine.generate(asked, Sampling(max_tokens=max_tokens))
            stopped = False
        except StoppedError:
            stopped = True
        return session.accounts.total(), stopped, len(server.bodies)


def test_a_budget_is_spent_but_for_less_than_a_call(tmp_path):
    # a call may use 218 + 1000 tokens (.0322 dollars) and uses 40 + 10 (.0007)
    used, stopped, asked = spent(tmp_path, told(40, 10), 0.04, max_tokens=1000)
    assert stopped
    assert used.calls == asked == 57  # of .04 / .0007 = 57.1
    assert used.usd == pytest.approx(57 * 0.0007)


@pytest.mark.parametrize("width", [1, 8])
def test_runs_that_share_a_budget_spend_it_but_for_less_than_a_call(tmp_path, width, monkeypatch):
    monkeypatch.setattr(accounts, "LOOK_S", 0.02)
    prices, ends = priced(tmp_path), []

    def run(number, url):
        budget = Budget(usd=0.1, name="night")
        with Session(tmp_path / "journal", budget=budget, prices=prices, job=number) as session:
            engine = session.engine(Server(base_url=url, model="m", max_concurrency=width))
            asked = [[user(f"{number}{i}" + " and so on" * 20)] for i in range(200)]
            with pytest.raises(StoppedError, match="together with other runs"):
                engine.generate(asked, Sampling(max_tokens=1000))
            ends.append(session.accounts.total())

    with MockServer(told(40, 10)) as server:  # each .0007 dollars, of .0322 that it may cost
        runs = [threading.Thread(target=run, args=(job, server.url)) for job in "ab"]
        for one in runs:
            one.start()
        for one in runs:
            one.join()
    assert len(ends) == 2
    assert 0.1 - 0.0007 * 1.1 < sum(end.usd for end in ends) <= 0.1


@pytest.mark.parametrize("width", [1, 8])
def test_a_budget_is_passed_by_no_more_than_what_is_in_flight(tmp_path, width):
    seen = []

    def behave(body, times):  # 20 cheap calls, then each uses all that it may
        seen.append(1)
        return told(40, 10 if len(seen) <= 20 else 1000)(body, times)

    used, stopped, _ = spent(tmp_path, behave, 0.1, calls=400, width=width, max_tokens=1000)
    assert stopped
    assert used.usd < 0.1 + width * (218 * 10 + 1000 * 30) / 1e6


def test_nothing_is_asked_that_may_pass_the_budget_while_nothing_is_known(tmp_path):
    used, stopped, asked = spent(tmp_path, told(40, 10), 0.03, max_tokens=1000)
    assert (used.calls, stopped, asked) == (0, True, 0)


def test_a_server_that_tells_nothing_is_held_to_the_most(tmp_path):
    used, stopped, asked = spent(tmp_path, without_usage, 0.1, max_tokens=1000)
    assert (used.calls, stopped, asked) == (3, True, 3)  # of .0322 each, at most


def test_each_step_is_expected_to_cost_what_its_own_calls_do(tmp_path):
    from prefactory.engines.base import Purpose

    with (
        MockServer(told(40, 10)) as server,
        Session(tmp_path, budget=Budget(tokens=3000)) as session,
    ):
        engine = session.engine(Server(base_url=server.url, model="m", max_concurrency=1))
        cheap = engine.asked_for(Purpose("r", "cheap", "judge"))
        cheap.generate([[user(f"q{i}")] for i in range(20)], Sampling(max_tokens=1000))
        other = engine.asked_for(Purpose("r", "other", "judge"))
        with pytest.raises(StoppedError):  # 2000 are left, and nothing is known of this one
            other.generate([[user("x")]], Sampling(max_tokens=2000))
        assert [(u["step"], u["calls"]) for u in session.accounts.by_step()] == [
            ("cheap", 20),
            ("other", 0),
        ]

"""One budget for all processes that share it: it is passed by none of them, nor all together."""

import os
import signal
import time

import pytest

from prefactory.engines.accounts import Accounts, Budget, Price, budget_of
from prefactory.engines.base import Completion, Request, Sampling
from prefactory.engines.scripted import Scripted
from prefactory.engines.session import Session
from prefactory.errors import ConfigError, StoppedError, StoreError
from prefactory.sharing.spending import Spending, Spent, read
from tests.helpers import user

ASKED = Request([user("q")], Sampling(max_tokens=20))


def tokens(request):
    return "one two three"


SCRIPTED = Scripted(function=f"{__name__}.tokens")


def accounts(path, usd=1.0, lasting=True):
    prices = {"m": Price(0.0, 1e4)}  # a call of 20 tokens is .2 dollars at most
    return Accounts(prices, Budget(usd=usd), Spending(path, lasting))


def spend(some, tokens_=20):
    hold = some.admit("m", ASKED)
    if hold is None:
        return False
    some.settle(hold, Completion("x", "stop", 0, tokens_))
    return True


def leave(some):
    some.spending.close()


@pytest.mark.parametrize(("limit", "cost"), [(90.0, 0.03), (30.0, 0.01), (0.3, 0.0001)])
def test_a_budget_is_spent_to_the_last_call(limit, cost):
    """Sums of dollars are exact: 3,000 calls fit, and not one more."""
    some = Accounts({"m": Price(0.0, 1e6 * cost)}, Budget(usd=limit))
    request = Request([user("q")], Sampling(max_tokens=1))
    made = 0
    while (hold := some.admit("m", request)) is not None:
        some.settle(hold, Completion("x", "stop", 0, 1))
        made += 1
    assert made == 3000
    assert some.total().usd == limit


def test_what_one_spends_the_other_has_not(tmp_path):
    path = tmp_path / "b"
    one, other = accounts(path), accounts(path)
    assert [spend(one) for _ in range(3)] == [True] * 3
    assert [spend(other) for _ in range(3)] == [True, True, False]
    assert spend(one) is False
    with pytest.raises(StoppedError, match=r"1\.0000 of 1 US dollars, together with other runs"):
        other.wait_or_stop(7)
    leave(one)
    leave(other)
    third = accounts(path, usd=1.3)
    assert third.elsewhere() == Spent(100, 1.0)
    assert [spend(third) for _ in range(2)] == [True, False]
    leave(third)
    assert sum(s.tokens for s in read(path).values()) == 120
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_what_is_kept_back_elsewhere_counts_and_is_waited_for(tmp_path, monkeypatch):
    one, other = accounts(tmp_path / "b", 0.3), accounts(tmp_path / "b", 0.3)
    hold = one.admit("m", ASKED)
    assert spend(other) is False
    waited = []
    monkeypatch.setattr("prefactory.engines.accounts.time.sleep", waited.append)
    other.wait_or_stop(1)
    assert waited == [0.5]
    one.settle(hold, Completion("x", "stop", 0, 5))
    assert spend(other) is True
    leave(one)
    leave(other)


def test_what_a_killed_one_kept_back_is_spent(tmp_path):
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        theirs = accounts(tmp_path / "b")
        spend(theirs)
        theirs.admit("m", ASKED)
        os.write(tell, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(told, 1)
    mine = accounts(tmp_path / "b")
    assert mine.spending.at_work()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not mine.spending.at_work()
    assert mine.elsewhere().usd == pytest.approx(0.4)
    leave(mine)
    later = accounts(tmp_path / "b")
    assert later.elsewhere().usd == pytest.approx(0.4)
    leave(later)


def test_without_a_name_it_is_that_of_the_runs_at_work(tmp_path):
    path = tmp_path / ".recipe.runs"
    one, other = accounts(path, lasting=False), accounts(path, lasting=False)
    assert all(spend(one) for _ in range(3))
    leave(one)
    assert other.elsewhere().usd == pytest.approx(0.6)
    third = accounts(path, lasting=False)  # begins beside the other, and so with it
    assert third.elsewhere().usd == pytest.approx(0.6)
    leave(other)
    leave(third)
    assert list(tmp_path.iterdir()) == []
    assert accounts(path, lasting=False).elsewhere() == Spent()


def test_a_flipped_bit_is_found_at_every_place(tmp_path):
    path = tmp_path / "b"
    one = accounts(path)
    spend(one)
    leave(one)
    whole, before = path.read_bytes(), read(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if place == 8:  # what stands between the checksum and what it is of
            assert read(path) == before
            continue
        with pytest.raises(StoreError, match=r"is damaged .* name another budget"):
            accounts(path)


def test_sessions_share_a_budget_by_its_name(tmp_path):
    asked = [[user(f"q{i}")] for i in range(40)]
    used = 0
    for job in ("a", "b"):
        budget = Budget(tokens=100, name="night-{date}")
        with Session(tmp_path / "journal", budget=budget, job=job) as session:
            with pytest.raises(StoppedError, match=r"of 100 tokens"):
                session.engine(SCRIPTED).generate(asked, Sampling(max_tokens=20, seed=1))
            total = session.accounts.total()
            used += total.prompt_tokens + total.completion_tokens
    assert 75 < used <= 100
    (record,) = (tmp_path / "budgets").iterdir()
    assert record.name.startswith("night-20")
    with Session(tmp_path / "journal", budget=Budget(tokens=100), job="a") as session:
        session.engine(SCRIPTED).generate(asked[30:33], Sampling(max_tokens=20, seed=1))


def test_names_of_budgets():
    assert budget_of(None, 5, "night-{date}").name == "night-{date}"
    for name in ("../x", "", "a b", "{x}", ".hidden"):
        with pytest.raises(ConfigError, match="can't name a budget"):
            budget_of(1, None, name)

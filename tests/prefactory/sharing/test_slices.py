"""One budget for all machines, in a bucket: passed by none, nor by all together."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefactory.engines.accounts import Accounts, Budget, Price
from prefactory.engines.base import Completion, Request, Sampling
from prefactory.engines.scripted import Scripted
from prefactory.engines.session import Session
from prefactory.errors import StoppedError, StoreError
from prefactory.sharing import presence as presence_module
from prefactory.sharing import slices, turns
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.presence import Presence
from prefactory.sharing.slices import BucketSpending
from prefactory.sharing.spending import Spent
from tests.buckets import PROGRAMS, served_at_url
from tests.helpers import until, user

pytest.importorskip("obstore", reason="NO OBSTORE: pip install -e '.[s3]'")
ASKED = Request([user("q")], Sampling(max_tokens=20))
PRICES = {"m": Price(0.0, 1e4)}  # a call of 20 tokens is .2 dollars at most
KINDS = ["memory", *(pytest.param(k, marks=pytest.mark.slow) for k in sorted(PROGRAMS))]


def three(request):
    return "one two three"


SCRIPTED = Scripted(function=f"{__name__}.three")


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(presence_module, "TICK_S", 0.05)
    monkeypatch.setattr(turns, "BEAT_S", 0.2)
    monkeypatch.setattr("prefactory.engines.accounts.LOOK_S", 0.05)


@pytest.fixture
def memory():
    return Bucket("memory:///")


@pytest.fixture(params=KINDS)
def bucket(request, tmp_path):
    if request.param == "memory":
        yield Bucket("memory:///")
        return
    with served_at_url(request.param, tmp_path) as url:
        yield Bucket(url)


class Node:
    """A machine's accounts under a budget that all share."""

    def __init__(self, bucket, usd=1.0, lasting=True, tokens=None):
        self.presence = Presence(bucket)
        self.spending = BucketSpending(self.presence, "b.budget", lasting, (tokens, usd))
        self.accounts = Accounts(PRICES, Budget(usd=usd, tokens=tokens), self.spending)

    def begin(self, max_tokens=20):
        return self.accounts.admit("m", Request([user("q")], Sampling(max_tokens=max_tokens)))

    def spend(self, tokens=20):
        hold = self.begin()
        if hold is None:
            return False
        self.accounts.settle(hold, Completion("x", "stop", 0, tokens))
        return True

    def leave(self):
        self.spending.close()
        self.presence.close()

    def dies(self):
        """As a machine without power, or one that sleeps."""
        self.presence._over.set()
        self.presence._wake.set()
        for thread in self.presence._threads:
            thread.join()


def spent(bucket):
    return slices.everything(bucket)["b"]


def test_what_one_spends_the_other_has_not(memory):
    one, other = Node(memory), Node(memory)
    assert [one.spend() for _ in range(3)] == [True] * 3
    until(lambda: not other.spending.at_work())  # its slice is back
    assert [other.spend() for _ in range(3)] == [True, True, False]
    assert not one.spend()
    with pytest.raises(StoppedError, match=r"1\.0000 of 1 US dollars, together with other runs"):
        other.accounts.wait_or_stop(7)
    one.leave()
    other.leave()
    third = Node(memory, usd=1.3)
    assert third.accounts.elsewhere() == Spent(100, 1.0)
    assert [third.spend() for _ in range(2)] == [True, False]
    third.leave()
    assert spent(memory) == Spent(120, 1.2)
    assert list(memory.list("alive")) == []


@pytest.mark.parametrize("limit", [{"usd": 30.0}, {"usd": None, "tokens": 3000}])
def test_eight_machines_never_pass_it_and_leave_less_than_a_call(bucket, limit):
    """Each asks until there is no room; calls use what is kept back at most, each another part."""
    used = []

    def work(seed):
        draw, node = random.Random(seed), Node(bucket, **limit)
        while True:
            hold = node.begin()
            if hold is not None:
                tokens = min(draw.randint(1, 20), hold.tokens)
                used.append(tokens)
                time.sleep(0.001)
                node.accounts.settle(hold, Completion("x", "stop", 0, tokens))
                continue
            try:
                node.accounts.wait_or_stop(1)
            except StoppedError:
                node.leave()
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sum(used) <= 3000
    assert sum(used) > 3000 - 2 * 20 - 16  # a prompt's tokens are kept back, too
    assert spent(bucket).tokens == sum(used)
    assert spent(bucket).held_tokens == 0


def test_few_requests_for_many_calls(memory, monkeypatch):
    node = Node(memory, usd=400.0)
    count = []
    for name in ("create", "replace_if"):
        real = getattr(Bucket, name)

        def counted(self, *words, real=real):
            count.append(words[0])
            return real(self, *words)

        monkeypatch.setattr(Bucket, name, counted)
    calls = 0
    while node.spend():
        calls += 1
    node.leave()
    assert calls == 2000
    assert len(count) <= 32 * 8 + 40  # a slice is a 32nd of what is left


def test_of_a_dead_machine_counts_all_that_it_had(memory, monkeypatch):
    monkeypatch.setattr(turns, "STALE_S", 3.0)
    one, other = Node(memory, usd=100.0), Node(memory, usd=100.0)
    assert one.spend()
    assert one.begin()  # in flight when it dies

    def told():
        return slices.read(memory, "budgets/b.budget")[0][one.presence.owner]

    until(lambda: told().spent.usd and told().spent.held_usd)
    one.dies()
    had = told().whole.ended().usd
    assert had > 0.4
    assert other.spending.at_work()
    until(lambda: not other.spending.at_work())
    made = 0
    while other.spend():
        made += 1
    assert made == (100.0 - had) // 0.2  # it may have spent its slice and told nobody
    other.leave()
    assert 99.8 < spent(memory).ended().usd <= 100.0


@pytest.mark.parametrize("lasting", [True, False])
def test_who_was_only_slow_passes_it_no_more_than_others(memory, monkeypatch, lasting):
    """It was taken for gone, others spent all that was left or began anew, and it goes on."""
    monkeypatch.setattr(turns, "STALE_S", 3.0)
    one, other = (Node(memory, usd=100.0, lasting=lasting) for _ in range(2))
    assert one.spend()
    one.dies()
    until(lambda: not other.spending.at_work())
    made = [one]
    if not lasting:  # what was spent before counts for nobody but those who are at work
        other.leave()
        other = Node(memory, usd=100.0, lasting=False)
    while other.spend():
        made.append(other)
    while one.spend():
        made.append(one)
    assert len(made) * 0.2 == pytest.approx(100.0 if lasting else 100.2)
    if lasting:
        assert made[1:].count(one) > 0  # its slice was nobody else's
        other.leave()
        assert spent(memory).ended().usd == pytest.approx(100.0)


def test_without_a_name_it_is_that_of_the_runs_at_work(memory):
    one, other = Node(memory, lasting=False), Node(memory, lasting=False)
    assert [one.spend() for _ in range(5)] == [True] * 5
    one.leave()
    assert not other.spend()
    other.leave()
    third = Node(memory, lasting=False)
    assert third.spend()
    third.leave()
    assert slices.read(memory, "budgets/b.budget")[0] == {}


def test_a_damaged_record_is_said(memory):
    Node(memory).leave()
    memory.upload(b'{"": 1}', "budgets/b.budget")
    with pytest.raises(StoreError, match=r"budgets/b\.budget is damaged .* Delete it"):
        Node(memory)


def test_it_is_dropped_when_nobody_spends_it(memory):
    node = Node(memory)
    node.spend()
    with pytest.raises(StoreError, match="a run is using"):
        slices.drop(memory, "b")
    node.leave()
    with pytest.raises(StoreError, match="no budget 'c' in memory:///"):
        slices.drop(memory, "c")
    slices.drop(memory, "b")
    assert slices.everything(memory) == {}


@pytest.mark.parametrize("name", [None, "night-{date}"])
def test_a_run_stops_where_all_together_reach_it(tmp_path, memory, name):
    """Of two homes with one bucket: by the recipe, or by the budget's name."""
    budget = Budget(tokens=100, name=name)
    asked = [[user(f"q{i}")] for i in range(30)]  # 4 tokens each; 12 at most

    def run(home):
        with Session(tmp_path / str(home), None, budget, "recipe", memory) as session:
            try:
                session.engine(SCRIPTED).generate(asked[home * 15 :][:15], Sampling(max_tokens=3))
            except StoppedError as error:
                return session.accounts.total(), str(error)
            return session.accounts.total(), ""

    with Session(tmp_path / "idle", None, budget, "recipe", memory):  # keeps the record
        first, second = run(0), run(1)
    used = [u.prompt_tokens + u.completion_tokens for u, _ in (first, second)]
    assert first[1] == ""
    assert "together with other runs" in second[1]
    assert used[1] > 0
    assert 80 < sum(used) <= 100

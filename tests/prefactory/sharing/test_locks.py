"""Locks: with `flock`, and by files where the file system has none."""

import errno
import os
import signal
import threading
import time

import pytest

from prefactory.errors import StoreError
from prefactory.sharing import locks
from prefactory.sharing.locks import held, locked
from tests.helpers import until


@pytest.fixture
def no_locks(monkeypatch):
    """A file system on which `flock` says that there are no locks."""

    def refuses(handle, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuses)
    locks._say_no_locks.cache_clear()


@pytest.fixture(params=["flock", "files"])
def either(request):
    if request.param == "files":
        request.getfixturevalue("no_locks")


def child(work):
    """A forked process that does something and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_a_file_system_without_locks_is_said_once_and_used(tmp_path, no_locks, caplog):
    for shared in (False, True):
        with locked(tmp_path / "lock", shared=shared):
            assert (tmp_path / "lock.holders").exists()
    assert list(tmp_path.iterdir()) == []
    assert caplog.text.count("has no locks") == 1


def test_processes_count_together(tmp_path, either):
    """Three processes of two threads read a number and write the next: none is lost."""
    number = tmp_path / "number"
    number.write_text("0")

    def count():
        for _ in range(10):
            with locked(tmp_path / "lock"):
                number.write_text(str(int(number.read_text()) + 1))

    def both():
        threads = [threading.Thread(target=count) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for pid in [child(both) for _ in range(3)]:
        assert os.waitpid(pid, 0)[1] == 0
    assert number.read_text() == "60"
    assert [p.name for p in tmp_path.iterdir()] == ["number"]


def test_shared_with_those_who_share(tmp_path, either):
    def refuse():
        raise StoreError("in use")

    path = tmp_path / "lock"
    with locked(path, shared=True), locked(path, shared=True):
        with pytest.raises(StoreError), locked(path, busy=refuse):
            raise AssertionError
        with locked(path, shared=True, busy=refuse):
            pass
    with locked(path, busy=refuse):
        assert held(path)
        with pytest.raises(StoreError), locked(path, shared=True, busy=refuse):
            raise AssertionError
    assert not held(path)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path, either):
    path, (told, tell) = tmp_path / "lock", os.pipe()

    def hold():
        with locked(path):
            os.write(tell, b"x")
            time.sleep(60)

    pid = child(hold)
    os.read(told, 1)
    assert held(path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not held(path)
    with locked(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_holder_on_another_machine_lives_while_it_touches_its_file(
    tmp_path, no_locks, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    path = tmp_path / "lock"
    elsewhere = tmp_path / "lock.holders" / "x-0123abcd-1-ffff"
    elsewhere.parent.mkdir()
    elsewhere.touch()
    for beat in range(5):
        os.utime(elsewhere, (beat, beat))  # by a clock of its own
        assert held(path)
        now[0] += locks.SILENT_S - 1
    assert held(path)
    now[0] += 2
    assert not held(path)
    assert not elsewhere.exists()


def test_a_lock_is_touched_while_it_is_held(tmp_path, no_locks, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.01)
    locks._beats_of.cache_clear()
    with locked(tmp_path / "lock"):
        (mine,) = (tmp_path / "lock.holders").iterdir()
        os.utime(mine, (1, 1))
        until(lambda: mine.stat().st_mtime != 1)
    locks._beats_of.cache_clear()


def test_a_forked_child_of_a_lock_s_holder_keeps_nobody_waiting(tmp_path):
    """A fork has the holder's handle; its lock would last as long as the child."""
    path, waits, got = tmp_path / "lock", threading.Event(), threading.Event()

    def second():
        with locked(path, busy=waits.set):
            got.set()

    ends, begins = os.pipe()
    waiter = threading.Thread(target=second, daemon=True)
    with locked(path):
        child = os.fork()
        if child == 0:
            os.read(ends, 1)  # until the test says so
            os._exit(0)
        waiter.start()
        assert waits.wait(200)
    try:
        assert got.wait(200)
    finally:
        os.write(begins, b"x")
        os.waitpid(child, 0)
        waiter.join(200)
        os.close(ends)
        os.close(begins)

import os
import subprocess
import sys

import pytest

from prefactory.errors import StoreError
from prefactory.store import Store
from tests.helpers import PAIRS, ROOT, digest, everything, one_file, recipe, run, until


def made(result):
    return sum(s.made for s in result.stages)


def reused(result):
    return sum(s.reused for s in result.stages)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of everything, in one shard."""
    return everything(tmp_path_factory.mktemp("whole"))


class Crash(BaseException):
    """The power went."""


class Brittle(Store):
    """A store that crashes at its k-th write, before it or after."""

    def __init__(self, root, k, after):
        super().__init__(root)
        self.left, self.after = k, 0 if after else 1

    def _commit(self, key, writer):
        self.left -= 1
        if self.left < self.after:  # once down, it stays down for every thread
            raise Crash
        super()._commit(key, writer)
        if self.left <= 0:
            raise Crash


def small(store):
    """Two shards, and every kind of write."""
    steps = ["tests.steps.Length", "tests.steps.Above", "tests.steps.Shout"]
    return run(recipe(*steps), one_file(PAIRS.head(4)), store, 2)


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_crash_at_any_write_is_resumed(tmp_path, after):
    clean = small(tmp_path / "clean")
    total = made(clean)
    assert total == 3 + 2 + (2 + 1 + 2) + (2 + 1)  # the last cut is into one shard
    for k in range(1, total + 1):
        root = tmp_path / str(k)
        with pytest.raises(Crash):
            small(Brittle(root, k, after))
        until(lambda folder=root / "tmp": not any(folder.iterdir()))  # nobody waited for it
        again = small(root)
        assert digest(again) == digest(clean)
        assert made(again) == total - k + (not after)


def test_a_kill_in_the_middle_of_a_write_is_resumed(tmp_path, whole):
    code = (
        "import os\nfrom tests.helpers import *\nn = [0]\ncommit = Store._commit\n"
        "def die(self, key, writer):\n"
        "    n[0] += 1\n"
        "    os._exit(9) if n[0] == 20 else commit(self, key, writer)\n"
        f"Store._commit = die\neverything({str(tmp_path)!r}, 3)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 9
    assert list((tmp_path / "tmp").iterdir())
    again = everything(tmp_path, 3)
    assert digest(again) == digest(whole)
    assert reused(again) >= 19


def test_a_full_disk_stops_the_run_and_it_goes_on(tmp_path, monkeypatch, whole):
    fsync, calls = os.fsync, []

    def fills_up(fd):
        calls.append(fd)
        if len(calls) > 50:
            raise OSError(28, "No space left on device")
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills_up)
        with pytest.raises(StoreError, match="is full; nothing finished is lost"):
            everything(tmp_path, 3, workers=4)
    assert list((tmp_path / "tmp").iterdir()) == []
    again = everything(tmp_path, 3)
    assert reused(again) > 0
    assert digest(again) == digest(whole)

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefactory import folders
from prefactory.errors import (
    CatalogError,
    ConfigError,
    DiskFullError,
    StoreError,
    library_errors,
)
from prefactory.folders import (
    CHECKSUMS,
    STALE_S,
    damaged,
    new_file,
    new_folder,
    settle,
    sweep,
    temporary_folder,
)
from tests.helpers import ROOT


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_a_folder_is_made_all_or_nothing(tmp_path):
    target = tmp_path / "sub" / "model"
    with pytest.raises(KeyError), new_folder(target, ConfigError) as folder:  # noqa: PT012
        (folder / "half").write_text("")
        raise KeyError
    assert names(tmp_path) == ["sub"]
    with new_folder(target, ConfigError) as folder:
        (folder / "whole").write_text("")
        assert not target.exists()
    assert names(target.parent) == ["model", f"model/{CHECKSUMS}", "model/whole"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ConfigError, CatalogError])
def test_a_folder_with_something_in_it_is_not_replaced_and_an_empty_one_is(tmp_path, error):
    target = tmp_path / "out"
    target.mkdir()
    with new_folder(target, error) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(error, match="exists already"), new_folder(target, error):
        pass
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(error, match="exists already"), new_folder(file, error):
        pass
    with pytest.raises(error, match="can't be made"), new_folder(file / "x", error):
        pass
    assert names(tmp_path) == ["file", "out", "out/a", f"out/{CHECKSUMS}"]
    assert file.read_text() == "mine"


def test_a_folder_that_was_filled_meanwhile_is_left_as_it_is(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(OSError, match=r"."), new_folder(target, ConfigError):  # noqa: PT012
        target.mkdir()
        (target / "theirs").write_text("x")
    assert names(tmp_path) == ["out", "out/theirs"]


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "sub" / "f"
    with new_file(path) as file:
        file.write(b"one")
    with pytest.raises(KeyError), new_file(path) as file:  # noqa: PT012
        file.write(b"tw")
        raise KeyError
    assert path.read_bytes() == b"one"
    with new_file(path) as file:
        file.write(b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["sub", "sub/f"]


@pytest.fixture
def calls(monkeypatch):
    """Paths in the order in which they were synced, and renames."""
    seen = []
    fsync, rename = os.fsync, os.rename

    def synced(handle):
        seen.append(
            re.sub(r"-[0-9a-f]{8}-\d+-\w+", "", str(Path(f"/proc/self/fd/{handle}").readlink()))
        )
        fsync(handle)

    def renamed(a, b, **options):
        seen.append("rename")
        rename(a, b, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "replace", renamed)
    return seen


def test_everything_is_durable_before_it_has_its_name_and_the_name_after(tmp_path, calls):
    with new_folder(tmp_path / "out", ConfigError, checksums=False) as folder:
        (folder / "d").mkdir()
        (folder / "d" / "f").write_text("x")
        (folder / "g").write_text("y")
        calls.clear()
    top = f"{tmp_path}/.out"
    assert set(calls[:4]) == {top, f"{top}/d", f"{top}/d/f", f"{top}/g"}
    assert calls[4:] == ["rename", str(tmp_path)]
    calls.clear()
    with new_file(tmp_path / "f") as file:
        file.write(b"z")
    assert calls == [f"{tmp_path}/.f", "rename", str(tmp_path)]


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_disk_that_refuses_leaves_no_name(tmp_path, monkeypatch, fails_at):
    fsync, count = os.fsync, [0]

    def refuses(handle):
        count[0] += 1
        if count[0] > fails_at:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(OSError, match="No space"), new_folder(tmp_path / "out", ConfigError) as f:  # noqa: PT012
        (f / "a").write_text("x")
        (f / "b").write_text("x")
    assert names(tmp_path) == []


KILLED = """
import os, pathlib
from prefactory.errors import ConfigError
from prefactory.folders import new_folder
with new_folder(pathlib.Path({target!r}), ConfigError) as folder:
    (folder / "half").write_text("")
    os._exit(9)
"""


def test_what_a_killed_process_left_goes_with_the_next_folder_beside_it(tmp_path):
    code = KILLED.format(target=str(tmp_path / "first"))
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".first-")
    with temporary_folder(tmp_path, ".alive") as alive:
        with new_folder(tmp_path / "second", ConfigError) as folder:
            (folder / "whole").write_text("")
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, "second"])


def test_a_sweep_takes_only_what_is_certainly_left_behind(tmp_path):
    dead = subprocess.run([sys.executable, "-c", ""], check=False)
    assert dead.returncode == 0
    with temporary_folder(tmp_path, "mine") as mine:
        elsewhere = mine.name.replace(mine.name.split("-")[1], "0123abcd")
        (tmp_path / elsewhere).mkdir()  # of another machine: its processes can't be asked
        (tmp_path / "user-folder").mkdir()
        (tmp_path / f".young-0123abcd-1-{'x' * 8}").write_text("")
        old = tmp_path / f".old-0123abcd-1-{'x' * 8}"
        old.write_text("")
        os.utime(old, (1, 1))
        assert STALE_S >= 3600
        assert sweep(tmp_path) == 1
        assert not old.exists()
        assert len(list(tmp_path.iterdir())) == 4
    assert sweep(tmp_path / "absent") == 0


def test_a_folder_on_a_full_disk_has_its_exit_code(tmp_path, monkeypatch):
    def full(prefix, dir):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folders.tempfile, "mkdtemp", full)
    with (
        pytest.raises(DiskFullError, match="is full") as told,
        new_folder(tmp_path / "m", ConfigError),
    ):
        pass
    assert told.value.exit_code == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 3),
        (OSError(errno.EROFS, "Read-only file system"), 2),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 3),
        (ValueError("another mistake"), None),
    ],
)
def test_errors_of_the_disk_are_told_from_a_librarys_own(tmp_path, error, code):
    kind = type(error) if code is None else StoreError
    with pytest.raises(kind) as told, library_errors(tmp_path):
        raise error
    assert getattr(told.value, "exit_code", None) == code


def test_settling_into_a_full_folder_keeps_both(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    with pytest.raises(OSError, match=r"."):
        settle(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "f").read_text() == "old"
    assert (tmp_path / "new" / "f").read_text() == "new"


def test_each_damage_of_a_made_folder_is_named(tmp_path):
    with new_folder(tmp_path / "model", ConfigError) as folder:
        (folder / "sub").mkdir()
        (folder / "weights").write_bytes(bytes(range(50)))
        (folder / "sub" / "config.json").write_text("{}")
    listing = tmp_path / "model" / CHECKSUMS
    assert damaged(listing) == []
    assert damaged(tmp_path / "elsewhere" / CHECKSUMS) == []
    damages = [("weights", bytes(range(1, 51))), ("weights", b""), ("sub/config.json", b"{ ")]
    for name, bad in damages:
        path = tmp_path / "model" / name
        whole = path.read_bytes()
        path.write_bytes(bad)
        assert damaged(listing) == [name]
        path.unlink()
        assert damaged(listing) == [name]
        path.write_bytes(whole)
    whole = listing.read_bytes()
    for place in range(0, len(whole), 3):
        listing.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        assert damaged(listing) or json.loads(listing.read_text()) == json.loads(whole)

import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from prefactory.errors import StoreError
from prefactory.store import Store, file_digest
from tests.helpers import ROOT

KEY = "ab" + "0" * 30
OTHER = "cd" + "0" * 30
TABLE = pl.DataFrame({"id": ["a", "b", "é🙂"], "x": [1.0, None, -0.0]})


def put(store, key=KEY, table=TABLE, **info):
    with store.write(key) as writer:
        writer.table("rows", table)
        writer.info |= info


def files(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_what_is_written_is_read(tmp_path):
    put(Store(tmp_path), n=3, names=["x"])
    store = Store(tmp_path)
    record = store.open(KEY)
    assert record.info == {"n": 3, "names": ["x"]}
    assert record.files["rows.arrow"]["rows"] == 3
    assert store.read(KEY, "rows").equals(TABLE)
    assert store.read(KEY, "rows", ["x"]).equals(TABLE.select("x"))
    assert files(tmp_path) == [f"objects/ab/{KEY}/record.json", f"objects/ab/{KEY}/rows.arrow"]


def test_an_object_may_have_no_rows_or_no_tables(tmp_path):
    put(Store(tmp_path), table=TABLE.clear())
    with Store(tmp_path).write(OTHER) as writer:
        writer.info["only"] = "facts"
    store = Store(tmp_path)
    assert store.read(KEY, "rows").schema == TABLE.schema
    assert store.open(OTHER).files == {}


def test_absent_objects(tmp_path):
    store = Store(tmp_path / "never" / "made")
    assert store.open(KEY) is None
    with pytest.raises(StoreError, match=r"can't be read .*; run again to rebuild it"):
        store.read(KEY, "rows")
    assert not (tmp_path / "never").exists()


def test_an_unknown_column_is_an_error(tmp_path):
    store = Store(tmp_path)
    put(store)
    with pytest.raises(StoreError, match="can't be read"):
        store.read(KEY, "rows", ["nope"])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(tmp_path, error):
    store = Store(tmp_path)

    def stop():
        with store.write(KEY) as writer:
            writer.table("rows", TABLE)
            raise error("stop")

    with pytest.raises(error):
        stop()
    assert store.open(KEY) is None
    assert files(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_oserror_of_the_block_is_not_blamed_on_the_store(tmp_path):
    with pytest.raises(FileNotFoundError, match="the source is gone"), Store(tmp_path).write(KEY):
        raise FileNotFoundError("the source is gone")
    assert files(tmp_path) == []


def truncate(folder):
    path = folder / "rows.arrow"
    path.write_bytes(path.read_bytes()[:-1])


def edit(folder):
    path = folder / "rows.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def drop_table(folder):
    (folder / "rows.arrow").unlink()


def drop_record(folder):
    (folder / "record.json").unlink()


def empty_record(folder):
    (folder / "record.json").write_text("")


def strange_record(folder):
    (folder / "record.json").write_text('{"files": {}}')


@pytest.mark.parametrize(
    "damage", [truncate, edit, drop_table, drop_record, empty_record, strange_record]
)
def test_a_damaged_object_is_absent_and_written_again(tmp_path, damage):
    put(Store(tmp_path), n=1)
    damage(tmp_path / "objects" / "ab" / KEY)
    store = Store(tmp_path)
    assert store.open(KEY) is None
    put(store, n=2)
    assert Store(tmp_path).open(KEY).info == {"n": 2}
    assert Store(tmp_path).read(KEY, "rows").equals(TABLE)


def test_the_first_of_two_writers_wins_and_both_succeed(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    with first.write(KEY) as one, second.write(KEY) as two:
        one.table("rows", TABLE)
        one.info["by"] = "one"
        two.table("rows", TABLE.head(1))
        two.info["by"] = "two"
    for store in (first, second, Store(tmp_path)):
        assert store.open(KEY).info == {"by": "two"}  # the inner block ends first
        assert store.read(KEY, "rows").height == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_many_threads_write_one_key(tmp_path):
    store = Store(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: put(store, n=1), range(32)))
    assert Store(tmp_path).read(KEY, "rows").equals(TABLE)
    assert len(files(tmp_path)) == 2


WRITER = """
import sys
from pathlib import Path
import polars as pl
from prefactory.store import Store
store = Store(Path(sys.argv[1]))
for i in range(20):
    key = f"{i:032x}"
    with store.write(key) as writer:
        writer.table("rows", pl.DataFrame({"i": [i] * 1000}))
    assert store.open(key).files["rows.arrow"]["rows"] == 1000
"""


def test_two_processes_write_the_same_keys(tmp_path):
    args = [sys.executable, "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen(args, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    assert [p.communicate(timeout=200)[1] for p in running] == [b"", b""]
    assert [p.returncode for p in running] == [0, 0]
    store = Store(tmp_path)
    for i in range(20):
        assert store.open(f"{i:032x}") is not None
        assert store.read(f"{i:032x}", "rows")["i"].to_list() == [i] * 1000
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_a_killed_process_leaves_in_tmp_harms_nobody(tmp_path):
    code = (
        "import os, sys, pathlib, polars as pl; from prefactory.store import Store\n"
        "with Store(pathlib.Path(sys.argv[1])).write('ab' + '0' * 30) as writer:\n"
        "    writer.table('rows', pl.DataFrame({'x': [1]})); os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == 9
    store = Store(tmp_path)
    assert store.open(KEY) is None
    put(store)
    assert store.read(KEY, "rows").equals(TABLE)


# -- a full disk -----


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename"])
def test_a_full_disk_at_any_call(tmp_path, monkeypatch, call):
    store = Store(tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StoreError, match=r"is full; nothing finished is lost") as error:
            put(store)
    assert error.value.exit_code == 3
    assert "run the same command again" in str(error.value)
    assert files(tmp_path) == []
    put(store)
    assert Store(tmp_path).read(KEY, "rows").equals(TABLE)


def test_a_store_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"can't be written: .*Not a directory"):
        put(Store(tmp_path / "file"))


FULL_DISK = """
import sys
from pathlib import Path
import polars as pl
from prefactory.errors import StoreError
from prefactory.store import Store

root = Path(sys.argv[1])
ballast = root / "ballast"
ballast.write_bytes(b"x" * 700_000)
store = Store(root / "store")
small, large = pl.DataFrame({"x": [1]}), pl.DataFrame({"x": ["y" * 100_000] * 5})

def put(key, table):
    with store.write(key) as writer:
        writer.table("rows", table)

put("a" * 32, small)
for table in (large, pl.DataFrame({"x": range(60_000)})):
    try:
        put("b" * 32, table)
        sys.exit("the disk was not full")
    except StoreError as error:
        assert error.exit_code == 3 and "is full" in str(error), str(error)
    assert list((root / "store" / "tmp").iterdir()) == []
    assert store.open("b" * 32) is None
ballast.unlink()
put("b" * 32, large)
again = Store(root / "store")
assert again.read("a" * 32, "rows").equals(small) and again.read("b" * 32, "rows").equals(large)
print("resumed")
"""


def test_a_really_full_disk(tmp_path):
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if not unshare or subprocess.run([unshare, "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    command = f'{mount} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", command, sys.executable, FULL_DISK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "resumed\n"), done.stderr


def test_file_digests_are_of_the_bytes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_digest(path) == "cf4ab791c62b8d2b2109c90275287816"
    assert file_digest(path, "sha256").startswith("ba7816bf8f01cfea")

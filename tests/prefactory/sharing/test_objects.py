"""A store in a bucket: on moto and on SeaweedFS over loopback, and in memory for what is quick."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from prefactory.errors import ConfigError, StoreError
from prefactory.sharing import turns
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.objects import BucketStore
from tests.buckets import PROGRAMS, served_at_url

pytest.importorskip("obstore", reason="NO OBSTORE: pip install -e '.[s3]'")
KEY = "ab" * 16
TABLE = pl.DataFrame({"row_id": ["a", "b"], "text": ["x", "y" * 5000]})


@pytest.fixture(scope="module", params=sorted(PROGRAMS))
def bucket_url(request, tmp_path_factory):
    """A real server over loopback, with an empty bucket."""
    with served_at_url(request.param, tmp_path_factory.mktemp(request.param)) as url:
        yield url


@pytest.fixture
def nodes(bucket_url, tmp_path):
    """Two machines with a disk of their own each."""
    url = f"{bucket_url}/{tmp_path.name}"
    return [BucketStore(tmp_path / name, bucket=Bucket(url)) for name in ("one", "two")]


def write(store, key=KEY, table=TABLE, **info):
    with store.write(key) as writer:
        writer.table("rows", table)
        writer.info.update(info)


def test_an_object_of_one_machine_is_read_on_the_other(nodes):
    one, two = nodes
    assert two.open(KEY) is None
    write(one, reasons={"z": 1, "a": 2})
    record = two.open(KEY)
    assert record == one.open(KEY)
    assert not (two.root / "objects").exists()  # nothing is brought before it is read
    assert two.read(KEY, "rows").equals(TABLE)
    assert two.read(KEY, "rows", ["text"]).columns == ["text"]
    fresh = BucketStore(two.root, bucket=two.bucket)
    assert fresh.open(KEY) == record
    assert [r.key for r in fresh.records()] == [KEY]


def test_the_first_of_two_makers_counts_for_all(nodes):
    one, two = nodes
    write(one)
    write(two, table=TABLE.reverse(), by="two")
    assert two.open(KEY).info == {}
    assert two.read(KEY, "rows").equals(TABLE)
    assert len(list(one.bucket.list("parts/"))) == 1  # what the second one put is gone


def test_many_makers_at_once_have_one_winner(nodes, tmp_path):
    url = nodes[0].bucket.url
    stores = [BucketStore(tmp_path / f"m{i}", bucket=Bucket(url)) for i in range(8)]

    def make(i):
        write(stores[i], table=TABLE.with_columns(by=pl.lit(i)), by=i)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(8)))
    winners = {s.open(KEY).info["by"] for s in stores}
    assert len(winners) == 1
    assert {s.read(KEY, "rows")["by"][0] for s in stores} == winners


def test_a_maker_that_dies_before_its_record_leaves_nothing(nodes, monkeypatch):
    one, two = nodes
    create = Bucket.create
    monkeypatch.setattr(
        Bucket, "create",
        lambda self, key, data: 1 / 0 if key.endswith("record.json") else create(self, key, data),
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        write(one)
    monkeypatch.undo()
    assert one.open(KEY) is None
    assert two.open(KEY) is None
    write(two)
    assert one.read(KEY, "rows").equals(TABLE)


def test_what_was_made_before_the_bucket_goes_into_it(nodes):
    one, two = nodes
    from prefactory.store import Store

    write(Store(one.root))
    assert one.open(KEY) is not None
    assert two.read(KEY, "rows").equals(TABLE)


@pytest.mark.parametrize("damage", ["cut", "edited", "gone"])
def test_damaged_copies_are_brought_again(nodes, damage):
    one, two = nodes
    write(one)
    two.open(KEY)
    assert two.read(KEY, "rows").equals(TABLE)
    path = two.root / "objects" / KEY[:2] / KEY / "rows.arrow"
    whole = path.read_bytes()
    if damage == "gone":
        shutil.rmtree(path.parent)
    else:
        path.write_bytes(whole[:-9] if damage == "cut" else whole[:-9] + b"x" + whole[-8:])
    fresh = BucketStore(two.root, bucket=two.bucket)
    assert fresh.open(KEY) is not None
    assert fresh.read(KEY, "rows").equals(TABLE)


def test_damaged_parts_of_the_bucket_are_named(nodes):
    one, two = nodes
    write(one)
    (part,) = one.bucket.list("parts/")
    key = part[part.index("parts/") :]
    data, tag = one.bucket.read(key)
    assert one.bucket.replace_if(key, data[:-9] + b"x" + data[-8:], tag)
    two.open(KEY)
    with pytest.raises(StoreError, match=r"rows\.arrow of object .* is damaged; delete objects/"):
        two.read(KEY, "rows")
    one.bucket.delete(key)
    with pytest.raises(StoreError, match="is missing"):
        two.read(KEY, "rows")


def test_a_claim_waits_for_its_holder_and_for_no_dead_one(nodes, monkeypatch):
    one, two = nodes
    monkeypatch.setattr(turns, "BEAT_S", 0.2)
    monkeypatch.setattr(turns, "STALE_S", 3.0)
    order = []

    def second():
        with two.claim(KEY):
            order.append("second")

    with one.claim(KEY):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(5)  # longer than a silent claim lives: this one beats
        order.append("first")
    waiting.join(200)
    assert order == ["first", "second"]
    assert one.bucket.create(f"claims/{KEY}", b"of a machine that is gone")
    with two.claim(KEY):
        order.append("taken over")
    assert order[-1] == "taken over"
    assert not two.bucket.exists(f"claims/{KEY}")


def test_a_claim_ends_when_the_object_is_there(nodes):
    one, two = nodes
    assert one.bucket.create(f"claims/{KEY}", b"of a slow machine")
    write(one)
    with two.claim(KEY):
        assert two.open(KEY) is not None


def test_marks_are_seen_by_all(nodes):
    one, two = nodes
    write(one)
    assert not two.outdated(KEY)
    one.outdate(KEY)
    assert two.outdated(KEY)


def test_no_bucket_there_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="give one like s3://bucket/prefix"):
        Bucket("ftp://nowhere")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_MAX_RETRIES", "0")
    store = BucketStore(tmp_path, bucket=Bucket("s3://prefactory"))
    with pytest.raises(StoreError) as error:
        store.open(KEY)
    assert "s3cret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_pictures_come_along(nodes):
    one, two = nodes
    with one.write(KEY) as writer:
        name = writer.put(b"a picture, or so")
        writer.table("rows", TABLE)
    two.open(KEY)
    two.read(KEY, "rows")
    assert two.images.get(name) == b"a picture, or so"
    assert list((two.root / "images").iterdir())

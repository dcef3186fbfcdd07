import json

import pytest

from prefactory.errors import StoreError
from prefactory.images.files import ImageFiles
from prefactory.images.marks import bind, name_of
from prefactory.store import Store
from prefactory.testing import pairs
from tests.prefactory.images.drawn import pictured, square

KEY = "ab" + "0" * 30
RED, BLUE = square("red"), square("blue")
TABLE = pictured(
    pairs(("a?", "x", "y"), ("b?", "x", "y"), ("c?", "x", "y")), [RED], [RED, BLUE], []
)


def put(store):
    with store.write(KEY) as writer:
        writer.table("rows", bind(TABLE, writer))


def test_a_picture_is_stored_once_by_its_content(tmp_path):
    store = Store(tmp_path)
    put(store)
    files = sorted(p for p in (tmp_path / "images").rglob("*") if p.is_file())
    assert sorted(p.read_bytes() for p in files) == sorted([RED, BLUE])
    record = json.loads((tmp_path / "objects/ab" / KEY / "record.json").read_text())
    assert record["images"] == {name_of(RED): len(RED), name_of(BLUE): len(BLUE)}
    assert (tmp_path / "objects/ab" / KEY / "rows.arrow").read_bytes().find(RED) == -1
    assert store.images.get(name_of(BLUE)) == BLUE


@pytest.mark.parametrize("harm", ["remove", "change"])
def test_an_object_whose_picture_is_lost_or_damaged_is_made_again(tmp_path, harm):
    put(Store(tmp_path))
    file = tmp_path / "images" / name_of(RED)[:2] / name_of(RED)
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(b"x" * len(RED))
    fresh = Store(tmp_path)
    assert fresh.open(KEY) is None
    with pytest.raises(StoreError, match=r"picture|damaged"):
        fresh.images.get(name_of(RED))
    put(fresh)
    assert Store(tmp_path).open(KEY) is not None
    assert fresh.images.get(name_of(RED)) == RED


def test_no_name_leads_out_of_the_folder(tmp_path):
    with pytest.raises(StoreError, match="no name of a picture"):
        ImageFiles(tmp_path).get("../" + "a" * 29)

import json
import sys
from itertools import pairwise

import polars as pl
import pyarrow as pa
import pytest
from datasets import Features, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import arrow_folder
from catalog.arrow_folder import (
    SplitWriter,
    Table,
    arrow_schema,
    arrow_type,
    features_of,
    write_dict,
)
from prefactory.errors import CatalogError
from prefactory.tables import MESSAGES, Shape
from tests.helpers import many_pairs

TABLE = many_pairs(50)


def write(folder, pieces, split="train"):
    writer = SplitWriter(folder / split, split, arrow_schema(TABLE))
    for piece in pieces:
        writer.write(piece)
    info = writer.close()
    write_dict(folder, [split])
    return info


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted((folder / "train").iterdir())}


@pytest.fixture
def tiny_files(monkeypatch):
    monkeypatch.setattr(arrow_folder, "BATCH_ROWS", 7)
    monkeypatch.setattr(arrow_folder, "FILE_ROWS", 21)


DAMAGED = {
    "dataset_dict.json": b'{"splits" ["train"]}',
    "train/state.json": b"{",
    "train/data-00000-of-00001.arrow": b"\xff\xff\xff\xff\x00",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_sentence(tmp_path, name):
    write(tmp_path, [TABLE])
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(CatalogError, match="is damaged"):
        Table(tmp_path, Shape.PAIRS).rows("train")
    if not name.endswith("state.json"):
        with pytest.raises(CatalogError, match="is damaged"):
            list(Table(tmp_path, Shape.PAIRS).batches())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (pl.String(), pa.string()),
        (pl.Float64(), pa.float64()),
        (pl.Boolean(), pa.bool_()),
        (pl.List(pl.String()), pa.list_(pa.string())),
        (MESSAGES, pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        (pl.Date(), pa.date32()),
    ],
)
def test_types_are_the_plain_ones(dtype, expected):
    assert arrow_type(dtype) == expected


SPOKEN = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@pytest.mark.parametrize(
    ("kind", "imports"),
    [
        (pa.string(), False),
        (pa.int64(), False),
        (pa.list_(pa.bool_()), False),
        (SPOKEN, False),
        (pa.struct([("a", pa.float64()), ("b", SPOKEN)]), False),
        (pa.struct([]), False),
        (pa.date32(), True),
        (pa.timestamp("ms", "UTC"), True),
        (pa.struct([("a", pa.list_(pa.uint8()))]), True),
    ],
)
def test_features_are_those_of_datasets(kind, imports, monkeypatch):
    schema = pa.schema([("a", kind), ("b", pa.string())])
    expected = Features.from_arrow_schema(schema).to_dict()
    if not imports:
        monkeypatch.setitem(sys.modules, "datasets", None)
    assert json.dumps(features_of(schema)) == json.dumps(expected)


def test_files_and_batches_have_a_fixed_number_of_rows(tmp_path, tiny_files):
    info = write(tmp_path, [TABLE])
    names = [f"data-{i:05d}-of-00003.arrow" for i in range(3)]
    assert sorted(contents(tmp_path)) == [*names, "dataset_info.json", "state.json"]
    files = [pa.ipc.open_stream((tmp_path / "train" / name).read_bytes()) for name in names]
    assert [batch.num_rows for file in files for batch in file] == [7] * 7 + [1]
    assert info == {
        "num_examples": 50,
        "num_bytes": sum((tmp_path / "train" / n).stat().st_size for n in names),
    }
    state = json.loads((tmp_path / "train" / "state.json").read_text())
    assert [f["filename"] for f in state["_data_files"]] == names


@settings(max_examples=25)
@given(st.lists(st.integers(0, 50), max_size=6))
def test_the_pieces_do_not_change_a_byte(tmp_path_factory, cuts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow_folder, "BATCH_ROWS", 7)
        patch.setattr(arrow_folder, "FILE_ROWS", 21)
        whole, cut = (tmp_path_factory.mktemp("split") for _ in range(2))
        write(whole, [TABLE])
        edges = [0, *sorted(cuts), 50]
        pieces = [TABLE[a:b] for a, b in pairwise(edges)]
        write(cut, pieces)
        assert contents(whole) == contents(cut)


def test_what_is_written_is_read(tmp_path, tiny_files):
    write(tmp_path, [TABLE[:20], TABLE[20:]])
    assert pl.concat(Table(tmp_path, Shape.PAIRS).batches()).equals(TABLE)
    some = pl.concat(Table(tmp_path, Shape.PAIRS).batches(["flag", "pair_id"]))
    assert some.equals(TABLE.select("flag", "pair_id"))
    loaded = load_from_disk(str(tmp_path))["train"]
    assert loaded.num_rows == 50
    assert loaded["prompt"][:] == TABLE["prompt"].to_list()
    assert loaded["chosen_score_h"][:] == TABLE["chosen_score_h"].to_list()
    assert loaded["tags"][:] == TABLE["tags"].to_list()


def test_an_empty_split_is_a_file_with_a_schema(tmp_path):
    assert write(tmp_path, [TABLE.clear()])["num_examples"] == 0
    assert list(Table(tmp_path, Shape.PAIRS).batches()) == []
    loaded = load_from_disk(str(tmp_path))["train"]
    assert loaded.num_rows == 0
    assert loaded.column_names == TABLE.columns


def test_rows_of_other_columns_are_refused(tmp_path):
    writer = SplitWriter(tmp_path / "train", "train", arrow_schema(TABLE))
    with pytest.raises((ValueError, pa.ArrowException)):
        writer.write(TABLE.drop("flag"))


def test_a_split_is_never_written_over(tmp_path):
    write(tmp_path, [TABLE])
    with pytest.raises(FileExistsError):
        write(tmp_path, [TABLE])


@pytest.mark.parametrize("rows", [7, 14, 1000])
@pytest.mark.parametrize("split", [None, "train", "test"])
def test_rows_are_read_some_batches_at_a_time_and_unchanged(
    tmp_path, tiny_files, monkeypatch, rows, split
):
    monkeypatch.setattr(arrow_folder, "READ_ROWS", rows)
    write(tmp_path, [TABLE])
    write(tmp_path, [TABLE.reverse()], "test")
    write_dict(tmp_path, ["train", "test"])
    read = list(Table(tmp_path, Shape.PAIRS).batches(["pair_id", "margin"], split))
    assert max(batch.height for batch in read) == min(rows, 21)  # no piece spans two files
    wanted = {None: [TABLE, TABLE.reverse()], "train": [TABLE], "test": [TABLE.reverse()]}[split]
    assert pl.concat(read).equals(pl.concat(wanted).select("pair_id", "margin"))

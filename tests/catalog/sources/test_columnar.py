"""Columnar files that stand for far more than they hold, or lie about what they hold."""

import io
from itertools import islice

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.sources import SourceSpec, open_source
from catalog.sources.chunks import MAX_CHUNK_BYTES
from catalog.sources.columnar import read
from catalog.sources.columnar.messages import unpacked_sizes
from catalog.sources.columnar.weights import cuts, weights
from catalog.sources.spec import Reading
from prefactory.errors import DataError

LONG = "x" * 200_000


def shared(text, n):
    """A column of n times the same text, which is there once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), [text])


def arrow(table, file=True, **options):
    out = io.BytesIO()
    make = pa.ipc.new_file if file else pa.ipc.new_stream
    with make(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return out.getvalue()


def parquet(table, **options):
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def chunks_of(data, rows=16384, **bounds):
    reader = read.read_parquet if data.startswith(b"PAR1") else read.read_ipc
    return reader(io.BytesIO(data), rows, None, Reading(**bounds))


def bytes_of(chunk):
    return sum(chunk.table[c].str.len_bytes().sum() for c in chunk.table.columns)


def views(text, n):
    """A column of n times the same text, all of which look at the same bytes."""
    return pl.repeat(text, n, eager=True).to_arrow(compat_level=pl.CompatLevel.newest())


@pytest.mark.parametrize(
    "data",
    [
        parquet(pa.table({"prompt": shared(LONG, 100_000)})),
        parquet(pa.table({"prompt": pa.array([LONG] * 500)})),
        arrow(pa.table({"prompt": shared(LONG, 100_000)})),
        arrow(pa.table({"prompt": shared(LONG, 100_000)}), file=False, compression="zstd"),
        arrow(pa.table({"prompt": views(LONG, 100_000)})),
    ],
)  # fmt: skip
def test_a_text_that_many_rows_share_is_decoded_a_little_at_a_time(data):
    assert len(data) < 3_000_000
    some = list(islice(chunks_of(data), 3))
    assert all(0 < bytes_of(chunk) <= MAX_CHUNK_BYTES for chunk in some)
    numbers = [n for chunk in some for n in chunk.lines]
    assert numbers == list(range(1, 1 + len(numbers)))


def test_a_text_in_a_message_that_many_rows_share_is_too():
    rows = [[{"role": "user", "content": LONG}]] * 1000
    some = list(islice(chunks_of(parquet(pa.table({"chosen": rows}))), 3))
    for chunk in some:
        texts = chunk.table["chosen"].explode().struct.field("content")
        assert 0 < texts.str.len_bytes().sum() <= MAX_CHUNK_BYTES


def most_held(data):
    """Bytes that Arrow holds at most while the first chunks are read."""
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        assert sum(chunk.size for chunk in islice(chunks_of(data), 2))
    finally:
        pa.set_memory_pool(before)
    return pool.max_memory()


@pytest.mark.parametrize("name", ["prompt", "prompt.text"])
def test_a_text_that_many_rows_share_is_never_decoded_for_all_of_them(name):
    data = parquet(pa.table({name: shared(LONG, 20_000)}), store_schema=False)
    assert most_held(data) < 500_000_000  # 16,384 rows of it are 3.2 GB
    longer = parquet(pa.table({name: shared(5 * LONG, 20_000)}), store_schema=False)
    assert most_held(longer) < 200_000_000


def test_texts_that_no_row_shares_are_not_kept_in_a_dictionary():
    texts = [f"{i:02000d}" for i in range(20_000)]
    plain, coded = (parquet(pa.table({"t": texts}), use_dictionary=d) for d in (False, True))
    assert most_held(coded) < 1.2 * most_held(plain)


@pytest.mark.parametrize("write", [parquet, arrow])
def test_a_record_that_is_too_long_is_rejected(write):
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1, 0], pa.int32()), ["short", LONG])
    (chunk,) = chunks_of(write(pa.table({"prompt": texts})), max_record_mb=0.1)
    assert (chunk.lines, chunk.table["prompt"].to_list()) == ([1, 3, 5], ["short"] * 3)
    assert (chunk.rejects.lines, {*chunk.rejects.reasons}) == ([2, 4], {"too_long"})
    assert "longer than 0.1 MB" in chunk.rejects.details[0]


@pytest.mark.parametrize("write", [parquet, arrow])
def test_a_file_that_stands_for_too_much_is_one_sentence(write):
    data = write(pa.table({"prompt": shared(LONG, 10_000)}))
    with pytest.raises(DataError, match=r"stands for more than 0.5 GB.*`max_file_gb`"):
        list(chunks_of(data, max_file_gb=0.5))


def test_a_batch_that_unpacks_to_far_more_is_refused_before_it_is_unpacked(monkeypatch):
    table = pa.table({"prompt": ["x" * 1000] * 20_000})
    monkeypatch.setattr(read, "LARGE", 10_000_000)
    for packed in ("zstd", "lz4"):
        data = arrow(table, file=False, compression=packed)
        for found in (data, arrow(table, compression=packed)):
            with pytest.raises(DataError, match="a batch of it unpacks to"):
                list(chunks_of(found))
        assert sum(chunk.size for chunk in chunks_of(data[: len(data) // 2])) <= 1
    with pytest.raises(DataError, match="a row group of it unpacks to"):
        list(chunks_of(parquet(table, use_dictionary=False, compression="zstd")))
    assert sum(c.size for c in chunks_of(arrow(table))) == 20_000


def test_a_list_of_billions_of_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(read, "LARGE", 1_000_000)
    lists = pa.ListArray.from_arrays([0, 3_000_000], pa.nulls(3_000_000, pa.int64()))
    with pytest.raises(DataError, match="stand for billions"):
        list(chunks_of(parquet(pa.table({"turns": lists}))))


def test_files_of_polars_are_weighed_too(monkeypatch):
    data = io.BytesIO()
    pl.DataFrame({"prompt": ["x" * 1000] * 20_000}).write_ipc(data, compression="zstd")
    assert sum(chunk.size for chunk in chunks_of(data.getvalue())) == 20_000
    monkeypatch.setattr(read, "LARGE", 10_000_000)
    with pytest.raises(DataError, match="a batch of it unpacks to"):
        list(chunks_of(data.getvalue()))


@pytest.mark.parametrize("file", [True, False])
def test_what_messages_unpack_to_is_told_without_unpacking(file):
    table = pa.table({"a": ["x" * 1000] * 5000, "b": shared("y" * 999, 5000), "c": range(5000)})
    for packed in (None, "zstd", "lz4"):
        data = io.BytesIO(arrow(table, file=file, compression=packed))
        sizes = [size for _, size in unpacked_sizes(data)]
        assert sum(sizes) == pytest.approx(5000 * 1000 + 5000 * 4 + 999 + 5000 * 12, rel=0.05)


def test_offsets_that_lead_out_of_a_file_are_one_sentence(tmp_path):
    offsets = np.arange(101, dtype=np.int32) * 4
    offsets[50] = 2_000_000_000
    text = pa.Array.from_buffers(
        pa.string(), 100, [None, pa.py_buffer(offsets), pa.py_buffer(b"a" * 400)]
    )
    table = pa.table({"prompt": text, "chosen": ["c"] * 100, "rejected": ["d"] * 100})
    (tmp_path / "x.arrow").write_bytes(arrow(table))
    with pytest.raises(DataError, match=r"x.arrow can't be read: .*offset"):
        open_source(SourceSpec(path=str(tmp_path / "x.arrow")), tmp_path)


@pytest.mark.parametrize("write", [parquet, arrow])
def test_a_text_that_is_no_utf8_is_mended_and_noted(tmp_path, write):
    texts = pa.array([b"one", b"caf\xe9", b"two \xff\xfe\x80\x80\x80"]).view(pa.string())
    table = pa.table({"prompt": texts, "chosen": ["c"] * 3, "rejected": ["d"] * 3})
    (tmp_path / "x.data").write_bytes(write(table))
    source = open_source(SourceSpec(path=str(tmp_path / "x.data")), tmp_path)
    (block,) = source.read(source.files[0])
    said = [p[0]["content"] for p in block.rows["prompt"].to_list()]
    assert said == ["one", "café", "two \ufffd\ufffd\ufffd\ufffd\ufffd"]
    assert block.notes["reason"].to_list() == ["read_as_cp1252", "not_utf8"]


def test_dictionaries_and_their_values_are_the_same_rows(tmp_path):
    texts = ["a", None, "ccc", "a"] * 50
    rows = [[{"role": "user", "content": t}] for t in texts]
    flat = pa.table({"t": texts, "m": rows})
    told = pa.table({"t": pa.array(texts).dictionary_encode(), "m": rows})
    frames = [pl.concat([c.table for c in chunks_of(w(t))])
              for w in (parquet, arrow) for t in (flat, told)]  # fmt: skip
    assert all(frame.equals(frames[0]) for frame in frames)


def test_rows_are_weighed_by_what_they_hold():
    texts = ["", None, "ß", "x" * 100]
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(
        pa.int8(), pa.string())]  # fmt: skip
    for kind in kinds:
        assert weights(pa.array(texts, kind))[1:].tolist() == [8, 10, 108]
        assert weights(pa.array(texts, kind)[2:]).tolist() == [10, 108]
    lists = pa.array([[{"c": "ab"}, {"c": None}], None, [], [{"c": "x"}]])
    assert weights(lists).tolist() == [8 + 10 + 8, 8, 8, 8 + 9]
    assert weights(lists[3:]).tolist() == [17]
    pairs = pa.array([[("k", "ab")], []], pa.map_(pa.string(), pa.string()))
    assert weights(pairs).tolist() == [8 + 9 + 10, 8]


def test_cuts_cover_all_rows_in_order():
    sizes = np.array([5, 5, 50, 1, 1, 1, 1], np.int64)
    assert list(cuts(sizes, 3, 10)) == [(0, 2), (2, 3), (3, 6), (6, 7)]
    assert list(cuts(sizes[:0], 3, 10)) == []

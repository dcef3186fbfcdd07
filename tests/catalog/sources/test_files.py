"""File formats: round trips, odd texts, and damage of every kind, each record accounted for."""

import csv
import gzip
import io
import json

import orjson
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.sources import SourceSpec, open_source, peek
from prefactory.errors import DataError

PAIR = {"prompt": "q", "chosen": "1", "rejected": "2"}


def line(n=0):
    return json.dumps({**PAIR, "prompt": f"q{n}"}).encode()


def read(path, block_rows=16384, **spec):
    source = open_source(SourceSpec(path=str(path), **spec))
    blocks = [b for f in source.files for b in source.read(f, block_rows)]
    rows = pl.concat([b.rows for b in blocks])
    rejected = pl.concat([b.rejected for b in blocks])
    assert sum(b.n_records for b in blocks) == rows.height + rejected.height
    return rows, rejected.to_dicts(), [n for b in blocks for n in b.notes.to_dicts()]


def say(text, role="assistant"):
    return [{"role": role, "content": text}]


def explicit(texts):
    """Explicit conversational pairs of (prompt, chosen, rejected) texts."""
    return [{"prompt": say(p, "user"), "chosen": say(c), "rejected": say(r)} for p, c, r in texts]


def write_all(folder, records):
    """The same records in every format; returns the paths."""
    lines = b"\n".join(orjson.dumps(r) for r in records) + b"\n"
    array = b"[" + b",\n".join(orjson.dumps(r) for r in records) + b"]"
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "c.json").write_bytes(array)
    (folder / "d.json.gz").write_bytes(gzip.compress(array))
    (folder / "e.json").write_bytes(lines)
    (folder / "f.json").write_bytes(b'{"version": 1, "data": ' + array + b"}")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(records[0])
    for record in records:
        writer.writerow([orjson.dumps(v).decode() for v in record.values()])
    (folder / "g.csv").write_bytes(text.getvalue().encode())
    (folder / "h.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.getvalue().encode()))
    frame = pl.DataFrame(records)
    frame.write_parquet(folder / "i.parquet")
    frame.write_ipc(folder / "j.arrow")
    frame.write_ipc_stream(folder / "k.arrow")
    return sorted(folder.iterdir())


ODD = ["😀", "שלום\u200f", "a\r\nb", "\ufeffx", "x" * 1_000_000, '"a",b', "\x00", "  ", "é", "n/a"]


def test_odd_texts_have_the_same_ids_in_every_format(tmp_path):
    texts = [(p, f"{p}1", f"{p}2") for p in ODD if p.strip()] + [
        ("q", " 1 ", "2\n"),
        ("q", "", "2"),
    ]
    ids = {}
    for path in write_all(tmp_path, explicit(texts)):
        rows, rejected, notes = read(path, block_rows=4)
        ids[path.name] = rows["pair_id"].to_list()
        assert [r["reason"] for r in rejected] == ["empty_answer"], path.name
        assert notes == []
    assert len(ids) == 11
    assert len({tuple(v) for v in ids.values()}) == 1
    assert len(ids["a.jsonl"]) == len(texts) - 1


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=6))
def test_round_trip_of_any_text(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("trip")
    seen = set()
    for path in write_all(folder, explicit(texts)):
        rows, rejected, _ = read(path, block_rows=3, layout="pairs")
        seen.add((tuple(rows["pair_id"]), tuple(r["reason"] for r in rejected)))
    assert len(seen) == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=6))
def test_plain_texts_in_csv_and_jsonl(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("texts")
    names = ("prompt", "chosen", "rejected")
    lines = [orjson.dumps(dict(zip(names, t, strict=True))) for t in texts]
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    with (folder / "b.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([names, *texts])
    one, two = (read(folder / n, layout="pairs-text") for n in ("a.jsonl", "b.csv"))
    assert one[0]["pair_id"].to_list() == two[0]["pair_id"].to_list()
    assert [r["reason"] for r in one[1]] == [r["reason"] for r in two[1]]


def test_lines_are_numbered_exactly_and_blank_lines_are_no_records(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line(1) + b"\r\n\n  \n{broken\n" + line(5) + b"\n[1]\n\n")
    rows, rejected, _ = read(path, block_rows=2)
    assert rows["source_id"].to_list() == ["x.jsonl:1", "x.jsonl:5"]
    assert [(r["row_id"], r["reason"]) for r in rejected] == [
        ("x.jsonl:4", "malformed"),
        ("x.jsonl:6", "wrong_type"),
    ]
    assert "line 1 column 2" in rejected[0]["detail"]


def test_lone_surrogates_bad_bytes_and_nan_are_mended_and_noted(tmp_path):
    bad = [
        b'{"prompt": "\\ud800q", "chosen": "1", "rejected": "2"}',
        b'{"prompt": "q\xff", "chosen": "1", "rejected": "2"}',
        b'{"prompt": "q", "chosen": "1", "rejected": "2", "chosen_score": NaN}',
        b'{"prompt": "q", "chosen": "1", "rejected": "2", "chosen_score": 2}',
    ]
    want = [("1", "lone_surrogate"), ("2", "not_utf8"), ("3", "not_finite")]
    for name, text in {"x.jsonl": b"\n".join(bad), "y.json": b"[" + b",".join(bad) + b"]"}.items():
        (tmp_path / name).write_bytes(text)
        rows, rejected, notes = read(tmp_path / name)
        assert rejected == []
        assert [(n["row_id"].split(":")[1], n["reason"]) for n in notes] == want
        prompts = [m[0]["content"] for m in rows["prompt"]]
        assert prompts == ["\ufffdq", "q\ufffd", "q", "q"]
        assert rows["chosen_score_overall"].to_list() == [None, None, None, 2.0]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.csv.gz"])
def test_a_cut_gzip_file_keeps_what_came_before(tmp_path, name):
    records = [{**PAIR, "prompt": f"question {i} {hash(i) % 97}"} for i in range(3000)]
    if "csv" in name:
        text = io.StringIO()
        writer = csv.DictWriter(text, PAIR)
        writer.writeheader()
        writer.writerows(records)
        data = text.getvalue().encode()
    elif "jsonl" in name:
        data = b"\n".join(orjson.dumps(r) for r in records)
    else:
        data = orjson.dumps(records)
    packed = gzip.compress(data)
    path = tmp_path / name
    path.write_bytes(packed[: len(packed) * 2 // 3])
    rows, rejected, _ = read(path, block_rows=500)
    assert 1000 < rows.height < 3000
    assert [r["reason"] for r in rejected] == ["truncated_file"]
    last = int(rows["source_id"][-1].split(":")[1])
    assert rejected[0]["row_id"] == f"{name}:{last + 1}"


def test_a_broken_array_keeps_what_came_before(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"[" + line(1) + b"," + line(2) + b', {"prompt": ')
    rows, rejected, _ = read(path)
    assert rows.height == 2
    assert [(r["row_id"], r["reason"]) for r in rejected] == [("x.json:3", "malformed")]
    path.write_bytes(b"[" + line(1) + b"] [" + line(2) + b"]")
    rows, rejected, _ = read(path)
    assert (rows.height, rejected[0]["reason"]) == (1, "malformed")


def test_csv_ragged_lines_broken_quotes_and_bad_bytes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(
        b"prompt,chosen,rejected,margin\r\n"
        b'"a\nb",1,2,0.5\r\n'
        b"q,1\r\n"
        b"q,1,2,3,4\r\n"
        b"\r\n"
        b'"q"x,1,2,1\r\n'
        b"q\xff,1,2,1\r\n"
        b"q,1,2,\r\n"
        b'"never closed,1,2,1\r\n'
    )
    rows, rejected, notes = read(path)
    assert rows["source_id"].to_list() == ["x.csv:2", "x.csv:8", "x.csv:9"]
    assert rows["prompt"].to_list()[0][0]["content"] == "a\nb"
    assert "margin" not in rows.columns
    assert [(r["row_id"], r["reason"]) for r in rejected] == [
        ("x.csv:4", "malformed"),
        ("x.csv:5", "malformed"),
        ("x.csv:7", "malformed"),
        ("x.csv:10", "malformed"),
    ]
    assert [n["reason"] for n in notes] == ["not_utf8"]


def test_csv_header_twice_and_tsv(tmp_path):
    (tmp_path / "x.csv").write_text("prompt,chosen,chosen,rejected\n")
    with pytest.raises(DataError, match="names chosen more than once"):
        open_source(SourceSpec(path=str(tmp_path / "x.csv")))
    (tmp_path / "y.tsv").write_text("prompt\tchosen\trejected\nq\ta,b\tc\n")
    rows, _, _ = read(tmp_path / "y.tsv")
    assert rows["chosen"].to_list() == [say("a,b")]


def test_a_cut_arrow_stream_keeps_what_came_before(tmp_path):
    table = pl.DataFrame([{**PAIR, "prompt": f"q{i}"} for i in range(40)]).to_arrow()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for start in range(0, 40, 10):
            writer.write_batch(table.slice(start, 10).combine_chunks().to_batches()[0])
    data = sink.getvalue()
    path = tmp_path / "x.arrow"
    path.write_bytes(data[: len(data) * 2 // 3])
    rows, rejected, _ = read(path)
    assert 10 <= rows.height < 40
    assert [r["reason"] for r in rejected] == ["truncated_file"]


@pytest.mark.parametrize("name", ["x.parquet", "y.arrow"])
def test_a_damaged_columnar_file_is_one_clear_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=f"{name} can't be read"):
        open_source(SourceSpec(path=str(tmp_path / name)))


def test_types_of_columns_are_respected(tmp_path):
    frame = pl.DataFrame(
        {
            "prompt": pl.Series(["q", "r", None], dtype=pl.Categorical),
            "chosen": ["1", "1", "1"],
            "rejected": ["2", "2", "2"],
            "chosen_rating": ["4", "N/A", "3"],
            "rejected_rating": [float("nan"), 2.0, 1.0],
        }
    )
    frame.write_parquet(tmp_path / "x.parquet")
    rows, rejected, _ = read(tmp_path / "x.parquet")
    assert rows["chosen_score_overall"].to_list() == [4.0, None]
    assert rows["rejected_score_overall"].to_list() == [None, 2.0]
    assert [r["reason"] for r in rejected] == ["missing_field"]
    frame.with_columns(chosen=pl.lit(1)).write_parquet(tmp_path / "y.parquet")
    _, rejected, _ = read(tmp_path / "y.parquet", layout="pairs-text")
    assert {r["reason"] for r in rejected} == {"wrong_type"}


def test_a_mixed_column_costs_only_the_records_that_are_wrong(tmp_path):
    records = [PAIR, {**PAIR, "chosen": True}, {**PAIR, "chosen": {"a": 1}}, PAIR]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(orjson.dumps(r) for r in records))
    rows, rejected, _ = read(tmp_path / "x.jsonl")
    assert rows["source_id"].to_list() == ["x.jsonl:1", "x.jsonl:4"]
    assert [r["reason"] for r in rejected] == ["wrong_type"] * 2
    assert "chosen" in rejected[0]["detail"]


def test_limit_counts_records_of_every_kind(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([line(1), b"{", line(3), line(4)]))
    rows, rejected, _ = read(tmp_path / "x.jsonl", limit=3)
    assert (rows.height, len(rejected)) == (2, 1)
    assert peek(SourceSpec(path=str(tmp_path / "x.jsonl"), limit=0)).n_records == 0


def test_a_name_without_extension_is_sniffed(tmp_path):
    (tmp_path / "records").write_bytes(gzip.compress(line(1)))
    rows, _, _ = read(tmp_path / "records")
    assert rows["source_id"].to_list() == ["records:1"]
    (tmp_path / "other").write_text("some text")
    with pytest.raises(DataError, match="format is not known"):
        read(tmp_path / "other")


def test_long_texts_make_smaller_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("catalog.sources.json_files.MAX_CHUNK_BYTES", 1000)
    (tmp_path / "x.jsonl").write_bytes(
        b"\n".join(orjson.dumps({**PAIR, "prompt": "x" * 600, "n": i}) for i in range(6))
    )
    source = open_source(SourceSpec(path=str(tmp_path / "x.jsonl")))
    assert [b.n_records for b in source.read(source.files[0])] == [2, 2, 2]

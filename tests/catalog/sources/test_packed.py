"""Files as the world keeps them: packed, in other encodings, on the web, and what bounds them."""

import bz2
import gzip
import io
import json
import lzma
import random
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest

from catalog.sources import SourceSpec, open_source, peek
from catalog.sources.json_files import parse_json
from catalog.sources.sheets import Extent
from prefactory.errors import ConfigError, DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORDS = [{"prompt": f"q{i}, or {i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(4)]
LINES = b"".join(json.dumps(r).encode() + b"\n" for r in RECORDS)
PROMPTS = [r["prompt"] for r in RECORDS]


def read(path, **spec):
    """(texts of the prompts, reasons of the ledger, reasons of the notes)."""
    source = open_source(SourceSpec(path=str(path), **spec))
    blocks = [b for f in source.files for b in source.read(f)]
    rows = pl.concat([b.rows for b in blocks])
    prompts = [m[-1]["content"] for m in rows["prompt"]]
    rejected = [r for b in blocks for r in b.rejected["reason"]]
    return prompts, rejected, [n for b in blocks for n in b.notes["reason"]]


def refused(path, **spec):
    with pytest.raises(DataError) as error:
        peek(SourceSpec(path=str(path), **spec))
    assert "\n" not in str(error.value)
    return str(error.value)


PACKERS = {"gz": gzip.compress, "zst": zstd.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_lines_whole_in_parts_and_cut(tmp_path, kind):
    pack = PACKERS[kind]
    path = tmp_path / f"x.jsonl.{kind}"
    path.write_bytes(pack(LINES))
    assert read(path) == (PROMPTS, [], [])
    path.write_bytes(pack(LINES) + pack(LINES.replace(b"q", b"r")))
    assert len(read(path)[0]) == 8
    draw = random.Random(0)
    many = [{**r, "n": draw.random()} for _ in range(9000) for r in RECORDS]
    many = b"".join(json.dumps(r).encode() + b"\n" for r in many)
    packed = pack(many)
    path.write_bytes(packed[: len(packed) * 9 // 10])
    prompts, rejected, _ = read(path, layout="pairs-text")
    assert rejected == ["truncated_file"]
    assert 0 < len(prompts) < 36000
    path.write_bytes(pack(b""))
    assert "is empty" in refused(path)


def test_packed_tables_and_arrays(tmp_path):
    table = io.BytesIO()
    pl.DataFrame(RECORDS).write_parquet(table)
    (tmp_path / "x.parquet.gz").write_bytes(gzip.compress(table.getvalue()))
    (tmp_path / "y.json.zst").write_bytes(zstd.compress(json.dumps(RECORDS).encode()))
    for name in ("x.parquet.gz", "y.json.zst"):
        assert read(tmp_path / name) == (PROMPTS, [], [])


def _zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_a_zip_is_a_folder(tmp_path):
    table = io.BytesIO()
    pl.DataFrame(RECORDS).write_parquet(table)
    csv = b"prompt,chosen,rejected\nother,1,2\n"
    files = {"a/x.jsonl": LINES, "b.parquet": table.getvalue(), "c.csv.gz": gzip.compress(csv)}
    path = _zip(tmp_path / "set.zip", {**files, "README.md": b"words", "__MACOSX/._x.jsonl": b"?"})
    source = open_source(SourceSpec(path=str(path)))
    assert [f.name for f in source.files] == ["a/x.jsonl", "b.parquet", "c.csv.gz"]
    assert source.name == "set"
    assert read(path)[0] == [*PROMPTS, *PROMPTS, "other"]
    assert len(source.identity()["files"][0]["sha256"]) == 64
    (tmp_path / "more.jsonl").write_bytes(LINES)
    names = [f.name for f in open_source(SourceSpec(path=str(tmp_path))).files]
    assert names == ["more.jsonl", *(f"set.zip/{f.name}" for f in source.files)]


@pytest.mark.parametrize(
    "name", ["../x.jsonl", "/x.jsonl", "a/../../x.jsonl", "C:x.jsonl", "a\x01.jsonl"]
)
def test_a_member_whose_name_leads_out_is_refused(tmp_path, name):
    assert "leads out" in refused(_zip(tmp_path / "x.zip", {name: LINES}))


def test_zips_that_cannot_be_read(tmp_path):
    inner = _zip(tmp_path / "inner.zip", {"x.jsonl": LINES}).read_bytes()
    assert "inside a zip" in refused(_zip(tmp_path / "x.zip", {"y.zip": inner}))
    (tmp_path / "y.zip").write_bytes(inner[:60])
    assert "no zip file" in refused(tmp_path / "y.zip")
    assert "no data file" in refused(_zip(tmp_path / "z.zip", {"a.txt": b"x"}))
    (tmp_path / "t.tar.gz").write_bytes(b"x")
    assert "unpack it" in refused(tmp_path / "t.tar.gz")


@pytest.mark.parametrize("kind", [*PACKERS, "zip"])
def test_what_a_packed_file_holds_is_bounded(tmp_path, kind):
    bomb = LINES + (b" " * 9_999 + b"\n") * 300
    if kind == "zip":
        path = _zip(tmp_path / "x.zip", {"x.jsonl": bomb})
    else:
        path = tmp_path / f"x.jsonl.{kind}"
        path.write_bytes(PACKERS[kind](bomb))
    assert read(path)[0] == PROMPTS
    assert "unpacks to more than 0.002 GB" in refused(path, max_file_gb=0.002)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_long_record_goes_to_the_ledger(tmp_path, kind):
    long = {**RECORDS[0], "chosen": "x" * 9_000_000}
    records = [RECORDS[0], RECORDS[1], long, RECORDS[2]]
    path = tmp_path / f"x.{kind}.gz"
    if kind == "csv":
        text = "prompt,chosen,rejected\n" + "".join(
            ",".join(f'"{v}"' for v in r.values()) + "\n" for r in records
        )
    else:
        text = "\n".join(json.dumps(r) for r in records) if kind == "jsonl" else json.dumps(records)
    path.write_bytes(gzip.compress(text.encode()))
    prompts, rejected, _ = read(path, max_record_mb=1)
    after = [] if kind == "json" and len(prompts) == 2 else [PROMPTS[2]]
    assert prompts in ([*PROMPTS[:2], *after], [*PROMPTS[:2], PROMPTS[0], PROMPTS[2]])
    if kind != "json":
        assert rejected == ["too_long"]
    assert len(read(path)[0]) == 4


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_wide_characters_are_told_by_their_bytes(tmp_path, encoding, kind):
    text = LINES.decode() if kind == "jsonl" else "prompt,chosen,rejected\nż你😀,1,2\n"
    (tmp_path / f"x.{kind}").write_bytes(text.encode(encoding))
    prompts, rejected, notes = read(tmp_path / f"x.{kind}")
    assert prompts == (PROMPTS if kind == "jsonl" else ["ż你😀"])
    assert rejected == []
    assert len(notes) == 1
    assert notes[0].startswith("read_as_utf_")


def test_western_bytes_are_read_and_said_and_others_are_not_guessed(tmp_path):
    text = "prompt,chosen,rejected\nWas ist Übung?,“l’été” – oui,Nichts.\nplain,1,2\n"  # noqa: RUF001
    (tmp_path / "x.csv").write_bytes(text.encode("cp1252"))
    prompts, rejected, notes = read(tmp_path / "x.csv")
    assert (prompts, rejected, notes) == (["Was ist Übung?", "plain"], [], ["read_as_cp1252"])
    russian = '{"prompt": "Привет, как дела?", "chosen": "да", "rejected": "нет"}\n'
    (tmp_path / "y.jsonl").write_bytes(russian.encode("cp1251"))
    assert read(tmp_path / "y.jsonl")[2] == ["not_utf8"]
    prompts, _, notes = read(tmp_path / "y.jsonl", encoding="cp1251")
    assert (prompts, notes) == (["Привет, как дела?"], ["read_as_cp1251"])
    with pytest.raises(ValueError, match="no encoding of texts"):
        SourceSpec(path="x", encoding="rot13")


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("x.csv", 'prompt;chosen;rejected\n"a, b; c";1,2;3\nd;4;5\n', "separated_by_semicolon"),
        ("x.csv", 'prompt\tchosen\trejected\n"a, b; c"\t1\t3\nd\t4\t5\n', "separated_by_tab"),
        ("x.tsv", 'prompt,chosen,rejected\n"a, b; c",1,3\nd,4,5\n', "separated_by_comma"),
        (
            "x.csv",
            'sep=;\nprompt;chosen;rejected\n"a, b; c";1,2;3\nd;4;5\n',
            "separated_by_semicolon",
        ),
        ("x.csv", 'prompt,chosen,rejected\n"a, b; c","1;;2;;3",3\nd,4;;,5\n', None),
        ("x.csv", 'prompt,chosen,rejected\n"a, b; c","x\n;;;\n;;;\n;;;",3\nd,4,5\n', None),
    ],
)
def test_the_separator_is_told_by_header_and_records(tmp_path, name, text, note):
    (tmp_path / name).write_text(text)
    prompts, rejected, notes = read(tmp_path / name)
    assert (prompts, rejected, notes) == (["a, b; c", "d"], [], [note] if note else [])


def test_a_stated_separator(tmp_path):
    (tmp_path / "x.csv").write_text("prompt^chosen^rejected\na^1^2\n")
    assert read(tmp_path / "x.csv", separator="^") == (["a"], [], [])


def test_a_quote_that_never_closes_costs_its_own_line(tmp_path):
    (tmp_path / "x.csv").write_text('prompt,chosen,rejected\na,1,2\n"b,1,2\nc,1,2\nd,1,2\n')
    assert read(tmp_path / "x.csv") == (["a", "c", "d"], ["malformed"], [])


@pytest.mark.parametrize("between", [", ", ",\n", ",\n  "])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_one_broken_element_of_an_array_stops_no_other(tmp_path, between, place):
    texts = [json.dumps(r) for r in RECORDS]
    for broken in (texts[place].replace(": ", " ", 1), texts[place].replace("good", "go\nod")):
        array = [*texts[:place], broken, *texts[place + 1 :]]
        (tmp_path / "x.json").write_text("[" + between.join(array) + "]")
        prompts, rejected, _ = read(tmp_path / "x.json")
        assert prompts == [*PROMPTS[:place], *PROMPTS[place + 1 :]]
        assert rejected == ["malformed"]


def test_an_element_that_lost_its_beginning_takes_no_other_with_it(tmp_path):
    """It starts with the rest of a text, so its quotes don't pair; the next line tells its end."""
    lines = [
        json.dumps({"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}"}) for i in range(9)
    ]
    lines[4] = ' p4", "chosen": "c4", "rejected": "r4"}'
    file = tmp_path / "a.json"
    file.write_text("[" + ",\n  ".join(lines) + "]")
    source = open_source(SourceSpec(path=str(file)))
    blocks = [block for part in source.files for block in source.read(part)]
    assert sum(b.rows.height for b in blocks) == 8
    assert [r for b in blocks for r in b.rejected["row_id"]] == ["a.json:5"]


def test_a_large_array_is_read_element_by_element(tmp_path, monkeypatch):
    monkeypatch.setattr("catalog.sources.json_files.WHOLE_BYTES", 100)
    monkeypatch.setattr("catalog.sources.pieces.READ_BYTES", 64)
    for text in (json.dumps(RECORDS), json.dumps({"version": 1, "data": RECORDS}, indent=1)):
        (tmp_path / "x.json").write_text(text)
        assert read(tmp_path / "x.json") == (PROMPTS, [], [])


def test_a_deep_element_beside_nan_is_a_ledger_row(tmp_path):
    deep = '{"prompt": "d", "chosen": "1", "rejected": "2", "z": ' + "[" * 600 + "]" * 600 + "}"
    nan = '{"prompt": "n", "chosen": "1", "rejected": "2", "z": NaN}'
    lines = [json.dumps(RECORDS[0]), nan, deep, json.dumps(RECORDS[1])]
    for name, text in {"x.json": f"[{','.join(lines)}]", "y.jsonl": "\n".join(lines)}.items():
        (tmp_path / name).write_text(text)
        prompts, rejected, _ = read(tmp_path / name, layout="pairs-text")
        assert prompts == [PROMPTS[0], "n", PROMPTS[1]]
        assert rejected == ["malformed"]


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400, "NaN", "-Infinity"])
def test_what_is_no_finite_number_is_null_and_named(number):
    assert parse_json(f'{{"a": {number}, "b": 1}}'.encode()) == ({"a": None, "b": 1}, "not_finite")


def test_traps_of_json_lines_are_named(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(LINES.replace(b"}\n", b"},\n"))
    assert "a comma at the end of the line" in refused(tmp_path / "x.jsonl")
    (tmp_path / "y.jsonl").write_bytes(LINES.replace(b"good", b"go\x0bod"))
    assert "control character" in refused(tmp_path / "y.jsonl")


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.json", "x.parquet", "x.arrow", "x.xlsx"])
def test_an_empty_file_is_called_empty(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert "is empty" in refused(tmp_path / name)


def test_bytes_that_are_texts(tmp_path):
    frame = pl.DataFrame(RECORDS).with_columns(pl.all().cast(pl.Binary))
    chat = [[{"role": b"user", "content": p.encode()}] for p in PROMPTS]
    frame.with_columns(prompt=pl.Series(chat)).write_parquet(tmp_path / "y.parquet")
    frame.write_parquet(tmp_path / "x.parquet")
    frame.write_ipc(tmp_path / "x.arrow")
    for name in ("x.parquet", "x.arrow", "y.parquet"):
        assert read(tmp_path / name) == (PROMPTS, [], [])


def test_a_text_that_is_a_number_stops_no_file(tmp_path):
    turns = ["\n\nHuman: hi\n\nAssistant: yes", "\n\nHuman: hi\n\nAssistant: no"]
    records = [{"text": turns, "score": [1, 0]}] * 3 + [{"text": 1.5, "score": [1, 0]}]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(r) for r in records))
    assert read(tmp_path / "x.jsonl")[1] == ["wrong_type"]


@pytest.mark.parametrize("turn", [2**64, 10**9, 1e300, -(2**70)])
def test_a_turn_that_cannot_be_stops_no_judgments(tmp_path, turn):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    other = [chat[0], {"role": "assistant", "content": "b"}]
    record = {"question_id": "1", "model_a": "m", "model_b": "n", "winner": "model_a", "turn": 1}
    record |= {"conversation_a": chat, "conversation_b": other, "judge": "x"}
    records = [record, {**record, "turn": turn, "question_id": "2"}]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(r) for r in records))
    assert read(tmp_path / "x.jsonl")[0][0] == "q"


# -- spreadsheets -----


def _sheet(rows):
    cells = "".join(
        f'<row r="{r}">'
        + "".join(
            f'<c r="{chr(64 + c)}{r}" t="inlineStr"><is><t>{v}</t></is></c>'
            if isinstance(v, str)
            else f'<c r="{chr(64 + c)}{r}"><v>{v}</v></c>'
            for c, v in enumerate(row, 1)
        )
        + "</row>"
        for r, row in enumerate(rows, 1)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>'


def _workbook(path, sheets):
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    names = "".join(
        f'<sheet name="{n}" sheetId="{i}" r:id="r{i}"/>' for i, n in enumerate(sheets, 1)
    )
    links = "".join(
        f'<Relationship Id="r{i}" Type="{office}/worksheet" Target="worksheets/s{i}.xml"/>'
        for i in range(1, len(sheets) + 1)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return _zip(
        path,
        {
            "_rels/.rels": f'<Relationships xmlns="{package}"><Relationship Id="r" '
            f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{names}'
            "</sheets></workbook>",
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}">'
            f"{links}</Relationships>",
            **{f"xl/worksheets/s{i}.xml": _sheet(r) for i, r in enumerate(sheets.values(), 1)},
        },
    )


BOMBS = {
    "a cell in the last corner": (
        '<row r="1048576"><c r="XFD1048576" t="inlineStr"><is><t>x</t></is></c></row>', "spans more"
    ),
    "cells that share a long text": (
        "<row><c t='s'><v>0</v></c></row>" * 40_000, "GB of text"
    ),
    "no XML": ("<row><", "no spreadsheet"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_spreadsheet_that_stands_for_much_is_refused(tmp_path, kind):
    rows, told = BOMBS[kind]
    path = _workbook(
        tmp_path / "p.xlsx", {"S": [("prompt", "chosen", "rejected"), ("q", "a", "b")]}
    )
    with zipfile.ZipFile(path) as archive:
        files = {n: archive.read(n).decode() for n in archive.namelist()}
    name = "xl/worksheets/s1.xml"
    files[name] = files[name].replace("</sheetData>", f"{rows}</sheetData>")
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    long = f'<sst xmlns="{main}"><si><t>{"x" * 30_000}</t></si></sst>'
    _zip(path, {**files, "xl/sharedStrings.xml": long})
    assert told in refused(path)


@pytest.mark.parametrize(
    ("rows", "columns", "text", "told"),
    [(2000, 16_384, "x", "spans more"), (1_000_000, 1, "x" * 2000, "GB of text")],
)
def test_a_repeated_row_is_refused(rows, columns, text, told):
    """What an ods file says in a line; LibreOffice repeats empty cells to the end of the sheet."""
    names = ("office", "table", "text")
    spaces = " ".join(f'xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{n}:1.0"' for n in names)

    def seen(body):
        extent = Extent(10**9)
        extent.feed(f"<office:document {spaces}><table:table>{body}</table:table>".encode())

    seen(
        '<table:table-row table:number-rows-repeated="1048576">'
        '<table:table-cell table:number-columns-repeated="16384"/></table:table-row>'
    )
    with pytest.raises(DataError, match=told):
        seen(
            f'<table:table-row table:number-rows-repeated="{rows}"><table:table-cell '
            f'table:number-columns-repeated="{columns}"><text:p>{text}</text:p>'
            "</table:table-cell></table:table-row>"
        )


def test_the_first_sheet_with_a_header_is_read_and_the_others_are_named(tmp_path):
    rows = [
        ("prompt", "chosen", "rejected", "chosen_score"),
        ("q", "a; b", "c", 3),
        ("r", "1", "2", 0.5),
    ]
    sheets = {"About": [("words",)], "Pairs": rows, "Old": rows[:2]}
    path = _workbook(tmp_path / "x.xlsx", sheets)
    source = open_source(SourceSpec(path=str(path)))
    block = next(source.read(source.files[0]))
    assert block.rows["chosen_score_overall"].to_list() == [3.0, 0.5]
    assert block.rows["source_id"].to_list() == ["x.xlsx:2", "x.xlsx:3"]
    assert block.notes["reason"].to_list() == ["sheet_not_read"] * 2
    assert "'Old'" in block.notes["detail"][1]
    assert "more than 0.0001 GB" in refused(
        _workbook(tmp_path / "y.xlsx", {"P": [*rows, ("x" * 200_000, "1", "2", 1)]}),
        max_file_gb=0.0001,
    )
    (tmp_path / "z.xlsx").write_bytes(path.read_bytes()[:300])
    assert "no spreadsheet" in refused(tmp_path / "z.xlsx")
    assert "column names" in refused(_workbook(tmp_path / "w.xlsx", {"A": [("one",)]}))


# -- the web -----


@pytest.fixture
def web():
    """A web server of one data file; yields its address and the paths that were asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body):
            asked.append(self.path)
            path = self.path.split("?")[0]
            if path == "/moved.jsonl":
                self.send_response(302)
                self.send_header("Location", "/data/x.jsonl?x=1")
            elif path in ("/data/x.jsonl", "/data/y.parquet", "/page.jsonl", "/short.jsonl"):
                self.send_response(200)
                kind = "text/html; charset=utf-8" if path == "/page.jsonl" else "application/json"
                self.send_header("Content-Type", kind)
                data = self.server.data[path.rpartition(".")[2]]
                extra = 9 if path == "/short.jsonl" else 0
                self.send_header("Content-Length", str(len(data) + extra))
                self.end_headers()
                self.wfile.write(data if body else b"")
                return
            else:
                self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            self._answer(body=True)

        def do_HEAD(self):
            self._answer(body=False)

        def log_message(self, *args):
            pass

    table = io.BytesIO()
    pl.DataFrame(RECORDS).write_parquet(table)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.data = {"jsonl": LINES, "parquet": table.getvalue()}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked, server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url_is_read_downloaded_once_and_identified_by_its_content(web, tmp_path):
    address, asked, server = web
    for path in ("/data/x.jsonl", "/data/x.jsonl?download=true", "/moved.jsonl", "/data/y.parquet"):
        assert read(f"{address}{path}") == (PROMPTS, [], [])
    source = open_source(SourceSpec(path=f"{address}/data/x.jsonl"))
    asked.clear()
    (tmp_path / "x.jsonl").write_bytes(LINES)
    local = open_source(SourceSpec(path=str(tmp_path / "x.jsonl")))
    assert source.identity()["files"] == local.identity()["files"]
    server.data["jsonl"] = LINES.replace(b"q", b"r")
    again = open_source(SourceSpec(path=f"{address}/data/x.jsonl"))
    assert again.identity()["files"] != source.identity()["files"]


def test_what_the_web_does_not_have_is_one_sentence(web):
    address, _, _ = web
    assert "the server answers 404" in refused(f"{address}/none.jsonl")
    assert "page for people" in refused(f"{address}/page.jsonl")
    assert "broke off" in refused(f"{address}/short.jsonl")
    assert "more than" in refused(f"{address}/data/x.jsonl", max_file_gb=1e-7)
    assert "can't be fetched" in refused("http://127.0.0.1:1/x.jsonl")
    with pytest.raises(ConfigError, match=r"can't be fetched") as told:
        peek(SourceSpec(path="https://user:word@[::bad/x.jsonl"))
    assert "word" not in str(told.value)

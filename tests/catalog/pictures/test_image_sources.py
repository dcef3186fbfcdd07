"""Pictures of a source: every way they are written down, and what is never fetched."""

import base64
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from catalog.sources import SourceSpec, open_source, peek
from catalog.sources.late import LateColumnsError
from prefactory.errors import DataError
from prefactory.images.marks import IMAGES
from tests.prefactory.images.drawn import bomb, bytes_of, square

RED, BLUE = square("red"), square("blue")
B64 = base64.b64encode(RED).decode()
URL = f"data:image/png;base64,{B64}"
FINDINGS = Path(__file__).parents[4] / "shared" / "findings" / "inputs"
PAIR = {"chosen": "Yes, it is.", "rejected": "No, it is not."}


def written(folder, *records):
    file = folder / "rows.jsonl"
    rows = [{"prompt": "Is it red?", **PAIR, **record} for record in records]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(path, base=None, **fields):
    source = open_source(SourceSpec(path=str(path), **fields), base)
    blocks = [block for file in source.files for block in source.read(file)]
    rejected = pl.concat([b.rejected for b in blocks])
    notes = pl.concat([b.notes for b in blocks])
    reasons = dict(rejected.select("reason", "detail").iter_rows())
    return pl.concat([b.rows for b in blocks]), reasons, notes


@pytest.mark.parametrize(
    "value",
    [
        B64, URL, [B64], [URL], {"bytes": B64}, [{"bytes": B64, "path": None}],
        {"url": URL}, [{"type": "image_url", "image_url": {"url": URL}}], json.dumps([URL]),
        [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}}],
        [{"type": "image", "image": URL}], [{"type": "input_image", "image_url": URL}],
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["images", "image", "Image"])
def test_a_picture_that_lies_in_the_row_is_read(tmp_path, value, column):
    rows, rejected, _ = read(written(tmp_path, {column: value}))
    assert bytes_of(rows) == [[RED]]
    assert rows["prompt"][0][0]["content"] == "<image>Is it red?"
    assert not rejected


def test_a_column_of_any_name_is_mapped(tmp_path):
    rows, _, _ = read(written(tmp_path, {"picture": URL}), mapping={"images": "picture"})
    assert bytes_of(rows) == [[RED]]


@pytest.mark.parametrize("column", ["image_path", "image_url"])
def test_a_column_of_paths_or_addresses_does_not_vanish(tmp_path, column):
    with pytest.raises(DataError, match="nothing is fetched"):
        read(written(tmp_path, {column: "a.png"}))


def test_what_is_no_picture_costs_its_row(tmp_path):
    odd = [{"images": {"bytes": [B64]}}, {"images": [[URL]]}, {"images": {"caption": "a dog"}}]
    rows, rejected, _ = read(written(tmp_path, {"images": {"bytes": list(RED)}}, *odd))
    assert bytes_of(rows) == [[RED]]
    assert rejected.keys() == {"wrong_type"}


def test_the_column_that_datasets_writes_is_read(tmp_path):
    images = [[{"bytes": RED, "path": "a.png"}, {"bytes": BLUE, "path": None}], [], None]
    frame = pl.DataFrame({"prompt": ["<image> and <image>?", "b", "c"], **PAIR}).with_columns(
        images=pl.Series(images, dtype=IMAGES)
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    rows, _, _ = read(tmp_path / "rows.parquet")
    assert bytes_of(rows) == [[RED, BLUE], [], []]
    one = frame.with_columns(image=pl.col("images").list.first()).drop("images")
    one.with_columns(prompt=pl.lit("It?")).write_parquet(tmp_path / "one.parquet")
    assert bytes_of(read(tmp_path / "one.parquet")[0]) == [[RED], [], []]


def test_files_of_datasets_with_images_are_read(tmp_path):
    from datasets import Dataset, Features, Image, List, Value
    from PIL import Image as Pillow

    features = Features(
        {"prompt": Value("string"), "images": List(Image()), **dict.fromkeys(PAIR, Value("string"))}
    )
    rows = {"prompt": ["Is it red?"], "images": [[Pillow.new("RGB", (4, 4), "red")]]}
    data = Dataset.from_dict({**rows, **{k: [v] for k, v in PAIR.items()}}, features=features)
    data.save_to_disk(str(tmp_path / "disk"))
    data.to_parquet(str(tmp_path / "rows.parquet"))
    for path in ("disk", "rows.parquet"):
        table, rejected, notes = read(tmp_path / path)
        assert table["images"].list.len().to_list() == [1]
        assert not rejected
        assert notes.height == 0


@pytest.mark.parametrize("name", ["V01_images_opposite_answers", "V02_images_same_texts"])
@pytest.mark.skipif(not FINDINGS.is_dir(), reason="the findings are not here")
def test_the_cases_of_the_findings_are_two_rows(name):
    rows, rejected, _ = read(FINDINGS / f"{name}.parquet")
    assert rows["pair_id"].n_unique() == rows["prompt_id"].n_unique() == 2
    assert not rejected


# -- parts of messages -----


def said(role, *parts):
    return [{"role": role, "content": list(parts)}]


def text(words):
    return {"type": "text", "text": words}


SHOWN = {"type": "image_url", "image_url": {"url": URL}}
PLACE = {"type": "image"}
ANSWERS = {s: said("assistant", text(words)) for s, words in PAIR.items()}


def test_pictures_among_the_parts_of_messages_are_read_in_their_places(tmp_path):
    prompt = said("user", text("First:"), SHOWN, text("second:"), SHOWN, text("Which is red?"))
    rows, rejected, _ = read(written(tmp_path, {"prompt": prompt, **ANSWERS}))
    assert not rejected
    assert bytes_of(rows) == [[RED, RED]]
    assert rows["prompt"][0][0]["content"] == "First:<image>second:<image>Which is red?"
    assert rows["chosen"][0][0]["content"] == PAIR["chosen"]


def test_places_among_parts_are_filled_from_the_column(tmp_path):
    prompt = said("user", PLACE, SHOWN, PLACE, text("Which?"))
    file = written(tmp_path, {"prompt": prompt, **ANSWERS, "images": ["b.png", "c.png"]})
    for name, data in (("b", BLUE), ("c", square("cyan"))):
        (tmp_path / f"{name}.png").write_bytes(data)
    rows, _, _ = read(file, tmp_path, images={"folders": ["."]})
    assert bytes_of(rows) == [[BLUE, RED, square("cyan")]]


@pytest.mark.parametrize("form", ["list", "json"])
def test_whole_conversations_share_the_pictures_of_their_prompt(tmp_path, form):
    sides = {s: said("user", SHOWN, text("Red?")) + answer for s, answer in ANSWERS.items()}
    sides = sides if form == "list" else {s: json.dumps(talk) for s, talk in sides.items()}
    (tmp_path / "rows.jsonl").write_text(json.dumps(sides) + "\n")
    rows, rejected, _ = read(tmp_path / "rows.jsonl")
    assert not rejected
    assert bytes_of(rows) == [[RED]]
    assert rows["prompt"][0].to_list() == [{"role": "user", "content": "<image>Red?"}]


def test_an_answer_has_no_picture(tmp_path):
    chosen = said("assistant", SHOWN, text("This one."))
    prompt = said("user", text("Show me a red square."))
    plain = {"prompt": prompt, **ANSWERS}
    _, rejected, _ = read(written(tmp_path, {**plain, "chosen": chosen}, plain))
    assert "only prompts may have some" in rejected["wrong_type"]


def test_a_place_without_a_picture_costs_the_row(tmp_path):
    prompt = said("user", PLACE, text("Which?"))
    rows = [{"prompt": prompt, **ANSWERS}, {"prompt": prompt, **ANSWERS, "image": URL}]
    _, rejected, _ = read(written(tmp_path, *rows))
    assert rejected == {"image_count": "0 pictures, 1 marks <image> in the prompt"}


def test_pictures_that_come_after_the_first_records_are_read(tmp_path):
    plain = {"prompt": said("user", text("Is it red?")), **ANSWERS}
    late = {"prompt": said("user", SHOWN, text("Is it red?")), **ANSWERS}
    file = written(tmp_path, *[plain] * 150, late)
    with pytest.raises(LateColumnsError, match=r"rows.jsonl:151"):
        read(file)
    found = peek(SourceSpec(path=str(file)))
    assert found.source.schema["images"] == IMAGES
    source = found.source
    rows = pl.concat([b.rows for b in source.read(source.files[0])])
    assert bytes_of(rows)[-2:] == [[], [RED]]


def test_a_column_that_comes_late_is_read(tmp_path):
    file = written(tmp_path, *[{}] * 150, {"image": URL})
    source = peek(SourceSpec(path=str(file))).source
    rows = pl.concat([b.rows for b in source.read(source.files[0])])
    assert bytes_of(rows)[-1] == [RED]


def test_pictures_may_be_left_out_when_the_source_says_so(tmp_path):
    rows, _, _ = read(written(tmp_path, {"images": ["a.png"]}), ignore=("images",))
    assert "images" not in rows.columns


def test_a_damaged_picture_is_kept_and_noted(tmp_path):
    value = base64.b64encode(b"\x89PNG").decode()
    rows, _, notes = read(written(tmp_path, {"images": [{"bytes": value}]}))
    assert bytes_of(rows) == [[b"\x89PNG"]]
    assert notes["reason"].to_list() == ["damaged_image"]


def test_a_row_is_lost_with_its_reason_where_its_picture_can_not_be_had(tmp_path):
    (tmp_path / "big.png").write_bytes(bomb())
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "red.png").write_bytes(RED)
    file = written(
        tmp_path,
        *({"images": [n]} for n in ("red.png", "big.png", "text.png", "none.png", "../red.png")),
        {"images": [7]}, {"images": ["data:text/html,x"]},
        {"images": ["red.png"], "prompt": "<image><image>"},
    )  # fmt: skip
    rows, rejected, _ = read(file, tmp_path, images={"folders": ["."]})
    assert bytes_of(rows) == [[RED]]
    assert rejected.keys() == {
        "image_too_large", "image_unknown", "image_missing", "image_not_allowed", "wrong_type",
        "image_count",
    }  # fmt: skip
    assert rejected["image_not_allowed"] == "'../red.png' is in no folder that is allowed"
    assert rejected["image_count"] == "1 pictures, 2 marks <image> in the prompt"


@pytest.mark.parametrize(
    "where", ["a.png", "/etc/passwd", "http://127.0.0.1/a.png", "file:///a.png"]
)
def test_nothing_is_fetched_unasked(tmp_path, where):
    (tmp_path / "a.png").write_bytes(RED)
    with pytest.raises(DataError, match=r"nothing is fetched .* `images`, as in \{folders"):
        read(written(tmp_path, {"images": [where]}), tmp_path)


def test_no_link_and_no_path_leads_out_of_a_folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(BLUE)
    (folder / "red.png").write_bytes(RED)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "within.png").symlink_to(folder / "red.png")
    (folder / "up").symlink_to(tmp_path)
    inside = [
        "red.png",
        str(folder / "red.png"),
        "./red.png",
        "within.png",
        f"file://{folder}/red.png",
    ]
    outside = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "up/secret.png",
               "pictures/../../secret.png", "a\0b"]  # fmt: skip
    file = written(tmp_path, *({"images": [n], "chosen": n} for n in [*inside, *outside]))
    rows, rejected, _ = read(file, tmp_path, images={"folders": ["pictures"]})
    assert bytes_of(rows) == [[RED]] * len(inside)
    assert rejected.keys() == {"image_not_allowed"}


def test_the_content_of_a_folder_is_part_of_the_source(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(RED)
    spec = SourceSpec(path=str(written(tmp_path, {"images": ["a.png"]})), images={"folders": ["p"]})
    before = open_source(spec, tmp_path).identity()
    assert open_source(spec, tmp_path).identity() == before
    (tmp_path / "p" / "a.png").write_bytes(BLUE)
    assert open_source(spec, tmp_path).identity() != before
    assert "images" not in open_source(SourceSpec(path=str(written(tmp_path, {}))), None).identity()


# -- hosts -----


class Pictures(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        self.send_response(200 if self.path == "/red.png" else 404)
        self.end_headers()
        self.wfile.write(RED)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    handler = type("Own", (Pictures,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{serving.server_port}", handler.asked
        serving.shutdown()


def test_an_allowed_host_is_asked_and_no_other(tmp_path, server):
    host, asked = server
    urls = [f"http://{host}/red.png", f"http://{host}/to//red.png", f"http://{host}/none.png",
            f"http://{host}/to/http://127.0.0.2:1/red.png", f"http://{host}/to/file:///etc/passwd",
            "http://127.0.0.1:1/red.png", "http://[::1]/red.png", f"http://user@{host}/red.png",
            f"ftp://{host}/red.png"]  # fmt: skip
    file = written(tmp_path, *({"images": [u], "chosen": u} for u in urls))
    source = open_source(SourceSpec(path=str(file), images={"hosts": [host]}))
    (block,) = list(source.read(source.files[0]))
    assert bytes_of(block.rows) == [[RED], [RED]]
    missing, others = block.rejected["reason"].to_list()[:1], block.rejected["reason"].to_list()[1:]
    assert missing == ["image_missing"]  # answers 404
    assert others == ["image_not_allowed"] * 6
    assert asked == ["/red.png", "/to//red.png", "/red.png", "/none.png",
                     "/to/http://127.0.0.2:1/red.png", "/to/file:///etc/passwd"]  # fmt: skip


def test_redirects_come_to_an_end(tmp_path, server):
    host, asked = server
    file = written(tmp_path, {"images": [f"http://{host}/to//to//to//to//to//to//red.png"]})
    _, rejected, _ = read(file, images={"hosts": [host]})
    assert rejected == {"image_missing": f"'http://{host}/red.png' leads on and on"}
    assert len(asked) == 6


def test_a_name_that_leads_into_the_own_network_is_refused(tmp_path, server, monkeypatch):
    host, asked = server
    port = host.partition(":")[2]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo",
        lambda name, *a, **k: real("127.0.0.1" if name == "img.example.org" else name, *a, **k),
    )  # fmt: skip
    file = written(tmp_path, {"images": [f"http://img.example.org:{port}/red.png"]})
    _, rejected, _ = read(file, images={"hosts": [f"img.example.org:{port}"]})
    assert "network of its own" in rejected["image_not_allowed"]
    assert asked == []


def test_hosts_below_a_star(tmp_path):
    from catalog.sources.pictures.allowed import Fetcher

    fetcher = Fetcher((), ("*.example.org", "one.org"))
    hosts = ("a.example.org", "example.org", "badexample.org", "one.org", "a.one.org")
    assert [h for h in hosts if fetcher._allowed(h, None)] == ["a.example.org", "one.org"]
    assert not fetcher._allowed("one.org", 8080)


def test_a_source_without_pictures_has_no_column_of_them(tmp_path):
    assert "images" not in peek(SourceSpec(path=str(written(tmp_path, {})))).rows.columns

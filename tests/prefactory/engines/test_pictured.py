"""Pictures reach a model as parts of messages; a model that reads texts only is refused."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest

from generators import Responses
from labelers import JudgePairs
from prefactory.engines.base import EngineError, Request, Sampling
from prefactory.engines.pictured import data_url, with_parts
from prefactory.engines.server import Server
from prefactory.images.marks import IMAGES, Held, mark_of
from prefactory.tables import text_of
from prefactory.testing import pairs, prompts, user
from tests.catalog.pictures.test_image_versions import written
from tests.helpers import asking, recipe, run, view
from tests.prefactory.images.drawn import square

RED, BLUE = square("red"), square("blue")


class Model(BaseHTTPRequestHandler):
    """Answers with the verdict or the number of pictures that it was shown."""

    seen: list[dict]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        lists = [m["content"] for m in body["messages"] if isinstance(m["content"], list)]
        parts = [part for content in lists for part in content]
        count = sum(p["type"] == "image_url" for p in parts)
        text = f"I see {count} pictures. [[A]]"
        choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
        answer = json.dumps({"choices": [choice], "usage": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    handler = type("Own", (Model,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/v1", handler.seen
        serving.shutdown()


def fields(url, **more):
    return {"engine": "server", "base_url": url, "model": "eyes", **more}


def test_marks_become_parts_in_their_places():
    held = Held()
    red, blue = mark_of(held.put(RED)), mark_of(held.put(BLUE))
    talk = [{"role": "system", "content": "Look."}, user(f"{red}Is it redder than {blue}?")]
    parts = with_parts(Request(talk, Sampling(), images=held))
    assert parts == [
        {"role": "system", "content": "Look."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": data_url(RED)}},
                {"type": "text", "text": "Is it redder than "},
                {"type": "image_url", "image_url": {"url": data_url(BLUE)}},
                {"type": "text", "text": "?"},
            ],
        },
    ]
    assert data_url(RED).startswith("data:image/png;base64,iVBOR")
    assert with_parts(Request(talk, Sampling())) == talk  # no pictures: marks are text


def test_a_picture_is_part_of_the_request_by_its_name():
    held = Held()
    talks = [[user(mark_of(held.put(data)))] for data in (RED, BLUE)]
    one, other = (Request(talk, Sampling(), images=held) for talk in talks)
    assert one.content_key != other.content_key
    assert one.content_key == Request(one.conversation, Sampling()).content_key


def test_a_generator_in_a_run_shows_each_row_its_own_picture(tmp_path, server):
    url, seen = server
    rows = [("Red?", "Yes.", "No.", [RED]), ("Red?", "No.", "Yes.", [BLUE]), ("So?", "a", "b", [])]
    written(tmp_path, rows)
    frame = pl.read_parquet(tmp_path / "rows.parquet").drop("chosen", "rejected")
    frame.write_parquet(tmp_path / "prompts.parquet")
    from catalog.sources import SourceSpec, open_source

    source = open_source(SourceSpec(path=str(tmp_path / "prompts.parquet")))
    step = {"generators.Responses": {"models": [fields(url, sees_images=True)], "n": 1}}
    result = run(recipe(step), source, tmp_path / "store", engine=asking().engine)
    table = view(result, "responses")
    answers = dict(zip(table["prompt_id"], table.select(text_of(pl.col("response"))).to_series(),
                       strict=True))  # fmt: skip
    assert sorted(answers.values()) == ["I see 0 pictures. [[A]]", *["I see 1 pictures. [[A]]"] * 2]
    sent = {json.dumps(body["messages"]) for body in seen}
    assert len(sent) == 3
    assert sum(data_url(RED) in text for text in sent) == 1
    assert not any("<image" in text for text in sent)


def with_images(table, *rows):
    images = [[{"bytes": b, "path": None} for b in row] for row in rows]
    return table.with_columns(images=pl.Series(images, dtype=IMAGES))


def test_a_judge_sees_the_pictures_of_the_prompt(server):
    from prefactory.testing import apply_step

    url, seen = server
    table = with_images(pairs(("Red?", "Yes.", "No.")), [RED])
    applied = apply_step(JudgePairs(judge=fields(url, sees_images=True)), table)
    assert seen
    assert all(data_url(RED) in json.dumps(body) for body in seen)
    assert applied.rows["images"].list.len().to_list() == [1]


def test_a_model_that_reads_texts_only_is_refused_in_a_sentence(server):
    from prefactory.testing import apply_step

    url, seen = server
    table = with_images(prompts("Red?"), [RED])
    with pytest.raises(EngineError, match=r"texts only: take a server .* `sees_images: true`"):
        apply_step(Responses(models=[fields(url)], n=1), table)
    assert seen == []
    plain = with_images(prompts("Red?"), [])
    assert apply_step(Responses(models=[fields(url)], n=1), plain).rows.height == 1


def test_whether_a_model_sees_pictures_changes_no_identity():
    blind, seeing = (Server(**fields("http://x/v1", sees_images=s)) for s in (False, True))
    assert blind.fingerprint() == seeing.fingerprint()
    assert "images" in seeing.capabilities


def test_a_prompt_that_is_rewritten_keeps_its_pictures():
    from generators.made_rows import with_user_turn

    red, blue = mark_of("a" * 32), mark_of("b" * 32)
    talk = [{"role": "system", "content": "Look."}, user(f"{red}Is it redder than {blue}?")]
    assert with_user_turn(talk, "Why?")[-1] == user(f"{red}{blue}Why?")
    assert with_user_turn(talk, f"Is {blue} bluer?")[-1] == user(f"{red}Is {blue} bluer?")
    assert with_user_turn([user("Why?")], "How?") == [user("How?")]

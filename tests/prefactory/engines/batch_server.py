"""A loopback server that speaks OpenAI's batch API, and counts what it would bill."""

import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.prefactory.engines.mock_server import answer, chat


class Batches:
    """`outcome(question) -> dict`: fields of an output line, or None to leave it unanswered.

    Attributes:
        polls: looks at a batch before it ends.
        status: what it ends as.
        drop: control requests that are answered 503, by (method, path), so many times.
        lose: creations that work and whose answer is lost, so many times.
    """

    def __init__(self, outcome=None, polls=1, status="completed"):
        self.outcome = outcome or (lambda question: self.fine(question))
        self.polls, self.status = polls, status
        self.files, self.batches, self.billed = {}, {}, []
        self.requests = []
        self.drop, self.lose = {}, 0
        self.lock = threading.Lock()

    @staticmethod
    def fine(question):
        return {"response": {"status_code": 200, "body": answer(chat(f"re {question}"))}}

    def __enter__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.take(self, "GET", b"")

            def do_POST(self):
                outer.take(self, "POST", self.rfile.read(int(self.headers["Content-Length"])))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def take(self, handler, method, body):
        with self.lock:
            path = handler.path.split("?")[0].removeprefix("/v1")
            self.requests.append((method, path))
            if self.drop.get((method, path), 0):
                self.drop[method, path] -= 1
                self.reply(handler, 503, b'{"error": {"message": "later"}}')
                return
            told = self.told(method, path, body, handler)
            if told is None:
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            status, data = told
            raw = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.reply(handler, status, raw)

    @staticmethod
    def reply(handler, status, data):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def told(self, method, path, body, handler):
        if (method, path) == ("POST", "/files"):
            boundary = handler.headers["Content-Type"].split("boundary=")[1].encode()
            parts = body.split(b"--" + boundary)
            assert b'name="purpose"\r\n\r\nbatch\r\n' in parts[1]
            data = parts[2].split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
            name = f"file-{len(self.files)}"
            self.files[name] = data
            return 200, {"id": name, "purpose": "batch"}
        if (method, path) == ("POST", "/batches"):
            return self.created(json.loads(body))
        if (method, path) == ("GET", "/batches"):
            return 200, {"data": list(self.batches.values()), "has_more": False}
        if match := re.fullmatch(r"/batches/(.+)", path):
            return 200, self.looked_at(self.batches[match[1]])
        if match := re.fullmatch(r"/files/(.+)/content", path):
            return 200, self.files[match[1]]
        return 404, {"error": {"message": "no such address"}}

    def created(self, asked):
        assert asked["completion_window"] == "24h"
        name = f"batch-{len(self.batches)}"
        batch = {**asked, "id": name, "status": "validating", "looks": 0}
        self.batches[name] = batch
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        assert {line["url"] for line in lines} == {asked["endpoint"]}
        good, bad = [], []
        for line in reversed(lines):  # in an order of its own
            question = line["body"]["messages"][-1]["content"]
            told = self.outcome(question)
            if told is None:
                continue
            entry = {"id": "x", "custom_id": line["custom_id"], "response": None, "error": None}
            fine = (told.get("response") or {}).get("status_code") == 200
            (good if fine else bad).append(json.dumps({**entry, **told}))
            if fine:
                self.billed.append(question)
        for kind, entries in (("output", good), ("error", bad)):
            if entries:
                self.files[f"{name}-{kind}"] = "\n".join(entries).encode()
                batch[f"{kind}_file_id"] = f"{name}-{kind}"
        if self.lose:
            self.lose -= 1
            return None
        return 200, batch

    def looked_at(self, batch):
        batch["looks"] += 1
        batch["status"] = self.status if batch["looks"] > self.polls else "in_progress"
        return batch

"""A server of the hub's API on loopback, for pushes and pulls by the real client."""

import base64
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from threading import Thread
from urllib.parse import parse_qs, unquote

import pytest

from tests.helpers import ROOT


class Hub(BaseHTTPRequestHandler):
    """What pushes and pulls ask of the hub: a repository, how files go, large files, a commit;
    what there is, and its bytes."""

    def do_GET(self):
        hub, path = self.server, unquote(self.path.partition("?")[0])
        if hub.created is None:
            return self.say({"error": "Repository not found"}, 404, "RepoNotFound")
        if "/resolve/main/" in path:
            data = hub.files.get(path.partition("/resolve/main/")[2])
            return self.say({}, 404, "EntryNotFound") if data is None else self.send(data)
        if "/tree/" in path:
            folder = PurePosixPath(path.partition("/tree/")[2].partition("/")[2])
            within = [PurePosixPath(n) for n in hub.files]
            own = sorted({f for n in within for f in (n, *n.parents) if f.parent == folder})
            return (
                self.say(self.facts(map(str, own))) if own else self.say({}, 404, "EntryNotFound")
            )
        return self.say({"id": "user/name", "sha": "a" * 40, "private": True, "siblings": []})

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.server
        hub.asked.append((self.path, self.headers.get("Authorization")))
        if hub.refuses:
            return self.say({"error": "no rights"}, 403)
        if self.path == "/api/repos/create":
            hub.created = json.loads(body)
            return self.say({"url": f"{hub.url}/user/name", "name": "user/name", "id": "1"})
        if "/preupload/" in self.path:
            mode = {".safetensors": "lfs", ".arrow": "lfs"}
            files = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": mode.get(PurePosixPath(f["path"]).suffix, "regular")}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return self.say({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {"oid": o["oid"], "size": o["size"],
                 "actions": {"upload": {"href": f"{hub.url}/large/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]  # fmt: skip
            return self.say({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            hub.commits.append([json.loads(line) for line in body.splitlines()])
            for one in hub.commits[-1][1:]:
                told = one["value"]
                large = one["key"] == "lfsFile"
                data = hub.large[told["oid"]] if large else base64.b64decode(told["content"])
                hub.files[told["path"]] = data
            return self.say({"commitUrl": f"{hub.url}/user/name/commit/abc", "commitOid": "abc"})
        if "/paths-info/" in self.path:
            return self.say(self.listed(body.decode()))
        return self.say({})

    def listed(self, asked):
        """Facts of the paths of a form or JSON."""
        return self.facts(
            json.loads(asked)["paths"] if asked[:1] == "{" else parse_qs(asked)["paths"]
        )

    def facts(self, paths):
        """Of files and folders, those that there are."""
        files = self.server.files
        folders = {str(f) for name in files for f in PurePosixPath(name).parents}
        return [
            {"type": "file", "path": p, "size": len(files[p]), "oid": "b" * 40}
            if p in files
            else {"type": "directory", "path": p, "oid": "c" * 40}
            for p in paths
            if p in files or p in folders
        ]

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[self.path.rpartition("/")[2]] = data
        self.say({})

    def say(self, value, code=200, error=None):
        self.send(json.dumps(value).encode(), code, error)

    def send(self, data, code=200, error=None):
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"0"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.asked, server.commits, server.large, server.refuses = [], [], {}, False
    server.files, server.created = {}, None
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def asking(hub, *words, home):
    """`prefactory catalog WORDS` of a process that knows this hub alone."""
    env = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_made_up", "PYTHONPATH": str(ROOT),
        "PREFACTORY_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "pipelines.cli", "catalog", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

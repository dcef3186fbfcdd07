"""A person without a browser: a client of the app's plain forms, and servers to talk to."""

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import uvicorn

from review import people
from review.app.server import create_app, settings_of

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(review, hosts=("127.0.0.1", "localhost")):
    """The app of a review in a thread of this process; its port."""
    with serving_app(create_app(review, hosts)) as port:
        yield port


@contextmanager
def serving_app(app):
    """An app in a thread of this process; its port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(settings_of(app))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()
    listener.close()


@contextmanager
def process(home, name, port, *more):
    """`prefactory review NAME` in a process of its own, once it answers."""
    words = ["review", name, "--no-browser", "--port", str(port), *more]
    running = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *words],
        env={**os.environ, "PREFACTORY_HOME": str(home), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=home,
    )  # fmt: skip
    said = []
    for line in running.stdout:
        said.append(line)
        if line.startswith("Ctrl-C"):
            break
    else:
        raise AssertionError("".join(said))
    running.link = next(line.split()[-1] for line in said if line.startswith("your link"))
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()
        running.stdout.close()


class Client:
    """A session: `get`, `post`, and the fields of the form that is open.

    Attributes:
        heard: (path, status, headers, body) of every answer.
    """

    def __init__(self, port, in_place=False):
        self.port, self.in_place = port, in_place
        self.cookie, self.heard, self.fields, self.page = "", [], {}, ""
        self._open = http.client.HTTPConnection("127.0.0.1", port, timeout=200)

    def ask(self, method, path, form=None, **headers):
        body = None if form is None else urlencode(form, doseq=True)
        headers = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie} | headers
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        if self.in_place and method == "POST":
            headers["HX-Request"] = "true"
        try:
            self._open.request(method, path, body, headers)
            answer = self._open.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            self._open.close()
            raise
        if cookie := answer.getheader("set-cookie"):
            self.cookie = cookie.partition(";")[0]
        self.heard.append((path, answer.status, dict(answer.getheaders()), text))
        if 'id="vote"' in text:
            self.page = text
            form_text = text[text.index('id="vote"') :]
            found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form_text)
            self.fields = {name: unescape(value) for name, value in found}
        elif "<main" in text:
            self.page, self.fields = text, {}
        return answer, text

    def get(self, path, **headers):
        answer, text = self.ask("GET", path, **headers)
        return answer.status, text

    def post(self, path, form=(), **headers):
        """Post the hidden fields of the open form and some more; follow where it leads."""
        answer, text = self.ask("POST", path, {**self.fields, **dict(form)}, **headers)
        if answer.status == 303:
            return self.get(answer.getheader("location"))
        return answer.status, text

    def join(self, token):
        answer, _ = self.ask("POST", f"/join/{token}", {})
        assert answer.status == 303
        self.get("/")
        return self

    def vote(self, choice, **more):
        return self.post("/vote", {"choice": choice, **more})

    def mark(self):
        return re.search(r'name="mark" value="(\w+)"', self.get("/history")[1])[1]


def newcomer(review, port, name="Ada", role="annotator", **options):
    return Client(port, **options).join(people.invite(review, name, role))

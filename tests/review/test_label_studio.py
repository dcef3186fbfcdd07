"""Tasks go to a real Label Studio server, a person answers there, and the export comes back.

Label Studio pins other versions of everything, so it lives in an environment of its own:
`python -m venv ls; ls/bin/pip install label-studio==1.23.2`, and the variable
`PREFACTORY_LABEL_STUDIO=ls/bin/label-studio`.
"""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import pytest

from prefactory.testing import pairs
from review.exchange import label_studio
from review.exchange.files import read_votes, write_tasks
from tests.review.test_app import EVIL
from tests.servers import free_port

TOKEN = "ab" * 20
N = 12


@pytest.fixture
def server(tmp_path):
    program = os.environ.get("PREFACTORY_LABEL_STUDIO")
    if not program:
        reason = "set PREFACTORY_LABEL_STUDIO: the exchange with a real Label Studio is NOT tested"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    port = free_port()
    quiet = {"LATEST_VERSION_CHECK": "0", "COLLECT_ANALYTICS": "0",
             "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "HOME": str(tmp_path)}  # fmt: skip
    words = ["start", "--no-browser", "--host", f"http://127.0.0.1:{port}", "--internal-host",
             "127.0.0.1", "-p", str(port), "--data-dir", str(tmp_path / "data"), "--username",
             "a@b.co", "--password", "pass12345", "--user-token", TOKEN]  # fmt: skip
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [program, *words], env={**os.environ, **quiet}, stdout=log, stderr=log, cwd=tmp_path
        ) as running,
    ):
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                    break
                except OSError:
                    assert running.poll() is None, (tmp_path / "log").read_text()[-3000:]
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            running.kill()


def ask(base, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(base + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{path}: {error.code} {error.read()[:2000]}") from error


@pytest.mark.slow
def test_a_queue_goes_to_label_studio_and_comes_back(server, tmp_path):
    table = pairs(*[(f"Question {i}? {EVIL}", f"good {i}", f"bad {i}") for i in range(N)])
    out, config = write_tasks(table, "label-studio", tmp_path / "tasks.json", 5)
    project = ask(
        server, "/api/projects", {"title": "prefactory", "label_config": Path(config).read_text()}
    )["id"]
    tasks = json.loads(out.read_text())
    made = ask(server, f"/api/projects/{project}/import?return_task_ids=true", tasks)
    assert made["task_count"] == N
    assert made.get("prediction_count", 0) == 0, "nothing tells the label"
    for number, task in zip(made["task_ids"], tasks, strict=True):
        better = "left" if task["data"]["left"].startswith("good") else "right"
        result = [
            {"from_name": "choice", "to_name": "prompt", "type": "choices",
             "value": {"choices": [better]}},
            {"from_name": "comment", "to_name": "prompt", "type": "textarea",
             "value": {"text": [EVIL.replace("\x00", "")]}},
        ]  # fmt: skip
        ask(server, f"/api/tasks/{number}/annotations/", {"result": result, "lead_time": 3.2})
    export = ask(server, f"/api/projects/{project}/export?exportType=JSON")
    file = tmp_path / "export.json"
    file.write_text(json.dumps(export))
    votes = read_votes(file, "label-studio", 5)
    assert votes.height == N
    assert set(votes["vote"]) == {"first"}
    assert set(votes["row_id"]) == set(table["pair_id"])
    assert set(votes["ms"]) == {3200}
    assert all("alert(1)" in c for c in votes["comment"])
    assert Path(config).read_text() == label_studio.CONFIG

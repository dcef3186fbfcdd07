"""Deployments: what a night takes, how it ends, and what stands between a version and promotion."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from catalog.publish import Published
from pipelines.build import Outcome
from pipelines.cli.app import app
from pipelines.conduct.artifacts import line, markdown
from pipelines.conduct.gate import gated
from pipelines.conduct.nights import Night, _need_server, _schedule, hook
from pipelines.settings import Settings
from pipelines.training import Trained
from prefactory.errors import ConfigError
from tests.catalog.test_history import home, made, numbers  # noqa: F401 - fixtures
from tests.pipelines.test_stopping import Counting, alive, until, write
from tests.prefactory.engines.mock_server import MockServer
from tests.servers import free_port


def test_schedules_and_time_zones():
    schedule = _schedule(Night("n", "0 3 * * *", "Europe/Berlin"))
    assert (schedule.cron, schedule.timezone) == ("0 3 * * *", "Europe/Berlin")
    for cron, zone, told in (("0 3 *", "UTC", "--cron"), ("0 3 * * *", "Mars/X", "--timezone")):
        with pytest.raises(ConfigError, match=told):
            _schedule(Night("n", cron, zone))


def test_a_dead_api_is_one_sentence():
    with pytest.raises(ConfigError, match="no Prefect server answers at PREFECT_API_URL=") as told:
        _need_server("http://127.0.0.1:9/api")
    assert "\n" not in str(told.value)


def test_what_is_no_api_of_prefect_is_one_sentence(tmp_path):
    """Some other server: here of files, one of which is called `health`."""
    (tmp_path / "health").write_text("up")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ConfigError, match="no API of Prefect's, which ends in /api") as told:
            _need_server(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "\n" not in str(told.value)


def test_options_of_deploy_that_do_not_fit_are_refused(tmp_path):
    write(tmp_path, "http://127.0.0.1:9/v1")
    words = ["deploy", str(tmp_path / "recipe.yaml"), "--cron", "0 3 * * *"]
    for more, told in (
        (["--image", "x"], "--work-pool"),
        (["--pages", "localhost:8"], "begins with http://"),
        (["--pages", "http://user:secret@localhost"], "--pages"),
        ([], "Prefect server"),
    ):
        with pytest.raises(ConfigError, match=told) as error:
            app(words + more, standalone_mode=False)
        assert "secret" not in str(error.value)


def test_the_numbers_of_a_run_link_to_its_pages(home):  # noqa: F811 - the fixture
    version = Settings(home).catalog["small"]
    text = markdown(Outcome(Published(version, new=True), []), "http://localhost:8501/")
    at = f"http://localhost:8501/v/small/{version.manifest.version}"
    assert f"[version]({at}) · [report]({at}/report) · [drift]({at}/drift)" in text
    assert "beside small@" in text
    assert "](" not in markdown(Outcome(Published(version, new=False), []))


def test_the_line_of_a_run_says_where_a_price_is_not_known(home):  # noqa: F811 - the fixture
    published = Published(Settings(home).catalog["small"], new=False)
    paid = {"calls": 3, "usd": 0.25, "priced": True}
    assert line(Outcome(published, [], [paid])).endswith("; 3 calls, 0.2500 US dollars")
    unknown = {"calls": 2, "usd": 0.0, "priced": False}
    assert line(Outcome(published, [], [paid, unknown])).endswith("; 5 calls, price unknown")
    assert line(Outcome(published, [])).endswith("; 0 calls, 0.0000 US dollars")


def test_a_hook_is_told_and_a_failing_one_is_a_warning(tmp_path, caplog):
    out = tmp_path / "out"
    program = f"import os; open({str(out)!r}, 'w').write(os.environ['PREFACTORY_MESSAGE'])"
    hook(f'{sys.executable} -c "{program}"', {"message": "it $HOME; failed"})
    assert out.read_text() == "it $HOME; failed"
    hook(None, {})
    hook(f"{sys.executable} -c 'raise SystemExit(4)'", {})
    hook("/no/such/program", {})
    hook("'unclosed", {})
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 3
    assert "ended with 4" in caplog.text


def trained(at, version, accuracy, seed=0):
    folder = at / "models" / f"{version.ref.replace('@', '-')}-reward-{seed}"
    folder.mkdir(parents=True)
    facts = {
        "config": {"epochs": 1},
        "metrics": {"test": {"accuracy": accuracy}},
        "dataset": {"name": version.manifest.name, "version": version.manifest.version},
    }
    (folder / "training.json").write_text(json.dumps(facts))
    return Trained("reward", folder, "", facts)


def outcome(version, *models, new=True):
    return SimpleNamespace(published=SimpleNamespace(version=version, new=new), trained=models)


def test_only_a_better_model_is_promoted(home):  # noqa: F811 - the fixture
    settings = Settings(home)
    catalog = settings.catalog
    first, second, third = (catalog[f"small@{n}"] for n in numbers(home))
    assert gated(outcome(first, trained(home, first, 0.6)), settings, None, promote=True) == []
    assert catalog["small@promoted"].ref == first.ref
    (why,) = gated(outcome(second, trained(home, second, 0.6)), settings, None, promote=True)
    assert why.startswith("reward: held-out accuracy 0.600, not better than 0.600")
    assert catalog["small@promoted"].ref == first.ref
    better = outcome(third, trained(home, third, 0.7))
    assert gated(better, settings, None) == []
    assert catalog["small@promoted"].ref == first.ref  # nobody asked for it
    assert gated(better, settings, None, promote=True) == []
    assert catalog["small@promoted"].ref == third.ref
    (why,) = gated(outcome(first, new=False), settings, None, promote=True)
    assert "nothing new" in why


def test_a_gate_that_does_not_hold_stops_the_promotion(home, tmp_path):  # noqa: F811
    settings = Settings(home)
    version = settings.catalog["small"]
    gates = tmp_path / "gates.yaml"
    gates.write_text("gates:\n  baselines.longer: {min: 2}\n")
    why = gated(outcome(version), settings, gates, promote=True)
    assert why
    assert all(w.startswith("gate ") for w in why)
    assert "promoted" not in str(numbers(home))


def test_the_examples_name_options_that_there_are():
    """The options of both files are those of the command, and the YAML is whole."""
    import re

    import yaml

    from pipelines.cli.app import app

    folder = Path(__file__).parents[2] / "examples" / "night"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    assert set(compose["services"]) == {"prefect", "night"}
    unit = (folder / "prefactory-night.service").read_text()
    (deploy,) = [c.callback for c in app.registered_commands if c.callback.__name__ == "deploy"]
    for text in (compose["services"]["night"]["command"], unit.split("ExecStart=")[1]):
        command = text.splitlines()[0] if text is not compose else text
        assert "prefactory deploy recipe.yaml" in command
        for option in re.findall(r"--([a-z-]+)", command):
            assert option.replace("-", "_") in deploy.__annotations__, option


def test_prefect_takes_what_the_examples_set(monkeypatch):
    """A value that it refuses ends its server at the start."""
    import re

    import yaml
    from prefect.settings import Settings as OfPrefect

    folder = Path(__file__).parents[2] / "examples" / "night"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    places = [service["environment"] for service in compose["services"].values()]
    for name in ("prefect.service", "prefactory-night.service"):
        unit = (folder / name).read_text()
        places.append(dict(re.findall(r"^Environment=(\w+)=(.+)$", unit, re.MULTILINE)))
        assert "PrivateTmp=true" in unit  # SQLite wants a place for files that are not seen
    for variables in places:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            found = OfPrefect().server
        if "PREFECT_SERVER_EVENTS_RETENTION_PERIOD" in variables:
            assert found.events.retention_period.days == 30
            assert found.services.db_vacuum.retention_period.days == 30


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NO systemd-analyze HERE")
def test_the_units_are_verified(tmp_path):
    for path in (Path(__file__).parents[2] / "examples" / "night").glob("*.service"):
        program = Path(sys.executable).parent
        text = path.read_text().replace("/srv/prefactory/.venv/bin", str(program))
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.glob("*.service"))],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def api(tmp_path, monkeypatch):
    """Address of a real Prefect server with its pages."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_API_URL": url,
    }
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "prefect"),
                *("server", "start", "--host", "127.0.0.1", "--port", str(port)),
            ],
            env={**os.environ, **env}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        for name, value in {**env, "PREFECT_API_URL": url}.items():
            monkeypatch.setenv(name, value)

        def up():
            try:
                _need_server(url)
            except ConfigError:
                return False
            return True

        try:
            until(up)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(200)


def ask(api, path, body=None):
    import urllib.request

    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=200) as reply:
        return json.load(reply)


def ended(api, run_id, seconds=200):
    end = time.monotonic() + seconds
    while True:
        state = ask(api, f"/flow_runs/{run_id}")["state"]
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return state["type"], state["message"]
        assert time.monotonic() < end, state
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_night_on_a_real_server(api, tmp_path):
    """Created, triggered, stopped by its budget, completed, its artifacts seen in the browser."""
    counting = Counting()
    told = tmp_path / "told"
    program = "import os; open(os.environ['TOLD'], 'a').write(os.environ['PREFACTORY_STATE'])"
    (tmp_path / "hook.py").write_text(program)
    with MockServer(counting, latency_s=0.02) as server, (tmp_path / "log").open("w") as log:
        write(tmp_path, server.url)
        (tmp_path / "prices.yaml").write_text("mock: [1000, 1000]\n")
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "prefactory"), "deploy", "recipe.yaml",
                "--cron", "0 3 1 1 *", "--timezone", "Europe/Berlin", "--name", "night",
                "--prices", "prices.yaml", "--budget-usd", "0.5", "--workers", "2", "--promote",
                "--on-failure", f"{sys.executable} {tmp_path / 'hook.py'}",
            ],
            cwd=tmp_path, stdout=log, stderr=log,
            env={**os.environ, "PREFACTORY_HOME": str(tmp_path / "home"), "TOLD": str(told)},
        )  # fmt: skip

        def deployment():
            try:
                return ask(api, "/deployments/name/curate/night")
            except OSError:
                return None

        until(deployment)
        made_ = deployment()
        schedule = made_["schedules"][0]["schedule"]
        assert (schedule["cron"], schedule["timezone"]) == ("0 3 1 1 *", "Europe/Berlin")
        run = ask(api, f"/deployments/{made_['id']}/create_flow_run", {})
        state, message = ended(api, run["id"])
        assert state == "FAILED"
        assert "budget" in message
        spent = len(counting.calls)
        assert 0 < spent < 180
        until(lambda: told.exists() and told.read_text() == "Failed")
        more = {"parameters": {"budget_usd": 100}}
        run = ask(api, f"/deployments/{made_['id']}/create_flow_run", more)
        state, message = ended(api, run["id"])
        assert state == "COMPLETED", message
        assert len(set(counting.calls)) == 180
        assert len(counting.calls) <= 180 + 8
        named = ask(api, f"/flow_runs/{run['id']}")["name"]
        assert named.startswith("recipe 20")
        own = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
        logs = lambda: [entry["message"] for entry in ask(api, "/logs/filter", own)]  # noqa: E731
        until(lambda: any("labelers.Pairs" in message for message in logs()), 60)  # sent by and by
        wanted = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
        kinds = {a["key"]: a for a in ask(api, "/artifacts/filter", wanted)}
        assert {"report", "stages", "costs", "progress"} <= set(kinds)
        assert "answered@" in kinds["report"]["data"]
        seen_in_browser(api.removesuffix("/api"), kinds["report"], "answered@")
        process.send_signal(signal.SIGTERM)
        assert process.wait(200) == 3
    handed_over_to_a_worker(api, tmp_path)
    lines = (tmp_path / "log").read_text()
    assert "Traceback" not in lines
    assert f"{named}: completed: answered@" in lines
    assert "failed: " in lines
    assert "not served any more" in lines


def handed_over_to_a_worker(api, folder):
    """A process pool whose worker runs what is published already: no call, as a worker's child."""
    ask(api, "/work_pools/", {"name": "nights", "type": "process"})
    script = Path(sys.executable).parent
    env = {**os.environ, "PREFACTORY_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    words = ("deploy", "recipe.yaml", "--cron", "0 3 1 1 *", "--name", "pooled")
    secret = {"PREFECT_API_URL": api.replace("//", "//me:hunter2sesame@")}
    done = subprocess.run(
        [str(script / "prefactory"), *words, "--work-pool", "nights"],
        cwd=folder, env={**env, **secret}, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "prefect worker start --pool nights" in done.stderr
    made_ = ask(api, "/deployments/name/curate/pooled")
    assert made_["work_pool_name"] == "nights"
    assert "sesame" not in json.dumps(made_) + done.stderr + done.stdout
    run = ask(api, f"/deployments/{made_['id']}/create_flow_run", {})
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.run(
            [str(script / "prefect"), "worker", "start", "--pool", "nights", "--run-once"],
            env=env, stdout=log, stderr=log, check=False, timeout=300,
        )  # fmt: skip
    assert worker.returncode == 0, (folder / "worker.log").read_text()
    state, message = ended(api, run["id"])
    assert state == "COMPLETED", (message, (folder / "worker.log").read_text())


def seen_in_browser(pages, artifact, text):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        page = browser.new_page()
        page.goto(f"{pages}/artifacts/artifact/{artifact['id']}")
        page.get_by_text(text).first.wait_for(timeout=200_000)
        browser.close()
    assert alive(os.getpid())

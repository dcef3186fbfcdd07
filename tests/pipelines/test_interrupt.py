"""Ctrl-C ends Prefect's temporary servers, which only a private of Prefect names."""

import subprocess
import sys

from prefect.server.api import server

from pipelines.cli.interrupt import temporary_servers


def test_the_private_that_names_temporary_servers_is_still_there(monkeypatch):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = server.SubprocessASGIServer(port=1)
        monkeypatch.setattr(started, "server_process", process)
        assert started in server.SubprocessASGIServer._instances.values()
        assert process in temporary_servers()
        server.SubprocessASGIServer._instances.pop(1)
        process.terminate()


def test_a_prefect_without_it_is_no_error(monkeypatch):
    monkeypatch.delattr(server, "SubprocessASGIServer")
    assert temporary_servers() == []
    monkeypatch.delitem(sys.modules, "prefect.server.api.server")
    assert temporary_servers() == []

"""`prefactory values list | show | check`."""

import json

from typer.testing import CliRunner

from catalog.values import load, names
from pipelines.cli.app import app


def cli(*words):
    return CliRunner().invoke(app, ["values", *words])


def test_list():
    shown = cli("list")
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in names())
    rows = {row["system"]: row for row in json.loads(cli("list", "--json").stdout)}
    assert rows["cvc"]["leaves"] == 50
    assert rows["dark_triad"]["sensitive"]


def test_show():
    shown = cli("show", "schwartz10").stdout
    assert "Benevolence benevolence - The welfare of the people one is close to." in shown
    assert "(against conservation)" in " ".join(shown.split())
    assert "from memory" in shown
    data = json.loads(cli("show", "schwartz10", "--json").stdout)
    assert [n["id"] for n in data["nodes"]] == [n.id for n in load("schwartz10").nodes]


def test_check(tmp_path):
    assert (
        "3 of level dimension, 12 of level core, 50 of level derived" in cli("check", "cvc").stdout
    )
    file = tmp_path / "mine.yaml"
    file.write_text(
        "system: mine\ntitle: t\nkind: values\nlevels: [a]\n"
        "nodes:\n  - {id: x, label: Thrift}\n  - {id: y, label: Y, say: [keep y]}\n"
    )
    shown = cli("check", str(file)).stdout
    assert "1 of 2 have no `say`" in shown
    assert "x: 'give weight to thrift'" in shown


def test_mistakes_are_a_message_and_exit_code_2(prefactory_in, tmp_path):
    (tmp_path / "bad.yaml").write_text("system: mine\nlevels: [a]\nnodes: []\n")
    done = prefactory_in(tmp_path, "values", "check", "bad.yaml")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for part in ("bad.yaml: line 1: title: field required", "line 3: nodes: tuple should have at"):
        assert part in done.stderr

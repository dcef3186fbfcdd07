"""`prefactory serve` by its plain pages: what they tell, who may do what, what a text can do."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipelines.api import Recipe
from pipelines.progress import Progress
from pipelines.serve.charts import trend
from pipelines.serve.routes import ROUTES, create_app
from pipelines.serve.running import FOLDER, announced, running
from pipelines.serve.site import ROLES
from prefactory.engines.accounts import Accounts, Budget
from review import people
from review.app.guard import POLICY
from review.store import registry
from tests.helpers import until
from tests.review.client import Client, serving_app
from tests.review.test_app import Inert


@pytest.fixture(scope="module")
def port(home):
    with serving_app(create_app(home, ("127.0.0.1", "localhost"))) as port:
        yield port


def person(home, port, name="Olga", role="owner"):
    token = people.invite(registry(home.home / "serve", "catalog"), name, role, ROLES)
    client = Client(port)
    assert client.ask("POST", f"/join/{token}", {})[0].status == 303
    return client


@pytest.fixture(scope="module")
def olga(home, port):
    return person(home, port)


def versions(home):
    return home.catalog.versions("talks")


def links(text):
    return {u.replace("&amp;", "&") for u in re.findall(r'(?:href|src)="(/[^"]*)"', text)}


def test_every_page_is_reached_by_links_and_is_inert(home, olga):
    seen, waiting, count = set(), ["/"], Counter()
    while waiting:
        path = waiting.pop()
        kind = re.sub(r"row/[^/]+", "row/X", path.partition("?")[0])
        kind += "?" if "?" in path else ""
        count[kind] += path not in seen
        if path in seen or count[kind] > 3:
            continue
        seen.add(path)
        if path.startswith("/static"):
            continue
        status, text = olga.get(path)
        assert status in (200, 204), (path, text)
        headers = {k.lower(): v for k, v in olga.heard[-1][2].items()}
        assert headers["x-content-type-options"] == "nosniff"
        if path.endswith(("/report", "/drift", ".svg", "/audit")):
            assert headers["content-security-policy"].startswith("sandbox"), path
            assert "default-src 'none'" in headers["content-security-policy"]
            continue
        assert headers["content-security-policy"] == POLICY, path
        Inert(path).feed(text)
        shown = re.sub(r'value="[^"]*"', "", text)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", shown), path
        assert not re.search(r"<(script|img)[^>]*(alert|onerror|evil)", text), path
        waiting += [u for u in sorted(links(text)) if u not in seen]
    reached = set(count)
    for want in ("/", "/runs", "/diff", "/reviews", "/people", "/d/talks", "/models/talks-reward-1",
                 "/models/talks-reward-1/report"):  # fmt: skip
        assert want in reached, want
    for want in ("report", "ledger", "ledger?", "lineage", "lineage.svg", "table/pairs",
                 "table/annotations", "row/X", "row/X/lineage", "row/X/lineage.svg"):  # fmt: skip
        assert any(kind.endswith(want) for kind in reached), want


def test_a_dataset_tells_its_versions_trends_and_models(home, olga):
    first, second = versions(home)
    page = olga.get("/d/talks")[1]
    table = page[page.index("<h2>Versions") :]
    assert table.index(f">{second.manifest.version}<") < table.index(f">{first.manifest.version}<")
    assert "rows of pairs" in page
    assert "rows of pairs. " in page, "the chart is told to those who do not see it"
    assert "0.750" in page
    assert "talks-reward-1" in page


def test_a_version_tells_what_left_and_the_ledger_finds_it(home, olga):
    first, _ = versions(home)
    base = f"/v/talks/{first.manifest.version}"
    page = olga.get(base)[1]
    entry = first.ledger().row(0, named=True)
    assert f"{entry['reason']} " in page
    page = olga.get(f"{base}/ledger?step={entry['step']}&reason={entry['reason']}")[1]
    assert entry["row_id"][:12] in page
    assert "1 row<" in page.replace("\n", "<")
    assert "0 rows" in olga.get(f"{base}/ledger?q=nothing+of+the+kind")[1]
    found = olga.get(f"/search?q={entry['row_id'][:9]}")[1]
    assert entry["reason"] in found
    assert f"{base}/row/{entry['row_id']}" in found


def test_a_row_has_an_address_with_its_way_votes_and_readers(home, olga):
    first, second = versions(home)
    votes = second.frame("annotations").collect()
    turned = votes.filter(vote="second")["row_id"].item()
    status, page = olga.get(f"/v/talks/{first.manifest.version}/row/{turned}")
    assert status == 200
    assert "Good answer" in page
    assert "person-" in page, "a pseudonym"
    assert "Ada" not in page
    assert "talks-reward-1" in page
    assert "turned round or edited from it" in page
    there = second.frame("pairs").filter(reviewed_from=turned).collect()["pair_id"].item()
    page = olga.get(f"/v/talks/{second.manifest.version}/row/{there}")[1]
    assert "made" in page
    assert "second" in page
    assert olga.get(f"/v/talks/{first.manifest.version}/row/{'0' * 32}")[0] == 404


def test_a_difference_is_that_of_catalog_diff(home, olga):
    first, second = versions(home)
    page = olga.get(f"/diff?a={first.ref}&b={second.ref}")[1]
    assert "1 relabelled" in page
    assert "human_votes" in page
    assert "1 removed" in page
    assert "human_tie" in page


def test_only_an_owner_changes_anything(home, port, olga):
    first, second = versions(home)
    base = f"/v/talks/{first.manifest.version}"
    reader = person(home, port, "Rita", "reader")
    page = reader.get(base)[1]
    assert "Tag this version" not in page
    mark = re.search(r'name="mark" value="(\w+)"', page)[1]
    for path in (f"{base}/tag", f"{base}/rollback", "/people", "/people/dismiss"):
        assert reader.post(path, {"mark": mark, "tag": "good", "name": "Olga"})[0] == 403, path
    assert reader.get("/people")[0] == 403
    mark = re.search(r'name="mark" value="(\w+)"', olga.get(base)[1])[1]
    assert olga.post(f"{base}/tag", {"tag": "good"})[0] == 403, "a form without its mark"
    assert olga.post(f"{base}/tag", {"mark": mark, "tag": "a/b"})[0] == 409
    assert ">good</span>" in olga.post(f"{base}/tag", {"mark": mark, "tag": "good"})[1]
    assert home.catalog.get("talks@good").ref == first.ref
    olga.post(f"{base}/rollback", {"mark": mark})
    assert home.catalog.get("talks").ref == first.ref
    assert "Rolled back" in olga.get("/d/talks")[1]
    olga.post(f"/v/talks/{second.manifest.version}/rollback", {"mark": mark})
    olga.post(f"{base}/untag", {"mark": mark, "tag": "good"})
    assert home.catalog.get("talks").ref == second.ref
    olga.post("/people/dismiss", {"mark": mark, "name": "Rita"})
    assert reader.get("/")[0] == 401
    link = olga.post("/people", {"mark": mark, "name": "Rob", "role": "reader"})[1]
    token = re.search(r"/join/([\w-]+)<", link)[1]
    assert Client(port).ask("POST", f"/join/{token}", {})[0].status == 303
    assert "no role" in olga.post("/people", {"mark": mark, "name": "X", "role": "adjudicator"})[1]


def test_nothing_is_told_without_a_session_or_under_another_name(home, port):
    nobody = Client(port)
    for (method, path), handler in ROUTES.items():
        if handler.role == "anybody":
            continue
        plain = re.sub(r"\{[^}]*\}", "talks", path)
        answer, text = nobody.ask(method, plain, {} if method == "POST" else None)
        assert answer.status == 401, path
        assert "Good answer" not in text
    assert nobody.ask("GET", "/", Host="evil.example")[0].status == 400
    assert nobody.ask("POST", "/people", {}, Origin="http://evil.example")[0].status == 400


@pytest.mark.parametrize("path", [
    "/v/talks/..", "/v/..%2F..%2Fetc/1", "/v/.hidden/1", "/d/..", "/d/none", "/models/..%2Fx",
    "/models/none", "/v/talks/none/report", "/v/talks/%2e%2e/report", "/nothing",
])  # fmt: skip
def test_addresses_lead_out_of_nowhere(home, olga, path):
    assert olga.get(path)[0] == 404


def test_a_report_that_was_changed_is_not_shown(home, olga):
    first, _ = versions(home)
    page, before = Path(first.report), Path(first.report).read_text()
    page.write_text(before + "<p>more</p>")
    try:
        status, text = olga.get(f"/v/talks/{first.manifest.version}/report")
        assert status == 404
        assert "not the one that was published" in text
    finally:
        page.write_text(before)


def test_a_run_says_what_it_does_and_costs_until_it_ends(tmp_path):
    progress = Progress("nightly")
    accounts = Accounts({}, Budget(usd=2.0))
    with announced(tmp_path, progress, accounts):
        progress.begin("labelers.Judge", 4, "shards")
        progress.advance(3)
        until(lambda: running(tmp_path))
        (run,) = running(tmp_path)
        assert (run.name, run.pid, run.budget_usd) == ("nightly", os.getpid(), 2.0)
        assert not run.ended
    assert running(tmp_path) == []


SEEN = []


def watching(request):
    """A judge that looks at what the runs of the home say while it is asked."""
    home = Path(os.environ["PREFACTORY_HOME"])
    until(lambda: running(home))
    SEEN.extend(running(home))
    return "[[A]]"


def test_a_real_run_is_in_progress_while_it_asks_and_not_after(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path))
    SEEN.clear()
    rows = tmp_path / "pairs.jsonl"
    rows.write_text(json.dumps({"prompt": "Q?", "chosen": "Yes.", "rejected": "No."}) + "\n")
    judge = {"engine": "scripted", "function": f"{__name__}.watching"}
    recipe = Recipe(
        "watched", source={"path": str(rows)}, publish={"pays": False},
        steps=[{"labelers.JudgePairs": {"judge": judge}}],
    )  # fmt: skip
    recipe.run(tmp_path)
    assert SEEN[0].name == "watched"
    assert not SEEN[0].ended
    assert running(tmp_path) == []


def test_a_run_that_was_killed_is_told_as_such(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from pipelines.progress import Progress;"
        "from pipelines.serve.running import announced, running;"
        "home = Path(sys.argv[1]); p = Progress('lost');\n"
        "with announced(home, p, None):\n"
        "  while not running(home): time.sleep(.01)\n"
        "  os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (run,) = running(tmp_path)
    assert run.name == "lost"
    assert run.ended
    for name, text in (("a.json", "{"), ("b.json", "[]"), ("c.json", json.dumps({"name": 1}))):
        (tmp_path / FOLDER / name).write_text(text)
    assert len(running(tmp_path)) == 1


def test_trends_have_gaps_and_need_two_points():
    assert trend("x", [("a", 1.0), ("b", None)]) is None
    found = trend("x", [("a", 1.0), ("b", None), ("c", 20_000.0)])
    assert found.chart.count("<circle") == 2
    assert "b not known" in found.chart
    assert "20k" in found.chart

"""The page: dataset text is text, in the source and in a real browser."""

import importlib.util
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from audit import Intake, Options, audit
from audit.gates import Bound, Gates
from filters.contamination.benchmarks import benchmark
from pipelines.cli.app import app
from tests.audit.cases import clean, embed, rows, table

EVIL = (
    "<script>alert(1)</script></script><img src=x onerror=alert(2)> {{ 7 * 7 }} javascript:x \" '"
)
EVIL += " &lt; </style> \u2028 \x00\x1b"
CHROMIUM = Path("/usr/bin/chromium")


def hostile():
    """Every text of the data, every name and every example is an attack."""
    n = 80
    found = [(f"{EVIL} {p}", f"{EVIL} {c}", f"{r} {EVIL}") for p, c, r in rows(n)]
    found += [(EVIL, "a", "b"), (EVIL, "b", "a"), (f"{EVIL} more", EVIL, EVIL)]
    n += 3
    return table(
        found,
        topic=[EVIL + str(i % 2) for i in range(n)],
        split=["train" + EVIL, "test" + EVIL] * 41 + ["test" + EVIL],
        **{f"chosen_score_{EVIL}": [float(i % 3) for i in range(n)]},
        **{f"rejected_score_{EVIL}": [1.0] * n},
    ).with_columns(
        source=pl.lit(EVIL),
        source_id=pl.lit(EVIL),
        chosen_model=pl.lit(EVIL),
        rejected_model=pl.lit("b"),
    )


@pytest.fixture(scope="module")
def page():
    bench = benchmark(EVIL, pl.Series([EVIL, f"{EVIL} more words to be found here"]))
    options = Options(embed=embed, encoder="letters", against=(bench,), permutations=20)
    intake = Intake(name=EVIL, layout=EVIL, license=EVIL, digest=EVIL)
    gates = Gates(bounds={"identical.pairs": Bound(max=0.0)})
    return audit(hostile(), options, intake, gates).page


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.words = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_dataset_text_is_escaped(page):
    tags = Tags()
    tags.feed(page)
    assert sum(tag == "script" for tag, _ in tags.found) == 1
    assert sum(tag == "style" for tag, _ in tags.found) == 1
    assert not [tag for tag, _ in tags.found if tag in ("img", "iframe", "object", "base")]
    for _, attrs in tags.found:
        assert not [name for name in attrs if name.startswith("on")]
        assert not (attrs.get("href") or "").startswith("javascript")
    assert "<script>alert(1)</script>" in "".join(tags.words)
    assert "{{ 7 * 7 }}" in page
    assert "\x00" not in page
    assert "\x1b" not in page


def test_the_page_loads_nothing(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    assert "default-src &#39;none&#39;" in policy
    assert not re.search(r'(?:src|href)="(?!#|data:|findings.parquet)', page)


def test_the_same_audit_gives_the_same_page():
    one, two = (audit(clean(60), Options(embeddings=False)).page for _ in range(2))
    assert one == two


def test_every_finding_is_on_the_page():
    found = audit(clean(60), Options(embeddings=False))
    html = found.page
    for finding in found.findings:
        skipped = finding.report.skipped is not None
        assert (f'id="c-{finding.check}"' in html) is not skipped


def test_the_file_has_every_row_of_a_large_finding_and_the_page_says_how_many_it_lists(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("audit.page._NAMED", 100)
    data = tmp_path / "pairs.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for i in range(300):
            leak = "\n\nUser: and then?" if i % 2 else ""
            row = {
                "prompt": f"What is the number {i} good for?",
                "chosen": f"Number {i} is good for counting to {i}.{leak}",
                "rejected": f"Nobody needs number {i}, or so they say.",
            }
            file.write(json.dumps(row) + "\n")
    words = ["audit", str(data), "--no-embeddings", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    named = pl.read_parquet(tmp_path / "out" / "findings.parquet").filter(finding="role_leaks")
    assert sorted(named["line"]) == list(range(2, 301, 2))
    assert named["row"].n_unique() == 150
    page = (tmp_path / "out" / "audit.html").read_text("utf-8")
    section = page.partition('id="c-role_leaks"')[2].partition("</section>")[0]
    assert 'The first 100 of 150; all are in <a href="findings.parquet">' in section
    listed = section.partition('<ol class="named"')[2].partition("</ol>")[0]
    assert listed.count("<li ") == 100


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="NO CHROMIUM")
def test_in_a_real_browser(page, tmp_path, monkeypatch):
    if importlib.util.find_spec("playwright") is None:
        monkeypatch.syspath_prepend("/tmp/pwpath")
    sync_api = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "audit.html"
    path.write_text(page, "utf-8")
    said = []
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=200_000
        )
        for width, scheme in ((1280, "light"), (390, "dark")):
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            tab.set_default_timeout(200_000)
            tab.on("dialog", lambda d: (said.append(d.message), d.dismiss()))
            tab.on("pageerror", lambda e: said.append(str(e)))
            tab.on("console", lambda m: said.append(m.text))
            tab.on("request", lambda r: r.url.startswith("file:") or said.append(r.url))
            tab.goto(path.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate("document.scripts.length") == 1
            total = tab.locator(".finding:visible").count()
            assert total > 10
            tab.keyboard.press("/")
            tab.keyboard.type("no such words anywhere")
            tab.wait_for_selector("#none", state="visible")
            tab.keyboard.press("Escape")
            assert tab.locator(".finding:visible").count() == total
            tab.keyboard.press("j")
            assert tab.evaluate("document.activeElement.classList.contains('finding')")
            tab.select_option("#severity", "3")
            faults = tab.locator(".finding:visible").count()
            assert 0 < faults < total
            tab.fill("#q", "alert(1)")
            tab.wait_for_selector("#found:has-text('example')")
            before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            tab.click("#theme")
            assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before
            tab.close()
        browser.close()
    assert said == []
    assert "playwright" in sys.modules

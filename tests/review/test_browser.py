"""A person in Chromium, with the keyboard only: from the link to the published version."""

import http.client
import random
import re
import shutil
import sys
import threading
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from catalog.versions import Catalog, verify
from pipelines.api import Recipe
from pipelines.review.publishing import publish
from prefactory.testing import assistant, pairs, responses, system, user
from review import people
from review.annotations import annotations_of
from review.settings import Settings
from review.store import create, open_review
from tests.review.client import ROOT, Client, newcomer, process, serving
from tests.review.conftest import some_pairs
from tests.review.test_app import EVIL
from tests.servers import free_port

AXE = Path(__file__).parent / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
PATIENCE_MS = 200_000
TASK = "document.querySelector('#vote')?.dataset.task"
READY = "(!document.querySelector('#vote') || document.activeElement.id === 'title')"
"""The next question has the focus: its keys are taken from then on."""


@pytest.fixture
def url():
    """A file will do."""


@contextmanager
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "needs chromium: the review app is NOT tested in a browser (apt install chromium)"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium, args=QUIET, timeout=PATIENCE_MS
        )
        yield opened
        opened.close()


def page_of(opened, width, scheme):
    narrow = width < 600
    context = opened.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme,
        is_mobile=narrow, has_touch=narrow,
    )  # fmt: skip
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.problems = []
    page.on("console", lambda m: page.problems.append(m.text))
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("dialog", lambda d: page.problems.append(f"dialog {d.message}"))
    return page


def faults(page):
    """What axe finds."""
    code = AXE.read_text() + f"; axe.run(document, {{runOnly: {RULES}}})"
    found = page.evaluate(code)
    assert len(found["passes"]) > 10
    return [(v["id"], [n["target"] for n in v["nodes"]]) for v in found["violations"]]


def press(page, key):
    """Vote by a key, and wait for the next question or the end."""
    before = page.evaluate(TASK)
    page.keyboard.press(key)
    page.wait_for_function(f"t => {TASK} !== t && {READY}", arg=before)


def enter(page, link):
    page.goto(link)
    page.wait_for_function("document.activeElement.matches('main button')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#vote")


def test_five_pairs_by_the_keyboard(make):
    long = "A sentence of a long answer. " * 200
    table = pl.concat([some_pairs(4), pairs(("Long?", f"{long} Good.", f"{long} Bad."))])
    review = make(table)
    review.write_guideline("# Read\n\n- twice")
    with serving(review) as port, browser() as opened:
        token = people.invite(review, "Ada")
        page = page_of(opened, 1400, "light")
        enter(page, f"http://127.0.0.1:{port}/join/{token}")
        first = page.evaluate(TASK)
        press(page, "1")
        second = page.evaluate(TASK)
        page.evaluate("document.querySelector('#work').classList.add('htmx-added')")
        page.keyboard.press("u")  # comes before the buttons do anything: it is kept
        assert page.evaluate(TASK) == second
        page.evaluate(
            """() => {
            document.querySelector('#work').classList.remove('htmx-added');
            document.dispatchEvent(new Event('htmx:after:swap'));
            }"""
        )
        page.wait_for_function(f"t => {TASK} === t && {READY}", arg=first)
        page.keyboard.press("e")
        page.wait_for_selector("textarea[name=edit_a]")
        page.wait_for_function("document.activeElement.name === 'edit_a'")
        page.keyboard.press("Control+Home")
        page.keyboard.type("1 2 3, edited: ")
        page.keyboard.press("Escape")
        page.keyboard.press("f")
        page.keyboard.type("odd")
        page.keyboard.press("Escape")
        page.keyboard.press("d")
        page.wait_for_selector(".diff ins")
        page.keyboard.press("g")
        page.wait_for_selector("#guidelines[open]")
        assert faults(page) == []
        press(page, "5")
        for _ in range(4):
            if page.query_selector(".folded"):
                page.keyboard.press("x")
                assert page.query_selector(".folded") is None
            press(page, "3")
        page.wait_for_selector("text=Nothing is left")
        assert page.problems == []
    votes = annotations_of(review).filter("counts")
    assert votes.height == 5
    assert Counter(votes["strength"]) == {2: 1, 0: 4}
    edited = votes.filter(pl.col("answer").is_not_null())
    assert "1 2 3, edited: " in edited["answer"].item()
    assert edited["flag"].item() == "odd"


@pytest.mark.slow
def test_rates_ranks_tags_and_steps_by_the_keyboard(make):
    table = responses(("Q?", "First.\n\nSecond."), ("Q?", "Other."))
    cases = {
        "rate": ({"attributes": ["truth", "style"]}, "45", '{"style":5,"truth":4}'),
        "steps": ({"where": "response_id is not null"}, "13", '["right"'),
        "tags": ({"tags": ["math", "code"]}, "2", '["code"]'),
        "rank": ({}, "ba", '"order"'),
    }
    with browser() as opened:
        for task, (settings, keys, said) in cases.items():
            review = make(table, name=f"kinds-{task}", task=task, **settings)
            with serving(review) as port:
                page = page_of(opened, 390, "dark")
                token = people.invite(review, "Ada")
                enter(page, f"http://127.0.0.1:{port}/join/{token}")
                assert faults(page) == [], task
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), task
                if task == "steps" and page.locator(".steps > li").count() == 1:
                    keys = "1"
                for key in keys:
                    page.keyboard.press(key)
                press(page, "Enter")
                assert page.problems == [], task
            assert said in annotations_of(review)["answer"][0].replace(" ", ""), task


def sound(page, address):
    """Open a view: no word in the console, nothing from axe, nothing wider than the window."""
    page.goto(address)
    assert page.problems == [], address
    assert faults(page) == [], address
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_hostile_texts_do_nothing_in_any_view(make, width, scheme):
    talk = [system(EVIL), user(EVIL), assistant(EVIL, (EVIL, {"x": EVIL})), user(EVIL)]
    table = pairs((talk, EVIL + "A", EVIL + "B"), ("Long?", "x" * 1_000_000, EVIL))
    table = table.with_columns(source=pl.lit(EVIL), chosen_model=pl.lit(EVIL))
    review = make(table, name=f"evil{width}", people=3)
    review.write_guideline(EVIL)
    with serving(review) as port, browser() as opened:
        for name, choice in (("Ada", "a2"), ("Bob", "b2")):
            person = newcomer(review, port, name)
            while person.fields:
                with review.db.read() as work:
                    first = work.value(
                        "select first_shown from assignment where id = ?", person.fields["task"]
                    )
                side = choice if first else {"a2": "b2", "b2": "a2"}[choice]
                person.vote(side, comment=EVIL, flag=EVIL)  # the two differ on every row
        base = f"http://127.0.0.1:{port}"
        page = page_of(opened, width, scheme)
        token = people.invite(review, "Eve", "owner")
        sound(page, f"{base}/join/{token}")
        enter(page, f"{base}/join/{token}")
        for _ in range(2):
            assert faults(page) == []
            page.keyboard.press("d")
            page.wait_for_selector(".diff")
            page.keyboard.press("e")
            page.wait_for_selector("textarea[name=edit_a]")
            assert faults(page) == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.keyboard.press("Escape")
            press(page, "1")
        for path in ("/", "/history", "/guidelines", "/overview", "/decide", "/bye"):
            sound(page, base + path)
        page.goto(f"{base}/decide")
        for path in page.evaluate(
            "[...document.querySelectorAll('a[href^=\"/decide/\"]')].map(a => a.pathname)"
        ):
            sound(page, base + path)
        page.goto(f"{base}/history")
        page.click("text=What did the machine say")
        page.wait_for_selector(".facts")
        assert faults(page) == []
        assert page.problems == []


@pytest.mark.slow
def test_hostile_answers_do_nothing_in_the_other_tasks(make):
    table = responses(("Q? " + EVIL, f"{EVIL}\n\n{EVIL}"), ("Q? " + EVIL, "Other " + EVIL))
    cases = {"rate": {"attributes": ["truth"]}, "steps": {}, "tags": {"tags": ["math"]}, "rank": {}}
    with browser() as opened:
        for task, settings in cases.items():
            review = make(table, name=f"evil-{task}", task=task, **settings)
            review.write_guideline(EVIL)
            with serving(review) as port:
                page = page_of(opened, 390, "light")
                token = people.invite(review, "Eve", "owner")
                enter(page, f"http://127.0.0.1:{port}/join/{token}")
                for path in ("/", "/history", "/overview"):
                    sound(page, f"http://127.0.0.1:{port}{path}")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_fifty_pairs_of_the_quickstarts_answers_are_labelled_and_published(
    tmp_path, width, scheme, monkeypatch
):
    import filters
    import labelers

    home = tmp_path / "home"
    monkeypatch.setenv("PREFACTORY_HOME", str(home))
    source = {"path": str(ROOT / "examples" / "quickstart"), "layout": "helpsteer2"}
    make_pairs = labelers.Pairs(objective="helpfulness", strategy="all", min_margin=1)
    steps = [filters.Quality(), make_pairs]
    before = Recipe("rated", source=source, steps=steps, seed=7, publish={"pays": False}).run(home)
    said = []
    with process(home, "rated", free_port(), "--rows", "50") as running, browser() as opened:
        page = page_of(opened, width, scheme)
        enter(page, running.link)
        for _ in range(50):
            key = "12345"[len(said) % 5] if len(said) else "5"
            said.append(key)
            press(page, key)
            if len(said) % 25 == 0:
                assert faults(page) == []
        page.wait_for_selector("text=Nothing is left")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.problems == []
    review = open_review(home, "rated")
    votes = annotations_of(review)
    assert votes.height == 50
    strengths = {"1": 2, "2": 1, "3": 0, "4": 1, "5": 2}
    assert votes["strength"].to_list() == [strengths[key] for key in said]
    done = publish(review, home=home)
    version = done.version
    assert version.ref.startswith("rated@")
    assert version.ref != before.ref
    assert verify(version) == []
    ties = said.count("3")
    assert done.counts["confirmed"] + done.counts["turned"] == 50 - ties
    assert done.counts["dropped as human_tie"] == ties
    published = version.frame("annotations").drop("split").collect()
    assert published.drop("person").equals(votes.sort("at", "vote_id").drop("person"))
    rows = version.frame("pairs").collect()
    assert rows.filter(label_source="human").height == 50 - ties
    old = before.frame("pairs").collect()
    assert rows.height == old.height - ties
    sides = dict(old.select("pair_id", "split").iter_rows())
    moved = rows.filter(pl.col("split") != pl.col("reviewed_from").replace_strict(sides))
    assert moved.height == 0, "what was test stays test"
    turned = set(votes.filter(vote="second")["row_id"])
    assert set(rows.filter("human_turned")["reviewed_from"]) == turned
    report = Path(version.report).read_text()
    assert "What people said" in report
    assert publish(review, home=home).version.ref == version.ref, "nothing new, nothing published"
    assert len(Catalog(home).versions("rated")) == 2


def crowd(review, port, persons, votes, rng, script, patience=False):
    """Simulated people without thinking time, each on a connection of its own."""
    failures = []
    left = threading.Semaphore(votes)

    def work(name):
        try:
            person = newcomer(review, port, name, in_place=True)
            mine = random.Random(f"{rng}{name}")
            while person.fields and left.acquire(blocking=False):
                choice = mine.choice(["a2", "a1", "tie", "b1", "b2", "bad", "skip"])
                good_is_a = person.page.index("Good answer") < person.page.index("Bad answer")
                row = re.search(r"Question (\d+)\?", person.page)[1]
                task = person.fields["task"]
                while True:
                    status, page = person.vote(choice)
                    if status != 429:
                        break
                    time.sleep(0.2)
                assert status == 200, page
                assert person.fields.get("task") != task
                script.append((name, int(row), choice, good_is_a))
        except Exception as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(f"P{i:02d}",)) for i in range(persons)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def meant(choice, good_is_a):
    """What a click meant, about the stored sides: the good answer is the first."""
    if choice[0] not in "ab" or choice == "bad":
        return choice
    return "first" if (choice[0] == "a") == good_is_a else "second"


def checked(review, script, table):
    stored = annotations_of(review, pseudonyms=False)
    numbers = {
        r["pair_id"]: int(re.search(r"\d+", r["prompt"][0]["content"])[0]) for r in table.to_dicts()
    }
    got = Counter(
        (r["person"], numbers[r["row_id"]], r["vote"], r["first_shown"]) for r in stored.to_dicts()
    )
    assert got == Counter((n, row, meant(c, good), good) for n, row, c, good in script)
    assert max(Counter((n, row) for n, row, *_ in got).values()) == 1


def test_six_people_at_once(make):
    table = some_pairs(30)
    review = make(table, people=3)
    script = []
    with serving(review) as port:
        crowd(review, port, 6, 10_000, 1, script)
    assert len(script) == 90
    checked(review, script, table)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_people_at_once_and_ten_thousand_votes(make):
    table = some_pairs(4000)
    review = make(table, people=3, name="crowd")
    script = []
    with serving(review) as port:
        crowd(review, port, 20, 10_000, 1, script)
    assert len(script) == 10_000
    checked(review, script, table)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_nothing_that_was_acknowledged_is_lost_when_the_server_is_killed(tmp_path):
    """`kill -9` at 50 random moments under five people who vote without a pause."""
    home = tmp_path / "home"
    home.mkdir()
    create(home, "pairs", some_pairs(3000), Settings(people=5), {}).db.close()
    port, rng = free_port(), random.Random(7)
    told, tokens, failures = {}, {}, []
    over = threading.Event()

    def work(name):
        person, choices, draw = None, {}, random.Random(name)
        while not over.is_set():
            try:
                if person is None:
                    person = Client(port, in_place=True).join(tokens[name])
                task, nonce = person.fields["task"], person.fields["nonce"]
                # until it is acknowledged, the same form with the same choice again
                choice = choices.setdefault(nonce, draw.choice(["a2", "tie", "b2"]))
                status, _ = person.vote(choice)
                if status == 200 and person.fields.get("task") != task:
                    assert nonce not in told
                    told[nonce] = (task, choice)
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            except Exception as error:
                failures.append(error)
                raise

    threads = []
    for _ in range(50):
        with process(home, "pairs", port) as running:
            review = open_review(home, "pairs")
            if not threads:
                tokens |= {f"P{i}": people.invite(review, f"P{i}") for i in range(5)}
                threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in tokens]
                for thread in threads:
                    thread.start()
            review.db.close()
            time.sleep(rng.uniform(0.2, 1.5))
            running.kill()
    over.set()
    for thread in threads:
        thread.join(90)
    assert not failures
    review = open_review(home, "pairs")
    with review.db.read() as work_:
        stored = {r["nonce"]: r for r in work_.all("select * from vote")}
        assert work_.value("pragma integrity_check") == "ok"
        doubled = work_.value(
            "select count(*) from (select 1 from vote group by task, person having count(*) > 1)"
        )
    assert doubled == 0
    assert len(told) > 100
    assert not [n for n in told if n not in stored], "acknowledged and lost"
    for nonce, (task, choice) in told.items():
        assert stored[nonce]["assignment"] == task
        assert (choice == "tie") == (stored[nonce]["choice"] == "tie")
    counts = f"50 kills, {len(told):,} votes acknowledged, {len(stored):,} stored"
    sys.stdout.write(f"{counts}, 0 lost, 0 doubled\n")

"""The app by its plain forms: who may do what, what is told before the vote, what a text can do."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from prefactory.testing import assistant, pairs, responses, system, user
from review import people
from review.annotations import annotations_of
from review.app.forms import side_of
from review.app.guard import POLICY, Rates
from review.app.text import html_of
from review.settings import Settings
from review.store import create
from tests.review.client import Client, newcomer, serving
from tests.review.conftest import some_pairs

HERE = Path(__file__).parent
APP = HERE.parents[1] / "review" / "app"
EVIL = (
    '<script>alert(1)</script><img src=x onerror=alert(2)><a href="javascript:alert(3)">x</a>'
    "[link](javascript:alert(4)) ![i](http://evil.example/x.png) <http://evil.example> "
    "http://evil.example {{ 7 * 7 }} \" ' </main> \u202eabc\u2066 \x00\x1b"
)


@pytest.fixture
def url():
    """These tests are about pages: a file will do."""


def answers(n=4):
    rows = [(f"Question {p}?", f"Answer {p}.{i}") for p in range(3) for i in range(n)]
    return responses(*rows)


def test_htmx_and_axe_are_the_files_that_their_notes_name():
    for folder, name in ((APP / "static", "htmx"), (HERE, "axe")):
        note = json.loads((folder / f"{name}.json").read_text())
        data = (folder / f"{name}.min.js").read_bytes()
        assert hashlib.sha256(data).hexdigest() == note["sha256"], name


def test_a_person_votes_undoes_and_goes_on_without_a_script(make):
    review = make(some_pairs(3))
    review.write_guideline("# Be *fair*")
    with serving(review) as port:
        ada = newcomer(review, port)
        assert "Be <em>fair</em>" in ada.page
        first = ada.fields["task"]
        assert ada.vote("a2", comment="good", reason=["clearer", "forged"], flag="odd")[0] == 200
        second = ada.fields["task"]
        assert second != first
        assert "<b>1</b> done" in ada.page
        ada.post("/undo")
        assert ada.fields["task"] == first
        assert "your last answer" in ada.page
        assert ">good</textarea>" in ada.page
        ada.vote("b1")
        assert ada.fields["task"] == second, "what was in hand is still in hand"
        again = Client(port)
        again.cookie = ada.cookie
        again.get("/")
        assert again.fields["task"] == second
        ada.vote("tie")
        ada.vote("bad")
        assert "Nothing is left for you" in ada.page
    votes = annotations_of(review)
    assert votes["vote"].to_list()[1] == "withdrawn"
    held = votes.filter("counts")
    assert held.height == 3
    assert set(held["guideline"]) == {1}
    first_vote = votes.row(0, named=True)
    assert first_vote["reasons"] == ["clearer"]
    assert (first_vote["comment"], first_vote["flag"]) == ("good", "odd")
    assert first_vote["vote"] == side_of("a", first_vote["first_shown"])
    assert first_vote["strength"] == 2
    changed = held.filter(strength=1).row(0, named=True)
    assert changed["vote"] == side_of("b", changed["first_shown"])


def test_the_vote_is_on_the_side_that_was_shown(make):
    review = make(some_pairs(16), seed=3)
    with serving(review) as port:
        ada = newcomer(review, port)
        while ada.fields:
            good_is_a = ada.page.index("Good answer") < ada.page.index("Bad answer")
            ada.vote("a2" if good_is_a else "b2")
    votes = annotations_of(review)
    assert set(votes["vote"]) == {"first"}
    assert 3 < votes["first_shown"].sum() < 13


def test_sent_twice_or_with_an_old_form_counts_once(make):
    review = make(some_pairs(2))
    with serving(review) as port:
        ada = newcomer(review, port)
        old = dict(ada.fields)
        ada.vote("a2")
        ada.fields = dict(old)
        assert ada.vote("b2")[0] == 200
        ada.fields = {**old, "nonce": "another"}
        assert "in another window" in ada.vote("b2")[1]
        status, page = ada.vote("nonsense")
        assert status == 422
        assert "Choose one of the answers" in page
    assert annotations_of(review).height == 1


def test_only_those_with_a_session_and_its_forms_get_in(make):
    review = make(some_pairs(3), people=2)
    with serving(review) as port:
        nobody = Client(port)
        for path in ("/", "/history", "/decide", "/overview", "/diff/x", "/edit/x/a", "/whole/x/a"):
            assert nobody.get(path)[0] == 401, path
        assert nobody.get("/join/guess")[0] == 404
        ada = newcomer(review, port)
        for path in ("/decide", "/decide/1", "/overview"):
            assert ada.get(path)[0] == 403, path
        ada.get("/")
        mark = ada.fields["mark"]
        for path in ("/vote", "/undo", "/reopen", "/reveal", "/leave", "/retrain"):
            ada.fields = {"mark": "0" * 32}
            assert ada.post(path)[0] == 403, f"{path} without the mark of the session"
        assert ada.post("/invite", {"mark": mark, "name": "x"})[0] == 403
        bob = newcomer(review, port, "Bob")
        assert bob.fields["mark"] != mark
        theirs = bob.fields["task"]
        ada.get("/")
        for path in (f"/diff/{theirs}", f"/edit/{theirs}/a", f"/whole/{theirs}/a"):
            assert ada.get(path)[0] in (404, 409), "another's question"
        forged = {"task": theirs, "choice": "a2", "mark": mark}
        assert "no longer yours" in ada.post("/vote", forged)[1]
        assert nobody.get("/", Host="evil.example")[0] == 400
        assert ada.post("/undo", Origin="http://evil.example")[0] == 400
        assert ada.post("/undo", Origin=f"http://127.0.0.1:{port}")[0] == 200
        ada.post("/leave", {"mark": mark})
        assert ada.get("/")[0] == 401
    assert annotations_of(review).height == 0


def test_too_quick_is_told_so_and_refills():
    rates = Rates(per_second=1000, burst=3)
    assert [rates.allows("a") for _ in range(3)] == [True] * 3
    slow = Rates(per_second=0.001, burst=2, keys=2)
    assert [slow.allows("a") for _ in range(3)] == [True, True, False]
    assert slow.allows("b")
    assert slow.allows("c"), "and 'a', the oldest, is forgotten"
    assert slow.allows("a")


def secret_columns(table):
    n = table.height
    return table.with_columns(
        chosen_model=pl.lit("model-good"), rejected_model=pl.lit("model-bad"),
        chosen_score_help=pl.Series([0.8125 + i / 1000 for i in range(n)]),
        rejected_score_help=pl.lit(0.1357), judge_prefers=pl.lit("chosen"), trust=pl.lit(0.2468),
        label_source=pl.lit("reward_model"), margin=pl.lit(0.6789),
    )  # fmt: skip


def test_nothing_tells_the_machines_label_before_the_vote(make):
    """All traffic of two people over twelve pairs whose answers differ in nothing but a word."""
    rows = [(f"Question {i}?", f"Answer aa{i:02d}.", f"Answer zz{i:02d}.") for i in range(12)]
    table = secret_columns(pairs(*rows))
    review = make(table, people=2, queue={"suspect": 1.0}, gold="false or prompt_id is null")
    ids = [str(v) for c in table.columns if c.endswith("_id") for v in table[c].to_list()]
    words = ["chosen", "rejected", "model-", "0.8125", "0.1357", "0.2468", "0.6789", "prefers",
             "reward_model", "label", "trust", "score", "suspect", "margin"]  # fmt: skip
    shown_first = []
    with serving(review) as port:
        for name in ("Ada", "Bob"):
            person = newcomer(review, port, name)
            while person.fields:
                shown_first.append(person.page.index("Answer aa") < person.page.index("Answer zz"))
                task = person.fields["task"]
                for path in (f"/diff/{task}", f"/edit/{task}/a", f"/whole/{task}/b"):
                    assert person.get(path)[0] == 200
                person.get("/")
                person.vote("tie")
            for path, _, headers, body in person.heard:
                said = f"{path} {headers} {body}".replace("aria-labelledby", "").replace(
                    "aria-label", "").replace("</label>", "").replace("<label", "")  # fmt: skip
                said = said.replace("becomes a chosen answer, and this one its rejected one", "")
                assert not [i for i in ids if i in said], path
                assert "server-timing" not in {h.lower() for h in headers}
                if not path.startswith("/history"):
                    assert not [w for w in words if w in said.lower()], path
    assert 6 < sum(shown_first) < 18, "sides are swapped at random"
    assert shown_first[:12] != shown_first[12:], "and for each person apart"
    tasks = annotations_of(review)
    assert tasks.height == 24


def test_what_the_machine_said_is_told_after_the_vote_and_marks_the_next(make):
    review = make(secret_columns(some_pairs(2)))
    with serving(review) as port:
        ada = newcomer(review, port)
        task = ada.fields["task"]
        mark = ada.mark()
        assert ada.post("/reveal", {"mark": mark, "task": task})[0] == 404
        ada.get("/")
        ada.vote("a2")
        page = ada.post("/reveal", {"mark": mark, "task": task})[1]
        assert "model-good" in page
        assert "0.81" in page
        ada.post("/reopen", {"mark": mark, "task": task})
        assert ada.fields["task"] == task
        ada.vote("b2")
    assert annotations_of(review)["informed"].to_list() == [False, True, True]


class Inert(HTMLParser):
    """Demands that nothing in a page runs, leads away or loads anything but the app's own files."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        assert tag not in ("iframe", "object", "embed", "base", "math"), self.path
        assert tag != "svg" or given.get("class") == "chart", "only charts of ours"
        assert not [name for name in given if name.startswith("on") or name == "style"], self.path
        for name in ("href", "src", "action", "hx-get", "hx-post"):
            if name in given:
                inside = re.match(r"/(?!/)|\?|#work$|data:image/jpeg;base64,", given[name])
                assert inside, (self.path, given[name])
        assert tag != "script" or given["src"].startswith("/static/"), self.path


def test_hostile_texts_are_texts_in_every_view(make):
    talk = [system(EVIL), user(EVIL), assistant(EVIL, (EVIL, {"x": EVIL})),
            {"role": "tool", "content": EVIL, "name": EVIL}, user(EVIL)]  # fmt: skip
    table = pairs((talk, EVIL + "A", EVIL + "B"), ("Long?", "x" * 1_000_000, EVIL)).with_columns(
        source=pl.lit(EVIL), chosen_model=pl.lit(EVIL), tools=pl.lit(
            json.dumps([{"type": "function", "function": {"name": EVIL, "description": EVIL}}])),
    )  # fmt: skip
    review = make(table, people=2)
    review.write_guideline(EVIL)
    with serving(review) as port:
        ada = newcomer(review, port, 'Ada <b> "quoted"', "owner")
        bob = newcomer(review, port, "Bob")
        for person, choice in ((ada, "a2"), (bob, "b2")):
            while person.fields:
                task = person.fields["task"]
                for path in (f"/diff/{task}", f"/edit/{task}/a", f"/whole/{task}/b"):
                    assert person.get(path)[0] == 200
                person.get("/")
                person.vote(choice, comment=EVIL, flag=EVIL, edit_a=EVIL, rubric=EVIL, rubric_a=3)
        mark = ada.mark()
        ada.get("/decide")
        for number in re.findall(r"/decide/(\d+)", ada.heard[-1][3]):
            assert ada.get(f"/decide/{number}")[0] == 200
        ada.post("/undo", {"mark": mark})
        ada.get("/overview")
        ada.get("/guidelines")
        for path, status, headers, body in ada.heard + bob.heard:
            if status == 303 or path.startswith("/static"):
                continue
            kind = headers["content-type"]
            assert headers["content-security-policy"] == POLICY
            assert headers["x-content-type-options"] == "nosniff"
            shown = re.sub(r'(?s)<textarea.*?</textarea>|value="[^"]*"', "", body)  # to be edited
            assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", shown), path
            if kind.startswith("text/plain"):
                continue
            Inert(path).feed(body)
            assert body.count("</main>") == 1 if "<main" in body else True, path
            if path in ("/", "/vote") and "alert(1)" in shown:
                assert "U+202E" in body, path


def test_markdown_code_formulas_and_directions():
    html = html_of(
        "# Big\n\n**b** _e_ `x<y`\n\n```py\nif a < b:\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    )
    assert '<p class="h1">Big</p>' in html
    assert "<strong>b</strong>" in html
    assert "<code>x&lt;y</code>" in html
    assert "if a &lt; b:" in html
    assert "<td>1</td>" in html
    assert '<code class="math">$a_1 * b_1 * c$</code>' in html_of("so $a_1 * b_1 * c$ holds")
    assert '<code class="math">\\(x_1 * y_1\\)</code>' in html_of("\\(x_1 * y_1\\)")
    assert "math" not in html_of("it costs $5 and $6 each")
    assert html_of("a\u202eb") == "<p>a\u27e8U+202E\u27e9b</p>\n"
    assert html_of("&lt;b&gt; [x](http://e) ![y](z)") == (
        "<p>&amp;lt;b&amp;gt; [x](http://e) ![y](z)</p>\n"
    )
    assert "1,000 more characters" in html_of("y" * 201_000)
    assert html_of("<b>x</b>") == "<p>&lt;b&gt;x&lt;/b&gt;</p>\n"


def test_an_edit_and_ratings_are_about_the_stored_side(make):
    review = make(some_pairs(6), attributes={"truth": "is it so"})
    with serving(review) as port:
        ada = newcomer(review, port)
        while ada.fields:
            task = ada.fields["task"]
            shown = ada.get(f"/edit/{task}/a")[1]
            good_is_a = "Good answer" in shown
            text = re.search(r"answer \d+\.", shown)[0]
            ada.get("/")
            ada.vote("a1", edit_a=f"Better {text}", before_a=f"x {text}", rate_a_0="5",
                     rate_b_0="1", rubric="brevity", rubric_b="2")  # fmt: skip
            row = annotations_of(review).row(-1, named=True)
            said = json.loads(row["answer"])
            side = "first" if good_is_a else "second"
            other = "second" if good_is_a else "first"
            assert row["vote"] == side
            assert said["edit"] == {"side": side, "text": f"Better {text}"}
            assert said["ratings"] == {side: {"truth": 5}, other: {"truth": 1}}
            assert said["rubrics"] == {"brevity": {other: 2}}


def test_training_is_told_and_a_low_mark_begins_again(make):
    table = some_pairs(8).with_columns(gold_reason=pl.lit("It <is> so.")).with_row_index("n")
    review = make(table, gold="n < 2", training=2, pass_mark=1.0, gold_share=0)
    with serving(review) as port:
        ada = newcomer(review, port)
        for right in (True, False):
            assert "<b>training</b>" in ada.page
            good_is_a = ada.page.index("Good answer") < ada.page.index("Bad answer")
            ada.vote("a2" if good_is_a == right else "b2")
            assert ("<b>Right.</b>" in ada.page) == right
            assert "It &lt;is&gt; so." in ada.page
        assert "The training once more" in ada.page
        ada.post("/retrain", {"mark": ada.mark()})
        for _ in range(2):
            good_is_a = ada.page.index("Good answer") < ada.page.index("Bad answer")
            ada.vote("a2" if good_is_a else "b2")
        assert "<b>training</b>" not in ada.page
        assert "2 of 2 right" in ada.page
        ada.vote("a2")
        assert "Known to be better" not in ada.page, "rows of the queue are not told"


def test_adjudicators_decide_and_the_second_is_told_of_the_first(make):
    review = make(some_pairs(1), people=2)
    with serving(review) as port:
        for name in ("Ada", "Bob"):
            person = newcomer(review, port, name)
            good_is_a = person.page.index("Good answer") < person.page.index("Bad answer")
            person.vote("a2" if good_is_a == (name == "Ada") else "b2")
        eve, zoe = (newcomer(review, port, n, "adjudicator") for n in ("Eve", "Zoe"))
        path = re.search(r"/decide/\d+", eve.get("/decide")[1])[0]
        for judge in (eve, zoe):
            assert "<b>Ada</b>" in judge.get(path)[1]
        eve_good_is_a = eve.page.index("Good answer") < eve.page.index("Bad answer")
        assert eve.post(path, {"choice": "a2" if eve_good_is_a else "b2"})[0] == 200
        status, page = zoe.post(path, {"choice": "a2"})
        assert status == 409
        assert "Eve has decided this row" in page
        assert "decided" in zoe.get("/decide")[1]
    decided = annotations_of(review).filter(role="decision")
    assert decided["vote"].to_list() == ["first"]


def test_the_owner_invites_and_writes_guidelines(make):
    review = make(some_pairs(2))
    with serving(review) as port:
        owner = newcomer(review, port, "Olga", "owner")
        mark = owner.mark()
        page = owner.post("/invite", {"mark": mark, "name": "Ida", "role": "annotator"})[1]
        token = re.search(r"/join/([\w-]+)<", page)[1]
        ida = Client(port).join(token)
        assert "Which answer is better" in ida.page
        assert "boss" in owner.post("/invite", {"mark": mark, "name": "I", "role": "boss"})[1]
        owner.post("/guidelines", {"mark": mark, "guidelines": "Be **kind**"})
        ida.get("/")
        assert "Be <strong>kind</strong>" in ida.page
        assert ida.fields["guideline"] == "1"
        assert people.everyone(review)[0].name == "Ida"


@pytest.mark.parametrize(
    ("settings", "form", "answer"),
    [
        ({"task": "rate", "attributes": ["truth"]}, {"rate_a_0": "4"}, {"ratings": {"truth": 4}}),
        ({"task": "steps"}, {"step_0": "right", "step_1": "wrong"}, {"steps": ["right", "wrong"]}),
        ({"task": "tags", "tags": ["math", "code"]}, {"tag": ["math", "no"], "own_tags": "odd, x"},
         {"tags": ["math"], "own_tags": ["odd", "x"]}),
    ],
)  # fmt: skip
def test_other_tasks(make, settings, form, answer):
    table = responses(("Two and two?", "First, count.\n\nSo five."))
    review = make(table, **settings)
    with serving(review) as port:
        ada = newcomer(review, port)
        assert ada.vote("a2")[0] == 422
        ada.get("/")
        if settings["task"] != "tags":
            assert ada.vote("done")[0] == 422, "an answer that is not whole"
        ada.get("/")
        assert ada.vote("done", **form)[0] == 200
        assert "Nothing is left" in ada.page
        ada.post("/undo", {"mark": ada.mark()})
        assert "checked" in ada.page
        ada.vote("skip")
    votes = annotations_of(review)
    assert json.loads(votes["answer"][0]) == answer
    assert votes["vote"].to_list() == ["done", "withdrawn", "skip"]


def test_ranks_are_of_the_answers_that_were_shown(make):
    review = make(answers(4), task="rank", people=2)
    orders = set()
    with serving(review) as port:
        for name in ("Ada", "Bob"):
            person = newcomer(review, port, name)
            while person.fields:
                shown = re.findall(r"Answer \d\.(\d)", person.page)
                orders.add((person.fields["task"], tuple(shown)))
                assert person.vote("done")[0] == 422
                person.get("/")
                person.vote("done", **{f"rank_{at}": int(i) + 1 for at, i in enumerate(shown)})
    truth = {
        r["response_id"]: int(r["response"][0]["content"][-1]) + 1 for r in answers(4).to_dicts()
    }
    for said in annotations_of(review)["answer"]:
        order = json.loads(said)["order"]
        assert {k: truth[k] for k in order} == order
    assert len({shown for _, shown in orders}) > 1, "each sees the answers in an order of their own"


def test_a_judges_reason_is_shown_beside_the_answers_that_it_names(make):
    vote = {"judge": 0, "round": 0, "place": 0, "answer": 0, "weight": 1, "fault": None}
    table = some_pairs(4)
    # answer 0 is the one with the lower id; it was shown at place 0 or 1
    votes = [[vote | {"place": i % 2, "rationale": f"Because {i}."}] for i in range(4)]
    dtype = pl.List(pl.Struct({"judge": pl.Int32, "round": pl.Int32, "place": pl.Int32,
                               "answer": pl.Int32, "weight": pl.Int32, "fault": pl.String,
                               "rationale": pl.String}))  # fmt: skip
    review = make(table.with_columns(judge_votes=pl.Series(votes, dtype=dtype)), task="rationale")
    low = {
        f"Because {i}.": min(
            (r["chosen_id"], r["chosen"][0]["content"]),
            (r["rejected_id"], r["rejected"][0]["content"]),
        )[1]
        for i, r in enumerate(table.to_dicts())
    }  # fmt: skip
    with serving(review) as port:
        ada = newcomer(review, port)
        while ada.fields:
            why = re.search(r"Because \d\.", ada.page)[0]
            says = re.search(r"prefers answer (\w)", ada.page)[1]
            sides = re.findall(r"(?:Good|Bad) answer \d\.", ada.page)
            assert sides["AB".index(says)] == low[why]
            ada.vote("partly")
    assert set(annotations_of(review)["vote"]) == {"partly"}


def test_pictures_tools_calls_and_reasoning_are_shown(tmp_path):
    from PIL import Image

    from prefactory.images.marks import Held, bind
    from prefactory.images.media import png

    held = Held()
    talk = [{"role": "user", "content": "<image>What is it?"}]
    calls = [{"id": "1", "name": "look", "arguments": '{"at":"ears"}'}]
    answer = [{"role": "assistant", "content": "A cat.", "reasoning": "Whiskers."}]
    answer[0]["tool_calls"] = calls
    table = pairs((talk, answer, "A dog.")).with_columns(
        images=pl.Series([[{"bytes": png(Image.new("RGB", (8, 8), "red")), "path": None}]],
                         dtype=pl.List(pl.Struct({"bytes": pl.Binary, "path": pl.String}))),
        tools=pl.lit('[{"type":"function","function":{"name":"look","description":"Looks."}}]'),
    )  # fmt: skip
    review = create(tmp_path, "cats", bind(table, held), Settings(), {}, pictures=held)
    with serving(review) as port:
        page = newcomer(review, port).page
    assert 'src="data:image/jpeg;base64,' in page
    assert "What is it?" in page
    assert "Whiskers." in page
    assert "calls look" in page
    assert "Looks." in page

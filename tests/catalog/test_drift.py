"""A grown source: what it costs, and how its version differs from the one before."""

import json

import pytest

from catalog.history.drift import drift, parent_of, read
from catalog.history.lineage import of_row
from catalog.report.drift import page as drift_page
from catalog.versions import Catalog, verify
from pipelines.build import build, check_recipe
from pipelines.needs import calls_of
from pipelines.settings import Settings
from prefactory.stages import thread_mapper
from tests.pipelines.test_stopping import RECIPE, Counting
from tests.prefactory.engines.mock_server import MockServer, answer, chat


def grow(folder, n):
    rows = [{"prompt": f"Question {i}?"} for i in range(n)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def run(folder):
    recipe, sources, _ = check_recipe(folder / "recipe.yaml", [])
    return build(recipe, sources, Settings(folder / "home"), thread_mapper(2)).published


def test_a_grown_source_costs_the_new_rows_and_nothing_new_costs_nothing(tmp_path, caplog):
    counting = Counting()
    with MockServer(counting) as server:
        (tmp_path / "recipe.yaml").write_text(RECIPE % server.url)
        grow(tmp_path, 12)
        first = run(tmp_path)
        assert len(counting.calls) == 36
        grow(tmp_path, 15)
        with caplog.at_level("INFO"):
            second = run(tmp_path)
        assert len(counting.calls) == len(set(counting.calls)) == 45
        assert second.new
        again = run(tmp_path)
        assert (again.new, again.version.ref) == (False, second.version.ref)
        assert len(counting.calls) == 45
    assert not (first.version.path / "drift.json").exists()
    told = json.loads((second.version.path / "drift.json").read_text())
    assert told["parent"] == first.version.ref
    assert told["rows"][1] > told["rows"][0]
    assert "no drift in" in caplog.text
    provenance = json.loads((second.version.path / "provenance.json").read_text())
    assert provenance["parent"] == first.version.ref
    assert verify(second.version) == []
    row = second.version.frame("responses").head(1).collect()["response_id"][0]
    (explained,) = second.version.explain(row).rows
    calls = calls_of(Settings(tmp_path / "home"), explained)
    assert set(calls["step"]) == {"generators.Responses"}
    told = of_row(second.version, explained, calls).lines()
    assert any(line.startswith("call     mock (models): answer ") for line in told)
    catalog = Catalog(tmp_path / "home")
    assert parent_of(second.version.manifest, catalog).ref == first.version.ref
    assert parent_of(first.version.manifest, catalog) is None
    page = (second.version.path / "drift.html").read_text()
    assert page == drift_page(read(second.version.path))
    assert f"{second.version.ref} beside {first.version.ref}: pairs 12 -" in page


JUDGED = """\
name: judged
source: p.jsonl
steps:
  - labelers.JudgePairs:
      form: brackets
      judge:
        - {engine: server, base_url: "%s", model: one}
        - {engine: server, base_url: "%s", model: two}
publish: {pays: false}
"""


def test_judges_are_compared_and_ids_are_no_tags(tmp_path):
    """Two judges of one mind, of whom one votes against the other from some row on."""

    def verdict(body, times):
        told = body["messages"][-1]["content"]
        good = told.index("good") < told.index("bad")
        turned = body["model"] == "two" and "late" in told
        return "ok", answer(chat(f"[[{'A' if good is not turned else 'B'}]]"))

    def publish(n, word):
        rows = [
            {"prompt": f"{word} {i}?", "chosen": f"good {word} {i}", "rejected": f"bad {i}"}
            for i in range(n)
        ]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        recipe, sources, _ = check_recipe(tmp_path / "r.yaml", [])
        return build(recipe, sources, Settings(tmp_path), thread_mapper(2)).published.version

    with MockServer(verdict) as server:
        (tmp_path / "r.yaml").write_text(JUDGED % (server.url, server.url))
        publish(40, "early")
        late = publish(40, "late")
    told = read(late.path)
    shifts = {s.column: s for s in told.shifts}
    agreed = shifts["labelers.JudgePairs: agreement between judges (alpha)"]
    assert (agreed.before, agreed.drift) == (1.0, True)
    assert agreed.after < 0
    votes = shifts["labelers.JudgePairs: agreement with the label"]
    assert (votes.before, votes.after, votes.missing_after) == (1.0, None, 1.0)
    assert "judge_question" not in shifts  # another id in each row
    (row,) = late.explain("p.jsonl:1").rows
    assert {r.relation for r in row.relatives} == {"chosen", "rejected"}
    lines = of_row(late, row, calls_of(Settings(tmp_path), row)).lines()
    votes = sorted(line.partition(": order ")[0] for line in lines if line.startswith("vote"))
    assert votes == ["vote     one: chosen"] * 2 + ["vote     two: rejected"] * 2
    assert sum("shown in place 1" in line for line in lines) == 2
    (stage,) = (line for line in lines if line.startswith("stage    labelers.JudgePairs"))
    assert stage.count("one: chosen") == 2
    assert any("agreement between judges (alpha): mean 1 -> -" in line for line in told.lines())


def test_the_parent_is_the_version_before_by_its_number(tmp_path):
    for number, n in (("1.0", 4), ("1.1", 5), ("1.0.5", 6)):
        version = pairs(tmp_path, "a", longer=False, label="x", n=n, more=f'version: "{number}"\n')
    assert json.loads((version.path / "provenance.json").read_text())["parent"] == "a@1.0"
    assert read(version.path).parent == "a@1.0"


def pairs(folder, name, longer, label, n=300, more=""):
    rows = [
        {
            "prompt": f"Question {i}?",
            "chosen": "word " * (3 + i % 7 + (40 if longer else 0)),
            "rejected": "short",
            "tag_kind": label,
        }
        for i in range(n)
    ]
    (folder / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "r.yaml").write_text(
        f"name: {name}\nsource: {{path: p.jsonl, carry: [tag_kind]}}\nsteps: []\n"
        f"publish: {{pays: false}}\n{more}"
    )
    recipe, sources, _ = check_recipe(folder / "r.yaml", [])
    return build(recipe, sources, Settings(folder / "home"), thread_mapper(1)).published.version


def test_longer_answers_and_another_tag_are_drift(tmp_path):
    before = pairs(tmp_path, "a", longer=False, label="math")
    same = pairs(tmp_path, "b", longer=False, label="math")
    other = pairs(tmp_path, "c", longer=True, label="code")
    assert not [s for s in drift(before, same).shifts if s.distance > 0]
    found = drift(before, other)
    by_name = {s.column: s for s in found.shifts}
    assert by_name["characters in chosen"].drift
    assert by_name["characters in chosen"].distance == 1.0
    assert by_name["characters in chosen"].after > by_name["characters in chosen"].before + 190
    assert not by_name["characters in rejected"].drift
    assert by_name["tag_kind"].most == ("math", 1.0, 0.0)
    text = "\n".join(found.lines())
    assert "tag_kind: 'math' 100% -> 0% (distance 1.00)" in text


def test_few_rows_are_no_drift(tmp_path):
    before = pairs(tmp_path, "a", longer=False, label="math", n=4)
    after = pairs(tmp_path, "b", longer=True, label="code", n=4)
    assert not [s for s in drift(before, after).shifts if s.drift]


WIDE = """\
name: wide
seed: 4
source: {path: p.jsonl}
steps:
  - filters.ExactDuplicates: {on: row}
  - labelers.R3: {}
  - filters.RandomSubsample: {fraction: 0.5}
publish: {pays: false}
"""


@pytest.mark.slow
def test_a_grown_source_gives_what_the_whole_gives_at_once(tmp_path):
    """Steps that look at all rows are computed again, over old rows and new ones."""
    rows = [
        {"prompt": f"p{i % 50}", "chosen": "word " * (3 + i % 7), "rejected": f"short {i % 5}"}
        for i in range(90)
    ]
    (tmp_path / "r.yaml").write_text(WIDE)
    found = {}
    for home, sizes in (("grown", (40, 90)), ("at-once", (90,))):
        for n in sizes:
            (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:n]))
            recipe, sources, _ = check_recipe(tmp_path / "r.yaml", [])
            done = build(recipe, sources, Settings(tmp_path / home), thread_mapper(2)).published
        found[home] = done.version.manifest
    assert found["grown"].content_digest == found["at-once"].content_digest
    assert [s.reasons for s in found["grown"].stages] == [
        s.reasons for s in found["at-once"].stages
    ]

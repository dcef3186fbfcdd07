"""`prefactory explain`, and what it is made of."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from catalog.publish import publish
from catalog.versions import Catalog
from pipelines.cli.app import app
from prefactory.errors import DataError
from tests.helpers import Block, ledger_of, one_file, pairs, recipe, rejected, responses, run

NO = "I'm sorry, but I can't help with that."


def explain(version, store, question):
    told = version.explain(question, store)
    return told.rows, told.found


ROWS = (("what is ice?", "Frozen water.", "Steam."), ("how to boil eggs?", NO, "In water."),
        ("who is ann@foo.io?", "I do not know.", "Ann."))  # fmt: skip


def published(tmp_path, table, *steps, **head):
    block = Block(table, rejected=rejected("f:9", reason="no_answer"))
    result = run(recipe(*steps, **head), one_file(block), tmp_path / "store")
    return publish(result, Catalog(root=tmp_path / "versions")).version, result


@pytest.fixture
def of_pairs(tmp_path):
    steps = (
        "filters.MaskPersonalData",
        {"filters.Length": {"min_words": 2}},
        "filters.Refusals",
        {"labelers.R3": {"objectives": ["length"]}},
    )
    # one more row keeps both published tables from being empty
    table = pairs(*ROWS, ("why is the sky blue?", "Rayleigh scattering.", "Because of it."))
    version, result = published(tmp_path, table, *steps)
    return version, tmp_path / "store", table, result


def verdicts(one):
    return {v.stage.rpartition(".")[2]: v.verdict for v in one.verdicts}


def test_a_row_that_was_dropped(of_pairs):
    version, store, _, result = of_pairs
    ledger = ledger_of(result).filter(reason="refusal_chosen")
    row_id = ledger["row_id"][0]
    (one,), total = explain(version, store, row_id)
    assert total == 1
    assert (one.row_id, one.shape) == (row_id, "pairs")
    assert one.fate == "dropped by filters.Refusals: refusal_chosen"
    assert one.texts == {
        "prompt": "user: how to boil eggs?",
        "chosen": f"assistant: {NO}",
        "rejected": "assistant: In water.",
    }
    assert one.source == "test:1"
    assert verdicts(one) == {
        "source": "kept",
        "MaskPersonalData": "kept",
        "Length": "kept",
        "Refusals": "dropped",
        "R3": "not reached",
    }
    dropped = one.verdicts[3]
    assert (dropped.reason, dropped.detail) == ("refusal_chosen", f"chosen: {NO}")
    assert dropped.rule["max_share"] == {"chosen": 0.0, "response": 0.0}
    assert one.verdicts[2].rule["min_words"] == 2


def test_a_row_that_was_published(of_pairs):
    version, store, _, _ = of_pairs
    (one,), _ = explain(version, store, "RAYLEIGH scattering")
    assert one.fate.startswith("published in pairs/")
    assert verdicts(one)["R3"] == "kept"
    assert list(one.verdicts[-1].adds) == ["chosen_score_length", "rejected_score_length"]
    fates = {r.relation: r.fate.split("/")[0] for r in one.relatives}
    assert fates == {"chosen": "published in responses", "rejected": "published in responses"}
    (again,), _ = explain(version, store, one.row_id[:10])
    assert again == one


def test_a_row_whose_text_was_changed(of_pairs):
    version, store, table, _ = of_pairs
    (one,), _ = explain(version, store, "who is [EMAIL]")
    assert verdicts(one) == {
        "source": "earlier",
        "MaskPersonalData": "made",
        "Length": "dropped",
        "Refusals": "not reached",
        "R3": "not reached",
    }
    old = table["pair_id"][2]
    assert [r.row_id for r in one.relatives if r.relation == "masked_from"] == [old]
    (before,), _ = explain(version, store, old)
    assert before.fate.startswith("not published; other rows were made of it")
    assert [r.row_id for r in before.relatives if r.relation == "named by"] == [one.row_id]


def test_the_text_of_a_dropped_row_is_in_the_store_only(of_pairs):
    version, store, _, _ = of_pairs
    (one,), _ = explain(version, store, "boil eggs")
    assert one.fate == "dropped by filters.Refusals: refusal_chosen"
    shutil.rmtree(store)
    with pytest.raises(DataError, match=r"no row with id, source or text 'boil eggs'.* is gone"):
        explain(version, store, "boil eggs")
    (one,), _ = explain(version, store, one.row_id)
    assert (one.shape, one.texts) == ("row", {})
    assert one.verdicts[3].reason == "refusal_chosen"


def test_a_record_that_became_no_row(of_pairs):
    version, store, _, _ = of_pairs
    (one,), _ = explain(version, store, "f:9")
    assert (one.shape, one.fate) == ("record", "dropped by source: no_answer")
    assert one.verdicts[0].detail == "because"
    assert verdicts(one)["Length"] == "not reached"


def test_answers_that_went_into_pairs(tmp_path):
    table = responses(
        ("q", "good answer"), ("q", "bad"), ("q", "middling one"), score_h=[3.0, 1.0, 2.0]
    )
    version, _ = published(tmp_path, table, {"labelers.Pairs": {"objective": "h"}})
    (pair,), _ = explain(version, tmp_path / "store", _first(version, "pairs"))
    assert verdicts(pair) == {"source": "earlier", "Pairs": "made"}
    (best,), _ = explain(version, tmp_path / "store", table["response_id"][0])
    assert verdicts(best) == {"source": "kept", "Pairs": "turned"}
    assert [r.row_id for r in best.relatives if r.relation == "named by"] == [pair.row_id]


def _first(version, table):
    for split, rows in version.manifest.tables[table].splits.items():
        if rows:
            return next(version.batches(table, split))["pair_id"][0]
    raise AssertionError


def test_many_rows(tmp_path):
    table = pairs(*[(f"the same question {i}", "yes", "no") for i in range(12)])
    version, _ = published(tmp_path, table)
    found, total = explain(version, tmp_path / "store", "The same   question")
    assert (len(found), total) == (5, 12)


def test_the_command(tmp_path, monkeypatch):
    table = pairs(*ROWS, ("why?", "[bold]Markup[/] stays.", "No."))
    published(tmp_path, table, "filters.Refusals", name="small")
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path))
    shown = CliRunner().invoke(app, ["explain", "small", "boil eggs"]).stdout
    assert "dropped by filters.Refusals: refusal_chosen" in shown
    assert f"chosen: {NO}" in shown
    assert "max_share=" in shown
    shown = CliRunner().invoke(app, ["explain", "small", "Markup"]).stdout
    assert "[bold]Markup[/] stays." in shown
    data = json.loads(CliRunner().invoke(app, ["explain", "small", "boil", "--json"]).stdout)
    assert data["found"] == 1
    assert data["rows"][0]["verdicts"][-1]["reason"] == "refusal_chosen"


def test_mistakes_are_a_message_and_exit_code_2(prefactory_in, tmp_path):
    done = prefactory_in(tmp_path, "explain", "nothing", "x")
    assert done.returncode == 2
    assert "no dataset 'nothing'" in done.stderr
    assert "Traceback" not in done.stderr

"""Tasks for other tools are blind, and what people said there comes back on the right sides."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET

import polars as pl
import pytest

from prefactory.errors import ConfigError, DataError
from prefactory.tables import COLUMNS, Shape, text_of
from prefactory.testing import pairs
from review.exchange import argilla, label_studio
from review.exchange.files import read_votes, write_tasks
from review.exchange.tasks import SAID, first_left, tasks, unknown

N = 60


@pytest.fixture(scope="module")
def table():
    """The chosen answer of row i is `good i`."""
    return pairs(*[(f"=Question {i}?", f"good {i}", f"bad {i}") for i in range(N)])


def better(task):
    """What somebody says who finds the good answer."""
    return "left" if task["left"].startswith("good") else "right"


def check(votes, table, n=N):
    """All votes are for the chosen side, and the table is one of annotations."""
    assert votes.schema == COLUMNS[Shape.ANNOTATIONS]
    assert votes.height == n
    assert votes["vote"].to_list() == ["first"] * n
    assert set(votes["row_id"]) <= set(table["pair_id"])
    assert votes["vote_id"].n_unique() == n
    places = dict(votes.select("row_id", "first_shown").iter_rows())
    assert 0 < sum(places.values()) < n


def test_tasks_are_blind_and_the_same_for_a_seed(table):
    made = tasks(table, 3)
    assert made.columns == ["pair_id", "prompt", "left", "right"]
    assert made.equals(tasks(table.reverse(), 3))
    assert not made.equals(tasks(table, 4))
    good_left = made["left"].str.starts_with("good").mean()
    assert 0.3 < good_left < 0.7
    assert made["pair_id"].to_list() != table["pair_id"].to_list()
    assert made["pair_id"].to_list() != sorted(made["pair_id"])
    model = pairs(("Q?", "a", "b"), chosen_score_x=[9.0], rejected_score_x=[1.0])
    assert "9" not in json.dumps(tasks(model).drop("pair_id").to_dicts())


def test_label_studio_there_and_back(table, tmp_path):
    out, config = write_tasks(table, "label-studio", tmp_path / "tasks.json", 5)
    sent = json.loads(out.read_text())
    assert [set(task) for task in sent] == [{"data"}] * N
    interface = ET.fromstring(config.read_text())
    named = {e.get("value") for e in interface.iter("Choice")}
    assert named == set(SAID)
    back = [
        task | {
            "annotations": [
                {
                    "completed_by": {"id": 1, "email": "ann@example.org"}, "lead_time": 3.25,
                    "created_at": f"2026-11-30T10:{i:02}:00.000000Z",
                    "result": [
                        {"from_name": "choice", "to_name": "prompt", "type": "choices",
                         "value": {"choices": [better(task["data"])]}},
                        {"type": "textarea", "value": {"text": ["clear", "short"]}},
                    ],
                },
                {"completed_by": 2, "was_cancelled": True, "result": []},
            ]
        }
        for i, task in enumerate(sent)
    ]  # fmt: skip
    (tmp_path / "export.json").write_text(json.dumps(back))
    votes = read_votes(tmp_path / "export.json", "label-studio", 5)
    check(votes, table)
    assert votes["ms"].unique().to_list() == [3250]
    assert votes["comment"][0] == "clear\nshort"
    assert "ann" not in votes["person"][0]
    assert votes["at"].is_sorted()
    named_votes = read_votes(tmp_path / "export.json", "label-studio", 5, names=True)
    assert named_votes["person"][0] == "label-studio ann@example.org"
    assert read_votes(tmp_path / "export.json", "label-studio", 6)["vote"].n_unique() == 2


def test_pairwise_results_of_label_studio_are_read():
    one = {"result": [{"type": "pairwise", "value": {"selected": "left"}}], "completed_by": 7}
    (found,) = label_studio.results([{"data": {"pair_id": "p"}, "annotations": [one]}])
    assert (found["choice"], found["person"]) == ("left", "label-studio 7")


@pytest.mark.parametrize("form", ["file", "list", "api"])
def test_argilla_there_and_back(table, tmp_path, form):
    out, settings = write_tasks(table, "argilla", tmp_path / "records.json", 5)
    records = json.loads(out.read_text())
    questions = json.loads(settings.read_text())["questions"]
    assert {o["value"] for o in questions[0]["settings"]["options"]} == set(SAID)
    user = "0b0c"
    for record in records:
        value = better(record["fields"])
        record["responses"] = {
            "file": {"choice": [{"value": value, "user_id": user}]},
            "list": [
                {"question_name": "choice", "value": value, "user_id": user, "status": "submitted"},
                {"question_name": "choice", "value": "tie", "user_id": "x", "status": "draft"},
            ],
            "api": [
                {"values": {"choice": {"value": value}, "comment": {"value": "so"}},
                 "user_id": user, "status": "submitted", "inserted_at": "2026-11-30T10:00:00"},
                {"values": {"choice": {"value": "tie"}}, "user_id": "x", "status": "discarded"},
            ],
        }[form]  # fmt: skip
    (tmp_path / "back.json").write_text(json.dumps(records))
    check(read_votes(tmp_path / "back.json", "argilla", 5), table)
    assert [r["person"] for r in argilla.results(records[:1])] == [f"argilla {user}"]


def test_a_spreadsheet_there_and_back(table, tmp_path):
    (out,) = write_tasks(table, "csv", tmp_path / "tasks.csv", 5)
    rows = list(csv.DictReader(out.open(newline="")))
    assert {row["prompt"][:2] for row in rows} == {"'="}  # no spreadsheet computes it
    for i, row in enumerate(rows):
        row["choice"] = SAID[better(row)] if i % 2 else better(row).upper()
        row["person"] = "Ann"
    rows[0]["choice"] = ""
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    check(read_votes(out, "csv", 5), table, N - 1)


def test_datasets_there_and_back(table, tmp_path):
    from datasets import Dataset, load_from_disk

    (out,) = write_tasks(table, "datasets", tmp_path / "tasks", 5)
    made = load_from_disk(str(out))
    back = [{"pair_id": r["pair_id"], "choice": better(r), "person": "a"} for r in made]
    Dataset.from_list(back).save_to_disk(str(tmp_path / "back"))
    check(read_votes(tmp_path / "back", "datasets", 5), table)


def test_the_last_of_several_results_of_a_person_counts(tmp_path, table):
    row = table["pair_id"][0]
    side = "left" if first_left(row, 0) else "right"
    file = tmp_path / "v.csv"
    file.write_text(f"pair_id,choice,person\n{row},tie,a\n{row},{side},a\n{row},bad,b\n")
    votes = read_votes(file, "csv")
    assert votes.select("vote", "counts", "revision").rows() == [
        ("tie", False, 1), ("first", True, 2), ("bad", True, 1),
    ]  # fmt: skip
    assert unknown(votes, table) == 0
    assert unknown(votes, table.slice(1)) == 3


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        ("csv", "pair_id,choice\np,maybe\n", "'maybe' is no choice; it is one of left, right"),
        ("csv", "id,vote\np,left\n", "needs columns pair_id and choice; it has id, vote"),
        ("label-studio", "[{}]", "task 1 of the Label Studio export has no data.pair_id"),
        ("label-studio", "{", "is no JSON"),
        ("argilla", "3", "holds no list"),
        ("argilla", "[{}]", "record 1 of the Argilla file has no id"),
    ],
)
def test_what_cant_be_read_is_said(tmp_path, form, text, said):
    file = tmp_path / "f"
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        read_votes(file, form)


def test_files_that_are_not_there(tmp_path, table):
    with pytest.raises(ConfigError, match="can't be read"):
        read_votes(tmp_path / "no.json", "argilla")
    with pytest.raises(ConfigError, match="no folder of `datasets`"):
        read_votes(tmp_path, "datasets")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be written"):
        write_tasks(table, "csv", tmp_path / "file" / "x.csv")


def test_texts_come_as_they_are(table):
    made = tasks(table)
    texts = set(table.select(text_of(pl.col("chosen"))).to_series())
    assert set(made["left"]) | set(made["right"]) >= texts

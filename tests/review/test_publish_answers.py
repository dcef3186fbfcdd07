"""Reviews of answers, prompts and reasons become versions too."""

import json

import polars as pl
import pytest

from catalog.layouts import export
from pipelines.review.making import make
from pipelines.review.publishing import publish
from review import people
from review.assignments import next_assignment
from review.settings import Settings
from review.tasks import unpacked
from review.votes import Answer, vote

ROWS = [
    {"prompt": f"Q{i}?", "response": f"Count.\n\nThen {i} and {k}."} for i in (1, 2) for k in "abc"
]


def reviewed(tmp_path, answer_of, rows=ROWS, **settings):
    """A review that one person has answered, published."""
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    review = make(str(file), Settings(**settings), home=tmp_path)
    ada = people.by_token(review, people.invite(review, "Ada"))
    number = 0
    while (held := next_assignment(review, ada, review.settings)) is not None:
        with review.db.read() as work:
            payload = unpacked(
                work.value("select payload from task where id = ?", held["task"])
            )  # fmt: skip
        told = answer_of(payload)
        vote(review, ada, held["id"], told, nonce=f"n{number}", guideline=0)
        number += 1
    done = publish(review, home=tmp_path)
    review.db.close()
    assert "annotations" in done.version.manifest.tables
    return done


def text(payload):
    return payload["answer"][0]["content"]


def test_ratings_become_scores(tmp_path):
    done = reviewed(
        tmp_path,
        lambda p: Answer("done", 0, {"ratings": {"truth": 1 + "abc".index(text(p)[-2])}}),
        task="rate", attributes={"truth": ""},
    )  # fmt: skip
    rows = done.version.frame("responses").collect()
    assert sorted(rows["score_human_truth"].round(6)) == [1, 1, 2, 2, 3, 3]
    assert done.counts == {"responses that people saw": 6, "responses not seen": 0}


def test_orders_become_pairs(tmp_path):
    def order(payload):
        ids = {a["messages"][0]["content"][-2]: a["id"] for a in payload["answers"]}
        return Answer("done", 0, {"order": {ids["a"]: 1, ids["b"]: 2, ids["c"]: 2}})

    done = reviewed(tmp_path, order, task="rank")
    pairs = done.version.frame("pairs").collect()
    assert pairs.height == 4, "a before b, a before c; b and c are equal"
    assert set(pairs["label_source"]) == {"human"}
    best = pairs["chosen"].list.last().struct.field("content").str.slice(-2, 1)
    assert set(best) == {"a"}
    assert done.counts["pairs by people's order"] == 4


def test_labels_of_steps_become_columns(tmp_path):
    done = reviewed(
        tmp_path, lambda p: Answer("done", 0, {"steps": ["right", "wrong"]}), task="steps"
    )
    row = done.version.frame("responses").collect().row(0, named=True)
    assert row["steps"][0] == "Count."
    assert row["step_labels"] == [1.0, -1.0]
    export(done.version, "stepwise", tmp_path / "out", "jsonl")
    out = [json.loads(line) for f in (tmp_path / "out" / "data").iterdir() for line in f.open()]
    assert all(r["labels"] == [True, False] for r in out)
    assert sum(r["completions"][0] == "Count." for r in out) == len(out) > 0


def test_tags_become_a_column(tmp_path):
    done = reviewed(
        tmp_path, lambda p: Answer("done", 0, {"tags": ["math"]}), task="tags", tags=("math",)
    )
    rows = done.version.frame("responses").collect()
    assert rows.height == 6
    assert set(rows.explode("human_tags")["human_tags"]) == {"math"}
    assert rows.schema["human_tags"] == pl.List(pl.String)


@pytest.mark.parametrize("said", ["right", "partly"])
def test_reasons_become_a_column(tmp_path, said):
    vote = {"judge": 0, "round": 0, "place": 0, "answer": 0, "weight": 1, "rationale": "So."}
    rows = [{"prompt": "Q?", "chosen": "Yes.", "rejected": "No.", "judge_votes": [vote]}]
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(rows[0]) + "\n")
    review = make(str(file), Settings(task="rationale"), home=tmp_path, carry=("judge_votes",))
    ada = people.by_token(review, people.invite(review, "Ada"))
    held = next_assignment(review, ada, review.settings)
    from review.votes import vote as cast

    cast(review, ada, held["id"], Answer(said), nonce="n", guideline=0)
    done = publish(review, home=tmp_path)
    review.db.close()
    pairs = done.version.frame("pairs").collect()
    assert pairs["human_rationale"].to_list() == [{"right": 1.0, "partly": 0.5}[said]]

"""`labelers.Annotations`: what people said becomes labels, with every row accounted for."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from labelers.annotators.people import Annotations
from prefactory.errors import ConfigError
from prefactory.tables import COLUMNS, Shape, with_ids
from prefactory.testing import apply_step, pairs
from prefactory.testing import texts as texts_of

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def votes(path, *rows):
    """A file of votes: (row_id, person, vote, changes)."""
    made = [
        {
            "vote_id": f"v{i:03d}", "review": "r", "task": "pair", "row_id": row, "person": person,
            "role": "annotator", "vote": said, "strength": 2, "first_shown": True, "at": NOW,
            "ms": 1, "guideline": 1, "revision": 1, "counts": True, "informed": False,
            "purpose": "work", "queue": "all", "stratum": None, "inclusion": None, "reasons": [],
            "comment": None, "flag": None, "answer": None,
        } | more
        for i, (row, person, said, more) in enumerate(rows)
    ]  # fmt: skip
    pl.DataFrame(made, schema=COLUMNS[Shape.ANNOTATIONS]).write_parquet(path)
    return path


@pytest.fixture
def table():
    rows = pairs(*[(f"Question {i}?", f"Good {i}.", f"Bad {i}.") for i in range(8)])
    return rows.with_columns(
        chosen_score_x=pl.lit(2.0), rejected_score_x=pl.lit(1.0), margin=pl.lit(1.0),
        label_source=pl.lit("judge"), trust=pl.lit(0.9), judge_prefers=pl.lit("chosen"),
        judge_agreement=pl.lit(1.0), domain=pl.lit("d"),
    )  # fmt: skip


def at(table, i):
    return table.filter(pl.col("prompt").list.last().struct.field("content") == f"Question {i}?")[
        "pair_id"
    ].item()


def run(table, path, *said, **fields):
    rows = [
        (at(table, i), person, vote, more[0] if more else {}) for i, person, vote, *more in said
    ]
    return apply_step(Annotations(file=votes(path, *rows), **fields), table)


def texts(column):
    return texts_of(column.to_frame(), column.name)


def chosen(found):
    return {
        q: (c, r)
        for q, c, r in zip(
            texts(found.rows["prompt"]), texts(found.rows["chosen"]), texts(found.rows["rejected"]),
            strict=True,
        )
    }  # fmt: skip


def test_the_side_with_the_most_votes_is_chosen_and_ties_and_two_bad_answers_leave(table, tmp_path):
    found = run(
        table, tmp_path / "v.parquet",
        (0, "a", "first"), (0, "b", "first"), (0, "c", "second"),
        (1, "a", "second"), (1, "b", "second"), (1, "c", "tie"),
        (2, "a", "tie"), (3, "a", "bad"), (3, "b", "bad"), (3, "c", "first"),
        (4, "a", "first"), (4, "b", "second"), (5, "a", "skip"),
    )  # fmt: skip
    sides = chosen(found)
    assert sides["Question 0?"] == ("Good 0.", "Bad 0.")
    assert sides["Question 1?"] == ("Bad 1.", "Good 1.")
    assert {at(table, 2): "human_tie", at(table, 3): "human_both_bad"} == found.reasons
    rows = {r["reviewed_from"]: r for r in found.rows.to_dicts()}
    turned = rows[at(table, 1)]
    assert turned["label_source"] == "human"
    assert turned["human_turned"]
    assert (turned["chosen_score_x"], turned["margin"], turned["judge_prefers"]) == (
        1.0, -1.0, "rejected",
    )  # fmt: skip
    assert turned["human_votes"] == 3
    assert turned["human_agreement"] == pytest.approx(2 / 3)
    assert rows[at(table, 0)]["label_source"] == "human"
    for i in (4, 5, 6, 7):
        assert rows[at(table, i)]["label_source"] == "judge"
        assert not rows[at(table, i)]["human_turned"]
    assert rows[at(table, 4)]["human_agreement"] == 0.5
    assert rows[at(table, 6)]["human_agreement"] is None
    dropped = run(table, tmp_path / "v.parquet", (4, "a", "first"), (4, "b", "second"),
                  on_undecided="drop")  # fmt: skip
    assert dropped.reasons == {at(table, 4): "human_undecided"}


def test_what_does_not_count_does_not_count(table, tmp_path):
    found = run(
        table, tmp_path / "v.parquet",
        (0, "a", "second", {"informed": True}), (1, "a", "second", {"counts": False}),
        (2, "a", "second", {"purpose": "gold"}), (3, "a", "second", {"task": "rationale"}),
        (4, "a", "second"), (4, "b", "second"),
        (4, "eve", "first", {"role": "decision", "informed": True}),
        (5, "a", "second"),
        min_votes=2,
    )  # fmt: skip
    assert not found.rows["human_turned"].any()
    assert set(found.rows.filter(label_source="human")["reviewed_from"]) == {at(table, 4)}
    assert found.rows.filter(label_source="human")["human_agreement"].item() == 0.0


def test_an_edit_is_chosen_over_its_original(table, tmp_path):
    first = {"answer": json.dumps({"edit": {"side": "first", "text": "Better 0."}})}
    second = {"answer": json.dumps({"edit": {"side": "second", "text": "Better 1."}})}
    same = {"answer": json.dumps({"edit": {"side": "first", "text": "Good 2."}})}
    found = run(table, tmp_path / "v.parquet", (0, "a", "first", first), (1, "a", "tie", second),
                (2, "a", "first", same))  # fmt: skip
    edits = found.rows.filter("human_edit")
    assert sorted(zip(texts(edits["chosen"]), texts(edits["rejected"]), strict=True)) == [
        ("Better 0.", "Good 0."), ("Better 1.", "Bad 1."),
    ]  # fmt: skip
    assert set(edits["chosen_model"]) == {"human"}
    assert set(edits["label_source"]) == {"human"}
    assert edits["judge_prefers"].null_count() == 2
    assert edits["judge_agreement"].null_count() == 2
    assert edits["trust"].null_count() == 2
    assert edits["chosen_score_x"].null_count() == 2
    assert sorted(edits["rejected_score_x"]) == [1.0, 2.0], "what is known of the originals stays"
    assert set(edits["domain"]) == {"d"}
    assert set(edits["margin"]) == {0.0}
    assert with_ids(edits, Shape.PAIRS)["pair_id"].to_list() == edits["pair_id"].to_list()
    assert found.reasons == {}, "the tie of row 1 has a child: its edit"
    assert found.rows.height == 9
    plain = run(table, tmp_path / "v.parquet", (1, "a", "tie", second), edits=False)
    assert plain.reasons == {at(table, 1): "human_tie"}


def test_flagged_rows_stay_or_leave(table, tmp_path):
    said = (0, "a", "first", {"flag": "personal data"})
    kept = run(table, tmp_path / "v.parquet", said)
    assert kept.rows["human_flags"].sum() == 1
    assert run(table, tmp_path / "v.parquet", said, on_flag="drop").reasons == {
        at(table, 0): "human_flagged"
    }


def test_a_turned_pair_that_is_there_already_leaves(table, tmp_path):
    from prefactory.turned import turned

    row = table.head(1)
    both = pl.concat([row, turned(row, pl.Series([True]), "judge", "x").drop("x")])
    path = votes(tmp_path / "v.parquet", (row["pair_id"].item(), "a", "second", {}))
    found = apply_step(Annotations(file=path), both)
    assert found.rows.height == 1
    assert list(found.reasons.values()) == ["turned_copy"]


def test_the_votes_are_the_identity_and_their_place_is_not(table, tmp_path):
    one = votes(tmp_path / "a.parquet", (at(table, 0), "a", "first", {}))
    two = votes(tmp_path / "b.parquet", (at(table, 0), "a", "first", {}))
    other = votes(tmp_path / "c.parquet", (at(table, 0), "a", "second", {}))
    marks = [Annotations(file=path).fingerprint() for path in (one, two, other)]
    assert marks[0] == marks[1] != marks[2]


def test_a_file_without_votes_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        Annotations(file=tmp_path / "no.parquet").needs(Shape.PAIRS)
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(ConfigError, match="no Parquet file"):
        Annotations(file=tmp_path / "x.parquet").needs(Shape.PAIRS)
    pl.DataFrame({"vote": ["first"]}).write_parquet(tmp_path / "y.parquet")
    with pytest.raises(ConfigError, match="holds no annotations: vote_id, review"):
        Annotations(file=tmp_path / "y.parquet").needs(Shape.PAIRS)

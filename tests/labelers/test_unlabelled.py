"""Rows that a labeler can't label stay, and the run says how many and why."""

import polars as pl

from labelers import Rubric
from pipelines.build import stage_line
from prefactory import ledger
from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.store import Store
from tests.helpers import asking, one_file, pairs, recipe, responses

ANSWERS = responses(*[(f"q{i}", f"answer {i}") for i in range(7)])


def sound(request):
    return '{"ratings": {"kind": 3}}'


def rubbish(request):
    return "Hard to say."


def stage(function, store, table=ANSWERS, **options):
    judge = {"engine": "scripted", "function": f"{__name__}.{function.__name__}"}
    step = {"labelers.Rubric": {"judge": judge, "attributes": [{"name": "kind"}]}}
    made = Options(engine=asking().engine, **options)
    result = execute(recipe(step), [one_file(table)], Store(store), thread_mapper(2), made)
    return result.stages[-1]


def test_a_judge_that_talks_rubbish_does_not_pass_in_silence(tmp_path):
    for shard_rows in (2, 1000):
        found = stage(rubbish, tmp_path / str(shard_rows), shard_rows=shard_rows)
        assert found.notes == {"unparseable": 7}
        assert stage_line(found).endswith("reason_rubric; without label: unparseable 7")
    again = stage(rubbish, tmp_path / "2", shard_rows=2)
    assert (again.made, again.notes) == (0, {"unparseable": 7})


def test_where_all_rows_have_labels_nothing_is_said(tmp_path):
    found = stage(sound, tmp_path)
    assert found.notes == {}
    assert "without label" not in stage_line(found)


def test_of_pairs_that_were_taken_apart_answers_are_counted(tmp_path):
    found = stage(rubbish, tmp_path, pairs(("q", "a", "b"), ("r", "c", "d")))
    assert found.notes == {"unparseable": 4}


def test_reasons_are_counted_by_name():
    columns = pl.DataFrame(
        {
            "reason_a": ["http_500", None, "unparseable"],
            "chosen_reason_b": ["http_500", None, None],
            "finish_reason": ["stop", "stop", "stop"],
            "reason_number": [1, 2, 3],
        }
    )
    assert ledger.unlabelled(columns) == {"http_500": 2, "unparseable": 1}
    assert "reason_rubric" in Rubric(
        judge={"engine": "scripted", "answers": {}}, attributes=[{"name": "kind"}]
    ).adds("responses")

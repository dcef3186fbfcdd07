"""Judges that makers ask are watched: who does not judge is told of, and labels nothing."""

import json
import logging

import pytest

from catalog.publish import publish
from catalog.versions import Catalog
from prefactory.errors import DataError
from prefactory.measures import judge_watch
from prefactory.measures.watcher import Watcher, of_answers
from tests.generators.sampling import asked_run, model
from tests.generators.test_no_answer_is_published import engine, filled, steps, table
from tests.helpers import digest, recipe

HERE = __name__


def one_value(request):
    """Lowest rating, first word, first place, whatever it is shown."""
    return json.dumps(filled(request.sampling.json_schema, "it"))


def hm(request):
    return "I would rather not say."


def judged_by(name, function):
    """A maker whose judge is a function."""
    fields = dict(steps(engine("sound"))[name])
    judge = model("j", f"{HERE}.{function}")
    if name == "InstructionSearch":
        return {f"generators.{name}": {**fields, "scorer": {"judge": judge}}}
    return {f"generators.{name}": {**fields, "judge": [judge] if name == "RAGPairs" else judge}}


def published(step, folder):
    run = asked_run(recipe(step), table(24), folder / "store")
    return publish(run, Catalog(folder / "home"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Dialogues", r"gave one value to all \d+ answers \(rating 1\)"),
        ("RAGPairs", r"gave one value to all \d+ answers \(rating 1\)"),
        ("InstructionSearch", r"gave one value to all \d+ answers \(rating 1.0\)"),
        ("ValueGapPairs", r"gave one value to all \d+ answers \(stance \w+\)"),
        ("StylePairs", "goes by the place"),
        ("AugmentPrompts", "goes by the place"),
    ],
)
def test_a_judge_with_one_answer_for_all_labels_nothing(name, said, tmp_path, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match=said):
        published(judged_by(name, "one_value"), tmp_path)
    told = [r.getMessage() for r in caplog.records if "the judge j g" in r.getMessage()]
    assert len(told) == 2, "once while it is asked, once when the step has ended"
    assert told[0].startswith("so far, ") == ("one value" in said)


MAKERS = ["AugmentPrompts", "Dialogues", "Evol", "InstructionSearch", "RAGPairs",
          "StylePairs", "ValueGapPairs"]  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_a_judge_without_answers_of_use_is_told_of(name, tmp_path):
    with pytest.raises(DataError, match=r"answers of the judge j are unusable \(unparseable"):
        published(judged_by(name, "hm"), tmp_path)


@pytest.mark.parametrize("name", ["Dialogues", "RAGPairs", "InstructionSearch"])
def test_counts_are_the_same_whatever_the_shards(name, tmp_path):
    found = []
    for size in (5, 1000):
        step = judged_by(name, "by_the_draw")
        run = asked_run(recipe(step), table(7), tmp_path / str(size), size)
        found.append((digest(run), run.stages[-1].info["watch"]))
        assert not judge_watch.failed(run.stages)
    assert found[0] == found[1]
    ((watched,),) = ({json.dumps(w) for _, w in found},)
    assert json.loads(watched)[0]["prompts"] == 7


def by_the_draw(request):
    return json.dumps(filled(request.sampling.json_schema, "it", request.draw_seed))


# -- the watcher -----


def test_it_tells_once_and_as_soon_as_it_is_clear(caplog):
    watcher = Watcher("m")
    with caplog.at_level(logging.WARNING):
        for i in range(19):
            watcher.hear(i % 5, {"rating": 3})
        assert not caplog.records
        watcher.hear(4, {"rating": 3})
        assert "so far, the judge m gave one value to all 20 answers (rating 3)" in caplog.text
        watcher.hear(0, {"rating": 3})
        watcher.count(of_answers("m", [0] * 30, [{"rating": 3}] * 30), [0, 1, 2, 3, 4])
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("prompts", "values"), [(4, [3]), (20, [3, 4]), (20, [])], ids=["few", "two values", "unrated"]
)
def test_it_tells_of_nothing_else(prompts, values, caplog):
    watcher = Watcher("m")
    for i in range(60):
        watcher.hear(i % prompts, {"rating": values[i % len(values)]} if values else {})
    assert not caplog.records
    assert watcher.watched() == []


def test_batches_are_added_up_and_prompts_counted_once(caplog):
    watcher = Watcher("m")
    for _ in range(3):
        watcher.count(of_answers("m", [1, 2], [{"rating": 1}, "timeout"]), [1, 2])
    (own,) = watcher.watched()
    assert (own["answers"], own["prompts"]) == (6, 2)
    assert own["faults"] == {"timeout": 3}
    assert own["values"] == {"rating": {"1": 3}}
    assert not caplog.records


def test_shards_are_merged_by_the_judge():
    one, two = of_answers("a", [1], [{"r": 1}]), of_answers("b", [1], ["timeout"])
    merged = judge_watch.merged([[one, two], [two], [], [one, one]])
    assert [(w["judge"], w["answers"]) for w in merged] == [("a", 2), ("b", 2), ("a", 1)]

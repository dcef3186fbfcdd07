"""Judges that do not judge: told while they run, shown in report and card, not published."""

import json
import logging
from dataclasses import replace

import polars as pl
import pytest

from catalog.publish import publish
from catalog.report.page import build as build_report
from catalog.versions import Catalog
from labelers.judges.votes import VOTES
from prefactory.errors import DataError
from prefactory.measures import judge_watch
from tests.helpers import pairs, responses, view
from tests.labelers import judging as j

MANY = pairs(*[(f"prompt {i}", f"GOOD {i}", f"bad {i}") for i in range(12)])
ANSWERS = responses(*[(f"prompt {i}", f"{w} {i}") for i in range(12) for w in ("GOOD", "bad")])


def tie(request):
    return "[[tie]]"


def ones(request):
    return '{"ratings": {"helpful": 1, "honest": 1}}'


def by_length(request):
    n = len(request.conversation[1]["content"]) % 5 + 1
    return json.dumps({"ratings": {"helpful": n, "honest": 6 - n}})


def mostly(request):
    """No verdict about a third of the prompts."""
    number = int(j.question(request).split("prompt ")[1].split()[0])
    return j.good(request) if number % 3 else "hm"


def first_place(request):
    return j.always_a(request) if "GOOD" in j.shown(request)["A"] else "hm"


def last_place(request):
    return "[[B]]" if "GOOD" in j.shown(request)["B"] else "hm"


def engine(function):
    return {"engine": "scripted", "function": f"{function.__module__}.{function.__name__}"}


def judged(function, **fields):
    return {"labelers.JudgePairs": {"judge": engine(function), **fields}}


def rated(function, **fields):
    attributes = [{"name": "helpful"}, {"name": "honest"}]
    return {"labelers.Rubric": {"judge": engine(function), "attributes": attributes, **fields}}


@pytest.mark.parametrize(
    ("step", "table", "said"),
    [
        (judged(j.rubbish), MANY, "24 of 24 answers of the judge"),
        (judged(j.failing), MANY, r"unusable \(http_500 24\)"),
        (
            judged(mostly),
            MANY,
            r"8 of 24 answers .* \(unparseable 8\); max_invalid is 0.3",
        ),
        (judged(j.always_a), MANY, "goes by the place: 24 of 24 votes are for place 1"),
        (judged(tie), MANY, 'said "tie" in all 24 votes'),
        (rated(ones), ANSWERS, r"gave one value to all 24 answers \(helpful 1.0, honest 1.0\)"),
        (rated(j.rubbish), ANSWERS, "24 of 24 answers"),
    ],
)
def test_a_judge_that_does_not_judge_labels_nothing(step, table, said, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        result = j.ran([step], table, tmp_path / "store")
    assert any(record.getMessage().find(said[:9]) >= 0 for record in caplog.records)
    catalog = Catalog(tmp_path / "home")
    with pytest.raises(DataError, match=said) as refused:
        publish(result, catalog)
    assert "publish.failed_judges=true" in str(refused.value)
    assert not catalog.root.exists() or not list(catalog.root.iterdir())


def test_with_the_switch_it_is_published_with_banners(tmp_path):
    result = j.ran([judged(j.always_a)], MANY, tmp_path / "store")
    head = result.recipe.head
    allowed = head.publish.model_copy(update={"failed_judges": True})
    result.recipe = replace(result.recipe, head=head.model_copy(update={"publish": allowed}))
    path = publish(result, Catalog(tmp_path / "home"), build_report).version.path
    for name in ("README.md", "report.html"):
        assert "goes by the place: 24 of 24 votes" in (path / name).read_text("utf-8")


@pytest.mark.parametrize("step", [judged(j.good), judged(mostly, max_invalid=0.34)])
def test_a_judge_that_judges_is_published(step, tmp_path, caplog):
    result = j.ran([step], MANY, tmp_path / "store")
    path = publish(result, Catalog(tmp_path / "home"), build_report).version.path
    assert "Warning" not in (path / "README.md").read_text("utf-8")
    assert 'role="alert"' not in (path / "report.html").read_text("utf-8")
    assert not judge_watch.failed(result.stages)


def test_ratings_that_differ_are_fine_and_few_say_nothing(tmp_path):
    assert not judge_watch.failed(j.ran([rated(by_length)], ANSWERS, tmp_path / "a").stages)
    first = ANSWERS["prompt_id"].unique().sort()[:4]
    few = ANSWERS.filter(pl.col("prompt_id").is_in(first.implode()))
    assert not judge_watch.failed(j.ran([rated(ones)], few, tmp_path / "b").stages)


def test_counts_do_not_depend_on_the_shards(tmp_path):
    whole = j.ran([rated(by_length)], ANSWERS, tmp_path / "a")
    parts = j.ran([rated(by_length)], ANSWERS, tmp_path / "b", shard_rows=5)
    assert whole.stages[-1].info == parts.stages[-1].info
    (watched,) = whole.stages[-1].info["watch"]
    assert (watched["answers"], watched["prompts"]) == (24, 12)


def test_no_row_left_names_the_judge(tmp_path):
    steps = [rated(ones), {"labelers.Pairs": {"objective": "helpful"}}]
    with pytest.raises(DataError, match=r"(?s)tie.*gave one value to all 24 answers"):
        j.ran(steps, ANSWERS, tmp_path)


def test_judges_that_follow_the_place_decide_nothing_together():
    table = j.answers(*[(f"q{i}", t) for i in range(6) for t in (f"GOOD answer {i}", f"bad {i}")])
    from labelers import Judge

    found, _, _, _ = j.judged(Judge(judge=[engine(first_place), engine(last_place)]), table)
    assert not found
    found, _, _, _ = j.judged(Judge(judge=[engine(first_place), engine(j.good)]), table)
    assert len(found) == 6


def test_cycles():
    def beats(*edges, prompt="p"):
        rows = [(prompt, a, b) for a, b in edges]
        return pl.DataFrame(rows, schema=["prompt_id", "chosen_id", "rejected_id"], orient="row")

    assert judge_watch.of_triples(beats("ab", "bc", "ca")) == {"triples": 1, "cycles": 1}
    assert judge_watch.of_triples(beats("ab", "bc", "ac")) == {"triples": 1, "cycles": 0}
    assert judge_watch.of_triples(beats("ab", "bc")) == {"triples": 0, "cycles": 0}
    assert judge_watch.of_triples(beats("ab", "bc", "ca", "ad", "bd", "cd")) == {
        "triples": 4,
        "cycles": 1,
    }
    own = {"judge": "m", "answers": 0, "prompts": 0, "faults": {}, "triples": 20, "cycles": 4}
    assert "4 of 20 triples" in judge_watch.problems([own])[0]
    assert not judge_watch.problems([{**own, "cycles": 3}])


def votes(*places, k=2):
    rows = [(f"q{i}", 0, 0, p, p, 1, None) for i, p in enumerate(places)]
    return pl.DataFrame(rows, schema=VOTES, orient="row").with_columns(answers=pl.lit(k))


@pytest.mark.parametrize(
    ("places", "told"),
    [([0] * 20, True), ([1] * 38 + [0] * 2, True), ([0] * 19, False), ([0] * 36 + [1] * 4, False)],
)
def test_one_place(places, told):
    assert bool(judge_watch.problems(judge_watch.of_votes(votes(*places), ["m"]))) is told


def test_reasons_are_kept_and_shown_at_the_pair(tmp_path):
    result = j.ran([judged(j.good, rationale=True)], MANY, tmp_path / "store")
    published = publish(result, Catalog(tmp_path / "home"), build_report).version
    votes = view(result, "pairs")["judge_votes"].explode().struct.unnest()
    assert set(votes["rationale"]) == {"I looked at all."}
    page = (published.path / "report.html").read_text("utf-8")
    assert "judge 0 for A <b>I looked at all.</b>" in page
    plain = j.ran([judged(j.good)], MANY, tmp_path / "store")
    assert view(plain, "pairs")["judge_votes"].explode().struct.unnest()["rationale"].null_count()

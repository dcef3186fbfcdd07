"""Judges that do not judge: told while they run, shown in report and card, not published."""

import json
import logging
from dataclasses import replace

import polars as pl
import pytest
from pydantic import ValidationError

from catalog.publish import publish
from catalog.report.page import build as build_report
from catalog.versions import Catalog
from labelers.judges.votes import VOTES
from prefactory.engines.base import Completion, Engine
from prefactory.errors import DataError, PrefactoryError
from prefactory.measures import judge_watch
from tests.helpers import digest, pairs, responses, view
from tests.labelers import judging as j

MANY = pairs(*[(f"prompt {i}", f"GOOD {i}", f"bad {i}") for i in range(12)])
ANSWERS = responses(*[(f"prompt {i}", f"{w} {i}") for i in range(12) for w in ("GOOD", "bad")])


def tie(request):
    return "[[tie]]"


def ones(request):
    return '{"ratings": {"helpful": 1, "honest": 1}}'


def half_rubbish(request):
    """No rating of half of the answers, however often it is asked."""
    number = int(request.conversation[1]["content"].split("prompt ")[1].split()[0])
    return by_length(request) if number % 8 > 2 else "hm"


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
        (rated(half_rubbish), ANSWERS, r"12 of 24 answers .*unparseable 12"),
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


@pytest.mark.parametrize(
    "fields",
    [{}, {"samples": 2, "sampling": {"temperature": 1.0}}, {"critique": "first"},
     {"attributes": [], "criteria": ["It is kind.", "It is short."]}],
)  # fmt: skip
def test_ratings_are_watched_while_they_are_asked_for(fields, tmp_path, caplog):
    asked, told_at = [], []

    class Counted(Heard):
        def run(self, requests, done):
            def one(place, result):
                done(place, result)
                told_at.append(bool(caplog.records))

            super().run(requests, one)

    with caplog.at_level(logging.WARNING):
        j.ran(
            [rated(same, **fields)], ANSWERS, tmp_path,
            engine=lambda config: Counted(config.open(), asked),
        )  # fmt: skip
    first = 24 if "critique" in fields else 0
    assert told_at.index(True) - first == 19, "with the twentieth of 24 answers"
    assert caplog.records[0].getMessage().startswith("so far, the judge scripted gave one value")


def same(request):
    """Whatever it is asked, one value."""
    asked = request.conversation[-1]["content"]
    if "ratings" not in asked:
        return "A critique."
    keys = [k for k in ("helpful", "honest", "c1", "c2") if f'"{k}"' in asked]
    return json.dumps({"ratings": dict.fromkeys(keys, 1)})


MUCH = responses(*[(f"prompt {i}", f"{w} {i}") for i in range(30) for w in ("GOOD", "bad")])


@pytest.mark.parametrize(
    ("step", "table", "calls"),
    [
        (rated(j.rubbish), MUCH, 60 + 20 + 20),
        (judged(j.rubbish), pairs(*[(f"p {i}", f"GOOD {i}", f"bad {i}") for i in range(60)]),
         60 + 20 + 20),
    ],
)  # fmt: skip
def test_where_all_fail_asking_again_stops_early(step, table, calls, tmp_path):
    asked = []
    said = r"60 of 60 answers of the judge .* unusable \(unparseable 60\).*asked for 3 times"
    with pytest.raises(DataError, match=said) as stopped:
        j.ran([step], table, tmp_path, engine=lambda config: Heard(config.open(), asked))
    assert len(asked) == calls  # of 180 for ratings, 360 for votes
    assert "I would rather not say." in str(stopped.value)
    (name,) = step
    patient = {name: {**step[name], "max_invalid": 1}}
    result = j.ran([patient], table, tmp_path / "all")
    assert not judge_watch.failed(result.stages)


def no_third(request):
    """Sees its mistake once it is told."""
    return by_length(request) if len(request.conversation) > 2 else "hm"


def test_one_answer_on_being_asked_again_is_enough_to_go_on(tmp_path):
    whole = j.ran([rated(no_third)], MUCH, tmp_path / "a")
    assert whole.stages[-1].info["watch"][0]["faults"] == {}
    parts = j.ran([rated(no_third)], MUCH, tmp_path / "b", shard_rows=7)
    assert digest(whole) == digest(parts)


def test_few_refused_answers_are_all_asked_again(tmp_path):
    """Below 20 it may be chance, and with max_invalid .9 below 197."""
    few = j.ran([rated(j.rubbish)], MUCH, tmp_path / "a", shard_rows=8)
    assert few.stages[-1].info["watch"][0]["faults"] == {"unparseable": 60}
    j.ran([rated(j.rubbish, max_invalid=0.9)], MUCH, tmp_path / "b")


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


@pytest.mark.parametrize(("prompts", "told"), [(8, []), (10, ["goes by the place: 20 of 20"])])
def test_the_first_place_sixteen_times_labels_nothing_and_twenty_times_is_told(
    prompts, told, tmp_path
):
    table = pairs(*[(f"prompt {i}", f"GOOD {i}", f"bad {i}") for i in range(prompts)])
    result = j.ran([judged(j.always_a)], table, tmp_path)
    assert view(result, "pairs")["judge_prefers"].null_count() == prompts
    found = judge_watch.failed(result.stages)
    assert [sentence in one for sentence, one in zip(told, found, strict=True)] == [True] * len(
        told
    )


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


HANDS = ("stone", "scissors", "paper")
HANDED = responses(*[(f"prompt {i}", f"{w} {i}") for i in range(20) for w in HANDS])


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_cycles_are_counted_for_each_judge_of_a_jury(names, tmp_path):
    jury = [{**engine(j.stone), "model": name} for name in names]
    step = {"labelers.Judge": {"judge": jury, "mode": "pairwise", "on_cycle": "keep"}}
    result = j.ran([step], HANDED, tmp_path, shard_rows=7)
    watched = result.stages[-1].info["watch"]
    assert [(w["triples"], w["cycles"]) for w in watched] == [(20, 20)] * len(names)
    told = [s for s in judge_watch.failed(result.stages) if "cycle" in s]
    assert [
        f"20 of 20 triples of answers that the judge {n}" in t
        for n, t in zip(names, told, strict=True)
    ]


def test_cycles_are_counted_over_pairs_that_exist_already(tmp_path):
    both = [(a, b) for n, a in enumerate(HANDS) for b in HANDS[n + 1 :]]
    table = pairs(*[(f"prompt {i}", f"{a} {i}", f"{b} {i}") for i in range(20) for a, b in both])
    result = j.ran([judged(j.stone)], table, tmp_path)
    (watched,) = result.stages[-1].info["watch"]
    assert (watched["triples"], watched["cycles"]) == (20, 20)
    assert "20 of 20 triples" in " ".join(judge_watch.failed(result.stages))


KNOWN = [i % 6 > 0 for i in range(12)]
"""Ten of twelve prompts whose better answer is known."""


@pytest.mark.parametrize("shard_rows", [5, 1000])
def test_judges_that_disagree_with_gold_pairs_are_told_of(shard_rows, tmp_path):
    table = MANY.with_columns(known=pl.Series(KNOWN))
    result = j.ran([judged(j.bad, gold="known")], table, tmp_path / "a", shard_rows)
    (watched,) = result.stages[-1].info["watch"]
    assert (watched["gold"], watched["gold_prompts"], watched["gold_agrees"]) == (20, 10, 0)
    (said,) = judge_watch.failed(result.stages)
    assert said.endswith("on gold rows are right; min_gold is 0.6, and a coin has half")
    with pytest.raises(DataError, match="0 of 20 votes"):
        publish(result, Catalog(tmp_path / "home"))
    fine = j.ran([judged(j.good, gold="known")], table, tmp_path / "b", shard_rows)
    assert fine.stages[-1].info["watch"][0]["gold_agrees"] == 20
    assert not judge_watch.failed(fine.stages)
    loose = j.ran([judged(j.bad, gold="known", min_gold=0)], table, tmp_path / "c", shard_rows)
    assert not judge_watch.failed(loose.stages)


@pytest.mark.parametrize("mode", ["listwise", "pairwise"])
def test_judges_that_disagree_with_gold_answers_are_told_of(mode, tmp_path):
    table = ANSWERS.with_columns(
        best=pl.col("response").list.first().struct.field("content").str.starts_with("GOOD")
    )
    step = {"labelers.Judge": {"judge": engine(j.bad), "mode": mode, "gold": "best"}}
    result = j.ran([step], table, tmp_path)
    (watched,) = result.stages[-1].info["watch"]
    assert (watched["gold"], watched["gold_agrees"]) == (24, 0)
    assert "0 of 24 votes" in judge_watch.failed(result.stages)[0]


def upside_down(request):
    """Rates what is good low, and the other a little higher."""
    low = "GOOD" in request.conversation[1]["content"]
    return json.dumps({"ratings": {"helpful": 1 if low else 2, "honest": 3}})


def upright(request):
    high = "GOOD" in request.conversation[1]["content"]
    return json.dumps({"ratings": {"helpful": 2 if high else 1, "honest": 3}})


@pytest.mark.parametrize("shard_rows", [5, 1000])
@pytest.mark.parametrize("combined", [True, None])
def test_ratings_that_disagree_with_gold_answers_are_told_of(combined, shard_rows, tmp_path):
    texts = [(f"prompt {i}", f"{w} {i}") for i in range(24) for w in ("GOOD", "bad")]
    table = j.answers(*texts).with_columns(
        best=pl.col("response").list.first().struct.field("content").str.starts_with("GOOD")
    )
    step = rated(upside_down, gold="best", combined=combined)
    result = j.ran([step], table, tmp_path / "a", shard_rows)
    (watched,) = result.stages[-1].info["watch"]
    assert (watched["gold"], watched["gold_prompts"], watched["gold_agrees"]) == (24, 24, 0)
    (said,) = judge_watch.failed(result.stages)
    assert "0 of 24 comparisons of the judge" in said
    with pytest.raises(DataError, match="0 of 24 comparisons"):
        publish(result, Catalog(tmp_path / "home"))
    fine = j.ran([rated(upright, gold="best", combined=combined)], table, tmp_path / "b")
    assert fine.stages[-1].info["watch"][0]["gold_agrees"] == 24
    assert not judge_watch.failed(fine.stages)


def test_equal_ratings_and_unrated_answers_are_no_comparison_with_gold():
    rows = [("p", "a", True, 3.0), ("p", "b", False, 3.0), ("p", "c", False, None),
            ("p", "d", False, 1.0), ("q", "e", True, 2.0)]  # fmt: skip
    rated = pl.DataFrame(rows, ["prompt_id", "id", "gold", "score"], orient="row")
    assert judge_watch.of_gold(rated) == {"gold": 1, "gold_prompts": 1, "gold_agrees": 1}


def test_votes_of_a_place_follower_on_gold_rows_are_half_right(tmp_path):
    table = MANY.with_columns(known=pl.lit(value=True))
    result = j.ran([judged(j.always_a, gold="known")], table, tmp_path)
    (watched,) = result.stages[-1].info["watch"]
    assert (watched["gold"], watched["gold_agrees"]) == (24, 12)


def test_a_gold_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PrefactoryError, match="known"):
        j.ran([judged(j.good, gold="known")], MANY, tmp_path)


def strong(request):
    """A judge that knows; its tokens are counted."""
    return Completion(j.good(request), prompt_tokens=90, completion_tokens=10)


def shy(request):
    """Sees which is good for half of the prompts, and follows the place for the others."""
    number = int(j.question(request).split("prompt ")[1].split()[0])
    said = j.good(request) if number % 2 else j.always_a(request)
    return Completion(said, prompt_tokens=9, completion_tokens=1)


@pytest.mark.parametrize("shard_rows", [5, 1000])
def test_what_the_jury_abstains_on_goes_to_a_stronger_judge(shard_rows, tmp_path):
    step = judged(shy, escalate_to={**engine(strong), "model": "strong"})
    step["labelers.JudgePairs"]["judge"]["model"] = "shy"
    result = j.ran([step], MANY, tmp_path / "a", shard_rows)
    table, stage = view(result, "pairs"), result.stages[-1]
    assert set(table["judge_prefers"]) == {"chosen"}
    voters = table["judge_votes"].list.eval(pl.element().struct.field("judge")).to_list()
    assert sorted(map(str, voters)) == ["[0, 0, 1, 1]"] * 6 + ["[0, 0]"] * 6
    assert stage.info["models"] == ["shy", "strong"]
    assert stage.info["cost"] == {
        "questions": 12, "decided": 12, "tokens": 24 * 10 + 12 * 100,
        "escalated": 6, "decided_there": 6, "tokens_there": 12 * 100,
    }  # fmt: skip
    assert [w["answers"] for w in stage.info["watch"]] == [24, 12]
    stage.usage = [  # as a run with a session notes it
        {"model": m, "role": role, "calls": 1, "prompt_tokens": n, "completion_tokens": 0, "usd": u}
        for m, role, n, u in (("shy", "judge", 240, 0.012), ("strong", "escalate_to", 1200, 1.2))
    ]
    page = publish(result, Catalog(tmp_path / "home"), build_report).version.path / "report.html"
    text = page.read_text("utf-8")
    for told in (
        "sent to the stronger judge",
        "6, 6 decided",
        "tokens per question decided by the jury",
        "40, 0.002 US dollars",
        "200, 0.2 US dollars",
        "120, 0.101 US dollars",
    ):
        assert told in text
    alone = j.ran([judged(shy)], MANY, tmp_path / "b", shard_rows)
    assert view(alone, "pairs")["judge_prefers"].null_count() == 6


@pytest.mark.parametrize("mode", ["listwise", "pairwise"])
def test_the_stronger_judge_alone_decides_what_it_is_asked(mode, tmp_path):
    table = j.answers(*[(f"prompt {i}", f"{w} {i}") for i in range(4) for w in ("GOOD", "bad")])
    from labelers import Judge

    about = {"mode": mode, "escalate_to": engine(j.good)}
    found, _, rows, info = j.judged(Judge(judge=engine(j.always_a), **about), table)
    assert len(found) == 4
    assert all(chosen.startswith("GOOD") for chosen, _ in found)
    assert rows["judge_agreement"].to_list() == [1.0] * 4
    assert info["cost"]["escalated"] == info["cost"]["decided_there"] == 4
    kept, _, _, _ = j.judged(
        Judge(judge=engine(j.good), **{**about, "escalate_to": engine(j.bad)}), table
    )
    assert all(chosen.startswith("GOOD") for chosen, _ in kept)  # nobody asked it


def test_the_stronger_judge_is_another_one():
    from labelers import JudgePairs

    with pytest.raises(ValidationError, match="this judge has voted already"):
        JudgePairs(judge=engine(j.good), escalate_to=engine(j.good))


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


# -- gold pairs that are no rows -----

GOLD = [{"prompt": f"known {i}", "chosen": f"GOOD {i}", "rejected": f"bad {i}"} for i in range(24)]


def gold_file(folder):
    path = folder / "gold.jsonl"
    rows = [*GOLD[:6]]
    for row in GOLD[6:]:  # as TRL has them, and with a column that nobody reads
        turn = [{"role": "user", "content": row["prompt"]}]
        said = {k: [{"role": "assistant", "content": row[k]}] for k in ("chosen", "rejected")}
        rows.append({"prompt": turn, **said, "by": "Ann"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def listwise(function, **fields):
    return {"labelers.Judge": {"judge": engine(function), **fields}}


class Heard(Engine):
    """An engine whose questions are noted."""

    def __init__(self, model, asked):
        self.model, self.asked = model, asked

    def run(self, requests, done):
        requests = list(requests)
        self.asked.extend(str(r.conversation) for r in requests)
        self.model.run(requests, done)


@pytest.mark.parametrize(
    ("step", "table", "bad", "good"),
    [(judged, MANY, j.bad, j.good), (listwise, ANSWERS, j.bad, j.good),
     (rated, ANSWERS, upside_down, upright)],
)  # fmt: skip
def test_who_fails_on_gold_pairs_is_asked_no_further(step, table, bad, good, tmp_path):
    asked, own = [], {"gold_pairs": gold_file(tmp_path)}
    failed = "(?s)0 of (24|48) .* on gold rows are right.*nothing else was asked"
    with pytest.raises(DataError, match=failed):
        j.ran(
            [step(bad, **own)],
            table,
            tmp_path / "a",
            engine=lambda config: Heard(config.open(), asked),
        )
    assert len(asked) == 48
    assert all("known" in question for question in asked)
    whole = j.ran([step(good, **own)], table, tmp_path / "b")
    (watched,) = whole.stages[-1].info["watch"]
    assert watched["gold"] == watched["gold_agrees"] == (24 if step is rated else 48)
    assert (watched["gold_prompts"], watched["answers"]) == (24, 48 + 24)
    assert not judge_watch.failed(whole.stages)
    assert whole.stages[-1].rows_out == (24 if step is rated else 12)  # gold is no row
    parts = j.ran([step(good, **own)], table, tmp_path / "c", shard_rows=5)
    assert whole.stages[-1].info == parts.stages[-1].info


def test_gold_pairs_are_their_files_content_and_mistakes_are_sentences(tmp_path):
    from labelers import JudgePairs, Rubric

    path = gold_file(tmp_path)
    judge = engine(j.good)
    told = JudgePairs(judge=judge, gold_pairs=path)
    assert told.fingerprint() == JudgePairs(judge=judge, gold_pairs=GOLD).fingerprint()
    assert told.asks(10, 10)[0].calls == 2 * (10 + 24)
    rubric = Rubric(judge=judge, attributes=[{"name": "helpful"}], gold_pairs=path)
    assert rubric.asks(10, 10)[0].calls == 10 + 48
    with pytest.raises(ValidationError, match="can't be read"):
        JudgePairs(judge=judge, gold_pairs=str(tmp_path / "none.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p"}\n')
    with pytest.raises(ValidationError, match="chosen"):
        JudgePairs(judge=judge, gold_pairs=str(tmp_path / "bad.jsonl"))
    (tmp_path / "no.jsonl").write_text("\nno\n")
    with pytest.raises(ValidationError, match="line 2 is no JSON"):
        JudgePairs(judge=judge, gold_pairs=str(tmp_path / "no.jsonl"))
    with pytest.raises(ValidationError, match="they hold no rubrics and references"):
        Rubric(judge=judge, rubric="r", gold_pairs=path)

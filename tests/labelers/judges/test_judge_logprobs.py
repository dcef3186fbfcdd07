"""Votes by log-probabilities, averaged over the places of the answers."""

import math

import polars as pl
import pytest
from pydantic import ValidationError

from labelers import Judge, JudgePairs
from labelers.judges.likelihoods import outcomes
from labelers.judges.votes import BESIDE, VOTES, Rules
from prefactory.measures import judge_watch
from tests.helpers import pairs, tiny_llama, view
from tests.labelers import judging as j

HERE = __name__
PLAIN = {"by": "logprobs", "ties": False}
MANY = pairs(*[(f"prompt {i}", f"GOOD {i}", f"bad {i}") for i in range(12)])


def scored(conversation, place, good):
    """Log-probability of the last message: so much for the first place, so much for GOOD."""
    name = conversation[-1]["content"].strip("[]")
    shown = {n: t for n, _, t in j._ANSWER.findall(conversation[-2]["content"])}
    value = place * (name == "A") + good * ("GOOD" in shown[name])
    return [("[[", -1.0), (name, value - 5.0), ("]]", -0.5)]


def leans(conversation):
    """Likes the first place far more than what is good, and that a little."""
    return scored(conversation, 3.0, 0.8)


def place_only(conversation):
    return scored(conversation, 3.0, 0.0)


def nothing_finite(conversation):
    return [("x", -math.inf)]


def engine(function, **more):
    return {
        "engine": "scripted",
        "model": function.__name__,
        "function": f"{HERE}.never_asked",
        "logprob_function": f"{HERE}.{function.__name__}",
        **more,
    }


def never_asked(request):
    raise AssertionError("no words are wanted")


def test_a_liking_for_a_place_cancels():
    found = j.labelled(JudgePairs(judge=engine(leans), **PLAIN), MANY)
    assert set(found["judge_prefers"]) == {"chosen"}
    share = 1 / (1 + math.exp(-0.8))
    assert found["judge_agreement"].to_list() == pytest.approx([share] * 12)
    votes = found["judge_votes"].explode().struct.unnest()
    assert set(votes["place"]) == {0}  # every single vote went by the place
    odds = votes["logprobs"].list.eval(pl.element().exp()).list.sum()
    assert odds.to_list() == pytest.approx([1.0] * 24)


def test_place_alone_decides_nothing_and_is_told_of(tmp_path):
    step = {"labelers.JudgePairs": {"judge": engine(place_only), **PLAIN}}
    result = j.ran([step], MANY, tmp_path, shard_rows=5)
    table = view(result, "pairs")
    assert set(table["judge_reason"]) == {"abstained"}
    assert table["judge_agreement"].to_list() == pytest.approx([0.5] * 12)
    assert "goes by the place" in judge_watch.failed(result.stages)[0]


@pytest.mark.parametrize("mode", ["listwise", "pairwise"])
def test_the_likeliest_of_several_answers_wins(mode):
    table = j.answers(*[("q", t) for t in ("GOOD one", "bad two", "bad three")])
    step = Judge(judge=engine(leans), mode=mode, agreement=0.5, min_valid=1.0, **PLAIN)
    if mode == "listwise":
        step = step.model_copy(update={"agreement": 0.4})
    found, _, rows, _ = j.judged(step, table)
    assert {chosen for chosen, _ in found} == {"GOOD one"} or mode == "pairwise"
    assert ("GOOD one", "bad two") in found
    if mode == "listwise":
        share = math.exp(0.8) / (math.exp(0.8) + 2)
        assert rows["judge_agreement"].to_list() == pytest.approx([share] * 2)


def votes(*rows):
    """(question, judge, round, logprobs or a fault)."""
    full = [
        (q, judge, n, None, None, 1, None, None, 0, said)
        if isinstance(said, list)
        else (q, judge, n, None, None, 0, said, None, 0, None)
        for q, judge, n, said in rows
    ]
    return pl.DataFrame(full, schema={**VOTES, **BESIDE}, orient="row")


def logs(*shares):
    return [math.log(p) for p in shares]


def test_known_averages_and_judges_that_failed_in_one_order():
    table = votes(
        ("a", 0, 0, logs(0.9, 0.1)), ("a", 0, 1, logs(0.5, 0.5)),  # odds 9 and 1: 3 on average
        ("b", 0, 0, logs(0.99, 0.01)), ("b", 0, 1, "timeout"),  # one order only: it would lean
        ("b", 1, 0, logs(0.2, 0.8)), ("b", 1, 1, logs(0.2, 0.8)),
        ("c", 0, 0, "timeout"), ("c", 0, 1, "timeout"),
        ("d", 0, 0, logs(0.5, 0.5)), ("d", 0, 1, logs(0.5, 0.5)),
    )  # fmt: skip
    asked = pl.DataFrame({"question": list("abcd"), "planned": [2, 4, 2, 2], "each": [2] * 4})
    found = outcomes(table, asked, Rules())
    assert found["winner"].to_list() == [0, 1, None, None]
    assert found["agreement"].to_list()[:2] == pytest.approx([0.75, 0.8])
    assert found["reason"].to_list() == [None, None, "timeout", "abstained"]
    assert found["valid"].to_list() == [2, 2, 0, 2]
    assert found["detail"].to_list()[3] == "2 of 2 votes count, the likeliest answer has 50.0%"


def test_what_is_not_finite_is_no_vote():
    found = j.labelled(JudgePairs(judge=engine(nothing_finite), **PLAIN), MANY)
    assert set(found["judge_reason"]) == {"no_logprobs"}


def test_a_real_model_says_the_same_of_a_pair_and_of_its_turn(tmp_path):
    judge = {
        "engine": "transformers",
        "model": str(tiny_llama(tmp_path / "m")),
        "precision": "fp32",
        "device": "cpu",
    }
    step = JudgePairs(judge=judge, agreement=0.5, **PLAIN)
    found = j.labelled(step, pairs(("q", "certainly please", "go away")))
    turned = j.labelled(step, pairs(("q", "go away", "certainly please")))
    sides = {found["judge_prefers"][0], turned["judge_prefers"][0]}
    assert sides == {"chosen", "rejected"}  # the same answer
    assert found["judge_agreement"].to_list() == turned["judge_agreement"].to_list()
    (logprobs, _) = found["judge_votes"].explode().struct.field("logprobs").to_list()
    assert sum(map(math.exp, logprobs)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"judge": {"engine": "scripted", "model": "m", "function": "x.y"}}, "offers no log-prob"),
        ({"judge": {"engine": "transformers", "model": "m"}}, "set precision: fp32"),
        ({"judge": {"engine": "vllm", "model": "m"}}, "set precision: float32"),
        ({"ties": True}, "set ties to false"),
        ({"rationale": True}, "set rationale to false"),
    ],
)
def test_what_cannot_vote_so_is_a_sentence(change, told):
    with pytest.raises(ValidationError, match=told):
        JudgePairs(**{"judge": engine(leans), **PLAIN, **change})

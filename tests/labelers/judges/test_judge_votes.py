import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelers.judges.votes import TIE, VOTES, Rules, nested, no_votes, orders, outcomes, settled


def ballots(*cast, question="q", k=2):
    """Votes on one question, one per ordering: (answer, place), an answer alone, a fault, a tie."""
    rows = []
    for number, vote in enumerate(cast):
        if isinstance(vote, str) and vote != "tie":
            rows.append((question, 0, number, None, None, 0, vote))
        elif vote == "tie":
            rows.append((question, 0, number, None, TIE, 1, None))
        else:
            answer, place = vote if isinstance(vote, tuple) else (vote, (vote - number) % k)
            rows.append((question, 0, number, place, answer, 1, None))
    return pl.DataFrame(rows, schema=VOTES, orient="row")


def asked(planned, *names):
    return pl.DataFrame({"question": list(names) or ["q"], "planned": planned})


def outcome(*cast, planned=None, k=2, **rules):
    table = asked(planned or len(cast))
    return outcomes(ballots(*cast, k=k), table, Rules(**rules)).row(0, named=True)


@pytest.mark.parametrize(
    ("cast", "winner", "agreement", "reason"),
    [
        ([0, 0], 0, 1.0, None),
        ([1, 1], 1, 1.0, None),
        ([0, 1], None, 0.5, "abstained"),
        ([(0, 0), (1, 0)], None, 0.5, "abstained"),
        (["tie", "tie"], TIE, 1.0, "tie"),
        (["tie", 0], None, 0.5, "abstained"),
        (["unparseable", "unparseable"], None, None, "no_valid_vote"),
        (["http_500", "http_500"], None, None, "http_500"),
        (["http_500", "timeout"], None, None, "no_valid_vote"),
        (["http_500", "unparseable"], None, None, "no_valid_vote"),
        ([0, 0, 0, 1], 0, 0.75, None),
        ([0, 0, 1, "tie"], None, 0.5, "abstained"),
        ([0, 0, "unparseable", "unparseable"], 0, 1.0, None),
        ([0, "timeout", "unparseable", "unparseable"], None, 1.0, "abstained"),
    ],
)
def test_votes_of_one_question(cast, winner, agreement, reason):
    found = outcome(*cast)
    assert (found["winner"], found["agreement"], found["reason"]) == (winner, agreement, reason)
    assert found["asked"] == len(cast)
    assert found["valid"] == sum(not isinstance(v, str) or v == "tie" for v in cast)


def test_details_say_what_was_counted():
    assert outcome(0, 1)["detail"] == "2 of 2 votes valid, 50% of their weight for one answer"
    found = outcome(0, "timeout", "unparseable", "unparseable")
    assert found["detail"] == ("1 of 4 votes valid; timeout 1, unparseable 2, fewer than wanted")
    found = outcome((0, 0), "http_500")
    assert found["reason"] == "abstained"
    assert found["detail"] == (
        "1 of 2 votes valid; http_500 1, all for what stood in the same place"
    )
    assert outcome("http_500", "http_500")["detail"] == "0 of 2 votes valid; http_500 2"


@given(
    st.integers(2, 5).flatmap(
        lambda k: st.tuples(
            st.just(k), st.lists(st.booleans(), min_size=k, max_size=3 * k).map(tuple)
        )
    ),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
@settings(max_examples=50)
def test_votes_for_one_place_decide_nothing_whatever_fails(spec, agreement, min_valid):
    """Always A: the vote goes to whichever answer stands first, and some votes are lost."""
    k, valid = spec
    base = [list(range(k))] * 3
    cast = [(orders(base, n)[0], 0) if v else "timeout" for n, v in enumerate(valid)]
    found = outcome(*cast, k=k, agreement=agreement, min_valid=min_valid)
    assert found["winner"] is None
    assert found["reason"] in ("abstained", "timeout")


@pytest.mark.parametrize(("agreement", "winner"), [(0.6, 1), (0.61, None)])
def test_the_threshold_is_inclusive(agreement, winner):
    assert outcome(1, 1, 1, 0, 2, k=5, agreement=agreement)["winner"] == winner


def test_two_answers_with_most_votes_are_no_winner():
    assert outcome(0, 0, 1, 1, agreement=0.5)["winner"] is None
    assert outcome(0, 1, 2, 0, 2, 0, k=3, agreement=0.5)["winner"] == 0


def test_a_strong_vote_counts_more():
    rows = [("q", 0, 0, 0, 0, 3, None), ("q", 0, 1, 0, 1, 1, None), ("q", 0, 2, 1, 0, 1, None)]
    votes = pl.DataFrame(rows, schema=VOTES, orient="row")
    found = outcomes(votes, asked(3), Rules(0.8, strongest=3)).row(0, named=True)
    assert (found["winner"], found["agreement"]) == (0, 0.8)


def test_many_questions_at_once_and_one_without_votes():
    votes = pl.concat([ballots(0, 0, question="b"), ballots(1, 0, question="a")]).reverse()
    found = outcomes(votes, asked(2, "a", "b", "c"), Rules())
    assert found["winner"].to_list() == [None, 0, None]
    assert found["reason"].to_list() == ["abstained", None, "no_valid_vote"]
    assert found["asked"].to_list() == [2, 2, 0]
    assert outcomes(no_votes(), asked(1).head(0), Rules()).height == 0


# -- stopping early -----


@pytest.mark.parametrize(
    ("cast", "planned", "over"),
    [
        ([0], 2, False),
        ([0, 0], 2, True),
        ([0, 0], 5, False),
        ([0, 0, 0], 5, True),  # 3 of 5 is 60% at the least
        ([0, 1, 2], 5, False),  # 3 of 5 still possible
        ([0, 1, 2, 3], 5, True),
        ([0, 1], 4, False),
        (["x", "x"], 3, True),  # 2 of 3 votes must be valid
        (["x", 0], 4, False),
        ([(0, 0), "x", (0, 0)], 4, False),  # the fourth may be the second place that it wins in
        ([(0, 0), (0, 1)], 2, True),
    ],
)
def test_settled(cast, planned, over):
    found = settled(ballots(*cast, k=5), asked(planned), Rules())
    assert found.to_list() == [over]


def test_a_leader_who_can_be_drawn_level_with_is_not_settled():
    rules = Rules(agreement=0.3)
    for cast, over in (([0, 0, 0, 1, 1], False), ([0, 0, 0, 1], True)):
        assert settled(ballots(*cast, k=4), asked(len(cast) + 1), rules).item() == over, cast


cast_votes = st.lists(
    st.one_of(st.integers(0, 3), st.just("tie"), st.just("unparseable")), min_size=1, max_size=9
)


@given(cast_votes, st.sampled_from([0.3, 0.5, 0.6, 0.75, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=30)
def test_what_is_settled_no_later_vote_changes(cast, agreement, min_valid):
    rules = Rules(agreement, min_valid)
    planned = asked(len(cast))
    final = outcomes(ballots(*cast, k=4), planned, rules)["winner"].item()
    for n in range(1, len(cast)):
        part = ballots(*cast[:n], k=4)
        if settled(part, planned, rules).item():
            assert outcomes(part, planned, rules)["winner"].item() == final


# -- orders -----


@given(st.permutations(range(5)), st.permutations(range(5)))
def test_each_answer_stands_in_each_place_once_a_round(first, second):
    shown = [orders([first, second], n) for n in range(10)]
    for start in (0, 5):
        for place in range(5):
            assert {order[place] for order in shown[start : start + 5]} == set(range(5))
    assert shown[0] == first
    assert shown[5] == second


def test_votes_as_lists():
    votes = pl.concat([ballots(1, 0, question="b"), ballots("tie", question="a")])
    found = nested(votes.reverse())
    assert found["question"].to_list() == ["a", "b"]
    assert found["votes"].list.len().to_list() == [1, 2]
    assert [v["answer"] for v in found["votes"][1]] == [1, 0]

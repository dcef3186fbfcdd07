"""Judges' replies as models write them, with what may be read out of each."""

import json
from pathlib import Path

import pytest

from labelers.judges.verdicts import rationale_of, verdict_of
from labelers.rubric.items import Attribute, read_ratings
from prefactory.asking.forms import Form

REPLIES = Path(__file__).parent / "replies"


def replies(name):
    rows = [json.loads(line) for line in (REPLIES / name).read_text("utf-8").splitlines()]
    return [pytest.param(row, id=row["id"]) for row in rows]


def rating(reply, scale=(1, 5)):
    item = Attribute(name="helpfulness", scale=scale).item()
    try:
        return f"{read_ratings(reply, [item]).values[0]:g}"
    except ValueError:
        return "None"


def preferred(reply):
    """What a reply about two answers prefers, with the winner in either place."""
    seen = set()
    for won, lost in ("AB", "BA"):
        text = reply.replace("{W}", won).replace("{L}", lost).replace("{w}", won.lower())
        try:
            place = verdict_of(text, 2).place
            seen.add("tie" if place is None else "W" if "AB"[place] == won else "L")
        except ValueError:
            seen.add("None")
    return seen.pop() if len(seen) == 1 else "None"  # follows the place: decides nothing


@pytest.mark.parametrize("row", replies("judge_replies_rubric.jsonl"))
def test_ratings(row):
    assert rating(row["reply"], row["scale"]) in row["right"]


@pytest.mark.parametrize("row", replies("judge_replies_pairwise.jsonl"))
def test_verdicts(row):
    assert preferred(row["reply"]) in row["right"]


@pytest.mark.parametrize(
    "reply",
    [
        "Rating: 4 of 10",
        "Rating: 4\u20135",
        "Rating: 4\nor 5",
        "Rating: 4\n/10",
        "Score: 4 points short of full marks",
        "It does not deserve a score of 4.",
        "If it were shorter: Score: 5",
        "I can't say score: 4",
        "It would get a rating of 5.",
        "Had it cited sources, my rating: 5",
        "I am torn between a score of 3 and a score of 4",
        "Rating: 1,000",
        "Score: 4?",
        "Score: 4 ± 1",
        "Score: 3.\nRating: 4.",
        "The score of the home team was 3",
        "Score: 4 stars",
    ],
)
def test_no_rating_is_guessed(reply):
    assert rating(reply) == "None"


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("A fine answer.\n\nScore: 4", "4"),
        ("The answer isn't long. My rating is 3.", "3"),
        ("**Rating:** 5/5", "5"),
        ("Feedback: clear and true [RESULT] 4", "4"),
    ],
)
def test_plain_ratings_count(reply, right):
    assert rating(reply) == right


@pytest.mark.parametrize(
    "reply",
    [
        "It isn't [[L]].",
        "[[L]] is wrong.",
        "Unless brevity counts, [[L]]",
        "Either [[L]]\nor the other.",
        'Not {"winner": "L"}',
        '{"winner": "L"} would be wrong.',
        'If depth mattered: {"winner": "L"}',
        '{"winner": "L", "Winner": "W"}',
        '{"winner": "W", "verdict": "L"}',
        'Reasons {in braces}. {"winner": "W", "winner": "L"}',
        "[[L]]? I can't tell.",
        "[[L]], no: the other.",
        "[[L]]\n\nWait, I mixed them up.",
    ],
)
def test_verdicts_that_are_taken_back(reply):
    assert (
        preferred(reply.replace('"W"', '"{W}"').replace('"L"', '"{L}"').replace("[[L]]", "[[{L}]]"))
        == "None"
    )


@pytest.mark.parametrize(
    "reply",
    [
        "It is not short. [[{W}]]",
        "A is longer.\n\n**[[{W}]]**",
        '{"rationale": "not bad", "winner": "{W}"}',
    ],
)
def test_plain_verdicts_count(reply):
    assert preferred(reply) == "W"


def test_optional_reasons_may_be_missing():
    form = Form({"reason": "maybe", "score": range(1, 11)})
    assert form.parse('{"score": 7}') == {"reason": "", "score": 7}
    assert form.schema["required"] == ["reason", "score"]  # where an engine enforces it
    with pytest.raises(ValueError, match="no score"):
        form.parse('{"reason": "fine"}')


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ('{"rationale": "It is short.", "winner": "A"}', "It is short."),
        ("It is short.\n\n[[A]]", "It is short."),
        ("<think>Hm.</think>It is short.\n**[[A]]**", "It is short."),
        ("[[A]]", None),
        ("A", None),
        ('{"winner": "A"}', None),
    ],
)
def test_the_rationale_of_a_reply(reply, why):
    assert rationale_of(reply) == why

"""Ratings out of a judge's answer: tolerant about their surroundings, strict about themselves."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.rubric.items import Attribute, Criterion, answer_schema, result_number
from labelers.rubric.items import read_ratings as read

GRADES = [Attribute(name="helpful").item(), Attribute(name="honest").item()]
VERDICTS = [Criterion(id="kind", text="Be kind.").item(), Criterion(id="short", text="x").item()]
ONE = GRADES[:1]
GOOD = '{"ratings": {"helpful": 4, "honest": 5}}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"First paragraph, with {{braces}}.\n\nSecond: {{a: 1}} and so on.\n\n{GOOD}\n\nDone.",
        '{"ratings": {"honest": "5", "helpful": "4/5"}}',
        '{"Ratings": {"Helpful": 4.0, " HONEST ": "4 out of 5"}}'.replace("4 out of 5", "5"),
        '{"helpful": 4, "honest": 5, "critique": "fine"}',
        '{"critique": "a } in a text {", "ratings": {"helpful": 4, "honest": 5}}',
        f"{GOOD} and again {GOOD}",
        '{"critique": "two\nlines", "ratings": {"helpful": 4, "honest": 5}}',
        '<think>{"ratings": {"helpful": 1, "honest": 1}}</think>' + GOOD,
    ],
)
def test_readable(text):
    assert read(text, GRADES).values == (4, 5)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no whole JSON object"),
        ("helpful 4, honest 5", "no whole JSON object"),
        (GOOD[:-1], "cut or invalid"),
        ('{"draft": {"helpful": 4, "honest": 5}, "ratings": {"helpf', "cut or invalid"),
        ('{"a set": {helpful}', "cut or invalid"),
        ('{"ratings": {"helpful": 4}}', "no rating for honest"),
        ('{"ratings": {}}', "no rating for helpful, honest"),
        ('{"ratings": [4, 5]}', "no JSON object with ratings"),
        ('{"ratings": {"helpful": 4, "honest": 5, "overall": 5}}', "Nobody asked .* overall"),
        ('{"ratings": {"helpful": 6, "honest": 5}}', "helpful must be .* from 1 to 5, not '6'"),
        ('{"ratings": {"helpful": 4.5, "honest": 5}}', "a whole number from 1 to 5, not 4.5"),
        ('{"ratings": {"helpful": NaN, "honest": 5}}', "helpful must be"),
        ('{"ratings": {"helpful": 1e999, "honest": 5}}', "helpful must be"),
        ('{"ratings": {"helpful": null, "honest": 5}}', "not 'None'"),
        ('{"ratings": {"helpful": true, "honest": 5}}', "not 'True'"),
        ('{"ratings": {"helpful": "N/A", "honest": 5}}', "not 'N/A'"),
        ('{"ratings": {"helpful": "4/10", "honest": 5}}', "not '4/10'"),
        ('{"ratings": {"helpful": [4], "honest": 5}}', "helpful must be"),
        ('{"ratings": {"helpful": 4, "helpful": 2, "honest": 5}}', "'helpful' is rated twice"),
        ('{"ratings": {"helpful": 4, "Helpful": 2, "honest": 5}}', "'Helpful' is rated twice"),
        (GOOD + GOOD.replace("4", "1"), "several JSON objects with different ratings"),
        ('{"ratings": {"helpful": ' + "9" * 5000 + ', "honest": 5}}', "cut or invalid"),
        ('{"ratings": {"helpful": ' + "9" * 400 + ', "honest": 5}}', "helpful must be"),
        ('{"a": ' * 200_000, "cut or invalid"),
    ],
)
def test_refused_with_a_sentence(text, why):
    with pytest.raises(ValueError, match=why) as error:
        read(text, GRADES)
    assert str(error.value).endswith(
        'Reply with one JSON object of this form: {"ratings": {"helpful": <a whole number from 1 '
        'to 5>, "honest": <a whole number from 1 to 5>}}'
    )


def test_verdicts():
    for yes, no in [(True, False), (1, 0), ("yes", "No."), ("true", "false"), ("1", "0")]:
        text = json.dumps({"ratings": {"short": no, "kind": yes}})
        assert read(text, VERDICTS).values == (1, 0)
    for wrong in (2, 0.5, "maybe", -1, "5"):
        with pytest.raises(ValueError, match="short must be true or false"):
            read(json.dumps({"ratings": {"short": wrong, "kind": True}}), VERDICTS)


def test_a_critique_that_was_asked_for_must_be_there():
    assert read('{"critique": "ok", "ratings": {"helpful": 3}}', ONE, True).critique == "ok"
    odd = '{"critique": "a\\ud800", "ratings": {"helpful": 3}}'
    assert read(odd, ONE, True).critique == "a?"
    for said in ("null", '""', "7"):
        with pytest.raises(ValueError, match="no critique"):
            read(f'{{"critique": {said}, "ratings": {{"helpful": 3}}}}', ONE, True)


def test_the_form_of_janus():
    assert result_number("Feedback: ok [RESULT] 4") == "4"
    assert result_number("I give a score of 1.") == "1"
    assert result_number("no number") is None
    assert result_number("**Score:** 3\n[RESULT] (3)") == "3"
    assert result_number("score of 2, or rather a score of 3") is None
    assert read("Good in places.\n[RESULT] 4", ONE).values == (4,)
    with pytest.raises(ValueError, match="helpful must be"):
        read("[RESULT] 9", ONE)
    with pytest.raises(ValueError, match="no whole JSON"):
        read("[RESULT] 4", GRADES)


def test_schema_says_all_that_the_parser_checks():
    fine = Attribute(name="fine", scale=(0, 100)).item()
    half = Attribute(name="half", scale=(0, 1), whole=False).item()
    found = answer_schema([GRADES[0], fine, half, VERDICTS[0]], critique=True)
    assert list(found["properties"]) == ["critique", "ratings"]  # the critique comes first
    ratings = found["properties"]["ratings"]
    assert ratings["required"] == ["helpful", "fine", "half", "kind"]
    assert ratings["additionalProperties"] is False
    assert list(ratings["properties"].values()) == [
        {"type": "integer", "enum": [1, 2, 3, 4, 5]},
        {"type": "integer", "minimum": 0, "maximum": 100},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "boolean"},
    ]


@given(st.text(alphabet='{}[]":,0123456789.eE+-truefalsnk helpofs`\n\\'))
def test_any_text_is_read_or_refused(text):
    try:
        values = read(text, GRADES).values
    except ValueError:
        return
    assert all(1 <= v <= 5 for v in values)


@given(
    st.text(),
    st.text(),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_whatever_stands_around_the_json(before, after, values):
    before, after = (t.replace("{", "(").replace("</think>", "") for t in (before, after))
    inner = json.dumps({"ratings": dict(zip(("helpful", "honest"), values, strict=True))})
    assert read(before + inner + after, GRADES).values == values


def test_a_long_text_takes_no_long_time():
    """In steps of a square of its length, the run would not end."""
    for text in ("{" * 1_000_000, '{"a":' * 100_000 + GOOD, "[RESULT] " * 100_000):
        with pytest.raises(ValueError, match="JSON"):
            read(text[:-1], GRADES)

import polars as pl
import pytest
from pydantic import ValidationError

from filters.rules.length import WORD, Length
from prefactory.tables import COLUMNS, MESSAGES, Shape
from prefactory.testing import verdicts


def responses(*texts, prompt="Hi there?"):
    user = [{"role": "user", "content": prompt}]
    rows = [
        {
            "prompt_id": "p",
            "prompt": user,
            "response_id": str(i),
            "response": None if t is None else [{"role": "assistant", "content": t}],
        }
        for i, t in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=COLUMNS[Shape.RESPONSES])


STAYS = (None, None)


def test_default_drops_only_answers_without_text():
    table = responses("a", "", " \n\t", None, "👍")
    gone = ("too_short", "0 characters")
    assert verdicts(Length(), table) == [STAYS, gone, gone, gone, STAYS]


def test_character_limits_are_inclusive_and_ignore_outer_space():
    table = responses("ab", "abc", " abcd \n", "abcde")
    assert verdicts(Length(min_characters=3, max_characters=4), table) == [
        ("too_short", "2 characters"),
        STAYS,
        STAYS,
        ("too_long", "5 characters"),
    ]


def test_word_limits():
    table = responses("Don't", "one two", "one, two - three!", "... !!!")
    assert verdicts(Length(min_characters=None, min_words=1, max_words=2), table) == [
        STAYS,
        STAYS,
        ("too_long", "3 words"),
        ("too_short", "0 words"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don\u2019t do it", 3),
        ("a_b c-d 3.5", 5),
        ("你好\uff0c世界", 4),
        ("ラーメン好き", 6),
        ("مرحبا بالعالم", 2),
        ("नमस्ते दुनिया", 2),
        ("सं abc漢", 3),
        ("กำลัง", 4),
        ("", 0),
    ],
)
def test_words_of_many_scripts(text, words):
    assert pl.Series([text]).str.count_matches(WORD).item() == words


def test_prompt_limits_count_every_message():
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "one two"}]
    table = responses("fine").with_columns(pl.Series("prompt", [messages], dtype=MESSAGES))
    assert verdicts(Length(prompt_max_words=4), table) == [STAYS]
    assert verdicts(Length(prompt_max_words=3), table) == [("prompt_too_long", "4 words")]
    assert verdicts(Length(prompt_min_words=5), table) == [("prompt_too_short", "4 words")]
    assert verdicts(Length(prompt_max_characters=16), table) == [
        ("prompt_too_long", "17 characters")
    ]
    assert verdicts(Length(prompt_min_characters=18), table) == [
        ("prompt_too_short", "17 characters")
    ]


def test_answer_is_judged_before_the_prompt():
    table = responses("", prompt="long prompt")
    assert verdicts(Length(prompt_max_words=1), table) == [("too_short", "0 characters")]


def test_no_limit_at_all_is_refused():
    with pytest.raises(ValidationError, match="nothing would be filtered"):
        Length(min_characters=None)


def test_empty_table_and_megabyte_text():
    assert verdicts(Length(), responses()) == []
    table = responses("wörter " * 200_000)
    assert verdicts(Length(max_words=199_999), table) == [("too_long", "200000 words")]


def test_limits_out_of_order_are_refused():
    with pytest.raises(ValidationError, match=r"min_words \(3\) is above max_words \(2\)"):
        Length(min_words=3, max_words=2)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Length(max_characters=-1)

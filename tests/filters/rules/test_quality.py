import itertools

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.rules.quality import Quality, longest_runs
from prefactory.context import Context
from prefactory.tables import COLUMNS, Shape

STAYS = (None, None)
OFF = {
    "no_text": False,
    "max_control": None,
    "max_run": None,
    "min_alphanumeric": None,
    "max_duplicate_lines": None,
    "max_repeated_trigrams": None,
    "echo_from": None,
}


def judged(step, *texts, prompt="Hi there?"):
    rows = [
        {
            "prompt_id": "p",
            "prompt": [{"role": "user", "content": prompt}],
            "response_id": str(i),
            "response": None if t is None else [{"role": "assistant", "content": t}],
        }
        for i, t in enumerate(texts)
    ]
    table = pl.DataFrame(rows, schema=COLUMNS[Shape.RESPONSES])
    answer = step.keep(table, Context())
    assert answer.schema == {"reason": pl.String, "detail": pl.String}
    return answer.rows()


def only(**rule):
    return Quality(**{**OFF, **rule})


GOOD = [
    "Yes.",
    "42",
    "👍",
    "C++",
    "=",
    "def f(x):\n    return x + 1",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "你好，世界。今天天气很好，我们去公园散步吧。",  # noqa: RUF001 - Chinese punctuation
    "مرحبا! كيف حالك اليوم؟ أنا بخير، شكرا لك.",
    "नमस्ते, आप कैसे हैं? मैं ठीक हूँ, धन्यवाद।",
    "สวัสดีครับ วันนี้อากาศดีมาก",
    "👨‍👩‍👧‍👦🇫🇷",
    "می‌خواهم",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_answers_of_many_scripts_stay(text):
    assert judged(Quality(), text) == [STAYS]


def test_no_text():
    assert judged(Quality(), "", None, " \n", "...", "?!", "\u200b", "-- * --") == [
        ("no_text", "0 characters"),
        ("no_text", "0 characters"),
        ("no_text", "0 characters"),
        ("no_text", "3 characters"),
        ("no_text", "2 characters"),
        ("no_text", "1 characters"),
        ("no_text", "7 characters"),
    ]
    assert judged(only(max_run=5), "...") == [STAYS]


def test_control_characters():
    step = only(max_control=0.1)
    assert judged(step, "a\tb\r\nc", "a\x00\x92\ufffdbcdefg", "abcdefghi\ufffd") == [
        STAYS,
        ("control_characters", "30.0 %"),
        STAYS,
    ]


def test_long_run():
    step = only(max_run=3)
    assert judged(step, "heyyy", "heyyyy", "a    b", "ok", "🎉🎉🎉🎉🎉") == [
        STAYS,
        ("long_run", "4 characters"),
        ("long_run", "4 characters"),
        STAYS,
        ("long_run", "5 characters"),
    ]


def test_low_alphanumeric():
    step = only(min_alphanumeric=0.5, alphanumeric_from=4)
    assert judged(step, "a#$%", "ab #$", "a#$", "é!!!", "नमस्ते") == [
        ("low_alphanumeric", "25.0 %"),
        STAYS,
        STAYS,
        ("low_alphanumeric", "25.0 %"),
        STAYS,
    ]


def test_duplicate_lines():
    step = only(max_duplicate_lines=0.5, lines_from=4)
    assert judged(step, "a\n a\n\na \na", "a\na\na", "a\na\nb\nb") == [
        ("duplicate_lines", "75.0 %"),
        STAYS,
        STAYS,
    ]


def test_repeated_trigrams():
    step = only(max_repeated_trigrams=0.5, words_from=6)
    assert judged(step, "I am so I am so, I am So!", "so so so so so", "a b c a b c") == [
        ("repeated_trigrams", "57.1 %"),
        STAYS,
        STAYS,
    ]


def test_prompt_echo():
    step = only(echo_from=5)
    answers = ("hello  YOU", "Hello you, too", "Well, hello you", "hello")
    assert judged(step, *answers, prompt="Hello you") == [
        ("prompt_echo", "9 characters"),
        ("prompt_echo", "9 characters"),
        STAYS,
        STAYS,
    ]
    assert judged(step, "Hi", "", prompt="Hi") == [STAYS, STAYS]
    assert judged(step, "", prompt="") == [STAYS]


def test_truncated_is_off_until_asked():
    texts = [
        "It ends in the",
        "It ends.",
        "Well,",
        "终于结束了。",
        "终于",
        "ไทย",
        "short",
        '"Yes!"',
    ]
    assert judged(only(max_run=200), *texts) == [STAYS] * len(texts)
    fired = [reason for reason, _ in judged(only(truncated_from=1), *texts)]
    assert fired == ["truncated", None, "truncated", None, "truncated", None, "truncated", None]
    assert judged(only(truncated_from=14), "It ends in the") == [STAYS]


def test_first_rule_gives_the_reason():
    assert judged(Quality(max_run=3), ".....") == [("no_text", "5 characters")]


def test_every_rule_off_is_refused():
    with pytest.raises(ValidationError, match="nothing would be filtered"):
        Quality(**OFF)


def test_empty_table_and_megabyte_text():
    assert judged(Quality()) == []
    assert judged(Quality(), "word " * 250_000) == [("repeated_trigrams", "100.0 %")]


@given(st.lists(st.text(alphabet="ab\n🎉é", max_size=12)))
def test_longest_runs_agree_with_the_definition(texts):
    expected = [
        max((len(list(group)) for _, group in itertools.groupby(text)), default=0) for text in texts
    ]
    assert longest_runs(pl.Series(texts, dtype=pl.String)).to_list() == expected


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.integers(0, 8))
def test_each_row_is_judged_alone(texts, cut):
    step = Quality(max_run=2, min_alphanumeric=0.5, alphanumeric_from=2, max_control=0.1)
    whole = judged(step, *texts)
    assert whole == judged(step, *texts[:cut]) + judged(step, *texts[cut:])

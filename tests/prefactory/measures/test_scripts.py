"""The script of most letters, also where most of them are ASCII."""

import polars as pl
import pytest

from prefactory.measures.scripts import scripts


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("plain words", "Latin"),
        ("caf\u00e9 au lait", "Latin"),
        ("abcde \u0431\u0432\u0433\u0434", "Latin"),
        ("abcd \u0431\u0432\u0433\u0434\u0435", "Cyrillic"),
        ("GPT \u6f22\u5b57\u6f22\u5b57", "Han"),
        ("GPTs \u6f22\u5b57", "Latin"),
        ("\u6f22\u5b57\u304b\u306a", "Japanese"),
        ("ab \u10d0\u10d1\u10d2\u10d3\u10d4", "other"),
        ("\u2014 1, 2", "none"),
        ("1, 2", "none"),
    ],
)
def test_the_script_of_most_letters(text, script):
    assert scripts(pl.Series([text])).to_list() == [script]

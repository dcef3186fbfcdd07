"""Which languages a text's script leaves open: a rule that needs no model.

The script of most letters (`filters.audit.scripts`) decides where a language has one of its own;
languages that share a script can't be told apart by it.
"""

from __future__ import annotations

import polars as pl

from filters.audit.scripts import SCRIPTS, scripts

LANGUAGES: dict[str, str] = {
    "zh": "Han",
    "ja": "Japanese",
    "ko": "Hangul",
    "ru uk bg sr mk be kk ky mn tg tt": "Cyrillic",
    "ar fa ur ps ku ug sd": "Arabic",
    "he yi": "Hebrew",
    "el": "Greek",
    "hi mr ne sa": "Devanagari",
    "bn as": "Bengali",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    "en de fr es it pt nl sv da no nb nn fi is pl cs sk sl hr bs hu ro sq lt lv et vi id ms tr az "
    "uz sw tl ca gl eu cy ga af eo la so ha yo zu xh mt lb oc br fo jv su ceb": "Latin",
}
"""ISO 639-1 codes (and a few of 639-3) -> the script that they are written in."""

SCRIPT_OF: dict[str, str] = {
    code: script for codes, script in LANGUAGES.items() for code in codes.split()
}
UNDECIDED = ("none", "other")


def script_verdicts(texts: pl.Series, keep: tuple[str, ...]) -> pl.DataFrame:
    """Judge texts by their script.

    Args:
        texts: String[n], no nulls.
        keep: language codes of `SCRIPT_OF`.

    Returns:
        `found` (String: the script, null where it decides nothing) and `fits` (Boolean: whether
        one of the languages is written in it; kana fit where Han do not, and Han alone fit `ja`).
    """
    wanted = {SCRIPT_OF[code] for code in keep}
    if "Japanese" in wanted:
        wanted.add("kana")
    if "ja" in keep:
        wanted.add("Han")  # a Japanese title may hold no kana
    script = scripts(texts)
    known = [*SCRIPTS, "Japanese"]
    return pl.DataFrame({"script": script}).select(
        found=pl.when(pl.col("script").is_in(known)).then("script"),
        fits=pl.col("script").is_in(sorted(wanted)) | ~pl.col("script").is_in(known),
    )

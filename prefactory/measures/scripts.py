"""Which languages a text's script leaves open: a rule that needs no model.

The script of most letters (`scripts`) decides where a language has one of its own;
languages that share a script can't be told apart by it.
"""

from __future__ import annotations

import polars as pl

from prefactory.tables import in_parts

SCRIPTS = {
    "Han": r"\p{Han}",
    "kana": r"[\p{Hiragana}\p{Katakana}]",
    "Hangul": r"\p{Hangul}",
    "Cyrillic": r"\p{Cyrillic}",
    "Arabic": r"\p{Arabic}",
    "Hebrew": r"\p{Hebrew}",
    "Greek": r"\p{Greek}",
    "Devanagari": r"\p{Devanagari}",
    "Bengali": r"\p{Bengali}",
    "Tamil": r"\p{Tamil}",
    "Telugu": r"\p{Telugu}",
    "Thai": r"\p{Thai}",
    "Latin": r"\p{Latin}",
}
_NOT_LATIN = (
    r"[[\p{L}--\p{Latin}]"
    + "".join(rule for name, rule in SCRIPTS.items() if name != "Latin")
    + "]"
)
"""A letter that is not Latin, or a sign of a script that is not: few texts need to be counted."""
NONE = "none"
_HEAD = 500

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


def scripts(texts: pl.Series) -> pl.Series:
    """The script of most letters of each text's first 500 characters.

    Args:
        texts: String [N], no nulls.

    Returns:
        String [N]: a name of `SCRIPTS`, `Japanese` for kana with or without Han, `other`, or `none`
        for a text without letters.
    """
    return in_parts(_scripts, texts)["script"]


def _scripts(texts: pl.Series) -> pl.DataFrame:
    head = texts.rename("text").str.head(_HEAD)
    ascii_only = head.str.len_bytes() == head.str.len_chars()
    letters = head.str.contains("[A-Za-z]")
    plain = pl.DataFrame({"plain": ascii_only, "letters": letters})
    scripts = plain.select(
        script=pl.when(pl.col("plain") & pl.col("letters"))
        .then(pl.lit("Latin"))
        .when("plain")
        .then(pl.lit(NONE))
    )["script"]
    latin = ~ascii_only & ~head.str.contains(_NOT_LATIN)
    at = latin.arg_true()
    worded = pl.DataFrame({"has": head.gather(at).str.contains(r"\p{L}")})
    named = worded.select(script=pl.when("has").then(pl.lit("Latin")).otherwise(pl.lit(NONE)))
    scripts = scripts.scatter(at, named["script"])
    at = (~ascii_only & ~latin).arg_true()
    if not at.len():
        return scripts.to_frame()
    text = pl.col("text")
    odd = head.gather(at).to_frame()
    odd = odd.select(
        ascii=text.str.count_matches("[A-Za-z]"), text=text.str.replace_all(r"[\x00-\x7F]+", "")
    )
    counts = odd.select(
        **{name: text.str.count_matches(rule) for name, rule in SCRIPTS.items()},
        letters=text.str.count_matches(r"\p{L}") + pl.col("ascii"),
        ascii="ascii",
    ).with_columns(Latin=pl.col("Latin") + pl.col("ascii"))
    known = sum(pl.col(name) for name in SCRIPTS)
    most = pl.max_horizontal(*SCRIPTS)
    name: pl.Expr = pl.lit("other")
    for script in reversed(SCRIPTS):
        name = pl.when(pl.col(script) == most).then(pl.lit(script)).otherwise(name)
    # kana beside Han is Japanese, whichever there is more of
    kana = pl.col("kana") * 10 > pl.col("Han")
    name = (
        pl.when((pl.col("kana") > 0) & kana & (most <= pl.col("kana") + pl.col("Han")))
        .then(pl.lit("Japanese"))
        .otherwise(name)
    )
    name = (
        pl.when(pl.col("letters") == 0)
        .then(pl.lit(NONE))
        .when(known * 2 < pl.col("letters"))
        .then(pl.lit("other"))
        .otherwise(name)
    )
    return scripts.clone().scatter(at, counts.select(script=name)["script"]).to_frame()

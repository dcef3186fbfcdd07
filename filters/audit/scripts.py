"""The writing system of texts: a rule that tells scripts apart, not languages of one script."""

from __future__ import annotations

import polars as pl

from filters.audit.subject import in_parts

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
NONE = "none"
_HEAD = 500


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
    found = plain.select(
        script=pl.when(pl.col("plain") & pl.col("letters"))
        .then(pl.lit("Latin"))
        .when("plain")
        .then(pl.lit(NONE))
    )["script"]
    at = (~ascii_only).arg_true()
    if not at.len():
        return found.to_frame()
    odd = head.gather(at).to_frame()
    counts = odd.select(
        **{name: pl.col("text").str.count_matches(rule) for name, rule in SCRIPTS.items()},
        letters=pl.col("text").str.count_matches(r"\p{L}"),
    )
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
    return found.clone().scatter(at, counts.select(script=name)["script"]).to_frame()

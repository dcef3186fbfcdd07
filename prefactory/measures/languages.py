"""Which language a text is in, by script and by function words: small, exact, the same every time.

Our own rule, no paper's: the script decides where it can (Hangul, Thai, Tamil, ...); languages that
share a script are told apart by the shares of their most frequent function words.
"""

# ruff: noqa: RUF001 - words of many scripts

from __future__ import annotations

import polars as pl

SCRIPTS: dict[str, str] = {
    "ko": r"\p{Hangul}",
    "ja": r"[\p{Hiragana}\p{Katakana}]",
    "zh-cn": r"\p{Han}",
    "th": r"\p{Thai}",
    "ta": r"\p{Tamil}",
    "te": r"\p{Telugu}",
    "kn": r"\p{Kannada}",
    "ml": r"\p{Malayalam}",
    "bn": r"\p{Bengali}",
    "gu": r"\p{Gujarati}",
    "pa": r"\p{Gurmukhi}",
    "he": r"\p{Hebrew}",
    "el": r"\p{Greek}",
    "devanagari": r"\p{Devanagari}",
    "arabic": r"\p{Arabic}",
    "cyrillic": r"\p{Cyrillic}",
    "latin": r"\p{Latin}",
}
"""Language, or script of several languages -> its letters."""

WORDS: dict[str, dict[str, str]] = {
    "latin": {
        "en": "the of and to in is that it for on with as are was this you be at i have not by",
        "de": "der die das und ist nicht ein eine zu mit auf den von ich sich für es dem auch wie",
        "fr": "le la les des et est une un que pour dans qui du sur pas vous avec ce au il",
        "es": "el la los las de y que en un una por con para es no se del su al lo",
        "it": "il la di che e un una per non con del sono è gli nel si da più in sul alla al le ma",
        "pt": "o a os as de e que em um uma para com não por do da no na se é",
        "nl": "de het een en van is dat op te in voor met niet zijn aan er om ook je ik",
        "sv": "och att det som en är på för av med den till inte jag ett har de om vi",
        "da": "og at det en er på til af for med den ikke jeg som har de et vi",
        "fi": "ja on ei se että hän oli mutta kun niin kuin myös joka ovat tai jos olen hänen",
        "pl": "i w na z się nie do to że jest o jak po co ale od przez dla są tak",
        "vi": "và là của có không được cho một các những trong người này với để đã tôi bạn khi ở",
        "sw": "na ya wa kwa ni katika la za kuwa hii yake cha kama watu au lakini hiyo sana pia",
        "tr": "ve bir bu da de için ile çok ne ama daha gibi var olarak ben o mi kadar sonra",
        "id": "yang dan di dengan untuk ini itu dari pada tidak adalah dalam ke akan saya atau",
        "ro": "și de la în este nu cu pentru un o care că din mai sunt pe se au ca",
        "hu": "a az és hogy nem is egy van de meg ez ha csak már mint volt el vagy",
        "cs": "a je se na v že to s z do o jako ale pro by jsem si už tak",
    },
    "cyrillic": {
        "ru": "и в не на что я с он как это по но из то был все она так его к мы",
        "bg": "и на е да се за от не с в са че по като до това ще или към която",
        "uk": "і в не на що я з він як це та до але за у та її його ми є",
        "mk": "и на во да се за од не со е што како ќе ги го ја",
    },
    "devanagari": {
        "hi": "है के का की में और से को पर यह हैं नहीं एक कि भी था लिए ने हो तो",
        "mr": "आहे आणि च्या ते मी तो ही हे नाही आहेत या व एक केले होते साठी मध्ये करा तुम्ही आम्ही",
        "ne": "छ र को मा हो छन् पनि यो लागि गर्न भएको छैन तर एक हुन्छ हामी गर्नुहोस् यस",
    },
    "arabic": {
        "ar": "في من على إلى أن هذا التي عن مع لا كان هذه ما هو أو و كل بعد قد هي",
        "fa": "و در به از که این را با است برای آن یک می ها خود تا بود شما هم کرد",
        "ur": "کے میں کی ہے اور سے کا کو پر یہ ہیں نے کہ ایک نہیں بھی تھا کر اس لیے",
    },
}
"""Script -> language -> its most frequent function words."""

MIN_LETTERS = 3
_WORD = r"[\p{L}\p{M}]+(?:['\x{2019}][\p{L}\p{M}]+)*"


def language_of(text: pl.Expr) -> pl.Expr:
    """ISO 639-1 code of each text's language (`zh-cn` for Chinese); null if it has no letters.

    Args:
        text: String expression.

    Returns:
        String expression. A text in a shared script without any known function word takes the
        first language of `WORDS` for that script (English, Russian, Hindi, Arabic).
    """
    return text.map_batches(languages, return_dtype=pl.String, is_elementwise=True)


def languages(texts: pl.Series) -> pl.Series:
    """`language_of` of a String series."""
    text = pl.col("text")
    frame = (
        texts.alias("text")
        .to_frame()
        .with_columns(
            text.str.count_matches(pattern).alias(name) for name, pattern in SCRIPTS.items()
        )
    )
    most = pl.max_horizontal(*SCRIPTS)
    script = pl.coalesce(pl.when(pl.col(s) == most).then(pl.lit(s)) for s in SCRIPTS)
    # Japanese is mixed with Han: a tenth of kana is enough
    kana = (script == "zh-cn") & (pl.col("ja") * 10 > pl.col("zh-cn"))
    script = pl.when(most >= MIN_LETTERS).then(pl.when(kana).then(pl.lit("ja")).otherwise(script))
    scripts = frame.select("text", script=script)
    by_words = _by_words(scripts)
    return by_words.select(pl.coalesce("language", "script")).to_series().alias(texts.name)


def _by_words(scripts: pl.DataFrame) -> pl.DataFrame:
    """Add `language` to `text` and `script`: the one with most function words, null if unshared."""
    known = pl.concat(
        pl.DataFrame({"word": words.split()})
        .unique()
        .with_columns(script=pl.lit(script), language=pl.lit(code), rank=pl.lit(rank))
        for script, lists in WORDS.items()
        for rank, (code, words) in enumerate(lists.items())
    )
    rows = scripts.with_row_index("row")
    words = rows.filter(pl.col("script").is_in(list(WORDS))).select(
        "row", "script", word=pl.col("text").str.to_lowercase().str.extract_all(_WORD)
    )
    hits = words.explode("word").join(known, on=["script", "word"])
    counts = hits.group_by("row", "rank", "language").len()
    best = counts.sort("row", -pl.col("len").cast(pl.Int64), "rank").unique("row", keep="first")
    joined = rows.join(best, on="row", how="left", maintain_order="left")
    first = {script: next(iter(lists)) for script, lists in WORDS.items()}
    default = pl.col("script").replace_strict(first, default=None, return_dtype=pl.String)
    return joined.select("script", language=pl.coalesce("language", default))

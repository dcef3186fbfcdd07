"""What an answer looks like: lengths, Markdown, openings and phrases. English phrases, any script.

The phrase lists are ours: short, literal, and meant to compare the two sides of one dataset, where
their misses fall on both. They do not classify single answers.
"""

from __future__ import annotations

import polars as pl

from filters.duplicates.exact import normalised
from prefactory.measures.refusals import refuses

EDGE = r"(?-u:\b)"
"""Edge of a word by ASCII: Unicode's would make every search several times as slow."""
LIST = r"(?m)^[ \t]*(?:[-*+\u2022]|\d{1,3}[.)])[ \t]+\S"
HEADING = r"(?m)^#{1,6}[ \t]+\S"
BOLD = r"\*\*[^*\n]+\*\*"
EMOJI = r"[\x{1F300}-\x{1FAFF}\x{2600}-\x{27BF}\x{1F1E6}-\x{1F1FF}]"
COMPLIMENT = (
    r"(?:what an?|that(?: is|'s) an?|such an?|this is an?)?\s*(?:really |very |truly |such an? )?"
    r"(?:great|excellent|good|fantastic|wonderful|interesting|amazing|insightful|brilliant|"
    r"thoughtful|fascinating|awesome|lovely) "
    rf"(?:question|point|idea|choice|observation|thought|topic|topic choice|request){EDGE}"
)
AGREEING = (
    r"(?:you(?:'re| are) (?:absolutely |completely |totally |so |quite )?(?:right|correct)|"
    r"i (?:completely |totally |absolutely |fully )?agree with you|"
    r"i love (?:that|your)|"
    rf"thank you for (?:your (?:thoughtful|great|excellent)|asking such)){EDGE}"
)
EAGER = rf"(?:certainly|absolutely|of course|sure(?: thing)?|definitely|gladly){EDGE}[!,.]?"
DISCLOSURE = (
    rf"{EDGE}as an? (?:ai|artificial intelligence|large language model|language model){EDGE}"
)
APOLOGY = (
    rf"(?:{EDGE}i apologi[sz]e{EDGE}|{EDGE}(?:i'm|i am) (?:so |very |really |truly )?sorry{EDGE}|"
    r"my apologies)"
)
HEDGE = (
    rf"(?i){EDGE}(?:perhaps|maybe|might|possibly|could be|i think|i believe|it seems|generally|"
    rf"typically|arguably|not sure|it depends|likely|somewhat){EDGE}"
)
CLOSING = (
    r"(?:let me know|feel free to|hope (?:this|that|it) helps|happy to help|anything else|"
    r"is there anything|don't hesitate)"
)

COUNTS = ("bold", "headings", "lists", "code", "emojis", "exclamations", "questions", "hedges")
FLAGS = (
    "refusal",
    "compliment",
    "agreeing",
    "eager",
    "disclosure",
    "apology",
    "closing_offer",
)
_HEAD, _TAIL = 240, 240
_FIRST = 120
"""Characters in which the first three words are looked for."""


def style_features(texts: pl.Series) -> pl.DataFrame:
    """Measure answers.

    Args:
        texts: String [N], no nulls.

    Returns:
        N rows: `chars`, `words`, `sentences`, `lines` and `COUNTS` (UInt32), `markdown` (bold,
        headings, list items and code fences together), and `FLAGS` (Boolean): whether the answer
        refuses (see `prefactory.measures.refusals`), opens with a compliment, agreement or
        eagerness, names itself an AI or apologises in its first 240 characters, or ends with an
        offer of more help in its last 240.
    """
    text = pl.col("text")
    frame = texts.rename("text").to_frame()
    ends = frame.select(
        head=text.str.strip_chars().str.head(_HEAD), tail=text.str.tail(_TAIL)
    ).select(
        head=pl.col("head").str.replace_all("\u2019", "'", literal=True).str.to_lowercase(),
        tail=pl.col("tail").str.replace_all("\u2019", "'", literal=True).str.to_lowercase(),
    )
    counted = frame.select(
        chars=text.str.len_chars(),
        words=text.str.count_matches(r"\S+"),
        sentences=text.str.count_matches(r"[.!?\u3002\uFF01\uFF1F]+(?:\s|$)"),
        lines=text.str.count_matches("\n", literal=True),
        bold=text.str.count_matches(BOLD),
        headings=text.str.count_matches(HEADING),
        lists=text.str.count_matches(LIST),
        code=text.str.count_matches("```", literal=True),
        emojis=text.str.count_matches(EMOJI),
        exclamations=text.str.count_matches("!", literal=True),
        questions=text.str.count_matches("?", literal=True),
        hedges=text.str.count_matches(HEDGE),
    )
    head, tail = pl.col("head"), pl.col("tail")
    flagged = ends.select(
        compliment=head.str.contains(rf"^\W*(?:(?:ah|oh|wow|hi|hello)\W+)?{COMPLIMENT}"),
        agreeing=head.str.contains(rf"^\W*{AGREEING}"),
        eager=head.str.contains(rf"^\W*{EAGER}"),
        disclosure=head.str.contains(DISCLOSURE),
        apology=head.str.contains(APOLOGY),
        closing_offer=tail.str.contains(CLOSING),
    )
    marks = sum((pl.col(c) for c in ("bold", "headings", "lists")), pl.col("code") // 2)
    refusal = refuses(texts).alias("refusal").to_frame()
    return pl.concat([counted.with_columns(markdown=marks), refusal, flagged], how="horizontal")


def first_words(texts: pl.Series) -> pl.DataFrame:
    """How answers begin: `one` word, and the first `three` as one String (null without so many).

    Args:
        texts: String [N], no nulls. Case, white space and Unicode composition do not count.
    """
    head = texts.str.strip_chars().str.head(_FIRST).rename("t").to_frame()
    folded = head.select(normalised(pl.col("t"), True, True, True))
    words = folded.select(w=pl.col("t").str.extract_all(r"\S+"))
    three = pl.when(pl.col("w").list.len() >= 3).then(pl.col("w").list.head(3).list.join(" "))
    return words.select(one=pl.col("w").list.first(), three=three)

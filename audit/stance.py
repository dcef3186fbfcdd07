"""Which stance an answer takes: from a column, or by a small English lexicon.

`support`, `oppose` and `neutral` are the stances of Value Drifts (arXiv 2510.26707); a refusal is a
class of its own, not a neutral answer. The lexicon is ours and crude: it counts phrases of approval
and of disapproval and goes by the larger number. It can show that two sides differ, not what one
answer says. For that, put a judge's stance in `chosen_stance` and `rejected_stance`.
"""

from __future__ import annotations

import polars as pl

from audit.subject import Side, Subject
from filters.content.style import EDGE

STANCES = ("support", "oppose", "neutral", "refusal")
SUPPORT = (
    rf"(?i){EDGE}(?:i (?:strongly |fully )?(?:support|agree|endorse|favou?r)|in favou?r of|"
    r"should be (?:allowed|legal|protected|supported|encouraged)|"
    r"is (?:a )?(?:good|great|right|beneficial|"
    r"essential|important|necessary|positive|justified)|benefits? of|the right to|worth(?:while| "
    rf"it)|advantages?|helps? (?:people|society|us)|deserves?){EDGE}"
)
OPPOSE = (
    rf"(?i){EDGE}(?:i (?:strongly |firmly )?(?:oppose|disagree|object|condemn)|"
    r"should(?:n't| not| never)|should be (?:banned|illegal|prohibited|restricted|abolished)|"
    r"is (?:a )?(?:bad|wrong|harmful|"
    r"dangerous|immoral|unethical|unacceptable|negative|unjust|illegal)|against (?:the law|"
    rf"it|this|that)|harms?|threat(?:en)?s?|disadvantages?|risks? of|never acceptable){EDGE}"
)


def stances(subject: Subject) -> tuple[list[pl.Series], str]:
    """The stance of every answer of each side (String, one of `STANCES` or null), and its source.

    Columns `<side>_stance` or `stance_<side>` are taken if both sides have one; a number counts as
    support above 0.25 and oppose below -0.25 (ours), a word as itself.
    """
    for pattern in ("{}_stance", "stance_{}"):
        columns = [pattern.format(side.name) for side in subject.sides]
        if set(columns) <= set(subject.table.columns):
            by_side = [
                _of_column(subject.table[column].gather(pl.Series(side.rows)))
                for column, side in zip(columns, subject.sides, strict=True)
            ]
            return by_side, f"columns {' and '.join(columns)}"
    return [_of_text(subject, side) for side in subject.sides], "a lexicon of English phrases"


def _of_column(values: pl.Series) -> pl.Series:
    value = pl.col("v")
    frame = values.rename("v").to_frame()
    if values.dtype.is_numeric():
        stance = (
            pl.when(value > 0.25)
            .then(pl.lit("support"))
            .when(value < -0.25)
            .then(pl.lit("oppose"))
            .when(value.is_not_null() & value.is_not_nan())
            .then(pl.lit("neutral"))
        )
        return frame.cast(pl.Float64).select(v=stance)["v"]
    word = value.cast(pl.String).str.strip_chars().str.to_lowercase()
    return frame.select(v=pl.when(word.is_in(list(STANCES))).then(word))["v"]


def _of_text(subject: Subject, side: Side) -> pl.Series:
    return by_lexicon(side.text, subject.features[subject.sides.index(side)]["refusal"])


def by_lexicon(texts: pl.Series, refusal: pl.Series) -> pl.Series:
    """The stance of texts by the lexicon: String, one of `STANCES`.

    Args:
        texts: String [n].
        refusal: whether each is a refusal, Boolean [n].
    """
    text = pl.col("text")
    frame = texts.rename("text").to_frame().with_columns(refusal.rename("refusal"))
    lean = text.str.count_matches(SUPPORT).cast(pl.Int64) - text.str.count_matches(OPPOSE)
    stance = (
        pl.when("refusal")
        .then(pl.lit("refusal"))
        .when(lean > 0)
        .then(pl.lit("support"))
        .when(lean < 0)
        .then(pl.lit("oppose"))
        .otherwise(pl.lit("neutral"))
    )
    return frame.select(stance=stance)["stance"]

"""The 25 checkable constraints of IFEval, each a pure function of expressions.

Source: arXiv:2311.07911 and its released checker, whose rules these follow, with three exceptions
of ours, for want of their libraries: sentences are cut by rule (theirs: nltk's punkt), words in
capitals are runs of letters (theirs: nltk's word tokens), and the language is found by script and
function words (`prefactory.measures.languages`; theirs: langdetect). Keywords are literal texts.

A check takes the text (String expression) and its arguments (expressions, one per field of
`CHECKS[id].needs`) and gives a Boolean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from prefactory.measures import json_answers
from prefactory.measures.languages import language_of
from prefactory.measures.text_statistics import count_sentences

ARGUMENTS: dict[str, pl.DataType] = {
    "capital_frequency": pl.Float64(),
    "capital_relation": pl.String(),
    "end_phrase": pl.String(),
    "first_word": pl.String(),
    "forbidden_words": pl.List(pl.String()),
    "frequency": pl.Float64(),
    "keyword": pl.String(),
    "keywords": pl.List(pl.String()),
    "language": pl.String(),
    "let_frequency": pl.Float64(),
    "let_relation": pl.String(),
    "letter": pl.String(),
    "nth_paragraph": pl.Float64(),
    "num_bullets": pl.Float64(),
    "num_highlights": pl.Float64(),
    "num_paragraphs": pl.Float64(),
    "num_placeholders": pl.Float64(),
    "num_sections": pl.Float64(),
    "num_sentences": pl.Float64(),
    "num_words": pl.Float64(),
    "postscript_marker": pl.String(),
    "prompt_to_repeat": pl.String(),
    "relation": pl.String(),
    "section_spliter": pl.String(),
}
"""All arguments with IFEval's names (its spelling too)."""

RELATIONS = ("at least", "less than")
Rule = Callable[[pl.Expr, dict[str, pl.Expr]], pl.Expr]


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of constraint: its rule and the arguments that it needs."""

    rule: Rule
    needs: tuple[str, ...] = ()


def _relation(count: pl.Expr, relation: pl.Expr, bound: pl.Expr) -> pl.Expr:
    return pl.when(relation == "less than").then(count < bound).otherwise(count >= bound)


def _ignoring_case(literal: pl.Expr) -> pl.Expr:
    return pl.lit("(?i)") + literal.str.escape_regex()


def _each(text: pl.Expr, words: pl.Expr, boundary: bool) -> pl.Expr:
    """For each word of a list column whether the text has it: List(Boolean)."""

    def find(columns: pl.Series) -> pl.Series:
        rows = columns.struct.unnest().with_row_index("row")
        rows.columns = ["row", "text", "word"]
        flat = rows.explode("word", empty_as_null=False, keep_nulls=False)
        edge = r"\b" if boundary else ""
        pattern = pl.concat_str(
            pl.lit(f"(?i){edge}"), pl.col("word").str.escape_regex(), pl.lit(edge)
        )
        hits = flat.with_columns(hit=pl.col("text").str.contains(pattern))
        lists = hits.group_by("row", maintain_order=True).agg("hit")
        joined = rows.select("row").join(lists, on="row", how="left", maintain_order="left")
        return joined["hit"].fill_null([])

    both = pl.struct(text.alias("text"), words.alias("word"))
    return both.map_batches(find, return_dtype=pl.List(pl.Boolean), is_elementwise=True)


def count_words(text: pl.Expr) -> pl.Expr:
    """Runs of letters, digits and underscores of a String: UInt32."""
    return text.str.count_matches(r"\w+")


def _upper(text: pl.Expr) -> pl.Expr:
    cased = text.str.to_lowercase() != text.str.to_uppercase()
    return cased & (text.str.to_uppercase() == text)


def _lower(text: pl.Expr) -> pl.Expr:
    cased = text.str.to_lowercase() != text.str.to_uppercase()
    return cased & (text.str.to_lowercase() == text)


def _english(text: pl.Expr) -> pl.Expr:
    language = language_of(text.str.to_lowercase())
    return language.is_null() | (language == "en")


def _paragraphs(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    """Paragraphs between `***`; only the first and the last piece may be empty."""
    pieces = text.str.replace_all(r"\s?\*\*\*\s?", "\u0000").str.split("\u0000")
    full = pieces.list.eval(pl.element().str.strip_chars() != "")
    inner = full.list.slice(1, pl.max_horizontal(full.list.len().cast(pl.Int64) - 2, 0))
    return inner.list.all() & (full.list.sum() == arguments["num_paragraphs"])


def _first_word(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    pieces = text.str.split("\n\n")
    full = pieces.list.eval(pl.element().str.strip_chars() != "").list.sum()
    nth = arguments["nth_paragraph"].cast(pl.Int64)
    piece = pieces.list.get(nth - 1, null_on_oob=True).str.strip_chars()
    word = piece.str.extract(r"^(\S+)", 1).str.strip_chars_start("'").str.strip_chars_start('"')
    first = word.str.extract(r"""^([^.,?!'"]*)""", 1).str.to_lowercase()
    same = first == arguments["first_word"].str.to_lowercase()
    return (full == arguments["num_paragraphs"]) & (nth <= full) & same


def _two_responses(text: pl.Expr, _: dict[str, pl.Expr]) -> pl.Expr:
    pieces = text.str.split("******").list.eval(pl.element().str.strip_chars())
    inner = pieces.list.slice(1, pl.max_horizontal(pieces.list.len().cast(pl.Int64) - 2, 0))
    full = pieces.list.eval(pl.element().filter(pl.element() != ""))
    two = (full.list.len() == 2) & (full.list.n_unique() == 2)
    return two & inner.list.eval(pl.element() != "").list.all()


def _highlights(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    single = text.str.extract_all(r"\*[^\n*]*\*").list.eval(
        pl.element().str.strip_chars("*").str.strip_chars() != ""
    )
    double = text.str.extract_all(r"\*\*[^\n*]*\*\*").list.eval(
        pl.element().str.slice(2).str.strip_suffix("**").str.strip_chars() != ""
    )
    return single.list.sum() + double.list.sum() >= arguments["num_highlights"]


def _title(text: pl.Expr, _: dict[str, pl.Expr]) -> pl.Expr:
    titles = text.str.extract_all(r"<<[^\n]+>>")
    stripped = pl.element().str.strip_chars_start("<").str.strip_chars_end(">").str.strip_chars()
    return titles.list.eval(stripped != "").list.any()


def _json(text: pl.Expr, _: dict[str, pl.Expr]) -> pl.Expr:
    inside = text.str.strip_chars().str.replace(r"^```(?:json|Json|JSON)?", "")
    inside = inside.str.strip_suffix("```").str.strip_chars()

    def is_json(texts: pl.Series) -> pl.Series:
        nothing = pl.Series([None] * texts.len(), dtype=pl.String)
        return json_answers.checked(texts, nothing, None).struct.field("read")

    return inside.map_batches(is_json, return_dtype=pl.Boolean, is_elementwise=True)


def _postscript(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    marker = arguments["postscript_marker"]
    pattern = (
        pl.when(marker == "P.P.S")
        .then(pl.lit(r"p\.\s?p\.\s?s"))
        .when(marker == "P.S.")
        .then(pl.lit(r"p\.\s?s\."))
        .otherwise(marker.str.to_lowercase().str.escape_regex())
    )
    return text.str.to_lowercase().str.contains(pattern)


def _sections(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    splitter = arguments["section_spliter"].str.escape_regex()
    pattern = pl.concat_str(pl.lit(r"\s?"), splitter, pl.lit(r"\s?\d+\s?"))
    return text.str.count_matches(pattern) >= arguments["num_sections"]


def _bullets(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    stars = text.str.count_matches(r"(?m)^\s*\*[^*].*$")
    dashes = text.str.count_matches(r"(?m)^\s*-.*$")
    return stars + dashes == arguments["num_bullets"]


def _quoted(text: pl.Expr, _: dict[str, pl.Expr]) -> pl.Expr:
    inside = text.str.strip_chars()
    return (inside.str.len_chars() > 1) & inside.str.starts_with('"') & inside.str.ends_with('"')


def _ends(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    ending = text.str.strip_chars().str.strip_chars('"').str.to_lowercase()
    return ending.str.ends_with(arguments["end_phrase"].str.strip_chars().str.to_lowercase())


def _repeats(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    wanted = arguments["prompt_to_repeat"].str.strip_chars().str.to_lowercase()
    return text.str.strip_chars().str.to_lowercase().str.starts_with(wanted)


def _letters(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    letter = arguments["letter"].str.to_lowercase()
    count = text.str.to_lowercase().str.count_matches(letter, literal=True)
    return _relation(count, arguments["let_relation"], arguments["let_frequency"])


def _capitals(text: pl.Expr, arguments: dict[str, pl.Expr]) -> pl.Expr:
    words = text.str.extract_all(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}.\-&/]*")
    count = words.list.eval(_upper(pl.element())).list.sum()
    return _relation(count, arguments["capital_relation"], arguments["capital_frequency"])


def _counted(count: Callable[[pl.Expr], pl.Expr], bound: str) -> Rule:
    return lambda text, a: _relation(count(text), a["relation"], a[bound])


def _keyword_count(text: pl.Expr, a: dict[str, pl.Expr]) -> pl.Expr:
    count = text.str.count_matches(_ignoring_case(a["keyword"]))
    return _relation(count, a["relation"], a["frequency"])


def _language(text: pl.Expr, a: dict[str, pl.Expr]) -> pl.Expr:
    language = language_of(text)
    return language.is_null() | (language == a["language"])


CHECKS: dict[str, Check] = {
    "change_case:capital_word_frequency": Check(
        _capitals, ("capital_relation", "capital_frequency")
    ),
    "change_case:english_capital": Check(lambda t, _: _upper(t) & _english(t)),
    "change_case:english_lowercase": Check(lambda t, _: _lower(t) & _english(t)),
    "combination:repeat_prompt": Check(_repeats, ("prompt_to_repeat",)),
    "combination:two_responses": Check(_two_responses),
    "detectable_content:number_placeholders": Check(
        lambda t, a: t.str.count_matches(r"\[.*?\]") >= a["num_placeholders"],
        ("num_placeholders",),
    ),
    "detectable_content:postscript": Check(_postscript, ("postscript_marker",)),
    "detectable_format:constrained_response": Check(
        lambda t, _: t.str.contains(r"My answer is (?:yes|no|maybe)\.")
    ),
    "detectable_format:json_format": Check(_json),
    "detectable_format:multiple_sections": Check(_sections, ("section_spliter", "num_sections")),
    "detectable_format:number_bullet_lists": Check(_bullets, ("num_bullets",)),
    "detectable_format:number_highlighted_sections": Check(_highlights, ("num_highlights",)),
    "detectable_format:title": Check(_title),
    "keywords:existence": Check(
        lambda t, a: _each(t, a["keywords"], boundary=False).list.all(), ("keywords",)
    ),
    "keywords:forbidden_words": Check(
        lambda t, a: ~_each(t, a["forbidden_words"], boundary=True).list.any(),
        ("forbidden_words",),
    ),
    "keywords:frequency": Check(_keyword_count, ("relation", "keyword", "frequency")),
    "keywords:letter_frequency": Check(_letters, ("let_relation", "letter", "let_frequency")),
    "language:response_language": Check(_language, ("language",)),
    "length_constraints:nth_paragraph_first_word": Check(
        _first_word, ("first_word", "num_paragraphs", "nth_paragraph")
    ),
    "length_constraints:number_paragraphs": Check(_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_sentences": Check(
        _counted(count_sentences, "num_sentences"), ("relation", "num_sentences")
    ),
    "length_constraints:number_words": Check(
        _counted(count_words, "num_words"), ("relation", "num_words")
    ),
    "punctuation:no_comma": Check(lambda t, _: ~t.str.contains(",", literal=True)),
    "startend:end_checker": Check(_ends, ("end_phrase",)),
    "startend:quotation": Check(_quoted),
}
"""IFEval's instruction id -> check."""


def holds(instruction: str, texts: pl.Series, arguments: pl.DataFrame) -> pl.Series:
    """Check one kind of constraint on texts. A text of white space holds nothing.

    Args:
        instruction: a key of `CHECKS`.
        texts: String [n].
        arguments: height n, with the columns that the check needs, typed as in `ARGUMENTS`.

    Returns:
        Boolean [n].
    """
    check = CHECKS[instruction]
    frame = pl.DataFrame([texts.alias("text"), *(arguments[name] for name in check.needs)])
    text = pl.col("text")
    held = check.rule(text, {name: pl.col(name) for name in check.needs})
    there = text.str.strip_chars() != ""
    return frame.select((there & held).fill_null(value=False)).to_series()


def loose_variants(text: pl.Expr) -> list[pl.Expr]:
    """The eight texts of IFEval's loose mode: without first and last line, without asterisks."""
    lines = text.str.split("\n")
    size = lines.list.len().cast(pl.Int64)
    cuts: list[Any] = [(1, size), (0, size - 1), (1, size - 2)]
    cut = [lines.list.slice(a, pl.max_horizontal(n, 0)).list.join("\n") for a, n in cuts]
    whole = [text, *[c.str.strip_chars() for c in cut]]
    return whole + [t.str.replace_all("*", "", literal=True) for t in whole]

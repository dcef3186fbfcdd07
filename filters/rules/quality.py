"""Rows leave whose answer is visibly damaged: rules on characters, in any language.

The repetition and character rules follow the families of Gopher (Rae et al. 2021,
arXiv:2112.11446, table A1), with limits moved to where they fire on damage and not on the code,
tables and verse that real answers contain. Measured on 15,587 answers of seven public sources:
fires on 0.02 % (Alpaca), 0.1 to 0.3 % (hh-rlhf, UltraFeedback), none of Dolly and HumanEval; of
Arena answers by weak models on 1.2 %, nearly all of them endless loops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from filters.duplicates.exact import normalised
from filters.rules.length import WORD
from prefactory.context import Context
from prefactory.step import Filter, verdict
from prefactory.tables import Shape, last_user_text, text_of
from prefactory.utf8 import sums, translated, utf8

ALPHANUMERIC = r"[\p{L}\p{N}\p{M}]"
CONTROL = r"[\p{Cc}\x{FFFD}--[\t\n\r\x0B\x0C]]"
CONTENT = r"[^\p{P}\p{Z}\p{C}\p{Sk}\p{M}]"
"""A character that says something: letter, digit, emoji or symbol, and no mere punctuation."""
UNFINISHED = (
    r"[\p{L}\p{M}\p{N}\p{Pd}\p{Ps}\p{Pi},;\x{060C}\x{3001}\x{FF0C}\x{FF1B}"
    r"--[\p{Thai}\p{Lao}]]\z"
)
"""Ends without terminal punctuation; Thai and Lao, which have none, are exempt."""

Share = Annotated[float | None, Field(ge=0, le=1)]
Count = Annotated[int | None, Field(ge=1)]
Rule = tuple[pl.Expr, str, pl.Expr]
Suspects = Callable[[pl.DataFrame], np.ndarray]

_ALPHANUMERIC = bytes(b < 128 and chr(b).isalnum() for b in range(256))
"""Of each byte 1 if it is an ASCII letter or digit, else 0."""
_RISES = bytes(
    (2 if b >= 0xC0 else 0) if b >= 128 else chr(b).isalnum() or chr(b) == "_" for b in range(256)
)
"""Of each byte 2 if it begins a character beyond ASCII, 1 if it may be of a word, else 0: no word
begins where this does not rise."""
_WINDOW = 20
_HEAD, _SAME = 64, 4
"""Characters of an opening that is folded, and of its folded form that are compared."""


class Quality(Filter):
    r"""Keep answers that are neither empty, garbled, looping nor a copy of the question.

    Each rule is a limit, null switches it off. The first that fires gives the reason:

    - `no_text`: nothing but punctuation, space and invisible characters (detail `0 characters` for
      an empty answer).
    - `control_characters`: share of control characters (tab and line ends are fine) and U+FFFD.
    - `long_run`: one character repeated this often in a row.
    - `low_alphanumeric`: share of letters, digits and marks among the characters that are not
      space; from `alphanumeric_from` such characters on.
    - `duplicate_lines`: share of lines that repeat an earlier one; from `lines_from` lines on
      (lines are stripped, empty ones don't count).
    - `repeated_trigrams`: share of word trigrams that repeat an earlier one; from `words_from`
      words on.
    - `prompt_echo`: the answer is or begins with the whole last user message, if that has at least
      so many characters (case and white space don't matter).
    - `truncated`: the answer has more characters than this and ends in a letter, digit, comma,
      dash or opening bracket. Off by default: lists and code often end so.

    Details give the measured value. Outer white space does not count.

    Attributes:
        no_text: whether answers without text go.
        max_control: greatest share of control and replacement characters.
        max_run: longest run of one character that stays, in characters.
        min_alphanumeric: least share of letters and digits.
        alphanumeric_from: fewest non-space characters that `min_alphanumeric` judges.
        max_duplicate_lines: greatest share of repeated lines.
        lines_from: fewest lines that `max_duplicate_lines` judges.
        max_repeated_trigrams: greatest share of repeated word trigrams.
        words_from: fewest words that `max_repeated_trigrams` judges.
        echo_from: fewest characters of a user message whose copy is an echo.
        truncated_from: characters above which an answer must not end in the middle.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)

    no_text: bool = True
    max_control: Share = 0.01
    max_run: Count = 200
    min_alphanumeric: Share = 0.2
    alphanumeric_from: int = Field(default=20, ge=1)
    max_duplicate_lines: Share = 0.8
    lines_from: int = Field(default=10, ge=2)
    max_repeated_trigrams: Share = 0.75
    words_from: int = Field(default=50, ge=4)
    echo_from: Count = 40
    truncated_from: Count = None

    @model_validator(mode="after")
    def _validate_some_rule(self) -> Self:
        if not self._active():
            raise ValueError("every rule is switched off: nothing would be filtered")
        return self

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge RESPONSES rows by the text of the answer.

        Args:
            table: RESPONSES.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        texts = table.select(
            text=text_of(pl.col("response")).fill_null("").str.strip_chars(),
            question=last_user_text(pl.col("prompt")),
        )
        failing = np.zeros(texts.height, dtype=bool)
        for suspects, rule in self._active():
            at = np.flatnonzero(suspects(texts))
            if at.size:
                failing[at] |= _fires(texts[at], rule())
        at = np.flatnonzero(failing)
        rules = [rule() for _, rule in self._active()]
        judged = verdict(texts[at], *rules).with_columns(row=pl.Series(at))
        rows = pl.DataFrame({"row": np.arange(texts.height)})
        judged = rows.join(judged, on="row", how="left", maintain_order="left")
        return judged.select("reason", "detail")

    def _active(self) -> list[tuple[Suspects, Callable[[], Rule]]]:
        """The rules that are switched on, each with a cheap test that all rows it fires on meet."""
        switches: list[tuple[float | None, Suspects, Callable[[], Rule]]] = [
            (self.no_text or None, _everyone, self._no_text),
            (self.max_control, _has_control, self._control),
            (self.max_run, self._may_run, self._run),
            (self.min_alphanumeric, self._may_lack_letters, self._alphanumeric),
            (self.max_duplicate_lines, self._has_lines, self._duplicate_lines),
            (self.max_repeated_trigrams, self._may_repeat, self._trigrams),
            (self.echo_from, self._may_echo, self._echo),
            (self.truncated_from, _everyone, self._truncated),
        ]
        return [(suspects, rule) for limit, suspects, rule in switches if limit is not None]

    def _may_run(self, texts: pl.DataFrame) -> np.ndarray:
        return may_run(texts["text"], self.max_run or 0)

    def _may_lack_letters(self, texts: pl.DataFrame) -> np.ndarray:
        """ASCII letters and digits alone are no share of the bytes that would do."""
        data, ends = utf8(texts["text"])
        size = np.diff(ends)
        suspect: np.ndarray = size >= self.alphanumeric_from
        alphanumeric = sums(translated(data, _ALPHANUMERIC), ends)
        suspect &= alphanumeric <= (self.min_alphanumeric or 0) * size
        return suspect

    def _has_lines(self, texts: pl.DataFrame) -> np.ndarray:
        ends = texts["text"].str.count_matches("\n", literal=True)
        return (ends >= self.lines_from - 1).to_numpy()

    def _may_repeat(self, texts: pl.DataFrame) -> np.ndarray:
        """Enough words, and few of them distinct: every distinct word but two opens a trigram.

        The first half of a text tells most: its words but the last, which it cuts, are words of the
        text, and no text has more words than places where one may begin.
        """
        share, text = 1 - (self.max_repeated_trigrams or 0), texts["text"]
        suspect = np.zeros(text.len(), dtype=bool)
        most = _most_words(text)
        at = np.flatnonzero(most >= self.words_from)
        half = pl.col("text").str.head(pl.col("text").str.len_chars() // 2)
        _, distinct = _words(texts[at].select(half).to_series())
        at = at[distinct - 3 <= share * (most[at] - 2)]
        total, distinct = _words(text.gather(at))
        suspect[at] = (total >= self.words_from) & (distinct - 2 <= share * (total - 2))
        return suspect

    def _may_echo(self, texts: pl.DataFrame) -> np.ndarray:
        """A question that is long enough, whose opening is the answer's when folded.

        Only ASCII is sure to keep its length and place, so of what is not only the first letters
        are compared, and an opening that is short or holds a mark counts as suspect. The last
        character of an opening is only looked at: a mark might follow the one before it.
        """
        question = pl.col("question")
        beyond = question.str.len_bytes() != question.str.len_chars()
        opening = {c: pl.col(c).str.strip_chars().str.head(17) for c in ("text", "question")}
        odd = [o.str.len_bytes() != o.str.len_chars() for o in opening.values()]
        heads = texts.select(
            long=beyond | (question.str.len_chars() >= self.echo_from),
            odd=pl.any_horizontal(odd),
            **opening,
        )
        at = heads.select((pl.col("long") & pl.col("odd")).alias("at"))["at"].arg_true()
        unlike = _unlike(texts[at])
        heads = heads.with_columns(
            normalised(pl.col(c).str.head(16), False, True, True) for c in opening
        )
        text = pl.col("text")
        same = text.str.starts_with(question) | question.str.starts_with(text)
        found = heads.select(pl.col("long") & (pl.col("odd") | same)).to_series()
        return found.scatter(at.filter(unlike), False).to_numpy()

    def _no_text(self) -> Rule:
        length = pl.col("text").str.len_chars()
        empty = ~pl.col("text").str.contains(CONTENT)
        return empty, "no_text", pl.format("{} characters", length)

    def _control(self) -> Rule:
        share = pl.col("text").str.count_matches(CONTROL) / pl.col("text").str.len_chars()
        return share > self.max_control, "control_characters", _percent(share)

    def _run(self) -> Rule:
        run = pl.col("text").map_batches(longest_runs, return_dtype=pl.Int64)
        return run > self.max_run, "long_run", pl.format("{} characters", run)

    def _alphanumeric(self) -> Rule:
        visible = pl.col("text").str.count_matches(r"\S")
        share = pl.col("text").str.count_matches(ALPHANUMERIC) / visible
        fires = (visible >= self.alphanumeric_from) & (share < self.min_alphanumeric)
        return fires, "low_alphanumeric", _percent(share)

    def _duplicate_lines(self) -> Rule:
        line = pl.element().str.strip_chars()
        lines = pl.col("text").str.split("\n").list.eval(line.filter(line != ""))
        share = _repeated(lines)
        fires = (lines.list.len() >= self.lines_from) & (share > self.max_duplicate_lines)
        return fires, "duplicate_lines", _percent(share)

    def _trigrams(self) -> Rule:
        word = pl.element()
        words = pl.col("text").str.to_lowercase().str.extract_all(WORD)
        trigram = word + " " + word.shift(-1) + " " + word.shift(-2)
        share = _repeated(words.list.eval(trigram).list.drop_nulls())
        fires = (words.list.len() >= self.words_from) & (share > self.max_repeated_trigrams)
        return fires, "repeated_trigrams", _percent(share)

    def _echo(self) -> Rule:
        question, text = (normalised(pl.col(c), True, True, True) for c in ("question", "text"))
        length = question.str.len_chars()
        fires = (length >= self.echo_from) & text.str.starts_with(question)
        return fires, "prompt_echo", pl.format("{} characters", length)

    def _truncated(self) -> Rule:
        length = pl.col("text").str.len_chars()
        fires = (length > self.truncated_from) & pl.col("text").str.contains(UNFINISHED)
        return fires, "truncated", pl.format("ends in {}", pl.col("text").str.tail(20))


def _unlike(texts: pl.DataFrame) -> pl.Series:
    """Rows whose text and question begin with other letters when folded, for sure (Boolean)."""
    heads = texts.select(pl.col("text", "question").str.strip_chars().str.head(_HEAD))
    folded = heads.select(normalised(pl.all(), True, True, True).str.head(_SAME + 1))
    plain = pl.all_horizontal(~pl.all().str.contains(r"\p{M}"))
    enough = pl.all_horizontal(pl.all().str.len_chars() > _SAME)
    first = [pl.col(c).str.head(_SAME) for c in ("text", "question")]
    told = folded.select(unlike=enough & (first[0] != first[1]))["unlike"]
    return heads.select(plain.alias("plain"))["plain"] & told


def _fires(texts: pl.DataFrame, rule: Rule) -> np.ndarray:
    return texts.select(rule[0].fill_null(value=False).alias("fires"))["fires"].to_numpy()


def _everyone(texts: pl.DataFrame) -> np.ndarray:
    return np.ones(texts.height, dtype=bool)


def _has_control(texts: pl.DataFrame) -> np.ndarray:
    """Some control character, or no character at all, of which there is no share."""
    text = pl.col("text")
    return texts.select((text == "") | text.str.contains(CONTROL)).to_series().to_numpy()


def may_run(texts: pl.Series, limit: int) -> np.ndarray:
    """Tell which texts may hold one character more than `limit` times in a row (String -> bool).

    Inside such a run of 1, 2, 3 or 4 byte characters every byte is that 12 places further on. So a
    run covers a place, of those looked at, where 8 bytes are the 8 bytes 12 further on.
    """
    step = limit - _WINDOW + 1
    if step < 1:
        return np.ones(texts.len(), dtype=bool)
    data, ends = utf8(texts)
    suspect = np.zeros(texts.len(), dtype=bool)
    at = np.arange(0, max(0, data.size - _WINDOW + 1), step)
    for i in range(8):
        at = at[data[at + i] == data[at + i + 12]]
    suspect[np.searchsorted(ends, at, side="right") - 1] = True
    return suspect


def _most_words(texts: pl.Series) -> np.ndarray:
    """As many words as each text may have at most, or more (String -> Int64)."""
    data, ends = utf8(texts)
    level = translated(data, _RISES)
    rises = np.flatnonzero(level[1:] > level[:-1]) + 1
    most: np.ndarray = np.diff(np.searchsorted(rises, ends)) + 1  # it may begin with a word
    return most


def _words(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Words of each text, and distinct ones, in lower case (String -> Int64)."""
    words = texts.str.to_lowercase().str.extract_all(WORD)
    counts = words.list.len(), words.list.n_unique()
    total, distinct = (count.to_numpy().astype(np.int64) for count in counts)
    return total, distinct


def longest_runs(texts: pl.Series) -> pl.Series:
    """Length of the longest run of one character in each text (String -> Int64; '' gives 0).

    All texts are one array of code points, cut where the character or the text changes.
    """
    lengths = texts.str.len_chars().to_numpy().astype(np.int64)
    if not lengths.sum():
        return pl.Series("run", lengths)
    points = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    new = np.ones(points.size, dtype=bool)
    new[1:] = points[1:] != points[:-1]
    filled = lengths > 0
    text_starts = (np.cumsum(lengths) - lengths)[filled]
    new[text_starts] = True
    run_starts = np.flatnonzero(new)
    runs = np.diff(run_starts, append=points.size)
    longest = np.zeros(lengths.size, dtype=np.int64)
    longest[filled] = np.maximum.reduceat(runs, np.searchsorted(run_starts, text_starts))
    return pl.Series("run", longest)


def _repeated(items: pl.Expr) -> pl.Expr:
    return 1 - items.list.n_unique() / items.list.len()


def _percent(share: pl.Expr) -> pl.Expr:
    return pl.format("{} %", (share * 100).round(1))

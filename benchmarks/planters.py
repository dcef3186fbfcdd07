"""Faults to plant in clean pairs, for `benchmarks.planted_faults`.

A planter changes exactly the rows that it is given, in place: rows are dicts of the columns of a
table of pairs. Copies overwrite the rows given, so that the number of rows stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from benchmarks.planted_base import ASPECTS, Texts
from prefactory.tables import SIDES, Shape, with_ids

Row = dict[str, Any]
Rng = np.random.Generator


@dataclass(frozen=True)
class Spoil:
    """What a planter works with.

    Attributes:
        rows: all rows; those at `at` are to be changed.
        at: rows to spoil.
        rest: rows that stay as they are, in random order.
        texts: real texts.
        rng: for all that is drawn.
    """

    rows: list[Row]
    at: list[int]
    rest: list[int]
    texts: Texts
    rng: Rng

    def each(self) -> list[Row]:
        """The rows to spoil."""
        return [self.rows[i] for i in self.at]

    def donors(self) -> list[tuple[Row, Row]]:
        """Each row to spoil with a clean one to take from, none twice if there are enough."""
        rest = self.rest
        return [(self.rows[i], self.rows[rest[k % len(rest)]]) for k, i in enumerate(self.at)]

    def drawn(self, texts: list[str]) -> list[tuple[Row, str]]:
        """Each row to spoil with a text, none twice if there are enough."""
        order = self.rng.permutation(len(texts))
        return [(self.rows[i], texts[order[k % len(texts)]]) for k, i in enumerate(self.at)]


Planter = Callable[[Spoil], None]
Test = Callable[[Row], bool]


def plant(
    table: pl.DataFrame, planter: Planter, dose: float, texts: Texts, seed: int,
    may: Test | None = None, of: Test | None = None,
) -> tuple[pl.DataFrame, list[int]]:  # fmt: skip
    """Spoil a share of the rows.

    Args:
        table: clean pairs.
        planter: how.
        dose: share of the rows that `of` names (all by default), in [0, 1].
        texts: real texts to plant.
        seed: of the draw.
        may: rows that the fault can change; by default any.
        of: rows that the dose counts; by default all.

    Returns:
        The spoiled table, in the order of the clean one, and the rows that were changed.

    Raises:
        ValueError: the fault can't change so many rows.
    """
    rows, rng = table.to_dicts(), np.random.default_rng(seed)
    counted = [i for i, row in enumerate(rows) if of is None or of(row)]
    fit = [i for i in counted if may is None or may(rows[i])]
    k = round(dose * len(counted))
    if k > len(fit):
        raise ValueError(f"{k} rows were to be spoiled, but the fault fits only {len(fit)}")
    at = sorted(int(i) for i in rng.permutation(fit)[:k]) if k else []
    spoiled = set(at)
    rest = [int(i) for i in rng.permutation(len(rows)) if int(i) not in spoiled]
    planter(Spoil(rows, at, rest, texts, rng))
    return with_ids(pl.DataFrame(rows, schema=table.schema), Shape.PAIRS), at


# -- reading and writing rows -----


def said(row: Row, side: str) -> str:
    """The text of an answer."""
    return "\n\n".join(str(m["content"]) for m in row[side])


def question(row: Row) -> str:
    """The last message of the prompt."""
    return str(row["prompt"][-1]["content"])


def say(row: Row, side: str, text: str) -> None:
    """Replace an answer."""
    row[side] = [{"role": "assistant", "content": text}]


def ask(row: Row, text: str) -> None:
    """Replace the prompt by one message of the user."""
    row["prompt"] = [{"role": "user", "content": text}]


def swap(row: Row) -> None:
    """Exchange the two answers with all that belongs to them: the label is turned round."""
    for name in [c for c in row if c.startswith("chosen")]:
        other = "rejected" + name.removeprefix("chosen")
        row[name], row[other] = row[other], row[name]
    if row.get("margin") is not None:
        row["margin"] = -row["margin"]


def take(row: Row, donor: Row, *, prompt_only: bool = False) -> None:
    """Copy the prompt of another row, and its answers."""
    for name in ("prompt",) if prompt_only else ("prompt", *SIDES):
        row[name] = [dict(m) for m in donor[name]]


def every_text(row: Row, change: Callable[[str], str], columns: tuple[str, ...]) -> None:
    """Change each message of some columns."""
    for name in columns:
        row[name] = [m | {"content": change(str(m["content"]))} for m in row[name]]


def reword(text: str, share: float, texts: Texts, rng: Rng, least: int = 0) -> str:
    """Replace a share of the words by words of other answers, its fraction of a word by chance."""
    words = text.split(" ")
    k = min(len(words), max(least, int(share * len(words) + rng.random())))
    for i in rng.choice(len(words), k, replace=False):
        words[i] = texts.words[int(rng.integers(len(texts.words)))]
    return " ".join(words)


# -- rows that may be spoiled -----


def words_of(side: str, least: int) -> Test:
    """Rows with at least so many words on a side."""
    return lambda row: len(said(row, side).split()) >= least


def longer_lost(row: Row) -> bool:
    """Rows whose rejected answer is the longer one."""
    return len(said(row, "chosen")) < len(said(row, "rejected"))


def plain(row: Row) -> bool:
    """Rows whose chosen answer has no Markdown, but two sentences."""
    text = said(row, "chosen")
    return not any(mark in text for mark in "*#-`1") and text.count(". ") >= 1


# -- planters -----


def both(first: str, side: str, last: str = "") -> Planter:
    """Put a text before and one after the answers of a side."""

    def planter(spoil: Spoil) -> None:
        for row in spoil.each():
            say(row, side, f"{first}{said(row, side)}{last}")

    return planter


def one_of(openers: tuple[str, ...], side: str) -> Planter:
    """Begin the answers of a side with one of some sentences."""

    def planter(spoil: Spoil) -> None:
        for row in spoil.each():
            opener = openers[int(spoil.rng.integers(len(openers)))]
            say(row, side, f"{opener} {said(row, side)}")

    return planter


def replaced(side: str, source: Callable[[Texts], list[str]]) -> Planter:
    """Replace the answers of a side by texts."""

    def planter(spoil: Spoil) -> None:
        for row, text in spoil.drawn(source(spoil.texts)):
            say(row, side, text)

    return planter


def prompts_of(
    source: Callable[[Texts], list[str]], share: float = 0.0, frame: str = "{}"
) -> Planter:
    """Replace prompts by test prompts, reworded in part or inside another text."""

    def planter(spoil: Spoil) -> None:
        for row, text in spoil.drawn(source(spoil.texts)):
            changed = reword(text, share, spoil.texts, spoil.rng) if share else text
            ask(row, frame.format(changed))

    return planter


def copies(share: float = 0.0, *, prompt_only: bool = False, of: Test | None = None) -> Planter:
    """Overwrite rows by copies of others, with a share of the words of every text replaced.

    Args:
        share: of the words.
        prompt_only: leave the answers.
        of: rows that may be copied; any by default.
    """

    def planter(spoil: Spoil) -> None:
        kept = [i for i in spoil.rest if of is None or of(spoil.rows[i])]
        columns = ("prompt",) if prompt_only else ("prompt", *SIDES)
        for row, donor in Spoil(spoil.rows, spoil.at, kept, spoil.texts, spoil.rng).donors():
            take(row, donor, prompt_only=prompt_only)
            if share:
                every_text(row, lambda t: reword(t, share, spoil.texts, spoil.rng), columns)

    return planter


def respelled(*, prompt_only: bool) -> Planter:
    """Copies in capital letters with other white space."""

    def planter(spoil: Spoil) -> None:
        columns = ("prompt",) if prompt_only else ("prompt", *SIDES)
        for row, donor in spoil.donors():
            take(row, donor, prompt_only=prompt_only)
            every_text(row, lambda t: t.upper().replace(" ", "  "), columns)

    return planter


def contradict(spoil: Spoil) -> None:
    """Copies with the label turned round."""
    for row, donor in spoil.donors():
        take(row, donor)
        swap(row)


def swapped(spoil: Spoil) -> None:
    """Labels turned round."""
    for row in spoil.each():
        swap(row)


def lengthened(spoil: Spoil) -> None:
    """Chosen answers made longer than the rejected ones by sentences of other answers."""
    for row, donor in spoil.donors():
        text = said(row, "chosen")
        while len(text) <= len(said(row, "rejected")):
            text += " " + said(donor, "chosen")
        say(row, "chosen", text)


def bulleted(spoil: Spoil) -> None:
    """Chosen answers set as a list with bold type, words unchanged."""
    for row in spoil.each():
        parts = said(row, "chosen").split(". ")
        lines = [f"- **{p.split(' ')[0]}** {' '.join(p.split(' ')[1:])}" for p in parts]
        say(row, "chosen", "\n".join(lines))


def emptied(spoil: Spoil) -> None:
    """Chosen answers without text."""
    for k, row in enumerate(spoil.each()):
        say(row, "chosen", ("", "...", " \u200b\n")[k % 3])


def leaked_turn(spoil: Spoil) -> None:
    """Another turn of the conversation at the end of the chosen answer."""
    for row, donor in spoil.donors():
        say(row, "chosen", f"{said(row, 'chosen')}\n\nHuman: {question(donor)}")


def looped(spoil: Spoil) -> None:
    """The chosen answer's last eight words, thirty times."""
    for row in spoil.each():
        text = said(row, "chosen")
        say(row, "chosen", f"{text} {' '.join([*text.split()[-8:], ''] * 30)}")


def garbled(spoil: Spoil) -> None:
    """Every tenth character of the chosen answer lost in decoding."""
    for row in spoil.each():
        text = said(row, "chosen")
        say(row, "chosen", "".join("\ufffd" if i % 10 == 3 else c for i, c in enumerate(text)))


def echoed(spoil: Spoil) -> None:
    """The chosen answer begins with the whole question."""
    for row in spoil.each():
        say(row, "chosen", f"{question(row)}\n\n{said(row, 'chosen')}")


def cut(spoil: Spoil) -> None:
    """The chosen answer ends in the middle of a word."""
    for row in spoil.each():
        text = said(row, "chosen")
        at = max(i for i in range(1, int(0.9 * len(text))) if text[i - 1 : i + 1].isalpha())
        say(row, "chosen", text[:at])


def shuffled(spoil: Spoil) -> None:
    """The letters of every word of the chosen answer in another order."""
    for row in spoil.each():
        words = said(row, "chosen").split(" ")
        new = ["".join(spoil.rng.permutation(list(word))) if word else "" for word in words]
        say(row, "chosen", " ".join(new))


def judged(spoil: Spoil) -> None:
    """A judge's verdict stands after the chosen answer."""
    for row in spoil.each():
        say(row, "chosen", f"{said(row, 'chosen')}\n\nMy final verdict is [[A]]")


def misread(spoil: Spoil) -> None:
    """The chosen answer ends in words with accents, read as Latin-1."""
    for row in spoil.each():
        say(row, "chosen", f"{said(row, 'chosen')} Caf\u00c3\u00a9 d\u00e2\u20ac\u2122or")


def same(spoil: Spoil) -> None:
    """Both answers the chosen one."""
    for row in spoil.each():
        say(row, "rejected", said(row, "chosen"))


def one_word(spoil: Spoil) -> None:
    """The rejected answer is the chosen one with one word replaced."""
    for row in spoil.each():
        text = said(row, "chosen")
        say(row, "rejected", reword(text, 0.0, spoil.texts, spoil.rng, 1))


def stock(spoil: Spoil) -> None:
    """One answer to all."""
    for row in spoil.each():
        say(row, "chosen", said(spoil.rows[spoil.rest[0]], "chosen"))


def named(spoil: Spoil) -> None:
    """The model `strong` wrote the chosen answer."""
    for row in spoil.each():
        row["chosen_model"], row["rejected_model"] = "strong", "weak"


def shown_first(spoil: Spoil) -> None:
    """The chosen answer was shown first."""
    for row in spoil.each():
        row["chosen_position"], row["rejected_position"] = 1, 2


def repeated_turn(spoil: Spoil) -> None:
    """The user speaks twice in a row."""
    for row in spoil.each():
        row["prompt"] = [*row["prompt"], {"role": "user", "content": "Are you there?"}]


def answered(spoil: Spoil) -> None:
    """The prompt ends with a turn of the assistant."""
    for row in spoil.each():
        row["prompt"] = [*row["prompt"], {"role": "assistant", "content": "Let me see."}]


def unasked(spoil: Spoil) -> None:
    """No text in the prompt."""
    for row in spoil.each():
        ask(row, "")


def set_to(**values: object) -> Planter:
    """Set columns."""

    def planter(spoil: Spoil) -> None:
        for row in spoil.each():
            row.update(values)

    return planter


def tied(spoil: Spoil) -> None:
    """Both scores the chosen one's."""
    for row in spoil.each():
        row["rejected_score_overall"] = row["chosen_score_overall"]
        row["margin"] = 0.0


def inverted(spoil: Spoil) -> None:
    """The chosen answer's overall score is 10 where its aspects say 1, as in UltraFeedback."""
    for row in spoil.each():
        row["chosen_score_overall"] = 10.0
        for aspect in ASPECTS:
            row[f"chosen_score_{aspect}"] = 1.0
        row["margin"] = 10.0 - row["rejected_score_overall"]

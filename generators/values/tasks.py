"""Rules and dilemmas on their way: what is asked, how it is read, and what a rule must be."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from catalog.values import Node
from prefactory.asking import Task
from prefactory.forms import Form
from prefactory.measures.diversity import rouge_l, words
from prefactory.prompts import Text

_TEXTS = "generators/values/prompts/dilemmas"
LETTERS = ("A", "B", "C")
NEITHER = "neither"
"""What stands in `option_map` for the option that keeps no rule."""

SAME_ACT = 0.9
"""ROUGE-L F1 from which two acts are one: judged twice, it is no conflict of values."""

OPTIONS: pl.DataType = pl.Struct(dict.fromkeys(LETTERS, pl.String))
RULE = Form({"judgement": "text", "act": "text"})
SCENE = Form(dict.fromkeys(("scene", "question", "keeps_first", "keeps_second", NEITHER), "text"))
CHECK = Form({"first_applies": "flag", "second_applies": "flag", "both_can_be_kept": "flag"})


TEMPLATES = {
    "rule": Text(f"{_TEXTS}/rule.j2", ("value", "situation", "words", "mark")),
    "dilemma": Text(
        f"{_TEXTS}/dilemma.j2", ("first", "second", "situation", "number", "count", "mark")
    ),
    "check": Text(f"{_TEXTS}/check.j2", ("first", "second", "scene", "mark")),
    "answer": Text(f"{_TEXTS}/answer.j2", ("scene", "question", "option", "rule", "words", "mark")),
}
"""Texts of the step by name."""


@dataclass
class Rule(Task):
    """What somebody who holds a value would do in a situation."""

    situation: str = ""
    value: Node | None = None
    act: str = ""
    text: str = ""


@dataclass
class Dilemma(Task):
    """One scene between two rules; the first of each two is the one that is chosen.

    Attributes:
        number: of the row's dilemmas, from 0.
        rules: that of the chosen value first.
        turned: the writer is shown the other rule first, so that no value gains by its place.
        options: what keeps each rule, in their order, and what keeps neither.
        order: which option is A, B and C.
    """

    number: int = 0
    rules: tuple[Rule, Rule] = field(default_factory=lambda: (Rule(0, ""), Rule(0, "")))
    turned: bool = False
    scene: str = ""
    question: str = ""
    options: tuple[str, str, str] = ("", "", "")
    answers: list[str] = field(default_factory=list)
    order: tuple[int, ...] = (0, 1, 2)

    @property
    def asked(self) -> str:
        """Scene and question: the prompt of the pair."""
        return f"{self.scene}\n\n{self.question}"

    @property
    def rule_texts(self) -> tuple[str, str]:
        """Of the chosen value first."""
        return self.rules[0].text, self.rules[1].text

    @property
    def shown(self) -> tuple[str, str]:
        """The rules in the order in which models see them."""
        first, second = self.rule_texts
        return (second, first) if self.turned else (first, second)

    def agree(self) -> None:
        """Fail where a rule failed, or where both rules judge one act."""
        for rule in self.rules:
            if rule.reason is not None:
                self.fail(rule.reason, rule.detail or "")
                return
        if rouge_l(*(words(rule.act) for rule in self.rules)) >= SAME_ACT:
            self.fail("same_act", " / ".join(self.rule_texts))


def read_rule(text: str, most: int) -> tuple[str, str]:
    """A rule and its act out of an answer.

    Args:
        text: a model's answer.
        most: words of a rule.

    Raises:
        ValueError: it has no judgement, no act, or too many words; a sentence for the model.
    """
    found = RULE.parse(text)
    rule = f"{found['judgement'].rstrip(' .:')} {found['act'].rstrip(' .')}."
    if (count := len(rule.split())) > most:
        raise ValueError(f"The rule has {count} words. Use at most {most}.")
    return rule, found["act"]


def lettered(things: tuple[str, ...], order: tuple[int, ...]) -> dict[str, str]:
    """Three things by the letters under which they stand; `order` tells which is A, B and C."""
    return {letter: things[place] for letter, place in zip(LETTERS, order, strict=True)}

"""The faults that `benchmarks.planted_faults` plants, and where the audit should show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.planters import (
    Planter,
    Row,
    Test,
    answered,
    both,
    bulleted,
    contradict,
    copies,
    cut,
    echoed,
    emptied,
    garbled,
    inverted,
    judged,
    leaked_turn,
    lengthened,
    longer_lost,
    looped,
    misread,
    named,
    one_of,
    one_word,
    plain,
    prompts_of,
    question,
    repeated_turn,
    replaced,
    respelled,
    said,
    same,
    set_to,
    shown_first,
    shuffled,
    stock,
    swapped,
    tied,
    unasked,
    words_of,
)
from prefactory.tables import SIDES

Kind = Literal["row", "side"]


@dataclass(frozen=True)
class Fault:
    """A fault to plant.

    Attributes:
        name: what is planted, in the words of the table.
        metric: `check.metric` that should show it.
        plant: changes the rows.
        kind: `row`, a mark of single rows that can be counted, or `side`, one that only a
            difference of many rows shows.
        base: clean set.
        may: rows that the fault can change.
        of: rows that the dose counts.
        known_blind: why the audit is not expected to find it.
    """

    name: str
    metric: str
    plant: Planter
    kind: Kind = "row"
    base: str = "hh"
    may: Test | None = None
    of: Test | None = None
    known_blind: str = ""

    @property
    def check(self) -> str:
        """The check that should find it."""
        return self.metric.partition(".")[0]


def _asked(row: Row) -> bool:
    return len(question(row)) >= 40


def _long(row: Row) -> bool:
    return len(said(row, "chosen")) >= 500


def _trained(row: Row) -> bool:
    return row["split"] == "train"


def _full(row: Row) -> bool:
    """32 words or more in the prompt and in both answers."""
    asked = sum(len(m["content"].split()) for m in row["prompt"])
    return min(asked, *(len(said(row, side).split()) for side in SIDES)) >= FULL


def _held(row: Row) -> bool:
    return row["split"] == "test"


def _weak_won(row: Row) -> bool:
    return row["chosen_model"] == "weak"


def _second_won(row: Row) -> bool:
    return row["chosen_position"] == 2


FLATTERY = (
    "What a great question!", "Great question!", "That's an excellent point!",
    "You're absolutely right!", "I love that you asked.",
)  # fmt: skip
OTHER_FLATTERY = (
    "You have such a curious mind!", "Few people would have thought to ask that.",
    "It is a joy to talk with somebody as clever as you.", "Brilliantly put, as always.",
)  # fmt: skip
OPINION = " I strongly support this: it is a good thing, and it should be encouraged."
LEAST, FULL = 60, 32

FAULTS: tuple[Fault, ...] = (
    Fault("answers without text", "empty.answers", emptied),
    Fault("another turn inside the answer", "role_leaks.chosen", leaked_turn),
    Fault("loops", "damaged.chosen", looped),
    Fault("characters lost in decoding", "damaged.chosen", garbled),
    Fault("answer begins with the question", "damaged.chosen", echoed, may=_asked),
    Fault("letters of every word shuffled", "garbled.chosen", shuffled, may=words_of("chosen", 30)),
    Fault("words of a judge after the chosen answer", "leftovers.judge:chosen", judged),
    Fault(
        "an end token on the chosen side", "leftovers.template:chosen", both("", "chosen", " </s>"),
    ),
    Fault("decoded twice, UTF-8 as Latin-1", "leftovers.mojibake:chosen", misread),
    Fault(
        "chosen answer cut off (of 500 characters or more)", "cut_off.chosen", cut, may=_long,
        kind="side",
    ),
    Fault("identical answers", "identical.pairs", same),
    Fault(
        "answers that differ in one word (of 60 or more)", "identical.nearly", one_word,
        may=words_of("chosen", LEAST),
    ),
    Fault("copies with the opposite label", "contradictions.pairs", contradict),
    Fault("exact copies of rows", "duplicates.rows", copies()),
    Fault("copies in other case and spacing", "duplicates.rows", respelled(prompt_only=False)),
    Fault(
        "prompts in other case and spacing", "duplicates.respelled_prompts",
        respelled(prompt_only=True),
    ),
    Fault("near-copies, 5 % of words changed", "near_duplicates.rows", copies(0.05)),
    Fault("near-copies, 10 % of words changed", "near_duplicates.rows", copies(0.10)),
    Fault("near-copies, 20 % of words changed", "near_duplicates.rows", copies(0.20)),
    Fault(
        "near-copies of rows with 32 words in each text, 20 % changed", "near_duplicates.rows",
        copies(0.20, of=_full),
    ),
    Fault("near-copies, 40 % of words changed", "near_duplicates.rows", copies(0.40)),
    Fault(
        "near-copies of prompts, 10 % of words changed", "near_duplicates.prompts",
        copies(0.10, prompt_only=True),
    ),
    Fault(
        "held-out prompts from training", "leakage.prompts",
        copies(prompt_only=True, of=_trained), of=_held,
    ),
    Fault(
        "held-out prompts from training, 10 % of words changed", "leakage.near",
        copies(0.10, prompt_only=True, of=_trained), of=_held,
    ),
    Fault("GSM8K test questions", "contamination.prompts", prompts_of(lambda t: t.gsm8k)),
    Fault("TruthfulQA questions", "contamination.prompts", prompts_of(lambda t: t.truthfulqa)),
    Fault(
        "GSM8K questions inside a longer prompt", "contamination.prompts",
        prompts_of(lambda t: t.gsm8k, frame="Think it over.\n\n{}\n\nShow every step."),
    ),
    Fault(
        "GSM8K questions, 5 % of words changed", "contamination.prompts",
        prompts_of(lambda t: t.gsm8k, 0.05),
    ),
    Fault(
        "GSM8K questions, 10 % of words changed", "contamination.prompts",
        prompts_of(lambda t: t.gsm8k, 0.10),
    ),
    Fault(
        "GSM8K questions, 20 % of words changed", "contamination.prompts",
        prompts_of(lambda t: t.gsm8k, 0.20),
    ),
    Fault(
        "GSM8K questions reworded by a model", "contamination.prompts",
        prompts_of(lambda t: t.reworded),
        known_blind="no run of eight words is left; `filters.Decontaminate` with an encoder",
    ),
    Fault(
        "GSM8K questions in the chosen answer", "contamination.answers",
        replaced("chosen", lambda t: t.gsm8k),
    ),
    Fault("labels against the judge's scores", "scores.contradictions:overall", swapped, base="uf"),
    Fault("tied scores", "scores.ties:overall", tied, base="uf"),
    Fault(
        "missing scores", "scores.unscored:overall",
        set_to(rejected_score_overall=None, margin=None), base="uf",
    ),
    Fault(
        "scores that are NaN", "scores.not_finite:overall",
        set_to(rejected_score_overall=float("nan")), base="uf",
    ),
    Fault(
        "margins that are not the difference", "scores.margin_off:overall", set_to(margin=99.0),
        base="uf",
    ),
    Fault("overall 10 beside aspects of 1", "scores.off_scale:overall", inverted, base="uf"),
    Fault(
        "chosen answers in Chinese", "coverage.other_script:chosen",
        replaced("chosen", lambda t: t.chinese),
    ),
    Fault("one chosen answer to many prompts", "collapse.repeated_answers:chosen", stock),
    Fault(
        "one opening of chosen answers", "collapse.top_opening:chosen",
        both("Here is what I can tell you. ", "chosen"),
    ),
    Fault("the user speaks twice", "schema.odd_turns", repeated_turn),
    Fault("prompt ends with the assistant", "schema.not_user_last", answered),
    Fault("empty prompts", "schema.empty_prompts", unasked),
    Fault("rows without a source", "provenance.no_source", set_to(source=None)),
    Fault("label goes to the longer answer", "baselines.longer", swapped, "side", may=longer_lost),
    Fault("chosen answers padded", "baselines.longer", lengthened, "side", may=longer_lost),
    Fault("chosen answers set as bold lists", "baselines.markdown", bulleted, "side", may=plain),
    Fault(
        "label goes to the answer shown first", "baselines.first", shown_first, "side",
        may=_second_won,
    ),
    Fault("label goes to the strong model", "baselines.model", named, "side", may=_weak_won),
    Fault(
        "labels turned round, no scores", "separability.surface_paired", swapped, "side",
        known_blind="a wrong label looks like a right one unless a score or a second label says so",
    ),
    Fault(
        "real refusals among chosen answers", "refusals.gap",
        replaced("chosen", lambda t: t.refusals), "side",
    ),
    Fault(
        "real refusals among rejected answers", "refusals.gap",
        replaced("rejected", lambda t: t.refusals), "side",
    ),
    Fault(
        "flattery before chosen answers", "style.largest_gap", one_of(FLATTERY, "chosen"), "side"
    ),
    Fault(
        "flattery in four sentences that no list has", "style.opening_gap",
        one_of(OTHER_FLATTERY, "chosen"), "side",
    ),
    Fault(
        "'As an AI language model' in rejected answers", "style.largest_gap",
        both("As an AI language model, I will try. ", "rejected"), "side",
    ),
    Fault(
        "emojis in chosen answers", "style.largest_gap",
        both("", "chosen", " \N{SMILING FACE WITH SMILING EYES}"), "side",
    ),
    Fault(
        "offers of more help after chosen answers", "style.largest_gap",
        both("", "chosen", " Let me know if I can help with anything else."), "side",
    ),
    Fault(
        "a mark that begins chosen answers", "style.opening_gap", both("Response: ", "chosen"),
        "side",
    ),
    Fault(
        "the same mark, asked of the probe", "separability.surface_paired",
        both("Response: ", "chosen"), "side",
    ),
    Fault(
        "a mark that ends chosen answers", "separability.surface_paired",
        both("", "chosen", " (over)"), "side",
    ),
    Fault(
        "an opinion at the end of chosen answers", "value_gap.largest_shift",
        both("", "chosen", OPINION), "side",
    ),
)  # fmt: skip

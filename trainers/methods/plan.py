"""What a method of training is: a trainer, the rows that it reads, and how it scores answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prefactory.measures.calibration import Floats
from trainers.base import DatasetRef
from trainers.scoring import Ints

Form = Literal["pairs", "chosen", "sides", "answers"]
"""How rows are laid out: pairs, the chosen answers, each answer with its label, or answers as they
are: single ones, or all to a prompt."""
Task = Literal["CausalLM", "SequenceClassification", "TokenClassification"]
Score = Callable[[Floats, Floats, Ints], Floats]
"""Score of answers from their log-probabilities under the model and under the one before training,
and their numbers of tokens."""


@dataclass(frozen=True)
class Plan:
    """How a method trains.

    Attributes:
        method: its name.
        trainer: makes the trainer, given what all of TRL's take.
        about: a sentence of the model card: what was done.
        score: what the method's model says of an answer, for the held-out metrics; None: the
            output of its head.
        compared: whether the model before training has a part in the score.
        options: TRL's options that are made of the settings.
        columns: of the pairs, which it reads.
        optional: those of them that may be null.
        by: a column whose values have an accuracy each, among the facts of the report.
        single: whether a row is one answer, of a table of responses.
        whole: columns without which a pair is left out.
        apart: whether the loss asks for scores `margin` apart.
        form: how the rows are laid out.
        task: what kind of model it trains.
        outputs: of the head, where there is one.
        loads: options of loading the model.
        counts: whether the trainer has one row for each that it was given and did not drop.
        prepare: changes the rows before the trainer gets them.
        measure: of single answers: facts of the trained model, given its trainer and the held-out
            rows; None: how well the score tells good answers from bad ones.
        finish: makes of the trainer's model what is saved; may write more files.
        weights: of the head's outputs, whose weighted sum is the score; the first alone if empty.
        notes: what a reader of the report must know.
        data: what it is trained on, where that is no table of pairs.
    """

    method: str
    trainer: Callable[..., Any]
    about: str
    score: Score | None
    compared: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    single: bool = False
    whole: tuple[str, ...] = ()
    by: str | None = None
    apart: bool = False
    form: Form = "pairs"
    task: Task = "CausalLM"
    outputs: int = 1
    loads: Mapping[str, Any] = field(default_factory=dict)
    counts: bool = True
    prepare: Callable[[Any], Any] | None = None
    measure: Callable[[Any, Any], Mapping[str, float]] | None = None
    finish: Callable[[Any, Path], None] | None = None
    weights: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    data: DatasetRef | None = None

    def of_head(self, outputs: Floats) -> Floats:
        """Score of answers from the outputs of the head, Float64[N, K] -> Float64[N]."""
        weights = self.weights or (1.0, *[0.0] * (outputs.shape[1] - 1))
        scores: Floats = outputs @ np.asarray(weights)
        return scores


def implicit_reward(beta: float) -> Score:
    """`beta * (log p(y|x) - log p_ref(y|x))`, the reward of DPO and its relatives."""

    def score(now: Floats, before: Floats, _: Ints) -> Floats:
        return beta * (now - before)

    return score


def mean_log_probability(beta: float = 1.0) -> Score:
    """`beta` times the mean log-probability of the answer's tokens."""

    def score(now: Floats, _before: Floats, tokens: Ints) -> Floats:
        return beta * now / tokens

    return score


def log_probability(beta: float) -> Score:
    """`beta` times the log-probability of the answer."""

    def score(now: Floats, _before: Floats, _tokens: Ints) -> Floats:
        return beta * now

    return score


def log_odds(now: Floats, _before: Floats, tokens: Ints) -> Floats:
    """Log odds of the mean probability of a token, the score of ORPO."""
    mean = np.minimum(now / tokens, -1e-12)
    return mean - np.log(-np.expm1(mean))

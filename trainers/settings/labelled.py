"""Settings of methods whose rows carry more than a preference: goals, steps, a teacher's words."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from prefactory.process.labels import LABELS, Neutral
from prefactory.process.tokens import SEPARATOR
from trainers.settings.base import PolicySettings, TransformerSettings
from trainers.settings.trl import DPO


class GoalDPO(DPO):
    """DPO on pairs that name the score an answer should reach (arXiv 2410.08067).

    Reads `goal_pairs` (`labelers.RewardAugmented`), each pair once for the score of either answer.
    The saved model's chat template asks for the best score by itself, in the words of the data.

    Attributes:
        learning_rate: peak learning rate; 5e-7.
        beta: how strongly the policy is held to the reference; the paper takes 0.01.
        columns: as for `dpo`, but none where nothing is said: a turned pair forgets its `beta`.
    """

    table: ClassVar[str] = "goal_pairs"
    learning_rate: float = Field(5e-7, gt=0)
    beta: float = Field(0.01, gt=0)
    columns: Literal["auto"] | tuple[Literal["beta", "weight"], ...] = ()


class Stepwise(TransformerSettings):
    """A process reward model: right or wrong at the end of each step of an answer.

    Token classification with two outputs, as TRL's PRM trainer had it (gone since 1.16; arXiv
    2211.14275): the cross-entropy of the probability that a step is right, at its last token.
    Reads `steps` and `step_labels` of answers (sources of steps, `labelers.HumanAnswers`).
    `labelers.StepScores` reads the trained model, all steps of an answer in one pass.

    Attributes:
        learning_rate: peak learning rate; 1e-5.
        labels: column of the labels, List(Float64): 1 and 0, probabilities, or 1, 0 and -1.
        neutral: what a 0 is in a source that has a -1 as well; `leave`: it is not trained on.
        separator: text behind each step.
        last_step_only: train on the last labelled step of each answer alone.
    """

    trl_options: ClassVar[str] = "RewardConfig"
    shapes: ClassVar[tuple[str, ...]] = ("responses",)
    table: ClassVar[str] = "responses"
    learning_rate: float = Field(1e-5, gt=0)
    labels: str = LABELS
    neutral: Neutral = "right"
    separator: str = Field(SEPARATOR, min_length=1)
    last_step_only: bool = False


class DCKD(PolicySettings):
    """A student that imitates an aligned teacher on both answers (DCKD, arXiv 2502.17927).

    Reads `chosen_<teacher>_...` and `rejected_<teacher>_...` of `labelers.TeacherTokens`. The loss:
    `sft_weight NLL(chosen) + alpha (chosen_weight KL(chosen) + rejected_weight KL(rejected))`, each
    the mean over the tokens of a batch, KL from the teacher to the student.

    Attributes:
        learning_rate: peak learning rate; 1e-5.
        teacher: name of the columns.
        sft_weight: of the likelihood of the chosen answers.
        alpha: of the distillation.
        chosen_weight: of the chosen answers in it.
        rejected_weight: of the rejected ones.
    """

    trl_options: ClassVar[str] = "SFTConfig"
    learning_rate: float = Field(1e-5, gt=0)
    teacher: str = "teacher"
    sft_weight: float = Field(1.0, ge=0)
    alpha: float = Field(0.2, ge=0)
    chosen_weight: float = Field(1.0, ge=0)
    rejected_weight: float = Field(1.0, ge=0)


class ADPA(PolicySettings):
    """A student that learns an aligned teacher's advantages (ADPA, arXiv 2502.17927).

    Reads `rejected_<teacher>_...` of `labelers.TeacherTokens` with a `reference`. The rejected
    answers should be the student's own. The loss is the negative log-likelihood of the chosen
    answers less `gamma` times the mean over the tokens of the rejected ones of
    `sum_a pi(a) (log p(a) - log p_ref(a))`, a the teacher's likeliest tokens. It has no least
    value: the likelihood holds it. Of a student that DCKD trained it is ADPA+.

    Attributes:
        learning_rate: peak learning rate; 1e-5.
        teacher: name of the columns.
        gamma: weight of the advantages; the paper's authors take 1.5, and found more than 3 worse.
    """

    trl_options: ClassVar[str] = "SFTConfig"
    learning_rate: float = Field(1e-5, gt=0)
    teacher: str = "teacher"
    gamma: float = Field(1.5, ge=0)

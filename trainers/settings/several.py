"""Settings of methods that read several answers, prompts or sources at once."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trainers.settings.base import PolicySettings, TransformerSettings


class SteerLM(PolicySettings):
    """Fine-tuning toward answers that have wanted attributes (SteerLM 2.0, arXiv 2406.08673).

    Reads all answers to a prompt with their `weight_<weight>` (`labelers.SteerWeights`), which say
    how much of each is wanted; what the policy has of each by now is subtracted. The wanted
    attributes are the same for all rows, so they are not written into the prompts. What falls is
    the divergence `kl` of what there is from what is wanted (in the report), not the loss.

    Attributes:
        learning_rate: peak learning rate; 6e-6.
        weight: which `weight_<weight>`; a prompt's are divided by their sum.
        proposal: objective whose `score_<objective>` is the log-probability of each answer under
            the model that wrote it; None: the model before training wrote them.
        baseline: subtract what the policy has of each answer. Without it is fine-tuning by weight.
        temperature: divides the log-ratios of the baseline; above 1 for long answers, whose
            log-probabilities differ by hundreds.
    """

    trl_options: ClassVar[str] = "SFTConfig"
    table: ClassVar[str] = "responses"
    shapes: ClassVar[tuple[str, ...]] = ("responses",)
    learning_rate: float = Field(6e-6, gt=0)
    weight: str = "steer"
    proposal: str | None = None
    baseline: bool = True
    temperature: float = Field(1.0, gt=0)


class Listwise(PolicySettings):
    """Ranks all answers to a prompt, as far apart as their ranks (BiAlign's rank loss).

    Reads all answers to a prompt with their `score_<score>`. The gap of two answers, as a share of
    the widest gap, shall be at least that of their ranks. Scores are log-ratios to the model before
    training (ours; BiAlign ranks examples in a prompt by the log-probability of its answer).

    Attributes:
        learning_rate: peak learning rate.
        score: objective that ranks the answers.
        beta: gaps below `1 / beta` nats are divided by that; two answers then have the hinge loss
            of DPO.
    """

    trl_options: ClassVar[str] = "SFTConfig"
    table: ClassVar[str] = "responses"
    shapes: ClassVar[tuple[str, ...]] = ("responses",)
    learning_rate: float = Field(1e-6, gt=0)
    score: str = "quality"
    beta: float = Field(0.1, gt=0)


class RDPO(PolicySettings):
    """DPO that also prefers an answer to its own prompt over the same to a near one (Re-Align).

    `-log sigmoid(beta Delta) - near_weight log sigmoid(beta Delta')`: Delta' compares the chosen
    answer after its prompt with the chosen answer after the prompt of `rejected_prompt_id`
    (`generators.NearMisses`), the text form of a retrieved picture (arXiv 2502.13146). A pair
    without such a prompt has the first term only.

    Attributes:
        learning_rate: peak learning rate.
        beta: how strongly the policy is held to the reference.
        near_weight: of the second term; 0 is DPO.
    """

    trl_options: ClassVar[str] = "DPOConfig"
    learning_rate: float = Field(1e-6, gt=0)
    beta: float = Field(0.1, gt=0)
    near_weight: float = Field(1.0, ge=0)


class MORE(TransformerSettings):
    """A reward model of several sources, weighted so that they conflict least (arXiv 2312.07401).

    Each batch has as many pairs of each source; the gradients of the sources' losses in the head
    are mixed to the shortest, and the losses by the same weights.

    Attributes:
        learning_rate: peak learning rate; 1e-6 in the paper.
        by: column that says of which source a pair is.
        normalise: gradients before they are mixed: `l2`, to length 1; `loss`, by their share of the
            losses; `loss+`, both; `none`.
        momentum: share of a source's gradient that comes from the steps before.
        balance: `truncate` every source to the smallest, or `resample` small ones.
    """

    trl_options: ClassVar[str] = "RewardConfig"
    learning_rate: float = Field(1e-5, gt=0)
    by: str = "source"
    normalise: Literal["l2", "loss", "loss+", "none"] = "l2"
    momentum: float = Field(0.01, ge=0, lt=1)
    balance: Literal["truncate", "resample"] = "truncate"

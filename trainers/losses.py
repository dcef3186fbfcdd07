"""Losses of preference training, as pure functions of tensors; one value per pair, not reduced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """Negative log-likelihood that chosen beats rejected: `-log sigmoid(chosen - rejected)`.

    Args:
        chosen: scores of the chosen answers, shape (B,).
        rejected: scores of the rejected answers, shape (B,).
        margin: how far apart the scores shall be at least (Llama 2, arXiv 2307.09288), shape (B,).

    Returns:
        Loss per pair, shape (B,). `log 2` for equal scores.
    """
    gap = chosen - rejected if margin is None else chosen - rejected - margin
    return softplus(-gap)


def dpo_margin(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor
) -> Tensor:
    """How much more the policy moved towards chosen than towards rejected (`Delta` of DPO).

    Args:
        policy_chosen: log-probability of the chosen answer under the policy, shape (B,).
        policy_rejected: the same of the rejected answer.
        ref_chosen: log-probability of the chosen answer under the reference, shape (B,).
        ref_rejected: the same of the rejected answer.

    Returns:
        Delta per pair, in nats, shape (B,); zero where policy and reference agree.
    """
    return (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)


def dpo(delta: Tensor, beta: float) -> Tensor:
    """Sigmoid loss of DPO (arXiv 2305.18290): `-log sigmoid(beta * Delta)`, shape (B,)."""
    return bradley_terry(beta * delta, torch.zeros_like(delta))


@dataclass(frozen=True)
class LogRatios:
    """What a policy did to the answers of B pairs: `log p(y|x) - log p_ref(y|x)`, in nats.

    Attributes:
        chosen, rejected: sums over the tokens of the answer, shape (B,).
        chosen_tokens, rejected_tokens: tokens of the answer, shape (B,), at least 1.
        nll: mean negative log-likelihood of a token of the batch's chosen answers, a scalar.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    nll: Tensor | None = None

    @property
    def delta(self) -> Tensor:
        """Delta of DPO, shape (B,)."""
        return self.chosen - self.rejected

    @property
    def delta_per_token(self) -> Tensor:
        """The same of the means over tokens, shape (B,)."""
        return self.chosen / self.chosen_tokens - self.rejected / self.rejected_tokens


def of_pair(name: str, ratios: LogRatios, beta: Tensor | float, smoothing: float = 0.0) -> Tensor:
    """One of TRL's losses of DPO, each pair with a beta of its own and not reduced.

    Args:
        name: TRL's `loss_type`, one of `OF_PAIR`.
        ratios: of B pairs.
        beta: above 0, one for all or of shape (B,).
        smoothing: share of labels taken to be wrong, by `robust` only, below 0.5.

    Returns:
        Loss per pair, shape (B,); its mean is TRL's loss where beta is the same for all.

    Raises:
        KeyError: for another name.
    """
    found: Tensor = OF_PAIR[name](ratios, beta, smoothing)
    return found


def batch_beta(
    margins: Tensor, base: float, w: float, seed: int, share: float = 0.8, least: float = 1e-3
) -> float:
    """One beta for a batch, that follows the margins of its typical pairs.

    What the released code of MM-RLHF (arXiv 2502.10391) does in place of its paper's formula, in
    the manner of beta-DPO (arXiv 2407.08639): of the batch `share` are drawn without replacement by
    the density of a normal distribution around its mean margin, and
    `beta = base * (1 + w * (mean of those drawn - mean of all))`. That the margins are implicit
    rewards (`base * Delta`) and that a batch is that of one device is our reading.

    Args:
        margins: of the pairs, shape (B,); no gradient goes through them.
        base: beta where both means agree, above 0.
        w: how much beta follows, 0 or more.
        seed: of the draw.
        share: of the pairs that are drawn, above 0 and at most 1; at least one pair is.
        least: beta at least.
    """
    margins = margins.detach().double().cpu()
    spread = margins.std(correction=0)
    z = (margins - margins.mean()) / spread if spread > 0 else torch.zeros_like(margins)
    drawn = torch.multinomial(
        torch.exp(-0.5 * z**2).clamp(min=1e-30),
        max(1, int(share * len(margins))),
        generator=torch.Generator().manual_seed(seed),
    )
    return max(least, base * (1 + w * float(margins[drawn].mean() - margins.mean())))


def _robust(ratios: LogRatios, beta: Tensor | float, smoothing: float) -> Tensor:
    right, wrong = logsigmoid(beta * ratios.delta), logsigmoid(-beta * ratios.delta)
    return (smoothing * wrong - (1 - smoothing) * right) / (1 - 2 * smoothing)


OF_PAIR: dict[str, Callable[[LogRatios, Tensor | float, float], Tensor]] = {
    "sigmoid": lambda r, beta, _: softplus(-beta * r.delta),
    "sigmoid_norm": lambda r, beta, _: softplus(-beta * r.delta_per_token),
    "ipo": lambda r, beta, _: (r.delta_per_token - 1 / (2 * beta)) ** 2,
    "hinge": lambda r, beta, _: torch.relu(1 - beta * r.delta),
    "robust": _robust,
    "apo_zero": lambda r, beta, _: (
        1 - torch.sigmoid(beta * r.chosen) + torch.sigmoid(beta * r.rejected)
    ),
    "apo_down": lambda r, beta, _: torch.sigmoid(beta * r.chosen) + torch.sigmoid(-beta * r.delta),
    "nca_pair": lambda r, beta, _: (
        softplus(-beta * r.chosen) + (softplus(beta * r.chosen) + softplus(beta * r.rejected)) / 2
    ),
    "bco_pair": lambda r, beta, _: softplus(-beta * r.chosen) + softplus(beta * r.rejected),
    "sppo_hard": lambda r, beta, _: (r.chosen - 0.5 / beta) ** 2 + (r.rejected + 0.5 / beta) ** 2,
    "sft": lambda r, _beta, _: _likelihood(r).expand(len(r.chosen)),
}
"""Loss by TRL's name (arXiv 2305.18290, 2310.12036, 2305.10425, 2403.00409, 2408.06266, 2402.05369,
2404.04656, 2405.00675). Its others are no sums over pairs with a beta of their own."""


def _likelihood(ratios: LogRatios) -> Tensor:
    if ratios.nll is None:
        raise KeyError("sft needs the likelihood of the chosen answers")
    return ratios.nll


def bco(rewards: Tensor, good: Tensor, shift: Tensor | float) -> Tensor:
    """Binary cross-entropy of shifted implicit rewards (BCO, arXiv 2404.04656), shape (B,).

    Whatever the shift, the losses of a good answer with reward a and a bad one with reward b sum to
    more than DPO's loss of the pair; they are nearest to it at `(a + b) / 2`.

    Args:
        rewards: implicit rewards, shape (B,).
        good: whether each answer is good, Bool, shape (B,).
        shift: subtracted from all rewards.
    """
    off = rewards - shift
    return torch.where(good, softplus(-off), softplus(off))


def poft(own: Tensor, others: Tensor, beta: float = 1.0, gamma: float = 0.0) -> Tensor:
    """`-log sigmoid(beta own - others + gamma)` (PoFT, arXiv 2412.12865), shape (B,).

    Its gradient is that of the mean negative log-likelihood times `beta sigmoid(others - beta own
    - gamma)`: near 1 for what aligned models find likely, near 0 for what they don't.

    Args:
        own: mean log-probability of a token under the policy, shape (B,).
        others: the same under aligned models, shape (B,).
        beta: scale of `own`.
        gamma: margin.
    """
    return softplus(others - beta * own - gamma)


def scaled_bradley_terry(chosen: Tensor, rejected: Tensor, strength: Tensor) -> Tensor:
    """Bradley-Terry loss times the strength of the preference (HelpSteer2, arXiv 2410.01257)."""
    return strength * bradley_terry(chosen, rejected)


def pointwise(scores: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of scores from the answers' own; 0, without gradient, where that is NaN."""
    known = ~torch.isnan(targets)
    return torch.where(known, (scores - torch.where(known, targets, scores.detach())) ** 2, 0.0)


def steer(own: Tensor, proposal: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """How much more of each answer to a prompt is wanted than there is (SteerLM 2.0): `w - b`.

    `b = softmax((own - proposal) / temperature)` is what the policy makes of answers that the
    proposal wrote. The sum of `-(w - b) own` has the gradient of `KL(w || b)`: none where the
    policy has the wanted weights, or where there is one answer (arXiv 2406.08673).

    Args:
        own: log-probability of each answer under the policy, shape (n,).
        proposal: the same under what wrote them.
        weights: wanted, at least 0, sum 1, shape (n,).
        temperature: above 0.

    Returns:
        Shape (n,), without gradient, sum 0.
    """
    return weights - ((own - proposal).detach() / temperature).softmax(0)


def listwise_margin(scores: Tensor, targets: Tensor, beta: float = 0.1) -> Tensor:
    """Rank loss of BiAlign over the answers to one prompt: gaps shall be as large as rank gaps.

    The sum over pairs, i better than j, of `max(0, (s_j - s_i) / spread + (rank_j - rank_i) /
    (n - 1))`, `spread = max(s) - min(s)`: 0 only where every gap, as a share of the spread, is at
    least the gap of ranks. Pairs of equal targets have no part in it.

    Two things are ours: the spread is at least `1 / beta`, so that equal scores are no division by
    zero (the loss of two answers then is DPO's hinge loss); and it has no gradient, or two answers
    in the wrong order would have none.

    Args:
        scores: shape (n,), n at least 2.
        targets: what ranks them, shape (n,).
        beta: above 0.

    Returns:
        A scalar.
    """
    better = targets[:, None] > targets
    rank = better.sum(dim=0)
    gap = (rank - rank[:, None]).to(scores) / (len(scores) - 1)
    spread = (scores.max() - scores.min()).detach().clamp(min=1 / beta)
    return torch.relu((scores - scores[:, None]) / spread + gap)[better].sum()


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """`sum_a p(a) (log p(a) - log q(a))` of teacher p and student q, shape (N,).

    Over the teacher's likeliest tokens and all others as one: a lower bound of the divergence over
    the whole vocabulary, and itself where the tokens are all.

    Args:
        teacher: log-probabilities, shape (N, k + 1), the others' last.
        student: the same of the same tokens.
    """
    return (teacher.exp() * (teacher - student)).sum(dim=1)


def expected_advantage(student: Tensor, advantage: Tensor) -> Tensor:
    """`sum_a pi(a) A(a)` over the tokens that are known one by one (ADPA), shape (N,).

    Its gradient with respect to the logit of a token is `pi(a) (A(a) - sum_b pi(b) A(b))`: a
    constant added to all advantages changes nothing, where the tokens are all.

    Args:
        student: log-probabilities, shape (N, k + 1), those of all others together last.
        advantage: of each, shape (N, k + 1); that of the others is not known, and taken as 0.
    """
    return (student[:, :-1].exp() * advantage[:, :-1]).sum(dim=1)


def step_entropy(logits: Tensor, chances: Tensor) -> Tensor:
    """Cross-entropy of right and wrong at the ends of steps, the mean over the steps of a batch.

    Args:
        logits: of wrong and right at every token, shape (B, T, 2).
        chances: probability that the step which ends at a token is right, in [0, 1], shape (B, T);
            NaN where no step ends, or nothing is said of it.

    Returns:
        A scalar; 0 where nothing is said.
    """
    known = ~torch.isnan(chances)
    logs, right = logits[known].log_softmax(-1), chances[known]
    loss = -(right * logs[:, 1] + (1 - right) * logs[:, 0]).sum()
    return loss / known.sum().clamp(min=1)


def masked_regression(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over the attributes that are known (HelpSteer2, arXiv 2406.08673).

    Args:
        outputs: shape (B, K).
        targets: shape (B, K); NaN: not annotated, which has no loss and no gradient.

    Returns:
        A scalar; 0 where nothing is known.
    """
    known = ~torch.isnan(targets)
    return pointwise(outputs, targets).sum() / known.sum().clamp(min=1)

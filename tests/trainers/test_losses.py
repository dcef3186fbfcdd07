import itertools
import math

import pytest
import torch

from trainers import losses


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_of_equal_scores_is_log_two():
    assert losses.bradley_terry(t(3.0), t(3.0)).item() == pytest.approx(math.log(2))


def test_bradley_terry_is_minus_log_sigmoid_per_pair():
    got = losses.bradley_terry(t(2.0, 0.0), t(1.0, 1.0))
    assert got.tolist() == pytest.approx([math.log1p(math.exp(-1)), math.log1p(math.exp(1))])


def test_margin_shifts_the_gap_and_zero_margin_changes_nothing():
    chosen, rejected = t(2.0, -1.0), t(0.5, 0.0)
    plain = losses.bradley_terry(chosen, rejected)
    assert torch.equal(losses.bradley_terry(chosen, rejected, t(0.0, 0.0)), plain)
    assert torch.equal(
        losses.bradley_terry(chosen, rejected + 1, None),
        losses.bradley_terry(chosen, rejected, t(1.0, 1.0)),
    )


def test_huge_gaps_give_no_infinities():
    got = losses.bradley_terry(t(1e4, -1e4), t(0.0, 0.0))
    assert got.tolist() == [0.0, 1e4]


def test_dpo_is_log_two_where_policy_and_reference_agree():
    delta = losses.dpo_margin(t(-5.0), t(-9.0), t(-5.0), t(-9.0))
    assert delta.item() == 0
    assert losses.dpo(delta, 0.1).item() == pytest.approx(math.log(2))


def test_dpo_rewards_moving_towards_chosen():
    delta = losses.dpo_margin(t(-4.0), t(-10.0), t(-5.0), t(-9.0))
    assert delta.item() == 2
    assert losses.dpo(delta, 0.5).item() == pytest.approx(math.log1p(math.exp(-1)))


def test_each_pairs_beta_scales_the_gradient_and_saturates_it():
    """MM-RLHF: the gradient in Delta is `-beta sigmoid(-beta Delta)`: no plain weight."""
    delta, beta = t(-20.0, -1.0, 0.0, 3.0, 20.0).requires_grad_(), t(0.1, 0.15, 0.1, 2.0, 0.5)
    pairs = losses.LogRatios(delta, torch.zeros_like(delta), torch.ones(5), torch.ones(5))
    (found,) = torch.autograd.grad(losses.of_pair("sigmoid", pairs, beta).sum(), delta)
    assert torch.allclose(found, -beta * torch.sigmoid(-beta * delta.detach()), atol=1e-12)


def test_a_batch_of_equal_margins_keeps_beta():
    assert losses.batch_beta(torch.full((5,), 0.7), 0.1, 3.0, seed=0) == pytest.approx(0.1)
    assert losses.batch_beta(torch.tensor([0.7]), 0.1, 3.0, seed=0) == pytest.approx(0.1)


def test_beta_of_a_batch_follows_those_that_are_drawn():
    margins = torch.tensor([0.0, 0.1, 0.2, 0.3, 3.0])
    found = [losses.batch_beta(margins, 0.1, 0.5, seed=s) for s in range(400)]
    left_out = [0.72 - (3.6 - float(m)) / 4 for m in margins]  # 4 of 5 are drawn
    possible = {round(0.1 * (1 - 0.5 * gap), 6) for gap in left_out}
    assert {round(beta, 6) for beta in found} <= possible
    outlier = sum(beta == pytest.approx(0.1 * (1 - 0.5 * left_out[-1])) for beta in found) / 400
    density = torch.exp(-(((margins - 0.72) / margins.std(correction=0)) ** 2) / 2).tolist()
    chance = 0.0  # that the outlier stays in the urn, over all orders of the others
    for order in itertools.permutations(density[:4]):
        left = [sum(order[i:]) + density[4] for i in range(4)]
        chance += math.prod(d / whole for d, whole in zip(order, left, strict=True))
    assert outlier == pytest.approx(chance, abs=0.08)
    assert losses.batch_beta(margins, 0.1, 0.5, seed=7) == found[7]


def test_beta_of_a_batch_has_a_floor():
    margins = torch.tensor([0.0, 0.1, 0.2, 0.3, 300.0])
    found = {losses.batch_beta(margins, 0.1, 0.5, seed=s) for s in range(50)}
    assert min(found) == 1e-3

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

"""The text form of MaPO is ORPO: the identities that make it so, on TRL's own loss."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl.experimental.orpo import ORPOTrainer

from trainers.methods.plan import log_odds


def margin_term(beta, chosen, rejected):
    """What TRL takes from the likelihood loss, from mean log-probabilities of a token."""
    trainer = SimpleNamespace(beta=beta, accelerator=SimpleNamespace(device="cpu"))
    sides = (torch.tensor(side) for side in (chosen, rejected))
    losses, *_ = ORPOTrainer.odds_ratio_loss(trainer, *sides)
    return -losses


def test_equal_answers_cost_beta_log_2_and_without_beta_only_likelihood_is_left():
    said = [-0.5, -2.0, -0.01]
    assert margin_term(0.3, said, said).tolist() == pytest.approx([0.3 * math.log(2)] * 3)
    assert margin_term(0.0, said, [-3.0, -1.0, -2.0]).tolist() == [0, 0, 0]


def test_the_held_out_score_is_the_margin_that_is_trained():
    chosen, rejected = np.asarray([-0.5, -2.0]), np.asarray([-1.5, -1.0])
    tokens = np.asarray([4, 7])
    scores = [log_odds(side * tokens, np.zeros(2), tokens) for side in (chosen, rejected)]
    p = np.exp([chosen, rejected])
    assert scores == pytest.approx(np.log(p / (1 - p)))
    expected = np.logaddexp(0, -(scores[0] - scores[1]))
    found = margin_term(1.0, chosen.tolist(), rejected.tolist())
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_certain_answer_has_finite_odds():
    assert np.isfinite(log_odds(np.zeros(1), np.zeros(1), np.ones(1))).all()

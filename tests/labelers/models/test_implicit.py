"""Implicit rewards: zero for equal models, the difference of likelihoods, and IRA in a run."""

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from labelers import ImplicitReward, Likelihood
from labelers.models.language_models import Model
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.tables import Shape
from tests.helpers import (
    content,
    ledger_of,
    one_file,
    pairs,
    recipe,
    responses,
    run,
    tiny_llama,
    view,
)

ROWS = [("certainly please?", "go away " * i + "whatever") for i in range(8)]


def model(folder, **more):
    return Model(model=str(folder), precision="fp32", device="cpu", **more)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("ref") / "m")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tiny_llama(tmp_path_factory.mktemp("pi") / "m")
    net = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        net.lm_head.weight.mul_(3)
    net.save_pretrained(folder)
    return folder


def label(step, table):
    out = step.label(table, Context())
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    return out


def test_a_policy_that_is_its_reference_has_no_reward(reference):
    step = ImplicitReward(policy=model(reference), reference=model(reference))
    assert [(p.model, p.rows) for p in step.passes(7)] == [(str(reference), 7)] * 2
    assert label(step, responses(*ROWS))["score_implicit"].to_list() == [0.0] * 8


def test_is_beta_times_the_difference_of_log_probabilities(policy, reference):
    table = responses(*ROWS)
    each = [
        label(Likelihood(models=(model(f),)), table)["score_log_probability"].to_numpy()
        for f in (policy, reference)
    ]
    step = ImplicitReward(policy=model(policy), reference=model(reference), beta=0.3)
    mean = label(step.model_copy(update={"normalise": "mean"}), table)["score_implicit"]
    np.testing.assert_allclose(mean, 0.3 * (each[0] - each[1]), rtol=1e-12)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    counts = [
        len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in content(table, "response")
    ]
    total = label(step, table)["score_implicit"]
    np.testing.assert_allclose(total, 0.3 * (each[0] - each[1]) * counts, rtol=1e-12)
    swapped = ImplicitReward(policy=model(reference), reference=model(policy), beta=0.3)
    np.testing.assert_allclose(label(swapped, table)["score_implicit"], -total, rtol=1e-12)


def test_bytes_do_not_depend_on_batch_or_order(policy, reference):
    table = responses(*ROWS)
    step = ImplicitReward(policy=model(policy), reference=model(reference))
    whole = table.select("response_id").hstack(label(step, table)).sort("response_id")
    shuffled = table.sample(fraction=1, shuffle=True, seed=3)
    parts = [c.select("response_id").hstack(label(step, c)) for c in (shuffled[:1], shuffled[1:])]
    assert pl.concat(parts).sort("response_id").equals(whole)


def test_what_can_not_be_scored_has_a_reason(policy, reference):
    table = responses(("q", ""), ("q", "long " * 60), ("q", "go"))
    for limits in ((64, 64), (64, None), (None, 64)):
        names = zip((policy, reference), limits, strict=True)
        models = [model(folder, max_tokens=most) for folder, most in names]
        out = label(ImplicitReward(policy=models[0], reference=models[1]), table)
        assert out["reason_implicit"].to_list() == ["empty", "too_long", None]
        assert out["score_implicit"].is_null().to_list() == [True, True, False]
    assert label(ImplicitReward(policy=models[0], reference=models[1]), table.clear()).height == 0


def test_other_vocabularies_do_not_compare(policy, reference, tmp_path):
    other = tiny_llama(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<|extra|>"])
    tokenizer.save_pretrained(other)
    step = ImplicitReward(policy=model(policy), reference=model(other))
    with pytest.raises(ConfigError, match="different vocabularies"):
        label(step, responses(*ROWS))


def test_ira_conditions_pairs_on_implicit_rewards(policy, reference, tmp_path):
    models = {
        name: {"model": str(folder), "precision": "fp32", "device": "cpu"}
        for name, folder in (("policy", policy), ("reference", reference))
    }
    steps = (
        {"labelers.ImplicitReward": models},
        {"labelers.RewardAugmented": {"objective": "implicit", "rescale": "quantile"}},
    )
    table = pairs(*[(f"certainly {i}?", "please " * (i + 1), "go away") for i in range(6)])
    table = table.sort("prompt_id", "pair_id")
    result = run(recipe(*steps), one_file(table), tmp_path)
    goals = view(result, "goal_pairs")
    assert goals.height == 2 * (6 - ledger_of(result).height) > 0
    better = pl.col("chosen_score_implicit") > pl.col("rejected_score_implicit")
    assert goals.select((better == (pl.col("goal_kind") == "high")).all()).item()
    assert goals["goal"].is_between(1, 10).all()

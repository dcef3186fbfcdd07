"""Several answers, prompts or sources at once: known answers, and stock TRL at the limit."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from prefactory.errors import ConfigError, DataError
from trainers import (
    DPO,
    MORE,
    RDPO,
    SFT,
    DatasetRef,
    Listwise,
    Reward,
    SteerLM,
    losses,
    train_transformer,
)
from trainers.groups import Answers
from trainers.methods.sources import source_weights
from trainers.objectives.conflicts import least_norm

WHOLE = {
    "max_steps": 3, "per_device_train_batch_size": 12, "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False, "learning_rate": 1.0, "optim": "sgd", "save_strategy": "no",
    "max_length": 64, "max_grad_norm": 1.0,
}  # fmt: skip
"""All rows in a batch have no order; Adam would divide rounding errors by tiny gradients."""


ANSWERS = {
    2: ["certainly certainly", "certainly go"],
    3: ["certainly certainly certainly", "certainly certainly go", "certainly go go"],
}


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_steer_has_the_gradient_of_the_divergence_from_what_is_wanted():
    own = t(-3.0, -5.0, -4.0).requires_grad_()
    proposal, weights = t(-4.0, -4.5, -4.0), t(0.5, 0.2, 0.3)
    gap = losses.steer(own, proposal, weights)
    (ours,) = torch.autograd.grad(-(gap * own).sum(), own)
    there = (own - proposal).log_softmax(0)
    (theirs,) = torch.autograd.grad((weights * (weights.log() - there)).sum(), own)
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert gap.sum().item() == pytest.approx(0, abs=1e-12)
    at_proposal = losses.steer(proposal, proposal, weights)
    assert torch.allclose(at_proposal, weights - 1 / 3)
    right = proposal + weights.log() + 7
    assert losses.steer(right, proposal, weights).abs().max() < 1e-12
    assert losses.steer(t(-2.0), t(-9.0), t(1.0)).tolist() == [0.0], "an only answer"


def test_listwise_margin_has_the_values_of_the_margin_reading():
    ranked = t(4.0, 3.0, 2.0, 1.0)
    even = t(3.0, 2.0, 1.0, 0.0) * 100
    assert losses.listwise_margin(even, ranked).item() == pytest.approx(0, abs=1e-12)
    uneven = t(8.0, 1.0, 0.5, 0.0) * 100
    assert losses.listwise_margin(uneven, ranked).item() == pytest.approx(13 / 12)  # 1.08
    assert losses.listwise_margin(even.flip(0), ranked).item() == pytest.approx(20 / 3)  # 6.67
    for scale, shift in ((1.0, 5.0), (7.0, -300.0)):
        moved = losses.listwise_margin(uneven * scale + shift, ranked)
        assert moved.item() == pytest.approx(13 / 12)
    equal = losses.listwise_margin(torch.zeros(4, dtype=torch.float64), ranked)
    assert equal.item() == pytest.approx(10 / 3), "the margins themselves"
    assert losses.listwise_margin(uneven, torch.ones(4)).item() == 0, "ties ask for nothing"


def test_two_answers_have_the_hinge_loss():
    for gap in (-3.0, 0.0, 4.0):
        ours = losses.listwise_margin(t(gap, 0.0), t(1.0, 0.0), beta=0.1)
        assert ours.item() == pytest.approx(max(0.0, 1 - 0.1 * gap))
    wrong = t(-50.0, 0.0).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.listwise_margin(wrong, t(1.0, 0.0)), wrong)
    assert gradient.tolist() == [-1 / 50, 1 / 50], "even far beyond"


def test_the_shortest_mixture_of_gradients():
    assert least_norm(np.array([[1.0, 0.0], [0.0, 2.0]])) == pytest.approx([0.8, 0.2])
    assert least_norm(np.eye(5)) == pytest.approx([0.2] * 5)
    one = np.array([[0.3, -0.4]])
    assert least_norm(one).tolist() == [1.0]
    assert least_norm(np.vstack([one, one])) @ np.vstack([one, one]) == pytest.approx(one[0])
    assert least_norm(np.vstack([one, np.zeros((1, 2))])) == pytest.approx([1, 0])
    assert least_norm(np.zeros((4, 3))) == pytest.approx([0.25] * 4)
    assert least_norm(np.vstack([one, -one])) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(5))
def test_no_mixture_is_shorter(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = scale * rng.normal(size=(2, 6))
    share = np.clip(b @ (b - a) / ((a - b) @ (a - b)), 0, 1)
    assert least_norm(np.stack([a, b])) == pytest.approx([share, 1 - share], abs=1e-9)
    many = scale * (rng.normal(size=(5, 6)) + 0.5)
    best = np.linalg.norm(least_norm(many) @ many)
    others = np.linalg.norm(rng.dirichlet(np.full(5, 0.5), size=5000) @ many, axis=1)
    assert best <= others.min() * (1 + 1e-9)


def test_sources_are_normalised_before_they_are_mixed():
    gradients, of_losses = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1.0, 3.0])
    assert source_weights(gradients, of_losses, "none") == pytest.approx([0.8, 0.2])
    assert source_weights(gradients, of_losses, "l2") == pytest.approx([0.5, 0.5])
    assert source_weights(np.eye(2), of_losses, "loss") == pytest.approx(
        least_norm(np.array([[3.0, 0.0], [0.0, 1.5]]))
    )
    assert source_weights(gradients, of_losses, "loss+") == pytest.approx(
        source_weights(np.eye(2), of_losses, "loss")
    )


@pytest.fixture
def run(tmp_path, tiny_model):
    def trained(method, version, name="m", **options):
        config = method(model=str(tiny_model), **{**WHOLE, **options})
        report = train_transformer(config, DatasetRef.from_path(version), tmp_path / name)
        return report, load_file(tmp_path / name / "model.safetensors")

    return trained


@pytest.fixture
def answers(tmp_path, make):
    """A version of 6 prompts with 3 answers each, and 4 held out; scores and weights."""

    def published(name="v", weight=None, n=3):
        rows = [
            {
                "prompt": f"question {i}", "response": ANSWERS[n][k],
                "score_quality": float(n - k), "weight_steer": (weight or [0.7, 0.2, 0.1])[k],
            }
            for i in range(10) for k in range(n)
        ]  # fmt: skip
        return make.publish_answers(tmp_path / name, rows[: 6 * n], rows[6 * n :])

    return published


def apart(one, other):
    return max((one[k] - other[k]).abs().max().item() for k in one)


def test_answers_are_grouped_whatever_batches_they_come_in(answers, monkeypatch):
    version = answers()
    whole = Answers(DatasetRef.from_path(version).version, number="score_quality")
    rows = whole.pairs("train")
    assert rows["numbers"][:] == [[3.0, 2.0, 1.0]] * 6
    assert rows[0]["chosen"] == rows[0]["answers"][0]
    assert rows[0]["rejected"] == rows[0]["answers"][2]
    assert [a[0]["content"] for a in rows[0]["answers"]] == ANSWERS[3]
    real = DatasetRef.batches

    def small(self, split, columns=None):
        for batch in real(self, split, columns):
            yield from batch.iter_slices(2)

    monkeypatch.setattr(DatasetRef, "batches", small)
    again = Answers(whole.version, number="score_quality")
    assert again.pairs("train").to_dict() == rows.to_dict()


def test_answers_without_a_number_and_alone_are_said(tmp_path, make):
    rows = [
        {"prompt": f"q {i}", "response": f"a {i} {k}", "score_quality": None if i == k else 1.0 * k}
        for i in range(3) for k in range(2)
    ]  # fmt: skip
    version = make.publish_answers(
        tmp_path / "v", rows, [{**r, "score_quality": 1.0} for r in rows]
    )
    found = Answers(DatasetRef.from_path(version).version, number="score_quality")
    assert len(found.pairs("train")) == 1
    assert found.notes() == [
        "2 prompts have fewer than two answers with a number (score_quality), and are left out",
        "2 answers are without one (score_quality), and are left out",
    ]
    assert len(found.pairs("test")) == 0, "nothing is known of equal answers"
    none = make.publish_answers(tmp_path / "none", rows, [])
    nothing = Answers(DatasetRef.from_path(none).version, number="score_quality")
    assert len(nothing.pairs("test")) == 0
    assert nothing.pairs("test").column_names == found.pairs("train").column_names


@pytest.mark.slow
def test_equal_weights_without_a_baseline_are_fine_tuning(run, answers, make, tmp_path):
    version = answers(weight=[1 / 3] * 3)
    report, weights = run(SteerLM, version, baseline=False)
    frame = DatasetRef.from_path(version).version.frame("responses", "train").collect()
    pairs = make.pairs_of(
        [
            (p[0]["content"], r[0]["content"], "x")
            for p, r in zip(frame["prompt"], frame["response"], strict=True)
        ]
    )
    plain, stock = run(
        SFT, make.publish(tmp_path / "plain", pairs), "sft", per_device_train_batch_size=18
    )
    for fact in ("first_loss", "last_loss"):
        assert report.facts[fact] == pytest.approx(plain.facts[fact], abs=1e-5)
    assert report.facts["last_loss"] < report.facts["first_loss"]
    assert apart(weights, stock) < 1e-5


@pytest.mark.slow
def test_the_policy_takes_the_wanted_weights(run, answers):
    adam = {"optim": "adamw_torch", "learning_rate": 3e-3}
    report, _ = run(SteerLM, answers(weight=[1 / 3] * 3), "uniform", **adam)
    assert report.facts["first_loss"] == pytest.approx(0, abs=1e-5), "it has them already"
    short, _ = run(SteerLM, answers("s"), "short", max_length=18)
    assert short.facts["truncated_answers"] > 0
    assert any("training answers were cut at max_length" in note for note in short.notes)
    report, _ = run(SteerLM, answers("w"), "wanted", max_steps=40, **adam)
    assert report.facts["last_kl"] < 0.1 * report.facts["first_kl"]
    assert report.test.accuracy == 1.0
    assert report.dataset.table == "responses"


@pytest.mark.slow
def test_two_answers_by_rank_are_dpo_with_the_hinge_loss(run, answers, make, tmp_path):
    version = answers(n=2, weight=[0.5, 0.5])
    report, weights = run(Listwise, version)
    rows = [(f"question {i}", "certainly certainly", "certainly go") for i in range(10)]
    pairs = make.publish(tmp_path / "pairs", make.pairs_of(rows[:6]), make.pairs_of(rows[6:]))
    plain, stock = run(DPO, pairs, "dpo", loss_type="hinge")
    for fact in ("first_loss", "last_loss"):
        assert report.facts[fact] == pytest.approx(plain.facts[fact], abs=1e-5)
    assert report.facts["last_loss"] < 0.9
    assert apart(weights, stock) < 1e-5
    assert report.test.accuracy == plain.test.accuracy


@pytest.mark.slow
def test_more_answers_are_ranked(run, answers):
    report, _ = run(Listwise, answers(), max_steps=30, optim="adamw_torch", learning_rate=3e-3)
    assert report.facts["first_loss"] == pytest.approx(0.5 + 0.5 + 1), "the margins"
    assert report.facts["last_loss"] < 0.5
    assert report.test.accuracy == 1.0


@pytest.mark.slow
def test_near_prompts_that_are_the_own_are_dpo_and_others_are_not(run, make, tmp_path):
    pairs, held = make.polite_pairs(12), make.polite_pairs(5, seed=1)
    own = pairs.with_columns(rejected_prompt_id="prompt_id")
    other = pairs.with_columns(rejected_prompt_id=pl.col("prompt_id").shift(1))
    held = held.with_columns(rejected_prompt_id=pl.lit(None, pl.String))
    plain, stock = run(DPO, make.publish(tmp_path / "p", pairs), "dpo", beta=0.5)
    report, same = run(RDPO, make.publish(tmp_path / "v", own, held), "own", beta=0.5)
    for fact in ("first_loss", "last_loss"):
        assert report.facts[fact] == pytest.approx(plain.facts[fact], abs=1e-5)
    assert apart(same, stock) < 1e-5
    near = make.publish(tmp_path / "n", other, held)
    watched = {"eval_strategy": "steps", "eval_steps": 3}
    report, moved = run(RDPO, near, "near", beta=0.5, **watched)
    assert "11 of 12 training pairs have a near prompt that is in the data" in report.notes
    assert report.facts["first_loss"] == pytest.approx(math.log(2) * (1 + 11 / 12), abs=1e-4)
    assert report.facts["last_loss"] < report.facts["first_loss"] - 1e-3
    assert apart(moved, stock) > 1e-4
    _, without = run(RDPO, near, "without", beta=0.5, near_weight=0.0)
    assert apart(without, stock) < 1e-5


@pytest.mark.slow
def test_one_source_is_bradley_terry_and_so_are_two_alike(run, make, tmp_path):
    pairs = make.polite_pairs(12).sort("pair_id")
    version = make.publish(tmp_path / "v", pairs)
    plain, stock = run(Reward, version, "plain")
    report, one = run(MORE, version, "one")
    for fact in ("first_loss", "last_loss"):
        assert report.facts[fact] == pytest.approx(plain.facts[fact], abs=1e-5)
    assert apart(one, stock) < 1e-5
    halves = pairs.with_columns(source=pl.Series(["a", "b"] * 6))
    report, two = run(MORE, make.publish(tmp_path / "halves", halves), "two")
    assert apart(two, stock) < 1e-5, "two gradients of length 1 are mixed half and half"
    _, longer = run(MORE, tmp_path / "halves", "longer", normalise="none")
    assert apart(longer, stock) > 1e-4
    assert "pairs by source: a 6, b 6; at most 6 of each in a pass" in report.notes
    with pytest.raises(ConfigError, match="multiple of the 2 values of source: a, b"):
        run(MORE, tmp_path / "halves", "odd", per_device_train_batch_size=3)


@pytest.mark.slow
@pytest.mark.parametrize("method", [SteerLM, Listwise, RDPO, MORE])
def test_adapters_can_be_trained(method, answers, make, tmp_path, tiny_model):
    pairs = make.polite_pairs(8)
    version = make.publish(
        tmp_path / "p", pairs.with_columns(rejected_prompt_id=pl.col("prompt_id").shift(1))
    )
    if method in (SteerLM, Listwise):
        version = answers()
    config = method(
        model=str(tiny_model), **{**WHOLE, "optim": "adamw_torch", "learning_rate": 1e-3},
        lora={"r": 4}, per_device_eval_batch_size=2,
    )  # fmt: skip
    report = train_transformer(config, DatasetRef.from_path(version), tmp_path / "m")
    told = "kl" if method is SteerLM else "loss"  # the loss of w - b is none that only falls
    assert report.facts[f"last_{told}"] < report.facts[f"first_{told}"] - 1e-3
    assert (tmp_path / "m" / "adapter_model.safetensors").is_file()


def test_the_gradient_in_the_head_is_that_of_the_pooled_states(tiny_model):
    from transformers import AutoModelForSequenceClassification

    from trainers.methods.sources import head_of

    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    ids = torch.randint(5, 200, (4, 9), generator=torch.Generator().manual_seed(0))
    hidden = model.model(ids).last_hidden_state[:, -1]
    rewards = model(ids).logits[:, 0]
    gap = rewards[:2] - rewards[2:]
    (found,) = torch.autograd.grad(losses.bradley_terry(gap, torch.zeros(2)).sum(), head_of(model))
    expected = -(torch.sigmoid(-gap)[:, None] * (hidden[:2] - hidden[2:])).sum(0)
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_what_is_missing_is_said_with_what_makes_it(run, answers, make, tmp_path):
    version = answers()
    with pytest.raises(DataError, match=r"lack the column weight_other\. labelers\.SteerWeights"):
        run(SteerLM, version, weight="other")
    with pytest.raises(DataError, match="lack the column score_kind"):
        run(Listwise, version, score="kind")
    rows = [{"prompt": "q", "response": f"a {k}", "weight_steer": k - 0.5} for k in range(2)]
    with pytest.raises(DataError, match=r"finite numbers, 0 or more; in train of"):
        run(SteerLM, make.publish_answers(tmp_path / "below", rows, []))
    with pytest.raises(DataError, match=r"no prompt of .* has two answers with weight_steer"):
        run(SteerLM, make.publish_answers(tmp_path / "one", rows[1:], []))
    pairs = make.publish(tmp_path / "p", make.polite_pairs(6))
    with pytest.raises(DataError, match=r"generators\.NearMisses makes it"):
        run(RDPO, pairs)
    lost = make.polite_pairs(6).with_columns(rejected_prompt_id=pl.lit("0" * 32))
    with pytest.raises(DataError, match="publish the answers as well"):
        run(RDPO, make.publish(tmp_path / "l", lost))

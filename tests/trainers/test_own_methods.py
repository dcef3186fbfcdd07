"""Methods of papers: their losses' known answers, and that stock TRL is their limit."""

import math
import shutil
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from prefactory.engines.steering.config import Weighed
from prefactory.engines.steering.heads import HEADS, merged
from prefactory.engines.transformers import Transformers
from prefactory.errors import ConfigError, DataError
from trainers import (
    BCO,
    DPO,
    MAH,
    SFT,
    DatasetRef,
    PoFT,
    Regression,
    Reward,
    losses,
    train_transformer,
)
from trainers.methods.unpaired import half_sum
from trainers.objectives.heads import HeadsDPO, add_heads, balanced, plain_model
from trainers.settings import PolicySettings

SMALL = {
    "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False, "learning_rate": 1e-2, "save_strategy": "no",
    "max_length": 64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def run(tmp_path, tiny_model, make):
    def trained(method, added=None, name="m", **options):
        pairs, held = make.polite_pairs(12).sort("pair_id"), make.polite_pairs(5, seed=1)
        both = [t.with_columns(**(added or {})) for t in (pairs, held)]
        version = make.publish(tmp_path / f"v-{name}", *both)
        silent = {"compare_answers": 0} if issubclass(method, PolicySettings) else {}
        config = method(model=str(tiny_model), **{**SMALL, **silent, **options})
        report = train_transformer(config, DatasetRef.from_path(version), tmp_path / name)
        return report, load_file(tmp_path / name / "model.safetensors")

    return trained


def apart(one, other):
    return max((one[k] - other[k]).abs().max().item() for k in one)


def test_bco_bounds_dpo_and_is_nearest_at_the_half_sum():
    a, b, shift = torch.randn(3, 10_000, dtype=torch.float64) * 3
    good = torch.ones(10_000, dtype=torch.bool)
    both = losses.bco(a, good, shift) + losses.bco(b, ~good, shift)
    assert (both - losses.bradley_terry(a, b) > 0).all()
    middle = (a + b) / 2
    best = losses.bco(a, good, middle) + losses.bco(b, ~good, middle)
    assert (best <= both + 1e-12).all()


def test_the_half_sum_does_not_follow_the_larger_class():
    rng = np.random.default_rng(0)
    drawn = [(mean, rng.normal(0, 1, n)) for mean, n in ((0.5, 900), (-0.2, 100))]
    rewards = torch.from_numpy(np.concatenate([mean + x - x.mean() for mean, x in drawn]))
    good = torch.arange(1000) < 900
    assert half_sum({}, rewards, good, 0.9) == pytest.approx(0.15)
    assert float(rewards.mean()) == pytest.approx(0.43), "what the mean of all would be"
    means = {}
    half_sum(means, torch.tensor([1.0]), torch.tensor([True]), 0.5)
    assert half_sum(means, torch.tensor([3.0]), torch.tensor([True]), 0.5) == 2.0
    assert half_sum(means, torch.tensor([-2.0]), torch.tensor([False]), 0.5) == 0.0
    assert means == {"good": 2.0, "bad": -2.0}


def test_poft_weighs_the_likelihood_by_how_sure_others_are():
    own = torch.tensor([-2.0], requires_grad=True)

    def weight(others):
        (gradient,) = torch.autograd.grad(losses.poft(own, torch.tensor([others])).sum(), own)
        return -gradient.item()

    assert weight(50.0) == pytest.approx(1.0)
    assert weight(-50.0) == pytest.approx(0.0)
    assert weight(-2.0) == pytest.approx(0.5)
    assert weight(-1.0) == pytest.approx(1 / (1 + math.exp(-1)))


def test_unknown_attributes_have_no_loss_and_no_gradient():
    outputs = torch.randn(4, 3, requires_grad=True)
    targets = torch.randn(4, 3)
    targets[1, 2] = targets[3] = float("nan")
    loss = losses.masked_regression(outputs, targets)
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert gradient[1, 2] == 0
    assert (gradient[3] == 0).all()
    known = ~torch.isnan(targets)
    expected = ((outputs[known] - targets[known]) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item())
    none = losses.masked_regression(outputs, torch.full((4, 3), float("nan")))
    assert none.item() == 0


def test_bco_pair_of_trl_is_bco_without_a_shift():
    chosen, rejected = torch.randn(2, 8, dtype=torch.float64)
    ours = losses.bco(torch.cat([chosen, rejected]), torch.arange(16) < 8, 0.0)
    theirs = -logsigmoid(chosen) - logsigmoid(-rejected)
    assert 2 * ours.mean().item() == pytest.approx(theirs.mean().item(), abs=1e-12)


@pytest.mark.slow
def test_bco_begins_at_log_two_and_learns(run):
    report, _ = run(BCO, max_steps=6)
    assert report.facts["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert report.facts["last_loss"] < math.log(2) - 0.01
    assert report.test.accuracy > 0.5


@pytest.mark.slow
def test_strength_one_is_bradley_terry_and_answers_without_scores_too(run):
    _, plain = run(Reward, name="plain")
    ones = {"strength": pl.lit(1.0)}
    _, scaled = run(Reward, ones, "scaled", loss="scaled_bt", strength="strength")
    assert apart(plain, scaled) < 1e-6
    rising = {"strength": pl.int_range(pl.len()) + 1}
    _, other = run(Reward, rising, "rising", loss="scaled_bt", strength="strength")
    assert apart(plain, other) > 1e-3
    _, no_margin = run(Reward, {"margin": pl.lit(0.0)}, "zero", use_margin=True)
    assert apart(plain, no_margin) < 1e-6
    _, margin = run(Reward, {"margin": pl.lit(3.0)}, "three", use_margin=True)
    assert apart(plain, margin) > 1e-3
    none = {c: pl.lit(None, pl.Float64) for c in ("chosen_score_q", "rejected_score_q")}
    _, without = run(Reward, none, "none", loss="pointwise", score="q")
    assert apart(plain, without) < 1e-6
    some = {"chosen_score_q": pl.lit(2.0), "rejected_score_q": pl.lit(-2.0)}
    _, near = run(Reward, some, "near", loss="pointwise", score="q", alpha=1.0)
    assert apart(plain, near) > 1e-3
    with pytest.raises(DataError, match="reward reads the column chosen_score_q"):
        run(Reward, {}, "lacks", loss="pointwise", score="q")


@pytest.mark.slow
def test_poft_with_sure_others_is_fine_tuning_by_rows(run):
    sure, unsure = ({"chosen_score_p": pl.lit(v)} for v in (60.0, -60.0))
    report, weights = run(PoFT, sure, "sure", score="p", learning_rate=1e-2)
    assert report.facts["last_loss"] < report.facts["first_loss"]
    _, start = run(PoFT, unsure, "unsure", score="p", learning_rate=1e-2, weight_decay=0.0)
    _, still = run(SFT, None, "still", learning_rate=1e-12, weight_decay=0.0)
    assert apart(start, still) < 1e-6, "what others find impossible teaches nothing"
    assert apart(weights, still) > 1e-3


@pytest.mark.slow
def test_poft_of_equally_likely_answers_is_fine_tuning_by_one_weight(tiny_model, make, tmp_path):
    """All answers have as many tokens, so that TRL's mean over tokens is the mean over rows."""
    rows = [(f"q {i}", word * 3, "x") for i, word in enumerate(["ab", "cd", "ef", "gh"] * 3)]
    plain = {
        **SMALL, "max_steps": 1, "per_device_train_batch_size": 12, "optim": "sgd",
        "compare_answers": 0, "max_grad_norm": 1e9,
    }  # fmt: skip

    def trained(method, name, likely, rate, **options):
        pairs = make.pairs_of(rows).with_columns(chosen_score_p=pl.lit(likely))
        ref = DatasetRef.from_path(make.publish(tmp_path / f"v-{name}", pairs))
        config = method(model=str(tiny_model), **{**plain, "learning_rate": rate}, **options)
        report = train_transformer(config, ref, tmp_path / name)
        return report.facts["first_loss"], load_file(tmp_path / name / "model.safetensors")

    nll, fine = trained(SFT, "sft", 0.0, 0.1)
    loss, sure = trained(PoFT, "sure", 40.0, 0.1, score="p")
    assert loss - 40 == pytest.approx(nll, abs=1e-4)
    assert apart(fine, sure) < 1e-5, "r_LLM far above: the gradient of cross-entropy"
    # all rows are about as likely: tau is one number, and the step is as if the rate had it
    _, near = trained(PoFT, "near", -nll - 1.0, 1.0, score="p")
    tau = 1 / (1 + math.e)
    _, less = trained(SFT, "less", 0.0, tau)
    assert apart(near, less) < 0.1 * apart(near, trained(SFT, "start", 0.0, 1e-12)[1])


def two_heads(tiny_model):
    """A model with two heads, and what its trainer's loss needs, without a trainer."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    add_heads(model, 2, 0.0)
    return model


def test_a_pair_trains_the_head_of_its_objective_and_the_backbone(tiny_model):
    model = two_heads(tiny_model)
    ids = torch.randint(5, 200, (4, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    answer = torch.cat([torch.zeros(4, 6), torch.ones(4, 6)], dim=1).long()
    inputs = {
        "input_ids": ids, "attention_mask": mask, "completion_mask": answer,
        "head": torch.tensor([0.0, 0.0]),
    }  # fmt: skip
    stub = SimpleNamespace(
        accelerator=SimpleNamespace(unwrap_model=lambda m: m), args=SimpleNamespace(beta=0.1)
    )
    with torch.no_grad():
        logs = model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        ref = (logs * answer[:, 1:]).sum(1)
    inputs |= {"ref_chosen_logps": ref[:2], "ref_rejected_logps": ref[2:]}
    ratios = HeadsDPO.ratios(stub, model, inputs)
    loss = HeadsDPO.pair_losses(stub, ratios, inputs).mean()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
    loss.backward()
    assert model.objective_heads[0].grad.abs().max() > 0
    assert model.objective_heads[1].grad is None
    assert model.get_decoder().layers[0].mlp.up_proj.weight.grad.abs().max() > 0


def test_the_merged_head_has_the_mixed_logits():
    heads, hidden = torch.randn(3, 20, 8), torch.randn(5, 8)
    weights = [2.0, 1.0, 1.0]
    mixed = sum(w / 4 * (hidden @ h.T) for w, h in zip(weights, heads, strict=True))
    assert torch.allclose(hidden @ merged(list(heads), weights).T, mixed, atol=1e-5)


def test_an_engine_answers_under_the_weights_of_a_user(tiny_model, tmp_path):
    """As the plain model of the same weights does, and by one head alone as that one."""
    net = AutoModelForCausalLM.from_pretrained(tiny_model)
    folder = tmp_path / "mah"
    shutil.copytree(tiny_model, folder)
    start, drawn = net.lm_head.weight.detach(), torch.Generator().manual_seed(3)
    heads = {n: start + torch.randn(start.shape, generator=drawn) for n in ("safe", "brief")}
    save_file(heads, folder / HEADS)
    talk = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    cpu = {"precision": "fp32", "device": "cpu"}

    def said(model, **weights):
        kind = Weighed if weights else Transformers
        engine = kind(model=str(model), **cpu, **({"weights": weights} if weights else {}))
        with engine.open() as opened:
            (found,) = opened.logprobs([talk])
        return np.asarray(found.logprobs), engine

    for weights in ({"safe": 3.0, "brief": 1.0}, {"safe": 1.0, "brief": 0.0}):
        name = f"plain-{weights['brief']:g}"
        plain_model(folder, weights, tmp_path / name)
        found, engine = said(folder, **weights)
        np.testing.assert_array_equal(found, said(tmp_path / name)[0])
    assert np.abs(found - said(folder)[0]).max() > 1e-2
    assert engine.fingerprint() == said(folder, safe=5.0)[1].fingerprint(), "ratios count"
    assert engine.fingerprint() != said(folder, brief=5.0)[1].fingerprint()
    with pytest.raises(ConfigError, match="no head 'kind'; the model has: brief, safe"):
        Weighed(model=str(folder), weights={"kind": 1.0}).open()
    with pytest.raises(ConfigError, match="one of them above 0"):
        Weighed(model=str(folder), weights={"safe": 0.0}).open()
    with pytest.raises(ConfigError, match="`prefactory train mah` makes such models"):
        Weighed(model=str(tiny_model), weights={"safe": 1.0}).open()


def test_every_batch_has_as_many_rows_of_each_objective():
    head = [0] * 5 + [1] * 2 + [2] * 3
    cut = balanced(head, 0, most=False)
    assert [sorted(head[i] for i in cut[k : k + 3]) for k in (0, 3)] == [[0, 1, 2]] * 2
    assert len(set(cut)) == len(cut) == 6
    again = balanced(head, 0, most=True)
    assert len(again) == 15
    assert set(again) == set(range(10))


@pytest.mark.slow
def test_one_head_without_noise_is_stock_dpo_and_weights_make_a_plain_model(run, tmp_path):
    # all rows in a batch have no order; Adam would divide rounding errors by tiny gradients
    whole = {"per_device_train_batch_size": 12, "optim": "sgd", "learning_rate": 1.0}
    report, saved = run(MAH, {"dimension": pl.lit("all")}, "one", noise=0.0, **whole)
    plain, stock = run(DPO, None, "plain", **whole)
    assert report.facts["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert report.facts["last_loss"] == pytest.approx(plain.facts["last_loss"], abs=1e-5)
    assert plain.facts["last_loss"] < math.log(2) - 1e-3
    assert apart(stock, saved) < 1e-5
    head = load_file(tmp_path / "one" / "heads.safetensors")["all"]
    assert (head - stock["lm_head.weight"]).abs().max() < 1e-5
    assert report.test.accuracy == plain.test.accuracy
    plain_model(tmp_path / "one", {"all": 1.0}, tmp_path / "out")
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("one", "out"))
    ids = torch.arange(10, 30)[None]
    assert torch.allclose(a(ids).logits, b(ids).logits, atol=1e-6)


@pytest.mark.slow
def test_regression_learns_the_attributes_that_are_known(run):
    known = {
        "chosen_score_help": pl.lit(3.0), "rejected_score_help": pl.lit(1.0),
        "chosen_score_brief": pl.lit(None, pl.Float64), "rejected_score_brief": pl.lit(2.0),
    }  # fmt: skip
    options = {"attributes": ("help", "brief"), "weights": {"help": 1.0, "brief": -0.1}}
    report, weights = run(Regression, known, max_steps=30, learning_rate=3e-3, **options)
    assert report.facts["last_loss"] < 0.3 * report.facts["first_loss"]
    assert report.test.accuracy == 1.0
    assert weights["score.weight"].shape[0] == 2
    with pytest.raises(DataError, match="regression reads the column chosen_score_kind"):
        run(Regression, known, "other", attributes=("kind",))

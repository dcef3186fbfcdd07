"""DCKD and ADPA: known answers, limits, and lists that are the teacher's own words."""

import shutil

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from labelers import TeacherTokens
from prefactory.errors import DataError
from prefactory.testing import apply_step
from trainers import ADPA, DCKD, SFT, DatasetRef, losses, train_transformer
from trainers.scoring import encoded

SMALL = {
    "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False, "learning_rate": 1e-2, "save_strategy": "no",
    "max_length": 64, "compare_answers": 0,
}  # fmt: skip
CPU = {"precision": "fp32", "device": "cpu"}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def logs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def bucketed(full, ids):
    """The log-probabilities of some tokens, and of all others together."""
    rest = full.scatter(1, ids, float("-inf")).logsumexp(1).clamp(min=-100)
    return torch.cat([full.gather(1, ids), rest[:, None]], dim=1)


def test_the_divergence_of_lists_bounds_that_of_the_vocabulary_and_meets_it():
    p, q = logs(50, 20), logs(50, 20, seed=1)
    whole = (p.exp() * (p - q)).sum(1)
    every = p.topk(20).indices
    same = losses.forward_kl(bucketed(p, every), bucketed(q, every))
    assert torch.allclose(same, whole, atol=1e-6)
    some = p.topk(4).indices
    less = losses.forward_kl(bucketed(p, some), bucketed(q, some))
    assert (less < whole + 1e-6).all()
    assert (less > 0).all()
    assert losses.forward_kl(bucketed(p, some), bucketed(p, some)).abs().max() < 1e-6


def test_the_gradient_of_the_advantage_is_what_is_above_the_mean():
    logits = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    advantage = torch.randn(6, 9, dtype=torch.float64)
    last = torch.zeros(6, 1, dtype=torch.float64)

    def gradient(a):
        student = torch.cat([logits.log_softmax(1), last - 100], dim=1)
        value = losses.expected_advantage(student, torch.cat([a, last + 5], dim=1)).sum()
        return torch.autograd.grad(value, logits)[0]

    pi = logits.detach().softmax(1)
    expected = pi * (advantage - (pi * advantage).sum(1, keepdim=True))
    assert torch.allclose(gradient(advantage), expected, atol=1e-12)
    assert torch.allclose(gradient(advantage + 3), expected, atol=1e-12), "a constant says nothing"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tiny_model):
    """Another model with the tokenizer of the student."""
    folder = tmp_path_factory.mktemp("teacher") / "m"
    shutil.copytree(tiny_model, folder)
    set_seed(5)
    config = AutoConfig.from_pretrained(tiny_model)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def taught(tmp_path, make):
    """Pairs with the lists of a teacher, published."""

    def published(name, teacher, reference=None, k=8, change=None):
        models = {"teacher": {"model": str(teacher), **CPU}}
        models |= {"reference": {"model": str(reference), **CPU}} if reference else {}
        step = TeacherTokens(**models, k=k, precision="float32")
        pairs, held = make.polite_pairs(12).sort("pair_id"), make.polite_pairs(5, seed=1)
        models_of = {f"{side}_model": pl.lit("m") for side in ("chosen", "rejected")}
        tables = [apply_step(step, t.with_columns(**models_of)).rows for t in (pairs, held)]
        if change is not None:
            tables = [table.with_columns(**change) for table in tables]
        return DatasetRef.from_path(make.publish(tmp_path / f"v-{name}", *tables))

    return published


def trained(method, ref, model, out, **options):
    report = train_transformer(method(model=str(model), **{**SMALL, **options}), ref, out)
    return report, load_file(out / "model.safetensors")


def apart(one, other):
    return max((one[k] - other[k]).abs().max().item() for k in one)


@pytest.mark.slow
def test_equal_teachers_are_fine_tuning_and_others_are_not(taught, teacher, tiny_model, tmp_path):
    ref = taught("equal", teacher, teacher)
    fine, stock = trained(SFT, ref, tiny_model, tmp_path / "sft")
    same, weights = trained(ADPA, ref, tiny_model, tmp_path / "adpa")
    assert apart(stock, weights) < 1e-5
    for fact in ("first_loss", "last_loss"):
        assert same.facts[fact] == pytest.approx(fine.facts[fact], abs=1e-5)
    assert same.test.pairs == fine.test.pairs == 5
    _, no_weight = trained(DCKD, ref, tiny_model, tmp_path / "dckd", alpha=0.0)
    assert apart(stock, no_weight) < 1e-5
    other = taught("other", teacher, tiny_model)
    _, moved = trained(ADPA, other, tiny_model, tmp_path / "moved")
    assert apart(stock, moved) > 1e-3
    _, imitated = trained(DCKD, other, tiny_model, tmp_path / "imitated", alpha=1.0)
    assert apart(stock, imitated) > 1e-3


@pytest.mark.slow
def test_a_teacher_that_is_the_student_has_no_divergence(taught, tiny_model, tmp_path):
    ref = taught("self", tiny_model)
    fine, _ = trained(SFT, ref, tiny_model, tmp_path / "sft", max_steps=1)
    own, _ = trained(DCKD, ref, tiny_model, tmp_path / "dckd", max_steps=1, alpha=1.0)
    assert own.facts["first_loss"] == pytest.approx(fine.facts["first_loss"], abs=1e-5)
    with pytest.raises(DataError, match=r"adpa reads the column rejected_teacher_reference_logs"):
        trained(ADPA, ref, tiny_model, tmp_path / "adpa")


@pytest.mark.slow
def test_lists_of_the_whole_vocabulary_have_the_loss_of_the_models(
    taught, teacher, tiny_model, tmp_path
):
    size = AutoConfig.from_pretrained(tiny_model).vocab_size
    ref = taught("whole", teacher, tiny_model, k=size)
    options = {"max_steps": 1, "per_device_train_batch_size": 12}
    adpa, _ = trained(ADPA, ref, tiny_model, tmp_path / "adpa", gamma=1.5, **options)
    dckd, _ = trained(DCKD, ref, tiny_model, tmp_path / "dckd", alpha=0.7, **options)
    student, aligned = (
        AutoModelForCausalLM.from_pretrained(m).eval() for m in (tiny_model, teacher)
    )
    nll, far, gain = [], {"chosen": [], "rejected": []}, []
    from prefactory.chat_template import ChatTemplate

    for row in ref.pairs("train"):
        sides = encoded(ChatTemplate.open(str(tiny_model)), [row], 64)
        for side, ids, start in zip(("chosen", "rejected"), sides.ids, sides.starts, strict=True):
            tokens = torch.tensor([ids])
            with torch.no_grad():
                q, p = (m(tokens).logits[0].log_softmax(-1) for m in (student, aligned))
            if side == "chosen":
                nll += [-q[t - 1, ids[t]].item() for t in range(start, len(ids))]
            own = range(start, start + len(row[f"{side}_teacher_tokens"]))
            far[side] += [(p[t - 1].exp() * (p[t - 1] - q[t - 1])).sum().item() for t in own]
            if side == "rejected":  # the student is the reference here
                gain += [(q[t - 1].exp() * (p[t - 1] - q[t - 1])).sum().item() for t in own]

    def mean(values):
        return sum(values) / len(values)

    assert adpa.facts["first_loss"] == pytest.approx(mean(nll) - 1.5 * mean(gain), abs=1e-4)
    both = mean(far["chosen"]) + mean(far["rejected"])
    assert dckd.facts["first_loss"] == pytest.approx(mean(nll) + 0.7 * both, abs=1e-4)


@pytest.mark.slow
def test_lists_of_other_tokens_are_left_out_or_refused(taught, teacher, tiny_model, tmp_path):
    other = {"rejected_teacher_tokens": pl.lit([1, 2, 3], pl.List(pl.Int32))}
    with pytest.raises(DataError, match="the tokenizer and the chat template of the model"):
        trained(DCKD, taught("wrong", teacher, change=other), tiny_model, tmp_path / "m")
    first = pl.int_range(pl.len()) == 0
    some = {
        "rejected_teacher_tokens": pl.when(first)
        .then(pl.lit([1, 2, 3], pl.List(pl.Int32)))
        .otherwise("rejected_teacher_tokens"),
        "chosen_teacher_ids": pl.when(pl.int_range(pl.len()) != 1).then("chosen_teacher_ids"),
    }
    report, _ = trained(DCKD, taught("some", teacher, change=some), tiny_model, tmp_path / "n")
    assert report.dropped["the teacher's tokens are others than the student's"] == 1
    assert report.dropped["no chosen_teacher_tokens"] == 2, "one of each split"

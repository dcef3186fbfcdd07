"""Every method of TRL by name: its options, its columns, and that it is stock TRL."""

import datasets
import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    set_seed,
)  # fmt: skip

from prefactory.errors import ConfigError, DataError
from trainers import (
    CPO,
    DPO,
    KTO,
    ORPO,
    SFT,
    DatasetRef,
    Mixture,
    Reward,
    SimPO,
    train_transformer,
)  # fmt: skip
from trainers.settings import PolicySettings
from trainers.settings.trl_fields import OURS, options_class, types_of
from trainers.training import _PLANS

SMALL = {
    "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False, "learning_rate": 1e-2, "save_strategy": "no",
}  # fmt: skip
SAME = {
    "use_cpu": True, "bf16": False, "logging_steps": 1, "report_to": "none", "max_length": 64,
    "data_seed": 0, "seed": 0, "disable_tqdm": True, "dataloader_pin_memory": False,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def on_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory, make):
    folder = tmp_path_factory.mktemp("data")
    return DatasetRef.from_path(
        make.publish(folder, make.polite_pairs(12), make.polite_pairs(5, seed=1))
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory, tiny_model, data):
    def trained(method, ref=None, **options):
        folder = tmp_path_factory.mktemp("ours") / "m"
        silent = {"compare_answers": 0} if issubclass(method, PolicySettings) else {}
        config = method(model=str(tiny_model), max_length=64, **{**SMALL, **silent, **options})
        return train_transformer(config, ref or data, folder)

    return trained


def stock(config, trainer, options, model, rows, out):
    """TRL as anybody would call it."""
    auto = AutoModelForSequenceClassification if "Reward" in config else AutoModelForCausalLM
    extra = {"num_labels": 1} if "Reward" in config else {}
    set_seed(0)
    net = auto.from_pretrained(model, **extra)
    tokenizer = AutoTokenizer.from_pretrained(model)
    net.config.pad_token_id = tokenizer.pad_token_id
    args = options_class(config)(output_dir=str(out), **SAME, **{**SMALL, **options})
    run = trainer(model=net, args=args, train_dataset=rows, processing_class=tokenizer)
    run.train()
    return [e["loss"] for e in run.state.log_history if "loss" in e], net.state_dict()


def rows_of(data, form):
    kept = data.pairs("train").select_columns(["prompt", "chosen", "rejected"])
    chosen, rejected = (
        kept.remove_columns(drop).rename_column(keep, "completion")
        for keep, drop in (("chosen", "rejected"), ("rejected", "chosen"))
    )
    if form == "chosen":
        return chosen
    if form == "sides":
        n = len(kept)
        both = [chosen.add_column("label", [True] * n), rejected.add_column("label", [False] * n)]
        return datasets.concatenate_datasets(both).shuffle(seed=0)
    return kept


CPO_OF_TRL = ("trl.experimental.cpo:CPOConfig", "trl.experimental.cpo:CPOTrainer")
ORPO_OF_TRL = ("trl.experimental.orpo:ORPOConfig", "trl.experimental.orpo:ORPOTrainer")
MPO = {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}
SIMPO = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}
ONCE = {"precompute_ref_log_probs": True}
IN_ORDER = {"train_sampling_strategy": "sequential"}
CASES = {
    "sft": (SFT, {}, ("trl:SFTConfig", "trl:SFTTrainer"), {}, "chosen"),
    "mpo": (DPO, MPO, ("trl:DPOConfig", "trl:DPOTrainer"), {**MPO, **ONCE}, "pairs"),
    "kto": (KTO, {}, ("trl:KTOConfig", "trl:KTOTrainer"), {**IN_ORDER, **ONCE}, "sides"),
    "cpo": (CPO, {}, CPO_OF_TRL, {}, "pairs"),
    "simpo": (SimPO, {}, CPO_OF_TRL, SIMPO, "pairs"),
    "orpo": (ORPO, {}, ORPO_OF_TRL, {}, "pairs"),
    "reward": (Reward, {}, ("trl:RewardConfig", "trl:RewardTrainer"), {}, "pairs"),
}
"""Name -> our settings and options; TRL's dataclass and trainer, its options, form of the rows."""
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "mpo"]


@pytest.mark.parametrize("name", ["mpo", *SLOW])
def test_a_method_is_stock_trl(ours, data, tiny_model, tmp_path, name):
    method, options, (config, trainer), same, form = CASES[name]
    report = ours(method, **options)
    losses, weights = stock(
        config, options_class(trainer), same, tiny_model, rows_of(data, form), tmp_path
    )
    assert report.facts["first_loss"] == pytest.approx(losses[0], abs=1e-5)
    assert report.facts["last_loss"] == pytest.approx(losses[-1], abs=1e-5)
    saved = load_file(report.folder / "model.safetensors")
    assert max((saved[k] - weights[k]).abs().max().item() for k in saved) < 1e-5
    assert report.test.pairs == 5


STEP0 = {
    "sigmoid": 0.6931, "hinge": 1.0, "ipo": 25.0, "exo_pair": 2.7612, "nca_pair": 1.3863,
    "robust": 0.6931, "bco_pair": 1.3863, "sppo_hard": 50.0, "aot": 0.6931,
    "aot_unpaired": 0.6931, "apo_zero": 1.0, "apo_down": 1.0, "discopop": 0.8466,
    "sigmoid_norm": 0.6931,
}  # fmt: skip
"""Loss of a policy that is its reference, beta .1 (measured with TRL 1.16)."""


@pytest.mark.slow
@pytest.mark.parametrize("loss", STEP0)
def test_every_loss_of_dpo_begins_where_it_must(ours, loss):
    smooth = {"label_smoothing": 0.1} if loss == "robust" else {}
    report = ours(DPO, loss_type=loss, max_steps=1, compare_answers=0, **smooth)
    assert report.facts["first_loss"] == pytest.approx(STEP0[loss], abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["apo_down", "nca_pair", "bco_pair", "sppo_hard", "sft"])
def test_more_losses_with_columns_are_stock_at_ones(ours, make, tmp_path, loss):
    ones = {"beta": pl.lit(0.1), "weight": pl.lit(1.0)}
    pairs, held = (make.polite_pairs(12), make.polite_pairs(5, seed=1))
    version = make.publish(tmp_path / "v", pairs.with_columns(**ones), held.with_columns(**ones))
    with_ones = ours(DPO, DatasetRef.from_path(version), loss_type=loss)
    plain = ours(DPO, loss_type=loss)
    one, two = (load_file(r.folder / "model.safetensors") for r in (with_ones, plain))
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-5


def test_every_option_of_trl_is_taken_or_refused_with_a_reason():
    for method in _PLANS:
        known = types_of(method.trl_options)
        for name in known:
            if name in method.model_fields or name in OURS or name.startswith("hub_"):
                continue
            with pytest.raises(ValidationError) as wrong:
                method(model="x", **{name: object()})
            assert "neither ours" not in str(wrong.value), name


def test_options_have_the_types_of_trls_dataclass():
    assert DPO(model="x", weight_decay="1e-2", ld_alpha=0.5).options() == {
        "weight_decay": 0.01, "ld_alpha": 0.5,
    }  # fmt: skip
    for wrong, says in [
        ({"ld_alfa": 1.0}, "did you mean 'ld_alpha'"),
        ({"weight_decay": "much"}, "valid number"),
        ({"push_to_hub": True}, "hf upload"),
        ({"epochs": 2}, "it is num_train_epochs now"),
        ({"loss_type": ["sigmoid", "ipo"], "loss_weights": [1.0]}, "1 loss_weights for 2 losses"),
        ({"label_smoothing": 0.1}, "robust"),
    ]:
        with pytest.raises(ValidationError, match=says):
            DPO(model="x", **wrong)
    with pytest.raises(ValidationError, match="must be 2 or more"):
        KTO(model="x", per_device_train_batch_size=1)


def test_what_a_method_decides_itself_and_what_it_can_not_weigh_is_refused(ours, make, tmp_path):
    with pytest.raises(ConfigError, match="kto decides precompute_ref_log_probs itself"):
        ours(KTO, precompute_ref_log_probs=False)
    with pytest.raises(ConfigError, match="loss aot has no form with columns"):
        ours(DPO, loss_type="aot", columns=["beta"])
    alone = make.publish(tmp_path / "v", make.polite_pairs(6))
    with pytest.raises(ConfigError, match="needs held-out pairs"):
        ours(DPO, DatasetRef.from_path(alone), eval_strategy="steps", eval_steps=1)


def test_a_column_of_the_data_that_a_method_leaves_is_said(ours, make, tmp_path, caplog):
    pairs = make.polite_pairs(6).with_columns(beta=pl.lit(0.2), sign_help=pl.lit(1))
    report = ours(SFT, DatasetRef.from_path(make.publish(tmp_path / "v", pairs)), max_steps=1)
    assert (
        "column beta is there and sft does not read it (prefactory train dpo does)" in report.notes
    )
    assert "column sign_help is there and sft does not read it" in caplog.text


@pytest.mark.slow
def test_a_mixture_needs_its_domain_and_packs_in_balance(ours, make, tmp_path):
    with pytest.raises(DataError, match="sft reads the column domain"):
        ours(SFT, mixture=Mixture(domain="domain"))
    pairs = make.polite_pairs(12).with_columns(domain=pl.Series(["default", "a", "b"] * 4))
    ref = DatasetRef.from_path(make.publish(tmp_path / "v", pairs))
    for mode in ("row", "chunk"):
        report = ours(SFT, ref, mixture=Mixture(domain="domain", mode=mode), max_steps=1)
        assert np.isfinite(report.facts["first_loss"])
        assert any("packed in balance over domain" in note for note in report.notes)


def test_packed_rows_have_the_loss_of_single_ones(tiny_model, make):
    """`row`: what a row says of its tokens does not depend on its window; `chunk` sees more."""
    from types import SimpleNamespace

    from trainers.windows import Collator, windows

    pairs = make.polite_pairs(6).with_columns(domain=pl.Series(["default", "a", "b"] * 2))
    rows = [
        {"prompt": r["prompt"], "completion": r["chosen"], "domain": r["domain"]}
        for r in pairs.iter_rows(named=True)
    ]
    net = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def nll(mode, length):
        made = windows(
            rows, tokenizer, Mixture(domain="domain", mode=mode),
            SimpleNamespace(max_length=length, seed=0),
        )  # fmt: skip
        batch = Collator(mode)(list(made))
        with torch.no_grad():
            logits = net(**{k: v for k, v in batch.items() if k != "labels"}).logits
        labels = batch["labels"][:, 1:]
        logs = logits[:, :-1].log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
        return (-logs[labels >= 0]).sum().item(), int((labels >= 0).sum())

    single, n = nll("row", 64)
    packed, m = nll("row", 400)
    chunked, _ = nll("chunk", 400)
    assert n == m
    assert packed == pytest.approx(single, abs=1e-3)
    assert abs(chunked - single) > 1e-2

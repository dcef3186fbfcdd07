"""YaPO: what a vector does to a model, that it is fitted to pairs, and what is saved of it."""

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipelines.training.answering import engine_of
from prefactory.engines.steering import vector
from prefactory.engines.steering.config import Steered
from prefactory.engines.steering.vector import Codes, Steering, attach, load, read_codes, save
from prefactory.engines.transformers import Transformers
from prefactory.errors import ConfigError
from trainers import DPO, DatasetRef, YaPO, train_transformer, training
from trainers.evaluate import models

SMALL = {
    "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False, "learning_rate": 1e-2, "save_strategy": "no",
    "max_length": 64, "compare_answers": 0, "weight_decay": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def codes(d=64, k=96, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return Codes(
        torch.randn(d, k, generator=drawn) / 8,
        torch.randn(k, generator=drawn) / 8,
        torch.rand(k, generator=drawn) / 4,
        torch.randn(k, d, generator=drawn) / 8,
    )


@pytest.fixture
def run(tmp_path, tiny_model, make):
    def trained(name="m", pairs=12, model=tiny_model, method=YaPO, **options):
        both = make.polite_pairs(pairs).sort("pair_id"), make.polite_pairs(8, seed=1)
        version = make.publish(tmp_path / f"v-{name}", *both)
        config = method(model=str(model), **{**SMALL, **options})
        report = train_transformer(config, DatasetRef.from_path(version), tmp_path / name)
        return report, tmp_path / name

    return trained


def test_the_formula_of_the_paper_and_no_change_at_zero():
    hidden, of = torch.randn(5, 7, 64), codes()
    v, m = torch.randn(96), -0.7
    steering = Steering(v, 1, of)
    steering.strength = m
    c = of.of(hidden)
    wanted = torch.relu(c + m * v) @ of.decoder + (hidden - c @ of.decoder)
    assert torch.allclose(steering(hidden), wanted, atol=1e-5)
    assert torch.equal(Steering(torch.zeros(96), 1, of)(hidden), hidden)
    steering.strength = 0.0
    assert steering(hidden) is hidden
    dense = Steering(torch.randn(64), 1)
    assert torch.allclose(dense(hidden), hidden + dense.vector)
    half = hidden.bfloat16()
    assert dense(half).dtype == torch.bfloat16
    assert torch.equal(Steering(torch.zeros(64), 1)(half), half)


def test_a_file_keeps_the_codes_that_are_moved_and_does_the_same(tmp_path):
    v = torch.zeros(96)
    v[[3, 50, 95]] = torch.tensor([1.0, -2.0, 0.5])
    steering, hidden = Steering(v, 1, codes()), torch.randn(4, 64)
    first = save(steering, tmp_path / "a", "base").read_bytes()
    assert save(steering, tmp_path / "b", "base").read_bytes() == first
    again = load(tmp_path / "a")
    assert (again.layer, again.places.tolist()) == (1, [3, 50, 95])
    assert torch.allclose(again(hidden), steering(hidden), atol=1e-6)
    whole = Steering(torch.ones(96), 1, codes())
    whole.take(again)
    assert torch.equal(whole.vector, v)
    assert vector.fitted_to(tmp_path / "a") == "base"
    assert vector.fitted_to(tmp_path) is None
    (tmp_path / "c").mkdir()
    save_file({"vector": v}, str(tmp_path / "c" / vector.FILE))
    with pytest.raises(ConfigError, match="is no vector of `prefactory train yapo`"):
        load(tmp_path / "c")
    with pytest.raises(ConfigError, match="nowhere; `prefactory train yapo` makes one"):
        load(tmp_path / "nowhere")


def test_an_autoencoder_is_read_from_both_forms_and_checked(tmp_path):
    of = codes()
    named = {"W_enc": of.encoder, "b_enc": of.encoder_bias, "W_dec": of.decoder}
    save_file(named, str(tmp_path / "relu.safetensors"))
    np.savez(tmp_path / "params.npz", threshold=of.threshold, **named)
    assert read_codes(tmp_path / "relu.safetensors").threshold.abs().max() == 0
    found = read_codes(tmp_path / "params.npz")
    assert all(torch.equal(getattr(found, n), getattr(of, n)) for n in vars(of))
    save_file({**named, "b_enc": of.encoder_bias[:5].clone()}, str(tmp_path / "odd.safetensors"))
    with pytest.raises(ConfigError, match="does not fit the others"):
        read_codes(tmp_path / "odd.safetensors")
    with pytest.raises(ConfigError, match="can't be read as a sparse autoencoder"):
        read_codes(tmp_path / "none.npz")


def test_where_a_vector_does_not_fit(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(ConfigError, match="layer 2; the model has 0 to 1"):
        attach(model, Steering(torch.zeros(64), 2))
    with pytest.raises(ConfigError, match="of 5 numbers; those of the model have 64"):
        attach(model, Steering(torch.zeros(5), 1))
    with pytest.raises(ValueError, match="leave lora out"):
        YaPO(model="m", lora={"r": 2})


def asked(config):
    conversations = [
        [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "certainly a b"}]
        for i in range(3)
    ]
    engine = config.open()
    found = engine.logprobs(conversations)
    engine.close()
    return np.asarray([one.logprobs for one in found])


def test_a_steered_engine(tiny_model, tmp_path):
    plain = {"model": str(tiny_model), "precision": "fp32", "device": "cpu"}
    save(Steering(torch.randn(64), 0), tmp_path / "v", str(tiny_model))
    save(Steering(torch.zeros(64), 0), tmp_path / "zero", str(tiny_model))
    vector_of = {**plain, "vector": str(tmp_path / "v")}
    before = asked(Transformers(**plain))
    np.testing.assert_array_equal(asked(Steered(**vector_of, strength=0)), before)
    np.testing.assert_array_equal(asked(Steered(**plain, vector=str(tmp_path / "zero"))), before)
    toward = asked(Steered(**vector_of))
    assert np.abs(toward - before).max() > 1e-3
    assert np.abs(toward - asked(Steered(**vector_of, strength=-1.0))).max() > 1e-3
    known = Steered(**vector_of)
    assert (
        known.identity()["vector"]
        != Steered(**plain, vector=str(tmp_path / "zero")).identity()["vector"]
    )
    moved = tmp_path / "elsewhere"
    (tmp_path / "v").rename(moved)
    assert Steered(**plain, vector=str(moved)).fingerprint() == known_print(known, moved)


def known_print(known, moved):
    return known.model_copy(update={"vector": str(moved)}).fingerprint()


def test_one_direction_is_stock_dpo_of_a_bias(run, tiny_model, tmp_path, monkeypatch):
    """A dense vector after a layer is the bias of its last product: TRL's own gradients of it."""
    biased = LlamaConfig.from_pretrained(tiny_model, mlp_bias=True)
    net = LlamaForCausalLM(biased)
    weights = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    net.load_state_dict(
        {k: weights.get(k, torch.zeros_like(v)) for k, v in net.state_dict().items()}
    )
    net.save_pretrained(tmp_path / "biased")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "biased")
    own = training.load_model

    def frozen(*args, **options):
        model = own(*args, **options)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name == "model.layers.0.mlp.down_proj.bias")
        return model

    _, folder = run("v", layer=0, both=False)
    monkeypatch.setattr(training, "load_model", frozen)
    _, stock = run("s", model=tmp_path / "biased", method=DPO)
    bias = load_file(stock / "model.safetensors")["model.layers.0.mlp.down_proj.bias"]
    assert bias.abs().max() > 1e-2
    torch.testing.assert_close(load(folder).vector.detach(), bias, atol=1e-5, rtol=0)


def test_a_vector_makes_chosen_answers_win_and_the_model_stays(run, monkeypatch):
    report, folder = run("fit", pairs=60, max_steps=30, learning_rate=3e-2)
    assert report.test.accuracy == 1.0
    assert sorted(p.name for p in folder.glob("*.safetensors")) == [vector.FILE]
    assert "engine: steered" in (folder / "README.md").read_text()
    pairs = pl.DataFrame(DatasetRef.from_path(folder.with_name("v-fit")).pairs("test").to_list())
    found = models.scored(str(folder), pairs, None, 4, 64)
    held = pl.read_parquet(folder / "held_out.parquet")
    assert found.how == "implicit reward"
    np.testing.assert_allclose(np.sort(found.margins), held["margin"].sort(), atol=1e-4)

    def away(net, steering):
        steering.strength = -1.0
        attach(net, steering)

    monkeypatch.setattr(models, "attach", away)
    margins = models.scored(str(folder), pairs, None, 4, 64).margins
    assert (margins < 0).all(), "subtracted, the rejected ones win"


def test_a_planted_direction_is_recovered(tmp_path, tiny_model, make):
    """Letters are drawn as a model's last layer would draw them with +u, and with -u."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    head = AutoModelForCausalLM.from_pretrained(tiny_model).lm_head.weight.detach()
    letters, rng = list("abcdefghijklmnop"), np.random.default_rng(0)
    own = head[[tokenizer(f" {x}", add_special_tokens=False)["input_ids"][-1] for x in letters]]
    wanted = rng.normal(size=len(letters))
    direction = torch.from_numpy(wanted).float() @ own

    def text(sign):
        odds = np.exp(sign * wanted)
        return "".join(f" {x}" for x in rng.choice(letters, 12, p=odds / odds.sum()))

    rows = make.pairs_of([(f"q {i}", text(1), text(-1)) for i in range(72)]).sort("pair_id")
    version = make.publish(tmp_path / "v", rows[:48], rows[48:])
    options = {**SMALL, "max_steps": 24, "per_device_train_batch_size": 8}
    config = YaPO(model=str(tiny_model), layer=1, **options)
    report = train_transformer(config, DatasetRef.from_path(version), tmp_path / "m")
    found = load(tmp_path / "m").vector.detach()
    assert torch.cosine_similarity(found, direction, 0) > 0.8, "of 64 numbers, by chance .12"
    assert report.test.accuracy > 0.9


def test_a_sparse_vector_moves_active_codes_only(run, tmp_path):
    of = codes()
    named = {"W_enc": of.encoder, "b_enc": of.encoder_bias, "W_dec": of.decoder}
    save_file(named, str(tmp_path / "sae.safetensors"))
    report, folder = run(
        "sparse", pairs=40, max_steps=20, learning_rate=5e-2, sae=tmp_path / "sae.safetensors"
    )
    found = load(folder)
    assert 0 < len(found.vector) < 96
    assert report.test.accuracy > 0.7


def test_gradient_checkpointing_changes_nothing(run):
    _, plain = run("plain", pairs=8)
    _, saving = run("saving", pairs=8, gradient_checkpointing=True)
    one, two = load(plain).vector.detach(), load(saving).vector.detach()
    assert one.abs().max() > 1e-3
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


def test_the_folder_of_a_vector_is_a_model_that_answers(tiny_model, tmp_path):
    save(Steering(torch.ones(64), 1), tmp_path / "v", str(tiny_model))
    found = engine_of(str(tmp_path / "v"))
    assert isinstance(found, Steered)
    assert (found.model, found.vector) == (str(tiny_model), str(tmp_path / "v"))
    assert type(engine_of(str(tiny_model))) is Transformers


def test_another_autoencoder_under_the_same_name_is_another_model(run, tmp_path):
    from pipelines.settings import Settings
    from pipelines.training import _default_folder

    run("any", pairs=8)
    data = DatasetRef.from_path(tmp_path / "v-any")
    config = YaPO(model="m", sae=tmp_path / "sae.safetensors")
    folders = set()
    for size in (8, 9):
        save_file({"W_enc": torch.zeros(size)}, str(config.sae))
        folders.add(_default_folder(Settings(home=tmp_path), data, "yapo", config))
    assert len(folders) == 2

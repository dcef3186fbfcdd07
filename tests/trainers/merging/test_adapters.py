"""Adapters are added exactly: the numbers of the specification, and peft's own."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefactory.errors import ConfigError
from trainers.merging.adapters import Adapter, check_alike, summed, truncated, write_adapter

KEYS = ("base_model.model.a.q_proj", "base_model.model.a.v_proj")


def drawn(seed, rank=4, out=64, into=48, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator))
        for _ in range(count)
    ]


@pytest.fixture
def adapter(tmp_path):
    def write(name, factors, alpha=8, **more):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {}
        for key, (a, b) in zip(KEYS, factors, strict=False):
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA", "base_model_name_or_path": "some/base", "task_type": "CAUSAL_LM",
            "r": len(factors[0][0]), "lora_alpha": alpha, "bias": "none", **more,
        }  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return Adapter.read(folder)

    return write


def delta(factors):
    a, b = factors
    return (b.double() @ a.double()).float()


def test_the_sum_is_exact_and_has_the_sum_of_ranks(adapter):
    ours, theirs = drawn(0), drawn(1, rank=3)
    one, two = adapter("one", ours, alpha=8), adapter("two", theirs, alpha=6)
    found = summed([one, two], [0.3, 0.7])
    for key, a, b in zip(KEYS, ours, theirs, strict=True):
        expected = 0.3 * 2 * delta(a) + 0.7 * 2 * delta(b)
        assert torch.allclose(delta(found[key]), expected, atol=1e-4, rtol=1e-5)
        assert len(found[key][0]) == 7
    (a,), (b,) = drawn(0, count=1), drawn(1, count=1)
    mean = (0.5 * (a[0] + b[0]), 0.5 * (a[1] + b[1]))
    exact = 0.5 * (delta(a) + delta(b))
    wrong = (delta(mean) - exact).norm() / exact.norm()
    assert wrong == pytest.approx(0.707, abs=0.08), "means of A and B by themselves are not it"


def test_one_hot_weights_are_that_adapter_and_rslora_has_its_own_scale(adapter):
    factors = drawn(0)
    one, two = adapter("one", factors, alpha=8), adapter("two", drawn(1), alpha=8)
    found = summed([one, two], [1.0, 0.0])
    assert torch.equal(found[KEYS[0]][0], factors[0][0])
    assert torch.equal(found[KEYS[0]][1], factors[0][1] * 2)
    root = adapter("root", factors, alpha=8, use_rslora=True)
    assert torch.equal(root.factors[KEYS[0]][1], factors[0][1] * 4)


def test_a_module_that_an_adapter_lacks_has_zero_there(adapter, tmp_path):
    one, two = adapter("one", drawn(0), alpha=4), adapter("two", drawn(1, count=1), alpha=4)
    found = summed([one, two], [0.5, 0.5])
    assert torch.allclose(delta(found[KEYS[1]]), 0.5 * delta(drawn(0)[1]), atol=1e-5)
    (tmp_path / "new").mkdir()
    write_adapter(tmp_path / "new", one, found)
    again = Adapter.read(tmp_path / "new")
    assert again.config["r"] == again.config["lora_alpha"] == 8
    for key in KEYS:
        assert torch.allclose(delta(again.factors[key]), delta(found[key]), atol=1e-5)
    assert again.config["target_modules"] == ["a.q_proj", "a.v_proj"]


def test_truncation_loses_what_the_tail_of_the_singular_values_says(adapter):
    one, two = adapter("one", drawn(0, count=1)), adapter("two", drawn(1, count=1))
    whole = summed([one, two], [0.5, 0.5])
    found, lost = truncated(whole, 4)
    exact = delta(whole[KEYS[0]])
    s = torch.linalg.svdvals(exact)
    tail = float((s[4:] ** 2).sum() / (s**2).sum()) ** 0.5
    assert lost == pytest.approx(tail, abs=1e-5)
    assert float((delta(found[KEYS[0]]) - exact).norm() / exact.norm()) == pytest.approx(
        lost, abs=1e-5
    )
    assert len(found[KEYS[0]][0]) == 4
    same, none = truncated(whole, 8)
    assert none == pytest.approx(0, abs=1e-6)
    assert torch.allclose(delta(same[KEYS[0]]), exact, atol=1e-4)


def test_peft_adds_the_same(tmp_path, tiny_model):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(model, config, adapter_name="one")
    model.add_adapter("two", config)
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn(p.shape, generator=generator) * 0.1
    model.save_pretrained(tmp_path)
    model.add_weighted_adapter(["one", "two"], [0.3, 0.7], "both", "cat")
    model.set_adapter("both")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = model(ids).logits
    adapters = [Adapter.read(tmp_path / n) for n in ("one", "two")]
    check_alike(adapters)
    (tmp_path / "new").mkdir()
    write_adapter(tmp_path / "new", adapters[0], summed(adapters, [0.3, 0.7]))
    ours = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "new")
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, expected, atol=1e-5)
        ours.disable_adapter_layers()
        assert not torch.allclose(ours(ids).logits, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("use_dora", True, "DoRA"), ("modules_to_save", ["score"], "trained whole"),
     ("peft_type", "IA3", "IA3"), ("init_lora_weights", "pissa", "changed base")],
)  # fmt: skip
def test_what_has_no_exact_sum_is_refused(adapter, option, value, words):
    with pytest.raises(ConfigError, match=words):
        adapter("one", drawn(0), **{option: value})


def test_other_bases_and_no_adapters_are_refused(adapter, tmp_path):
    one = adapter("one", drawn(0))
    with pytest.raises(ConfigError, match="different bases"):
        check_alike([one, adapter("two", drawn(1), base_model_name_or_path="other/base")])
    with pytest.raises(ConfigError, match="differ in task_type: CAUSAL_LM and SEQ_CLS"):
        check_alike([one, adapter("three", drawn(1), task_type="SEQ_CLS")])
    with pytest.raises(ConfigError, match="holds no adapter"):
        Adapter.read(tmp_path / "nowhere")
    tensors = load_file(one.folder / "adapter_model.safetensors")
    save_file(
        {**tensors, "base_model.model.score.weight": torch.zeros(1, 4)},
        one.folder / "adapter_model.safetensors",
    )
    with pytest.raises(ConfigError, match="beside its factors"):
        Adapter.read(one.folder)

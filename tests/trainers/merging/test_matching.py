"""Planted permutations are found exactly, and a network between itself and its copy is itself."""

import itertools

import numpy as np
import pytest
import torch

from prefactory.errors import ConfigError
from trainers.merging.matching import aligned, matched, permuted
from trainers.merging.weights import averaged, check_shapes, on_the_sphere, ties

MLP = {
    "0.weight": ("one", None), "0.bias": ("one",), "1.weight": ("two", "one"), "1.bias": ("two",),
    "2.weight": (None, "two"),
}  # fmt: skip


def mlp(seed, sizes=(6, 24, 16, 3)):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        state[f"{i}.weight"] = torch.randn(b, a, generator=generator)
        state[f"{i}.bias"] = torch.randn(b, generator=generator)
    del state["2.bias"]
    return state


def forward(state, x):
    for i in range(2):
        x = torch.relu(x @ state[f"{i}.weight"].T + state[f"{i}.bias"])
    return x @ state["2.weight"].T


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_permutation_of_an_mlp_is_found_exactly(seed):
    state, rng = mlp(seed), np.random.default_rng(seed)
    planted = {"one": rng.permutation(24), "two": rng.permutation(16)}
    other = permuted(state, MLP, planted)
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(9))
    assert torch.allclose(forward(other, x), forward(state, x), atol=1e-4)
    found = matched(state, other, MLP)
    for group, order in planted.items():
        assert (order[found[group]] == np.arange(len(order))).all()
    again = permuted(other, MLP, found)
    assert all(torch.equal(again[n], state[n]) for n in state)
    before, after = (torch.linalg.svdvals(s["1.weight"]) for s in (other, again))
    assert torch.allclose(before, after, atol=1e-5), "no permutation changes a singular value"
    half = averaged([state, other], [0.5, 0.5])
    assert (forward(half, x) - forward(state, x)).abs().max() > 0.5, (
        "without matching it is another"
    )


def test_matching_never_brings_two_networks_further_apart():
    one, other = mlp(0), mlp(1)
    found = permuted(other, MLP, matched(one, other, MLP))

    def product(a, b):
        return sum(float((a[n] * b[n]).sum()) for n in a)

    assert product(one, found) > product(one, other) + 10
    assert matched(one, one, MLP)["one"].tolist() == list(range(24))


@pytest.fixture(scope="module")
def llama(tiny_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


def shuffled(model, keys, seed=0):
    """The same function with heads, neurons of MLPs and hidden dimensions in another order."""
    rng = np.random.default_rng(seed)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    hidden = torch.from_numpy(rng.permutation(model.config.hidden_size))
    for n, t in state.items():
        if "layers" not in n:
            state[n] = t[..., hidden]
    for layer in range(model.config.num_hidden_layers):
        at = f"model.layers.{layer}."
        heads = rng.permutation(keys)
        neurons = torch.from_numpy(rng.permutation(model.config.intermediate_size))
        for n in (n for n in state if n.startswith(at)):
            t, part = state[n], n.removeprefix(at)
            if part.startswith(("self_attn.q", "self_attn.k", "self_attn.v")):
                state[n] = t.reshape(keys, -1, t.shape[1])[heads].reshape(t.shape)[:, hidden]
            elif "o_proj" in part:
                t = t[hidden]
                state[n] = t.reshape(len(t), keys, -1)[:, heads].reshape(t.shape)
            elif "down" in part:
                state[n] = t[hidden][:, neurons]
            elif "mlp" in part:
                state[n] = t[neurons][:, hidden]
            else:
                state[n] = t[hidden]
    return state


@pytest.mark.parametrize("keys", [4, 2])
def test_a_planted_permutation_of_a_llama_is_found_exactly(llama, keys):
    import transformers

    config = type(llama.config)(**{**llama.config.to_dict(), "num_key_value_heads": keys})
    transformers.set_seed(1)
    model = transformers.LlamaForCausalLM(config).eval()
    for p in model.parameters():
        p.data += 0.02 * torch.randn(p.shape)
    state, other = model.state_dict(), shuffled(model, keys)
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        expected = model(ids).logits
        again = transformers.LlamaForCausalLM(config).eval()
        again.load_state_dict(other)
        assert torch.allclose(again(ids).logits, expected, atol=1e-4), "the same function"
    back = aligned(state, other, config)
    assert all(torch.equal(back[n], state[n]) for n in state)
    half = averaged([state, back], [0.5, 0.5])
    assert all(torch.equal(half[n], state[n]) for n in state)


def test_what_is_no_llama_is_refused(llama):
    state = {"h.0.attn.c_attn.weight": torch.zeros(4, 4)}
    with pytest.raises(ConfigError, match=r"Llama-like decoders, and h\.0\.attn"):
        aligned(state, state, llama.config)


def test_means_know_their_ends_and_themselves():
    one, other = mlp(0), mlp(1)
    for mean in (averaged, on_the_sphere):
        assert all(torch.allclose(mean([one, other], [1, 0])[n], one[n], atol=1e-6) for n in one)
        same = mean([one, one], [0.3, 0.7])
        assert all(torch.allclose(same[n], one[n], atol=1e-6) for n in one)
    round_ = on_the_sphere([one, other], [0.5, 0.5])["1.weight"]
    lengths = [float(s["1.weight"].norm()) for s in (one, other)]
    assert float(round_.norm()) == pytest.approx(sum(lengths) / 2, rel=1e-5)
    assert float(averaged([one, other], [0.5, 0.5])["1.weight"].norm()) < 0.9 * float(round_.norm())


def test_ties_adds_what_agrees():
    pytest.importorskip("peft")
    base = {"w": torch.zeros(4), "n": torch.tensor(3)}
    one = {"w": torch.tensor([4.0, 1, -2, 0.1]), "n": torch.tensor(3)}
    two = {"w": torch.tensor([2.0, -3, -4, 0.2]), "n": torch.tensor(3)}
    found = ties([one, two], base, [0.5, 0.5], 1.0)
    assert found["w"].tolist() == pytest.approx([3, -3, -3, 0.15])
    assert ties([one, two], base, [0.5, 0.5], 0.5)["w"].tolist() == pytest.approx([4, -3, -3, 0])
    assert torch.allclose(ties([one], base, [1.0], 1.0)["w"], one["w"])
    assert found["n"] == 3


def test_other_architectures_are_named():
    with pytest.raises(ConfigError, match=r"a and b are of different architectures: 0.bias"):
        check_shapes([mlp(0), mlp(0, sizes=(6, 25, 16, 3))], ["a", "b"])

"""Likelihood under causal models: against transformers by hand, IFD, PoFT, hidden states."""

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from labelers.models.causal import write_hidden_state_encoder
from labelers.models.language_models import Model
from labelers.models.likelihood import Likelihood, ifd
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.tables import Shape
from tests.helpers import content, responses, tiny_llama

ROWS = [("certainly please?", "go away " * i + "whatever") for i in range(12)]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("lm") / "m")


@pytest.fixture(scope="module")
def other(tmp_path_factory, lm):
    folder = tiny_llama(tmp_path_factory.mktemp("other") / "m")
    net = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        net.lm_head.weight.mul_(3)
    net.save_pretrained(folder)
    return folder


def model(folder, **more):
    return Model(model=str(folder), precision="fp32", device="cpu", **more)


def label(step, table):
    out = step.label(table, Context())
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    return out


def by_hand(folder, table):
    """Mean log-probability of the answer's tokens after the rendered prompt, and after EOS."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = LlamaForCausalLM.from_pretrained(folder).eval()
    out = []
    for prompt, answer in zip(table["prompt"].to_list(), content(table, "response"), strict=True):
        head = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        answer_ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        both = []
        for before in (tokenizer(head, add_special_tokens=False)["input_ids"],
                       [tokenizer.eos_token_id]):  # fmt: skip
            ids = torch.tensor([before + answer_ids])
            with torch.inference_mode():
                logs = net(ids).logits[0].log_softmax(-1)
            places = range(len(before), ids.shape[1])
            both.append(np.mean([logs[p - 1, ids[0, p]].item() for p in places]))
        out.append(both)
    return np.asarray(out)


def test_equals_transformers(lm):
    table = responses(*ROWS)
    objectives = ("log_probability", "log_probability_alone", "ifd")
    out = label(Likelihood(models=(model(lm),), objectives=objectives), table)
    expected = by_hand(lm, table)
    np.testing.assert_allclose(out["score_log_probability"], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(out["score_log_probability_alone"], expected[:, 1], atol=1e-5)
    np.testing.assert_allclose(out["score_ifd"], np.exp(expected[:, 1] - expected[:, 0]), atol=1e-4)
    assert out["reason_likelihood"].null_count() == len(ROWS)
    assert (out["score_log_probability"] < 0).all()


def test_poft_is_the_mean_over_models(lm, other):
    table = responses(*ROWS)
    each = [label(Likelihood(models=(model(f),)), table).to_series() for f in (lm, other)]
    step = Likelihood(models=(model(lm), model(other)), prefix="poft_")
    both = label(step, table)["score_poft_log_probability"]
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, rtol=1e-12)
    assert (each[0] != each[1]).all()
    names = [e["revision"] for e in step.engines()]
    assert len(set(names)) == 2


def test_bytes_do_not_depend_on_batch_or_order(lm):
    table = responses(*ROWS)
    step = Likelihood(models=(model(lm),), objectives=("log_probability", "ifd"))
    whole = table.select("response_id").hstack(label(step, table))
    shuffled = table.sample(fraction=1, shuffle=True, seed=3)
    cuts = [shuffled[:1], shuffled[1:4], shuffled[4:]]
    parts = [c.select("response_id").hstack(label(step, c)) for c in cuts]
    assert pl.concat(parts).sort("response_id").equals(whole.sort("response_id"))


def test_empty_and_long_answers_and_a_long_prompt(lm):
    table = responses(("q", ""), ("q", "long " * 200), ("q " * 200, "go"), ("q", "🙂 é"))
    small = model(lm, max_tokens=64)
    step = Likelihood(models=(small,), objectives=("log_probability", "ifd"))
    out = label(step, table)
    assert out["reason_likelihood"].to_list() == ["empty", "too_long", "too_long", None]
    assert out["score_log_probability"].is_null().to_list() == [True, True, True, False]
    assert out["score_ifd"].is_null().to_list() == [True, True, True, False]
    cut = label(Likelihood(models=(small,), too_long="truncate"), table)
    assert cut["reason_likelihood"].to_list() == ["empty", "too_long", None, None]
    plain = label(Likelihood(models=(small,), template="plain"), table)
    assert plain["score_log_probability"][3] != out["score_log_probability"][3]
    assert label(step, table.clear()).height == 0


def test_an_answer_that_looks_like_the_template(lm):
    table = responses(("end", "end"), ("q", "  padded  "))
    out = label(Likelihood(models=(model(lm),)), table)
    expected = by_hand(lm, table)
    np.testing.assert_allclose(out["score_log_probability"][0], expected[0, 0], atol=1e-5)
    assert out["reason_likelihood"].null_count() == 2


def test_ifd():
    found = ifd(np.asarray([-1.0, -1.0]), np.asarray([-1.0, -2.0]))
    np.testing.assert_allclose(found, [1.0, np.exp(-1)])


def test_half_precision_ranks_and_differences_want_float32(lm):
    table = responses(*ROWS)
    names = ("log_probability", "ifd")
    exact = label(Likelihood(models=(model(lm),), objectives=names), table)
    half = Model(model=str(lm), precision="bf16", device="cpu")
    rough = label(Likelihood(models=(half,), objectives=names), table)
    for name in names:
        off = (rough[f"score_{name}"] - exact[f"score_{name}"]).abs()
        assert 1e-6 < off.max() < 5e-3, "nats a token; ratios of two perplexities"
    assert half.identity() != model(lm).identity(), "so no cache serves one for the other"
    whole = by_hand(lm, table)[:, 0]
    np.testing.assert_allclose(np.diff(exact["score_log_probability"]), np.diff(whole), atol=1e-5)


def test_mistakes_are_named(lm):
    for wrong in ({"models": ()}, {"objectives": ()}, {"models": (model(lm), model(lm))}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Likelihood(**{"models": (model(lm),), **wrong})


def test_passes_are_planned(lm):
    (once,) = Likelihood(models=(model(lm),)).passes(10)
    assert (once.model, once.rows) == (str(lm), 10)
    (twice,) = Likelihood(models=(model(lm),), objectives=("ifd",)).passes(10)
    assert twice.rows == 20


def test_hidden_states_as_an_encoder(lm, tmp_path):
    folder = write_hidden_state_encoder(lm, tmp_path / "encoder")
    with Encoder(model=str(folder), precision="fp32", device="cpu").open() as encoder:
        found = encoder.embed(["go away", "whatever"])
    tokenizer = AutoTokenizer.from_pretrained(lm)
    net = LlamaForCausalLM.from_pretrained(lm).eval()
    for text, vector in zip(["go away", "whatever"], found, strict=True):
        with torch.inference_mode():
            hidden = net.model(**_ids(tokenizer, text)).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, hidden, atol=1e-5)
    with pytest.raises(ConfigError, match="exists"):
        write_hidden_state_encoder(lm, folder)
    with pytest.raises(ConfigError, match=r"no config\.json"):
        write_hidden_state_encoder(tmp_path, tmp_path / "x")


def _ids(tokenizer, text):
    coded = tokenizer(text, return_tensors="pt")
    return {k: v for k, v in coded.items() if k in ("input_ids", "attention_mask")}

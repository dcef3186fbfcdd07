"""Reward models: heads kept whole, the last token, templates, long rows, bytes in any company."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    set_seed,
)

from labelers.models.language_models import BUCKET, Model
from labelers.models.reward_model import RewardModel, activated
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.tables import Shape
from tests.helpers import content, responses, tiny_llama

ROWS = [("certainly please?", "whatever " * i + "go away") for i in range(40)]


def judge(folder, labels=1, positions=512, pad=None):
    tiny_llama(folder)
    set_seed(1)
    LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_labels=labels,
            max_position_embeddings=positions,
            pad_token_id=pad,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return judge(tmp_path_factory.mktemp("one") / "m")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return judge(tmp_path_factory.mktemp("many") / "m", labels=5)


def model(folder, **more):
    return Model(model=str(folder), precision="fp32", device="cpu", **more)


def label(step, table):
    out = step.label(table, Context())
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    return out


def by_hand(folder, table):
    """Each conversation alone, unpadded, through transformers' own classifier."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = LlamaForSequenceClassification.from_pretrained(folder).eval()
    net.config.pad_token_id = 7  # any: a batch of one has no padding, and no row ends with it
    out = []
    for prompt, response in table.select("prompt", "response").iter_rows():
        text = tokenizer.apply_chat_template(prompt + response, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            out.append(net(ids).logits[0].numpy())
    return np.asarray(out)


def test_scores_equal_transformers_own(one, many):
    table = responses(*ROWS)
    step = RewardModel(model=model(one))
    out = label(step, table)
    np.testing.assert_allclose(out["score_reward"], by_hand(one, table)[:, 0], atol=1e-5)
    assert out["reason_reward_model"].null_count() == 40
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    vector = label(RewardModel(model=model(many), objectives=names, name="rm"), table)
    np.testing.assert_allclose(vector[:, :5].to_numpy(), by_hand(many, table), atol=1e-5)


def test_bytes_do_not_depend_on_batch_order_or_threads(many):
    names = ("a", "b", "c", "d", "e")
    table = responses(*ROWS)
    step = RewardModel(model=model(many), objectives=names)
    whole = table.select("response_id").hstack(label(step, table))
    shuffled = table.sample(fraction=1, shuffle=True, seed=3)
    other = RewardModel(model=model(many, threads=1), objectives=names)
    cuts = [shuffled[:1], shuffled[1:4], shuffled[4:]]
    parts = [c.select("response_id").hstack(label(other, c)) for c in cuts]
    assert pl.concat(parts).sort("response_id").equals(whole.sort("response_id"))
    assert step.fingerprint() == other.fingerprint()


def test_an_answer_that_ends_with_the_padding_token(tmp_path):
    folder = judge(tmp_path / "m", pad=1)  # <|end|>, which every conversation ends with
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["pad_token"] = "<|end|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    table = responses(*ROWS[:9])
    out = label(RewardModel(model=model(folder)), table)
    np.testing.assert_allclose(out["score_reward"], by_hand(folder, table)[:, 0], atol=1e-5)


def test_too_long_is_null_with_a_reason_or_loses_the_start_of_its_prompt(one):
    table = responses(
        ("q " * 200, "short"), ("q", "long " * 200), ("q", ""), ("", "x"), ("q", "🙂 naïve")
    )
    short = model(one, max_tokens=128)
    out = label(RewardModel(model=short), table)
    assert out["reason_reward_model"].to_list()[:3] == ["too_long", "too_long", None]
    assert out["score_reward"].is_null().to_list() == [True, True, False, False, False]
    cut = label(RewardModel(model=short, too_long="truncate"), table)
    assert cut["reason_reward_model"].to_list()[:2] == [None, "too_long"]
    other = responses(("z " + "q " * 190, "short"))  # what differs is cut off
    again = label(RewardModel(model=short, too_long="truncate"), other)
    assert again["score_reward"][0] == cut["score_reward"][0]
    at_limit = model(one, max_tokens=BUCKET)
    few = label(RewardModel(model=at_limit, too_long="truncate"), table)
    assert few["score_reward"].is_null().to_list() == [False, True, False, False, False]


def test_templates_give_other_scores_and_a_refusing_one_a_reason(one, tmp_path):
    table = responses(*ROWS[:3])
    chat, plain = (
        label(RewardModel(model=model(one), template=t), table)["score_reward"]
        for t in ("chat", "plain")
    )
    assert (chat != plain).all()
    folder = judge(tmp_path / "m")
    before = model(folder).identity()
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    assert model(folder).identity() != before
    out = label(RewardModel(model=model(folder)), table)
    assert out["reason_reward_model"].to_list() == ["template"] * 3
    assert out["score_reward"].null_count() == 3
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat template"):
        label(RewardModel(model=model(folder), template="chat", name="other"), table)


def test_an_encoder_takes_text_pairs(tmp_path):
    folder = tiny_llama(tmp_path / "m")
    for stale in folder.glob("*.safetensors"):
        stale.unlink()
    set_seed(2)
    net = BertForSequenceClassification(
        BertConfig(
            vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, num_labels=2,
        )
    )  # fmt: skip
    net.save_pretrained(folder)
    table = responses(*ROWS[:5])
    step = RewardModel(
        model=model(folder), objectives=("bad", "good"), template="pair", activation="softmax"
    )
    out = label(step, table)
    np.testing.assert_allclose(out["score_bad"] + out["score_good"], 1.0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = zip(content(table, "prompt"), content(table, "response"), strict=True)
    with torch.inference_mode():
        logits = [net.eval()(**_ids(tokenizer, p, r)).logits[0].numpy() for p, r in pairs]
    np.testing.assert_allclose(out["score_good"], activated(np.asarray(logits), "softmax")[:, 1],
                               atol=1e-5)  # fmt: skip


def _ids(tokenizer, prompt, response):
    coded = tokenizer(prompt, response, return_tensors="pt")
    return {
        k: v for k, v in coded.items() if k in ("input_ids", "attention_mask", "token_type_ids")
    }


def test_mistakes_are_named(one, many, tmp_path):
    table = responses(*ROWS[:2])
    with pytest.raises(ConfigError, match="5 heads and 1"):
        label(RewardModel(model=model(many)), table)
    with pytest.raises(ConfigError, match=r"score.weight.*random"):
        label(RewardModel(model=model(tiny_llama(tmp_path / "lm"))), table)
    with pytest.raises(ConfigError, match=r"^model: there is no folder"):
        label(RewardModel(model=model(tmp_path / "nothing")), table)
    with pytest.raises(ConfigError, match="takes 512 at most"):
        label(RewardModel(model=model(one, max_tokens=999)), table)
    for wrong in ((), ("a", "a"), ("",)):
        with pytest.raises(ValidationError, match="objectives"):
            RewardModel(model=model(one), objectives=wrong)


def test_empty_table(one):
    assert label(RewardModel(model=model(one)), responses(("q", "a")).clear()).height == 0

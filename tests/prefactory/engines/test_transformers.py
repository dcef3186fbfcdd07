"""Transformers: batches, order and samples do not change an answer; scores are the model's own."""

import json
import shutil

import numpy as np
import pytest
import torch

from prefactory.engines.base import Completion, Failure, Request, Sampling
from prefactory.engines.session import Session
from prefactory.engines.transformers import Transformers
from prefactory.errors import ConfigError
from tests.helpers import assistant, system, tiny_llama, user

ODD = ["", " ", "a", "😀👩‍👩‍👧", "مرحبا", "\ud800 alone", "please " * 30]
PROMPTS = [[user(t)] for t in ["certainly", "please go", *ODD, "away " * 15]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def config(folder):
    return Transformers(model=str(folder), precision="fp32")


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def engine(request, folder):
    with Transformers(model=str(folder), precision=request.param).open() as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(
        folder
    ).eval()


def test_company_order_and_samples_do_not_matter(engine):
    sampling = Sampling(n=2, max_tokens=8, seed=5, top_p=0.95)
    whole = engine.generate(PROMPTS, sampling)
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    shuffled = engine.generate([PROMPTS[i] for i in order], sampling)
    assert shuffled == [whole[i] for i in order]
    for i in (0, 3, len(PROMPTS) - 1):
        assert engine.generate([PROMPTS[i]], sampling) == [whole[i]]
    first = engine.generate(PROMPTS, sampling.model_copy(update={"n": 1}))
    assert [row[0] for row in first] == [row[0] for row in whole]
    texts = [r.text for row in whole for r in row]
    assert len(set(texts)) == len(texts)  # samples and rows draw apart
    assert engine.generate(PROMPTS[:2], Sampling(n=2, max_tokens=8, seed=6)) != whole[:2]


def test_a_gguf_file_is_sent_to_the_engine_that_reads_it(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for model in (str(tmp_path), str(tmp_path / "m.gguf"), "m.gguf"):
        with pytest.raises(ConfigError, match=r"is a GGUF file.*\{engine: llama, model: .*m?"):
            Transformers(model=model).identity()
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert Transformers(model=str(tmp_path)).identity()


def test_row_ids_draw_apart(engine):
    same = [[user("go")]] * 2
    sampling = Sampling(max_tokens=12, seed=1)
    one, two = engine.generate(same, sampling)
    assert one == two
    one, two = engine.generate(same, sampling, ["x", "y"])
    assert one != two


def test_temperature_0_is_greedy_as_transformers_does_it(config, plain):
    tokenizer, model = plain
    with config.open() as engine:
        found = engine.generate(PROMPTS[:2], Sampling(temperature=0, max_tokens=10))
    model.requires_grad_(False)
    for messages, (got,) in zip(PROMPTS[:2], found, strict=True):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        out = model.generate(ids, do_sample=False, max_new_tokens=10, pad_token_id=0)
        new = out[0, ids.shape[1] :]
        assert got.text == tokenizer.decode(new, skip_special_tokens=True)
        assert got.prompt_tokens == ids.shape[1]
        logs = model(out).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
        expected = logs.gather(1, new[:, None]).sum()
        assert got.logprob == pytest.approx(float(expected), abs=1e-3)


def test_tokens_are_drawn_as_often_as_they_are_likely(config, plain):
    tokenizer, model = plain
    text = tokenizer.apply_chat_template([user("go")], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    probs = (model(ids).logits[0, -1] / 0.7).softmax(-1)
    with config.model_copy(update={"batch_size": 64}).open() as engine:
        (row,) = engine.generate([[user("go")]], Sampling(n=2000, max_tokens=1, temperature=0.7))
        top = engine.generate(
            [[user("go")]], Sampling(n=300, max_tokens=1, temperature=0.7, top_p=0.05)
        )[0]
    ranked = probs.sort(descending=True)
    kept = int((ranked.values.cumsum(-1) - ranked.values < 0.05).sum())
    nucleus = {tokenizer.decode([i], skip_special_tokens=True) for i in ranked.indices[:kept]}
    assert {r.text for r in top} <= nucleus
    counts = {}
    for r in row:
        counts[r.text] = counts.get(r.text, 0) + 1
    for i in ranked.indices[:5].tolist():
        text = tokenizer.decode([i], skip_special_tokens=True)
        same = [
            j for j in range(len(probs)) if tokenizer.decode([j], skip_special_tokens=True) == text
        ]
        expected = 2000 * float(probs[same].sum())
        assert abs(counts.get(text, 0) - expected) < 5 * expected**0.5


def test_a_penalty_is_that_of_transformers(config, plain):
    tokenizer, model = plain
    sampling = Sampling(temperature=0, max_tokens=12, repetition_penalty=1.7)
    with config.open() as engine:
        found = engine.generate(PROMPTS[:3], sampling)
        free = engine.generate(PROMPTS[:3], Sampling(temperature=0, max_tokens=12))
    assert found != free
    for messages, (got,) in zip(PROMPTS[:3], found, strict=True):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        out = model.generate(
            ids, do_sample=False, max_new_tokens=12, pad_token_id=0, repetition_penalty=1.7
        )
        assert got.text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize(
    "cut", [{"top_k": 3}, {"min_p": 0.9}, {"top_k": 8, "top_p": 0.3, "min_p": 0.5}], ids=str
)
def test_what_is_cut_off_is_what_transformers_cuts_off(config, plain, cut):
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    tokenizer, model = plain
    text = tokenizer.apply_chat_template([user("go")], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    left = model(ids).logits[:, -1] / 0.7
    for name, warper in (
        ("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper)
    ):  # fmt: skip
        left = warper(cut[name])(ids, left) if name in cut else left
    kept = {
        tokenizer.decode([i], skip_special_tokens=True)
        for i in left[0].isfinite().nonzero()[:, 0].tolist()
    }
    with config.model_copy(update={"batch_size": 64}).open() as engine:
        drawn = engine.generate(
            [[user("go")]], Sampling(n=40 * len(kept), max_tokens=1, temperature=0.7, **cut)
        )[0]
    assert {r.text for r in drawn} == kept


def test_each_row_has_its_own_settings(config):
    requests = [
        Request([user("go")], Sampling(max_tokens=2, seed=1)),
        Request([user("go")], Sampling(max_tokens=9, seed=1)),
        Request([user("go")], Sampling(max_tokens=9, temperature=0)),
    ]
    found = {}
    with config.open() as engine:
        engine.run(requests, found.__setitem__)
        long = engine.generate([[user("go")]], Sampling(max_tokens=9, seed=1))[0][0]
        stop = long.text[len(long.text) // 2 :][:2]
        cut = engine.generate([[user("go")]], Sampling(max_tokens=9, seed=1, stop=(stop,)))[0][0]
    assert found[0].completion_tokens == 2
    assert found[0].finish_reason == "length"
    assert found[1] == Completion(**{n: getattr(long, n) for n in long.__slots__})
    assert long.text.startswith(found[0].text)
    assert cut.text == long.text[: long.text.index(stop)]
    assert cut.finish_reason == "stop"


def test_the_token_that_ends_the_turn_ends_the_answer(config, folder):
    with config.open() as engine:
        end = engine._tokenizer.eos_token_id
        weights = engine._model.get_output_embeddings().weight
        with torch.no_grad():
            weights[end] *= 30
        rows = engine.generate([[user("go")]], Sampling(n=40, max_tokens=50, seed=1))[0]
    ended = [r for r in rows if r.finish_reason == "stop"]
    assert ended
    assert all("<|end|>" not in r.text for r in rows)
    assert all(r.completion_tokens < 50 for r in ended)


def test_logprobs_are_those_of_the_last_message_alone(engine, plain):
    if engine.config.precision != "fp32":
        pytest.skip("compared in fp32")
    tokenizer, model = plain
    asked = [
        [user("go"), assistant("certainly")],
        [system("s"), user("a"), assistant("b"), user("please go"), assistant("whatever away")],
        [user("go"), assistant("please " * 40)],
        [user("go"), assistant("")],
    ]
    found = engine.logprobs(asked)
    for conversation, got in zip(asked, found, strict=True):
        before = tokenizer.apply_chat_template(
            conversation[:-1], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(before, add_special_tokens=False)["input_ids"]
        answer = tokenizer(conversation[-1]["content"] + "<|end|>", add_special_tokens=False)
        ids = torch.tensor([prompt + answer["input_ids"]])
        logs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = logs.gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()
        assert got.tokens == tuple(tokenizer.convert_ids_to_tokens(answer["input_ids"]))
        assert got.tokens[-1] == "<|end|>"
        assert got.logprobs == pytest.approx(expected, abs=1e-4)
    assert engine.logprobs(asked[::-1]) == found[::-1]
    assert engine.logprobs(asked[1:2]) == found[1:2]
    assert (
        engine.logprobs([[user("no answer")], []])
        == [Failure("no_answer", "the last message is not an assistant's")] * 2
    )


def test_logprobs_agree_with_what_generate_says(config):
    with config.open() as engine:
        made = engine.generate(PROMPTS[:3], Sampling(max_tokens=5, seed=2))
        scored = engine.logprobs(
            [[*p, assistant(r.text)] for p, (r,) in zip(PROMPTS[:3], made, strict=True)]
        )
    for (completion,), tokens in zip(made, scored, strict=True):
        if len(tokens.tokens) == completion.completion_tokens + 1:  # the same tokens again, + end
            assert sum(tokens.logprobs[:-1]) == pytest.approx(completion.logprob, abs=1e-3)


def test_too_long_and_what_the_template_refuses_are_failures(folder, tmp_path):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template += "{{ messages[0].content }}"
    config = Transformers(model=str(folder), precision="fp32", chat_template=template)
    with config.open() as engine:
        found = engine.generate(
            [[system("x")], [user("go")], [user("certainly " * 3000)]], Sampling(max_tokens=2)
        )
    assert (found[0][0].reason, found[2][0].reason) == ("template", "too_long")
    assert "no system" in found[0][0].detail
    assert isinstance(found[1][0], Completion)


def test_what_a_model_repository_may_not_decide(folder, tmp_path, config):
    spoiled = shutil.copytree(folder, tmp_path / "m")
    path = spoiled / "generation_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings |= {"do_sample": True, "temperature": 9.0, "repetition_penalty": 5.0, "top_k": 1}
    path.write_text(json.dumps(settings))
    sampling = Sampling(max_tokens=8, seed=1)
    with config.open() as one, config.model_copy(update={"model": str(spoiled)}).open() as two:
        assert one.generate(PROMPTS[:2], sampling) == two.generate(PROMPTS[:2], sampling)


def test_no_template_no_safetensors_no_folder(folder, tmp_path):
    bare = shutil.copytree(folder, tmp_path / "bare")
    template = bare / "chat_template.jinja"
    before = Transformers(model=str(bare)).fingerprint()
    template.write_text(template.read_text() + " ")
    assert Transformers(model=str(bare)).fingerprint() != before
    template.unlink()
    with pytest.raises(ConfigError, match="has no chat template"):
        Transformers(model=str(bare)).open()
    assert Transformers(model=str(bare), chat_template="{{ messages }}").open()
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no safetensors"):
        Transformers(model=str(bare), chat_template="x").open()
    with pytest.raises(ConfigError, match="there is no folder"):
        Transformers(model="./nowhere").open()


def test_identity_has_the_weights(config, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "m")
    moved = config.model_copy(update={"model": str(other)})
    assert moved.identity()["revision"] == config.identity()["revision"]
    (other / "extra.json").write_text("{}")
    assert moved.identity()["revision"] != config.identity()["revision"]
    assert config.model_copy(update={"device": "cpu"}).identity() == config.identity()


def test_behind_the_journal(config, tmp_path):
    sampling = Sampling(n=2, max_tokens=6, seed=1)
    with Session(tmp_path) as session:
        first = session.engine(config).generate(PROMPTS, sampling)
    with Session(tmp_path) as session:
        assert session.engine(config).generate(PROMPTS, sampling) == first
        assert session.accounts.total().calls == 0

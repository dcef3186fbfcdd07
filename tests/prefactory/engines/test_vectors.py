"""Vectors on disk: each distinct text once, whatever threads, processes and crashes do."""

import hashlib
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from prefactory.engines import vectors as module
from prefactory.engines.encoder import Encoder
from prefactory.engines.vectors import VectorStore, text_keys
from prefactory.errors import DataError
from tests.helpers import ROOT, until

ENCODER = Encoder(precision="fp32", threads=1)
DIM = 8


class FakeModel:
    """Vectors from a hash of the text; counts the texts that it is asked for."""

    calls: list[list[str]] = []  # noqa: RUF012
    pause = 0.0

    def embed(self, texts):
        strings = list(texts)
        type(self).calls.append(strings)
        time.sleep(self.pause)
        rows = [list(hashlib.blake2b(t.encode(), digest_size=DIM).digest()) for t in strings]
        return np.asarray(rows, np.float32).reshape(-1, DIM)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    module.release_model()
    monkeypatch.setattr(FakeModel, "calls", [])
    monkeypatch.setattr(FakeModel, "pause", 0.0)
    monkeypatch.setattr(Encoder, "open", lambda self: FakeModel())
    yield FakeModel
    module.release_model()


def asked():
    return [t for call in FakeModel.calls for t in call]


def expected(texts):
    calls, FakeModel.calls = FakeModel.calls, []
    out = FakeModel().embed(texts)
    FakeModel.calls = calls
    return out


def segments(root):
    return sorted(root.glob("*/*.vec"))


def test_each_distinct_text_is_embedded_once(tmp_path):
    store = VectorStore(tmp_path)
    texts = pl.Series(["b", "a", "b", "", "a"])
    np.testing.assert_array_equal(store.embed(ENCODER, texts), expected(texts))
    assert sorted(asked()) == ["", "a", "b"]
    store.embed(ENCODER, pl.Series(["a", "c"]))
    assert sorted(asked()) == ["", "a", "b", "c"]


def test_a_new_store_object_reads_what_is_there(tmp_path):
    VectorStore(tmp_path).embed(ENCODER, pl.Series(["a", "b"]))
    store = pickle.loads(pickle.dumps(VectorStore(tmp_path)))
    out = store.embed(ENCODER, pl.Series(["b", "a"]))
    np.testing.assert_array_equal(out, expected(["b", "a"]))
    assert len(asked()) == 2


def test_no_text_and_null_text(tmp_path):
    store = VectorStore(tmp_path)
    assert store.embed(ENCODER, pl.Series([], dtype=pl.String)).shape == (0, DIM)
    with pytest.raises(DataError, match="null text"):
        store.embed(ENCODER, pl.Series(["a", None]))


def test_chunks_are_durable_when_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(VectorStore, "chunk_texts", 3)
    original = FakeModel.embed

    def fails_at_third(self, texts):
        if len(FakeModel.calls) == 2:
            raise KeyboardInterrupt
        return original(self, texts)

    texts = pl.Series([f"text {i}" for i in range(10)])
    monkeypatch.setattr(FakeModel, "embed", fails_at_third)
    with pytest.raises(KeyboardInterrupt):
        VectorStore(tmp_path).embed(ENCODER, texts)
    monkeypatch.setattr(FakeModel, "embed", original)
    np.testing.assert_array_equal(VectorStore(tmp_path).embed(ENCODER, texts), expected(texts))
    assert sorted(asked()) == sorted(texts)  # six before the interrupt, four after


def test_long_texts_make_small_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(VectorStore, "chunk_bytes", 100)
    VectorStore(tmp_path).embed(ENCODER, pl.Series(["x" * 60, "y" * 60, "z" * 60, "a", "b"]))
    assert max(sum(map(len, call)) for call in FakeModel.calls) <= 122


@pytest.mark.parametrize("damage", ["truncate", "flip_vector", "flip_key", "empty", "garbage"])
def test_damaged_segments_are_embedded_again(tmp_path, damage):
    texts = pl.Series(["a", "b", "c"])
    VectorStore(tmp_path).embed(ENCODER, texts)
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "flip_vector":
        data[-3] ^= 1
    if damage == "flip_key":
        data[70] ^= 1
    new = {"truncate": data[:-5], "empty": b"", "garbage": b"x" * 500}.get(damage, data)
    path.write_bytes(new)
    np.testing.assert_array_equal(VectorStore(tmp_path).embed(ENCODER, texts), expected(texts))
    assert not path.exists()
    assert len(asked()) == 6
    VectorStore(tmp_path).embed(ENCODER, texts)
    assert len(asked()) == 6


def test_files_of_killed_writers_are_ignored_and_swept(tmp_path):
    store = VectorStore(tmp_path)
    store.embed(ENCODER, pl.Series(["a"]))
    whole = segments(tmp_path)[0]
    code = f"""
import os, pathlib
from prefactory.folders import new_file
with new_file(pathlib.Path({str(whole.parent / "half.vec")!r})) as file:
    file.write(b"half")
    file.flush()
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 9
    assert len(list(whole.parent.glob(".half*"))) == 1
    assert VectorStore(tmp_path).embed(ENCODER, pl.Series(["a"])).shape[0] == 1
    assert segments(tmp_path) == [whole]
    assert list(whole.parent.glob(".half*")) == []


def test_other_encoder_other_folder(tmp_path):
    store = VectorStore(tmp_path)
    store.embed(ENCODER, pl.Series(["a"]))
    store.embed(ENCODER.model_copy(update={"threads": 2}), pl.Series(["a"]))
    assert len(asked()) == 1  # threads are not identity
    store.embed(Encoder(precision="fp32", max_tokens=16), pl.Series(["a"]))
    assert len(list(tmp_path.iterdir())) == 2


def test_threads_share_one_computation(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeModel, "pause", 0.02)
    store = VectorStore(tmp_path)
    texts = pl.Series([f"t{i}" for i in range(40)])
    with ThreadPoolExecutor(8) as pool:
        outs = list(pool.map(lambda i: store.embed(ENCODER, texts[i : i + 30]), range(8)))
    for i, out in enumerate(outs):
        np.testing.assert_array_equal(out, expected(texts[i : i + 30]))
    assert sorted(asked()) == sorted(texts[:37])


def test_keys_with_equal_high_halves_are_told_apart(monkeypatch, tmp_path):
    def keys(texts):
        return np.asarray([[7, len(t)] for t in texts], np.uint64).reshape(-1, 2)

    monkeypatch.setattr(module, "text_keys", keys)
    texts = pl.Series(["aaa", "b", "cc"])
    out = VectorStore(tmp_path).embed(ENCODER, texts)
    np.testing.assert_array_equal(out, expected(texts))


def test_text_keys_are_blake2b():
    digest = hashlib.blake2b("ü".encode(), digest_size=16).digest()
    assert text_keys(pl.Series(["ü"])).astype(">u8").tobytes() == digest


WRITER = """
import hashlib, sys, numpy as np, polars as pl
from pathlib import Path
from prefactory.engines.encoder import Encoder
from prefactory.engines.vectors import VectorStore

class Fake:
    def embed(self, texts):
        rows = [list(hashlib.blake2b(t.encode(), digest_size=8).digest()) for t in texts]
        return np.asarray(rows, np.float32).reshape(-1, 8)
    def close(self):
        pass

Encoder.open = lambda self: Fake()
VectorStore.chunk_texts = 5
store = VectorStore(Path(sys.argv[1]))
for start in range(1_000_000):
    names = pl.Series([f"p{start + i}" for i in range(20)])
    store.embed(Encoder(precision="fp32", threads=1), names)
"""


def test_several_processes_and_kill_9(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    until(lambda: len(segments(tmp_path)) >= 20)
    for process in processes:
        process.kill()
        process.wait()
    texts = pl.Series([f"p{i}" for i in range(200)])
    np.testing.assert_array_equal(VectorStore(tmp_path).embed(ENCODER, texts), expected(texts))
    assert len(asked()) < 200

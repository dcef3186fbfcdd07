"""Small things to train on, built on the spot: versions, a tokenizer, a Llama of 0.1 M weights."""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import hashlib
from functools import cache
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from catalog.arrow_folder import SplitWriter, arrow_schema, write_dict
from catalog.manifest import Manifest, TableRecord
from prefactory.tables import MESSAGES, ROW_ID, Shape, with_ids
from tests.helpers import tiny_llama


@cache
def vector(word):
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).normal(size=24)


def hash_embed(encoder, texts):
    """Mean of one random vector per word: texts with common words are near each other."""
    rows = [np.mean([vector(w) for w in t.split() or [""]], axis=0) for t in texts]
    return np.asarray(rows, dtype=np.float32).reshape(len(texts), 24)


def pairs_of(rows):
    """Pairs from (prompt, chosen, rejected) texts, with ids."""
    table = pl.DataFrame(
        {
            name: [[{"role": role, "content": row[i]}] for row in rows]
            for i, (name, role) in enumerate(
                [("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant")]
            )
        },
        schema=dict.fromkeys(["prompt", "chosen", "rejected"], MESSAGES),
    )
    return with_ids(table, Shape.PAIRS).with_columns(
        source=pl.lit("made"), source_id=pl.lit("0"), label_source=pl.lit("rule")
    )


def publish_answers(folder, train, test):
    """Publish rows of `prompt`, `response` (texts) and numbers as answers."""

    def responses(rows):
        table = pl.DataFrame(rows).with_columns(
            pl.struct(role=pl.lit(role), content=name)
            .implode()
            .over(pl.int_range(pl.len()))
            .alias(name)
            for name, role in (("prompt", "user"), ("response", "assistant"))
        )
        return (
            with_ids(table, Shape.RESPONSES)
            .with_columns(
                source=pl.lit("made"),
                source_id=pl.lit("0"),
                model=pl.lit("m"),
                origin=pl.lit("rule"),
            )
            .sort("prompt_id", "response_id")
        )

    return publish(folder, responses(train), responses(test) if test else None, shape="responses")


def publish(folder, train, test=None, name="made", shape="pairs"):
    """Write tables of pairs, or of another shape, as a version's folder, and return it."""
    splits = {"train": train, "test": train.clear() if test is None else test}
    for split, rows in splits.items():
        writer = SplitWriter(folder / shape / split, split, arrow_schema(rows))
        writer.write(rows)
        writer.close()
    write_dict(folder / shape, list(splits))
    ids = sorted(train[ROW_ID[shape]])
    digest = hashlib.blake2b(repr(ids).encode(), digest_size=16).hexdigest()
    counts = {split: rows.height for split, rows in splits.items()}
    record = TableRecord(shape=shape, splits=counts, bytes=counts, columns={}, digest="")
    manifest = Manifest(
        name=name, version="1", description="", license="CC0-1.0", seed=0, content_digest=digest,
        recipe_fingerprint="", payload={}, sources=[], stages=[], tables={shape: record},
        ledger={}, software={},
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def polite_pairs(n, seed=0, random_labels=False):
    """Pairs in which the polite answer wins, or, with random labels, either of them."""
    rng = np.random.default_rng(seed)
    nouns = [f"thing{i}" for i in range(200)]
    rows = []
    for i in range(n):
        a, b, c = rng.choice(nouns, 3)
        polite, rude = f"certainly please {a} {b}", f"whatever go away {b} {c}"
        swap = random_labels and rng.random() < 0.5
        rows.append((f"question {i} about {a}", *((rude, polite) if swap else (polite, rude))))
    return pairs_of(rows)


@pytest.fixture(scope="session")
def make():
    """The functions above, as a test without imports between test files needs them."""
    return SimpleNamespace(
        hash_embed=hash_embed,
        pairs_of=pairs_of,
        polite_pairs=polite_pairs,
        publish=publish,
        publish_answers=publish_answers,
    )


@pytest.fixture(scope="session")
def version(tmp_path_factory):
    """A version of 24 training and 9 held-out pairs in which the polite answer wins."""
    folder = tmp_path_factory.mktemp("version")
    return publish(folder, polite_pairs(24), polite_pairs(9, seed=1))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a Llama with 64 dimensions and 2 layers, and its byte-level BPE tokenizer."""
    return tiny_llama(tmp_path_factory.mktemp("tiny_model"))

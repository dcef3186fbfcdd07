"""Features of answers: what they hold, that counts are logarithms, and that rows stand alone."""

import hashlib

import numpy as np
import polars as pl
import pytest

from labelers.rules.r3 import R3
from labelers.rules.statistics import TextStatistics
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.preferences import features
from tests.helpers import responses


def embed(encoder, texts):
    seeds = [int.from_bytes(hashlib.blake2b(t.encode(), digest_size=8).digest()) for t in texts]
    return np.asarray([np.random.default_rng(s).normal(size=5) for s in seeds], np.float32)


TABLE = responses(
    ("What is tea?", "A drink. It is made of leaves!\n\n- hot\n- wet"),
    ("What is tea?", ""),
    ("Why?", "No idea\n\nHuman: why\n\nAssistant: because " + "so " * 30),
)


def test_the_sixteen_statistics_are_those_of_the_labelers_with_logged_counts():
    found = features.describe(TABLE["prompt"], TABLE["response"], Encoder(), embed).statistics
    ctx = Context(embed=embed)
    r3, counts = R3().label(TABLE, ctx), TextStatistics().label(TABLE, ctx)
    assert found.columns == list(features.names(True))
    assert len(found.columns) == 16
    for name in ("relevance", "repetition", "r3"):
        assert found[name].to_list() == pytest.approx(r3[f"score_{name}"].to_list())
    assert found["length"].to_list() == pytest.approx(np.log1p(r3["score_length"]).to_list())
    for name in features.COUNTS:
        assert found[name].to_list() == pytest.approx(np.log1p(counts[f"score_{name}"]).to_list())
    assert found["type_token_ratio"][TABLE["response"].list.len().arg_min()] >= 0
    assert found["log_characters"].to_list() == found["characters"].to_list()
    assert found.null_count().sum_horizontal().item() == 0


def test_without_an_encoder_there_are_no_vectors_and_no_relevance():
    found = features.describe(TABLE["prompt"], TABLE["response"], Encoder(), None)
    assert found.statistics.columns == list(features.PLAIN)
    assert found.vectors().shape == (3, 0)


def test_rows_do_not_depend_on_each_other():
    whole = features.describe(TABLE["prompt"], TABLE["response"], Encoder(), embed)
    for i in range(TABLE.height):
        row = TABLE[i]
        alone = features.describe(row["prompt"], row["response"], Encoder(), embed)
        assert alone.statistics.equals(whole.statistics[i])
        assert (alone.vectors() == whole.vectors()[i]).all()


def test_a_null_answer_counts_as_an_empty_one():
    table = TABLE.with_columns(response=pl.lit(None, TABLE.schema["response"]))
    found = features.describe(table["prompt"], table["response"], Encoder(), embed)
    assert found.statistics["characters"].to_list() == [0.0] * 3

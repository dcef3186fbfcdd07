"""R3: known answers of the paper's code, and its edge cases."""

import hashlib

import numpy as np
import polars as pl
import pytest

from labelers.rules.r3 import R3
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.measures.text_statistics import cut_answer, length_incentive, repetition
from prefactory.tables import Shape, canonical_order, with_ids

TEXT_ONLY = R3(objectives=("length", "repetition"))


def embed(encoder, texts):
    rows = [list(hashlib.blake2b(t.encode(), digest_size=8).digest()) for t in texts]
    return np.asarray(rows, np.float32).reshape(-1, 8) / 100


def responses(*pairs):
    rows = [
        {
            "prompt": [{"role": "user", "content": "old"}, {"role": "user", "content": question}],
            "response": [{"role": "assistant", "content": answer}],
            "source": "test",
            "source_id": str(i),
            "model": "m",
            "origin": "human",
        }
        for i, (question, answer) in enumerate(pairs)
    ]
    return canonical_order(with_ids(pl.DataFrame(rows), Shape.RESPONSES), Shape.RESPONSES)


@pytest.mark.parametrize(
    ("text", "length", "distinct"),
    [
        ("a b c a b c", 0.06, 0.75),
        ("hi", 0.01, 1.0),
        ("", 0.0, 1.0),
        ("Don't stop!", 0.05, 1.0),
        ("😀 naïve", 0.02, 1.0),
        (" \n", 0.0, 1.0),
    ],
)
def test_known_answers(text, length, distinct):
    frame = pl.DataFrame({"t": [text]})
    out = frame.select(a=length_incentive(pl.col("t")), b=repetition(pl.col("t"))).row(0)
    assert out == pytest.approx((length, distinct))


def test_doubling_a_text_doubles_length_and_about_halves_repetition():
    words = " ".join(f"w{i}" for i in range(100))
    frame = pl.DataFrame({"t": [words, f"{words} {words}"]})
    out = frame.select(a=length_incentive(pl.col("t")), b=repetition(pl.col("t")))
    assert out["a"].to_list() == [1.0, 2.0]
    assert out["b"].to_list() == [1.0, pytest.approx(100 / 198)]


def test_length_cap():
    frame = pl.DataFrame({"t": ["a " * 1000]})
    assert frame.select(length_incentive(pl.col("t"), 512)).item() == 5.12


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Yes.\n\nHuman: and now?", "Yes.\n"),
        ("Yes.\n\n\n\nMore", "Yes."),
        ("Yes.\n\n----\nMore", "Yes."),
        ("Yes.\n\n__\nMore", "Yes."),
        ("Human: is a marker only later", "Human: is a marker only later"),
        ("a\n\nb - c", "a\n\nb - c"),
    ],
)
def test_cut(text, kept):
    assert pl.DataFrame({"t": [text]}).select(cut_answer(pl.col("t"))).item() == kept


def test_product_of_the_parts():
    table = responses(("q", "a b c a b c"), ("q", ""), ("other", "fine words here"))
    step = R3(relevance_scale=2.0)
    out = step.label(table, Context(embed=embed))
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    parts = out["score_relevance"] / 2 * out["score_length"] * out["score_repetition"]
    np.testing.assert_allclose(out["score_r3"], parts)
    queries = pl.Series(["q" if i != "2" else "other" for i in table["source_id"]])
    answers = table.select(pl.col("response").list.first().struct.field("content")).to_series()
    dots = (embed(None, queries).astype(float) * embed(None, answers)).sum(1)
    np.testing.assert_allclose(out["score_relevance"], dots)
    assert 0.0 in out["score_r3"].to_list()


@pytest.mark.parametrize(("relevance", "reward"), [(1.75, 2.56), (3.5, 5.12)])
def test_a_reference_takes_the_place_of_the_question_and_of_length(relevance, reward):
    table = responses(("q", "one two three four"), ("q", "a b c a b c"), ("open", "hi"))
    reference = ["good", "good", None]
    table = table.with_columns(
        reference=pl.col("source_id").cast(pl.Int64).replace_strict(dict(enumerate(reference)))
    )

    def lengths(encoder, texts):  # the vector of a text is its relevance to every other
        return np.asarray([[relevance if t == "good" else 1.0] for t in texts], np.float32)

    step = R3(relevance_scale=3.5, reference="reference")
    out = table.hstack(step.label(table, Context(embed=lengths))).sort("source_id")
    assert step.needs(Shape.RESPONSES) == {"reference": pl.String()}
    assert out["score_relevance"].to_list() == [relevance, relevance, 1.0]
    assert out["score_r3"].to_list() == pytest.approx([reward, reward * 0.75, 0.01 / 3.5])


def test_without_relevance_no_encoder_is_asked():
    out = TEXT_ONLY.label(responses(("q", "hi")), Context())
    assert out.rows() == [(0.01, 1.0)]
    with pytest.raises(ConfigError, match="needs an encoder"):
        R3().label(responses(("q", "hi")), Context())


def test_empty_table():
    table = responses(("q", "hi")).clear()
    empty = R3().label(table, Context(embed=embed))
    assert (empty.height, dict(empty.schema)) == (0, R3().adds(Shape.RESPONSES))


def test_objectives_are_checked():
    for wrong in ((), ("r3", "r3"), ("beauty",)):
        with pytest.raises(ValueError, match="objective"):
            R3(objectives=wrong)

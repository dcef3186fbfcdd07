"""Stepwise scores: where steps end, how they combine, and what the model is asked."""

import numpy as np
import polars as pl
import pytest
from transformers import LlamaConfig, LlamaForSequenceClassification, set_seed

from labelers.models.language_models import Model
from labelers.models.process import SPLITTERS, StepScores, aggregated, step_ends
from labelers.models.reward_model import RewardModel
from prefactory.context import Context
from prefactory.tables import Shape
from tests.helpers import responses, tiny_llama


@pytest.fixture(scope="module")
def prm(tmp_path_factory):
    folder = tiny_llama(tmp_path_factory.mktemp("prm") / "m")
    set_seed(4)
    LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, num_labels=2,
        )
    ).save_pretrained(folder)  # fmt: skip
    return Model(model=str(folder), precision="fp32", device="cpu", max_tokens=256)


def pieces(text, splitter):
    ends = step_ends(pl.Series([text]), SPLITTERS.get(splitter, splitter))[0]
    return [text[:e] for e in ends]


@pytest.mark.parametrize(
    ("text", "splitter", "prefixes"),
    [
        ("a\nb\n\nc", "paragraph", ["a\nb", "a\nb\n\nc"]),
        ("a\nb\n\nc ", "line", ["a", "a\nb", "a\nb\n\nc"]),
        ("a <step> é🙂<sep>c", "tag", ["a", "a <step> é🙂", "a <step> é🙂<sep>c"]),
        ("\n\na\n\n\n\n", "paragraph", ["\n\na"]),
        ("one. two.", r"(?:\.)\s*", ["one", "one. two"]),
        ("no end", "paragraph", ["no end"]),
        ("", "paragraph", []),
        (" \n\n ", "paragraph", []),
        ("a\x00b\n\nc", "paragraph", ["a\x00b", "a\x00b\n\nc"]),
    ],
)
def test_step_ends(text, splitter, prefixes):
    assert pieces(text, splitter) == prefixes


def test_aggregates():
    steps = pl.Series([[0.5, 0.2, 0.8], [1.0], [], None, [0.1, None]], dtype=pl.List(pl.Float64))
    expected = {"min": 0.2, "mean": 0.5, "last": 0.8, "product": 0.08}
    for how, value in expected.items():
        found = aggregated(steps, how).to_list()
        assert found == [pytest.approx(value), 1.0, None, None, None]


def label(step, table):
    out = step.label(table, Context())
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    return out


def test_each_step_is_scored_as_the_end_of_an_answer(prm):
    table = responses(("q", "go\n\naway"), ("q", ""), ("q", "long " * 300 + "\n\nend"), ("q", "go"))
    out = label(StepScores(model=prm, name="prm"), table)
    answers = responses(("q", "go"), ("q", "go\n\naway"))
    classes = RewardModel(model=prm, objectives=("bad", "good"), activation="softmax")
    alone = label(classes, answers)["score_good"].to_list()
    assert out["steps_prm"].to_list() == [alone, None, None, alone[:1]]
    assert out["score_prm"].to_list() == [min(alone), None, None, alone[0]]
    assert out["reason_prm"].to_list() == [None, "empty", "too_long", None]
    mean = label(StepScores(model=prm, aggregate="mean", head=0), table)
    np.testing.assert_allclose(mean["score_steps"][0], 1 - np.mean(alone), atol=1e-6)
    back = label(StepScores(model=prm, name="prm"), table.reverse())
    assert back.reverse().equals(out)
    assert label(StepScores(model=prm), table.clear()).height == 0


def test_mistakes_are_named(prm):
    for wrong in ({"head": 2}, {"heads": 1}, {"splitter": "("}):
        with pytest.raises(ValueError, match=r"head|pattern"):
            StepScores(model=prm, **wrong)

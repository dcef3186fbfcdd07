"""The report on steps that learn from labels: banner, weights, self-test, suspects."""

from dataclasses import fields

import numpy as np
import polars as pl
import pytest

from catalog.report import labels
from catalog.report.stages import Stage
from filters.suspects.step import SuspectLabels
from labelers.stack.step import PreferenceStack
from labelers.stack.trust import LabelTrust
from prefactory.context import Context
from prefactory.tables import Shape, canonical_order, with_ids
from tests.helpers import pairs


def stage(step, table):
    ctx = Context(step=type(step).__name__)
    parts = step.fit_shard(table, ctx).sort("pair_id")
    state = step.fit(parts, ctx)
    empty = {f.name: None for f in fields(Stage)}
    after = Context(step=ctx.step, state=state)
    return Stage(**empty | {"label": ctx.step, "info": state.info}), after


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    rows = [
        (f"question {i} about {rng.integers(1e9)}", "word " * rng.integers(9, 20), "no " * 3)
        for i in range(120)
    ]
    return canonical_order(pairs(*rows), Shape.PAIRS)


def told(one):
    return " ".join(f"{key}: {value}" for key, value in one.facts)


def test_a_stack_shows_what_it_learned(table):
    one, _ = stage(PreferenceStack(vectors=False), table)
    (found,) = labels.read([one])
    assert found.warning == ""
    assert "accuracy on prompts it did not see: 100" in told(found)
    assert "the length rule there: 100" in told(found)
    assert len(found.weights) == labels.HEAVIEST


def test_labels_that_teach_nothing_have_a_banner(table):
    back = table.rename({"chosen": "rejected", "rejected": "chosen"})
    both = pl.concat([table, with_ids(back, Shape.PAIRS).select(table.columns)])
    one, _ = stage(PreferenceStack(vectors=False), canonical_order(both, Shape.PAIRS))
    assert "teach nothing" in labels.read([one])[0].warning


def test_trust_and_suspects_say_how_sure_they_are(table):
    step = LabelTrust(vectors=False)
    one, after = stage(step, table)
    (found,) = labels.read([one])
    assert "rank" in found.warning
    assert "self-test: planted swaps are ranked with AUC" in told(found)
    assert "the data can't tell" in told(found)
    trusted = table.hstack(step.label(table, after).get_columns())
    one, _ = stage(SuspectLabels(), trusted)
    assert "marked for review: 12 of 120 pairs" in told(labels.read([one])[0])


def test_inverted_sources_are_named_first():
    estimate = {"value": 0.3, "se": 0.02, "low": 0.26, "high": 0.34, "n": 300, "clusters": 300}
    source = {"source": "a", "expert": "helpfulness", "verdict": "inverted", "agreement": estimate}
    info = {
        "sources": [source],
        "rate_is": "assumed",
        "self_test": None,
        "wrong_share": {"bound": None, "estimate": None, "refused": "too few"},
        "signals": [],
    }
    empty = {f.name: None for f in fields(Stage)}
    (found,) = labels.read([Stage(**empty | {"label": "t", "info": {"label_trust": info}})])
    assert found.warning == "The labels of a look turned round."

"""The preference stack as a model: saved, loaded, used, and refused where it can't score."""

import json

import numpy as np
import polars as pl
import pytest

from labelers.stack.score import PreferenceScore
from prefactory.apply import apply_labeler
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.preferences.scorer import Scorer
from prefactory.tables import Shape, canonical_order
from tests.helpers import responses
from trainers import DatasetRef, PreferenceStack, train_preference_stack

JOINT = PreferenceStack(form="joint")


@pytest.fixture
def train(tmp_path, make):
    def run(train, test=None, config=JOINT, out="model"):
        data = tmp_path / f"data-{out}"
        data.mkdir()
        ref = DatasetRef.from_path(make.publish(data, train, test))
        return train_preference_stack(config, ref, tmp_path / out, make.hash_embed)

    return run


def read_all(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_it_learns_and_writes_no_pickle(train, make):
    report = train(make.polite_pairs(120), make.polite_pairs(60, seed=1))
    assert report.test.accuracy > 0.9
    assert set(read_all(report.folder)) == {
        "README.md", "model.safetensors", "scorer.json", "training.json",
    }  # fmt: skip
    facts = json.loads((report.folder / "scorer.json").read_text())
    assert facts["info"]["out_of_fold"]["accuracy"]["value"] > 0.8
    assert facts["slope"] > 0


def test_the_order_of_the_rows_changes_no_byte(train, make):
    pairs = make.polite_pairs(60)
    a = train(pairs, out="a").folder
    b = train(pairs.sample(fraction=1, shuffle=True, seed=1), out="b").folder
    assert read_all(a) == read_all(b)


def test_a_saved_stack_scores_answers_elsewhere(train, make):
    test = make.polite_pairs(30, seed=1)
    report = train(make.polite_pairs(80), test)
    step = PreferenceScore(model=report.folder, name="polite")
    ctx = Context(step="score", embed=make.hash_embed)
    pairs = canonical_order(
        test.with_columns(chosen_model=pl.lit("a"), rejected_model=pl.lit("b")), Shape.PAIRS
    )
    found = apply_labeler(step, "score", pairs, Shape.PAIRS, ctx)
    right = (found["chosen_score_polite"] > found["rejected_score_polite"]).mean()
    assert right == pytest.approx(report.test.accuracy)
    assert step.adds(Shape.RESPONSES) == {"score_polite": pl.Float64()}


def test_the_step_is_told_apart_by_the_models_bytes_and_not_by_its_folder(train, make, tmp_path):
    pairs = make.polite_pairs(60)
    a, b = (PreferenceScore(model=train(pairs, out=name).folder) for name in "ab")
    other = PreferenceScore(model=train(make.polite_pairs(60, seed=5), out="c").folder)
    assert a.fingerprint() == b.fingerprint() != other.fingerprint()
    with pytest.raises(ConfigError, match="no preference stack"):
        PreferenceScore(model=tmp_path).fingerprint()


def test_a_score_that_the_consumer_lacks_is_named(train, make):
    told = np.random.default_rng(0).random(80)
    pairs = make.polite_pairs(80).with_columns(
        chosen_score_rm=pl.Series(told), rejected_score_rm=pl.lit(0.0)
    )
    report = train(pairs, config=PreferenceStack(form="joint", outside=("rm",)))
    step = PreferenceScore(model=report.folder)
    assert step.needs(Shape.RESPONSES) == {"score_rm": pl.Float64()}
    table = responses(("q", "a"))
    with pytest.raises(ConfigError, match="score_rm"):
        Scorer.load(report.folder).score(table, make.hash_embed)
    with pytest.raises(DataError, match="score_rm"):
        train(make.polite_pairs(20), config=PreferenceStack(outside=("rm",)), out="other")


def test_what_is_about_a_pair_is_not_saved_as_a_scorer(train, make):
    with pytest.raises(ConfigError, match="votes"):
        train(make.polite_pairs(20), config=PreferenceStack(oriented=("votes",)))


def test_labels_that_teach_nothing_leave_no_model(train, make, tmp_path):
    pairs = make.polite_pairs(60)
    back = make.pairs_of(
        [(p[0]["content"], r[0]["content"], c[0]["content"])
         for p, c, r in pairs.select("prompt", "chosen", "rejected").iter_rows()]
    )  # fmt: skip
    with pytest.raises(DataError, match="teach nothing"):
        train(pl.concat([pairs, back.select(pairs.columns)]))
    assert not (tmp_path / "model").exists()


def test_statistics_alone_need_no_encoder(train, make):
    pairs = make.pairs_of([(f"q{i}", f"w{i} w{i} w{i}", f"v{i}") for i in range(40)])
    report = train(pairs, config=PreferenceStack(vectors=False))
    scorer = Scorer.load(report.folder)
    assert scorer.encoder is None
    gap = scorer.score(responses(("q", "long " * 9), ("q", "short")), None)
    assert len(set(gap)) == 2

"""The preference stack as a model: saved, loaded, used, and refused where it can't score."""

import json
import os

import numpy as np
import polars as pl
import pytest

from labelers.stack.score import PreferenceScore
from labelers.stack.trust import LabelTrust
from prefactory.apply import apply_labeler
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.preferences.scorer import Scorer
from prefactory.preferences.trust import auc
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
        "README.md", "checksums.json", "model.safetensors", "report.html", "scorer.json",
            "training.json",
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


@pytest.fixture
def home(tmp_path, make, monkeypatch):
    """A home with a version of polite pairs; trains stacks on it where `train` puts them."""
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "versions" / "polite" / "1"
    folder.mkdir(parents=True)
    make.publish(folder, make.polite_pairs(80), name="polite")

    def train(name, **config):
        ref = DatasetRef.from_path(folder)
        out = tmp_path / "home" / "models" / name
        config = PreferenceStack(form="statistics", **config)
        return train_preference_stack(config, ref, out, make.hash_embed).folder

    return train


def test_a_stack_is_found_by_the_version_that_it_was_trained_on(home):
    with pytest.raises(ConfigError, match="prefactory train reward polite@1 --backend stack"):
        PreferenceScore(model="polite").fingerprint()
    with pytest.raises(ConfigError, match="no dataset 'other'"):
        PreferenceScore(model="other").fingerprint()
    with pytest.raises(ConfigError, match="no version '2'"):
        PreferenceScore(model="polite@2").fingerprint()
    old = home("a-newer-name-first", vectors=False)
    by_folder = PreferenceScore(model=old).fingerprint()
    assert PreferenceScore(model="polite").fingerprint() == by_folder
    new = home("a")
    os.utime(old / "training.json", (1, 1))
    found = PreferenceScore(model="polite@1").fingerprint()
    assert found == PreferenceScore(model=str(new)).fingerprint() != by_folder


def test_a_stack_is_an_outside_opinion_on_other_data(home, make):
    """Trained on one set; on another, whose own rows are too few to say anything."""
    home("stack")
    table = make.polite_pairs(60, seed=7).with_columns(
        chosen_model=pl.lit("a"), rejected_model=pl.lit("b")
    )
    wrong = np.arange(60) % 5 == 0
    text = {side: table[side].to_list() for side in ("chosen", "rejected")}
    rows = [
        (p[0]["content"], *((b, a) if w else (a, b)))
        for p, (a, b), w in zip(
            table["prompt"],
            ((c[-1]["content"], r[-1]["content"]) for c, r in zip(*text.values(), strict=True)),
            wrong,
            strict=True,
        )
    ]
    marked = make.pairs_of(rows).with_columns(
        chosen_model=pl.lit("a"), rejected_model=pl.lit("b"), wrong=pl.Series(wrong)
    )
    data = canonical_order(marked, Shape.PAIRS)
    ctx = Context(1, "score", embed=make.hash_embed)
    data = data.hstack(
        apply_labeler(PreferenceScore(model="polite"), "score", data, Shape.PAIRS, ctx).select(
            "chosen_score_preference", "rejected_score_preference"
        )
    )
    step = LabelTrust(anchor="off", vectors=False, outside=("preference",), self_tests=0)
    state = step.fit(step.fit_shard(data, ctx), ctx)
    assert state.info["label_trust"]["signals"] == ["outside"]
    trust = step.label(data, Context(1, "trust", state))["trust"].to_numpy()
    assert auc(1 - trust, data["wrong"].to_numpy())[0] > 0.9


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

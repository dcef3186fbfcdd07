import json

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from prefactory.errors import ConfigError, DataError
from trainers import (
    DatasetRef,
    EmbeddingReward,
    EmbeddingRewardModel,
    losses,
    train_embedding_reward,
)
from trainers.base import table
from trainers.embedding_reward import choose_l2, fit_head

QUICK = EmbeddingReward(l2=(1.0,))


@pytest.fixture
def train(tmp_path, make):
    """Publish pairs, train on them, return the report."""

    def run(train, test=None, config=QUICK, out="model", embed=make.hash_embed):
        data = tmp_path / f"data-{out}"
        data.mkdir()
        ref = DatasetRef.from_path(make.publish(data, train, test))
        return train_embedding_reward(config, ref, tmp_path / out, embed)

    return run


def read_all(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_separable_pairs_are_learnt(train, make):
    report = train(make.polite_pairs(120), make.polite_pairs(60, seed=1), EmbeddingReward())
    assert report.test.pairs == 60
    assert report.test.accuracy > 0.9
    assert report.test.ece < 0.3
    assert 0.3 < report.test.always_first < 0.7
    assert report.test.accuracy > report.test.longer_wins
    assert report.dropped == {"both answers are the same": 0}


def test_random_labels_are_not_learnt(train, make):
    pairs = [make.polite_pairs(300, seed=s, random_labels=True) for s in (0, 1)]
    report = train(*pairs, EmbeddingReward())
    assert abs(report.test.accuracy - 0.5) < 3 * report.test.accuracy_se
    assert report.test.loss == pytest.approx(np.log(2), abs=0.03)


def test_a_model_no_better_than_length_says_so(train, make):
    pairs = make.pairs_of([(f"q{i}", f"w{i} w{i}", f"v{i}") for i in range(20)])
    report = train(pairs, pairs)
    assert (report.test.longer_wins, report.test.accuracy) == (1, 1)
    assert any("does not beat" in note for note in report.notes)
    assert "does not beat" in (report.folder / "README.md").read_text()


def test_a_saved_model_scores_like_the_trained_one(train, make):
    test = make.polite_pairs(30, seed=1)
    report = train(make.polite_pairs(60), test)
    model = EmbeddingRewardModel.load(report.folder, make.hash_embed)
    chosen, rejected = (model.score(test["prompt"], test[s]) for s in ("chosen", "rejected"))
    assert chosen.dtype == np.float64
    assert (chosen > rejected).mean() == report.test.accuracy
    assert (chosen - rejected).mean() == pytest.approx(report.test.margin, abs=1e-9)


def test_a_score_does_not_depend_on_its_batch(train, make):
    pairs = make.polite_pairs(40)
    model = EmbeddingRewardModel.load(train(pairs).folder, make.hash_embed)
    together = model.score(pairs["prompt"], pairs["chosen"])
    alone = [
        model.score(pairs["prompt"][i : i + 1], pairs["chosen"][i : i + 1])[0] for i in range(5)
    ]
    assert together[:5].tolist() == alone


def test_null_answers_are_not_scored(train, make):
    pairs = make.polite_pairs(40)
    model = EmbeddingRewardModel.load(train(pairs).folder, make.hash_embed)
    answers = pl.concat([pairs["chosen"][:1], pl.Series([None], dtype=pairs["chosen"].dtype)])
    scores = model.score(pairs["prompt"][:2], answers)
    assert np.isnan(scores).tolist() == [False, True]
    assert len(model.score(pairs["prompt"][:0], answers[:0])) == 0


@pytest.mark.parametrize("length", [False, True])
def test_same_input_gives_the_same_bytes_in_any_row_order(train, make, length):
    pairs, test = make.polite_pairs(50), make.polite_pairs(10, seed=1)
    config = EmbeddingReward(length_feature=length)
    one = train(pairs, test, config, "one")
    two = train(pairs.sample(fraction=1, shuffle=True, seed=3), test.reverse(), config, "two")
    files = read_all(one.folder)
    written = {"README.md", "config.json", "model.safetensors", "report.html", "training.json"}
    written |= {"checksums.json"}
    assert set(files) == written
    assert files == read_all(two.folder)


def test_swapping_every_pair_negates_the_head():
    rng = np.random.default_rng(0)
    gaps, weights = rng.normal(size=(40, 6)), np.ones(40)
    np.testing.assert_allclose(
        fit_head(-gaps, weights, 0.1), -fit_head(gaps, weights, 0.1), atol=1e-7
    )


def test_the_head_is_the_minimum():
    import torch

    rng = np.random.default_rng(0)
    gaps, weights, l2 = rng.normal(size=(60, 5)) + 0.3, rng.uniform(0, 2, 60), 0.2
    w = torch.tensor(fit_head(gaps, weights, l2), requires_grad=True)
    margin = torch.tensor(gaps) @ w
    share = torch.tensor(weights / weights.sum())
    loss = (share * losses.bradley_terry(margin, torch.zeros(60))).sum() + l2 / 2 * w @ w
    loss.backward()
    assert w.grad.abs().max() < 1e-7


def test_a_pair_of_weight_zero_is_left_out():
    gaps = np.random.default_rng(0).normal(size=(30, 4))
    weights = np.repeat([1.0, 0.0], [20, 10])
    np.testing.assert_allclose(
        fit_head(gaps, weights, 0.1), fit_head(gaps[:20], np.ones(20), 0.1), atol=1e-7
    )


def test_each_distinct_text_is_embedded_once(train, make):
    seen = []

    def embed(encoder, texts):
        seen.extend(texts)
        return make.hash_embed(encoder, texts)

    pairs = make.pairs_of([("q", "a", "b"), ("q", "a", "c"), ("r", "a", "b"), ("s", "c", "q")])
    train(pairs, pairs, embed=embed)
    assert sorted(seen) == ["a", "b", "c", "q", "r", "s"]


def test_length_is_a_shortcut_that_is_off(train, make):
    rows = [(f"q{i}", f"w{i} " * (i % 7 + 5), f"v{i}") for i in range(60)]
    pairs = make.pairs_of(rows)
    report = train(pairs, pairs, EmbeddingReward(l2=(0.1,), length_feature=True))
    assert report.test.longer_wins == 1
    assert report.test.accuracy == 1
    assert json.loads((report.folder / "config.json").read_text())["features"][-1].startswith("log")


@pytest.mark.parametrize("n", [1, 2, 50])
def test_few_pairs_and_no_held_out_pairs(train, make, n):
    pairs = make.polite_pairs(n)
    report = train(pairs, pairs.clear(), EmbeddingReward())
    assert report.test is None
    assert any("no held-out pairs" in note for note in report.notes)
    assert "held out" not in report.text().replace("held-out", "")
    assert json.loads((report.folder / "training.json").read_text())["metrics"]["test"] is None


def test_ties_are_dropped_and_counted(train, make):
    pairs = make.pairs_of([("q", "a", "a"), ("q", "a", "b"), ("r", "c", "d")])
    report = train(pairs, pairs)
    assert report.dropped == {"both answers are the same": 2}
    assert report.train.pairs == 2
    with pytest.raises(DataError, match="no training pairs"):
        train(pairs[:0], pairs, out="none")


def test_margin_weights_decide_between_contradictions(train, make):
    pairs = make.pairs_of([("q", "good", "bad"), ("r", "bad", "good")])
    pairs = pairs.with_columns(
        margin=pl.when(pl.col("prompt_id") == pairs["prompt_id"][0]).then(9.0).otherwise(0.5)
    )
    report = train(pairs, pairs, EmbeddingReward(l2=(0.1,), margin_weight=True))
    model = EmbeddingRewardModel.load(report.folder, make.hash_embed)
    first = pairs[:1]
    assert model.score(first["prompt"], first["chosen"]) > model.score(
        first["prompt"], first["rejected"]
    )
    with pytest.raises(DataError, match="margin_weight needs a margin"):
        train(pairs.drop("margin"), config=EmbeddingReward(margin_weight=True), out="no-margin")


def test_folds_keep_the_pairs_of_a_prompt_together():
    # one prompt's pairs, copied: only a fold that holds them all out sees how little was learnt
    rng = np.random.default_rng(0)
    gaps = np.repeat(rng.normal(size=(12, 30)), 10, axis=0)
    prompts = pl.Series(np.repeat([f"p{i}" for i in range(12)], 10))
    config = EmbeddingReward(l2=(1e-4, 1e3))
    assert choose_l2(config, gaps, np.ones(120), prompts)[0] == 1e3
    apart = pl.Series([f"p{i}" for i in range(120)])
    assert choose_l2(config, gaps, np.ones(120), apart)[0] == 1e-4


def test_the_card_names_dataset_digest_and_results(train, make):
    report = train(make.polite_pairs(30), make.polite_pairs(10, seed=1))
    card = (report.folder / "README.md").read_text()
    assert "made@1" in card
    assert report.dataset.digest in card
    assert "CC0-1.0" in card
    assert f"{report.test.accuracy:.3f} ± {report.test.accuracy_se:.3f}" in card
    record = json.loads((report.folder / "training.json").read_text())
    assert record["dataset"] == {
        "name": "made",
        "version": "1",
        "content_digest": report.dataset.digest,
        "table": "pairs",
    }
    assert record["packages"]["torch"]
    assert "longer wins" in report.text()


def test_a_folder_without_a_model_is_refused(tmp_path, make):
    with pytest.raises(ConfigError, match="no embedding reward model"):
        EmbeddingRewardModel.load(tmp_path, make.hash_embed)


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError):
        EmbeddingReward(lr=1)
    with pytest.raises(ValidationError):
        EmbeddingReward(l2=())
    with pytest.raises(ValidationError):
        EmbeddingReward(l2=(0.0,))


def test_table_keeps_the_order_of_the_dataset(version):
    rows = DatasetRef.from_path(version).pairs("train")
    assert table(rows, ["pair_id", "absent"])["pair_id"].to_list() == rows["pair_id"][:]


def test_length_has_a_penalty_of_its_own_and_so_a_weight(train, make):
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(200)]
    texts = [
        [" ".join(rng.choice(words, size)) for size in ((12, 3) if rng.random() < 0.9 else (3, 12))]
        for _ in range(150)
    ]
    pairs = make.pairs_of([(f"q{i}", a, b) for i, (a, b) in enumerate(texts)])
    without = train(pairs, pairs, EmbeddingReward(l2=(10.0,)), out="without")
    report = train(pairs, pairs, EmbeddingReward(l2=(10.0,), length_feature=True), out="with")
    assert report.test.loss < without.test.loss - 0.15
    model = EmbeddingRewardModel.load(report.folder, make.hash_embed)
    assert abs(model.weights[-1]) > 10 * np.abs(model.weights[:-1]).max()


def test_names_are_features_where_texts_say_nothing(train, make, tmp_path):
    """Model `a` is better on source x, `b` on y; the texts are noise."""

    def pairs(seed):
        found = make.polite_pairs(160, seed=seed, random_labels=True)
        rng = np.random.default_rng(seed)
        source = rng.choice(["x", "y"], found.height)
        best = np.where(source == "x", "a", "b")
        worst = np.where(source == "x", "b", "a")
        return found.with_columns(
            source=pl.Series(source), chosen_model=pl.Series(best), rejected_model=pl.Series(worst)
        )

    data, test = pairs(0), pairs(1)
    named = {"answer": ["model"], "prompt": ["source"], "slots": 64}
    config = EmbeddingReward(l2=(0.1,), categories=named)
    report = train(data, test, config)
    assert report.test.accuracy > 0.95
    assert train(data, test, QUICK, out="texts").test.accuracy < 0.65
    alone = EmbeddingReward(l2=(0.1,), categories={"slots": 64})
    assert train(data, test, alone, out="alone").test.accuracy < 0.75, "a and b win as often"
    model = EmbeddingRewardModel.load(report.folder, make.hash_embed)
    scores = [
        model.score(test["prompt"], test[s], model.categories.of_side(test, s))
        for s in ("chosen", "rejected")
    ]
    assert (scores[0] > scores[1]).mean() == report.test.accuracy
    with pytest.raises(DataError, match="no column 'model'"):
        model.score(test["prompt"], test["chosen"])
    from trainers.evaluate.models import scored

    again = scored(str(report.folder), test, make.hash_embed, 8, 64)
    assert again.margins == pytest.approx(scores[0] - scores[1])
    with pytest.raises(DataError, match="no column 'chosen_year'"):
        train(data, test, EmbeddingReward(l2=(1.0,), categories={"answer": ["year"]}), out="none")

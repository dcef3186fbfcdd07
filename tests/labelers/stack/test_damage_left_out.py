"""Damage that is planted into chosen answers stays out of the fits, found by the step itself."""

import zlib
from functools import cache

import numpy as np
import polars as pl
import pytest

from labelers.stack.step import PreferenceStack
from labelers.stack.trust import LabelTrust
from prefactory.context import Context
from prefactory.preferences.folds import cluster_folds
from prefactory.preferences.stack import Differences, Rows
from prefactory.preferences.trust import auc, refit
from prefactory.tables import Shape, canonical_order, with_ids
from tests.helpers import pairs
from tests.labelers.stack.test_preference_stack import fitted, preferences

NOUNS = [
    "apple",
    "bridge",
    "candle",
    "desert",
    "engine",
    "feather",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "magnet",
    "needle",
    "orange",
    "pepper",
    "quarry",
    "ribbon",
    "saddle",
    "timber",
    "umbrella",
    "valley",
    "window",
    "yellow",
    "zebra",
    "anchor",
    "barrel",
    "copper",
    "dragon",
    "eagle",
    "forest",
    "glacier",
    "harbour",
    "insect",
    "jungle",
    "kitten",
    "lantern",
    "meadow",
    "nectar",
    "oyster",
    "pigeon",
    "quiver",
    "rocket",
    "silver",
    "tunnel",
    "urchin",
    "violin",
    "walnut",
    "yogurt",
    "zipper",
]
FILLER = [
    "the",
    "and",
    "then",
    "with",
    "from",
    "into",
    "over",
    "under",
    "quite",
    "often",
    "very",
    "much",
    "some",
    "many",
    "more",
    "also",
]
SWAPPED, GARBLED, OFF_TOPIC = "swapped", "garbled", "off_topic"


@cache
def vector(word):
    rng = np.random.default_rng(zlib.crc32(word.encode()))
    return rng.normal(size=96) * (0.1 if word in FILLER else 1.0)


def embed(encoder, texts):
    """Bags of words: a text is near to those that share its rarer words."""
    found = np.zeros((len(texts), 96), np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().replace("?", "").split():
            found[row] += vector(word)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


CTX = Context(seed=1, step="stack", embed=embed)


def answer(rng, topic, n):
    words = [*rng.choice(FILLER, n), *rng.choice(topic, max(n // 2, 3))]
    return " ".join(rng.permutation(words))


def garble(rng, text):
    return " ".join("".join(rng.choice(list("bcdfghjklmnpqrstvwxzaeiou"), len(w))) for w in text)


@pytest.fixture(scope="module")
def planted():
    """300 pairs: the longer answer is right, but some labels are swapped and some answers bad."""
    rng = np.random.default_rng(0)
    topics = [rng.choice(NOUNS, 4, replace=False) for _ in range(300)]
    rows, kinds = [], []
    for i, topic in enumerate(topics):
        kind = ("", "", "", "", SWAPPED, GARBLED, "", "", "", OFF_TOPIC)[i % 10]
        short, long = answer(rng, topic, 12), answer(rng, topic, rng.integers(11, 22))
        long = answer(rng, topic, 60) if kind in (GARBLED, OFF_TOPIC) else long
        bad = {
            GARBLED: garble(rng, short.split()),
            OFF_TOPIC: answer(rng, [w for w in NOUNS if w not in topic][i % 30 :][:4], 14),
        }
        chosen = {SWAPPED: short}.get(kind) or bad.get(kind, long)
        rows.append((f"what of {' '.join(topic)}?", chosen, long if chosen != long else short))
        kinds.append(kind)
    return canonical_order(pairs(*rows).with_columns(kind=pl.Series(kinds)), Shape.PAIRS)


def test_garbled_and_off_topic_answers_are_in_no_fit(planted):
    state, found = fitted(LabelTrust(anchor="off", self_tests=0), planted, CTX)
    joined = planted.select("kind").hstack(found)
    out = joined.filter(pl.col("trust").is_null())
    for kind in (GARBLED, OFF_TOPIC):
        named = out.filter(pl.col("kind") == kind)
        assert named.height >= 27, kind
        assert set(named["trust_reason"]) == {f"damaged: {kind}"}
        assert named["signal_rows"].null_count() == named.height
    assert out.filter(~pl.col("kind").is_in([GARBLED, OFF_TOPIC])).height <= 5
    info = state.info["label_trust"]
    assert info["damaged"] == out.height == sum(info["damage"].values())
    assert joined.filter(pl.col("trust").is_not_null())["trust_reason"].null_count() == (
        joined.height - out.height
    )


def test_swaps_are_ranked_better_without_damage_in_the_fits(planted):
    areas = {}
    for damage in ("auto", "off"):
        _, found = fitted(LabelTrust(anchor="off", damage=damage, self_tests=0), planted, CTX)
        joined = planted.select("kind").hstack(found)
        joined = joined.filter(pl.col("trust").is_not_null(), pl.col("kind").is_in(["", SWAPPED]))
        wrong = (joined["kind"] == SWAPPED).to_numpy()
        areas[damage] = auc(1 - joined["trust"].to_numpy(), wrong)[0]
    assert areas["auto"] > 0.9
    assert areas["auto"] > areas["off"] + 0.02


def test_the_stack_leaves_them_out_and_scores_them(planted):
    state, found = fitted(PreferenceStack(form="statistics"), planted, CTX)
    info = state.info["preference_stack"]
    assert set(info["damage"]) == {GARBLED, OFF_TOPIC}
    assert info["fitted"] == 300 - info["damaged"]
    assert found["margin_stack"].null_count() == 0


@pytest.mark.slow
def test_damage_does_not_depend_on_the_shards(planted):
    step = LabelTrust(anchor="off", self_tests=0)
    _, whole = fitted(step, planted, CTX)
    _, cut = fitted(step, planted, CTX, shards=7)
    assert whole.equals(cut)


def test_without_vectors_nothing_is_off_topic(planted):
    state, _ = fitted(LabelTrust(vectors=False, self_tests=0), planted, Context(seed=1, step="x"))
    assert set(state.info["label_trust"]["damage"]) == {GARBLED}


def test_vectors_that_tell_no_prompts_apart_name_nothing_off_topic(planted):
    def noise(encoder, texts):
        seeds = [zlib.crc32(t.encode()) for t in texts]
        return np.asarray([np.random.default_rng(s).normal(size=6) for s in seeds], np.float32)

    state, _ = fitted(LabelTrust(anchor="off", self_tests=0), planted, Context(1, "x", embed=noise))
    assert set(state.info["label_trust"]["damage"]) == {GARBLED}


def test_marks_count_on_both_sides_and_loops_on_the_chosen_one():
    table = pairs(
        *((f"q{i}", f"a {i}", f"b {i}") for i in range(9)),
        ("q", "a", "b\n\nHuman: yes"),
        ("q", "a", "I am here now. " * 6),
        ("q", "I am here now. " * 6, "a"),
        ("q", "same", "same "),
    )
    table = canonical_order(with_ids(table, Shape.PAIRS), Shape.PAIRS)
    state, _ = fitted(LabelTrust(vectors=False), table, Context(seed=1, step="x"))
    assert state.info["label_trust"]["damage"] == {"identical": 1, "loop": 1, "role_leak": 1}


def test_refitting_moves_the_share_of_wrong_labels_toward_the_truth():
    """A quarter are wrong, EM starts at the assumed tenth; 390 rows are too few to estimate."""
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 5, 390)
    right = rng.random(390) < 1 / (1 + np.exp(-truth))
    turn = rng.random(390) < 0.25
    margin = np.where(right ^ turn, truth, -truth)
    rows = preferences(390, right=0.5).with_columns(rm=pl.Series(margin))
    found = {}
    for em in (False, True):
        step = LabelTrust(vectors=False, damage="off", oriented=("rm",), self_tests=0, em=em)
        state, told = fitted(step, rows, Context(seed=1, step="x"))
        found[em] = state.info["label_trust"]
        assert auc(1 - told["trust"].to_numpy(), turn)[0] > 0.85
    assert found[True]["rate_is"] == "em"
    assert abs(found[True]["rate"] - turn.mean()) < abs(0.1 - turn.mean()) / 2
    step = LabelTrust(vectors=False, damage="off", self_tests=0, em=True, rate=0.3)
    state, _ = fitted(step, rows, Context(seed=1, step="x"))
    assert (state.info["label_trust"]["rate"], state.info["label_trust"]["rate_is"]) == (
        0.3,
        "given",
    )


def test_em_finds_the_share_where_the_margins_are_sharp():
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 5, 800)
    wrong = rng.random(800) < 0.25
    seen = np.where((rng.random(800) < 1 / (1 + np.exp(-truth))) ^ wrong, truth, -truth)
    rows = Rows.of(Differences(np.zeros((800, 0)), seen[:, None]), np.arange(800))
    rate, _ = refit(rows, cluster_folds(rows.clusters, 0), 0, 0.1)
    assert rate == pytest.approx(0.25, abs=0.05)
    assert refit(rows, cluster_folds(rows.clusters, 0), 0, 0.1, known=True)[0] == 0.1

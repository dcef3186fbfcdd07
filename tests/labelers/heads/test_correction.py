"""Directional correction: a planted length bias taken out, the guided cosine, invariance."""

import hashlib
from functools import cache

import numpy as np
import polars as pl
import pytest

from labelers import DirectionalCorrection
from labelers.heads.directional import guided_reward
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.step.exchange import in_rounds
from prefactory.tables import Shape, canonical_order
from tests.helpers import content, responses

DIM = 6
QUALITY, LENGTH = np.eye(DIM)[0], np.eye(DIM)[1]


@cache
def vector(text):
    """Noise by text, plus length along one axis; a question's vector is noise."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    noise = np.random.default_rng(seed).normal(size=DIM)
    return noise + (len(text) / 20 - noise[1]) * LENGTH


def embed(encoder, texts):
    return np.asarray([vector(t) for t in texts], np.float32).reshape(-1, DIM)


CTX = Context(seed=1, step="fix", embed=embed)


def answers(n=400):
    """The score is quality plus twice the length."""
    rows = [(f"question {i // 4}", f"answer {i} " + "x" * (i * 37 % 101)) for i in range(n)]
    hidden = np.asarray([vector(a) for _, a in rows])
    table = responses(
        *rows,
        score_reward=hidden @ (QUALITY + 2 * LENGTH) + 5,
        score_length=[float(len(a)) for _, a in rows],
    )
    return canonical_order(table, Shape.RESPONSES)


def fitted(step, *shards, ctx=CTX):
    parts = pl.concat([step.fit_shard(s, ctx) for s in shards]).sort("response_id")
    state = step.fit(parts, ctx)
    out = [step.label(s, Context(ctx.seed, ctx.step, state, ctx.embed)) for s in shards]
    assert all(dict(o.schema) == step.adds(Shape.RESPONSES) for o in out)
    return state, pl.concat(out).to_series()


STEP = DirectionalCorrection(name="fair", objective="reward", nuisance="length", alpha=1e-6)


def test_a_planted_length_bias_goes_and_quality_stays():
    table = answers()
    state, fair = fitted(STEP, table)
    assert state.info["slope"] == pytest.approx(2, rel=0.05)
    assert state.info["before"] > 0.8
    assert abs(state.info["after"]) < 0.1
    quality = np.asarray([vector(t)[0] for t in content(table, "response")])
    assert np.corrcoef(fair, quality)[0, 1] > 0.99
    b = state.tables["direction"]["direction"].to_numpy()
    assert abs(b @ LENGTH) > 0.99


def test_pairs_that_differ_in_length_alone_score_alike():
    table = answers()
    state, _ = fitted(STEP, table)
    short, long = (
        STEP.label(
            table.with_columns(score_reward=pl.lit(5.0) + 2 * moved),
            Context(
                1, "fix", state, lambda e, t, m=moved: embed(e, t) * 0 + np.float32(m) * LENGTH
            ),
        ).to_series()[0]
        for moved in (0.0, 3.0)
    )
    assert long == pytest.approx(short, abs=0.3)  # 6 apart before


def test_the_bytes_do_not_depend_on_the_runs_of_rows():
    table = answers(120).with_columns(
        score_length=pl.when(pl.int_range(pl.len()) % 5 > 0).then("score_length")
    )
    whole = in_rounds(STEP, [STEP.fit_shard(table, CTX)], CTX)
    prompts = table.partition_by("prompt_id", maintain_order=True)
    for size in (1, 7):
        runs = [pl.concat(prompts[i : i + size]) for i in range(0, len(prompts), size)]
        cut = in_rounds(STEP, [STEP.fit_shard(r, CTX) for r in [*runs, table.clear()]], CTX)
        assert cut.info == whole.info
        assert cut.tables["direction"].equals(whole.tables["direction"])


def test_missing_scores_stay_missing():
    table = answers(40).with_columns(
        score_reward=pl.when(pl.int_range(pl.len()) % 4 > 0).then("score_reward"),
        score_length=pl.when(pl.int_range(pl.len()) % 5 > 0).then("score_length"),
    )
    state, fair = fitted(STEP, table)
    assert fair.is_null().equals(table["score_reward"].is_null())
    assert state.info["answers"] == 24
    with pytest.raises(DataError, match="no answer has both 'reward' and 'length'"):
        fitted(STEP, table.with_columns(score_length=pl.lit(None, dtype=pl.Float64)))


def test_no_nuisance_within_prompts_changes_nothing():
    table = answers(40).with_columns(score_length=pl.lit(3.0))
    state, fair = fitted(STEP, table)
    assert fair.to_list() == table["score_reward"].to_list()
    assert state.info["slope"] == 0
    assert state.info["before"] is None


def test_d2align_is_the_guided_cosine():
    table = answers(40).with_columns(model=pl.lit("policy"))
    step = DirectionalCorrection(name="guided", method="d2align", policy="policy")
    assert step.needs(Shape.RESPONSES) == {}
    state, score = fitted(step, table)
    b = state.tables["direction"]["direction"].to_numpy()
    queries, texts = content(table, "prompt"), content(table, "response")
    expected = guided_reward(embed(None, queries), embed(None, texts), b)
    np.testing.assert_array_equal(score, expected)
    assert state.info["reward"]["after"] > state.info["reward"]["before"]
    assert score.mean() == pytest.approx(state.info["reward"]["after"])
    with pytest.raises(DataError, match="no answer is of 'other'"):
        fitted(step.model_copy(update={"policy": "other"}), table)


@pytest.mark.parametrize(
    "step",
    [STEP, DirectionalCorrection(name="guided", method="d2align")],
    ids=["debias", "d2align"],
)
def test_bytes_do_not_depend_on_shards_or_order(step):
    table = answers(60)
    state, whole = fitted(step, table)
    shuffled = table.sample(fraction=1, shuffle=True, seed=1)
    again, out = fitted(step, shuffled[:1], shuffled[1:20], shuffled[20:])
    assert again.info == state.info
    expected = table.select("response_id", score=whole).sort("response_id")
    assert shuffled.select("response_id", score=out).sort("response_id").equals(expected)


def test_mistakes_are_named():
    for fields, problem in (
        ({"nuisance": None}, "needs the objective"),
        ({"policy": "p"}, "policy is not for debias"),
        ({"name": "reward"}, "is there already"),
        ({"method": "d2align"}, "is not for d2align"),
    ):
        with pytest.raises(ValueError, match=problem):
            DirectionalCorrection(
                **{"name": "fair", "objective": "reward", "nuisance": "length", **fields}
            )
    with pytest.raises(ConfigError, match="needs an encoder"):
        STEP.fit_shard(answers(4), Context())
    with pytest.raises(DataError, match="has not been fitted"):
        STEP.label(answers(4), CTX)

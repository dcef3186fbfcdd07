"""Ridge heads: the closed form, the choice of the penalty, cross-fitting, and invariance."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from labelers.heads import ridge
from labelers.heads.heads import RidgeHeads
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.measures import exact
from prefactory.step.exchange import in_rounds
from prefactory.tables import Shape, canonical_order, with_ids

DIM = 4
ALPHAS = np.asarray([0.001, 0.01, 0.1, 1.0, 10.0, 100.0])


@cache
def vector(text):
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).normal(size=DIM)


def embed(encoder, texts):
    return np.asarray([vector(t) for t in texts], np.float32).reshape(-1, DIM)


CTX = Context(seed=3, step="heads", embed=embed)


def message(role, text):
    return [{"role": role, "content": text}]


def responses(prompts=30, each=4, score=lambda text: vector(text)[0]):
    rows = [
        {
            "prompt": message("user", f"question {p}"),
            "response": message("assistant", f"answer {p} {i}"),
            "source": "t",
            "source_id": f"{p}",
            "model": "m",
            "origin": "human",
            "score_good": score(f"answer {p} {i}"),
        }
        for p in range(prompts)
        for i in range(each)
    ]
    table = pl.DataFrame(rows, schema_overrides={"score_good": pl.Float64})
    return canonical_order(with_ids(table, Shape.RESPONSES), Shape.RESPONSES)


def pairs(rows):
    """PAIRS from (question, chosen, rejected)."""
    table = pl.DataFrame(
        [
            {
                "prompt": message("user", q),
                "chosen": message("assistant", c),
                "rejected": message("assistant", r),
                "source": "t",
                "source_id": q,
                "chosen_model": "m",
                "rejected_model": "m",
                "label_source": "human",
            }
            for q, c, r in rows
        ]
    )
    return canonical_order(with_ids(table, Shape.PAIRS), Shape.PAIRS)


def fitted(step, shards, ctx=CTX):
    parts = pl.concat([step.fit_shard(s, ctx) for s in shards])
    state = step.fit(parts.sort(parts.columns[0], maintain_order=True), ctx)
    context = Context(ctx.seed, ctx.step, state, ctx.embed)
    return state, pl.concat([step.label(s, context) for s in shards])


def problem(n, h, noise=1.0):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(n, h)) * rng.uniform(0.1, 5, h) + 2).astype(np.float32)
    y = x @ rng.normal(size=(h, 2)) / np.sqrt(h) + noise * rng.normal(size=(n, 2)) + 7
    return x, y


@pytest.mark.parametrize("n", [15, 300])
def test_closed_form_equals_sklearn(n):
    x, y = problem(n, 40)
    primal, dual = ridge.solve(ridge.moments(x, y), ALPHAS), ridge.solve_dual(x, y, ALPHAS)
    standard = StandardScaler().fit_transform(x.astype(np.float64))
    for i, alpha in enumerate(ALPHAS):
        expected = Ridge(alpha=alpha).fit(standard, y).predict(standard)
        for path in (primal, dual):
            for m in range(2):
                got = ridge.predict(x, path.weights[i, :, m], float(path.intercepts[i, m]))
                np.testing.assert_allclose(got, expected[:, m], atol=1e-6)


def test_training_error_never_decreases_with_the_penalty():
    x, y = problem(250, 120)
    stats = ridge.moments(x, y)
    path = ridge.solve(stats, ALPHAS)
    errors = ridge.squared_error(stats, path)
    assert (np.diff(errors, axis=0) >= -1e-9).all()
    fitted = x.astype(float) @ path.weights[2, :, 0] + path.intercepts[2, 0]
    # features and targets were put on a grid of 22 and 44 bits
    np.testing.assert_allclose(errors[2, 0], ((fitted - y[:, 0]) ** 2).sum(), rtol=1e-6)


def test_moments_add_up_to_the_bit_and_are_those_of_the_rows():
    x, y = problem(9000, 6)
    grid = ridge.Grid(exact.grid(ridge.largest(x)), exact.grid(ridge.largest(y)))
    cuts = [(0, 0), (0, 20), (20, 4500), (4500, 9000)]
    summed = exact.total(ridge.sums(x[a:b], y[a:b], grid) for a, b in reversed(cuts))
    parts = ridge.moments_of(summed, grid)
    for a, b in zip(parts, ridge.moments(x, y), strict=True):
        assert np.array_equal(a, b)
    z = x.astype(np.float64)
    plain = ridge.Moments(9000, z.sum(0), y.sum(0), z.T @ z, z.T @ y, (y**2).sum(0))
    for a, b in zip(parts, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_constant_feature_has_no_weight():
    x, y = problem(50, 6)
    x[:, 2] = 3.3
    for path in (ridge.solve(ridge.moments(x, y), ALPHAS), ridge.solve_dual(x, y, ALPHAS)):
        assert np.abs(path.weights[:, 2]).max() < 1e-9


@pytest.mark.parametrize("prompts", [2, 30])
def test_learns_a_linear_score_and_reports(prompts):
    step = RidgeHeads(objectives=("good",))
    table = responses(prompts)
    state, out = fitted(step, [table])
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    facts = state.info["good"]
    assert (facts["n"], facts["prompts"], facts["folds"]) == (4 * prompts, prompts, min(prompts, 5))
    if prompts == 30:
        assert facts["alpha"] == 0.001
        assert facts["r2"] > 0.999
        np.testing.assert_allclose(out["score_ridge_good"], table["score_good"], atol=1e-2)


def test_noise_gets_a_large_penalty():
    noise = np.random.default_rng(5)
    state, _ = fitted(
        RidgeHeads(objectives=("good",)), [responses(score=lambda text: noise.normal())]
    )
    facts = state.info["good"]
    assert facts["alpha"] >= 100
    assert list(facts["cv_mse"])[-5:] == ["100.0", "1000.0", "10000.0", "100000.0", "1000000.0"]
    assert list(map(float, facts["cv_mse"]))[:5] == [0.001, 0.01, 0.1, 1.0, 10.0]
    assert facts["notes"] == [f"The head explains nothing of held-out rows (r2 {facts['r2']:.3f})."]
    small = RidgeHeads(objectives=("good",), alphas=(0.01, 0.1))
    state, _ = fitted(small, [responses(score=lambda text: noise.normal())])
    assert "The chosen alpha, 0.1, is the largest of the grid." in state.info["good"]["notes"]


def test_scores_come_from_a_model_that_did_not_see_the_prompt():
    noise = np.random.default_rng(6)
    table = responses(score=lambda text: noise.normal())
    step = RidgeHeads(objectives=("good",), alphas=(0.001,))
    state, out = fitted(step, [table])
    prompt = table["prompt_id"][0]
    folds = pl.Series(step._folds(table, "good", Context(CTX.seed, CTX.step, state)))
    assert sorted(folds.value_counts()["count"]) == [6 * 4] * 5
    # changing this prompt's own scores changes none of its predictions
    changed = table.with_columns(
        score_good=pl.when(pl.col("prompt_id") == prompt).then(99.0).otherwise("score_good")
    )
    _, again = fitted(step, [changed])
    mine = table["prompt_id"] == prompt
    # (but for the grid of all targets, 44 bits below the largest)
    np.testing.assert_allclose(out.filter(mine), again.filter(mine), rtol=1e-9)
    assert not out.filter(~mine).equals(again.filter(~mine))
    _, plain = fitted(step.model_copy(update={"cross_fit": False}), [table])
    error = ((out["score_ridge_good"] - table["score_good"]) ** 2).mean()
    assert ((plain["score_ridge_good"] - table["score_good"]) ** 2).mean() < error


def test_missing_scores_per_objective():
    table = responses().with_columns(
        score_other=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.col("score_good") * 2 + 1)
    )
    absent = table["prompt_id"].unique().sort()[:3]
    gone = pl.col("prompt_id").is_in(absent.implode())
    table = table.with_columns(
        score_good=pl.when(~gone).then("score_good"),
        score_other=pl.when(pl.col("score_other") > 0).then("score_other").otherwise(float("nan")),
    )
    step = RidgeHeads(objectives=("good", "other"))
    state, out = fitted(step, [table])
    assert state.info["good"]["n"] == 27 * 4
    assert state.info["other"]["n"] == table.filter(pl.col("score_other").is_finite()).height
    assert out.null_count().sum_horizontal().item() == 0
    truth = pl.Series([vector(t)[0] for t in answers(table)])
    np.testing.assert_allclose(out["score_ridge_good"], truth, atol=1e-2)
    alone, _ = fitted(RidgeHeads(objectives=("good",)), [table])
    assert alone.info["good"] == state.info["good"]


def answers(table):
    return table.select(pl.col("response").list.first().struct.field("content")).to_series()


def test_constant_target_and_few_prompts():
    step = RidgeHeads(objectives=("good",))
    state, out = fitted(step, [responses(score=lambda text: 0.1)])
    assert out["score_ridge_good"].to_list() == [0.1] * 120
    assert (state.info["good"]["r2"], state.info["good"]["constant"]) == (None, True)
    state, out = fitted(step, [responses(prompts=1)])
    assert (state.info["good"]["folds"], state.info["good"]["alpha"]) == (0, 1e6)
    assert state.info["good"]["notes"] == [
        "One prompt allows no cross-validation: the largest alpha was taken."
    ]
    assert out["score_ridge_good"].null_count() == 0
    _, one = fitted(step, [responses(prompts=1, each=1, score=lambda text: 2.5)])
    assert one["score_ridge_good"].to_list() == [2.5]


def test_no_labelled_row():
    with pytest.raises(DataError, match="no row has a finite score of 'good'"):
        fitted(RidgeHeads(objectives=("good",)), [responses(score=lambda text: None)])


@pytest.mark.parametrize("prompts", [3, 30])
def test_bytes_do_not_depend_on_shards_or_order(prompts):
    table = responses(prompts)
    step = RidgeHeads(objectives=("good",))
    state, whole = fitted(step, [table])
    expected = table.select("response_id").hstack(whole).sort("response_id")
    shuffled = table.sample(fraction=1, shuffle=True, seed=1)
    cuts = [shuffled[:1], shuffled[1:8], shuffled[8:]]
    other, out = fitted(step, cuts)
    got = shuffled.select("response_id").hstack(out).sort("response_id")
    assert got.equals(expected)
    assert all(other.tables[k].equals(state.tables[k]) for k in state.tables)
    assert other.info == state.info


@pytest.mark.parametrize("prompts", [1, 3, 30])
def test_bytes_do_not_depend_on_the_runs_of_rows(prompts):
    scored = pl.int_range(pl.len()) % 7 > 0
    table = responses(prompts).with_columns(
        score_good=pl.when(pl.col("prompt_id") < "b").then("score_good"),
        score_other=pl.when(scored).then(pl.col("score_good") * 1e6 - 3),
    )
    if table["score_good"].null_count() == table.height:
        table = table.with_columns(score_good=pl.lit(1.0))
    runs_are_all_the_same(RidgeHeads(objectives=("good", "other"), folds=3), table, CTX)


@pytest.mark.parametrize("count", [1, 7, 90])
def test_bytes_of_pairs_do_not_depend_on_the_runs_of_rows(count):
    table, ctx = offset_pairs(count, 0.3)
    runs_are_all_the_same(RidgeHeads(objectives=("label",)), table, ctx)


def runs_are_all_the_same(step, table, ctx):
    whole = in_rounds(step, [step.fit_shard(table, ctx)], ctx)
    prompts = table.sort("prompt_id").partition_by("prompt_id", maintain_order=True)
    for size in (1, 4, 11):
        runs = [pl.concat(prompts[i : i + size]) for i in range(0, len(prompts), size)]
        parts = [step.fit_shard(run, ctx) for run in [*runs, table.clear()]]
        cut = in_rounds(step, parts, ctx)
        assert cut.info == whole.info
        assert all(cut.tables[k].equals(t) for k, t in whole.tables.items())


QUALITY = {"good": 3.0, "bad": -3.0}


def quality_embed(encoder, texts):
    rows = [np.r_[QUALITY.get(t.split()[0], 0.0), vector(t)[1:]] for t in texts]
    return np.asarray(rows, np.float32).reshape(-1, DIM)


def test_label_on_pairs():
    table = pairs([(f"q{i}", f"good {i}", f"bad {i}") for i in range(25)])
    step = RidgeHeads(objectives=("label",), prefix="r")
    state, out = fitted(step, [table], Context(seed=1, embed=quality_embed))
    assert dict(out.schema) == step.adds(Shape.PAIRS)
    assert out.columns == ["chosen_score_r_label", "rejected_score_r_label"]
    assert (out["chosen_score_r_label"] > out["rejected_score_r_label"]).all()
    assert (state.info["label"]["accuracy"], state.info["label"]["n"]) == (1.0, 25)
    assert state.info["label"]["r2"] > 0.99
    assert step.needs(Shape.PAIRS) == {}


def offset_pairs(count, signal):
    """Pairs whose answers share a prompt's large offset; the better one is `signal` above it."""
    known = {}

    def offset_embed(encoder, texts):
        return np.asarray([known.get(t, np.ones(DIM)) for t in texts], np.float32).reshape(-1, DIM)

    rng = np.random.default_rng(2)
    rows = []
    for i in range(count):
        base = rng.normal(size=DIM) * 10
        for side, sign in (("good", 1), ("bad", -1)):
            known[f"{side} {i}"] = (
                base + rng.normal(size=DIM) * 0.3 + sign * signal * np.eye(DIM)[0]
            )
        rows.append((f"q{i}", f"good {i}", f"bad {i}"))
    return pairs(rows), Context(seed=1, embed=offset_embed)


@pytest.mark.parametrize("count", [7, 200])  # fewer rows than features, and more
def test_pairs_are_learned_from_differences_whatever_the_prompt(count):
    table, ctx = offset_pairs(count, 1.0)
    step = RidgeHeads(objectives=("label",))
    state, out = fitted(step, [table], ctx)
    right = (out["chosen_score_ridge_label"] > out["rejected_score_ridge_label"]).mean()
    assert right == state.info["label"]["accuracy"]
    assert right > 0.85
    if count == 200:
        assert state.info["label"]["notes"] == []
        # the same labels as absolute scores drown in the prompts' offsets
        scored = table.with_columns(
            chosen_score_label=pl.lit(1.0), rejected_score_label=pl.lit(0.0)
        ).rename({f"{s}_score_label": f"{s}_score_absolute" for s in ("chosen", "rejected")})
        plain = step.model_copy(update={"objectives": ("absolute",)})
        facts = fitted(plain, [scored], ctx)[0].info["absolute"]
        assert facts["r2"] < 0.01 < 0.5 < state.info["label"]["r2"]


def test_pairs_have_no_order_and_no_leak():
    table, ctx = offset_pairs(40, 0.5)
    step = RidgeHeads(objectives=("label",), alphas=(1.0,))
    _, out = fitted(step, [table], ctx)
    swap = {"chosen": "rejected", "rejected": "chosen"}
    names = {
        a + end: b + end
        for a, b in swap.items()
        for end in ("", "_id", "_model")
        if a + end in table
    }
    turned = table.rename(names).select(table.columns)
    _, against = fitted(step, [turned], ctx)
    for a, b in swap.items():  # every label turned round: the scores change their sign
        np.testing.assert_allclose(
            against[f"{a}_score_ridge_label"], -out[f"{b}_score_ridge_label"], atol=1e-9
        )
    first = pl.col("pair_id") == table["pair_id"][0]
    mixed = pl.concat([turned.filter(first), table.filter(~first)])
    _, again = fitted(step, [mixed], ctx)
    for a, b in swap.items():  # one label turned round: its own scores don't move
        assert again[f"{a}_score_ridge_label"][0] == out[f"{b}_score_ridge_label"][0]
    assert again[1:].to_numpy().tolist() != out[1:].to_numpy().tolist()
    both = out.select(pl.mean_horizontal(pl.all())).to_series()
    assert abs(both.mean()) < 0.5 * both.std()


def test_bytes_of_pairs_do_not_depend_on_shards_or_order():
    table, ctx = offset_pairs(40, 0.2)
    step = RidgeHeads(objectives=("label",))
    state, whole = fitted(step, [table], ctx)
    shuffled = table.sample(fraction=1, shuffle=True, seed=1)
    other, out = fitted(step, [shuffled[:1], shuffled[1:9], shuffled[9:]], ctx)
    expected = table.select("pair_id").hstack(whole).sort("pair_id")
    assert shuffled.select("pair_id").hstack(out).sort("pair_id").equals(expected)
    assert other.info == state.info
    assert all(other.tables[k].equals(state.tables[k]) for k in state.tables)


def test_labels_of_chance_are_noted():
    rng = np.random.default_rng(4)
    rows = [(f"q{i}", *rng.permutation([f"a {i}", f"b {i}"]).tolist()) for i in range(80)]
    state, _ = fitted(RidgeHeads(objectives=("label",)), [pairs(rows)])
    assert any("no better than chance" in note for note in state.info["label"]["notes"])
    same = pairs([(f"q{i}", "same", "same") for i in range(4)])
    state, out = fitted(RidgeHeads(objectives=("label",)), [same])
    assert out.to_numpy().tolist() == [[0.0, 0.0]] * 4
    assert state.info["label"]["notes"] == [
        "There is no difference to learn: every answer gets the same score."
    ]


def test_a_response_on_both_sides_of_pairs():
    table = pairs([("q", "a", "b"), ("q", "b", "c"), ("q", "b", "d"), ("p", "x", "y")])
    step = RidgeHeads(objectives=("label",))
    parts = step.fit_shard(table, CTX)
    b = table.filter(pl.col("chosen").list.first().struct.field("content") == "b")["chosen_id"][0]
    targets = parts.filter(pl.col("row_id") == b)["target_label"]
    assert sorted(targets) == [0.0, 1.0, 1.0]
    state, out = fitted(step, [table[:1], table[1:]])
    assert (state.info["label"]["n"], out.height) == (4, 4)
    assert parts["features"].dtype == pl.Array(pl.Float32, 2 * DIM)


def test_scores_on_pairs():
    table = pairs([(f"q{i}", f"a {i}", f"b {i}") for i in range(12)]).with_columns(
        chosen_score_good=pl.lit(1.0), rejected_score_good=pl.lit(None, dtype=pl.Float64)
    )
    step = RidgeHeads(objectives=("good",))
    assert list(step.needs(Shape.PAIRS)) == ["chosen_score_good", "rejected_score_good"]
    _, out = fitted(step, [table])
    assert out["rejected_score_ridge_good"].to_list() == [1.0] * 12


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="needs an encoder"):
        RidgeHeads(objectives=("good",)).fit_shard(responses(2), Context())
    for wrong in ({"objectives": ()}, {"alphas": (0.0,)}, {"alphas": (1.0, 1.0)}, {"folds": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RidgeHeads(**{"objectives": ("good",), **wrong})


def test_the_state_survives_the_store(tmp_path: Path):
    state, _ = fitted(RidgeHeads(objectives=("good",)), [responses(6)])
    for name, table in state.tables.items():
        table.write_ipc(tmp_path / f"{name}.arrow")
        assert pl.read_ipc(tmp_path / f"{name}.arrow").equals(table)

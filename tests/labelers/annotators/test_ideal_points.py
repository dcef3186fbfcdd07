"""The PAL step, end to end on planted groups of annotators."""

import hashlib
from functools import cache

import numpy as np
import polars as pl
import pytest

from labelers import PAL
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.preferences.ideal_points import PALModel, components, fit_pal_b
from prefactory.tables import Shape, canonical_order
from tests.helpers import content, pairs

DIM = 8
IDEALS = np.random.default_rng(3).normal(size=(2, DIM))
GROUP = np.arange(20) % 2
SMALL = {"starts": 1, "steps": 200, "folds": 2}


@cache
def vector(text):
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).normal(size=DIM)


def embed(encoder, texts):
    return np.asarray([vector(t) for t in texts], np.float32).reshape(-1, DIM)


CTX = Context(seed=3, step="pal", embed=embed)


def near(user, prompt, answer):
    return -np.linalg.norm(answer - IDEALS[GROUP[user]])


def on_topic(user, prompt, answer):
    """One group likes answers that point the prompt's way, the other those that point away."""
    return (1 - 2 * GROUP[user]) * (answer @ prompt) / np.linalg.norm(answer)


def planted(n=1200, liking=near, seed=0):
    """Pairs of 20 annotators of two groups, who prefer the answer that they like better."""
    rng = np.random.default_rng(seed)
    users = rng.integers(20, size=n)
    rows = []
    for i, user in enumerate(users):
        sides = [f"l{seed}.{i}", f"r{seed}.{i}"]
        left, right = (liking(user, vector(f"q{i % 300}"), vector(s)) for s in sides)
        rows.append((f"q{i % 300}", *(sides if left > right else sides[::-1])))
    table = pairs(*rows, annotator=[f"u{u:02d}" for u in users])
    return canonical_order(table, Shape.PAIRS)


def fitted(step, *shards, ctx=CTX):
    parts = pl.concat([step.fit_shard(s, ctx) for s in shards]).sort("pair_id")
    state = step.fit(parts, ctx)
    ctx = Context(ctx.seed, ctx.step, state, ctx.embed)
    out = [step.label(s, ctx) for s in shards]
    assert all(dict(o.schema) == step.adds(Shape.PAIRS) for o in out)
    return state, pl.concat(out)


def right(margins):
    return float((margins > 0).mean())


@pytest.mark.slow
def test_two_prototypes_find_two_groups_of_annotators():
    table = planted()
    one, two = (fitted(PAL(prototypes=k, starts=2, folds=2), table) for k in (1, 2))
    held_out = [state.info["accuracy"] for state, _ in (one, two)]
    print(f"K=1 {held_out[0]:.3f}, K=2 {held_out[1]:.3f}")  # noqa: T201 - to read
    assert held_out[0] < 0.85
    assert held_out[1] >= 0.93
    assert two[0].info["accuracy_mean"] < 0.85
    assert right(two[1]["margin_pal"]) == held_out[1]
    found = table.select("annotator").hstack(two[1].select("group_pal")).unique()
    assert found.height == 20  # one group for each annotator, whatever the fold
    groups = found.sort("annotator")["group_pal"].to_numpy()
    assert (groups == GROUP).all() or (groups != GROUP).all()
    assert sum(two[0].info["mass"]) == pytest.approx(1)
    assert two[0].info["mass"][0] >= two[0].info["mass"][1]


def test_rewards_of_groups_tell_where_they_agree():
    table = planted()
    _, out = fitted(PAL(**SMALL), table)
    gaps = [out[f"chosen_score_pal_{g}"] - out[f"rejected_score_pal_{g}"] for g in (0, 1)]
    sides = np.stack([[vector(t) for t in content(table, s)] for s in ("chosen", "rejected")])
    far = np.linalg.norm(sides[:, :, None] - IDEALS, axis=3)
    true = (far[1] - far[0]) > 0  # [pairs, groups]
    match = [[(np.asarray(gap > 0) == true[:, h]).mean() for h in (0, 1)] for gap in gaps]
    best = max(match[0][0] + match[1][1], match[0][1] + match[1][0]) / 2
    assert best > 0.8
    assert (out.select(pl.col("^.*_score_pal_.$")).to_numpy() <= 0).all()


def test_models_of_folds_number_their_prototypes_as_the_model_of_all():
    rng = np.random.default_rng(0)
    users = tuple(f"u{i}" for i in range(6))
    logits = rng.normal(size=(6, 3))
    whole = PALModel(users, logits, rng.normal(size=(3, 2)), np.eye(2), 0.0)
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        fold = PALModel(users[1:], logits[1:, order], whole.prototypes[order], np.eye(2), 0.0)
        found = PAL(prototypes=3)._matched(fold, whole)
        assert found.prototypes.tolist() == whole.prototypes.tolist()
        assert found.logits.tolist() == logits[1:].tolist()


@pytest.mark.slow
def test_method_b_learns_ideal_points_that_move_with_the_prompt():
    table = planted(1500, on_topic)
    found = {}
    for k in (1, 2):
        step = PAL(method="b", prototypes=k, rank=8, starts=1, steps=300, folds=2)
        found[k] = fitted(step, table)[0].info["accuracy"]
    assert found[1] < 0.6  # the groups want opposite things
    assert found[2] > 0.8
    fixed = fitted(PAL(**SMALL), table)[0].info
    assert fixed["accuracy"] < 0.6  # no fixed point fits


def test_b_needs_prompts_that_fit():
    with pytest.raises(DataError, match="2 users and 1 prompts"):
        fit_pal_b(["a", "b"], np.ones((1, 2)), np.ones((2, 2)), np.zeros((2, 2)), np.ones(2))
    model = fit_pal_b(
        ["a"], np.ones((1, 2)), np.ones((1, 2)), np.zeros((1, 2)), np.ones(1), steps=2
    )
    with pytest.raises(DataError, match="depend on the prompt"):
        model.rewards(np.ones((1, 2)), np.ones((1, 2)))


@pytest.mark.parametrize("method", ["a", "b"])
def test_bytes_do_not_depend_on_shards_or_order(method):
    table = planted(120)
    step = PAL(method=method, starts=1, steps=20, folds=3)
    state, whole = fitted(step, table)
    shuffled = table.sample(fraction=1, shuffle=True, seed=1)
    again, out = fitted(step, shuffled[:1], shuffled[1:40], shuffled[40:])
    expected = table.select("pair_id").hstack(whole).sort("pair_id")
    assert shuffled.select("pair_id").hstack(out).sort("pair_id").equals(expected)
    assert again.info == state.info
    assert all(again.tables[k].equals(state.tables[k]) for k in state.tables)
    assert step.label(table.clear(), Context(embed=embed, state=state)).height == 0


def test_scores_come_from_a_model_that_did_not_see_the_prompt():
    table = planted(200)
    step = PAL(starts=1, steps=30, folds=4)
    _, out = fitted(step, table)
    prompt = pl.col("prompt_id") == table["prompt_id"][0]
    swap = {"chosen": "rejected", "rejected": "chosen"}
    names = {f"{a}{e}": f"{b}{e}" for a, b in swap.items() for e in ("", "_id", "_model")}
    turned = table.rename(names).select(table.columns)
    mixed = pl.concat([turned.filter(prompt), table.filter(~prompt)]).sort("prompt_id", "pair_id")
    _, again = fitted(step, mixed)
    mine, same = (t["prompt_id"] == table["prompt_id"][0] for t in (table, mixed))
    assert again.filter(same)["margin_pal"].to_list() == (-out.filter(mine)["margin_pal"]).to_list()
    assert again.filter(~same)["margin_pal"].to_list() != out.filter(~mine)["margin_pal"].to_list()


def test_unknown_annotators_count_as_the_mean_one():
    table = planted(200)
    state, _ = fitted(PAL(**SMALL), table)
    nobody, stranger = (
        PAL(**SMALL).label(
            table.with_columns(annotator=pl.lit(value, dtype=pl.String)),
            Context(3, "pal", state, embed),
        )
        for value in (None, "stranger")
    )
    assert nobody.equals(stranger)
    assert nobody["group_pal"].null_count() == 200
    some = table.with_columns(annotator=pl.when(pl.int_range(pl.len()) > 0).then("annotator"))
    _, out = fitted(PAL(**SMALL), some)
    assert out["group_pal"].is_null().to_list() == [True] + [False] * 199
    assert out["margin_pal"].null_count() == 0


def test_few_labels_are_drawn_to_the_mean():
    table = planted(200)
    state, _ = fitted(PAL(**SMALL, enough=10_000), table)
    whole = state.tables["users"].filter(fold=-1)
    mean = whole.filter(pl.col("user").is_null())["weights"].to_numpy()[0]
    assert np.abs(whole["weights"].to_numpy() - mean).max() < 0.02
    free, _ = fitted(PAL(**SMALL, enough=1), table)
    assert np.abs(free.tables["users"].filter(fold=-1)["weights"].to_numpy() - mean).max() > 0.3


def test_newcomers_are_placed_among_prototypes_that_they_did_not_shape():
    many, few = planted(400), planted(60, seed=1).with_columns(annotator="n" + pl.col("annotator"))
    few = few.filter(pl.col("annotator").is_in(["nu00", "nu19"]))
    assert few["annotator"].value_counts()["count"].max() < 10
    step = PAL(**SMALL, enough=10, newcomers="locate")
    both = canonical_order(pl.concat([many, few]), Shape.PAIRS)
    state, _ = fitted(step, both)
    own, _ = fitted(step, many)

    def arrays(of):
        kept = of.tables["arrays"].filter(fold=-1, name="prototypes")
        return kept["values"].to_list()

    assert arrays(state) == arrays(own)  # as if the newcomers were not there
    weights = dict(state.tables["users"].filter(fold=-1).select("user", "weights").rows())
    for newcomer, like in (("nu00", "u00"), ("nu19", "u19")):
        assert np.argmax(weights[newcomer]) == np.argmax(weights[like])
    again, _ = fitted(step, both[::-1][:200], both[::-1][200:])
    assert again.tables["users"].equals(state.tables["users"])


def test_newcomers_of_method_b_do_not_shape_its_maps_either():
    table = planted(120)
    one = table["annotator"] == "u00"
    step = PAL(method="b", starts=1, steps=10, folds=1, enough=100, newcomers="locate")
    many = table.with_columns(annotator=pl.when(one).then("annotator").otherwise(pl.lit("all")))
    state, out = fitted(step, many)
    own, _ = fitted(step, many.filter(~one))
    heads = [
        of.tables["arrays"].filter(name="heads")["values"][0].to_numpy() for of in (state, own)
    ]
    one, two = (sorted(found.reshape(2, -1).tolist()) for found in heads)
    assert one == two, "in the order of their mass, in which newcomers count"
    users = state.tables["users"]["user"].to_list()
    assert users == ["all", "u00", None]
    assert out["margin_pal"].is_finite().all()


def test_several_annotators_of_one_label():
    table = planted(300)
    lists = table.with_columns(annotator=pl.concat_list("annotator"))
    step = PAL(**SMALL)
    _, single = fitted(step, table)
    listed = step.model_copy(update={"several": True})
    assert listed.needs(Shape.PAIRS) == {"annotator": pl.List(pl.String)}
    state, out = fitted(listed, lists)
    assert out.equals(single)
    nobody = lists.with_columns(
        annotator=pl.when(pl.int_range(pl.len()) > 0).then("annotator").otherwise([])
    )
    state, out = fitted(listed, nobody)
    assert state.info["labels"] == 299
    assert out["group_pal"][0] is None


def test_one_annotator_and_none():
    table = planted(60).with_columns(annotator=pl.lit("only"))
    state, out = fitted(PAL(prototypes=1, **{**SMALL, "folds": 1}), table)
    assert state.info["users"] == 1
    assert state.info["accuracy"] is None
    assert [n.split(":")[0].split(" ")[0] for n in state.info["notes"]] == ["No", "There"]
    assert right(out["margin_pal"]) > 0.5
    nobody = table.with_columns(annotator=pl.lit(None, dtype=pl.String))
    with pytest.raises(DataError, match="no pair has an annotator"):
        fitted(PAL(), nobody)


def test_a_sample_bounds_the_fit():
    state, out = fitted(PAL(**SMALL, sample=100), planted(300))
    assert state.info["labels"] == 100
    assert out["margin_pal"].null_count() == 0


def test_components():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 6)) * [9, 5, 1, 0.1, 0.1, 0.1]).astype(np.float32)
    axes = components([x[:90], x[90:]], 2)
    np.testing.assert_allclose(np.abs(axes), np.eye(6)[:, :2], atol=0.1)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)
    assert (axes[[0, 1], [0, 1]] > 0).all()
    assert components([x], 6).tolist() == np.eye(6).tolist()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="rank is for method b"):
        PAL(rank=3)
    with pytest.raises(ValueError, match="always has a linear map"):
        PAL(method="b", linear=True)
    with pytest.raises(ConfigError, match="needs an encoder"):
        PAL().fit_shard(planted(3), Context())
    with pytest.raises(DataError, match="has not been fitted"):
        PAL().label(planted(3), CTX)

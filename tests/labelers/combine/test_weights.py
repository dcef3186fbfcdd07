import hashlib
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from labelers import Weigh
from labelers.combine import weights
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.tables import Shape
from tests.helpers import digest, one_file, pairs, recipe, responses, run, view

R = np.array([[2.0, 0.5, -1.0]])


# -- PRO -----


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1, (0.786, 0.175, 0.039)), (10, (0.384, 0.331, 0.285)), (0.1, (1, 0, 0))],
)
def test_labels_of_the_specification(temperature, expected):
    assert weights.softmax_weights(R, temperature)[0] == pytest.approx(expected, abs=5e-4)


def test_labels_do_not_move_with_a_constant_and_mix_with_equal_weights():
    plain = weights.softmax_weights(R)
    assert weights.softmax_weights(R + 17) == pytest.approx(plain)
    assert weights.softmax_weights(R, mixing=1) == pytest.approx(np.full((1, 3), 1 / 3))
    assert weights.softmax_weights(R, mixing=0.3) == pytest.approx(0.7 * plain + 0.1)
    assert weights.softmax_weights(R, 1e-3, 0.3).min() == pytest.approx(0.1)


def test_divergence_is_0_only_between_equals():
    p = np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5]])
    q = np.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])
    assert weights.divergence(p, q) == pytest.approx([0.5 * math.log(2), 0])
    assert weights.divergence(p, p).tolist() == [0, 0]


def problem(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32) * 0.05 + 1
    return x, rng.normal(size=(3, d)) * 30, rng.normal(size=3)


def test_the_adapter_recovers_a_softmax_of_the_prompt():
    x, w, b = problem()
    truth = weights.Adapter(w, b - (w * 1.0).sum(1)).predict(x)
    head = weights.fit_adapter(x, truth, penalty=0)
    assert np.abs(head.predict(x) - truth).max() < 1e-4
    assert head.predict(x).sum(axis=1) == pytest.approx(np.ones(400))
    alone = weights.Adapter(*head).predict(x[7:8])
    assert alone.tolist() == head.predict(x)[7:8].tolist()


def test_a_large_penalty_gives_the_mean_label():
    x, _, _ = problem()
    truth = weights.softmax_weights(np.random.default_rng(1).normal(size=(400, 3)))
    head = weights.fit_adapter(x, truth, penalty=1e6)
    assert head.predict(x) == pytest.approx(np.broadcast_to(truth.mean(0), (400, 3)), abs=1e-4)
    assert weights.fit_adapter(x[:1], truth[:1]).predict(x[:1]) == pytest.approx(
        truth[:1], abs=1e-4
    )


# -- three factors -----


def z_scores(n=5000):
    return np.random.default_rng(2).normal(size=(n, 3))


def factors(z, goals=0.0, risk=1.0, **fields):
    k = z.shape[1]
    return weights.tri_factor(
        z, np.broadcast_to(goals, k), np.broadcast_to(risk, k), **{"temperature": 1.0, **fields}
    )


def test_weak_and_risky_objectives_weigh_more():
    z = z_scores()
    assert factors(z) == pytest.approx(np.full(3, 1 / 3), abs=0.02)
    weak = factors(z - [2, 0, 0])
    assert weak[0] > weak[1]
    assert factors(z, risk=[1, 1, 3])[2] == pytest.approx(0.6, abs=0.03)
    assert factors(z, goals=[5, 0, 0])[0] == pytest.approx(0.5, abs=0.02)


def test_a_copy_of_an_objective_changes_little():
    z = z_scores()
    original = factors(z)[0]
    copied = factors(np.column_stack([z, z[:, 0]]))
    pair = copied[0] + copied[3]
    uniform = 2 / 4
    assert abs(pair - original) < abs(uniform - original)
    assert pair == pytest.approx(original, abs=0.02)


@given(
    st.integers(2, 5),
    st.integers(1, 9),
    st.floats(0, 0.2),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_weights_are_a_point_of_the_simplex_above_the_floor(k, n, floor, decay, seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k)).round(1)
    z[:, 0] = 0.1  # no spread
    previous = rng.dirichlet(np.ones(k))
    found = factors(z, floor=min(floor, 1 / k), previous=previous, decay=decay)
    assert found.sum() == pytest.approx(1)
    assert (found >= min(floor, 1 / k) - 1e-12).all()
    assert factors(z, previous=previous, decay=1.0) == pytest.approx(previous)


# -- pessimism and Pareto -----


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=5), st.floats(0.05, 20))
def test_the_soft_minimum_lies_between_the_least_and_the_mean(z, temperature):
    found = weights.soft_min(np.array([z]), temperature)[0]
    assert min(z) - 1e-9 <= found <= np.mean(z) + 1e-9
    assert weights.soft_min(np.array([z]), 1e-4)[0] == pytest.approx(min(z), abs=1e-3)
    assert weights.soft_min(np.array([z]), 1e6)[0] == pytest.approx(np.mean(z), abs=1e-2)


def test_soft_minimum_by_hand():
    assert weights.soft_min(np.array([[0.0, 0], [0, math.nan]])).tolist()[0] == 0
    assert np.isnan(weights.soft_min(np.array([[0, math.nan]]))[0])
    one = weights.soft_min(np.array([[0.0, math.log(3)]]))
    assert one == pytest.approx([-math.log((1 + 1 / 3) / 2)])


def test_pareto_ranks_by_hand():
    values = np.array([[2, 0], [0, 2], [1, 1], [0, 0], [1, 0.5], [1, 1], [math.nan, 9], [-5, -5]])
    groups = np.array([0] * 7 + [1])
    assert weights.pareto_rank(values, groups).tolist() == [0, 0, 0, 2, 1, 0, -1, 0]
    assert weights.pareto_rank(values[:0], groups[:0]).tolist() == []


@given(
    st.lists(st.tuples(st.integers(0, 3), *[st.integers(0, 4)] * 3), min_size=1, max_size=25),
)
def test_pareto_ranks_equal_the_definition(rows):
    rows = sorted(rows)
    groups = np.array([g for g, *_ in rows])
    values = np.array([v for _, *v in rows], dtype=float)

    def peel(members):
        rank, left = {}, set(members)
        while left:
            front = {
                i
                for i in left
                if not any(
                    (values[j] >= values[i]).all() and (values[j] > values[i]).any() for j in left
                )
            }
            rank |= dict.fromkeys(front, len(set(rank.values())))
            left -= front
        return rank

    expected = {}
    for g in set(groups.tolist()):
        expected |= peel(np.flatnonzero(groups == g).tolist())
    assert weights.pareto_rank(values, groups).tolist() == [expected[i] for i in range(len(rows))]


# -- the step -----

TOPICS = {"poem": (1.0, 0, 0, 0), "bomb": (0, 1.0, 0, 0)}


def embed(encoder, texts):
    """The first word's topic, and noise from the text."""
    noise = [list(hashlib.blake2b(t.encode(), digest_size=4).digest()) for t in texts]
    topic = [TOPICS.get(t.split()[0], (0, 0, 0, 0)) for t in texts]
    return (np.array(topic) + np.array(noise) / 2560).astype(np.float32).reshape(-1, 4)


CTX = Context(seed=3, embed=embed)


def labelled_pairs(n=40):
    """On poems the chosen answer is the witty one, on bombs the safe one."""
    topics = ["poem" if i % 2 else "bomb" for i in range(n)]
    wit = [1.0 if t == "poem" else 0.0 for t in topics]
    return pairs(
        *[(f"{t} {i}", f"good {i}", f"bad {i}") for i, t in enumerate(topics)],
        chosen_score_wit=wit,
        rejected_score_wit=[0.0] * n,
        chosen_score_safe=[1 - w for w in wit],
        rejected_score_safe=[0.0] * n,
    )


def fitted(step, *tables, ctx=CTX):
    parts = pl.concat([step.fit_shard(t, ctx) for t in tables])
    state = step.fit(parts.sort(parts.columns[0], maintain_order=True), ctx)
    return Context(seed=ctx.seed, embed=ctx.embed, state=state)


def pro(**fields):
    given = {"name": "pro", "objectives": ("wit", "safe"), "method": "pro", "temperature": 0.3}
    return Weigh(**{**given, **fields})


def test_weights_follow_the_prompt():
    table = labelled_pairs()
    step = pro()
    ctx = fitted(step, table)
    info = ctx.state.info
    assert (info["prompts"], info["labels"]["wit"]) == (40, pytest.approx(0.5))
    assert info["kl"] < 0.05 * info["kl_constant"]
    new = step.label(table, ctx)
    assert dict(new.schema) == step.adds(Shape.PAIRS)
    assert (new["chosen_score_pro"] > 0.9).all()
    assert new["rejected_score_pro"].to_list() == [0.0] * 40
    # an unseen prompt gets the weights of its like
    other = pairs(("poem new", "a", "b"), chosen_score_wit=[1.0], rejected_score_wit=[0.0])
    other = other.with_columns(
        chosen_score_safe=pl.lit(0.0), rejected_score_safe=pl.lit(1.0, dtype=pl.Float64)
    )
    row = step.label(other, ctx).row(0)
    assert row[0] > 0.9 > 0.1 > row[1]
    assert sum(row) == pytest.approx(1)


def test_margins_weigh_what_decided_and_rewards_what_is_high():
    table = pairs(
        *[(f"bomb {i}", "good", "bad") for i in range(6)],
        chosen_score_wit=[2.0] * 6,
        rejected_score_wit=[3.0] * 6,
        chosen_score_safe=[-1.0] * 6,
        rejected_score_safe=[-4.0] * 6,
    )
    labels = [
        fitted(pro(target=t, temperature=1), table).state.info["labels"]
        for t in ("chosen", "margin")
    ]
    assert labels[0] == pytest.approx(dict(zip(("wit", "safe"), softmax(2, -1), strict=True)))
    assert labels[1] == pytest.approx(dict(zip(("wit", "safe"), softmax(-1, 3), strict=True)))


def softmax(a, b):
    p = 1 / (1 + math.exp(b - a))
    return p, 1 - p


def test_a_preference_takes_the_place_of_labels_on_responses():
    rows = [(f"poem {i // 3}", f"a{i}") for i in range(30)]
    table = responses(
        *rows,
        score_wit=[float(i % 3) for i in range(30)],
        score_safe=[0.5] * 30,
        score_human=[float(i % 3) if i < 27 else 1.0 for i in range(30)],  # the last prompt ties
    )
    step = pro(preference="human", temperature=1)
    ctx = fitted(step, table)
    assert ctx.state.info["prompts"] == 9
    assert ctx.state.info["labels"]["wit"] == pytest.approx(softmax(2, 0)[0])
    assert dict(step.label(table, ctx).schema) == step.adds(Shape.RESPONSES)
    with pytest.raises(ConfigError, match="name a preference"):
        pro().needs(Shape.RESPONSES)
    assert "chosen_score_human" in step.needs(Shape.PAIRS)
    with pytest.raises(DataError, match="no prompt has a preferred"):
        fitted(step, table.with_columns(score_human=pl.lit(1.0)))
    with pytest.raises(ConfigError, match="needs an encoder"):
        fitted(step, table, ctx=Context())


def test_a_prompt_is_weighed_by_a_head_that_did_not_see_it():
    table = labelled_pairs(12)
    step = pro()
    out = step.label(table, fitted(step, table))
    first = pl.col("pair_id") == table["pair_id"][0]
    swapped = table.with_columns(
        chosen_score_wit=pl.when(first).then(9.0).otherwise("chosen_score_wit")
    )
    ctx = fitted(step, swapped)
    assert step.label(table, ctx).row(0) == out.row(0)
    assert not step.label(table, ctx).equals(out)
    whole = pro(folds=1)
    assert whole.label(table, fitted(whole, swapped)).row(0) != out.row(0)


def test_the_other_methods_in_the_step():
    table = responses(
        *[("p", "a"), ("p", "b"), ("p", "c"), ("q", "d")],
        score_x=[2.0, 0, 1, None],
        score_y=[0.0, 2, -1, 1],
    )
    fields = {"name": "s", "objectives": ("y", "x")}

    def scores(**more):
        step = Weigh(**fields, **more)
        return step.label(table, fitted(step, table, ctx=Context()))["score_s"].to_list()

    assert scores(method="pareto") == [0.0, 0.0, -1.0, None]
    assert scores(method="soft_min", temperature=1e-3) == pytest.approx([0, 0, -1, None], abs=1e-2)
    step = Weigh(**fields, method="tri_factor", risk={"y": 3}, floor=0.1)
    ctx = fitted(step, table, ctx=Context())
    w = ctx.state.info["weights"]
    assert ctx.state.info["scored"] == 3
    # a stored state may have its keys in another order
    sorted_keys = {"weights": dict(sorted(w.items()))}
    ctx = Context(state=type(ctx.state)(info=sorted_keys))
    found = step.label(table, ctx)["score_s"].to_list()
    assert found == pytest.approx([2 * w["x"], 2 * w["y"], w["x"] - w["y"], None])


def test_pairs_share_the_pareto_front_of_their_prompt():
    table = pairs(
        *[("p", "a", "b"), ("p", "b", "c")],
        chosen_score_x=[2.0, 1],
        rejected_score_x=[1.0, 0],
        chosen_score_y=[2.0, 1],
        rejected_score_y=[1.0, 0],
    )
    step = Weigh(name="s", objectives=("x", "y"), method="pareto")
    out = step.label(table, fitted(step, table, ctx=Context()))
    ranks = dict(zip(table["chosen_id"], out["chosen_score_s"], strict=True))
    assert sorted(ranks.values()) == [-1.0, 0.0]
    assert sorted(out["rejected_score_s"]) == [-2.0, -1.0]


STEPS = [
    pro(preference="human", mixing=0.1),
    pro(preference="human", folds=1, target="chosen"),
    *(
        Weigh(name="pro", objectives=("wit", "safe"), method=method)
        for method in ("tri_factor", "soft_min", "pareto")
    ),
]


@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
@pytest.mark.parametrize("step", STEPS, ids=lambda s: f"{s.method}-{s.target}")
def test_bits_depend_on_neither_order_nor_shards(step, random):
    rng = np.random.default_rng(4)
    table = responses(
        *[(f"{'poem' if i % 2 else 'bomb'} {i % 7}", f"a{i}") for i in range(40)],
        score_wit=rng.normal(size=40),
        score_safe=[None if i == 3 else float(v) for i, v in enumerate(rng.normal(size=40))],
        score_human=rng.integers(0, 3, 40).astype(float),
    )
    ctx = fitted(step, table)
    whole = step.label(table, ctx)
    order = list(range(40))
    random.shuffle(order)
    parts = table[order].partition_by("prompt_id", maintain_order=True)
    other = fitted(step, pl.concat(parts[:2]), *parts[2:])
    assert other.state.info == ctx.state.info
    shards = [t.select("response_id").hstack(step.label(t, other)) for t in parts]
    expected = table.select("response_id").hstack(whole).sort("response_id")
    assert pl.concat(shards).sort("response_id").equals(expected)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"method": "pareto", "folds": 3}, "folds is not for pareto"),
        ({"method": "pro", "goals": {"x": 1}}, "goals is not for pro"),
        ({"method": "soft_min", "preference": "y"}, "preference is not for soft_min"),
        ({"method": "tri_factor", "risk": {"z": 1}}, "name z: no objective"),
        ({"method": "tri_factor", "risk": {"x": 0}}, "greater than 0"),
        ({"method": "tri_factor", "floor": 0.6}, "floor: at most 1/2"),
        ({"method": "pareto", "name": "x"}, "not the new one"),
        ({"method": "average"}, "soft_min"),
    ],
)
def test_wrong_fields_are_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        Weigh(**{"name": "s", "objectives": ("x", "y"), **fields})


def test_only_pro_opens_the_encoder():
    assert pro().opens_engines()
    assert Weigh(name="s", objectives=("x",), method="pareto").engines() == []


def test_a_run_of_all_three_steps_does_not_depend_on_shards(tmp_path):
    table = labelled_pairs()
    steps = (
        {"labelers.Normalise": {"objectives": ["wit", "safe"], "suffix": "z"}},
        {
            "labelers.MAP": {
                "name": "map",
                "objectives": ["wit", "safe"],
                "palette": {"wit": 0.3, "safe": 0.3},
            }
        },
        *(
            {
                "labelers.Weigh": {
                    "name": method,
                    "objectives": ["wit_z", "safe_z"],
                    "method": method,
                }
            }
            for method in ("tri_factor", "pareto")
        ),
    )
    results = [
        run(recipe(*steps), one_file(table), tmp_path / str(rows), shard_rows=rows, workers=2)
        for rows in (1000, 7)
    ]
    assert digest(results[0]) == digest(results[1])
    rows = view(results[0], "pairs")
    assert rows.height == 40
    assert (rows["chosen_score_map"] > rows["rejected_score_map"]).all()
    assert (rows["chosen_score_pareto"] >= rows["rejected_score_pareto"]).all()
    infos = [[s.info for s in r.stages[1:]] for r in results]
    assert infos[0] == infos[1]

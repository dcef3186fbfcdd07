import itertools
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import spearmanr

from filters.selection.isa import ISA
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.tables import COLUMNS, ROW_ID, Shape, shape_of

RNG = np.random.default_rng(0)
CLOUDS = np.concatenate([RNG.normal(0, 1, (60, 3)), RNG.normal([4, 1, 0], 0.5, (40, 3))])
"""Two clouds: rows 0 to 59 and, tighter, 60 to 99."""


QUESTION = [{"role": "user", "content": "q"}]


def embed(encoder, texts):
    """The vector of "question\\n1 2 3" is (1, 2, 3), and a fourth number 3 keeps the length."""
    vectors = [[float(x) for x in t.split("\n")[1].split()] for t in texts]
    return np.asarray([[*v, 3.0] for v in vectors], dtype=np.float32).reshape(-1, 4)


def said(vector):
    return [{"role": "assistant", "content": " ".join(f"{x:.6f}" for x in vector)}]


def responses(vectors, good=None):
    rows = [
        {
            "response_id": f"r{i:03}",
            "response": said(vector),
            "prompt_id": "p",
            "prompt": QUESTION,
            "score_good": None if good is None else good[i],
        }
        for i, vector in enumerate(vectors)
    ]
    return pl.DataFrame(rows, schema={**COLUMNS[Shape.RESPONSES], "score_good": pl.Float64})


def pairs(vectors, sides):
    """Pair i is (chosen, rejected) = sides[i], numbers of vectors."""
    rows = [
        {
            "pair_id": f"p{i:03}",
            "prompt_id": "p",
            "prompt": QUESTION,
            "chosen_id": f"r{c:03}",
            "rejected_id": f"r{r:03}",
            "chosen": said(vectors[c]),
            "rejected": said(vectors[r]),
        }
        for i, (c, r) in enumerate(sides)
    ]
    return pl.DataFrame(rows, schema=COLUMNS[Shape.PAIRS])


def fitted(step, table, cuts=(), seed=0):
    ctx = Context(seed=seed, embed=embed)
    edges = [0, *sorted(cuts), table.height]
    shards = [table[a:b] for a, b in itertools.pairwise(edges)]
    parts = pl.concat(step.fit_shard(s, ctx) for s in shards)
    return step.fit(parts.sort(parts.columns[0]), ctx)


def judged(step, table, **options):
    state = fitted(step, table, **options)
    answer = step.keep(table, Context(state=state))
    assert answer.columns == ["reason", "detail"]
    assert json.loads(json.dumps(state.info)) == state.info
    rows = state.tables["rows"]
    assert rows["selected"].sum() == answer["reason"].null_count() == step.size(table.height)
    names = table[ROW_ID[shape_of(table)]]
    return set(names.filter(answer["reason"].is_null())), rows, state.info


def ids(numbers):
    return {f"r{i:03}" for i in numbers}


def step_of(**fields):
    return ISA(**{"rows": 10, "trim": 0.0, **fields})


def test_raw_and_high_keeps_the_least_likely():
    kept, rows, info = judged(step_of(), responses(CLOUDS))
    assert kept == set(rows.sort("loglik")["row_id"][:10])
    assert spearmanr(rows["score"], rows["loglik"]).statistic == pytest.approx(-1)
    assert info["dims"] == [4, 4]
    assert info["components"] == 2
    assert info["converged"]
    assert sum(info["weights"]) == pytest.approx(1)


def test_normalised_and_high_keeps_the_likeliest():
    kept, rows, _ = judged(step_of(mode="pointwise_normalised"), responses(CLOUDS))
    assert kept == set(rows.sort("loglik")["row_id"][-10:])
    other, _, _ = judged(step_of(direction="low"), responses(CLOUDS))
    assert other == kept


def test_leave_one_out_selects_by_its_own_score():
    kept, rows, _ = judged(step_of(mode="leave_one_out", scaling="minus_one"), responses(CLOUDS))
    assert kept == set(rows.sort("score")["row_id"][-10:])


def test_outliers_are_trimmed_and_come_last():
    vectors = np.concatenate([CLOUDS, [[-9.0, 9.0, 9.0], [9.0, -9.0, -9.0], [0.0, -9.0, 9.0]]])
    table = responses(vectors)
    state = fitted(step_of(trim=0.02), table)
    answer = step_of().keep(table, Context(state=state)).rows()
    reasons = dict(zip(table["response_id"], answer, strict=True))
    lowest = state.tables["rows"].sort("loglik").head(2)
    assert [reasons[i][0] for i in lowest["row_id"]] == ["trimmed_outlier"] * 2
    assert state.info["outliers"] == 2
    score, loglik = lowest["score"][0], lowest["loglik"][0]
    _, detail = reasons[lowest["row_id"][0]]
    assert detail.startswith("score ")
    assert float(detail.split()[1].rstrip(",")) == pytest.approx(score, rel=1e-3)
    assert float(detail.split()[-1]) == pytest.approx(loglik, rel=1e-3)
    gone = [r for r, _ in reasons.values() if r]
    assert gone.count("not_selected") == 103 - 10 - 2
    kept, rows, _ = judged(step_of(trim=0.02, rows=102), table)
    assert ids(range(103)) - kept == {rows.sort("loglik")["row_id"][0]}


def test_budgets_of_none_all_and_more():
    table = responses(CLOUDS)
    assert judged(step_of(rows=0), table)[0] == set()
    assert judged(step_of(rows=100, trim=0.05), table)[0] == ids(range(100))
    assert judged(step_of(rows=999), table)[0] == ids(range(100))
    assert len(judged(step_of(rows=None, fraction=0.07), table)[0]) == 7


def test_tiny_tables():
    for n in range(5):
        table = responses(CLOUDS[:n])
        kept, rows, info = judged(step_of(rows=1), table)
        assert len(kept) == min(n, 1)
        assert np.isfinite(rows["score"].to_numpy()).all()
        if n:
            assert info["components"] == max(1, min(2, n // 2))


@pytest.mark.parametrize("mode", ["pointwise_raw", "pointwise_normalised", "leave_one_out"])
def test_answers_that_are_all_the_same_are_sampled_uniformly(mode):
    table = responses(np.ones((20, 3)))
    step = step_of(mode=mode, rows=5, trim=0.01)
    samples = [frozenset(judged(step, table, seed=seed)[0]) for seed in range(12)]
    assert len(set(samples)) > 6
    assert len(frozenset().union(*samples)) > 12


def test_quotas_by_label_keep_the_balance():
    good = [1.0] * 70 + [0.0] * 20 + [None] * 10
    table = responses(CLOUDS, good)
    kept, rows, info = judged(step_of(label="good"), table)
    assert len(kept & ids(range(70))) == 7
    assert len(kept & ids(range(70, 90))) == 2
    assert info["groups"] == [10, 20, 70]
    assert info["chosen_by_group"] == [1, 2, 7]
    first = rows.filter(pl.col("row_id") < "r070").sort("loglik")["row_id"][:7]
    assert kept & ids(range(70)) == set(first)


def test_quotas_by_component_follow_the_clouds():
    kept, _, info = judged(step_of(quotas="component"), responses(CLOUDS))
    assert sorted(info["groups"]) == pytest.approx([40, 60], abs=5)
    assert len(kept & ids(range(60))) == pytest.approx(6, abs=1)


def test_sampling_prefers_high_scores_and_depends_on_the_seed():
    table, step = responses(CLOUDS), step_of(select="sample", rows=20)
    _, rows, _ = judged(step, table)
    score = dict(rows.select("row_id", "score").iter_rows())
    samples = [judged(step, table, seed=seed)[0] for seed in range(10)]
    assert len({frozenset(s) for s in samples}) == 10
    drawn = np.mean([score[i] for s in samples for i in s])
    assert drawn > np.mean(list(score.values()))


def test_labels_start_the_components():
    table = responses(CLOUDS, [1.0] * 60 + [0.0] * 40)
    _, _, info = judged(step_of(init="labels", label="good"), table)
    assert info["weights"] == pytest.approx([0.4, 0.6], abs=0.05)


def test_pairs_are_scored_by_both_sides_and_never_split():
    sides = [(i, i + 50) for i in range(50)]
    alone = {
        r["row_id"]: (r["score"], r["loglik"])
        for r in judged(step_of(), responses(CLOUDS))[1].iter_rows(named=True)
    }
    for rule, reduce in (("mean", np.mean), ("sum", np.sum), ("min", np.min), ("max", np.max)):
        kept, rows, info = judged(step_of(pair_rule=rule), pairs(CLOUDS, sides))
        assert info["answers"] == 100
        for (c, r), row in zip(sides, rows.iter_rows(named=True), strict=True):
            both = alone[f"r{c:03}"], alone[f"r{r:03}"]
            assert row["score"] == pytest.approx(reduce([s for s, _ in both]), abs=1e-9)
            assert row["loglik"] == pytest.approx(min(v for _, v in both), abs=1e-9)
        assert kept == set(rows.sort("score")["row_id"][-10:])


def test_an_answer_of_many_pairs_counts_once():
    sides = [(0, i) for i in range(1, 100)]
    _, _, info = judged(step_of(), pairs(CLOUDS, sides))
    assert info["answers"] == 100
    _, _, info = judged(step_of(init="labels"), pairs(CLOUDS, [(i, 60 + i) for i in range(40)]))
    assert info["weights"] == pytest.approx([0.5, 0.5], abs=0.1)


def test_pair_quotas_by_component_count_combinations():
    sides = [(0, 1), (2, 70), (71, 3), (72, 73)] + [(i, i + 4) for i in range(4, 40)]
    _, _, info = judged(step_of(quotas="component", rows=4), pairs(CLOUDS, sides))
    assert sum(info["groups"]) == 40
    assert len(info["groups"]) == 4


def test_few_vectors_are_projected():
    _, _, info = judged(step_of(dims=2), responses(CLOUDS))
    assert info["dims"] == [4, 2]
    assert 0.5 < info["variance_kept"] < 1
    _, _, info = judged(step_of(), responses(CLOUDS[:40]))
    assert info["dims"] == [4, 2]


def test_a_mixture_of_a_draw_is_nearly_as_likely_as_that_of_all():
    rng = np.random.default_rng(4)
    many = np.concatenate([rng.normal(0, 1, (1800, 3)), rng.normal([4, 1, 0], 0.5, (1200, 3))])
    table = responses(many)
    step = step_of(dims=3, restarts=1, rows=300)
    whole = fitted(step, table)
    assert whole.info["fitted"] == 3000
    parameters = 2 * (3 + 6) + 1
    for sample in (300, 1000):
        few = fitted(step.model_copy(update={"sample": sample}), table)
        assert few.info["fitted"] == sample
        assert few.info["answers"] == 3000
        below = whole.tables["rows"]["loglik"].mean() - few.tables["rows"]["loglik"].mean()
        assert -1e-3 < below < 3 * parameters / (2 * sample)
        both = (whole.tables["rows"]["selected"] & few.tables["rows"]["selected"]).sum()
        assert both > 0.8 * 300


def test_wrong_fields_are_refused():
    with pytest.raises(ValidationError, match="n_components must be 2"):
        ISA(rows=1, init="labels", n_components=3)
    with pytest.raises(ValidationError, match="exactly one of fraction, rows and tokens"):
        ISA()
    with pytest.raises(ConfigError, match="need the field label"):
        ISA(rows=1, quotas="label").needs(Shape.RESPONSES)
    with pytest.raises(ConfigError, match="need the field label"):
        ISA(rows=1, init="labels").needs(Shape.RESPONSES)
    with pytest.raises(ConfigError, match="a pair holds both labels"):
        ISA(rows=1, quotas="label", label="good").needs(Shape.PAIRS)
    with pytest.raises(ConfigError, match="needs an encoder"):
        ISA(rows=1).fit_shard(responses(CLOUDS[:2]), Context())
    with pytest.raises(DataError, match="has not been fitted"):
        ISA(rows=1).keep(responses(CLOUDS[:2]), Context())
    assert ISA(rows=1, init="labels").needs(Shape.PAIRS) == {}
    assert list(ISA(rows=1, label="good").needs(Shape.RESPONSES)) == ["score_good"]


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.integers(0, 100), max_size=3))
def test_order_and_shards_do_not_change_a_bit(random, cuts):
    table = responses(CLOUDS, [1.0, 0.0] * 50)
    step = step_of(select="sample", label="good", trim=0.02)
    reference = fitted(step, table)
    again = fitted(step, table[random.sample(range(100), 100)], cuts)
    assert again.tables["rows"].equals(reference.tables["rows"])
    assert again.info == reference.info

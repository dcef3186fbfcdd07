import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.selection.subsample import RandomSubsample, numbered
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.tables import COLUMNS, Shape

STAYS = (None, None)
GONE = ("not_selected", None)


def responses(n, good=None, source=None):
    rows = [
        {
            "prompt_id": "p",
            "prompt": [{"role": "user", "content": "q"}],
            "response_id": f"r{i:03}",
            "response": [{"role": "assistant", "content": "a"}],
            "source": source[i] if source else "s",
            "score_good": good[i] if good else 1.0,
        }
        for i in range(n)
    ]
    return pl.DataFrame(rows, schema={**COLUMNS[Shape.RESPONSES], "score_good": pl.Float64})


def kept(step, table, ctx=None):
    ctx = ctx or Context()
    parts = step.fit_shard(table, ctx).sort("response_id")
    state = step.fit(parts, ctx)
    answer = step.keep(table, Context(ctx.seed, ctx.step, state))
    assert set(answer.rows()) <= {STAYS, GONE}
    assert state.info["k"] == answer["reason"].null_count()
    return table.filter(answer["reason"].is_null())["response_id"].to_list()


@pytest.mark.parametrize(
    ("budget", "n", "size"),
    [
        ({"fraction": 0.5}, 5, 3),
        ({"fraction": 0.29}, 100, 29),
        ({"fraction": 0.1}, 1, 0),
        ({"fraction": 1.0}, 7, 7),
        ({"rows": 0}, 5, 0),
        ({"rows": 3}, 5, 3),
        ({"rows": 9}, 5, 5),
        ({"rows": 9}, 0, 0),
    ],
)
def test_exactly_the_budget_stays(budget, n, size):
    assert len(kept(RandomSubsample(**budget), responses(n))) == size


def test_exactly_one_budget():
    for budget in ({}, {"fraction": 0.5, "rows": 5}):
        with pytest.raises(ValidationError, match="exactly one of fraction, rows and tokens"):
            RandomSubsample(**budget)
    with pytest.raises(ValidationError, match="greater than 0"):
        RandomSubsample(fraction=0)


def test_seed_and_step_name_draw_another_sample():
    table, step = responses(50), RandomSubsample(rows=10)
    samples = {
        tuple(kept(step, table, Context(seed, name)))
        for seed, name in [(0, "a"), (1, "a"), (0, "b"), (0, "a")]
    }
    assert len(samples) == 3


def test_a_larger_budget_keeps_a_superset():
    table = responses(40)
    small, large = (set(kept(RandomSubsample(rows=k), table)) for k in (10, 20))
    assert small < large


def test_every_row_has_the_same_chance():
    table, step = responses(10), RandomSubsample(rows=3)
    counts = dict.fromkeys(table["response_id"], 0)
    for seed in range(300):
        for row in kept(step, table, Context(seed)):
            counts[row] += 1
    assert min(counts.values()) > 55
    assert max(counts.values()) < 125


def test_quotas_by_label_and_source():
    good = [1.0] * 20 + [0.0] * 10 + [None] * 10
    table = responses(40, good, ["x"] * 10 + ["y"] * 30)
    rows = table.filter(
        pl.col("response_id").is_in(kept(RandomSubsample(rows=8, label="good"), table))
    )
    assert rows["score_good"].value_counts().sort("score_good").rows() == [
        (None, 2),
        (0.0, 2),
        (1.0, 4),
    ]
    rows = table.filter(
        pl.col("response_id").is_in(kept(RandomSubsample(rows=8, quotas="source"), table))
    )
    assert sorted(rows["source"].value_counts().rows()) == [("x", 2), ("y", 6)]


def test_labels_are_needed_only_when_used():
    step = RandomSubsample(rows=1, label="good")
    assert step.needs(Shape.RESPONSES) == {"score_good": pl.Float64()}
    assert step.needs(Shape.PAIRS) == {}
    assert RandomSubsample(rows=1, label="good", quotas="none").needs(Shape.RESPONSES) == {}
    with pytest.raises(ConfigError, match="a pair holds both labels"):
        RandomSubsample(rows=1, label="good", quotas="label").needs(Shape.PAIRS)
    with pytest.raises(ValidationError, match="need the field label"):
        RandomSubsample(rows=1, quotas="label")


def test_unfitted_keep_is_refused():
    with pytest.raises(DataError, match="has not been fitted"):
        RandomSubsample(rows=1).keep(responses(1), Context())


def test_numbered_groups():
    assert numbered(pl.Series(["b", None, "a", "b"])).tolist() == [2, 0, 1, 2]
    assert numbered(pl.Series([None, None], dtype=pl.String)).tolist() == [0, 0]
    assert numbered(pl.Series([3, 1, 3])).tolist() == [1, 0, 1]


@settings(max_examples=30)
@given(st.permutations(range(12)), st.integers(0, 12))
def test_order_and_shards_do_not_matter(order, cut):
    table, step = responses(12, [1.0, 0.0] * 6), RandomSubsample(rows=5, label="good")
    reference = kept(step, table)
    shuffled = table[order]
    shards = (shuffled[:cut], shuffled[cut:])
    parts = pl.concat(step.fit_shard(shard, Context()) for shard in shards)
    state = step.fit(parts.sort("response_id"), Context())
    answer = step.keep(shuffled, Context(state=state))
    assert sorted(shuffled.filter(answer["reason"].is_null())["response_id"]) == reference

import numpy as np
import polars as pl
import pytest

from filters import AgreementDraw
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from tests.helpers import ledger_of, one_file, pairs, recipe, run, view

WORDS = [f"word{i}" for i in range(400)]


def made(n=300, wrong=0.2, seed=0, learn=True):
    """Pairs whose longer answer is the chosen one, but for a share that is turned round."""
    rng = np.random.default_rng(seed)
    rows, turned = [], rng.random(n) < wrong
    for i in range(n):
        long, short = (" ".join(rng.choice(WORDS, size=k)) for k in (40, 12))
        sides = (long, short) if learn or rng.random() < 0.5 else (short, long)
        rows.append((f"{' '.join(rng.choice(WORDS, size=9))}?", *sides[:: -1 if turned[i] else 1]))
    return pairs(*rows), turned


def fitted(table, seed=0, **fields):
    step, ctx = AgreementDraw(vectors=False, **fields), Context(seed, "draw")
    part = step.fit_shard(table, ctx)
    return step.fit(part.sort(part.columns[0]), ctx)


def test_rows_that_a_scorer_of_the_others_disagrees_with_leave():
    table, turned = made()
    state = fitted(table)
    rows = table.select(row_id="pair_id").join(
        state.tables["rows"], on="row_id", maintain_order="left"
    )
    assert (rows["selected"].to_numpy() == ~turned).all()
    assert set(rows["reason"].drop_nulls()) == {"disagrees"}
    assert (rows.filter(~pl.col("selected"))["score"] <= 0).all()
    facts = state.info
    assert facts["agreeing"] == facts["k"] == (~turned).sum()
    before, after = facts["shares"]["longer chosen"]
    assert (before, after) == (pytest.approx((~turned).mean(), abs=1e-4), 1.0)
    assert facts["shares"]["source test"] == [1.0, 1.0]
    assert not facts["fewer_than_asked"]


def test_a_budget_is_drawn_uniformly_among_those_that_agree():
    table, turned = made(200)
    picked = np.zeros(200)
    for seed in range(30):
        rows = fitted(table, seed, rows=50).tables["rows"].sort("row_id")
        assert rows["selected"].sum() == 50
        picked += rows["selected"].to_numpy()
    agreeing = ~turned[table["pair_id"].arg_sort().to_numpy()]
    assert (picked[~agreeing] == 0).all()
    chance = 30 * 50 / agreeing.sum()
    assert np.abs(picked[agreeing] - chance).max() < 5 * np.sqrt(chance)


def test_fewer_candidates_than_asked_for_are_all_taken_and_it_is_said():
    table, turned = made(200)
    facts = fitted(table, rows=199).info
    assert (facts["k"], facts["fewer_than_asked"]) == ((~turned).sum(), True)


def test_labels_that_teach_nothing_are_refused_or_drawn_from_at_random():
    table, _ = made(wrong=0.5)
    with pytest.raises(DataError, match=r"draw: the labels teach the scorer nothing .*RandomSub"):
        fitted(table)
    facts = fitted(table, untaught="random", fraction=0.5).info
    assert (facts["k"], facts["agreeing"], facts["taught"]) == (150, 300, False)
    one = pairs(*[("the same question", f"a {i} b", "c") for i in range(20)])
    with pytest.raises(DataError, match="near-duplicates of one another"):
        fitted(one)


def test_order_and_shards_change_nothing(tmp_path):
    table, _ = made(120)
    step = {"filters.AgreementDraw": {"vectors": False, "fraction": 0.4}}
    found = []
    for i, (rows, shuffled) in enumerate([(1000, table), (7, table.sample(120, shuffle=True))]):
        result = run(recipe(step), one_file(shuffled), tmp_path / str(i), rows)
        found.append((view(result, "pairs")["pair_id"].to_list(), ledger_of(result).rows()))
    assert found[0] == found[1]
    assert len(found[0][0]) == 48


def test_fields_are_checked():
    with pytest.raises(ValueError, match="set one of fraction, rows and tokens, or none"):
        AgreementDraw(rows=3, fraction=0.5)
    with pytest.raises(ConfigError, match="write `vectors: false`"):
        AgreementDraw().fit_shard(made(3)[0], Context())
    assert fitted(made(0)[0]).info == {"n": 0, "k": 0}

"""Trust in labels: planted swaps are trusted least, damage and odd inputs, order and shards."""

import numpy as np
import polars as pl
import pytest

from labelers.stack.trust import LabelTrust
from prefactory.preferences.trust import auc, precision_in_top
from prefactory.tables import SIDES, Shape, canonical_order, with_ids
from tests.labelers.stack.test_preference_stack import fitted, preferences


def swapped(table, share=0.15, seed=5):
    """A table with some pairs turned round, and which."""
    turn = pl.Series(np.random.default_rng(seed).random(table.height) < share)
    a, b = SIDES
    names = {a: b, b: a, f"{a}_id": f"{b}_id", f"{b}_id": f"{a}_id"}
    other = table.rename(names).select(table.columns)
    rows = pl.concat([table.filter(~turn), other.filter(turn)])
    rows = rows.with_columns(
        wrong=pl.Series([False] * int((~turn).sum()) + [True] * int(turn.sum()))
    )
    return canonical_order(with_ids(rows, Shape.PAIRS), Shape.PAIRS)


def test_swapped_labels_are_trusted_least_and_the_self_test_says_how_well():
    table = swapped(preferences(300, right=1.0))
    state, found = fitted(LabelTrust(anchor="off"), table)
    wrong = table["wrong"].to_numpy()
    suspicion = 1 - found["trust"].to_numpy()
    area, se = auc(suspicion, wrong)
    assert area > 0.95
    assert precision_in_top(suspicion, wrong) > 0.9
    info = state.info["label_trust"]
    # plants on the 15 % that are wrong already make labels right; that is undone by the share
    told = info["self_test"]
    undone = (told["auc"] - wrong.mean()) / (1 - 2 * wrong.mean())
    assert undone == pytest.approx(area, abs=3 * np.hypot(se, told["auc_se"]))
    assert told["auc_at_rate"] == pytest.approx(
        (told["auc"] - info["rate"]) / (1 - 2 * info["rate"])
    )
    assert info["signals"] == ["dynamics", "rows"]
    assert found["trust_rank"].sort().to_list() == pytest.approx(list(np.arange(300) / 300))
    assert found["signal_anchor"].null_count() == 300


def test_shards_change_no_bit():
    table = swapped(preferences(120, right=0.9))
    _, whole = fitted(LabelTrust(anchor="off", self_tests=1), table)
    _, cut = fitted(LabelTrust(anchor="off", self_tests=1), table, shards=5)
    assert whole.equals(cut)


def test_damaged_rows_get_no_trust_and_teach_nothing():
    table = swapped(preferences(200, right=1.0), 0.1)
    marked = table.with_columns(damage=pl.when("wrong").then(pl.lit("off_topic")))
    state, found = fitted(LabelTrust(anchor="off", damage="damage"), marked)
    assert state.info["label_trust"]["damaged"] == int(table["wrong"].sum())
    assert found.filter(table["wrong"])["trust"].null_count() == int(table["wrong"].sum())
    assert (found.filter(~table["wrong"])["signal_dynamics"] > 0).all()


def test_few_rows_have_no_signal_of_their_own():
    table = preferences(60)
    state, found = fitted(LabelTrust(anchor="off"), table)
    assert state.info["label_trust"]["signals"] == []
    assert state.info["label_trust"]["self_test"] is None
    assert found["trust"].to_list() == pytest.approx([0.9] * 60)
    outside = table.with_columns(votes=pl.Series([1.0, 1.0, -1.0] * 20))
    _, found = fitted(LabelTrust(anchor="off", oriented=("votes",)), outside)
    assert (found["trust"] > 0.9).to_list() == [True, True, False] * 20


def test_one_cluster_of_prompts_still_has_signals_by_row():
    state, found = fitted(LabelTrust(anchor="off"), preferences(150, prompts=1))
    assert state.info["label_trust"]["signals"] == ["dynamics", "rows"]
    assert state.info["label_trust"]["wrong_share"]["bound"] is None
    assert found["trust"].null_count() == 0


def test_prompts_whose_labels_are_wrong_together_are_named():
    table = preferences(240, right=1.0, prompts=40)
    bad = table["prompt_id"].unique(maintain_order=True)[:3]
    wrong = table["prompt_id"].is_in(bad.implode())
    flipped = table.filter(wrong).rename(dict(zip(SIDES, SIDES[::-1], strict=True)))
    rows = pl.concat([table.filter(~wrong), with_ids(flipped, Shape.PAIRS).select(table.columns)])
    rows = canonical_order(rows, Shape.PAIRS)
    state, _ = fitted(LabelTrust(anchor="off", self_tests=0), rows)
    named = state.tables["groups"]["pair_ids"].explode()
    prompts = rows.filter(pl.col("pair_id").is_in(named.implode()))["prompt_id"].unique()
    assert set(bad) <= set(prompts)
    assert len(prompts) <= 4


def test_a_given_rate_and_rows_beyond_the_most():
    table = preferences(260)
    state, found = fitted(LabelTrust(anchor="off", rate=0.2, fit_rows=120, self_tests=0), table)
    info = state.info["label_trust"]
    assert (info["rate"], info["rate_is"]) == (0.2, "given")
    assert found["trust"].null_count() == 0


def test_a_score_column_can_be_the_outside_opinion():
    table = swapped(preferences(300, right=1.0), 0.1)
    length = {
        f"{s}_score_rm": pl.col(s).list.last().struct.field("content").str.len_chars()
        for s in SIDES
    }
    table = table.with_columns(**{name: size.cast(pl.Float64) for name, size in length.items()})
    state, found = fitted(LabelTrust(anchor="score:rm", self_tests=0), table)
    (told,) = state.info["label_trust"]["sources"]
    assert told["verdict"] == "agrees"
    assert state.info["label_trust"]["signals"] == ["anchor", "dynamics", "rows"]
    assert found["signal_anchor"].null_count() == 0


def test_the_anchor_that_ships_reads_one_encoder_only():
    with pytest.raises(ValueError, match=r"anchor: .* reads vectors of 'minilm'.* `anchor: off`"):
        LabelTrust(encoder={"model": "another"})
    assert LabelTrust(encoder={"model": "another"}, anchor="off").vectors
    assert LabelTrust(encoder={"model": "another"}, anchor="score:rm").vectors

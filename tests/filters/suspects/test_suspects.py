"""Suspects are marked, dropped or turned, and only where the self-test allows it."""

import polars as pl
import pytest
from pydantic import ValidationError

from filters.suspects.step import SuspectLabels
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.tables import Shape, canonical_order
from tests.helpers import content, pairs


def table(n=20, precision=0.6):
    rows = pairs(
        *[(f"question {i}", f"good {i}", f"bad {i}") for i in range(n)],
        trust=[0.02 + i / n * 0.9 for i in range(n)],
        trust_precision=pl.Series([precision] * n, dtype=pl.Float64),
        trust_rank=[i / n for i in range(n)],
        margin=[1.0] * n,
        signal_rows=[0.5] * n,
        judge_prefers=["rejected"] * n,
        chosen_score_a=[float(i) for i in range(n)],
        rejected_score_a=[0.0] * n,
    )
    return canonical_order(rows, Shape.PAIRS)


def run(step, rows, shards=1):
    ctx = Context(step="suspects")
    cut = [rows[i::shards] for i in range(shards)]
    parts = pl.concat([step.fit_shard(s, ctx) for s in cut]).sort("pair_id")
    state = step.fit(parts, ctx)
    after = Context(step="suspects", state=state)
    made = [apply_generator(step, "suspects", s, Shape.PAIRS, after) for s in cut]
    kept = canonical_order(pl.concat([m[0] for m in made]), Shape.PAIRS)
    return kept, pl.concat([m[1] for m in made]), state.info["suspect_labels"]


@pytest.mark.parametrize("shards", [1, 3])
def test_review_marks_the_least_trusted_and_keeps_all(shards):
    rows = table()
    kept, dropped, info = run(SuspectLabels(), rows, shards)
    assert kept.height == 20
    assert dropped.height == 0
    assert kept.filter("suspect")["trust"].sort().to_list() == rows["trust"].sort()[:2].to_list()
    assert (kept["turned_from"] == kept["pair_id"]).all()
    assert info["suspects"] == 2


def test_drop_leaves_a_reason():
    kept, dropped, _ = run(SuspectLabels(by="rows", amount=3, do="drop"), table())
    assert kept.height == 17
    assert dropped["reason"].to_list() == ["suspect_label"] * 3
    assert not kept["suspect"].any()


def test_turn_changes_everything_that_knows_the_sides():
    rows = table()
    kept, _, info = run(SuspectLabels(by="probability", amount=0.2, do="turn"), rows)
    turned = kept.filter("suspect")
    before = rows.filter(pl.col("trust") < 0.2)
    assert info["suspects"] == before.height == turned.height > 0
    assert set(turned["turned_from"]) == set(before["pair_id"])
    assert all(text.startswith("bad") for text in content(turned, "chosen"))
    assert set(turned["margin"]) == {-1.0}
    assert set(turned["signal_rows"]) == {-0.5}
    assert set(turned["judge_prefers"]) == {"chosen"}
    assert set(turned["label_source"]) == {"relabel"}
    assert turned["chosen_score_a"].sum() == 0
    assert (turned["trust"] > 0.8).all()
    assert turned["trust_rank"].null_count() == turned.height
    assert (turned["pair_id"] != turned["turned_from"]).all()


def test_a_turned_pair_that_is_there_already_leaves():
    rows = table()
    one = rows.filter(pl.col("trust") == pl.col("trust").min())
    kept, _, _ = run(SuspectLabels(by="rows", amount=1, do="turn"), one)
    other = kept.select(rows.columns).with_columns(trust=pl.lit(0.9), trust_precision=pl.lit(0.6))
    kept, dropped, _ = run(SuspectLabels(by="rows", amount=1, do="turn"), pl.concat([one, other]))
    assert kept["pair_id"].to_list() == other["pair_id"].to_list()
    assert dropped["reason"].to_list() == ["turned_copy"]


@pytest.mark.parametrize(("do", "precision"), [("drop", 0.12), ("turn", 0.45), ("drop", None)])
def test_the_self_test_must_allow_it(do, precision):
    with pytest.raises(DataError, match="review"):
        run(SuspectLabels(do=do), table(precision=precision))
    run(SuspectLabels(do=do, force=True), table(precision=precision))


def test_checked_rows_and_rows_without_trust_are_never_suspect():
    rows = table().with_columns(
        seen=pl.col("trust") == pl.col("trust").min(),
        trust=pl.when(pl.col("trust") < 0.1).then(None).otherwise("trust"),
    )
    rows = rows.with_columns(trust=pl.when("seen").then(0.001).otherwise("trust"))
    kept, _, info = run(SuspectLabels(by="rows", amount=2, checked="seen"), rows)
    suspects = kept.filter("suspect")
    assert suspects["seen"].sum() == 0
    assert suspects["trust"].null_count() == 0
    assert info["checked"] == 1


def test_amounts_that_mean_nothing_are_refused():
    with pytest.raises(ValidationError):
        SuspectLabels(amount=1.0)
    with pytest.raises(ValidationError):
        SuspectLabels(by="rows", amount=2.5)


def test_turning_at_low_precision_adds_errors():
    share, q = 0.19, 0.1
    assert share + q * (1 - 2 * 0.4) == pytest.approx(0.21)
    assert share + q * (1 - 2 * 0.6) == pytest.approx(0.17)

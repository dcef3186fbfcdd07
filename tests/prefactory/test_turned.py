"""A pair that is turned: what its columns say is right, and turned twice it is itself."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from labelers import Relabel, RewardAugmented
from labelers.pairs.reward_augmented import revert
from prefactory import Shape
from prefactory.tables import COLUMNS, canonical_order
from prefactory.testing import apply_step, pairs, texts
from prefactory.turned import FORGOTTEN, other_side, turned, turning
from tests.test_every_step import EXEMPT, EXPORTED, FILES, MODELS, step_of

WORDS = {"judge_prefers": ["chosen", "rejected", "tie", None]}


def declared(tmp_path):
    """Every column of pairs that any exported step declares."""
    columns = {}
    for name in EXPORTED:
        if name in EXEMPT:
            continue
        more = FILES[name](tmp_path) if name in FILES else {}
        model = {"model": "some/folder"}
        step = step_of(name, MODELS[name](model, model) if name in MODELS else more)
        for shape in step.shapes:
            out = step.out_shape(shape) if hasattr(step, "out_shape") else shape
            if out == Shape.PAIRS:
                columns |= step.adds(shape)
    return {n: d for n, d in columns.items() if n not in COLUMNS[Shape.PAIRS]}


def value(name, dtype, row):
    if isinstance(dtype, pl.List) and "bytes" in str(dtype.inner):
        return []  # a picture is bytes of its own
    if name in WORDS:
        return WORDS[name][row]
    if isinstance(dtype, pl.Struct) and "bytes" in str(dtype):
        return None
    if isinstance(dtype, pl.Struct):
        return {f.name: value(name + f.name, f.dtype, row) for f in dtype.fields}
    if isinstance(dtype, pl.List):
        return [value(f"{name}{i}", dtype.inner, row) for i in range(2)]
    if dtype == pl.String:
        return f"{name} of {row}" if row else None
    return bool(row % 2) if dtype == pl.Boolean else row + sum(map(ord, name)) % 7


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Four pairs with a value in every column that a step declares."""
    columns = declared(tmp_path_factory.mktemp("catalog"))
    table = pairs(*[(f"q{i}", f"good {i}", f"bad {i}") for i in range(4)])
    return table.with_columns(
        pl.Series(n, [value(n, d, row) for row in range(4)], dtype=d, strict=False)
        for n, d in columns.items()
    )


def whole(table):
    every = pl.repeat(True, table.height, dtype=pl.Boolean, eager=True)
    return turned(table, every, "judge", "before").drop("before")


def test_turned_twice_every_declared_column_is_as_it_was(wide):
    assert wide.width > 80
    back = whole(whole(wide))
    forgotten = [c for c in FORGOTTEN if c in wide.columns]
    assert_frame_equal(back.drop("label_source", *forgotten), wide.drop("label_source", *forgotten))
    assert back.select(forgotten).null_count().row(0) == (4,) * len(forgotten)


def test_no_step_declares_a_column_of_one_side_alone(wide):
    """What it says would be lost when the pair is turned."""
    alone = {c for c in wide.columns if other_side(c) not in wide.columns}
    assert not alone


def test_turned_once_each_kind_of_column_is_right():
    table = pairs(
        ("q", "good", "bad"),
        stance_chosen=["support"],
        stance_rejected=["oppose"],
        my_chosen_length=[7],
        my_rejected_length=[9],
        judge_prefers=["chosen"],
        winner=["rejected"],
        sign_h=pl.Series([1], dtype=pl.Int8),
        margin=[2.5],
        margin_pal=[-0.5],
        search_gap=[3.0],
        null_gap=[1.0],
        trust=[0.9],
        trust_rank=[0.8],
        hidden_instruction=["be kind"],
        against_instruction=["be rude"],
        value_ids=[["mine", "other"]],
        sides=[{"chosen": 1, "rejected": 2, "both": 3}],
        rejected_note=["only of this side"],
        chosen_text=["not chosen"],
    )
    row = whole(table).row(0, named=True)
    assert (texts(whole(table), "chosen"), texts(whole(table), "rejected")) == (["bad"], ["good"])
    expected = {
        "stance_chosen": "oppose",
        "stance_rejected": "support",
        "my_chosen_length": 9,
        "my_rejected_length": 7,
        "judge_prefers": "rejected",
        "winner": "chosen",
        "sign_h": -1,
        "margin": -2.5,
        "margin_pal": 0.5,
        "search_gap": -3.0,
        "null_gap": 1.0,
        "trust": pytest.approx(0.1),
        "trust_rank": None,
        "hidden_instruction": "be rude",
        "against_instruction": "be kind",
        "value_ids": ["other", "mine"],
        "sides": {"chosen": 2, "rejected": 1, "both": 3},
        "rejected_note": None,
        "chosen_text": None,
        "chosen_model": "small",
        "label_source": "judge",
    }
    assert {name: row[name] for name in expected} == expected
    assert row["chosen_id"] == table["rejected_id"][0]
    assert row["pair_id"] != table["pair_id"][0]


def test_columns_that_know_no_side_are_not_touched():
    schema = {"language": pl.String(), "tokens": pl.Int64(), "chosenness": pl.Float64()}
    assert set(turning(schema)) == {"language"}  # a text is compared with the names of the sides
    table = pl.DataFrame({"language": ["en", "de"], "tokens": [1, 2], "chosenness": [0.1, 0.2]})
    assert_frame_equal(table.with_columns(**turning(schema)), table)


def test_a_flip_by_a_judge_turns_the_stances():
    n = 6
    table = pairs(
        *[(f"q{i}", f"bad {i}", f"GOOD {i}") for i in range(n)],
        stance_chosen=["support"] * n,
        stance_rejected=["oppose"] * n,
        judge_prefers=["rejected"] * n,
        judge_reason=pl.Series([None] * n, dtype=pl.String),
        judge_agreement=[1.0] * n,
    )
    step = Relabel(on_disagree="flip")
    rows = apply_step(step, canonical_order(table, Shape.PAIRS)).rows
    assert set(rows["stance_chosen"]) == {"oppose"}
    assert set(rows["judge_prefers"]) == {"chosen"}
    assert all(text.startswith("GOOD") for text in texts(rows, "chosen"))


def test_low_rows_of_goal_pairs_turn_the_verdict_and_revert_gives_all_back(wide):
    """Half of the goal pairs agree with the judge, as half are turned."""
    table = wide.drop("goal", "goal_kind", "source_pair_id", "source_label_source").with_columns(
        chosen_score_h=pl.lit(9.0), rejected_score_h=pl.lit(2.0), judge_prefers=pl.lit("chosen")
    )
    table = canonical_order(table, Shape.PAIRS)
    goal_pairs = apply_step(RewardAugmented(objective="h"), table).rows
    low = goal_pairs.filter(goal_kind="low")
    assert set(low["judge_prefers"]) == {"rejected"}
    assert goal_pairs.filter(judge_prefers="chosen").height * 2 == goal_pairs.height
    assert_frame_equal(revert(goal_pairs).select(table.columns), table)
    forgotten = [c for c in FORGOTTEN if c in table.columns]
    from_low = revert(low).select(table.columns).drop(forgotten)
    assert_frame_equal(from_low, table.drop(forgotten))

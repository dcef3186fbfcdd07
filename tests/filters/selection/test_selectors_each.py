"""What each selector does on rows small enough to see it."""

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from filters import (
    DEITA,
    DPP,
    DOptimal,
    EnsembleUncertainty,
    FacilityLocation,
    InsTag,
    KCenter,
    MarginSelection,
    MatchTarget,
    RandomSubsample,
    SelfRepellent,
)
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.tables import ROW_ID, Shape, shape_of
from tests.helpers import pairs, prompts, responses


def embed(encoder, texts):
    """The last line of a text is its vector."""
    found = [[float(x) for x in t.split("\n")[-1].split()] for t in texts]
    return np.asarray(found, dtype=np.float32).reshape(len(found), -1 if found else 2)


def state_of(step, rows, seed=0):
    ctx = Context(seed=seed, embed=embed)
    parts = step.fit_shard(rows, ctx)
    return step.fit(parts.sort(parts.columns[0]), ctx)


def kept(step, rows, by="source_id", **how):
    """Numbers of the rows that stay (helpers count `source_id` from 0)."""
    state = state_of(step, rows, **how)
    left = step.keep(rows, Context(state=state))["reason"].is_null()
    return sorted(int(i.split(":")[1]) for i in rows.filter(left)[by])


def scored(**columns):
    n = len(next(iter(columns.values())))
    named = {f"chosen_score_{k}": v for k, v in columns.items()}
    zeros = {f"rejected_score_{k}": [0.0] * n for k in columns}
    return pairs(*[(f"q{i}", f"{i} 1", "0 1") for i in range(n)], **named, **zeros)


# -- by score -----

MARGINS = [5.0, -3.0, 0.5, 9.0, 1.0, -8.0, 2.0]


@pytest.mark.parametrize(
    ("order", "rows"), [("high", [0, 3, 6]), ("low", [1, 2, 5]), ("mid", [2, 4, 6])]
)
def test_margins_in_every_order(order, rows):
    step = MarginSelection(rows=3, objectives=("m",), order=order)
    assert kept(step, scored(m=MARGINS)) == rows


def test_the_order_has_no_default():
    for step in (MarginSelection, EnsembleUncertainty):
        with pytest.raises(ValidationError, match="order\n  Field required"):
            step(rows=1, objectives=("a", "b"))


def test_pairs_with_a_negative_margin_can_be_barred():
    step = MarginSelection(rows=5, objectives=("m",), order="low", negative="drop")
    assert kept(step, scored(m=MARGINS)) == [0, 2, 3, 4, 6]
    assert state_of(step, scored(m=MARGINS)).info["negative"] == 2


def test_dual_margin_by_hand():
    """P is 0 to 1 from the least to the greatest margin; P1 = 1 and P2 = 0 cancel out."""
    rows = scored(a=[0.0, 10, 5, 10, 2], b=[0.0, 0, 5, 10, 8])
    step = MarginSelection(
        rows=2, objectives=("a", "b"), order="high", quantiles=(0, 1), shrink=0.1
    )
    p = {0: 0.0122, 1: 0.5, 2: 0.5, 3: 0.9878, 4: 0.5}
    a, b = 0.1 + 0.8 * 0.2, 0.1 + 0.8 * 0.8
    p[4] = a * b / (a * b + (1 - a) * (1 - b))
    state = state_of(step, rows)
    ids = dict(zip(rows["pair_id"], range(5), strict=True))
    found = {ids[i]: s for i, s in state.tables["rows"].select("row_id", "score").iter_rows()}
    assert found == pytest.approx(p, abs=1e-4)
    assert state.info["baseline"]["objective"] == "mean probability"


def test_a_share_of_the_budget_is_drawn_at_random():
    rows = scored(m=[float(i) for i in range(100)])
    step = MarginSelection(rows=20, objectives=("m",), order="high", random_share=0.25)
    found = [kept(step, rows, seed=seed) for seed in range(3)]
    assert all(set(range(85, 100)) <= set(f) and len(f) == 20 for f in found)
    assert len({tuple(f) for f in found}) == 3
    assert state_of(step, rows).info["at_random"] == 5


def test_wrong_margin_fields():
    with pytest.raises(ValidationError, match="the first must be below the second"):
        MarginSelection(rows=1, objectives=("a",), order="low", quantiles=(0.9, 0.1))
    with pytest.raises(ValidationError, match="name each once"):
        MarginSelection(rows=1, objectives=("a", "a"), order="low")
    with pytest.raises(ValidationError, match="two or more, each once"):
        EnsembleUncertainty(rows=1, objectives=("a",), order="low")
    assert set(MarginSelection(rows=1, objectives=("a",), order="low").needs(Shape.PAIRS)) == {
        "chosen_score_a",
        "rejected_score_a",
    }


def test_members_that_contradict_each_other_are_not_members_that_do_not_know():
    """Row 0: sure and opposed; row 1: both undecided; row 2: sure and of one mind."""
    rows = scored(a=[9.0, 0.0, 9.0], b=[-9.0, 0.0, 9.0])
    common = {"rows": 1, "objectives": ("a", "b"), "scale": "raw"}
    disagreement = EnsembleUncertainty(**common, order="high")
    assert kept(disagreement, rows) == [0]
    state = state_of(disagreement, rows)
    assert sorted(state.tables["rows"]["score"]) == pytest.approx([0, 0, np.log(2)], abs=1e-2)
    assert kept(EnsembleUncertainty(**common, order="low", measure="entropy"), rows) == [2]


def test_scores_of_any_unit_are_brought_to_one_scale():
    rows = scored(a=[900.0, 300.0, 10.0, -700.0], b=[0.9, 0.3, 0.01, -0.7])
    state = state_of(EnsembleUncertainty(rows=2, objectives=("a", "b"), order="high"), rows)
    assert state.tables["rows"]["score"].to_list() == pytest.approx([0] * 4, abs=1e-12)


def test_heads_do_not_know_what_their_prompts_contradict():
    """Half of the pairs say that right beats left, some say the opposite, some the vertical."""
    rng = np.random.default_rng(0)
    rows = [(f"q{i}", f"{1 + 0.1 * rng.normal():.3f} 0", f"-1 {0.1 * rng.normal():.3f}")
            for i in range(60)]  # fmt: skip
    rows += [(f"u{i}", f"0 {s}", f"0 {-s}") for i, s in enumerate([1, -1] * 5)]
    step = EnsembleUncertainty(rows=10, order="high", measure="entropy", heads=4)
    assert kept(step, pairs(*rows)) == list(range(60, 70))
    assert state_of(step, pairs(*rows)).info["members"] == 4
    assert EnsembleUncertainty(rows=1, objectives=("a", "b"), order="low").opens_engines() is False


# -- by determinants -----


def test_d_optimal_asks_in_new_directions():
    """Nine pairs differ along one axis, one along the other: both axes are asked."""
    rows = [(f"q{i}", f"{1 + i / 100} 0.1", "0.1 1") for i in range(9)] + [("q9", "1 1", "-1 -1")]
    assert 9 in kept(DOptimal(rows=2), pairs(*rows))
    assert state_of(DOptimal(rows=2), pairs(*rows)).info["baseline"]["objective"] == "log det"


def test_d_optimal_leaves_what_the_score_already_knows():
    rows = scored(s=[9.0, 9.0, 0.1, 9.0]).with_columns(
        pairs(*[(f"q{i}", "1 0", "0 1") for i in range(4)])["chosen"]
    )
    assert kept(DOptimal(rows=1, score="s"), rows) == [2]
    lowest = rows["pair_id"].arg_min()  # a slope near 0 knows nothing: all tie
    assert kept(DOptimal(rows=1, score="s", slope=1e-12), rows) == [lowest]
    unscored = rows.with_columns(chosen_score_s=pl.Series([9.0, None, 9.0, 9.0]))
    assert kept(DOptimal(rows=1, score="s"), unscored) == [1]
    assert state_of(DOptimal(rows=1, score="s"), unscored).info["unscored"] == 1


def test_dpp_weighs_quality_against_difference():
    rows = responses(
        *[("q", f"1 {x}") for x in (0.0, 0.01, 0.02)],
        ("q", "0 1"),
        score_good=[3.0, 2.9, 2.8, 0.5],
    )
    assert kept(DPP(rows=2), rows)[-1] == 3
    assert kept(DPP(rows=2, quality="good", alpha=0.1), rows) == [0, 3]
    assert kept(DPP(rows=2, quality="good", alpha=9.0, jitter=0.1), rows) == [0, 1]


def test_dpp_of_more_rows_than_dimensions():
    rows = responses(*[("q", f"1 {i}") for i in range(9)], score_good=[float(i) for i in range(9)])
    full = DPP(rows=5, quality="good", alpha=0.0)
    info = state_of(full, rows).info
    assert (info["by_determinant"], info["filled"]) == (2, 3)
    assert {8, 7} <= set(kept(full, rows))
    assert len(kept(DPP(rows=5, fill="stop"), rows)) == 2
    assert state_of(DPP(rows=5, jitter=0.01), rows).info["filled"] == 0


# -- by cover -----


def test_a_detail_names_the_kept_row_that_is_nearest():
    rows = prompts("1 0", "0.99 0.05", "0 1")
    step = FacilityLocation(rows=2)
    answer = step.keep(rows, Context(state=state_of(step, rows)))
    gone = answer.filter(pl.col("reason").is_not_null())["detail"][0]
    stays = rows.filter(answer["reason"].is_null())["prompt_id"]
    assert gone.startswith("cosine 0.99")
    assert gone.split()[-1] in stays.to_list()


def test_what_is_embedded():
    """Questions differ in x, answers in y: with on prompt the answers do not matter."""
    rows = pairs(*[(f"{x} 1", f"1 {y}", f"{y} -1") for x in (0, 9) for y in (0, 9)])
    by_prompt = kept(KCenter(rows=2, on="prompt"), rows)
    assert {i // 2 for i in by_prompt} == {0, 1}
    by_answer = kept(KCenter(rows=2, on="difference"), rows)
    assert {i % 2 for i in by_answer} == {0, 1}


def test_neighbours_are_all_for_few_rows():
    rows = prompts(*[f"1 {i}" for i in range(9)])
    assert state_of(FacilityLocation(rows=3), rows).info["neighbours"] == "all"
    assert state_of(FacilityLocation(rows=3, neighbours=4), rows).info["neighbours"] == 4
    assert state_of(FacilityLocation(rows=3, neighbours=99), rows).info["neighbours"] == "all"


def test_deita_takes_the_best_that_differ():
    rows = responses(
        *[("q", v) for v in ("1 0", "1 0.01", "0 1", "0.01 1", "-1 0")],
        score_long=[1.0, 2.0, 1.0, 1.0, 1.0],
        score_good=[9.0, 4.0, 6.0, 7.0, 1.0],
    )
    step = DEITA(rows=4, complexity="long", quality="good")
    assert kept(step, rows) == [0, 3, 4]
    assert kept(DEITA(rows=4, quality="good", fill=True), rows) == [0, 2, 3, 4]
    assert kept(DEITA(rows=2, quality="good", most_alike=1.0), rows) == [0, 3]
    assert state_of(step, rows).info["different"] == 3
    with pytest.raises(ValidationError, match="complexity, quality or both"):
        DEITA(rows=1)


def test_self_repellent_says_how_far_it_saw():
    rows = prompts(*[f"1 {i}" for i in range(30)])
    info = state_of(SelfRepellent(rows=5), rows).info
    assert 1 <= info["visited"] <= 30
    assert 0 < info["radius"] < 0.5


# -- by mix -----


def test_instag_by_hand():
    tags = [["a"], ["a", "b", "c"], ["a", "b"], ["d", "d"], ["a", "b", "d"], None, []]
    rows = prompts(*[f"q{i}" for i in range(7)]).with_columns(tags=pl.Series(tags))
    assert kept(InsTag(rows=2), rows) == [1, 4]
    assert kept(InsTag(rows=3), rows) == [1, 2, 4]
    info = state_of(InsTag(rows=7), rows).info
    assert info["kept_without_a_new_tag"] == 2
    assert info["tags"] == 4
    assert info["tags_a_row"] == pytest.approx(10 / 7)
    assert state_of(InsTag(rows=2), rows).info["baseline"]["selected"] == 1.0


def mixed():
    return prompts(*[f"1 0.0{i}" for i in range(9)], *[f"0.0{i} 1" for i in range(1, 4)])


def test_rows_come_near_the_mix_of_a_file(tmp_path):
    """Nine prompts along one axis and three along the other; the file has one of each."""
    target = tmp_path / "wanted.txt"
    target.write_text("1 0\n0 1\n")
    step = MatchTarget(rows=4, target=str(target))
    found = [kept(step, mixed(), seed=s) for s in range(40)]
    share = np.mean([[i >= 9 for i in f] for f in found])
    assert 0.4 < share < 0.6
    by_chance = np.mean([[i >= 9 for i in kept(RandomSubsample(rows=4), mixed(), seed=s)]
                         for s in range(40)])  # fmt: skip
    assert by_chance < 0.35
    info = state_of(step, mixed()).info
    assert 6 < info["effective_rows"] < 12
    assert info["baseline"]["objective"] == "drift"


def test_the_content_of_the_target_is_identity(tmp_path):
    one, other = tmp_path / "a.txt", tmp_path / "b.txt"
    one.write_text("1 0\n")
    other.write_text("1 0\n")
    first, second = (MatchTarget(rows=1, target=str(p)) for p in (one, other))
    assert first.fingerprint() == second.fingerprint()
    other.write_text("0 1\n")
    assert first.fingerprint() != second.fingerprint()


def test_a_mix_of_a_column_is_met_as_far_as_rows_go():
    kinds = ["a"] * 30 + ["b"] * 8 + [None] * 2
    rows = prompts(*[f"q{i}" for i in range(40)]).with_columns(kind=pl.Series(kinds))
    shares = {"a": 1, "b": 1}
    step = MatchTarget(rows=10, mix=shares, column="kind")
    counts = np.mean(
        [np.bincount([kinds[i] == "b" for i in kept(step, rows, seed=s)], minlength=2)
         for s in range(30)], axis=0
    )  # fmt: skip
    assert counts[1] == 5
    assert set(kept(MatchTarget(rows=8, mix={"b": 1}, column="kind"), rows)) == set(range(30, 38))
    assert state_of(step, rows).info["kept"].keys() <= {"a", "b"}
    assert step.needs(Shape.PROMPTS) == {"kind": pl.String()}
    assert not step.opens_engines()


def test_wrong_targets(tmp_path):
    with pytest.raises(ValidationError, match="exactly one of target"):
        MatchTarget(rows=1)
    for mix in ({}, {"a": -1.0, "b": 2.0}, {"a": 0.0}):
        with pytest.raises(ValidationError, match="shares must not be negative"):
            MatchTarget(rows=1, mix=mix)
    missing = MatchTarget(rows=1, target=str(tmp_path / "nowhere.txt"))
    with pytest.raises(DataError, match="nowhere"):
        missing.identity()
    with pytest.raises(ConfigError, match="can't be read"):
        missing.needs(Shape.PROMPTS)


# -- random -----


def test_random_takes_prompts_groups_and_tokens():
    rows = prompts(*["word " * (i + 1) for i in range(20)])
    rows = rows.with_columns(kind=pl.Series(["x"] * 15 + ["y"] * 5))
    found = kept(RandomSubsample(rows=6, group_by="kind", shares="equal"), rows)
    assert len([i for i in found if i < 15]) == 3
    step = RandomSubsample(tokens=60)
    info = state_of(step, rows).info
    assert 60 - 27 < info["tokens"] <= 60
    assert len(kept(step, rows)) == info["k"]
    with pytest.raises(ValidationError, match="group_by or quotas"):
        RandomSubsample(rows=1, group_by="kind", quotas="source")


def test_tokens_are_bytes_of_prompt_and_answers():
    rows = pairs(("12345678", "1234", "é" * 4), ("1", "", ""))
    cost = RandomSubsample(tokens=9).cost_columns(Shape.PAIRS)[0]
    assert rows.select(tokens=cost)["tokens"].to_list() == [5, 1]
    cost = RandomSubsample(tokens=9, bytes_a_token=2).cost_columns(Shape.PAIRS)[0]
    assert rows.select(tokens=cost)["tokens"].to_list() == [10, 1]
    assert shape_of(rows) == Shape.PAIRS
    assert ROW_ID[Shape.PAIRS] in rows.columns

import polars as pl
import pytest

from labelers import JudgePairs, Relabel
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.measures.judge_report import judge_report, votes_of
from prefactory.tables import Shape, canonical_order, check
from tests.helpers import content, digest, ledger_of, pairs, view
from tests.labelers import judging as j

PAIRS = canonical_order(
    pairs(
        ("agree", "GOOD", "b"),
        ("against", "b", "GOOD"),
        ("tie", "x", "y"),
        ("twice", "same", " same"),
        ("both", "GOOD c", "d"),
        ("both", "d", "GOOD c"),
        ("both", "GOOD c", "e"),
        margin=[1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 5.0],
        chosen_score_help=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
        rejected_score_help=[0.0, 0.5, 3.0, 4.0, 2.0, 2.0, 2.0],
    ),
    Shape.PAIRS,
)
MANY = canonical_order(
    pairs(
        *[
            (f"q{i}", *((f"GOOD {i}", f"bad {i}") if i % 3 else (f"bad {i}", f"GOOD {i}")))
            for i in range(40)
        ]
    ),
    Shape.PAIRS,
)


def step(*functions, **fields):
    return JudgePairs(judge=[j.judge(f) for f in functions or (j.good,)], **fields)


def verdicts(found, table=PAIRS):
    """Verdict or reason by prompt and chosen text."""
    texts = [content(table, c) for c in ("prompt", "chosen", "rejected")]
    said = [p or f"({r})" for p, r in found.select("judge_prefers", "judge_reason").iter_rows()]
    return {" ".join(key): value for *key, value in zip(*texts, said, strict=True)}


def test_what_the_judge_prefers():
    j.SEEN.clear()
    found = j.labelled(step(), PAIRS)
    assert verdicts(found) == {
        "agree GOOD b": "chosen",
        "against b GOOD": "rejected",
        "tie x y": "tie",
        "twice same  same": "(same_text)",
        "both GOOD c d": "chosen",
        "both d GOOD c": "rejected",
        "both GOOD c e": "chosen",
    }
    assert set(j.SEEN.values()) == {1}
    assert j.SEEN.total() == 10  # both orders of five questions: one pair is there twice
    same = found.filter(pl.col("judge_reason") == "same_text").row(0, named=True)
    assert (same["judge_asked"], same["judge_votes"], same["judge_agreement"]) == (0, [], None)
    rest = found.filter(pl.col("judge_reason").is_null())
    assert rest["judge_agreement"].unique().to_list() == [1.0]
    assert rest["judge_valid"].unique().to_list() == [2]
    for row in PAIRS.join(rest, on="pair_id").to_dicts():
        low, high = sorted([row["chosen_id"], row["rejected_id"]])
        side = {"chosen": row["chosen_id"], "rejected": row["rejected_id"], "tie": None}
        named = {(low, high, None)[v["answer"]] for v in row["judge_votes"]}
        assert named == {side[row["judge_prefers"]]}


def test_always_a_abstains_and_inverted_inverts():
    found = verdicts(j.labelled(step(j.always_a), MANY), MANY)
    assert set(found.values()) == {"(abstained)"}
    straight = verdicts(j.labelled(step(), MANY), MANY)
    turned = verdicts(j.labelled(step(j.bad), MANY), MANY)
    flip = {"chosen": "rejected", "rejected": "chosen"}
    assert turned == {k: flip[v] for k, v in straight.items()}
    assert straight["q1 GOOD 1 bad 1"] == "chosen"
    assert straight["q3 bad 3 GOOD 3"] == "rejected"


@pytest.mark.parametrize(
    ("function", "reason"), [(j.failing, "http_500"), (j.stubborn, "no_valid_vote")]
)
def test_faults_are_reasons(function, reason, caplog):
    found = j.labelled(step(function, max_invalid=1), MANY)
    assert found["judge_reason"].unique().to_list() == [reason]
    assert found["judge_prefers"].null_count() == 40
    assert found["judge_agreement"].null_count() == 40
    assert found["judge_valid"].sum() == 0
    assert "judge scripted: 80 of this shard's votes are invalid; for example" in caplog.text


def test_two_judgements_side_by_side(tmp_path):
    steps = [
        {"labelers.JudgePairs": {"judge": [j.judge(j.good)]}},
        {"labelers.JudgePairs": {"judge": [j.judge(j.bad)], "name": "second"}},
        {"labelers.Relabel": {"on_disagree": "keep"}},
    ]
    found = view(j.ran(steps, MANY, tmp_path), "pairs")
    assert (found["judge_prefers"] != found["second_prefers"]).all()
    for name in ("judge", "second"):
        assert judge_report(found, name)["label"]["agrees"] == {"judge": 26, "second": 14}[name]


@pytest.mark.parametrize("shard_rows", [1, 1000])
def test_a_run_is_the_same_in_any_shards(tmp_path, shard_rows):
    steps = [
        {"labelers.JudgePairs": {"judge": [j.judge(j.good), j.judge(j.always_a)], "rounds": 2}},
        {"labelers.Relabel": {"on_disagree": "flip"}},
    ]
    one = j.ran(steps, PAIRS, tmp_path / "one", shard_rows)
    assert digest(one) == digest(j.ran(steps, PAIRS.reverse(), tmp_path / "two", 3))


def test_statistics_are_those_of_all_pairs_whatever_is_dropped_later(tmp_path):
    judges = {"judge": [j.judge(j.good), j.judge(j.always_a)], "early_stop": False}
    steps = [{"labelers.JudgePairs": judges}, {"labelers.Relabel": {}}]
    judged, relabelled = j.ran(steps, MANY, tmp_path).stages[-2:]
    assert relabelled.reasons == {"judge_disagrees": 14}
    assert judged.info["label"]["contradicts"] == 14
    assert judged.info["label"]["agreement"]["value"] == 0.65
    assert judged.info["questions"] == 40
    assert [one["self_consistency"]["value"] for one in judged.info["judges"]] == [1.0, 0.0]
    assert judged.info["name"] == "judge"


def test_a_judge_that_goes_by_the_place_is_told_of(caplog):
    j.labelled(step(j.good, j.always_a, early_stop=False), MANY)
    told = [r.message for r in caplog.records]
    assert told == [
        "the judge scripted goes by the place: 40 of 40 votes are for place 1, "
        "whatever stands there"
    ]


def test_no_pairs():
    assert j.labelled(step(), PAIRS.clear()).height == 0


# -- relabelling -----


def relabelled(table=PAIRS, judge=j.good, **fields):
    """Rows, and reasons by prompt and chosen text."""
    judged = table.join(j.labelled(step(judge), table), on="pair_id", maintain_order="left")
    rows, dropped = apply_generator(Relabel(**fields), "relabel", judged, Shape.PAIRS, Context())
    check(rows, Shape.PAIRS)
    texts = zip(content(table, "prompt"), content(table, "chosen"), strict=True)
    names = dict(zip(table["pair_id"], map(" ".join, texts), strict=True))
    return rows, {names[i]: reason for i, reason in dropped.select("row_id", "reason").iter_rows()}


def test_drop_what_the_judge_contradicts():
    rows, reasons = relabelled()
    assert content(rows, "chosen") == [c for c in content(rows, "chosen") if "GOOD" in c]
    assert reasons == {
        "against b": "judge_disagrees",
        "both d": "judge_disagrees",
        "tie x": "judge_tie",
        "twice same": "same_text",
    }
    kept = PAIRS.filter(pl.col("pair_id").is_in(rows["pair_id"].implode()))
    assert rows.select(PAIRS.columns).equals(kept)
    assert not rows["relabelled"].any()


def test_turn_what_the_judge_contradicts():
    rows, reasons = relabelled(on_disagree="flip", on_tie="keep", on_undecided="keep")
    assert reasons == {"both d": "turned_copy"}
    row = next(r for r in rows.to_dicts() if r["relabelled"])
    before = next(r for r in PAIRS.to_dicts() if r["pair_id"] == row["relabelled_from"])
    assert row["pair_id"] != before["pair_id"]
    for one, other in (("chosen", "rejected"), ("rejected", "chosen")):
        for column in ("", "_id", "_model", "_score_help"):
            assert row[one + column] == before[other + column]
    assert (row["margin"], row["label_source"]) == (-before["margin"], "judge")
    assert row["judge_prefers"] == "chosen"
    rest = rows.filter(~pl.col("relabelled"))
    assert rest.height == 5
    assert rest["label_source"].unique().to_list() == ["human"]
    assert (rest["relabelled_from"] == rest["pair_id"]).all()


def test_signs_turn_with_the_sides():
    table = PAIRS.with_columns(sign_help=pl.lit(1, pl.Int8), margin_ann=pl.lit(2.5))
    rows, _ = relabelled(table, on_disagree="flip", on_tie="keep", on_undecided="keep")
    for turned, sign, margin in rows.select("relabelled", "sign_help", "margin_ann").iter_rows():
        assert (sign, margin) == ((-1, -2.5) if turned else (1, 2.5))
    assert rows["relabelled"].any()
    assert rows.schema["sign_help"] == pl.Int8


def test_a_judge_that_inverts_inverts_every_label():
    rows, reasons = relabelled(MANY, j.bad, on_disagree="flip")
    assert reasons == {}
    before = set(zip(content(MANY, "chosen"), content(MANY, "rejected"), strict=True))
    after = set(zip(content(rows, "chosen"), content(rows, "rejected"), strict=True))
    assert len(after) == 40
    assert {a for a, _ in after} == {f"bad {i}" for i in range(40)}
    agreed = {(a, b) for a, b in before if a.startswith("bad")}
    assert after == agreed | {(b, a) for a, b in before - agreed}


def test_turning_renames_what_other_judges_prefer_and_the_report_remembers(tmp_path):
    steps = [
        {"labelers.JudgePairs": {"judge": [j.judge(j.good)]}},
        {"labelers.JudgePairs": {"judge": [j.judge(j.bad)], "name": "second"}},
        {"labelers.Relabel": {"on_disagree": "flip"}},
    ]
    found = view(j.ran(steps, MANY, tmp_path), "pairs")
    assert found["judge_prefers"].unique().to_list() == ["chosen"]
    assert found["second_prefers"].unique().to_list() == ["rejected"]
    assert judge_report(found)["label"]["contradicts"] == 14
    assert judge_report(found, "second")["label"]["contradicts"] == 26


def test_keep_changes_nothing():
    rows, reasons = relabelled(on_disagree="keep", on_tie="keep", on_undecided="keep")
    assert reasons == {}
    assert rows.select(PAIRS.columns).equals(PAIRS)


def test_a_weak_preference_is_none():
    rows, reasons = relabelled(MANY, on_disagree="flip", min_agreement=1.0)
    assert reasons == {}
    judged = MANY.join(j.labelled(step(), MANY), on="pair_id", maintain_order="left")
    judged = judged.with_columns(judge_agreement=pl.lit(0.7))
    weak = Relabel(on_disagree="flip", min_agreement=0.8)
    rows, dropped = apply_generator(weak, "relabel", judged, Shape.PAIRS, Context())
    assert rows.height == 0
    assert dropped["reason"].unique().to_list() == ["weak_agreement"]
    assert dropped["detail"].unique().to_list() == ["70% of the votes"]
    kept = Relabel(on_disagree="flip", min_agreement=0.8, on_undecided="keep")
    rows, _ = apply_generator(kept, "relabel", judged, Shape.PAIRS, Context())
    assert rows.select(MANY.columns).equals(MANY)


def test_the_ledger_says_why(tmp_path):
    def steps(judge, **fields):
        return [
            {"labelers.JudgePairs": {"judge": [j.judge(judge)]}},
            {"labelers.Relabel": fields},
        ]

    found = ledger_of(j.ran(steps(j.good), PAIRS, tmp_path / "good"))
    assert sorted(found.select("step", "reason", "detail").rows()) == [
        ("labelers.Relabel", "judge_disagrees", "100% of the votes"),
        ("labelers.Relabel", "judge_disagrees", "100% of the votes"),
        ("labelers.Relabel", "judge_tie", "100% of the votes"),
        ("labelers.Relabel", "same_text", "the votes decide nothing"),
    ]
    with pytest.raises(
        DataError, match=r"no row is left after labelers\.Relabel.*40 for abstained"
    ):
        j.ran(steps(j.always_a), MANY, tmp_path / "a")
    kept = j.ran(steps(j.always_a, on_undecided="keep"), MANY, tmp_path / "a")
    assert ledger_of(kept).height == 0


# -- what is published can be read again -----


def test_votes_come_back_from_the_columns():
    judged = PAIRS.join(j.labelled(step(), PAIRS), on="pair_id")
    votes = votes_of(judged)
    assert votes.height == 10
    assert votes["question"].n_unique() == 5
    found = judge_report(judged)
    assert found["self_consistency"]["value"] == 1
    assert found["position"]["bias"] == 0
    assert found["label"] == {
        "pairs": 7,
        "agrees": 3,
        "contradicts": 2,
        "tie": 1,
        "undecided": 1,
        "agreement": found["label"]["agreement"],
    }
    assert found["label"]["agreement"]["value"] == 0.6


def test_rows_outside_what_the_judge_is_trusted_on_are_not_asked():
    table = PAIRS.with_columns(topic=pl.lit("safety")).with_columns(
        topic=pl.when(pl.col("margin") < 3).then(pl.lit("math")).otherwise("topic")
    )
    found = j.labelled(step(trusted_on={"topic": ["math"]}), table)
    outside = (table["topic"] == "safety").to_numpy()
    assert set(found["judge_reason"].filter(pl.Series(outside))) == {"not_trusted"}
    assert found["judge_asked"].filter(pl.Series(outside)).sum() == 0
    whole = j.labelled(step(), table)
    assert found.filter(pl.Series(~outside)).equals(whole.filter(pl.Series(~outside)))
    assert step(trusted_on={"topic": ["math"], "length_bucket": ["short"]}).needs(Shape.PAIRS) == {
        "topic": pl.String()
    }

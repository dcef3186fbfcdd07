"""Coverage of a value system, uncertainty of sampled answers, over-refusal."""

import dataclasses
import gzip
import math

import numpy as np
import polars as pl
import pytest

from audit import Severity
from audit.checks import over_refusal, uncertainty, value_coverage
from audit.subject import Options
from catalog.values import load
from tests.audit.cases import NO_EMBEDDING, clean, one, prompts, responses, rows, table
from tests.helpers import ROOT

FLAMES = load("flames5")
WITH_FLAMES = dataclasses.replace(NO_EMBEDDING, values=FLAMES)


def axes(texts):
    """Vectors by the first letter: texts that begin alike are equal, others at a right angle."""
    return np.stack([np.eye(26, dtype=np.float32)[ord(t.strip().lower()[0]) % 26] for t in texts])


AXES = Options(embed=axes, encoder="letters")


# -- coverage of a value system -----


def test_without_a_value_system_the_check_says_how_to_name_one():
    found = one("value_coverage", prompts("a question"))
    assert found.severity is Severity.SKIPPED
    assert "--values NAME|FILE" in found.headline


@pytest.mark.parametrize(
    "values",
    [
        [["flames5:fairness.bias"], ["data.personal", "fairness.bias"], [], ["safety.physical"]],
        [["Bias and discrimination"], ["Personal data", "fairness.bias"], None, ["PHYSICAL HARM "]],
    ],
    ids=["ids", "labels"],
)
def test_a_column_of_nodes_is_counted_by_node(values):
    data = prompts(*"abcd").sort("prompt_id").with_columns(risk=pl.Series(values))
    found = one("value_coverage", data, WITH_FLAMES)
    assert found.metrics["assigned"].value == pytest.approx(0.75)
    assert found.metrics["node:fairness.bias"].value == pytest.approx(0.5)  # 1 + 1/2 of 3 rows
    assert found.metrics["node:data"].value == pytest.approx(1 / 6)
    assert found.metrics["node:fairness.bias"].n == 2
    assert found.metrics["leaves"].value == 12
    assert found.metrics["empty_leaves"].value == 9
    shares = np.array([1 / 2, 1 / 6, 1 / 3])
    expected = -(shares * np.log(shares)).sum() / math.log(12)
    assert found.metrics["evenness:part"].value == pytest.approx(expected)
    assert found.severity is Severity.NOTE
    assert "Toxic language" in found.headline
    assert found.rows["row"].to_list() == [data["prompt_id"][2]]
    assert any("column risk" in note for note in found.report.notes)


def test_a_tree_with_all_leaves_filled_evenly_is_fine():
    data = prompts(*"abcdefghijkl").with_columns(risk=pl.Series(list(FLAMES.leaves)))
    found = one("value_coverage", data, WITH_FLAMES)
    assert found.severity is Severity.OK
    assert found.metrics["evenness:part"].value == pytest.approx(1.0)


def test_words_of_a_label_or_two_of_a_definition_assign_a_prompt():
    texts = pl.Series(
        [
            "how do I keep personal data safe",
            "my personal trainer",
            "is it insult or abuse",
            "insults of all kinds",
            "",
        ]
    )
    hits = value_coverage.by_words(texts, FLAMES)
    assert hits.rows() == [(0, "data.personal"), (2, "fairness.toxic")]


def test_prompts_without_words_go_to_the_nearest_description_or_to_none():
    data = prompts("pie of plums", "quince", "illness and injury")
    # "Physical harm", "Property" and "Personal data" begin with p; the first of them is taken
    found = one("value_coverage", data, dataclasses.replace(AXES, values=FLAMES))
    assert found.metrics["node:safety.physical"].n == 2
    assert found.metrics["assigned"].value == pytest.approx(2 / 3)
    assert found.rows.height == 1
    words = one("value_coverage", data, WITH_FLAMES)
    assert words.metrics["assigned"].value == pytest.approx(1 / 3)


def test_a_column_of_other_words_is_no_column_of_nodes():
    data = prompts("a", "b", "c").with_columns(risk=pl.Series(["fairness", "x", "y"]))
    found = one("value_coverage", data, WITH_FLAMES)
    assert found.metrics["assigned"].value == 0


# -- uncertainty -----


def entropy_of(*meanings):
    n = len(meanings)
    frame = pl.DataFrame({"group": [1] * n, "row": range(n), "key": [str(m) for m in meanings],
                          "numeric": [False] * n, "meaning": meanings})  # fmt: skip
    return uncertainty.entropies(frame)["entropy"][0]


@pytest.mark.parametrize(
    ("meanings", "expected"),
    [
        ((0, 0, 0, 0), 0.0),
        ((0, 1, 2, 3), 1.0),
        ((0, 0, 1, 1), 0.5),
        ((0, 0, 0, 1), (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(4)),
    ],
)
def test_semantic_entropy_has_its_known_values(meanings, expected):
    assert entropy_of(*meanings) == pytest.approx(expected)


def answers(*groups, **extra):
    found = responses(*[(p, a) for p, given in groups for a in given], **extra)
    return found.with_columns(model=pl.lit("m"))


def test_final_numbers_are_compared_as_numbers():
    data = answers(
        ("sum one", ["So the answer is 1,200.", "Adding up: answer: 1200"]),
        ("sum two", ["The answer is 3", "The answer is 4"]),
    )
    for options in (NO_EMBEDDING, AXES):  # as vectors, 3 and 4 are the same
        found = one("uncertainty", data, options)
        assert found.metrics["numbers"].value == pytest.approx(0.5)
        assert found.metrics["entropy_numbers"].value == pytest.approx(0.5)
    assert found.rows.height == 2
    assert found.rows["note"][0].startswith("2 meanings in 2 answers")


def test_meanings_are_near_vectors_whatever_the_order():
    data = answers(
        ("question one", ["apple pie", "apple tart", "a cake", "banana"]),
        ("question two", ["cherry", "cherries", "damson", "dates"]),
    )
    found = one("uncertainty", data, AXES)
    assert found.metrics["disagreement"].value == 1.0
    first = (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(4)
    assert found.metrics["entropy"].value == pytest.approx((first + 0.5) / 2)
    again = one("uncertainty", data.sample(fraction=1, shuffle=True, seed=1), AXES)
    assert again.to_dict() == found.to_dict()
    texts = one("uncertainty", data, NO_EMBEDDING)
    assert texts.metrics["entropy"].value == pytest.approx(1.0)


def test_answers_that_differ_in_case_and_space_agree():
    found = one("uncertainty", answers(("q", ["Yes it is", "yes  it IS "])))
    assert found.metrics["disagreement"].value == 0
    assert found.metrics["entropy"].value == 0
    assert found.severity is Severity.OK


def test_answers_of_two_models_are_no_samples_of_one():
    data = answers(("q", ["one", "two"])).with_columns(model=pl.Series(["a", "b"]))
    assert one("uncertainty", data).severity is Severity.SKIPPED
    assert one("uncertainty", clean(5)).severity is Severity.SKIPPED


def hedged(right, wrong, n=60):
    """n right and n wrong answers, of which so many hedge."""
    texts = [f"perhaps it is {i}" if i < right else f"it is {i}" for i in range(n)]
    texts += [f"perhaps it was {i}" if i < wrong else f"it was {i}" for i in range(n)]
    data = responses(*[(f"p{i}", t) for i, t in enumerate(texts)])
    return data.with_columns(score_correct=pl.Series([1.0] * n + [0.0] * n))


def test_hedges_on_right_answers_are_noted_and_on_wrong_ones_are_fine():
    upside_down = one("uncertainty", hedged(40, 10))
    assert upside_down.metrics["hedging:correct"].value == pytest.approx(-0.5)
    assert upside_down.severity is Severity.NOTE
    assert upside_down.report.unmeasured == {
        "entropy": "no prompt has several answers of one model"
    }
    calibrated = one("uncertainty", hedged(10, 40))
    assert calibrated.metrics["hedging:correct"].value == pytest.approx(0.5)
    assert calibrated.severity is Severity.OK


def test_a_score_of_many_values_says_nothing_of_right_and_wrong():
    data = hedged(40, 10).with_columns(score_correct=pl.Series([0.0, 1.0, 0.5] * 40))
    assert one("uncertainty", data).severity is Severity.SKIPPED


def test_hedging_is_read_of_pairs_too():
    n = 60
    data = table(
        [(p, f"it is {i}", f"perhaps {i}") for i, (p, _, _) in enumerate(rows(n))],
        chosen_score_correct=[1.0] * n,
        rejected_score_correct=[0.0] * n,
    )
    assert one("uncertainty", data).metrics["hedging:correct"].value == pytest.approx(1.0)


# -- over-refusal -----

NO = "I'm sorry, but I can't help with that."


def asked(labels, chosen, rejected, column="label"):
    found = [(p, chosen or c, rejected or r) for p, c, r in rows(len(labels))]
    data = table(found)
    by_source = pl.DataFrame({"source_id": [f"test:{i}" for i in range(len(labels))],
                              column: labels})  # fmt: skip
    return data.join(by_source, on="source_id")


def test_a_chosen_refusal_of_a_safe_prompt_is_a_warning_with_its_rows():
    data = asked(["safe"] * 4 + ["unsafe"] * 4, NO, None)
    found = one("over_refusal", data)
    assert found.metrics["safe_chosen"].value == 1.0
    assert found.metrics["safe_rejected"].value == 0.0
    assert found.metrics["unsafe_chosen"].value == 0.0
    assert found.severity is Severity.WARNING
    assert set(found.rows["where"]) == {f"test:{i}" for i in range(4)}
    assert set(found.rows["note"]) == {"the chosen answer refuses a safe prompt"}


def test_with_unsafe_prompts_it_is_the_other_way_round():
    data = asked(["homonyms"] * 4 + ["contrast_homonyms"] * 4, None, NO, "type")
    found = one("over_refusal", data)
    assert found.metrics["safe_chosen"].value == 0.0
    assert found.metrics["unsafe_turned"].value == 1.0
    assert found.because.startswith("unsafe_")
    assert found.severity is Severity.WARNING
    assert set(found.rows["where"]) == {f"test:{i}" for i in range(4, 8)}


def test_right_answers_to_safe_and_unsafe_prompts_raise_no_alarm():
    data = asked(["safe"] * 20, None, NO)
    assert one("over_refusal", data).severity is Severity.OK
    refused = asked(["unsafe"] * 20, NO, None)
    assert one("over_refusal", refused).severity is Severity.OK


def test_without_a_column_a_list_says_what_only_sounds_harmful():
    scary = "How can I kill a Python process?"
    data = table(
        [*rows(20), *[(f"{scary} {'I mean it. ' * i}", NO, "Use kill.") for i in range(8)]]
    )
    found = one("over_refusal", data)
    assert found.metrics["looks_safe_chosen"].value == 1.0
    assert found.severity is Severity.WARNING
    assert found.rows.height == 8
    harmful = table([("How can I kill my neighbour?", NO, "So: ...")])
    assert one("over_refusal", harmful).severity is Severity.SKIPPED
    assert one("over_refusal", clean(30)).severity is Severity.SKIPPED


def test_the_list_knows_a_tenth_of_xstest():
    path = ROOT.parent / "shared" / "data" / "values" / "xstest_safe_completions.csv.gz"
    if not path.exists():
        pytest.skip(f"NOT RUN: XSTest's safe prompts are not at {path}")
    with gzip.open(path) as file:
        data = pl.read_csv(file.read()).unique("prompt")
    assert data.height == 161
    assert data["prompt"].str.to_lowercase().str.contains(over_refusal.HARMLESS).sum() >= 16
    assert data["type"].str.contains(over_refusal.SAFE).all()

"""Scores, scorers, contamination, coverage, diversity, provenance."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from audit import Intake, Options, Severity
from filters.contamination.benchmarks import benchmark
from tests.audit.cases import EMBEDDING, clean, one, prompts, responses, rows, table


def scored(n=100, wrong=0, tied=0, **more):
    chosen = [0.0] * wrong + [1.0] * tied + [2.0] * (n - wrong - tied)
    return clean(n, chosen_score_reward=chosen, rejected_score_reward=[1.0] * n, **more)


def test_scores_that_bear_the_label_out():
    found = one("scores", scored())
    assert found.severity is Severity.OK
    assert found.headline == "1 score: reward"


def test_contradictions_and_ties_of_scores():
    found = one("scores", scored(wrong=5, tied=12))
    assert found.metrics["contradictions:reward"].value == pytest.approx(0.05)
    assert found.metrics["ties:reward"].value == pytest.approx(0.12)
    assert found.severity is Severity.WARNING
    assert found.examples[0].note == "reward puts the rejected answer higher"
    assert found.recipe == ("- filters.Margin: {objective: reward, on_null: keep}",)


def test_missing_and_infinite_scores():
    data = scored().with_columns(
        chosen_score_reward=pl.Series([None] * 10 + [float("inf")] + [2.0] * 89)
    )
    found = one("scores", data)
    assert found.metrics["unscored:reward"].value == pytest.approx(0.05)
    assert found.metrics["not_finite:reward"].value == pytest.approx(1 / 200)
    assert found.severity is Severity.WARNING


def test_a_margin_that_is_not_the_difference():
    found = one("scores", scored(margin=[1.0] * 90 + [3.0] * 10))
    assert found.metrics["margin_off:reward"].value == pytest.approx(0.1)
    assert found.metrics["contradictions:margin"].value == 0


def test_other_objectives_may_go_against_the_label():
    data = scored(chosen_score_verbosity=[0.0] * 100, rejected_score_verbosity=[1.0] * 100)
    found = one("scores", data)
    assert "contradictions:verbosity" not in found.metrics
    assert found.severity is Severity.OK


def test_overall_tens_that_were_ones():
    n = 100
    rng = np.random.default_rng(0)
    aspects = rng.integers(1, 6, n).astype(float)
    overall = aspects * 2
    overall[:3], aspects[:3] = 10.0, 1.0
    extra = {"chosen_score_overall_score": overall, "rejected_score_overall_score": np.full(n, 6.0)}
    for name in ("honesty", "helpfulness_aspect"):
        extra |= {f"chosen_score_{name}": aspects, f"rejected_score_{name}": np.full(n, 3.0)}
    found = one("scores", clean(n, **{k: list(v) for k, v in extra.items()}))
    assert found.metrics["off_scale:overall_score"].value == pytest.approx(3 / 200)
    assert found.examples[0].note == (
        "overall_score is 10 where its aspects average 0% of their scale"
    )


def test_ties_that_the_reader_left_out():
    ties = pl.DataFrame({"row_id": ["a:1"] * 25, "reason": ["tie"] * 25, "detail": [""] * 25})
    found = one("scores", clean(75), intake=Intake(rejected=ties))
    assert found.metrics["left_out_ties"].value == pytest.approx(0.25)


def test_no_scores():
    assert one("scores", clean(5)).severity is Severity.SKIPPED
    assert one("agreement", clean(5)).severity is Severity.SKIPPED


def test_a_score_against_the_label_is_noted():
    found = one("agreement", scored(wrong=80))
    assert found.metrics["with_label:reward"].value == pytest.approx(0.2)
    assert found.because == "with_label:reward is outside 0.5 or more"
    assert one("agreement", scored()).severity is Severity.OK


def test_agreement_of_two_scores():
    n = 100
    other = [2.0] * 70 + [0.0] * 30
    data = scored(chosen_score_other=other, rejected_score_other=[1.0] * n)
    found = one("agreement", data)
    assert found.metrics["between:reward~other"].value == pytest.approx(0.7)
    assert found.metrics["with_label:other"].value == pytest.approx(0.7)
    assert 0 <= found.metrics["ece:other"].value < 0.05


def test_scores_of_unpaired_answers_are_compared():
    data = responses(
        *[(f"p{i // 2}", f"answer {i}") for i in range(40)],
        score_a=[float(i % 2) for i in range(40)],
        score_b=[float(i % 2 if i < 20 else -(i % 2)) for i in range(40)],
    )
    found = one("agreement", data)
    assert found.metrics["between:a~b"].value == pytest.approx(0.5)
    assert found.report.unmeasured["with_label"]


# -- contamination -----

QUESTION = "A farmer has twelve cows and sells three of them on a rainy Monday; how many are left?"


def against(*texts):
    return Options(embeddings=False, against=(benchmark("bench", pl.Series(texts)),))


def test_contaminated_prompts_and_answers():
    planted = [(f"Please solve: {QUESTION}", "nine", "ten"), ("any question", QUESTION, "no")]
    found = one(
        "contamination", table([*rows(98), *planted]), against(QUESTION, "unseen words here")
    )
    assert found.metrics["prompts"].value == pytest.approx(0.01)
    assert found.metrics["answers"].value == pytest.approx(0.01)
    assert found.metrics["benchmark:bench"].value == pytest.approx(0.5)
    assert found.severity is Severity.FAULT
    assert found.examples[0].note.startswith("its prompt holds 100% of a prompt of bench")
    assert "twelve cows" in found.examples[0].note


def test_short_benchmark_prompts_must_be_the_whole_prompt():
    data = table([("Name three colours.", "red", "blue"), ("name three colours of mud", "x", "y")])
    found = one("contamination", data, against("name three colours"))
    assert found.metrics["prompts"].value == pytest.approx(0.5)


def test_clean_data_is_not_contaminated():
    found = one("contamination", clean(), against(QUESTION))
    assert found.severity is Severity.OK
    assert one("contamination", clean(5)).headline.startswith("not applicable: no benchmark")


# -- coverage, diversity, provenance -----


def test_coverage_of_columns_and_scripts():
    data = prompts(
        "what is this",
        "\u4ec0\u4e48\u662f\u8fd9\u4e2a",
        "\u3053\u308c\u306f\u4f55\u3067\u3059\u304b",
        "1 + 1",
        "\u0447\u0442\u043e \u044d\u0442\u043e",
    )
    found = one("coverage", data.with_columns(tags=pl.Series([["a", "b"], ["a"], [], ["b"], None])))
    assert found.metrics["categories:script"].value == 5
    assert found.metrics["categories:tags"].value == 2
    assert found.metrics["largest:tags"].value == pytest.approx(0.5)
    assert found.metrics["unlabelled:tags"].value == pytest.approx(0.4)
    assert found.report.unmeasured == {"values": "no column names values"}


def test_answers_in_another_script():
    data = table(
        [
            *rows(98),
            ("what", "\u4f60\u597d\u4e16\u754c", "fine"),
            ("why", "\u043f\u043e\u0442\u043e\u043c\u0443", "so"),
        ]
    )
    found = one("coverage", data)
    assert found.metrics["other_script:chosen"].value == pytest.approx(0.02)
    assert found.metrics["other_script:rejected"].value == 0
    assert found.severity is Severity.NOTE


def test_diversity_has_its_known_ends():
    same = responses(
        *[(f"question {'abcdefghij'[i % 10] * i}", "the one answer") for i in range(20)]
    )
    metrics = one("diversity", same, EMBEDDING).metrics
    assert metrics["vendi:answers"].value == pytest.approx(1.0)
    assert metrics["uniformity:answers"].value == pytest.approx(0.0)
    assert metrics["self_bleu:answers"].value == pytest.approx(1.0)
    assert metrics["distinct:answers"].value == pytest.approx(1 / 20)
    assert metrics["vendi:prompts"].value > 1.0
    off = one("diversity", same, dataclasses.replace(EMBEDDING, embeddings=False))
    assert set(off.report.unmeasured) == {"vendi", "uniformity"}


def test_licences_of_sources():
    sources = ({"name": "a", "license": "mit"}, {"name": "b", "license": "cc-by-nc-4.0"})
    found = one("provenance", clean(5), intake=Intake(sources=sources))
    assert found.metrics["unlicensed"].value == 0
    assert found.metrics["restricted"].value == pytest.approx(0.5)
    assert "restricted: b (cc-by-nc-4.0)" in found.headline
    none = one("provenance", clean(5), intake=Intake(name="x", license="unknown"))
    assert none.metrics["unlicensed"].value == 1.0
    assert none.severity is Severity.NOTE


def test_unknown_models_and_sources():
    data = clean(4).with_columns(source=pl.Series(["a", None, "", "b"]))
    found = one("provenance", data)
    assert found.metrics["no_source"].value == pytest.approx(0.5)
    assert found.metrics["no_model"].value == 1.0
    named = data.with_columns(chosen_model=pl.lit("m"), rejected_model=pl.lit("n"))
    assert one("provenance", named).metrics["no_model"].value == 0.0

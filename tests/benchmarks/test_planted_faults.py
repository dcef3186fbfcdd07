"""Planters plant what they say, the audit finds it at 20 %, and nothing on the clean set."""

import numpy as np
import polars as pl
import pytest

from audit import CHECKS, Intake, Options, Severity, audit
from benchmarks.planted_base import ASPECTS, Texts, dressed
from benchmarks.planted_list import FAULTS
from benchmarks.planters import plant, reword
from filters.contamination.benchmarks import benchmark
from tests.audit.cases import rows, sentence
from tests.helpers import pairs

N, DOSE = 100, 0.2
RNG = np.random.default_rng(5)
QUESTIONS = [sentence(RNG, 20, 30) for _ in range(30)]
TEXTS = Texts(
    refusals=[f"I'm sorry, but I can't help with that: {sentence(RNG)}" for _ in range(40)],
    chinese=[f"这是第{'一二三四五六七八九十'[i]}个问题请回答" for i in range(10)],
    gsm8k=QUESTIONS,
    truthfulqa=QUESTIONS[::-1],
    reworded=[sentence(RNG, 20, 30) for _ in range(30)],
    words=[f"other{i}" for i in range(500)],
)
OPTIONS = Options(embeddings=False, against=(benchmark("test", pl.Series(QUESTIONS)),))
ROWS = [f for f in FAULTS if f.kind == "row"]
PARTLY = ("40 % of words", "reworded by a model", "20 % of words changed", "loops",
          "shuffled")  # fmt: skip
"""Found in part or not at all (docs/planted_faults.md); these answers are too long for loops, and
too few to learn letters from."""
FOUND = [f for f in ROWS if not f.known_blind and not any(word in f.name for word in PARTLY)]
APPENDED = ("pair_id", "prompt_id", "chosen_id", "rejected_id")


def tiny():
    """Pairs that every fault fits: answers of the same spread of lengths, judged, dressed."""
    rng = np.random.default_rng(1)
    found = [(f"{p} " * 3, *(f"{sentence(rng, 70, 90)} {sentence(rng)}" for _ in "ab"))
             for p, *_ in rows(N)]  # fmt: skip
    low = [float(1 + i % 6) for i in range(N)]
    made = pairs(*found, chosen_score_overall=[s + 3 for s in low], rejected_score_overall=low)
    return dressed(made)


CLEAN = tiny()


def says(table, *names):
    checks = [c for c in CHECKS if not names or c.name in names]
    return audit(table, OPTIONS, Intake(license="mit"), checks=checks)


def fits(fault, dose=DOSE):
    return plant(CLEAN, fault.plant, dose, TEXTS, 0, fault.may, fault.of)


def content(table):
    return [tuple(map(repr, row)) for row in table.drop(APPENDED).iter_rows()]


def test_the_clean_set_has_no_finding():
    found = {f.check: f.because for f in says(CLEAN).findings if f.severity > 0}
    assert found == {"labels": "verified is outside 1 or more"}  # too few rows to say anything


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
@pytest.mark.parametrize("dose", [0.0, 0.05, 0.2])
def test_exactly_the_rows_that_are_named_are_changed(fault, dose):
    spoiled, at = fits(fault, dose)
    before, after = content(CLEAN), content(spoiled)
    assert [i for i in range(N) if before[i] != after[i]] == at
    counted = sum(fault.of is None or fault.of(row) for row in CLEAN.iter_rows(named=True))
    assert len(at) == round(dose * counted)
    assert spoiled.schema == CLEAN.schema


@pytest.mark.parametrize("fault", FOUND, ids=lambda f: f.name)
def test_a_fault_of_rows_is_found_at_a_fifth(fault):
    found = says(fits(fault)[0], fault.check).findings[0]
    assert found.severity > Severity.OK
    assert found.metrics[fault.metric.partition(".")[2]].value >= DOSE / 4


def test_draws_differ_by_seed_and_repeat_with_it():
    fault = FAULTS[0]
    a, b, c = (plant(CLEAN, fault.plant, DOSE, TEXTS, s, fault.may)[1] for s in (1, 1, 2))
    assert a == b != c


def test_a_dose_that_fits_too_few_rows_is_refused():
    with pytest.raises(ValueError, match="20 rows were to be spoiled, but the fault fits only 0"):
        plant(CLEAN, FAULTS[0].plant, DOSE, TEXTS, 0, may=lambda row: False)


def test_the_share_of_words_is_the_one_that_is_named():
    words = reword(" ".join(["a"] * 200), 0.1, TEXTS, np.random.default_rng(0)).split()
    assert sum(word != "a" for word in words) == 20
    draws = [reword("a b", 0.25, TEXTS, np.random.default_rng(s)) != "a b" for s in range(400)]
    assert 160 < sum(draws) < 240  # half a word on average


def test_the_sides_are_dressed_alike():
    named = CLEAN.filter(pl.col("chosen_model") == "strong")
    assert (named["rejected_model"] == "weak").all()
    assert 30 < named.height < 70
    assert CLEAN.select((pl.col("chosen_position") + pl.col("rejected_position") == 3).all()).item()
    assert all(f"chosen_score_{aspect}" in CLEAN.columns for aspect in ASPECTS)

"""Models on pairs: known accuracies, sections, tests; the numbers of training come out again."""

import math

import numpy as np
import polars as pl
import pytest

from tests.helpers import tiny_llama
from trainers import DPO, DatasetRef, Reward, train_transformer
from trainers.evaluate.models import Scored, scored
from trainers.evaluate.report import Evaluation
from trainers.evaluate.tables import accuracies, paired, sections


@pytest.fixture(scope="module")
def pairs(make):
    subsets = ["alpacaeval-easy"] * 30 + ["math-prm"] * 8 + ["hep-go"] * 2
    return make.polite_pairs(40).with_columns(subset=pl.Series(subsets))


def right(pairs, wrong):
    margins = np.ones(pairs.height)
    margins[wrong] = -1
    return Scored("m", "score", margins)


def test_accuracy_by_group_has_an_interval_and_leaves_out_what_was_not_read(pairs):
    model = right(pairs, [0, 1, 2, 39])
    model.margins[5] = np.nan
    rows = {f"{r.group} {r.value}".strip(): r for r in accuracies(model, pairs)}
    assert rows["all"].pairs == 39
    assert rows["all"].accuracy == pytest.approx(35 / 39)
    assert rows["subset hep-go"].accuracy == 0.5
    assert rows["subset hep-go"].interval == (0.0, 1.0)
    p = 35 / 39
    assert rows["all"].se == pytest.approx(math.sqrt(p * (1 - p) / 39))


def test_sections_of_rewardbench_weigh_math_as_its_full_size(pairs):
    found = sections(right(pairs, [0, 30, 38]), pairs)
    assert found["Chat"] == pytest.approx(29 / 30)
    assert found["Reasoning"] == pytest.approx((984 * 7 / 8 + 2 * 0.5) / 986)
    assert found["overall"] == pytest.approx((found["Chat"] + found["Reasoning"]) / 2)
    assert sections(right(pairs, []), pairs.drop("subset")) == {}


def test_paired_models_are_told_apart_only_where_they_differ(pairs):
    best, same, worst = right(pairs, []), right(pairs, []), right(pairs, list(range(20)))
    alike, far = paired([best, same], pairs)[0], paired([best, worst], pairs)[0]
    assert (alike.difference, alike.p) == (0.0, 1.0)
    assert far.difference == 0.5
    assert far.p < 1e-3
    assert paired([best, worst], pairs) == paired([best, worst], pairs), "the seed decides"


@pytest.mark.slow
@pytest.mark.parametrize("method", [DPO, Reward])
def test_evaluation_gives_the_metrics_of_training_again(tmp_path, tiny_model, version, method):
    ref = DatasetRef.from_path(version)
    config = method(
        model=str(tiny_model), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2,
        gradient_accumulation_steps=1, gradient_checkpointing=False, save_strategy="no",
    )  # fmt: skip
    report = train_transformer(config, ref, tmp_path / "m")
    held = ref.version.frame("pairs", "test").collect()
    found = scored(str(tmp_path / "m"), held, None, 4, 1024)
    assert float(found.margins.mean()) == pytest.approx(report.test.margin, abs=1e-4)
    assert accuracies(found, held)[0].accuracy == report.test.accuracy


def test_the_page_shows_models_and_runs_nothing(tmp_path, make):
    pairs = make.polite_pairs(6).with_columns(source=pl.Series(["<b>a</b>", "c"] * 3))
    base = scored(str(tiny_llama(tmp_path / "a")), pairs, None, 4, 256)
    assert base.how == "mean log-probability"
    assert np.isfinite(base.margins).all()
    short = scored(str(tmp_path / "a"), pairs, None, 4, 4)
    assert np.isnan(short.margins).all()
    found = Evaluation.of("<i>data</i>", [base, right(pairs, [0])], pairs, 0)
    page = found.page()
    assert "<script" not in page
    assert "<b>a</b>" not in page
    assert "&lt;i&gt;data" in page
    assert page.count("Calibration of") >= 2
    assert "source c" in found.text()
    assert found.as_dict()["models"][1]["accuracy"][0]["accuracy"] == pytest.approx(5 / 6)

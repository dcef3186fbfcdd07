"""Models on pairs: known accuracies, sections, tests; the numbers of training come out again."""

import math

import numpy as np
import polars as pl
import pytest

from tests.helpers import tiny_llama
from trainers import DPO, DatasetRef, Reward, train_transformer
from trainers.evaluate.benchmarks import REWARD_BENCH, STYLES, sections, ties
from trainers.evaluate.models import Scored, scored
from trainers.evaluate.report import Evaluation
from trainers.evaluate.tables import accuracies, paired


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
    assert rows["characters below 128"] == rows["all"].__class__(
        "characters", "below 128", 39, rows["all"].accuracy, rows["all"].se
    )


def named(found):
    return {part.benchmark: part for part in found}


def test_sections_of_rewardbench_have_the_weights_of_the_whole_benchmark(pairs):
    found = named(sections(right(pairs, [0, 30, 38]).margins, pairs))["RewardBench"].scores
    assert found["Chat"] == pytest.approx(29 / 30)
    assert found["Reasoning"] == pytest.approx((984 * 7 / 8 + 164 * 0.5) / (984 + 164))
    assert found["overall"] == pytest.approx((found["Chat"] + found["Reasoning"]) / 2)
    assert sections(right(pairs, []).margins, pairs.drop("subset")) == []
    assert sum(sum(by.values()) for by in REWARD_BENCH.values()) == 2985 - 447 + 984
    assert sum(n for name, n in REWARD_BENCH["Reasoning"].items() if name != "math-prm") == 984


def test_rewardbench_2_is_right_where_the_best_beats_all_others():
    rows = pl.DataFrame(
        {
            "prompt_id": ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["d"],
            "chosen_id": ["x"] * 3 + ["y"] * 3 + ["z"] * 3 + ["w"],
            "subset": ["Math"] * 6 + ["Focus"] * 3 + ["Ties"],
        }
    )
    margins = np.asarray([1.0, 2, 3, 1, -1, 2, 0, 1, 0, 1])
    found = named(sections(margins, rows))["RewardBench 2"].scores
    assert found == pytest.approx({"Math": 0.5, "Focus": 1 / 3, "overall": 5 / 12})


def of_ties(scores):
    """Rows of `Ties`: id -> scores of the right answers, and of the wrong ones."""
    rows = [
        (name, f"{name} c{i}", f"{name} r{j}", c - r)
        for name, (right, wrong) in scores.items()
        for i, c in enumerate(right) for j, r in enumerate(wrong)
    ]  # fmt: skip
    schema = ["id", "chosen_id", "rejected_id", "margin"]
    return pl.DataFrame(rows, schema=schema, orient="row", strict=False)


def test_ties_of_rewardbench_2_weigh_gaps_against_spreads():
    """Worked by hand from the formula of the benchmark's code."""
    scores = {
        "tied:0": ([5.0, 4.0], [1.0, 2.0]), "ref:0": ([3.0], [1.5, 0.0]),  # 2, 1; 1.5: all
        "tied:1": ([5.0, 1.0], [0.5]), "ref:1": ([9.0], [1.0]),  # gap .5, spread 4
        "tied:2": ([5.0, 4.0], [1.0]), "ref:2": ([1.0], [2.0]),  # gap 3, spread 1; -1
        "tied:3": ([1.0, 4.0], [1.0]),  # equal is lost; nothing beside it
    }  # fmt: skip
    finer = (math.tanh(0.5) + math.tanh(0.5 / 4 - 1) + math.tanh(-2)) / 3
    expected = 0.3 * 3 / 4 + 0.3 * 2 / 3 + 0.2 * 2 / 3 + 0.2 * 1 / 3 + 0.01 * finer
    table = of_ties(scores)
    assert ties(table) == pytest.approx(expected)
    assert ties(table.sample(fraction=1, shuffle=True, seed=3)) == pytest.approx(expected)
    even = {"tied:0": ([1.0, 1.0], [0.0]), "ref:0": ([1.0], [0.0])}
    assert ties(of_ties(even)) == pytest.approx(1.01), "no spread: the gap is infinitely larger"
    nothing = {"tied:0": ([1.0, 1.0], [1.0]), "ref:0": ([1.0], [1.0])}
    assert ties(of_ties(nothing)) == 0.0, "0 / 0 counts nothing"
    assert ties(of_ties({"7": ([1.0], [0.0])})) is None
    rows = table.with_columns(subset=pl.lit("Ties"), prompt_id="id").drop("margin")
    found = named(sections(table["margin"].to_numpy(), rows))["RewardBench 2"].scores
    assert found == pytest.approx({"Ties": expected, "overall": expected})


def styled(margin_of, domains):
    rows = [(d, c, r) for d in domains for c in STYLES for r in STYLES]
    table = pl.DataFrame(rows, schema=["domain", "chosen_style", "rejected_style"], orient="row")
    return np.asarray([margin_of(*row) for row in rows], dtype=float), table


def test_rm_bench_is_a_matrix_of_styles():
    place = {style: i for i, style in enumerate(STYLES)}

    def fancier(domain, chosen, rejected):  # looks at style alone, and is right in maths otherwise
        return place[chosen] - place[rejected] or (1 if domain == "math" else 0)

    margins, table = styled(fancier, ["math", "safety-refuse"])
    found = named(sections(margins, table))["RM-Bench"]
    assert found.scores == pytest.approx(
        {"math": 2 / 3, "safety": 0.5, "easy": 1, "normal": 0.75, "hard": 0, "overall": 7 / 12}
    )
    assert found.matrix == ((0.75, 0, 0), (1, 0.75, 0), (1, 1, 0.75))


def test_rm_bench_pools_both_kinds_of_safety_and_ignores_what_was_not_read():
    margins, table = styled(lambda *_: 1, ["safety-refuse", "safety-response"])
    margins[:9] = -1
    found = named(sections(margins, table))["RM-Bench"].scores
    assert found["safety"] == found["overall"] == 0.5
    margins[:] = np.nan
    assert sections(margins, table) == []


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
    pairs = make.polite_pairs(6).with_columns(source=pl.Series(["<b>bold</b>", "c"] * 3))
    base = scored(str(tiny_llama(tmp_path / "a")), pairs, None, 4, 256)
    assert base.how == "mean log-probability"
    assert np.isfinite(base.margins).all()
    short = scored(str(tmp_path / "a"), pairs, None, 4, 4)
    assert np.isnan(short.margins).all()
    found = Evaluation.of("<i>data</i>", [base, right(pairs, [0])], pairs, 0)
    page = found.page()
    assert "<script" not in page
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold" in page
    assert "&lt;i&gt;data" in page
    assert page.count("Calibration of") >= 2
    assert "source c" in found.text()
    assert found.as_dict()["models"][1]["accuracy"][0]["accuracy"] == pytest.approx(5 / 6)

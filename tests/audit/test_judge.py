"""A judge's verdicts on a drawn sample of labels: rate, interval, position, cost, journal."""

import json
import logging
from collections import Counter
from functools import partial

import numpy as np
import pytest

from audit import CHECKS, Options, Severity
from audit import audit as run_checks
from audit.judged import Judge, draw, judged
from labelers import JudgePairs
from pipelines.api import audit
from prefactory.context import Context
from prefactory.engines.scripted import Scripted
from prefactory.errors import ConfigError, StoppedError
from prefactory.preferences.shares import wilson
from tests.audit.cases import kto, one, rows, table
from tests.labelers import judging as j

GOOD = "tests.labelers.judging.good"
ALWAYS_A = "tests.labelers.judging.always_a"
RUBBISH = "tests.labelers.judging.rubbish"


@pytest.fixture(autouse=True)
def labels_alone(monkeypatch):
    """An audit runs the check of the labels alone: a judge changes nothing in the others."""
    checks = tuple(check for check in CHECKS if check.name == "labels")
    monkeypatch.setattr("pipelines.api.run_checks", partial(run_checks, checks=checks))


def planted(n=120, wrong=18, **extra):
    """Pairs whose better answer says GOOD; of so many it is the rejected one."""
    texts = [
        (p, r, f"GOOD {c}") if i < wrong else (p, f"GOOD {c}", r)
        for i, (p, c, r) in enumerate(rows(n))
    ]
    return table(texts, **extra)


def asked_by(function, home, data=None, **fields):
    judge = Scripted(function=function)
    data = planted() if data is None else data
    return audit(data, judge=judge, embeddings=False, home=home, **fields)


def test_planted_wrong_labels_are_the_error_rate_with_wilsons_interval(tmp_path):
    labels = asked_by(GOOD, tmp_path).finding("labels")
    error = labels.metrics["judge_error"]
    ends = wilson(18, 120)
    assert (error.value, error.n) == (18 / 120, 120)
    assert (error.low, error.high) == pytest.approx((ends.low, ends.high))
    assert labels.metrics["judge_undecided"].value == 0
    assert labels.metrics["verified"].value == 1
    assert "contradicts 15% (10 to 22%) of the 120 labels" in labels.headline
    assert any("A judge is not the truth" in note for note in labels.report.notes)


def test_exactly_the_pairs_judged_wrong_are_named(tmp_path):
    data = planted()
    wrong = set(data["pair_id"].head(18))
    found = asked_by(GOOD, tmp_path, data).finding("labels").rows
    noted = found.filter(found["note"].str.starts_with("the judge prefers the rejected"))
    assert set(noted["row"]) == wrong


def test_rows_of_one_prompt_widen_the_interval(tmp_path):
    once = [(f"ask {i}", f"GOOD {i}", f"bad {i}") for i in range(40)]
    four = [(p, f"{c} {k}", f"{r} {k}") for p, c, r in once for k in range(4)]
    turned = [(p, r, c) if i < 40 else (p, c, r) for i, (p, c, r) in enumerate(four)]
    error = asked_by(GOOD, tmp_path, table(turned)).finding("labels").metrics["judge_error"]
    row, prompt = wilson(40, 160), wilson(10, 40)
    assert error.value == 0.25
    assert error.high - error.low > 1.5 * (row.high - row.low)
    assert error.high - error.low == pytest.approx(prompt.high - prompt.low, rel=0.05)


def test_a_judge_that_follows_the_position_decides_nothing_and_it_is_said(tmp_path):
    labels = asked_by(ALWAYS_A, tmp_path).finding("labels")
    assert "judge_error" in labels.report.unmeasured
    assert labels.metrics["judge_error"].value is None
    assert labels.metrics["judge_undecided"].value == 1
    assert labels.metrics["judge_position"].value == 1
    assert labels.metrics["judge_unusable"].value == 0
    assert "decided none of 120 pairs, and goes by the position in 100%" in labels.headline
    assert labels.metrics["verified"].value == 0


def test_answers_without_a_verdict_are_unusable(tmp_path):
    metrics = asked_by(RUBBISH, tmp_path, sample=40).finding("labels").metrics
    assert metrics["judge_unusable"].value == 1
    assert metrics["judge_position"].value == 0


def test_each_pair_is_asked_in_both_orders(tmp_path):
    j.SEEN.clear()
    asked_by(GOOD, tmp_path, sample=50)
    assert len(j.SEEN) == 100  # all questions differ
    firsts = Counter(
        q.split("answer A")[1].lstrip().split("\n")[1].startswith("GOOD") for q in j.SEEN
    )
    assert firsts == {True: 50, False: 50}


def test_a_second_audit_asks_nothing_again(tmp_path):
    j.SEEN.clear()
    told = []
    first = asked_by(GOOD, tmp_path, sample=60, approve=told.append)
    asked = j.SEEN.total()
    again = asked_by(GOOD, tmp_path, sample=60, approve=told.append, budget_tokens=0)
    assert (asked, j.SEEN.total()) == (120, 120)
    assert [(c.pairs, c.calls, c.reused) for c in told] == [(60, 120, 0), (60, 120, 120)]
    assert told[0].prompt_tokens > 0
    assert (told[1].prompt_tokens, told[1].completion_tokens, told[1].usd) == (0, 0, 0)
    assert first.to_json() == again.to_json()


def test_the_cost_is_told_before_anything_is_asked_and_no_asks_nothing(tmp_path):
    j.SEEN.clear()

    def no(cost):
        assert cost.calls == 240
        assert not j.SEEN
        raise StoppedError("no")

    with pytest.raises(StoppedError, match="no"):
        asked_by(GOOD, tmp_path, approve=no)
    assert not j.SEEN


def test_without_approval_the_cost_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    asked_by(GOOD, tmp_path, sample=10)
    assert "10 pairs in both orders, 20 calls, 0 of them answered before; at most" in caplog.text


def test_a_budget_that_might_not_do_asks_nothing(tmp_path):
    j.SEEN.clear()
    prices = tmp_path / "prices.yaml"
    prices.write_text("scripted: [1000, 1000]\n")
    with pytest.raises(StoppedError, match=r"asked nothing: .* tokens at most, 1,000 allowed"):
        asked_by(GOOD, tmp_path, budget_tokens=1000)
    with pytest.raises(StoppedError, match=r"US dollars at most, 0.5 allowed"):
        asked_by(GOOD, tmp_path, budget_usd=0.5, prices=prices)
    assert not j.SEEN
    told = []
    asked_by(GOOD, tmp_path, budget_usd=1e6, prices=prices, approve=told.append, sample=5)
    assert told[0].usd == pytest.approx((told[0].prompt_tokens + told[0].completion_tokens) / 1000)


def test_the_order_of_the_rows_changes_nothing(tmp_path):
    data = planted()
    one_way = asked_by(GOOD, tmp_path / "a", data, sample=30)
    other = asked_by(GOOD, tmp_path / "b", data.sample(fraction=1, shuffle=True, seed=3), sample=30)
    assert one_way.finding("labels").to_dict() == other.finding("labels").to_dict()


def test_every_pair_is_drawn_as_often_and_the_rate_is_unbiased():
    data = planted(80, 20)
    drawn = Counter()
    for seed in range(300):
        drawn.update(draw(data, 20, Context(seed, "audit").uniform)["pair_id"])
    counts = np.array([drawn[i] for i in data["pair_id"]])
    assert counts.sum() == 300 * 20
    assert abs(counts[:20].sum() / counts.sum() - 0.25) < 0.02  # 20 of 80 are wrong
    assert counts.min() > 45  # 75 are expected, sd 7.5
    assert counts.max() < 105


def test_damaged_pairs_are_not_asked_about(tmp_path):
    texts = [
        (p, "GOOD " * 60, r) if i < 20 else (p, f"GOOD {c}", r)
        for i, (p, c, r) in enumerate(rows(120))
    ]
    told = []
    found = asked_by(GOOD, tmp_path, table(texts), approve=told.append)
    assert told[0].pairs == 100
    assert found.finding("labels").metrics["judge_error"].n == 100


def test_a_judge_that_contradicts_most_labels_is_a_fault_and_one_that_agrees_none():
    def ask(swapped):
        step = JudgePairs(judge=(Scripted(function=GOOD),), early_stop=False)
        engine = Scripted(function=GOOD).open()

        def told(data, seed):
            return step.fit_shard(data, Context(seed, "audit", engine=lambda _: engine))

        options = Options(embeddings=False, judge=Judge("scripted", told))
        return one("labels", planted(120, swapped), options)

    assert ask(120).severity is Severity.FAULT
    assert "judge_error" in ask(120).because
    assert ask(0).severity is Severity.OK


def test_gates_may_name_the_error_rate(tmp_path):
    gates = tmp_path / "gates.yaml"
    gates.write_text("gates: {labels.judge_error: {max: 0.1}}\n")
    assert [f.gate for f in asked_by(GOOD, tmp_path, gates=gates).failures] == [
        "labels.judge_error"
    ]
    fine = asked_by(GOOD, tmp_path, planted(120, 6), gates=gates)
    assert fine.ok
    unasked = audit(planted(), embeddings=False, home=tmp_path, gates=gates)
    assert "--judge ENGINE" in unasked.failures[0].why


def test_json_and_page_hold_what_the_judge_said(tmp_path):
    found = asked_by(GOOD, tmp_path)
    data = json.loads(found.to_json())
    assert data["options"]["judge"] == {"model": "scripted", "sample": 200}
    metrics = next(f for f in data["findings"] if f["check"] == "labels")["metrics"]
    assert metrics["judge_error"]["value"] == 0.15
    assert "judge_error" in found.page
    assert "A judge is not the truth" in found.page


def test_few_pairs_are_judged_without_being_verified(tmp_path):
    labels = asked_by(GOOD, tmp_path, planted(20, 5)).finding("labels")
    assert labels.metrics["judge_error"].value == 0.25
    assert labels.metrics["verified"].value == 0
    assert "contradicts 25%" in labels.headline


def test_engines_are_named_by_yaml_or_a_file_and_mistakes_are_told(tmp_path):
    text = f"{{engine: scripted, function: {GOOD}}}"
    file = tmp_path / "judge.yaml"
    file.write_text(text)
    rates = [
        audit(planted(), judge=judge, embeddings=False, home=tmp_path).metric("labels.judge_error")
        for judge in (text, file, {"engine": "scripted", "function": GOOD})
    ]
    assert [r.value for r in rates] == [0.15] * 3
    for wrong, why in (
        ("none.yaml", "no file and no engine"),
        ("{engine: servr, model: x}", "servr"),
        ("{engine: scripted, modle: x}", "modle"),
    ):
        with pytest.raises(ConfigError, match=why):
            audit(planted(), judge=wrong, embeddings=False, home=tmp_path)


def test_answers_that_are_no_pairs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="asked about pairs"):
        asked_by(GOOD, tmp_path, kto())


def test_pairs_that_are_equal_are_not_counted():
    data = table([("p", "GOOD a", "b"), ("q", "same", " same")]).with_row_index("_row")
    step = JudgePairs(judge=(Scripted(function=GOOD),), early_stop=False)
    engine = Scripted(function=GOOD).open()

    def ask(pairs, seed):
        return step.fit_shard(pairs, Context(seed, "audit", engine=lambda _: engine))

    found = judged(Judge("scripted", ask), data, 2, 0)
    assert (found.pairs, found.decided) == (1, 1)

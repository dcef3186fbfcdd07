"""The audit as a whole: order, shapes, limits, recipes, documentation."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import CHECKS, LIMITS, Intake, Limit, Metric, Options, Severity, audit, summary
from audit.limits import judge
from audit.limits import table as limit_table
from audit.subject import shared
from tests.audit.cases import (
    EMBEDDING,
    NO_EMBEDDING,
    clean,
    embed,
    kto,
    prompts,
    responses,
    rows,
    table,
)
from tests.helpers import ROOT, recipe

FAULTY = table(
    [
        *rows(60),
        ("p", "one", "two"),
        ("p", "two", "one"),
        ("p", "same", "same"),
        ("q", "", "text"),
        ("q", "I can't help with that.", "sure"),
    ],
    split=["train"] * 50 + ["test"] * 15,
    chosen_score_reward=[float(i % 3) for i in range(65)],
    rejected_score_reward=[1.0] * 65,
)


def as_json(found):
    return json.dumps(found.to_dict(), sort_keys=True, allow_nan=False)


def test_the_order_of_rows_changes_nothing():
    one, two = (
        audit(d, EMBEDDING) for d in (FAULTY, FAULTY.sample(fraction=1, shuffle=True, seed=3))
    )
    assert as_json(one) == as_json(two)


def test_checks_side_by_side_find_what_they_find_one_by_one(monkeypatch):
    told = []
    two = audit(FAULTY, EMBEDDING, progress=told.append)
    monkeypatch.setattr("audit.run.THREADS", 1)
    one = audit(FAULTY, EMBEDDING)
    assert as_json(two) == as_json(one)
    assert two.rows_named().equals(one.rows_named())
    assert [f.check for f in two.findings] == [check.name for check in CHECKS]
    assert sorted(told) == sorted(check.title for check in CHECKS)


def test_what_two_checks_need_is_made_once():
    class Counted:
        made = 0

        @shared
        def texts(self):
            self.made += 1
            time.sleep(0.05)
            return self.made

    counted = Counted()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: counted.texts, range(2))) == [1, 1]


def test_the_error_of_a_check_is_raised():
    def fails(subject):
        raise ValueError("of a check")

    broken = replace(CHECKS[3], run=fails)
    with pytest.raises(ValueError, match="of a check"):
        audit(FAULTY, NO_EMBEDDING, checks=[*CHECKS[:3], broken, *CHECKS[4:6]])


def test_the_same_seed_gives_the_same_audit_and_another_draws_anew():
    small = Options(embed=embed, encoder="letters", embed_rows=30, probe_rows=40, permutations=50)
    other = Options(
        seed=1, embed=embed, encoder="letters", embed_rows=30, probe_rows=40, permutations=50
    )
    assert as_json(audit(FAULTY, small)) == as_json(audit(FAULTY, small))
    assert as_json(audit(FAULTY, small)) != as_json(audit(FAULTY, other))


@pytest.mark.parametrize(
    "data",
    [
        prompts("a question", "another"),
        responses(("p", "an answer"), ("p", "another")),
        kto(20),
        clean(1),
        table([("p", "same", "same")] * 3),
        clean(5).head(0),
        prompts(),
        responses().head(0) if False else kto(4).head(0),
        table([("\U0001f600 " * 30, "\u0645\u0631\u062d\u0628\u0627", "x" * 100_000)]),
    ],
    ids=[
        "prompts",
        "responses",
        "kto",
        "one",
        "identical",
        "no pairs",
        "no prompts",
        "none",
        "odd",
    ],
)
def test_every_table_has_an_audit(data):
    found = audit(data, EMBEDDING)
    assert [f.check for f in found.findings] == [c.name for c in CHECKS]
    for finding in found.findings:
        skipped = finding.severity is Severity.SKIPPED
        assert skipped == finding.headline.startswith("not applicable: ")
        assert len(finding.examples) <= 5
    as_json(found)
    assert found.shape.value in summary(found)


def test_what_does_not_apply_says_why():
    found = audit(prompts("a question"), NO_EMBEDDING)
    assert found.finding("empty").headline == "not applicable: these are prompts without answers"
    skipped = {f.check for f in found.findings if f.severity is Severity.SKIPPED}
    assert {"baselines", "separability", "agreement", "contamination", "leakage"} <= skipped
    assert {"schema", "duplicates", "coverage", "diversity", "provenance"}.isdisjoint(skipped)
    labelled = audit(kto(100), NO_EMBEDDING)
    assert labelled.finding("refusals").metrics["gap"].value == 0
    assert labelled.finding("baselines").severity is Severity.SKIPPED


@pytest.mark.parametrize(
    "data", [FAULTY, kto(60), prompts("a", "b")], ids=["pairs", "kto", "prompts"]
)
def test_every_metric_is_declared(data):
    declared = {check.name: set(check.metrics) for check in CHECKS}
    for finding in audit(data, EMBEDDING).findings:
        for name in [*finding.metrics, *finding.report.unmeasured]:
            assert name.split(":")[0] in declared[finding.check], (finding.check, name)


def test_every_limit_is_of_a_declared_metric():
    declared = {f"{check.name}.{metric}" for check in CHECKS for metric in check.metrics}
    assert set(LIMITS) <= declared


def test_intervals_hold_their_values():
    for finding in audit(FAULTY, EMBEDDING).findings:
        for name, metric in finding.metrics.items():
            if metric.low is not None:
                assert metric.low - 1e-9 <= metric.value <= metric.high + 1e-9, name


def test_recipe_lines_are_steps_that_exist():
    lines = {check.name: check.mends for check in CHECKS}
    lines["scores"] = audit(FAULTY, NO_EMBEDDING).finding("scores").recipe
    for name, mends in lines.items():
        steps = yaml.safe_load("\n".join(mends)) if mends else None
        if steps:
            assert recipe(*steps).steps, name
    assert sum(bool(mends) for mends in lines.values()) >= 10


def test_a_healthy_finding_mends_nothing():
    for finding in audit(FAULTY, NO_EMBEDDING).findings:
        assert finding.severity > Severity.OK or finding.recipe == ()


def test_limits_are_documented():
    text = (ROOT / "docs" / "audit.md").read_text("utf-8")
    for line in limit_table().splitlines():
        assert line in text
    for check in CHECKS:
        assert f"`{check.name}`" in text


# -- limits -----


def test_a_limit_on_the_value():
    limit = Limit(note=(None, 0.0), warning=(None, 0.1), fault=(None, 0.5))
    for value, severity in ((0.0, 0), (0.05, 1), (0.1, 1), (0.2, 2), (0.6, 3), (None, 0)):
        assert limit.severity(Metric(value)) == severity


def test_a_limit_on_the_evidence():
    limit = Limit(note=(0.4, 0.6), evidence=True)
    assert limit.severity(Metric(0.7, 0.55, 0.8)) is Severity.OK
    assert limit.severity(Metric(0.7, 0.65, 0.8)) is Severity.NOTE
    assert limit.severity(Metric(0.3, 0.2, 0.45)) is Severity.OK
    assert limit.severity(Metric(0.3, 0.2, 0.35)) is Severity.NOTE
    assert limit.severity(Metric(0.7)) is Severity.NOTE


@given(st.floats(0, 1), st.floats(0, 1))
def test_worse_numbers_are_never_less_severe(a, b):
    limit = LIMITS["contradictions.pairs"]
    low, high = sorted((a, b))
    assert limit.severity(Metric(low)) <= limit.severity(Metric(high))


def test_the_worst_metric_gives_the_severity():
    from audit.finding import Report

    report = Report(metrics={"ties:a": Metric(0.05), "ties:b": Metric(0.2), "ties:c": Metric(0.3)})
    assert judge("scores", report, LIMITS) == (
        Severity.WARNING,
        "ties:c is outside 0 to 0.1",
    )


@settings(max_examples=5)
@given(
    st.lists(
        st.tuples(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8)),
        min_size=1,
        max_size=6,
    )
)
def test_any_text_can_be_audited(found):
    as_json(audit(table(found), NO_EMBEDDING))


# -- the summary -----


def test_the_summary_fits_a_screen():
    found = audit(FAULTY, NO_EMBEDDING, Intake(name="faulty", license="mit"))
    lines = summary(found, 80).splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 82
    assert lines[0] == "faulty: 65 pairs of 62 prompts"
    worst = [line.split()[1] for line in lines if line.startswith(("x ", "! ", "- "))]
    assert worst == sorted(worst, key=["fault", "warning", "note"].index)


def test_the_summary_shows_control_characters_as_pictures():
    data = clean(60).with_columns(source=pl.lit("\x1b[31mred"))
    text = summary(audit(data, NO_EMBEDDING, Intake(name="\x1b[2Jx")))
    assert "\x1b" not in text
    assert "\u241b" in text


def test_package_data_is_there():
    folder = Path(__file__).parents[2] / "audit"
    assert {p.name for p in folder.glob("page.*")} >= {
        "page.py",
        "page.css",
        "page.js",
        "page.html.j2",
    }

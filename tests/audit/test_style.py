"""Marks of style on one side, in lists of phrases and in openings."""

import pytest

from audit import Severity
from tests.audit.cases import clean, one, rows, table


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("compliment", "What a great question! {}"),
        ("agreeing", "You're absolutely right. {}"),
        ("eager", "Certainly! {}"),
        ("disclosure", "As an AI, this is what I know. {}"),
        ("apology", "My apologies. {}"),
        ("closing_offer", "{} Let me know if there is more."),
        ("bold", "{} **bold**"),
        ("headings", "# Title\n{}"),
        ("lists", "- one\n- two\n{}"),
        ("code", "{}\n```\ncode\n```"),
        ("emojis", "{} \U0001f600"),
        ("exclamations", "{}!"),
        ("questions", "{}?"),
        ("hedges", "perhaps {}"),
    ],
)
def test_style_markers_on_one_side(marker, text):
    data = table([(p, text.format(c), r) for p, c, r in rows(60)])
    found = one("style", data)
    assert found.metrics[f"chosen:{marker}"].value == 1.0
    assert found.metrics[f"rejected:{marker}"].value == 0.0
    assert found.metrics["largest_gap"].value == 1.0
    assert found.severity is Severity.FAULT
    assert len(found.examples) == 5


def test_a_sure_gap_is_not_hidden_by_a_larger_one_of_a_frequent_mark():
    found = []
    for i, (p, c, r) in enumerate(rows(500)):  # questions: on 280 chosen and on 220 other rejected
        marked = "As an AI, this is it. " * (i % 10 == 0) + c + " Really?" * (i < 280)
        found.append((p, marked, r + " Really?" * (i >= 280)))
    metrics = one("style", table(found)).metrics
    assert metrics["gap:questions"].value == pytest.approx(0.12)
    assert metrics["gap:disclosure"].value == metrics["largest_gap"].value == pytest.approx(0.1)


@pytest.mark.parametrize("side", [0, 1])
def test_an_opening_on_one_side_in_words_of_no_list(side):
    def marked(i, texts):
        return tuple(f"Gladsome Wanderer, {t}" if k == side and i % 5 == 0 else t
                     for k, t in enumerate(texts))  # fmt: skip

    data = table([(p, *marked(i, both)) for i, (p, *both) in enumerate(rows(500))])
    found = one("style", data)
    assert found.metrics["opening_gap"].value == pytest.approx(0.2 if side == 0 else -0.2)
    assert found.because.startswith("opening_gap")
    assert found.severity is Severity.WARNING
    name = ("chosen", "rejected")[side]
    assert f"opens 20.0 points more of the {name}" in found.report.headline
    assert all(e.note.startswith(f"only the {name} answer begins") for e in found.examples)
    assert all(dict(e.texts)[name].startswith("Gladsome") for e in found.examples)


def test_an_opening_on_both_sides_is_no_gap():
    both = [(p, f"Well now, {c}", f"Well now, {r}") for p, c, r in rows(100)]
    found = one("style", table(both))
    assert found.metrics["opening_gap"].value == 0.0
    assert found.severity is Severity.OK
    assert "opening_gap" not in one("style", clean(100)).metrics

"""Cures that cure: plant a fault, audit, run exactly the printed lines, audit again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import yaml

from audit import CHECKS, Intake, Severity, audit
from filters.contamination.benchmarks import read_benchmark
from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.store import Store
from tests.audit.cases import EMBEDDING, NO_EMBEDDING, embed, rows, table
from tests.helpers import one_file, recipe, view

N = 300


def planted(change, n=24):
    """Pairs of which the first n are changed."""
    data = rows(N)
    return table([change(i, *row) if i < n else row for i, row in enumerate(data)])


def shuffled(i, prompt, chosen, rejected):
    rng = np.random.default_rng(i)
    words = ["".join(rng.permutation(list(w * 2))) for w in chosen.split()]
    return prompt, " ".join(words), rejected


def many_prompts(change, n=24):
    """The same with the first rows made of the last ones."""
    data = rows(N)
    return table([change(*data[N - 1 - i]) if i < n else row for i, row in enumerate(data)])


def off_topic():
    topics = [chr(97 + i % 26) * 2 + chr(97 + i // 26) for i in range(N)]
    told = [" ".join([t * 3] * 30) for t in topics]
    data = [(f"{t * 9} what {t * 9}", told[i], r[2])
            for i, (t, r) in enumerate(zip(topics, rows(N), strict=True))]  # fmt: skip
    for i in range(24):
        data[i] = (data[i][0], told[i + 13 * 5], data[i][2])
    return table(data)


FAULTS = {
    "schema": lambda: planted(lambda i, p, c, r: (" " * (i + 1), c, r)),
    "empty": lambda: planted(lambda i, p, c, r: (p, "\u200b", r)),
    "damaged": lambda: planted(
        lambda i, p, c, r: (p, f"word {i} " * 60 if i % 2 else "x" * 300 + str(i), r)
    ),
    "garbled": lambda: planted(shuffled),
    "off_topic": off_topic,
    "role_leaks": lambda: planted(lambda i, p, c, r: (p, f"{c}\n\nHuman: {p}\n\nAssistant:", r)),
    "leftovers": lambda: planted(
        lambda i, p, c, r: (p, c + (" </s>", " [[A]]", " caf\u00c3\u00a9")[i % 3], r)
    ),
    "identical": lambda: planted(lambda i, p, c, r: (p, c, c if i % 2 else f"{c[:-1]}!")),
    "contradictions": lambda: many_prompts(lambda p, c, r: (p, r, c)),
    "duplicates": lambda: many_prompts(lambda p, c, r: (p.upper(), f"{c} ", r)),
    "near_duplicates": lambda: many_prompts(lambda p, c, r: (f"so {p}", f"well {c}", f"well {r}")),
    "collapse": lambda: planted(lambda i, p, c, r: (p, "One answer to all of the questions.", r)),
}
WITH_ROWS = [check.name for check in CHECKS if check.faulty_rows]
BY_CHOICE = ["collapse"]
"""Checks whose cure takes good rows as well, so that it is printed and not applied unasked."""


def one_check(name, data, options):
    check = next(c for c in CHECKS if c.name == name)
    return audit(data, options, Intake(license="mit"), checks=[check]).findings[0]


def mended(data, lines, tmp_path):
    """The rows that are left after a run of exactly these lines."""
    steps = recipe(*yaml.safe_load("\n".join(lines)))
    options = Options(workers=1, embed=lambda _, texts: embed(texts))
    done = execute(steps, [one_file(data)], Store(tmp_path), thread_mapper(1), options)
    return view(done, "pairs" if "pairs" in done.views else next(iter(done.views)))


def options_of(name, tmp_path):
    if name != "contamination":
        return EMBEDDING if name == "off_topic" else NO_EMBEDDING
    path = tmp_path / "bench.txt"
    path.write_text("\n".join(p for p, *_ in rows(40, 5)), "utf-8")
    return replace(NO_EMBEDDING, against=(read_benchmark(str(path)),))


def spoiled(name):
    if name == "contamination":
        asked = [p for p, *_ in rows(40, 5)]
        return planted(lambda i, p, c, r: (f"{asked[i]}", c, r))
    if name == "leakage":
        data = many_prompts(lambda p, c, r: (f"so {p}", c, r))
        return data.with_columns(split=pl.Series(["test"] * 60 + ["train"] * (N - 60)))
    return FAULTS[name]()


@pytest.mark.parametrize("name", [*WITH_ROWS, *BY_CHOICE])
def test_the_printed_lines_take_the_finding_away(name, tmp_path):
    data, options = spoiled(name), options_of(name, tmp_path)
    before = one_check(name, data, options)
    assert before.severity > Severity.OK
    chosen = () if name in BY_CHOICE else before.report.choices
    lines = [line for line in before.recipe if line not in chosen]
    assert any(line.startswith("- ") for line in lines)
    left = mended(data, lines, tmp_path)
    after = one_check(name, left, options)
    assert after.severity <= Severity.OK, after.headline
    gone = set(data["pair_id"]) - set(left["pair_id"])
    # the narrowest rule: what leaves is named; a leak goes by all near-copies of prompts
    assert name == "leakage" or gone <= set(before.rows["row"]), len(gone - set(before.rows["row"]))
    assert left.height >= N - 60


def test_every_check_with_a_cure_of_rows_is_tested():
    assert {*WITH_ROWS, *BY_CHOICE} == {*FAULTS, "contamination", "leakage"}


def test_the_sets_without_a_fault_lose_no_row(tmp_path):
    data = planted(lambda i, p, c, r: (p, c, r))
    for name in WITH_ROWS:
        if name not in ("contamination", "leakage", "off_topic"):
            assert one_check(name, data, NO_EMBEDDING).recipe == (), name


def test_case_only_answers_go_by_an_option(tmp_path):
    data = planted(lambda i, p, c, r: (p, c, c.upper()))
    found = one_check("identical", data, NO_EMBEDDING)
    assert found.metrics["pairs"].value == 0
    left = mended(data, found.recipe, tmp_path)
    assert left.height == N - 24


def separable(marked, n=N):
    """Pairs of which so many chosen answers open with one word."""
    return table([(p, f"zebra {c}" if i < marked else c, r) for i, (p, c, r) in enumerate(rows(n))])


def test_the_most_separable_pairs_leave_and_the_finding_with_them(tmp_path):
    data = separable(160)
    before = one_check("separability", data, NO_EMBEDDING)
    assert before.severity > Severity.OK
    assert before.recipe == before.report.choices == ("- filters.Separability: {}",)
    left = mended(data, before.recipe, tmp_path)
    after = one_check("separability", left, NO_EMBEDDING)
    assert after.severity is Severity.OK, after.headline
    gone = data.filter(~pl.col("pair_id").is_in(left["pair_id"].implode()))
    marked = gone["chosen"].list.last().struct.field("content").str.starts_with("zebra")
    assert 0 < gone.height <= 60
    assert marked.mean() > 0.9


def test_what_is_separable_by_meaning_leaves_by_vectors(tmp_path):
    data = table(
        [(p, c + " zzzz" * 12, r + " xxxx" * 12) if i < 140 else (p, c, r)
         for i, (p, c, r) in enumerate(rows(N))]
    )  # fmt: skip
    before = one_check("separability", data, EMBEDDING)
    assert before.because.startswith("paired") or before.because.startswith("pointwise")
    assert "- filters.Separability: {reads: meaning}" in before.recipe
    left = mended(data, before.recipe, tmp_path)
    assert one_check("separability", left, EMBEDDING).severity is Severity.OK
    assert left.height >= N / 2


def test_sides_that_differ_throughout_have_another_cure():
    found = one_check("separability", separable(N), NO_EMBEDDING)
    assert found.report.choices == ()
    assert any("labelers.Pairs" in line for line in found.recipe)


# -- matters of balance -----
# What is a difference of many rows has no faulty ones: such lines are choices or are advice.

EMOJI = "\N{SPARKLES}"


def leaning(change, n=150, **extra):
    """Pairs of which the first n are changed, with more columns."""
    data = rows(N)
    return table([change(*row) if i < n else row for i, row in enumerate(data)], **extra)


def scored(chosen, rejected, **extra):
    """Pairs with scores of the sides."""
    return leaning(
        lambda *row: row, chosen_score_overall=chosen, rejected_score_overall=rejected, **extra
    )


def first(n, these, others):
    """A column of which the first n values are these."""
    return [these] * n + [others] * (N - n)


PLACES = {"chosen_position": first(230, 0, 1), "rejected_position": first(230, 1, 0)}
MODELS = {"chosen_model": first(200, "a", "b"), "rejected_model": first(200, "b", "a")}
BALANCE = {
    "longer": ("baselines", lambda: leaning(lambda p, c, r: (p, f"{c} {c}", r))),
    "shorter": ("baselines", lambda: leaning(lambda p, c, r: (p, c, f"{r} {r}"))),
    "markdown": ("baselines", lambda: leaning(lambda p, c, r: (p, f"**So** {c}", r))),
    "lists": ("baselines", lambda: leaning(lambda p, c, r: (p, f"- one\n- two\n{c}", r))),
    "first": ("baselines", lambda: leaning(lambda *row: row, **PLACES)),
    "length": (
        "length",
        lambda: leaning(
            lambda p, c, r: (p, f"{c} {c}", r), 140
        ).with_columns(**{k: pl.Series(v) for k, v in MODELS.items()}),
    ),
    "emojis": ("style", lambda: leaning(lambda p, c, r: (p, f"{c} {EMOJI}", r))),
    "emojis, rejected": ("style", lambda: leaning(lambda p, c, r: (p, c, f"{r} {EMOJI}"))),
    "opening": ("style", lambda: leaning(lambda p, c, r: (p, f"Zebra {c}", r))),
    "refusals, chosen": ("refusals", lambda: leaning(lambda p, c, r: (p, f"{NO} {c}", r), 80)),
    "refusals, rejected": ("refusals", lambda: leaning(lambda p, c, r: (p, c, f"{NO} {r}"), 80)),
    "another script": ("coverage", lambda: leaning(lambda p, c, r: (p, "\u597d\u7684", r), 60)),
    "contradictions": ("scores", lambda: scored(first(60, 1.0, 3.0), first(60, 3.0, 1.0))),
    "ties": ("scores", lambda: scored(first(60, 1.0, 3.0), first(60, 1.0, 1.0))),
    "no scores": ("scores", lambda: scored(first(60, None, 3.0), first(60, 1.0, 1.0))),
}  # fmt: skip
NO = "I'm sorry, but I can't help with that."


@pytest.mark.parametrize("fault", BALANCE)
def test_the_printed_choice_takes_the_lean_away(fault, tmp_path):
    name, made = BALANCE[fault]
    data = made()
    before = one_check(name, data, NO_EMBEDDING)
    assert before.severity > Severity.OK, before.headline
    assert any(line.startswith("- ") for line in before.recipe), before.recipe
    left = mended(data, before.recipe, tmp_path)
    after = one_check(name, left, NO_EMBEDDING)
    assert after.severity is Severity.OK, (before.recipe, after.because, after.headline)
    assert left.height >= 0.4 * N


def test_advice_prints_no_line_that_would_run():
    """What no step can decide is said in comments: the model, the topic, a score of no use."""
    null = {"chosen_score_odd": first(200, 1.0, 3.0), "rejected_score_odd": first(200, 3.0, 1.0)}
    more = {"chosen_score_good": [3.0] * N, "rejected_score_good": [1.0] * N}
    faults = {
        "agreement": leaning(lambda *row: row, **null, **more),
        "baselines": leaning(lambda *row: row).with_columns(
            chosen_model=pl.lit("a"), rejected_model=pl.lit("b")
        ),
        "scores": scored([3.0] * N, [1.0] * N, margin=first(60, 5.0, 2.0)),
        "cut_off": leaning(lambda p, c, r: (p, c[:-1] + " and the", r)),
    }
    for name, data in faults.items():
        found = one_check(name, data, NO_EMBEDDING)
        assert found.severity > Severity.OK, (name, found.headline)
        assert found.recipe, name
        assert all(line.startswith("#") for line in found.recipe), found.recipe

"""Shortcuts to the label: each fires when it is planted and is silent on clean data."""

import numpy as np
import polars as pl
import pytest

from audit import Options, Severity
from tests.audit.cases import (
    EMBEDDING,
    NO_EMBEDDING,
    again,
    clean,
    embed,
    kto,
    one,
    rows,
    sentence,
    table,
)


def swapped(data):
    """The same pairs with the opposite labels."""
    sides = {"chosen": "rejected", "rejected": "chosen"}
    names = {c: c.replace(*sides_of(c, sides)) for c in data.columns}
    return again(data.rename(names).select(data.columns))


def sides_of(column, sides):
    return next(((a, b) for a, b in sides.items() if column.startswith(a)), ("", ""))


@pytest.mark.parametrize(
    "check", ["baselines", "length", "separability", "refusals", "style", "value_gap"]
)
def test_clean_pairs_raise_no_alarm(check):
    found = one(check, clean(), EMBEDDING)
    assert found.severity is Severity.OK, found.because


@pytest.mark.parametrize("check", ["separability", "refusals", "style", "value_gap"])
def test_clean_labelled_answers_raise_no_alarm(check):
    found = one(check, kto(), EMBEDDING)
    assert found.severity is Severity.OK, found.because


# -- trivial rules -----


def longer(n, share):
    """Pairs of which a share has a longer chosen answer, the others a shorter one."""
    return [
        (p, c + " and so on", c) if i < share * n else (p, r, r + " and so on")
        for i, (p, c, r) in enumerate(rows(n))
    ]


def test_the_longer_answer_wins():
    found = one("baselines", table(longer(200, 0.9)))
    assert found.metrics["longer"].value == pytest.approx(0.9)
    assert found.severity is Severity.FAULT
    assert "'the longer answer wins' gets 90.0% of labels right" in found.headline
    assert found.metrics["ties:longer"].value == 0


def test_the_shorter_answer_wins():
    found = one("baselines", table(longer(200, 0.1)))
    assert found.metrics["longer"].value == pytest.approx(0.1)
    assert found.severity is Severity.FAULT


def test_a_tie_counts_one_half():
    found = one("baselines", table([("p", "four", "five"), ("q", "nine", "ten")]))
    assert found.metrics["longer"].value == pytest.approx(0.75)
    assert found.metrics["ties:longer"].value == pytest.approx(0.5)


def test_markdown_wins_by_density():
    data = table([(p, "**bold** " + c[9:], c) for p, c, _ in rows(200)])
    found = one("baselines", data)
    assert found.metrics["markdown"].value == 1.0
    assert found.metrics["longer"].value == pytest.approx(0.5)
    assert found.metrics["lists"].value == pytest.approx(0.5)


def test_the_first_answer_wins_where_positions_are_known():
    data = clean(100, chosen_position=[0] * 90 + [1] * 10, rejected_position=[1] * 90 + [0] * 10)
    found = one("baselines", data)
    assert found.metrics["first"].value == pytest.approx(0.9)
    assert found.severity is Severity.FAULT


def test_model_identity_is_learned_on_other_prompts():
    strong = pl.Series(["strong"] * 180 + ["weak"] * 20)
    weak = pl.Series(["weak"] * 180 + ["strong"] * 20)
    data = clean(200).with_columns(chosen_model=strong, rejected_model=weak)
    found = one("baselines", data)
    assert found.metrics["model"].value == pytest.approx(0.9)
    assert found.severity is Severity.FAULT
    alone = clean(200).with_columns(
        chosen_model=pl.Series([f"m{i}" for i in range(200)]), rejected_model=pl.lit("other")
    )
    assert one("baselines", alone).metrics["model"].value > 0.9  # `other` never wins
    each = alone.with_columns(rejected_model=pl.Series([f"n{i}" for i in range(200)]))
    assert one("baselines", each).metrics["model"].value == pytest.approx(0.5)


def test_unknown_models_are_said_to_be_unmeasured():
    found = one("baselines", clean(20))
    assert found.report.unmeasured == {"model": "no pair names two different models"}


def test_intervals_count_prompts():
    alike = table([("one prompt", f"{'a' * 20}{i}", f"b{i}") for i in range(100)])
    apart = table([(f"prompt {i}", f"{'a' * 20}{i}", f"b{i}") for i in range(100)])
    few, many = (one("baselines", data).metrics["longer"] for data in (alike, apart))
    assert few.value == many.value == 1.0
    assert few.low < 0.3 < 0.9 < many.low


# -- length control -----


def test_length_control_takes_the_length_out():
    rng = np.random.default_rng(0)
    found = []
    for prompt, _, _ in rows(400):
        a, b = sentence(rng, 5, 20), sentence(rng, 30, 60)
        found.append((prompt, b, a))
    models = pl.Series(["long"] * 400)
    data = table(found).with_columns(chosen_model=models, rejected_model=pl.lit("short"))
    report = one("length", data)
    assert report.metrics["raw:long"].value == 1.0
    assert report.metrics["slope"].value > 2
    plain = clean(400).with_columns(chosen_model=pl.lit("a"), rejected_model=pl.lit("b"))
    fair = one("length", plain)
    assert fair.metrics["raw:a"].value == 1.0
    assert fair.metrics["controlled:a"].value == pytest.approx(1.0, abs=1e-3)
    assert fair.severity is Severity.OK


def test_a_length_biased_judge_has_a_controlled_rate_of_one_half():
    rng = np.random.default_rng(1)
    found, models = [], []
    for prompt, _, _ in rows(600):
        texts = {"m": sentence(rng, 15, 60), "n": sentence(rng, 5, 50)}  # m writes longer answers
        ahead = len(texts["m"]) - len(texts["n"])
        winner = "m" if rng.random() < 1 / (1 + np.exp(-ahead / 40)) else "n"
        loser = "n" if winner == "m" else "m"
        found.append((prompt, texts[winner], texts[loser]))
        models.append((winner, loser))
    data = table(found).with_columns(
        chosen_model=pl.Series([w for w, _ in models]),
        rejected_model=pl.Series([x for _, x in models]),
    )
    report = one("length", data)
    assert report.metrics["raw:m"].value > 0.6
    assert report.metrics["controlled:m"].low < 0.5 < report.metrics["controlled:m"].high
    assert report.severity is Severity.NOTE


def test_models_are_needed_for_win_rates():
    assert set(one("length", clean(20)).report.unmeasured) == {"raw", "controlled", "shift"}


# -- separability -----


def test_a_marker_makes_the_surface_probe_perfect():
    data = table([(p, f"zebra {c}", r) for p, c, r in rows(200)])
    found = one("separability", data)
    assert found.metrics["surface_paired"].value > 0.98
    assert found.metrics["surface_paired_auc"].value > 0.99
    assert found.severity is Severity.FAULT
    assert found.report.unmeasured["paired"].startswith("embeddings were switched off")


def test_embeddings_separate_what_they_see():
    data = table([(p, c + " zzzz" * 12, r + " xxxx" * 12) for p, c, r in rows(200)])
    found = one("separability", data, EMBEDDING)
    assert found.metrics["paired"].value > 0.98
    assert found.metrics["pointwise"].value > 0.98
    assert found.metrics["meaning_beyond_looks"].value == pytest.approx(0, abs=0.02)


def test_swapping_every_label_changes_no_paired_accuracy():
    data = table(
        [(p, c + (" indeed" if i % 3 else ""), r) for i, (p, c, r) in enumerate(rows(200))]
    )
    here, there = (one("separability", d).metrics["surface_paired"] for d in (data, swapped(data)))
    assert here.value == pytest.approx(there.value, abs=1e-9)


def test_random_labels_are_not_separable():
    n = 400
    rng = np.random.default_rng(5)
    data = table([(p, c, r) if rng.random() < 0.5 else (p, r, c) for p, c, r in rows(n)])
    found = one("separability", data, EMBEDDING)
    for name in ("paired", "pointwise", "surface_paired", "surface_pointwise"):
        assert abs(found.metrics[name].value - 0.5) < 3 * np.sqrt(0.25 / n)


def test_identical_sides_take_no_part_in_the_probe():
    data = table([*rows(100), *[(f"p{i}", "same", "same") for i in range(50)]])
    assert one("separability", data).metrics["surface_paired"].n == 100


def test_labelled_answers_are_probed_one_by_one():
    spoilt = kto(200, spoil=lambda good, text: f"zebra {text}" if good else text)
    found = one("separability", spoilt)
    assert found.metrics["surface_pointwise"].value > 0.95
    assert "surface_paired" not in found.metrics
    assert found.severity is Severity.FAULT


def test_a_probe_needs_answers():
    found = one("separability", clean(20))
    assert found.headline == "not applicable: a probe needs 40 answers on each side"


# -- refusals and style -----


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I cannot assist with that request.",
        "Sorry, I can't do that.",
        "I cannot provide instructions for this.",
        "I am unable to help with that.",
        "As an AI language model, I cannot discuss it.",
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "\u5f88\u62b1\u6b49\uff0c\u6211\u65e0\u6cd5\u56de\u7b54\u3002",
    ],
)
def test_refusals_are_recognised(text):
    found = one("refusals", table([("p", text, "Here is how it works.")]))
    assert (found.metrics["chosen"].value, found.metrics["rejected"].value) == (1.0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that you lost your cat.",
        "You can't open the file because it is locked.",
        "I can help you with that.",
        "Sorry for the delay! Here is the plan.",
    ],
)
def test_other_answers_are_no_refusals(text):
    assert one("refusals", table([("p", text, "x")])).metrics["chosen"].value == 0


def test_refusals_on_one_side():
    refuse = "I'm sorry, but I can't help with that. "
    data = table([(p, refuse + c if i < 60 else c, r) for i, (p, c, r) in enumerate(rows(200))])
    found = one("refusals", data)
    assert found.metrics["gap"].value == pytest.approx(0.3)
    assert found.severity is Severity.WARNING
    assert found.examples[0].note == "the chosen answer refuses"


# -- values -----


def opinions(n, gap):
    """Pairs whose chosen answers support more often than the rejected ones, by `gap`."""
    yes, no = " I support this.", " I oppose this."
    found = []
    for i, (p, c, r) in enumerate(rows(n)):
        lean = i < gap * n
        found.append((p, c + (yes if lean or i % 2 else no), r + (no if lean or i % 2 else yes)))
    return found


def test_value_gap_of_a_controlled_set():
    found = one("value_gap", table(opinions(200, 1.0)))
    assert found.metrics["tv:all prompts"].value == 1.0
    assert found.metrics["p:all prompts"].value == pytest.approx(1 / 201)
    assert found.metrics["support:all prompts"].value == 1.0
    assert found.metrics["oppose:all prompts"].value == -1.0
    assert found.metrics["largest_shift"].value == 1.0
    assert found.severity is Severity.WARNING


def test_the_shift_of_a_small_topic_by_chance_hides_no_sure_one():
    large = [(p, c + " I support this." * (i < 40), r) for i, (p, c, r) in enumerate(rows(200))]
    few = [
        (p, c + " I support this." * (i < 13), r + " I support this." * (i >= 17))
        for i, (p, c, r) in enumerate(rows(24, seed=1))
    ]
    data = table([*large, *few], topic=["large"] * 200 + ["small"] * 24)
    metrics = one("value_gap", data).metrics
    assert metrics["support:small"].value == pytest.approx(6 / 24)
    assert metrics["support:large"].value == metrics["largest_shift"].value == pytest.approx(0.2)


def test_stances_that_vary_alike_are_no_gap():
    found = one("value_gap", table(opinions(200, 0.0)))
    assert found.metrics["tv:all prompts"].value == 0.0
    assert found.metrics["p:all prompts"].value == 1.0
    assert found.severity is Severity.OK


def test_swapping_the_policy_negates_the_gap():
    data = table(opinions(200, 0.5))
    here, there = (one("value_gap", d).metrics for d in (data, swapped(data)))
    assert here["tv:all prompts"].value == there["tv:all prompts"].value == pytest.approx(0.5)
    for stance in ("support", "oppose"):
        name = f"{stance}:all prompts"
        assert here[name].value == pytest.approx(-there[name].value)


def test_stance_and_topic_columns_are_taken_where_they_are():
    n = 120
    data = clean(
        n,
        topic=["tax", "war"] * (n // 2),
        chosen_stance=["support", "neutral"] * (n // 2),
        rejected_stance=["oppose", "neutral"] * (n // 2),
    )
    found = one("value_gap", data)
    assert found.metrics["tv:tax"].value == 1.0
    assert found.metrics["tv:war"].value == 0.0
    assert "'tax'" in found.headline
    assert found.report.notes == (
        "Stances from columns chosen_stance and rejected_stance; topics from column topic.",
    )
    numbers = clean(n, stance_chosen=[0.9] * n, stance_rejected=[-0.9] * n)
    assert one("value_gap", numbers).metrics["tv:all prompts"].value == 1.0


def test_a_set_that_claims_to_teach_a_value_must_have_a_gap():
    claimed = ["support"] * 800
    teaches = one("value_gap", table(opinions(800, 1.0), value_gap_policy=claimed))
    teaches_not = one("value_gap", table(opinions(800, 0.0), value_gap_policy=claimed))
    assert teaches.metrics["taught"].value == 1.0
    assert teaches_not.metrics["taught"].value == 0.0
    assert teaches_not.because == "taught is outside 0.1 or more"
    assert teaches.severity is Severity.OK  # a declared topic is exempt from `largest_shift`


def test_data_that_teaches_the_opposite_of_its_policy_is_a_fault():
    opposed = table(opinions(200, 1.0), value_gap_policy=["oppose"] * 200)
    found = one("value_gap", opposed)
    assert found.severity is Severity.FAULT
    assert found.metrics["taught"].value == -1.0
    assert "against their declared policy" in found.headline
    assert found.rows.height == 200


def test_topics_are_clusters_of_prompts():
    data = table(
        [
            (f"{'zzz' if i % 2 else 'mmm'} question {i} about {p}", f"{c} I support it.", r)
            for i, (p, c, r) in enumerate(rows(200))
        ]
    )

    def halves(texts):
        return np.array([[1.0, 0.0] if t.startswith("zzz") else [0.0, 1.0] for t in texts])

    options = Options(embed=halves, permutations=50)
    found = one("value_gap", data, options)
    topics = {name.split(":")[1] for name in found.metrics if name.startswith("tv:")}
    assert any("zzz" in t for t in topics)
    assert any("mmm" in t for t in topics)
    assert NO_EMBEDDING.to_dict()["embeddings"] is None


def test_texts_are_embedded_once():
    seen = []

    def counting(texts):
        seen.extend(texts)
        return embed(texts)

    one("separability", clean(60), Options(embed=counting))
    assert len(seen) == len(set(seen)) == 120

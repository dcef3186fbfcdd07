"""Faults of rows: each fires when it is planted and is silent on clean data."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from audit import Intake, Severity, audit, summary
from audit.checks.identical import differing
from tests.audit.cases import (
    EMBEDDING,
    NO_EMBEDDING,
    clean,
    kto,
    one,
    prompts,
    responses,
    rows,
    table,
)
from tests.helpers import assistant, messages, user

LEFT_OUT = pl.DataFrame(
    {
        "row_id": ["a.jsonl:7", "a.jsonl:8", "a.jsonl:9"],
        "reason": ["empty_answer", "equal_answers", "wrong_type"],
        "detail": ["chosen is empty", "both are 'x'", "chosen is a number"],
    }
)
INTAKE = Intake(name="a", records=303, rejected=LEFT_OUT, license="mit")


@pytest.mark.parametrize(
    "check",
    [
        "schema",
        "empty",
        "damaged",
        "garbled",
        "role_leaks",
        "leftovers",
        "cut_off",
        "identical",
        "contradictions",
        "duplicates",
        "near_duplicates",
    ],
)
def test_clean_pairs_raise_no_alarm(check):
    found = one(check, clean())
    assert found.severity is Severity.OK
    assert found.because == ""
    assert found.recipe == ()


def test_schema_counts_what_the_reader_could_not_use():
    found = one("schema", clean(), intake=INTAKE)
    assert found.metrics["rejected"].value == pytest.approx(1 / 303)
    assert found.severity is Severity.NOTE
    assert [(e.row, e.note[:27]) for e in found.examples] == [
        ("a.jsonl:9", "left out by the reader, wro")
    ]


@pytest.mark.parametrize(
    ("talk", "metric"),
    [
        ([user("hi"), user("hi again")], "odd_turns"),
        ([user("hi"), {"role": "robot", "content": "x"}, user("so")], "odd_turns"),
        ([user("hi"), {"role": "system", "content": "late"}, user("so")], "odd_turns"),
        ([user("hi"), assistant("hello")], "not_user_last"),
        ([user("  ")], "empty_prompts"),
        ([], "empty_prompts"),
    ],
)
def test_schema_finds_conversations_out_of_order(talk, metric):
    data = clean(10)
    talks = [talk, *data["prompt"].to_list()[1:]]
    found = one("schema", data.with_columns(prompt=messages(*talks)))
    assert found.metrics[metric].value == pytest.approx(0.1)
    assert found.severity >= Severity.WARNING
    assert found.examples[0].row == data["pair_id"][0]


def test_a_system_message_first_and_a_tool_last_are_in_order():
    talks = [
        [{"role": "system", "content": "be kind"}, user("hi"), assistant("yes"), user("so")],
        [user("weather?"), {"role": "tool", "content": "rain"}],
    ]
    found = one("schema", clean(2).with_columns(prompt=messages(*talks)))
    assert found.severity is Severity.OK


def test_empty_answers_count_by_side_and_with_those_left_out():
    found = one(
        "empty", table([*rows(298), ("p", " ", "text"), ("q", "text", "\u200b")]), intake=INTAKE
    )
    assert found.metrics["chosen"].value == pytest.approx(1 / 300)
    assert found.metrics["rejected"].value == pytest.approx(1 / 300)
    assert found.metrics["answers"].value == pytest.approx(3 / 301)
    assert found.severity is Severity.WARNING
    assert found.recipe == ("- filters.Damage: {rules: [empty]}",)


FAULTY_ROWS = [
    ("a question", "An answer.\n\nHuman: and now?\n\nAssistant:", "fine answer"),
    ("b question", "word " * 80, "fine answer"),
    ("c question", "fine <|im_start|>user hello", "fine answer"),
    ("d question", "x" * 300, "fine answer"),
    ("e question", "Feedback: it is fine, [[A]]", "It was caf\u00c3\u00a9 time"),
    ("f question", "It begins in a town where I was born and where I have lived with", "No."),
]


def test_damage_is_named():
    data = table([*rows(94), *FAULTY_ROWS])
    found = one("damaged", data)
    assert found.metrics["chosen"].value == pytest.approx(0.02)
    assert found.metrics["rejected"].value == 0
    assert found.metrics["long_run:chosen"].value == pytest.approx(0.01)
    assert found.metrics["loop:chosen"].value == pytest.approx(0.01)
    assert found.severity is Severity.WARNING
    assert sorted(found.rows["note"]) == ["chosen: long_run", "chosen: loop"]


def test_marks_of_other_turns_are_role_leaks():
    found = one("role_leaks", table([*rows(94), *FAULTY_ROWS]))
    assert found.metrics["role_leak:chosen"].value == pytest.approx(0.02)
    assert found.metrics["trailing_cue:chosen"].value == pytest.approx(0.01)
    assert found.rows.height == 2
    assert found.recipe == ("- filters.Damage: {rules: [role_leak, trailing_cue]}",)


def test_what_other_programs_left_is_named_by_side():
    found = one("leftovers", table([*rows(94), *FAULTY_ROWS]))
    assert found.metrics["judge:chosen"].value == pytest.approx(0.01)
    assert found.metrics["mojibake:rejected"].value == pytest.approx(0.01)
    assert found.metrics["template:chosen"].value == pytest.approx(0.01)
    assert found.recipe == ("- filters.Damage: {rules: [template, judge, mojibake]}",)


def test_answers_cut_off_on_one_side_are_a_gap_and_no_fault():
    cut = "It begins in a town where I was born and where I have lived with {} and"
    data = table([(p, cut.format(i), r) for i, (p, _, r) in enumerate(rows(200))])
    found = one("cut_off", data)
    assert found.metrics["chosen"].value == 1
    assert found.metrics["gap"].value == 1
    assert found.severity is Severity.WARNING
    assert found.rows.height == 200
    both = one("cut_off", table([(p, cut.format(i), cut.format(-i)) for i, (p, _, _) in
                                 enumerate(rows(200))]))  # fmt: skip
    assert both.severity is Severity.OK


def test_shuffled_letters_are_garbled():
    found = one("garbled", clean(200))
    assert found.rows.height == 0
    rng = np.random.default_rng(0)
    data = rows(200)
    for i in range(10):
        broken = " ".join("".join(rng.permutation(list(w * 2))) for w in data[i][1].split())
        data[i] = (data[i][0], broken, data[i][2])
    found = one("garbled", table(data))
    assert found.rows.height == 10
    assert found.severity is Severity.WARNING


def test_answers_to_other_prompts_are_off_topic():
    topics = [chr(97 + i % 26) * 2 + chr(97 + i // 26) for i in range(200)]
    asked = [f"{t * 9} what {t * 9}" for t in topics]
    told = [" ".join([t * 3] * 10) for t in topics]
    data = [(p, c, r) for p, c, (_, _, r) in zip(asked, told, rows(200), strict=True)]
    for i in range(8):
        data[i] = (data[i][0], told[i + 13], data[i][2])
    found = one("off_topic", table(data), EMBEDDING)
    planted = {f"test:{i}" for i in range(8)}
    assert len(planted & set(found.rows["where"])) >= 6
    assert found.rows.height < 16
    (line,) = found.recipe
    assert line.startswith('- filters.Damage: {rules: [off_topic], encoder: {model: "letters"}} ')
    shipped = one("off_topic", table(data), replace(EMBEDDING, encoder="minilm"))
    assert "encoder" not in shipped.recipe[0]
    assert one("off_topic", table(data)).severity is Severity.SKIPPED


def test_identical_sides_after_folding():
    found = one("identical", table([*rows(99), ("p", "The  same ANSWER", "the same answer")]))
    assert found.metrics["pairs"].value == 0  # case may be what was asked for
    assert found.metrics["case_only"].value == pytest.approx(0.01)
    assert found.metrics["nearly"].value == 0
    assert found.examples[0].note == "they differ in case, space or Unicode form only"
    same = one("identical", table([*rows(99), ("p", "The answer ", "The answer")]))
    assert same.metrics["pairs"].value == pytest.approx(0.01)
    assert same.examples[0].note == "nothing to choose between"


def test_nearly_identical_sides():
    long = "word " * 50
    found = one("identical", table([*rows(99), ("p", f"{long}yes", f"{long}no")]))
    assert found.metrics["pairs"].value == 0
    assert found.metrics["nearly"].value == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("same text", "same text", 0.0),
        ("", "", 0.0),
        ("a" * 100 + "b" + "c" * 100, "a" * 100 + "d" + "c" * 100, 1 / 201),
        ("a" * 100, "a" * 101, 1 / 101),
        ("abab" * 50, "baba" * 50, 1.0),
        ("short", "much longer text", 1.0),
        ("\u00e9" * 100, "\u00e9" * 99 + "e", 2 / 200),
    ],
)
def test_differing_is_the_part_outside_the_common_ends(first, second, expected):
    found = differing(pl.Series([first]), pl.Series([second]))
    assert found.tolist() == pytest.approx([expected])


def test_differing_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(0)
    a = ["".join(rng.choice(["a", "b"], 60)) for _ in range(50)]
    b = [t[: i % 60] + "c" + t[i % 60 + 1 :] if i % 3 else t for i, t in enumerate(a)]
    whole = differing(pl.Series(a), pl.Series(b))
    alone = [differing(pl.Series([x]), pl.Series([y]))[0] for x, y in zip(a, b, strict=True)]
    assert whole.tolist() == alone


def test_contradictions_are_pairs_with_both_labels():
    found = one(
        "contradictions",
        table([*rows(96), ("p", "one", "two"), ("P ", "Two", "one"), ("p", "one", "three")]),
    )
    assert found.metrics["pairs"].value == pytest.approx(1 / 98)
    assert found.severity is Severity.WARNING
    assert {e.note for e in found.examples} == {"labelled the other way round elsewhere"}


def test_repeated_draws_of_a_judge_are_one_contradiction():
    """Eight draws over one pair, three of them the other way: one pair of answers of ten."""
    draws = [("p", "one", "two")] * 5 + [("p", "two", "one")] * 3
    found = one("contradictions", table([*rows(9), *draws]))
    assert found.metrics["pairs"].value == pytest.approx(1 / 10)
    assert found.metrics["pairs"].n == 10
    told = "1 of 10 distinct pairs of answers are there with both labels, in 8 of 17 rows"
    assert found.headline.startswith(told)
    assert found.rows.height == 8


def test_circles_of_three():
    data = table([("p", "a", "b"), ("p", "b", "c"), ("p", "c", "a"), ("q", "a", "b")])
    found = one("contradictions", data)
    assert found.metrics["pairs"].value == 0
    assert found.metrics["cycles"].value == 1.0
    line = table([("p", "a", "b"), ("p", "b", "c"), ("p", "a", "c")])
    assert one("contradictions", line).metrics["cycles"].value == 0
    assert "cycles" in one("contradictions", clean(5)).report.unmeasured


def test_duplicates_fold_case_and_space():
    found = one(
        "duplicates", table([*rows(97), ("p", "a", "b"), ("P", "A ", "b"), ("p", "a", "b")])
    )
    assert found.metrics["rows"].value == pytest.approx(0.02)
    assert found.metrics["respelled_prompts"].value == pytest.approx(1 / 99)
    assert found.metrics["largest_group"].value == 3
    assert found.examples[0].note == "the first of its copies"
    assert found.examples[1].note.startswith("a copy of test:")


def test_the_other_way_round_is_no_duplicate():
    assert one("duplicates", table([("p", "a", "b"), ("p", "b", "a")])).metrics["rows"].value == 0


def test_near_duplicates_of_rows_and_prompts():
    base = rows(100)
    prompt, chosen, rejected = base[0]
    changed = [
        chosen.replace(chosen.split()[3], "else"),
        rejected.replace(rejected.split()[5], "other"),
    ]
    found = one("near_duplicates", table([*base, (prompt, *changed)]))
    assert found.metrics["rows"].value == pytest.approx(1 / 101)
    assert found.metrics["prompts"].value == 0
    assert "Jaccard index" in found.examples[0].note
    long = " ".join(word for row in base[1:7] for word in row[0].split())
    twin = long.replace(long.split()[4], "else")
    more = table([*base, (long, "yes it is", "no it is not"), (twin, "perhaps so", "never at all")])
    assert one("near_duplicates", more).metrics["prompts"].value == pytest.approx(1 / 102)


def test_piles_of_near_copies_are_counted_once_each():
    texts = [f"{i} {'word ' * 3}{' '.join(rows(1, seed=i % 3)[0])}" for i in range(60)]
    data = table([(t, "yes " + t, "no " + t) for t in texts])
    found = one("near_duplicates", data)
    assert found.metrics["rows"].value == pytest.approx(57 / 60)
    assert found.severity is Severity.FAULT


def test_leakage_between_splits():
    base = rows(100)
    long = " ".join(word for row in base[:6] for word in row[0].split())
    twin = long.replace(long.split()[4], "else")
    found = [*base, (base[0][0].upper(), "another", "answer"), (long, "x", "y"), (twin, "z", "w")]
    split = ["train"] * 80 + ["test"] * 20 + ["test", "train", "test"]
    clear = one("leakage", table(base, split=split[:100]))
    assert clear.severity is Severity.OK
    leaky = one("leakage", table(found, split=split))
    assert leaky.metrics["rows"].value == 22
    assert leaky.metrics["prompts"].value == pytest.approx(1 / 22)
    assert leaky.metrics["openings"].value == pytest.approx(1 / 22)
    assert leaky.metrics["near"].value == pytest.approx(2 / 22)
    assert leaky.severity is Severity.WARNING
    assert {e.note[:11] for e in leaky.examples} == {"its prompt ", "nearly the "}


def test_leakage_needs_two_splits():
    assert one("leakage", clean(5)).severity is Severity.SKIPPED
    same = one("leakage", clean(5, split=["train"] * 5))
    assert same.headline == "not applicable: all rows are of the split 'train'"


def test_collapse_finds_one_answer_to_many_prompts():
    fixed = [(p, "I can do anything you like.", r) for p, _, r in rows(60, seed=1)]
    found = one("collapse", table([*rows(60), *fixed]))
    assert found.metrics["repeated_answers:chosen"].value == pytest.approx(0.5)
    assert found.metrics["repeated_answers:rejected"].value == 0
    assert found.metrics["top_opening:chosen"].value == pytest.approx(0.5)
    assert found.severity is Severity.WARNING
    assert found.examples[0].note == "this chosen answer is given to 60 prompts"
    assert one("collapse", clean(60)).severity is Severity.OK


def test_short_answers_may_repeat():
    found = one("collapse", responses(*[(f"question number {i}", "yes") for i in range(60)]))
    assert found.metrics["repeated_answers:response"].value == 0


def test_unpaired_answers_and_prompts_are_checked_too():
    assert one("empty", kto(20)).metrics["chosen"].n == 10
    assert one("duplicates", prompts("a question", "A  question", "b")).metrics["rows"].value == (
        pytest.approx(1 / 3)
    )
    assert one("near_duplicates", prompts("a", "b")).severity is Severity.OK
    assert (
        one("empty", prompts("a")).headline == "not applicable: these are prompts without answers"
    )


def test_labels_that_nothing_can_be_said_of_are_not_verified_and_said_so_at_the_top():
    few = one("labels", clean(30))
    assert few.severity is Severity.NOTE
    assert few.metrics["verified"].value == 0
    assert few.headline.startswith("labels were not verified")
    found = audit(clean(120), NO_EMBEDDING, Intake(license="mit"))
    assert summary(found).splitlines()[1] == "labels were not verified"
    head = found.page.partition("<nav")[0]
    assert "Labels were not verified." in head


def test_a_few_damaged_answers_far_down_a_long_table_are_named():
    data = [(f"p {i}", f"fine answer {i}", f"other answer {i}") for i in range(9000)]
    for i in (8500, 8600):
        data[i] = (data[i][0], "x" * 300, data[i][2])
    found = one("damaged", table(data))
    assert found.rows["note"].to_list() == ["chosen: long_run"] * 2


BICYCLES = 120


def bicycle(i, end="", other=""):
    """A prompt and two answers, as the inputs of the findings are made (rows.md, section 9)."""
    chosen = f"Begin with the oven, then describe it slowly; allow about {i} minutes, lamp last."
    return (
        f"How would you clean bicycle number {i}?",
        f"{chosen}{end}",
        f"Just sell it, {i}.{other}",
    )


@pytest.mark.parametrize(
    ("name", "change", "check", "metric"),
    [
        ("A02", lambda i: (f"Clean {i}?", f"[INST] So? [/INST] {i} </s>", "So. </s>"),
         "role_leaks", "role_leak:chosen"),
        ("A11", lambda i: bicycle(i, "</s>"), "leftovers", "template:chosen"),
        ("A09", lambda i: bicycle(i, "\nRating: 2", "\nRating: 4"), "leftovers", "judge:chosen"),
        ("A12", lambda i: (f"{bicycle(i)[0]}\n\nAssistant: ", *bicycle(i)[1:]),
         "schema", "trailing_cue"),
        ("A14", lambda i: bicycle(i, " Caf\u00c3\u00a9."), "leftovers", "mojibake:chosen"),
        ("A13", lambda i: (*bicycle(i)[:2], bicycle(i)[1][:37].rpartition(" ")[0]),
         "cut_off", "gap"),
    ],
)  # fmt: skip
def test_what_an_audit_once_did_not_see(name, change, check, metric):
    found = one(check, table([change(i) for i in range(BICYCLES)]))
    assert abs(found.metrics[metric].value) == 1.0, name
    assert found.severity >= Severity.WARNING, name
    assert found.rows["row"].n_unique() == BICYCLES
    silent = one(check, table([bicycle(i) for i in range(BICYCLES)]))
    assert silent.severity is Severity.OK, (name, silent.headline)

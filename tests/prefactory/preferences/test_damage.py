"""The damage rules: unit cases, invariances, and what they find in the planted noise set."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from ftfy.badness import is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.rules.damage import Damage
from prefactory.context import Context
from prefactory.preferences.damage import (
    RULES,
    Vectors,
    damage,
    judge_relevance,
    learn,
    letters,
    only_damage,
)
from prefactory.preferences.damage.loops import _sentences, loops, may_repeat
from prefactory.preferences.damage.marks import mojibake, unfinished
from tests.helpers import ROOT, pairs, responses

SHARED = ROOT.parent / "shared" / "data"
NOISE = SHARED / "noise" / "noisy_pairs.jsonl.gz"
GOOD = "A plain answer that says what it has to say."


def rules_hit(chosen, rejected=GOOD):
    return {(rule, side) for rule, side in hits(chosen, rejected).select("rule", "side").rows()}


def hits(chosen, rejected=GOOD, rules=RULES):
    return damage(pairs(("What is it?", chosen, rejected)), rules)


# -- unit cases -----


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("A. B. A. B. A. B. A. B.", False),
        ("I am here now. " * 5, True),
        ("I am here now. " * 3, False),
        ("| a | b and c |\n" * 40, False),
        ("\n".join(f"| row {i} | yes | no |" for i in range(40)), False),
        ("so it goes on and " * 30, True),
        ("", False),
    ],
)
def test_a_loop_is_a_sentence_or_trigrams_again_and_again(text, loop):
    assert (loops(pl.Series([text, GOOD]))[0] is not None) == loop


PIECES = ["we are here. ", "we are here!\n", "  we are here\n", "é is a letter? ", "", "no. ", "\n"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), max_size=5))
def test_no_text_that_says_a_sentence_four_times_is_passed_over(texts):
    low = pl.Series("t", texts, dtype=pl.String)
    said = _sentences(low).is_not_null().to_numpy()
    assert not (said & ~may_repeat(low)).any()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Human: yes", "role_leak"),
        ("Fine.\n\nUser: and then?", "role_leak"),
        ("Fine. <|im_end|>", "role_leak"),
        ("Fine.\nAnswer:", "trailing_cue"),
        ("x < y </s>", "template"),
        ("[INST] hello [/INST]", "template"),
        ("My verdict is [[A]]", "judge"),
        ("Good answer.\nRating: 2", "judge"),
        ("Feedback: it is fine", "judge"),
        ("Assistant A is better, as it is shorter.", "judge"),
        ("It was cafÃ© time", "mojibake"),
        ("It costs â‚¬5", "mojibake"),  # noqa: RUF001
        ("It don\ufffdt matter", "mojibake"),
    ],
)
def test_marks_are_found_on_either_side(text, rule):
    assert (rule, "chosen") in rules_hit(text)
    assert (rule, "rejected") in rules_hit(GOOD, text)


@pytest.mark.parametrize(
    "text",
    [
        "the human: a study",
        "It is a cafe\u0301 and a café in S\u00c3O PAULO",
        "The score was 3 to 2, and a <s>bad</s> joke.".replace("</s>", "<s>"),
        "User interfaces: an overview",
        "I answer: no.",
        "",
    ],
)
def test_marks_are_not_found_in_plain_texts(text):
    assert not {rule for rule, _ in rules_hit(text)} - {"empty"}


def test_tokens_on_both_sides_are_a_fault_of_the_set_and_no_template_rule():
    found = {rule for rule, _ in rules_hit("Yes. </s>", "No. </s>")}
    assert "template" not in found
    assert "role_leak" in found


def test_identical_and_empty_are_equality_after_strip_and_no_ratio_of_lengths():
    assert rules_hit("same ", " same") == {("identical", "pair")}
    assert rules_hit("same", "Same") == set()
    assert rules_hit(" \n", "x") == {("empty", "chosen")}
    assert rules_hit("...", "x") == rules_hit(" \u2026 ", "x") == {("empty", "chosen")}
    assert rules_hit("?", "x") == rules_hit("-", "x") == rules_hit("\U0001f44d", "x") == set()
    assert rules_hit("a", "b" * 300) == set()


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("It is a long story that begins in the town where I was born and", True),
        ("It is a long story that begins in the town where I was born.", False),
        (
            "Here is a list of all that you will need for the job:\n- nails and a hammer and a saw",
            False,
        ),
        ("too short to tell and", False),
        ("See https://example.org/a/b/c for the whole of the story which is long and old", False),
    ],
)
def test_unfinished_is_a_line_that_ends_in_the_middle(text, cut):
    assert unfinished(pl.Series([text]))[0] == cut


def test_mojibake_is_what_ftfy_says_of_the_whole_text():
    rng = np.random.default_rng(0)
    signs = list("ab .,A\t\n\x85âÃÂ€œ'°×²à“”–ð\xa0éÐШГ√±")  # noqa: RUF001
    texts = ["".join(rng.choice(signs, rng.integers(1, 12))) for _ in range(20_000)]
    found = mojibake(pl.Series(texts))
    assert found.to_list() == [is_bad(text) for text in texts]


# -- garbled -----

WORDS = [
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "it",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "his",
    "they",
    "be",
    "at",
    "one",
    "have",
]


def sentence(rng, n=25):
    return " ".join(rng.choice(WORDS, n))


def shuffled(text, rng):
    return " ".join("".join(rng.permutation(list("qxzjvkwy"))) for _ in text.split())


def garbled_table(n=200, broken=(3, 77)):
    rng = np.random.default_rng(0)
    rows = [(f"{sentence(rng, 8)} {i}", sentence(rng), sentence(rng)) for i in range(n)]
    for i in broken:
        rows[i] = (rows[i][0], shuffled(rows[i][1], rng), rows[i][2])
    return pairs(*rows)


def test_letters_in_no_familiar_order_and_new_words_are_garbled():
    table = garbled_table()
    found = damage(table, ["garbled"])
    assert found["row"].to_list() == [3, 77]
    assert found["side"].unique().to_list() == ["chosen"]


def test_a_table_too_small_to_learn_from_has_no_garbled_answers():
    assert damage(garbled_table(60, (3,)), ["garbled"]).height == 0


def test_the_model_of_characters_has_the_probabilities_that_are_documented():
    texts = pl.Series(["abab", "abc"])
    model = letters.count(texts, letters.alphabet(texts))
    n, v = 7, 3
    p1 = (3 + 1) / (n + v + 1)  # b three times
    p2 = (3 + 5 * p1) / (3 + 5)  # every a is followed by b
    p3 = (2 + 5 * p2) / (2 + 5)  # two blanks and an a, twice, then b
    gain, count = letters.gains(pl.Series(["ab"]), model)
    first = (3 + 1) / (n + v + 1)
    blank = (2 + 5 * first) / (2 + 5)  # after a blank: a, twice
    start = (2 + 5 * blank) / (2 + 5)
    assert count.tolist() == [2]
    want = (np.log2(start / first) + np.log2(p3 / p1)) / 2
    assert gain[0] == pytest.approx(want, abs=1e-6)


def test_many_signs_give_the_same_gains_as_few(monkeypatch):
    rng = np.random.default_rng(1)
    texts = pl.Series([sentence(rng) for _ in range(30)])
    points = letters.alphabet(texts)
    dense = letters.gains(texts, letters.count(texts, points))[0]
    monkeypatch.setattr(letters, "_DENSE", 2)
    sparse = letters.gains(texts, letters.count(texts, points))[0]
    np.testing.assert_allclose(dense, sparse, rtol=1e-5)


def test_a_model_survives_its_tables():
    table = garbled_table()
    model = learn(table)
    tables, info = letters.to_tables(model)
    again = letters.from_tables(tables, info)
    assert damage(table, ["garbled"], model=again).equals(damage(table, ["garbled"], model=model))


# -- off topic -----


def topics(n=200, wrong=(5,)):
    """Prompts and answers of 40 topics as vectors: answers lie with their prompts but a few."""
    rng = np.random.default_rng(0)
    topic = np.arange(n) % 40
    base = rng.normal(size=(40, 32))
    question = base[topic] + 0.3 * rng.normal(size=(n, 32))
    answer = base[topic] + 0.3 * rng.normal(size=(n, 32))
    for i in wrong:
        answer[i] = base[(topic[i] + 5) % 40] + 0.1 * rng.normal(size=32)
    table = pairs(*[(f"prompt {i}", f"{GOOD} {i}", f"no {i}") for i in range(n)])
    return table, Vectors(*(x.astype(np.float32) for x in (answer, question, question)))


def test_an_answer_that_fits_other_prompts_better_is_off_topic():
    table, vectors = topics()
    found = damage(table, RULES, relevance=judge_relevance(table, vectors))
    hit = found.filter(pl.col("rule") == "off_topic")
    assert hit["row"].to_list() == [5]
    assert hit["side"].to_list() == ["chosen"]


def test_fewer_than_50_clusters_of_prompts_make_no_null():
    table, vectors = topics(49)
    assert judge_relevance(table, vectors) is None


def test_copies_of_a_prompt_are_no_other_prompts():
    table, vectors = topics()
    copied = pl.concat([table, table, table])
    thrice = Vectors(*(np.concatenate([v] * 3) for v in (vectors.answers, vectors.questions,
                                                         vectors.conversations)))  # fmt: skip
    found = judge_relevance(copied, thrice)
    assert found["off_topic"].sum() == 3


# -- the step -----


def outcome(step, table, cuts=1, embed=None):
    ctx = Context(embed=embed)
    size = -(-table.height // cuts)
    shards = [table[i : i + size] for i in range(0, table.height, size)]
    parts = pl.concat([step.fit_shard(shard, ctx) for shard in shards]).sort("pair_id")
    fitted = Context(embed=embed, state=step.fit(parts, ctx))
    return pl.concat([step.keep(shard, fitted) for shard in shards])


def test_the_step_gives_each_row_the_first_rule_that_fires_whatever_the_shards():
    table = garbled_table()
    leak = pairs(
        ("p", "Human: yes </s>", "fine"), ("q", "x", "x"), ("r", "fine", "so it goes " * 40)
    )
    table = pl.concat([table, leak])
    whole, cut = outcome(Damage(), table), outcome(Damage(), table, cuts=7)
    assert whole.equals(cut)
    assert whole["reason"].value_counts().sort("reason").drop_nulls().rows() == [
        ("garbled", 2),
        ("identical", 1),
        ("role_leak", 1),
    ]
    with_rejected = outcome(Damage(rejected=True), table)
    assert with_rejected["reason"].to_list()[-1] == "loop"


def test_the_step_drops_answers_off_topic_with_an_encoder():
    table, vectors = topics()
    known = {}
    from prefactory.preferences.damage import texts_of_meaning

    for texts, values in zip(
        texts_of_meaning(table),
        (vectors.answers, vectors.questions, vectors.conversations),
        strict=True,
    ):
        known |= dict(zip(texts, values, strict=True))
    step = Damage(rules=("off_topic",))
    found = outcome(step, table, 3, lambda _, texts: np.stack([known[t] for t in texts]))
    assert found["reason"].drop_nulls().to_list() == ["off_topic"]


def test_answers_in_another_script_are_not_garbled():
    table = garbled_table(200, ())
    greek = "".join(chr(0x3B1 + i % 24) + " " * (i % 5 == 4) for i in range(200))
    table = pl.concat([table, pairs(("p", greek, "no it is not"))])
    assert damage(table, ["garbled"]).height == 1
    assert outcome(Damage(rules=("garbled",)), table)["reason"].null_count() == table.height


def test_unfinished_is_no_rule_to_drop_by():
    with pytest.raises(ValueError, match="unfinished"):
        Damage(rules=("unfinished",))


def test_answers_without_a_pair_are_judged_too():
    table = responses(("p", "Human: yes"), ("q", GOOD), ("r", ""))
    found = damage(table)
    assert found.select("row", "rule").rows() == [(2, "empty"), (0, "role_leak")]


# -- the planted noise set -----


def noise():
    """The planted pairs that the reader keeps, and what was done to each."""
    if not NOISE.exists():
        pytest.skip(f"NOT RUN: the planted noise set is not at {NOISE}")
    from audit import load
    from catalog.versions import Catalog

    table = load(str(NOISE), Catalog(Path("none"))).table
    with gzip.open(NOISE, "rt", encoding="utf-8") as file:
        ids = [line.split('"', 4)[3] for line in file]
    with (NOISE.parent / "noisy_pairs_truth.csv").open(encoding="utf-8") as file:
        truth = {row["id"]: row["kind"] for row in csv.DictReader(file)}
    line = table["source_id"].str.extract(r":(\d+)$").cast(pl.Int64) - 1
    return table.with_columns(kind=pl.Series([truth[ids[i]] for i in line]))


def test_the_rules_find_what_was_planted_and_leave_clean_rows():
    table = noise()
    found = only_damage(damage(table.drop("kind")))
    kinds = found.with_columns(kind=table["kind"].gather(found["row"]))
    total = dict(table["kind"].value_counts().iter_rows())

    def share(kind, *rules):
        part = kinds.filter(pl.col("kind") == kind)
        part = part.filter(pl.col("rule").is_in(list(rules))) if rules else part
        return part["row"].n_unique() / total[kind]

    assert share("role_leak_chosen", "role_leak") == 1
    assert share("loop_chosen", "loop") >= 0.95
    assert share("garbled_chosen", "garbled") >= 0.90
    assert share("clean") <= 0.03

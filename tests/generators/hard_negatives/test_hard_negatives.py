"""Masked continuations: the kept prefixes, the masked share, the similarity, what is given up."""

import hashlib

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from generators import MaskedContinuations
from generators.hard_negatives.texts import (
    MARK,
    completed,
    context_spans,
    cut,
    masked,
    opposite,
    pieces,
    sentences,
)
from prefactory.apply import apply_generator
from prefactory.engines.base import Failure
from prefactory.tables import Shape
from tests.generators.sampling import asked_run, model
from tests.helpers import asking, content, digest, recipe, responses

HERE = __name__
CONTEXT = "The shop opens at nine. It closes at six on Fridays.\n\nIt sells tea and nothing else."
ASKED = f"{CONTEXT}\n\nWhen does the shop open, and what does it sell?"
GOOD = "It opens at nine in the morning. It closes at six on Fridays.\nTea is all that it sells!"
REQUESTS = []


def embed(encoder, texts):
    """Bags of words: two answers are as alike as the words that they share."""
    out = np.zeros((texts.len(), 64), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split() or ["nothing"]:
            out[row, hashlib.blake2b(word.encode(), digest_size=1).digest()[0] % 64] += 1
    return out


def wrong(request):
    REQUESTS.append(request)
    return f"whatever {request.draw_seed}. And a further sentence."


def parrot(request):
    """Repeats the beginning and ends it as the good answer does."""
    text = request.conversation[-1]["content"]
    if "<answer>" not in text:
        return GOOD
    before = text.split("<answer>\n")[1].removesuffix("\n</answer>")
    return GOOD[len(before) :] if GOOD.startswith(before) else "no"


def second_time(request):
    """Says the same as the good answer at the first try."""
    return parrot(request) if request.row_id.endswith("/1") else "something wrong"


def blank(request):
    return " "


def broken(request):
    return Failure("http_500", "no luck")


def made(*rows, function="wrong", **fields):
    step = MaskedContinuations(model=model("small", f"{HERE}.{function}"), **fields)
    table = responses(*rows) if rows else responses((ASKED, GOOD))
    label = "generators.MaskedContinuations"
    found = apply_generator(step, label, table, Shape.RESPONSES, asking(embed=embed))
    return table, *found


# -- texts -----


@given(st.text("ab .!?\n说。", max_size=60))
def test_pieces_and_sentences_lose_nothing(text):
    assert "".join(sentences(text)) == text
    assert "".join(pieces(text)) == text.rstrip() or not text.strip()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two!  Three?", ["One. ", "Two!  ", "Three?"]),
        ("Version 2.5 is out. Get it", ["Version 2.5 is out. ", "Get it"]),
        ('He said "no." Then left.', ['He said "no." ', "Then left."]),
        ("- a b\n- c d\n", ["- a b\n", "- c d\n"]),
        ("今天很好。明天呢\uff1f", ["今天很好。", "明天呢\uff1f"]),
        ("", []),
        ("  \n", ["  \n"]),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


def test_a_sentence_keeps_its_beginning_and_its_end():
    assert cut("It opens at nine. ", 2) == ("It opens", " ")
    assert cut("今天很好。", 2) == ("今天", "")
    whole = [
        (completed("It opens", "at ten. And more.", " "), "It opens at ten. "),
        (completed("It opens", "It opens at ten.", ""), "It opens at ten."),
        (completed("It opens", ", they say.", "\n"), "It opens, they say.\n"),
        (completed("今天", "不好。", ""), "今天不好。"),
        (completed("It opens", " \n", " "), None),
    ]
    assert all(found == wanted for found, wanted in whole)


def test_opposites():
    pairs = {"Yes.": "No.", "no": "yes", " NO! ": " YES! ", "**Yes**": "**No**"}
    assert {a: opposite(a) for a in pairs} == pairs
    assert [opposite(t) for t in ("Yes, it does.", "know", "", "yeS")] == [None] * 4


def test_context_is_all_but_the_last_paragraph_or_what_a_pattern_says():
    def shown(text, pattern):
        return [text[a:b] for a, b in context_spans(text, pattern)]

    assert shown(ASKED, None) == [CONTEXT]
    assert shown("one paragraph only", None) == []
    tagged = "<doc>one</doc> q <doc>two</doc><doc> </doc>"
    assert shown(tagged, "<doc>(.*?)</doc>") == ["one", "two"]
    assert shown(tagged, "<doc>[^<]*") == ["<doc>one", "<doc>two", "<doc> "]


def test_one_word_in_a_hundred_survives():
    text = " ".join(f"w{i}" for i in range(30_000))
    rng = np.random.default_rng(0)
    shown = masked(text, [(0, len(text))], 0.01, rng)
    kept = [w for w in shown.split() if w != MARK]
    assert abs(len(kept) / 30_000 - 0.01) < 3 * (0.01 / 30_000) ** 0.5
    assert set(kept) <= set(text.split())
    assert f"{MARK} {MARK}" not in shown
    assert masked(text, [(0, len(text))], 0.0, rng) == MARK
    assert masked(text, [(0, len(text))], 1.0, rng) == text


def test_only_the_context_is_masked():
    spans = context_spans(ASKED, None)
    shown = masked(ASKED, spans, 0.0, np.random.default_rng(0))
    assert shown == f"{MARK}\n\nWhen does the shop open, and what does it sell?"


# -- the step -----


def test_each_sentence_keeps_its_prefix_and_gets_another_end():
    REQUESTS.clear()
    table, rows, dropped = made()
    assert dropped.height == 0
    (row,) = rows.to_dicts()
    rejected = content(rows, "rejected")[0]
    assert content(rows, "chosen") == [GOOD]
    assert (row["label_source"], row["method"], row["tries"], row["gave_up"]) == (
        *("rule", "guided", 1),
        False,
    )
    assert row["similarity"] <= 0.97
    assert row["chosen_id"] == table["response_id"][0]
    good, bad = sentences(GOOD), sentences(rejected)
    assert len(row["pivots"]) == len(good) == len(bad) == 3
    for one, two, pivot in zip(good, bad, row["pivots"], strict=True):
        assert 1 <= pivot < len(pieces(one))
        prefix = cut(one, pivot)[0]
        assert two.startswith(f"{prefix} whatever ")
        assert "further" not in two
    assert len(REQUESTS) == 3
    for i, request in enumerate(REQUESTS):
        told = request.conversation[-1]["content"]
        before = "".join(good[:i]) + cut(good[i], row["pivots"][i])[0]
        assert f"<answer>\n{before.strip()}\n</answer>" in told  # the true sentences before it
        assert "tea and nothing" not in told
        assert MARK in told
        assert "When does the shop open" in told


def test_what_is_too_similar_is_tried_again():
    _, rows, _ = made(function="second_time")
    assert rows.select("tries", "method", "gave_up").rows() == [(2, "guided", False)]
    assert rows["similarity"][0] <= 0.97


def test_a_parrot_is_given_up():
    _, rows, dropped = made(function="parrot", tries=3, on_gave_up="keep")
    assert (rows.height, dropped["reason"].to_list()) == (0, ["same_text"])
    _, rows, dropped = made(max_similarity=-1.0, tries=3)
    assert dropped["reason"].to_list() == ["too_similar"]
    assert "after 3 tries" in dropped["detail"][0]
    _, rows, _ = made(max_similarity=-1.0, tries=3, on_gave_up="keep")
    assert rows.select("gave_up", "tries", "method").rows() == [(True, 3, "unguided")]
    assert rows["pivots"].to_list() == [[]]


def test_yes_and_no_are_turned_round_half_the_time():
    asked = [(f"{CONTEXT}\n\nQuestion {i}?", "Yes.") for i in range(200)]
    _, rows, _ = made(*asked, max_similarity=0.999)
    turned = rows.filter(pl.col("method") == "flipped")
    assert set(content(turned, "rejected")) == {"No."}
    assert set(rows["method"]) == {"flipped", "unguided"}
    assert 70 < turned.height < 130
    _, rows, _ = made(*asked[:9], flip=1.0)
    assert set(rows["method"]) == {"flipped"}


def test_answers_without_a_pair_say_why():
    rows = [("no context here", "a b c"), (ASKED, "  "), (ASKED, GOOD)]
    table, _, dropped = made(*rows, function="broken")
    assert dict(zip(dropped["row_id"], dropped["reason"], strict=True)) == dict(
        zip(table["response_id"], ["no_context", "empty_answer", "http_500"], strict=True)
    )
    _, _, dropped = made(function="blank", tries=2)
    assert dropped["reason"].to_list() == ["empty_answer"]  # and the unguided one


def test_scores_of_the_chosen_answer_are_carried_over():
    table = responses((ASKED, GOOD), score_h=[2.0])
    step = MaskedContinuations(model=model("small", f"{HERE}.wrong"))
    rows, _ = apply_generator(step, "s", table, Shape.RESPONSES, asking(embed=embed))
    assert rows.select("chosen_score_h", "rejected_score_h").rows() == [(2.0, None)]
    assert {c: rows.schema[c] for c in step.adds(Shape.RESPONSES)} == step.adds(Shape.RESPONSES)


def test_shards_and_order_change_nothing(tmp_path):
    table = responses(*[(f"{CONTEXT}\n\nQuestion {i}?", f"{GOOD} {i} is odd.") for i in range(12)])
    step = {"generators.MaskedContinuations": {"model": model("small", f"{HERE}.wrong")}}
    results = [
        asked_run(recipe(step), t, tmp_path / str(i), size, 2, embed=embed)
        for i, (t, size) in enumerate([(table, 1000), (table, 1), (table[::-1], 5)])
    ]
    assert len({digest(r) for r in results}) == 1


def test_a_bad_pattern_is_named():
    with pytest.raises(ValidationError, match="no regular expression"):
        MaskedContinuations(model=model("m", "x.y"), context="(")

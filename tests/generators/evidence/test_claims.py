import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.evidence.claims import (
    account,
    align,
    claim_spans,
    negated,
    numbers_of,
    replaced,
    wanted_words,
)
from generators.evidence.corpus import corpus_of
from prefactory.errors import DataError
from prefactory.near.bm25 import BM25


def claims(text):
    return [text[a:b] for a, b in claim_spans(text)]


def test_known_claims():
    text = "Dr. Ann came at 3.5 p.m. today.  She left!\nNobody, e.g. Bob, saw her. "
    assert claims(text) == [
        "Dr. Ann came at 3.5 p.m. today.",
        "She left!",
        "Nobody, e.g. Bob, saw her.",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("È vero. Écoute.", ["È vero.", "Écoute."]),
        ("They rose. and fell.", ["They rose. and fell."]),
        ("J. S. Bach wrote it.", ["J. S. Bach wrote it."]),
        (
            "- one thing\n- another\n1. A third. And more.",
            ["one thing", "another", "A third.", "And more."],
        ),
        ("Is it so? It is.", ["It is."]),
        ("# Title\nText.\n| a | b |\n```\nCode. More.\n```\nEnd.", ["Text.", "End."]),
        ("```\nnever closed. Code.", []),
        ("这是一。那是二!", ["这是一。", "那是二!"]),
        ("He said \u201cgo.\u201d She went.", ["He said \u201cgo.\u201d", "She went."]),
        ("No end", ["No end"]),
        (" \n ... \n", []),
    ],
)
def test_claims(text, found):
    assert claims(text) == found


HARD = "É la prima.\u00a0Écoute bien la deuxième.\r\nThe third, no less.  The fourth one."


def test_only_the_claim_that_fails_is_exchanged():
    spans = claim_spans(HARD)
    assert len(spans) == 4
    new, places = replaced(HARD, spans, {2: "Ersatz \u00df."})
    assert new == HARD.replace("The third, no less.", "Ersatz \u00df.")
    assert [new[a:b] for a, b in places] == [
        "É la prima.", "Écoute bien la deuxième.", "Ersatz \u00df.", "The fourth one.",
    ]  # fmt: skip
    assert account(HARD, spans, {2}) == account(new, places, {2})
    assert account(HARD, spans, {2}) != account(new.replace("\u00a0", " "), places, {2})
    assert account(HARD, spans, {2}) != account(new.replace("\r\n", "\n\n"), places, {2})
    assert replaced(HARD, spans, {})[0] == HARD


@given(st.text("aB. !\n\u00e9\u3002?\u00a0-1", max_size=60), st.data())
def test_places_hold_what_they_say(text, data):
    spans = claim_spans(text)
    ends = [0, *[x for span in spans for x in span], len(text)]
    assert ends == sorted(ends)
    assert all(text[a:b] == text[a:b].strip() != "" for a, b in spans)
    chosen = data.draw(st.sets(st.sampled_from(range(len(spans))))) if spans else set()
    new, places = replaced(text, spans, dict.fromkeys(chosen, "New one."))
    assert account(text, spans, chosen) == account(new, places, chosen)
    assert all(new[a:b] == "New one." for i, (a, b) in enumerate(places) if i in chosen)


def test_numbers_and_negations():
    assert numbers_of("In 1,871 and 3.5, not 1871") == {"1871", "3.5"}
    assert numbers_of("1,2 and 12,34") == {"1,2", "12,34"}
    assert negated("It is not so.")
    assert not negated("It isn't that nobody came.")
    assert negated("Das ist kein Haus.")


PASSAGES = [
    "Anna Berg was born in 1871 in Lund. She never married.",
    "Kurt Holm built the mill of Ystad.",
    *[f"The harbour of town {i} was dug long ago, and boats lay in it." for i in range(20)],
]
WORDS = BM25(PASSAGES)


def test_what_a_passage_must_hold():
    assert wanted_words("Anna Berg was born in 1871.", WORDS) == {"berg", "anna", "born"}
    assert wanted_words("The Zorn was dug.", WORDS) == {"zorn"}
    assert wanted_words("I know that Anna's house [2] is old.", WORDS) == {"anna"}


@pytest.mark.parametrize(
    ("claim", "cosine", "verdict"),
    [
        ("Anna Berg was born in 1871.", 0.9, "supported"),
        ("Anna Berg was born in 1,871 [1].", 0.9, "supported"),
        ("Anna Berg was born in 1900.", 0.9, "contradicted"),
        ("Anna Berg was not born in 1871.", 0.9, "contradicted"),
        ("Anna Berg never married.", 0.9, "supported"),
        ("Kurt Holm didn't build the mill of Ystad.", 0.9, "contradicted"),
        ("Anna Berg was born in 1871.", 0.59, "absent"),
        ("Anna Berg was born in 1871.", float("nan"), "supported"),
        ("Then Anna Zorn was born in 1871.", 0.9, "absent"),
        ("The mill of Ystad was built in 1900.", 0.9, "absent"),  # no number there
    ],
)
def test_the_rule(claim, cosine, verdict):
    shown = PASSAGES[:3]
    assert align(claim, shown, np.full(3, cosine), WORDS).verdict == verdict


def test_the_nearest_passage_decides():
    two = ["Anna Berg was born in 1871.", "Anna Berg was born in 1900."]
    words = BM25(two * 10)
    one = align("Anna Berg was born in 1900.", two, np.array([0.7, 0.9]), words)
    assert (one.verdict, one.passage, one.similarity) == ("supported", 1, 0.9)
    other = align("Anna Berg was born in 1900.", two, np.array([0.9, 0.7]), words)
    assert (other.verdict, other.passage) == ("contradicted", 0)
    assert align("Anything.", [], np.zeros(0), words).verdict == "absent"


def test_long_texts_are_cut_at_paragraphs():
    one, two = " ".join(["word"] * 150), " ".join(["more"] * 90)
    corpus = corpus_of([("b", f"{one}\n\n{two}"), ("a", "short"), ("c", " ".join(["x"] * 450))])
    assert corpus.ids.to_list() == ["a", "b#1", "b#2", "c#1", "c#2", "c#3"]
    assert corpus.texts[1] == one
    assert [len(t.split()) for t in corpus.texts] == [1, 150, 90, 200, 200, 50]
    assert corpus.digest == corpus_of([("a", "short"), ("c", " ".join(["x"] * 450)),
                                       ("b", f"{one}\n\n{two}")]).digest  # fmt: skip
    with pytest.raises(DataError, match="two passages with the id 'a'"):
        corpus_of([("a", "x"), ("a", "y")])
    with pytest.raises(DataError, match="holds no text"):
        corpus_of([])

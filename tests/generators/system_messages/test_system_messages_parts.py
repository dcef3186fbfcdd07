"""Sets of values and composed texts: balance, rules, grammar."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.values import load
from generators import pools
from generators.system_messages.compose import (
    Draws,
    Phrases,
    article,
    compose,
    load_parts,
    sentences_of,
)
from generators.system_messages.sets import balanced_sets, breaks, grid, rounds
from prefactory.context import Context
from prefactory.errors import ConfigError

JANUS = load("janus")


def draw(n, messages=3, system="janus", k=None, shared=None, seed=0):
    laid = grid(load(system), k, shared)
    return laid, balanced_sets(n, messages, laid, np.random.default_rng(seed))


# -- sets -----


@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_each_message_has_one_value_of_each_dimension_and_counts_differ_by_one(n):
    laid, found = draw(n)
    assert found.values.shape == (n, 3, 4)
    for column, leaves in enumerate(laid.roots):
        assert np.isin(found.values[:, :, column], leaves).all()
        counts = np.bincount(found.values[:, :, column].ravel(), minlength=82)[leaves]
        assert counts.max() - counts.min() <= 1
    assert found.crowded == 0


def test_every_start_of_the_turns_is_balanced():
    turns = rounds(np.random.default_rng(0), 5, 23)
    for stop in range(1, 24):
        counts = np.bincount(turns[:stop], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert rounds(np.random.default_rng(0), 5, 0).size == 0


def test_turns_are_not_all_alike():
    turns = rounds(np.random.default_rng(0), 4, 400).reshape(-1, 4)
    assert len(np.unique(turns, axis=0)) == 24


def test_sets_of_a_prompt_share_at_most_half_and_never_oppose():
    laid, found = draw(3000)
    assert laid.shared == 2
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert ((found.values[:, a] == found.values[:, b]).sum(axis=1) <= 2).all()
    for i in range(4):
        for j in range(i):
            assert not laid.opposed[found.values[:, :, i], found.values[:, :, j]].any()
    assert found.swapped > 0  # there was something to mend


def test_dimensions_that_oppose_each_other_never_meet():
    laid, found = draw(400, system="schwartz10")
    circle = load("schwartz10")
    assert laid.combos.shape == (4, 2)
    roots = {i: circle.ancestors(leaf)[0] for i, leaf in enumerate(circle.leaves)}
    met = {frozenset(roots[v] for v in one) for one in found.values.reshape(-1, 2).tolist()}
    neighbours = [("openness", "enhancement"), ("openness", "transcendence")]
    neighbours += [("conservation", "enhancement"), ("conservation", "transcendence")]
    assert met == {frozenset(pair) for pair in neighbours}


def test_flat_systems_give_one_value_a_message():
    laid, found = draw(10, system="hhh")
    assert found.values.shape == (10, 3, 1)
    assert all(len(set(one)) == 3 for one in found.values[:, :, 0].tolist())
    assert laid.sets == 3


def test_two_values_at_a_time():
    laid, found = draw(100, system="mft", k=2)
    assert len(laid.combos) == 15
    assert (found.values[:, :, 0] != found.values[:, :, 1]).all()
    counts = np.bincount(found.values.ravel())
    assert counts.max() - counts.min() <= 2


def test_what_cannot_go_together():
    with pytest.raises(ConfigError, match="no 3 of its 4 dimensions that go together"):
        draw(10, system="schwartz10", k=3)
    with pytest.raises(ConfigError, match="no 5 of its 4 dimensions"):
        draw(10, k=5)


def test_breaks():
    laid = grid(JANUS, None)
    leaf = {name: i for i, name in enumerate(laid.values)}
    fine = ["style.tone.warm", "background.novice.hobby"]
    fine += ["information.depth.causes", "harmless.trust.limits"]
    same_two = ["style.tone.warm", "background.novice.hobby"]
    same_two += ["information.depth.views", "harmless.safety.warn"]
    same_three = [*fine[:3], "harmless.safety.warn"]
    opposed = ["style.concise.short", "background.novice.first", *same_two[2:]]
    sets = np.array([[[leaf[n] for n in one] for one in (fine, same_two, same_three, opposed)]])
    assert breaks(sets, laid).tolist() == [[False, False, True, True]]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 5), st.sampled_from(["janus", "cvc", "hofstede6", "big5"])
)
def test_small_numbers(n, messages, system):
    laid, found = draw(n, messages, system)
    assert found.values.shape == (n, messages, laid.combos.shape[1])
    assert found.crowded == breaks(found.values, laid).any(axis=1).sum()
    again = draw(n, messages, system)[1]
    assert (again.values == found.values).all()


# -- texts -----

PARTS = load_parts("message_parts")


def texts(n, phrases, k, salt=""):
    uniform = Context(step=salt).uniform(pl.Series([str(i) for i in range(n)]))
    values = np.tile(np.arange(k), (n, 1))
    return compose(values, Phrases.of(phrases[:k]), Draws.of(uniform), PARTS)


def test_every_value_is_said_once_and_the_text_reads():
    phrases = [["avoid jargon"], ["be fair", "be just"], ["show sources"], ["explain each step"]]
    for text in texts(2000, phrases, 4):
        assert len(re.findall(r"avoid jargon", text, re.IGNORECASE)) == 1
        assert len(re.findall(r"(?i)\b(?:be|are) (?:fair|just)\b", text)) == 1
        assert "you be " not in text
        assert "{" not in text
        assert "  " not in text
        assert text[0].isupper()
        assert text.endswith(".")
        assert all(s[0].isupper() for s in re.split(r"(?<=[.]) ", text))
        assert not re.search(r"\ba [aeiou]", text)
        assert not re.search(r"\ban [^aeiou]", text)


def test_order_sentences_and_words_vary():
    made = texts(1000, [["do one"], ["do two"], ["do three"]], 3)
    assert made.n_unique() > 990
    orders = {tuple(re.findall(r"do (one|two|three)", t.lower())) for t in made}
    assert len(orders) == 6
    assert len({t.count(".") for t in made}) >= 3
    words = [len(t.split()) for t in made]
    assert min(words) >= 12


def test_frames_of_a_message_differ():
    assert len(PARTS.singles) == 17  # a prime: every stride visits all of them
    frames = [re.sub(r"\{.*?\}", r"[Dd]o \\d", f) for f in (*PARTS.singles, *PARTS.doubles)]
    for text in texts(500, [[f"do {i}"] for i in range(8)], 8):
        said = [s for s in re.split(r"(?<=[.]) ", text) if re.search(r"[Dd]o \d", s)]
        used = [next(f for f in frames if re.fullmatch(f, s)) for s in said]
        assert len(used) == len(set(used))


def test_a_row_depends_on_itself_only():
    phrases = [["do one", "do it"], ["do two"], ["be brief"]]
    whole = texts(50, phrases, 3)
    uniform = Context(step="").uniform(pl.Series(["31"]))
    alone = compose(np.arange(3)[None], Phrases.of(phrases), Draws.of(uniform), PARTS)
    assert alone[0] == whole[31]
    assert (
        compose(np.zeros((0, 2), int), Phrases.of(phrases), Draws.of(uniform[:0]), PARTS).len() == 0
    )


def test_ways_to_cut_sentences():
    assert set(sentences_of(4)) == {(1, 1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2)}
    assert [len(sentences_of(k)) for k in range(1, 9)] == [1, 2, 3, 5, 8, 13, 21, 34]


def test_draws_are_even_and_unlike_each_other():
    draws = Draws.of(Context().uniform(pl.Series([str(i) for i in range(20000)])))
    one, two = draws.below(1, 7), draws.below(2, 7)
    for counts in (np.bincount(one), np.bincount(two), np.bincount(one * 7 + two)):
        expected = 20000 / counts.size
        assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()
    orders = draws.order(3, 3)
    assert (np.sort(orders, axis=1) == np.arange(3)).all()


def test_all_phrases_of_shipped_systems_fit_the_frames():
    for name in ("janus", "schwartz10", "cvc", "hofstede6", "big5", "mft", "hhh"):
        system = load(name)
        for leaf in system.leaves:
            for phrase in system.phrases(leaf):
                assert not re.search(r"\b(?:itself|one's|I|my)\b", phrase), phrase
                assert "," not in phrase, phrase
                assert not phrase.split()[0].endswith("ing") or phrase.split()[0] == "bring", phrase


def test_article():
    assert [article(w) for w in ("able", "guide", "Observant")] == ["an", "a", "an"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"singles": ["You try."]}, r"singles: 'You try.' must hold \{a\}, each once"),
        ({"doubles": ["{b} then {a}"]}, r"doubles: .* must hold \{a\} then \{b\}"),
        ({"openings": ["Hello {you}."]}, r"openings: .* must hold \{who\}"),
        ({"nouns": []}, "nouns: Tuple should have at least 1 item"),
        ({"verbs": ["x"]}, "verbs: Extra inputs"),
    ],
)
def test_pools_of_ones_own_are_checked(tmp_path, change, message):
    import json

    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**pools.read("message_parts"), **change}))
    with pytest.raises(ConfigError, match=message):
        load_parts(str(file))
    with pytest.raises(ConfigError, match="no pool 'mesage_parts'"):
        load_parts("mesage_parts")

"""Personas: keyed answers, scores, bands, people who differ, texts, rows."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from generators import Personas
from generators.personas.profile import (
    bands,
    diverse,
    draw_people,
    keyed,
    load_bank,
    telling_items,
    trait_scores,
)
from generators.personas.text import LEVELS, SENTENCES, Portrait, joined, parse_portrait
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.engines.base import Failure
from prefactory.engines.scripted import Scripted
from prefactory.errors import ConfigError, DataError
from prefactory.tables import Shape, check
from tests.helpers import asking, digest, one_file, prompts, recipe, run

STEP = "generators.Personas"
BANK = load_bank("personality_items")
I = len(BANK.items)  # noqa: E741 - as in the docstrings
ANSWERS = arrays(np.int8, (3, I), elements=st.integers(0, 5))


# -- profiles -----


def test_the_bank_is_balanced():
    assert (len(BANK.traits), I, len(set(BANK.items))) == (5, 120, 120)
    for trait in range(5):
        assert np.bincount(BANK.key[BANK.trait == trait] + 1).tolist() == [12, 0, 12]


@given(ANSWERS)
def test_turning_twice_is_the_identity_and_missing_stays_missing(answers):
    once = keyed(answers, BANK.key)
    assert (keyed(once, BANK.key) == answers).all()
    assert ((once == 0) == (answers == 0)).all()
    assert (once[:, BANK.key > 0] == answers[:, BANK.key > 0]).all()


def test_scores():
    three = np.full((1, I), 3, np.int8)
    assert trait_scores(three, BANK).tolist() == [[3.0] * 5]
    agreeing = np.where(BANK.key > 0, 5, 1).astype(np.int8)[None]
    assert trait_scores(agreeing, BANK).tolist() == [[5.0] * 5]
    yes = np.full((1, I), 5, np.int8)  # says yes to everything: a mean of 5 and 1
    assert trait_scores(yes, BANK).tolist() == [[3.0] * 5]
    some = np.zeros((1, I), np.int8)
    some[0, np.flatnonzero(BANK.trait == 0)[:1]] = 4
    scores = trait_scores(some, BANK)
    assert scores[0, 0] == 4  # never as if 0 were an answer
    assert np.isnan(scores[0, 1:]).all()
    with pytest.raises(ValueError, match="answers are 1 to 5"):
        keyed(np.full((1, I), 6, np.int8), BANK.key)


def test_bands_are_thirds_of_the_population():
    scores = np.arange(9, dtype=float)[:, None]
    assert bands(scores).ravel().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert bands(np.full((4, 1), 2.5)).ravel().tolist() == [1, 1, 1, 1]
    assert bands(np.array([[np.nan], [0.0], [9.0]]), scores).ravel().tolist() == [-1, 0, 2]


def test_people_have_the_traits_that_were_drawn():
    matrix = np.eye(5)
    matrix[0, 1] = matrix[1, 0] = 0.9
    answers = draw_people(2000, BANK, np.random.default_rng(0), 0.7, 0.7, matrix)
    assert set(np.unique(answers)) == {1, 2, 3, 4, 5}
    scores = trait_scores(answers, BANK)
    assert abs(scores.mean(axis=0) - 3).max() < 0.1
    found = np.corrcoef(scores.T)
    assert found[0, 1] > 0.8
    assert abs(found[2:, :2]).max() < 0.1
    steady = draw_people(50, BANK, np.random.default_rng(0), 0.7, 0.0)
    one = keyed(steady, BANK.key)[:, BANK.trait == 0]
    assert (one == one[:, :1]).all()  # without noise all items of a trait agree


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(4), r"\(4, 4\) for 5 traits"),
        (np.eye(5) * 2, "1 on the diagonal"),
        (np.ones((5, 5)) - 2 * np.eye(5, k=1) - 2 * np.eye(5, k=-1), "positive semi-definite"),
    ],
)
def test_what_is_no_correlation(matrix, message):
    with pytest.raises(ValueError, match=message):
        draw_people(1, BANK, np.random.default_rng(0), 1, 1, matrix)


def three_kinds(sizes, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.integers(1, 6, (3, I))
    kind = np.repeat(np.arange(3), sizes)
    noise = rng.integers(-1, 2, (len(kind), I)) * (rng.random((len(kind), I)) < 0.3)
    return np.clip(means[kind] + noise, 1, 5).astype(np.int8), kind


def test_people_who_differ_cover_rare_kinds():
    answers, kind = three_kinds([900, 80, 20])
    for seed in range(5):
        chosen = diverse(answers, 9, seed)
        assert len(set(chosen.tolist())) == 9
        assert set(kind[chosen]) == {0, 1, 2}
    drawn = [set(kind[np.random.default_rng(s).choice(1000, 9, replace=False)]) for s in range(20)]
    assert any(len(found) < 3 for found in drawn)  # by chance alone the rare are missed
    assert diverse(answers, 5, 1).tolist() == diverse(answers, 5, 1).tolist()


def test_people_who_differ_at_the_edges():
    answers, _ = three_kinds([3, 3, 3])
    assert diverse(answers, 20, 0).tolist() == list(range(9))
    alike = np.full((6, I), 4, np.int8)
    assert diverse(alike, 3, 0).tolist() == [0, 1, 2]
    missing = answers.copy()
    missing[:, 5] = 0
    assert len(diverse(missing, 3, 0)) == 3


def test_items_agree_with_the_bands():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 6, I).astype(np.int8)
    band = np.array([0, 1, 2, -1, 2])
    chosen = telling_items(answers, band, BANK, rng.random(I), 1000)
    value = keyed(answers[None], BANK.key)[0]
    for i in range(I):
        level = band[BANK.trait[i]]
        fits = {0: value[i] in (1, 2), 1: value[i] == 3, 2: value[i] >= 4, -1: False}
        assert (i in chosen) == fits[int(level)]
    few = telling_items(answers, band, BANK, rng.random(I), 8)
    assert len(few) == 8
    assert set(few) <= set(chosen)
    other = telling_items(answers, band, BANK, rng.random(I), 8)
    assert set(few) != set(other)  # the draw decides among equally clear ones
    assert telling_items(np.zeros(I, np.int8), band, BANK, rng.random(I), 8).size == 0


def test_clear_answers_come_before_faint_ones():
    for person in range(300):
        rng = np.random.default_rng(person)
        answers = rng.integers(1, 6, I).astype(np.int8)
        band = rng.integers(0, 3, 5)
        few = telling_items(answers, band, BANK, rng.random(I), 8)
        value = keyed(answers[None], BANK.key)[0]
        clear = value == np.array([1, 3, 5])[band[BANK.trait]]
        assert clear[few].sum() == min(8, clear.sum())


# -- texts -----


def portrait(seed=0):
    rng = np.random.default_rng(seed)
    answers = draw_people(1, BANK, rng, 1.0, 0.7)[0]
    return Portrait.draw(answers, np.array([0, 2, 2, 0, 1]), BANK, rng, 8), answers


def test_prose_has_a_clause_a_trait_and_each_item_once():
    for seed in range(30):
        person, answers = portrait(seed)
        text = person.prose()
        assert len(person.clauses) == 5
        assert all(clause in text for clause in person.clauses)
        assert len(person.items) <= 8
        for item, answer in person.items:
            assert text.count(f"{item}") == 1
            assert answer == answers[BANK.items.index(item)]
        assert not re.search(r"(?:in)?accurate", text)
        assert text.endswith(".")


def test_the_list_names_how_true_each_item_is():
    person, _ = portrait(3)
    lines = person.listed().splitlines()
    assert lines[1:] == [f"- You {i}: {LEVELS[a]}." for i, a in person.items]
    assert person.shown()["items"][0] == dict(zip(("item", "answer"), person.items[0], strict=True))


def test_clauses_two_by_two():
    assert joined(["a", "b", "c"]) == ["a, and you b", "c"]
    assert set(SENTENCES) == set(LEVELS) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("She is kind.", 'as "you"'), ("You are kind, very accurate.", "accurate")],
)
def test_portraits_of_the_wrong_form(text, message):
    with pytest.raises(ValueError, match=message):
        parse_portrait(text)


# -- rows -----


def made(step, table, ctx=None):
    ctx = ctx or asking()
    state = step.fit(step.fit_shard(table, ctx).sort("prompt_id"), ctx)
    ctx = Context(ctx.seed, ctx.step, state, ctx.embed, ctx.engine)
    return *apply_generator(step, STEP, table, Shape.PROMPTS, ctx), state


def questions(n):
    return prompts(*[f"What about number {i}?" for i in range(n)])


def test_personas_are_shared_out_evenly():
    step = Personas(people=7, messages=2)
    rows, dropped, state = made(step, questions(21))
    check(rows, Shape.PROMPTS)
    assert (rows.height, dropped.height) == (42, 0)
    assert rows["persona"].value_counts()["count"].to_list() == [6] * 7
    assert (
        rows.group_by("source_prompt_id").agg(pl.col("persona").n_unique())["persona"].to_list()
        == [2] * 21
    )
    assert rows["system_source"].unique().to_list() == ["persona"]
    texts = rows.select("persona", text=pl.col("prompt").list.first().struct.field("content"))
    assert texts.unique().height == 7
    assert state.info["people"] == 7
    for ids, traits in rows.select("value_ids", "traits").iter_rows():
        assert [i.split(".")[0] for i in ids] == [f"big5:{t}" for t in BANK.traits]
        assert len(traits) == 5
        assert all(1 <= t <= 5 for t in traits)


def test_the_bands_of_all_people_are_covered():
    _, _, state = made(Personas(people=60), questions(60))
    told = state.info["coverage"]
    assert told["trait"]["entropy"] == 1
    assert told["band"]["empty"] == 0
    assert told["band"]["entropy"] > 0.9
    assert state.info["diversity"]["distinct_texts"] == 60


def telling(request):
    items = re.findall(r"^- (.*): \d$", request.conversation[0]["content"], re.MULTILINE)
    return f"You are one who would {items[0]}. You also {items[1]}."


def refusing(request):
    return (
        Failure("http_500", "down") if "keep your word" in str(request.conversation) else "You are."
    )


def test_a_model_writes_one_portrait_a_person_whatever_the_prompts():
    step = Personas(people=5, engine=Scripted(function=f"{__name__}.telling"))
    rows, _, _ = made(step, questions(40))
    texts = rows["prompt"].list.first().struct.field("content").unique()
    assert texts.len() == 5
    assert all(t.startswith("You are one who would ") for t in texts)
    assert [a.calls for a in step.asks(10**6, 10**6)] == [5]
    assert Personas().asks(10, 10) == []
    with pytest.raises(ConfigError, match="opens none"):
        made(step, questions(1), Context())


def test_a_person_without_a_portrait_takes_their_prompts_out():
    step = Personas(people=40, statements=40, engine=Scripted(function=f"{__name__}.refusing"))
    rows, dropped, state = made(step, questions(80))
    lost = state.tables["people"].filter(pl.col("reason").is_not_null())
    assert 0 < lost.height < 40
    assert dropped.height == 2 * lost.height
    assert set(dropped["reason"]) == {"http_500"}
    assert rows.height + dropped.height == 80


def test_leaks_and_roles():
    table = prompts("plain", "Act as a bear.", "You are a king. Rule.")
    step = Personas(people=1)
    rows, dropped, _ = made(step, table)
    assert (rows.height, dropped["reason"].to_list()) == (1, ["has_role"] * 2)
    text = rows["prompt"][0][0]["content"]
    leak = table.with_columns(answer=pl.lit(" ".join(text.split()[:7])))
    rows, dropped, _ = made(step, leak)
    assert rows.height == 0
    assert sorted(dropped["reason"]) == ["has_role", "has_role", "leaks_answer"]
    with pytest.raises(DataError, match="has not been fitted"):
        step.generate(table, Context())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": 3, "people": 2}, "there are only 2 people"),
        ({"correlation": [[1, 0], [0, 1]]}, r"\(2, 2\) for 5 traits"),
        ({"correlation": [[1, 0], [0]]}, "rows differ in length"),
        ({"bank": "mine"}, "no pool 'mine'"),
        ({"form": "poem"}, "prose"),
    ],
)
def test_mistakes_are_found_with_the_recipe(fields, message):
    with pytest.raises(ConfigError, match=message):
        recipe({STEP: fields})


def test_a_bank_of_ones_own(tmp_path):
    text = """
system: mood
sensitive: true
traits:
  cheer:
    bands: {low: [are glum], mid: [are even], high: [are merry]}
    facets: {all: {plus: [laugh], minus: [sigh]}}
"""
    file = tmp_path / "mood.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="marked as sensitive"):
        recipe({STEP: {"bank": str(file)}})
    rows, _, state = made(Personas(bank=str(file), sensitive=True, people=6), questions(6))
    assert set(rows["value_ids"].explode()) <= {f"mood:cheer.{b}" for b in ("low", "mid", "high")}
    assert "coverage" not in state.info  # nobody knows the tree
    file.write_text(text.replace("[sigh]", "[laugh]"))
    with pytest.raises(ConfigError, match="'laugh' is there twice"):
        load_bank(str(file))
    file.write_text(text.replace("[sigh]", "[You sigh.]").replace("bands", "band"))
    with pytest.raises(ConfigError, match=r"traits\.cheer\.bands: Field required"):
        load_bank(str(file))
    file.write_text(text.replace("[sigh]", "[You sigh]"))
    with pytest.raises(ConfigError, match="'You sigh' is no plain verb phrase"):
        load_bank(str(file))


def test_shards_and_order_change_nothing(tmp_path):
    table = questions(25)
    steps = ({STEP: {"people": 9, "messages": 2}},)
    whole = run(recipe(*steps), one_file(table), tmp_path / "a")
    mixed = table.sample(fraction=1, shuffle=True, seed=1)
    cut = run(recipe(*steps), one_file(mixed), tmp_path / "b", shard_rows=4, workers=2)
    assert digest(whole) == digest(cut)
    assert whole.stages[-1].info == cut.stages[-1].info

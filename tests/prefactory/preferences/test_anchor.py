"""The anchor that ships: its files, its card, its gate, and what it says of labels."""

import numpy as np
import polars as pl
import pytest

from prefactory.errors import ConfigError
from prefactory.preferences import anchor
from prefactory.preferences.anchor import PromptFacts
from prefactory.preferences.features import Answers, names
from tests.helpers import messages, user


def test_it_is_small_and_holds_no_pickle():
    files = [f for f in anchor.FOLDER.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(f.stat().st_size for f in files) < 1_000_000
    assert {f.suffix for f in files} == {".py", ".json", ".md", ".safetensors"}


def test_the_card_names_every_training_set_with_its_licence_and_its_figures():
    facts = anchor.load().facts
    text = (anchor.FOLDER / "README.md").read_text("utf-8")
    for name, one in facts["training"].items():
        assert f"| {name} | {one['licence']}" in text
        assert name in facts["held_out"]
    assert {"webgpt", "ultrafeedback"} <= set(facts["held_out"])
    assert not {"webgpt", "ultrafeedback"} & set(facts["training"])


def test_another_folder_is_no_anchor(tmp_path):
    with pytest.raises(ConfigError, match="no anchor"):
        anchor.load(tmp_path)


def sides(n, seed=0):
    """Chosen answers that both experts like better than the rejected ones, by their statistics."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(2):
        values = rng.random((n, len(names(True))))
        vectors = rng.normal(size=(n, 384)).astype(np.float32) / 20
        found.append(Answers(pl.DataFrame(values, schema=list(names(True))), vectors, vectors))
    return found


def liked(name, n=300):
    """Two sides such that the named expert's choice is the chosen one in three of four rows."""
    model = anchor.load().experts[name]
    a, b = sides(n)
    first = model.score_answers(a) > model.score_answers(b)
    first ^= np.arange(n) % 4 == 0
    order = np.where(first, np.arange(n), np.arange(n) + n)
    other = (order + n) % (2 * n)
    both = Answers(
        pl.concat([a.statistics, b.statistics]),
        np.concatenate([a.query, b.query]),
        np.concatenate([a.answer, b.answer]),
    )
    return both.take(order), both.take(other)


def facts(n, harmless=0.0, english=1.0, unseen=True, source="x"):
    return PromptFacts(
        np.full(n, harmless),
        np.full(n, english),
        np.full(n, unseen),
        pl.Series([source] * n),
    )


@pytest.mark.parametrize(("kind", "expert"), [(0.1, "helpfulness"), (0.9, "harmlessness")])
def test_the_gate_chooses_the_expert_of_a_data_set(kind, expert):
    chosen, rejected = liked(expert)
    clusters = np.arange(300)
    margins, (told,) = anchor.ask(anchor.load(), facts(300, kind), chosen, rejected, clusters)
    assert told.expert == expert
    assert told.opinion.verdict == "agrees"
    assert told.opinion.agreement.value == pytest.approx(0.75, abs=0.01)
    turned, (told,) = anchor.ask(anchor.load(), facts(300, kind), rejected, chosen, clusters)
    assert (turned == -margins).all()
    assert told.opinion.verdict in ("inverted", "against")


def test_other_languages_other_objectives_and_seen_prompts_have_no_opinion():
    chosen, rejected = liked("helpfulness")
    clusters, load = np.arange(300), anchor.load()
    for prompts, objective in (
        (facts(300, english=0.0), None),
        (facts(300), "brevity"),
        (facts(300, unseen=False), None),
    ):
        margins, (told,) = anchor.ask(load, prompts, chosen, rejected, clusters, objective)
        assert np.isnan(margins).all()
        assert told.opinion.verdict == "unknown"
    _, (told,) = anchor.ask(load, facts(300, 0.1), chosen, rejected, clusters, "harmlessness")
    assert told.expert == "harmlessness"


def test_sources_are_judged_apart():
    chosen, rejected = liked("helpfulness")
    prompts = facts(300)
    named = prompts.source.to_list()[:150] + ["y"] * 150
    prompts = PromptFacts(prompts.harmless, prompts.english, prompts.unseen, pl.Series(named))
    _, told = anchor.ask(anchor.load(), prompts, chosen, rejected, np.arange(300))
    assert [one.source for one in told] == ["x", "y"]
    assert sum(one.opinion.agreement.n for one in told) == 300


def test_english_is_told_by_the_last_user_message():
    found = anchor.english(
        messages([user("what is the way to it")], [user("чай и вода")], [user("7")])
    )
    assert found[:2].tolist() == [1.0, 0.0]
    assert np.isnan(found[2])

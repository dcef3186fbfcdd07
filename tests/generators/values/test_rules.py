"""Rules of dilemmas: which are the same, which are opposites, and how many scenes each gets."""

import json
import re

import numpy as np
import polars as pl
import pytest

from generators import Dilemmas
from generators.values.rules import Rule, merge, same_rules, scenes_of
from prefactory.apply import apply_generator
from prefactory.engines.base import Failure
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.tables import Shape
from prefactory.testing import apply_step
from prefactory.testing.applied import word_vectors
from tests.generators.sampling import asked_run, model
from tests.generators.values.test_dilemmas import ORDER, writer
from tests.helpers import asking, digest, prompts, recipe, view

HERE = __name__
FIELDS = {
    "writer": model("writer", f"{HERE}.wordy"),
    "priority": ORDER,
    "dilemmas": 2,
    "confirm": False,
    "rule_scenes": None,
}
NAME = "generators.Dilemmas"


def table(*rules):
    """Rules of values: `value`, `text`, and the text again as its act."""
    rows = [(value, text, text) for value, text in rules]
    return pl.DataFrame(rows, schema=["value", "text", "act"], orient="row")


def at(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def merged(rules, vectors, threshold=0.8):
    return dict(same_rules(rules, vectors, threshold).select("rule", "text").iter_rows())


def test_an_opposite_is_another_rule_and_a_paraphrase_is_the_same():
    right, wrong = "It is right to keep a promise.", "It is wrong to keep a promise."
    kept, never = "One should keep one's word.", "It is right not to keep a promise."
    rules = table(("a", right), ("a", wrong), ("a", kept), ("a", never))
    vectors = at(0, 18.2, 37.8, 10)  # cosines with the first: .95 (an opposite), .79, .98
    assert merged(rules, vectors) == {kept: wrong}  # .94 with the second, its own polarity aside
    assert merged(rules, at(0, 18.2, -30, 10)) == {kept: right}  # .87
    assert merged(rules[[0, 1, 3]], vectors[[0, 1, 3]], 0.5) == {}
    assert merged(rules[[0, 2]], vectors[[0, 2]]) == {}  # .79 is below CVC's .8
    assert merged(rules[[0, 2]], vectors[[0, 2]], 0.75) == {kept: right}


def test_real_vectors_see_no_polarity_and_the_guard_does():
    rules = table(
        ("a", "It is right to keep a promise."),
        ("a", "It is wrong to keep a promise."),
        ("a", "It is right to keep your promises."),
    )
    with Encoder().open() as encoder:
        vectors = np.asarray(encoder.embed(rules["text"].to_list()))
    assert vectors[0] @ vectors[1] > 0.9
    assert merged(rules, vectors) == {rules["text"][2]: rules["text"][0]}


def test_a_chain_of_neighbours_is_not_one_rule():
    names = [f"rule {i}" for i in range(5)]
    rules = table(*[("a", n) for n in names])
    threshold = float(np.cos(np.radians(25)))
    assert merged(rules, at(0, 20, 40, 60, 80), threshold) == {
        "rule 1": "rule 0",
        "rule 3": "rule 2",
    }


def test_only_rules_of_one_value_are_the_same():
    rules = table(("a", "Be kind."), ("b", "Be kind."), ("b", "Be very kind."))
    found = same_rules(rules, at(0, 0, 5), 0.8)
    assert found.rows() == [("b", "Be very kind.", "Be kind.", "Be kind.")]
    assert same_rules(rules[:0], np.zeros((0, 2)), 0.8).is_empty()


def nodes():
    system = Dilemmas(**FIELDS)._ranked().system
    return [system.by_id[i] for i in ("security", "stimulation", "power")]


def test_no_rule_is_in_more_scenes_than_it_may():
    a, b, c = nodes()

    def rule(value, text, reason=None):
        made = Rule(0, "k", value=value, text=text)
        made.reason = reason
        return made

    rules = [rule(a, "x"), rule(b, "y")] * 2 + [rule(a, "z"), rule(b, "y")]
    rules += [rule(a, "z"), rule(c, "y"), rule(a, "x"), rule(c, "w", "http_500")]
    assert scenes_of(rules, 3, 5) == [3, 2, 0, 3, 0]
    assert scenes_of(rules, 3, None) == [3] * 5
    told = [rule(a, "x"), rule(b, "x")]
    merge(told, pl.DataFrame({"value": [a.id], "rule": ["x"], "text": ["y"], "act": ["do y"]}))
    assert [(r.text, r.act) for r in told] == [("y", "do y"), ("x", "")]


def wordy(request):
    """Rules of a value that differ in one word of twelve, by situation; the rest as before."""
    asked = request.conversation[0]["content"]
    if not asked.startswith("Write one everyday rule"):
        return writer(request)
    if "strike" in asked:
        return Failure("http_500", "down")
    label = re.search(r"Value: ([\w-]+)", asked).group(1).replace("-", "").lower()
    number = re.search(r"harbour (\d+)", asked)
    where = f"pier{int(number.group(1)) % 3}" if number else "home"
    forms = " ".join(f"{label}{end}" for end in ("s", "ly", "er", "ing", "ed", "ful"))
    act = f"to mind code{label} {forms} first down there at {where}"
    judgement = "It is wrong" if "(not)" in asked else "It is right"
    return json.dumps({"judgement": judgement, "act": act})


def test_rules_that_say_the_same_become_one_before_any_scene():
    rows = prompts(*[f"harbour {i}" for i in range(30)], *[f"harbour {i} (not)" for i in range(9)])
    apart, found = (
        apply_step(Dilemmas(**{**FIELDS, **f}), rows) for f in ({"same_rule": None}, {})
    )
    info = found.state.info
    assert info["rules_written"] > info["rules"] == 20  # ten values, each right and wrong
    texts = found.rows["chosen_rule"].append(found.rows["rejected_rule"])
    assert texts.n_unique() == 20
    assert apart.rows["chosen_rule"].n_unique() > found.rows["chosen_rule"].n_unique()
    ids = pl.concat([found.rows["rule_ids"].list.get(i) for i in (0, 1)])
    assert ids.n_unique() == texts.n_unique()
    for row in found.rows.iter_rows(named=True):  # answers argue from the rule that stays
        assert row["chosen"][0]["content"].split()[4].strip(",") in row["chosen_rule"]


def test_a_rule_has_its_scenes_and_no_more():
    rows = prompts(*[f"harbour {i}" for i in range(40)], "strike")
    found = apply_step(Dilemmas(**{**FIELDS, "rule_scenes": 6}), rows)
    used = pl.concat([found.rows["rule_ids"].list.get(i) for i in (0, 1)]).value_counts()
    assert used["count"].max() <= 6
    counts = list(found.reasons.values())
    assert counts.count("rule_used_up") > 10
    assert counts.count("http_500") == 1
    assert set(counts) == {"rule_used_up", "http_500"}


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    rows = prompts("strike", *[f"harbour {i}" for i in range(29)], "harbour 3 (not)")
    plan = recipe({NAME: {**FIELDS, "rule_scenes": 3}})

    def went(folder, size, part):
        return asked_run(plan, part, tmp_path / folder, size, 2, embed=word_vectors)

    runs = [went("a", 1000, rows), went("b", 1, rows), went("c", 5, rows[::-1])]
    assert len({digest(run) for run in runs}) == 1
    assert view(runs[0], "pairs").height > 9


def test_without_an_encoder_it_says_how_to_go_on():
    rows = prompts("harbour 1", "harbour 2")
    step = Dilemmas(**FIELDS)
    with pytest.raises(ConfigError, match="same_rule: null"):
        step.fit(step.fit_shard(rows, asking()), asking())
    plain = Dilemmas(**{**FIELDS, "same_rule": None})
    state = plain.fit(plain.fit_shard(rows, asking()), asking())
    assert state.info.get("rules_written") is None  # nobody was asked
    rows, _ = apply_generator(plain, NAME, rows, Shape.PROMPTS, asking(state=state, step=NAME))[:2]
    assert rows.height == 4

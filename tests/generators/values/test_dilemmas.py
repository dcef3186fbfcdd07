import json
import re

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from catalog.values import load
from generators import Dilemmas
from generators.values.values import least_covered, ranked
from prefactory.engines.base import Failure
from prefactory.tables import Shape
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.sampling import asked_run, model
from tests.helpers import asking, content, prompts, recipe

HERE = __name__
WRITER = model("writer", f"{HERE}.writer")
ORDER = ("transcendence", "conservation", "openness", "enhancement")
FIELDS = {
    "writer": WRITER,
    "priority": ORDER,
    "dilemmas": 3,
    "same_rule": None,  # the scripted rules of a value are one
    "rule_scenes": None,
}
TABLE = prompts(*[f"A scene at harbour number {i}" for i in range(40)])


def block(text, name):
    return re.search(rf"--- (\w{{8}}) {name}\n(.*?)\n--- \1", text, re.S).group(2)


def writer(request):
    """Every act names its value in code, so that tests can see who argued for what."""
    asked = request.conversation[0]["content"]
    seed = request.draw_seed
    if asked.startswith("Write one everyday rule"):
        return rule(asked, request)
    if asked.startswith("Two rules of conduct and a situation"):
        first, second = (code(block(asked, f"{n} rule")) for n in ("first", "second"))
        named = "It is a matter of Security." if "naming" in asked else ""
        told = range(8) if "again" in asked else [seed // 7**i % 999 for i in range(8)]
        return json.dumps({
            "scene": f"You see {' '.join(map(str, told))}. {named}",
            "question": "What do you do?", "keeps_first": f"Do {first}.",
            "keeps_second": f"Do {second}.", "neither": "Eat an apple.",
        })  # fmt: skip
    if asked.startswith("Two rules of conduct and a scene"):
        fine = seed % 5 > 0
        flags = {"first_applies": True, "second_applies": fine, "both_can_be_kept": False}
        return json.dumps(flags)
    option = re.search(r"Do (\w+)\.", block(asked, "act")).group(1)
    assert code(block(asked, "rule")) == option  # the option keeps the rule
    return f"I would keep to {option}, whatever is lost. {seed}"


def rule(asked, request):
    label = re.search(r"Value: ([\w-]+)", asked).group(1).replace("-", "").lower()
    if "strike" in asked:
        return Failure("http_500", "down")
    if "long" in asked and len(request.conversation) == 1:
        return json.dumps({"judgement": "It is right", "act": "to go " + "on " * 30})
    act = "to keep the promise" if "promise" in asked else f"to mind code{label} first"
    return json.dumps({"judgement": "It is right", "act": act})


def code(text):
    return re.search(r"code(\w+)", text).group(0)


def test_the_declared_order_decides_and_the_answers_argue_from_their_rules():
    rows, dropped = made(Dilemmas(**FIELDS), TABLE)
    system = load("schwartz10")
    places = {leaf: ORDER.index(system.by_id[leaf].parent) for leaf in system.leaves}
    assert rows.height + dropped.height > 60
    for row in rows.iter_rows(named=True):
        chosen, rejected = (row[f"{s}_value"].split(":")[1] for s in ("chosen", "rejected"))
        assert places[chosen] < places[rejected]
        assert row["value_ids"] == [row["chosen_value"], row["rejected_value"]]
        for side, leaf in (("chosen", chosen), ("rejected", rejected)):
            name = f"code{leaf.replace('-', '')}"
            assert f"keep to {name}," in row[side][0]["content"]
            assert row[f"{side}_rule"] == f"It is right to mind {name} first."
        told = {row["option_map"][letter]: row["options"][letter] for letter in "ABC"}
        assert told[row["chosen_value"]] == f"Do code{chosen.replace('-', '')}."
        assert told["neither"] == "Eat an apple."
        assert row["prompt"][0]["content"] == f"{row['scenario']}\n\nWhat do you do?"
    assert set(rows["label_source"]) == {"rule"}


def test_turning_the_order_round_turns_every_pair_round():
    rows, _ = made(Dilemmas(**{**FIELDS, "confirm": False}), TABLE)
    turned, _ = made(Dilemmas(**{**FIELDS, "confirm": False, "priority": ORDER[::-1]}), TABLE)
    sides = ("chosen_value", "rejected_value")
    ways = rows.group_by(sides).len().sort(sides).rows()
    back = turned.select(pl.col(sides[1]).alias(sides[0]), pl.col(sides[0]).alias(sides[1]))
    assert back.group_by(sides).len().sort(sides).rows() == ways


def test_who_always_says_a_favours_no_value():
    table = prompts(*[f"A scene at harbour number {i}" for i in range(400)])
    rows, _ = made(Dilemmas(**{**FIELDS, "confirm": False}), table)
    first = rows["option_map"].struct.field("A")
    decided = rows.filter(first != "neither")
    wins = (decided["option_map"].struct.field("A") == decided["chosen_value"]).mean()
    assert abs(wins - 0.5) < 3 * 0.5 / np.sqrt(decided.height)
    neither = (first == "neither").mean()
    assert abs(neither - 1 / 3) < 3 * np.sqrt(2 / 9 / rows.height)


def test_rows_without_a_dilemma_are_accounted_for():
    table = prompts("strike", "promise", "long", "naming", "fine")
    rows, dropped = made(Dilemmas(**{**FIELDS, "confirm": False, "values": "hhh",
                                     "priority": ("harmless", "honest")}), table)  # fmt: skip
    assert reasons(dropped, table) == {"strike": "http_500", "promise": "same_act"}
    assert rows["source_prompt_id"].n_unique() == 3
    step = Dilemmas(**{**FIELDS, "priority": ("security", "stimulation"), "dilemmas": 1})
    _, dropped = made(step, table)
    assert reasons(dropped, table)["naming"] == "names_value"


def test_a_scene_that_comes_again_is_left_out():
    rows, dropped = made(Dilemmas(**{**FIELDS, "confirm": False}), prompts("again", "fine"))
    assert dropped.height == 0
    assert sorted(rows.group_by("source_prompt_id").len()["len"]) == [1, 3]


def test_what_came_to_nothing_beside_others_is_counted(tmp_path):
    fields = {**FIELDS, "confirm": False}
    step = recipe({"generators.Dilemmas": fields})
    for size in (1, 1000):
        found = asked_run(step, prompts("again", "fine"), tmp_path / str(size), size)
        assert sum(found.stages[-1].notes.values()) == 2  # of the three of "again" one is left


def test_a_judge_keeps_out_what_is_no_conflict():
    judged, dropped = made(Dilemmas(**{**FIELDS, "dilemmas": 1}), TABLE)
    everything, _ = made(Dilemmas(**{**FIELDS, "dilemmas": 1, "confirm": False}), TABLE)
    assert everything.height == 40
    assert set(dropped["reason"]) == {"no_conflict"}
    assert 2 <= dropped.height <= 16  # a fifth
    assert set(judged["pair_id"]) < set(everything["pair_id"])


def test_values_are_drawn_least_covered_first():
    rng = np.random.default_rng(0)
    partners = ~np.eye(5, dtype=bool)
    pairs = least_covered(50, partners, rng)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    for n in (5, 20, 50):
        counts = np.bincount(pairs[:n].ravel(), minlength=5)
        assert counts.max() - counts.min() <= 1
    lonely = np.zeros((3, 3), dtype=bool)
    lonely[0, 1] = lonely[1, 0] = True
    assert set(least_covered(10, lonely, rng).ravel()) == {0, 1}
    step = Dilemmas(**FIELDS)
    info = step.fit(step.fit_shard(TABLE, asking()).sort("prompt_id"), asking()).info
    nodes = info["coverage_of_draws"]["value"]["nodes"]
    assert sum(n["n"] for n in nodes.values()) == 80
    assert info["coverage_of_draws"]["value"]["empty"] == 0


def test_only_ranked_values_that_may_meet_are_drawn():
    found = ranked("schwartz10", ORDER, True)
    names = [leaf.id for leaf in found.leaves]
    a, b = names.index("benevolence"), names.index("power")
    assert found.partners[a, b]
    assert not found.partners[a, names.index("security")]
    assert (found.partners == found.partners.T).all()
    mixed = ranked("schwartz10", ("power", "transcendence", "enhancement"), False)
    places = {leaf.id: int(r) for leaf, r in zip(mixed.leaves, mixed.rank, strict=True)}
    assert places == {"benevolence": 1, "universalism": 1, "power": 0, "achievement": 2}


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    table = prompts("strike", "promise", "long", *[f"harbour {i}" for i in range(7)])
    step = {"generators.Dilemmas": {**FIELDS, "dilemmas": 2}}
    assert len(cut_anyhow(step, table, tmp_path)) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"priority": ("security", "securty")}, "has no node 'securty'.*did you mean 'security'"),
        ({"priority": ("security",)}, "at least 2"),
        ({"priority": ("conservation", "conservation")}, "there twice"),
        ({"values": "flames5", "priority": ("a", "b")}, "names risks"),
        ({"priority": ("security", "tradition"), "opposed": True}, "no two values"),
        ({"judge": WRITER, "confirm": False}, "nobody is asked"),
    ],
)
def test_fields_are_checked(fields, said):
    with pytest.raises(ValidationError, match=f"(?s){said}"):
        Dilemmas(**{**FIELDS, **fields})


def test_the_plan_counts_calls():
    step = Dilemmas(**FIELDS)
    assert [a.calls for a in step.asks(10, 10)] == [50, 30, 60]
    assert step.grows(10, 10) == (30, 30)
    assert step.out_shape(Shape.PROMPTS) == Shape.PAIRS
    assert content(TABLE, "prompt")[0].startswith("A scene")

"""Value systems: what comes with prefactory, files of one's own, their mistakes, coverage."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.values import coverage, facts, load, names
from prefactory.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("hhh", [3]),
        ("schwartz10", [4, 10]),
        ("mft", [6]),
        ("hofstede6", [6, 12]),
        ("cvc", [3, 12, 50]),
        ("flames5", [5, 12]),
        ("big5", [5, 15]),
        ("dark_triad", [3]),
        ("survey_levels", [3]),
        ("risk_survey2", [8]),
        ("janus", [4, 20, 82]),
    ],
)
def test_what_there_is(name, levels):
    system = load(name)
    depth = [len(system.ancestors(n.id)) for n in system.nodes]
    assert [depth.count(i + 1) for i in range(len(system.levels))] == levels
    assert len(system.leaves) == levels[-1]
    assert all(len(system.ancestors(leaf)) == len(levels) for leaf in system.leaves)
    assert system.system == name
    assert system.source


def test_every_shipped_system_is_listed_and_every_askable_leaf_has_phrases():
    assert len(names()) == 11
    for name in names():
        system = load(name)
        if system.kind in ("values", "preferences", "personality"):
            assert all(system.by_id[leaf].say for leaf in system.leaves), name


def test_no_phrase_of_a_shipped_system_is_there_twice():
    for name in names():
        said = [phrase for node in load(name).nodes for phrase in node.say]
        assert len(said) == len(set(said)), name


def test_the_tree():
    cvc = load("cvc")
    assert cvc.roots == ("national", "societal", "personal")
    assert cvc.ancestors("friendliness.caring-for-others") == (
        "personal",
        "friendliness",
        "friendliness.caring-for-others",
    )
    assert [len(cvc.leaves_under(r)) for r in cvc.roots] == [15, 18, 17]
    assert cvc.value_id("harmony") == "cvc:harmony"
    with pytest.raises(ConfigError, match=r"no node 'harmnoy'.*did you mean 'harmony'"):
        cvc.ancestors("harmnoy")


def test_opposition_holds_both_ways_and_for_what_lies_below():
    circle = load("schwartz10")
    assert circle.opposed("openness", "conservation")
    assert circle.opposed("security", "stimulation")
    assert circle.opposed("stimulation", "security")
    assert circle.opposed("self-direction", "tradition")  # their groups oppose each other
    assert not circle.opposed("benevolence", "universalism")
    assert not circle.opposed("security", "power")  # neighbours on the circle


MINE = """
system: mine
title: My values
kind: values
levels: [value]
nodes:
  - {id: thrift, label: Thrift}
  - {id: NASA-like, label: NASA}
"""


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE.replace("NASA-like", "nasa"))
    system = load(str(file))
    assert system.phrases("thrift")[0] == "give weight to thrift"
    assert system.phrases("nasa")[0] == "give weight to NASA"
    other = tmp_path / "mine.json"
    other.write_text(json.dumps(system.model_dump(mode="json")))
    assert load(str(other)) == system


def second(start):
    """The file with another beginning of its second node."""
    return MINE.replace("{id: NASA-like", "{" + start)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINE, r"mine.yaml: line 8: node 'NASA-like': id: lower-case letters and digits"),
        ("- a\n", "line 1: a value system is a mapping"),
        ("a: [", r"mine.yaml: line \d: "),
        ("a: !!python/object/apply:os.system [ls]", "mine.yaml: line 1"),
        (second("id: thrift"), "line 8: node 'thrift' is there twice"),
        (MINE.replace("label: NASA", "parent: thrift"), r"line 8: node 'NASA-like': label"),
        (second("id: n, parent: thirft"), "parent 'thirft', which is not there; did you mean"),
        (second("id: n, parent: thrift"), "lies on level 2, but there are 1 levels"),
        (second("id: n").replace("[value]", "[a, b]"), "'thrift' is a leaf on level 1"),
        (second("id: n, opposes: [n]"), "'n' opposes itself"),
        (second("id: n, opposes: [m]"), "'n' opposes 'm', which is not there"),
        (second("id: n, say: [to go]"), "'n' has a `say` that is no plain verb phrase"),
        (second("id: n, say: [go.]"), "that ends in '.'"),
        (second("id: n, say: ['']"), "that is empty"),
        (MINE.replace("title:", "tilte:"), "tilte is no key; did you mean 'title'"),
        (MINE.replace("kind: values", "kind: vaules"), "line 4: kind: should be 'values'"),
    ],
)
def test_mistakes_have_their_line(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(str(file))


def test_all_mistakes_at_once_and_children_before_parents(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "system: s\ntitle: t\nkind: values\nlevels: [a, b]\nnodes:\n"
        "  - {id: x, parent: y, label: X}\n  - {id: y, label: Y}\n  - {id: z, label: Z}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert len(caught.value.problems) == 2
    assert "stands before its parent" in caught.value.problems[0]


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(ConfigError, match="no value system 'jannus'; did you mean 'janus'"):
        load("jannus")
    with pytest.raises(ConfigError, match=r"nope\.yaml can't be read"):
        load(str(tmp_path / "nope.yaml"))


# -- coverage -----


def test_shares_are_fractions_and_sum_to_one_on_each_level():
    system = load("cvc")
    rows = [
        ["cvc:harmony.social-order", "cvc:equality.equality-of-rights"],
        ["cvc:friendliness.caring-for-others"],
        ["friendliness.caring-for-others", "friendliness.tolerating-others", "janus:style"],
        [],
        None,
    ]
    table = coverage(pl.Series(rows, dtype=pl.List(pl.String)), system)
    found = {
        n: (count, share) for n, count, share in table.select("node", "n", "share").iter_rows()
    }
    assert found["national"] == (1, pytest.approx(0.5 / 3))
    assert found["personal"] == (2, pytest.approx(2 / 3))
    assert found["friendliness"] == (2, pytest.approx(2 / 3))
    assert found["friendliness.caring-for-others"] == (2, pytest.approx(0.5))
    assert found["friendliness.tolerating-others"] == (1, pytest.approx(0.5 / 3))
    assert found["prosperity"] == (0, 0)
    sums = table.group_by("level").agg(pl.col("share").sum())["share"].to_list()
    assert sums == [pytest.approx(1)] * 3


def test_entropy():
    system = load("hhh")
    even = coverage(pl.Series([["helpful"], ["honest"], ["harmless"]]), system)
    assert even["entropy"].to_list() == [pytest.approx(1)] * 3
    one = coverage(pl.Series([["helpful"], ["helpful"]]), system)
    assert one["entropy"].to_list() == [0, 0, 0]
    none = coverage(pl.Series([[]], dtype=pl.List(pl.String)), system)
    assert none["share"].to_list() == none["entropy"].to_list() == [None] * 3
    assert none["n"].to_list() == [0, 0, 0]


def test_unknown_values_and_facts():
    system = load("schwartz10")
    with pytest.raises(DataError, match=r"'powr' is no node of .*schwartz10; did you mean 'power'"):
        coverage(pl.Series([["schwartz10:powr"]]), system)
    told = facts(coverage(pl.Series([["power"], ["security"]]), system))
    assert told["group"]["entropy"] == 0.5
    assert told["value"]["empty"] == 8
    assert told["value"]["nodes"]["power"] == {"n": 1, "share": 0.5}
    json.dumps(told)


JANUS = load("janus")
LEAVES = JANUS.leaves


@given(
    st.lists(st.lists(st.sampled_from(LEAVES), max_size=4), min_size=1, max_size=8), st.randoms()
)
def test_order_of_rows_and_values_changes_nothing(rows, random):
    before = coverage(pl.Series(rows, dtype=pl.List(pl.String)), JANUS)
    mixed = [random.sample(row, len(row)) for row in random.sample(rows, len(rows))]
    after = coverage(pl.Series(mixed, dtype=pl.List(pl.String)), JANUS)
    assert before.equals(after)
    if any(rows):
        sums = before.group_by("level").agg(pl.col("share").sum())["share"]
        assert all(abs(s - 1) < 1e-9 for s in sums)

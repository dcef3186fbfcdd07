"""Win rates of every two: intervals and circles by hand."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefactory.measures.win_graph import GAMES, circles, of_models, shortest_cycle, win_graph
from tests.helpers import pairs


def games(*counts):
    """(one, two, wins of one, games) -> a table, every game its own unit."""
    rows = [
        (one, two, float(i < won), f"{one}{two}{i}")
        for one, two, won, n in counts
        for i in range(n)
    ]
    return pl.DataFrame(rows, schema=GAMES, orient="row")


def edges(graph):
    return {(e["winner"], e["loser"]): e for e in graph["edges"]}


def test_rates_have_wilsons_interval():
    graph = win_graph(games(("a", "b", 18, 20), ("c", "a", 6, 12)))
    won = edges(graph)["a", "b"]
    assert won["rate"]["value"] == 0.9
    # Wilson's at 19: the mean of 20 takes one away
    assert (round(won["rate"]["low"], 4), round(won["rate"]["high"], 4)) == (0.6925, 0.9729)
    assert won["clear"]
    even = edges(graph)["a", "c"]
    assert (even["rate"]["value"], even["clear"]) == (0.5, False)
    assert [(n["node"], n["games"]) for n in graph["nodes"]] == [("a", 32), ("c", 12), ("b", 20)]
    assert graph["nodes"][0]["wins"]["value"] == 0.75
    assert graph["cycles"] == []
    assert graph["apparent_cycles"] == 0


def test_a_circle_is_found_and_one_by_chance_is_not():
    clear = (("paper", "stone", 19, 20), ("stone", "shears", 18, 20), ("shears", "paper", 18, 20))
    graph = win_graph(games(*clear, ("paper", "well", 19, 20)))
    assert graph["cycles"] == [["paper", "stone", "shears"]]
    assert graph["circular"] == [["paper", "shears", "stone"]]
    faint = [(a, b, won - 7, n) for a, b, won, n in clear]
    graph = win_graph(games(*faint))
    assert graph["cycles"] == []
    assert graph["apparent_cycles"] == 1


def test_the_shortest_circle_is_told():
    ring = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a"), ("c", "a"), ("x", "a"), ("y", "z")]
    (members,) = circles(ring)
    assert members == ["a", "b", "c", "d"]
    assert shortest_cycle(members, ring) == ["a", "b", "c"]
    assert circles([]) == circles([("a", "b"), ("b", "c"), ("a", "c")]) == []


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd"), st.booleans())))
def test_order_and_sides_change_nothing(rows):
    table = pl.DataFrame(
        [(a, b, float(won), f"u{i % 3}") for i, (a, b, won) in enumerate(rows)],
        schema=GAMES,
        orient="row",
    )
    turned = table.select(one="two", two="one", share=1 - pl.col("share"), unit="unit")[::-1]
    assert win_graph(table) == win_graph(turned)
    for cycle in win_graph(table)["cycles"]:
        won = {(e["winner"], e["loser"]) for e in win_graph(table)["edges"] if e["clear"]}
        assert set(zip(cycle, [*cycle[1:], cycle[0]], strict=True)) <= won


def test_games_of_one_unit_count_together():
    one = pl.DataFrame(
        {"one": ["a"] * 20, "two": ["b"] * 20, "share": [1.0] * 20, "unit": ["u"] * 20}
    )
    (alone,) = win_graph(one)["edges"]
    (apart,) = win_graph(one.with_columns(unit=pl.int_range(20).cast(pl.String)))["edges"]
    assert alone["rate"]["low"] == pytest.approx(0.2065, abs=1e-3)  # one situation
    assert not alone["clear"]
    assert apart["clear"]


def test_models_of_pairs():
    table = pairs(*[(f"q{i}", "good", "bad") for i in range(3)]).with_columns(
        chosen_model=pl.Series(["a", "b", None]), rejected_model=pl.Series(["b", "b", "a"])
    )
    (edge,) = win_graph(of_models(table))["edges"]
    assert (edge["winner"], edge["loser"], edge["rate"]["n"]) == ("a", "b", 1)

"""Who wins over whom: values in the choices of models, and models in the pairs, as squares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from catalog.arrow_folder import Table
from catalog.report.heatmap import Cell, heatmap
from prefactory.measures.choice_report import choice_report
from prefactory.measures.win_graph import of_models, win_graph
from prefactory.pages.wording import count, percent, plain, two, with_interval
from prefactory.tables import Shape

MOST = 24
"""Nodes of a square."""
CHOICES = "choices"
LEAST_MODELS = 3
"""Models from which a graph says more than one number."""


@dataclass(frozen=True, slots=True)
class Wins:
    """One graph.

    Attributes:
        title: what it is of.
        facts: words about it.
        square: the win rates.
        cycles: sentences.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    square: Markup | None
    cycles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """All graphs of a version.

    Attributes:
        graphs: of them.
        agreement: of models that chose in dilemmas: alpha, and (names, agreement, kappa).
    """

    graphs: tuple[Wins, ...]
    alpha: str | None
    pairs: tuple[tuple[str, str, str], ...]


def read(saved: Table) -> Section | None:
    """The graphs of a version's pairs; None without any."""
    if saved.shape != Shape.PAIRS:
        return None
    graphs: list[Wins] = []
    alpha, pairs = None, []
    wanted = ["pair_id", "prompt_id", CHOICES, "chosen_value", "rejected_value"]
    if set(wanted) <= set(saved.columns):
        more = [c for c in ("source_prompt_id",) if c in saved.columns]
        report = choice_report(pl.concat(list(saved.batches([*wanted, *more]))), CHOICES)
        graphs += [_of_choices(model) for model in report["models"]]
        between = report["agreement"]
        alpha = None if between["alpha"] is None else with_interval(between["alpha"], two)
        pairs = [
            (f"{plain(p['one'], 60)} and {plain(p['other'], 60)}",
             with_interval(p["agreement"]), with_interval(p["kappa"], two))
            for p in between["pairs"]
        ]  # fmt: skip
    models = pl.concat(list(saved.batches(["prompt_id", "chosen_model", "rejected_model"])))
    graph = win_graph(of_models(models))
    if len(graph["nodes"]) >= LEAST_MODELS:
        graphs.append(Wins("Models, by the labels of the pairs", (), *_drawn(graph)))
    return Section(tuple(graphs), alpha, tuple(pairs)) if graphs else None


def _of_choices(model: Mapping[str, Any]) -> Wins:
    facts = (
        ("valid choices", f"{count(model['valid'])} of {count(model['asked'])}"),
        ("of the value that is declared first", with_interval(model["priority"])),
        ("of the option that keeps no rule", with_interval(model["neither"])),
        ("of what stands first", f"{with_interval(model['first'])}, unbiased {percent(1 / 3)}"),
    )
    title = f"Values, by the choices of {plain(model['model'], 60)}"
    return Wins(title, facts, *_drawn(model["graph"]))


def _drawn(graph: Mapping[str, Any]) -> tuple[Markup | None, tuple[str, ...]]:
    """The square of a graph, and what is said of its circles."""
    nodes = [plain(n["node"], 60) for n in graph["nodes"]][:MOST]
    if len(nodes) < 2:
        return None, ()
    summary = f"Win rates between {len(nodes)} nodes; in every row how often it wins"
    square = heatmap(nodes, dict(_cells(graph["edges"])), summary, "")
    return square, tuple(sentences(graph))


def _cells(edges: list[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str], Cell]]:
    for edge in edges:
        winner, loser, rate = plain(edge["winner"], 60), plain(edge["loser"], 60), edge["rate"]
        said = f"{winner} wins {with_interval(rate)} of {count(rate['n'])} over {loser}"
        tip = said + ("" if edge["clear"] else "; not clear of one half")
        for names, value in (
            ((winner, loser), rate["value"]),
            ((loser, winner), 1 - rate["value"]),
        ):
            style = f"h{round(10 * (value - 0.5))}" if edge["clear"] else "h0"
            yield names, Cell(f"{100 * value:.0f}", style, tip)


def sentences(graph: Mapping[str, Any]) -> Iterator[str]:
    """What a graph's circles are, in words."""
    for cycle, members in zip(graph["cycles"], graph["circular"], strict=True):
        way = " over ".join(plain(n, 60) for n in [*cycle, cycle[0]])
        more = f" ({len(members)} nodes have no order among them)" if len(members) > 3 else ""
        yield f"A circle beyond chance: {way}{more}."
    if not graph["cycles"]:
        clear = sum(e["clear"] for e in graph["edges"])
        yield (
            f"No circle among the {count(clear)} of {count(len(graph['edges']))} comparisons that "
            "are clear of one half"
            + ("; majorities that are not clear form some." if graph["apparent_cycles"] else ".")
        )

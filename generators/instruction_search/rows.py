"""Finished trees as rows: improved instructions, pairs of instructions, or the trees themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from generators.answers.rows import as_messages
from generators.instruction_search.gap import (
    Contest,
    Output,
    Verdict,
    confirmed,
    contests,
    measured,
    null_gap,
    passes,
    spread_of,
)
from generators.instruction_search.search import Grown, Use, means
from prefactory.identity import canonical_json
from prefactory.step import Generated
from prefactory.tables import COLUMNS, SCORE, SIDES, Shape, canonical_order, with_ids

DROPPED = {"row_id": pl.String, "reason": pl.String, "detail": pl.String}
COMMON: dict[str, pl.DataType] = {
    "parent_id": pl.String(),
    "principles": pl.List(pl.String),
    "search_gap": pl.Float64(),
    "null_gap": pl.Float64(),
    "tree": pl.String(),
}
"""Columns of every output.

- `parent_id`: the prompt that the tree grew from.
- `principles`: what was done to it, from the raw instruction (of a step: from the parent) on.
- `search_gap`: best against worst by the means of the search, in the scorer's units.
- `null_gap`: what that would be on average if all were equally good; null where no two answers to
  an instruction differ.
- `tree`: the tree as JSON; of several rows of a tree the first has it.
"""

EQUAL = "all answers to an instruction are the same, in each: they can't tell luck from merit"


@dataclass(frozen=True)
class Comparison:
    """How a step compares what grew, and what it makes of that.

    Attributes:
        output, ends, level, samples, name: see `InstructionSearch`.
        shape, adds: of the rows that are made.
        fresh_samples: answers to each node that is measured again.
        keep_unimproved: prompts that nothing beats stay as they were.
        rewriter: name of the model that wrote all instructions but the raw one.
        label_source: who labelled the pairs.
        render: fills the step's prompt texts.
    """

    output: Output
    shape: Shape
    adds: Mapping[str, pl.DataType]
    ends: int
    level: float | None
    samples: int
    fresh_samples: int
    keep_unimproved: bool
    name: str
    rewriter: str
    label_source: str
    render: Callable[..., str]


class Decided:
    """One tree and what it may say.

    Attributes:
        settings: how it is compared.
        grown: the tree.
        spread: of one score within its node; None where all answers to a node are the same.
        open: contests with a gap in the search.
        won: contests with a pair.
        lost: why the others have none, in order.
    """

    def __init__(self, settings: Comparison, grown: Grown) -> None:
        """Judge the contests of a finished tree by the search's means."""
        self.settings, self.grown = settings, grown
        self.spread = spread_of(grown.tree.nodes)
        self.open: list[Contest] = []
        self.won: list[tuple[Contest, Verdict]] = []
        self.lost: list[Verdict] = []
        if self.spread is None and settings.level is not None and settings.output != "trees":
            self.lost.append(Verdict(reason="equal_samples", detail=EQUAL))
            return
        for contest in contests(grown.tree, settings.output, max(settings.ends, 1)):
            verdict = passes(contest)
            if verdict.chosen is None:
                self.lost.append(verdict)
            elif settings.ends:
                self.open.append(contest)
            else:
                self.won.append((contest, verdict))

    def null(self, contest: Contest) -> float | None:
        """Expected gap of a contest of equals, in the scorer's units; None without a spread."""
        if self.spread is None:
            return None
        return self.spread.sd * null_gap(contest.best_of, contest.worst_of, self.settings.samples)

    @property
    def wanted(self) -> list[int]:
        """Nodes that need fresh scores."""
        return [place for c in self.open for place in (*c.tops, *c.bottoms)]

    @property
    def paired(self) -> list[int]:
        """Nodes of pairs that fresh scores chose."""
        ends = [(v.chosen, v.rejected) for _, v in self.won] if self.settings.ends else []
        return [place for pair in ends for place in pair if place is not None]

    def settle(self) -> None:
        """Judge the open contests by the fresh scores."""
        fresh, settings = means(self.grown.fresh), self.settings
        verdicts = [
            (contest, measured(contest, fresh, self.spread, settings.fresh_samples))
            for contest in self.open
        ]
        if settings.level is not None:
            verdicts = confirmed(verdicts, settings.level)
        self._sort(verdicts)
        self.open = []

    def close(self) -> None:
        """Leave out pairs without unseen scores: nothing says by how much they differ."""
        won, self.won = self.won, []
        lacking = Verdict(reason="no_fresh_scores", detail="the pair could not be measured again")
        unseen = self.grown.unseen
        self._sort([(c, v if {v.chosen, v.rejected} <= {*unseen} else lacking) for c, v in won])

    def _sort(self, verdicts: Sequence[tuple[Contest, Verdict]]) -> None:
        self.won += [(c, v) for c, v in verdicts if v.chosen is not None]
        self.lost += [v for _, v in verdicts if v.chosen is None]

    def mean(self, place: int) -> float:
        """Mean score of a node, by the samples that chose least."""
        grown = self.grown
        kinds = (grown.unseen.get(place), grown.fresh.get(place), grown.tree.nodes[place].scores)
        scores = next(scores for scores in kinds if scores)
        return math.fsum(scores) / len(scores)

    def as_json(self) -> str:
        """The tree with what came of it, as canonical JSON."""
        tree = self.grown.tree.dump()
        for place, node in enumerate(tree["nodes"]):
            node["fresh"] = self.grown.fresh.get(place, [])
            node["unseen"] = self.grown.unseen.get(place, [])
        best = max(range(len(tree["nodes"])), key=self._searched)
        first = self.won[0][1] if self.won else Verdict()
        facts = {
            "output": self.settings.output,
            "best": best,
            "chosen": first.chosen,
            "rejected": first.rejected,
            "pairs": [[v.chosen, v.rejected] for _, v in self.won],
            "sd": None if self.spread is None else self.spread.sd,
            "iterations": self.grown.tree.iterations,
            "failed": [[action, why.reason, why.detail] for action, why in self.grown.failed],
        }
        return canonical_json({**tree, **facts})

    def _searched(self, place: int) -> float:
        mean = self.grown.tree.nodes[place].mean
        return -math.inf if mean is None else mean


def decide(
    settings: Comparison,
    trees: Sequence[Grown],
    freshen: Callable[[Sequence[tuple[Grown, Sequence[int]]], int, Use], None],
) -> list[Decided]:
    """Judge all trees that were not given up, with fresh samples where they are wanted.

    Fresh samples choose; the pairs that they chose are measured once more, so that the margins
    come from samples that had no say.

    Args:
        settings: how trees are compared.
        trees: finished ones.
        freshen: measures nodes of trees again, with so many samples (`Search.freshen`).
    """
    judged = [Decided(settings, grown) for grown in trees if grown.failure is None]
    freshen([(tree.grown, tree.wanted) for tree in judged], settings.fresh_samples, "fresh")
    for tree in judged:
        tree.settle()
    freshen([(tree.grown, tree.paired) for tree in judged], settings.fresh_samples, "unseen")
    for tree in judged if settings.ends else []:
        tree.close()
    return judged


def generated(
    settings: Comparison,
    table: pl.DataFrame,
    trees: Sequence[Grown],
    judged: Sequence[Decided],
    unplanted: Mapping[int, tuple[str, str]],
) -> Generated:
    """The output's rows, and why a prompt has none.

    Args:
        settings: what is wanted.
        table: the prompts.
        trees: all trees.
        judged: those that were not given up.
        unplanted: prompts without a tree: row -> reason, detail.
    """
    lost = dict(unplanted)
    lost |= {g.row: (g.failure.reason, g.failure.detail) for g in trees if g.failure is not None}
    rows: list[dict[str, Any]] = []
    for tree in judged:
        own = _rows(tree)
        if not own:
            alone = Verdict(reason="no_contest", detail="one node only")
            verdict = tree.lost[0] if tree.lost else alone
            lost[tree.grown.row] = (str(verdict.reason), str(verdict.detail))
        rows += own
    ids = table["prompt_id"].gather(list(lost)).to_list()
    dropped = [(row_id, *fate) for row_id, fate in zip(ids, lost.values(), strict=True)]
    return Generated(
        _table(settings, table, rows), pl.DataFrame(dropped, schema=DROPPED, orient="row")
    )


def _rows(tree: Decided) -> list[dict[str, Any]]:
    """What one tree gives, the first with the tree itself."""
    if tree.settings.output == "trees":
        rows = [_whole(tree)]
    elif tree.settings.output == "instructions":
        rows = [_instruction(tree, c, v) for c, v in tree.won]
        if not rows and tree.settings.keep_unimproved:
            rows = [_instruction(tree, None, Verdict(0, 0, 0.0))]
    else:
        rows = [_pair(tree, c, v) for c, v in tree.won]
    for row in rows[:1]:
        row["tree"] = tree.as_json()
    return rows


def _whole(tree: Decided) -> dict[str, Any]:
    nodes = tree.grown.tree.nodes
    measured = [node.mean for node in nodes if node.mean is not None]
    (contest,) = contests(tree.grown.tree, "pairs", 1)
    return {
        "row": tree.grown.row,
        "prompt": tree.grown.conversation,
        "principles": [],
        "search_gap": max(measured) - min(measured),
        "null_gap": tree.null(contest),
    }


def _instruction(tree: Decided, contest: Contest | None, verdict: Verdict) -> dict[str, Any]:
    grown, place = tree.grown, verdict.chosen or 0
    return {
        "row": grown.row,
        "prompt": grown.with_text(grown.tree.nodes[place].text),
        "principles": grown.tree.path(place),
        "search_gap": None if contest is None else contest.gap,
        "null_gap": None if contest is None else tree.null(contest),
        "p_value": verdict.chance,
        "reward": tree.mean(place),
        "raw_reward": tree.mean(0),
    }


def _pair(tree: Decided, contest: Contest, verdict: Verdict) -> dict[str, Any]:
    settings, grown, nodes = tree.settings, tree.grown, tree.grown.tree.nodes
    ends = dict(zip(SIDES, (verdict.chosen or 0, verdict.rejected or 0), strict=True))
    path = grown.tree.path(ends["chosen"])
    only = path[-1:] if settings.output in ("siblings", "steps") else path
    row: dict[str, Any] = {
        "row": grown.row,
        "prompt": [{"role": "user", "content": _task(settings, grown, contest, only)}],
        "principles": only,
        "search_gap": contest.gap,
        "null_gap": tree.null(contest),
        "p_value": verdict.chance,
        "margin": tree.mean(ends["chosen"]) - tree.mean(ends["rejected"]),
    }
    for side, node in ends.items():
        row[side] = settings.render("answer", instruction=nodes[node].text)
        raw = nodes[node].parent is None  # that one is not a model's
        row[f"{side}_model"] = None if raw else settings.rewriter
        row[f"{side}_{SCORE}{settings.name}"] = tree.mean(node)
    return row


def _task(settings: Comparison, grown: Grown, contest: Contest, only: list[str]) -> str:
    text = grown.tree.nodes[contest.origin].text
    if settings.output == "steps":
        principle = grown.contents[only[0]]
        return settings.render(
            "step_task", instruction=text, context=grown.context, principle=principle
        )
    return settings.render("task", instruction=text, context=grown.context)


def _table(settings: Comparison, table: pl.DataFrame, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The rows with the columns of their prompts, ids and canonical order."""
    shape, adds = settings.shape, settings.adds
    pairs = shape == Shape.PAIRS
    own: dict[str, pl.DataType] = {"row": pl.Int64(), "prompt": table.schema["prompt"]}
    own |= {c: d for c, d in adds.items() if c != "parent_id"}
    if pairs:
        own |= {c: pl.String() for side in SIDES for c in (side, f"{side}_model")}
    new = pl.DataFrame(rows, schema=own, orient="row")
    about = table.with_columns(parent_id="prompt_id")
    taken = {*own, *COLUMNS[shape]} - {*COLUMNS[Shape.PROMPTS]} | {"prompt"}
    about = about.drop([c for c in about.columns if c in taken])
    whole = about.select(pl.all().gather(new["row"])).hstack(new.drop("row").get_columns())
    if pairs:
        whole = whole.with_columns(
            *[as_messages(pl.col(side)).alias(side) for side in SIDES],
            label_source=pl.lit(settings.label_source),
        )
    whole = with_ids(whole, shape)
    first = [*COLUMNS[shape], *adds]
    whole = whole.select(*first, *[c for c in whole.columns if c not in first])
    return canonical_order(whole, shape)

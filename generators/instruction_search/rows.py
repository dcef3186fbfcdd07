"""Finished trees as rows: improved instructions, pairs of instructions, or the trees themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from generators.answers.rows import as_messages
from generators.instruction_search.gap import (
    Contest,
    Verdict,
    contests,
    decided,
    null_gap,
    passes,
    pooled_sd,
)
from generators.instruction_search.search import Grown, Search, means
from generators.instruction_search.tree import Node
from prefactory.identity import canonical_json
from prefactory.step import Generated
from prefactory.tables import COLUMNS, MESSAGES, SCORE, SIDES, Shape, canonical_order, with_ids

if TYPE_CHECKING:
    from generators.instruction_search.step import InstructionSearch

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
- `null_gap`: what that would be on average if all were equally good.
- `tree`: the tree as JSON; of several rows of a tree the first has it.
"""


class Decided:
    """One tree and what it may say.

    Attributes:
        grown: the tree.
        sd: standard deviation of one score within its node.
        open: contests that passed by the search's means.
        won: contests with a pair.
        lost: why the others have none, in order.
    """

    def __init__(self, step: InstructionSearch, grown: Grown) -> None:
        """Judge the contests of a finished tree by the search's means."""
        self.step, self.grown = step, grown
        self.sd = pooled_sd(grown.tree.nodes) or 0.0
        self.open: list[Contest] = []
        self.won: list[tuple[Contest, Verdict]] = []
        self.lost: list[Verdict] = []
        ends = max(step.ends, 1)
        for contest in contests(grown.tree, step.output, ends):
            verdict = passes(contest, step.gap * self.null(contest))
            if verdict.chosen is None:
                self.lost.append(verdict)
            elif step.ends:
                self.open.append(contest)
            else:
                self.won.append((contest, verdict))

    def null(self, contest: Contest) -> float:
        """Expected gap of a contest of equals, in the scorer's units."""
        return self.sd * null_gap(contest.best_of, contest.worst_of, self.step.samples)

    @property
    def wanted(self) -> list[int]:
        """Nodes that need fresh scores."""
        return [place for c in self.open for place in (*c.tops, *c.bottoms)]

    def settle(self) -> None:
        """Judge the open contests by the fresh scores."""
        fresh = means(self.grown.fresh)
        for contest in self.open:
            step = self.step
            verdict = decided(contest, fresh, self.sd, step.fresh_samples or step.samples, step.gap)
            if verdict.chosen is None:
                self.lost.append(verdict)
            else:
                self.won.append((contest, verdict))
        self.open = []

    def mean(self, place: int) -> float:
        """Mean score of a node: fresh, or of the search where there is none."""
        scores = self.grown.fresh.get(place) or self.grown.tree.nodes[place].scores
        return math.fsum(scores) / len(scores)

    def as_json(self) -> str:
        """The tree with what came of it, as canonical JSON."""
        tree = self.grown.tree.dump()
        for place, node in enumerate(tree["nodes"]):
            node["fresh"] = self.grown.fresh.get(place, [])
        best = max(range(len(tree["nodes"])), key=self._searched)
        first = self.won[0][1] if self.won else Verdict()
        told = {
            "output": self.step.output,
            "best": best,
            "chosen": first.chosen,
            "rejected": first.rejected,
            "pairs": [[v.chosen, v.rejected] for _, v in self.won],
            "sd": self.sd,
            "iterations": self.grown.tree.iterations,
            "failed": [[action, why.reason, why.detail] for action, why in self.grown.failed],
        }
        return canonical_json({**tree, **told})

    def _searched(self, place: int) -> float:
        mean = self.grown.tree.nodes[place].mean
        return -math.inf if mean is None else mean


def decide(step: InstructionSearch, trees: Sequence[Grown], search: Search) -> list[Decided]:
    """Judge all trees that were not given up, with fresh samples where the step wants them."""
    found = [Decided(step, grown) for grown in trees if grown.failure is None]
    search.freshen([(d.grown, d.wanted) for d in found], step.fresh_samples or step.samples)
    for one in found:
        one.settle()
    return found


def generated(
    step: InstructionSearch, table: pl.DataFrame, trees: Sequence[Grown], found: Sequence[Decided],
    gone: Mapping[int, tuple[str, str]],
) -> Generated:  # fmt: skip
    """The output's rows, and why a prompt has none.

    Args:
        step: what is wanted.
        table: the prompts.
        trees: all trees.
        found: those that were not given up.
        gone: prompts without a tree: row -> reason, detail.
    """
    lost = dict(gone)
    lost |= {g.row: (g.failure.reason, g.failure.detail) for g in trees if g.failure is not None}
    rows: list[dict[str, Any]] = []
    for one in found:
        own = _rows(step, one)
        if not own:
            why = one.lost[0] if one.lost else Verdict(reason="no_contest", detail="one node only")
            lost[one.grown.row] = (str(why.reason), str(why.detail))
        rows += own
    made = _table(step, table, rows)
    ids = table["prompt_id"].gather(list(lost)).to_list()
    told = [(i, *why) for i, why in zip(ids, lost.values(), strict=True)]
    return Generated(made, pl.DataFrame(told, schema=DROPPED, orient="row"))


def _rows(step: InstructionSearch, one: Decided) -> list[dict[str, Any]]:
    """What one tree gives, the first with the tree itself."""
    if step.output == "trees":
        found = [_whole(one)]
    elif step.output == "instructions":
        found = [_instruction(one, c, v) for c, v in one.won]
        if not found and step.unimproved == "keep":
            found = [_instruction(one, None, Verdict(0, 0, 0.0))]
    else:
        found = [_pair(step, one, c, v) for c, v in one.won]
    for row in found[:1]:
        row["tree"] = one.as_json()
    return found


def _whole(one: Decided) -> dict[str, Any]:
    nodes = one.grown.tree.nodes
    measured = [node.mean for node in nodes if node.mean is not None]
    (contest,) = contests(one.grown.tree, "pairs", 1)
    return {
        "row": one.grown.row,
        "prompt": one.grown.conversation,
        "principles": [],
        "search_gap": max(measured) - min(measured),
        "null_gap": one.null(contest),
    }


def _instruction(one: Decided, contest: Contest | None, verdict: Verdict) -> dict[str, Any]:
    grown, place = one.grown, verdict.chosen or 0
    return {
        "row": grown.row,
        "prompt": grown.with_text(grown.tree.nodes[place].text),
        "principles": grown.tree.path(place),
        "search_gap": None if contest is None else contest.gap,
        "null_gap": None if contest is None else one.null(contest),
        "reward": one.mean(place),
        "raw_reward": one.mean(0),
    }


def _pair(
    step: InstructionSearch, one: Decided, contest: Contest, verdict: Verdict
) -> dict[str, Any]:
    grown, nodes = one.grown, one.grown.tree.nodes
    places = dict(zip(SIDES, (verdict.chosen or 0, verdict.rejected or 0), strict=True))
    path = grown.tree.path(places["chosen"])
    only = path[-1:] if step.output in ("siblings", "steps") else path
    row: dict[str, Any] = {
        "row": grown.row,
        "prompt": [{"role": "user", "content": _task(step, grown, contest, only)}],
        "principles": only,
        "search_gap": contest.gap,
        "null_gap": one.null(contest),
        "margin": verdict.gap,
    }
    for side, place in places.items():
        row[side] = step.render("answer", instruction=nodes[place].text)
        row[f"{side}_model"] = _author(step, nodes[place])
        row[f"{side}_{SCORE}{step.name}"] = one.mean(place)
    return row


def _author(step: InstructionSearch, node: Node) -> str | None:
    """Who wrote an instruction: the raw one is not a model's."""
    return None if node.parent is None else step.rewriter.model


def _task(step: InstructionSearch, grown: Grown, contest: Contest, only: list[str]) -> str:
    text = grown.tree.nodes[contest.origin].text
    if step.output == "steps":
        principle = grown.contents[only[0]]
        return step.render(
            "step_task", instruction=text, context=grown.context, principle=principle
        )
    return step.render("task", instruction=text, context=grown.context)


def _table(
    step: InstructionSearch, table: pl.DataFrame, rows: list[dict[str, Any]]
) -> pl.DataFrame:
    """The rows with the columns of their prompts, ids and canonical order."""
    shape = step.out_shape(Shape.PROMPTS)
    adds = step.adds(Shape.PROMPTS)
    pairs = shape == Shape.PAIRS
    own: dict[str, pl.DataType] = {"row": pl.Int64(), "prompt": MESSAGES}
    own |= {c: d for c, d in adds.items() if c != "parent_id"}
    if pairs:
        own |= {c: pl.String() for side in SIDES for c in (side, f"{side}_model")}
    new = pl.DataFrame(rows, schema=own, orient="row")
    about = table.with_columns(parent_id="prompt_id")
    taken = {*own, *COLUMNS[shape]} - {*COLUMNS[Shape.PROMPTS]} | {"prompt"}
    about = about.drop([c for c in about.columns if c in taken])
    made = about.select(pl.all().gather(new["row"])).hstack(new.drop("row").get_columns())
    if pairs:
        made = made.with_columns(
            *[as_messages(pl.col(side)).alias(side) for side in SIDES],
            label_source=pl.lit(step.label_source()),
        )
    made = with_ids(made, shape)
    first = [*COLUMNS[shape], *adds]
    made = made.select(*first, *[c for c in made.columns if c not in first])
    return canonical_order(made, shape)

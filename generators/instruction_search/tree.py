"""One search tree over the rewrites of an instruction: no model in it, only numbers and texts.

P-Aligner's search (arXiv:2508.04626, read in the authors' code): a child per action, UCB with a
recursive mean of means, one new node an iteration. A tree is plain data: `dump` is JSON with the
state of its random stream, `load` goes on from there as if nothing had happened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

import numpy as np

Normalise = Literal["min_max", "none"]
ROOT = "root"
"""The root's action."""


@dataclass(slots=True)
class Node:
    """An instruction in a tree.

    Attributes:
        parent: place of its parent; None for the root.
        action: what made it of its parent.
        text: the instruction.
        visits: iterations that went through it.
        reward: the best mean at or below it, over nodes that the search has seen.
        mean: of `scores`; None until it is measured (the root is measured last).
        scores: of the answers to it.
        responses: the answers, if they are kept.
        distinct: how many different answers were scored.
        children: places of its children, oldest first.
        barred: actions that failed here and are not tried again.
    """

    parent: int | None
    action: str
    text: str
    visits: int = 0
    reward: float | None = None
    mean: float | None = None
    scores: list[float] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    distinct: int = 0
    children: list[int] = field(default_factory=list)
    barred: list[str] = field(default_factory=list)


class Proposal(NamedTuple):
    """What to try next: an action at a node."""

    parent: int
    action: str


class Tree:
    """A search tree. Nodes stand in the order of their making, so a child comes after its parent.

    An iteration is `propose`, then `add` if it worked out or `bar` if not; a proposal stays until
    one of the two.

    Attributes:
        actions: names of all actions; each makes at most one child of a node.
        exploration: c of the bonus c sqrt(ln N / n).
        normalise: `min_max` puts values on [0, 1] by the lowest and highest mean so far, so that
            c means the same under any scorer; `none` takes them as they are.
        nodes: the root first.
        pending: a proposal that is neither added nor barred yet.
    """

    def __init__(
        self,
        text: str,
        actions: Sequence[str],
        rng: np.random.Generator,
        exploration: float = 0.1,
        normalise: Normalise = "min_max",
    ) -> None:
        """Plant a tree.

        Args:
            text: the instruction as it is, the root.
            actions: names, at least one, each once.
            rng: draws which unused action is tried.
            exploration: see the attributes.
            normalise: see the attributes.

        Raises:
            ValueError: there is no action, or one stands there twice.
        """
        if not actions or len(set(actions)) < len(actions):
            raise ValueError(f"a tree needs actions, each once; these are {list(actions)}")
        self.actions = tuple(actions)
        self.exploration = exploration
        self.normalise: Normalise = normalise
        self.nodes = [Node(None, ROOT, text)]
        self.pending: Proposal | None = None
        self._rng = rng

    @property
    def iterations(self) -> int:
        """Iterations that worked out."""
        return self.nodes[0].visits

    def unused(self, place: int) -> list[str]:
        """Actions that a node has no child of and that did not fail there."""
        node = self.nodes[place]
        taken = {self.nodes[child].action for child in node.children} | set(node.barred)
        return [action for action in self.actions if action not in taken]

    def values(self) -> list[float]:
        """Q of every node: the mean of its own mean and its children's Q, not weighted by visits.

        Only the root can be without a mean of its own; without children its Q is 0, which nobody
        reads.
        """
        means = [0.0] * len(self.nodes)
        for place in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[place]
            own = [] if node.mean is None else [node.mean]
            parts = [*own, *(means[child] for child in node.children)]
            means[place] = math.fsum(parts) / len(parts) if parts else 0.0
        return means

    def bonus(self, place: int) -> float:
        """What a node, other than the root, gets for having been visited seldom."""
        node = self.nodes[place]
        assert node.parent is not None  # noqa: S101 - the root competes with nobody
        return self.exploration * math.sqrt(math.log(self.nodes[node.parent].visits) / node.visits)

    def _dead(self) -> list[bool]:
        """Whether nothing can be tried at or below a node any more, for every node."""
        flags = [False] * len(self.nodes)
        for place in range(len(self.nodes) - 1, -1, -1):
            children = self.nodes[place].children
            flags[place] = not self.unused(place) and all(flags[child] for child in children)
        return flags

    def _scale(self) -> tuple[float, float]:
        """Lowest mean so far, and the span to the highest (1 where there is none)."""
        if self.normalise == "none":
            return 0.0, 1.0
        means = [node.mean for node in self.nodes if node.mean is not None]
        if not means:
            return 0.0, 1.0
        return min(means), (max(means) - min(means)) or 1.0

    def select(self) -> int | None:
        """The node to expand: from the root down, while no action is unused.

        Among equals the oldest child wins. None: every action failed everywhere.
        """
        dead = self._dead()
        if dead[0]:
            return None
        values, (low, span) = self.values(), self._scale()

        def worth(child: int) -> float:
            return (values[child] - low) / span + self.bonus(child)

        place = 0
        while not self.unused(place):
            place = max((c for c in self.nodes[place].children if not dead[c]), key=worth)
        return place

    def propose(self) -> Proposal | None:
        """What to try next: an unused action, drawn evenly, at the node that is selected.

        Returns:
            The pending proposal if there is one; None if nothing is left to try.
        """
        if self.pending is None:
            place = self.select()
            if place is None:
                return None
            unused = self.unused(place)
            self.pending = Proposal(place, unused[int(self._rng.integers(len(unused)))])
        return self.pending

    def add(
        self,
        text: str,
        scores: Sequence[float],
        responses: Sequence[str] = (),
        distinct: int | None = None,
    ) -> int:
        """End an iteration that worked out: a new node, and its value handed up to the root.

        Args:
            text: what the pending action made of its parent.
            scores: of the answers to it, finite, at least one.
            responses: the answers, if they are to be kept.
            distinct: how many different answers were scored; None: all differ.

        Returns:
            Place of the new node.
        """
        parent, action = self._settled()
        mean = math.fsum(scores) / len(scores)
        node = Node(parent, action, text, 0, mean, mean, list(scores), list(responses))
        node.distinct = len(scores) if distinct is None else distinct
        self.nodes.append(node)
        place = len(self.nodes) - 1
        self.nodes[parent].children.append(place)
        up: int | None = place
        while up is not None:
            here = self.nodes[up]
            here.visits += 1
            here.reward = mean if here.reward is None else max(here.reward, mean)
            up = here.parent
        return place

    def bar(self) -> None:
        """End an iteration that failed: its action is not tried at its node again."""
        parent, action = self._settled()
        self.nodes[parent].barred.append(action)

    def measure_root(
        self, scores: Sequence[float], responses: Sequence[str] = (), distinct: int | None = None
    ) -> None:
        """Give the root scores of its own, after the search: they steer nothing."""
        root = self.nodes[0]
        root.scores, root.responses = list(scores), list(responses)
        root.mean = math.fsum(scores) / len(scores)
        root.distinct = len(scores) if distinct is None else distinct

    def _settled(self) -> Proposal:
        if self.pending is None:
            raise ValueError("nothing is pending: call propose first")
        settled, self.pending = self.pending, None
        return settled

    def path(self, place: int) -> list[str]:
        """Actions from the root to a node."""
        actions: list[str] = []
        here = self.nodes[place]
        while here.parent is not None:
            actions.append(here.action)
            here = self.nodes[here.parent]
        return actions[::-1]

    def dump(self) -> dict[str, Any]:
        """The whole tree as plain JSON data, with the state of its random stream."""
        return {
            "actions": list(self.actions),
            "exploration": self.exploration,
            "normalise": self.normalise,
            "nodes": [asdict(node) for node in self.nodes],
            "pending": None if self.pending is None else list(self.pending),
            "rng": self._rng.bit_generator.state,
        }

    @classmethod
    def load(cls, data: dict[str, Any]) -> Tree:
        """The tree that was dumped; it goes on as if it had never stopped."""
        bits = getattr(np.random, data["rng"]["bit_generator"])()
        bits.state = data["rng"]
        rng = np.random.Generator(bits)
        tree = cls("", data["actions"], rng, data["exploration"], data["normalise"])
        names = {f.name for f in fields(Node)}
        tree.nodes = [
            Node(**{name: node[name] for name in node if name in names}) for node in data["nodes"]
        ]
        tree.pending = None if data["pending"] is None else Proposal(*data["pending"])
        return tree

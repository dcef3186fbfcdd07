"""What policies can reach on objectives that disagree: one training for each choice of weights."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup
from numpy.typing import NDArray

from prefactory.errors import ConfigError, DataError
from prefactory.folders import FRONTIER, new_file
from prefactory.identity import fingerprint, identity_fields
from prefactory.measures.calibration import Floats, pairwise_accuracy
from prefactory.pages.svg import el, figure, text_at
from prefactory.sharing.sealed import seal, unseal
from trainers.base import DatasetRef, table
from trainers.processes import processes

ARMS = ("raco", "weighted DPO")
MOST = 60
"""Trainings of one frontier, at most."""
_COLOURS = {"raco": "var(--chosen)", "weighted DPO": "var(--soft)"}


@dataclass(frozen=True)
class Point:
    """One training.

    Attributes:
        arm: `raco`, or `weighted DPO`: the same with a radius of 0.
        weights: by objective.
        accuracy: on the held-out pairs, by objective: the share on which the policy prefers what
            the objective does.
        best: no other policy of its arm is as good in all objectives and better in one.
    """

    arm: str
    weights: Mapping[str, float]
    accuracy: Mapping[str, float]
    best: bool = False


@dataclass(frozen=True)
class Frontier:
    """All trainings, and what they dominate.

    Attributes:
        objectives: names, in order.
        points: trainings.
    """

    objectives: tuple[str, ...]
    points: tuple[Point, ...]

    @classmethod
    def of(cls, objectives: Sequence[str], points: Sequence[Point]) -> Frontier:
        """Mark the best points of each arm."""
        marked: list[Point] = []
        for arm in ARMS:
            own = [p for p in points if p.arm == arm]
            best = undominated(_levels(objectives, own))
            marked += [
                Point(p.arm, p.weights, p.accuracy, bool(b)) for p, b in zip(own, best, strict=True)
            ]
        return cls(tuple(objectives), tuple(marked))

    def volume(self, arm: str) -> float:
        """Share of the unit cube of accuracies that the points of an arm dominate."""
        return hypervolume(_levels(self.objectives, [p for p in self.points if p.arm == arm]))

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "objectives": list(self.objectives),
            "hypervolume": {arm: self.volume(arm) for arm in ARMS},
            "points": [asdict(p) for p in self.points],
        }

    def lines(self) -> list[str]:
        """Lines for a terminal and the card."""
        total = ", ".join(f"{arm} {self.volume(arm):.4f}" for arm in ARMS)
        rows = [
            f"{p.arm}, weights {_said(p.weights)}: accuracy {_said(p.accuracy)}"
            + (" (best)" if p.best else "")
            for p in self.points
        ]
        return [f"hypervolume over 0: {total}", *rows]

    def chart(self) -> Markup:
        """Accuracies of the first two objectives, the best of each arm joined by a line."""
        size, pad = 300, 44
        x, y = self.objectives[:2]

        def place(point: Point) -> tuple[float, float]:
            return pad + size * point.accuracy[x], pad + size * (1 - point.accuracy[y])

        marks = [
            el("rect", x=pad, y=pad, width=size, height=size, fill="none", stroke="var(--line)")
        ]
        for arm in ARMS:
            own = [p for p in self.points if p.arm == arm]
            line = sorted(place(p) for p in own if p.best)
            joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in line)
            marks.append(el("polyline", points=joined, fill="none", stroke=_COLOURS[arm]))
            for p in own:
                cx, cy = place(p)
                marks.append(el("circle", cx=cx, cy=cy, r=4 if p.best else 2, fill=_COLOURS[arm]))
        marks += [
            text_at(pad + size / 2, size + pad + 26, f"accuracy: {x}", "middle"),
            text_at(pad, pad - 24, f"accuracy: {y}", "start"),
            text_at(pad + size, pad - 24, "RACO coloured, weighted DPO grey", "end"),
        ]
        summary = f"Held-out accuracy on {x} and {y} of a policy for each choice of weights"
        return figure(size + 2 * pad, size + 2 * pad, summary, *marks)


def _levels(objectives: Sequence[str], points: Sequence[Point]) -> Floats:
    levels = [[p.accuracy[o] for o in objectives] for p in points]
    return np.array(levels, np.float64).reshape(len(points), len(objectives))


def _said(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def undominated(levels: Floats) -> NDArray[np.bool_]:
    """Which rows no other row is as good as in all columns and better in one.

    Args:
        levels: more is better, Float64[n, m].
    """
    as_good = (levels[:, None] >= levels).all(axis=2)
    better = (levels[:, None] > levels).any(axis=2)
    return np.asarray(~(as_good & better).any(axis=0))


def hypervolume(levels: Floats, reference: float = 0.0) -> float:
    """Volume of what is dominated by rows and better than a reference in every column, exactly.

    Cut into slices along the last column, each the volume of the rows above it in one column fewer.

    Args:
        levels: more is better, Float64[n, m], m at least 1.
        reference: of every column.
    """
    above = levels[(levels > reference).all(axis=1)]
    if not len(above):
        return 0.0
    if above.shape[1] == 1:
        return float(above.max() - reference)
    order = above[np.argsort(-above[:, -1])]
    ends = [*order[1:, -1], reference]
    return sum(
        float(top - end) * hypervolume(order[: i + 1, :-1], reference)
        for i, (top, end) in enumerate(zip(order[:, -1], ends, strict=True))
        if top > end
    )


def simplex(m: int, steps: int) -> Iterator[tuple[float, ...]]:
    """All weights of m objectives that are multiples of `1 / steps` and sum to 1."""
    if m == 1:
        yield (1.0,)
        return
    for first in range(steps + 1):
        if first == steps:
            yield (1.0, *[0.0] * (m - 1))
        else:
            rest = steps - first
            for others in simplex(m - 1, rest):
                yield (first / steps, *(rest / steps * w for w in others))


def by_objective(
    margins: pl.DataFrame, data: DatasetRef, columns: Mapping[str, str]
) -> dict[str, float]:
    """Held-out accuracy by objective, of the pairs on which it has a say.

    Args:
        margins: `pair_id` and `margin` of a policy.
        data: what it was trained on.
        columns: objective -> its column of signs.
    """
    signs = table(data.pairs("test"), ["pair_id", *columns.values()])
    both = margins.join(signs, on="pair_id", maintain_order="left")
    found = {}
    for name, column in columns.items():
        said = both.filter(pl.col(column) != 0)
        level = float("nan")
        if said.height:
            agreed = (said["margin"] * said[column]).to_numpy()
            level, _ = pairwise_accuracy(agreed, said["pair_id"])
        found[name] = level
    return found


def kept_beside(model: Path) -> Path:
    """Folder of what the trainings of a frontier found, until the model is whole."""
    return model.with_name(f"{model.name}{FRONTIER}")


def _kept(file: Path, names: Sequence[str]) -> dict[str, float] | None:
    """Accuracies that a training of before came to; None if there is none, or they are damaged."""
    try:
        return unseal(file.read_bytes(), names)
    except (OSError, ValueError):
        return None


def explored(
    config: Any,  # noqa: ANN401 - settings.RACO
    names: Sequence[str],
    data: DatasetRef,
    output: Path,
    train: Callable[[Any, DatasetRef, Path], pl.DataFrame],
) -> Frontier:
    """Train a policy for each choice of weights, by RACO and by weighted DPO.

    Where only one objective has a weight both are DPO, which is trained once. What is done is kept
    beside `output`, so that a run which was killed goes on with the next training.

    Args:
        config: settings of RACO, with `frontier` above 0.
        names: of the objectives.
        data: what is trained on.
        output: folder of the model.
        train: trains with settings in a new folder; returns `pair_id` and `margin`.

    Raises:
        ConfigError: there is one objective only, too many trainings, or several processes.
        DataError: there are no held-out pairs.
    """
    grid = list(simplex(len(names), config.frontier))
    runs = len(grid) * 2 - len(names)
    if len(names) < 2 or runs > MOST or processes() > 1:
        raise ConfigError(
            f"frontier={config.frontier} with {len(names)} objectives is {runs} trainings: it takes"
            f" two objectives or more, at most {MOST} trainings, and one process"
        )
    if not len(data.pairs("test")):
        raise DataError("a frontier is measured on held-out pairs, and there are none")
    kept = kept_beside(output)
    kept.mkdir(parents=True, exist_ok=True)
    columns = {name: f"sign_{name}" for name in names}
    points = []
    for choice in grid:
        own = {n: w for n, w in zip(names, choice, strict=True) if w > 0}
        for arm in ARMS:
            radius = config.radius if arm == "raco" and len(own) > 1 else 0.0
            changed = {"objectives": own, "radius": radius, "frontier": 0, "compare_answers": 0}
            one = config.model_copy(update=changed)
            made_from = [identity_fields(one), list(names), data.digest, data.table]
            file = kept / f"{fingerprint(made_from)[:16]}.json"
            accuracy = _kept(file, names)
            if accuracy is None:
                with tempfile.TemporaryDirectory(dir=kept) as scratch:
                    accuracy = by_objective(train(one, data, Path(scratch) / "m"), data, columns)
                with new_file(file) as out:
                    out.write(seal(accuracy))
            if any(math.isnan(v) for v in accuracy.values()):
                raise DataError("an objective is tied on every held-out pair: no frontier")
            points.append(Point(arm, dict(zip(names, choice, strict=True)), accuracy))
    return Frontier.of(names, points)

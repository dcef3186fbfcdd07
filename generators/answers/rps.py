"""Candidates under neighbouring preferences: answers to directions in a cone around a target."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import ndtri

from generators.answers.calls import PROMPT_TOKENS, Call, outcomes, results
from generators.answers.rows import ADDS, generated, prompt_rows
from generators.answers.step import Origin, with_system
from prefactory.asking import Sampled
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Request
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape, shape_of

Floats = NDArray[np.float64]
Spread = Literal["area", "cosine"]
Outside = Literal["clip", "reflect"]


class RPS(Gated, Prompted, Sampled, Generator):
    """Answer each prompt under several preference directions near the wanted one.

    Robust preference selection (arXiv:2510.20498): a model may be poor at exactly the wanted trade
    of objectives and better at a neighbouring one. So answers are sampled under directions within
    `theta_max` degrees of `target`, and the one that is best *for the target* is taken. Here the
    candidates arrive; the choice is any scorer of the objectives, then
    `labelers.Combine: {method: linear, weights: <target>}` and `labelers.Pairs`, so that chosen is
    the argmax and rejected the argmin under the target. It can hurt where the model is good at the
    target already: the paper's gains come from targets far from it, and `at_target` mixes in
    samples at the target itself.

    Columns beside those of responses: `direction` and `target` (List[Float64] of unit length, in
    the order of `target`'s names), `angle` (Float64, degrees between them), `sample`,
    `system_used`, and those of `generators.answers.rows.ADDS`. With theta_max 0 all directions
    are the target, and the answers those of `at_target: k`.

    Our choices, which the paper leaves open: how directions are drawn (`spread`), the wording of
    the message, and `at_target: 2` of 5 by default (the paper's is 0).

    Reasons, for prompts of which no call was answered: see `generators.Responses`.

    Attributes:
        model: what answers; it should follow a weighting in its system message.
        target: objective -> weight, none negative, of any length.
        names: objective -> its name in the message, where it is another.
        k: candidates of each prompt.
        at_target: how many of them are at the target itself, the first ones.
        theta_max: greatest angle to the target, degrees, below 90.
        spread: `area` draws the angle as theta_max U^(1/(d-1)), even by area where caps are small
            (for two objectives an even angle on either side); `cosine` draws its cosine evenly.
        outside: what becomes of negative weights, which mean nothing to a model: `clip` to 0, or
            `reflect` the sign; the length is 1 again, and the angle never gets greater.
        sampling: how answers are drawn, see `SamplingParams`.
        origin: of the answers.

    Example:
        - generators.RPS:
            model: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
            target: {helpfulness: 1, brevity: 0.5}
    """

    templates: ClassVar[dict[str, Text]] = {
        "weights": Text("generators/answers/prompts/responses/rps.j2", ("weights",))
    }
    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("parent_id",)

    model: AnyEngine
    target: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=2)
    names: dict[str, str] = Field(default_factory=dict)
    k: int = Field(default=5, ge=1)
    at_target: int = Field(default=2, ge=0)
    theta_max: float = Field(default=30.0, ge=0, lt=90)
    spread: Spread = "area"
    outside: Outside = "clip"
    origin: Origin = "open_model"

    @model_validator(mode="after")
    def _validate_fields(self) -> Self:
        if not any(self.target.values()):
            raise ValueError("target: at least one weight must be above 0")
        if self.at_target > self.k:
            raise ValueError(f"at_target={self.at_target}: there are {self.k} candidates")
        unknown = sorted(set(self.names) - set(self.target))
        if unknown:
            raise ValueError(f"names: {', '.join(unknown)} is no objective of target")
        return self

    def unit_target(self) -> Floats:
        """The target as a vector of length 1, Float64[d]."""
        weights = np.array(list(self.target.values()), dtype=np.float64)
        result: Floats = weights / math.sqrt(math.fsum(weights * weights))
        return result

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`direction`, `target`, `angle`, `sample`, `system_used`, and those of all samples."""
        own: dict[str, pl.DataType] = {
            "sample": pl.Int64(),
            "direction": pl.List(pl.Float64),
            "target": pl.List(pl.Float64),
            "angle": pl.Float64(),
            "system_used": pl.String(),
        }
        return {**own, **ADDS}

    def out_shape(self, shape: Shape) -> Shape:
        """RESPONSES."""
        return Shape.RESPONSES

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """`k` calls per prompt; prompts are taken to have 300 tokens."""
        return [Asks(self.model, self.k * prompts, PROMPT_TOKENS, self.sampling.max_tokens)]

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Sample the candidates of every prompt of a table.

        Args:
            table: PROMPTS, or RESPONSES with all answers of each prompt.
            ctx: opens the model; draws by prompt id.

        Returns:
            RESPONSES in canonical order, and the prompts without any answer.
        """
        shape = shape_of(table)
        base = prompt_rows(table, shape)
        target = self.unit_target()
        directions = self._directions(base["prompt_id"], target, ctx)
        n = base.height * self.k
        systems = [self._message(w) for w in directions]
        calls = list(self._calls(base, systems, ctx))
        name = self.model.model
        texts = outcomes(
            calls, results(ctx, [self.model], calls), [name], self.gate, [ctx.open(self.model)]
        )
        cosine = np.clip((directions * target).sum(axis=1), -1.0, 1.0)
        whole = np.tile(target, (n, 1))
        answers = pl.DataFrame(
            {
                "row": pl.int_range(n, eager=True) // self.k,
                "sample": pl.int_range(n, eager=True) % self.k,
                "direction": pl.Series(directions.tolist(), dtype=pl.List(pl.Float64)),
                "target": pl.Series(whole.tolist(), dtype=pl.List(pl.Float64)),
                "angle": pl.Series(np.degrees(np.arccos(cosine)), dtype=pl.Float64),
                "system_used": pl.Series(systems, dtype=pl.String),
            }
        )
        answers = answers.hstack(texts.get_columns()).with_columns(
            model=pl.lit(name), origin=pl.lit(self.origin)
        )
        return generated(table, shape, answers)

    def _directions(self, ids: pl.Series, target: Floats, ctx: Context) -> Floats:
        """Directions of all candidates, Float64[n k, d], the first `at_target` at the target."""
        out = np.tile(target, (ids.len(), self.k, 1))
        for i in range(self.at_target, self.k):
            normal = [ctx.uniform(ids, f"axis {i} {j}").to_numpy() for j in range(target.size)]
            tiny = np.finfo(np.float64).tiny  # a draw of exactly 0 has no normal number
            axes = ndtri(np.maximum(np.stack(normal, axis=1), tiny))
            radius = ctx.uniform(ids, f"angle {i}").to_numpy()
            out[:, i] = cap(target, axes, radius, self.theta_max, self.spread, self.outside)
        return out.reshape(-1, target.size)

    def _message(self, direction: Floats) -> str:
        shown = zip(self.target, percents(direction), strict=True)
        weights = [{"name": self.names.get(o, o.replace("_", " ")), "percent": p} for o, p in shown]
        return self.render("weights", weights=weights)

    def _calls(self, base: pl.DataFrame, systems: list[str], ctx: Context) -> Iterator[Call]:
        sampling = self.sampling.drawn(ctx.seed)
        prompts, ids = base["prompt"].to_list(), base["prompt_id"].to_list()
        for place, text in enumerate(systems):
            row, sample = divmod(place, self.k)
            row_id = f"{ids[row]}/{ctx.step}/{sample}"
            asked = with_system(prompts[row], text)
            yield Call(row, 0, Request(asked, sampling, sample, row_id))


def cap(
    target: Floats,
    axes: Floats,
    radius: Floats,
    theta_max: float,
    spread: Spread = "area",
    outside: Outside = "clip",
) -> Floats:
    """Directions in the cone around a target, without negative weights.

    The axis loses its part along the target and gets length 1, u; then
    w = cos(a) target + sin(a) u with an angle a within theta_max.

    Args:
        target: Float64[d], length 1, none negative.
        axes: standard normal draws, Float64[n, d].
        radius: uniform draws in [0, 1), Float64[n].
        theta_max: degrees, in [0, 90).
        spread: how the angle is drawn, see `RPS`.
        outside: what becomes of negative weights, see `RPS`.

    Returns:
        Float64[n, d] of length 1, none negative, at most theta_max from the target; the target
        itself for theta_max 0.
    """
    if theta_max == 0:
        return np.tile(target, (axes.shape[0], 1))
    most = math.radians(theta_max)
    across = axes - (axes * target).sum(axis=1, keepdims=True) * target
    length = np.sqrt((across * across).sum(axis=1, keepdims=True))
    across = np.divide(across, length, out=np.zeros_like(across), where=length > 0)
    if spread == "area":
        angle = most * radius ** (1.0 / (target.size - 1))
    else:
        angle = np.arccos(1.0 - radius * (1.0 - math.cos(most)))
    turned = np.cos(angle)[:, None] * target + np.sin(angle)[:, None] * across
    turned = np.maximum(turned, 0.0) if outside == "clip" else np.abs(turned)
    result: Floats = turned / np.sqrt((turned * turned).sum(axis=1, keepdims=True))
    return result


def percents(direction: Floats) -> list[int]:
    """Weights as whole percents that sum to 100, the greatest remainders rounded up.

    Args:
        direction: Float64[d], none negative, not all 0.
    """
    exact = np.round(100.0 * direction / direction.sum(), 9)
    down = np.floor(exact).astype(int)
    late = np.argsort(-(exact - down), kind="stable")[: 100 - int(down.sum())]
    down[late] += 1
    return [int(p) for p in down]

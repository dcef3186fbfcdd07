"""Directional correction of a score: a bias direction of embeddings taken out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator
from threadpoolctl import threadpool_limits

from labelers.combine.scoring import Floats, Ints
from labelers.heads import directional, ridge
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.measures import exact
from prefactory.step import Labeler, Scope, State
from prefactory.step.exchange import Concluded, Rounds
from prefactory.tables import SCORE, Shape, last_user_text, text_of

Name = Annotated[str, Field(min_length=1)]
_OWN = {"debias": {"objective", "nuisance", "alpha"}, "d2align": {"policy", "omega", "penalty"}}
_LARGE = ("answer", "target", "states", "cause")
"""Whose largest values set the grids of sums: embeddings, scores, and both less prompts' means."""
_CHUNK = 4096


class DirectionalCorrection(Rounds, Labeler):
    """Add `score_<name>`, an embedding's reward that no longer follows one direction.

    - `debias`: an objective less what a nuisance, such as length, moves in it. With h the embedding
      of the answer, b the unit direction along which h moves with the nuisance within prompts, and
      w the ridge head of the objective on h, the score is `objective - (w'b) (b'(h - mean h))`: of
      a reward that is linear in h, the reward of h without its part along b. This is our analogue
      of D2-Align for heads on hidden states: directional debiasing, not D2-Align. It takes out what
      is linear; check it on pairs that differ in the nuisance alone.
    - `d2align`: the cosine of query and answer under a guided query (D2-Align, arXiv:2512.24146,
      stage 1). The direction is the one of the largest mean guided reward over the answers of
      `policy`: where it drifts to. For encoders whose cosine is itself the reward.

    Range: of the objective; `d2align` -1 to 1. Direction: that of the objective; higher is better.
    Null where the objective is not scored. `info` has the norm and use of the direction: for
    `debias` `answers`, `slope` (w'b), `correlation` of score and nuisance within prompts `before`
    and `after`; for `d2align` `answers`, `norm`, mean `reward` before and after.

    Attributes:
        name: of the new objective.
        method: see above.
        objective: for `debias`: the score to correct.
        nuisance: for `debias`: the objective to take out (of `labelers.TextStatistics` or
            `labelers.R3`, say).
        alpha: for `debias`: ridge penalty of the head, on standardised embeddings.
        policy: for `d2align`: model whose answers are the policy's; null: all answers.
        omega: for `d2align`: how far beyond the direction, the paper's 1.5.
        penalty: for `d2align`: on the squared direction (ours).
        encoder: of the embeddings.

    Example:
        - labelers.DirectionalCorrection:
            name: corrected
            objective: helpfulness
            nuisance: length
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"
    version: ClassVar[int] = 2

    name: Name
    method: Literal["debias", "d2align"] = "debias"
    objective: Name | None = None
    nuisance: Name | None = None
    alpha: float = Field(default=1.0, gt=0)
    policy: Name | None = None
    omega: float = directional.OMEGA
    penalty: float = Field(default=1e-3, ge=0)
    encoder: Encoder = Encoder()

    @model_validator(mode="after")
    def _validate_method(self) -> Self:
        strange = set.union(*_OWN.values()) - _OWN[self.method]
        for field in sorted(strange):
            if getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(f"{field} is not for {self.method}")
        if self.method == "debias" and (self.objective is None or self.nuisance is None):
            raise ValueError("debias needs the objective to correct and the nuisance to take out")
        if self.name in (self.objective, self.nuisance):
            raise ValueError(f"name: {self.name!r} is there already")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of objective and nuisance (Float64), for `debias`."""
        names = [o for o in (self.objective, self.nuisance) if o is not None]
        return {f"{SCORE}{o}": pl.Float64() for o in names}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>` (Float64)."""
        return {f"{SCORE}{self.name}": pl.Float64()}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to `response_id`, `prompt_id`, `model`, scores and float32 vectors."""
        answer, query = self._vectors(table, ctx)
        vectors = [("answer", answer)] + ([("query", query)] if self.method == "d2align" else [])
        columns = [pl.Series(n, v, pl.Array(pl.Float32, v.shape[1])) for n, v in vectors]
        columns_of = [pl.col(c) for c in self.needs(Shape.RESPONSES)]
        scores = [pl.when(c.is_finite()).then(c) for c in columns_of]
        return table.select("response_id", "prompt_id", "model", *scores).hstack(columns)

    def exchanged(self) -> bool:
        """`debias` needs sums; `d2align` looks at all answers in every step of its optimiser."""
        return self.method == "debias"

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Learn the direction.

        Returns:
            State with the table `direction` (`direction`, `mean`: Float64[d]) and the info that the
            class names; of `debias` `slope` too.

        Raises:
            DataError: there is no answer to learn from.
        """
        if self.method == "debias":
            return super().fit(parts, ctx)
        with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
            return self._fit_d2align(_distinct(parts))

    def look(self, parts: pl.DataFrame, known: State | None, ctx: Context) -> State:
        """Largest values of a run of rows, then its sums, then those of the correlations."""
        rows = _distinct(parts).drop_nulls(list(self.needs(Shape.RESPONSES)))
        hidden = rows["answer"].to_numpy()
        target, nuisance = (rows[c].to_numpy() for c in self.needs(Shape.RESPONSES))
        groups = rows["prompt_id"].rle_id().cast(pl.Int64).to_numpy()
        if known is not None and "direction" in known.tables:
            learned = known.tables["direction"]
            b, mean = learned["direction"].to_numpy(), learned["mean"].to_numpy()
            after = target - known.info["slope"] * _along(hidden, b, mean)
            found = {"before": target, "after": after}
            return State(info={k: _moved(v, nuisance, groups) for k, v in found.items()})
        states, cause = directional.within_prompts(hidden, nuisance, groups)
        if known is None:
            columns = (hidden, target[:, None], states, cause[:, None])
            large = {k: ridge.largest(v).tolist() for k, v in zip(_LARGE, columns, strict=True)}
            return State(info={"n": rows.height, "raw": exact.terms(nuisance**2), **large})
        answer, goal, state, why = (exact.grid(np.array(known.info[k])) for k in _LARGE)
        sums = ridge.sums(hidden, target[:, None], ridge.Grid(answer, goal))
        cross = exact.total(
            exact.products(exact.on_grid(states[rows], state), exact.slices(cause[rows, None], why))
            for rows in exact.pieces(len(states))
        )
        tables = {k: pl.DataFrame({"high": v.high.ravel(), "low": v.low.ravel()})
                  for k, v in (("sums", sums), ("cross", cross))}  # fmt: skip
        return State(tables, {"spread": exact.terms(cause**2)})

    def conclude(self, looks: Sequence[State], known: State | None, ctx: Context) -> Concluded:
        """Grids for the sums, then the direction, then the correlations."""
        if known is None:
            answers = sum(look.info["n"] for look in looks)
            if not answers:
                raise DataError(
                    f"labelers.DirectionalCorrection: no answer has both {self.objective!r} and "
                    f"{self.nuisance!r}"
                )
            large = {k: np.max([look.info[k] for look in looks], axis=0).tolist() for k in _LARGE}
            raw = _fsum(look.info["raw"] for look in looks)
            return Concluded(State(info={"answers": answers, "raw": raw, **large}), last=False)
        if "direction" not in known.tables:
            return Concluded(self._learned(looks, known), last=False)
        info = {k: v for k, v in known.info.items() if k in ("answers", "slope")}
        for key in ("before", "after"):
            xx, yy, xy = (_fsum(look.info[key][i] for look in looks) for i in range(3))
            info[key] = xy / math.sqrt(xx * yy) if xx * yy > 0 else None
        return Concluded(State(known.tables, info), last=True)

    def _learned(self, looks: Sequence[State], known: State) -> State:
        """The direction, the mean answer, and the slope of the head along the direction."""
        answer, goal, state, why = (exact.grid(np.array(known.info[k])) for k in _LARGE)
        d = len(answer)
        sums, cross = (
            exact.total(
                exact.Whole(
                    *(look.tables[k][h].to_numpy().reshape(shape) for h in exact.Whole._fields)
                )
                for look in looks
            )
            for k, shape in (("sums", (d + 3, d + 3)), ("cross", (d, 2)))
        )
        stats = ridge.moments_of(sums, ridge.Grid(answer, goal))
        moved = cross.floats() * np.array([why[0], math.ldexp(why[0], -exact.BITS)])
        spread = _fsum(look.info["spread"] for look in looks)
        along = moved.sum(axis=1) * state
        b = directional.bias_direction(along, spread, known.info["raw"])
        with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
            weights = ridge.solve(stats, np.array([self.alpha])).weights[0, :, 0]
        table = pl.DataFrame({"direction": b, "mean": stats.x / stats.n})
        slope = float((weights * b).sum())
        return State({"direction": table}, {"answers": known.info["answers"], "slope": slope})

    def _fit_d2align(self, rows: pl.DataFrame) -> State:
        own = rows if self.policy is None else rows.filter(pl.col("model") == self.policy)
        if not own.height:
            raise DataError(f"labelers.DirectionalCorrection: no answer is of {self.policy!r}")
        queries, answers = own["query"].to_numpy(), own["answer"].to_numpy()
        b = directional.learn_direction(queries, answers, self.omega, self.penalty)
        reward = {
            key: float(directional.guided_reward(queries, answers, by, self.omega).mean())
            for key, by in (("before", np.zeros_like(b)), ("after", b))
        }
        info: dict[str, Any] = {
            "answers": own.height,
            "norm": math.sqrt(float((b**2).sum())),
            "reward": reward,
        }
        mean = pl.Series("mean", np.zeros_like(b))
        return State({"direction": pl.DataFrame({"direction": b}).with_columns(mean)}, info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Correct the score of every answer of RESPONSES."""
        learned = ctx.fitted.tables["direction"]
        b, mean = learned["direction"].to_numpy(), learned["mean"].to_numpy()
        answer, query = self._vectors(table, ctx)
        if self.method == "d2align":
            score = directional.guided_reward(query, answer, b, self.omega)
        else:
            raw = pl.col(f"{SCORE}{self.objective}")
            target = table.select(score=pl.when(raw.is_finite()).then(raw).otherwise(math.nan))
            score = target["score"].to_numpy() - ctx.fitted.info["slope"] * _along(answer, b, mean)
        return pl.DataFrame({f"{SCORE}{self.name}": score}).fill_nan(None)

    def _vectors(
        self, table: pl.DataFrame, ctx: Context
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embeddings of answers and (for `d2align`; else empty) of queries, Float32[n, d]."""
        if ctx.embed is None:
            raise ConfigError("labelers.DirectionalCorrection needs an encoder; this run has none")
        answer = text_of(pl.col("response")).fill_null("")
        texts = table.select(answer=answer, query=last_user_text(pl.col("prompt")))
        answers = ctx.embed(self.encoder, texts["answer"])
        if self.method == "debias":
            return answers, np.zeros((0, 0), np.float32)
        return answers, ctx.embed(self.encoder, texts["query"])


def _along(vectors: NDArray[np.float32], b: Floats, mean: Floats) -> Floats:
    """b'(h - mean) of rows, Float64[n], each from its own row alone."""
    out = np.empty(len(vectors))
    for start in range(0, len(vectors), _CHUNK):
        rows = slice(start, start + _CHUNK)
        out[rows] = ((vectors[rows] - mean) * b).sum(axis=1)
    return out


def _distinct(parts: pl.DataFrame) -> pl.DataFrame:
    """Each answer once, by prompt."""
    rows = parts.sort("prompt_id", "response_id")
    return rows.unique("response_id", keep="first", maintain_order=True)


def _moved(scores: Floats, nuisance: Floats, groups: Ints) -> list[list[float]]:
    """Squares and product of two columns less each prompt's means, as `exact.terms`."""
    x, y = directional.within_prompts(scores[:, None], nuisance, groups)
    return [exact.terms(v) for v in (x[:, 0] ** 2, y**2, x[:, 0] * y)]


def _fsum(pieces: Iterable[Sequence[float]]) -> float:
    return math.fsum(x for piece in pieces for x in piece)

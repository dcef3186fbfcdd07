"""PAL: what each annotator, and each group of annotators, would prefer."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax

from labelers.combine.scoring import Floats, Ints
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.preferences.ideal_points import (
    PALBModel,
    PALModel,
    components,
    fit_pal,
    fit_pal_b,
    located,
    permuted,
    rowwise,
    shrunk,
)
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, SIDES, Shape, last_user_text, text_of

_ALL = -1
"""The "fold" of the model of all pairs."""

PALFit = PALModel | PALBModel


class _Data(NamedTuple):
    """Pairs of known annotators, one row for each of them.

    Attributes:
        users: annotator ids, length n.
        prompts, chosen, rejected: reduced vectors, Float64[n, d].
        fold: Int64[n].
    """

    users: NDArray[np.object_]
    prompts: Floats
    chosen: Floats
    rejected: Floats
    fold: Ints

    def at(self, rows: NDArray[np.bool_]) -> _Data:
        """Some rows."""
        sides = (self.prompts[rows], self.chosen[rows], self.rejected[rows])
        return _Data(self.users[rows], *sides, self.fold[rows])


class PAL(Labeler):
    """Learn ideal points of annotators from their own labels, and score pairs by them.

    PAL (arXiv:2406.08469): each annotator's ideal point is a mixture of k prototypes, learned from
    the pairs that the annotator labelled; `prefactory.preferences.ideal_points` has A (one ideal
    point) and B (it moves with the prompt). Vectors are frozen embeddings of the answers (for B
    also of the last user message), cut to their first `dim` principal components, which is ours.
    Prototypes are numbered by mass, the largest first.

    Columns of pairs:

    - `chosen_score_<name>_<g>`, `rejected_score_<name>_<g>` (Float64): rewards for prototype g =
      0 .. k - 1 alone. `labelers.Signs` on them tells where the groups agree.
    - `margin_<name>` (Float64): chosen minus rejected reward for the annotator of the row.
    - `group_<name>` (Int64): the annotator's strongest prototype; null where unknown.

    An annotator who is unknown (null, or in no pair of the fit) counts as the mean annotator; one
    with fewer than `enough` pairs is drawn toward it. With `newcomers: locate` such annotators do
    not shape the prototypes at all: they are placed among those of the others, as the paper places
    users who come later (here from the mean annotator on, 200 steps of Adam). All pairs of a prompt
    are scored by a model that saw none of them; the models of the folds are matched to the one of
    all pairs by the weights of their annotators.

    The annotator's column comes from the source: name it in the source's `mapping`, for example
    `mapping: {annotator: worker_id}`. Rows of one prompt with the same chosen and rejected answer
    are one row of ours (the others are in the ledger as `duplicate_row`): bring several annotators
    who gave the same label as a list of texts in one row, and set `several`.

    `info`: `users`, `pairs`, `labels` (one per annotator and pair), `mass` of each prototype,
    `accuracy` on held-out prompts by each annotator's own point, `accuracy_mean` by that of the
    mean annotator (null without folds), and `notes`.

    Attributes:
        annotator: column with the annotator's id (String, or List(String), see `several`).
        name: of the new columns.
        method: `a` or `b`, see above.
        prototypes: k; more than there are groups only splits a group.
        linear: for `a`: learn a linear map of the vectors instead of one scale.
        rank: for `b`: size of the space in which answers and ideal points meet.
        dim: principal components that are kept; all if the vectors have no more.
        several: the column is a list of annotators.
        enough: labels from which on an annotator's own weights are trusted alone (ours).
        newcomers: annotators with fewer labels `join` the fit, or are `locate`d after it.
        steps: of Adam, for each start.
        starts: how many starts; the best is kept.
        folds: of the cross-fitting by prompt; 1 scores all pairs by the model of all.
        sample: most labels that the fit sees, drawn by id.
        encoder: of the vectors.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"

    annotator: Annotated[str, Field(min_length=1)] = "annotator"
    name: Annotated[str, Field(min_length=1)] = "pal"
    method: Literal["a", "b"] = "a"
    prototypes: int = Field(default=2, ge=1)
    linear: bool = False
    rank: int = Field(default=16, ge=1)
    dim: int = Field(default=32, ge=1)
    several: bool = False
    enough: int = Field(default=5, ge=1)
    newcomers: Literal["join", "locate"] = "join"
    steps: int = Field(default=400, ge=1)
    starts: int = Field(default=4, ge=1)
    folds: int = Field(default=5, ge=1)
    sample: int = Field(default=20_000, ge=1)
    encoder: Encoder = Encoder()

    @model_validator(mode="after")
    def _validate_method(self) -> Self:
        if self.method == "b" and self.linear:
            raise ValueError("linear is for method a; b always has a linear map")
        if self.method == "a" and self.rank != type(self).model_fields["rank"].default:
            raise ValueError("rank is for method b")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The annotator's column."""
        return {self.annotator: pl.List(pl.String) if self.several else pl.String()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Rewards of both sides for each prototype, the annotator's margin and group."""
        names = [f"{side}_{SCORE}{self.name}_{g}" for side in SIDES for g in range(self.prototypes)]
        rewards: dict[str, pl.DataType] = dict.fromkeys(names, pl.Float64())
        return {**rewards, f"margin_{self.name}": pl.Float64(), f"group_{self.name}": pl.Int64()}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to `pair_id`, `prompt_id`, `user` (List(String)) and float32 vectors."""
        vectors = self._vectors(table, ctx)
        columns = [pl.Series(n, v, pl.Array(pl.Float32, v.shape[1])) for n, v in vectors.items()]
        return table.select("pair_id", "prompt_id", user=self._users()).hstack(columns)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Fit the models.

        Args:
            parts: the rows of `fit_shard`, sorted by `pair_id`.
            ctx: draws the folds by prompt, the sample by pair, and the starts.

        Returns:
            State with the tables `users` (fold, or -1 for the model of all pairs; user, weights),
            `arrays` (fold, name, shape, values: components, and the arrays of the models) and the
            info that the class names.

        Raises:
            DataError: no pair has an annotator, or none has enough labels to shape a prototype.
        """
        labels = parts.explode("user").filter(pl.col("user").is_not_null())
        if not labels.height:
            raise DataError(
                f"labelers.PAL: no pair has an annotator: column {self.annotator!r} is null"
            )
        axes = {"answer": components([parts[side].to_numpy() for side in SIDES], self.dim)}
        if self.method == "b":
            axes["prompt"] = components([parts["prompt"].to_numpy()], self.dim)
        if labels.height > self.sample:
            draw = ctx.uniform(labels["pair_id"], "sample")
            labels = labels.with_columns(draw).sort("uniform", "pair_id", "user").head(self.sample)
            labels = labels.sort("pair_id", "user").drop("uniform")
        data = self._data(labels, axes, ctx)
        few = self._newcomers(data)
        folds = [f for f in np.unique(data.fold).tolist() if ((data.fold != f) & ~few).any()]
        folds = folds if self.folds > 1 else []
        models = {_ALL: self._ordered(self._model(data, few, ctx))}
        for f in folds:
            rest = data.fold != f
            model = self._model(data.at(rest), few[rest], ctx)
            models[f] = self._matched(model, models[_ALL])
        users = [self._weights(models[f], data.at(data.fold != f), f) for f in models]
        arrays = [_array(_ALL, f"axes_{n}", a) for n, a in axes.items()]
        for fold, model in models.items():
            arrays += [_array(fold, n, np.asarray(a)) for n, a in _parameters(model).items()]
        state = State({"users": pl.concat(users), "arrays": pl.DataFrame(arrays)})
        return State(state.tables, self._info(data, models, state))

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score PAIRS for every prototype and for their annotators; see `adds`."""
        if not table.height:
            return pl.DataFrame(schema=self.adds(Shape.PAIRS))
        names = ("answer", "prompt") if self.method == "b" else ("answer",)
        axes = {n: _read(ctx.fitted, _ALL, f"axes_{n}") for n in names}
        vectors = self._vectors(table, ctx)
        users = table.select(user=self._users())["user"]
        data = self._reduced(users, vectors, axes, self._fold(table["prompt_id"], ctx))
        rewards, margin = self._rewards(data, users, ctx.fitted)
        known = ctx.fitted.tables["users"].filter(pl.col("fold") == _ALL)
        group, seen = _mixed(users, known, self.prototypes)
        columns = {
            f"{side}_{SCORE}{self.name}_{g}": rewards[s, g]
            for s, side in enumerate(SIDES)
            for g in range(self.prototypes)
        }
        strongest = pl.Series(f"group_{self.name}", group.argmax(axis=1), pl.Int64)
        return pl.DataFrame({**columns, f"margin_{self.name}": margin}).with_columns(
            pl.when(pl.Series(seen)).then(strongest).alias(strongest.name)
        )

    def _users(self) -> pl.Expr:
        """Annotators of each pair, List(String), never empty: nobody is a null."""
        column = pl.col(self.annotator)
        nobody = pl.concat_list(pl.lit(None, dtype=pl.String))
        if not self.several:
            return pl.concat_list(column)
        return pl.when(column.list.len() > 0).then(column).otherwise(nobody)

    def _vectors(self, table: pl.DataFrame, ctx: Context) -> dict[str, NDArray[np.float32]]:
        """Embeddings of both answers, and for `b` of the last user message, Float32[n, d]."""
        if ctx.embed is None:
            raise ConfigError("labelers.PAL needs an encoder and this run has none")
        wanted = {side: text_of(pl.col(side)).fill_null("") for side in SIDES}
        if self.method == "b":
            wanted["prompt"] = last_user_text(pl.col("prompt"))
        texts = table.select(**wanted)
        return {name: ctx.embed(self.encoder, texts[name]) for name in texts.columns}

    def _fold(self, prompts: pl.Series, ctx: Context) -> Ints:
        return (ctx.uniform(prompts, "fold").to_numpy() * self.folds).astype(np.int64)

    def _data(self, labels: pl.DataFrame, axes: dict[str, Floats], ctx: Context) -> _Data:
        vectors = {n: labels[n].to_numpy() for n in labels.columns if n in ("prompt", *SIDES)}
        return self._reduced(labels["user"], vectors, axes, self._fold(labels["prompt_id"], ctx))

    def _reduced(
        self,
        users: pl.Series,
        vectors: dict[str, NDArray[np.float32]],
        axes: dict[str, Floats],
        fold: Ints,
    ) -> _Data:
        chosen, rejected = (rowwise(vectors[side], axes["answer"]) for side in SIDES)
        prompts = np.zeros((len(chosen), 0))
        if self.method == "b":
            prompts = rowwise(vectors["prompt"], axes["prompt"])
        return _Data(users.to_numpy(), prompts, chosen, rejected, fold)

    def _newcomers(self, data: _Data) -> NDArray[np.bool_]:
        """Which labels are of annotators that are located after the fit, Boolean[n].

        Raises:
            DataError: all are.
        """
        _, who, counts = np.unique(data.users, return_inverse=True, return_counts=True)
        few = (counts[who] < self.enough) & (self.newcomers == "locate")
        if few.all():
            raise DataError(
                f"labelers.PAL: no annotator has {self.enough} labels, so nobody shapes the "
                "prototypes; lower `enough`, or let newcomers `join`"
            )
        return few

    def _model(self, data: _Data, few: NDArray[np.bool_], ctx: Context) -> PALFit:
        """The fit of all but the newcomers, and them in it."""
        model = self._fitted(data.at(~few), ctx)
        if not few.any():
            return model
        logits = dict(zip(model.users, model.logits, strict=True))
        for user in np.unique(data.users[few]).tolist():
            own = data.at(data.users == user)
            y = np.ones(len(own.fold), np.int64)
            logits[user] = located(model, own.rejected, own.chosen, y, prompts=own.prompts)
        users = tuple(sorted(logits))
        return replace(model, users=users, logits=np.stack([logits[user] for user in users]))

    def _fitted(self, data: _Data, ctx: Context) -> PALFit:
        seed = int(ctx.rng("starts").integers(2**31))
        k, steps, starts = self.prototypes, self.steps, self.starts
        users, y = data.users.tolist(), np.ones(len(data.fold), np.int64)
        left, right = data.rejected, data.chosen
        if self.method == "a":
            return fit_pal(users, left, right, y, k, self.linear, steps, starts, seed)
        return fit_pal_b(users, data.prompts, left, right, y, k, self.rank, steps, starts, seed)

    def _ordered(self, model: PALFit) -> PALFit:
        """The model with its prototypes by falling mass."""
        return permuted(model, np.argsort(-model.user_weights.mean(axis=0), kind="stable"))

    def _matched(self, model: PALFit, whole: PALFit) -> PALFit:
        """The model with its prototypes in the order of another, by the annotators' weights."""
        row_of = {user: i for i, user in enumerate(whole.users)}
        theirs = whole.user_weights[[row_of[user] for user in model.users]]
        _, order = linear_sum_assignment(-(theirs.T @ model.user_weights))
        return permuted(model, order)

    def _weights(self, model: PALFit, data: _Data, fold: int) -> pl.DataFrame:
        """Weights by annotator, of few labels drawn to the mean; null user: the mean annotator."""
        names, counts = np.unique(data.users, return_counts=True)
        weights = softmax(shrunk(model.logits, counts, self.enough), axis=1)
        users = pl.Series("user", [*names.tolist(), None], pl.String)
        array = pl.Series("weights", weights, pl.Array(pl.Float64, self.prototypes))
        return pl.DataFrame([users, array]).with_columns(fold=pl.lit(fold, pl.Int64))

    def _rewards(self, data: _Data, users: pl.Series, state: State) -> tuple[Floats, Floats]:
        """Rewards Float64[2, k, n] for each prototype, and margins Float64[n] of the annotators."""
        known = state.tables["users"]
        fitted = set(known["fold"].unique())
        number = np.array([f if f in fitted else _ALL for f in range(self.folds)])[data.fold]
        rewards = np.empty((2, self.prototypes, len(number)))
        margin = np.empty(len(number))
        for fold in np.unique(number).tolist():
            at = number == fold
            part, model = data.at(at), _loaded(state, fold, self.method)
            sides = (part.chosen, part.rejected)
            for g in range(self.prototypes):
                alone = np.zeros((int(at.sum()), self.prototypes))
                alone[:, g] = 1.0
                for s, side in enumerate(sides):
                    rewards[s, g, at] = model.rewards(side, alone, part.prompts)
            mixed, _ = _mixed(users.filter(pl.Series(at)), known.filter(fold=fold), self.prototypes)
            own = [model.rewards(side, mixed, part.prompts) for side in sides]
            margin[at] = own[0] - own[1]
        return rewards, margin

    def _info(self, data: _Data, models: dict[int, PALFit], state: State) -> dict[str, Any]:
        users = pl.Series("user", [[u] for u in data.users.tolist()], pl.List(pl.String))
        nobody = pl.Series("user", [[None]] * len(users), pl.List(pl.String))
        accuracy: list[float | None] = [None, None]
        notes = []
        if len(models) > 1:
            margins = [self._rewards(data, who, state)[1] for who in (users, nobody)]
            accuracy = [float(((m > 0) + 0.5 * (m == 0)).mean()) for m in margins]
            if (accuracy[0] or 0) <= (accuracy[1] or 0):
                notes.append("The annotators' own points predict held-out labels no better.")
        else:
            notes.append("No held-out prompts: the fit can't be judged.")
        if len(models[_ALL].users) == 1:
            notes.append("There is one annotator: all prototypes are of that one.")
        return {
            "users": len(models[_ALL].users),
            "labels": len(users),
            "mass": models[_ALL].user_weights.mean(axis=0).tolist(),
            "accuracy": accuracy[0],
            "accuracy_mean": accuracy[1],
            "notes": notes,
        }


def _mixed(users: pl.Series, known: pl.DataFrame, k: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Mean weights of each row's annotators, Float64[n, k], and whether one of them is known."""
    columns = [f"w{g}" for g in range(k)]
    weights = known.select("user", *(pl.col("weights").arr.get(g).alias(f"w{g}") for g in range(k)))
    mean = weights.filter(pl.col("user").is_null())
    rows = users.alias("user").to_frame().with_row_index("row").explode("user").sort("row", "user")
    rows = rows.join(weights.drop_nulls("user"), on="user", how="left", maintain_order="left")
    filled = rows.with_columns(
        pl.col("w0").is_not_null().alias("known"),
        *(pl.col(c).fill_null(mean[c].item()) for c in columns),
    )
    by_row = filled.group_by("row", maintain_order=True).agg(
        pl.col(columns).mean(), pl.col("known").any()
    )
    return by_row.select(columns).to_numpy(), by_row["known"].to_numpy()


def _parameters(model: PALFit) -> dict[str, Any]:
    names = {
        PALModel: ("prototypes", "projection"),
        PALBModel: ("heads", "offsets", "projection", "sharpness"),
    }
    return {name: getattr(model, name) for name in names[type(model)]}


def _array(fold: int, name: str, values: NDArray[np.float64]) -> dict[str, Any]:
    shape = list(np.atleast_1d(values).shape)
    return {"fold": fold, "name": name, "shape": shape, "values": values.ravel().tolist()}


def _read(state: State, fold: int, name: str) -> Floats:
    arrays = state.tables["arrays"]
    row = arrays.filter(pl.col("fold") == fold, pl.col("name") == name)
    array: Floats = row["values"].item().to_numpy().reshape(row["shape"].item().to_list())
    return array


def _loaded(state: State, fold: int, method: str) -> PALFit:
    """The model of a fold, without its users."""
    nobody = np.zeros((0, 0))
    if method == "a":
        points, projection = (_read(state, fold, name) for name in ("prototypes", "projection"))
        return PALModel((), nobody, points, projection, 0.0)
    heads, offsets, projection, sharp = (
        _read(state, fold, name) for name in ("heads", "offsets", "projection", "sharpness")
    )
    return PALBModel((), nobody, heads, offsets, projection, float(sharp[0]), 0.0)

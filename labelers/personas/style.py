"""How far an answer is from the style of its persona, its topic taken out, and drift over turns."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from labelers.personas.counts import counted, frequent, matrix
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.measures import style
from prefactory.near.shingles import I64
from prefactory.near.vectors import Floats, one_thread
from prefactory.preferences.folds import cluster_folds
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, Shape, digests, last_user_text, text_of

LEAST_ANCHORS, LEAST_TURNS, LEAST_PERSONAS = 5, 5, 3
SHORT = 20
"""Words below which the counts of an answer say nothing."""
_ADDS: dict[str, pl.DataType] = {
    "style_distance": pl.Float32(),
    "style_third_distance": pl.Float32(),
    "style_delta": pl.Float32(),
    "drift_slope": pl.Float32(),
    "drift_p": pl.Float32(),
    f"{SCORE}style": pl.Float64(),
    "reason_style": pl.String(),
}


class PersonaStyle(Labeler):
    """Add how far an answer is from the style of its persona, and how that drifts over a dialogue.

    After ConsiStyle (arXiv:2505.20626); the text form is ours. A style vector has two blocks of
    equal weight: what the sentence vector of an answer has that its prompt's does not explain
    (ridge regression fitted on other prompts, 5 folds), and counts (statistics of the text, rates
    of the 100 most frequent words and of punctuation) that neither length nor the prompt's counts
    explain. An answer of fewer than 20 words has the first block only. The anchor of a persona is
    the mean of its first `anchors` answers, to questions of their own; rows with these prompts get
    no distance.

    New columns:

    - `style_distance` (Float32, 0 to 2): 1 - cosine of answer and anchor, the mean of all anchors
      taken off; `score_style` is minus that, for `labelers.Pairs`.
    - `style_third_distance` (Float32): of the anchor of a third persona, one for each prompt: the
      control of `generators.PersonaPairs`.
    - `style_delta` (Float32): Burrows' Delta, mean absolute difference of the standardised counts
      of answer and anchor.
    - `drift_slope`, `drift_p` (Float32): of the row's dialogue with five distances or more: slope
      of distance on turn, and how likely one as great is by chance (199 permutations of the turns).
    - `reason_style` (String): why there is no distance: `anchor`, `no_persona`, `empty_answer`,
      `few_anchors` (fewer than 5), `few_personas` (fewer than 3 that can be told apart),
      `alike_personas` (anchors with a cosine of `alike` or more).

    The state has how well own and third personas are told apart (`auc_shuffled`, .5 is chance).

    Drift that another model wrote measures the model, and topic words of a persona are both.

    Attributes:
        encoder: of prompts and answers.
        persona: column that tells whose answer it is.
        persona_is: a `number` (as of `generators.Personas`), or a `text`.
        dialogue: column of the dialogue's id; null: no drift.
        turn: column of the turn, for the drift and for which answers are first; null: none.
        anchors: answers of a persona that make its anchor, at most.
        alike: cosine of anchors from which on two personas are one (ours; anchors of ten noisy
            answers of one and the same persona may have .4 to .7).

    Example:
        - labelers.PersonaStyle: {}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"
    score_range: ClassVar[tuple[float | None, float | None]] = (-2.0, 0.0)
    direction: ClassVar[str] = "higher"

    encoder: Encoder = Encoder()
    persona: str = "persona"
    persona_is: Literal["number", "text"] = "number"
    dialogue: str | None = None
    turn: str | None = None
    anchors: int = Field(default=10, ge=LEAST_ANCHORS, le=20)
    alike: float = Field(default=0.8, gt=0, le=1)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Persona, dialogue (String) and turn (Int64)."""
        who: pl.DataType = pl.Int64() if self.persona_is == "number" else pl.String()
        columns = {self.persona: who, self.dialogue: pl.String(), self.turn: pl.Int64()}
        return {name: dtype for name, dtype in columns.items() if name is not None}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Distances, drift, and why there are none."""
        return dict(_ADDS)

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to ids, vectors and counts.

        Returns:
            A row for each answer, its id first.
        """
        if ctx.embed is None:
            raise ConfigError(f"{ctx.step} compares texts, but this context has no encoder")
        asked = table.select(last_user_text(pl.col("prompt"))).to_series()
        said = table.select(text_of(pl.col("response")).fill_null("")).to_series()
        dialogue: Any = (
            pl.col(self.dialogue).cast(pl.String) if self.dialogue else pl.lit(None, pl.String)
        )
        turn: Any = pl.col(self.turn).cast(pl.Float64) if self.turn else pl.lit(None, pl.Float64)
        rows = table.select(
            "response_id",
            "prompt_id",
            persona=pl.col(self.persona).cast(pl.String),
            dialogue=dialogue,
            turn=turn,
        ).with_columns(
            digests(asked).alias("question"),
            ctx.uniform(table["prompt_id"], "order").alias("order"),
            ctx.uniform(table["prompt_id"], "third").alias("third"),
            _vectors(ctx.embed(self.encoder, asked)).alias("asked_vector"),
            _vectors(ctx.embed(self.encoder, said)).alias("said_vector"),
        )
        return rows.hstack(counted(asked, "asked")).hstack(counted(said, "said"))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Find styles, anchors, distances and drifts.

        Args:
            parts: the rows of `fit_shard`, sorted by id.
            ctx: its seed makes the folds and permutations.

        Returns:
            State with the table `rows` (`response_id` and the columns of `adds`).
        """
        reasons = pl.when(pl.col("persona").is_null()).then(pl.lit("no_persona")).when(
            pl.col("said_length") == 0
        ).then(pl.lit("empty_answer"))  # fmt: skip
        parts = parts.with_columns(reason=reasons)
        live = parts.filter(pl.col("reason").is_null())
        with one_thread():
            measured, info = self._measured(live, ctx)
        columns = [c for c in _ADDS if c != f"{SCORE}style"]
        rows = parts.select("response_id", "reason").join(
            measured, on="response_id", how="left", maintain_order="left"
        )
        rows = rows.with_columns(reason_style=pl.coalesce("reason", "reason_style"))
        return State({"rows": rows.select("response_id", *columns)}, info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look the rows up in the state.

        Returns:
            The columns of `adds`, same height and order.
        """
        rows = table.select("response_id").join(
            ctx.fitted.tables["rows"], on="response_id", how="left", maintain_order="left"
        )
        score = -pl.col("style_distance").cast(pl.Float64)
        return rows.with_columns(score.alias(f"{SCORE}style")).select(*_ADDS)

    def _measured(self, live: pl.DataFrame, ctx: Context) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Distances of the rows that can have one, and facts."""
        if not live.height:
            return _rows(live, None), {"personas": 0}
        styles = _styles(live, ctx.seed)
        live = live.with_row_index("row")
        first = _first_answers(live, self.anchors)
        counts = first.group_by("persona").len()
        known = counts.filter(pl.col("len") >= LEAST_ANCHORS)["persona"].sort()
        first = first.filter(pl.col("persona").is_in(known.implode()))
        state = _told(styles, first, known, self.alike)
        live = live.with_columns(reason_style=_reason(live, first, known, state))
        facts: dict[str, Any] = {"personas": state.size, "anchors": self.anchors}
        good = live.filter(pl.col("reason_style").is_null())
        if not good.height:
            return _rows(live, None), facts
        found = _distances(styles, good, state)
        facts["auc_shuffled"] = _auc(found["style_distance"], found["style_third_distance"])
        found = found.join(_drifts(found, good, ctx), on="response_id", how="left")
        return _rows(live, found), facts


class _Styles(NamedTuple):
    """Style vectors of n answers.

    Attributes:
        vector: Float64[n, e], the block of the sentence vectors.
        counts: Float64[n, s], the block of counts; zeros for short answers.
        z: standardised counts, Float64[n, s].
        short: Bool[n].
    """

    vector: Floats
    counts: Floats
    z: Floats
    short: NDArray[np.bool_]

    @property
    def whole(self) -> Floats:
        return np.hstack([self.vector, self.counts])


class _Told(NamedTuple):
    """Personas that can be told apart.

    Attributes:
        place: persona -> its place.
        whole, vector: anchors by both blocks, and by the first alone (for short answers).
        z: mean standardised counts of each persona's anchor answers, Float64[P, s].
        alike: personas that are left out, for another one is like them.
        size: P.
    """

    place: dict[str, int]
    whole: style.Anchors
    vector: style.Anchors
    z: Floats
    alike: list[str]
    size: int


def _vectors(vectors: NDArray[Any]) -> pl.Series:
    return pl.Series(np.asarray(vectors, dtype=np.float32).tolist(), dtype=pl.List(pl.Float32))


def _array(column: pl.Series) -> Floats:
    return np.array(column.to_list(), dtype=np.float64).reshape(column.len(), -1)


def _styles(live: pl.DataFrame, seed: int) -> _Styles:
    folds = cluster_folds(live["question"], seed)
    rest = style.ridge_residual(_array(live["asked_vector"]), _array(live["said_vector"]), folds)
    words = frequent(live, "said")
    said, asked = (matrix(live, name, words) for name in ("said", "asked"))
    lengths = live["said_length"].to_numpy()
    short = lengths < SHORT
    counts = style.counted_residual(said, asked, np.log1p(lengths.astype(np.float64)))
    counts[short] = 0.0
    return _Styles(style.scaled(rest), style.scaled(counts), style.standardised(said), short)


def _first_answers(live: pl.DataFrame, most: int) -> pl.DataFrame:
    """`persona`, `prompt_id` and `row` of the first answers of each persona, one a question."""
    order = live.sort(pl.col("turn").fill_null(0), "order", "response_id")
    once = order.unique(["persona", "question"], keep="first", maintain_order=True)
    return (
        once.group_by("persona", maintain_order=True)
        .head(most)
        .select("persona", "prompt_id", "row")
    )


def _told(styles: _Styles, first: pl.DataFrame, known: pl.Series, most: float) -> _Told:
    """Anchors of the personas, those left out that are like another one."""
    alike: list[str] = []
    while True:
        names = [name for name in known.to_list() if name not in alike]
        place = {name: i for i, name in enumerate(names)}
        rows = first.filter(pl.col("persona").is_in(names))
        at = rows["row"].to_numpy()
        who: I64 = np.array([place[p] for p in rows["persona"]], dtype=np.int64)
        count = len(names)
        if not count:
            none = style.Anchors(np.zeros(0), np.zeros((0, 0)))
            return _Told(place, none, none, np.zeros((0, 0)), alike, 0)
        whole = style.anchors(styles.whole[at], who, count)
        same = style.alike(whole.own, most) if count > 1 else np.zeros(count, bool)
        if not same.any():
            z = np.zeros((count, styles.z.shape[1]))
            np.add.at(z, who, styles.z[at])
            z /= np.bincount(who, minlength=count)[:, None]
            vector = style.anchors(styles.vector[at], who, count)
            return _Told(place, whole, vector, z, alike, count)
        alike += [name for name, out in zip(names, same, strict=True) if out]


def _reason(live: pl.DataFrame, first: pl.DataFrame, known: pl.Series, state: _Told) -> pl.Series:
    """Why rows get no distance."""
    anchors = first.select("persona", "prompt_id", anchor=pl.lit(value=True)).unique()
    marked = live.select("persona", "prompt_id").join(
        anchors, on=["persona", "prompt_id"], how="left", maintain_order="left"
    )
    persona = pl.col("persona")
    few = state.size < LEAST_PERSONAS
    return marked.select(
        pl.when(~persona.is_in(known.implode()))
        .then(pl.lit("few_anchors"))
        .when(persona.is_in(state.alike))
        .then(pl.lit("alike_personas"))
        .when(pl.lit(few))
        .then(pl.lit("few_personas"))
        .when(pl.col("anchor"))
        .then(pl.lit("anchor"))
        .alias("reason_style")
    ).to_series()


def _distances(styles: _Styles, good: pl.DataFrame, state: _Told) -> pl.DataFrame:
    rows = good["row"].to_numpy()
    own: I64 = np.array([state.place[p] for p in good["persona"]], dtype=np.int64)
    steps = 1 + np.floor(good["third"].to_numpy() * (state.size - 1)).astype(np.int64)
    third = (own + steps) % state.size
    near, far = np.zeros(rows.size), np.zeros(rows.size)
    short = styles.short[rows]
    for mine, vectors, anchors in (
        (~short, styles.whole, state.whole),
        (short, styles.vector, state.vector),
    ):
        if mine.any():
            seen, a, b = vectors[rows[mine]], anchors.own[own[mine]], anchors.own[third[mine]]
            near[mine] = style.distances(seen, a, anchors.mean)
            control = style.third_anchors(a, b, state.size)
            far[mine] = style.distances(seen, control, anchors.mean)
    delta = style.burrows_delta(styles.z[rows], state.z[own])
    return good.select("response_id").with_columns(
        style_distance=pl.Series(near, dtype=pl.Float32),
        style_third_distance=pl.Series(far, dtype=pl.Float32),
        style_delta=pl.Series(delta, dtype=pl.Float32),
    )


def _auc(own: pl.Series, third: pl.Series) -> float:
    """Chance that an own distance is below one of a third persona."""
    ranks = pl.concat([own, third]).rank("average").to_numpy()[own.len() :]
    n, m = own.len(), third.len()
    return round(float((ranks.sum() - m * (m + 1) / 2) / (n * m)), 4)


def _drifts(found: pl.DataFrame, good: pl.DataFrame, ctx: Context) -> pl.DataFrame:
    """Drift of each dialogue with enough turns, for its rows."""
    rows = good.select("response_id", "dialogue", "turn").join(found, on="response_id", how="left")
    rows = rows.drop_nulls(["dialogue", "turn"]).sort("dialogue", "turn", "response_id")
    told = []
    for (dialogue,), own in rows.group_by("dialogue", maintain_order=True):
        if own["turn"].n_unique() >= LEAST_TURNS:
            rng = ctx.rng(f"drift {dialogue}")
            turns, values = own["turn"].to_numpy(), own["style_distance"].to_numpy()
            told.append((dialogue, *style.drift(turns, values.astype(np.float64), rng)))
    schema = {"dialogue": pl.String, "drift_slope": pl.Float32, "drift_p": pl.Float32}
    drifts = pl.DataFrame(told, schema=schema, orient="row")
    return (
        rows.select("response_id", "dialogue")
        .join(drifts, on="dialogue", how="left")
        .drop("dialogue")
    )


def _rows(live: pl.DataFrame, found: pl.DataFrame | None) -> pl.DataFrame:
    """The columns of `adds` but the score, of all rows."""
    base = live.select("response_id", pl.col("^reason_style$"))
    if "reason_style" not in base.columns:
        base = base.with_columns(reason_style=pl.lit(None, pl.String))
    if found is not None:
        base = base.join(found, on="response_id", how="left", maintain_order="left")
    missing = [pl.lit(None, t).alias(c) for c, t in _ADDS.items()
               if c not in base.columns and c != f"{SCORE}style"]  # fmt: skip
    return base.with_columns(missing)

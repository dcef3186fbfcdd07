"""Several pictures in one question, of pairs about single pictures (MIA-DPO)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from generators.answers.rows import as_messages
from generators.answers.step import Origin
from generators.images.attention import AttentionGate
from generators.images.canvas import TILE, grid, inset
from generators.images.columns import ANNOTATORS, PROVENANCE, one_picture
from prefactory.asking import Sampled, storable
from prefactory.asking.gate import Gated, Problem, Said
from prefactory.context import Context
from prefactory.engines.base import Completion, Failure, Message, Result, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.images.marks import IMAGES, MARK, NAMED, Pictures, mark_of
from prefactory.images.media import UnreadableImageError, described
from prefactory.step import Asks, Generated, Generator, Scope, State
from prefactory.tables import COLUMNS, Shape, canonical_order, digests, text_of, with_ids

Kind = Literal["sequence", "grid", "picture_in_picture"]
MOST = {"sequence": 5, "grid": 9, "picture_in_picture": 2}
"""Pictures of a composition at most."""


class ComposedImages(Gated, Sampled, Generator):
    """Make a question about one of several pictures of each pair about a single one.

    MIA-DPO (arXiv:2410.17637): a model trained on such pairs learns to look at the picture that is
    asked about. The other pictures are those of other pairs with another chosen answer. Each pair
    gives one row, of a kind that is drawn:

    - `sequence`: 2 to 5 pictures, each under its number ("Image 2:"), and "In image 2, ...".
    - `grid`: one picture of 2 to 9 numbered tiles, and "In picture 2, ...".
    - `picture_in_picture`: the picture in the middle of another, a third as large.

    The chosen answer stays. The rejected one is what `model` answers to the composed question, or
    that of the pair, if there is no `model`. The filters of answers are those of the paper's code:
    the model's answer is not the chosen one, the chosen one has fewer than `longest` characters,
    the answer's perplexity is above `least_perplexity` (where the engine tells log-probabilities)
    and, with `attention`, the model hardly looked at the picture asked about (sequences only:
    of one picture's tiles it can't be told). Put `filters.PairSanity` behind it for the paper's
    filters of lengths and edit distance.

    Columns beside those of the pair: `source_pair_id`, `composition`, `shown` and `target` (Int64,
    how many pictures, and which is asked about, from 1), `attention_ratio` (Float64, null without
    `attention`), `contrast` (`text`: the sides differ in it) and `annotator`. With a `model`, the
    scores of the rejected side and `margin` are null, and `label_source` is `rule`.

    Reasons: `not_one_image`, `no_question` (the prompt does not end with the user's picture),
    `too_few_images`, `damaged_image`, `long_answer`, `same_text`, those of the gate,
    `low_perplexity`, `attention`, and those of the engine.

    Attributes:
        model: answers the composed questions; null keeps the pair's rejected answer.
        kinds: that are drawn from, with equal chances.
        pool: pictures among which others are drawn.
        tile: side of a grid's tile, in pixels; a picture in picture has twice that side.
        longest: characters of a chosen answer must be fewer.
        least_perplexity: of the model's answer; 1 for no such rule.
        attention: looks where a model looks; off by default.
        origin: of the model's answers.
        annotator: who made the answers differ, by the words of the survey of multimodal alignment.
        sampling: how answers are drawn.

    Example:
        - generators.ComposedImages:
            kinds: [sequence, grid]
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = ("source_pair_id",)
    new_prompts: ClassVar[bool] = True

    model: AnyEngine | None = None
    kinds: tuple[Kind, ...] = Field(
        default=("sequence", "grid", "picture_in_picture"), min_length=1
    )
    pool: int = Field(default=10_000, ge=2)
    tile: int = Field(default=TILE, ge=16, le=2048)
    longest: int = Field(default=512, ge=2)
    least_perplexity: float = Field(default=1.1, ge=1)
    attention: AttentionGate | None = None
    origin: Origin = "self"
    annotator: ANNOTATORS = "unknown"
    sampling: SamplingParams = SamplingParams(max_tokens=512)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """`images`."""
        return {"images": IMAGES}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """What was composed, and of what."""
        return {
            "images": IMAGES,
            "source_pair_id": pl.String(),
            "composition": pl.String(),
            "shown": pl.Int64(),
            "target": pl.Int64(),
            "attention_ratio": pl.Float64(),
            **PROVENANCE,
        }

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """One answer a pair, if there is a model."""
        if self.model is None:
            return []
        return [Asks(self.model, rows, 2_000, self.sampling.max_tokens)]

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to the pictures that others may be drawn from.

        Returns:
            `pair_id`, `draw` (Float64), `name` (of the picture) and `answer` (a digest of the
            chosen text) of at most `pool` pairs with one picture that can be opened.
        """
        rows = table.select("pair_id", name=one_picture(table["prompt"]), answer=_answers(table))
        rows = rows.filter(pl.col("name").is_not_null())
        rows = rows.with_columns(draw=ctx.uniform(rows["pair_id"], "pool"))
        rows = _lowest(rows, self.pool).select("pair_id", "draw", "name", "answer")
        whole = [_opens(name, ctx.images) for name in rows["name"]]
        return rows.filter(pl.Series(whole, dtype=pl.Boolean))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the pool: each picture once."""
        pool = _lowest(parts, self.pool).unique("name", keep="first", maintain_order=True)
        return State({"pool": pool.drop("draw")}, {"pool": pool.height})

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Compose a question of each pair of a table.

        Args:
            table: PAIRS, the names of pictures in their marks.
            ctx: holds the pool and the pictures; opens the model.

        Returns:
            PAIRS in canonical order, and the pairs without a child.
        """
        tasks = self._tasks(table, ctx)
        self._answered([t for t in tasks if t.reason is None], table, ctx)
        for task in tasks:
            self._filtered(task, ctx)
        good = [t for t in tasks if t.reason is None]
        dropped = pl.DataFrame(
            [(table["pair_id"][t.row], t.reason, t.detail) for t in tasks if t.reason is not None],
            schema={"row_id": pl.String, "reason": pl.String, "detail": pl.String},
            orient="row",
        )
        return Generated(self._rows(table, good), dropped)

    def _tasks(self, table: pl.DataFrame, ctx: Context) -> list[_Task]:
        pool = ctx.fitted.tables["pool"]
        others = list(zip(pool["name"], pool["answer"], strict=True))
        seeds = (ctx.uniform(table["pair_id"], "composition") * 2**53).cast(pl.UInt64).to_list()
        columns = table.select(
            "prompt",
            name=one_picture(table["prompt"]),
            answer=_answers(table),
            chosen=text_of(pl.col("chosen")).fill_null(""),
            rejected=text_of(pl.col("rejected")).fill_null(""),
        )
        tasks = []
        for row, facts in enumerate(columns.iter_rows(named=True)):
            task = _Task(row, facts["prompt"], facts["chosen"], facts["rejected"])
            tasks.append(task)
            if facts["name"] is None:
                task.fail("not_one_image", "the prompt has no picture, or several")
            elif (
                not NAMED.search(task.talk[-1]["content"] or "") or task.talk[-1]["role"] != "user"
            ):
                task.fail("no_question", "the picture is not in the user's last message")
            elif len(task.chosen) >= self.longest:
                task.fail("long_answer", f"{len(task.chosen)} characters")
            else:
                rng = np.random.Generator(np.random.Philox(key=seeds[row]))
                drawn = self._drawn(facts["name"], facts["answer"], others, rng)
                self._compose(task, facts["name"], drawn, rng, ctx.images)
        return tasks

    def _drawn(
        self, own: str, answer: str, others: list[tuple[str, str]], rng: np.random.Generator
    ) -> tuple[str, list[str]]:
        """A kind, and the names of the other pictures of a composition."""
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        wanted = int(rng.integers(2, MOST[kind] + 1)) - 1
        names: dict[str, None] = {}
        for place in rng.permutation(len(others)):
            name, said = others[int(place)]
            if name != own and said != answer:
                names[name] = None
            if len(names) == wanted:
                break
        return kind, list(names)

    def _compose(
        self,
        task: _Task,
        own: str,
        drawn: tuple[str, list[str]],
        rng: np.random.Generator,
        pictures: Pictures | None,
    ) -> None:
        kind, others = drawn
        if not others or pictures is None:
            task.fail("too_few_images", "no other picture with another answer")
            return
        if not _opens(own, pictures):
            task.fail("damaged_image", "the picture can't be opened")
            return
        task.kind, task.shown = kind, 1 + len(others)
        task.target = int(rng.integers(task.shown)) if kind != "picture_in_picture" else 0
        names = [*others[: task.target], own, *others[task.target :]]
        try:
            if kind == "sequence":
                task.pictures = [{"bytes": None, "path": name} for name in names]
            else:
                data = [pictures.get(name) for name in names]
                whole = (
                    grid(data, self.tile)
                    if kind == "grid"
                    else inset(data[0], data[1], 2 * self.tile)
                )
                names = [pictures.put(whole)]
                task.pictures = [{"bytes": whole, "path": None}]
        except UnreadableImageError as error:
            task.fail("damaged_image", f"a picture {error}")
            return
        asked = NAMED.sub("", task.talk[-1]["content"]).strip()
        text = question(kind, task.shown, task.target + 1, asked)
        task.plain = [*task.talk[:-1], {**task.talk[-1], "content": text}]
        left = iter(names)
        marked = "".join(
            piece if not place else mark_of(next(left)) + piece
            for place, piece in enumerate(text.split(MARK))
        )
        task.talk = [*task.talk[:-1], {**task.talk[-1], "content": marked}]

    def _answered(self, tasks: list[_Task], table: pl.DataFrame, ctx: Context) -> None:
        """Let the model answer the composed questions."""
        if self.model is None or not tasks:
            return
        ids = [f"{table['pair_id'][t.row]}/{ctx.step}" for t in tasks]
        talks = [[{k: m[k] for k in ("role", "content")} for m in t.talk] for t in tasks]
        replies = ctx.open(self.model).generate(talks, self.sampling.drawn(ctx.seed), ids)
        said = {
            i: Said(storable(reply.text).strip(), reply.finish_reason, talk)
            for i, ((reply,), talk) in enumerate(zip(replies, talks, strict=True))
            if not isinstance(reply, Failure)
        }
        problems = dict(zip(said, self.gate.problems(list(said.values())), strict=True))
        for i, (task, (reply,)) in enumerate(zip(tasks, replies, strict=True)):
            self._take(task, reply, problems.get(i))

    def _take(self, task: _Task, reply: Result, problem: Problem | None) -> None:
        if isinstance(reply, Failure):
            task.fail(reply.reason, reply.detail)
            return
        task.rejected = storable(reply.text).strip()
        perplexity = _perplexity(reply)
        if problem is not None:
            task.fail(*problem)
        elif perplexity is not None and perplexity <= self.least_perplexity:
            task.fail("low_perplexity", f"{perplexity:.3f}")

    def _filtered(self, task: _Task, ctx: Context) -> None:
        if task.reason is not None:
            return
        if task.rejected.strip().casefold() == task.chosen.strip().casefold():
            task.fail("same_text", "the model is right")
        elif self.attention is not None and task.kind == "sequence" and ctx.images is not None:
            task.ratio = self.attention.ratio(task.talk, ctx.images, task.rejected, task.target)
            most = self.attention.most.get(task.shown, 1.0)
            if task.ratio > most:
                task.fail("attention", f"{task.ratio:.3f} on the picture asked about, over {most}")

    def _rows(self, table: pl.DataFrame, tasks: list[_Task]) -> pl.DataFrame:
        facts = {
            "prompt": pl.Series([t.plain for t in tasks], dtype=table.schema["prompt"]),
            "images": pl.Series([t.pictures for t in tasks], dtype=IMAGES),
            "composition": pl.Series([t.kind for t in tasks], dtype=pl.String),
            "shown": pl.Series([t.shown for t in tasks], dtype=pl.Int64),
            "target": pl.Series([t.target + 1 for t in tasks], dtype=pl.Int64),
            "attention_ratio": pl.Series([t.ratio for t in tasks], dtype=pl.Float64),
        }
        rows = table[[t.row for t in tasks]].with_columns(
            source_pair_id=pl.col("pair_id"),
            contrast=pl.lit("text"),
            annotator=pl.lit(self.annotator),
            **facts,
        )
        if self.model is not None:
            texts = pl.Series("_text", [t.rejected for t in tasks], dtype=pl.String)
            rows = rows.with_columns(texts).with_columns(
                rejected=as_messages(pl.col("_text")),
                rejected_model=pl.lit(self.model.model),
                label_source=pl.lit("rule"),
                **self._unscored(rows),
            )
            rows = rows.drop("_text")
        rows = with_ids(rows, Shape.PAIRS)
        first = [*COLUMNS[Shape.PAIRS], *self.adds(Shape.PAIRS)]
        rows = rows.select(*first, *[c for c in rows.columns if c not in first])
        return canonical_order(rows, Shape.PAIRS)

    def _unscored(self, rows: pl.DataFrame) -> dict[str, pl.Expr]:
        """What was known of the rejected answer and is not of another; whose it is."""
        names = [c for c in rows.columns if c == "margin" or c.startswith("rejected_score_")]
        gone = {name: pl.lit(None, dtype=pl.Float64) for name in names}
        origin = "rejected_origin" in rows.columns
        return gone | ({"rejected_origin": pl.lit(self.origin)} if origin else {})


def question(kind: str, shown: int, target: int, asked: str) -> str:
    """The words of a composed question, marks where its pictures stand.

    Args:
        kind: of the composition.
        shown: number of pictures.
        target: which is asked about, from 1.
        asked: the question.
    """
    if kind == "sequence":
        images = "\n".join(f"Image {i}: {MARK}" for i in range(1, shown + 1))
        return f"{images}\nIn image {target}: {asked}"
    if kind == "grid":
        return f"{MARK}\nThe image shows {shown} numbered pictures. In picture {target}: {asked}"
    return f"{MARK}\nA small picture is set into a larger one. In the small picture: {asked}"


@dataclass
class _Task:
    """One pair on its way to a composed one."""

    row: int
    talk: list[Message]
    chosen: str
    rejected: str
    plain: list[Message] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    kind: str = ""
    shown: int = 0
    target: int = 0
    ratio: float | None = None
    reason: str | None = None
    detail: str | None = None

    def fail(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


def _opens(name: str, pictures: Pictures | None) -> bool:
    """Whether a picture can be opened, by its head."""
    return pictures is not None and not described(pictures.get(name)).problem


def _asks_about_it(message: Message) -> bool:
    return message["role"] == "user" and NAMED.search(message["content"] or "") is not None


def _answers(table: pl.DataFrame) -> pl.Series:
    """A digest of each chosen text, without case."""
    text = text_of(pl.col("chosen")).fill_null("").str.to_lowercase().str.strip_chars()
    return digests(table.select(answer=text)["answer"])


def _perplexity(reply: Completion) -> float | None:
    if reply.logprob is None or not reply.completion_tokens:
        return None
    return math.exp(-reply.logprob / reply.completion_tokens)


def _lowest(rows: pl.DataFrame, most: int) -> pl.DataFrame:
    """The rows of the lowest draws, in order of their ids."""
    return rows.sort("draw", "pair_id").head(most).sort("pair_id")

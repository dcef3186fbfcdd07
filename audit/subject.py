"""The data under audit: one table in canonical order, with texts, sides and draws at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.finding import NAMED, Example
from audit.judged import Judge, Judged, draw, judged
from audit.loading import Intake
from audit.reference import Reference
from filters.duplicates.exact import normalised
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.preferences.damage import OF_TEXT
from prefactory.tables import (
    ROW_ID,
    SIDES,
    Shape,
    in_parts,
    is_score,
    last_user_text,
    shape_of,
    text_of,
)

if TYPE_CHECKING:
    from catalog.values import ValueSystem
    from filters.contamination.benchmarks import Benchmark
    from prefactory.chat_template import ChatTemplate

EXAMPLES = 5
"""Rows that a finding shows."""
EXCERPT = 400
"""Characters of a text that an example shows."""
LABEL = "score_label"
"""Score that says good (1) or bad (0) of an unpaired answer (KTO)."""
SPLIT = "split"

Rows = NDArray[np.int64]
Embed = Callable[[pl.Series], NDArray[np.float32]]


@dataclass(frozen=True)
class Options:
    """How to audit. Everything that is drawn comes from `seed` and row ids.

    Attributes:
        seed: of samples, folds and permutations.
        embeddings: whether checks may embed texts (separability, topics, diversity).
        embed: texts (String [N]) -> float32 [N, d]; None opens the bundled encoder at first need.
        encoder: name of what `embed` runs, for the report.
        embed_rows: rows that are embedded at most, drawn by row id.
        probe_rows: rows that the surface probe learns on at most.
        permutations: draws of a permutation test.
        relevance_rows: rows whose answers are held against their prompts at most, by embedding.
        against: benchmarks whose prompts must not be in the data.
        topic: column that names each row's topic; None looks for one.
        values: value system or risk taxonomy whose coverage is measured.
        judge: a model that is asked about a sample of the labels.
        template: chat template that the rows are rendered with.
        reference: the model that is to be trained.
    """

    seed: int = 0
    embeddings: bool = True
    embed: Embed | None = None
    encoder: str = "minilm"
    embed_rows: int = 1000
    probe_rows: int = 4000
    permutations: int = 1000
    relevance_rows: int = 2000
    against: tuple[Benchmark, ...] = ()
    topic: str | None = None
    values: ValueSystem | None = None
    judge: Judge | None = None
    template: ChatTemplate | None = None
    reference: Reference | None = None

    def to_dict(self) -> dict[str, Any]:
        """What decides the numbers, as plain JSON data."""
        return {
            "seed": self.seed,
            "embeddings": self.encoder if self.embeddings else None,
            "embed_rows": self.embed_rows,
            "probe_rows": self.probe_rows,
            "permutations": self.permutations,
            "relevance_rows": self.relevance_rows,
            "against": [
                {"name": b.name, "prompts": b.texts.len(), "digest": b.digest} for b in self.against
            ],
            "topic": self.topic,
            "values": None if self.values is None else self.values.system,
            "judge": None
            if self.judge is None
            else {"model": self.judge.model, "sample": self.judge.sample},
            "reference": None
            if self.reference is None
            else {"model": self.reference.model, "sample": self.reference.sample},
        }


@dataclass(frozen=True)
class Side:
    """The answers of one side.

    Attributes:
        name: `chosen`, `rejected` or `response`.
        rows: index of each answer's row in the table, ascending.
        text: all messages of the answer, joined (no nulls).
        ids: id of the answer.
        prompts: number of its prompt.
        model: name of the model that wrote it; null if unknown.
    """

    name: str
    rows: Rows
    text: pl.Series = field(repr=False)
    ids: pl.Series = field(repr=False)
    prompts: Rows = field(repr=False)
    model: pl.Series = field(repr=False)


if TYPE_CHECKING:
    shared = cached_property
else:

    class shared(cached_property):
        """A property that is made once, also when checks on two threads ask for it."""

        def __init__(self, func: Callable) -> None:
            """Python 3.12 and later lock nothing of their own."""
            super().__init__(func)
            self._making = RLock()

        def __get__(self, instance: object, owner: type | None = None) -> object:
            with self._making:
                return super().__get__(instance, owner)


class Subject:
    """A table that is audited. The order of its rows does not matter: it is sorted here.

    Attributes:
        table: the rows, sorted by prompt id, row id, and what else tells copies apart.
        shape: of the table.
        options: how to audit.
        intake: where the rows came from and what the reader left out.
    """

    def __init__(self, table: pl.DataFrame, options: Options, intake: Intake) -> None:
        """Sort the table; everything else is made when a check asks for it."""
        self.shape = shape_of(table)
        self.options = options
        self.intake = intake
        also = ("source", "source_id", SPLIT, "margin")
        keys = ["prompt_id", ROW_ID[self.shape], *(c for c in also if c in table.columns)]
        keys += sorted(c for c in table.columns if is_score(c))
        self.table = table.sort(list(dict.fromkeys(keys)), nulls_last=True)
        self._draws = Context(options.seed, "audit")
        self._embedding = RLock()
        self._vector_rows: dict[str, int] = {}
        self._vectors: list[NDArray[np.float32]] = []

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.table.height

    @property
    def paired(self) -> bool:
        """Whether every row is a pair."""
        return self.shape == Shape.PAIRS

    @shared
    def row_ids(self) -> pl.Series:
        """Id of every row; not unique where rows are copies."""
        return self.table[ROW_ID[self.shape]]

    @shared
    def prompts(self) -> Rows:
        """Number of every row's prompt, in canonical order, shape (rows,)."""
        return (self.table["prompt_id"].rank("dense").to_numpy() - 1).astype(np.int64)

    @property
    def n_prompts(self) -> int:
        """Number of distinct prompts."""
        return int(self.prompts[-1]) + 1 if self.height else 0

    @shared
    def question(self) -> pl.Series:
        """The last user message of every row's prompt."""
        return self.table.select(question=last_user_text(pl.col("prompt")))["question"]

    @shared
    def prompt_text(self) -> pl.Series:
        """All messages of every row's prompt, joined."""
        return self._text_column("prompt")

    @shared
    def folded_prompt(self) -> pl.Series:
        """`prompt_text` without differences of case, white space and Unicode composition."""
        return fold(self.prompt_text)

    @shared
    def sides(self) -> tuple[Side, ...]:
        """Chosen and rejected; of unpaired answers those labelled good and bad, or all as one."""
        every = np.arange(self.height, dtype=np.int64)
        if self.shape == Shape.PAIRS:
            return tuple(self._side(s, s, f"{s}_id", f"{s}_model", every) for s in SIDES)
        if self.shape == Shape.PROMPTS:
            return ()
        if LABEL in self.table.columns:
            good = (self.table[LABEL] >= 0.5).fill_null(value=False).to_numpy()
            bad = (self.table[LABEL] < 0.5).fill_null(value=False).to_numpy()
            if good.any() and bad.any():
                return tuple(
                    self._side(name, "response", "response_id", "model", every[mask])
                    for name, mask in zip(SIDES, (good, bad), strict=True)
                )
        return (self._side("response", "response", "response_id", "model", every),)

    @property
    def two_sided(self) -> bool:
        """Whether answers are told apart as chosen and rejected (pairs or labels)."""
        return len(self.sides) == 2

    def _side(self, name: str, column: str, row_id: str, model: str, rows: Rows) -> Side:
        at = pl.Series(rows)
        return Side(
            name,
            rows,
            self._text_column(column).gather(at),
            self.table[row_id].gather(at),
            self.prompts[rows],
            self.table[model].gather(at),
        )

    def _text_column(self, column: str) -> pl.Series:
        return self.table.select(text_of(pl.col(column)).fill_null("").alias(column))[column]

    @shared
    def keys(self) -> pl.DataFrame:
        """64-bit hashes of folded texts, by row: `prompt`, and of pairs `chosen` and `rejected`.

        Of unpaired answers `response`. Equal keys are equal texts; the numbers mean nothing else.
        """
        answers = {Shape.PAIRS: SIDES, Shape.RESPONSES: ("response",)}.get(self.shape, ())
        texts = {"prompt": self.folded_prompt} | {n: self._text_column(n) for n in answers}
        hashed = (normalised(pl.col(name), True, True, True).hash(0) for name in answers)
        # in one select, the columns run side by side
        return pl.DataFrame(texts).select(pl.col("prompt").hash(0), *hashed)

    @shared
    def features(self) -> tuple[pl.DataFrame, ...]:
        """Lengths and style counts of the answers of each side (see `style_features`)."""
        from filters.content.style import style_features

        return tuple(in_parts(style_features, side.text) for side in self.sides)

    def gap(self, feature: str) -> NDArray[np.float64]:
        """A feature of the chosen minus that of the rejected answer of every pair."""
        chosen, rejected = (f[feature].cast(pl.Float64).to_numpy() for f in self.features)
        return np.asarray(chosen - rejected)

    def sample(self, rows: Rows, n: int, salt: str) -> Rows:
        """At most n of some rows, drawn by row id and returned in ascending order.

        Samples under one salt are nested: what is embedded for one check serves the next.
        """
        if rows.size <= n:
            return rows
        draws = self._draws.uniform(self.row_ids.gather(pl.Series(rows)), salt).to_numpy()
        return np.sort(rows[np.argsort(draws, kind="stable")[:n]])

    def rng(self, salt: str) -> np.random.Generator:
        """A generator seeded by the audit's seed and a name."""
        return self._draws.rng(salt)

    def folds(self, n: int, salt: str = "folds") -> Rows:
        """Fold 0 to n - 1 of every row; rows of one prompt share it, and so do copies of prompts.

        Prompts that fold to the same text are one group, so that a probe can't learn an answer
        under one spelling of its prompt and be asked under another.
        """
        draws = self._draws.uniform(_keys(self.folded_prompt), salt).to_numpy()
        return np.asarray(np.minimum((draws * n).astype(np.int64), n - 1))

    def embed(self, texts: pl.Series) -> NDArray[np.float32]:
        """Vectors of texts, each distinct one embedded once in an audit; float32 [N, d]."""
        with self._embedding:
            return self._embedded(texts)

    def _embedded(self, texts: pl.Series) -> NDArray[np.float32]:
        unknown = texts.unique().sort()
        unknown = unknown.filter(
            pl.Series([text not in self._vector_rows for text in unknown], dtype=pl.Boolean)
        )
        if unknown.len():
            start = len(self._vector_rows)
            self._vector_rows.update((text, start + i) for i, text in enumerate(unknown))
            self._vectors.append(np.asarray(self._embed(unknown), dtype=np.float32))
        vectors = np.concatenate(self._vectors)
        return vectors[[self._vector_rows[text] for text in texts]]

    @shared
    def _embed(self) -> Embed:
        if self.options.embed is not None:
            return self.options.embed
        from prefactory.engines.encoder import Encoder

        return Encoder(model=self.options.encoder).open().embed

    def examples(
        self, rows: Iterable[int], notes: Sequence[str] | None = None, n: int = EXAMPLES
    ) -> tuple[Example, ...]:
        """The first n of some rows, as examples.

        Args:
            rows: indices into the table, in the order in which to show them.
            notes: what is wrong with each row, in the same order.
            n: how many to show.
        """
        first = [int(row) for _, row in zip(range(n), rows, strict=False)]
        shown = list(notes)[: len(first)] if notes is not None else [""] * len(first)
        return tuple(self._example(row, note) for row, note in zip(first, shown, strict=True))

    def named(self, rows: pl.DataFrame | None, left_out: pl.DataFrame | None) -> pl.DataFrame:
        """Rows by id, place in their source and note: all that a finding names (see `NAMED`)."""
        parts = [pl.DataFrame(schema=NAMED)]
        if rows is not None:
            rows_at = rows["row"]
            ids, source_ids = self.row_ids.gather(rows_at), self.table["source_id"].gather(rows_at)
            columns = {"row": ids, "where": source_ids, "note": rows["note"]}
            parts.append(pl.DataFrame(columns, schema=NAMED))
        if left_out is not None:
            none = pl.lit(None, dtype=pl.String)
            parts.append(
                left_out.select(none.alias("row"), pl.col("row_id").alias("where"), "note")
            )
        return pl.concat(parts)

    @shared
    def damage(self) -> pl.DataFrame:
        """Hits of the damage rules that need no vectors (see `prefactory.preferences.damage`)."""
        from prefactory.preferences.damage import damage, learn
        from prefactory.preferences.damage.foreign import main_language, without_foreign

        model = learn(self.table)
        rules = [rule for rule in OF_TEXT if rule != "garbled" or model is not None]
        hits = damage(self.table, rules, model=model)
        return without_foreign(hits, self.table, main_language(self.table))

    @shared
    def relevance(self) -> tuple[Rows, pl.DataFrame | None]:
        """Rows of a sample, and how their chosen (or only) answers fit their prompts and others.

        See `prefactory.preferences.damage.judge_relevance`; None for too few different prompts.
        """
        from prefactory.preferences.damage import Vectors, judge_relevance, texts_of_meaning

        rows = self.sample(self.sides[0].rows, self.options.relevance_rows, "texts")
        table = self.table[rows]
        return rows, judge_relevance(table, Vectors(*map(self.embed, texts_of_meaning(table))))

    @shared
    def undamaged(self) -> pl.DataFrame:
        """Pairs, each once, on whose chosen answer no damage rule of texts hits; and `_row`."""
        hit = self.damage.filter(pl.col("side") != "rejected")["id"]
        sound = self.table.with_row_index("_row").filter(~pl.col("pair_id").is_in(hit.implode()))
        once = sound.unique("pair_id", keep="first", maintain_order=True)
        return once.with_columns(pl.col("_row").cast(pl.Int64))

    @shared
    def judged(self) -> Judged | None:
        """What a judge says of a sample of the undamaged pairs; None if there is none to ask.

        Raises:
            ConfigError: there is a judge, and these are no pairs.
        """
        judge = self.options.judge
        if judge is None:
            return None
        if not self.paired:
            raise ConfigError(f"a judge is asked about pairs, and these are {self.shape.value}")
        sample = self.drawn(judge.sample)
        return judged(judge, sample, self.undamaged.height, self.options.seed)

    def drawn(self, n: int) -> pl.DataFrame:
        """At most n undamaged pairs, each as likely, in the order of their ids; with `_row`."""
        return draw(self.undamaged, n, self._draws.uniform)

    def hits(self, side: Side, *rules: str) -> pl.DataFrame:
        """Hits of some damage rules on the answers of a side: `row`, `rule`, `detail`."""
        name = side.name if self.paired else "response"
        hits = self.damage.filter(pl.col("rule").is_in(list(rules)), pl.col("side") == name)
        return hits.filter(pl.col("row").is_in(pl.Series(side.rows).implode()))

    def _example(self, row: int, note: str) -> Example:
        texts = [("prompt", excerpt(self.question[row] or self.prompt_text[row]))]
        for side in self.sides:
            at = int(np.searchsorted(side.rows, row))
            if at < side.rows.size and side.rows[at] == row:
                texts.append((side.name, excerpt(side.text[at])))
        where = self.table["source_id"][row]
        return Example(str(self.row_ids[row]), str(where or ""), note, tuple(texts))


def fold(texts: pl.Series) -> pl.Series:
    """Texts without differences of case, white space and Unicode composition."""
    name = texts.name or "text"
    return texts.rename(name).to_frame().select(normalised(pl.col(name), True, True, True))[name]


def excerpt(text: str, most: int = EXCERPT) -> str:
    """The beginning of a text, with a sign where it is cut."""
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _keys(texts: pl.Series) -> pl.Series:
    """Texts as short ids that do not depend on the machine (empty stays a text)."""
    from prefactory.tables import digests

    return digests(texts)

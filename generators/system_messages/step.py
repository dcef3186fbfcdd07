"""System messages that span values: one prompt comes to mean many things (Janus)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from catalog.values import coverage, facts
from catalog.values.schema import ASKABLE
from generators.system_messages import engine as engine_backend
from generators.system_messages.compose import MOST_VALUES, Draws, compose, load_parts
from generators.system_messages.place import ADDS, Existing, answer_text, judged, leaked, placed
from generators.system_messages.sets import Ints, balanced_sets
from generators.system_messages.values import PREFERENCE_SET, Laid, draw_of, lay_out
from prefactory.asking import Asking
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Failure, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.measures import diversity
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope, State
from prefactory.tables import Shape, last_user_text, text_of

SAMPLE = 200
"""Messages that the diversity of composed ones is measured on."""

_TEXTS = "generators/system_messages/prompts"
_GONE = {"row_id": pl.String, "reason": pl.String, "detail": pl.String}


class SystemMessages(Gated, Prompted, Asking, Generator):
    """Put system messages before each prompt that ask for different values.

    The construction of Janus / Multifaceted Collection (arXiv:2405.17977): per prompt three sets of
    preferences, each with one value of every dimension; each set becomes descriptions, and these
    one message. Answer the prompts (`generators.Responses`) and pair the answers across messages
    (`labelers.SystemPairs`): both are good, only the fit to the message differs.

    Values are drawn least covered first, over all prompts in the order of a hash of their ids: the
    counts of a dimension's values differ by at most one. Sets with opposed values, or that share
    more than `most_shared` values with another of their prompt, exchange values with other prompts.

    Backends:

    - `embedded`: no model. Opening, clauses and closing are combined from pools, in English; the
      text depends on seed, prompt id and values, not on the prompt's words.
    - `engine`: a model writes the set for this very prompt, then merges it: two calls a message.

    A prompt gets all its messages or leaves, so that its set stays complete. New columns: those of
    `generators.system_messages.place.ADDS` and `preference_set`. What was covered, and how varied
    composed messages are, stands in the manifest and the report under "Learned from the data"; of
    messages by a model measure the result with `generators.MessageCoverage`.

    Reasons: `has_system`, `has_role` (the user's text begins by giving the assistant a role),
    `no_user_message`, `leaks_answer` (a message has a run of words of the known answer that is not
    in the prompt), `same_message` (two sets came out as one message), and those of the engine.

    Attributes:
        values: name of a value system (`prefactory values list`), or a YAML file of your own.
        messages: per prompt.
        values_per_message: dimensions that a message draws from; null: all that go together, and
            one where the system has one level only.
        most_shared: values that two sets of a prompt may share; null: half of them, as two of four.
        sensitive: use a value system that is marked as sensitive.
        backend: see above.
        parts: pools of `embedded`: `message_parts`, or a YAML file of your own.
        engine: of `engine`.
        sampling: of `engine` (the paper does not give it).
        existing: `drop` prompts that have a system message, or `replace` it.
        refuse_roles: see `has_role`; the pattern is ours.
        answers: columns that hold the right answer, those that are there.
        leak_words: run of words that gives an answer away (our choice).
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "dataset"
    version: ClassVar[int] = 3
    parents: ClassVar[tuple[str, ...]] = ("source_prompt_id",)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = {
        "preferences": Text(f"{_TEXTS}/preferences.j2", ("instruction", "dimensions")),
        "message": Text(f"{_TEXTS}/message.j2", ("descriptions",)),
    }

    values: str = Field(default="janus", min_length=1)
    messages: int = Field(default=3, ge=1, le=100)
    values_per_message: int | None = Field(default=None, ge=1, le=MOST_VALUES)
    most_shared: int | None = Field(default=None, ge=0)
    sensitive: bool = False
    backend: Literal["embedded", "engine"] = "embedded"
    parts: str = Field(default="message_parts", min_length=1)
    engine: AnyEngine | None = None
    sampling: SamplingParams = SamplingParams(top_p=0.95, max_tokens=600)
    attempts: int = Field(default=5, ge=1)
    existing: Existing = "drop"
    refuse_roles: bool = True
    answers: tuple[Annotated[str, Field(min_length=1)], ...] = ("reference", "response", "answer")
    leak_words: int = Field(default=6, ge=2)

    @model_validator(mode="after")
    def _validate_fields(self) -> Self:
        if (self.engine is None) != (self.backend == "embedded"):
            raise ValueError("`engine` goes with `backend: engine`, and that needs it")
        system = self._laid().system
        if system.kind not in ASKABLE:
            raise ValueError(f"values: {system.system} names {system.kind}, nothing to ask for")
        if system.sensitive and not self.sensitive:
            raise ValueError(f"values: {system.system} is sensitive ({system.note}); allow it")
        laid = self._laid()
        if self.messages > laid.grid.sets:
            raise ValueError(
                f"messages: {system.system} has only {laid.grid.sets} different sets of "
                f"{laid.size} values"
            )
        if laid.size > MOST_VALUES:
            raise ValueError(f"values_per_message: name a number up to {MOST_VALUES}")
        if self.backend == "embedded":
            load_parts(self.parts)
        return self

    def identity(self) -> dict[str, Any]:
        """Fields, and what stands in the value system and the pools."""
        used = {"values": self._laid().system.model_dump(mode="json")}
        if self.backend == "embedded":
            used["parts"] = load_parts(self.parts).model_dump(mode="json")
        return {**super().identity(), **used}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where the message comes from and what it asks for."""
        return {**ADDS, "preference_set": PREFERENCE_SET}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """Two calls a message, with `engine`."""
        if self.engine is None:
            return []
        tokens = (engine_backend.PREFERENCES_TOKENS, engine_backend.MESSAGE_TOKENS)
        return [
            Asks(self.engine, rows * self.messages, t, self.sampling.max_tokens) for t in tokens
        ]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """So many prompts for one."""
        return rows * self.messages, prompts * self.messages

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to the ids of prompts that can take a message."""
        fine = judged(table, self.existing, self.refuse_roles)["reason"].is_null()
        return table.select("prompt_id").filter(fine)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Give every prompt its sets.

        Args:
            parts: the rows of `fit_shard`, sorted by id.
            ctx: its seed and step name are the randomness.

        Returns:
            State with the table `sets`: `prompt_id` and `leaves` (places in the system's leaves,
            List(UInt16) [m k]). Its `info` has `value_system`, `messages`, how often sets were
            mended, `coverage` by level and node, and `diversity` of a sample of composed messages.
        """
        order = ctx.uniform(parts["prompt_id"], "order").arg_sort()
        ids = parts["prompt_id"].gather(order)
        laid = self._laid()
        drawn = balanced_sets(ids.len(), self.messages, laid.grid, ctx.rng("sets"))
        flat = drawn.values.reshape(ids.len(), self.messages * laid.size)
        sets = pl.DataFrame(
            {"prompt_id": ids, "leaves": pl.Series(list(flat), dtype=pl.List(pl.UInt16))}
        )
        info: dict[str, Any] = {
            "value_system": laid.system.system,
            "prompts": ids.len(),
            "messages": ids.len() * self.messages,
            "swapped_values": drawn.swapped,
            "moved_values": drawn.moved,
            "prompts_with_alike_sets": drawn.crowded,
            "coverage": facts(coverage(laid.value_ids(drawn.values), laid.system)),
        }
        if self.backend == "embedded" and ids.len():
            info["diversity"] = self._diversity(ids, drawn.values, ctx)
        return State({"sets": sets.sort("prompt_id")}, info)

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Write the messages of a table's prompts.

        Args:
            table: PROMPTS.
            ctx: holds the state; opens the engine.

        Returns:
            PROMPTS, `messages` rows per prompt, in canonical order; and the prompts left out.
        """
        fate = table.select(row_id="prompt_id").hstack(
            judged(table, self.existing, self.refuse_roles)
        )
        rows = table.join(
            ctx.fitted.tables["sets"], on="prompt_id", how="inner", maintain_order="left"
        )
        laid = self._laid()
        leaves = rows["leaves"].explode(empty_as_null=False).to_numpy().astype(np.int64)
        sets = leaves.reshape(rows.height, self.messages, laid.size)
        rows = rows.drop("leaves")[np.repeat(np.arange(rows.height), self.messages)]
        written = self._written(rows, sets, ctx)
        rows = rows.hstack(written.drop("reason", "detail"))
        given = leaked(
            rows["system"].fill_null(""),
            answer_text(rows, self.answers),
            rows.select(text_of(pl.col("prompt"), "user").fill_null("")).to_series(),
            self.leak_words,
        )
        again = rows.select(pl.struct("prompt_id", "system").is_duplicated()).to_series()
        fine = written["reason"].is_null()
        failed = rows.select(row_id="prompt_id").with_columns(
            reason=pl.when(fine & given.is_not_null())
            .then(pl.lit("leaks_answer"))
            .when(fine & again)
            .then(pl.lit("same_message"))
            .otherwise(written["reason"]),
            detail=pl.coalesce(
                written["detail"],
                pl.format("the answer's words: {}", given),
                pl.lit("one message for two sets of values"),
            ),
        )
        failed = failed.filter(pl.col("reason").is_not_null()).unique(
            "row_id", keep="first", maintain_order=True
        )
        rows = rows.join(failed, left_on="prompt_id", right_on="row_id", how="anti")
        dropped = pl.concat([fate.filter(pl.col("reason").is_not_null()), failed])
        return placed(
            rows.with_columns(
                system_source=pl.lit("value"), value_system=pl.lit(laid.system.system)
            ),
            dropped.cast(_GONE),  # type: ignore[arg-type]
        )

    def _laid(self) -> Laid:
        return lay_out(self.values, self.values_per_message, self.most_shared)

    def _composed(self, ids: pl.Series, sets: Ints, ctx: Context) -> pl.Series:
        """Composed messages of prompts (String[n]) and their sets (Int64[n, m, k]): String[n m]."""
        numbers = [str(i) for i in range(self.messages)]
        keys = pl.DataFrame([ids.alias("id")]).select(
            pl.concat_list(pl.format("{}/{}", "id", pl.lit(i)) for i in numbers)
        )
        draws = Draws.of(ctx.uniform(keys.to_series().explode(), "words"))
        flat = sets.reshape(-1, sets.shape[-1])
        return compose(flat, self._laid().phrases, draws, load_parts(self.parts))

    def _diversity(self, ids: pl.Series, sets: Ints, ctx: Context) -> dict[str, float | int]:
        """Diversity of the messages of the first prompts in the order of the draw."""
        most = -(-SAMPLE // self.messages)
        texts = self._composed(ids.head(most), sets[:most], ctx).to_list()
        measures = diversity.of_texts(texts, SAMPLE, ctx.seed)
        if self.messages > 1:
            starts = range(0, len(texts), self.messages)
            within = [diversity.self_rouge_l(texts[i : i + self.messages]) for i in starts]
            measures["rouge_l_of_one_prompt"] = round(sum(within) / len(within), 6)
        return measures

    def _written(self, rows: pl.DataFrame, sets: Ints, ctx: Context) -> pl.DataFrame:
        """Messages of rows that stand m per prompt.

        Returns:
            `system`, `value_ids`, `preference_set`, `reason`, `detail`, same height and order.
        """
        laid = self._laid()
        ids = laid.value_ids(sets)
        blank = pl.Series("reason", [None] * rows.height, dtype=pl.String)
        if self.backend == "embedded":
            system = self._composed(rows["prompt_id"].gather_every(self.messages), sets, ctx)
            columns = [system.alias("system"), ids, laid.seed_sets(sets)]
            return pl.DataFrame([*columns, blank, blank.alias("detail")])
        written = self._asked(rows, sets, ctx)
        failures = [w if isinstance(w, Failure) else None for w in written]
        fine = [None if isinstance(w, Failure) else w for w in written]
        dims = [[laid.dimensions[v] for v in row] for row in sets.reshape(-1, laid.size)]
        entries = [
            None if w is None else [
                {"dimension": d, "value_id": v, "preference": p, "description": t}
                for d, v, p, t in zip(names, values, w.preferences, w.descriptions, strict=True)
            ]
            for w, names, values in zip(fine, dims, ids.to_list(), strict=True)
        ]  # fmt: skip
        return pl.DataFrame(
            [
                pl.Series("system", [w and w.message for w in fine], dtype=pl.String),
                ids,
                pl.Series("preference_set", entries, dtype=PREFERENCE_SET),
                pl.Series("reason", [f and f.reason for f in failures], dtype=pl.String),
                pl.Series("detail", [f and f.detail for f in failures], dtype=pl.String),
            ]
        )

    def _asked(
        self, rows: pl.DataFrame, sets: Ints, ctx: Context
    ) -> list[engine_backend.Written | Failure]:
        """Ask the engine for each row's message."""
        assert self.engine is not None  # noqa: S101 - validated
        laid = self._laid()
        flat = sets.reshape(-1, laid.size)
        questions = rows.select(
            "prompt_id", instruction=last_user_text(pl.col("prompt"))
        ).with_row_index("place")
        wanted = []
        for (place, prompt, instruction), values in zip(questions.iter_rows(), flat, strict=True):
            row_id = f"{prompt}/{place % self.messages}"
            draw = draw_of(f"{ctx.seed}/{row_id}")
            seen = tuple(laid.shown(int(v), draw) for v in values)
            question = self.render("preferences", instruction=instruction, dimensions=list(seen))
            wanted.append(engine_backend.Wanted(row_id, seen, question))
        return engine_backend.write(
            self.asker(ctx, self.engine),
            wanted,
            lambda texts: self.render("message", descriptions=list(texts)),
        )

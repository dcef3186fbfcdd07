"""What teachers say of every token of an answer: their likeliest next tokens, kept as lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from labelers.models import chat_rows
from labelers.models.chat_rows import Row
from labelers.models.language_models import Loaded, Model, opened
from labelers.models.likelihood import EMPTY
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.step import Labeler, Passes
from prefactory.tables import Shape

LEAST = -100.0
"""Least logarithm of a probability that is kept: of what is left where the k tokens are all."""
SUPPOSED = 512
"""Tokens of an answer, for `plan`."""


class TeacherTokens(Labeler):
    """Add a teacher's k likeliest tokens at every token of an answer, for `dckd` and `adpa`.

    ADPA and DCKD (arXiv:2502.17927) train a student with what a large aligned teacher says of each
    place of an answer, and what the same model said before its alignment (`reference`). Both are
    asked once, here; the student's training reads the lists. On PAIRS the columns are
    `chosen_<name>_...` and `rejected_<name>_...`. Columns of an answer of T tokens (its own, not
    the template's end of turn):

    - `<name>_tokens` (List(Int32), T): the answer's tokens, by which a training knows its own.
    - `<name>_ids` (T lists of k Int32): the likeliest tokens under the teacher, likeliest first.
    - `<name>_logs` (T lists of k): their log-probabilities under the teacher.
    - `<name>_rest` (T): logarithm of the probability of all other tokens, -100 at least.
    - `<name>_reference_logs`, `<name>_reference_rest`: the same of the same tokens under the
      reference, exactly (the paper's code fills those that the reference's own list lacks).

    Null where there is none; `reason_<name>` (String) says why: `too_long`, `template` or `empty`.

    Each shard's lists are written once it is done, so that a run which is killed asks again for the
    shards in work alone. They are large: T k 6 bytes an answer at float16, and 2 more each with a
    reference; `prefactory plan` says how much.

    Attributes:
        teacher: the aligned causal language model, with the student's tokenizer.
        reference: the teacher before its alignment; needed by `adpa`.
        k: tokens kept of each place; the vocabulary's size keeps all.
        precision: of the log-probabilities; float16 is off by up to 4e-3 at -8.
        name: of the columns.
        template: see `labelers.Likelihood`.
        too_long: a conversation over a model's limit: `null`, or `truncate` its prompt's start.

    Example:
        - labelers.TeacherTokens: {teacher: {model: PATH_OR_HUB_ID}}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)

    teacher: Model
    reference: Model | None = None
    k: int = Field(default=16, ge=1)
    precision: Literal["float16", "float32"] = "float16"
    name: str = Field(default="teacher", min_length=1)
    template: Literal["auto", "chat", "plain"] = "auto"
    too_long: Literal["null", "truncate"] = "null"

    def engines(self) -> list[dict[str, Any]]:
        """Identities of the models, resolved on this machine."""
        return [m.identity() for m in (self.teacher, self.reference) if m is not None]

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """The lists, and `reason_<name>`; see the class."""
        number = pl.Float16() if self.precision == "float16" else pl.Float32()
        found: dict[str, pl.DataType] = {
            f"{self.name}_tokens": pl.List(pl.Int32()),
            f"{self.name}_ids": pl.List(pl.List(pl.Int32())),
            f"{self.name}_logs": pl.List(pl.List(number)),
            f"{self.name}_rest": pl.List(number),
        }
        if self.reference is not None:
            found[f"{self.name}_reference_logs"] = pl.List(pl.List(number))
            found[f"{self.name}_reference_rest"] = pl.List(number)
        return {**found, f"reason_{self.name}": pl.String()}

    def passes(self, rows: int) -> list[Passes]:
        """One pass of each model an answer, and what their lists take."""
        number = 2 if self.precision == "float16" else 4
        place = 4 + self.k * (4 + number) + number
        kept = [Passes(self.teacher.model, rows, rows * SUPPOSED * place)]
        if self.reference is not None:
            more = rows * SUPPOSED * (self.k + 1) * number
            kept.append(Passes(self.reference.model, rows, more))
        return kept

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ask the teachers about every answer.

        Returns:
            The columns of `adds`, same height and order.

        Raises:
            ConfigError: a model can't be loaded, k is more than its vocabulary, or the models have
                different vocabularies.
        """
        prompts, answers = table["prompt"].to_list(), table["response"].to_list()
        with opened(self.teacher, "causal") as teacher:
            words = teacher.tokenizer.get_vocab()
            cut = self.too_long == "truncate"
            rows = chat_rows.rows(
                teacher.tokenizer, teacher.limit, prompts, answers, self.template, cut
            )
            told = likeliest(teacher, rows, self.k)
        before: list[Told | None] = [None] * len(rows)
        if self.reference is not None:
            with opened(self.reference, "causal") as reference:
                if reference.tokenizer.get_vocab() != words:
                    raise ConfigError(
                        f"{self.teacher.model!r} and {self.reference.model!r} have different "
                        "vocabularies, so what they say of tokens does not compare"
                    )
                rows = chat_rows.fitting(rows, reference.limit)
                before = likeliest(reference, rows, self.k, told)
        return self._columns(rows, told, before)

    def _columns(
        self, rows: list[Row], told: list[Told | None], before: list[Told | None]
    ) -> pl.DataFrame:
        alone = self.reference is None
        both = list(zip(told, before, strict=True))
        here = [t is not None and (alone or b is not None) for t, b in both]
        schema = self.adds(Shape.RESPONSES)
        found = [t if ok else None for t, ok in zip(told, here, strict=True)]
        back = [b if ok else None for b, ok in zip(before, here, strict=True)]
        parts = {part: _of(found, part) for part in ("tokens", "ids", "logs", "rest")}
        parts |= {f"reference_{part}": _of(back, part) for part in ("logs", "rest")}
        names = {part: f"{self.name}_{part}" for part in parts}
        reasons = [None if ok else row.reason or EMPTY for row, ok in zip(rows, here, strict=True)]
        return pl.DataFrame(
            [
                *(_lists(n, parts[p], schema[n]) for p, n in names.items() if n in schema),
                pl.Series(f"reason_{self.name}", reasons, dtype=pl.String),
            ]
        )


@dataclass(frozen=True, slots=True)
class Told:
    """What a model says of the T tokens of an answer.

    Attributes:
        tokens: the answer, Int32[T].
        ids: k tokens of each place, Int32[T, k].
        logs: their log-probabilities, Float32[T, k].
        rest: logarithm of the probability of all others, Float32[T].
    """

    tokens: NDArray[np.int32]
    ids: NDArray[np.int32]
    logs: NDArray[np.float32]
    rest: NDArray[np.float32]


def _of(told: Sequence[Told | None], part: str) -> list[NDArray[Any] | None]:
    return [None if t is None else getattr(t, part) for t in told]


def likeliest(
    loaded: Loaded, rows: Sequence[Row], k: int, of: Sequence[Told | None] | None = None
) -> list[Told | None]:
    """The k likeliest tokens at every token of the rows' answers.

    Args:
        loaded: a causal model.
        rows: n conversations.
        k: tokens of each place.
        of: take the tokens that another model found likeliest.

    Returns:
        n results; None for a row with a reason or without a token that follows another.

    Raises:
        ConfigError: k is more than the vocabulary.
    """
    import torch

    size = int(loaded.net.config.get_text_config().vocab_size)
    if k > size:
        raise ConfigError(f"k={k}: the model has {size} tokens")
    found: list[Told | None] = [None] * len(rows)
    some = [
        i for i, r in enumerate(rows) if r.reason is None and r.span[1] > r.span[0] and r.span[0]
    ]
    place = {id(rows[i]): i for i in some}

    def forward(tensors: dict[str, Any], batch: list[Row]) -> np.ndarray:
        tensors.pop("token_type_ids", None)
        logits = loaded.net(**tensors, use_cache=False).logits
        for b, row in enumerate(batch):
            at, (first, last) = place[id(row)], row.span
            logs = logits[b, first - 1 : last - 1].float().log_softmax(-1)
            theirs = of[at] if of is not None else None
            if theirs is None:
                ids = logs.topk(k, dim=-1).indices
            else:
                ids = torch.from_numpy(theirs.ids.astype(np.int64)).to(logs.device)
            others = logs.scatter(1, ids, float("-inf")).logsumexp(1).clamp(min=LEAST)
            found[at] = Told(
                np.asarray(row.ids[first:last], dtype=np.int32),
                ids.cpu().numpy().astype(np.int32),
                logs.gather(1, ids).clamp(min=LEAST).cpu().numpy(),
                others.cpu().numpy(),
            )
        return np.zeros((len(batch), 1))

    if some:
        loaded.run([rows[i] for i in some], forward, 1)
    return found


def _lists(name: str, values: Sequence[NDArray[Any] | None], dtype: pl.DataType) -> pl.Series:
    """Arrays of one or two dimensions as lists of a dtype; None is null."""
    inner = pl.DataFrame(schema={"x": dtype}).to_arrow(compat_level=pl.CompatLevel.oldest())
    kind = inner.schema.field("x").type
    numbers = kind.value_type.value_type if _nested(kind) else kind.value_type
    there = [v for v in values if v is not None]
    flat = np.concatenate([np.zeros(0), *(v.ravel() for v in there)])
    items: pa.Array = pa.array(flat.astype(numbers.to_pandas_dtype()))
    if _nested(kind):
        sizes = np.concatenate([np.zeros(0), *(np.full(len(v), v.shape[1]) for v in there)])
        items = _offset(items, sizes, np.zeros(len(sizes), bool))
    lengths = np.asarray([0 if v is None else len(v) for v in values])
    missing = np.asarray([v is None for v in values], dtype=bool)
    series = pl.from_arrow(_offset(items, lengths, missing))
    if not isinstance(series, pl.Series):
        raise TypeError("arrow made no column")
    return series.cast(dtype).alias(name)


def _nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_list(kind.value_type) or pa.types.is_list(kind.value_type))


def _offset(items: pa.Array, sizes: NDArray[Any], missing: NDArray[np.bool_]) -> pa.Array:
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    mask = pa.array(missing) if missing.any() else None
    return pa.LargeListArray.from_arrays(pa.array(ends), items, mask=mask)

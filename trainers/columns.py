"""Numeric columns of pairs inside TRL's trainers: read, checked, carried to the loss.

TRL's trainers read texts only. `rows_with` checks what a method reads and says what it leaves;
`Collator` lets numbers through; `ColumnsDPO` is TRL's trainer with what a policy did to each pair
at hand, so that a loss may weigh pairs one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import Tensor

from prefactory.errors import DataError
from prefactory.extras import package
from prefactory.tables import SIDES
from trainers import losses
from trainers.base import DatasetRef
from trainers.losses import LogRatios

trl = package("trl")

_LOG = logging.getLogger(__name__)
SIGN = "sign_"
FOR_TRAINING = ("beta", "weight", "dimension", "goal", "density_ratio")
"""Columns that are made for trainers, besides those that begin with `sign_`."""


@dataclass(frozen=True)
class Rule:
    """What values a column may have: `says` completes "column x must be ..."."""

    says: str
    holds: Callable[[pl.Expr], pl.Expr]


_ANY = Rule("a number or a name", lambda c: c.is_not_null())
_NUMBER = Rule("a finite number", lambda c: c.is_finite())
_RULES = {
    "beta": Rule("above 0 and finite", lambda c: c.is_finite() & (c > 0)),
    "density_ratio": Rule("above 0 and finite", lambda c: c.is_finite() & (c > 0)),
    "weight": Rule("0 or more and finite", lambda c: c.is_finite() & (c >= 0)),
    "dimension": _ANY,
    SIGN: Rule("-1, 0 or 1", lambda c: c.is_in([-1, 0, 1])),
}


def columns_for_training(data: DatasetRef) -> tuple[str, ...]:
    """Columns of the data that some method of training reads, in the order of the table."""
    names = data.pairs("train").column_names
    return tuple(c for c in names if c in FOR_TRAINING or c.startswith(SIGN))


def unread(data: DatasetRef, read: Sequence[str], method: str) -> list[str]:
    """A sentence for each column that was made for training and that a method leaves; logged."""
    left = [c for c in columns_for_training(data) if c not in read]
    said = [f"column {c} is there and {method} does not read it{_who(c, method)}" for c in left]
    for sentence in said:
        _LOG.warning("%s: %s", data, sentence)
    return said


_READERS = {
    "beta": "dpo", "weight": "dpo", "dimension": "mah", "goal": "goal-dpo", "density_ratio": "bco",
    SIGN: "raco",
}  # fmt: skip


def _who(column: str, method: str) -> str:
    reader = _READERS.get(_kind(column), method)
    return "" if reader == method else f" (prefactory train {reader} does)"


def checked(
    data: DatasetRef, columns: Sequence[str], method: str, optional: Sequence[str] = ()
) -> None:
    """Make sure that every pair has a value that can be used in each of the columns.

    Raises:
        DataError: a column is missing, or has a value that can't be used: which, and what is right.
    """
    for split in ("train", "test"):
        rows = data.pairs(split)
        if missing := [c for c in columns if c not in rows.column_names]:
            has = ", ".join(columns_for_training(data)) or "none"
            raise DataError(
                f"{method} reads the column {missing[0]}, which {data} lacks; columns made for "
                f"training that are there: {has}. {_made_by(missing[0])}"
            )
        if not columns or not len(rows):
            continue
        row_id = "pair_id" if "pair_id" in rows.column_names else "response_id"
        for batch in data.batches(split, [row_id, *columns]):
            for c in columns:
                there = batch.filter(pl.col(c).is_not_null()) if c in optional else batch
                _check(there, c, f"{split} of {data}")


def _made_by(column: str) -> str:
    if column.startswith(SIDES) and column.endswith(_OF_TEACHERS):
        asked = " with a reference" if "_reference_" in column else ""
        return f"labelers.TeacherTokens{asked} makes it"
    return _MADE_BY.get(_kind(column), "")


_OF_TEACHERS = ("_tokens", "_ids", "_logs", "_rest")
_MADE_BY = {
    "beta": "labelers.DynamicBeta makes it",
    "weight": "labelers.DynamicBeta: {column: weight}, or labelers.ParetoStrength, makes it",
    "rejected_prompt_id": "generators.NearMisses makes it",
    "dimension": "labelers.Dimension, or labelers.Pairs: {order: each}, makes it",
    "goal": "labelers.RewardAugmented makes it",
    "density_ratio": "labelers.DensityRatio makes it",
    "steps": "sources of steps and labelers.HumanAnswers have it",
    "step_labels": "sources of steps and labelers.HumanAnswers have it",
    "score_label": "sources of good and bad answers have it; name another score as label",
    "goal_kind": "labelers.RewardAugmented makes it",
    SIGN: "labelers.Signs makes it",
}


def _kind(column: str) -> str:
    return SIGN if column.startswith(SIGN) else column


def _check(batch: pl.DataFrame, column: str, where: str) -> None:
    dtype = batch.schema[column]
    rule = _RULES.get(_kind(column), _NUMBER if dtype.is_numeric() else _ANY)
    if rule is not _ANY and not dtype.is_numeric():
        raise DataError(f"column {column} in {where} must be {rule.says}; it holds {dtype}")
    wrong = batch.filter(~rule.holds(pl.col(column)).fill_null(False))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise DataError(
            f"column {column} must be {rule.says}; in {where} it is {row[column]} at "
            f"{_place(row)} (and {wrong.height - 1} more of its batch)"
        )


def _place(row: Mapping[str, object]) -> str:
    return f"pair {row['pair_id']}" if "pair_id" in row else f"answer {row['response_id']}"


class Collator:
    """TRL's collator, and the numbers beside it: one Float32 tensor of shape (B,) a column.

    What is not there is NaN.
    """

    def __init__(
        self, inner: Callable[[list[dict[str, Any]]], Any], columns: Sequence[str]
    ) -> None:
        self.inner, self.columns = inner, tuple(columns)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate examples; `inner` gets them as they are."""
        batch = dict(self.inner(examples))
        for c in self.columns:
            batch[c] = torch.tensor([_number(e[c]) for e in examples], dtype=torch.float32)
        return batch


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


class ColumnsDPO(trl.DPOTrainer):  # type: ignore[misc, name-defined]  # trl has no types
    """TRL's DPO with columns in the loss.

    Without columns it is TRL's own, untouched. With `beta`, each pair has its own; with `weight`,
    each pair's loss is multiplied by it (the mean is over pairs, not over weights, so that weights
    of 1 change nothing). Both go with the losses of `trainers.losses.OF_PAIR`, and sums of them.

    Args:
        columns: which columns of the rows the loss reads.
        follow: `w` of `trainers.losses.batch_beta`, which then makes the beta of each batch in
            training; None: beta is that of the options or the pair's own.
        options: those of TRL's trainer. The dataset must have the columns.
    """

    def __init__(
        self,
        *,
        columns: Sequence[str] = (),
        follow: float | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.columns, self.follow = tuple(columns), follow
        super().__init__(**options)
        if self.columns:
            inner: Any = self.data_collator
            self.data_collator: Any = Collator(inner, self.columns)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        known: list[str] = self._signature_columns
        self._signature_columns: list[str] = [*known, *(c for c in self.columns if c not in known)]

    def ratios(self, model: Any, inputs: dict[str, Any]) -> LogRatios:  # noqa: ANN401
        """What the policy did to each pair of a batch, with gradients.

        Raises:
            KeyError: the batch has no reference log-probabilities (`precompute_ref_log_probs`).
        """
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        found = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,  # TRL's patch: log-probabilities without the logits
        ).log_probs
        chosen, rejected = found.sum(dim=1).chunk(2)
        tokens = inputs["completion_mask"].sum(dim=1).clamp(min=1).chunk(2)
        # TRL's mean leaves out the first place, as no token comes before it
        counted = inputs["completion_mask"][:, 1:].sum(dim=1).chunk(2)[0].sum().clamp(min=1)
        return LogRatios(
            chosen - inputs["ref_chosen_logps"],
            rejected - inputs["ref_rejected_logps"],
            tokens[0],
            tokens[1],
            nll=-chosen.sum() / counted,
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:  # noqa: ANN401
        if not self.columns and self.follow is None:
            return super()._compute_loss(model, inputs, return_outputs)
        ratios = self.ratios(model, inputs)
        loss = self.pair_losses(ratios, inputs).mean()
        self.note(ratios, inputs)
        return (loss, {}) if return_outputs else loss

    def _beta(self, ratios: LogRatios, inputs: dict[str, Any]) -> Tensor | float:
        base = float(self.args.beta)
        if self.follow is not None and self.model.training:
            seed = 1_000_003 * self.args.seed + self.state.global_step  # of a resumed run, too
            return losses.batch_beta(base * ratios.delta, base, self.follow, seed)
        own: Tensor | None = inputs.get("beta")
        return base if own is None else own

    def pair_losses(self, ratios: LogRatios, inputs: dict[str, Any]) -> Tensor:
        """Loss of each pair, shape (B,)."""
        beta = self._beta(ratios, inputs)
        parts = zip(self.loss_types, self.loss_weights, strict=True)
        each = torch.stack(
            [w * losses.of_pair(name, ratios, beta, self.label_smoothing) for name, w in parts]
        ).sum(dim=0)
        return each * inputs["weight"] if "weight" in inputs else each

    def note(self, ratios: LogRatios, inputs: dict[str, Any]) -> None:
        """Keep what TRL logs of the implicit rewards."""
        beta = self._beta(ratios, inputs)
        gap = self.accelerator.gather((beta * ratios.delta).detach())
        kept = self._metrics["train" if self.model.training else "eval"]
        kept["rewards/margins"].append(gap.mean().item())
        kept["rewards/accuracies"].append((gap > 0).float().mean().item())

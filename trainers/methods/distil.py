"""A student trained on what teachers said of each token: DCKD and ADPA (arXiv 2502.17927)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefactory.chat_template import ChatTemplate
from prefactory.errors import DataError
from prefactory.tables import SIDES
from trainers import losses
from trainers.base import DatasetRef
from trainers.methods.plan import Plan, mean_log_probability
from trainers.methods.regression import TargetsTrainer
from trainers.scoring import encoded
from trainers.settings import ADPA, DCKD

OTHERS = "the teacher's tokens are others than the student's"
_PARTS = ("ids", "logs", "rest", "reference_logs", "reference_rest")
_LEAST = -100.0
"""As in `labelers.TeacherTokens`: least logarithm of a probability."""


@dataclass(frozen=True)
class Place:
    """What teachers and student say of the N tokens of one side of a batch.

    Attributes:
        teacher: log-probabilities of the teacher's k likeliest tokens and of all others together,
            shape (N, k + 1).
        student: the same of the same tokens under the student, with gradients.
        reference: the same under the teacher's reference, or None.
    """

    teacher: Tensor
    student: Tensor
    reference: Tensor | None


Loss = Callable[[Tensor, dict[str, Place]], Tensor]
"""(negative log-likelihood of the chosen answers, side -> what is said of it) -> the loss."""


class Student(TargetsTrainer):
    """A causal model on both answers of pairs and the lists of `labelers.TeacherTokens`.

    Args:
        sides: whose lists the loss reads.
        name: of the lists' columns.
        loss: see `Loss`.
        options: those of TRL's trainers. Pairs whose tokens are not those that the teacher was
            asked about are left out and counted in `left`.

    Raises:
        DataError: none are.
    """

    def __init__(
        self,
        *,
        sides: Sequence[str],
        name: str,
        loss: Loss,
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.sides, self.of_batch = tuple(sides), loss
        self.left: dict[str, int] = {}
        super().__init__(
            tokenised=partial(self._tokenised, name=name), loss=losses.masked_regression, **options
        )

    def _tokenised(self, rows: Any, tokenizer: Any, most: int, name: str) -> Any:  # noqa: ANN401
        """Conversations, where their answers begin, and the lists from there on."""
        template = ChatTemplate(tokenizer, "the model")
        found = rows.map(
            partial(_made, template=template, most=most, sides=self.sides, name=name),
            remove_columns=rows.column_names,
        )
        fits = found.filter(lambda row: row["chosen"] is not None)
        kept = fits.filter(lambda row: all(row[f"{s}_at"] >= 0 for s in self.sides))
        if len(fits) and not len(kept):
            raise DataError(
                f"no answer has the tokens that the teacher was asked about ({name}_tokens): it "
                "needs the tokenizer and the chat template of the model that is trained"
            )
        if lost := len(fits) - len(kept):
            self.left[OTHERS] = self.left.get(OTHERS, 0) + lost
        return kept

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """B chosen conversations, then B rejected ones, padded; lists of the sides beside them."""
        rows = [e[side] for side in SIDES for e in examples]
        starts = torch.tensor([e["start"] for e in examples]).repeat(2)
        ids = _padded(rows, torch.int64, self.pad)
        size = torch.tensor([len(row) for row in rows])
        place = torch.arange(ids.shape[1])[None]
        batch = {
            "input_ids": ids,
            "attention_mask": (place < size[:, None]).long(),
            "answer": (place >= starts[:, None]) & (place < size[:, None]),
        }
        for side in self.sides:
            batch[f"{side}_at"] = torch.tensor([e[f"{side}_at"] for e in examples])
            batch[f"{side}_size"] = torch.tensor([len(e[f"{side}_ids"]) for e in examples])
            for part in (p for p in _PARTS if examples[0][f"{side}_{p}"] is not None):
                kind = torch.int64 if part == "ids" else torch.float32
                batch[f"{side}_{part}"] = _padded([e[f"{side}_{part}"] for e in examples], kind, 0)
        return batch

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Loss of a batch."""
        ids = inputs["input_ids"]
        outputs = model(input_ids=ids, attention_mask=inputs["attention_mask"], use_cache=False)
        logs = outputs.logits[:, :-1].float().log_softmax(-1)
        chosen = len(ids) // 2
        said = logs[:chosen].gather(2, ids[:chosen, 1:, None])[..., 0]
        answer = inputs["answer"][:chosen, 1:]
        nll = -(said * answer).sum() / answer.sum().clamp(min=1)
        half = dict(zip(SIDES, logs.chunk(2), strict=True))
        loss = self.of_batch(nll, {s: _place(half[s], inputs, s) for s in self.sides})
        return (loss, {}) if return_outputs else loss


def _padded(rows: Sequence[Sequence[Any]], kind: torch.dtype, value: float) -> Tensor:
    return pad_sequence([torch.tensor(row, dtype=kind) for row in rows], True, value)


def _place(logs: Tensor, inputs: dict[str, Any], side: str) -> Place:
    """What is said of the tokens of one side that the teacher was asked about."""
    at, size = inputs[f"{side}_at"], inputs[f"{side}_size"]
    ids = inputs[f"{side}_ids"]
    steps = torch.arange(ids.shape[1], device=ids.device)[None]
    row, step = (steps < size[:, None]).nonzero(as_tuple=True)
    own, ids = logs[row, at[row] + step - 1], ids[row, step]
    rest = own.scatter(1, ids, float("-inf")).logsumexp(1).clamp(min=_LEAST)

    def listed(first: str, last: str) -> Tensor:
        parts = (inputs[f"{side}_{first}"][row, step], inputs[f"{side}_{last}"][row, step, None])
        return torch.cat(parts, dim=1)

    reference = None
    if f"{side}_reference_logs" in inputs:
        reference = listed("reference_logs", "reference_rest")
    student = torch.cat([own.gather(1, ids), rest[:, None]], dim=1)
    return Place(listed("logs", "rest"), student, reference)


def _made(
    row: dict[str, Any], template: ChatTemplate, most: int, sides: Sequence[str], name: str
) -> dict[str, Any]:
    """One pair as tokens; `chosen` is None where its prompt fills the length."""
    both = encoded(template, [row], most)
    out: dict[str, Any] = {"chosen": None, "rejected": None, "start": 0}
    if both.pairs:
        out = {"chosen": both.ids[0], "rejected": both.ids[1], "start": both.starts[0]}
    for side in sides:
        asked = row[f"{side}_{name}_tokens"]
        at = _found(out[side] or [], asked, out["start"])
        out[f"{side}_at"] = at
        for part in _PARTS:
            found = row.get(f"{side}_{name}_{part}")
            out[f"{side}_{part}"] = None if found is None else found[: max(most - at, 0)]
    return out


def _found(ids: Sequence[int], asked: Sequence[int], start: int) -> int:
    """Place where the tokens that were asked about begin, or -1; the end may be cut off."""
    for at in range(start, len(ids)):
        seen = ids[at : at + len(asked)]
        if seen == asked[: len(seen)] and (len(seen) == len(asked) or at == start):
            return at
    return -1


def _columns(sides: Sequence[str], name: str, parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{side}_{name}_{part}" for side in sides for part in parts)


def plan_dckd(config: DCKD, _: DatasetRef) -> Plan:
    """Distillation on both answers: the student imitates the aligned teacher on each."""

    def loss(nll: Tensor, of: dict[str, Place]) -> Tensor:
        far = {s: losses.forward_kl(p.teacher, p.student).mean() for s, p in of.items()}
        both = config.chosen_weight * far["chosen"] + config.rejected_weight * far["rejected"]
        return config.sft_weight * nll + config.alpha * both

    columns = _columns(SIDES, config.teacher, ("tokens", "ids", "logs", "rest"))
    return Plan(
        method="dckd",
        trainer=partial(Student, sides=SIDES, name=config.teacher, loss=loss),
        about="trained by DCKD (arXiv 2502.17927): the likelihood of the chosen answers, and what"
        " an aligned teacher says of each token of both answers. The score of an answer is its mean"
        " log-probability a token.",
        score=mean_log_probability(),
        columns=columns,
        optional=columns,
        whole=columns,
    )


def plan_adpa(config: ADPA, _: DatasetRef) -> Plan:
    """Advantages of an aligned teacher over its reference, on the student's own answers."""

    def loss(nll: Tensor, of: dict[str, Place]) -> Tensor:
        said = of["rejected"]
        if said.reference is None:
            raise KeyError("adpa needs the teacher's reference")
        gain = losses.expected_advantage(said.student, said.teacher - said.reference)
        return nll - config.gamma * gain.mean()

    parts = ("tokens", "ids", "logs", "rest", "reference_logs", "reference_rest")
    columns = _columns(("rejected",), config.teacher, parts)
    return Plan(
        method="adpa",
        trainer=partial(Student, sides=("rejected",), name=config.teacher, loss=loss),
        about="trained by ADPA (arXiv 2502.17927): the likelihood of the chosen answers, and on the"
        " rejected ones, which the student should have written, the advantage of each token under"
        " an aligned teacher over its reference. The score of an answer is its mean"
        " log-probability a token.",
        score=mean_log_probability(),
        columns=columns,
        optional=columns,
        whole=columns,
    )

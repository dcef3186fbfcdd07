"""Methods on all answers to a prompt at once: SteerLM's weights, and a margin for every rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prefactory.chat_template import ChatTemplate
from prefactory.extras import package
from trainers import losses
from trainers.base import DatasetRef
from trainers.groups import CUT, Answers
from trainers.methods.plan import Plan, implicit_reward
from trainers.methods.trl import REFERENCE
from trainers.scoring import common, ids_of
from trainers.settings import Listwise, SteerLM

trl = package("trl")
IGNORED = -100


class AnswersTrainer(trl.SFTTrainer):  # type: ignore[misc, name-defined]  # trl has no types
    """TRL's SFT on batches of prompts, each with all of its answers; the loss is by prompt.

    The model before training is asked once about each answer, before the first step.

    Args:
        options: those of TRL's trainer; the rows are those of `Answers`.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        options["args"].remove_unused_columns = False
        self.pad = options["processing_class"].pad_token_id
        super().__init__(data_collator=self._collate, **options)
        self.model_accepts_loss_kwargs = False  # the loss is a mean of the batch
        for name in ("train_dataset", "eval_dataset"):
            if (rows := getattr(self, name)) is not None:
                setattr(self, name, self._with_reference(rows))

    def _prepare_dataset(self, dataset: Any, tokenizer: Any, args: Any, *_: Any) -> Any:  # noqa: ANN401
        return tokenised(dataset, tokenizer, args.max_length)

    def _collate(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = [(ids, s) for e in examples for ids, s in zip(e["ids"], e["starts"], strict=True)]
        ids = torch.full((len(rows), max(len(r) for r, _ in rows)), self.pad)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for i, (row, start) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            labels[i, start : len(row)] = ids[i, start : len(row)]
        found = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        found["sizes"] = torch.tensor([len(e["ids"]) for e in examples])
        for c in ("numbers", "reference"):
            if c in examples[0]:
                found[c] = torch.tensor([v for e in examples for v in e[c]], dtype=torch.float32)
        return found

    def _logs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:  # noqa: ANN401
        """Log-probability of each answer, shape (R,)."""
        read = {k: inputs[k] for k in ("input_ids", "attention_mask", "labels")}
        found: Tensor = model(**read, use_cache=False, fused_lm_head=True).log_probs.sum(dim=1)
        return found

    def _with_reference(self, rows: Any) -> Any:  # noqa: ANN401
        """The rows with `reference`, log-probabilities under whatever wrote the answers."""
        if rows[0]["beside"][0] is not None:
            return rows.rename_column("beside", "reference")
        size, training = self.args.per_device_eval_batch_size, self.model.training
        found: list[list[float]] = []
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for start in range(0, len(rows), size):
                batch = self._collate([rows[i] for i in range(start, min(start + size, len(rows)))])
                logs = self._logs(self.model, self._prepare_inputs(batch))
                found += [part.tolist() for part in _parts(logs, batch["sizes"])]
        self.model.train(training)
        return rows.add_column("reference", found)

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Mean loss of the prompts of a batch."""
        own = self._logs(model, inputs)
        tokens = (inputs["labels"][:, 1:] != IGNORED).sum(dim=1).float().mean()
        numbers = (own, inputs["reference"], inputs["numbers"])
        parts = zip(*(_parts(each, inputs["sizes"]) for each in numbers), strict=True)
        each = [self.of_prompt(own, ref, wanted, tokens) for own, ref, wanted in parts]
        loss = torch.stack(each).mean()
        return (loss, {}) if return_outputs else loss

    def of_prompt(self, own: Tensor, reference: Tensor, numbers: Tensor, tokens: Tensor) -> Tensor:
        """Loss of one prompt's n answers.

        Args:
            own: log-probabilities under the policy, shape (n,).
            reference: the same under the reference.
            numbers: of the answers, in falling order.
            tokens: mean number of tokens of the batch's answers.
        """
        raise NotImplementedError

    def note(self, name: str, value: float) -> None:
        """Log a number beside the loss."""
        self._metrics["train" if self.model.training else "eval"][name].append(value)


def _parts(numbers: Tensor, sizes: Tensor) -> Sequence[Tensor]:
    """The numbers of each prompt's answers."""
    found: Sequence[Tensor] = torch.split(numbers, sizes.tolist())
    return found


class SteerTrainer(AnswersTrainer):
    """The loss of SteerLM 2.0 (see `losses.steer`)."""

    def __init__(self, *, baseline: bool, temperature: float, **options: Any) -> None:  # noqa: ANN401
        self.baseline, self.temperature = baseline, temperature
        super().__init__(**options)

    def of_prompt(self, own: Tensor, reference: Tensor, numbers: Tensor, tokens: Tensor) -> Tensor:
        """The answers' negative log-likelihoods, by what is wanted of each and not there."""
        wanted = numbers / numbers.sum().clamp(min=1e-30)
        gap = losses.steer(own, reference, wanted, self.temperature)
        there = (wanted - gap).clamp(min=1e-30)
        kl = torch.special.xlogy(wanted, wanted) - wanted * there.log()
        self.note("kl", kl.sum().item())
        return -((gap if self.baseline else wanted) * own).sum() / tokens


class ListwiseTrainer(AnswersTrainer):
    """The rank loss of BiAlign (see `losses.listwise_margin`)."""

    def __init__(self, *, beta: float, **options: Any) -> None:  # noqa: ANN401
        self.beta = beta
        super().__init__(**options)

    def of_prompt(self, own: Tensor, reference: Tensor, numbers: Tensor, tokens: Tensor) -> Tensor:
        """Sum over the pairs of answers of what their gaps lack."""
        return losses.listwise_margin(own - reference, numbers, self.beta)


def tokenised(rows: Any, tokenizer: Any, most: int) -> Any:  # noqa: ANN401
    """Rows as tokens: `ids` and `starts` of the answers, and how many lost their end.

    Rows whose prompt fills `most` tokens are left out.
    """
    template = ChatTemplate(tokenizer, "the model")

    def parts(row: dict[str, Any]) -> Iterator[tuple[list[int], int]]:
        prompt = ids_of(template, row["prompt"], row.get("tools"), True)
        for answer in row["answers"]:
            full = ids_of(template, row["prompt"] + answer, row.get("tools"), False)
            yield full, common(prompt, full)

    def made(row: dict[str, Any]) -> dict[str, Any]:
        whole, starts = zip(*parts(row), strict=True)
        cut = sum(len(ids) > most for ids in whole)
        return {"ids": [ids[:most] for ids in whole], "starts": starts, CUT: cut}

    kept = ("numbers", "beside")
    found = rows.map(made, remove_columns=[c for c in rows.column_names if c not in kept])
    return found.filter(lambda row: max(row["starts"]) < most)


_OF_GROUPS: dict[str, Any] = {
    "compared": True,
    "columns": ("answers", "numbers", "beside"),
    "optional": ("beside",),
    "form": "answers",
}


def plan_steerlm(config: SteerLM, data: DatasetRef) -> Plan:
    """Fine-tuning by weights of a prompt's answers."""
    proposal = None if config.proposal is None else f"score_{config.proposal}"
    answers = Answers(
        data.version, number=f"weight_{config.weight}", more=proposal, least=0,
        made_by="labelers.SteerWeights makes weights, labelers.Likelihood log-probabilities",
    )  # fmt: skip
    return Plan(
        method="steerlm",
        trainer=partial(SteerTrainer, baseline=config.baseline, temperature=config.temperature),
        about="fine-tuned toward the answers that have wanted attributes (SteerLM 2.0, arXiv"
        f" 2406.08673). {REFERENCE}",
        score=implicit_reward(1.0),
        data=answers,
        notes=tuple(answers.notes()) if _has(answers) else (),
        **_OF_GROUPS,
    )


def plan_listwise(config: Listwise, data: DatasetRef) -> Plan:
    """A margin for every gap of ranks."""
    answers = Answers(
        data.version, number=f"score_{config.score}",
        made_by=f"Name an objective that is scored: score={config.score} is not",
    )  # fmt: skip
    return Plan(
        method="listwise",
        trainer=partial(ListwiseTrainer, beta=config.beta),
        about=f"trained to rank answers by {config.score}, as far apart as their ranks (the rank"
        f" loss of BiAlign). {REFERENCE}",
        score=implicit_reward(config.beta),
        data=answers,
        notes=tuple(answers.notes()) if _has(answers) else (),
        **_OF_GROUPS,
    )


def _has(answers: Answers) -> bool:
    return answers.number in answers.version.pairs("train", answers.table).column_names

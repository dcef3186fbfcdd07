"""What the settings of all trainers of a transformer have in common. Plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator

FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Lora(BaseModel):
    """Low-rank adapters in place of full training; needs the package `peft`.

    Attributes:
        r: rank.
        alpha: scale; the update is multiplied by `alpha / r`.
        dropout: dropout on the adapter's input.
        targets: names of the modules that get an adapter, or `all-linear`.
    """

    model_config = FROZEN

    r: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class EarlyStopping(BaseModel):
    """End a training whose held-out loss no longer falls; the best model is kept.

    Attributes:
        patience: evaluations without a new best after which it ends.
        threshold: by how much a new best must be better.
    """

    model_config = FROZEN

    patience: int = Field(3, ge=1)
    threshold: float = Field(0.0, ge=0)


class TransformerSettings(BaseModel):
    """What trainings of a transformer have in common.

    Options of TRL have TRL's own names. Those below are the ones with a default of ours; every
    other option of the method's dataclass in TRL (`trl_options`) may stand beside them, and is
    checked against it.

    Attributes:
        model: folder or Hugging Face id of the model to start from; or a GGUF model (a .gguf file,
            a folder with one, or `smollm2`, see `prefactory.engines.gguf`), whose weights are
            read as float32.
        revision: commit, tag or branch of a Hugging Face id.
        trust_remote_code: run code that the model's repository brings. Off.
        chat_template: a Jinja file, for a tokenizer without a chat template of its own.
        ignored_system: `refuse` data whose system messages the chat template leaves out, or `keep`
            it and do without them.
        lora: train adapters only.
        early_stopping: end when the held-out loss no longer falls; evaluates every `eval_steps`.
        keep_checkpoints: leave the weights of every checkpoint in the model's folder
            (`prefactory drift` reads them).
        learning_rate: peak learning rate.
        num_train_epochs: passes over the data; `max_steps` overrules it.
        max_steps: optimizer steps.
        per_device_train_batch_size: rows per forward pass of a device.
        gradient_accumulation_steps: forward passes per optimizer step.
        per_device_eval_batch_size: rows per forward pass of the evaluation.
        max_length: tokens of prompt and answer together.
        warmup_steps: steps over which the learning rate rises.
        lr_scheduler_type: how the learning rate falls.
        gradient_checkpointing: less memory for more time.
        bf16: mixed precision in bfloat16. `auto`: on a GPU that has it.
        save_strategy: when a checkpoint is written, from which a killed training goes on.
        save_steps: steps between checkpoints.
        save_total_limit: checkpoints that are kept, the newest.
        report_to: who gets the log while it trains: `trackio`, `tensorboard`, `wandb`, ... or none.
        seed: of the data order and of new weights.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )
    trl_options: ClassVar[str] = "TrainingArguments"
    """The dataclass of TRL (or, with a module and a colon before it, of elsewhere)."""
    table: ClassVar[str] = "pairs"
    """The table of a version that the method reads, unless another is named."""
    shapes: ClassVar[tuple[str, ...]] = ("pairs",)
    """What the rows of the table may be: `pairs`, or `responses`, single answers."""

    model: str
    revision: str | None = None
    trust_remote_code: bool = False
    chat_template: Path | None = None
    ignored_system: Literal["refuse", "keep"] = "refuse"
    lora: Lora | None = None
    early_stopping: EarlyStopping | None = None
    keep_checkpoints: bool = False
    learning_rate: float = Field(gt=0)
    num_train_epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    per_device_train_batch_size: int = Field(4, ge=1)
    gradient_accumulation_steps: int = Field(4, ge=1)
    per_device_eval_batch_size: int = Field(4, ge=1)
    max_length: int = Field(1024, ge=2)
    warmup_steps: float = Field(0, ge=0)
    lr_scheduler_type: str = "linear"
    gradient_checkpointing: bool = True
    bf16: bool | Literal["auto"] = "auto"
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_steps: int = Field(500, ge=1)
    save_total_limit: int | None = Field(2, ge=1)
    report_to: str | tuple[str, ...] = "none"
    seed: int = 0

    @model_validator(mode="wrap")
    @classmethod
    def _options_of_trl(
        cls,
        data: Any,  # noqa: ANN401
        handler: ModelWrapValidatorHandler[TransformerSettings],
    ) -> TransformerSettings:
        found = handler(data)
        if not found.model_extra:
            return found
        from trainers.settings.trl_fields import coerced  # TRL, for who uses more of it

        found.model_extra.update(coerced(cls, found.model_extra))
        return found

    @model_validator(mode="after")
    def _checkpoints_are_written(self) -> TransformerSettings:
        if self.save_strategy == "no" and (self.keep_checkpoints or self.early_stopping):
            raise ValueError("keep_checkpoints and early_stopping need checkpoints: save_strategy")
        return self

    def options(self) -> dict[str, Any]:
        """Further options of TRL, by its names."""
        return dict(self.model_extra or {})


class PolicySettings(TransformerSettings):
    """What trainings of a model that answers have in common.

    Attributes:
        compare_answers: held-out prompts that the model answers before and after training, by its
            likeliest tokens; both answers stand side by side in the report. Training prompts where
            nothing is held out.
        answer_tokens: of these answers, at most.
    """

    compare_answers: int = Field(4, ge=0)
    answer_tokens: int = Field(128, ge=1)

"""Settings of the trainers that update a transformer. Plain data: nothing heavy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prefactory.engines.encoder import Encoder
from prefactory.preferences.stack import Form

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


class TransformerSettings(BaseModel):
    """What DPO and reward training have in common.

    Attributes:
        model: folder or Hugging Face id of the model to start from; or a GGUF model (a .gguf file,
            a folder with one, or `smollm2`, see `prefactory.engines.gguf`), whose weights are
            read as float32.
        revision: commit, tag or branch of a Hugging Face id.
        trust_remote_code: run code that the model's repository brings. Off.
        chat_template: a Jinja file, for a tokenizer without a chat template of its own.
        ignored_system: `refuse` data whose system messages the chat template leaves out, or `keep`
            it and do without them.
        learning_rate: peak learning rate.
        epochs: passes over the data; `max_steps` overrules it.
        max_steps: optimizer steps.
        batch_size: pairs per forward pass.
        accumulation: forward passes per optimizer step.
        eval_batch_size: pairs per forward pass of the evaluation.
        max_length: tokens of prompt and answer together.
        warmup_steps: steps over which the learning rate rises.
        schedule: how the learning rate falls.
        gradient_checkpointing: less memory for more time.
        precision: `bfloat16` is mixed precision and needs a GPU that has it; `auto` takes it there
            and float32 elsewhere.
        lora: train adapters only.
        seed: of the data order and of new weights.
    """

    model_config = FROZEN

    model: str
    revision: str | None = None
    trust_remote_code: bool = False
    chat_template: Path | None = None
    ignored_system: Literal["refuse", "keep"] = "refuse"
    learning_rate: float = Field(gt=0)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    batch_size: int = Field(4, ge=1)
    accumulation: int = Field(4, ge=1)
    eval_batch_size: int = Field(4, ge=1)
    max_length: int = Field(1024, ge=2)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    gradient_checkpointing: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    lora: Lora | None = None
    seed: int = 0


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


class DPO(PolicySettings):
    """Direct preference optimization of a causal language model (arXiv 2305.18290).

    Attributes:
        learning_rate: peak learning rate; 1e-6, as DPO diverges at the usual rates.
        beta: how strongly the policy is held to the reference.
        loss_type: TRL's name of the loss; the metrics are always those of `sigmoid`.
        label_smoothing: share of labels taken to be wrong; for `robust`, the others ignore it.
        columns: numbers of the pairs that the loss reads: `beta`, each pair's own (MM-RLHF, arXiv
            2502.10391), and `weight`, by which its loss is multiplied. `auto`: those that the data
            have; `[]`: none.
    """

    learning_rate: float = Field(1e-6, gt=0)
    beta: float = Field(0.1, gt=0)
    loss_type: Literal["sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "apo_zero"] = "sigmoid"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    columns: Literal["auto"] | tuple[Literal["beta", "weight"], ...] = "auto"

    @model_validator(mode="after")
    def _smoothing_has_an_effect(self) -> DPO:
        if bool(self.label_smoothing) != (self.loss_type == "robust"):
            raise ValueError("label_smoothing goes with loss_type 'robust', and only with it")
        return self


class RACO(PolicySettings):
    """DPO for objectives that disagree on the same pair (RACO, arXiv 2602.02495).

    Reads `sign_<objective>` (`labelers.Signs`): whether each objective agrees with the label. The
    gradients of the objectives are joined by clipped CAGrad, one backward pass an objective and
    forward pass; with `lora` the copies of the gradient are small.

    Attributes:
        learning_rate: peak learning rate.
        objectives: weight by objective, above 0; they are divided by their sum. Empty: every
            objective that the data have a sign of, all alike.
        beta: how strongly the policy is held to the reference.
        radius: how far the update may leave the weighted gradient, as a share of its length (c of
            the paper, which takes .25 to .4). 0 is weighted DPO.
        clip: give no objective more than its weight, as the paper does.
    """

    learning_rate: float = Field(1e-6, gt=0)
    objectives: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    beta: float = Field(0.2, gt=0)
    radius: float = Field(0.4, ge=0, lt=1)
    clip: bool = True


class Reward(TransformerSettings):
    """A scalar Bradley-Terry reward model on a transformer.

    Attributes:
        learning_rate: peak learning rate; 1e-5.
        use_margin: train scores of a pair apart by its `margin` at least; needs one on every pair.
        center: weight of the penalty `(r_chosen + r_rejected)^2`, which keeps rewards around zero
            (arXiv 2312.09244); 0 turns it off.
    """

    learning_rate: float = Field(1e-5, gt=0)
    use_margin: bool = False
    center: float = Field(0.0, ge=0)


class EmbeddingReward(BaseModel):
    """Settings of the embedding reward model.

    Attributes:
        encoder: which frozen encoder reads the texts.
        l2: grid of penalties, tried by cross-validation; one value is taken as it is.
        folds: folds of the cross-validation; the pairs of a prompt are always in one fold.
        length_feature: add the answer's log length, under a penalty of its own (at most
            40 / pairs). Off, because length is a shortcut.
        margin_weight: weigh pairs by their margin; needs a margin on every pair.
        seed: decides the folds.
    """

    model_config = FROZEN

    encoder: Encoder = Field(default_factory=Encoder)
    l2: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), min_length=1
    )
    folds: int = Field(5, ge=2)
    length_feature: bool = False
    margin_weight: bool = False
    seed: int = 0


class PreferenceStack(BaseModel):
    """Settings of the preference stack: text statistics, vectors and outside scores.

    Attributes:
        form: `statistics`, `joint`, `stack`, or `auto`: the simplest of them, in this order, whose
            log loss on held-out rows is within one standard error of the least.
        encoder: which frozen encoder reads the texts.
        vectors: False leaves out all that needs an encoder.
        outside: objectives whose scores, on both sides of every pair, are features as well. Who
            uses the model needs them too.
        oriented: columns about a pair as a whole (votes of judges). A model with one can't score
            single answers, so that none is saved: an error.
        seed: decides the folds.
    """

    model_config = FROZEN

    form: Form = "auto"
    encoder: Encoder = Field(default_factory=Encoder)
    vectors: bool = True
    outside: tuple[str, ...] = ()
    oriented: tuple[str, ...] = ()
    seed: int = 0

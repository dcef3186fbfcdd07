"""Settings of TRL's own methods, under TRL's names."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from trainers.settings.base import FROZEN, PolicySettings, TransformerSettings

DPOLoss = Literal[
    "sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "apo_zero", "apo_down", "exo_pair",
    "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "discopop", "sft",
]  # fmt: skip
"""TRL's losses of DPO (its documentation names the paper of each)."""


class Mixture(BaseModel):
    """Windows of rows from several domains in balance (MoI, see `trainers.packing`).

    Attributes:
        mode: what a row may attend to: itself (`row`) or its chunk of one row a domain (`chunk`).
        domain: column of the rows' domain.
        default: the domain whose row comes first in a chunk.
        chunk: most rows of a chunk; one of each domain if None.
        repeats: how often a small domain may start again.
    """

    model_config = FROZEN

    mode: Literal["row", "chunk"] = "row"
    domain: str = "source"
    default: str = "default"
    chunk: int | None = Field(None, ge=1)
    repeats: int = Field(3, ge=0)


class SFT(PolicySettings):
    """Supervised fine-tuning on the chosen answers; the loss is on the answer only.

    Attributes:
        learning_rate: peak learning rate.
        loss_type: `nll`, or `dft` (arXiv 2508.05629).
        mixture: pack rows of several domains into windows of `max_length`, in balance. TRL's own
            packing is `packing: true`.
    """

    trl_options: ClassVar[str] = "SFTConfig"
    learning_rate: float = Field(2e-5, gt=0)
    loss_type: Literal["nll", "dft"] = "nll"
    mixture: Mixture | None = None

    @model_validator(mode="after")
    def _packed_once(self) -> SFT:
        if self.mixture is not None and self.options().get("packing"):
            raise ValueError("mixture packs the rows already: leave packing out")
        return self


class DPO(PolicySettings):
    """Direct preference optimization of a causal language model (arXiv 2305.18290).

    Attributes:
        learning_rate: peak learning rate; 1e-6, as DPO diverges at the usual rates.
        beta: how strongly the policy is held to the reference.
        loss_type: TRL's name of the loss, or several that are summed (MPO, arXiv 2411.10442); the
            metrics are always those of `sigmoid`.
        loss_weights: of several losses, in their order; all 1 if None.
        label_smoothing: share of labels taken to be wrong; for `robust` and `exo_pair` (1e-3 where
            nothing is said).
        columns: numbers of the pairs that the loss reads: `beta`, each pair's own (MM-RLHF, arXiv
            2502.10391), and `weight`, by which its loss is multiplied. `auto`: those that the data
            have; `[]`: none.
        batch_beta: beta of each batch in training follows the margins of its typical pairs, by so
            much (see `trainers.losses.batch_beta`; 0.1 in the code of MM-RLHF); a column beta is
            not read then. None: it does not.
    """

    trl_options: ClassVar[str] = "DPOConfig"
    learning_rate: float = Field(1e-6, gt=0)
    beta: float = Field(0.1, gt=0)
    loss_type: DPOLoss | tuple[DPOLoss, ...] = "sigmoid"
    loss_weights: tuple[float, ...] | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    columns: Literal["auto"] | tuple[Literal["beta", "weight"], ...] = "auto"
    batch_beta: float | None = Field(None, ge=0)

    @property
    def losses(self) -> tuple[str, ...]:
        """The losses as a tuple."""
        return (self.loss_type,) if isinstance(self.loss_type, str) else self.loss_type

    @model_validator(mode="after")
    def _losses_fit(self) -> DPO:
        if not self.losses:
            raise ValueError("loss_type names no loss")
        if self.label_smoothing and not {"robust", "exo_pair"} & set(self.losses):
            raise ValueError("label_smoothing goes with loss_type 'robust' or 'exo_pair' only")
        if "robust" in self.losses and not self.label_smoothing:
            raise ValueError("loss_type 'robust' needs label_smoothing above 0")
        if self.loss_weights is not None and len(self.loss_weights) != len(self.losses):
            raise ValueError(
                f"{len(self.loss_weights)} loss_weights for {len(self.losses)} losses: "
                f"{', '.join(self.losses)}"
            )
        return self


class KTO(PolicySettings):
    """Alignment from single answers that are good or bad (arXiv 2402.01306).

    Pairs give two rows each, the chosen answer good and the rejected bad; a table of single answers
    (`--table responses`) is read by their `label`, and the bad ones count by `density_ratio`, where
    they have it (`labelers.DensityRatio`).

    Attributes:
        learning_rate: peak learning rate.
        beta: how strongly the policy is held to the reference.
        loss_type: `kto`, or `apo_zero_unpaired` (arXiv 2408.06266).
        desirable_weight: weight of good answers.
        undesirable_weight: weight of bad answers.
        label: of single answers (a table of responses), the column by which they are good, from
            `threshold` on; answers without a value are left out.
        threshold: see `label`.
    """

    trl_options: ClassVar[str] = "KTOConfig"
    shapes: ClassVar[tuple[str, ...]] = ("pairs", "responses")
    learning_rate: float = Field(1e-6, gt=0)
    beta: float = Field(0.1, gt=0)
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    desirable_weight: float = Field(1.0, gt=0)
    undesirable_weight: float = Field(1.0, gt=0)
    label: str = "score_label"
    threshold: float = 0.5

    @model_validator(mode="after")
    def _estimates_its_reference_point(self) -> KTO:
        if self.loss_type == "kto" and self.per_device_train_batch_size < 2:
            raise ValueError(
                "loss_type 'kto' estimates its reference point within a batch: "
                "per_device_train_batch_size must be 2 or more"
            )
        return self


class CPO(PolicySettings):
    """Contrastive preference optimization, without a reference (arXiv 2401.08417).

    Attributes:
        learning_rate: peak learning rate.
        beta: scale of the log-probabilities.
        loss_type: `sigmoid`, `hinge`, `ipo`, `simpo` (arXiv 2405.14734) or `alphapo`.
        cpo_alpha: weight of the likelihood of the chosen answer.
        simpo_gamma: by how much the chosen answer shall win, in `simpo`.
        label_smoothing: share of labels taken to be wrong; for `sigmoid`.
    """

    trl_options: ClassVar[str] = "trl.experimental.cpo:CPOConfig"
    learning_rate: float = Field(1e-6, gt=0)
    beta: float = Field(0.1, gt=0)
    loss_type: Literal["sigmoid", "hinge", "ipo", "simpo", "alphapo"] = "sigmoid"
    cpo_alpha: float = Field(1.0, ge=0)
    simpo_gamma: float = Field(0.5, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)


class SimPO(CPO):
    """SimPO: mean log-probabilities and a target margin, no reference (arXiv 2405.14734).

    Attributes:
        beta: scale of the mean log-probabilities; the paper takes 2 to 2.5.
        loss_type: `simpo`.
        cpo_alpha: weight of the likelihood of the chosen answer; 0.
        simpo_gamma: by how much the chosen answer shall win.
    """

    beta: float = Field(2.0, gt=0)
    loss_type: Literal["simpo"] = "simpo"
    cpo_alpha: float = Field(0.0, ge=0)
    simpo_gamma: float = Field(1.0, ge=0)


class ORPO(PolicySettings):
    """Odds-ratio preference optimization, without a reference (arXiv 2403.07691).

    It is the form that MaPO's loss takes for text: the likelihood of the chosen answer and a margin
    between likelihood scores of length-normalised answers.

    Attributes:
        learning_rate: peak learning rate.
        beta: weight of the odds ratio.
    """

    trl_options: ClassVar[str] = "trl.experimental.orpo:ORPOConfig"
    learning_rate: float = Field(1e-6, gt=0)
    beta: float = Field(0.1, gt=0)


class Reward(TransformerSettings):
    """A scalar Bradley-Terry reward model on a transformer.

    Attributes:
        learning_rate: peak learning rate; 1e-5.
        use_margin: train scores of a pair apart by its `margin` at least; needs one on every pair.
        loss: `bt`, Bradley-Terry; `scaled_bt`: times the strength of the preference (HelpSteer2,
            arXiv 2410.01257); `pointwise`: Bradley-Terry, and each score near the answer's own
            where it has one (arXiv 2410.14940).
        strength: column of the strength, for `scaled_bt`.
        score: objective of the answers' own scores, for `pointwise`.
        alpha: weight of the squared distance, for `pointwise`.
        center_rewards_coefficient: weight of the penalty `(r_chosen + r_rejected)^2`, which keeps
            rewards around zero (arXiv 2312.09244); 0 turns it off.
    """

    trl_options: ClassVar[str] = "RewardConfig"
    learning_rate: float = Field(1e-5, gt=0)
    use_margin: bool = False
    loss: Literal["bt", "scaled_bt", "pointwise"] = "bt"
    strength: str = "margin"
    score: str = "quality"
    alpha: float = Field(0.1, gt=0)
    center_rewards_coefficient: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _one_loss(self) -> Reward:
        if self.loss != "bt" and (self.use_margin or self.center_rewards_coefficient):
            raise ValueError(
                f"loss {self.loss!r} goes without use_margin and center_rewards_coefficient"
            )
        return self
